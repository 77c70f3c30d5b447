"""Every array that a measure can ask for: what it is, what determines it, and how it is made."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from helpers import formats
from helpers.errors import BadRows
from helpers.formats import IGNORE, Batch, Encoded, FormatBase, piece_ids, pool, sorted_batches
from helpers.models.encoders import Encoder
from helpers.models.network import Network, best_device
from helpers.models.training import training_task
from helpers.similarity import readers
from helpers.similarity.catalogue import AXES, SIDES, Undefined
from helpers.similarity.features import knn_probe, linear_probe
from helpers.similarity.inputs import ARRAYS, Array, Dyad, Inputs, Parts
from helpers.similarity.readers import Reader, Sample, Single, parameters
from helpers.similarity.representations import Integers, embedding_map, leading_axes
from helpers.similarity.text import piece_counts, whitening


def each_part(value: Callable[[str], Any], **facts: Any) -> Parts:
    """Return what a function makes of all rows, and of each half."""
    return Parts(value("all"), halves=(value("a"), value("b")), **facts)


# --- Of the texts and labels of one task ----------------------------------------------------------
def _segments(g: Inputs, one: Dyad) -> Parts:
    kind, rows = g.sample(one).task.format, g.sample(one).rows
    two = kind in ("choice", "span") or (kind == "pair" and any(row.get("second") for row in rows))
    return Parts(1 + two)


def _pieces(g: Inputs, one: Dyad) -> Parts:
    ids = piece_ids(g.encoder.tokenizer, g.sample(one).texts)
    lengths = [len(pieces) for pieces in ids]
    flat = np.fromiter((i for pieces in ids for i in pieces), np.int64, sum(lengths))
    return Parts(flat, np.repeat(np.arange(len(ids)), lengths), g.sample(one).half)


def _counts(g: Inputs, one: Dyad) -> Parts:
    pieces, size = g.at("intermediate.pieces", one), len(g.encoder.tokenizer)
    return each_part(lambda part: piece_counts(pieces.get(part), size))


def _labels(g: Inputs, one: Dyad) -> Parts:
    view, labels = g.view(one), g.view(one).labels
    if g.options.shuffle_labels:
        labels = np.random.default_rng([one.intermediate.seed, 9]).permutation(labels)
    note = f"{view.dropped} rare classes left out" if view.dropped else ""
    return Parts(labels, view.rows, g.sample(one).half, note=note)


def _label_names(g: Inputs, one: Dyad) -> Parts:
    names = readers.readable_labels(g.sample(one).task)
    return Parts(g.plain.texts(names, g.options.max_length))


# --- States of an encoder on the rows of a task; a row may be several sequences -------------------
def _states(g: Inputs, one: Dyad, encoder: Encoder, reader: Reader) -> Parts:
    sample = g.sample(one)
    encoded = readers.encode(sample, encoder, g.options.max_length)
    return Parts(reader.sequences(encoded), encoded.example, sample.half)


def _per_row(found: Parts) -> Parts:
    means = readers.row_means(found.values, np.asarray(found.rows), len(found.second))
    return replace(found, values=means, rows=np.arange(len(means)))


def _units(g: Inputs, one: Dyad, reader: Reader) -> Parts:
    view = g.view(one)
    return Parts(reader.units(view), view.rows, g.sample(one).half)


def _features(g: Inputs, one: Dyad) -> Parts:
    view = g.view(one)
    if view.by_token:
        return _units(g, one, g.plain)
    # The units are the sequences that the embeddings were made of.
    found = g.at("intermediate.states", one)
    return replace(found, values=found.values[view.units], rows=view.rows)


def _probed(g: Inputs, one: Dyad, score: Callable[[Any, Any], float]) -> Parts:
    states, labels = (g.at(f"intermediate.{name}", one) for name in ("features", "labels"))

    def value(part: str) -> Any:
        try:
            return np.float64(score(states.get(part), labels.get(part)))
        except BadRows:  # a half may lack a class; the measure then has no value for that half
            return np.float64("nan")

    return each_part(value)


def _tuned_map(g: Inputs, dyad: Dyad) -> Parts:
    before, after = g.get("intermediate.embeddings", dyad), g.get("tuned.own", dyad)
    spent = before.seconds + after.seconds
    return each_part(lambda part: embedding_map(before.get(part), after.get(part)), seconds=spent)


def _probabilities(g: Inputs, dyad: Dyad) -> Parts:
    task, view = g.task(dyad), g.view(dyad.of("target"))
    if task.format not in ("pair", "tagging") or (task.format == "tagging") != view.by_token:
        target = g.task(dyad.of("target"))
        said = f"the head of {task.name} ({task.format}) gives no class probabilities"
        raise Undefined(f"{said} for the units of {target.name} ({target.format}).")
    (tuned, reader), trained = g.tuned(dyad), task.train_with or task.name
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


# --- On sentences of all tasks, and on sentences and their translations ---------------------------
def _common(g: Inputs, one: Dyad) -> Parts:
    # English texts drawn evenly from the tasks, whatever the encoder.
    each, random = [s.texts for s in g.samples(0).values()], np.random.default_rng(8)
    share = -(-g.options.sentences // len(each))
    drawn = [some[at] for some in each for at in sorted(random.permutation(len(some))[:share])]
    texts = list(dict.fromkeys(drawn))[: g.options.sentences]
    states = g.tuned(one)[1].texts(texts, g.options.max_length)
    # The halves must be the same for both encoders, whatever the seeds of their checkpoints.
    return Parts(states, np.arange(len(texts)), readers.halves(len(texts), 0))


def _common_axes(g: Inputs, one: Dyad) -> Parts:
    found = g.at("common.intermediate", one)
    facts = {"entries": len(found.values), "seconds": found.seconds}
    return each_part(lambda part: leading_axes(found.get(part), AXES), **facts)


def _parallel(g: Inputs, dyad: Dyad, reader: Reader) -> Parts:
    states = np.stack([reader.texts(side, g.options.max_length) for side in g.pairs(dyad)])
    rows = np.arange(states.shape[1])
    return Parts(states, rows, readers.halves(len(rows), dyad.intermediate.seed), axis=1)


def _losses(g: Inputs, dyad: Dyad, reader: Reader, foreign: bool = False) -> Parts:
    texts = g.pairs(dyad)[1] if foreign else g.sample(dyad.of("target")).texts
    losses, rows = reader.losses(texts, g.options.max_length, g.language_head)
    return Parts(losses, rows, readers.halves(len(texts), dyad.intermediate.seed))


def _early(g: Inputs, dyad: Dyad) -> Parts:
    task = g.task(dyad.of("target"))
    if task.format == "retrieval":
        raise Undefined(f"{task.name} is a retrieval task: nothing is trained on it.")
    trainer, seed = training_task(task), dyad.of("target").intermediate.seed
    return Parts(np.float64(g.early(g.tuned(dyad)[0], trainer, seed)))


# --- Of the whole study ---------------------------------------------------------------------------
def _of_each_task(g: Inputs, dyad: Dyad, name: str) -> list[Parts]:
    return [g.at(f"intermediate.{name}", one) for one in g.samples(dyad.intermediate.seed)]


def _centre(g: Inputs, dyad: Dyad, name: str) -> Parts:
    each = _of_each_task(g, dyad, name)
    if len(each) < 3:
        raise Undefined(f"{len(each)} tasks of the study have English rows; centring needs three.")
    return each_part(lambda part: np.mean([p.get(part).mean(axis=0) for p in each], axis=0))


def _whitening(g: Inputs, dyad: Dyad) -> Parts:
    each = _of_each_task(g, dyad, "embeddings")

    def spread(values: Any) -> Any:
        centred = np.asarray(values, dtype=np.float64)
        centred = centred - centred.mean(axis=0)
        return centred.T @ centred / len(centred)

    return each_part(lambda part: whitening(np.mean([spread(p.get(part)) for p in each], axis=0)))


def _texts_with(g: Inputs, dyad: Dyad) -> Parts:
    size = len(g.encoder.tokenizer)
    halves = np.zeros((2, size), dtype=np.int64)
    for parts in _of_each_task(g, dyad, "pieces"):
        # A piece counts once per text.
        row, piece = np.divmod(np.unique(np.asarray(parts.rows) * size + parts.values), size)
        np.add.at(halves, (np.asarray(parts.second)[row].astype(int), piece), 1)
    return Parts(halves.sum(axis=0), halves=(halves[0], halves[1]))


def _text_count(g: Inputs, dyad: Dyad) -> Parts:
    second = np.concatenate([one.half for one in g.samples(dyad.intermediate.seed).values()])
    return Parts(len(second), halves=(int((~second).sum()), int(second.sum())))


# --- Gradients of an encoder on the rows of a task ------------------------------------------------
@dataclass(frozen=True)
class Probe:
    """Rows of a task, encoded to be learnt with an encoder."""

    sample: Sample
    encoder: Encoder
    encoded: Encoded
    pooling: str = "mean"

    @classmethod
    def of(cls, g: Inputs, one: Dyad, encoder: Encoder, pooling: str = "mean") -> Self:
        """Encode a task's sample, no more rows of it than are asked for."""
        sample = g.learnt(one)
        choose = partial(readers.subset, size=g.options.gradient_rows, seed=sample.seed)
        encoded = readers.encode(sample, encoder, g.options.max_length, True, choose)
        return cls(sample, encoder, encoded, pooling)

    @property
    def format(self) -> FormatBase:
        """What makes a head and its loss."""
        return formats.get(self.sample.task.format)

    @property
    def rows(self) -> Integers:
        """Rows of the sample that are learnt."""
        return np.unique(self.encoded.example)

    def batches(self, rows: Integers) -> list[Integers]:
        """Sequences of some of the rows, as those of all rows are cut into batches."""
        wanted = np.isin(self.encoded.example, rows)
        cut = (index[wanted[index]] for index in sorted_batches(self.encoded, 4096))
        return [index for index in cut if len(index)]

    def network(self, head: nn.Module) -> Network:
        """Join the encoder and a head on the best device."""
        network = Network(self.encoder.model, {"head": head}, {"head": self.format})
        return network.to(best_device()).eval()

    def gradients(self, head: nn.Module, batches: Sequence[Integers], drawn: Any = None) -> Any:
        """Yield the gradients of the summed loss of each batch, whose labels ``drawn`` may redraw."""
        network = self.network(head)
        named = {name: p for name, p in parameters(self.encoder).items() if p.requires_grad}
        for index in batches:
            batch = Batch.collate(self.encoded, index, best_device())
            hidden = network.states(batch)
            if drawn is not None:
                draw_labels(self, head, hidden.detach(), batch, drawn)
            loss = self.format.loss(head, hidden, batch, self.pooling)
            found = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
            yield {n: g for n, g in zip(named, found, strict=True) if g is not None}


def fit_head(probe: Probe, seed: int, steps: int = 100) -> nn.Module:
    """Fit a head on the frozen encoder's states of a bootstrap sample, both drawn by the seed, by Adam."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = probe.format.head(probe.sample.task, probe.encoder.dimension, 0.0)
    network = probe.network(head)
    random = np.random.default_rng([seed, 6])
    chosen = np.unique(random.choice(probe.rows, len(probe.rows)))
    # The encoder is frozen, so each batch is read once and its states serve every step.
    cached = []
    with torch.no_grad():
        for index in probe.batches(chosen):
            batch = Batch.collate(probe.encoded, index, best_device())
            weight = max(probe.format.weight(probe.encoded, index), 1.0)
            cached.append((batch, network.states(batch), weight))
    # A step takes one batch, and the steps become shorter.
    optimizer = torch.optim.Adam(head.parameters())
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 0.01 * (1 - step / steps)
        batch, hidden, weight = cached[int(random.integers(len(cached)))]
        loss = probe.format.loss(head, hidden, batch, probe.pooling) / weight
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return head.requires_grad_(False)


def fisher(probe: Probe, head: nn.Module, of_filters: bool = False) -> dict[str, dict[str, Single]]:
    """Diagonal Fisher information of the encoder, by component, of ``"a"``, ``"b"`` and ``"all"`` rows."""
    # Task2Vec takes it ``of_filters``: the mean over the inputs of a matrix, and for labels drawn from
    # the model in place of the data's (empirical Fisher).
    named, drawn = parameters(probe.encoder), None
    if of_filters:
        drawn = torch.Generator(device=best_device()).manual_seed(probe.sample.seed)
    marks = ["b" if second else "a" for second in probe.sample.half[probe.rows]]
    # Squaring the gradient of a batch, as published code does, would follow the size of the batch.
    totals = {part: {n: torch.zeros_like(p) for n, p in named.items()} for part in "ab"}
    each = [np.flatnonzero(probe.encoded.example == row) for row in probe.rows]
    for part, gradients in zip(marks, probe.gradients(head, each, drawn), strict=True):
        for name, gradient in gradients.items():
            totals[part][name].addcmul_(gradient, gradient)

    def mean(name: str, parts: str) -> Single:
        sums = [totals[part][name].detach() for part in parts]
        if of_filters and sums[0].ndim > 1:
            sums = [total.flatten(1).mean(dim=1) for total in sums]
        whole = np.sum([total.flatten().float().cpu().numpy() for total in sums], axis=0)
        return (whole / max(sum(map(marks.count, parts)), 1)).astype(np.float32)

    named_parts = {"a": "a", "b": "b", "all": "ab"}.items()
    return {key: {name: mean(name, parts) for name in named} for key, parts in named_parts}


def draw_labels(probe: Probe, head: nn.Module, hidden: Tensor, batch: Batch, drawn: Any) -> None:
    """Replace the labels of a batch by draws from the model, in place (Gumbel maxima)."""
    kind = probe.sample.task.format
    # The largest of scores with Gumbel noise is a draw from their softmax.
    with torch.no_grad():
        pooled = pool(hidden, batch, probe.pooling) if kind in ("pair", "choice") else hidden
        scores = head(pooled).squeeze(-1) if kind == "choice" else head(pooled)
        noise = torch.empty_like(scores).exponential_(generator=drawn).log_().neg_()
        noisy = scores + noise
    if kind == "pair":
        batch.fields["label"] = noisy.argmax(dim=-1)
    elif kind == "tagging":
        tags = batch.fields["tag"]
        batch.fields["tag"] = torch.where(tags == IGNORE, tags, noisy.argmax(dim=-1))
    elif kind == "choice":
        best = torch.full((batch.rows,), -torch.inf, device=noisy.device)
        best = best.scatter_reduce(0, batch.row, noisy, "amax")
        batch.fields["right"] = noisy == best[batch.row]
    else:
        # Best allowed begin and end of each window, counted from the window's first token.
        noisy = noisy.masked_fill(~batch.fields["allowed"][:, None], -torch.inf)
        windows = noisy.split(batch.lengths.tolist())
        places = torch.stack([window.argmax(dim=0) for window in windows])
        batch.fields["begin"], batch.fields["end"] = places[:, 0], places[:, 1]


def mean_gradient(probe: Probe, heads: Sequence[nn.Module]) -> dict[str, Single]:
    """Unit gradient (P,) of the mean loss, averaged over fitted heads; by ``"a"``, ``"b"``, ``"all"``."""
    # The inner product of two is the mean cosine over all pairs of heads (after Pruthi et al. 2020).
    named, second = parameters(probe.encoder), probe.sample.half[probe.rows]
    parts = {"a": probe.rows[~second], "b": probe.rows[second]}

    def flat(found: Any) -> Tensor:
        return torch.cat([found.get(n, torch.zeros_like(p)).flatten() for n, p in named.items()])

    total: dict[str, Any] = dict.fromkeys(("a", "b", "all"), 0.0)
    # With random heads the sign of a gradient would be that of the head.
    for head in heads:
        sums: dict[str, Any] = {
            part: sum(map(flat, probe.gradients(head, probe.batches(rows))))
            for part, rows in parts.items()
        }
        sums["all"] = sums["a"] + sums["b"]
        # Heads count the same, however large their gradients.
        for part, gradient in sums.items():
            if not torch.is_tensor(gradient) or gradient.norm() == 0:
                name = probe.sample.task.name
                raise BadRows(f"the gradient of {name} at the plain encoder is zero.")
            total[part] = total[part] + gradient / gradient.norm() / len(heads)
    return {part: vector.cpu().numpy().astype(np.float32) for part, vector in total.items()}


def _weights(encoder: Encoder) -> Parts:
    return Parts({name: p.detach().cpu().numpy() for name, p in parameters(encoder).items()})


def _fisher(g: Inputs, one: Dyad) -> Parts:
    tuned, _ = g.tuned(one)
    probe = Probe.of(g, one, tuned.encoder, tuned.settings.pooling)
    head = tuned.heads.get(probe.sample.task.name) or fit_head(probe, probe.sample.seed)
    return each_part(fisher(probe, head).get, entries=len(probe.rows))


def _probe_fisher(g: Inputs, one: Dyad) -> Parts:
    probe = Probe.of(g, one, g.encoder)
    found = fisher(probe, fit_head(probe, probe.sample.seed), of_filters=True)
    return each_part(lambda p: np.concatenate(list(found[p].values())), entries=len(probe.rows))


def _gradient(g: Inputs, one: Dyad) -> Parts:
    probe = Probe.of(g, one, g.encoder)
    heads = [fit_head(probe, 1000 * probe.sample.seed + k) for k in range(g.options.heads)]
    return each_part(mean_gradient(probe, heads).get, entries=len(probe.rows))


# Name (* stands for either task, each alone), what determines it, and the passes through an encoder per
# row or the array that it is made of without reading anything else; how it is made, and what it is.
# fmt: off
_STATES, _FEATURES = "intermediate.states", "intermediate.features"
_ROWS: tuple[tuple[str, str, int | str, Callable[[Inputs, Dyad], Parts], str], ...] = (
    ("*.facts", "task", 0, lambda g, one: Parts(g.task(one)), "The task, as a Task"),
    ("*.texts", "rows", 0,
     lambda g, d: Parts(g.sample(d).texts, np.arange(len(g.sample(d).rows)), g.sample(d).half),
     "List of texts, one per sampled row"),
    ("*.segments", "rows", 0, _segments, "Number of texts encoded together for one decision"),
    ("*.pieces", "rows, plain", 0, _pieces, "Vocabulary ids of the texts, one after the other"),
    ("*.counts", "rows, plain", 0, _counts, "How often each id occurs, shape (vocabulary,)"),
    ("*.states", "rows, plain", 1, lambda g, one: _states(g, one, g.encoder, g.plain),
     "Plain encoder's mean state of each sequence, shape (sequences, D)"),
    ("*.embeddings", "rows, plain", _STATES, lambda g, d: _per_row(g.at(_STATES, d)),
     "Plain encoder's mean state of each row, shape (rows, D)"),
    ("*.sentences", "rows, sentences", 1,
     lambda g, d: _per_row(_states(g, d, g.sentence_encoder, Reader(g.sentence_encoder, g.precision))),
     "Mean state of each row by the sentence encoder, shape (rows, D)"),
    ("*.features", "rows, plain", 1, _features, "Plain state of each labelled unit, (units, D)"),
    ("*.labels", "rows, plain", 0, _labels, "Label of each unit, shape (units,)"),
    ("*.knn_probe", "rows, plain", _FEATURES, lambda g, d: _probed(g, d, knn_probe),
     "Accuracy of the nearest-neighbour probe on the plain features"),
    ("*.linear_probe", "rows, plain", _FEATURES, lambda g, d: _probed(g, d, linear_probe),
     "Accuracy of the linear probe on the plain features"),
    ("*.label_names", "rows, plain", 0, _label_names, "Plain state of each label name, (C, D)"),
    ("*.fisher", "learnt, tuned", 3, _fisher, "Mean squared gradient when tuned, by component"),
    ("*.probe_fisher", "learnt, plain", 3, _probe_fisher,
     "Mean squared gradient per row at the plain encoder with a fitted head, by filter, (P,)"),
    ("*.gradient", "learnt, plain", 15, _gradient, "Mean unit gradient of fitted heads, (P,)"),
    ("*.weights", "tuned", 0, lambda g, one: _weights(g.tuned(one)[0].encoder),
     "Parameters of the tuned encoder, by component"),
    ("plain.weights", "plain", 0, lambda g, dyad: _weights(g.encoder),
     "Parameters of the plain encoder, by component"),
    ("common.*", "common, tuned", 1, _common, "Tuned states of sentences of all tasks, (rows, D)"),
    ("common.*_axes", "common, tuned", "common.intermediate", _common_axes,
     "The same on its leading principal axes"),
    ("tuned.own", "learnt, tuned", 1,
     lambda g, dyad: _per_row(_states(g, dyad.of("intermediate"), g.encoder, g.tuned(dyad)[1])),
     "Intermediate's encoder on its own rows, shape (rows, D)"),
    ("tuned.map", "learnt, tuned", "tuned.own", _tuned_map,
     "Linear map from plain to tuned states of the intermediate's own rows, shape (D + 1, D)"),
    ("tuned.features", "target rows, tuned", 1, lambda g, d: _units(g, d.of("target"), g.tuned(d)[1]),
     "Intermediate's encoder on the target's labelled units, shape (units, D)"),
    ("tuned.probabilities", "target rows, tuned", "tuned.features", _probabilities,
     "Intermediate's head on the target's labelled units, shape (units, Z)"),
    ("tuned.losses", "target rows, tuned, head", 1, lambda g, d: _losses(g, d, g.tuned(d)[1]),
     "Masked-language loss of each of the target's rows after tuning, shape (rows,)"),
    ("plain.losses", "target rows, plain, head", 1, lambda g, d: _losses(g, d, g.plain),
     "Masked-language loss of each of the target's rows before tuning, shape (rows,)"),
    ("parallel.tuned_losses", "pairs, tuned, head", 1, lambda g, d: _losses(g, d, g.tuned(d)[1], True),
     "Masked-language loss of foreign sentences after tuning, shape (rows,)"),
    ("parallel.plain_losses", "pairs, plain, head", 1, lambda g, d: _losses(g, d, g.plain, True),
     "Masked-language loss of foreign sentences before tuning, shape (rows,)"),
    ("parallel.tuned", "pairs, tuned", 2, lambda g, dyad: _parallel(g, dyad, g.tuned(dyad)[1]),
     "States of English sentences and their translations after tuning, shape (2, rows, D)"),
    ("parallel.plain", "pairs, plain", 2, lambda g, d: _parallel(g, d, g.plain), "The same, before"),
    ("early.score", "tuned, learner, early", 0, _early, "English score after a short run"),
    ("study.centre", "study, plain", 0, lambda g, dyad: _centre(g, dyad, "embeddings"),
     "Mean over the tasks of the study of their mean embedding, shape (D,)"),
    ("study.sentence_centre", "study, sentences", 0, lambda g, dyad: _centre(g, dyad, "sentences"),
     "The same by the sentence encoder"),
    ("study.whitening", "study, plain", 0, _whitening, "Inverse root covariance in tasks, (D, D)"),
    ("study.texts_with", "study, plain", 0, _texts_with, "Texts that hold each id, (vocabulary,)"),
    ("study.texts", "study", 0, _text_count, "Number of texts of the study"),
)
# fmt: on
for _name, _of, _reads, _make, _says in _ROWS:
    for _side in SIDES if "*" in _name else ("",):
        _full = _name.replace("*", _side)
        ARRAYS[_full] = Array(_name, _side, _of.split(", "), _reads, _make, _says)
