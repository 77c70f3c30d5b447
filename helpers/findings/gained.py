"""Gains with their doubt: intervals, baselines, variance, and published numbers beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from helpers.findings.scope import BOTH
from helpers.findings.tables import nothing
from helpers.stats import design, effects, gains, noise, reml
from helpers.stats.confirmatory import RANDOM

PUBLISHED = Path(__file__).resolve().parents[2] / "data" / "published"


def intervals(scores: pd.DataFrame, level: float = 0.95) -> pd.DataFrame:
    """Return the gain of every dyad with an interval over seeds.

    A dyad that ran once has no spread of its own. It borrows that of its target's other arms, taken
    as equal in all of them.

    Args:
        scores: tidy score table.
        level: coverage aimed at.

    Returns:
        Columns of `noise.bootstrap`, ``own_noise`` (points: standard error that a dyad's own runs
        give its gain, from the spread within all arms of the target; what the baseline adds is
        shared by the target's dyads and is not in it), ``spread`` (``"own runs"``, ``"other runs of
        the target"`` or ``"unknown"``) and ``clear``: whether the interval leaves out zero.
    """
    table = noise.bootstrap(scores, level=level)
    own = table["se"].notna()
    spread = _spread(scores)
    half = np.array([_half(spread[str(row.target)], row, level) for row in table.itertuples()])
    variance = table["target"].map({target: found[0] for target, found in spread.items()})
    table["own_noise"] = np.sqrt(variance.astype(float) / table["seeds"])
    table["low"] = table["low"].where(own, table["gain"] - half)
    table["high"] = table["high"].where(own, table["gain"] + half)
    known = np.where(np.isfinite(half), "other runs of the target", "unknown")
    table["spread"] = np.where(own, "own runs", known)
    table["clear"] = (table["low"] > 0) | (table["high"] < 0)
    return table


def _spread(scores: pd.DataFrame) -> dict[str, tuple[float, int, bool]]:
    """Return, per target, the variance between whole runs of one arm, its df, and a flag.

    The flag says that the baseline trains nothing, so that it has no noise.
    """
    rows = gains.clean(scores)
    rows = rows[rows["language"] != "en"]
    runs = rows.groupby(["target", "condition", "intermediate", "seed"])["value"].mean() * 100
    out = {}
    for target, part in runs.groupby(level="target"):
        arms = part.groupby(level=["condition", "intermediate"])
        df = int((arms.size() - 1).sum())
        squares = float(((part - arms.transform("mean")) ** 2).sum())
        plain = rows[(rows["target"] == target) & (rows["condition"] == "none")]
        exact = "rows_trained" in plain and bool((plain["rows_trained"] == 0).all())
        out[str(target)] = (squares / df if df else np.nan, df, exact)
    return out


def _half(spread: tuple[float, int, bool], row: Any, level: float) -> float:
    variance, df, exact = spread
    if not df:
        return float("nan")
    shares = 1 / row.seeds + (0 if exact else 1 / row.baseline_seeds)
    return float(stats.t.ppf(0.5 + level / 2, df) * np.sqrt(variance * shares))


def grid(table: pd.DataFrame, column: str) -> pd.DataFrame:
    """Return one column of a dyad table as intermediates by targets, in order of appearance."""
    wide = table.pivot(index="intermediate", columns="target", values=column)
    return wide.reindex(index=table["intermediate"].unique(), columns=table["target"].unique())


def runs(scores: pd.DataFrame) -> pd.DataFrame:
    """Return the mean score of every finished run over the languages other than English.

    Args:
        scores: tidy score table.

    Returns:
        target, arm (``"without"`` or ``"with an intermediate"``), intermediate, seed, score (points).
    """
    rows = gains.clean(scores)
    rows = rows[(rows["language"] != "en") & rows["condition"].isin(["none", "single"])]
    by = ["target", "condition", "intermediate", "seed"]
    out = rows.groupby(by, as_index=False, sort=False)["value"].mean()
    out["arm"] = out["condition"].map({"none": "without", "single": "with an intermediate"})
    return out.assign(score=100 * out["value"]).drop(columns=["condition", "value"])


def baselines(rows: pd.DataFrame) -> pd.DataFrame:
    """Return, per target, its baseline, the noise of that, and how much gains differ.

    Args:
        rows: what `gains.gains` returned.

    Returns:
        target, metric, languages, baseline (points, English left out), seeds, seed_sd (points;
        missing with one run), gain (mean over intermediates) and gain_sd (its spread over them).
    """
    part = rows[(rows["language"] != "en") & (rows["condition"] == "single")]
    out = part.groupby("target", sort=False).agg(
        metric=("metric", "first"),
        languages=("language", "nunique"),
        baseline=("baseline", "mean"),
        seeds=("baseline_seeds", "min"),
        seed_sd=("baseline_sd", "first"),
    )
    out["baseline"] *= 100
    each = part.groupby(["target", "intermediate"])["gain"].mean().groupby(level="target")
    return out.join(each.agg(gain="mean", gain_sd="std")).reset_index()


def english(rows: pd.DataFrame) -> pd.DataFrame:
    """Return each dyad's gain in English beside its mean gain in the other languages.

    Args:
        rows: what `gains.gains` returned.

    Returns:
        intermediate, target, english, others, both in points; targets without English rows are not
        there.
    """
    part = rows[rows["condition"] == "single"]
    part = part.assign(where=np.where(part["language"] == "en", "english", "others"))
    wide = part.pivot_table(index=list(BOTH), columns="where", values="gain", observed=True)
    if not {"english", "others"} <= set(wide.columns):
        note = "No target has rows in English and in another language."
        return nothing(note, [*BOTH, "english", "others"])
    return wide.dropna().reset_index().rename_axis(columns=None)


def published(table: pd.DataFrame, folder: Path = PUBLISHED) -> pd.DataFrame:
    """Return published scores with and without an intermediate task, beside those of a study.

    The published scores with one are test scores of the best intermediate per target, which is a
    selection; of a study both the mean and the best gain are shown. Published means are over all
    languages of a target, English among them; those of a study leave English out.

    Args:
        table: dyad table.
        folder: where the published numbers lie.

    Returns:
        target, metric, encoder, without, with_best, difference (points; the last two are missing
        where nobody published an intermediate), and, where the study has the target, without_here,
        mean_here and best_here (points), source.
    """
    out = pd.concat([_with_intermediate(folder), _without_intermediate(folder)])
    here = table.groupby("target").agg(
        without_here=("baseline", "mean"), mean_here=("gain", "mean"), best_here=("gain", "max")
    )
    here["without_here"] *= 100
    out = out.join(here, on="target").sort_values(["target", "metric", "encoder"], kind="stable")
    names = ["target", "metric", "encoder", "without", "with_best", "difference", *here.columns]
    return out[[*names, "source"]].reset_index(drop=True)


def _with_intermediate(folder: Path) -> pd.DataFrame:
    rows = pd.read_csv(folder / "phang2020_test.csv")
    wide = rows.pivot_table(index=["target", "metric", "source"], columns="model", values="value")
    out = wide.dropna().reset_index().rename_axis(columns=None)
    out = out[~out["target"].str.contains("category|avg")]
    out = out.rename(columns={"XLM-R Large": "without", "X-STILTs (Phang 2020)": "with_best"})
    return out.assign(encoder="XLM-R Large", difference=out["with_best"] - out["without"])


def _without_intermediate(folder: Path) -> pd.DataFrame:
    """Return published means over languages, of targets that no published pair covers or by Base."""
    base, *large = (
        pd.read_csv(folder / f"{name}.csv")
        for name in ("xtreme_xlmr_base", "xtreme_xlmr_large", "xtreme_r_xlmr_large")
    )
    paired = set(_with_intermediate(folder)["target"])
    larger = pd.concat(large)
    larger = larger[~larger["task"].isin(paired)].assign(encoder="XLM-R Large")
    rows = pd.concat([larger, base.assign(encoder="XLM-R Base")])
    rows = rows[(rows["language"] == "avg") & ~rows["task"].str.contains("category|avg")]
    rows = rows.assign(source=rows["source"] + "; " + rows["protocol"])
    return rows.rename(columns={"task": "target", "score": "without"})


def shares(table: pd.DataFrame, spread: pd.DataFrame) -> pd.DataFrame:
    """Split the variance of gains between dyads into what tasks, formats and dyads hold.

    Args:
        table: dyad table.
        spread: what `intervals` returned; ``own_noise`` gives the part that seeds explain.

    Returns:
        Indexed by effect: variance, low, high (profile likelihood), sd, sd_low, sd_high (points),
        share, and the row ``"of that, seed noise"``: the mean sampling variance that a dyad's own
        runs give its gain, over the dyads where it is known. No similarity can explain it. (Noise of
        the baseline is the same for all dyads of a target and is part of the target's variance.)

    Raises:
        BadFit: the dyads do not carry the model.
    """
    here = table[list(BOTH)].merge(spread, on=list(BOTH))
    out = effects.variance_shares(table, "gain", RANDOM).rename(
        index={reml.RESIDUAL: "dyad and noise"}
    )
    noise_of = float((here["own_noise"] ** 2).mean())
    out.loc["of that, seed noise", ["variance", "sd"]] = noise_of, np.sqrt(noise_of)
    out.loc["of that, seed noise", "share"] = noise_of / out["variance"].iloc[:-1].sum()
    out["sd_low"], out["sd_high"] = np.sqrt(out["low"]), np.sqrt(out["high"])
    names = ["variance", "low", "high", "sd", "sd_low", "sd_high", "share"]
    return out[names].rename_axis("effect")


def mean_gain(table: pd.DataFrame) -> pd.DataFrame:
    """Return the mean gain over dyads with its interval, tasks and blocks taken as drawn.

    Args:
        table: dyad table.

    Returns:
        One row, ``"mean"``: estimate, se, df, low, high.

    Raises:
        BadFit: the dyads do not carry the model.
    """
    fit = reml.crossed_reml(table, "gain", [], RANDOM)
    return fit.table.rename(index={design.INTERCEPT: "mean"})
