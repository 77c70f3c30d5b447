"""Measures of texts, forms and languages, none of which needs fine-tuning.

Those of forms (format, inputs, labels) are the confounders that any other measure has to beat: tasks
of one format often transfer alike for reasons that have nothing to do with their content.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from helpers.errors import BadRows, MissingData
from helpers.similarity.features import probe_predictions
from helpers.similarity.representations import (
    Floats,
    Integers,
    classes,
    cosine,
    matrix,
    same_columns,
    squared_distances,
    unit_rows,
    vector,
)
from helpers.tasks import Task

LANGUAGES = Path(__file__).parents[2] / "data" / "languages.csv"
# White space does not separate words in these scripts.
UNSPACED = ("Hans", "Hant", "Jpan", "Thai", "Mymr", "Khmr", "Laoo")

Tokenise = Callable[[list[str]], Sequence[Sequence[int]]]


# Pieces of two corpora.


def js_divergence(p: ArrayLike, q: ArrayLike) -> float:
    """Jensen-Shannon divergence of two weightings of the same outcomes, 0 to 1 (Lin 1991).

    Of counts it is biased upwards, more so for smaller samples: compare samples of one size.
    """
    first, second = _distribution(p), _distribution(q)
    if first.shape != second.shape:
        raise BadRows(f"distributions over {first.size} and {second.size} outcomes; use one set.")
    middle = (first + second) / 2
    parts = [x[x > 0] @ np.log(x[x > 0] / middle[x > 0]) for x in (first, second)]
    return float(max(sum(parts) / 2 / np.log(2.0), 0.0))


def _distribution(weights: ArrayLike) -> Floats:
    array = vector(weights, "distribution")
    if array.min() < 0 or array.sum() == 0:
        raise BadRows("a distribution needs weights >= 0 with a positive sum; is the text empty?")
    return array / array.sum()


def _pieces(values: ArrayLike, name: str) -> Integers:
    array = np.asarray(values)
    if array.ndim != 1 or array.size == 0:
        raise BadRows(f"{name} has no pieces; the text is empty or holds only special pieces.")
    if array.dtype.kind not in "iu" or array.min() < 0:
        raise BadRows(f"{name} must be vocabulary ids >= 0; got {array.dtype}.")
    return array.astype(np.int64)


def matched(a: ArrayLike, b: ArrayLike, seed: int = 0) -> tuple[Integers, Integers]:
    """Return random subsets of two lists of pieces, both as long as the shorter list."""
    first, second = _pieces(a, "first corpus"), _pieces(b, "second corpus")
    random, size = np.random.default_rng(seed), min(len(first), len(second))
    draws = [
        pieces if len(pieces) == size else random.choice(pieces, size, replace=False)
        for pieces in (first, second)
    ]
    return draws[0], draws[1]


def piece_counts(pieces: ArrayLike, size: int) -> Integers:
    """Count the ids of all pieces of a corpus, shape (size of the vocabulary,)."""
    array = _pieces(pieces, "corpus")
    if array.max() >= size:
        raise BadRows(f"piece id {array.max()} lies outside a vocabulary of {size}.")
    return np.bincount(array, minlength=size)


def token_similarity(a: ArrayLike, b: ArrayLike, smoothing: float = 1.0, seed: int = 0) -> float:
    """One minus the Jensen-Shannon divergence of the pieces of two size-matched corpora, 0 to 1.

    ``a`` and ``b`` are ids of all pieces; ``smoothing`` is a pseudo-count of each that occurs in
    either; ``seed`` draws the larger corpus down. Source: Ruder and Plank 2017 (arXiv 1707.05246).
    """
    first, second = matched(a, b, seed)
    values, places = np.unique(np.concatenate([first, second]), return_inverse=True)
    counts = [
        np.bincount(part, minlength=len(values)) + smoothing
        for part in (places[: len(first)], places[len(first) :])
    ]
    return 1.0 - js_divergence(counts[0], counts[1])


def vocabulary_overlap(a: ArrayLike, b: ArrayLike, seed: int = 0) -> float:
    """Jaccard overlap of the sets of pieces of two size-matched corpora; see ``token_similarity``."""
    first, second = (np.unique(pieces) for pieces in matched(a, b, seed))
    shared = len(np.intersect1d(first, second, assume_unique=True))
    return shared / (len(first) + len(second) - shared)


def tfidf_cosine(a: ArrayLike, b: ArrayLike, texts_with: ArrayLike, texts: int) -> float:
    """Cosine of the TF-IDF vectors of two corpora, 0 to 1 (Salton and Buckley 1988).

    ``a`` and ``b`` count each piece; ``texts_with`` of all ``texts`` hold it. The weight is that of
    scikit-learn, ln((1 + n) / (1 + n_piece)) + 1, so that none is zero or negative.
    """
    frequency = vector(texts_with, "number of texts with each piece")
    if frequency.min() < 0 or frequency.max() > texts:
        raise BadRows(f"a piece occurs in {frequency.max():.0f} of {texts} texts.")
    weight = np.log((1.0 + texts) / (1.0 + frequency)) + 1.0
    first, second = _distribution(a), _distribution(b)
    if not first.shape == second.shape == weight.shape:
        raise BadRows("counts and document frequencies must cover the same vocabulary.")
    return cosine(first * weight, second * weight, "TF-IDF vectors")


# Embeddings of texts.


def whitening(covariance: ArrayLike) -> Floats:
    """Inverse square root of a covariance (D, D) shrunk to the identity by 1 % of its trace."""
    array = matrix(covariance, "covariance", rows=1)
    rows, columns = array.shape
    if rows != columns:
        raise BadRows(f"covariance has shape {array.shape}; expected a square array.")
    mean = np.trace(array) / columns
    values, axes = np.linalg.eigh(0.99 * array + 0.01 * mean * np.eye(columns))
    if values[0] <= 0:
        raise BadRows("the covariance is not positive definite even after shrinkage.")
    return (axes / np.sqrt(values)) @ axes.T


def mmd(a: ArrayLike, b: ArrayLike, bandwidth: float = 0.0) -> float:
    """Unbiased squared maximum mean discrepancy of embeddings (N, D) and (M, D); small where alike.

    ``bandwidth`` is the standard deviation of the Gaussian kernel; 0 takes the median distance of the
    pooled texts, which differs from pair to pair. Source: Gretton et al. 2012 (JMLR 13).
    """
    first, second = same_columns(a, b, "embeddings")
    middle = (first.mean(axis=0) + second.mean(axis=0)) / 2
    pooled = np.concatenate([first, second]) - middle
    distance = squared_distances(pooled, pooled)
    np.fill_diagonal(distance, 0.0)  # rounding leaves a trace there
    width = bandwidth**2 or _median_of_pairs(distance)
    if width <= 0:
        raise BadRows("most texts have the same embedding, so the kernel has no width.")
    kernel = np.exp(-distance / (2.0 * width))
    n, m = len(first), len(second)
    within = (kernel[:n, :n].sum() - n) / (n * (n - 1)) + (kernel[n:, n:].sum() - m) / (m * (m - 1))
    return float(within - 2.0 * kernel[:n, n:].mean())


def _median_of_pairs(distance: Floats) -> float:
    """Median over pairs of different rows of a symmetric matrix with a zero diagonal."""
    rows = len(distance)
    pairs = rows * (rows - 1) // 2
    # In order, the diagonal's zeros come first and every pair stands there twice.
    places = [rows + 2 * ((pairs - 1) // 2), rows + 2 * (pairs // 2)]
    return float(np.partition(distance, places, axis=None)[places].mean())


def domain_classifier_error(a: ArrayLike, b: ArrayLike, folds: int = 5, seed: int = 0) -> float:
    """Cross-validated error of a ridge classifier that tells embeddings of two tasks apart.

    Mean over both tasks: 0 where they are separable, about .5 where they are the same. The proxy
    A-distance is 2 - 4 times this. Source: Ben-David et al. 2007; Blitzer et al. 2007 for text.
    """
    first, second = same_columns(a, b, "embeddings")
    domain = np.repeat([0, 1], [len(first), len(second)])
    predicted = probe_predictions(np.concatenate([first, second]), domain, folds, seed)
    errors = [(predicted[domain == side] != side).mean() for side in (0, 1)]
    return float(np.mean(errors))


def pseudo_perplexity_change(tuned: ArrayLike, plain: ArrayLike) -> float:
    """Mean masked-language loss of a tuned encoder minus that of the plain one, nats per piece.

    One loss per text, of the same texts and masks, with the plain encoder's head: tuning drops it.
    Source: pseudo-log-likelihood after Salazar et al. 2020 (arXiv 1910.14659).
    """
    first, second = vector(tuned, "tuned losses"), vector(plain, "plain losses")
    if first.shape != second.shape:
        raise BadRows(f"{first.size} tuned and {second.size} plain losses; use the same texts.")
    return float((first - second).mean())


# Formats and labels.


def same_format(a: Task, b: Task) -> float:
    """1 where two tasks have the same format, and so the same kind of output, else 0."""
    return float(a.format == b.format)


def segments(task: Task, two_texts: bool = True) -> int:
    """Number of texts (1 or 2) encoded together; ``two_texts`` for pair rows with a second text."""
    if task.format == "pair":
        return 1 + int(two_texts)
    return 2 if task.format in ("choice", "span") else 1


def same_input_count(a: int, b: int) -> float:
    """1 where two tasks encode the same number of texts together (``segments``), else 0."""
    return float(a == b)


def label_entropy(labels: ArrayLike) -> float:
    """Entropy of a label distribution, in nats (Shannon 1948)."""
    values = np.asarray(labels)
    _, counts = classes(values, len(values))
    share = counts / counts.sum()
    return float(-(share * np.log(share)).sum())


def label_entropy_similarity(a: ArrayLike, b: ArrayLike) -> float:
    """Minus the absolute difference of two label entropies, in nats."""
    return -abs(label_entropy(a) - label_entropy(b))


def label_count_similarity(a: ArrayLike, b: ArrayLike) -> float:
    """Minus the absolute difference of the logarithms of two class counts, in nats."""
    counts = [len(classes(values, len(values))[1]) for values in (np.asarray(a), np.asarray(b))]
    return -abs(float(np.log(counts[0] / counts[1])))


def label_name_cosine(a: ArrayLike, b: ArrayLike) -> float:
    """Mean cosine of each label name (C, D) with its nearest name in the other task, both ways."""
    first, second = same_columns(a, b, "label embeddings", rows=1)
    first, second = (unit_rows(x, "the embedding of a label name") for x in (first, second))
    cosines = first @ second.T
    nearest = cosines.max(axis=1).mean() + cosines.max(axis=0).mean()
    return float(np.clip(nearest / 2, -1.0, 1.0))


# Languages.


def languages(path: Path = LANGUAGES) -> pd.DataFrame:
    """Return the facts of each language of the benchmarks, indexed by language code.

    Args:
        path: the CSV that ``data/make/languages.py`` wrote.

    Returns:
        One row per language; ``data/languages.README.md`` explains the columns.

    Raises:
        MissingData: the file is not there.
    """
    if not path.exists():
        raise MissingData(
            f"no language covariates at {path}. They are part of the repository: git checkout it, or "
            "build it as the text of data/make/languages.py says."
        )
    return pd.read_csv(path, keep_default_na=False, na_values=[""]).set_index("language")


def piece_table(
    texts: Mapping[str, Sequence[str]],
    english: Sequence[str],
    tokenise: Tokenise,
    unknown_id: int | None = None,
) -> pd.DataFrame:
    """How an encoder's tokenizer splits texts of each language, and what it shares with English.

    Args:
        texts: evaluation texts by language code.
        english: English training texts of the same task.
        tokenise: gives the vocabulary ids of each text, without special ids.
        unknown_id: id of the unknown piece.

    Returns:
        One row per language: ``fertility`` (pieces per word; NaN in scripts without spaces),
        ``pieces_per_character`` (white space left out), ``unknown`` (share of unknown pieces),
        ``texts`` and ``pieces`` (how many), ``overlap`` (Jaccard of the sets of pieces) and
        ``token_similarity`` (1 - Jensen-Shannon), both with English on samples of equal size.

    Raises:
        BadRows: no texts, or a text without characters or pieces.

    Source: fertility as in Acs 2019 and Rust et al. 2021 (arXiv 2012.15613).
    """
    scripts = languages()["script"]
    reference = _corpus(english, tokenise)
    rows = []
    for language, samples in texts.items():
        pieces = _corpus(samples, tokenise)
        words = sum(len(text.split()) for text in samples)
        characters = sum(len("".join(text.split())) for text in samples)
        spaced = scripts.get(language, "Latn") not in UNSPACED
        rows.append(
            {"language": language, "fertility": len(pieces) / words if spaced else np.nan}
            | {"pieces_per_character": len(pieces) / characters}
            | {"unknown": 0.0 if unknown_id is None else float((pieces == unknown_id).mean())}
            | {"texts": len(samples), "pieces": len(pieces)}
            | {"overlap": vocabulary_overlap(pieces, reference)}
            | {"token_similarity": token_similarity(pieces, reference)}
        )
    return pd.DataFrame(rows).set_index("language")


def _corpus(texts: Sequence[str], tokenise: Tokenise) -> Integers:
    """Ids of all pieces of texts, none of which may be empty."""
    if not texts or not all(text.strip() for text in texts):
        raise BadRows(f"{len(texts)} texts, some empty; give non-empty texts of one language.")
    ids = [np.asarray(pieces, dtype=np.int64) for pieces in tokenise(list(texts))]
    if min(map(len, ids)) == 0:
        raise BadRows("the tokenizer gave no pieces for a text; does it drop its characters?")
    return np.concatenate(ids)
