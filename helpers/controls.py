"""Baselines that only copy: what a score would be without any understanding of the language.

A transfer score can be high for the wrong reason. In templated or translated data the same place
name, number or product name stands in the training and the evaluation sentence, in every language,
and so does the wording of both sentences of a pair; a model, or a string matcher, that looks for
equal strings then scores as if it transferred. These baselines give the score that string matching
alone reaches, per language. A transfer score says something about language only above them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from helpers.copying import copied
from helpers.errors import BadRows
from helpers.metrics import accuracy, span_f1, token_accuracy

Row = dict[str, Any]

SIZES = (1, 2, 3)  # Characters per n-gram; single ones matter where a character is a word.


def string_copy_accuracy(
    train_rows: Sequence[Row], evaluation_rows: Mapping[str, Sequence[Row]]
) -> dict[str, float]:
    """Return the accuracy of taking each row's label from the most similar training row.

    Args:
        train_rows: rows of the pair format (``first``, ``second``, ``label``), in English.
        evaluation_rows: rows of the pair format by language.

    Returns:
        Accuracy by language, from 0 to 1.

    Raises:
        BadRows: no training rows, or a language without rows.
    """
    result = {}
    for language, rows in _filled(train_rows, evaluation_rows):
        given = copied(train_rows, rows, "pair")
        result[language] = accuracy(given, [row["label"] for row in rows])["accuracy"]
    return result


def pair_overlap_accuracy(
    train_rows: Sequence[Row], evaluation_rows: Mapping[str, Sequence[Row]], bins: int = 10
) -> dict[str, float]:
    """Return the accuracy of guessing the label from how much the two texts of a pair share.

    The training rows are cut into equally large bins by the cosine of their texts' sets of
    character n-grams and words; each bin predicts its most frequent label. This catches data in
    which, say, the entailed sentence is the one that repeats a phrase of the premise.

    Args:
        train_rows: rows of the pair format with two texts, in English.
        evaluation_rows: rows of the pair format by language.
        bins: number of bins.

    Returns:
        Accuracy by language, from 0 to 1.

    Raises:
        BadRows: no training rows, a language without rows, or rows with one text only.
    """
    overlaps = _overlaps(train_rows, "training")
    borders = np.quantile(overlaps, np.linspace(0, 1, bins + 1)[1:-1])
    labels = np.array([row["label"] for row in train_rows])
    place = np.searchsorted(borders, overlaps, side="right")
    guess = np.full(bins, _most_frequent(labels))
    for number in np.unique(place):
        guess[number] = _most_frequent(labels[place == number])
    result = {}
    for language, rows in evaluation_rows.items():
        place = np.searchsorted(borders, _overlaps(rows, language), side="right")
        golds = [row["label"] for row in rows]
        result[language] = accuracy(guess[place].tolist(), golds)["accuracy"]
    return result


def tag_copy_scores(
    train_rows: Sequence[Row],
    evaluation_rows: Mapping[str, Sequence[Row]],
    labels: Sequence[str] | None = None,
) -> dict[str, dict[str, float]]:
    """Return the scores of tagging each token as its surface form is mostly tagged in training.

    Names, numbers and punctuation are spelt alike in many languages, so part of any transfer score
    is this.

    Args:
        train_rows: rows of the tagging format (``tokens``, ``tags``), in English.
        evaluation_rows: rows of the tagging format by language.
        labels: tag names, where rows hold tag ids; adds span F1.

    Returns:
        By language: ``token_accuracy``, ``seen`` (share of tokens whose form is in training) and,
        with ``labels``, ``f1``, ``precision`` and ``recall`` of spans; each from 0 to 1.

    Raises:
        BadRows: no training rows, or a language without rows.
    """
    known = {token for row in train_rows for token in row["tokens"]}
    result = {}
    for language, rows in _filled(train_rows, evaluation_rows):
        given, golds = copied(train_rows, rows, "tagging"), [row["tags"] for row in rows]
        tokens = [token for row in rows for token in row["tokens"]]
        scores = {"seen": sum(token in known for token in tokens) / max(1, len(tokens))}
        more = (
            token_accuracy(given, golds) if labels is None else span_f1(given, golds, labels=labels)
        )
        result[language] = scores | more
    return result


def _filled(
    train_rows: Sequence[Row], evaluation_rows: Mapping[str, Sequence[Row]]
) -> list[tuple[str, Sequence[Row]]]:
    for what, rows in {"training": train_rows, **evaluation_rows}.items():
        if not len(rows):
            raise BadRows(f"{what}: no rows to copy from or to score.")
    return list(evaluation_rows.items())


def _most_frequent(labels: np.ndarray) -> Any:
    return Counter(labels.tolist()).most_common(1)[0][0]


def _overlaps(rows: Sequence[Row], what: str) -> np.ndarray:
    """Return the cosine of the n-gram sets of both texts of each row."""
    if not len(rows) or not any(row["second"] for row in rows):
        raise BadRows(f"{what}: no rows with two texts to compare.")
    result = []
    for row in rows:
        one, other = _grams(row["first"]), _grams(row["second"])
        result.append(len(one & other) / max(1.0, np.sqrt(len(one) * len(other))))
    return np.array(result)


def _grams(text: str) -> set[str]:
    lower = text.casefold()
    grams = {" " + word for word in lower.split()}
    for size in SIZES:
        grams.update(lower[i : i + size] for i in range(len(lower) - size + 1))
    return grams
