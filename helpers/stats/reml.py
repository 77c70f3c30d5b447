"""Mixed models with crossed random effects by restricted maximum likelihood."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, get_args

import numpy as np
import pandas as pd
import scipy.linalg as sla
from scipy import optimize, stats

from helpers.errors import BadFit, unknown
from helpers.stats import design, freedom, likelihood
from helpers.stats.design import Design
from helpers.stats.freedom import Method, Precision
from helpers.stats.likelihood import Cross, Peak

RESIDUAL = "residual"
# Of the two, Kenward-Roger keeps the nominal type I error where similarity follows the format
# blocks and the block variance is estimated near zero: see data/calibration and `calibration.py`.
DEFAULT: Method = "kenward-roger"


@dataclass(frozen=True)
class Fit:
    """A fitted mixed model that passed its guards.

    Attributes:
        table: one row per fixed effect: estimate, se, df, t, p, low, high (95 % interval). Degrees
            of freedom outside 1 to rows - fixed effects are set to the nearer end: formulas give
            less than 1 where a variance hardly shows, and an interval of half a degree is no help.
        variances: one per random effect, and ``"residual"`` last.
        loglik: restricted log-likelihood (log-likelihood if ``reml`` is false).
        converged: always true: a fit that does not converge raises BadFit.
        method: how standard errors and degrees of freedom were computed.
        reml: whether the restricted likelihood was maximised.
        rows: number of rows.
        levels: number of levels of each random effect.
        boundary: random effects whose variance was estimated at zero.
        notes: plain sentences about effects left out and zero variances.
        model, peak, precision: the arrays behind the numbers.
    """

    table: pd.DataFrame
    variances: pd.Series
    loglik: float
    converged: bool
    method: Method
    reml: bool
    rows: int
    levels: dict[str, int]
    boundary: tuple[str, ...]
    notes: tuple[str, ...]
    model: Model = field(repr=False)
    peak: Peak = field(repr=False)
    precision: Precision = field(repr=False)

    def __getitem__(self, term: str) -> pd.Series:
        """Return the table row of one fixed effect."""
        if term not in self.table.index:
            raise unknown("fixed effect", term, self.table.index)
        return self.table.T[term]

    @cached_property
    def covariance(self) -> pd.DataFrame:
        """Covariance of the fixed effects, as the standard errors are computed."""
        names = self.table.index
        return pd.DataFrame(self.precision.covariance, index=names, columns=names)

    @cached_property
    def blups(self) -> dict[str, pd.DataFrame]:
        """Predicted random effects: a table (blup, se of its error) per effect, by level."""
        return _blups(self.model, self.peak)

    @cached_property
    def residuals(self) -> np.ndarray:
        """What neither fixed nor random effects predict, shape (rows,)."""
        named = self.model.design
        rest = named.y - named.x @ self.peak.state.beta
        for term in named.terms:
            rest = rest - self.blups[term.name]["blup"].to_numpy()[term.codes] * term.slope
        return np.asarray(rest)

    @cached_property
    def r2(self) -> dict[str, float]:
        """Marginal (fixed effects) and conditional (fixed and random) share of variance."""
        return _r2(self.model, self.variances, self.peak.state.beta)

    def contrast(self, weights: dict[str, float]) -> pd.Series:
        """Return estimate, se, df, t, p, low, high of a weighted sum of fixed effects.

        Args:
            weights: weight of each fixed effect; those not named count 0.
        """
        for term in weights:
            if term not in self.table.index:
                raise unknown("fixed effect", term, self.table.index)
        c = np.array([weights.get(str(term), 0.0) for term in self.table.index])
        se = float(np.sqrt(c @ self.precision.covariance @ c))
        df = float(np.clip(self.precision.df_of(c), 1, self.rows - len(c)))
        table = _table([""], c @ self.peak.state.beta, np.array([se]), np.array([df]))
        return table.iloc[0]

    def interval(self, term: str, level: float = 0.95) -> tuple[float, float]:
        """Return the interval of a fixed effect at a level, by its t distribution."""
        row = self[term]
        half = float(stats.t.ppf(0.5 + level / 2, row.df)) * row.se
        return float(row.estimate - half), float(row.estimate + half)

    def profile(self, term: str, level: float = 0.95) -> tuple[float, float]:
        """Return the profile-likelihood interval of a fixed effect or of a variance.

        Args:
            term: a fixed effect (plain likelihood) or a random effect (restricted likelihood).
            level: coverage aimed at.

        Returns:
            Lower and upper end; the lower end of a variance may be 0.

        Raises:
            UnknownName: no such effect.
            BadFit: the likelihood does not fall far enough on one side.
        """
        if term in self.table.index:
            return _profile_fixed(self.model, list(self.table.index).index(term), level)
        if term in self.variances.index:
            return _profile_variance(self, list(self.variances.index).index(term), level)
        raise unknown("effect", term, [*self.table.index, *self.variances.index])


@dataclass(frozen=True)
class Model:
    """The whitened arrays of a model, kept so that a fit can be profiled and compared.

    Attributes:
        design: named arrays before whitening.
        y, x, z: whitened outcome, fixed effects and one array per random effect.
        cross: their cross-products.
        held: variances that are known rather than estimated, by position.
    """

    design: Design
    y: np.ndarray
    x: np.ndarray
    z: tuple[np.ndarray, ...]
    cross: Cross
    held: dict[int, float]
    names: tuple[str, ...]


def crossed_reml(
    data: pd.DataFrame,
    outcome: str,
    fixed: Sequence[str],
    random: Sequence[str],
    weights: str | None = None,
    *,
    covariance: np.ndarray | None = None,
    reml: bool = True,
    method: Method = DEFAULT,
) -> Fit:
    """Fit a mixed model with crossed random effects.

    Args:
        data: one row per observation, columns by name.
        outcome: numeric column.
        fixed: fixed effects besides the intercept: numeric columns, text columns (as indicators),
            products ``"a:b"``.
        random: random effects: ``"a"``, ``"a:b"`` for combinations, ``"x|a"`` for independent
            slopes of ``x`` by ``a``.
        weights: column of known relative precisions: a row's residual variance is divided by it.
        covariance: known sampling covariance of the rows, shape (rows, rows), such as
            `noise.sampling_covariance` gives for gains that share baseline runs. The residual is
            then what varies between rows beyond it.
        reml: restricted likelihood (for estimates) or the plain one (to compare fixed effects).
        method: small-sample method for standard errors and degrees of freedom.

    Returns:
        The fit. Effects the design cannot estimate are left out and named in ``Fit.notes``.

    Raises:
        UnknownName: a column or the method does not exist.
        BadFit: missing values, a constant or collinear measure, too few rows, or no convergence.
            The text says what to do.

    Source: Bates et al., J. Stat. Software 67(1) (2015) for the profiled likelihood; Patterson &
        Thompson, Biometrika 58 (1971) for REML.
    """
    if method not in get_args(Method):
        raise unknown("small-sample method", method, get_args(Method))
    if weights is not None and covariance is not None:
        raise BadFit("give weights or a covariance, not both: a covariance holds the precisions.")
    named = design.build(data, outcome, fixed, random, weights, residual=True)
    model = _whiten(named, covariance)
    peak = likelihood.maximise(model.cross, reml, model.held)
    return _report(model, peak, reml, method)


def refit(fit: Fit, outcome: np.ndarray, x: np.ndarray) -> Fit:
    """Fit the same random effects to another outcome and other covariates.

    For simulations: what depends on the grouping of rows alone is not computed again.

    Args:
        fit: a REML fit without a known covariance.
        outcome: shape (rows,).
        x: covariates in place of the former fixed effects, without the intercept and as many as
            they were, shape (rows, covariates).

    Raises:
        BadFit: other shapes, a collinear covariate, or no convergence.
    """
    model, named = fit.model, fit.model.design
    full = np.column_stack([np.ones(len(outcome)), x])
    if model.held or not fit.reml or full.shape != named.x.shape or outcome.shape != named.y.shape:
        raise BadFit("refit needs a REML fit without known covariance, and arrays of its shapes.")
    design.refuse_aliased(list(zip(named.names, full.T, strict=True)))
    root = np.sqrt(named.weights)
    y, full_w = outcome * root, full * root[:, None]
    cross = replace(model.cross, **likelihood.with_outcome(np.hstack(model.z), full_w, y))
    moved = replace(named, y=outcome, x=full)
    peak = likelihood.maximise(cross, True)
    fresh = Model(moved, y, full_w, model.z, cross, {}, model.names)
    return _report(fresh, peak, True, fit.method)


def _whiten(named: Design, covariance: np.ndarray | None) -> Model:
    """Scale rows so that the residual is independent with one variance."""
    z = [term.matrix() for term in named.terms]
    names = tuple(term.name for term in named.terms) + (RESIDUAL,)
    if covariance is None:
        root = np.sqrt(named.weights)
        y, x = named.y * root, named.x * root[:, None]
        z = [m * root[:, None] for m in z]
        cross = likelihood.cross_products(y, x, z, float(np.log(root).sum()))
        return Model(named, y, x, tuple(z), cross, {}, names)
    factor = _root_of(covariance, named.y.size)
    z.append(np.eye(named.y.size))  # the residual becomes a variance to estimate; error is known
    y, x, *z = [
        sla.solve_triangular(factor, a, lower=True, check_finite=False)
        for a in (named.y, named.x, *z)
    ]
    jacobian = -float(np.log(np.diag(factor)).sum())
    cross = likelihood.cross_products(y, x, z, jacobian)
    return Model(named, y, x, tuple(z), cross, {-1: 1.0}, names)


def _root_of(covariance: np.ndarray, rows: int) -> np.ndarray:
    k = np.asarray(covariance, float)
    if k.shape != (rows, rows) or not np.allclose(k, k.T, atol=1e-10 * np.abs(k).max()):
        raise BadFit(
            f"covariance must be symmetric with shape ({rows}, {rows}), one row per row of the "
            f"data; it has shape {k.shape}."
        )
    try:
        return sla.cholesky(k, lower=True)
    except (np.linalg.LinAlgError, ValueError):
        raise BadFit(
            "covariance is not positive definite: every row needs a sampling variance above zero "
            "(two seeds at least), and a target's rows may not share all of their error."
        ) from None


def _report(model: Model, peak: Peak, reml: bool, method: Method) -> Fit:
    """Turn a maximum into what a reader needs."""
    known = bool(model.held)
    reml_peak = peak if reml else _with_reml_slopes(model.cross, peak)
    precision = freedom.precision(model.cross, reml_peak, method, residual=not known)
    v = peak.variances[:-1] if known else peak.variances
    variances = pd.Series(v, index=list(model.names), name="variance")
    names = list(model.design.names)
    se = np.sqrt(np.diag(precision.covariance))
    df = np.clip(precision.df, 1.0, model.cross.rows - len(names))
    boundary = tuple(n for n in model.names[:-1] if variances[n] <= 1e-8 * variances.sum())
    notes = (*model.design.notes, *map(_zero_note, boundary))
    return Fit(
        table=_table(names, peak.state.beta, se, df),
        variances=variances,
        loglik=peak.loglik,
        converged=True,
        method=method,
        reml=reml,
        rows=model.cross.rows,
        levels={t.name: len(t.levels) for t in model.design.terms},
        boundary=boundary,
        notes=notes,
        model=model,
        peak=peak,
        precision=precision,
    )


def _zero_note(name: str) -> str:
    return (
        f"the variance of {name!r} is estimated at zero: this table shows no spread of it beyond "
        "the other effects (not proof that there is none)."
    )


def _with_reml_slopes(cross: Cross, peak: Peak) -> Peak:
    slopes = likelihood.derivatives(cross, peak.state, peak.variances, reml=True)
    return Peak(peak.variances, peak.state, slopes, peak.loglik, peak.steps, peak.gap)


def _table(
    names: Sequence[str], estimate: np.ndarray, se: np.ndarray, df: np.ndarray
) -> pd.DataFrame:
    t = estimate / se
    half = stats.t.ppf(0.975, df) * se
    columns: dict[str, Any] = {
        "estimate": estimate,
        "se": se,
        "df": df,
        "t": t,
        "p": 2 * stats.t.sf(np.abs(t), df),
        "low": estimate - half,
        "high": estimate + half,
    }
    return pd.DataFrame(columns, index=pd.Index(names, name="term"))


def _blups(model: Model, peak: Peak) -> dict[str, pd.DataFrame]:
    """Return the predicted random effects with the standard errors of their errors."""
    cross, v = model.cross, peak.variances
    ratios = cross.spread(v[:-1] / v[-1])
    u = ratios * peak.slopes.zpy
    zpz = peak.slopes.zpz
    se = np.sqrt(np.maximum(v[-1] * (ratios - ratios**2 * np.diag(zpz)), 0))
    out = {}
    for k, term in enumerate(model.design.terms):
        part = slice(cross.starts[k], cross.starts[k + 1])
        index = pd.Index(term.levels, name=term.name)
        out[term.name] = pd.DataFrame({"blup": u[part], "se": se[part]}, index=index)
    return out


def _r2(model: Model, variances: pd.Series, beta: np.ndarray) -> dict[str, float]:
    """Shares of variance by fixed, and by fixed and random effects.

    Source: Nakagawa & Schielzeth, Methods Ecol. Evol. 4 (2013); Johnson (2014) for slopes.
    """
    named = model.design
    by_fixed = float(np.var(named.x @ beta))
    sizes = [float(np.mean(t.slope**2)) for t in named.terms]
    by_random = float(np.dot(variances.iloc[:-1], sizes))
    total = by_fixed + by_random + float(variances.iloc[-1] * np.mean(1 / named.weights))
    return {"marginal": by_fixed / total, "conditional": (by_fixed + by_random) / total}


def _profile_fixed(model: Model, column: int, level: float) -> tuple[float, float]:
    """Profile the plain likelihood over one coefficient."""
    top = likelihood.maximise(model.cross, False, model.held)
    drop = float(stats.chi2.ppf(level, 1)) / 2
    centre = float(top.state.beta[column])
    width = float(np.sqrt(top.variances[-1] * np.linalg.inv(top.state.info)[column, column]))

    def below(value: float) -> float:
        shifted = model.cross.shift(column, value)
        peak = likelihood.maximise(shifted, False, model.held, start=top.variances)
        return peak.loglik - top.loglik + drop

    return _cross_zero(below, centre, -width), _cross_zero(below, centre, width)


def _cross_zero(below: Any, centre: float, width: float, floor: float | None = None) -> float:
    """Step away from the maximum until ``below`` turns negative, then solve."""
    near, far = centre, centre + width
    for _ in range(60):
        if floor is not None and far <= floor:
            return floor if below(floor) >= 0 else float(optimize.brentq(below, floor, near))
        if below(far) < 0:
            return float(optimize.brentq(below, near, far, xtol=1e-8 * abs(width)))
        near, far = far, centre + 1.6 * (far - centre)
    raise BadFit(
        "the likelihood does not fall off on one side, so there is no profile interval: use the "
        "interval of the table, or more rows."
    )


def _profile_variance(fit: Fit, position: int, level: float) -> tuple[float, float]:
    """Profile the fit's likelihood over one variance."""
    model, top = fit.model, fit.peak
    drop = float(stats.chi2.ppf(level, 1)) / 2
    at = -1 if position == model.cross.terms else position
    centre = float(top.variances[at])

    def below(value: float) -> float:
        held = {**model.held, at: max(value, 1e-12 * fit.variances.sum() if at == -1 else 0.0)}
        start = top.variances.copy()
        peak = likelihood.maximise(model.cross, fit.reml, held, start=start)
        return peak.loglik - top.loglik + drop

    width = max(centre, float(fit.variances.sum()) / 20)
    low = 0.0 if centre == 0 else _cross_zero(below, centre, -0.6 * width, floor=0.0)
    return low, _cross_zero(below, centre, width)


def compare(full: Fit, reduced: Fit) -> pd.Series:
    """Return the likelihood-ratio test of two nested models.

    Models that differ in fixed effects must be fitted with ``reml=False``. For one variance that
    is absent from the reduced model the p-value is halved, because zero is an end of its range.

    Args:
        full: the larger model.
        reduced: the smaller one, on the same rows.

    Returns:
        Series with statistic, df, p.

    Raises:
        BadFit: the models cannot be compared.

    Source: Self & Liang, J. Am. Stat. Assoc. 82 (1987) for the boundary.
    """
    fixed = len(full.table) - len(reduced.table)
    random = len(full.variances) - len(reduced.variances)
    if full.rows != reduced.rows or fixed < 0 or random < 0 or fixed + random == 0:
        raise BadFit("compare(full, reduced) needs nested models on the same rows, larger first.")
    if full.reml != reduced.reml or (fixed and full.reml):
        raise BadFit(
            "fixed effects are compared by the plain likelihood: fit both models with reml=False."
        )
    if random > 1 or (random and fixed):
        raise BadFit("compare one variance at a time, and apart from fixed effects.")
    statistic = max(2 * (full.loglik - reduced.loglik), 0.0)
    p = float(stats.chi2.sf(statistic, fixed + random)) / (2 if random else 1)
    return pd.Series({"statistic": statistic, "df": fixed + random, "p": min(p, 1.0)})
