"""Out-of-sample prediction of gains: does similarity help to choose an intermediate task?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import comb
from typing import Literal

import numpy as np
import pandas as pd
from scipy import stats

from helpers.errors import BadFit, BadRows, unknown
from helpers.stats import design, likelihood, reml
from helpers.stats.reml import Fit

Coding = Literal["above worst", "raw", "exponential"]
CODINGS: tuple[Coding, ...] = ("above worst", "raw", "exponential")


@dataclass(frozen=True)
class Forecast:
    """Joint prediction of new rows.

    Attributes:
        mean: shape (rows,).
        covariance: of the prediction errors, residual included, shape (rows, rows).
        df: degrees of freedom of each row's error variance, shape (rows,).
    """

    mean: np.ndarray
    covariance: np.ndarray
    df: np.ndarray

    def table(self, level: float = 0.95) -> pd.DataFrame:
        """Return predicted, se, df, low, high; the interval is for one new observation."""
        se = np.sqrt(np.diag(self.covariance))
        half = stats.t.ppf(0.5 + level / 2, self.df) * se
        return pd.DataFrame(
            {
                "predicted": self.mean,
                "se": se,
                "df": self.df,
                "low": self.mean - half,
                "high": self.mean + half,
            }
        )


def forecast(fit: Fit, new: pd.DataFrame, fixed: Sequence[str]) -> Forecast:
    """Predict new rows from a fit: fixed effects, and random effects of the levels it has seen.

    Args:
        fit: a fit of `reml.crossed_reml` without a known covariance.
        new: rows to predict, with the columns of the fit's effects; each counts with weight 1.
        fixed: the fixed effects of the fit, as they were asked for.

    Returns:
        Mean and joint error covariance: what is unknown of the random effects, of the fixed effects
        and the residual. Degrees of freedom follow Satterthwaite's formula over all variances.

    Raises:
        UnknownName: a column is missing.
        BadFit: a value is missing, or a category the fit has not seen.

    Source: Henderson, Biometrics 31 (1975), best linear unbiased prediction.
    """
    if fit.model.held:
        raise BadFit("predictions need a fit without a known covariance; fit with weights instead.")
    rows = _NewRows(_fixed_of(fit, new, fixed), *_random_of(fit, new))
    v = fit.peak.variances
    mean, covariance = _predict(fit, rows, v)
    return Forecast(mean, covariance, _error_df(fit, rows, covariance))


@dataclass(frozen=True)
class _NewRows:
    """Design of new rows: fixed effects, levels the fit has seen, and kernels among the rows."""

    x: np.ndarray
    seen: np.ndarray
    own: list[np.ndarray]


def _fixed_of(fit: Fit, new: pd.DataFrame, fixed: Sequence[str]) -> np.ndarray:
    """Return the fixed-effects matrix of new rows with the columns of the fit."""
    used = design.columns_of(new, fixed)
    design.require(new, used, [c for c in used if c in new and design.is_number(new, c)])
    pieces = {design.INTERCEPT: np.ones(len(new))}
    for name in fixed:
        pieces |= dict(design.expand(new, name, fit.model.design.levels))
    missing = [n for n in fit.model.design.names if n not in pieces]
    if missing:
        raise BadFit(f"cannot build {', '.join(missing)} for the new rows; pass the fit's effects.")
    return np.column_stack([pieces[n] for n in fit.model.design.names])


def _random_of(fit: Fit, new: pd.DataFrame) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return the design of new rows on the fitted levels, and the kernel of each effect."""
    seen, own = [np.zeros((len(new), 0))], []
    for term in fit.model.design.terms:
        design.require(new, design.columns_of(new, [term.name]))
        fresh = design.random_term(new, term.name)
        names = np.asarray(fresh.levels, object)[fresh.codes]
        known = names[:, None] == np.asarray(term.levels, object)[None, :]
        seen.append(known * fresh.slope[:, None])
        own.append((names[:, None] == names[None, :]) * np.outer(fresh.slope, fresh.slope))
    return np.hstack(seen), own


def _predict(fit: Fit, rows: _NewRows, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and error covariance at given variances."""
    cross = fit.model.cross
    state = likelihood.solve(cross, v[:-1] / v[-1])
    slopes = likelihood.derivatives(cross, state, v, reml=True)
    z = rows.seen * cross.spread(v[:-1] / v[-1])
    left = rows.x - z @ slopes.zhx
    error = np.eye(len(z)) - z @ slopes.zhz @ z.T + left @ np.linalg.solve(state.info, left.T)
    among = sum((s * k for s, k in zip(v, rows.own, strict=False)), np.zeros_like(error))
    return rows.x @ state.beta + z @ slopes.zpy, v[-1] * error + among


def _error_df(fit: Fit, rows: _NewRows, covariance: np.ndarray) -> np.ndarray:
    """Return Satterthwaite degrees of freedom of each prediction error variance."""
    v = fit.peak.variances
    slopes = []
    for k in range(v.size):
        step = 1e-4 * max(v[k], 1e-2 * v.sum())
        up, down = v.copy(), v.copy()
        up[k] += step
        down[k] = max(down[k] - step, 0.0)
        rise = np.diag(_predict(fit, rows, up)[1] - _predict(fit, rows, down)[1])
        slopes.append(rise / (up[k] - down[k]))
    g = np.array(slopes)
    spread = np.einsum("kr,kl,lr->r", g, fit.precision.variances, g)
    df = 2 * np.diag(covariance) ** 2 / np.maximum(spread, 1e-300)
    return np.clip(df, 1.0, fit.rows - len(fit.table))


@dataclass(frozen=True)
class LeftOut:
    """Predictions of units the model had not seen.

    Attributes:
        table: the rows of the data with observed, predicted, baseline (the same model without
            similarity), se, df, low, high.
        scores: r2 (share of the baseline's squared error that is gone; negative: similarity made
            predictions worse), rmse, rmse_baseline, spearman (mean within target, prediction
            against observation), coverage (share inside the 95 % interval), units, rows.
        notes: plain sentences, such as effects a training part could not estimate.
    """

    table: pd.DataFrame
    scores: pd.Series
    notes: tuple[str, ...]


def leave_out(
    data: pd.DataFrame,
    outcome: str,
    fixed: Sequence[str],
    random: Sequence[str],
    unit: str,
    *,
    baseline: Sequence[str] = (),
    target: str = "target",
) -> LeftOut:
    """Predict each unit from a model fitted without any of its rows.

    Args:
        data: one row per observation.
        outcome: numeric column.
        fixed: fixed effects of the model, similarity among them.
        random: random effects; a level not seen in training is predicted at zero, with its
            variance in the interval.
        unit: column whose levels are left out one at a time: an intermediate, a target, a format,
            a block, a language family.
        baseline: fixed effects of the model to compare with (default: none).
        target: column within which rank correlations are taken.

    Raises:
        UnknownName: a column does not exist.
        BadFit: a unit cannot be left out because the rest does not carry the model.
    """
    design.require(data, [unit, outcome, *design.columns_of(data, [*fixed, *random])], [outcome])
    data = data.reset_index(drop=True)  # position, not label, says which row is which
    levels = sorted(data[unit].astype(str).unique())
    if len(levels) < 3:
        raise BadFit(
            f"{unit!r} has {len(levels)} levels; leaving one out needs at least 3. Choose another "
            "unit."
        )
    parts, notes = [], []
    for level in levels:
        here = data[unit].astype(str) == level
        part, said = _left_out(data, here, outcome, fixed, random, baseline, f"{unit} {level}")
        parts.append(part)
        notes += said
    table = pd.concat(parts).sort_index()
    return LeftOut(table, _scores(table, len(levels), target), tuple(dict.fromkeys(notes)))


def _left_out(
    data: pd.DataFrame,
    here: pd.Series,
    outcome: str,
    fixed: Sequence[str],
    random: Sequence[str],
    baseline: Sequence[str],
    name: str,
) -> tuple[pd.DataFrame, list[str]]:
    train, test = data[~here], data[here]
    try:
        full = reml.crossed_reml(train, outcome, fixed, random)
        plain = reml.crossed_reml(train, outcome, baseline, random)
    except BadFit as error:
        raise BadFit(f"without {name} the rest does not carry the model: {error}") from None
    out = test.assign(observed=test[outcome])
    found = forecast(full, test, fixed).table().set_index(test.index)
    out = pd.concat([out.drop(columns=found.columns, errors="ignore"), found], axis=1)
    out["baseline"] = forecast(plain, test, baseline).mean
    notes = [f"without {name}: {n}" for n in full.model.design.notes]
    return out, notes


def _scores(table: pd.DataFrame, units: int, target: str) -> pd.Series:
    error = table["observed"] - table["predicted"]
    plain = table["observed"] - table["baseline"]
    inside = table["observed"].between(table["low"], table["high"])
    values = {
        "r2": 1 - float((error**2).sum() / (plain**2).sum()),
        "rmse": float(np.sqrt((error**2).mean())),
        "rmse_baseline": float(np.sqrt((plain**2).mean())),
        "spearman": spearman_within(table, "predicted", "observed", target),
        "coverage": float(inside.mean()),
        "units": units,
        "rows": len(table),
    }
    return pd.Series(values)


def spearman_within(table: pd.DataFrame, predicted: str, observed: str, by: str) -> float:
    """Return the mean rank correlation within groups of at least 3 rows; NaN if there is none."""
    if by not in table.columns:
        return float("nan")
    values = []
    for _, part in table.groupby(by):
        varies = part[predicted].nunique() > 1 and part[observed].nunique() > 1
        if len(part) >= 3 and varies:
            values.append(float(stats.spearmanr(part[predicted], part[observed]).statistic))
    return float(np.mean(values)) if values else float("nan")


def expected_best(observed: np.ndarray, score: np.ndarray, k: int) -> float:
    """Return the expected best outcome among the ``k`` highest scores, ties broken at random.

    Args:
        observed: outcome per candidate, shape (candidates,).
        score: what candidates are ranked by, shape (candidates,).
        k: how many are tried.
    """
    k = min(k, observed.size)
    cut = np.sort(score)[::-1][k - 1]
    certain = observed[score > cut]
    tied = np.sort(observed[score == cut])
    floor = certain.max() if certain.size else -np.inf
    picks = k - certain.size
    # the largest of a random subset is the j-th smallest with this probability
    chances = np.array([comb(j, picks - 1) for j in range(tied.size)]) / comb(tied.size, picks)
    return float(chances @ np.maximum(tied, floor))


def regret(
    table: pd.DataFrame, score: str, observed: str = "observed", by: str = "target", k: int = 1
) -> pd.Series:
    """Return, per target, the best outcome less the best among the ``k`` highest scores.

    Args:
        table: one row per candidate.
        score: column that ranks candidates.
        observed: outcome in points.
        by: column that says which candidates compete.
        k: how many are tried.

    Returns:
        Points lost, indexed by target; 0 is a perfect choice.
    """
    design.require(table, [score, observed, by], [score, observed])
    lost = {
        name: float(part[observed].max())
        - expected_best(part[observed].to_numpy(float), part[score].to_numpy(float), k)
        for name, part in table.groupby(by)
    }
    return pd.Series(lost, name=f"regret@{k}").rename_axis(by)


def strategies(
    table: pd.DataFrame,
    scores: Mapping[str, str],
    *,
    observed: str = "observed",
    rows: str = "intermediate",
    by: str = "target",
    ks: Sequence[int] = (1, 3),
) -> pd.DataFrame:
    """Compare ways to choose an intermediate task, by the points they lose.

    Args:
        table: one row per dyad; predictions must come from a model that had not seen the target.
        scores: name of a strategy to the column it ranks by, such as
            ``{"similarity": "predicted", "data size": "log_rows", "same format": "same_format"}``.
        observed: outcome in points.
        rows: column of candidates.
        by: column of targets.
        ks: how many candidates may be tried.

    Returns:
        Indexed by strategy: one column ``regret@k`` per k (mean over targets) and ``gain`` (mean
        outcome of the first choice). Added to the given ones: ``random``, ``best constant choice``
        (the candidate best on average over the other targets) and ``best possible``.
    """
    work = table.copy()
    work["_constant"] = _constant(table, observed, rows, by)
    work["_none"] = 0.0
    every = {**scores, "best constant choice": "_constant", "random": "_none"}
    out = pd.DataFrame(
        {
            f"regret@{k}": {n: regret(work, c, observed, by, k).mean() for n, c in every.items()}
            for k in ks
        }
    )
    best = float(work.groupby(by)[observed].max().mean())
    first = {name: best - regret(work, c, observed, by, 1).mean() for name, c in every.items()}
    out["gain"] = pd.Series(first)
    out.loc["best possible"] = [0.0] * len(ks) + [best]
    return out.rename_axis("strategy")


def _constant(table: pd.DataFrame, observed: str, rows: str, by: str) -> pd.Series:
    """Return each candidate's mean outcome over the other targets, less those targets' means."""
    centred = table[observed] - table.groupby(by)[observed].transform("mean")
    total = centred.groupby(table[rows]).transform("sum")
    count = centred.groupby(table[rows]).transform("size")
    return ((total - centred) / (count - 1).where(count > 1)).fillna(centred.min() - 1)


def ndcg(
    observed: Sequence[float],
    score: Sequence[float],
    coding: Coding,
    k: int | None = None,
) -> float:
    """Return normalised discounted cumulative gain, with the coding of relevance stated.

    Published values differ in coding and are not comparable. With ``"raw"`` accuracy a fully
    reversed ranking scores near 1; ``"above worst"`` (outcome less the worst outcome) does not.

    Args:
        observed: outcomes, shape (candidates,).
        score: what candidates are ranked by, shape (candidates,).
        coding: ``"above worst"``, ``"raw"`` (outcomes must be >= 0) or ``"exponential"``
            (2^outcome - 1, outcomes >= 0).
        k: depth; default: all.

    Raises:
        UnknownName: no such coding.
        BadRows: outcomes the coding cannot take.

    Source: Jarvelin & Kekalainen, ACM TOIS 20(4) (2002); Burges et al. (2005) for exponential gain.
    """
    if coding not in CODINGS:
        raise unknown("coding", coding, CODINGS)
    gain, s = np.asarray(observed, float), np.asarray(score, float)
    if gain.shape != s.shape or gain.ndim != 1 or gain.size == 0:
        raise BadRows("ndcg needs one score per outcome, at least one.")
    if coding != "above worst" and gain.min() < 0:
        raise BadRows(
            f"coding {coding!r} needs outcomes of at least 0; use 'above worst' for gains."
        )
    relevance = {"above worst": gain - gain.min(), "raw": gain, "exponential": 2.0**gain - 1}[
        coding
    ]
    depth = min(k or gain.size, gain.size)
    discount = 1 / np.log2(np.arange(depth) + 2)
    ideal = float(np.sort(relevance)[::-1][:depth] @ discount)
    # ties share the mean relevance of their group, so that the order of rows does not matter
    shared = pd.Series(relevance).groupby(s).transform("mean").to_numpy()
    order = np.argsort(-s, kind="stable")
    return float(shared[order][:depth] @ discount) / ideal if ideal > 0 else 1.0


def predict_gain(
    new: pd.DataFrame,
    data: pd.DataFrame,
    outcome: str,
    fixed: Sequence[str],
    random: Sequence[str],
    *,
    level: float = 0.95,
    draws: int = 20000,
    seed: int = 0,
) -> pd.DataFrame:
    """Rank intermediates for a target nobody has run, with prediction intervals.

    Args:
        new: one row per candidate intermediate, with the columns of ``fixed`` and ``random``.
        data: dyad table to learn from.
        outcome: numeric column, such as ``"gain"``.
        fixed: fixed effects, similarity among them.
        random: random effects; those of known intermediates are used.
        level: coverage of the intervals.
        draws: simulated outcomes for ``best``.
        seed: random seed.

    Returns:
        ``new`` with rank, predicted, se, df, low, high, ``best`` (probability of being the best of
        the candidates) and ``helps`` (probability of a gain above zero), best first. Whether the
        intervals cover as they claim is `leave_out`'s ``coverage``.

    Raises:
        BadFit: the data do not carry the model.
    """
    fit = reml.crossed_reml(data, outcome, fixed, random)
    found = forecast(fit, new, fixed)
    table = found.table(level).set_index(new.index)
    out = pd.concat([new.drop(columns=table.columns, errors="ignore"), table], axis=1)
    rng = np.random.default_rng(seed)
    root = np.linalg.cholesky(found.covariance + 1e-12 * np.eye(len(new)))
    drawn = found.mean + rng.normal(size=(draws, len(new))) @ root.T
    out["best"] = np.bincount(drawn.argmax(1), minlength=len(new)) / draws
    out["helps"] = stats.t.sf(-out["predicted"] / out["se"], out["df"])
    out = out.sort_values("predicted", ascending=False, kind="stable", ignore_index=True)
    out.insert(0, "rank", np.arange(1, len(out) + 1))
    return out


def influence(
    data: pd.DataFrame,
    outcome: str,
    fixed: Sequence[str],
    random: Sequence[str],
    term: str,
    units: Sequence[str] = ("intermediate", "target"),
) -> pd.DataFrame:
    """Return the slope without each task in turn.

    Args:
        data, outcome, fixed, random: as in `reml.crossed_reml`.
        term: fixed effect to follow.
        units: columns whose levels are left out one at a time.

    Returns:
        unit, left_out, estimate, se, low, high, p; the first row leaves out nothing.
    """
    whole = reml.crossed_reml(data, outcome, fixed, random)
    rows = [{"unit": "", "left_out": "", **whole[term]}]
    for unit in units:
        for level in sorted(data[unit].astype(str).unique()):
            rest = data[data[unit].astype(str) != level]
            try:
                fit = reml.crossed_reml(rest, outcome, fixed, random)
            except BadFit as error:
                raise BadFit(f"without {unit} {level}: {error}") from None
            rows.append({"unit": unit, "left_out": level, **fit[term]})
    return pd.DataFrame(rows)[["unit", "left_out", "estimate", "se", "low", "high", "p"]]
