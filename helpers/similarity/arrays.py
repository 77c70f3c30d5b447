"""Every array that a measure can ask for: what it is, how it is made, and what noise stands in for it.

Each function makes one, for a dyad or for one task of it; its text is what readers are told.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from helpers import formats, tasks
from helpers.errors import BadRows
from helpers.formats.encoded import piece_ids
from helpers.similarity import gradients, readers
from helpers.similarity.catalogue import AXES, Undefined
from helpers.similarity.features import knn_probe, linear_probe
from helpers.similarity.inputs import (
    ARRAYS,
    Dyad,
    Inputs,
    Parts,
    Shape,
    Side,
    array,
    each_part,
    of_task,
)
from helpers.similarity.readers import Reader, Sample
from helpers.similarity.representations import Floats, leading_axes
from helpers.similarity.text import piece_counts, segments, whitening

if TYPE_CHECKING:
    from helpers.models.encoders import Encoder
    from helpers.tasks import Task

__all__ = ["ARRAYS", "readable_labels"]

# Noise: what stands in for an array where nothing is related. Pieces follow Zipf's law over a
# vocabulary of so many, so many to a text.
VOCABULARY, LENGTH = 5000, 20
_CHANCE = 1 / np.arange(1, VOCABULARY + 1) / (1 / np.arange(1, VOCABULARY + 1)).sum()


def _normal(random: np.random.Generator, shape: Shape) -> Any:
    return random.normal(size=(shape.rows, shape.columns))


def _zipf(random: np.random.Generator, shape: Shape) -> Any:
    return random.choice(VOCABULARY, LENGTH * shape.rows, p=_CHANCE)


def _words(random: np.random.Generator, shape: Shape) -> Any:
    rows = _zipf(random, shape).reshape(shape.rows, LENGTH)
    return [" ".join(f"w{piece}" for piece in row) for row in rows]


def _direction(random: np.random.Generator, shape: Shape) -> Any:
    vector = random.normal(size=50_000)
    return vector / np.linalg.norm(vector)


def _layers(random: np.random.Generator, shape: Shape) -> Any:
    return {f"layer.{place}": random.normal(size=(60, 60)) for place in range(12)}


def _exponential(random: np.random.Generator, shape: Shape) -> Any:
    return random.exponential(size=shape.rows)


def _couples(random: np.random.Generator, shape: Shape) -> Any:
    return random.normal(size=(2, shape.rows, shape.columns))


def _guess(random: np.random.Generator, shape: Shape) -> Any:
    return 1 / shape.classes  # a probe of noise guesses among balanced classes


def _nothing(random: np.random.Generator, shape: Shape) -> Any:
    # A centre drawn at random would be shared by both tasks and make them alike.
    return np.zeros(shape.columns)


# Arrays of one task.


@of_task("{}.facts", of="format")
def _facts(g: Inputs, one: Dyad) -> Parts:
    """The task, as a Task."""
    return Parts(g.tasks[one.intermediate.task])


@of_task("{}.texts", of="rows", noise=_words)
def _texts(g: Inputs, one: Dyad) -> Parts:
    """List of texts, one per sampled row."""
    sample = g.sample(one.intermediate, one.language)
    return Parts(sample.texts, np.arange(len(sample.rows)), sample.half)


@of_task("{}.segments", of="rows")
def _segments(g: Inputs, one: Dyad) -> Parts:
    """Number of texts encoded together for one decision."""
    sample = g.sample(one.intermediate, one.language)
    return Parts(segments(sample.task, any(row.get("second") for row in sample.rows)))


@of_task("{}.pieces", of="rows, encoder", noise=_zipf)
def _pieces(g: Inputs, one: Dyad) -> Parts:
    """Vocabulary ids of the texts, one after the other, no special ids."""
    sample = g.sample(one.intermediate, one.language)
    ids = piece_ids(g.encoder.tokenizer, sample.texts)
    lengths = [len(pieces) for pieces in ids]
    flat = np.fromiter((i for pieces in ids for i in pieces), np.int64, sum(lengths))
    return Parts(flat, np.repeat(np.arange(len(ids)), lengths), sample.half)


@of_task(
    "{}.counts",
    of="rows, encoder",
    noise=lambda random, shape: np.bincount(_zipf(random, shape), minlength=VOCABULARY),
)
def _counts(g: Inputs, one: Dyad) -> Parts:
    """How often each vocabulary id occurs, shape (vocabulary,)."""
    pieces, size = g.at("intermediate.pieces", one), len(g.encoder.tokenizer)
    return each_part(lambda part: piece_counts(pieces.get(part), size))


@of_task("{}.states", of="rows, encoder", passes=1)
def _states(g: Inputs, one: Dyad) -> Parts:
    """Plain encoder's mean state of each sequence, shape (sequences, D)."""
    sample = g.sample(one.intermediate, one.language)
    return _sequences(g, sample, g.encoder, g.reader(g.encoder))


def _sequences(g: Inputs, sample: Sample, encoder: Encoder, reader: Reader) -> Parts:
    encoded = readers.encode(sample, encoder, g.options.max_length)
    states = reader.sequences(encoded)
    return Parts(states, encoded.example, sample.half, passes=len(encoded))


def _per_row(found: Parts) -> Parts:
    """Mean over the sequences of each row."""
    means = readers.row_means(found.values, np.asarray(found.rows), len(found.second))
    return replace(found, values=means, rows=np.arange(len(means)))


@of_task("{}.embeddings", of="rows, encoder", noise=_normal, source="intermediate.states")
def _embeddings(g: Inputs, one: Dyad) -> Parts:
    """Plain encoder's mean state of each row, shape (rows, D)."""
    return _per_row(g.at("intermediate.states", one))


@of_task("{}.sentences", of="rows, sentence encoder", noise=_normal, passes=1)
def _sentences(g: Inputs, one: Dyad) -> Parts:
    """Mean state of each row by the sentence encoder, shape (rows, D)."""
    sample, encoder = g.sample(one.intermediate, one.language), g.sentence_encoder
    assert encoder is not None  # one of the array's facts
    return _per_row(_sequences(g, sample, encoder, g.reader(encoder)))


@of_task("{}.features", of="rows, encoder", noise=_normal, passes=1)
def _features(g: Inputs, one: Dyad) -> Parts:
    """Plain encoder's state of each labelled unit, shape (units, D)."""
    view, sample = g.view(one.intermediate, one.language), g.sample(one.intermediate, one.language)
    if view.by_token:
        states = g.reader(g.encoder).units(view)
        return Parts(states, view.rows, sample.half, passes=len(view.encoded))
    # The units are the sequences that the embeddings were made of.
    found = g.at("intermediate.states", one)
    return replace(found, values=found.values[view.units], rows=view.rows)


@of_task(
    "{}.labels",
    of="rows, encoder",
    noise=lambda random, shape: random.permutation(np.arange(shape.rows) % shape.classes),
)
def _labels(g: Inputs, one: Dyad) -> Parts:
    """Label of each unit, shape (units,)."""
    view, sample = g.view(one.intermediate, one.language), g.sample(one.intermediate, one.language)
    labels = view.labels
    if g.options.shuffle_labels:
        labels = np.random.default_rng([one.intermediate.seed, 9]).permutation(labels)
    note = f"{view.dropped} rare classes left out" if view.dropped else ""
    return Parts(labels, view.rows, sample.half, note=note)


@of_task("{}.knn_probe", of="rows, encoder", noise=_guess, source="intermediate.features")
def _knn_probe(g: Inputs, one: Dyad) -> Parts:
    """Accuracy of the nearest-neighbour probe on the plain features."""
    return _probed(knn_probe, g, one)


@of_task("{}.linear_probe", of="rows, encoder", noise=_guess, source="intermediate.features")
def _linear_probe(g: Inputs, one: Dyad) -> Parts:
    """Accuracy of the linear probe on the plain features."""
    return _probed(linear_probe, g, one)


def _probed(score: Callable[[Any, Any], float], g: Inputs, one: Dyad) -> Parts:
    features, labels = (g.at(f"intermediate.{name}", one) for name in ("features", "labels"))

    def value(part: str) -> Any:
        try:
            return np.float64(score(features.get(part), labels.get(part)))
        except BadRows:  # a half may lack a class; the measure then has no value for that half
            return np.float64("nan")

    return each_part(value)


@of_task(
    "{}.label_names",
    of="rows, encoder",
    noise=lambda random, shape: random.normal(size=(shape.classes, shape.columns)),
)
def _label_names(g: Inputs, one: Dyad) -> Parts:
    """Plain encoder's embedding of each label name, shape (C, D)."""
    names = readable_labels(g.sample(one.intermediate, one.language).task)
    return Parts(g.reader(g.encoder).texts(names, g.options.max_length), passes=len(names))


def readable_labels(task: Task) -> list[str]:
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


def _probe(g: Inputs, side: Side, encoder: Encoder, pooling: str = "mean") -> gradients.Probe:
    """Rows of a task for gradients through an encoder."""
    sample = g.sample(side)
    encoded = readers.encode(sample, encoder, g.options.max_length, answers=True)
    present = readers.subset(np.unique(encoded.example), g.options.gradient_rows, side.seed)
    chosen = np.flatnonzero(np.isin(encoded.example, present))
    format_ = formats.get(sample.task.format)
    return gradients.Probe(encoder, sample.task, format_, readers.take(encoded, chosen), pooling)


@of_task(
    "{}.fisher",
    of="learnt, checkpoint",
    noise=lambda random, shape: {"all": random.normal(size=50_000) ** 2},
    passes=3,
)
def _fisher(g: Inputs, one: Dyad) -> Parts:
    """Mean squared gradient per row at the tuned encoder, by component."""
    side, (tuned, _) = one.intermediate, g.tuned(one.intermediate)
    probe = _probe(g, side, tuned.encoder, tuned.settings.pooling)
    head = tuned.heads.get(probe.task.name) or gradients.fit_head(probe, side.seed)
    found, rows = gradients.fisher(probe, head, g.sample(side).half, seed=side.seed)
    return Parts(found["all"], halves=(found["a"], found["b"]), entries=rows, passes=2 * rows)


@of_task(
    "{}.probe_fisher",
    of="learnt, encoder",
    noise=lambda random, shape: random.normal(size=50_000) ** 2,
    passes=3,
)
def _probe_fisher(g: Inputs, one: Dyad) -> Parts:
    """Mean squared gradient per row at the plain encoder with a fitted head, by filter, (P,)."""
    side = one.intermediate
    probe = _probe(g, side, g.encoder)
    head, half = gradients.fit_head(probe, side.seed), g.sample(side).half
    found, rows = gradients.fisher(probe, head, half, sampled=True, by_filter=True, seed=side.seed)
    joined = {part: np.concatenate(list(values.values())) for part, values in found.items()}
    return Parts(joined["all"], halves=(joined["a"], joined["b"]), entries=rows, passes=2 * rows)


@of_task("{}.gradient", of="learnt, encoder", noise=_direction, passes=15)
def _gradient(g: Inputs, one: Dyad) -> Parts:
    """Unit gradient at the plain encoder, averaged over fitted heads, shape (P,)."""
    side, heads = one.intermediate, range(g.options.heads)
    probe = _probe(g, side, g.encoder)
    fitted = [gradients.fit_head(probe, 1000 * side.seed + k) for k in heads]
    found = gradients.mean_gradient(probe, fitted, g.sample(side).half)
    rows = len(np.unique(probe.encoded.example))
    passes = 2 * len(heads) * rows
    return Parts(found["all"], halves=(found["a"], found["b"]), entries=rows, passes=passes)


@of_task("{}.weights", of="checkpoint", noise=_layers)
def _weights(g: Inputs, one: Dyad) -> Parts:
    """Parameters of the tuned encoder, by component."""
    return _parameters(g.tuned(one.intermediate)[0].encoder)


def _parameters(encoder: Encoder) -> Parts:
    named = gradients.parameters(encoder)
    return Parts({name: p.detach().cpu().numpy() for name, p in named.items()})


@array(
    "plain.weights",
    of="encoder",
    noise=lambda random, shape: {n: 0 * w for n, w in _layers(random, shape).items()},
)
def _plain_weights(g: Inputs, dyad: Dyad) -> Parts:
    """Parameters of the plain encoder, by component."""
    return _parameters(g.encoder)


@of_task(
    "common.{}",
    of="common, checkpoint, encoder",
    noise=_normal,
    passes=1,
)
def _common(g: Inputs, one: Dyad) -> Parts:
    """Tuned encoder on sentences of all tasks of the study, shape (rows, D)."""
    texts = g.common_texts()
    states = g.tuned(one.intermediate)[1].texts(texts, g.options.max_length)
    # The halves must be the same for both encoders, whatever the seeds of their checkpoints.
    half = readers.halves(len(texts), 0)
    return Parts(states, np.arange(len(texts)), half, passes=len(texts))


@of_task(
    "common.{}_axes",
    of="common, checkpoint, encoder",
    noise=lambda random, shape: leading_axes(_normal(random, shape), AXES),
    source="common.intermediate",
)
def _common_axes(g: Inputs, one: Dyad) -> Parts:
    """The same on its leading principal axes."""
    found = g.at("common.intermediate", one)
    facts = {"entries": len(found.values), "passes": found.passes, "seconds": found.seconds}
    return each_part(lambda part: leading_axes(found.get(part), AXES), **facts)


@array("tuned.own", side="intermediate", of="rows, checkpoint, encoder", noise=_normal, passes=1)
def _tuned_own(g: Inputs, one: Dyad) -> Parts:
    """Intermediate's encoder on its own rows, shape (rows, D)."""
    reader = g.tuned(one.intermediate)[1]
    return _per_row(_sequences(g, g.sample(one.intermediate), g.encoder, reader))


@array(
    "tuned.map",
    side="intermediate",
    of="rows, checkpoint, encoder",
    noise=lambda random, shape: random.normal(size=(shape.columns + 1, shape.columns)),
    source="tuned.own",
)
def _tuned_map(g: Inputs, one: Dyad) -> Parts:
    """Linear map from plain to tuned states of the intermediate's own rows, shape (D + 1, D)."""
    before, after = g.at("intermediate.embeddings", one), g.at("tuned.own", one)
    spent = {"passes": before.passes + after.passes, "seconds": before.seconds + after.seconds}
    return each_part(
        lambda part: gradients.embedding_map(before.get(part), after.get(part)), **spent
    )


# Arrays of an intermediate's encoder on the rows of a target.


@array("tuned.features", of="target rows, checkpoint, encoder", noise=_normal, passes=1)
def _tuned_features(g: Inputs, dyad: Dyad) -> Parts:
    """Intermediate's encoder on the target's labelled units, shape (units, D)."""
    target = dyad.needed_target()
    view, sample = g.view(target, dyad.language), g.sample(target, dyad.language)
    states = g.tuned(dyad.intermediate)[1].units(view)
    return Parts(states, view.rows, sample.half, passes=len(view.encoded))


@array(
    "tuned.probabilities",
    of="target rows, checkpoint, encoder",
    noise=lambda random, shape: random.dirichlet(np.ones(5), shape.rows),
    source="tuned.features",
)
def _tuned_probabilities(g: Inputs, dyad: Dyad) -> Parts:
    """Intermediate's head on the target's labelled units, shape (units, Z)."""
    import torch

    target, name = dyad.needed_target(), dyad.intermediate.task
    source, view = g.tasks[name].format, g.view(target, dyad.language)
    if source not in ("pair", "tagging") or (source == "tagging") != view.by_token:
        raise Undefined(
            f"the head of {name} ({source}) gives no class probabilities for the units of "
            f"{target.task} ({g.tasks[target.task].format})."
        )
    tuned, reader = g.tuned(dyad.intermediate)
    trained = g.tasks[name].train_with or name
    if trained not in tuned.heads:
        raise Undefined(f"the checkpoint of {trained} was kept without its head.")
    # The features are the head's own input, unless it was trained on the first token.
    found = g.get("tuned.features", dyad)
    states = found.values
    if not view.by_token and tuned.settings.pooling != "mean":
        states = reader.units(view, tuned.settings.pooling)
    head = tuned.heads[trained].cpu().eval()
    with torch.no_grad():
        return replace(found, values=head(torch.from_numpy(states)).softmax(dim=-1).numpy())


_LOSSES: dict[str, Any] = {"noise": _exponential, "passes": 1}


@array("tuned.losses", of="target rows, checkpoint, encoder, language head", **_LOSSES)
def _tuned_losses(g: Inputs, dyad: Dyad) -> Parts:
    """Masked-language loss of each of the target's rows after tuning, shape (rows,)."""
    sample = g.sample(dyad.needed_target(), dyad.language)
    return _losses(g, g.tuned(dyad.intermediate)[1], sample.texts, sample.half)


@array("plain.losses", of="target rows, encoder, language head", **_LOSSES)
def _plain_losses(g: Inputs, dyad: Dyad) -> Parts:
    """Masked-language loss of each of the target's rows before tuning, shape (rows,)."""
    sample = g.sample(dyad.needed_target(), dyad.language)
    return _losses(g, g.reader(g.encoder), sample.texts, sample.half)


@array("parallel.tuned_losses", of="pairs, checkpoint, encoder, language head", **_LOSSES)
def _parallel_tuned_losses(g: Inputs, dyad: Dyad) -> Parts:
    """Masked-language loss of foreign sentences after tuning, shape (rows,)."""
    _, texts = g.pairs(dyad.language, dyad.intermediate.seed)
    half = readers.halves(len(texts), dyad.intermediate.seed)
    return _losses(g, g.tuned(dyad.intermediate)[1], texts, half)


@array("parallel.plain_losses", of="pairs, encoder, language head", **_LOSSES)
def _parallel_plain_losses(g: Inputs, dyad: Dyad) -> Parts:
    """Masked-language loss of foreign sentences before tuning, shape (rows,)."""
    _, texts = g.pairs(dyad.language, dyad.intermediate.seed)
    half = readers.halves(len(texts), dyad.intermediate.seed)
    return _losses(g, g.reader(g.encoder), texts, half)


def _losses(g: Inputs, reader: Reader, texts: list[str], half: Any) -> Parts:
    assert g.language_head is not None  # one of the array's facts
    losses, rows = reader.losses(texts, g.options.max_length, g.language_head)
    return Parts(losses, rows, half, passes=len(texts))


@array("parallel.tuned", of="pairs, checkpoint, encoder", noise=_couples, passes=2)
def _parallel_tuned(g: Inputs, dyad: Dyad) -> Parts:
    """States of English sentences and their translations after tuning, shape (2, rows, D)."""
    return _parallel(g, g.tuned(dyad.intermediate)[1], dyad)


@array("parallel.plain", of="pairs, encoder", noise=_couples, passes=2)
def _parallel_plain(g: Inputs, dyad: Dyad) -> Parts:
    """The same before tuning."""
    return _parallel(g, g.reader(g.encoder), dyad)


def _parallel(g: Inputs, reader: Reader, dyad: Dyad) -> Parts:
    sides = g.pairs(dyad.language, dyad.intermediate.seed)
    states = np.stack([reader.texts(side, g.options.max_length) for side in sides])
    rows = np.arange(states.shape[1])
    half = readers.halves(len(rows), dyad.intermediate.seed)
    return Parts(states, rows, half, axis=1, passes=2 * len(rows))


@array("early.score", of="checkpoint, target, early")
def _early(g: Inputs, dyad: Dyad) -> Parts:
    """English score of the target after a short run from the intermediate"""
    target = dyad.needed_target()
    task = g.tasks[target.task]
    if task.format == "retrieval":
        raise Undefined(f"{task.name} is a retrieval task: nothing is trained on it.")
    trainer = tasks.get(task.train_with) if task.train_with else task
    assert g.early is not None
    score = g.early(g.tuned(dyad.intermediate)[0], trainer, target.seed)
    return Parts(np.float64(score))


# Arrays of the whole study.


def _of_each_task(g: Inputs, dyad: Dyad, name: str) -> list[Parts]:
    """One array per task of the study that has English rows."""
    sides = g.samples(dyad.intermediate.seed)
    return [g.at(f"intermediate.{name}", Dyad(side, None)) for side in sides]


@array("study.centre", of="study, encoder", noise=_nothing)
def _study_centre(g: Inputs, dyad: Dyad) -> Parts:
    """Mean over the tasks of the study of their mean embedding, shape (D,)."""
    return _centre(_of_each_task(g, dyad, "embeddings"))


@array("study.sentence_centre", of="study, sentence encoder", noise=_nothing)
def _sentence_centre(g: Inputs, dyad: Dyad) -> Parts:
    """The same by the sentence encoder."""
    return _centre(_of_each_task(g, dyad, "sentences"))


def _centre(each: Sequence[Parts]) -> Parts:
    if len(each) < 3:
        raise Undefined(f"{len(each)} tasks of the study have English rows; centring needs three.")
    return each_part(lambda part: np.mean([p.get(part).mean(axis=0) for p in each], axis=0))


@array(
    "study.whitening",
    of="study, encoder",
    noise=lambda random, shape: np.eye(shape.columns),
)
def _whitening(g: Inputs, dyad: Dyad) -> Parts:
    """Inverse root of the covariance of embeddings within tasks, shape (D, D)."""
    each = _of_each_task(g, dyad, "embeddings")

    def spread(values: Any) -> Floats:
        centred = np.asarray(values, dtype=np.float64)
        centred = centred - centred.mean(axis=0)
        return centred.T @ centred / len(centred)

    return each_part(lambda part: whitening(np.mean([spread(p.get(part)) for p in each], axis=0)))


@array(
    "study.texts_with",
    of="study, encoder",
    noise=lambda random, shape: 2 * shape.rows * (1 - (1 - _CHANCE) ** LENGTH),
)
def _texts_with(g: Inputs, dyad: Dyad) -> Parts:
    """Number of texts of the study that hold each piece, shape (vocabulary,)."""
    size = len(g.encoder.tokenizer)
    totals = {part: np.zeros(size, dtype=np.int64) for part in ("all", "a", "b")}
    for parts in _of_each_task(g, dyad, "pieces"):
        rows = np.asarray(parts.rows, dtype=np.int64)
        row, piece = np.divmod(np.unique(rows * size + parts.values), size)
        in_second = np.asarray(parts.second)[row]
        totals["all"] += np.bincount(piece, minlength=size)
        totals["a"] += np.bincount(piece[~in_second], minlength=size)
        totals["b"] += np.bincount(piece[in_second], minlength=size)
    return Parts(totals["all"], halves=(totals["a"], totals["b"]))


@array("study.texts", of="study", noise=lambda random, shape: 2 * shape.rows)
def _text_count(g: Inputs, dyad: Dyad) -> Parts:
    """Number of texts of the study."""
    samples = g.samples(dyad.intermediate.seed).values()
    second = sum(int(sample.half.sum()) for sample in samples)
    total = sum(len(sample.rows) for sample in samples)
    return Parts(total, halves=(total - second, second))
