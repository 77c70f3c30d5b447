"""Simulated dyad tables with a known slope: the worlds the analysis is tried in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

Similarity = Literal["independent", "nodes", "interactions", "blocks", "confounded"]

# Formats of a grid like that of the study: 9 intermediates, 10 targets, 4 x 5 formats.
PAPER = ((0, 0, 0, 1, 1, 2, 2, 2, 3), (0, 2, 3, 3, 1, 1, 1, 4, 4, 4))
WIDE = (tuple(k % 4 for k in range(20)), PAPER[1])
DEMO = ((0, 0, 0, 0, 1, 1, 1), (1, 2, 3))
SMALLEST = ((0, 0, 1, 1), (1, 2, 3))
# Number of languages per XTREME-R target, 202 cells in all.
XTREME_R = (15, 11, 38, 48, 11, 7, 9, 41, 11, 11)


@dataclass(frozen=True)
class Scenario:
    """A world to draw dyad tables from; its residual between dyads has standard deviation 1.

    Attributes:
        name: short name, unique.
        about: what makes it hard, in one sentence.
        formats: format of each intermediate, and of each target.
        similarity: how similarity arises: ``independent`` cells, sums of ``nodes`` (intermediate
            and target) and noise, low-rank ``interactions`` (of which the residual has its own),
            format ``blocks`` and noise, or ``confounded`` with the intermediates' main effect.
        block: standard deviation of the residual's format blocks.
        node: standard deviation of intermediate and target effects.
        missing: cells (intermediate, target) without an outcome, as identity pairs have.
        noise: seed standard deviation per target; each dyad averages 3 runs and shares the mean
            of 6 baseline runs with the target's other dyads.
        collapses: share of dyads that lose 10 standard deviations.
    """

    name: str
    about: str
    formats: tuple[Sequence[int], Sequence[int]] = PAPER
    similarity: Similarity = "blocks"
    block: float = 1.0
    node: float = 1.0
    missing: tuple[tuple[int, int], ...] = ()
    noise: tuple[float, ...] = ()
    collapses: float = 0.0


SCENARIOS = {
    s.name: s
    for s in (
        Scenario("independent", "Nothing but tasks and noise.", similarity="independent", block=0),
        Scenario("nodes", "Some tasks are similar to all others.", similarity="nodes", block=0),
        Scenario(
            "interactions",
            "Similarity and gain each have low-rank structure, unrelated to one another.",
            similarity="interactions",
            block=0,
        ),
        Scenario("blocks none", "Similarity follows the formats; gains do not.", block=0),
        Scenario("blocks half", "Both follow the formats, gains moderately.", block=0.5),
        Scenario("blocks", "Both follow the formats, independently of one another."),
        Scenario(
            "blocks, pairs missing",
            "As blocks, without six identity pairs.",
            missing=((0, 0), (1, 0), (3, 4), (3, 5), (4, 4), (4, 5)),
        ),
        Scenario(
            "blocks, noisy targets",
            "As blocks; seed noise differs twentyfold between targets and baselines are shared.",
            noise=(0.3, 0.4, 0.5, 0.7, 0.8, 1.7, 2.1, 3.9, 4.2, 5.9),
        ),
        Scenario("blocks, collapses", "As blocks; 4.5 % of dyads collapse.", collapses=0.045),
        Scenario(
            "confounded",
            "Intermediates that are similar to everything also help everywhere.",
            similarity="confounded",
            block=0,
        ),
        Scenario("20 x 10, none", "Twenty intermediates.", WIDE, block=0),
        Scenario("20 x 10, half", "Twenty intermediates, moderate blocks.", WIDE, block=0.5),
        Scenario("20 x 10", "Twenty intermediates, strong blocks.", WIDE),
        Scenario("7 x 3", "The size of the demo study with all its intermediates.", DEMO),
        Scenario("4 x 3", "The size of the demo study by default.", SMALLEST),
    )
}


def standard(values: np.ndarray) -> np.ndarray:
    """Return values with mean 0 and standard deviation 1 over all cells."""
    return np.asarray((values - values.mean()) / values.std())


def _similarity(s: Scenario, rng: np.random.Generator, u: np.ndarray) -> np.ndarray:
    """Draw a similarity table, shape (intermediates, targets)."""
    rows, columns = (np.asarray(f) for f in s.formats)
    size = (rows.size, columns.size)
    noise = rng.normal(size=size)
    if s.similarity == "nodes":
        noise = noise + rng.normal(size=(size[0], 1)) + rng.normal(size=(1, size[1]))
    elif s.similarity == "interactions":
        noise = 0.5 * noise + rng.normal(size=(size[0], 2)) @ rng.normal(size=(2, size[1]))
    elif s.similarity == "blocks":
        noise = noise + _blocks(s, rng)
    elif s.similarity == "confounded":
        noise = noise + u
    return standard(noise)


def _blocks(s: Scenario, rng: np.random.Generator) -> np.ndarray:
    rows, columns = (np.asarray(f) for f in s.formats)
    values = rng.normal(size=(rows.max() + 1, columns.max() + 1))
    return np.asarray(values[rows[:, None], columns])


def draw(s: Scenario, slope: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw one similarity table and one gain table, shape (intermediates, targets) each.

    Args:
        s: the world.
        slope: true slope of gain on standardised similarity.
        rng: random numbers.

    Returns:
        Similarity, and gain with NaN where the scenario has no outcome.
    """
    size = (len(s.formats[0]), len(s.formats[1]))
    u, v = s.node * rng.normal(size=(size[0], 1)), s.node * rng.normal(size=(1, size[1]))
    similarity = _similarity(s, rng, u)
    gain = slope * similarity + u + v + rng.normal(size=size)
    if s.block:
        gain += s.block * _blocks(s, rng)
    if s.similarity == "interactions":
        gain += rng.normal(size=(size[0], 2)) @ rng.normal(size=(2, size[1])) / np.sqrt(2)
    if s.noise:
        sd = np.asarray(s.noise)
        gain += sd / np.sqrt(3) * rng.normal(size=size)
        gain -= sd / np.sqrt(6) * rng.normal(size=(1, size[1]))
    if s.collapses:
        gain -= 10.0 * (rng.random(size) < s.collapses)
    for cell in s.missing:
        gain[cell] = np.nan
    return similarity, gain


def table(s: Scenario, similarity: np.ndarray, gain: np.ndarray) -> pd.DataFrame:
    """Return a dyad table with columns named as in the study.

    Args:
        s: the world.
        similarity, gain: shape (intermediates, targets).
    """
    i, t = (a.ravel() for a in np.indices(gain.shape))
    rows, columns = (np.asarray(f) for f in s.formats)
    out = pd.DataFrame(
        {"intermediate": [f"i{k:02d}" for k in i], "target": [f"t{k:02d}" for k in t]}
    )
    out["intermediate_format"] = [f"f{k}" for k in rows[i]]
    out["target_format"] = [f"f{k}" for k in columns[t]]
    out["block"] = out["intermediate_format"] + " x " + out["target_format"]
    out["same_format"] = (out["intermediate_format"] == out["target_format"]).astype(float)
    return out.assign(similarity=similarity.ravel(), gain=gain.ravel())


def language_rows(
    rng: np.random.Generator,
    slope: float,
    interaction: float = 0.0,
    languages: Sequence[int] = XTREME_R,
    intermediates: int = 9,
    of: int = 50,
) -> pd.DataFrame:
    """Draw gains per language with the true structure of a study over languages.

    Dyads have their own level (standard deviation 1) and their own slope on language distance
    (0.3); every target-language cell has one baseline error (1) that all its gains share.

    Args:
        rng: random numbers.
        slope: true slope of gain on similarity.
        interaction: true change of that slope per standard deviation of language distance.
        languages: number of languages per target.
        intermediates: number of intermediates.
        of: number of languages to choose from.

    Returns:
        intermediate, target, language, formats, block, similarity, distance, gain.
    """
    frame = _cells(rng, languages, intermediates, of)
    i, t, k = (frame.pop(c).to_numpy() for c in ("i", "t", "k"))
    size = (intermediates, len(languages))
    similarity = standard(rng.normal(size=size))[i, t]
    distance = standard(rng.normal(size=of))[k]
    gain = (slope + interaction * distance) * similarity + rng.normal(size=len(frame))
    gain += rng.normal(size=size[0])[i] + rng.normal(size=size[1])[t] + rng.normal(size=size)[i, t]
    gain += 0.3 * rng.normal(size=size)[i, t] * distance
    gain += 0.5 * rng.normal(size=of)[k] - rng.normal(size=(size[1], of))[t, k]
    return frame.assign(similarity=similarity, distance=distance, gain=gain)


def _cells(
    rng: np.random.Generator, languages: Sequence[int], intermediates: int, of: int
) -> pd.DataFrame:
    chosen = [(t, k) for t, n in enumerate(languages) for k in rng.choice(of, n, replace=False)]
    cells = [(i, t, k) for i in range(intermediates) for t, k in chosen]
    frame = pd.DataFrame(cells, columns=["i", "t", "k"])
    rows, columns = np.resize(PAPER[0], intermediates), np.resize(PAPER[1], len(languages))
    frame["intermediate"] = [f"i{k:02d}" for k in frame["i"]]
    frame["target"] = [f"t{k:02d}" for k in frame["t"]]
    frame["language"] = [f"l{k:02d}" for k in frame["k"]]
    frame["block"] = [
        f"f{rows[a]} x f{columns[b]}" for a, b in zip(frame["i"], frame["t"], strict=True)
    ]
    return frame
