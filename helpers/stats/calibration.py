"""How often the analysis is wrong: type I error, coverage and power, by simulation.

Run ``python -m helpers.stats.calibration`` to make or extend the tables in ``data/calibration``. It
works in batches, each seeded by its own name, and continues where it was stopped.
"""

from __future__ import annotations

import argparse
import functools
import json
import platform
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
import scipy
from scipy import stats

from helpers.errors import BadFit, unknown
from helpers.files import sha256_file, write_atomic
from helpers.stats import design, freedom, interaction, naive, permutation, reml, scenarios
from helpers.stats.scenarios import SCENARIOS, Scenario

SEED = 20261123
BATCH = 50
RELABELLINGS = 499
FORMATS = ("intermediate_format", "target_format")
RANDOM = ("intermediate", "target", "block")
FINAL = "REML, blocks, Kenward-Roger"
OTHER = "REML, blocks, Satterthwaite"
COMPANION = "permutation within formats"
COMPARED = 4  # batches in which the methods that are not ours run too
KEY = ["scenario", "slope", "method", "batch"]
# The scenarios whose power curve the book shows.
POWER = (
    "independent", "blocks none", "blocks half", "blocks",
    "20 x 10, none", "20 x 10, half", "20 x 10", "7 x 3",
)  # fmt: skip

Answer = Callable[[], pd.Series]
Answers = dict[str, Answer]
Draw = Callable[[np.random.Generator], pd.DataFrame]


def _permuted(data: pd.DataFrame, within: tuple[str, str] | None, seed: int) -> pd.Series:
    found = permutation.qap(
        data, "gain", "similarity", "intermediate", "target", within, RELABELLINGS, seed
    )
    return pd.Series({"estimate": found.estimate, "p": found.p})


def _reml(
    data: pd.DataFrame,
    fixed: Sequence[str] = ("similarity",),
    random: Sequence[str] = RANDOM,
    outcome: str = "gain",
) -> pd.Series:
    fit = reml.crossed_reml(data, outcome, fixed, random)
    return fit["similarity"]


class Final:
    """What the specified analysis says of dyad tables with the same tasks: REML, and its companion.

    The first table goes through `reml.crossed_reml` and `permutation.grid`; later ones reuse what
    depends on the tasks alone, which a test shows to give the same answers.
    """

    def __init__(self) -> None:
        """Start without a table."""
        self.first: tuple[reml.Fit, permutation.Grid] | None = None

    def prepared(self, data: pd.DataFrame) -> tuple[reml.Fit, permutation.Grid]:
        """Return fit and grid of the first table."""
        if self.first is None:
            full = data.dropna(subset=["gain"])
            names = ("intermediate", "target")
            self.first = (
                reml.crossed_reml(full, "gain", ["similarity"], RANDOM),
                permutation.grid(data, "gain", ["similarity"], names[0], names[1], FORMATS),
            )
        return self.first

    def __call__(self, data: pd.DataFrame, seed: int) -> Answers:
        """Return how to ask each method about a table."""
        known = data["gain"].notna().to_numpy()
        x, y = (data[c].to_numpy(float) for c in ("similarity", "gain"))

        @functools.cache
        def fit_here() -> reml.Fit:
            return reml.refit(self.prepared(data)[0], y[known], x[known, None])

        def satterthwaite() -> pd.Series:
            fit = fit_here()
            found = freedom.precision(fit.model.cross, fit.peak, "satterthwaite")
            df = float(np.clip(found.df[1], 1, fit.rows - 2))
            se = float(found.covariance[1, 1]) ** 0.5
            return naive.estimate(float(fit.peak.state.beta[1]), se, df)

        def permuted() -> pd.Series:
            grid = self.prepared(data)[1]
            shape = grid.outcome.shape
            here = replace(grid, outcome=y.reshape(shape), predictors=x.reshape(1, *shape))
            found = permutation.qap_grid(here, RELABELLINGS, seed)
            return pd.Series({"estimate": found.estimate, "p": found.p})

        return {
            FINAL: lambda: fit_here()["similarity"],
            OTHER: satterthwaite,
            COMPANION: permuted,
        }


class All(Final):
    """The specified analysis and the ones it is compared with."""

    def __call__(self, data: pd.DataFrame, seed: int) -> Answers:
        """Return how to ask each method about a table."""
        full = data.dropna(subset=["gain"])
        both = ["intermediate", "target"]

        def ols(effects: Sequence[str] = (), clusters: Sequence[str] = ()) -> Answer:
            return lambda: naive.ols(full, "gain", "similarity", effects, clusters)

        return {
            **super().__call__(data, seed),
            "REML, blocks, same-format indicator": lambda: _reml(
                full, ["similarity", "same_format"]
            ),
            "REML without blocks": lambda: _reml(full, random=both),
            "permutation, free": lambda: _permuted(data, None, seed),
            "two-way fixed effects": ols(both),
            "OLS": ols(),
            "OLS, clustered by target": ols(clusters=["target"]),
            "OLS, clustered both ways": ols(clusters=both),
        }


def dyad_tables(scenario: Scenario, slope: float) -> Draw:
    """Return what draws dyad tables of a scenario; every stored replicate comes from here."""
    empty = np.zeros((len(scenario.formats[0]), len(scenario.formats[1])))
    frame = scenarios.table(scenario, empty, empty)

    def draw(rng: np.random.Generator) -> pd.DataFrame:
        similarity, gain = scenarios.draw(scenario, slope, rng)
        return frame.assign(similarity=similarity.ravel(), gain=gain.ravel())

    return draw


def language_answers(data: pd.DataFrame, seed: int) -> Answers:
    """Return the slope of gain on similarity from rows per language, in right and wrong ways."""
    both = ["intermediate", "target"]
    means = data.groupby([*both, "block", "similarity"], as_index=False).agg(gain=("gain", "mean"))
    cells = data.assign(
        dyad=data["intermediate"] + data["target"], cell=data["target"] + data["language"]
    )

    def ols(effects: Sequence[str] = (), clusters: Sequence[str] = ()) -> Answer:
        return lambda: naive.ols(cells, "gain", "similarity", effects, clusters)

    return {
        "dyad means, " + FINAL: lambda: _reml(means),
        "rows, OLS": ols(),
        "rows, two-way fixed effects": ols(both),
        "rows, clustered by target x language": ols(both, ["cell"]),
        "rows, clustered by dyad": ols(both, ["dyad"]),
    }


def interaction_answers(data: pd.DataFrame, seed: int) -> Answers:
    """Return the change of the slope with language distance: by dyad slopes, and by rows."""
    rows = data.assign(product=data["similarity"] * data["distance"])
    effects = ["intermediate", "target", "distance", "similarity"]

    def by_dyad() -> pd.Series:
        keep = ["similarity", "block"]
        slopes = interaction.distance_slopes(data, "gain", "distance", keep)
        return _reml(slopes, outcome="slope")

    return {
        "dyad slopes, " + FINAL: by_dyad,
        "rows, two-way fixed effects": lambda: naive.ols(rows, "gain", "product", effects),
    }


def batch(
    name: str,
    slope: float,
    number: int,
    draw: Draw,
    answer: Callable[[pd.DataFrame, int], Answers],
    size: int = BATCH,
) -> pd.DataFrame:
    """Run one batch of replicates and count.

    Args:
        name, slope, number: identify the batch and seed it.
        draw: makes one table.
        answer: analyses one table.
        size: replicates.

    Returns:
        One row per method: scenario, slope, method, batch, replicates, refused (BadFit), rejected
        (p < .05), wrong_sign (rejected on the other side), covered, sum_estimate, sum_square,
        sum_se, intervals (replicates with an interval).
    """
    rng = np.random.default_rng([SEED, zlib.crc32(name.encode()), round(slope * 1000), number])
    rows = []
    for _ in range(size):
        data, seed = draw(rng), int(rng.integers(2**31))
        rows += [_judge(method, ask, slope) for method, ask in answer(data, seed).items()]
    counts = pd.DataFrame(rows).groupby("method", sort=False).sum().reset_index()
    counts = counts.assign(scenario=name, slope=slope, batch=number)
    return counts[[*KEY, *_COUNTED]]


_COUNTED = [
    "replicates", "refused", "rejected", "wrong_sign", "covered", "intervals",
    "sum_estimate", "sum_square", "sum_se",
]  # fmt: skip


def _judge(method: str, ask: Answer, slope: float) -> dict[str, float | str]:
    """Ask one method about one table and judge the answer by the truth."""
    row: dict[str, float | str] = {"method": method, **dict.fromkeys(_COUNTED, 0.0)}
    row["replicates"] = 1
    try:
        found = ask()
    except BadFit:
        return row | {"refused": 1}
    rejected = bool(found["p"] < 0.05)
    wrong = rejected and slope != 0 and np.sign(found["estimate"]) != np.sign(slope)
    row |= {"rejected": int(rejected), "wrong_sign": int(wrong)}
    row |= {"sum_estimate": found["estimate"], "sum_square": found["estimate"] ** 2}
    if "low" in found:
        covered = bool(found["low"] <= slope <= found["high"])
        row |= {"intervals": 1, "covered": int(covered), "sum_se": found["se"]}
    return row


def summary(counts: pd.DataFrame) -> pd.DataFrame:
    """Turn counts into rates.

    Args:
        counts: rows as `batch` returns them, from any number of batches.

    Returns:
        Per scenario, slope and method: replicates, rejected (share), its Monte Carlo standard
        error and 95 % interval (Wilson), coverage, bias, se_ratio (mean reported standard error
        over the actual standard deviation; NaN for permutation tests), refused (share).
    """
    total = (
        counts.groupby(["scenario", "slope", "method"], sort=False)[_COUNTED].sum().reset_index()
    )
    n = total["replicates"] - total["refused"]
    rate = total["rejected"] / n
    mean = total["sum_estimate"] / n
    spread = np.sqrt((total["sum_square"] - n * mean**2) / (n - 1))
    low, high = _wilson(rate, n)
    has = total["intervals"] > 0
    return pd.DataFrame(
        {
            "scenario": total["scenario"],
            "slope": total["slope"],
            "method": total["method"],
            "replicates": n,
            "rejected": rate,
            "mc_se": np.sqrt(rate * (1 - rate) / n),
            "mc_low": low,
            "mc_high": high,
            "coverage": (total["covered"] / n).where(has),
            "bias": mean - total["slope"],
            "se_ratio": (total["sum_se"] / n / spread).where(has),
            "refused": total["refused"] / total["replicates"],
        }
    )


def _wilson(rate: pd.Series, n: pd.Series) -> tuple[pd.Series, pd.Series]:
    z = float(stats.norm.ppf(0.975))
    centre = (rate + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(rate * (1 - rate) / n + z**2 / (4 * n**2))
    return centre - half, centre + half


def detectable(power: pd.DataFrame, method: str = FINAL, aim: float = 0.8) -> pd.DataFrame:
    """Return the slope each scenario detects with the power aimed at, by interpolation.

    Args:
        power: what `summary` returned, with several slopes per scenario.
        method: whose power.
        aim: power aimed at.

    Returns:
        scenario, slope (dyad standard deviations per standard deviation of similarity; NaN where
        the largest slope simulated does not reach the power).
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


def permuted_tables(
    data: pd.DataFrame, similarity: str, replicates: int = 1000, seed: int = SEED
) -> pd.DataFrame:
    """Measure type I error on a real dyad table whose similarity has been relabelled.

    Real gains keep their collapses, outliers and format blocks, and similarity keeps its values and
    follows formats as before, but which similarity belongs to which tasks is drawn anew: formats
    change places with their tasks, and tasks within formats. (Relabelling within formats alone
    would leave a true effect between formats in place, and the error rate would not be one.)

    Args:
        data: real dyad table with ``gain``, ``block`` and both format columns.
        similarity: measure to relabel.
        replicates: relabelled tables to analyse.
        seed: random seed.

    Returns:
        Counts as from `batch` (scenario ``"relabelled"``), for `summary`. In tables with few
        formats some relabellings are nearly the original, so a true effect shows in the rate.
    """
    table = permutation.grid(data, "gain", [similarity], "intermediate", "target", FORMATS)
    rng = np.random.default_rng(seed)
    groups = (table.row_groups, table.column_groups)
    orders = np.array([np.concatenate([_moved(rng, g) for g in groups]) for _ in range(replicates)])
    every = np.full(table.outcome.shape, True)
    moved = permutation.relabel(table.predictors, orders, every)[0]
    i, t = (a.ravel() for a in np.indices(table.outcome.shape))
    cells = pd.DataFrame({"intermediate": table.rows[i], "target": table.columns[t]})
    rest = data.drop(columns=[c for c in ("similarity", similarity) if c in data.columns])
    names = rest[["intermediate", "target"]].astype(str)
    tables = iter(
        cells.assign(similarity=values).merge(rest.assign(**names), on=["intermediate", "target"])
        for values in moved
    )

    def draw(rng: np.random.Generator) -> pd.DataFrame:
        return design.standardise(next(tables).dropna(subset=["similarity"]), ["similarity"])

    def answer(data: pd.DataFrame, seed: int) -> Answers:
        full = data.dropna(subset=["gain"])
        return {FINAL: lambda: _reml(full), COMPANION: lambda: _permuted(data, FORMATS, seed)}

    return batch("relabelled", 0.0, 0, draw, answer, replicates)


def _moved(rng: np.random.Generator, groups: np.ndarray) -> np.ndarray:
    """Return a relabelling in which groups change places as wholes, as far as sizes allow."""
    ranks = rng.permutation(groups.max() + 1)[groups] + rng.random(groups.size)
    order = np.empty(groups.size, int)
    order[np.argsort(groups, kind="stable")] = np.argsort(ranks)
    return order


# One study per stored file: scenario names, slopes, how to draw, how to answer.
Cell = tuple[str, float, Draw, Callable[[], Callable[..., Answers]]]


def dyad_cells() -> list[Cell]:
    """Return the cells of ``dyads.csv``: every scenario at 0 and 0.4, some at more slopes."""
    cells: list[Cell] = []
    for name, s in SCENARIOS.items():
        for slope in (0.0, 0.4):
            cells.append((name, slope, dyad_tables(s, slope), All))
    for name in POWER:
        for slope in (0.2, 0.6, 0.8):
            cells.append((name, slope, dyad_tables(SCENARIOS[name], slope), Final))
    return cells


def language_cells() -> list[Cell]:
    """Return the cells of ``languages.csv``: rows per language, 9 x 202."""
    cells: list[Cell] = []
    for slope in (0.0, 0.3):
        cells.append(("languages", slope, _row_drawer(slope, 0.0), lambda: language_answers))
    for slope in (0.0, 0.1):
        cells.append(
            ("language distance", slope, _row_drawer(0.3, slope), lambda: interaction_answers)
        )
    return cells


def _row_drawer(slope: float, change: float) -> Draw:
    return lambda rng: scenarios.language_rows(rng, slope, change)


STUDIES: Mapping[str, Callable[[], list[Cell]]] = {
    "dyads": dyad_cells,
    "languages": language_cells,
}
SOURCES = (
    "calibration", "design", "freedom", "interaction", "likelihood", "naive", "permutation", "reml", "scenarios",
)  # fmt: skip


def run(folder: Path, study: str = "dyads", replicates: int = 1000) -> pd.DataFrame:
    """Make or extend a stored table of counts.

    Args:
        folder: where ``<study>.csv`` and ``<study>.json`` (parameters) lie.
        study: one of ``STUDIES``.
        replicates: per scenario and slope, rounded up to whole batches.

    Returns:
        The counts, as stored.
    """
    if study not in STUDIES:
        raise unknown("calibration study", study, STUDIES)
    _describe(folder, study)  # first: the code that runs is the code that was loaded
    path = folder / f"{study}.csv"
    have = pd.read_csv(path) if path.exists() else pd.DataFrame(columns=[*KEY, *_COUNTED])
    done = set(map(tuple, have[["scenario", "slope", "batch"]].to_numpy()))
    parts = [have] if len(have) else []
    for number in range(-(-replicates // BATCH)):
        for name, slope, draw, answer in STUDIES[study]():
            if (name, slope, number) in done:
                continue
            answer = Final if answer is All and number >= COMPARED else answer
            parts.append(batch(name, slope, number, draw, answer()))
            table = pd.concat(parts, ignore_index=True)
            write_atomic(path, table.to_csv(index=False, float_format="%.10g").encode())
            parts = [table]
    return load(folder, study)


def load(folder: Path, study: str = "dyads") -> pd.DataFrame:
    """Return stored counts in a fixed order."""
    return pd.read_csv(folder / f"{study}.csv")


def _describe(folder: Path, study: str) -> None:
    """Write down what made a table: parameters, versions, and checksums of the code."""
    here = Path(__file__).parent
    about = {
        "command": f"python -m helpers.stats.calibration --study {study}",
        "seed": SEED,
        "batch": BATCH,
        "batches_with_all_methods": COMPARED,
        "relabellings": RELABELLINGS,
        "scenarios": [asdict(s) for s in SCENARIOS.values()]
        if study == "dyads"
        else "language_rows",
        "versions": {
            "python": platform.python_version(),
            "numpy": np.__version__,
            "scipy": scipy.__version__,
            "pandas": pd.__version__,
        },
        "code": {name: sha256_file(here / f"{name}.py") for name in SOURCES},
    }
    lines = [f" {json.dumps(key)}: {json.dumps(value)}" for key, value in about.items()]
    text = "{\n" + ",\n".join(lines) + "\n}\n"
    write_atomic(folder / f"{study}.json", text.encode())


def main(arguments: Iterable[str] | None = None) -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--study", choices=sorted(STUDIES), default="dyads")
    parser.add_argument("--replicates", type=int, default=1000)
    parser.add_argument("--folder", type=Path, default=Path("data/calibration"))
    chosen = parser.parse_args(list(arguments) if arguments is not None else None)
    counts = run(chosen.folder, chosen.study, chosen.replicates)
    print(summary(counts).to_string(index=False, float_format="%.3f"))


if __name__ == "__main__":
    main()
