"""How far seeds and languages alone would move a gain: bootstrap intervals and known covariance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from scipy import stats

from helpers.errors import BadRows, unknown
from helpers.stats.gains import clean, untrained


def _runs(rows: pd.DataFrame) -> np.ndarray:
    """Return scores in points, shape (seeds, languages); a seed that lacks a language is refused."""
    wide = 100 * rows.pivot(index="seed", columns="language", values="value")
    if wide.isna().any(axis=None):
        raise BadRows(
            f"seeds of {rows['intermediate'].iloc[0]!r} on {rows['target'].iloc[0]!r} differ in "
            "their languages; complete the runs, or leave those seeds out."
        )
    return wide.sort_index(axis=1).to_numpy()


@dataclass(frozen=True)
class _Arms:
    """Runs of one encoder and target, in points, shape (seeds, languages) each.

    Attributes:
        base: baseline runs.
        exact: the baseline trains nothing (retrieval), so it has no seed noise.
        runs: runs per intermediate.
    """

    encoder: str
    target: str
    base: np.ndarray
    exact: bool
    runs: dict[str, np.ndarray]

    def base_variance(self) -> float:
        """Return the sampling variance of the baseline's mean; NaN with one trained run."""
        if self.exact:
            return 0.0
        means = self.base.mean(1)
        return float(np.var(means, ddof=1)) / len(means) if len(means) > 1 else np.nan


def _arms(
    scores: pd.DataFrame, condition: str, english: bool, split: str,
    metrics: Mapping[str, str] | None, collapsed: bool,
) -> list[_Arms]:  # fmt: skip
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
        exact = bool(untrained(base).all())
        out.append(_Arms(str(encoder), str(target), _runs(base), exact, runs))
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
        nothing about its own noise. A baseline that trains nothing (retrieval) has none.

    Raises:
        BadRows: as in `gains`; or seeds that lack languages.

    Source: Davison & Hinkley, Bootstrap Methods (1997), section 2.3 for the small-sample factor.
    """
    if over not in ("seeds", "seeds and languages"):
        raise unknown("resampling", over, ["seeds", "seeds and languages"])
    rng = np.random.default_rng(seed)
    rows = []
    for arm in _arms(scores, condition, english, split, metrics, collapsed):
        rows += _intervals(rng, arm, over != "seeds", draws, level)
    names = ["encoder", "intermediate", "target", "gain", "se", "df", "low", "high"]
    return pd.DataFrame(rows, columns=[*names, "seeds", "baseline_seeds", "languages"])


def _intervals(
    rng: np.random.Generator, arm: _Arms, languages: bool, draws: int, level: float
) -> list[list[object]]:
    """Return one row per dyad of a target; all share the draws of baseline and languages."""
    count = arm.base.shape[1]
    pick = _counts(rng, count, draws) if languages else np.full((draws, count), 1 / count)
    drawn_base = _drawn(rng, arm.base, pick, languages)
    rows: list[list[object]] = []
    for name, runs in arm.runs.items():
        estimate = float(runs.mean() - arm.base.mean())
        df = _welch(runs, arm, languages)
        se = half = np.nan
        if np.isfinite(df):
            se = float(np.std(_drawn(rng, runs, pick, languages) - drawn_base, ddof=1))
            half = float(stats.t.ppf(0.5 + level / 2, df)) * se
        ends = [estimate, se, df, estimate - half, estimate + half]
        rows.append([arm.encoder, name, arm.target, *ends, len(runs), len(arm.base), count])
    return rows


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


def _welch(runs: np.ndarray, arm: _Arms, languages: bool) -> float:
    """Return Welch's degrees of freedom; NaN where an arm with seed noise has one run."""
    if len(runs) < 2 or not np.isfinite(arm.base_variance()):
        return np.nan
    parts = [(float(np.var(runs.mean(1), ddof=1)) / len(runs), len(runs) - 1)]
    parts.append((arm.base_variance(), max(len(arm.base) - 1, 1)))
    if languages and runs.shape[1] > 1:
        by_language = runs.mean(0) - arm.base.mean(0)
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
    found = _arms(scores, condition, english, split, metrics, collapsed)
    parts = {(arm.encoder, arm.target): arm for arm in found}
    out = np.zeros((len(table), len(table)))
    targets = table["target"].to_numpy()
    for (encoder, target), group in table.groupby(["encoder", "target"]):
        arm = parts[str(encoder), str(target)]
        here = np.flatnonzero(targets == target)
        shared, own = arm.base_variance(), _pooled(arm)
        if not np.isfinite(shared + own):
            raise BadRows(
                f"the seed noise of {target!r} is unknown with one seed per arm; add seeds."
            )
        out[np.ix_(here, here)] = shared
        for k, name in zip(here, group["intermediate"].astype(str), strict=True):
            if name not in arm.runs:
                raise BadRows(f"no runs of {name!r} on {target!r} are in the score table.")
            out[k, k] += own / len(arm.runs[name])
    return out


def _pooled(arm: _Arms) -> float:
    """Return the variance between runs of one dyad, pooled over a target's dyads; NaN if unknown."""
    means = [runs.mean(1) for runs in arm.runs.values()]
    spare = sum(len(m) - 1 for m in means)
    return sum(float(np.sum((m - m.mean()) ** 2)) for m in means) / spare if spare else np.nan
