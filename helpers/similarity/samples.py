"""Samples of tasks: English rows (or those of another language), and their split into two halves."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from helpers import tasks
from helpers.errors import BadRows, MissingData, UnknownName
from helpers.similarity.arrays import Integers
from helpers.similarity.catalogue import Undefined
from helpers.tasks import Row, Task

__all__ = ["Sample", "halves", "parallel", "row_text", "sample"]


@dataclass(frozen=True)
class Sample:
    """Rows of one task, drawn by a seed.

    Attributes:
        task: the task, with its label names; of a target, its training task's rows and labels.
        language: code of the language.
        rows: standard rows.
        seed: seed of the draw and of the halves.
        source: where the rows were read.
    """

    task: Task
    language: str
    rows: list[Row] = field(repr=False)
    seed: int
    source: str

    @cached_property
    def key(self) -> str:
        """Hash of the rows, and of the facts that decide how they are encoded."""
        facts = (self.task.format, self.task.labels, self.task.max_length, self.seed)
        digest = hashlib.sha256(repr(facts).encode())
        for row in self.rows:
            digest.update(repr(sorted(row.items())).encode())
        return digest.hexdigest()

    @cached_property
    def texts(self) -> list[str]:
        """One text per row; a context is written once, however many choices follow it."""
        return [row_text(row) for row in self.rows]

    @cached_property
    def half(self) -> NDArray[np.bool_]:
        """Whether each row is in the second of two disjoint halves."""
        return halves(len(self.rows), self.seed)


def halves(rows: int, seed: int) -> NDArray[np.bool_]:
    """Split rows at random into two halves whose sizes differ by at most one.

    Args:
        rows: how many rows.
        seed: seed of the split.

    Returns:
        True for the rows of the second half.
    """
    second = np.zeros(rows, dtype=bool)
    second[np.random.default_rng([seed, 2]).permutation(rows)[: rows // 2]] = True
    return second


def row_text(row: Row) -> str:
    """Return everything a row says, as one text."""
    if "tokens" in row:
        return " ".join(row["tokens"])
    parts = [row.get(name, "") for name in ("first", "second", "text", "question", "context")]
    return " ".join([part for part in parts if part] + list(row.get("choices", ())))


def sample(task: Task, rows: int, seed: int, language: str = "en") -> Sample:
    """Draw rows of a task.

    In English these are training rows: a target's are those of the task that trains it, and where
    nothing trains it (bitext) the English side of its sentences. In another language they are
    development rows of the target itself, so that no test row is looked at.

    Args:
        task: an intermediate or a target.
        rows: at most so many.
        seed: seed of the draw.
        language: code as XTREME writes it.

    Returns:
        The rows with the task they belong to.

    Raises:
        Undefined: the task has no such rows.
        MissingData: the rows exist but are not here.
    """
    from helpers import data

    if language != "en":
        return _drawn(data.with_labels(task), language, "dev", rows, seed)
    trainer = tasks.get(task.train_with) if task.train_with else task
    if "en" in trainer.languages and trainer.source.serving("en", "train"):
        return _drawn(data.with_labels(trainer), "en", "train", rows, seed)
    if task.format == "retrieval":
        return _english_side(task, rows, seed)
    raise Undefined(f"{task.name} has no English training rows.")


def _drawn(task: Task, language: str, split: str, rows: int, seed: int) -> Sample:
    from helpers import data

    try:
        found = data.rows(task, language, split, rows, seed)
    except UnknownName as error:
        raise Undefined(f"{task.name} has no {split} rows in {language!r}: {error}") from error
    labels = tuple(found.labels) or task.labels
    chosen = list(found)[:rows]  # of retrieval, a limit counts queries alone
    return Sample(replace(task, labels=labels), language, chosen, seed, found.source)


def _english_side(task: Task, rows: int, seed: int) -> Sample:
    """English sentences of a bitext task, over its languages until there are enough."""
    texts: dict[str, Row] = {}
    source = ""
    for language in task.languages:
        for row in _bitext(task, language):
            if row["id"].startswith("en-"):
                texts.setdefault(row["text"], row)
        source = f"English side of {task.name}"
        if len(texts) >= rows:
            break
    if not texts:
        raise Undefined(f"{task.name} has no English sentences that are here.")
    order = np.random.default_rng([seed, 1]).permutation(len(texts))[:rows]
    found = list(texts.values())
    return Sample(task, "en", [found[place] for place in sorted(order)], seed, source)


def _bitext(task: Task, language: str) -> Sequence[Row]:
    """Rows of a bitext task in one language, of its development split where there is one."""
    from helpers import data

    splits = [split for split in ("dev", "test") if task.source.serving(language, split)]
    if not splits:
        return []
    try:
        return list(data.rows(task, language, splits[0]))
    except MissingData:
        return []


def parallel(task: Task, language: str, rows: int, seed: int) -> tuple[list[str], list[str], str]:
    """Draw sentence pairs in English and another language.

    Args:
        task: a bitext task.
        language: the other language.
        rows: at most so many pairs.
        seed: seed of the draw.

    Returns:
        English sentences, their translations, and a hash of both.

    Raises:
        Undefined: the task is no bitext, or has no pairs in the language.
    """
    if task.format != "retrieval" or language not in task.languages:
        raise Undefined(f"{task.name} has no sentence pairs of English and {language!r}.")
    found = {row["id"]: row for row in _bitext(task, language)}
    pairs = [
        (row, found[row["gold"][0]])
        for row in found.values()
        if row["side"] == "query" and row["gold"] and row["gold"][0] in found
    ]
    # Which side is English differs between tasks: queries in some, candidates in others.
    pairs = [pair if pair[0]["id"].startswith("en-") else pair[::-1] for pair in pairs]
    pairs = [pair for pair in pairs if pair[0]["id"].startswith("en-")]
    if not pairs:
        raise Undefined(f"{task.name} has no sentence pairs of English and {language!r} here.")
    order = sorted(np.random.default_rng([seed, 3]).permutation(len(pairs))[:rows])
    english, other = ([pairs[place][side]["text"] for place in order] for side in (0, 1))
    digest = hashlib.sha256(repr((english, other, seed)).encode()).hexdigest()
    return english, other, digest


def label_counts(labels: ArrayLike, fewest: int) -> tuple[Integers, int]:
    """Positions of the labels that occur often enough, and how many classes were too rare.

    Args:
        labels: one label per unit; negative ones are unknown.
        fewest: fewest units that a class must have to stay.

    Raises:
        BadRows: fewer than two classes are left.
    """
    array = np.asarray(labels, dtype=np.int64)
    values, counts = np.unique(array[array >= 0], return_counts=True)
    kept = values[counts >= fewest]
    if len(kept) < 2:
        raise BadRows(
            f"only {len(kept)} of {len(values)} classes have {fewest} or more labelled units; at "
            "least two are needed. Sample more rows."
        )
    return np.flatnonzero(np.isin(array, kept)).astype(np.int64), len(values) - len(kept)


def subset(positions: Integers, size: int, seed: int) -> Integers:
    """At most ``size`` of some positions, drawn by a seed, in their order."""
    if len(positions) <= size:
        return positions
    chosen = np.random.default_rng([seed, 4]).permutation(len(positions))[:size]
    return positions[np.sort(chosen)]
