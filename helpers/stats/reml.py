"""Mixed models with crossed random effects by restricted maximum likelihood.

The model is y = X b + sum_k Z_k u_k + e with u_k ~ N(0, v_k I) and e ~ N(0, s I). Cross-products of
(Z, X, y) are formed once, so that one evaluation costs a Cholesky of the size of the random effects.
Derivatives: Searle, Casella & McCulloch, Variance Components (1992), chapter 6.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
import pandas as pd
from scipy import stats
from scipy.linalg import lapack
from threadpoolctl import ThreadpoolController

from helpers.errors import BadFit, known
from helpers.stats import design
from helpers.stats.design import Design

Method = Literal["kenward-roger", "satterthwaite"]
RESIDUAL = "residual"
SETTLED = 1e-6  # a search has converged if the log-likelihood can rise by no more than this
FAR = 0.02  # ratio of a small variance to the others where a search begins
ONE_SUMMIT = 100  # levels above which no table was seen to have a second maximum
JOINS = 1e-2  # a climb this near to a known maximum, in height and place, ends there
# Matrices this small only wait for a second BLAS thread: 15 times the CPU time of one.
BLAS = ThreadpoolController()


@dataclass(frozen=True)
class Fit:
    """A fitted mixed model that passed its guards.

    Attributes:
        table: one row per fixed effect: estimate, se, df, t, p, low, high (95 % interval). Degrees of
            freedom are kept within 1 and rows - fixed effects: formulas leave that range where a
            variance hardly shows.
        variances: one per random effect, and ``"residual"`` last.
        loglik, reml: log-likelihood, and whether the restricted one.
        notes: plain sentences about effects left out and zero variances.
        design, cross, peak, spread: the arrays behind them; spread is the variances' covariance.
    """

    table: pd.DataFrame
    variances: pd.Series
    loglik: float
    reml: bool
    notes: tuple[str, ...]
    design: Design = field(repr=False)
    cross: "Cross" = field(repr=False)
    peak: "Peak" = field(repr=False)
    spread: np.ndarray = field(repr=False)

    def __getitem__(self, term: str) -> pd.Series:
        """Return the table row of one fixed effect."""
        return self.table.T[known("fixed effect", term, [*self.table.index])]


def crossed_reml(
    data: pd.DataFrame,
    outcome: str,
    fixed: Sequence[str],
    random: Sequence[str],
    weights: str | None = None,
    *,
    reml: bool = True,
    method: Method = "kenward-roger",
) -> Fit:
    """Fit a mixed model with crossed random effects.

    Args:
        data: one row per observation, columns by name.
        outcome: numeric column.
        fixed: fixed effects besides the intercept: numeric columns, text columns (as indicators),
            products ``"a:b"``.
        random: random effects: ``"a"``, ``"a:b"`` for combinations, ``"x|a"`` for independent slopes
            of ``x`` by ``a``.
        weights: column of known relative precisions: a row's residual variance is divided by it.
        reml: restricted likelihood (for estimates) or the plain one (to compare fixed effects).
        method: small-sample standard errors and df, ``"kenward-roger"`` or ``"satterthwaite"``. The
            first keeps the nominal type I error where similarity follows format blocks.

    Returns:
        The fit. Effects the design cannot estimate are left out and named in ``Fit.notes``.

    Raises:
        BadFit: missing values, a constant or collinear measure, too few rows, or no convergence.

    Source: Bates et al., J. Stat. Software 67(1) (2015) for the profiled likelihood; Patterson &
        Thompson, Biometrika 58 (1971) for REML.
    """
    known("small-sample method", method, get_args(Method))
    named = design.build(data, outcome, fixed, random, weights)
    cross = cross_products(named)
    with BLAS.limit(limits=1, user_api="blas"):
        peak = maximise(cross, reml)
        covariance, df, spread = _precision(cross, peak, method, reml)
    se, df = np.sqrt(np.diag(covariance)), np.clip(df, 1.0, cross.rows - len(named.names))
    table = t_table(named.names, peak.state.beta, se, df)
    names = [*(term.name for term in named.terms), RESIDUAL]
    variances = pd.Series(peak.variances, index=names, name="variance")
    zero = (
        f"the variance of {name!r} is estimated at zero, which is no proof that there is none."
        for name in names[:-1]
        if variances[name] <= 1e-8 * variances.sum()
    )
    notes = (*named.notes, *zero)
    return Fit(table, variances, peak.loglik, reml, notes, named, cross, peak, spread)


def t_table(
    names: Sequence[str], estimate: np.ndarray, se: np.ndarray, df: np.ndarray
) -> pd.DataFrame:
    """Return estimate, se, df, t, p, low, high (95 %) of t-distributed estimates, by term."""
    t, half = estimate / se, stats.t.ppf(0.975, df) * se
    columns = {
        "estimate": estimate, "se": se, "df": df, "t": t, "p": 2 * stats.t.sf(np.abs(t), df),
        "low": estimate - half, "high": estimate + half,
    }  # fmt: skip
    return pd.DataFrame(columns, index=pd.Index(names, name="term"))


def compare(full: Fit, reduced: Fit) -> float:
    """Return the p-value of the likelihood-ratio test of two models nested in their fixed effects."""
    df = len(full.table) - len(reduced.table)
    if full.cross.rows != reduced.cross.rows or df < 1 or full.reml or reduced.reml:
        raise BadFit("compare needs nested models of the same rows, larger first, with reml=False.")
    return float(stats.chi2.sf(max(2 * (full.loglik - reduced.loglik), 0.0), df))


# The likelihood.


@dataclass(frozen=True)
class Cross:
    """Cross-products of Z (rows, levels), X (rows, fixed) and y, weights in them; ``jacobian`` is theirs."""

    zz: np.ndarray
    zx: np.ndarray
    zy: np.ndarray
    xx: np.ndarray
    xy: np.ndarray
    yy: float
    starts: np.ndarray
    rows: int
    jacobian: float

    def per_level(self, values: np.ndarray) -> np.ndarray:
        """Repeat one value per effect for each of its levels."""
        return np.repeat(values, np.diff(self.starts))

    def degrees(self, reml: bool) -> int:
        """Return the divisor of the residual variance."""
        return self.rows - len(self.xx) if reml else self.rows


def cross_products(named: Design) -> Cross:
    """Form the cross-products of a design."""
    root = np.sqrt(named.weights)
    y, x = named.y * root, named.x * root[:, None]
    z = np.hstack([np.zeros((y.size, 0)), *(t.matrix() for t in named.terms)]) * root[:, None]
    starts = np.cumsum([0, *(len(t.levels) for t in named.terms)])
    products = (z.T @ z, z.T @ x, z.T @ y, x.T @ x, x.T @ y, float(y @ y))
    return Cross(*products, starts, y.size, float(np.log(root).sum()))


@dataclass(frozen=True)
class State:
    """Solution at given variance ratios; H is the covariance over the residual variance."""

    root: np.ndarray  # Cholesky of I + D'Z'ZD, D the diagonal matrix of scale
    scale: np.ndarray
    rx: np.ndarray  # Z'X and Z'y, solved by the root
    ry: np.ndarray
    info: np.ndarray  # X'H^-1X
    beta: np.ndarray
    rss: float  # y'Py
    logdet: float  # of H, and of info
    logdet_x: float


def solve(cross: Cross, ratios: np.ndarray) -> State:
    """Solve the mixed-model equations at variances over the residual variance, all >= 0."""
    scale = np.sqrt(cross.per_level(ratios))
    a = scale[:, None] * cross.zz * scale
    a[np.diag_indices_from(a)] += 1.0
    root = _cholesky(a)
    rx = _lower_solve(root, scale[:, None] * cross.zx)
    ry = _lower_solve(root, scale * cross.zy)
    info, xy = cross.xx - rx.T @ rx, cross.xy - rx.T @ ry
    info_root = _cholesky(info)
    half = _lower_solve(info_root, xy)
    beta = np.linalg.solve(info_root.T, half)
    rss = float(cross.yy - ry @ ry - half @ half)
    logdet, logdet_x = (2 * float(np.log(r.diagonal()).sum()) for r in (root, info_root))
    return State(root, scale, rx, ry, info, beta, rss, logdet, logdet_x)


# LAPACK is called directly: a search solves hundreds of small systems, for which the checks of
# scipy's own functions take longer than the arithmetic.
def _cholesky(a: np.ndarray) -> np.ndarray:
    if a.size == 0:
        return a
    root, bad = lapack.dpotrf(a, lower=1, clean=1)
    if bad:
        raise np.linalg.LinAlgError("not positive definite")
    return np.asarray(root)


def _lower_solve(root: np.ndarray, right: np.ndarray) -> np.ndarray:
    if root.size == 0:
        return right
    solved, bad = lapack.dtrtrs(root, right, lower=1)
    if bad:
        raise np.linalg.LinAlgError("singular")
    return np.asarray(solved).reshape(right.shape)


def loglik(cross: Cross, state: State, residual: float, reml: bool) -> float:
    """Return the log-likelihood (restricted or not), constants as in lme4 and statsmodels."""
    twice = state.logdet + (state.logdet_x if reml else 0.0) + state.rss / residual
    twice += cross.degrees(reml) * np.log(2 * np.pi * residual)
    return float(-0.5 * twice + cross.jacobian)


@dataclass(frozen=True)
class Slopes:
    """Gradient and expected information in the variances, and products in units of the residual."""

    score: np.ndarray
    expected: np.ndarray
    zpz: np.ndarray  # Z'PZ
    zhz: np.ndarray  # Z'H^-1Z
    zpy: np.ndarray  # Z'Py
    zhx: np.ndarray  # Z'H^-1X


def derivatives(cross: Cross, state: State, variances: np.ndarray, reml: bool) -> Slopes:
    """Return first derivatives and expected information at variances, the residual last."""
    w = _lower_solve(state.root, state.scale[:, None] * cross.zz)
    zhz = cross.zz - w.T @ w
    zhx = cross.zx - w.T @ state.rx
    zpy = cross.zy - w.T @ state.ry - zhx @ state.beta
    zpz = zhz - zhx @ np.linalg.solve(state.info, zhx.T)
    traces = zpz if reml else zhz
    s, ratios, cut = variances[-1], variances[:-1] / variances[-1], cross.starts[:-1]
    t, quad = _add_blocks(traces.diagonal(), cut), _add_blocks(zpy**2, cut)
    tt = _add_blocks(traces**2, cut, both=True)
    # products with the residual kernel use P = P H P: nothing of the size of the rows is formed
    u = t - tt @ ratios
    trace_p = cross.degrees(reml) - ratios @ t
    score = np.append(quad, state.rss - ratios @ quad) / s**2 - np.append(t, trace_p) / s
    expected = _border(tt, u, trace_p - ratios @ u) / (2 * s**2)
    return Slopes(score / 2, expected, zpz, zhz, zpy, zhx)


def observed_information(cross: Cross, peak: "Peak", slopes: Slopes) -> np.ndarray:
    """Return the observed information, shape (terms + 1, terms + 1)."""
    s, ratios = peak.variances[-1], peak.variances[:-1] / peak.variances[-1]
    cut, zpy, zpz = cross.starts[:-1], slopes.zpy, slopes.zpz
    b = zpy - zpz @ (cross.per_level(ratios) * zpy)  # Z'PPy
    first = peak.state.rss - ratios @ _add_blocks(zpy**2, cut)  # y'PPy
    mixed = _add_blocks(zpy * b, cut)
    pairs = _add_blocks(zpy[:, None] * zpz * zpy, cut, both=True)
    return _border(pairs, mixed, first - ratios @ mixed) / s**3 - slopes.expected


def _add_blocks(values: np.ndarray, cut: np.ndarray, both: bool = False) -> np.ndarray:
    if cut.size == 0:
        return np.zeros((0, 0) if both else 0)
    out = np.add.reduceat(values, cut, axis=0)
    return np.add.reduceat(out, cut, axis=1) if both else out


def _border(inner: np.ndarray, side: np.ndarray, corner: float) -> np.ndarray:
    out = np.empty((side.size + 1, side.size + 1))
    out[:-1, :-1], out[:-1, -1], out[-1, :-1], out[-1, -1] = inner, side, side, corner
    return out


# The search.


@dataclass(frozen=True)
class Peak:
    """Maximum of the likelihood: variances (residual last), and how far it could still rise (``gap``)."""

    variances: np.ndarray
    state: State
    slopes: Slopes
    loglik: float
    gap: float


def maximise(cross: Cross, reml: bool = True) -> Peak:
    """Find the variances that maximise the likelihood, zero allowed.

    Fisher scoring over the variances themselves: over standard deviations, zero would be a stationary
    point of every problem. Small tables have several maxima, at the lower of which two far starts can
    agree: searches begin in many places, the highest is kept.
    """
    total = max(float(cross.yy - cross.xy @ np.linalg.solve(cross.xx, cross.xy)), 0.0)
    total /= max(cross.degrees(reml), 1)
    if total <= 1e-14 * cross.yy / cross.rows:
        raise BadFit("the fixed effects fit every row exactly: use fewer effects or more rows.")
    good: list[Peak] = []
    for begin in _starts(cross, total):
        peak = _climb(cross, begin, reml, good)
        if peak is not None and peak.gap <= SETTLED:
            good.append(peak)
    if not good:
        said = "the search for the variances did not converge, so no coefficient is shown"
        raise BadFit(f"{said}: leave out a random effect with very few levels.")
    return max(good, key=lambda peak: peak.loglik)


def _starts(cross: Cross, total: float) -> list[np.ndarray]:
    """Return where searches begin: equal variances, each one small, large, and alone with error."""
    k = len(cross.starts) - 1
    equal, one = np.ones(k + 1), np.eye(k + 1, dtype=bool)
    if len(cross.zz) > ONE_SUMMIT:
        shares = [equal, *(np.append(np.full(k, ratio), 1.0) for ratio in (FAR, 1 / FAR))]
    else:
        shares = [equal, *np.where(one, FAR, 1.0), *np.where(one, 1 / FAR, 1.0)]
        shares += list(np.where(one | one[-1], 1.0, FAR)[:-1])
    return [total * share / share.sum() for share in shares]


Place = tuple[np.ndarray, State, float]


def _at(cross: Cross, v: np.ndarray, reml: bool) -> Place | None:
    """Evaluate; the common scale is set to its best value for free."""
    try:
        state = solve(cross, v[:-1] / v[-1])
    except np.linalg.LinAlgError:
        return None
    if not state.rss > 0:
        return None
    v = v * (state.rss / cross.degrees(reml) / v[-1])
    return v, state, loglik(cross, state, v[-1], reml)


def _climb(cross: Cross, start: np.ndarray, reml: bool, known: Sequence[Peak]) -> Peak | None:
    """Climb by Fisher scoring; None where that breaks down or joins a known maximum."""
    here = _at(cross, start, reml)
    for _ in range(200):
        if here is None:
            return None
        v, state, value = here
        close = [p for p in known if abs(p.loglik - value) < JOINS]
        if any(np.abs(p.variances - v).max() < JOINS * v.sum() for p in close):
            return None
        slopes = derivatives(cross, state, v, reml)
        free = ~((v <= 0) & (slopes.score <= 0))
        jump = np.zeros(v.size)
        if free.any():
            info = slopes.expected[np.ix_(free, free)]
            try:
                jump[free] = np.linalg.solve(info, slopes.score[free])
            except np.linalg.LinAlgError:
                jump[free] = np.linalg.lstsq(info, slopes.score[free], rcond=None)[0]
        # shorten the step until the likelihood rises; negative variances become zero
        gap = float(0.5 * slopes.score @ jump)
        for halvings in range(40 if gap >= 1e-9 else 0):
            trial = np.maximum(v + jump / 2**halvings, 0.0)
            trial[-1] = max(trial[-1], 0.05 * v[-1])  # the residual may shrink, never vanish
            here = _at(cross, trial, reml)
            if here is not None and here[2] > value:
                break
        else:
            return Peak(v, state, slopes, value, gap)
    return None


# Small-sample standard errors and degrees of freedom.


def _precision(
    cross: Cross, peak: Peak, method: Method, reml: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return covariance and df of the fixed effects, and the covariance of the variances.

    Of one coefficient the Kenward-Roger scale is exactly 1 and its df are Satterthwaite's formula with the
    *expected* information of all variances; its standard error is enlarged for their being estimated.
    Satterthwaite uses the observed information of the variances above zero, as lmerTest does.

    Source: Kenward & Roger, Biometrics 53 (1997); Kuznetsova et al., J. Stat. Software 82(13) (2017).
    """
    v = peak.variances
    slopes = peak.slopes if reml else derivatives(cross, peak.state, v, reml=True)
    covariance = plain = v[-1] * np.linalg.inv(peak.state.info)
    first, second = _kernels(cross, peak, slopes)
    use, information = np.full(v.size, True), slopes.expected
    if method == "satterthwaite":
        use[:-1] = v[:-1] > 1e-8 * v.sum()
        information = observed_information(cross, peak, slopes)
    spread = np.zeros((v.size, v.size))
    spread[np.ix_(use, use)] = np.linalg.pinv(information[np.ix_(use, use)], hermitian=True)
    if method == "kenward-roger":
        inner = np.einsum("kl,klij->ij", spread, second)
        inner -= np.einsum("kl,kij,jm,lmn->in", spread, first, plain, first)
        covariance = plain + 2 * plain @ inner @ plain
        covariance = (covariance + covariance.T) / 2
    # twice the squared variance over the variance of that variance
    turn = np.array([np.diag(plain @ f @ plain) for f in first])
    uncertain = np.einsum("ki,kl,li->i", turn, spread, turn)
    with np.errstate(divide="ignore"):
        df = np.where(uncertain > 0, 2 * np.diag(plain) ** 2 / uncertain, np.inf)
    return covariance, df, spread


def _kernels(cross: Cross, peak: Peak, slopes: Slopes) -> tuple[np.ndarray, np.ndarray]:
    """Return X'V^-1 K V^-1 X per variance and X'V^-1 K V^-1 K V^-1 X per pair of variances."""
    f, n, s = slopes.zhx, slopes.zhz, peak.variances[-1]
    ratios, k = peak.variances[:-1] / s, len(peak.variances) - 1
    e = f - n @ (cross.per_level(ratios)[:, None] * f)  # Z'H^-2X
    blocks = [slice(a, b) for a, b in zip(cross.starts[:-1], cross.starts[1:], strict=True)]
    p = f.shape[1]
    first, second = np.zeros((k + 1, p, p)), np.zeros((k + 1, k + 1, p, p))
    for i, a in enumerate(blocks):
        first[i] = f[a].T @ f[a]
        for j, b in enumerate(blocks):
            second[i, j] = f[a].T @ n[a, b] @ f[b]
        second[i, k] = f[a].T @ e[a]
        second[k, i] = second[i, k].T
    first[k] = peak.state.info - np.einsum("k,kij->ij", ratios, first[:k])
    second[k, k] = first[k] - np.einsum("k,kij->ij", ratios, second[:k, k])
    return first / s**2, second / s**3
