"""Cross-lingual measures: what tuning on an English task does to the alignment of languages.

These are mediators (task similarity, drift, gain): report them beside a model, never inside it as
controls. Each takes two pairs of arrays, before and after tuning; the arrays of a pair hold the same
sentences in English and in another language, row by row.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from helpers.errors import BadRows
from helpers.similarity.arrays import Floats, paired
from helpers.similarity.representations import linear_cka

__all__ = ["alignment_drift", "retrieval_accuracy"]

Pair = tuple[ArrayLike, ArrayLike]


def retrieval_accuracy(english: ArrayLike, other: ArrayLike) -> float:
    """Share of sentences whose nearest neighbour in the other language is their translation.

    Cost: O(N^2 D), in chunks of 1,024 rows. Both directions are averaged. Sentences that occur
    twice count as right where either copy is found.

    Args:
        english: shape (N, D), embeddings of English sentences.
        other: shape (N, D), embeddings of their translations, in the same order.

    Returns:
        Accuracy from 0 to 1; 1 / N by chance.

    Raises:
        BadRows: NaN, different shapes, or an embedding of length zero.

    Source: the similarity search of Artetxe and Schwenk 2019 (arXiv 1812.10464), with cosines.
    """
    first, second = paired(english, other)
    if first.shape != second.shape:
        raise BadRows(f"embeddings have shapes {first.shape} and {second.shape}; expected one.")
    first, second = _unit(first), _unit(second)
    return (_found(first, second) + _found(second, first)) / 2


def _unit(values: Floats) -> Floats:
    norms = np.linalg.norm(values, axis=1, keepdims=True)
    if norms.min() == 0:
        raise BadRows("the embedding of a sentence is zero; it has no direction.")
    return values / norms


def _found(queries: Floats, candidates: Floats) -> float:
    right = 0
    for start in range(0, len(queries), 1024):
        cosines = queries[start : start + 1024] @ candidates.T
        rows = np.arange(len(cosines))
        right += int((cosines[rows, start + rows] >= cosines.max(axis=1) - 1e-12).sum())
    return right / len(queries)


def alignment_drift(
    tuned: Pair, plain: Pair, score: Callable[[ArrayLike, ArrayLike], float] = linear_cka
) -> float:
    """Alignment of two languages after tuning minus before.

    Cost: two passes over N sentence pairs, then twice the cost of the score.

    Args:
        tuned: English and foreign embeddings by the tuned encoder, each of shape (N, D).
        plain: the same sentences by the plain encoder.
        score: how alignment is scored: ``linear_cka`` (debiased) or ``retrieval_accuracy``.

    Returns:
        A difference in units of the score; below 0 where tuning on English pulled the languages apart.

    Raises:
        BadRows: NaN, or arrays that describe different sentences.

    Source: this project; the scores are those of their own docstrings.
    """
    if len(np.asarray(tuned[0])) != len(np.asarray(plain[0])):
        raise BadRows("the tuned and the plain encoder were given different sentences.")
    return score(*tuned) - score(*plain)
