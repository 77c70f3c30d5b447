"""The (restricted) likelihood of variance components: value, derivatives, maximum.

The model is y = X b + sum_k Z_k u_k + e with u_k ~ N(0, v_k I) and e ~ N(0, s I). Everything is
computed from cross-products of (Z, X, y) formed once, so one evaluation costs a Cholesky of the
size of the random effects, whatever the number of rows. Rows with known weights or covariance are
whitened before they come here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.linalg import lapack

from helpers.errors import BadFit

SETTLED = 1e-6  # a search has converged if the log-likelihood can rise by no more than this
FAR = 0.02  # ratio of a small variance to the others where a search begins
ONE_SUMMIT = 100  # levels above which no table was seen to have a second maximum
JOINS = 1e-3  # a climb this near to a known maximum, in height and place, ends there


@dataclass(frozen=True)
class Cross:
    """Cross-products of a whitened mixed model.

    Attributes:
        zz, zx, zy, xx, xy, yy: products of Z (rows, levels), X (rows, fixed) and y (rows,).
        starts: first level of each random effect, and the number of levels at the end.
        rows: number of rows.
        jacobian: log determinant of the whitening, added to the log-likelihood.
    """

    zz: np.ndarray
    zx: np.ndarray
    zy: np.ndarray
    xx: np.ndarray
    xy: np.ndarray
    yy: float
    starts: np.ndarray
    rows: int
    jacobian: float = 0.0

    @property
    def terms(self) -> int:
        """Number of random effects."""
        return len(self.starts) - 1

    def spread(self, values: np.ndarray) -> np.ndarray:
        """Repeat one value per effect for each of its levels."""
        return np.repeat(values, self.starts[1:] - self.starts[:-1])

    def shift(self, column: int, amount: float) -> Cross:
        """Return the model with ``amount`` times a column of X taken from y and that column cut."""
        keep = np.arange(self.xx.shape[0]) != column
        x_col, z_col = self.xx[:, column], self.zx[:, column]
        yy = self.yy - 2 * amount * self.xy[column] + amount**2 * self.xx[column, column]
        return replace(
            self,
            zx=self.zx[:, keep],
            zy=self.zy - amount * z_col,
            xx=self.xx[np.ix_(keep, keep)],
            xy=(self.xy - amount * x_col)[keep],
            yy=float(yy),
        )


def cross_products(
    y: np.ndarray, x: np.ndarray, z: Sequence[np.ndarray], jacobian: float = 0.0
) -> Cross:
    """Form the cross-products of whitened arrays.

    Args:
        y: shape (rows,).
        x: shape (rows, fixed).
        z: one array (rows, levels) per random effect.
        jacobian: log determinant of the whitening.
    """
    starts = np.concatenate([[0], np.cumsum([m.shape[1] for m in z])]).astype(int)
    both = np.hstack(z) if z else np.zeros((y.size, 0))
    return Cross(
        zz=both.T @ both,
        starts=starts,
        rows=y.size,
        jacobian=jacobian,
        **with_outcome(both, x, y),
    )


def with_outcome(z: np.ndarray, x: np.ndarray, y: np.ndarray) -> dict[str, Any]:
    """Return the cross-products that change with the outcome and the fixed effects.

    Args:
        z: all random effects side by side, shape (rows, levels).
        x: shape (rows, fixed).
        y: shape (rows,).
    """
    return {"zx": z.T @ x, "zy": z.T @ y, "xx": x.T @ x, "xy": x.T @ y, "yy": float(y @ y)}


@dataclass(frozen=True)
class State:
    """Solution of the mixed-model equations at given variance ratios.

    Attributes:
        root: Cholesky factor of I + D'Z'ZD, shape (levels, levels).
        scale: square roots of the ratios per level, shape (levels,).
        rx, ry: factor-solved Z'X and Z'y, shapes (levels, fixed) and (levels,).
        info: X'H^-1X with H the covariance in units of the residual, shape (fixed, fixed).
        beta: fixed effects, shape (fixed,).
        rss: generalised residual sum of squares y'Py in units of the residual.
        logdet: log determinant of H.
        logdet_x: log determinant of ``info``.
    """

    root: np.ndarray
    scale: np.ndarray
    rx: np.ndarray
    ry: np.ndarray
    info: np.ndarray
    beta: np.ndarray
    rss: float
    logdet: float
    logdet_x: float


def solve(cross: Cross, ratios: np.ndarray) -> State:
    """Solve the mixed-model equations.

    Args:
        cross: the model.
        ratios: variance of each random effect over the residual variance, all >= 0.

    Raises:
        numpy.linalg.LinAlgError: the equations are singular to working precision.
    """
    scale = np.sqrt(cross.spread(ratios))
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


def degrees(cross: Cross, reml: bool) -> int:
    """Return the divisor of the residual variance: rows less fixed effects, or rows for ML."""
    return cross.rows - cross.xx.shape[0] if reml else cross.rows


def loglik(cross: Cross, state: State, residual: float, reml: bool) -> float:
    """Return the log-likelihood (restricted or not) at a residual variance.

    Source: Patterson & Thompson (1971); constants as in lme4 and statsmodels.
    """
    m = degrees(cross, reml)
    twice = state.logdet + (state.logdet_x if reml else 0.0)
    twice += m * np.log(2 * np.pi * residual) + state.rss / residual
    return float(-0.5 * twice + cross.jacobian)


@dataclass(frozen=True)
class Slopes:
    """Derivatives of the log-likelihood in the variances (residual last).

    Attributes:
        score: gradient, shape (terms + 1,).
        expected: expected information, shape (terms + 1, terms + 1).
        zpz: Z'PZ in units of the residual, shape (levels, levels).
        zpy: Z'Py in units of the residual, shape (levels,).
        zhx: Z'H^-1X, shape (levels, fixed).
        zhz: Z'H^-1Z, shape (levels, levels).
    """

    score: np.ndarray
    expected: np.ndarray
    zpz: np.ndarray
    zpy: np.ndarray
    zhx: np.ndarray
    zhz: np.ndarray


def derivatives(cross: Cross, state: State, variances: np.ndarray, reml: bool) -> Slopes:
    """Return the first derivatives and the expected information of the log-likelihood.

    Args:
        cross: the model.
        state: its solution at the ratios implied by ``variances``.
        variances: one per random effect and the residual last, shape (terms + 1,).
        reml: restricted likelihood, or the plain one.

    Source: Searle, Casella & McCulloch, Variance Components (1992), chapter 6; products with the
        residual kernel use P = P H P, so that nothing of the size of the rows is formed.
    """
    w = _lower_solve(state.root, state.scale[:, None] * cross.zz)
    zhz = cross.zz - w.T @ w
    zhx = cross.zx - w.T @ state.rx
    zpy = cross.zy - w.T @ state.ry - zhx @ state.beta
    zpz = zhz - zhx @ np.linalg.solve(state.info, zhx.T)
    traces = zpz if reml else zhz
    s, ratios, cut = variances[-1], variances[:-1] / variances[-1], cross.starts[:-1]
    t, quad = _add_blocks(traces.diagonal(), cut), _add_blocks(zpy**2, cut)
    tt = _add_blocks(traces**2, cut, both=True)
    u = t - tt @ ratios
    trace_p = degrees(cross, reml) - ratios @ t
    score = np.append(quad, state.rss - ratios @ quad) / s**2 - np.append(t, trace_p) / s
    expected = _border(tt, u, trace_p - ratios @ u) / (2 * s**2)
    return Slopes(score / 2, expected, zpz, zpy, zhx, zhz)


def observed_information(
    cross: Cross, state: State, variances: np.ndarray, slopes: Slopes
) -> np.ndarray:
    """Return the observed information, shape (terms + 1, terms + 1).

    Args:
        cross: the model.
        state, slopes: solution and derivatives (of either likelihood) at ``variances``.
        variances: one per random effect and the residual last.
    """
    s, ratios, cut = variances[-1], variances[:-1] / variances[-1], cross.starts[:-1]
    zpy, zpz = slopes.zpy, slopes.zpz
    b = zpy - zpz @ (cross.spread(ratios) * zpy)  # Z'PPy
    first = state.rss - ratios @ _add_blocks(zpy**2, cut)  # y'PPy
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


@dataclass(frozen=True)
class Peak:
    """Maximum of the likelihood.

    Attributes:
        variances: one per random effect and the residual last.
        state: solution there.
        slopes: derivatives there.
        loglik: value there.
        steps: iterations used.
        gap: how far the log-likelihood could still rise by its own second-order estimate.
    """

    variances: np.ndarray
    state: State
    slopes: Slopes
    loglik: float
    steps: int
    gap: float


def maximise(
    cross: Cross,
    reml: bool = True,
    held: dict[int, float] | None = None,
    start: np.ndarray | None = None,
    tolerance: float = 1e-9,
) -> Peak:
    """Find the variances that maximise the likelihood, zero allowed.

    Fisher scoring over the variances themselves with those at zero held there as long as the
    likelihood falls away from it. Searching over standard deviations instead would make zero a
    stationary point of every problem and stop there wrongly. Small tables have several maxima, at
    the lower of which two far starts can agree: searches begin in many places, the highest is kept.

    Args:
        cross: the model.
        reml: restricted likelihood, or the plain one.
        held: position of a variance (-1: the residual) to the value it is fixed at.
        start: variances to begin from, trusted if the search settles; default: several.
        tolerance: largest rise of the log-likelihood that may be left.

    Raises:
        BadFit: no search converged, or the residual variance is zero.
    """
    held = held or {}
    total = max(float(cross.yy - cross.xy @ np.linalg.solve(cross.xx, cross.xy)), 0.0)
    total /= max(degrees(cross, reml), 1)
    if total <= 1e-14 * cross.yy / cross.rows:
        raise BadFit(
            "the fixed effects fit every row exactly, so there is no error to judge them by: "
            "use fewer effects or more rows."
        )
    good: list[Peak] = []
    for begin in ([] if start is None else [start]) + _starts(cross, total):
        peak = _climb(cross, begin, reml, held, tolerance, good)
        if peak is not None and peak.gap <= SETTLED:
            good.append(peak)
            if start is not None:
                break
    if not good:
        raise BadFit(
            "the search for the variances did not converge, so no coefficient is shown: look for a "
            "random effect with very few levels or a residual near zero, and leave that effect out."
        )
    return max(good, key=lambda peak: peak.loglik)


def _starts(cross: Cross, total: float) -> list[np.ndarray]:
    """Return where searches begin: equal variances, each one small, large, and alone with error."""
    k = cross.terms
    equal, one = np.ones(k + 1), np.eye(k + 1, dtype=bool)
    if len(cross.zz) > ONE_SUMMIT:
        shares = [equal, *(np.append(np.full(k, ratio), 1.0) for ratio in (FAR, 1 / FAR))]
    else:
        shares = [equal, *np.where(one, FAR, 1.0), *np.where(one, 1 / FAR, 1.0)]
        shares += list(np.where(one | one[-1], 1.0, FAR)[:-1])
    return [total * share / share.sum() for share in shares]


def _at(
    cross: Cross, variances: np.ndarray, reml: bool, held: dict[int, float]
) -> tuple[np.ndarray, State, float] | None:
    """Evaluate; without held variances the common scale is set to its best value for free."""
    v = variances.copy()
    for position, value in held.items():
        v[position] = value
    try:
        state = solve(cross, v[:-1] / v[-1])
    except np.linalg.LinAlgError:
        return None
    if not state.rss > 0:
        return None
    if not held:
        v = v * (state.rss / degrees(cross, reml) / v[-1])
    return v, state, loglik(cross, state, v[-1], reml)


def _climb(
    cross: Cross,
    start: np.ndarray,
    reml: bool,
    held: dict[int, float],
    tolerance: float,
    known: Sequence[Peak] = (),
) -> Peak | None:
    """Fisher scoring with a set of variances at zero; None where it breaks down or joins another."""
    here = _at(cross, start, reml, held)
    if here is None:
        return None
    moves = _may_move(cross, held)
    for step in range(200):
        v, state, value = here
        if any(
            abs(p.loglik - value) < JOINS and np.abs(p.variances - v).max() < JOINS * v.sum()
            for p in known
        ):
            return None
        slopes = derivatives(cross, state, v, reml)
        free = moves & ~((v <= 0) & (slopes.score <= 0))
        jump, gap = _jump(slopes, free)
        if gap < tolerance:
            return Peak(v, state, slopes, value, step, gap)
        nxt = _line_search(cross, v, value, jump, reml, held)
        if nxt is None:
            return Peak(v, state, slopes, value, step, gap)
        here = nxt
    return Peak(*here[:2], derivatives(cross, here[1], here[0], reml), here[2], 200, gap)


def _jump(slopes: Slopes, free: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the scoring step over the free variances and the rise it promises."""
    jump = np.zeros(free.size)
    if not free.any():
        return jump, 0.0
    info = slopes.expected[np.ix_(free, free)]
    try:
        jump[free] = np.linalg.solve(info, slopes.score[free])
    except np.linalg.LinAlgError:
        jump[free] = np.linalg.lstsq(info, slopes.score[free], rcond=None)[0]
    return jump, float(0.5 * slopes.score[free] @ jump[free])


def _line_search(
    cross: Cross,
    v: np.ndarray,
    value: float,
    jump: np.ndarray,
    reml: bool,
    held: dict[int, float],
) -> tuple[np.ndarray, State, float] | None:
    """Shorten the step until the likelihood rises; negative variances become zero."""
    length = 1.0
    for _ in range(40):
        trial = np.maximum(v + length * jump, 0.0)
        trial[-1] = max(trial[-1], 0.05 * v[-1])  # the residual may shrink, never vanish in a step
        found = _at(cross, trial, reml, held)
        if found is not None and found[2] > value:
            return found
        length /= 2
    return None


def _may_move(cross: Cross, held: dict[int, float]) -> np.ndarray:
    """Tell which variances are estimated; a held position may count from the end."""
    moves = np.full(cross.terms + 1, True)
    moves[list(held)] = False
    return moves
