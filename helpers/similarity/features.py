"""Label and feature measures: how well features of one encoder carry the labels of a task.

Every function takes arrays and returns a float; larger means that the features fit the labels
better. The features are those of an encoder (usually fine-tuned on the intermediate task) on rows
of the target task. Values of different targets are not on one scale: most of these measures follow
the number and balance of the classes, which ``helpers.similarity.nulls`` shows on noise. Compare
within a target, or let the model remove target effects.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy import linalg

from helpers.errors import BadRows
from helpers.similarity.arrays import (
    Floats,
    Integers,
    class_means,
    classes,
    eigen,
    generator,
    labelled,
    matrix,
    one_hot,
    principal,
    squared_distances,
    whole,
)
from helpers.similarity.representations import linear_cka, pwcca, rsa, svcca

__all__ = [
    "gbc",
    "h_score",
    "knn_probe",
    "leep",
    "linear_cka",
    "linear_probe",
    "logme",
    "nce",
    "nleep",
    "probe_predictions",
    "pwcca",
    "rsa",
    "svcca",
    "transrate",
]

# Keeps the evidence finite where the features fit a class perfectly; the value of the authors' code.
_EVIDENCE_FLOOR = 1e-5
# Smallest class variance relative to the overall one; keeps duplicated rows from giving log 0.
_VARIANCE_FLOOR = 1e-4
# Rows whose distances to all others are held at a time.
_CHUNK = 2048


def logme(
    features: ArrayLike, labels: ArrayLike, iterations: int = 100, tolerance: float = 1e-5
) -> float:
    """Log maximum evidence per row of a linear-Gaussian model of each class indicator.

    Cost: one eigendecomposition of the smaller Gram matrix, O(N D min(N, D)); all classes share it.
    Features are not centred, as in the paper. Invariant to rotation, to scale and to row order; on
    noise it rises with the number of classes, since rare indicators are easy to fit.

    Args:
        features: shape (N, D).
        labels: N class labels.
        iterations: most fixed-point steps for the two precisions.
        tolerance: relative change of their ratio at which the steps stop.

    Returns:
        Mean over classes, in nats per row.

    Raises:
        BadRows: NaN, mismatched rows, one class, or no more rows than classes.

    Source: You et al. 2021 (arXiv 2102.11005); the fixed point is that of You et al.
        2022 (arXiv 2110.10545). Directions without variance enter the determinant too, which the
        authors' code leaves out when N < D, and features get a mean square of 1: the evidence does
        not depend on their scale, but the authors' floor, an absolute number, would.
    """
    array, codes, counts = labelled(features, labels)
    array = array / np.sqrt((array**2).mean())
    energy, fit, residual = _projections(array, one_hot(codes, len(counts)))
    ratio = np.ones(len(counts))
    for _ in range(iterations):
        alpha, beta, _, _ = _precisions(ratio, energy, fit, residual, len(array))
        change = np.abs(alpha / beta - ratio) / ratio
        ratio = alpha / beta
        if change.max() <= tolerance:
            break
    alpha, beta, size, error = _precisions(ratio, energy, fit, residual, len(array))
    rows, columns = array.shape
    determinant = np.log(alpha + beta * energy[:, None]).sum(axis=0)
    determinant += (columns - len(energy)) * np.log(alpha)
    evidence = columns * np.log(alpha) + rows * np.log(beta / (2 * np.pi)) - determinant
    return float(np.mean(evidence - beta * error - alpha * size) / (2 * rows))


def _projections(features: Floats, targets: Floats) -> tuple[Floats, Floats, Floats]:
    """Squared singular values (k,), squared coordinates of the targets (k, C), rest (C,)."""
    rows, columns = features.shape
    if rows >= columns:
        energy, axes = eigen(features.T @ features, rows)
        coordinates = axes.T @ (features.T @ targets)
        fit = coordinates**2 / energy[:, None]
    else:
        energy, axes = eigen(features @ features.T, columns)
        fit = (axes.T @ targets) ** 2
    residual = np.maximum((targets**2).sum(axis=0) - fit.sum(axis=0), 0.0)
    return energy, fit, residual


def _precisions(
    ratio: Floats, energy: Floats, fit: Floats, residual: Floats, rows: int
) -> tuple[Floats, Floats, Floats, Floats]:
    """One step: weight precision, noise precision, squared weights, squared error; each (C,)."""
    total = energy[:, None] + ratio
    effective = (energy[:, None] / total).sum(axis=0)
    size = (energy[:, None] * fit / total**2).sum(axis=0)
    error = (fit * (ratio / total) ** 2).sum(axis=0) + residual
    alpha = effective / (size + _EVIDENCE_FLOOR)
    # With N <= D the effective number of weights may reach N; the noise must stay positive.
    beta = np.maximum(rows - effective, 1e-9 * rows) / (error + _EVIDENCE_FLOOR)
    return alpha, beta, size, error


def h_score(features: ArrayLike, labels: ArrayLike, shrinkage: bool = True) -> float:
    """Variance between classes in the metric of the (shrunk) feature covariance.

    Cost: one Cholesky factor of a D x D matrix. Invariant to rotation and to scale. Without
    shrinkage it saturates at C - 1 once N <= D, whatever the labels.

    Args:
        features: shape (N, D).
        labels: N class labels.
        shrinkage: shrink the covariance by Ledoit and Wolf's weight, and the score with it.

    Returns:
        A value from 0 to C - 1.

    Raises:
        BadRows: NaN, mismatched rows, one class, or no more rows than classes.

    Source: Bao et al. 2019; regularised by Ibrahim et al. 2022 (arXiv 2110.06893). Both covariances
        are divided by N; transformer-ranker divides one by N - 1, a factor of N / (N - 1).
    """
    array, codes, counts = labelled(features, labels)
    array = array - array.mean(axis=0)
    rows, columns = array.shape
    covariance = array.T @ array / rows
    weight = _ledoit_wolf(array, covariance) if shrinkage else 0.0
    covariance *= 1.0 - weight
    covariance.flat[:: columns + 1] += weight * (array**2).sum() / (rows * columns)
    means = class_means(array, codes, counts)
    between = (means * _solve(covariance, means.T).T).sum(axis=1)
    return float((1.0 - weight) * between @ counts / rows)


def _ledoit_wolf(centred: Floats, covariance: Floats) -> float:
    """Shrinkage weight towards the scaled identity (Ledoit and Wolf 2004), from 0 to 1."""
    rows, columns = centred.shape
    mean = np.trace(covariance) / columns
    distance = (covariance**2).sum() - columns * mean**2
    noise = (((centred**2).sum(axis=1) ** 2).mean() - (covariance**2).sum()) / rows
    return float(np.clip(noise / distance, 0.0, 1.0)) if distance > 0 else 1.0


def _solve(covariance: Floats, right: Floats) -> Floats:
    """Solve with a covariance, by its pseudo-inverse where it is singular."""
    try:
        return linalg.cho_solve(linalg.cho_factor(covariance), right)
    except linalg.LinAlgError:
        return np.linalg.pinv(covariance, rcond=1e-12, hermitian=True) @ right


def leep(source_probabilities: ArrayLike, labels: ArrayLike) -> float:
    """Mean log likelihood of the labels given the soft labels of the intermediate task's head.

    Cost: O(N Z C). Invariant to the order of rows, of source classes and of target classes.

    Args:
        source_probabilities: head outputs on the target's rows, shape (N, Z), rows sum to 1.
        labels: N target labels.

    Returns:
        A value up to 0, in nats per row; minus the entropy of the labels where the head says
        nothing about them.

    Raises:
        BadRows: NaN, negative entries, rows that do not sum to 1, or unfit labels.

    Source: Nguyen et al. 2020 (arXiv 2002.12462) section 3.
    """
    probabilities = matrix(source_probabilities, "source probabilities")
    if probabilities.min() < 0 or np.abs(probabilities.sum(axis=1) - 1).max() > 1e-3:
        raise BadRows("source probabilities must be >= 0 and sum to 1 in each row; apply softmax.")
    codes, counts = classes(labels, len(probabilities))
    joint = one_hot(codes, len(counts)).T @ probabilities / len(probabilities)
    marginal = joint.sum(axis=0)
    seen = marginal > 0
    conditional = joint[:, seen] / marginal[seen]
    expected = (probabilities[:, seen] * conditional[codes]).sum(axis=1)
    return float(np.log(expected).mean())


def nce(source_labels: ArrayLike, labels: ArrayLike) -> float:
    """Negative conditional entropy of the labels given the hard labels of the source head.

    Cost: O(N).

    Args:
        source_labels: most likely source class of each target row, N values.
        labels: N target labels.

    Returns:
        A value from minus the entropy of the labels up to 0, in nats.

    Raises:
        BadRows: mismatched rows, source labels that are not classes, or unfit labels.

    Source: Tran et al. 2019 (arXiv 1908.08142).
    """
    source = whole(source_labels, "source labels")
    codes, counts = classes(labels, len(source))
    _, given = np.unique(source, return_inverse=True)
    joint = np.zeros((given.max() + 1, len(counts)))
    np.add.at(joint, (given, codes), 1.0 / len(source))
    share = joint / joint.sum(axis=1, keepdims=True)
    return float((joint * np.log(np.where(share > 0, share, 1.0))).sum())


def nleep(
    features: ArrayLike,
    labels: ArrayLike,
    components: int = 0,
    dimensions: int = 64,
    seed: int = 0,
) -> float:
    """LEEP with the clusters of a Gaussian mixture in place of the source classes.

    Cost: O(iterations N K d). It needs no head, so it is defined for every checkpoint. The mixture
    is fitted on the same rows, so noise scores above the entropy of the labels.

    Args:
        features: shape (N, D).
        labels: N target labels.
        components: number of clusters K; 0 means five per target class.
        dimensions: principal axes kept before clustering.
        seed: seed of the initial centres.

    Returns:
        A value up to 0, in nats per row.

    Raises:
        BadRows: NaN, mismatched rows, one class, or fewer rows than clusters.

    Source: Li et al. 2021 (CVPR, "Ranking Neural Checkpoints"). Components have
        diagonal covariance on principal axes: a full one has more entries than a cluster has rows.
    """
    array, codes, counts = labelled(features, labels)
    clusters = components or 5 * len(counts)
    if clusters >= len(array):
        raise BadRows(f"{len(array)} rows for {clusters} clusters; sample more rows.")
    return leep(_mixture(principal(array, dimensions), clusters, generator(seed)), codes)


def _mixture(points: Floats, clusters: int, random: np.random.Generator) -> Floats:
    """Responsibilities (N, K) of a diagonal Gaussian mixture fitted by EM."""
    floor = 1e-6 * points.var(axis=0).mean()
    share = one_hot(_nearest(points, _spread_centres(points, clusters, random)), clusters)
    previous = -np.inf
    for _ in range(100):
        weight = share.sum(axis=0) + 10 * np.finfo(np.float64).eps
        means = share.T @ points / weight[:, None]
        spread = np.maximum(share.T @ points**2 / weight[:, None] - means**2, 0.0) + floor
        density = _log_density(points, means, spread) + np.log(weight / len(points))
        highest = density.max(axis=1)
        share = np.exp(density - highest[:, None])
        sums = share.sum(axis=1)
        share /= sums[:, None]
        total = (highest + np.log(sums)).mean()
        if total - previous < 1e-3:
            break
        previous = total
    return share


def _log_density(points: Floats, means: Floats, spread: Floats) -> Floats:
    """Log density of each point under each diagonal Gaussian, shape (N, K)."""
    precision = 1.0 / spread
    square = points**2 @ precision.T - 2.0 * points @ (means * precision).T
    square += (means**2 * precision).sum(axis=1)
    return -0.5 * (square + np.log(2 * np.pi * spread).sum(axis=1))


def _spread_centres(points: Floats, clusters: int, random: np.random.Generator) -> Floats:
    """Initial centres drawn by squared distance to those drawn before (k-means++)."""
    chosen = [int(random.integers(len(points)))]
    nearest = squared_distances(points, points[chosen])[:, 0]
    while len(chosen) < clusters:
        # Fewer distinct points than clusters: the rest repeats points and stays empty.
        chance = nearest / nearest.sum() if nearest.sum() > 0 else None
        chosen.append(int(random.choice(len(points), p=chance)))
        nearest = np.minimum(nearest, squared_distances(points, points[chosen[-1:]])[:, 0])
    return points[chosen]


def _nearest(points: Floats, centres: Floats) -> Integers:
    return squared_distances(points, centres).argmin(axis=1).astype(np.int64)


def transrate(features: ArrayLike, labels: ArrayLike, distortion: float = 1e-4) -> float:
    """Coding rate of the features minus the mean coding rate within classes.

    Cost: one determinant of the smaller Gram matrix overall and one in each class. Not invariant
    to scale, and it grows with the number of classes even on noise.

    Args:
        features: shape (N, D).
        labels: N class labels.
        distortion: squared error allowed per coordinate, in squared units of the features.

    Returns:
        A value in nats; larger means that classes occupy smaller volumes.

    Raises:
        BadRows: NaN, mismatched rows, one class, or no more rows than classes.

    Source: Huang et al. 2022 (arXiv 2106.09362). Classes are weighted by their share of
        the rows as in the paper; tllib weights them equally.
    """
    array, codes, counts = labelled(features, labels)
    array = array - array.mean(axis=0)
    within = sum(
        count / len(array) * _coding_rate(array[codes == code], distortion)
        for code, count in enumerate(counts)
    )
    return float(_coding_rate(array, distortion) - within)


def _coding_rate(points: Floats, distortion: float) -> float:
    rows, columns = points.shape
    gram = points @ points.T if rows < columns else points.T @ points
    gram /= rows * distortion
    gram.flat[:: len(gram) + 1] += 1.0
    return 0.5 * float(np.linalg.slogdet(gram)[1])


def gbc(
    features: ArrayLike, labels: ArrayLike, dimensions: int = 64, spherical: bool = True
) -> float:
    """Minus the overlap of the classes, each taken as a Gaussian, summed over ordered pairs.

    Cost: one eigendecomposition and O(C^2 d). The lower bound is -C (C - 1), so compare only
    within one target.

    Args:
        features: shape (N, D).
        labels: N class labels, each class at least twice.
        dimensions: principal axes kept first.
        spherical: one variance per class in place of one per axis.

    Returns:
        A value from -C (C - 1) to 0.

    Raises:
        BadRows: NaN, mismatched rows, one class, or a class with one row.

    Source: Pandy et al. 2022 (arXiv 2111.12780).
    """
    array, codes, counts = labelled(features, labels, smallest=2)
    points = principal(array, dimensions)
    means = class_means(points, codes, counts)
    spread = class_means(points**2, codes, counts) - means**2
    if spherical:
        spread = np.broadcast_to(spread.mean(axis=1, keepdims=True), spread.shape)
    spread = np.maximum(spread, _VARIANCE_FLOOR * points.var(axis=0).mean())
    overlap = 0.0
    for mean, variance in zip(means, spread, strict=True):
        middle = (variance + spread) / 2
        distance = ((mean - means) ** 2 / middle).sum(axis=1) / 8
        logs = np.log(middle) - (np.log(variance) + np.log(spread)) / 2
        overlap += np.exp(-distance - logs.sum(axis=1) / 2).sum() - 1.0
    return -float(overlap)


def knn_probe(features: ArrayLike, labels: ArrayLike, neighbours: int = 5) -> float:
    """Leave-one-out accuracy of the nearest-neighbour rule under Euclidean distance.

    Cost: O(N^2 D) time in chunks of 2,048 rows. A tie of votes goes to the class of the
    nearest neighbour among those tied. Subtract the value of the untuned encoder to see what tuning changed.

    Args:
        features: shape (N, D).
        labels: N class labels.
        neighbours: how many neighbours vote.

    Returns:
        Accuracy from 0 to 1.

    Raises:
        BadRows: NaN, mismatched rows, one class, or too few rows for the neighbours.

    Source: Cover and Hart 1967; the estimator of transformer-ranker.
    """
    array, codes, counts = labelled(features, labels)
    if not 1 <= neighbours < len(array):
        raise BadRows(f"{neighbours} neighbours from {len(array)} rows; expected 1 to rows - 1.")
    array = array - array.mean(axis=0)
    right = 0
    for start in range(0, len(array), _CHUNK):
        distance = squared_distances(array[start : start + _CHUNK], array)
        rows = np.arange(len(distance))
        distance[rows, start + rows] = np.inf
        votes = codes[_smallest(distance, neighbours)]
        right += int((_majority(votes, len(counts)) == codes[start : start + _CHUNK]).sum())
    return right / len(array)


def _smallest(distance: Floats, count: int) -> Integers:
    """Places of the smallest entries of each row, the smallest first; they are then infinite."""
    rows = np.arange(len(distance))
    places = np.empty((len(distance), count), dtype=np.int64)
    for place in range(count):  # for a handful, faster than a partition
        places[:, place] = distance.argmin(axis=1)
        distance[rows, places[:, place]] = np.inf
    return places


def _majority(votes: Integers, count: int) -> Integers:
    """Most frequent class of each row of votes; ties go to the class that votes first."""
    rows, places = votes.shape
    tally = np.zeros((rows, count))
    for place in range(places):
        # The surplus of a vote is more than that of all later votes, and all together less than a
        # whole vote; so it settles ties alone, whatever the names of the classes.
        tally[np.arange(rows), votes[:, place]] += 1.0 + 0.25 * 0.5**place
    return tally.argmax(axis=1).astype(np.int64)


def linear_probe(features: ArrayLike, labels: ArrayLike, folds: int = 5, seed: int = 0) -> float:
    """Cross-validated accuracy of a ridge classifier on frozen features.

    Cost: one eigendecomposition of a D x D matrix per fold. Subtract the value of the untuned
    encoder to see what tuning changed.

    Args:
        features: shape (N, D).
        labels: N class labels, each at least twice.
        folds: number of stratified folds; fewer where the smallest class has fewer rows.
        seed: seed of the folds.

    Returns:
        Accuracy from 0 to 1.

    Raises:
        BadRows: NaN, mismatched rows, one class, or a class with one row.

    Source: Alain and Bengio 2016 (arXiv 1610.01644); penalty by generalised cross-validation
        within the training folds (Golub, Heath and Wahba 1979).
    """
    predicted = probe_predictions(features, labels, folds, seed)
    codes, _ = classes(labels, len(predicted))
    return float((predicted == codes).mean())


def probe_predictions(
    features: ArrayLike, labels: ArrayLike, folds: int = 5, seed: int = 0
) -> Integers:
    """Return the held-out class codes that ``linear_probe`` scores, shape (N,)."""
    array, codes, counts = labelled(features, labels, smallest=2)
    folds = min(folds, int(counts.min()))
    array = array - array.mean(axis=0)
    targets = one_hot(codes, len(counts))
    fold = _stratified_folds(codes, folds, generator(seed))
    gram, cross = array.T @ array, array.T @ targets
    predicted = np.empty(len(array), dtype=np.int64)
    for held in range(folds):
        out = fold == held
        weights, intercept = _ridge(array, targets, out, gram, cross)
        predicted[out] = (array[out] @ weights + intercept).argmax(axis=1)
    return predicted


def _stratified_folds(codes: Integers, folds: int, random: np.random.Generator) -> Integers:
    """Fold of each row, such that each class is spread evenly over the folds."""
    shuffled = random.permutation(len(codes))
    order = shuffled[np.argsort(codes[shuffled], kind="stable")]
    fold = np.empty(len(codes), dtype=np.int64)
    fold[order] = np.arange(len(codes)) % folds
    return fold


def _ridge(
    array: Floats, targets: Floats, out: np.ndarray, gram: Floats, cross: Floats
) -> tuple[Floats, Floats]:
    """Weights (D, C) and intercept (C,) fitted without the rows marked in ``out``."""
    held, goals, rows = array[out], targets[out], int((~out).sum())
    mean, level = -held.sum(axis=0) / rows, (targets.sum(axis=0) - goals.sum(axis=0)) / rows
    values, axes = eigen(gram - held.T @ held - rows * np.outer(mean, mean), len(array))
    fit = axes.T @ (cross - held.T @ goals - rows * np.outer(mean, level))
    total = (rows * level * (1.0 - level)).sum()
    penalty = _best_penalty(values, (fit**2).sum(axis=1), total, rows)
    weights = axes @ (fit / (values + penalty)[:, None])
    return weights, level - mean @ weights


def _best_penalty(values: Floats, fit: Floats, total: float, rows: int) -> float:
    """Ridge penalty with the smallest generalised cross-validation error."""
    grid = values.mean() * np.logspace(-5, 4, 19)
    shrunk = values + grid[:, None]
    error = total - (fit * (2.0 / shrunk - values / shrunk**2)).sum(axis=1)
    freedom = 1.0 + (values / shrunk).sum(axis=1)
    score = np.where(freedom < rows, error / np.maximum(rows - freedom, 1e-9) ** 2, np.inf)
    return float(grid[score.argmin()])
