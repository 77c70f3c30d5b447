"""Get every array that a measure can ask for, once per checkpoint and task.

A provider says what determines an array and how to make it (``shelf.Wanted``); nothing is made
before a measure needs it. Each is described in ``catalogue.NEEDS``.
"""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from helpers import formats, tasks
from helpers.errors import BadRows, HelpfulError, MissingData
from helpers.formats.tokenise import piece_ids
from helpers.similarity import checkpoints as points
from helpers.similarity import gradients
from helpers.similarity.arrays import Floats
from helpers.similarity.catalogue import AXES, NEEDS, Undefined, _code
from helpers.similarity.features import knn_probe, linear_probe
from helpers.similarity.format import segments
from helpers.similarity.representations import leading_axes
from helpers.similarity.samples import Sample, halves, parallel, sample, subset
from helpers.similarity.shelf import Cache, Parts, Wanted
from helpers.similarity.text import piece_counts, whitening
from helpers.similarity.views import Reader, View, encode, label_view, row_means, take
from helpers.similarity.weights import embedding_map

if TYPE_CHECKING:
    from torch import nn

    from helpers.models.encoders import Encoder
    from helpers.models.training import Tuned
    from helpers.tasks import Task

__all__ = ["Dyad", "Gatherer", "Options", "Side"]


@dataclass(frozen=True)
class Options:
    """How much is read for each measure.

    Attributes:
        rows: rows sampled per task.
        units: labelled units per task.
        max_length: longest input in pieces.
        common_rows: sentences on which two encoders are compared.
        parallel_rows: sentence pairs per language.
        gradient_rows: rows per task for gradients.
        heads: heads fitted per task for the gradient cosine.
        shuffle_labels: control: permute the labels of each task's units.
    """

    rows: int = 2000
    units: int = 2000
    max_length: int = 128
    common_rows: int = 1000
    parallel_rows: int = 1000
    gradient_rows: int = 200
    heads: int = 5
    shuffle_labels: bool = False

    @classmethod
    def sized(cls, rows: int, shuffle_labels: bool = False) -> Options:
        """Return options that read so many rows a task, and no more for anything else."""
        whole = cls()
        return cls(
            rows=rows,
            units=rows,
            common_rows=min(whole.common_rows, rows),
            parallel_rows=min(whole.parallel_rows, rows),
            gradient_rows=min(whole.gradient_rows, rows),
            shuffle_labels=shuffle_labels,
        )


@dataclass(frozen=True)
class Side:
    """A task and the seed of its sample and of its checkpoint."""

    task: str
    seed: int


@dataclass(frozen=True)
class Dyad:
    """What one value is about; the target is None for a measure of an intermediate and a language."""

    intermediate: Side
    target: Side | None
    language: str = "en"


class Gatherer:
    """Gathers arrays for the dyads of one study."""

    def __init__(
        self,
        encoder: Encoder,
        study: Sequence[Task],
        *,
        checkpoints: points.Source = None,
        options: Options | None = None,
        folder: Path,
        parallel_task: Task | None = None,
        sentence_encoder: Encoder | None = None,
        language_head: nn.Module | None = None,
        early: Callable[[Tuned, Task, int], float] | None = None,
    ) -> None:
        """Set up a study; arguments as for ``helpers.similarity.measure``."""
        self.encoder, self.options = encoder, options or Options()
        self.tasks = {task.name: task for task in study}
        self.checkpoints = checkpoints
        self.cache = Cache(folder)
        self.parallel_task, self.sentence_encoder = parallel_task, sentence_encoder
        self.language_head, self.early = language_head, early
        self._memo: dict[Any, Any] = {}
        self._tuned: OrderedDict[Side, tuple[Tuned, Reader]] = OrderedDict()

    def wanted(self, need: str, dyad: Dyad) -> Wanted:
        """Return what determines an array, and how to make it.

        Raises:
            Undefined: there is no such array for this dyad; the text says why.
        """
        side, _, thing = need.partition(".")
        if side == "intermediate":
            return _OF_TASK[thing](self, dyad.intermediate, "en")
        if side == "target":
            return _OF_TASK[thing](self, self.target(dyad), dyad.language)
        return _OF_DYAD[need](self, dyad)

    def get(self, need: str, dyad: Dyad) -> Parts:
        """Return an array with its halves; arguments and errors as for ``wanted``."""
        return self.cache.get(self.wanted(need, dyad))

    def target(self, dyad: Dyad) -> Side:
        """Return the target of a dyad.

        Raises:
            Undefined: it has none.
        """
        if dyad.target is None:
            raise Undefined("this measure needs a target, and none was given.")
        return dyad.target

    def remember(self, key: Any, make: Callable[[], Any]) -> Any:
        """Make something once, and raise again what its making raised."""
        if key not in self._memo:
            try:
                self._memo[key] = make()
            except (Undefined, MissingData) as error:
                self._memo[key] = error
        found = self._memo[key]
        if isinstance(found, Undefined):
            raise found
        if isinstance(found, MissingData):
            raise Undefined(str(found)) from found
        return found

    def sample(self, side: Side, language: str = "en") -> Sample:
        """Return the sampled rows of a task."""
        task, rows = self.tasks[side.task], self.options.rows
        key = ("sample", side, language)
        return self.remember(key, lambda: sample(task, rows, side.seed, language))

    def view(self, side: Side, language: str = "en") -> View:
        """Return the labelled units of a task's sample."""
        rows = self.sample(side, language)
        limits = (self.options.max_length, self.options.units)
        key = ("view", side, language)
        return self.remember(key, lambda: label_view(rows, self.encoder, *limits))

    @property
    def plain(self) -> Reader:
        """Return the reader of the plain encoder."""
        return self.remember("plain", lambda: Reader(self.encoder))

    def checkpoint(self, side: Side) -> points.Checkpoint:
        """Return where the tuned encoder of a task and seed comes from; nothing is loaded."""
        task = self.tasks[side.task]
        name = task.train_with or task.name
        key = ("checkpoint", name, side.seed)
        return self.remember(key, lambda: points.resolve(self.checkpoints, name, side.seed))

    def tuned(self, side: Side) -> tuple[Tuned, Reader]:
        """Return the tuned encoder of a task and seed; the last two are held."""
        if side not in self._tuned:
            tuned = self.checkpoint(side).load()
            if len(self._tuned) >= 2:
                _, (old, _) = self._tuned.popitem(last=False)
                old.encoder.model.cpu()  # type: ignore[misc]
            self._tuned[side] = tuned, Reader(tuned.encoder)
        self._tuned.move_to_end(side)
        return self._tuned[side]

    def encoder_facts(self) -> tuple[Any, ...]:
        """Return what determines the plain encoder's states."""
        kept = None if self.encoder.kept is None else len(self.encoder.kept)
        return self.encoder.sha256, self.encoder.layers, kept, self.options.max_length


def _timed(make: Callable[[], Parts], passes: int) -> Parts:
    start = time.perf_counter()
    parts = make()
    return replace(parts, passes=passes, seconds=time.perf_counter() - start)


def _each_part(value: Callable[[str], Any]) -> Parts:
    """Return what a function makes of all rows, and of each half."""
    whole, first, second = (value(part) for part in ("all", "a", "b"))
    return Parts(whole, halves=(first, second))


# Arrays of one task.


def _facts(g: Gatherer, side: Side, language: str) -> Wanted:
    task = g.tasks[side.task]
    return Wanted("facts", (task.name, task.format), lambda: Parts(task), keep=False)


def _texts(g: Gatherer, side: Side, language: str) -> Wanted:
    rows = g.sample(side, language)
    places = np.arange(len(rows.rows))
    make = lambda: Parts(rows.texts, places, rows.half)  # noqa: E731
    return Wanted("texts", (rows.key,), make, keep=False)


def _segments(g: Gatherer, side: Side, language: str) -> Wanted:
    rows = g.sample(side, language)
    two = any(row.get("second") for row in rows.rows)
    count = segments(rows.task, two)
    return Wanted("segments", (count,), lambda: Parts(count), keep=False)


def _pieces(g: Gatherer, side: Side, language: str) -> Wanted:
    rows = g.sample(side, language)

    def make() -> Parts:
        ids = piece_ids(g.encoder.tokenizer, rows.texts)
        lengths = [len(pieces) for pieces in ids]
        flat = np.fromiter((i for pieces in ids for i in pieces), np.int64, sum(lengths))
        return Parts(flat, np.repeat(np.arange(len(ids)), lengths), rows.half)

    return Wanted("pieces", (rows.key, g.encoder.sha256), make)


def _counts(g: Gatherer, side: Side, language: str) -> Wanted:
    source = _pieces(g, side, language)
    size = len(g.encoder.tokenizer)

    def make() -> Parts:
        pieces = g.cache.get(source)
        return _each_part(lambda part: piece_counts(pieces.get(part), size))

    return Wanted("counts", (source.key, size), make, keep=False)


def _states(g: Gatherer, side: Side, language: str) -> Wanted:
    """State of each sequence; embeddings, and features of texts, are made of it."""
    rows = g.sample(side, language)
    facts = (rows.key, *g.encoder_facts())
    return Wanted("states", facts, lambda: _read(g, rows, g.encoder, lambda: g.plain))


def _read(g: Gatherer, rows: Sample, encoder: Encoder, reader: Callable[[], Reader]) -> Parts:
    encoded = encode(rows, encoder, g.options.max_length)
    make = lambda: Parts(reader().sequences(encoded), encoded.example, rows.half)  # noqa: E731
    return _timed(make, len(encoded))


def _per_row(kind: str, states: Wanted, g: Gatherer, rows: Sample) -> Wanted:
    """Mean over the sequences of each row."""

    def make() -> Parts:
        found = g.cache.get(states)
        means = row_means(found.values, np.asarray(found.rows), len(rows.rows))
        whole = Parts(means, np.arange(len(means)), rows.half)
        return replace(whole, passes=found.passes, seconds=found.seconds)

    return Wanted(kind, (states.key,), make, keep=False)


def _embeddings(g: Gatherer, side: Side, language: str) -> Wanted:
    return _per_row("embeddings", _states(g, side, language), g, g.sample(side, language))


def _sentences(g: Gatherer, side: Side, language: str) -> Wanted:
    rows, encoder = g.sample(side, language), g.sentence_encoder
    if encoder is None:
        raise Undefined("no sentence encoder was given; pass sentence_encoder=.")
    reader = lambda: g.remember("sentences", lambda: Reader(encoder))  # noqa: E731
    facts = (rows.key, encoder.sha256, g.options.max_length)
    states = Wanted("sentences", facts, lambda: _read(g, rows, encoder, reader))
    return _per_row("sentence rows", states, g, rows)


def _features(g: Gatherer, side: Side, language: str) -> Wanted:
    view, rows = g.view(side, language), g.sample(side, language)
    facts = (rows.key, *g.encoder_facts(), g.options.units)
    if not view.by_token:
        states = _states(g, side, language)

        def choose() -> Parts:
            found = g.cache.get(states)
            whole = Parts(found.values[view.units], view.rows, rows.half)
            return replace(whole, passes=found.passes, seconds=found.seconds)

        return Wanted("features", facts, choose, keep=False)

    def make() -> Parts:
        return Parts(g.plain.units(view), view.rows, rows.half)

    return Wanted("features", facts, lambda: _timed(make, len(view.encoded)))


def _labels(g: Gatherer, side: Side, language: str) -> Wanted:
    view, rows = g.view(side, language), g.sample(side, language)
    note = f"{view.dropped} rare classes left out" if view.dropped else ""
    labels, shuffled = view.labels, g.options.shuffle_labels
    if shuffled:
        labels = np.random.default_rng([side.seed, 9]).permutation(labels)
    facts = (rows.key, g.encoder.sha256, g.options.max_length, g.options.units, shuffled)
    make = lambda: Parts(labels, view.rows, rows.half, note=note)  # noqa: E731
    return Wanted("labels", facts, make, keep=False)


def _plain_probe(
    score: Callable[[Any, Any], float], g: Gatherer, side: Side, language: str
) -> Wanted:
    """Score of the plain features, which all intermediates of a target are compared with."""
    features, labels = _features(g, side, language), _labels(g, side, language)

    def make() -> Parts:
        inputs = g.cache.get(features), g.cache.get(labels)
        return _each_part(
            lambda part: np.float64(_or_nan(score, *(parts.get(part) for parts in inputs)))
        )

    return Wanted(score.__name__, (features.key, labels.key, _code(score)), make)


def _or_nan(score: Callable[[Any, Any], float], *arrays: Any) -> float:
    """A half may lack a class; the measure that needs its score then has none for that half."""
    try:
        return score(*arrays)
    except BadRows:
        return float("nan")


def _label_names(g: Gatherer, side: Side, language: str) -> Wanted:
    names = _readable(g.sample(side, language).task)
    facts = (tuple(names), *g.encoder_facts())

    def make() -> Parts:
        return Parts(g.plain.texts(names, g.options.max_length))

    return Wanted("label names", facts, lambda: _timed(make, len(names)))


def _readable(task: Task) -> list[str]:
    """Label names as words: ``B-start_hours`` and ``I-start_hours`` become ``start hours``."""
    if task.format == "choice":
        raise Undefined(f"the labels of {task.name} are places of choices, not names.")
    found = []
    for label in task.labels:
        bare = label[2:] if label[:2] in ("B-", "I-") else label
        words = "".join(f" {c}" if c.isupper() else c for c in bare.replace("_", " "))
        found.append(" ".join(words.split()).lower() if not bare.isupper() else bare.lower())
    named = [name for name in dict.fromkeys(found) if any(c.isalpha() for c in name)]
    if len(named) < 2:
        raise Undefined(f"{task.name} has no label names.")
    return named


def _probe(g: Gatherer, side: Side, encoder: Encoder, pooling: str = "mean") -> gradients.Probe:
    """Rows of a task for gradients through an encoder."""
    rows = g.sample(side)
    if rows.task.format == "retrieval":
        raise Undefined(f"{rows.task.name} is a retrieval task: it has no labels to learn from.")
    encoded = encode(rows, encoder, g.options.max_length, answers=True)
    present = subset(np.unique(encoded.example), g.options.gradient_rows, side.seed)
    chosen = np.flatnonzero(np.isin(encoded.example, present))
    format_ = formats.get(rows.task.format)
    return gradients.Probe(encoder, rows.task, format_, take(encoded, chosen), pooling)


def _gradient_facts(g: Gatherer, side: Side) -> tuple[Any, ...]:
    rows = g.sample(side)
    if rows.task.format == "retrieval":
        raise Undefined(f"{rows.task.name} is a retrieval task: it has no labels to learn from.")
    return (rows.key, *g.encoder_facts(), g.options.gradient_rows)


def _fisher(g: Gatherer, side: Side, language: str) -> Wanted:
    facts = (*_gradient_facts(g, side), g.checkpoint(side).key)

    def make() -> Parts:
        tuned, _ = g.tuned(side)
        probe = _probe(g, side, tuned.encoder, tuned.settings.pooling)
        head = tuned.heads.get(probe.task.name) or gradients.fit_head(probe, side.seed)
        return _fisher_parts(g, side, probe, head, sampled=False, by_filter=False)

    return Wanted("fisher", facts, make)


def _fisher_parts(
    g: Gatherer, side: Side, probe: gradients.Probe, head: nn.Module, sampled: bool, by_filter: bool
) -> Parts:
    start = time.perf_counter()
    half = g.sample(side).half
    found, rows = gradients.fisher(probe, head, half, sampled, by_filter, side.seed)
    seconds = time.perf_counter() - start
    parts: dict[str, Any] = dict(found)
    if by_filter:
        parts = {part: np.concatenate(list(values.values())) for part, values in found.items()}
    whole = Parts(parts["all"], halves=(parts["a"], parts["b"]), entries=rows)
    return replace(whole, passes=2 * rows, seconds=seconds)


def _probe_fisher(g: Gatherer, side: Side, language: str) -> Wanted:
    def make() -> Parts:
        probe = _probe(g, side, g.encoder)
        head = gradients.fit_head(probe, side.seed)
        return _fisher_parts(g, side, probe, head, sampled=True, by_filter=True)

    return Wanted("probe fisher", _gradient_facts(g, side), make)


def _gradient(g: Gatherer, side: Side, language: str) -> Wanted:
    heads = g.options.heads

    def make() -> Parts:
        probe = _probe(g, side, g.encoder)
        fitted = [gradients.fit_head(probe, 1000 * side.seed + k) for k in range(heads)]
        found = gradients.mean_gradient(probe, fitted, g.sample(side).half)
        entries = len(np.unique(probe.encoded.example))
        return Parts(found["all"], halves=(found["a"], found["b"]), entries=entries)

    passes = 2 * heads * g.options.gradient_rows
    return Wanted("gradient", (*_gradient_facts(g, side), heads), lambda: _timed(make, passes))


def _weights(g: Gatherer, side: Side, language: str) -> Wanted:
    key = g.checkpoint(side).key
    make = lambda: Parts(_arrays(g.tuned(side)[0].encoder))  # noqa: E731
    return Wanted("weights", (key,), make, keep=False)


def _arrays(encoder: Encoder) -> dict[str, Any]:
    named = gradients.parameters(encoder)
    return {name: p.detach().cpu().numpy() for name, p in named.items()}


_OF_TASK: Mapping[str, Callable[[Gatherer, Side, str], Wanted]] = {
    "facts": _facts,
    "texts": _texts,
    "segments": _segments,
    "pieces": _pieces,
    "counts": _counts,
    "embeddings": _embeddings,
    "sentences": _sentences,
    "features": _features,
    "labels": _labels,
    "knn_probe": partial(_plain_probe, knn_probe),
    "linear_probe": partial(_plain_probe, linear_probe),
    "label_names": _label_names,
    "fisher": _fisher,
    "probe_fisher": _probe_fisher,
    "gradient": _gradient,
    "weights": _weights,
}


# Arrays of an intermediate's encoder on the rows of a target.


def _tuned_features(g: Gatherer, dyad: Dyad) -> Wanted:
    target = g.target(dyad)
    view, rows = g.view(target, dyad.language), g.sample(target, dyad.language)
    key = g.checkpoint(dyad.intermediate).key
    facts = (rows.key, key, g.options.max_length, g.options.units)

    def make() -> Parts:
        return Parts(g.tuned(dyad.intermediate)[1].units(view), view.rows, rows.half)

    return Wanted("tuned features", facts, lambda: _timed(make, len(view.encoded)))


def _tuned_probabilities(g: Gatherer, dyad: Dyad) -> Wanted:
    target, name = g.target(dyad), dyad.intermediate.task
    source = g.tasks[name].format
    view, rows = g.view(target, dyad.language), g.sample(target, dyad.language)
    if source not in ("pair", "tagging") or (source == "tagging") != view.by_token:
        raise Undefined(
            f"the head of {name} ({source}) gives no class probabilities for the units of "
            f"{target.task} ({g.tasks[target.task].format})."
        )
    key = g.checkpoint(dyad.intermediate).key
    facts = (rows.key, key, g.options.max_length, g.options.units)

    features = _tuned_features(g, dyad)

    def make() -> Parts:
        return Parts(_soft_labels(g, dyad.intermediate, view, features), view.rows, rows.half)

    return Wanted("tuned probabilities", facts, lambda: _timed(make, len(view.encoded)))


def _soft_labels(g: Gatherer, side: Side, view: View, features: Wanted) -> Any:
    import torch

    tuned, reader = g.tuned(side)
    trained = g.tasks[side.task].train_with or side.task
    if trained not in tuned.heads:
        raise Undefined(f"the checkpoint of {trained} was kept without its head.")
    # The features are the head's own input, unless it was trained on the first token.
    own = view.by_token or tuned.settings.pooling == "mean"
    states = g.cache.get(features).values if own else reader.units(view, tuned.settings.pooling)
    head = tuned.heads[trained].cpu().eval()
    with torch.no_grad():
        return head(torch.from_numpy(states)).softmax(dim=-1).numpy()


def _tuned_own(g: Gatherer, dyad: Dyad) -> Wanted:
    side = dyad.intermediate
    rows, key = g.sample(side), g.checkpoint(side).key
    reader = lambda: g.tuned(side)[1]  # noqa: E731

    def make() -> Parts:
        return _read(g, rows, g.encoder, reader)

    states = Wanted("tuned own", (rows.key, key, g.options.max_length), make)
    return _per_row("tuned own rows", states, g, rows)


def _tuned_map(g: Gatherer, dyad: Dyad) -> Wanted:
    plain, tuned = _embeddings(g, dyad.intermediate, "en"), _tuned_own(g, dyad)

    def make() -> Parts:
        before, after = g.cache.get(plain), g.cache.get(tuned)
        made = _each_part(lambda part: embedding_map(before.get(part), after.get(part)))
        passes, seconds = before.passes + after.passes, before.seconds + after.seconds
        return replace(made, passes=passes, seconds=seconds)

    return Wanted("tuned map", (plain.key, tuned.key), make, keep=False)


def _common(g: Gatherer, side: Side) -> Wanted:
    texts, digest = g.remember("common", lambda: _common_texts(g))
    key = g.checkpoint(side).key

    def make() -> Parts:
        states = g.tuned(side)[1].texts(texts, g.options.max_length)
        # The halves must be the same for both encoders, whatever the seeds of their checkpoints.
        return Parts(states, np.arange(len(texts)), halves(len(texts), 0))

    facts = (digest, key, g.options.max_length)
    return Wanted("common", facts, lambda: _timed(make, len(texts)))


def _common_axes(g: Gatherer, side: Side) -> Wanted:
    common = _common(g, side)

    def make() -> Parts:
        found = g.cache.get(common)
        cut = _timed(
            lambda: _each_part(lambda part: leading_axes(found.get(part), AXES)), found.passes
        )
        return replace(cut, entries=len(found.values), seconds=found.seconds + cut.seconds)

    return Wanted("common axes", (common.key, AXES), make, keep=False)


def _common_texts(g: Gatherer) -> tuple[list[str], str]:
    """English texts drawn evenly from the tasks of the study: the inputs on which encoders differ."""
    # One set for all seeds: two encoders are only comparable on the same inputs.
    pools = [s.texts for s in _samples(g, 0)]
    share = -(-g.options.common_rows // len(pools))
    random = np.random.default_rng(8)
    texts = [
        pool[place] for pool in pools for place in sorted(random.permutation(len(pool))[:share])
    ]
    texts = list(dict.fromkeys(texts))[: g.options.common_rows]
    return texts, hashlib.sha256(repr(texts).encode()).hexdigest()


def _samples(g: Gatherer, seed: int) -> list[Sample]:
    """Samples of all tasks of the study that have English rows."""
    found = []
    for name in g.tasks:
        try:
            found.append(g.sample(Side(name, seed)))
        except Undefined:
            continue
    if not found:
        raise Undefined("no task of the study has English rows here.")
    return found


# Arrays of the whole study.


def _defined(g: Gatherer, provider: Callable[..., Wanted], seed: int) -> list[Wanted]:
    """One array per task of the study that has it."""
    found = []
    for name in g.tasks:
        try:
            found.append(provider(g, Side(name, seed), "en"))
        except Undefined:
            continue
    return found


def _centre(provider: Callable[..., Wanted], kind: str, g: Gatherer, dyad: Dyad) -> Wanted:
    each = _defined(g, provider, dyad.intermediate.seed)
    if len(each) < 3:
        raise Undefined(f"{len(each)} tasks of the study have English rows; centring needs three.")

    def make() -> Parts:
        return _each_part(
            lambda part: np.mean([g.cache.get(w).get(part).mean(axis=0) for w in each], axis=0)
        )

    return Wanted(kind, tuple(w.key for w in each), make, keep=False)


def _study_centre(g: Gatherer, dyad: Dyad) -> Wanted:
    return _centre(_embeddings, "centre", g, dyad)


def _sentence_centre(g: Gatherer, dyad: Dyad) -> Wanted:
    return _centre(_sentences, "sentence centre", g, dyad)


def _whitening(g: Gatherer, dyad: Dyad) -> Wanted:
    each = _defined(g, _embeddings, dyad.intermediate.seed)

    def make() -> Parts:
        return _each_part(
            lambda part: whitening(
                np.mean([_spread(g.cache.get(w).get(part)) for w in each], axis=0)
            )
        )

    return Wanted("whitening", tuple(w.key for w in each), make, keep=False)


def _spread(values: Any) -> Floats:
    centred = np.asarray(values, dtype=np.float64)
    centred = centred - centred.mean(axis=0)
    return centred.T @ centred / len(centred)


def _texts_with(g: Gatherer, dyad: Dyad) -> Wanted:
    each = _defined(g, _pieces, dyad.intermediate.seed)
    size = len(g.encoder.tokenizer)

    def make() -> Parts:
        totals = {part: np.zeros(size, dtype=np.int64) for part in ("all", "a", "b")}
        for wanted in each:
            parts = g.cache.get(wanted)
            rows = np.asarray(parts.rows, dtype=np.int64)
            row, piece = np.divmod(np.unique(rows * size + parts.values), size)
            in_second = np.asarray(parts.second)[row]
            totals["all"] += np.bincount(piece, minlength=size)
            totals["a"] += np.bincount(piece[~in_second], minlength=size)
            totals["b"] += np.bincount(piece[in_second], minlength=size)
        return Parts(totals["all"], halves=(totals["a"], totals["b"]))

    return Wanted("texts with", (size, *(w.key for w in each)), make, keep=False)


def _text_count(g: Gatherer, dyad: Dyad) -> Wanted:
    each = _samples(g, dyad.intermediate.seed)
    second = sum(int(s.half.sum()) for s in each)
    total = sum(len(s.rows) for s in each)
    make = lambda: Parts(total, halves=(total - second, second))  # noqa: E731
    return Wanted("text count", (total, second), make, keep=False)


# Losses, languages, partial outcomes.


def _losses(g: Gatherer, texts: list[str], second: Any, reader: Callable[[], Reader]) -> Parts:
    """Masked-language loss of each text that has a hidden piece."""
    from helpers.formats.masked import Masked
    from helpers.models.network import Network
    from helpers.predicting import outputs
    from helpers.tasks import Source, Task

    task = Task("text", "target", "retrieval", Source("rows", "text"), max_length=512)
    rows = [{"id": str(place), "text": line} for place, line in enumerate(texts)]
    encoded = Masked().encode(task, rows, g.encoder, g.options.max_length, False)
    encoded.tokens = g.encoder.remap(encoded.tokens).astype(np.int32)
    used = reader()
    assert g.language_head is not None
    network = Network(
        used.network.model, {"text": g.language_head.to(used.device)}, {"text": Masked()}
    )
    raw = outputs(network, "text", encoded, budget=used.budget, device=used.device)
    hidden = np.add.reduceat(encoded.per_token["target"] >= 0, encoded.starts[:-1])
    loss = -np.asarray(Masked().decode(task, rows, encoded, raw))
    kept = np.flatnonzero(hidden > 0)
    return Parts(loss[kept], kept, second)


def _need_language_head(g: Gatherer) -> None:
    if g.language_head is None:
        raise Undefined(
            f"no masked-language head was given for encoder {g.encoder.name!r}; where it has one, "
            "pass language_head=helpers.similarity.heads.language_head(encoder)."
        )


def _target_losses(tuned: bool, g: Gatherer, dyad: Dyad) -> Wanted:
    _need_language_head(g)
    rows = g.sample(g.target(dyad), dyad.language)
    key = g.checkpoint(dyad.intermediate).key if tuned else "plain"
    reader = (lambda: g.tuned(dyad.intermediate)[1]) if tuned else (lambda: g.plain)
    make = lambda: _losses(g, rows.texts, rows.half, reader)  # noqa: E731
    facts = (rows.key, key, *g.encoder_facts())
    return Wanted("losses", facts, lambda: _timed(make, len(rows.rows)))


def _pairs(g: Gatherer, dyad: Dyad) -> tuple[list[str], list[str], str]:
    if g.parallel_task is None:
        raise Undefined(
            "no parallel text was given; pass parallel= with the name of a bitext task."
        )
    task, rows, seed = g.parallel_task, g.options.parallel_rows, dyad.intermediate.seed
    key = ("parallel", dyad.language, seed)
    return g.remember(key, lambda: parallel(task, dyad.language, rows, seed))


def _parallel(tuned: bool, g: Gatherer, dyad: Dyad) -> Wanted:
    english, other, digest = _pairs(g, dyad)
    key = g.checkpoint(dyad.intermediate).key if tuned else "plain"

    def make() -> Parts:
        reader = g.tuned(dyad.intermediate)[1] if tuned else g.plain
        states = np.stack([reader.texts(side, g.options.max_length) for side in (english, other)])
        rows = np.arange(len(english))
        return Parts(states, rows, halves(len(rows), dyad.intermediate.seed), axis=1)

    facts = (digest, key, *g.encoder_facts())
    return Wanted("parallel", facts, lambda: _timed(make, 2 * len(english)))


def _parallel_losses(tuned: bool, g: Gatherer, dyad: Dyad) -> Wanted:
    _need_language_head(g)
    _, other, digest = _pairs(g, dyad)
    key = g.checkpoint(dyad.intermediate).key if tuned else "plain"
    reader = (lambda: g.tuned(dyad.intermediate)[1]) if tuned else (lambda: g.plain)
    second = halves(len(other), dyad.intermediate.seed)
    make = lambda: _losses(g, other, second, reader)  # noqa: E731
    facts = (digest, key, *g.encoder_facts())
    return Wanted("parallel losses", facts, lambda: _timed(make, len(other)))


def _early(g: Gatherer, dyad: Dyad) -> Wanted:
    if g.early is None:
        raise Undefined(
            "no short run was given; pass early=helpers.similarity.early.Early() to train one per "
            "dyad."
        )
    early, target = g.early, g.target(dyad)
    task = g.tasks[target.task]
    if task.format == "retrieval":
        raise Undefined(f"{task.name} is a retrieval task: nothing is trained on it.")
    trainer = tasks.get(task.train_with) if task.train_with else task
    key = g.checkpoint(dyad.intermediate).key

    def make() -> Parts:
        score = early(g.tuned(dyad.intermediate)[0], trainer, target.seed)
        return Parts(np.float64(score))

    facts = (key, trainer.name, target.seed, getattr(early, "key", "") or _code(early))
    return Wanted("early score", facts, lambda: _timed(make, 0))


def _plain_weights(g: Gatherer, dyad: Dyad) -> Wanted:
    make = lambda: Parts(_arrays(g.encoder))  # noqa: E731
    return Wanted("plain weights", (g.encoder.sha256,), make, keep=False)


def _of(flag: bool, provider: Callable[[bool, Gatherer, Dyad], Wanted]) -> Any:
    return lambda g, dyad: provider(flag, g, dyad)


_OF_DYAD: Mapping[str, Callable[[Gatherer, Dyad], Wanted]] = {
    "tuned.features": _tuned_features,
    "tuned.probabilities": _tuned_probabilities,
    "tuned.own": _tuned_own,
    "tuned.map": _tuned_map,
    "tuned.losses": _of(True, _target_losses),
    "plain.losses": _of(False, _target_losses),
    "plain.weights": _plain_weights,
    "common.intermediate": lambda g, dyad: _common(g, dyad.intermediate),
    "common.target": lambda g, dyad: _common(g, g.target(dyad)),
    "common.intermediate_axes": lambda g, dyad: _common_axes(g, dyad.intermediate),
    "common.target_axes": lambda g, dyad: _common_axes(g, g.target(dyad)),
    "study.centre": _study_centre,
    "study.whitening": _whitening,
    "study.sentence_centre": _sentence_centre,
    "study.texts_with": _texts_with,
    "study.texts": _text_count,
    "early.score": _early,
    "parallel.tuned": _of(True, _parallel),
    "parallel.plain": _of(False, _parallel),
    "parallel.tuned_losses": _of(True, _parallel_losses),
    "parallel.plain_losses": _of(False, _parallel_losses),
}

_MISSING = (
    set(NEEDS)
    - set(_OF_DYAD)
    - {f"{side}.{thing}" for side in ("intermediate", "target") for thing in _OF_TASK}
)
if _MISSING:
    raise HelpfulError(f"no provider for {sorted(_MISSING)}")
