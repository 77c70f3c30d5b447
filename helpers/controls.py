"""Baselines that only copy: what a score would be without any understanding of the language.

In templated or translated data the same names and numbers stand in the training and the evaluation
sentence, in every language; a string matcher then scores as if it transferred. A transfer score says
something about language only above these baselines.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import sparse

from helpers.data import Rows
from helpers.errors import BadRows, HelpfulError
from helpers.metrics import accuracy, span_f1

_BUCKETS = 2**18


def copy_score(train: Sequence[dict[str, Any]], test: Rows) -> float:
    """Score copying from whatever looks alike: accuracy of rows or queries, span F1 of tags.

    Args:
        train: rows of the format of ``test``, in English; none for retrieval.
        test: rows of the format pair, tagging or retrieval.

    Returns:
        The score, from 0 to 1.

    Raises:
        HelpfulError: another format; BadRows: no rows on a side.
    """
    learnt = test if test.format == "retrieval" else train
    for what, rows in (("training", learnt), (test.language, test)):
        if not len(rows):
            raise BadRows(f"{what}: no rows to copy from or to score.")
    # A pair gets the label of the row with the most similar character trigrams.
    if test.format == "pair":
        texts = ([f"{r['first']} {r['second']}".strip() for r in rows] for rows in (test, train))
        given = [train[place]["label"] for place in _nearest(*texts)]
        return accuracy(given, [row["label"] for row in test])["accuracy"]
    # A token gets the tag that its form mostly had, whatever its case and digits, else tag 0.
    if test.format == "tagging":
        seen: defaultdict[str, Counter[int]] = defaultdict(Counter)
        for row in train:
            for token, tag in zip(row["tokens"], row["tags"], strict=True):
                seen[_folded(token)][tag] += 1
        best = {token: counts.most_common(1)[0][0] for token, counts in seen.items()}
        tags = [[best.get(_folded(token), 0) for token in row["tokens"]] for row in test]
        return span_f1(tags, [row["tags"] for row in test], labels=test.labels)["f1"]
    # A query gets the candidate with the most similar trigrams; nothing is trained.
    if test.format == "retrieval":
        queries, pool = ([r for r in test if r["side"] == s] for s in ("query", "candidate"))
        found = _nearest([row["text"] for row in queries], [row["text"] for row in pool])
        hits = [pool[at]["id"] in row["gold"] for at, row in zip(found, queries, strict=True)]
        return float(np.mean(hits))
    known = "there is one for pair, tagging, retrieval"
    raise HelpfulError(f"no string-copy control for format {test.format!r}; {known}")


def _folded(token: str) -> str:
    return re.sub(r"\d", "0", token.casefold())


def _nearest(texts: Sequence[str], pool: Sequence[str]) -> list[int]:
    """Return for each text the place of the most similar text of a pool (cosine of trigrams)."""
    columns, ends = list[int](), [0]
    for text in (*texts, *pool):
        padded = f"  {text.casefold()} "
        grams = {padded[i : i + 3] for i in range(len(padded) - 2)}
        columns += map(_bucket, grams)
        ends.append(len(columns))
    lengths = np.diff(ends)
    values = np.repeat(1 / np.sqrt(lengths), lengths)
    rows = sparse.csr_matrix((values, columns, ends), shape=(len(lengths), _BUCKETS))
    one, other = rows[: len(texts)], rows[len(texts) :].T
    # Some texts at a time: their scores against the whole pool are one dense block.
    blocks = (one[start : start + 512] @ other for start in range(0, len(texts), 512))
    return [place for block in blocks for place in block.toarray().argmax(axis=1).tolist()]


def _bucket(gram: str) -> int:
    """Hash a trigram the same way in every process (``hash`` of text is salted)."""
    value = 0
    for character in gram:
        value = (value * 1_000_003 + ord(character)) % 2**31
    return value % _BUCKETS
