"""Rows of a task in one language and split, in the standard form of the task's format."""

import hashlib
import inspect
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, Self

import numpy as np

from helpers import metrics, tasks
from helpers.data import packages, standard, tables
from helpers.data.standard import BLANK, IGNORED, Count, Standard, decoded
from helpers.errors import BadRows, MissingData, UnknownName, unknown
from helpers.files import write_atomic
from helpers.tasks import FIELDS, Row, Source, Task

# `helpers.data.sources` is imported where rows are read: `datasets` takes seconds.
SPLITS = ("train", "dev", "test")
# Hub sets with more raw rows than this are standardised once, into a memory-mapped file.
IN_MEMORY = 20_000


@dataclass
class Rows(Sequence[Row]):
    """Standard rows of one task, language and split."""

    task: str
    language: str
    split: str  # "train", "dev" or "test"
    source: str  # where they were read: "mirror id", "hub id@revision"; several joined by "; "
    labels: tuple[str, ...]  # in the order of their ids
    dropped: dict[str, int]  # reason -> number of raw rows left out
    notes: dict[str, int]  # what was mended or met -> number of cases
    format: str
    _data: Any = field(repr=False)  # a list, or a memory-mapped ``datasets.Dataset``

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return self._data[int(index)]

    def __iter__(self) -> Iterator[Row]:
        return decoded(self._data)

    @cached_property
    def fingerprint(self) -> str:
        """Return the sha256 of the standard rows, the same from whatever source they came."""
        digest = hashlib.sha256()
        for row in self:
            digest.update(f"{json.dumps(row, ensure_ascii=False, sort_keys=True)}\n".encode())
        return digest.hexdigest()

    def column(self, name: str) -> list[Any]:
        """Return one field of all rows, without decoding the others of a memory-mapped set."""
        if isinstance(self._data, list):
            return [row[name] for row in self._data]
        return self._data.select_columns(name).with_format("arrow")[:][name].to_pylist()

    def take(self, indices: Sequence[int]) -> Self:
        """Return the rows at some positions, with the same facts."""
        if isinstance(self._data, list):
            return replace(self, _data=[self._data[int(i)] for i in indices])
        return replace(self, _data=self._data.select(indices))

    def side(self, side: str) -> Self:
        """Return the rows of a retrieval task that are a ``"query"`` or a ``"candidate"``."""
        return self.take([i for i, found in enumerate(self.column("side")) if found == side])


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
        limit: at most this many rows, drawn without replacement; a smaller one of the same seed
            draws a subset. Of a retrieval task it draws queries and keeps every candidate.
        seed: seed of that draw; nothing else depends on it.

    Returns:
        The rows in the order of their source.

    Raises:
        UnknownName: no such task, language or split; the error lists the nearest.
        MissingData: the data are neither there nor reachable; the error says how to get them.
        BadRows: a column, a label or the gold does not fit; the error gives the file and its row.
    """
    found = _load(task, language, split)
    if limit is None:
        return found
    if limit < 1:
        raise BadRows(f"limit {limit} of task {found.task!r}: expected at least 1, or None for all")
    drawn = np.ones(len(found), bool)
    if found.format == "retrieval":
        drawn = np.array(found.column("side")) == "query"
    pool, rest = np.flatnonzero(drawn), np.flatnonzero(~drawn)
    # The legacy generator's stream is frozen by NumPy's policy, so samples outlive upgrades.
    order = np.random.RandomState(seed).permutation(len(pool))[:limit]
    return found.take(np.sort(np.concatenate([pool[order], rest])).tolist())


def first_rows(task: Task | str, language: str, split: str) -> Rows:
    """Return the first three rows of a set without fetching or standardising the rest."""
    # Rows of other languages in a mixed set are read over: more raw rows are looked at.
    for first in (8, 2000):
        with suppress(BadRows, MissingData):
            found = _load(task, language, split, first)
            if len(found) >= 3:
                break
    else:
        found = _load(task, language, split, 60_000)
    return found.take(range(min(3, len(found))))


def at_hand(task: Task | str) -> list[tuple[str, str]]:
    """List the pairs (language, split) of a task or its name that load without the network."""
    from helpers.data import sources

    task = tasks.get(task) if isinstance(task, str) else task
    return [
        (language, split)
        for language in task.languages
        for split in SPLITS
        if (serving := task.source.serving(language, split))
        and all(leaf.optional or sources.at_hand(leaf, language, split) for leaf in serving)
    ]


def with_labels(task: Task | str) -> Task:
    """Return a task (or that of a name) with its labels, read off English training rows if unstated.

    Of the book's tasks only CCG supertagging leaves its labels to the data.
    """
    from helpers.data import sources

    task = tasks.get(task) if isinstance(task, str) else task
    if task.labels or task.format in ("span", "retrieval"):
        return task
    column = task.columns.get(name := "tags" if task.format == "tagging" else "label", name)
    counts: Counter[Any] = Counter()
    for source in _serving(task, "en", "train"):
        raw = sources.load(source, "en", "train")
        for row in decoded(raw.rows):
            # A row without the column is refused, by its place, when it is read.
            option = next((option for option in column.split("|") if option in row), "")
            values, names = row.get(option, []), raw.class_names.get(option, ())
            for value in values if isinstance(values, list) else [values]:
                known = isinstance(value, int) and 0 <= value < len(names)
                value = names[value] if known else value
                counts[value.strip() if isinstance(value, str) else value] += 1
    # Texts, the most frequent first, or numbers, which keep their value as place.
    numbers = [value for value in counts if isinstance(value, int)]
    texts = [value for value in counts if isinstance(value, str) and value]
    if bool(numbers) == bool(texts) or task.format == "choice":
        found = ", ".join(map(repr, list(counts)[:5])) or "nothing"
        told = f"column {column!r} of {raw.origin} does not tell them ({found})"
        advice = "state labels=(...), for choice in the order of the choices"
        raise BadRows(f"task {task.name!r} states no labels, and {told}; {advice}.")
    labels = sorted(texts, key=lambda text: (-counts[text], text))
    return replace(task, labels=tuple(labels or map(str, range(max(numbers) + 1))))


def _serving(task: Task, language: str, split: str) -> tuple[Source, ...]:
    """Return the sources that serve a language and split, or say why there are none."""
    if language not in task.languages:
        error = tasks.unknown_language(f"language of task {task.name!r}", language, task.languages)
        own = " It trains on the English rows of a task of their own, named in its train_with."
        raise UnknownName(f"{error}{own * (language == 'en' and split in ('train', 'dev'))}")
    if serving := task.source.serving(language, split):
        return serving
    served = (s for s in task.source.flat() if not s.languages or language in s.languages)
    valid = {name for source in served for name in source.splits}
    hint = "If the data have it, name it in splits={...} of the task's source. Training rows give "
    hint += (
        "dev by splits={'train': 'train', 'dev': 'train'}; divide=(column,) keeps texts together."
    )
    if split in ("train", "dev") and (task.train_with or language != "en"):
        hint = f"It trains on the English rows of task {task.train_with or task.name!r}."
    error = unknown(f"split of task {task.name!r} in {language!r}", split, valid)
    raise UnknownName(f"{error} {hint}")


def _load(task: Task | str, language: str, split: str, first: int | None = None) -> Rows:
    """Read the sources of a language and split one after another and standardise their rows."""
    from helpers.data import sources

    task = tasks.get(task) if isinstance(task, str) else task
    serving = _serving(task, language, split)[: None if first is None else 1]
    dropped, notes, labels = Count(), Count(), with_labels(task).labels
    makers = []
    for number, source in enumerate(serving):
        code = source.language or language
        try:
            raw = sources.load(source, language, split, first)
        except MissingData:
            if not source.optional or sources.root() is None:
                raise
            notes[f"mirror lacks {source.id} {source.config_for(code)} {source.splits[split]}"] += 1
            continue
        # The rows of each source are numbered apart, where there are several.
        prefix = f"{code}-{split}-" + f"{number}-" * (len(serving) > 1)
        makers.append(Standard(task, labels, raw, code, split, source.side, prefix))
    size = sum(len(maker.raw.rows) for maker in makers)
    # Rows of the user's own are in memory already.
    listed = first is not None or any(isinstance(maker.raw.rows, list) for maker in makers)
    data = (_listed if listed or size <= IN_MEMORY else _mapped)(makers, dropped, notes)
    origin = "; ".join(dict.fromkeys(maker.raw.origin for maker in makers))
    counted = (labels, dict(dropped), dict(notes))
    found = Rows(task.name, language, split, origin, *counted, task.format, data)
    if split == "train" and task.exclude and first is None:
        found = _excluding(found, task.exclude)
    place = f"task {task.name!r}, language {language!r}, split {split!r} in {origin}"
    if not len(found) and size and not found.dropped:
        held = f"the set holds {size} rows, none of them in {language!r}"
        raise MissingData(f"{place}: {held}. {sources.three_ways(serving[0])}")
    if problem := next(_problems(task, found, whole=first is None), ""):
        raise BadRows(f"{place}: {problem}")
    if found.notes.get(f"{BLANK}'second'", 0) >= len(found):  # a set of single texts
        del found.notes[f"{BLANK}'second'"]
    return found


def _excluding(found: Rows, others: Sequence[str]) -> Rows:
    """Remove training rows whose text occurs in the evaluation rows of other tasks."""

    def spelling(row: Row) -> str:
        """Its text without spaces, so that another tokenisation cannot hide it."""
        texts = row.get("tokens") or [v for v in row.values() if isinstance(v, str)]
        return "".join("".join(texts).split()).casefold()

    held = [(tasks.get(name), split) for name in others for split in ("dev", "test")]
    held = [(task, split) for task, split in held if task.source.serving("en", split)]
    seen = {spelling(row) for task, split in held for row in rows(task, "en", split)}
    keep = [number for number, row in enumerate(found) if spelling(row) not in seen]
    gone = {f"also in the evaluation rows of {', '.join(others)}": len(found) - len(keep)}
    dropped = found.dropped | (gone if len(keep) < len(found) else {})
    return replace(found.take(keep), dropped=dropped)


def _listed(makers: Sequence[Standard], *counts: Count) -> list[Row]:
    """Standardise in memory."""
    kept = [row for maker in makers for row in maker.rows(*counts)]
    # Where candidates name the questions they answer, each query gets its right candidates.
    right: dict[str, list[str]] = {}
    for row in kept:
        for question in row.pop("_answers", ()):
            right.setdefault(question, []).append(row["id"])
    for row in kept if right else ():
        if row["side"] == "query":
            row["gold"] = [name for key in row["gold"] for name in right.get(key, [key])]
    return kept


def _mapped(makers: Sequence[Standard], *counts: Count) -> Any:
    """Standardise into memory-mapped files, once per content of a source and of its task."""
    import datasets
    import pyarrow as pa
    from datasets.fingerprint import Hasher

    texts, numbers = pa.list_(pa.string()), pa.list_(pa.int32())
    kinds: dict[str, Any] = dict.fromkeys(("choices", "tokens", "gold"), texts)
    kinds |= {"label": pa.int64(), "tags": numbers}
    kinds |= {"answers": pa.struct({"text": texts, "start": numbers})}
    fields = FIELDS[makers[0].task.format]
    schema = pa.schema({name: kinds.get(name, pa.string()) for name in fields})
    # `datasets` knows a function of this package by its name only: its text counts as well.
    code = [*map(inspect.getsource, (standard, tasks.intermediate, tasks.xtreme))]
    parts = []
    for maker in makers:
        # What the rows depend on: the content of the source, facts, and the code.
        task, raw = maker.task, maker.raw
        facts = (task.format, dict(task.columns), maker.labels, task.metric, task.adapt)
        where = (maker.language, maker.split, maker.side, maker.prefix, raw.class_names)
        key = Hasher.hash((raw.rows._fingerprint, raw.rows.cache_files, facts, where, code))
        folder = Path(datasets.config.HF_DATASETS_CACHE) / "transfer-rows" / key
        whole = folder / "counts.json"  # written last: where it is, the rows are whole
        if not whole.is_file():
            own = (Count(), Count())
            made = maker.rows(*own)
            folder.mkdir(parents=True, exist_ok=True)
            part = folder / f"rows.{os.getpid()}"
            with pa.OSFile(str(part), "wb") as file, pa.ipc.new_stream(file, schema) as stream:
                while batch := list(islice(made, 1000)):
                    stream.write(pa.RecordBatch.from_pylist(batch, schema))
            os.replace(part, folder / "rows.arrow")
            write_atomic(whole, json.dumps(own).encode())
        parts.append(datasets.Dataset.from_file(str(folder / "rows.arrow")))
        for count, more in zip(counts, json.loads(whole.read_bytes()), strict=True):
            count.update(more)
    return parts[0] if len(parts) == 1 else datasets.concatenate_datasets(parts)


def _problems(task: Task, found: Rows, whole: bool) -> Iterator[str]:
    """Tell sets without rows or text, and whole sets whose gold only stands in for hidden gold."""
    if not len(found):
        left = f"no usable row; left out: {found.dropped or 'nothing, it is empty'}"
        yield f"{left}. Hidden test labels and blank answers stay hidden: use 'dev' where it exists."
    main = {"pair": "first", "span": "context", "retrieval": "text"}.get(task.format)
    if found.notes.get(f"{BLANK}{main!r}", 0) >= len(found):
        yield f"{main!r} is blank in all {len(found)} rows; name its column in columns."
    golds: Iterable[Any] = ()
    names, kinds = found.labels, len(found.labels)
    if whole and task.format == "retrieval":
        yield from _of_retrieval(task, found)
    elif whole and task.format == "span":
        # Of SQuAD 2.0 half of the questions have no answer; of other sets all have one.
        texts = (answer["text"] for answer in found.column("answers"))
        golds, kinds = (n if text else "no answer" for n, text in enumerate(texts)), 2
    elif whole and task.format == "tagging":
        golds = [[names[t] for t in tags if t != IGNORED] for tags in found.column("tags")]
        if not any(golds):
            yield f"every tag is -1 or {IGNORED}: hidden. Use a copy with labels, or another split."
    elif whole:
        golds = (names[label] for label in found.column("label"))
    # Few rows may well be alike by chance, the fewer the more labels there are.
    if kinds > 1 and float(kinds) ** (1 - len(found)) < 1e-6:
        yield from filter(None, [metrics.placeholder(golds, enough=1)])


def _of_retrieval(task: Task, found: Rows) -> Iterator[str]:
    """Tell ids that come twice on a side, an empty side, and gold that is no candidate."""
    every = list(zip(*(found.column(name) for name in ("id", "side", "gold")), strict=True))
    counts = Counter((side, name) for name, side, _ in every)
    for side, name in (one for one, times in counts.items() if times > 1):
        yield f"two rows are {side} {name!r}; ids of a side must differ."
    for side in {"query", "candidate"} - {side for side, _ in counts}:
        yield f"no row is a {side}; each set needs both sides."
    asked = [(name, gold) for name, side, gold in every if side == "query"]
    for name, gold in asked:
        for right in (right for right in gold if ("candidate", right) not in counts):
            some = ", ".join(sorted(repr(one) for side, one in counts if side == "candidate")[:3])
            yield f"gold {right!r} of query {name!r} is the id of no candidate, such as {some}."
        # Of two corpora to be mined most sentences have no translation on the other side.
        if not gold and task.metric != "pair_f1":
            yield f"query {name!r} has no gold; name its right candidates."
    if not any(gold for _, gold in asked):
        yield "no query has gold: it is hidden. Use a copy with labels, or another split."


# --- Unlabelled text ------------------------------------------------------------------------------
TEXT_VARIABLE = "TRANSFER_TEXT_ROOT"
_WIKIPEDIA = Source("hub", "wikimedia/wikipedia", "20231101.{language}")  # CC BY-SA 3.0 and GFDL
_WIKIPEDIA = replace(_WIKIPEDIA, revision="b04c8d1ceb2f5cd4588862100d08de323dccfbaa")


class Texts(tuple[str, ...]):
    """Paragraphs of one language, and where they were read."""

    source: str

    @property
    def fingerprint(self) -> str:
        """Return the sha256 of the paragraphs."""
        return hashlib.sha256("\n".join(self).encode()).hexdigest()


def texts(language: str, limit: int | None = None) -> Texts:
    """Read paragraphs of a language without repetition, in the order of their source.

    From the folder that ``TRANSFER_TEXT_ROOT`` names, with ``<language>.txt`` or ``<language>/*.txt``
    (one paragraph a line); "django" stands for the messages of its catalogues. Else from Wikipedia
    at a pinned snapshot. At most ``limit``, 10,000 by default.
    """
    where, limit = os.environ.get(TEXT_VARIABLE, ""), limit or 10_000
    lines: Iterable[str]
    if where == "django":
        origin = f"package {tasks.demo.DJANGO}"
        pairs = packages.messages(tasks.demo.DJANGO, "de" if language == "en" else language)
        lines = pairs if language == "en" else pairs.values()
    elif where:
        path = Path(where).expanduser()
        origin, lines = f"folder {path}", tables.paragraphs(path, language)
    else:
        origin, lines = _wikipedia(language, limit)
    found = Texts(islice(dict.fromkeys(line.strip() for line in lines if line.strip()), limit))
    if not found:
        raise MissingData(f"no text in {language!r} in {origin}")
    found.source = origin
    return found


def _wikipedia(language: str, limit: int) -> tuple[str, list[str]]:
    """Read articles from the beginning of the snapshot until there are enough paragraphs."""
    from helpers.data import sources

    articles = max(16, limit // 8)
    while True:
        try:
            raw = sources.load(_WIKIPEDIA, language, "train", first=articles)
        except MissingData as error:
            own = f"Or set {TEXT_VARIABLE} to a folder with {language}.txt, or to 'django'."
            raise MissingData(f"{error} {own}") from error
        # Shorter lines of an article are headings and list items.
        lines = [one for row in raw.rows for one in row["text"].splitlines() if len(one) >= 40]
        if len(lines) >= limit or len(raw.rows) < articles:
            return raw.origin, lines
        articles *= 4
