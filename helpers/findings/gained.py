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
        Columns of `noise.bootstrap`, ``spread`` (``"own runs"``, ``"other runs of the target"`` or
        ``"unknown"``) and ``clear``: whether the interval leaves out zero.
    """
    table = noise.bootstrap(scores, level=level)
    own = table["se"].notna()
    spread = _spread(scores)
    half = np.array([_half(spread[str(row.target)], row, level) for row in table.itertuples()])
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
    """Return published scores with and without an intermediate task, beside the gains of a study.

    The published ones are test scores of the best intermediate per target, which is a selection; of
    a study both the mean and the best gain are shown.

    Args:
        table: dyad table.
        folder: where the published numbers lie.

    Returns:
        target, metric, without, with_best (points), difference, source, and, where the study has
        the target, mean_here and best_here.
    """
    rows = pd.read_csv(folder / "phang2020_test.csv")
    wide = rows.pivot_table(index=["target", "metric", "source"], columns="model", values="value")
    wide = wide.dropna().rename(
        columns={"XLM-R Large": "without", "X-STILTs (Phang 2020)": "with_best"}
    )
    wide["difference"] = wide["with_best"] - wide["without"]
    out = wide.reset_index().rename_axis(columns=None)
    out = out[~out["target"].str.contains("category|avg")]
    here = table.groupby("target")["gain"].agg(mean_here="mean", best_here="max")
    out = out.join(here, on="target").sort_values(["target", "metric"], ignore_index=True)
    names = ["target", "metric", "without", "with_best", "difference", "mean_here", "best_here"]
    return out[[*names, "source"]]


def shares(table: pd.DataFrame, spread: pd.DataFrame) -> pd.DataFrame:
    """Split the variance of gains between dyads into what tasks, formats and dyads hold.

    Args:
        table: dyad table.
        spread: what `intervals` returned; its standard errors give the part that seeds explain.

    Returns:
        Indexed by effect: variance, low, high (profile likelihood), sd, sd_low, sd_high (points),
        share, and the row ``"of that, seed noise"``: the mean sampling variance of a dyad's gain, which no
        similarity can explain.

    Raises:
        BadFit: the dyads do not carry the model.
    """
    out = effects.variance_shares(table, "gain", RANDOM).rename(
        index={reml.RESIDUAL: "dyad and noise"}
    )
    noise_of = float((spread["se"] ** 2).mean())
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
