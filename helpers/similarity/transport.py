"""Optimal transport between labelled data sets, with an exact and a regularised solver."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, sparse

from helpers.errors import BadFit, BadRows
from helpers.similarity.arrays import (
    Floats,
    Integers,
    class_means,
    labelled,
    matrix,
    principal,
    squared_distances,
    vector,
)

__all__ = ["gaussian_distance", "otdd", "sinkhorn", "transport_cost"]


def transport_cost(
    cost: ArrayLike, a: ArrayLike | None = None, b: ArrayLike | None = None
) -> float:
    """Smallest cost of moving one distribution onto another, exactly.

    Cost: the assignment problem, O(N^3), for uniform weights and a square matrix; otherwise a
    linear programme of N x M variables, fit for a few hundred rows.

    Args:
        cost: cost of moving a unit from each source to each sink, shape (N, M).
        a: source weights, uniform by default.
        b: sink weights, uniform by default.

    Returns:
        The cost per unit of mass.

    Raises:
        BadRows: NaN, or weights that do not fit the cost.
        BadFit: the linear programme found no optimum.

    Source: Kantorovich's problem; Peyre and Cuturi 2019 (arXiv 1803.00567).
    """
    costs = matrix(cost, "transport costs", rows=1)
    if a is None and b is None and costs.shape[0] == costs.shape[1]:
        rows, columns = optimize.linear_sum_assignment(costs)
        return float(costs[rows, columns].mean())
    source, sink = _weights(a, costs.shape[0]), _weights(b, costs.shape[1])
    n, m = costs.shape
    rows_sum = sparse.kron(sparse.eye(n), np.ones((1, m)))
    columns_sum = sparse.kron(np.ones((1, n)), sparse.eye(m))
    # One constraint follows from the others; dropping it keeps the solver from calling rounding
    # errors an infeasible programme.
    result = optimize.linprog(
        costs.ravel(),
        A_eq=sparse.vstack([rows_sum, columns_sum]).tocsr()[:-1],
        b_eq=np.concatenate([source, sink])[:-1],
        method="highs",
    )
    if not result.success:
        raise BadFit(f"no optimal transport plan was found: {result.message}")
    return float(result.fun)


def _weights(values: ArrayLike | None, size: int) -> Floats:
    if values is None:
        return np.full(size, 1.0 / size)
    array = vector(values, "transport weights")
    if len(array) != size or array.min() < 0 or array.sum() == 0:
        raise BadRows(f"expected {size} weights >= 0 with a positive sum; got {array.shape}.")
    return array / array.sum()


def sinkhorn(
    cost: ArrayLike,
    regularisation: float,
    a: ArrayLike | None = None,
    b: ArrayLike | None = None,
    iterations: int = 2000,
    tolerance: float = 1e-6,
) -> float:
    """Transport cost of the plan that entropy regularisation gives, in the log domain.

    Cost: O(iterations N M). Never less than the exact cost; close to it for small regularisation.

    Args:
        cost: cost of moving a unit from each source to each sink, shape (N, M).
        regularisation: weight of the entropy, in units of cost.
        a: source weights, uniform by default.
        b: sink weights, uniform by default.
        iterations: most updates of the potentials.
        tolerance: largest error of the plan's margins, summed.

    Returns:
        The cost per unit of mass, without the entropy term.

    Raises:
        BadRows: NaN, a regularisation that is not positive, or weights that do not fit.
        BadFit: the margins did not converge.

    Source: Cuturi 2013 (arXiv 1306.0895); log-domain updates as in Peyre and Cuturi 2019
        (arXiv 1803.00567).
    """
    costs = matrix(cost, "transport costs", rows=1)
    if not regularisation > 0:
        raise BadRows(f"regularisation is {regularisation}; expected a positive number.")
    source, sink = _weights(a, costs.shape[0]), _weights(b, costs.shape[1])
    kernel = -costs / regularisation
    # Weights of zero carry no mass; a tiny one keeps the logarithm finite.
    log_source, log_sink = (np.log(np.maximum(w, 1e-300)) for w in (source, sink))
    left = np.zeros(len(source))
    for step in range(iterations):
        right = log_sink - _log_sum(kernel + left[:, None], axis=0)
        left = log_source - _log_sum(kernel + right, axis=1)
        if step % 10 == 9 or step == iterations - 1:
            plan = np.exp(kernel + left[:, None] + right)
            if np.abs(plan.sum(axis=0) - sink).sum() <= tolerance:
                return float((plan * costs).sum() / plan.sum())
    raise BadFit(
        f"Sinkhorn did not converge in {iterations} steps; raise the regularisation "
        f"({regularisation:g}) or the number of steps."
    )


def _log_sum(values: Floats, axis: int) -> Floats:
    top = values.max(axis=axis, keepdims=True)
    return np.log(np.exp(values - top).sum(axis=axis)) + top.squeeze(axis)


def gaussian_distance(
    mean_a: ArrayLike, covariance_a: ArrayLike, mean_b: ArrayLike, covariance_b: ArrayLike
) -> float:
    """Squared 2-Wasserstein distance of two Gaussians.

    Cost: two eigendecompositions, O(D^3).

    Args:
        mean_a: shape (D,).
        covariance_a: shape (D, D).
        mean_b: shape (D,).
        covariance_b: shape (D, D).

    Returns:
        A value >= 0, in squared units of the features.

    Raises:
        BadRows: NaN or shapes that do not fit.

    Source: Dowson and Landau 1982 (Journal of Multivariate Analysis 12), the Frechet distance.
    """
    first, second = vector(mean_a, "first mean"), vector(mean_b, "second mean")
    spread_a, spread_b = (matrix(c, "covariance", rows=1) for c in (covariance_a, covariance_b))
    if not first.shape == second.shape == spread_a.shape[:1] == spread_b.shape[:1]:
        raise BadRows("means and covariances have different numbers of dimensions.")
    root = _square_root(spread_a)
    cross = np.linalg.eigvalsh(root @ spread_b @ root)
    bures = np.trace(spread_a) + np.trace(spread_b) - 2.0 * np.sqrt(np.maximum(cross, 0.0)).sum()
    return float(((first - second) ** 2).sum() + max(bures, 0.0))


def _square_root(covariance: Floats) -> Floats:
    values, axes = np.linalg.eigh(covariance)
    return (axes * np.sqrt(np.maximum(values, 0.0))) @ axes.T


def otdd(
    features_a: ArrayLike,
    labels_a: ArrayLike,
    features_b: ArrayLike,
    labels_b: ArrayLike,
    dimensions: int = 32,
    regularisation: float = 0.0,
) -> float:
    """Optimal transport distance of two labelled data sets.

    Cost: O(C_a C_b d^3) for the labels, then the assignment of rows; memory O(N M). Moving a row
    costs its squared distance plus the squared Wasserstein distance of its class to the other.

    Args:
        features_a: shape (N, D), features of an untuned encoder.
        labels_a: N class labels, each at least twice.
        features_b: shape (M, D), features of the same encoder.
        labels_b: M class labels, each at least twice.
        dimensions: principal axes of the pooled rows that are kept.
        regularisation: 0 solves exactly; otherwise Sinkhorn, relative to the mean cost.

    Returns:
        Square root of the mean cost, in units of the features; smaller means more similar.

    Raises:
        BadRows: NaN, different columns, or unfit labels.
        BadFit: the solver did not converge.

    Source: Alvarez-Melis and Fusi 2020 (arXiv 2002.02923), classes as Gaussians.
    """
    first, codes_a, counts_a = labelled(features_a, labels_a, smallest=2)
    second, codes_b, counts_b = labelled(features_b, labels_b, smallest=2)
    if first.shape[1] != second.shape[1]:
        raise BadRows(f"features have {first.shape[1]} and {second.shape[1]} columns.")
    points = principal(np.concatenate([first, second]), dimensions)
    first, second = points[: len(first)], points[len(first) :]
    between = _class_distances(first, codes_a, counts_a, second, codes_b, counts_b)
    cost = squared_distances(first, second) + between[codes_a][:, codes_b]
    if regularisation:
        return float(np.sqrt(sinkhorn(cost, regularisation * float(cost.mean()))))
    return float(np.sqrt(transport_cost(cost)))


def _class_distances(
    a: Floats,
    codes_a: Integers,
    counts_a: Integers,
    b: Floats,
    codes_b: Integers,
    counts_b: Integers,
) -> Floats:
    """Squared Wasserstein distances between the classes of two sets, shape (C_a, C_b)."""
    means_a, means_b = class_means(a, codes_a, counts_a), class_means(b, codes_b, counts_b)
    spreads_a = [_covariance(a[codes_a == code]) for code in range(len(counts_a))]
    spreads_b = [_covariance(b[codes_b == code]) for code in range(len(counts_b))]
    distances = np.empty((len(counts_a), len(counts_b)))
    for i, (mean, spread) in enumerate(zip(means_a, spreads_a, strict=True)):
        for j, (other, wide) in enumerate(zip(means_b, spreads_b, strict=True)):
            distances[i, j] = gaussian_distance(mean, spread, other, wide)
    return distances


def _covariance(points: Floats) -> Floats:
    centred = points - points.mean(axis=0)
    return centred.T @ centred / len(points)
