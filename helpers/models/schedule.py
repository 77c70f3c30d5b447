"""Which batch of which task every step takes: fixed by the seed, the same after a restart."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from helpers.formats import Encoded
from helpers.formats.encoded import shuffled_batches
from helpers.models.settings import Settings


@dataclass(frozen=True)
class Step:
    """One optimiser step: a task and the sequences it takes."""

    task: str
    batch: np.ndarray


def mixture(sizes: Mapping[str, int], settings: Settings) -> dict[str, float]:
    """Return the probability of each task in a multi-task step.

    Args:
        sizes: training rows per task.
        settings: its ``sampling``, ``temperature`` and ``cap`` are used.

    Returns:
        Probabilities that sum to 1, in the order of ``sizes``.

    Source:
        Raffel et al. (2020), section 3.5.2: examples-proportional mixing with a cap, and
        temperature-scaled mixing.
    """
    counts = np.array(list(sizes.values()), float)
    if settings.sampling == "capped" and settings.cap:
        counts = np.minimum(counts, settings.cap)
    if settings.sampling == "temperature":
        counts = counts ** (1 / settings.temperature)
    return dict(zip(sizes, (counts / counts.sum()).tolist(), strict=True))


def schedule(
    encoded: Mapping[str, Encoded],
    settings: Settings,
    seed: int,
    auxiliary: str = "",
    packed: bool = False,
) -> list[Step]:
    """Return every step of a run, in order.

    Args:
        encoded: training set per task.
        settings: epochs, token budget and mixing.
        seed: fixes shuffling and mixing.
        auxiliary: name of a set that is not a task (masked language modelling); it takes
            ``settings.mlm_share`` of the steps.
        packed: whether sequences are laid end to end, so that padding costs nothing.

    Returns:
        The steps; a single task is simply passed over ``epochs`` times.
    """
    mains = {name: part for name, part in encoded.items() if name != auxiliary}
    streams = {
        name: _stream(part, settings.batch_tokens, seed, place, packed)
        for place, (name, part) in enumerate(encoded.items())
    }
    budget = settings.batch_tokens
    counts = {
        name: len(shuffled_batches(part, budget, _rng(seed, 0, 0), packed=packed))
        for name, part in mains.items()
    }
    if len(mains) == 1 and not auxiliary:
        (name,) = mains
        total = max(1, math.ceil(settings.epochs * counts[name]))
        return [Step(name, next(streams[name])) for _ in range(total)]
    shares = mixture({name: part.rows for name, part in mains.items()}, settings)
    total = max(1, math.ceil(settings.epochs * sum(counts.values())))
    if auxiliary:
        shares = {n: p * (1 - settings.mlm_share) for n, p in shares.items()}
        shares[auxiliary] = settings.mlm_share
        total = math.ceil(total / (1 - settings.mlm_share))
    names = list(shares)
    drawn = _rng(seed, 1, 0).choice(len(names), size=total, p=np.array(list(shares.values())))
    return [Step(names[i], next(streams[names[i]])) for i in drawn]


def _rng(seed: int, stream: int, epoch: int) -> np.random.Generator:
    return np.random.default_rng([seed, stream, epoch])


def _stream(
    encoded: Encoded, budget: int, seed: int, place: int, packed: bool
) -> Iterator[np.ndarray]:
    epoch = 0
    while True:
        yield from shuffled_batches(encoded, budget, _rng(seed, 2 + place, epoch), packed=packed)
        epoch += 1


def rate(step: int, total: int, settings: Settings) -> float:
    """Return the learning rate of a step: linear warm-up, then linear decay to 0."""
    rising = max(1, round(total * settings.warmup))
    if step < rising:
        return settings.learning_rate * (step + 1) / rising
    return settings.learning_rate * (total - step) / max(1, total - rising)
