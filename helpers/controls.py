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
from scipy import sparse

from helpers.errors import BadRows
from helpers.metrics.classification import accuracy
from helpers.metrics.tagging import span_f1, token_accuracy

Rows = Sequence[Mapping[str, Any]]

SIZES = (1, 2, 3)  # Characters per n-gram; single ones matter where a character is a word.
BATCH = 512


def string_copy_accuracy(
    train_rows: Rows, evaluation_rows: Mapping[str, Rows], limit: int = 20_000
) -> dict[str, float]:
    """Return the accuracy of taking each row's label from the most similar training row.

    Similarity is the share of character n-grams and whole words that two texts have in common
    (their cosine as sets); both texts of a pair count. Ties go to the earlier training row.

    Args:
        train_rows: rows of the pair format (``first``, ``second``, ``label``), in English.
        evaluation_rows: rows of the pair format by language.
        limit: how many training rows to compare with, at most; the first ones.

    Returns:
        Accuracy by language, from 0 to 1.

    Raises:
        BadRows: no training rows, or a language without rows.
    """
    vocabulary: dict[str, int] = {}
    known = _grams(_texts(train_rows[:limit], "training"), vocabulary, grow=True)
    labels = np.array([row["label"] for row in train_rows[:limit]])
    result = {}
    for language, rows in evaluation_rows.items():
        texts = _texts(rows, language)
        nearest = np.concatenate(
            [
                _nearest(_grams(texts[start : start + BATCH], vocabulary, grow=False), known)
                for start in range(0, len(texts), BATCH)
            ]
        )
        golds = [row["label"] for row in rows]
        result[language] = accuracy(labels[nearest].tolist(), golds)["accuracy"]
    return result


def pair_overlap_accuracy(
    train_rows: Rows, evaluation_rows: Mapping[str, Rows], bins: int = 10
) -> dict[str, float]:
    """Return the accuracy of guessing the label from how much the two texts of a pair share.

    The training rows are cut into equally large bins by the cosine of their texts' n-grams; each
    bin predicts its most frequent label. This catches data in which, say, the entailed sentence is
    the one that repeats a phrase of the premise.

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
    usual = Counter(labels.tolist()).most_common(1)[0][0]
    guess = np.full(bins, usual)
    place = np.searchsorted(borders, overlaps, side="right")
    for number in np.unique(place):
        guess[number] = Counter(labels[place == number].tolist()).most_common(1)[0][0]
    result = {}
    for language, rows in evaluation_rows.items():
        place = np.searchsorted(borders, _overlaps(rows, language), side="right")
        golds = [row["label"] for row in rows]
        result[language] = accuracy(guess[place].tolist(), golds)["accuracy"]
    return result


def tag_copy_scores(
    train_rows: Rows, evaluation_rows: Mapping[str, Rows], labels: Sequence[str] | None = None
) -> dict[str, dict[str, float]]:
    """Return the scores of tagging each token as its surface form is mostly tagged in training.

    Unknown forms get the tag that is most frequent in training. Names, numbers and punctuation are
    spelt alike in many languages, so part of any transfer score is this.

    Args:
        train_rows: rows of the tagging format (``tokens``, ``tags``), in English.
        evaluation_rows: rows of the tagging format by language.
        labels: tag names, where rows hold tag ids; adds span F1.

    Returns:
        By language: ``token_accuracy``, ``seen`` (share of tokens whose form is in training) and,
        with ``labels``, ``f1``, ``precision`` and ``recall`` of spans; each from 0 to 1.

    Raises:
        BadRows: no training rows, or a language without tokens.
    """
    forms: dict[str, Counter[int]] = {}
    for row in train_rows:
        for token, tag in zip(row["tokens"], row["tags"], strict=True):
            forms.setdefault(token, Counter())[tag] += 1
    if not forms:
        raise BadRows("no training rows: a copying baseline needs some.")
    best = {form: tags.most_common(1)[0][0] for form, tags in forms.items()}
    usual = Counter(tag for row in train_rows for tag in row["tags"]).most_common(1)[0][0]
    return {
        language: _tag_scores(rows, best, usual, labels, language)
        for language, rows in evaluation_rows.items()
    }


def _tag_scores(
    rows: Rows, best: dict[str, int], usual: int, labels: Sequence[str] | None, language: str
) -> dict[str, float]:
    tokens = [token for row in rows for token in row["tokens"]]
    if not tokens:
        raise BadRows(f"{language}: no tokens to score.")
    golds = [row["tags"] for row in rows]
    given = [[best.get(token, usual) for token in row["tokens"]] for row in rows]
    scores = {"seen": sum(token in best for token in tokens) / len(tokens)}
    if labels is None:
        return scores | token_accuracy(given, golds)
    return scores | span_f1(given, golds, labels=labels)


def _texts(rows: Rows, what: str) -> list[str]:
    """Return both texts of each row, with a border that no n-gram of a text crosses."""
    if not len(rows):
        raise BadRows(f"{what}: no rows to copy from or to score.")
    return [f"{row['first']}\n{row['second']}" for row in rows]


def _grams(texts: Sequence[str], vocabulary: dict[str, int], grow: bool) -> sparse.csr_array:
    """Return the n-grams and words of texts as rows of length 1.

    Args:
        texts: the texts.
        vocabulary: column of each n-gram.
        grow: give new n-grams a column; otherwise they only lengthen their row.

    Returns:
        Shape ``(texts, columns)``.
    """
    columns, ends, lengths = [], [0], []
    for text in texts:
        grams = _gram_set(text)
        if grow:
            found = [vocabulary.setdefault(gram, len(vocabulary)) for gram in sorted(grams)]
        else:
            found = [vocabulary[gram] for gram in grams if gram in vocabulary]
        columns += found
        ends.append(len(columns))
        lengths.append(max(1, len(grams)))
    values = np.repeat(1 / np.sqrt(lengths), np.diff(ends))
    return sparse.csr_array((values, columns, ends), shape=(len(texts), len(vocabulary)))


def _gram_set(text: str) -> set[str]:
    lower = text.lower()
    grams = {" " + word for part in lower.split("\n") for word in part.split()}
    for part in lower.split("\n"):
        for size in SIZES:
            grams.update(part[i : i + size] for i in range(len(part) - size + 1))
    return grams


def _nearest(queries: sparse.csr_array, known: sparse.csr_array) -> np.ndarray:
    # Rounded, so that equal overlaps are ties whatever the order of their sums.
    return np.round((queries @ known.T).toarray(), 9).argmax(axis=1)


def _overlaps(rows: Rows, what: str) -> np.ndarray:
    """Return the cosine of the n-gram sets of both texts of each row."""
    if not len(rows) or not any(row["second"] for row in rows):
        raise BadRows(f"{what}: no rows with two texts to compare.")
    result = []
    for row in rows:
        one, other = _gram_set(row["first"]), _gram_set(row["second"])
        result.append(len(one & other) / max(1.0, np.sqrt(len(one) * len(other))))
    return np.array(result)
