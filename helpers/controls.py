"""Baselines that only copy: what a score would be without any understanding of the language.

In templated or translated data the same names and numbers stand in the training and the evaluation
sentence, in every language; a string matcher then scores as if it transferred. A transfer score says
something about language only above these baselines.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy import sparse

from helpers.data import Rows
from helpers.errors import BadRows, HelpfulError
from helpers.metrics import accuracy, span_f1, token_accuracy

Row = dict[str, Any]

_SIZE = 3  # Characters per n-gram.
_BUCKETS = 2**18


def copied(train: Sequence[Row], test: Sequence[Row], format: str) -> list[Any]:
    """Predict by copying from the training rows whatever looks alike, as ``decode`` gives it.

    For ``pair`` that is the label of the row with the most similar character trigrams, for
    ``tagging`` each token's most frequent tag among equal tokens (numbers count as equal), else tag
    0; for ``retrieval`` (no training rows) the candidate with the most similar trigrams.
    """
    if format == "pair":
        both = (
            [f"{row['first']} {row['second']}".strip() for row in rows] for rows in (test, train)
        )
        labels = [row["label"] for row in train]
        return [labels[i] for i in _nearest(*both)]
    if format == "tagging":
        seen: defaultdict[str, Counter[int]] = defaultdict(Counter)
        for row in train:
            for token, tag in zip(row["tokens"], row["tags"], strict=True):
                seen[_folded(token)][tag] += 1
        best = {token: counts.most_common(1)[0][0] for token, counts in seen.items()}
        return [[best.get(_folded(token), 0) for token in row["tokens"]] for row in test]
    if format == "retrieval":
        queries = [row["text"] for row in test if row["side"] == "query"]
        pool = [row for row in test if row["side"] == "candidate"]
        return [pool[i]["id"] for i in _nearest(queries, [row["text"] for row in pool])]
    raise HelpfulError(
        f"no string-copy control for format {format!r}; there is one for pair, tagging, retrieval"
    )


def copy_score(train: Sequence[Row], test: Rows) -> float:
    """Score :func:`copied`: accuracy of rows or queries, span F1 of tags, from 0 to 1."""
    given = copied(train, test, test.format)
    if test.format == "retrieval":
        gold = [row["gold"] for row in test if row["side"] == "query"]
        return float(np.mean([g in right for g, right in zip(given, gold, strict=True)]))
    if test.format == "tagging":
        return span_f1(given, [row["tags"] for row in test], labels=test.labels)["f1"]
    return accuracy(given, [row["label"] for row in test])["accuracy"]


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
) -> Iterable[tuple[str, Sequence[Row]]]:
    for what, rows in {"training": train_rows, **evaluation_rows}.items():
        if not len(rows):
            raise BadRows(f"{what}: no rows to copy from or to score.")
    return evaluation_rows.items()


def _folded(token: str) -> str:
    return "".join("0" if c.isdigit() else c for c in token.casefold())


def _nearest(texts: Sequence[str], pool: Sequence[str]) -> list[int]:
    """Return for each text the place of the most similar text of a pool (cosine of trigrams)."""
    one, other = _trigrams(texts), _trigrams(pool)
    nearest: list[int] = []
    for start in range(0, len(texts), 512):
        scores = (one[start : start + 512] @ other.T).toarray()
        nearest += scores.argmax(1).tolist()
    return nearest


def _trigrams(texts: Sequence[str]) -> sparse.csr_matrix:
    """Return unit rows of hashed character trigrams, shape ``(texts, buckets)``."""
    indices: list[int] = []
    ends = [0]
    for text in texts:
        padded = f"  {text.casefold()} "
        grams = {padded[i : i + _SIZE] for i in range(len(padded) - _SIZE + 1)}
        indices += [_bucket(gram) for gram in grams]
        ends.append(len(indices))
    lengths = np.diff(ends)
    values = np.repeat(1 / np.sqrt(np.maximum(lengths, 1)), lengths)
    return sparse.csr_matrix((values, indices, ends), shape=(len(texts), _BUCKETS))


def _bucket(gram: str) -> int:
    """Hash a trigram the same way in every process (``hash`` of text is salted)."""
    value = 0
    for character in gram:
        value = (value * 1_000_003 + ord(character)) % 2**31
    return value % _BUCKETS
