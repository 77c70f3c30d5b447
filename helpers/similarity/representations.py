"""Arrays of encoder states: their checks and linear algebra, and measures that compare two of them.

Two representations hold the same inputs row by row; two labelled sets need not. Parameters come by the
name of a component (one tensor of the encoder), without word embeddings, which would measure the overlap
of vocabularies, and without task heads, whose parameters mean different things in each task.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, stats

from helpers.errors import BadRows

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Parameters = Mapping[str, ArrayLike]
Labelled = tuple[Floats, Integers, Integers]


# --- Checks: what comes in is told to be no data before a number is made of it --------------------
def require(fits: Any, problem: str) -> None:
    """Raise BadRows with a problem unless the arrays fit."""
    if not fits:
        raise BadRows(problem)


def matrix(values: ArrayLike, name: str = "features", rows: int = 2) -> Floats:
    """Return values as a finite float array of shape (rows, columns)."""
    array = np.asarray(values, dtype=np.float64)
    shaped = array.ndim == 2 and array.shape[1] > 0
    require(shaped, f"{name} has shape {array.shape}; expected (rows, columns) with columns > 0.")
    require(len(array) >= rows, f"{name} has {len(array)} rows; at least {rows} are needed.")
    vector(array.ravel(), name)
    return array


def vector(values: ArrayLike, name: str) -> Floats:
    """Return values as a finite, non-empty float vector."""
    array = np.asarray(values, dtype=np.float64)
    filled = array.ndim == 1 and array.size > 0
    require(filled, f"{name} has shape {array.shape}; expected a non-empty vector.")
    bad = array.size - int(np.isfinite(array).sum())
    said = f"{name} has {bad} NaN or infinite entries of {array.size}; did the encoder overflow?"
    require(not bad, said)
    return array


def paired(
    a: ArrayLike, b: ArrayLike, what: str = "representations", rows: int = 4, axis: int = 0
) -> tuple[Floats, Floats]:
    """Return two finite arrays of the same rows, or (axis 1) of states that are equally wide."""
    both = zip((a, b), ("first", "second"), strict=True)
    first, second = (matrix(values, f"{which} of the {what}", rows) for values, which in both)
    sizes, unit = (first.shape[axis], second.shape[axis]), ("rows", "columns")[axis]
    need = ("describe the same inputs", "come from one encoder")[axis]
    said = f"the {what} have {sizes[0]} and {sizes[1]} {unit}; both must {need}."
    require(sizes[0] == sizes[1], said)
    return first, second


def whole(labels: ArrayLike, name: str = "labels") -> NDArray[Any]:
    """Return labels as class ids or names, one per row."""
    array = np.asarray(labels)
    shaped = array.ndim == 1 and array.size > 0
    require(shaped, f"{name} have shape {array.shape}; expected one label per row.")
    exact = array.dtype.kind != "f" or np.array_equal(array, np.round(array))
    require(exact, f"{name} are not whole numbers (or are NaN); expected class ids or names.")
    return array


def classes(labels: ArrayLike, rows: int, smallest: int = 1) -> tuple[Integers, Integers]:
    """Return labels as codes 0..C-1 and the size of each class."""
    array = whole(labels)
    require(len(array) == rows, f"{len(array)} labels for {rows} rows; expected one label per row.")
    blank = int((array == -100).sum()) if array.dtype.kind in "if" else 0
    require(not blank, f"{blank} of {rows} labels are -100: they have none; leave those rows out.")
    values, codes, counts = np.unique(array, return_inverse=True, return_counts=True)
    names, rarest, count = values.tolist(), counts.argmin(), len(values)
    require(count > 1, f"all {rows} labels are {names[0]!r}; at least two classes are needed.")
    require(rows > count, f"{rows} rows for {count} classes; more rows than classes are needed.")
    said = f"class {names[rarest]!r} has {counts[rarest]} rows; {smallest} are needed in each class"
    require(counts.min() >= smallest, f"{said}. Sample more rows or leave rare classes out.")
    return codes.astype(np.int64), counts.astype(np.int64)


def labelled(features: ArrayLike, labels: ArrayLike, smallest: int = 1) -> Labelled:
    """Return checked features, class codes and class sizes; see ``matrix`` and ``classes``."""
    array = matrix(features)
    codes, counts = classes(labels, len(array), smallest)
    same = "every row of the features is the same; the encoder may have collapsed."
    require(np.ptp(array, axis=0).any(), same)
    return array, codes, counts


def scalar(value: Any) -> float:
    """Return a measure's value as a finite float; anything else must not be stored."""
    number = float(np.asarray(value, dtype=np.float64).reshape(()))
    require(np.isfinite(number), f"the measure gave {number}; expected a finite number.")
    return number


# --- Linear algebra -------------------------------------------------------------------------------
def class_means(features: Floats, codes: Integers, counts: Integers) -> Floats:
    """Return the mean of the features in each class, shape (classes, columns)."""
    return np.eye(len(counts))[codes].T @ features / counts[:, None]


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
    # With fewer rows than columns the Gram matrix of the rows is the smaller one.
    values, sides = eigen(centred @ centred.T, columns)
    return (sides * np.sqrt(values))[:, ::-1][:, :dimensions]


def cosine(a: ArrayLike, b: ArrayLike, what: str = "vectors") -> float:
    """Return the cosine of two vectors of one length, neither of them zero."""
    first, second = vector(a, what), vector(b, what)
    require(first.size == second.size, f"{what} have lengths {first.size} and {second.size}.")
    norm = float(np.linalg.norm(first) * np.linalg.norm(second))
    require(norm, f"one of the {what} is zero, so it has no direction; nothing to compare.")
    return float(np.clip(first @ second / norm, -1.0, 1.0))


def unit_rows(values: Floats, what: str) -> Floats:
    """Return rows of length one; none may be zero."""
    norms = np.linalg.norm(values, axis=1, keepdims=True)
    require(norms.min() > 1e-12 * norms.max(), f"{what} is zero; it has no direction.")
    return values / norms


def squared_distances(a: Floats, b: Floats) -> Floats:
    """Return squared Euclidean distances, shape (rows of a, rows of b)."""
    distance = a @ b.T
    distance *= -2.0
    distance += (a**2).sum(axis=1)[:, None]
    distance += (b**2).sum(axis=1)
    return np.maximum(distance, 0.0, out=distance)


# --- Two encoders on the same rows ----------------------------------------------------------------
@dataclass(frozen=True)
class Axes:
    """A representation on its leading principal axes, the one of largest variance first."""

    scores: Floats  # orthonormal scores of the rows, (N, k)
    loadings: Floats  # weight of each column in each axis, times the axis' scale, (k, D)
    share: Floats  # of the variance that the axes up to each explain, (k,)


def leading_axes(values: ArrayLike, dimensions: int = 0) -> Axes:
    """Decompose a representation (N, D) once, for canonical correlations with many others."""
    # Through the Gram matrix of the columns: there are fewer of them than rows.
    centred = _centred(matrix(values, "representation", rows=4))
    variances, axes = eigen(centred.T @ centred, max(centred.shape))
    share = np.cumsum(variances[::-1]) / variances.sum()
    kept = slice(dimensions or None)
    scale, axes = np.sqrt(variances[::-1][kept]), axes[:, ::-1][:, kept]
    return Axes(centred @ (axes / scale), scale[:, None] * axes.T, share[kept])


def _centred(values: Floats) -> Floats:
    values = values - values.mean(axis=0)
    largest = np.abs(values).max()
    require(largest, "every row of a representation is the same; nothing to compare.")
    # In two steps: squares of very large or small features would overflow or vanish.
    values = values / largest
    return values / np.sqrt((values**2).mean())


def linear_cka(a: ArrayLike, b: ArrayLike) -> float:
    """Centred kernel alignment under linear kernels, debiased (Kornblith et al. 2019, 1905.00414)."""
    # The biased form approaches 1 for independent representations as D / N grows.
    first, second = (_centred(values) for values in paired(a, b))
    own = _unbiased_criterion(first, first) * _unbiased_criterion(second, second)
    require(own > 0, "a representation does not vary enough over these rows to be compared.")
    return float(_unbiased_criterion(first, second) / np.sqrt(own))


def _unbiased_criterion(a: Floats, b: Floats) -> float:
    """Unbiased independence criterion (Song et al. 2012) times N (N - 3), from features alone."""
    rows = len(a)
    squares_a, squares_b = (a**2).sum(axis=1), (b**2).sum(axis=1)
    # Row sums of the kernels without their diagonals; the features are centred, so full row sums
    # are zero and only the diagonal is left.
    trace = ((a.T @ b) ** 2).sum() - squares_a @ squares_b
    product = squares_a.sum() * squares_b.sum() / ((rows - 1) * (rows - 2))
    return float(trace + product - 2.0 / (rows - 2) * (squares_a @ squares_b))


def rsa(a: ArrayLike, b: ArrayLike) -> float:
    """Spearman correlation of the cosine dissimilarities of all pairs of rows (Kriegeskorte 2008)."""
    deviations = []
    for values in paired(a, b):
        # Encoders put all texts in a narrow cone, which centring takes away.
        unit = unit_rows(values - values.mean(axis=0), "a row of a representation, once centred,")
        ranks = stats.rankdata(1.0 - (unit @ unit.T)[np.triu_indices(len(unit), 1)])
        deviations.append(ranks - ranks.mean())
    norm = np.sqrt((deviations[0] ** 2).sum() * (deviations[1] ** 2).sum())
    require(norm, "all rows of a representation are equally far apart; nothing to compare.")
    return float(deviations[0] @ deviations[1] / norm)


def svcca(a: ArrayLike | Axes, b: ArrayLike | Axes, variance: float = 0.99) -> float:
    """Mean of ``canonical_correlations`` on leading axes (Raghu et al. 2017, arXiv 1706.05806)."""
    # Independent representations score about sqrt(D1 + D2) / sqrt(N), so keep few dimensions.
    return float(canonical_correlations(a, b, variance)[0].mean())


def pwcca(a: ArrayLike | Axes, b: ArrayLike | Axes) -> float:
    """``canonical_correlations`` weighted by what they carry of ``a`` (Morcos et al. 2018, 1806.05759)."""
    # Directions of ``a`` without a counterpart count 0.
    correlations, weights = canonical_correlations(a, b)
    return float(correlations @ weights[: len(correlations)] / weights.sum())


def canonical_correlations(
    a: ArrayLike | Axes, b: ArrayLike | Axes, variance: float = 1.0
) -> tuple[Floats, Floats]:
    """Canonical correlations, largest first, and projection weights of the first one's directions."""
    rows_a, rows_b = (v.scores if isinstance(v, Axes) else v for v in (a, b))
    paired(rows_a, rows_b)
    first, second = (v if isinstance(v, Axes) else leading_axes(v) for v in (a, b))
    # Of each the first axes that explain the share of its variance.
    scores = [
        x.scores[:, : np.searchsorted(x.share, variance - 1e-12) + 1] for x in (first, second)
    ]
    rows, kept = len(scores[0]), [side.shape[1] for side in scores]
    said = f"{rows} rows for {sum(kept)} axes: canonical correlations would be 1 for any data. "
    require(rows > sum(kept) + 1, said + "Use more rows or fewer dimensions.")
    directions, correlations, _ = np.linalg.svd(scores[0].T @ scores[1])
    weights = np.abs(directions.T @ first.loadings[: kept[0]]).sum(axis=1)
    return np.clip(correlations, 0.0, 1.0), weights


# --- Two languages, before and after tuning -------------------------------------------------------
# These are mediators (task similarity, drift, gain): report them beside a model, never inside it as
# controls.
def retrieval_accuracy(english: ArrayLike, other: ArrayLike) -> float:
    """Share of sentences (N, D) whose nearest neighbour by cosine is their translation, both ways."""
    first, second = paired(english, other)
    require(first.shape == second.shape, f"shapes {first.shape}, {second.shape}; expected one.")
    first, second = (unit_rows(values, "the embedding of a sentence") for values in (first, second))
    cosines = first @ second.T
    # Either copy of a repeated sentence counts.
    shares = [(np.diag(c) >= c.max(axis=1) - 1e-12).mean() for c in (cosines, cosines.T)]
    return float(np.mean(shares))


def alignment_drift(tuned: Any, plain: Any, score: Callable[..., float] = linear_cka) -> float:
    """Alignment of two languages (2, N, D) after tuning minus before; below 0 where they part."""
    same = len(np.asarray(tuned[0])) == len(np.asarray(plain[0]))
    require(same, "the tuned and the plain encoder were given different sentences.")
    return score(*tuned) - score(*plain)


# --- Two labelled sets ----------------------------------------------------------------------------
def otdd(
    features_a: ArrayLike, labels_a: ArrayLike, features_b: ArrayLike, labels_b: ArrayLike
) -> float:
    """Optimal transport distance of two labelled sets of N rows (Alvarez-Melis and Fusi 2020)."""
    # Moving a row costs its squared distance plus that of its class, a Gaussian, to the other's.
    first, codes_a, counts_a = labelled(features_a, labels_a, smallest=2)
    second, codes_b, counts_b = labelled(features_b, labels_b, smallest=2)
    paired(first, second, "features", axis=1)
    points = principal(np.concatenate([first, second]), 32)
    first, second = points[: len(first)], points[len(first) :]
    # Each class as a Gaussian: its mean and its covariance.
    gaussians: list[list[tuple[Floats, Floats]]] = []
    for x, codes, counts in ((first, codes_a, counts_a), (second, codes_b, counts_b)):
        parts = [x[codes == code] - x[codes == code].mean(axis=0) for code in range(len(counts))]
        spreads = [part.T @ part / len(part) for part in parts]
        gaussians.append(list(zip(class_means(x, codes, counts), spreads, strict=True)))
    between = np.array([[gaussian_distance(*a, *b) for b in gaussians[1]] for a in gaussians[0]])
    cost = squared_distances(first, second) + between[codes_a][:, codes_b]
    return float(np.sqrt(transport_cost(cost)))


def gaussian_distance(mean_a: Any, spread_a: Any, mean_b: Any, spread_b: Any) -> float:
    """Squared 2-Wasserstein distance of two Gaussians (Dowson and Landau 1982)."""
    # The cross term is the trace of the root of (root A) B (root A).
    values, axes = np.linalg.eigh(spread_a)
    root = (axes * np.sqrt(np.maximum(values, 0.0))) @ axes.T
    cross = np.linalg.eigvalsh(root @ spread_b @ root)
    bures = np.trace(spread_a) + np.trace(spread_b) - 2.0 * np.sqrt(np.maximum(cross, 0.0)).sum()
    return float(((np.asarray(mean_a) - mean_b) ** 2).sum() + max(bures, 0.0))


def transport_cost(cost: ArrayLike) -> float:
    """Smallest mean cost of an assignment of N rows to N others, exactly, from costs (N, N)."""
    costs = matrix(cost, "transport costs", rows=1)
    require(len(costs) == costs.shape[1], f"{costs.shape} costs; take as many rows of each set.")
    rows, columns = optimize.linear_sum_assignment(costs)
    return float(costs[rows, columns].mean())


# --- Parameters: where tuning moves them, and which of them a task uses ---------------------------
def task_vector_cosine(base: Parameters, a: Parameters, b: Parameters) -> float:
    """Cosine of two task vectors, tuned minus plain parameters (Ilharco et al. 2023, 2212.04089)."""
    # One component at a time: as one vector they would not fit into memory.
    products = [(u @ v, u @ u, v @ v) for _, u, v in _task_vectors(base, a, b)]
    inner, first, second = np.sum(products, axis=0)
    norm = np.sqrt(first) * np.sqrt(second)
    require(norm, "one of the task vectors is zero: tuning changed nothing.")
    return float(np.clip(inner / norm, -1.0, 1.0))


def task_vector_cosines(base: Parameters, a: Parameters, b: Parameters) -> dict[str, float]:
    """Cosine of two task vectors in each component that both tasks moved."""
    both = _task_vectors(base, a, b)
    found = {name: cosine(u, v, name) for name, u, v in both if u.any() and v.any()}
    require(found, "no component was moved by both tasks; were the encoders frozen?")
    return found


def _task_vectors(base: Parameters, *tuned: Parameters) -> Iterator[tuple[str, Floats, Floats]]:
    """Yield the name of each component and how far it was moved, in double: that is not far."""
    differing = sorted(set().union(*(set(base) ^ set(other) for other in tuned)))[:3]
    require(not differing, f"the encoders differ in their components, for example {differing}.")
    require(base, "the encoders have no components; pass their parameters by name.")
    for name in base:
        start, *ends = (np.asarray(given[name], dtype=np.float64) for given in (base, *tuned))
        shapes = [array.shape for array in (start, *ends)]
        require(len(set(shapes)) == 1, f"component {name!r} has shapes {shapes}.")
        first, second = (vector((end - start).ravel(), f"task vector of {name!r}") for end in ends)
        yield name, first, second


def task_embedding_cosine(a: Parameters, b: Parameters) -> float:
    """Mean over components of the cosine of two Fisher diagonals (Vu et al. 2020, 2005.00770)."""
    # Published work fuses ranks of components instead, which compares tasks only within one target.
    differing = sorted(set(a) ^ set(b))[:3]
    require(not differing, f"embeddings differ in components: {differing}.")
    both = [name for name in a if np.any(a[name]) and np.any(b[name])]
    require(both, "no component has a gradient in both tasks.")
    each = [cosine(np.ravel(a[n]), np.ravel(b[n]), f"embeddings of {n!r}") for n in both]
    return float(np.mean(each))


def task2vec_distance(
    fa: ArrayLike, fb: ArrayLike, trivial: ArrayLike | None = None, alpha: float = 0.0
) -> float:
    """Cosine distance of two Fisher diagonals, normalised by their sum (Achille et al. 2019, 1902.03545)."""
    # With the diagonal of the ``trivial`` task it is less by ``alpha`` times its distance to the first.
    first, second = (vector(f, "Fisher diagonal") for f in (fa, fb))
    require(first.size == second.size, f"Fisher diagonals of {first.size}, {second.size} numbers.")
    require(min(first.min(), second.min()) >= 0, "a Fisher diagonal has negative entries.")
    # A parameter that neither task uses says nothing.
    used = (total := first + second) > 0
    require(used.any(), "both Fisher diagonals are zero; no task trains the probe network.")
    shares = first[used] / total[used], second[used] / total[used]
    distance = 1.0 - cosine(*shares, "normalised Fisher diagonals")
    return distance - (0.0 if trivial is None else alpha * task2vec_distance(first, trivial))


def embedding_map(plain: ArrayLike, tuned: ArrayLike, ridge: float = 1e-3) -> Floats:
    """Linear map (D + 1, E) from plain (N, D) to tuned (N, E) states (Schulte et al. 2024, 2410.15148)."""
    # Ridge regression, with a penalty relative to the mean variance of a feature; the intercept is last.
    inputs, outputs = matrix(plain, "plain features"), matrix(tuned, "tuned features")
    rows = len(inputs), len(outputs)
    require(rows[0] == rows[1], f"{rows[0]} plain and {rows[1]} tuned rows; use the same inputs.")
    centre, level = inputs.mean(axis=0), outputs.mean(axis=0)
    gram = (inputs - centre).T @ (inputs - centre)
    require(gram.any(), "every row of the plain features is the same; has the encoder collapsed?")
    gram.flat[:: len(gram) + 1] += ridge * np.trace(gram) / len(gram)
    weights = np.linalg.solve(gram, (inputs - centre).T @ (outputs - level))
    return np.vstack([weights, level - centre @ weights])


def mapped(features: ArrayLike, map_: ArrayLike) -> Floats:
    """Apply what ``embedding_map`` returned to features (M, D)."""
    points, weights = matrix(features, "features"), matrix(map_, "embedding map")
    width, given = len(weights) - 1, points.shape[1]
    require(given == width, f"a map from {width} dimensions cannot take {given}.")
    return points @ weights[:-1] + weights[-1]
