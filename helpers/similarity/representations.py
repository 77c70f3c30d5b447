"""Representation measures: how alike two encoders see the same inputs.

Each function takes two arrays whose rows describe the same inputs in the same order, one array per
encoder, and returns a float; larger means more alike. Canonical correlations also take the arrays'
``leading_axes``, so that an encoder compared with many others is decomposed once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from helpers.errors import BadRows
from helpers.similarity.arrays import Floats, eigen, matrix, paired

__all__ = ["Axes", "canonical_correlations", "leading_axes", "linear_cka", "pwcca", "rsa", "svcca"]


@dataclass(frozen=True)
class Axes:
    """A representation on its leading principal axes, the one of largest variance first.

    Attributes:
        scores: orthonormal scores of the rows, shape (N, k).
        loadings: weight of each column in each axis, times the axis' scale, shape (k, D).
        share: share of the variance that the axes up to each explain, shape (k,).
    """

    scores: Floats
    loadings: Floats
    share: Floats

    @property
    def nbytes(self) -> int:
        """Memory of the arrays."""
        return self.scores.nbytes + self.loadings.nbytes + self.share.nbytes

    def up_to(self, variance: float, dimensions: int) -> Axes:
        """Return the first axes that explain a share of the variance, at most so many (0: all)."""
        keep = int(np.searchsorted(self.share, variance - 1e-12)) + 1
        keep = min(keep, dimensions or keep)
        return Axes(self.scores[:, :keep], self.loadings[:keep], self.share[:keep])


def leading_axes(values: ArrayLike, dimensions: int = 0) -> Axes:
    """Decompose a representation once, for canonical correlations with many others.

    Args:
        values: shape (N, D).
        dimensions: most axes to keep; 0 sets no limit.

    Returns:
        The representation on its axes.

    Raises:
        BadRows: NaN, fewer than 4 rows, or a constant representation.
    """
    centred = _centred(matrix(values, "representation", rows=4))
    variances, axes = eigen(centred.T @ centred, max(centred.shape))
    share = np.cumsum(variances[::-1]) / variances.sum()
    kept = slice(dimensions or None)
    scale, axes = np.sqrt(variances[::-1][kept]), axes[:, ::-1][:, kept]
    return Axes(centred @ (axes / scale), scale[:, None] * axes.T, share[kept])


def linear_cka(a: ArrayLike, b: ArrayLike, debiased: bool = True) -> float:
    """Centred kernel alignment of two representations under linear kernels.

    Cost: O(N D^2), no N x N matrix. Invariant to rotation, to scale and to a common reordering of
    the rows. The biased form approaches 1 for independent representations as D / N grows.

    Args:
        a: shape (N, D1).
        b: shape (N, D2), the same rows.
        debiased: use the unbiased estimate of the independence criterion, which may be negative.

    Returns:
        A value up to 1; about 0 for independent representations where debiased.

    Raises:
        BadRows: NaN, different row counts, fewer than 4 rows, or a constant representation.

    Source: Kornblith et al. 2019 (arXiv 1905.00414); debiased with the unbiased estimator of Song
        et al. 2012 (JMLR 13, 1393-1434).
    """
    first, second = (_centred(values) for values in paired(a, b))
    criterion = _unbiased_criterion if debiased else _biased_criterion
    own = criterion(first, first) * criterion(second, second)
    if own <= 0:
        raise BadRows("a representation does not vary enough over these rows to be compared.")
    return float(criterion(first, second) / np.sqrt(own))


def _centred(values: Floats) -> Floats:
    values = values - values.mean(axis=0)
    largest = np.abs(values).max()
    if largest == 0.0:
        raise BadRows("every row of a representation is the same; nothing to compare.")
    # In two steps: squares of very large or small features would overflow or vanish.
    values = values / largest
    return values / np.sqrt((values**2).mean())


def _biased_criterion(a: Floats, b: Floats) -> float:
    return float(((a.T @ b) ** 2).sum())


def _unbiased_criterion(a: Floats, b: Floats) -> float:
    """Unbiased independence criterion times N (N - 3), from features alone."""
    rows = len(a)
    squares_a, squares_b = (a**2).sum(axis=1), (b**2).sum(axis=1)
    # Row sums of the kernels without their diagonals; the features are centred, so full row sums
    # are zero and only the diagonal is left.
    trace = ((a.T @ b) ** 2).sum() - squares_a @ squares_b
    product = squares_a.sum() * squares_b.sum() / ((rows - 1) * (rows - 2))
    return float(trace + product - 2.0 / (rows - 2) * (squares_a @ squares_b))


def rsa(a: ArrayLike, b: ArrayLike, centred: bool = True) -> float:
    """Spearman correlation of two matrices of cosine dissimilarities.

    Cost: O(N^2 (D + log N)) time and O(N^2) memory. Invariant to rotation and to scale.

    Args:
        a: shape (N, D1).
        b: shape (N, D2), the same rows.
        centred: subtract the mean row first, since encoders put all texts in a narrow cone.

    Returns:
        A rank correlation from -1 to 1.

    Raises:
        BadRows: NaN, different row counts, fewer than 4 rows, or a row of length zero.

    Source: Kriegeskorte et al. 2008 (Frontiers in Systems Neuroscience 2:4).
    """
    first, second = paired(a, b)
    ranks = [stats.rankdata(_dissimilarities(values, centred)) for values in (first, second)]
    deviations = [values - values.mean() for values in ranks]
    norm = np.sqrt((deviations[0] ** 2).sum() * (deviations[1] ** 2).sum())
    if norm == 0.0:
        raise BadRows("all rows of a representation are equally far apart; nothing to compare.")
    return float(deviations[0] @ deviations[1] / norm)


def _dissimilarities(values: Floats, centred: bool) -> Floats:
    """One minus cosine of each pair of rows, shape (N (N - 1) / 2,)."""
    values = values - values.mean(axis=0) if centred else values
    norms = np.linalg.norm(values, axis=1, keepdims=True)
    if norms.min() <= 1e-12 * norms.max() or norms.max() == 0.0:
        raise BadRows("a row of a representation is zero (after centring); it has no direction.")
    unit = values / norms
    return 1.0 - (unit @ unit.T)[np.triu_indices(len(unit), 1)]


def svcca(
    a: ArrayLike | Axes, b: ArrayLike | Axes, variance: float = 0.99, dimensions: int = 0
) -> float:
    """Mean canonical correlation of the leading principal axes of two representations.

    Cost: O(N D^2), or O(N k^2) from k axes. Invariant to rotation and to scale. Independent
    representations score about sqrt(D1 + D2) / sqrt(N) rather than 0, so keep few dimensions.

    Args:
        a: shape (N, D1), or its leading axes.
        b: shape (N, D2), the same rows, or its leading axes.
        variance: share of the variance that the kept axes explain.
        dimensions: most axes to keep; 0 sets no limit.

    Returns:
        A value from 0 to 1.

    Raises:
        BadRows: NaN, different row counts, or no more rows than kept axes.

    Source: Raghu et al. 2017 (arXiv 1706.05806).
    """
    correlations, _ = canonical_correlations(a, b, variance, dimensions)
    return float(correlations.mean())


def pwcca(
    a: ArrayLike | Axes, b: ArrayLike | Axes, variance: float = 1.0, dimensions: int = 0
) -> float:
    """Canonical correlations weighted by how much of the first representation they carry.

    Cost: O(N D^2), or O(N k^2) from k axes. Directed: weights come from ``a``. Directions of ``a``
    without a counterpart in ``b`` count with correlation 0.

    Args:
        a: shape (N, D1), or its leading axes; the representation that gives the weights.
        b: shape (N, D2), the same rows, or its leading axes.
        variance: share of the variance that the kept axes explain.
        dimensions: most axes to keep; 0 sets no limit.

    Returns:
        A value from 0 to 1.

    Raises:
        BadRows: NaN, different row counts, or no more rows than kept axes.

    Source: Morcos et al. 2018 (arXiv 1806.05759).
    """
    correlations, weights = canonical_correlations(a, b, variance, dimensions)
    return float(correlations @ weights[: len(correlations)] / weights.sum())


def canonical_correlations(
    a: ArrayLike | Axes, b: ArrayLike | Axes, variance: float = 1.0, dimensions: int = 0
) -> tuple[Floats, Floats]:
    """Canonical correlations of two representations and the weights of the first one's directions.

    Args:
        a: shape (N, D1), or its leading axes.
        b: shape (N, D2), the same rows, or its leading axes.
        variance: share of the variance that the kept axes explain.
        dimensions: most axes to keep on each side; 0 sets no limit.

    Returns:
        Correlations of shape (min(k1, k2),), largest first, and projection weights of shape (k1,),
        the weights of the correlated directions first.

    Raises:
        BadRows: NaN, different row counts, or no more rows than kept axes (k1 + k2), where the
            correlations are 1 by construction.

    Source: Hotelling 1936; weights as in Morcos et al. 2018.
    """
    first, second = (values.up_to(variance, dimensions) for values in _decomposed(a, b))
    rows, kept = len(first.scores), len(first.share) + len(second.share)
    if rows <= kept + 1:
        raise BadRows(
            f"{rows} rows for {kept} axes: canonical correlations would be 1 for any data. "
            "Use more rows or fewer dimensions."
        )
    directions, correlations, _ = np.linalg.svd(first.scores.T @ second.scores)
    weights = np.abs(directions.T @ first.loadings).sum(axis=1)
    return np.clip(correlations, 0.0, 1.0), weights


def _decomposed(a: ArrayLike | Axes, b: ArrayLike | Axes) -> tuple[Axes, Axes]:
    """Return both representations on their axes, rows checked to be the same."""
    rows_a, rows_b = (v.scores if isinstance(v, Axes) else v for v in (a, b))
    paired(rows_a, rows_b)
    first, second = (v if isinstance(v, Axes) else leading_axes(v) for v in (a, b))
    return first, second
