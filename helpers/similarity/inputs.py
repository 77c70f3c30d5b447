"""The inputs of one call: its tasks, encoders and options, and the arrays made of them so far.

An array is made when a measure first needs it, once per task and encoder; what costs a pass through an
encoder is kept in a file. One of a single task is made at ``Dyad(task, None, language)``.
"""

import contextlib
import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from joblib import Memory

from helpers.errors import BadRows, HelpfulError, MissingData
from helpers.models import network
from helpers.models.encoders import Encoder
from helpers.models.training import Tuned
from helpers.similarity import readers
from helpers.similarity.catalogue import Undefined, code_of
from helpers.similarity.readers import Checkpoint, Reader, Sample, View
from helpers.similarity.representations import Integers
from helpers.tasks import Task

# Raise it when the way arrays are made changes: older files are then not read again.
VERSION = 3
# Arrays held in memory at a time, bytes.
HELD = 1.5e9


@dataclass(frozen=True)
class Options:
    """How much is read for each measure."""

    rows: int = 300  # sampled per task, and as many labelled units
    sentences: int = 300  # on which two encoders are compared, and pairs of them per language
    gradient_rows: int = 200  # per task
    heads: int = 5  # fitted per task for the gradient cosine
    max_length: int = 128  # pieces
    shuffle_labels: bool = False  # control: permute the labels of each task's units
    precision: str = "auto"  # of reading; "fp32" or "bf16"

    @classmethod
    def sized(cls, rows: int, shuffle_labels: bool = False) -> Self:
        """Return options that read so many rows a task, and no more for anything else."""
        return cls(rows, min(1000, rows), min(200, rows), shuffle_labels=shuffle_labels)


class Side(NamedTuple):
    """A task and the seed of its sample and of its checkpoint."""

    task: str
    seed: int


class Dyad(NamedTuple):
    """What a value or an array is about; without a target, one task in one language."""

    intermediate: Side
    target: Side | None = None
    language: str = "en"

    def of(self, side: str) -> "Dyad":
        """Return one side alone; only the target is read in the language of the dyad."""
        if side == "intermediate":
            return Dyad(self.intermediate)
        if self.target is None:
            raise Undefined("this measure needs a target, and none was given.")
        return Dyad(self.target, None, self.language)


@dataclass(frozen=True)
class Parts:
    """One array (or list, or mapping of arrays), and how it splits into two disjoint halves."""

    values: Any
    rows: Integers | None = None  # that each entry belongs to; None where it cannot be split
    second: Any = None  # whether each row is in the second half
    halves: tuple[Any, Any] | None = None  # where they are not slices of the values
    axis: int = 0  # along which entries lie
    entries: int = 0  # examples behind it, where rows do not say
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
        """Return the values of ``"all"`` rows, or of half ``"a"`` or ``"b"``."""
        if part == "all" or not self.splits:
            return self.values
        if self.halves is not None:
            return self.halves[part == "b"]
        places = np.flatnonzero(np.asarray(self.second)[self.rows] == (part == "b"))
        if isinstance(self.values, list):
            return [self.values[place] for place in places]
        return np.take(self.values, places, axis=self.axis)

    @property
    def size(self) -> int:
        """Bytes of its arrays; texts count as nothing."""
        found = 0
        for part in (self.values, *(self.halves or ())):
            held = part if isinstance(part, Mapping) else getattr(part, "__dict__", {"": part})
            found += sum(getattr(array, "nbytes", 0) for array in held.values())
        return found


class Array(NamedTuple):
    """One array that measures can ask for."""

    name: str  # the same for both sides: what is made for a task serves it as either
    side: str  # task that it is made for, "intermediate" or "target"; "" for both together
    of: Sequence[str]  # what determines it, by the names of FACTS
    reads: int | str  # passes through an encoder per row, or the array that it is made of
    make: Callable[["Inputs", Dyad], Parts]
    says: str  # what it is

    def at(self, dyad: Dyad) -> Dyad:
        """Return what the array is made for: a dyad, or one of its tasks."""
        return dyad.of(self.side) if self.side else dyad


# The name that a measure asks by, and the array.
ARRAYS: dict[str, Array] = {}


@dataclass
class Inputs:
    """The tasks, encoders and options of one call (as of ``measure``), and the arrays made so far."""

    encoder: Encoder
    study: Sequence[Task]
    options: Options
    folder: Path
    checkpoints: readers.Checkpoints = None
    parallel: Task | None = None
    sentence_encoder: Any = None
    language_head: Any = None
    early: Any = None

    def __post_init__(self) -> None:
        import helpers.similarity.arrays  # noqa: F401  (fills ARRAYS)

        self.tasks = {task.name: task for task in self.study}
        self.precision = network.resolve_precision(self.options.precision, network.best_device())
        self.plain = Reader(self.encoder, self.precision)
        self._memo: OrderedDict[Any, Any] = OrderedDict()
        self._tuned: OrderedDict[Side, tuple[Tuned, Reader]] = OrderedDict()
        self._inner = 0.0  # seconds spent on the arrays that the one being made is made of

    @cached_property
    def _kept(self) -> Any:
        """The making of arrays, remembered in files."""
        try:
            memory = Memory(self.folder, verbose=0)
        except OSError:  # a folder that may only be read; keeping the value says so
            memory = Memory(None, verbose=0)
        return memory.cache(_made, ignore=["inputs", "array", "at"])

    def get(self, need: str, dyad: Dyad) -> Parts:
        """Return an array with its halves; Undefined or BadRows say why there is none."""
        return self.at(need, ARRAYS[need].at(dyad))

    def at(self, need: str, place: Dyad) -> Parts:
        """As ``get``, for an array of one task at ``Dyad(task, None, language)``."""
        array, key = ARRAYS[need], self._key(ARRAYS[need], place)
        # Only what costs a pass through an encoder is worth a file.
        make = self._kept if isinstance(array.reads, int) and array.reads else _made
        new = key not in self._memo
        found: Parts = self.remember(key, partial(make, key, self, array, place))
        self._memo.move_to_end(key)
        if new:  # only the latest arrays stay in memory
            held = {key: one.size for key, one in self._memo.items() if isinstance(one, Parts)}
            for oldest in list(held)[:-1]:
                if sum(held.values()) > HELD:
                    del self._memo[oldest], held[oldest]
        return found

    def key(self, need: str, dyad: Dyad) -> str:
        """Hash of what determines an array; errors as for ``get``, without making it."""
        return self._key(ARRAYS[need], ARRAYS[need].at(dyad))

    def _key(self, array: Array, at: Dyad) -> str:
        facts = [FACTS[name](self, at) for name in array.of]
        content = repr((VERSION, array.name, self.options, self.precision, facts))
        return hashlib.sha256(content.encode()).hexdigest()

    def remember(self, key: Any, make: Callable[[], Any]) -> Any:
        """Make something once, and raise again what its making raised."""
        if key not in self._memo:
            try:
                self._memo[key] = make()
            except (Undefined, BadRows, MissingData) as error:
                absent = isinstance(error, MissingData)
                self._memo[key] = Undefined(str(error)) if absent else error
        if isinstance(self._memo[key], HelpfulError):
            raise self._memo[key]
        return self._memo[key]

    def cost(self, wanted: set[tuple[str, Dyad]]) -> int:
        """Estimate the texts that some arrays send through an encoder, those in files left out."""
        readings: dict[Any, int] = {}
        for need, dyad in wanted:
            array, at = ARRAYS[need], ARRAYS[need].at(dyad)
            # What is read is the array at the bottom, unless a file has it.
            while isinstance(array.reads, str):
                array = ARRAYS[array.reads]
            passes, key = array.reads, self._key(array, at)
            if not passes or self._kept.check_call_in_cache(key, self, array, at):
                continue
            share, count = 1, self.options.sentences  # as two encoders or languages are compared
            if not array.name.startswith(("common", "parallel")):
                sample = self.sample(at.of("target") if at.target else at)
                most = self.options.gradient_rows if passes > 2 else self.options.rows
                # Words and pieces are many a row, so fewer rows are read for their labels.
                kind = sample.task.format if "features" in array.name else ""
                if kind == "retrieval":  # it has no labels
                    continue
                share = readers.UNITS_PER_ROW if kind in ("tagging", "span") else 1
                count = min(len(sample.rows), most // share)
            # Features of rows and embeddings are of one reading, and so have one entry.
            reading = passes, share, repr([FACTS[name](self, at) for name in array.of])
            readings[reading] = passes * count
        return sum(readings.values())

    # --- Rows -------------------------------------------------------------------------------------
    def task(self, one: Dyad) -> Task:
        """Return a task of the study."""
        return self.tasks[one.intermediate.task]

    def sample(self, one: Dyad) -> Sample:
        """Return the sampled rows of a task."""
        (name, seed), _, language = one
        make = partial(readers.sample, self.tasks[name], self.options.rows, seed, language)
        return self.remember(("sample", one), make)

    def samples(self, seed: int) -> dict[Dyad, Sample]:
        """Return the samples of all tasks of the study that have English rows."""
        found = {}
        for one in (Dyad(Side(name, seed)) for name in self.tasks):
            with contextlib.suppress(Undefined):
                found[one] = self.sample(one)
        if not found:
            raise Undefined("no task of the study has English rows here.")
        return found

    def full(self) -> bool:
        """Return whether a task had as many rows as were asked for, so that it may have more."""
        samples = [found for found in self._memo.values() if isinstance(found, Sample)]
        return any(len(sample.rows) >= self.options.rows for sample in samples)

    def learnt(self, one: Dyad) -> Sample:
        """Return the English rows of a task that has labels."""
        sample = self.sample(Dyad(one.intermediate))
        if sample.task.format == "retrieval":
            raise Undefined(f"{sample.task.name} is a retrieval task: it has no labels to learn.")
        return sample

    def view(self, one: Dyad) -> View:
        """Return the labelled units of a task's sample."""
        limits = self.options.max_length, self.options.rows
        make = partial(readers.label_view, self.sample(one), self.encoder, *limits)
        return self.remember(("view", one), make)

    def pairs(self, at: Dyad) -> tuple[list[str], list[str]]:
        """Return English sentences and their translations."""
        facts = at.language, self.options.sentences, at.intermediate.seed
        make = partial(readers.parallel, self.given("parallel"), *facts)
        return self.remember(("pairs", *facts), make)

    def given(self, name: str) -> Any:
        """Return what a caller may leave out; Undefined where it was."""
        if getattr(self, name) is None:
            raise Undefined(f"no {name} was given; pass {name}=, see similarity.measure.")
        return getattr(self, name)

    # --- Encoders ---------------------------------------------------------------------------------
    def checkpoint(self, one: Dyad) -> Checkpoint:
        """Return where the tuned encoder of a task and seed comes from; nothing is loaded."""
        task, seed = self.task(one), one.intermediate.seed
        name = task.train_with or task.name
        make = partial(readers.resolve, self.checkpoints, name, seed)
        return self.remember(("checkpoint", name, seed), make)

    def tuned(self, one: Dyad) -> tuple[Tuned, Reader]:
        """Return the tuned encoder of a task and seed; the last two are held."""
        side = one.intermediate
        if side not in self._tuned:
            # Jobs are sorted such that two suffice; the older one makes room on the device.
            tuned = self.checkpoint(one).load()
            if len(self._tuned) >= 2:
                _, (old, _) = self._tuned.popitem(last=False)
                old.encoder.model.cpu()  # type: ignore[misc]
            self._tuned[side] = tuned, Reader(tuned.encoder, self.precision)
        self._tuned.move_to_end(side)
        return self._tuned[side]


def _made(key: str, inputs: Inputs, array: Array, at: Dyad) -> Parts:
    """Make an array and note the seconds that it took, those of other arrays left out."""
    outer, inputs._inner, start = inputs._inner, 0.0, time.perf_counter()
    made = array.make(inputs, at)
    wall = time.perf_counter() - start
    parts = replace(made, seconds=made.seconds + wall - inputs._inner)
    inputs._inner = outer + wall
    return parts


def _task(g: Inputs, at: Dyad) -> Any:
    task = g.task(at)
    return task.name, task.format, task.labels, task.train_with


def _plain(g: Inputs, at: Dyad) -> Any:
    kept = None if g.encoder.kept is None else len(g.encoder.kept)
    return g.encoder.sha256, g.encoder.layers, kept


# What determines an array.
FACTS: dict[str, Callable[[Inputs, Dyad], Any]] = {
    "task": _task,
    "rows": lambda g, at: g.sample(at).key,
    "learnt": lambda g, at: g.learnt(at).key,
    "target rows": lambda g, at: g.sample(at.of("target")).key,
    # The same for targets that learn from the same rows of one task.
    "learner": lambda g, at: (s := g.sample(at.of("target"))).key + s.task.name,
    "plain": _plain,
    "tuned": lambda g, at: (g.checkpoint(at).key, _plain(g, at)),
    "sentences": lambda g, at: g.given("sentence_encoder").sha256,
    "head": lambda g, at: type(g.given("language_head")).__name__,
    "early": lambda g, at: code_of(g.given("early")),
    "study": lambda g, at: [s.key for s in g.samples(at.intermediate.seed).values()],
    # One set for all seeds: encoders are compared on the same inputs.
    "common": lambda g, at: [s.key for s in g.samples(0).values()],
    "pairs": lambda g, at: g.pairs(at),
}
