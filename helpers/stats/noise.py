"""How far seeds and languages alone would move a gain: bootstrap intervals and known covariance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
import pandas as pd
from scipy import stats

from helpers.errors import BadRows, unknown
from helpers.stats.gains import clean


def _runs(rows: pd.DataFrame) -> np.ndarray:
    """Return scores in points, shape (seeds, languages); a seed that lacks a language is refused."""
    wide = 100 * rows.pivot(index="seed", columns="language", values="value")
    if wide.isna().any(axis=None):
        raise BadRows(
            f"seeds of {rows['intermediate'].iloc[0]!r} on {rows['target'].iloc[0]!r} differ in "
            "their languages; complete the runs, or leave those seeds out."
        )
    return wide.sort_index(axis=1).to_numpy()


def _arms(
    scores: pd.DataFrame, condition: str, english: bool, split: str,
    metrics: Mapping[str, str] | None, collapsed: bool,
) -> list[tuple[tuple[str, str], np.ndarray, dict[str, np.ndarray]]]:  # fmt: skip
    """Return, per encoder and target, the baseline's runs and each intermediate's runs."""
    rows = clean(scores, split=split, metrics=metrics, collapsed=collapsed)
    rows = rows if english else rows[rows["language"] != "en"]
    out = []
    for (encoder, target), part in rows.groupby(["encoder", "target"]):
        arms = part[part["condition"] == condition]
        base = part[part["condition"] == "none"]
        if arms.empty:
            continue
        shared = _shared_languages(arms, base)
        if not shared:
            raise BadRows(f"target {target!r} has no language that all arms share; complete runs.")
        arms, base = (a[a["language"].isin(shared)] for a in (arms, base))
        runs = {str(name): _runs(g) for name, g in arms.groupby("intermediate")}
        out.append(((str(encoder), str(target)), _runs(base), runs))
    if not out:
        raise BadRows(f"no finished score of condition {condition!r} is there.")
    return out


def _shared_languages(arms: pd.DataFrame, base: pd.DataFrame) -> set[str]:
    sets = [set(g["language"]) for _, g in arms.groupby("intermediate")]
    return set.intersection(*sets, set(base["language"]))


def bootstrap(
    scores: pd.DataFrame,
    *,
    over: Literal["seeds", "seeds and languages"] = "seeds",
    condition: str = "single",
    english: bool = False,
    split: str = "test",
    metrics: Mapping[str, str] | None = None,
    collapsed: bool = False,
    draws: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> pd.DataFrame:
    """Return bootstrap intervals of dyad gains.

    Runs are resampled whole: a seed brings all its languages. Baseline runs are resampled once per
    target and serve all its dyads, and languages once per target, so draws of one target's dyads
    share what they share in fact. Deviations are enlarged by sqrt(k / (k - 1)), without which a
    bootstrap over three seeds is a third too narrow in variance, and the interval uses a t
    distribution with Welch's degrees of freedom.

    Args:
        scores: tidy score table.
        over: resample seeds (these languages are the ones of interest), or languages too.
        condition, english, split, metrics, collapsed: as in `gains` and `dyads`.
        draws: number of resamples.
        seed: random seed.
        level: coverage aimed at.

    Returns:
        encoder, intermediate, target, gain (points), se, df, low, high, seeds, baseline_seeds,
        languages. With a single seed in either arm se, df, low and high are NaN: one run says
        nothing about its own noise.

    Raises:
        BadRows: as in `gains`; or seeds that lack languages.

    Source: Davison & Hinkley, Bootstrap Methods (1997), section 2.3 for the small-sample factor.
    """
    if over not in ("seeds", "seeds and languages"):
        raise unknown("resampling", over, ["seeds", "seeds and languages"])
    rng = np.random.default_rng(seed)
    rows = []
    for (encoder, target), base, arms in _arms(
        scores, condition, english, split, metrics, collapsed
    ):
        count = base.shape[1]
        pick = _counts(rng, count, draws) if over != "seeds" else np.full((draws, count), 1 / count)
        drawn_base = _drawn(rng, base, pick, over != "seeds")
        for name, runs in arms.items():
            drawn = _drawn(rng, runs, pick, over != "seeds") - drawn_base
            estimate = float(runs.mean() - base.mean())
            se, df = float(np.std(drawn, ddof=1)), _welch(runs, base, over != "seeds")
            half = float(stats.t.ppf(0.5 + level / 2, df)) * se if np.isfinite(df) else np.nan
            se = se if np.isfinite(df) else np.nan
            sizes = [len(runs), len(base), count]
            ends = [estimate - half, estimate + half]
            rows.append([encoder, name, target, estimate, se, df, *ends, *sizes])
    names = ["encoder", "intermediate", "target", "gain", "se", "df", "low", "high"]
    return pd.DataFrame(rows, columns=[*names, "seeds", "baseline_seeds", "languages"])


def _counts(rng: np.random.Generator, k: int, draws: int) -> np.ndarray:
    """Return resampling weights that sum to one, shape (draws, k)."""
    return rng.multinomial(k, np.full(k, 1 / k), size=draws) / k


def _drawn(
    rng: np.random.Generator, runs: np.ndarray, languages: np.ndarray, spread_languages: bool
) -> np.ndarray:
    """Return resampled means of one arm, shape (draws,)."""
    k, count = runs.shape
    mean = runs.mean(0)
    wide = mean + (runs - mean) * np.sqrt(k / max(k - 1, 1))
    if spread_languages and count > 1:
        centre = wide.mean(1, keepdims=True)
        wide = centre + (wide - centre) * np.sqrt(count / (count - 1))
    return np.einsum("dk,kl,dl->d", _counts(rng, k, len(languages)), wide, languages)


def _welch(runs: np.ndarray, base: np.ndarray, languages: bool) -> float:
    """Return Welch's degrees of freedom; NaN where an arm has one run."""
    if len(runs) < 2 or len(base) < 2:
        return np.nan
    parts = [(float(np.var(a.mean(1), ddof=1)) / len(a), len(a) - 1) for a in (runs, base)]
    if languages and runs.shape[1] > 1:
        by_language = runs.mean(0) - base.mean(0)
        parts.append((float(np.var(by_language, ddof=1)) / by_language.size, by_language.size - 1))
    total = sum(v for v, _ in parts)
    return total**2 / sum(v**2 / d for v, d in parts) if total > 0 else np.nan


def sampling_covariance(
    scores: pd.DataFrame,
    table: pd.DataFrame,
    *,
    condition: str = "single",
    english: bool = False,
    split: str = "test",
    metrics: Mapping[str, str] | None = None,
    collapsed: bool = False,
) -> np.ndarray:
    """Return the known sampling covariance of dyad gains, for `reml.crossed_reml`.

    Gains of one target share the noise of its baseline mean, s0^2 / k0; each gain has its own
    s^2 / k on top. Both variances are between whole runs (language means), the second pooled over
    the target's dyads. With complete data a target effect absorbs the shared part exactly, which is
    how the primary model carries it; this matrix is for unequal numbers of seeds.

    Args:
        scores: tidy score table.
        table: dyad table (one encoder) whose rows set the order.
        condition, english, split, metrics, collapsed: as in `gains` and `dyads`.

    Returns:
        Shape (dyads, dyads), points squared.

    Raises:
        BadRows: several encoders, one seed only, or a dyad without runs.
    """
    if table["encoder"].nunique() != 1:
        raise BadRows("one encoder at a time: filter the dyad table by encoder.")
    parts = {
        key: (base, arms)
        for key, base, arms in _arms(scores, condition, english, split, metrics, collapsed)
    }
    out = np.zeros((len(table), len(table)))
    targets = table["target"].to_numpy()
    for (_, target), group in table.groupby(["encoder", "target"]):
        base, arms = parts[(str(table["encoder"].iloc[0]), str(target))]
        noise = [a.mean(1) for a in arms.values()]
        spare = sum(len(a) - 1 for a in noise)
        if len(base) < 2 or spare < 1:
            raise BadRows(
                f"the seed noise of {target!r} is unknown with one seed per arm; add seeds."
            )
        pooled = sum(float(np.sum((a - a.mean()) ** 2)) for a in noise) / spare
        here = np.flatnonzero(targets == target)
        out[np.ix_(here, here)] = float(np.var(base.mean(1), ddof=1)) / len(base)
        for k, name in zip(here, group["intermediate"].astype(str), strict=True):
            if name not in arms:
                raise BadRows(f"no runs of {name!r} on {target!r} are in the score table.")
            out[k, k] += pooled / len(arms[name])
    return out
