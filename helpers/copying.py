"""String-copy controls: how far a task is solved by matching characters, with no encoder at all.

A score that a control reaches too is no evidence of understanding, let alone of transfer: numbers,
names and loan words are spelled alike in many languages.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import sparse

from helpers import metrics
from helpers.data import Rows
from helpers.errors import HelpfulError

Row = dict[str, Any]

_SIZE = 3
_BUCKETS = 2**18


def copied(train: Rows | Sequence[Row], test: Rows | Sequence[Row], format: str = "") -> list[Any]:
    """Predict by copying from the training rows whatever looks alike.

    Args:
        train: English training rows (unused for retrieval).
        test: rows to predict, in any language.
        format: format of the rows; needed where ``test`` is not ``Rows``.

    Returns:
        One prediction per row, as the format's ``decode`` gives them: for ``pair`` the label of
        the training row with the most similar character trigrams, for ``tagging`` each token's
        most frequent tag among equal training tokens (numbers count as equal), else tag 0; for
        ``retrieval`` the id of the candidate with the most similar trigrams, per query.

    Raises:
        HelpfulError: another format.
    """
    format = format or getattr(test, "format", "")
    if format == "pair":
        nearest = _nearest([_joined(row) for row in test], [_joined(row) for row in train])
        labels = [row["label"] for row in train]
        return [labels[i] for i in nearest]
    if format == "tagging":
        return _copied_tags(train, test)
    if format == "retrieval":
        queries = [row["text"] for row in test if row["side"] == "query"]
        pool = [row for row in test if row["side"] == "candidate"]
        return [pool[i]["id"] for i in _nearest(queries, [row["text"] for row in pool])]
    raise HelpfulError(
        f"no string-copy control for format {format!r}; there is one for pair, tagging, retrieval"
    )


def copy_score(train: Rows | Sequence[Row], test: Rows) -> float:
    """Score :func:`copied`: accuracy of rows or queries, span F1 of tags, from 0 to 1.

    Args:
        train: English training rows (unused for retrieval).
        test: rows to predict.
    """
    given = copied(train, test)
    if test.format == "retrieval":
        gold = [row["gold"] for row in test if row["side"] == "query"]
        return float(np.mean([g in right for g, right in zip(given, gold, strict=True)]))
    if test.format == "tagging":
        return metrics.span_f1(given, [row["tags"] for row in test], labels=test.labels)["f1"]
    return metrics.accuracy(given, [row["label"] for row in test])["accuracy"]


def _joined(row: Row) -> str:
    return f"{row['first']} {row['second']}".strip()


def _copied_tags(train: Sequence[Row] | Rows, test: Sequence[Row] | Rows) -> list[list[int]]:
    seen: defaultdict[str, Counter[int]] = defaultdict(Counter)
    for row in train:
        for token, tag in zip(row["tokens"], row["tags"], strict=True):
            seen[_folded(token)][tag] += 1
    best = {token: counts.most_common(1)[0][0] for token, counts in seen.items()}
    return [[best.get(_folded(token), 0) for token in row["tokens"]] for row in test]


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
