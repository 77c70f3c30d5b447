"""The inputs of one call: its tasks, encoders and options, and the arrays made of them so far.

Arrays are made when a measure needs them, once per checkpoint and task; those that cost a pass
through an encoder are kept in a file. An array of one task is made at ``Dyad(task, None, language)``.
"""

from __future__ import annotations

import contextlib
import hashlib
import pickle
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from helpers.errors import BadRows, HelpfulError, MissingData
from helpers.files import write_atomic
from helpers.models import network
from helpers.similarity import readers
from helpers.similarity.catalogue import Undefined, code_of
from helpers.similarity.readers import Checkpoint, Reader, Sample, View
from helpers.similarity.representations import Integers

if TYPE_CHECKING:
    from torch import nn

    from helpers.models.encoders import Encoder
    from helpers.models.training import Tuned
    from helpers.tasks import Task

# Raise it when the way arrays are made changes: older files are then not read again.
VERSION = 2
# Arrays held in memory at a time, bytes.
HELD = 1.5e9
SIDES = ("intermediate", "target")


@dataclass(frozen=True)
class Options:
    """How much is read for each measure."""

    rows: int = 300  # sampled per task
    units: int = 300  # labelled, per task
    max_length: int = 128  # pieces
    common_rows: int = 300  # sentences on which two encoders are compared
    parallel_rows: int = 300  # sentence pairs per language
    gradient_rows: int = 200  # per task
    heads: int = 5  # fitted per task for the gradient cosine
    shuffle_labels: bool = False  # control: permute the labels of each task's units
    precision: str = "auto"  # of reading; "fp32" or "bf16"

    @classmethod
    def sized(cls, rows: int, shuffle_labels: bool = False) -> Options:
        """Return options that read so many rows a task, and no more for anything else."""
        pairs, gradient_rows = min(1000, rows), min(200, rows)
        return cls(rows, rows, 128, pairs, pairs, gradient_rows, shuffle_labels=shuffle_labels)


class Side(NamedTuple):
    """A task and the seed of its sample and of its checkpoint."""

    task: str
    seed: int


class Dyad(NamedTuple):
    """What a value or an array is about; without a target, one task in one language."""

    intermediate: Side
    target: Side | None
    language: str = "en"

    def needed_target(self) -> Side:
        """Return the target; Undefined where there is none."""
        if self.target is None:
            raise Undefined("this measure needs a target, and none was given.")
        return self.target


@dataclass(frozen=True)
class Parts:
    """One array (or list, or mapping of arrays), and how it splits into two disjoint halves."""

    values: Any
    rows: Integers | None = None  # that each entry belongs to; None where it cannot be split
    second: Any = None  # whether each row is in the second half
    halves: tuple[Any, Any] | None = None  # where they are not slices of the values
    axis: int = 0  # along which entries lie
    entries: int = 0  # examples behind it, where rows do not say
    passes: int = 0  # rows sent through an encoder for it, backward passes counted as well
    seconds: float = 0.0  # that making it took
    note: str = ""  # for readers, such as classes left out

    @property
    def splits(self) -> bool:
        """Whether the two halves are different data."""
        return self.rows is not None or self.halves is not None

    @property
    def count(self) -> int | None:
        """Number of entries, None where there are none to count."""
        return (self.entries or None) if self.rows is None else len(self.rows)

    def get(self, part: str) -> Any:
        """Return the values of ``"all"`` rows or of half ``"a"`` or ``"b"``."""
        if part == "all" or not self.splits:
            return self.values
        if self.halves is not None:
            return self.halves[part == "b"]
        assert self.rows is not None
        places = np.flatnonzero(np.asarray(self.second)[self.rows] == (part == "b"))
        if isinstance(self.values, list):
            return [self.values[place] for place in places]
        return np.take(self.values, places, axis=self.axis)


def each_part(value: Callable[[str], Any], **facts: Any) -> Parts:
    """Return what a function makes of all rows, and of each half."""
    whole, first, second = (value(part) for part in ("all", "a", "b"))
    return Parts(whole, halves=(first, second), **facts)


@dataclass(frozen=True)
class Shape:
    """Size of noise: rows, columns of features, classes of labels."""

    rows: int = 2000
    columns: int = 64
    classes: int = 4


Noise = Callable[[np.random.Generator, Shape], Any]


@dataclass(frozen=True)
class Array:
    """One array that measures can ask for."""

    says: str  # what it is
    side: str  # task that it is made for, "intermediate" or "target"; "" for both together
    of: tuple[str, ...]  # facts that determine it, by the names of Inputs.fact
    make: Callable[[Inputs, Dyad], Parts]  # for a dyad or for one task
    noise: Noise | None = None  # draws what stands in for it where nothing is related
    passes: int = 0  # through an encoder per row; an array that takes any is worth a file
    source: str = ""  # the array that it is made of without reading anything else


Make = Callable[["Inputs", Dyad], Parts]
# The name that a measure asks by, and the array.
ARRAYS: dict[str, Array] = {}


def array(
    name: str,
    *,
    of: str,
    side: str = "",
    noise: Noise | None = None,
    passes: int = 0,
    source: str = "",
) -> Callable[[Make], Make]:
    """Let measures ask for what a function makes; its text says what it is; see ``Array``."""

    def add(make: Make) -> Make:
        says = (make.__doc__ or "").rstrip(".")
        ARRAYS[name] = Array(says, side, tuple(of.split(", ")), make, noise, passes, source)
        return make

    return add


def of_task(name: str, **facts: Any) -> Callable[[Make], Make]:
    """As ``array``, for an array that either task has: ``{}`` in its name is the side."""

    def add(make: Make) -> Make:
        for side in SIDES:
            array(name.format(side), side=side, **facts)(make)
        return make

    return add


class Inputs:
    """The tasks, encoders and options of one call, and the arrays made so far."""

    def __init__(
        self,
        encoder: Encoder,
        study: Sequence[Task],
        *,
        checkpoints: readers.Checkpoints = None,
        options: Options | None = None,
        folder: Path,
        parallel_task: Task | None = None,
        sentence_encoder: Encoder | None = None,
        language_head: nn.Module | None = None,
        early: Callable[[Tuned, Task, int], float] | None = None,
    ) -> None:
        """Set up the inputs; arguments as for ``helpers.similarity.measure``."""
        import helpers.similarity.arrays  # noqa: F401  (fills ARRAYS)

        self.encoder, self.options = encoder, options or Options()
        self.tasks = {task.name: task for task in study}
        self.checkpoints, self.folder = checkpoints, folder
        self.parallel_task, self.sentence_encoder = parallel_task, sentence_encoder
        self.language_head, self.early = language_head, early
        self.precision = network.resolve_precision(self.options.precision, network.best_device())
        self._memo: dict[Any, Any] = {}
        self._tuned: OrderedDict[Side, tuple[Tuned, Reader]] = OrderedDict()
        self._held: OrderedDict[str, Parts] = OrderedDict()
        self._inner = 0.0  # seconds spent on the arrays that the one being made is made of

    # Arrays.

    def get(self, need: str, dyad: Dyad) -> Parts:
        """Return an array with its halves; Undefined or BadRows say why there is none."""
        return self.at(need, _place(ARRAYS[need], dyad))

    def at(self, need: str, place: Dyad) -> Parts:
        """As ``get``, for an array of one task at ``Dyad(task, None, language)``."""
        array = ARRAYS[need]
        key = self._key(array, place)
        if key in self._held:
            self._held.move_to_end(key)
            return self._held[key]
        path = self.path(key)
        parts = _read(path) if array.passes else None
        if parts is None:
            outer, self._inner, start = self._inner, 0.0, time.perf_counter()
            made = array.make(self, place)
            wall = time.perf_counter() - start
            parts = replace(made, seconds=made.seconds + wall - self._inner)
            self._inner = outer + wall
            if array.passes:
                write_atomic(path, pickle.dumps(parts))
        self._held[key] = parts
        while sum(map(_size, self._held.values())) > HELD and len(self._held) > 1:
            self._held.popitem(last=False)
        return parts

    def key(self, need: str, dyad: Dyad) -> str:
        """Hash of what determines an array; errors as for ``get``, without making it."""
        return self._key(ARRAYS[need], _place(ARRAYS[need], dyad))

    def _key(self, array: Array, place: Dyad) -> str:
        facts = [self.fact(name, place) for name in array.of]
        content = repr((VERSION, array.make.__name__, self.options, self.precision, facts))
        return hashlib.sha256(content.encode()).hexdigest()

    def cost(self, wanted: set[tuple[str, Dyad]]) -> tuple[int, float]:
        """Estimate the texts to send through an encoder for some arrays, and the seconds."""
        passes: dict[Any, tuple[float, float]] = {}
        for need, dyad in wanted:
            array, place = ARRAYS[need], _place(ARRAYS[need], dyad)
            while array.source:
                array = ARRAYS[array.source]
            if not array.passes or self.path(self._key(array, place)).exists():
                continue
            # Features and embeddings are of one reading, and so have one entry.
            reading = array.passes, repr([self.fact(name, place) for name in array.of])
            side = place.target or place.intermediate
            try:
                rows = len(self.sample(side, place.language).rows)
            except Undefined:  # pairs of sentences: about as many as rows of English
                side, place = place.intermediate, place._replace(language="en")
                rows = len(self.sample(side).rows)
            rows = min(rows, self.options.gradient_rows) if array.passes > 2 else rows
            pace = self.remember(("pace", side.task), partial(self._pace, side, place.language))
            passes[reading] = array.passes * rows, array.passes * rows * pace
        return int(sum(n for n, _ in passes.values())), sum(s for _, s in passes.values())

    def _pace(self, side: Side, language: str) -> float:
        """Seconds that a text of a task takes, from a few of them."""
        texts, reader = self.sample(side, language).texts[:8], self.reader(self.encoder)
        if ("pace", "warm") not in self._memo:
            self._memo["pace", "warm"] = reader.texts(texts[:1], self.options.max_length)
        start = time.perf_counter()
        reader.texts(texts, self.options.max_length)
        return (time.perf_counter() - start) / len(texts)

    def full(self) -> bool:
        """Return whether a task had as many rows as were asked for, so that it may have more."""
        samples = (found for found in self._memo.values() if isinstance(found, Sample))
        return any(len(sample.rows) >= self.options.rows for sample in samples)

    def path(self, key: str) -> Path:
        """Return where an array lies, or will lie."""
        return self.folder / key[:2] / f"{key}.pickle"

    def fact(self, name: str, at: Dyad) -> Any:
        """Return one of the facts that ``Array.of`` names."""
        seed = at.intermediate.seed
        if name == "format":
            task = self.tasks[at.intermediate.task]
            return task.name, task.format, task.labels
        if name == "target":
            target = self.tasks[at.needed_target().task]
            return target.name, target.train_with, at.needed_target().seed
        if name == "rows":
            return self.sample(at.intermediate, at.language).key
        if name == "learnt":
            sample = self.sample(at.intermediate)
            if sample.task.format == "retrieval":
                raise Undefined(
                    f"{sample.task.name} is a retrieval task: it has no labels to learn."
                )
            return sample.key
        if name == "target rows":
            return self.sample(at.needed_target(), at.language).key
        if name == "encoder":
            kept = None if self.encoder.kept is None else len(self.encoder.kept)
            return self.encoder.sha256, self.encoder.layers, kept
        if name == "sentence encoder":
            return _given(self.sentence_encoder, "sentence encoder", "sentence_encoder=").sha256
        if name == "checkpoint":
            return self.checkpoint(at.intermediate).key
        if name == "study":
            return [sample.key for sample in self.samples(seed).values()]
        if name == "common":  # one set for all seeds: encoders are compared on the same inputs
            return [sample.key for sample in self.samples(0).values()]
        if name == "pairs":
            return self.pairs(at.language, seed)
        if name == "language head":
            hint = f"language_head=readers.language_head({self.encoder.name!r}) where it has one"
            return _given(self.language_head, "masked-language head", hint) is not None
        assert name == "early", name
        early = _given(self.early, "short run", "early=readers.Early() to train one per dyad")
        return repr(early) if hasattr(early, "settings") else code_of(early)

    def remember(self, key: Any, make: Callable[[], Any]) -> Any:
        """Make something once, and raise again what its making raised."""
        if key not in self._memo:
            try:
                self._memo[key] = make()
            except (Undefined, BadRows) as error:
                self._memo[key] = error
            except MissingData as error:
                self._memo[key] = Undefined(str(error))
        if isinstance(self._memo[key], HelpfulError):
            raise self._memo[key]
        return self._memo[key]

    # Rows.

    def sample(self, side: Side, language: str = "en") -> Sample:
        """Return the sampled rows of a task."""
        task, rows = self.tasks[side.task], self.options.rows
        make = partial(readers.sample, task, rows, side.seed, language)
        return self.remember(("sample", side, language), make)

    def samples(self, seed: int) -> dict[Side, Sample]:
        """Return the samples of all tasks of the study that have English rows."""
        found = {}
        for side in (Side(name, seed) for name in self.tasks):
            with contextlib.suppress(Undefined):
                found[side] = self.sample(side)
        if not found:
            raise Undefined("no task of the study has English rows here.")
        return found

    def view(self, side: Side, language: str = "en") -> View:
        """Return the labelled units of a task's sample."""
        limits = self.options.max_length, self.options.units
        sample = self.sample(side, language)
        make = partial(readers.label_view, sample, self.encoder, *limits)
        return self.remember(("view", side, language), make)

    def common_texts(self) -> list[str]:
        """Return English texts drawn evenly from the tasks: what encoders are compared on."""
        pools = [sample.texts for sample in self.samples(0).values()]
        share = -(-self.options.common_rows // len(pools))
        random = np.random.default_rng(8)
        texts = [
            pool[place] for pool in pools for place in sorted(random.permutation(len(pool))[:share])
        ]
        return list(dict.fromkeys(texts))[: self.options.common_rows]

    def pairs(self, language: str, seed: int) -> tuple[list[str], list[str]]:
        """Return English sentences and their translations."""
        task = _given(
            self.parallel_task, "parallel text", "parallel= with the name of a bitext task"
        )
        rows = self.options.parallel_rows
        make = partial(readers.parallel, task, language, rows, seed)
        return self.remember(("pairs", language, seed), make)

    # Encoders.

    def reader(self, encoder: Encoder) -> Reader:
        """Return the reader of an encoder before any tuning."""
        make = partial(Reader, encoder, precision=self.precision)
        return self.remember(("reader", encoder.sha256), make)

    def checkpoint(self, side: Side) -> Checkpoint:
        """Return where the tuned encoder of a task and seed comes from; nothing is loaded."""
        task = self.tasks[side.task]
        name = task.train_with or task.name
        make = partial(readers.resolve, self.checkpoints, name, side.seed)
        return self.remember(("checkpoint", name, side.seed), make)

    def tuned(self, side: Side) -> tuple[Tuned, Reader]:
        """Return the tuned encoder of a task and seed; the last two are held."""
        if side not in self._tuned:
            tuned = self.checkpoint(side).load()
            if len(self._tuned) >= 2:
                _, (old, _) = self._tuned.popitem(last=False)
                old.encoder.model.cpu()  # type: ignore[misc]
            self._tuned[side] = tuned, Reader(tuned.encoder, precision=self.precision)
        self._tuned.move_to_end(side)
        return self._tuned[side]


def _given(value: Any, what: str, argument: str) -> Any:
    """Return what was given; Undefined where it was not."""
    if value is None:
        raise Undefined(f"no {what} was given; pass {argument}.")
    return value


def _place(array: Array, dyad: Dyad) -> Dyad:
    """Return what an array is made for: a dyad, or one of its tasks; the target has the language."""
    if array.side == "intermediate":
        return Dyad(dyad.intermediate, None)
    if array.side == "target":
        return Dyad(dyad.needed_target(), None, dyad.language)
    return dyad


def _read(path: Path) -> Parts | None:
    try:
        return pickle.loads(path.read_bytes())
    except Exception:  # not there, cut off or damaged, which pickle tells in many ways: made again
        return None


def _size(parts: Parts) -> int:
    """Bytes of the arrays of a part; texts count as nothing."""
    found = 0
    for values in (parts.values, *(parts.halves or ())):
        held = values if isinstance(values, Mapping) else getattr(values, "__dict__", {"": values})
        found += sum(getattr(array, "nbytes", 0) for array in held.values())
    return found
