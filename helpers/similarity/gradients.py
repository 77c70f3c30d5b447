"""Gradients of an encoder on the rows of a task: per-example Fisher diagonals and unit gradients.

Word embeddings are left out: the rows of pieces that do not occur are zero, so they would measure
the overlap of vocabularies.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from helpers.formats import Batch, Encoded, FormatBase
from helpers.formats.encoded import IGNORE, sorted_batches
from helpers.models import devices
from helpers.models.encoders import Encoder
from helpers.models.network import Network
from helpers.similarity.catalogue import Undefined
from helpers.tasks import Task

__all__ = ["Probe", "fisher", "fit_head", "mean_gradient", "parameters"]

Single = NDArray[np.float32]
Halves = dict[str, dict[str, Single]]


@dataclass(frozen=True)
class Probe:
    """What gradients are taken through.

    Attributes:
        encoder: the encoder; its parameters are not changed.
        task: the task, with its label names.
        format: the format of the task.
        encoded: its rows, encoded for training.
        pooling: how a text's states become one.
    """

    encoder: Encoder
    task: Task
    format: FormatBase
    encoded: Encoded
    pooling: str = "mean"

    def __post_init__(self) -> None:
        """Reject a task whose loss would not be the likelihood of an answer."""
        if self.task.format == "retrieval":
            raise Undefined(f"{self.task.name} is a retrieval task: its texts have no labels.")

    def network(self, head: nn.Module) -> Network:
        """Join the encoder and a head on the best device."""
        name = self.task.name
        network = Network(self.encoder.model, {name: head}, {name: self.format})
        return network.to(devices.best_device()).eval()

    def batches(self, rows: NDArray[np.int64], budget: int = 4096) -> list[NDArray[np.int64]]:
        """Sequences of some rows, cut into batches."""
        wanted = np.isin(self.encoded.example, rows)
        cut = (index[wanted[index]] for index in sorted_batches(self.encoded, budget))
        return [index for index in cut if len(index)]


def parameters(encoder: Encoder) -> dict[str, nn.Parameter]:
    """Return the parameters of an encoder by name, word embeddings left out."""
    table = encoder.model.get_input_embeddings().weight
    return {name: p for name, p in encoder.model.named_parameters() if p is not table}


def fit_head(probe: Probe, seed: int, steps: int = 100, rate: float = 0.01) -> nn.Module:
    """Fit a head on the frozen encoder's states, on a bootstrap sample of the rows.

    Args:
        probe: encoder, task and rows.
        seed: seed of the head's start and of the bootstrap sample; several give several heads.
        steps: steps of Adam, each on one batch.
        rate: its learning rate.

    Returns:
        The head, on the device of the encoder.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = probe.format.head(probe.task, probe.encoder.dimension, 0.0)
    network = probe.network(head)
    device = next(network.parameters()).device
    rows = np.unique(probe.encoded.example)
    random = np.random.default_rng([seed, 6])
    chosen = np.unique(random.choice(rows, len(rows)))
    cached = []
    with torch.no_grad():
        for index in probe.batches(chosen):
            batch = Batch.collate(probe.encoded, index, device)
            weight = max(probe.format.weight(probe.encoded, index), 1.0)
            cached.append((batch, network.states(batch), weight))
    optimizer = torch.optim.Adam(head.parameters(), lr=rate)
    for step in range(steps):
        batch, hidden, weight = cached[int(random.integers(len(cached)))]
        loss = probe.format.loss(head, hidden, batch, probe.pooling) / weight
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.param_groups[0]["lr"] = rate * (1 - (step + 1) / steps)
    return head.requires_grad_(False)


def fisher(
    probe: Probe,
    head: nn.Module,
    second: NDArray[np.bool_],
    sampled: bool = False,
    by_filter: bool = False,
    seed: int = 0,
) -> tuple[Halves, int]:
    """Diagonal Fisher information of the encoder's parameters: mean squared per-example gradients.

    Args:
        probe: encoder, task and rows.
        head: the task's head.
        second: whether each row is in the second half.
        sampled: draw labels from the model (Fisher information) instead of taking the data's
            (empirical Fisher).
        by_filter: average a matrix over its inputs, one number per output.
        seed: seed of the drawn labels.

    Returns:
        For ``"a"``, ``"b"`` and ``"all"`` rows, the diagonal by component, flattened; and the
        number of rows.
    """
    network = probe.network(head)
    named = parameters(probe.encoder)
    device = next(iter(named.values())).device
    generator = torch.Generator(device=device).manual_seed(seed)
    totals = {part: {n: torch.zeros_like(p) for n, p in named.items()} for part in ("a", "b")}
    counts = {"a": 0, "b": 0}
    for row, index in _by_row(probe.encoded):
        part = "b" if second[row] else "a"
        batch = Batch.collate(probe.encoded, index, device)
        hidden = network.states(batch)
        if sampled:
            _draw_labels(probe, head, hidden.detach(), batch, generator)
        loss = probe.format.loss(head, hidden, batch, probe.pooling)
        for name, gradient in _gradients(loss, named).items():
            totals[part][name].addcmul_(gradient, gradient)
        counts[part] += 1
    return _reduced(totals, counts, by_filter), counts["a"] + counts["b"]


def _by_row(encoded: Encoded) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Each row with its sequences."""
    rows, first = np.unique(encoded.example, return_index=True)
    ends = [*first[1:], len(encoded.example)]
    for row, begin, end in zip(rows, first, ends, strict=True):
        yield int(row), np.arange(begin, end)


def _gradients(loss: Tensor, named: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """Gradients of a loss by parameter; a parameter out of use has none."""
    trainable = {name: p for name, p in named.items() if p.requires_grad}
    found = torch.autograd.grad(loss, list(trainable.values()), allow_unused=True)
    return {n: g for n, g in zip(trainable, found, strict=True) if g is not None}


def _reduced(
    totals: Mapping[str, Mapping[str, Tensor]], counts: Mapping[str, int], by_filter: bool
) -> Halves:
    result: Halves = {"a": {}, "b": {}, "all": {}}
    for name in totals["a"]:
        sums = {part: _flat(totals[part][name], by_filter) for part in ("a", "b")}
        for part in ("a", "b"):
            result[part][name] = (sums[part] / max(counts[part], 1)).astype(np.float32)
        everything = (sums["a"] + sums["b"]) / max(sum(counts.values()), 1)
        result["all"][name] = everything.astype(np.float32)
    return result


def _flat(values: Tensor, by_filter: bool) -> Single:
    if by_filter and values.dim() > 1:
        values = values.flatten(1).mean(dim=1)
    return values.detach().flatten().float().cpu().numpy()


def _draw_labels(
    probe: Probe, head: nn.Module, hidden: Tensor, batch: Batch, generator: torch.Generator
) -> None:
    """Replace the labels of a batch by draws from the model, in place (Gumbel maxima)."""
    with torch.no_grad():
        outputs = _scores(probe, head, hidden, batch)
        noise = torch.empty_like(outputs).exponential_(generator=generator).log_().neg_()
        noisy = outputs + noise
    kind = probe.task.format
    if kind == "pair":
        batch.fields["label"] = noisy.argmax(dim=-1)
    elif kind == "tagging":
        drawn = noisy.argmax(dim=-1)
        tags = batch.fields["tag"]
        batch.fields["tag"] = torch.where(tags == IGNORE, tags, drawn)
    elif kind == "choice":
        best = torch.full((batch.rows,), -torch.inf, device=noisy.device)
        best = best.scatter_reduce(0, batch.row, noisy, "amax")
        batch.fields["right"] = noisy == best[batch.row]
    else:
        batch.fields["begin"], batch.fields["end"] = _drawn_places(noisy, batch)


def _scores(probe: Probe, head: nn.Module, hidden: Tensor, batch: Batch) -> Tensor:
    from helpers.formats import pool

    kind = probe.task.format
    if kind in ("pair", "choice"):
        scores = head(pool(hidden, batch, probe.pooling))
        return scores.squeeze(-1) if kind == "choice" else scores
    return head(hidden)


def _drawn_places(noisy: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """Best allowed begin and end of each window, counted from the window's first token."""
    allowed = batch.fields["allowed"][:, None]
    noisy = noisy.masked_fill(~allowed, -torch.inf)
    ends = np.cumsum(batch.lengths)
    windows = [noisy[end - length : end] for end, length in zip(ends, batch.lengths, strict=True)]
    places = torch.stack([window.argmax(dim=0) for window in windows])
    return places[:, 0], places[:, 1]


def mean_gradient(
    probe: Probe, heads: Sequence[nn.Module], second: NDArray[np.bool_]
) -> dict[str, Single]:
    """Unit gradient of the mean loss at the encoder, averaged over several heads.

    The inner product of two such vectors is the mean cosine over all pairs of heads.

    Args:
        probe: encoder, task and rows.
        heads: fitted heads.
        second: whether each row is in the second half.

    Returns:
        For ``"a"``, ``"b"`` and ``"all"`` rows, a vector of shape (P,), no longer than 1.

    Raises:
        Undefined: a gradient is zero.
    """
    present = np.unique(probe.encoded.example)
    parts = {"a": present[~second[present]], "b": present[second[present]]}
    total: dict[str, Tensor] = {}
    for head in heads:
        sums = {part: _summed_gradient(probe, head, rows) for part, rows in parts.items()}
        sums["all"] = sums["a"] + sums["b"]
        for part, gradient in sums.items():
            norm = gradient.norm()
            if norm == 0:
                raise Undefined(f"the gradient of {probe.task.name} at the plain encoder is zero.")
            unit = gradient / norm / len(heads)
            total[part] = total[part] + unit if part in total else unit
    return {part: vector.cpu().numpy().astype(np.float32) for part, vector in total.items()}


def _summed_gradient(probe: Probe, head: nn.Module, rows: NDArray[np.int64]) -> Tensor:
    network = probe.network(head)
    named = parameters(probe.encoder)
    device = next(iter(named.values())).device
    total = torch.zeros(sum(p.numel() for p in named.values()), device=device)
    for index in probe.batches(rows):
        batch = Batch.collate(probe.encoded, index, device)
        loss = probe.format.loss(head, network.states(batch), batch, probe.pooling)
        found = _gradients(loss, named)
        pieces = [found.get(name, torch.zeros_like(p)).flatten() for name, p in named.items()]
        total += torch.cat(pieces)
    return total
