"""Gradients and weights: which parameters two tasks use, and where tuning moves them.

Parameters come as mappings from a component's name (one tensor of the encoder) to an array. Word
embeddings are left out: the rows of pieces that do not occur are zero, so they would measure the
overlap of vocabularies. So are task heads: their parameters mean different things in each task.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from helpers.errors import BadRows
from helpers.similarity.representations import Floats, cosine, matrix, vector
from helpers.tasks import Task

# The measures of arrays below need no torch, and a table of stored values must not load it.
if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from helpers.formats import Batch, Encoded, FormatBase
    from helpers.models.encoders import Encoder
    from helpers.models.network import Network

Parameters = Mapping[str, ArrayLike]
Single = NDArray[np.float32]
Halves = dict[str, dict[str, Single]]
NAMES = ("a", "b")


# Measures of arrays.


def task_vector_cosine(base: Parameters, a: Parameters, b: Parameters) -> float:
    """Cosine of two task vectors, each the tuned minus the plain parameters ``base``.

    Its ceiling is the cosine of two seeds of the same task: report both.

    Source: Ilharco et al. 2023 (arXiv 2212.04089).
    """
    products = np.sum(list(_vector_products(base, a, b).values()), axis=0)
    return _from_products(products, "task vectors")


def task_vector_cosines(base: Parameters, a: Parameters, b: Parameters) -> dict[str, float]:
    """Cosine of two task vectors in each component that both tasks moved."""
    products = _vector_products(base, a, b)
    moved = {name: p for name, p in products.items() if p[1] > 0 and p[2] > 0}
    if not moved:
        raise BadRows("no component was moved by both tasks; were the encoders frozen?")
    return {name: _from_products(p, name) for name, p in moved.items()}


def _vector_products(base: Parameters, a: Parameters, b: Parameters) -> dict[str, Floats]:
    """Inner product and both squared norms of the task vectors, by component."""
    if not set(base) == set(a) == set(b):
        differing = sorted(set(base) ^ set(a) | set(base) ^ set(b))[:3]
        raise BadRows(f"the encoders differ in their components, for example {differing}.")
    if not base:
        raise BadRows("the encoders have no components; pass their parameters by name.")
    products = {}
    for name in base:
        # One component at a time, and in double: tuning moves weights by little.
        start = np.asarray(base[name], dtype=np.float64)
        ends = [np.asarray(tuned[name], dtype=np.float64) for tuned in (a, b)]
        for end in ends:
            if end.shape != start.shape:
                raise BadRows(f"component {name!r} has shapes {start.shape} and {end.shape}.")
        first, second = (vector((e - start).ravel(), f"task vector of {name!r}") for e in ends)
        products[name] = np.array([first @ second, first @ first, second @ second])
    return products


def _from_products(products: Floats, what: str) -> float:
    norm = np.sqrt(products[1]) * np.sqrt(products[2])
    if norm == 0.0:
        raise BadRows(f"one of the {what} is zero: tuning changed nothing, so it has no direction.")
    return float(np.clip(products[0] / norm, -1.0, 1.0))


def task_embedding_cosine(a: Parameters, b: Parameters) -> float:
    """Mean over components of the cosine of two Fisher diagonals, where both are non-zero.

    Published work fuses ranks of components instead, which compares tasks only within one target;
    the mean cosine is on one scale for all dyads.

    Source: Vu et al. 2020 (arXiv 2005.00770).
    """
    if set(a) != set(b):
        raise BadRows(f"embeddings differ in components: {sorted(set(a) ^ set(b))[:3]}.")
    pairs = {name: (np.ravel(a[name]), np.ravel(b[name])) for name in a}
    cosines = [
        cosine(first, second, f"embeddings of {name!r}")
        for name, (first, second) in pairs.items()
        if np.any(first) and np.any(second)
    ]
    if not cosines:
        raise BadRows("no component has a gradient in both tasks.")
    return float(np.mean(cosines))


def task2vec_distance(
    fa: ArrayLike, fb: ArrayLike, trivial: ArrayLike | None = None, alpha: float = 0.0
) -> float:
    """Cosine distance of two Fisher diagonals of one probe network, normalised by their sum.

    Takes two vectors (P,) >= 0. With the diagonal of the ``trivial`` task the distance is
    asymmetric: less by ``alpha`` times the distance of the first task to the trivial one.

    Source: Achille et al. 2019 (arXiv 1902.03545), symmetric and asymmetric distances.
    """
    first, second = (vector(f, "Fisher diagonal") for f in (fa, fb))
    if first.shape != second.shape:
        raise BadRows(f"Fisher diagonals of {first.size} and {second.size} parameters.")
    if min(first.min(), second.min()) < 0:
        raise BadRows("a Fisher diagonal has negative entries; expected squares.")
    total = first + second
    used = total > 0
    if not used.any():
        raise BadRows("both Fisher diagonals are zero; the probe network is not trained by a task.")
    shares = first[used] / total[used], second[used] / total[used]
    distance = 1.0 - cosine(*shares, "normalised Fisher diagonals")
    if trivial is None:
        return distance
    return distance - alpha * task2vec_distance(first, trivial)


def embedding_map(plain: ArrayLike, tuned: ArrayLike, ridge: float = 1e-3) -> Floats:
    """Linear map (D + 1, E) from plain (N, D) to tuned (N, E) states, the intercept last.

    ``ridge`` is its penalty relative to the mean variance of a feature. Mapped features of a target
    imitate the tuned encoder without running it.

    Source: the embedding space map of Schulte et al. 2024 (arXiv 2410.15148), in closed form.
    """
    inputs, outputs = matrix(plain, "plain features"), matrix(tuned, "tuned features")
    if len(inputs) != len(outputs):
        raise BadRows(f"{len(inputs)} plain and {len(outputs)} tuned rows; use the same inputs.")
    centre, level = inputs.mean(axis=0), outputs.mean(axis=0)
    gram = (inputs - centre).T @ (inputs - centre)
    if not gram.any():
        raise BadRows(
            "every row of the plain features is the same; the encoder may have collapsed."
        )
    gram.flat[:: len(gram) + 1] += ridge * np.trace(gram) / len(gram)
    weights = np.linalg.solve(gram, (inputs - centre).T @ (outputs - level))
    return np.vstack([weights, level - centre @ weights])


def mapped(features: ArrayLike, map_: ArrayLike) -> Floats:
    """Apply what ``embedding_map`` returned to features (M, D)."""
    points, weights = matrix(features, "features"), matrix(map_, "embedding map")
    if points.shape[1] != len(weights) - 1:
        raise BadRows(f"a map from {len(weights) - 1} dimensions cannot take {points.shape[1]}.")
    return points @ weights[:-1] + weights[-1]


# Gradients of an encoder on the rows of a task.


@dataclass(frozen=True)
class Probe:
    """Encoder, task, its format, its rows encoded for training, and how a text's states are pooled."""

    encoder: Encoder
    task: Task
    format: FormatBase
    encoded: Encoded
    pooling: str = "mean"

    def network(self, head: nn.Module) -> Network:
        """Join the encoder and a head on the best device."""
        from helpers.models.network import Network, best_device

        name = self.task.name
        network = Network(self.encoder.model, {name: head}, {name: self.format})
        return network.to(best_device()).eval()

    def batches(self, rows: NDArray[np.int64], budget: int = 4096) -> list[NDArray[np.int64]]:
        """Sequences of some rows, cut into batches."""
        from helpers.formats.encoded import sorted_batches

        wanted = np.isin(self.encoded.example, rows)
        cut = (index[wanted[index]] for index in sorted_batches(self.encoded, budget))
        return [index for index in cut if len(index)]


def parameters(encoder: Encoder) -> dict[str, nn.Parameter]:
    """Return the parameters of an encoder by name, word embeddings left out."""
    table = encoder.model.get_input_embeddings().weight
    return {name: p for name, p in encoder.model.named_parameters() if p is not table}


def fit_head(probe: Probe, seed: int, steps: int = 100, rate: float = 0.01) -> nn.Module:
    """Fit a head on the frozen encoder's states of a bootstrap sample, by steps of Adam.

    ``seed`` decides the head's start and the sample; several seeds give several heads.
    """
    import torch

    from helpers.formats import Batch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = probe.format.head(probe.task, probe.encoder.dimension, 0.0)
    network = probe.network(head)
    device = next(network.parameters()).device
    rows = np.unique(probe.encoded.example)
    random = np.random.default_rng([seed, 6])
    chosen = np.unique(random.choice(rows, len(rows)))
    # The encoder is frozen, so each batch is read once and its states serve every step.
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
    """Diagonal Fisher information of the encoder: mean squared per-example gradients.

    Squaring the gradient of a batch instead, as published code does, makes the result depend on the
    batch size. ``second`` marks the rows of the second half. ``sampled`` draws labels from the model
    (Fisher information) in place of the data's (empirical Fisher); ``by_filter`` averages a matrix
    over its inputs. Returns the diagonal by component for ``"a"``, ``"b"`` and ``"all"`` rows, and
    the number of rows.
    """
    import torch

    from helpers.formats import Batch

    network = probe.network(head)
    named = parameters(probe.encoder)
    device = next(iter(named.values())).device
    generator = torch.Generator(device=device).manual_seed(seed)
    totals = {part: {n: torch.zeros_like(p) for n, p in named.items()} for part in NAMES}
    counts = dict.fromkeys(NAMES, 0)
    rows, first = np.unique(probe.encoded.example, return_index=True)
    ends = [*first[1:], len(probe.encoded.example)]
    for row, begin, end in zip(rows, first, ends, strict=True):
        part = "b" if second[row] else "a"
        batch = Batch.collate(probe.encoded, np.arange(begin, end), device)
        hidden = network.states(batch)
        if sampled:
            _draw_labels(probe, head, hidden.detach(), batch, generator)
        loss = probe.format.loss(head, hidden, batch, probe.pooling)
        for name, gradient in _gradients(loss, named).items():
            totals[part][name].addcmul_(gradient, gradient)
        counts[part] += 1
    result: Halves = {"a": {}, "b": {}, "all": {}}
    for name in named:
        sums = {part: _flat(totals[part][name], by_filter) for part in NAMES}
        for part in NAMES:
            result[part][name] = (sums[part] / max(counts[part], 1)).astype(np.float32)
        everything = (sums["a"] + sums["b"]) / max(sum(counts.values()), 1)
        result["all"][name] = everything.astype(np.float32)
    return result, sum(counts.values())


def _gradients(loss: Tensor, named: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """Gradients of a loss by parameter; a parameter out of use has none."""
    import torch

    trainable = {name: p for name, p in named.items() if p.requires_grad}
    found = torch.autograd.grad(loss, list(trainable.values()), allow_unused=True)
    return {n: g for n, g in zip(trainable, found, strict=True) if g is not None}


def _flat(values: Tensor, by_filter: bool) -> Single:
    if by_filter and values.dim() > 1:
        values = values.flatten(1).mean(dim=1)
    return values.detach().flatten().float().cpu().numpy()


def _draw_labels(
    probe: Probe, head: nn.Module, hidden: Tensor, batch: Batch, generator: torch.Generator
) -> None:
    """Replace the labels of a batch by draws from the model, in place (Gumbel maxima)."""
    import torch

    from helpers.formats import pool
    from helpers.formats.encoded import IGNORE

    kind = probe.task.format
    with torch.no_grad():
        pooled = pool(hidden, batch, probe.pooling) if kind in ("pair", "choice") else hidden
        scores = head(pooled).squeeze(-1) if kind == "choice" else head(pooled)
        noise = torch.empty_like(scores).exponential_(generator=generator).log_().neg_()
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


def mean_gradient(
    probe: Probe, heads: Sequence[nn.Module], second: NDArray[np.bool_]
) -> dict[str, Single]:
    """Unit gradient (P,) of the mean loss at the encoder, averaged over several fitted heads.

    The inner product of two such vectors is the mean cosine over all pairs of heads; with random
    heads the sign of a gradient would be that of the head. For ``"a"``, ``"b"`` and ``"all"`` rows.

    Source: the gradient inner product of Pruthi et al. 2020 (arXiv 2002.08484), normalised.
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
                raise BadRows(f"the gradient of {probe.task.name} at the plain encoder is zero.")
            unit = gradient / norm / len(heads)
            total[part] = total[part] + unit if part in total else unit
    return {part: vector.cpu().numpy().astype(np.float32) for part, vector in total.items()}


def _summed_gradient(probe: Probe, head: nn.Module, rows: NDArray[np.int64]) -> Tensor:
    import torch

    from helpers.formats import Batch

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
