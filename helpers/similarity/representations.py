"""Arrays of encoder states: their checks and linear algebra, and measures that compare two of them.

Two representations hold the same inputs row by row; two labelled sets need not. Larger means more
alike, except for the distances of optimal transport.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, sparse, stats

from helpers.errors import BadFit, BadRows

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Pair = Sequence[ArrayLike] | Floats


# Checks.


def matrix(values: ArrayLike, name: str = "features", rows: int = 2) -> Floats:
    """Return values as a finite float array of shape (rows, columns); BadRows where they are not."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 2 or array.shape[1] == 0:
        raise BadRows(f"{name} has shape {array.shape}; expected (rows, columns) with columns > 0.")
    if len(array) < rows:
        raise BadRows(f"{name} has {len(array)} rows; at least {rows} are needed. Sample more.")
    return _finite(array, name)


def vector(values: ArrayLike, name: str) -> Floats:
    """Return values as a finite, non-empty float vector; BadRows where they are not."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or array.size == 0:
        raise BadRows(f"{name} has shape {array.shape}; expected a non-empty vector.")
    return _finite(array, name)


def _finite(array: Floats, name: str) -> Floats:
    bad = array.size - int(np.isfinite(array).sum())
    if bad:
        raise BadRows(
            f"{name} has {bad} NaN or infinite entries of {array.size}; a measure of them would be "
            "meaningless. Check the encoder's output, for example for overflow in half precision."
        )
    return array


def paired(a: ArrayLike, b: ArrayLike, rows: int = 4) -> tuple[Floats, Floats]:
    """Return two finite arrays that describe the same rows; BadRows where they do not."""
    first, second = matrix(a, "first array", rows), matrix(b, "second array", rows)
    if len(first) != len(second):
        raise BadRows(
            f"the arrays have {len(first)} and {len(second)} rows; both must describe the same "
            "inputs in the same order."
        )
    return first, second


def same_columns(a: ArrayLike, b: ArrayLike, what: str, rows: int = 2) -> tuple[Floats, Floats]:
    """Return two finite arrays of states of one encoder; BadRows where their widths differ."""
    first, second = (
        matrix(x, f"{what} of the {n} task", rows) for x, n in ((a, "first"), (b, "second"))
    )
    if first.shape[1] != second.shape[1]:
        raise BadRows(f"{what} have {first.shape[1]} and {second.shape[1]} columns.")
    return first, second


def whole(labels: ArrayLike, name: str = "labels") -> NDArray[Any]:
    """Return labels as class ids or names, one per row; BadRows for fractions and NaN."""
    array = np.asarray(labels)
    if array.ndim != 1 or array.size == 0:
        raise BadRows(f"{name} have shape {array.shape}; expected one label per row.")
    if array.dtype.kind == "f" and not np.array_equal(array, np.round(array)):
        raise BadRows(f"{name} are not whole numbers (or are NaN); expected class ids or names.")
    return array


def classes(labels: ArrayLike, rows: int, smallest: int = 1) -> tuple[Integers, Integers]:
    """Return labels as codes 0..C-1 and the size of each class; BadRows where they are unfit."""
    array = whole(labels)
    if len(array) != rows:
        raise BadRows(
            f"labels have shape {array.shape} for {rows} rows; expected one label per row."
        )
    if array.dtype.kind in "if" and (array == -100).any():
        raise BadRows(
            f"{int((array == -100).sum())} of {rows} labels are -100, the mark of what has no label; "
            "leave those rows out of features and labels."
        )
    values, codes, counts = np.unique(array, return_inverse=True, return_counts=True)
    if len(values) < 2:
        raise BadRows(
            f"all {rows} labels are {values.tolist()[0]!r}; at least two classes are needed."
        )
    if rows <= len(values):
        raise BadRows(f"{rows} rows for {len(values)} classes; more rows than classes are needed.")
    if counts.min() < smallest:
        rare = values.tolist()[counts.argmin()]
        raise BadRows(
            f"class {rare!r} has {counts.min()} rows; this measure needs {smallest} in each class. "
            "Sample more rows or leave rare classes out."
        )
    return codes.astype(np.int64), counts.astype(np.int64)


def labelled(
    features: ArrayLike, labels: ArrayLike, smallest: int = 1
) -> tuple[Floats, Integers, Integers]:
    """Return checked features, class codes and class sizes; see ``matrix`` and ``classes``."""
    array = matrix(features)
    codes, counts = classes(labels, len(array), smallest)
    if not np.ptp(array, axis=0).any():
        raise BadRows("every row of the features is the same; the encoder may have collapsed.")
    return array, codes, counts


def scalar(value: Any) -> float:
    """Return a measure's value as a finite float; BadRows for anything that must not be stored."""
    number = float(np.asarray(value, dtype=np.float64).reshape(()))
    if not np.isfinite(number):
        raise BadRows(f"the measure gave {number}; expected a finite number for fit arrays.")
    return number


# Linear algebra.


def one_hot(codes: Integers, count: int) -> Floats:
    """Return indicator columns, shape (rows, count)."""
    return np.eye(count)[codes]


def class_means(features: Floats, codes: Integers, counts: Integers) -> Floats:
    """Return the mean of the features in each class, shape (classes, columns)."""
    return one_hot(codes, len(counts)).T @ features / counts[:, None]


def eigen(gram: Floats, largest_side: int) -> tuple[Floats, Floats]:
    """Return the eigenvalues of a Gram matrix above rounding noise, ascending, and their vectors."""
    values, vectors = np.linalg.eigh(gram)
    keep = values > max(values[-1], 0.0) * largest_side * np.finfo(np.float64).eps
    return values[keep], vectors[:, keep]


def principal(features: Floats, dimensions: int) -> Floats:
    """Return the centred features on their leading principal axes, the largest variance first."""
    centred = features - features.mean(axis=0)
    rows, columns = centred.shape
    if rows >= columns:
        _, axes = eigen(centred.T @ centred, rows)
        return centred @ axes[:, ::-1][:, :dimensions]
    values, sides = eigen(centred @ centred.T, columns)
    return (sides * np.sqrt(values))[:, ::-1][:, :dimensions]


def cosine(a: ArrayLike, b: ArrayLike, what: str = "vectors") -> float:
    """Return the cosine of two vectors; BadRows for different lengths, NaN, or a zero vector."""
    first, second = vector(a, what), vector(b, what)
    if first.shape != second.shape:
        raise BadRows(f"{what} have lengths {first.size} and {second.size}; expected the same.")
    norm = float(np.linalg.norm(first) * np.linalg.norm(second))
    if norm == 0.0:
        raise BadRows(f"one of the {what} is zero, so it has no direction; nothing to compare.")
    return float(np.clip(first @ second / norm, -1.0, 1.0))


def unit_rows(values: Floats, what: str) -> Floats:
    """Return rows of length one; BadRows where one has no direction."""
    norms = np.linalg.norm(values, axis=1, keepdims=True)
    if norms.min() <= 1e-12 * norms.max() or norms.max() == 0.0:
        raise BadRows(f"{what} is zero; it has no direction.")
    return values / norms


def squared_distances(a: Floats, b: Floats) -> Floats:
    """Return squared Euclidean distances, shape (rows of a, rows of b)."""
    distance = a @ b.T
    distance *= -2.0
    distance += (a**2).sum(axis=1)[:, None]
    distance += (b**2).sum(axis=1)
    return np.maximum(distance, 0.0, out=distance)


# Two encoders on the same rows.


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

    def up_to(self, variance: float, dimensions: int) -> Axes:
        """Return the first axes that explain a share of the variance, at most so many (0: all)."""
        keep = int(np.searchsorted(self.share, variance - 1e-12)) + 1
        keep = min(keep, dimensions or keep)
        return Axes(self.scores[:, :keep], self.loadings[:keep], self.share[:keep])


def leading_axes(values: ArrayLike, dimensions: int = 0) -> Axes:
    """Decompose a representation (N, D) once, for canonical correlations with many others."""
    centred = _centred(matrix(values, "representation", rows=4))
    variances, axes = eigen(centred.T @ centred, max(centred.shape))
    share = np.cumsum(variances[::-1]) / variances.sum()
    kept = slice(dimensions or None)
    scale, axes = np.sqrt(variances[::-1][kept]), axes[:, ::-1][:, kept]
    return Axes(centred @ (axes / scale), scale[:, None] * axes.T, share[kept])


def linear_cka(a: ArrayLike, b: ArrayLike, debiased: bool = True) -> float:
    """Centred kernel alignment of representations (N, D1) and (N, D2) under linear kernels.

    The biased form approaches 1 for independent representations as D / N grows; the debiased one is
    about 0 there and may be negative. Source: Kornblith et al. 2019 (arXiv 1905.00414); unbiased
    criterion of Song et al. 2012.
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
    """Spearman correlation of the cosine dissimilarities of all pairs of rows, in O(N^2).

    Centring subtracts the mean row first, since encoders put all texts in a narrow cone. Source:
    Kriegeskorte et al. 2008 (Frontiers in Systems Neuroscience 2:4).
    """
    deviations = []
    for values in paired(a, b):
        centre = values.mean(axis=0) if centred else 0.0
        unit = unit_rows(values - centre, "a row of a representation (after centring)")
        ranks = stats.rankdata(1.0 - (unit @ unit.T)[np.triu_indices(len(unit), 1)])
        deviations.append(ranks - ranks.mean())
    norm = np.sqrt((deviations[0] ** 2).sum() * (deviations[1] ** 2).sum())
    if norm == 0.0:
        raise BadRows("all rows of a representation are equally far apart; nothing to compare.")
    return float(deviations[0] @ deviations[1] / norm)


def svcca(
    a: ArrayLike | Axes, b: ArrayLike | Axes, variance: float = 0.99, dimensions: int = 0
) -> float:
    """Mean of ``canonical_correlations`` on leading axes (Raghu et al. 2017, arXiv 1706.05806).

    Independent representations score about sqrt(D1 + D2) / sqrt(N), so keep few dimensions.
    """
    correlations, _ = canonical_correlations(a, b, variance, dimensions)
    return float(correlations.mean())


def pwcca(
    a: ArrayLike | Axes, b: ArrayLike | Axes, variance: float = 1.0, dimensions: int = 0
) -> float:
    """``canonical_correlations`` weighted by how much of the first representation they carry.

    Directions of ``a`` without a counterpart count 0. Source: Morcos et al. 2018 (arXiv 1806.05759).
    """
    correlations, weights = canonical_correlations(a, b, variance, dimensions)
    return float(correlations @ weights[: len(correlations)] / weights.sum())


def canonical_correlations(
    a: ArrayLike | Axes, b: ArrayLike | Axes, variance: float = 1.0, dimensions: int = 0
) -> tuple[Floats, Floats]:
    """Canonical correlations, largest first, and projection weights of the first one's directions.

    ``a`` and ``b`` hold the same rows, or are their ``leading_axes``; axes are kept on each side up
    to a share of the ``variance``, at most so many ``dimensions`` (0: all).
    """
    rows_a, rows_b = (v.scores if isinstance(v, Axes) else v for v in (a, b))
    paired(rows_a, rows_b)
    first, second = (
        (v if isinstance(v, Axes) else leading_axes(v)).up_to(variance, dimensions) for v in (a, b)
    )
    rows, kept = len(first.scores), len(first.share) + len(second.share)
    if rows <= kept + 1:
        raise BadRows(
            f"{rows} rows for {kept} axes: canonical correlations would be 1 for any data. "
            "Use more rows or fewer dimensions."
        )
    directions, correlations, _ = np.linalg.svd(first.scores.T @ second.scores)
    weights = np.abs(directions.T @ first.loadings).sum(axis=1)
    return np.clip(correlations, 0.0, 1.0), weights


# Two languages, before and after tuning. These are mediators (task similarity, drift, gain): report
# them beside a model, never inside it as controls.


def retrieval_accuracy(english: ArrayLike, other: ArrayLike) -> float:
    """Share of sentences (N, D) whose nearest neighbour by cosine is their translation, both ways.

    Either copy of a repeated sentence counts. Source: Artetxe and Schwenk 2019 (arXiv 1812.10464).
    """
    first, second = paired(english, other)
    if first.shape != second.shape:
        raise BadRows(f"embeddings have shapes {first.shape} and {second.shape}; expected one.")
    first, second = (unit_rows(values, "the embedding of a sentence") for values in (first, second))
    shares = []
    for queries, candidates in ((first, second), (second, first)):
        right = 0
        for start in range(0, len(queries), 1024):
            cosines = queries[start : start + 1024] @ candidates.T
            rows = np.arange(len(cosines))
            right += int((cosines[rows, start + rows] >= cosines.max(axis=1) - 1e-12).sum())
        shares.append(right / len(queries))
    return (shares[0] + shares[1]) / 2


def alignment_drift(
    tuned: Pair, plain: Pair, score: Callable[[ArrayLike, ArrayLike], float] = linear_cka
) -> float:
    """Alignment of two languages after tuning minus before; below 0 where tuning pulls them apart.

    ``tuned`` and ``plain`` are embeddings (2, N, D) of English sentences and their translations;
    ``score`` is ``linear_cka`` or ``retrieval_accuracy``. Source: this project.
    """
    if len(np.asarray(tuned[0])) != len(np.asarray(plain[0])):
        raise BadRows("the tuned and the plain encoder were given different sentences.")
    return score(*tuned) - score(*plain)


# Two labelled sets.


def transport_cost(cost: ArrayLike) -> float:
    """Smallest mean cost of moving N equal weights onto M, exactly, from costs (N, M).

    A square one is an assignment, O(N^3); any other a linear programme of N x M variables. Source:
    Kantorovich's problem; Peyre and Cuturi 2019 (arXiv 1803.00567).
    """
    costs = matrix(cost, "transport costs", rows=1)
    n, m = costs.shape
    if n == m:
        rows, columns = optimize.linear_sum_assignment(costs)
        return float(costs[rows, columns].mean())
    rows_sum = sparse.kron(sparse.eye(n), np.ones((1, m)))
    columns_sum = sparse.kron(np.ones((1, n)), sparse.eye(m))
    # One constraint follows from the others; dropping it keeps the solver from calling rounding
    # errors an infeasible programme.
    result = optimize.linprog(
        costs.ravel(),
        A_eq=sparse.vstack([rows_sum, columns_sum]).tocsr()[:-1],
        b_eq=np.repeat([1.0 / n, 1.0 / m], [n, m])[:-1],
        method="highs",
    )
    if not result.success:
        raise BadFit(f"no optimal transport plan was found: {result.message}")
    return float(result.fun)


def gaussian_distance(
    mean_a: ArrayLike, covariance_a: ArrayLike, mean_b: ArrayLike, covariance_b: ArrayLike
) -> float:
    """Squared 2-Wasserstein distance of two Gaussians (Dowson and Landau 1982)."""
    first, second = vector(mean_a, "first mean"), vector(mean_b, "second mean")
    spread_a, spread_b = (matrix(c, "covariance", rows=1) for c in (covariance_a, covariance_b))
    if not first.shape == second.shape == spread_a.shape[:1] == spread_b.shape[:1]:
        raise BadRows("means and covariances have different numbers of dimensions.")
    values, axes = np.linalg.eigh(spread_a)
    root = (axes * np.sqrt(np.maximum(values, 0.0))) @ axes.T
    cross = np.linalg.eigvalsh(root @ spread_b @ root)
    bures = np.trace(spread_a) + np.trace(spread_b) - 2.0 * np.sqrt(np.maximum(cross, 0.0)).sum()
    return float(((first - second) ** 2).sum() + max(bures, 0.0))


def otdd(
    features_a: ArrayLike,
    labels_a: ArrayLike,
    features_b: ArrayLike,
    labels_b: ArrayLike,
    dimensions: int = 32,
) -> float:
    """Optimal transport distance of two labelled sets under one encoder, in units of the features.

    Moving a row costs its squared distance plus the squared Wasserstein distance of its class, a
    Gaussian of at least two rows, to the other's, on the leading axes of the pooled rows. Source:
    Alvarez-Melis and Fusi 2020 (arXiv 2002.02923).
    """
    first, codes_a, counts_a = labelled(features_a, labels_a, smallest=2)
    second, codes_b, counts_b = labelled(features_b, labels_b, smallest=2)
    same_columns(first, second, "features")
    points = principal(np.concatenate([first, second]), dimensions)
    first, second = points[: len(first)], points[len(first) :]
    gaussians_a, gaussians_b = (
        list(zip(class_means(x, codes, counts), _spreads(x, codes, counts), strict=True))
        for x, codes, counts in ((first, codes_a, counts_a), (second, codes_b, counts_b))
    )
    between = np.array([[gaussian_distance(*a, *b) for b in gaussians_b] for a in gaussians_a])
    cost = squared_distances(first, second) + between[codes_a][:, codes_b]
    return float(np.sqrt(transport_cost(cost)))


def _spreads(points: Floats, codes: Integers, counts: Integers) -> list[Floats]:
    """Covariance of each class."""
    parts = [points[codes == code] for code in range(len(counts))]
    return [(p - p.mean(axis=0)).T @ (p - p.mean(axis=0)) / len(p) for p in parts]
