"""How often the analysis is wrong: rates from stored counts, and on a study's own relabelled gains.

``data/make/calibration.py`` simulates the tables behind ``data/calibration``.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from helpers.errors import BadFit
from helpers.stats import design, permutation, reml
from helpers.stats.confirmatory import DYAD, FORMATS, RANDOM, TASKS

SEED = 20261123
RELABELLINGS = 499
FINAL = "REML, blocks, Kenward-Roger"
OTHER = "REML, blocks, Satterthwaite"
COMPANION = "permutation within formats"
KEY = ["scenario", "slope", "method", "batch"]
COUNTED = [
    "replicates", "refused", "rejected", "wrong_sign", "covered", "intervals",
    "sum_estimate", "sum_square", "sum_se",
]  # fmt: skip

Answers = dict[str, Callable[[], pd.Series]]


def load(folder: Path, study: str = "dyads") -> pd.DataFrame:
    """Return the stored counts of a study, ``"dyads"`` or ``"languages"``."""
    return pd.read_csv(folder / f"{study}.csv")


def worlds(folder: Path) -> pd.DataFrame:
    """Return the simulated worlds of the dyad study by name: about, formats and parameters."""
    described = json.loads((folder / "dyads.json").read_text())["scenarios"]
    return pd.DataFrame(described).set_index("name")


def batch(
    name: str,
    slope: float,
    number: int,
    draw: Callable[[np.random.Generator], pd.DataFrame],
    answer: Callable[[pd.DataFrame, int], Answers],
    size: int,
) -> pd.DataFrame:
    """Analyse simulated tables and count: one row per method, columns ``KEY`` and ``COUNTED``.

    Args:
        name, slope, number: identify the batch and seed it.
        draw, answer: make one table, and say how each method is asked about it.
        size: replicates.
    """
    rng = np.random.default_rng([SEED, zlib.crc32(name.encode()), round(slope * 1000), number])
    rows = []
    for _ in range(size):
        data, seed = draw(rng), int(rng.integers(2**31))
        for method, ask in answer(data, seed).items():
            row: dict[str, Any] = {"method": method, **dict.fromkeys(COUNTED, 0.0)}
            row["replicates"] = 1
            rows.append(row)
            try:
                found = ask()
            except BadFit:
                row["refused"] = 1
                continue
            row["rejected"] = int(found["p"] < 0.05)
            other_side = slope != 0 and np.sign(found["estimate"]) != np.sign(slope)
            row["wrong_sign"] = int(row["rejected"] and other_side)
            row |= {"sum_estimate": found["estimate"], "sum_square": found["estimate"] ** 2}
            if "low" in found:
                covered = int(found["low"] <= slope <= found["high"])
                row |= {"intervals": 1, "covered": covered, "sum_se": found["se"]}
    counts = pd.DataFrame(rows).groupby("method", sort=False).sum().reset_index()
    return counts.assign(scenario=name, slope=slope, batch=number)[[*KEY, *COUNTED]]


def summary(counts: pd.DataFrame) -> pd.DataFrame:
    """Turn counts into rates.

    Args:
        counts: rows as stored, or as `permuted_tables` returns them.

    Returns:
        Per scenario, slope and method: replicates, rejected (share), its Monte Carlo standard error and
        95 % interval (Wilson), coverage, bias, se_ratio (mean reported over actual standard error; NaN
        for permutation tests), refused (share).
    """
    key = ["scenario", "slope", "method"]
    total = counts.groupby(key, sort=False)[COUNTED].sum().reset_index()
    n = total["replicates"] - total["refused"]
    rate, mean = total["rejected"] / n, total["sum_estimate"] / n
    spread = np.sqrt((total["sum_square"] - n * mean**2) / (n - 1))
    z = float(stats.norm.ppf(0.975))
    centre = (rate + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(rate * (1 - rate) / n + z**2 / (4 * n**2))
    has = total["intervals"] > 0
    return total[key].assign(
        replicates=n,
        rejected=rate,
        mc_se=np.sqrt(rate * (1 - rate) / n),
        mc_low=centre - half,
        mc_high=centre + half,
        coverage=(total["covered"] / n).where(has),
        bias=mean - total["slope"],
        se_ratio=(total["sum_se"] / n / spread).where(has),
        refused=total["refused"] / total["replicates"],
    )


def detectable(power: pd.DataFrame, method: str = FINAL, aim: float = 0.8) -> pd.DataFrame:
    """Return the slope each scenario detects with the power aimed at, by interpolation.

    Args:
        power: what `summary` returned, with several slopes per scenario.
        method, aim: whose power, and how much.

    Returns:
        scenario, slope (dyad standard deviations per standard deviation of similarity; NaN where no
        slope simulated reaches the power).
    """
    rows = []
    for name, part in power[power["method"] == method].groupby("scenario", sort=False):
        part = part.sort_values("slope")
        reached = part["rejected"].cummax().to_numpy()
        slope = np.nan
        if len(part) > 1 and reached[-1] >= aim:
            slope = float(np.interp(aim, reached, part["slope"].to_numpy()))
        rows.append({"scenario": name, "slope": slope})
    return pd.DataFrame(rows)


def specified(data: pd.DataFrame, seed: int) -> Answers:
    """Return how the specified model and its companion are asked about a table."""

    def model() -> pd.Series:
        full = data.dropna(subset=["gain"])
        return reml.crossed_reml(full, "gain", ["similarity"], RANDOM)["similarity"]

    def companion() -> pd.Series:
        found = permutation.qap(data, "gain", "similarity", *DYAD, FORMATS, RELABELLINGS, seed)
        return pd.Series({"estimate": found.estimate, "p": found.p})

    return {FINAL: model, COMPANION: companion}


def permuted_tables(
    data: pd.DataFrame, similarity: str, replicates: int = 1000, seed: int = SEED
) -> pd.DataFrame:
    """Measure type I error on a real dyad table whose similarity has been relabelled.

    Gains keep their collapses, outliers and format blocks, and similarity its values and formats, but
    formats change places with their tasks, and tasks within formats. (Relabelling within formats alone
    would leave a true effect between formats in place.)

    Args:
        data: real dyad table with ``gain``, ``block`` and both format columns.
        similarity: measure to relabel.
        replicates, seed: relabelled tables to analyse.

    Returns:
        Counts (scenario ``"relabelled"``), for `summary`. With few formats some relabellings are nearly
        the original, so a true effect shows in the rate.
    """
    table = permutation.grid(data, "gain", [similarity], *DYAD, FORMATS)
    rng, every = np.random.default_rng(seed), np.full(table.outcome.shape, True)
    orders = [
        [_moved(rng, g) for g in (table.row_groups, table.column_groups)] for _ in range(replicates)
    ]
    moved = permutation.relabel(
        table.predictors[0], np.array([np.concatenate(o) for o in orders]), every
    )
    i, t = (a.ravel() for a in np.indices(table.outcome.shape))
    cells = pd.DataFrame({"intermediate": table.rows[i], "target": table.columns[t]})
    rest = data.drop(columns=[c for c in ("similarity", similarity) if c in data.columns])
    rest = rest.assign(**rest[TASKS].astype(str))
    tables = iter(cells.assign(similarity=values).merge(rest, on=TASKS) for values in moved)

    def draw(rng: np.random.Generator) -> pd.DataFrame:
        return design.standardise(next(tables).dropna(subset=["similarity"]), ["similarity"])

    return batch("relabelled", 0.0, 0, draw, specified, replicates)


def _moved(rng: np.random.Generator, groups: np.ndarray) -> np.ndarray:
    """Return a relabelling in which groups change places as wholes, as far as sizes allow."""
    ranks = rng.permutation(groups.max() + 1)[groups] + rng.random(groups.size)
    order = np.empty(groups.size, int)
    order[np.argsort(groups, kind="stable")] = np.argsort(ranks)
    return order
