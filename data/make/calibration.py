"""Make or extend data/calibration: how often the analysis is wrong, by simulation.

    python -m data.make.calibration --study dyads --replicates 1000

Simulated tables with a known slope are analysed as the specification says, and in the ways it is
compared with. Batches are seeded by their own names, so that a run continues where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy

from helpers.files import commit, write_atomic
from helpers.stats import calibration, confirmatory, gains, permutation, reml
from helpers.stats.calibration import (
    COUNTED,
    FINAL,
    KEY,
    OTHER,
    RELABELLINGS,
    SEED,
    SLOPES,
    Answers,
    ols,
)  # fmt: skip
from helpers.stats.confirmatory import DYAD, RANDOM, TASKS

FOLDER = Path(__file__).resolve().parents[1] / "calibration"
BATCH = 50
COMPARED = 4  # batches in which the methods that are not ours run too

Draw = Callable[[np.random.Generator], pd.DataFrame]
Analyse = Callable[[pd.DataFrame, int], Answers]

# Formats of a grid like that of the study: 9 intermediates, 10 targets, 4 x 5 formats.
PAPER = ((0, 0, 0, 1, 1, 2, 2, 2, 3), (0, 2, 3, 3, 1, 1, 1, 4, 4, 4))
WIDE = (tuple(k % 4 for k in range(20)), PAPER[1])
DEMO = ((0, 0, 0, 0, 1, 1, 1), (1, 2, 3))
SMALLEST = ((0, 0, 1, 1), (1, 2, 3))
# Number of languages per XTREME-R target, 202 cells in all.
XTREME_R = (15, 11, 38, 48, 11, 7, 9, 41, 11, 11)


@dataclass(frozen=True)
class Scenario:
    """A world to draw dyad tables from; its residual between dyads has standard deviation 1."""

    name: str
    about: str  # what makes it hard, in one sentence
    formats: tuple[Sequence[int], Sequence[int]] = PAPER  # of each intermediate, of each target
    # How similarity arises: "independent" cells, sums of "nodes" and noise, low-rank "interactions"
    # (the residual has its own), format "blocks" and noise, or "confounded" with the main effect of
    # the intermediates ("confounded by target": of the targets).
    similarity: str = "blocks"
    block: float = 1.0  # standard deviation of the residual's format blocks
    node: float = 1.0  # and of intermediate and target effects
    missing: tuple[tuple[int, int], ...] = ()  # cells without an outcome, as identity pairs have
    # Seed noise per target: a dyad averages 3 runs, and 6 baseline runs are shared within a target.
    noise: tuple[float, ...] = ()
    collapses: float = 0.0  # share of dyads that lose 10 standard deviations
    # Standard deviation of the slope between intermediates, targets and target formats.
    slopes: tuple[float, float, float] = (0.0, 0.0, 0.0)
    leverage: float = 0.0  # of the log of a target's own spread, of similarity and residual alike
    scales: tuple[float, ...] = ()  # per target, of all its gains: points of one are not another's
    within: bool = False  # whether gains are standardised within their target before the analysis


_FREE: dict[str, Any] = {"similarity": "independent", "block": 0}
_MISSING = ((0, 0), (1, 0), (3, 4), (3, 5), (4, 4), (4, 5))
_NOISE = (0.3, 0.4, 0.5, 0.7, 0.8, 1.7, 2.1, 3.9, 4.2, 5.9)


def _worlds(described: Mapping[str, tuple[str, dict[str, Any]]]) -> dict[str, Scenario]:
    return {name: Scenario(name, about, **facts) for name, (about, facts) in described.items()}


SCENARIOS = _worlds({
    "independent": ("Nothing but tasks and noise.", _FREE),
    "nodes": ("Some tasks are similar to all others.", {"similarity": "nodes", "block": 0}),
    "interactions": (
        "Similarity and gain each have low-rank structure, unrelated to one another.",
        {"similarity": "interactions", "block": 0},
    ),
    "blocks none": ("Similarity follows the formats; gains do not.", {"block": 0}),
    "blocks half": ("Both follow the formats, gains moderately.", {"block": 0.5}),
    "blocks": ("Both follow the formats, independently of one another.", {}),
    "blocks, pairs missing": ("As blocks, without six identity pairs.", {"missing": _MISSING}),
    "blocks, noisy targets": (
        "As blocks; seed noise differs twentyfold between targets and baselines are shared.",
        {"noise": _NOISE},
    ),
    "blocks, collapses": ("As blocks; 4.5 % of dyads collapse.", {"collapses": 0.045}),
    "confounded": (
        "Intermediates that are similar to everything also help everywhere.",
        {"similarity": "confounded", "block": 0},
    ),
    "20 x 10, none": ("Twenty intermediates.", {"formats": WIDE, "block": 0}),
    "20 x 10, half": ("Twenty intermediates, moderate blocks.", {"formats": WIDE, "block": 0.5}),
    "20 x 10": ("Twenty intermediates, strong blocks.", {"formats": WIDE}),
    "7 x 3": ("The size of the demo study with all its intermediates.", {"formats": DEMO}),
    "4 x 3": ("The size of the demo study by default.", {"formats": SMALLEST}),
})  # fmt: skip
# Worlds that an outside review missed, analysed as the specification says and with slopes that differ.
OTHERS = _worlds({
    "confounded by target": (
        "Targets that are similar to everything also gain everywhere.",
        {"similarity": "confounded by target", "block": 0},
    ),
    "slopes by target": ("The slope differs between targets.", _FREE | {"slopes": (0, 0.5, 0)}),
    "slopes by intermediate": (
        "The slope differs between intermediates.", _FREE | {"slopes": (0.5, 0, 0)},
    ),
    "slopes by format": (
        "The slope differs between target formats.", _FREE | {"slopes": (0, 0, 0.5)},
    ),
    "leverage": ("Targets with more varied similarity are noisier.", _FREE | {"leverage": 1.0}),
})  # fmt: skip
# The next study: ten intermediates, seven trained targets whose gains vary on scales of their own.
_NEXT: dict[str, Any] = {
    "formats": ((0, 0, 0, 1, 1, 2, 2, 2, 2, 3), (0, 0, 3, 3, 1, 1, 1)),
    "block": 0.5,
    "missing": ((0, 0), (1, 0), (3, 4), (4, 4), (3, 5), (4, 5)),
    "scales": (1.0, 2.5, 0.5, 1.5, 0.7, 0.7, 1.0),
}
NEXT = _worlds({
    "10 x 7, points": ("Gains of one target vary five times as much as those of another.", _NEXT),
    "10 x 7, within": ("The same, each target in its own spread.", _NEXT | {"within": True}),
})  # fmt: skip


def standard(values: np.ndarray) -> np.ndarray:
    """Return values with mean 0 and standard deviation 1 over all cells."""
    return np.asarray((values - values.mean()) / values.std())


def draw(s: Scenario, slope: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw similarity and gain, (intermediates, targets) each; NaN where a world has no outcome."""
    rows, columns = (np.asarray(f) for f in s.formats)
    size = (rows.size, columns.size)

    def blocks() -> np.ndarray:
        values = rng.normal(size=(rows.max() + 1, columns.max() + 1))
        return np.asarray(values[rows[:, None], columns])

    def low_rank() -> np.ndarray:
        return np.asarray(rng.normal(size=(size[0], 2)) @ rng.normal(size=(2, size[1])))

    u, v = s.node * rng.normal(size=(size[0], 1)), s.node * rng.normal(size=(1, size[1]))
    similarity, spread = rng.normal(size=size), np.ones((1, size[1]))
    if s.similarity == "nodes":
        similarity = similarity + rng.normal(size=(size[0], 1)) + rng.normal(size=(1, size[1]))
    elif s.similarity == "interactions":
        similarity = 0.5 * similarity + low_rank()
    elif s.similarity == "blocks":
        similarity = similarity + blocks()
    elif s.similarity.startswith("confounded"):
        similarity = similarity + (u if s.similarity == "confounded" else v)
    if s.leverage:
        spread = np.exp(s.leverage * rng.normal(size=(1, size[1])))
        spread /= np.sqrt((spread**2).mean())
    similarity = standard(similarity * spread)
    gain = slope * similarity + u + v + spread * rng.normal(size=size)
    if s.block:
        gain += s.block * blocks()
    if s.similarity == "interactions":
        gain += low_rank() / np.sqrt(2)
    if s.noise:
        sd = np.asarray(s.noise)
        gain += sd / np.sqrt(3) * rng.normal(size=size)
        gain -= sd / np.sqrt(6) * rng.normal(size=(1, size[1]))
    if s.collapses:
        gain -= 10.0 * (rng.random(size) < s.collapses)
    if any(s.slopes):
        own, of, by_format = s.slopes
        gain += own * rng.normal(size=(size[0], 1)) * similarity
        gain += of * rng.normal(size=(1, size[1])) * similarity
        gain += by_format * rng.normal(size=columns.max() + 1)[columns] * similarity
    if s.scales:
        gain *= s.scales
    for cell in s.missing:
        gain[cell] = np.nan
    return similarity, gain


def table(s: Scenario, similarity: np.ndarray, gain: np.ndarray) -> pd.DataFrame:
    """Return a dyad table with columns named as in the study; both arrays (intermediates, targets)."""
    i, t = (a.ravel() for a in np.indices(gain.shape))
    rows, columns = (np.asarray(f) for f in s.formats)
    out = pd.DataFrame({"intermediate": [f"i{k:02d}" for k in i]})
    out["target"] = [f"t{k:02d}" for k in t]
    out["intermediate_format"] = [f"f{k}" for k in rows[i]]
    out["target_format"] = [f"f{k}" for k in columns[t]]
    out["block"] = out["intermediate_format"] + " x " + out["target_format"]
    out["same_format"] = (out["intermediate_format"] == out["target_format"]).astype(float)
    out = out.assign(similarity=similarity.ravel(), gain=gain.ravel())
    if s.within:
        out["gain"] = gains.scale_within(out)["gain_within"]
    return out


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
    ``interaction`` is the change of the slope per standard deviation of that distance, and
    ``languages`` the number of a target's, out of ``of``.
    """
    chosen = [(t, k) for t, n in enumerate(languages) for k in rng.choice(of, n, replace=False)]
    cells = np.array([(i, t, k) for i in range(intermediates) for t, k in chosen])
    names = [[f"{letter}{n:02d}" for n in c] for letter, c in zip("itl", cells.T, strict=True)]
    frame = pd.DataFrame(dict(zip([*TASKS, "language"], names, strict=True)))
    i, t, k = cells.T
    rows, columns = np.resize(PAPER[0], intermediates), np.resize(PAPER[1], len(languages))
    frame["block"] = [f"f{rows[a]} x f{columns[b]}" for a, b in zip(i, t, strict=True)]
    size = (intermediates, len(languages))
    similarity = standard(rng.normal(size=size))[i, t]
    distance = standard(rng.normal(size=of))[k]
    gain = (slope + interaction * distance) * similarity + rng.normal(size=len(frame))
    gain += rng.normal(size=size[0])[i] + rng.normal(size=size[1])[t] + rng.normal(size=size)[i, t]
    gain += 0.3 * rng.normal(size=size)[i, t] * distance
    gain += 0.5 * rng.normal(size=of)[k] - rng.normal(size=(size[1], of))[t, k]
    return frame.assign(similarity=similarity, distance=distance, gain=gain)


# How each method is asked.


def ours(data: pd.DataFrame, seed: int) -> Answers:
    """Return the specified analysis, its companion, and the other small-sample method."""
    full = data.dropna(subset=["gain"])
    other = {OTHER: lambda: _reml(full, method="satterthwaite")}
    return {**calibration.specified(data, seed), **other}


def sloped(data: pd.DataFrame, seed: int) -> Answers:
    """Return those, and the model whose slope may differ between tasks."""
    full, random = data.dropna(subset=["gain"]), confirmatory.sloped("similarity")
    return {**calibration.specified(data, seed), SLOPES: lambda: _reml(full, random=random)}


def every(data: pd.DataFrame, seed: int) -> Answers:
    """Return the specified analysis and the ones it is compared with."""
    full = data.dropna(subset=["gain"])

    def free() -> pd.Series:
        found = permutation.qap(data, "gain", "similarity", *DYAD, None, RELABELLINGS, seed)
        return pd.Series({"estimate": found.estimate, "p": found.p})

    def least_squares(**how: Sequence[str]) -> Callable[[], pd.Series]:
        return lambda: ols(full, "gain", "similarity", **how)

    return {
        **ours(data, seed),
        "REML, blocks, same-format indicator": lambda: _reml(full, ["similarity", "same_format"]),
        "REML without blocks": lambda: _reml(full, random=TASKS),
        "permutation, free": free,
        "two-way fixed effects": least_squares(effects=TASKS),
        "OLS": least_squares(),
        "OLS, clustered by target": least_squares(clusters=["target"]),
        "OLS, clustered both ways": least_squares(clusters=TASKS),
    }


def _reml(
    data: pd.DataFrame,
    fixed: Sequence[str] = ("similarity",),
    random: Sequence[str] = RANDOM,
    outcome: str = "gain",
    method: reml.Method = "kenward-roger",
) -> pd.Series:
    return reml.crossed_reml(data, outcome, fixed, random, method=method)["similarity"]


def by_language(data: pd.DataFrame, seed: int) -> Answers:
    """Return the slope of gain on similarity from rows per language, in right and wrong ways."""
    means = data.groupby([*TASKS, "block", "similarity"], as_index=False).agg(gain=("gain", "mean"))
    cells = data.assign(dyad=data["intermediate"] + data["target"])
    cells["cell"] = data["target"] + data["language"]

    def on_rows(*how: Sequence[str]) -> Callable[[], pd.Series]:
        return lambda: ols(cells, "gain", "similarity", *how)

    return {
        "dyad means, " + FINAL: lambda: _reml(means),
        "rows, OLS": on_rows(),
        "rows, two-way fixed effects": on_rows(TASKS),
        "rows, clustered by target x language": on_rows(TASKS, ["cell"]),
        "rows, clustered by dyad": on_rows(TASKS, ["dyad"]),
    }


def by_distance(data: pd.DataFrame, seed: int) -> Answers:
    """Return the change of the slope with language distance: by dyad slopes, and by rows."""
    rows = data.assign(product=data["similarity"] * data["distance"])

    def by_dyad() -> pd.Series:
        keep = ["similarity", "block"]
        slopes = confirmatory.distance_slopes(data, "gain", "distance", keep)
        return _reml(slopes, outcome="slope")

    effects = [*TASKS, "distance", "similarity"]
    return {
        "dyad slopes, " + FINAL: by_dyad,
        "rows, two-way fixed effects": lambda: ols(rows, "gain", "product", effects),
    }


# The stored studies: scenario names, slopes, how to draw, how to answer.
Cell = tuple[str, float, Draw, Analyse]


def dyad_tables(scenario: Scenario, slope: float) -> Draw:
    """Return what draws dyad tables of a scenario; every stored replicate comes from here."""
    return lambda rng: table(scenario, *draw(scenario, slope, rng))


def dyad_cells() -> list[Cell]:
    """Return the cells of ``dyads.csv``: every scenario at 0 and 0.4, some at more slopes."""
    more = "independent|blocks none|blocks half|blocks|20 x 10, none|20 x 10, half|20 x 10|7 x 3"
    slopes = [(name, slope, every) for name in SCENARIOS for slope in (0.0, 0.4)]
    slopes += [(name, slope, ours) for name in more.split("|") for slope in (0.2, 0.6, 0.8)]
    return [(name, b, dyad_tables(SCENARIOS[name], b), ask) for name, b, ask in slopes]


def decision_cells() -> list[Cell]:
    """Return the cells of ``decision.csv``: four sizes of study at five slopes, and the other worlds."""
    sizes = [SCENARIOS[name] for name in ("blocks half", "20 x 10, half", "7 x 3", "4 x 3")]
    asked = [(s, b, calibration.specified) for s in sizes for b in (0.0, 0.2, 0.4, 0.6, 0.8)]
    asked += [(s, b, sloped) for s in OTHERS.values() for b in (0.0, 0.4)]
    return [(s.name, b, dyad_tables(s, b), answer) for s, b, answer in asked]


def scaled_cells() -> list[Cell]:
    """Return the cells of ``scaled.csv``: the next study, in points and within targets."""
    slopes = (0.0, 0.2, 0.4, 0.6)
    every = [(s, b) for s in NEXT.values() for b in slopes]
    return [(s.name, b, dyad_tables(s, b), calibration.specified) for s, b in every]


def language_cells() -> list[Cell]:
    """Return the cells of ``languages.csv``: rows per language, 9 x 202."""

    def rows(slope: float, change: float) -> Draw:
        return lambda rng: language_rows(rng, slope, change)

    cells: list[Cell] = [("languages", b, rows(b, 0.0), by_language) for b in (0.0, 0.3)]
    return cells + [("language distance", c, rows(0.3, c), by_distance) for c in (0.0, 0.1)]


STUDIES: Mapping[str, Callable[[], list[Cell]]] = {
    "dyads": dyad_cells,
    "decision": decision_cells,
    "scaled": scaled_cells,
    "languages": language_cells,
}


def run(folder: Path, study: str, replicates: int = 1000) -> pd.DataFrame:
    """Make or extend a stored table of counts, replicates rounded up to whole batches."""
    described = {"dyads": SCENARIOS, "decision": SCENARIOS | OTHERS, "scaled": NEXT}
    used = {module.__name__: module.__version__ for module in (np, scipy, pd)}
    about = {
        **{"command": f"python -m data.make.calibration --study {study}", "commit": commit()},
        **{"seed": SEED, "batch": BATCH, "batches_with_all_methods": COMPARED},
        "relabellings": RELABELLINGS,
        "scenarios": [asdict(s) for s in described.get(study, {}).values()] or "rows",
        "versions": {"python": platform.python_version(), **used},
    }
    lines = [f" {json.dumps(key)}: {json.dumps(value)}" for key, value in about.items()]
    write_atomic(folder / f"{study}.json", ("{\n" + ",\n".join(lines) + "\n}\n").encode())
    path = folder / f"{study}.csv"
    counts = pd.read_csv(path) if path.exists() else pd.DataFrame(columns=[*KEY, *COUNTED])
    done = set(map(tuple, counts[["scenario", "slope", "batch"]].to_numpy()))
    for number in range(-(-replicates // BATCH)):
        for name, slope, drawn, answer in STUDIES[study]():
            if (name, slope, number) in done:
                continue
            answer = ours if answer is every and number >= COMPARED else answer
            fresh = calibration.batch(name, slope, number, drawn, answer, BATCH)
            counts = pd.concat([counts, fresh], ignore_index=True) if len(counts) else fresh
            write_atomic(path, counts.to_csv(index=False, float_format="%.10g").encode())
    return calibration.load(folder, study)


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--study", choices=sorted(STUDIES), default="dyads")
    parser.add_argument("--replicates", type=int, default=1000)
    parser.add_argument("--folder", type=Path, default=FOLDER)
    chosen = parser.parse_args()
    counts = run(chosen.folder, chosen.study, chosen.replicates)
    print(calibration.summary(counts).to_string(index=False, float_format="%.3f"))


if __name__ == "__main__":
    main()
