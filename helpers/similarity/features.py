"""Label and feature measures: how well features of one encoder carry the labels of a task.

``features`` (N, D) are states of an encoder, usually tuned on the intermediate, on rows of the
target; ``labels`` are N class ids or names. Larger means that they fit better. NaN, mismatched rows,
one class, or no more rows than classes raise ``BadRows``. Most values follow the number and balance
of the classes, as ``helpers.similarity.independence`` shows on noise: compare within a target, or
let the model remove target effects. Measures of two representations are offered here, too.
"""

import numpy as np
from numpy.typing import ArrayLike
from scipy import linalg

from helpers.similarity import representations as rep
from helpers.similarity.representations import Floats, Integers, linear_cka, pwcca, rsa, svcca

# Keeps the evidence finite where the features fit a class perfectly; the value of the authors' code.
_EVIDENCE_FLOOR = 1e-5


def logme(features: ArrayLike, labels: ArrayLike) -> float:
    """Log maximum evidence of a linear-Gaussian model of each class indicator, nats per row.

    Source: You et al. 2021 (arXiv 2102.11005), 2022 (2110.10545). On noise it rises with the number of
    classes. Directions without variance enter the determinant, also when N < D, unlike the authors'.
    """
    array, codes, counts = rep.labelled(features, labels)
    # The evidence does not depend on the scale of features, but an absolute floor would.
    array = array / np.sqrt((array**2).mean())
    rows, columns = array.shape
    targets = np.eye(len(counts))[codes]
    # Squared singular values (k,), and squared coordinates of each indicator along them (k, C).
    if rows >= columns:
        energy, axes = rep.eigen(array.T @ array, rows)
        fit = (axes.T @ (array.T @ targets)) ** 2 / energy[:, None]
    else:
        energy, axes = rep.eigen(array @ array.T, columns)
        fit = (axes.T @ targets) ** 2
    residual = np.maximum((targets**2).sum(axis=0) - fit.sum(axis=0), 0.0)
    # The ratio of the precisions of weights and noise maps onto itself; once more it gives the rest.
    ratio, change = np.ones(len(counts)), np.inf
    for _ in range(101):
        total = energy[:, None] + ratio
        effective = (energy[:, None] / total).sum(axis=0)
        size = (energy[:, None] * fit / total**2).sum(axis=0)  # of the squared weights
        error = (fit * (ratio / total) ** 2).sum(axis=0) + residual
        alpha = effective / (size + _EVIDENCE_FLOOR)
        # With N <= D the effective number of weights may reach N; the noise must stay positive.
        beta = np.maximum(rows - effective, 1e-9 * rows) / (error + _EVIDENCE_FLOOR)
        if change <= 1e-5:
            break
        change = (np.abs(alpha / beta - ratio) / ratio).max()
        ratio = alpha / beta
    determinant = np.log(alpha + beta * energy[:, None]).sum(axis=0)
    determinant += (columns - len(energy)) * np.log(alpha)
    evidence = columns * np.log(alpha) + rows * np.log(beta / (2 * np.pi)) - determinant
    return float(np.mean(evidence - beta * error - alpha * size) / (2 * rows))


def h_score(features: ArrayLike, labels: ArrayLike, shrinkage: bool = True) -> float:
    """Variance between classes in the metric of the (shrunk) feature covariance, 0 to C - 1.

    Source: Bao et al. 2019; Ibrahim et al. 2022 (arXiv 2110.06893), both covariances divided by N.
    Without ``shrinkage`` by Ledoit and Wolf's weight it is C - 1 once N <= D, whatever the labels.
    """
    array, codes, counts = rep.labelled(features, labels)
    array = array - array.mean(axis=0)
    rows, columns = array.shape
    covariance = array.T @ array / rows
    weight = 0.0
    if shrinkage:  # towards the scaled identity, by the weight of Ledoit and Wolf 2004
        distance = (covariance**2).sum() - columns * (np.trace(covariance) / columns) ** 2
        noise = (((array**2).sum(axis=1) ** 2).mean() - (covariance**2).sum()) / rows
        weight = float(np.clip(noise / distance, 0.0, 1.0)) if distance > 0 else 1.0
    covariance *= 1.0 - weight
    covariance.flat[:: columns + 1] += weight * (array**2).sum() / (rows * columns)
    means = rep.class_means(array, codes, counts)
    try:
        solved = linalg.cho_solve(linalg.cho_factor(covariance), means.T)
    except linalg.LinAlgError:  # singular: its pseudo-inverse
        solved = np.linalg.pinv(covariance, rcond=1e-12, hermitian=True) @ means.T
    between = (means * solved.T).sum(axis=1)
    return float((1.0 - weight) * between @ counts / rows)


def leep(source_probabilities: ArrayLike, labels: ArrayLike) -> float:
    """Mean log likelihood (nats, <= 0) of the labels given the head's probabilities (N, Z).

    Minus the entropy of the labels where they say nothing. Source: Nguyen et al. 2020 (2002.12462).
    """
    probabilities = rep.matrix(source_probabilities, "source probabilities")
    proper = probabilities.min() >= 0 and np.abs(probabilities.sum(axis=1) - 1).max() <= 1e-3
    rep.require(proper, "source probabilities must be >= 0 and sum to 1 per row; apply softmax.")
    # How likely each label is given each source class, and so on each row.
    codes, counts = rep.classes(labels, len(probabilities))
    joint = np.eye(len(counts))[codes].T @ probabilities / len(probabilities)
    marginal = joint.sum(axis=0)
    seen = marginal > 0
    conditional = joint[:, seen] / marginal[seen]
    expected = (probabilities[:, seen] * conditional[codes]).sum(axis=1)
    return float(np.log(expected).mean())


def nce(source_labels: ArrayLike, labels: ArrayLike) -> float:
    """Negative conditional entropy of the labels given the head's most likely classes, in nats.

    From minus the entropy of the labels to 0. Source: Tran et al. 2019 (arXiv 1908.08142).
    """
    source = rep.whole(source_labels, "source labels")
    codes, counts = rep.classes(labels, len(source))
    _, given = np.unique(source, return_inverse=True)
    joint = np.zeros((given.max() + 1, len(counts)))
    np.add.at(joint, (given, codes), 1.0 / len(source))
    share = joint / joint.sum(axis=1, keepdims=True)
    return float((joint * np.log(np.where(share > 0, share, 1.0))).sum())


def nleep(features: ArrayLike, labels: ArrayLike) -> float:
    """LEEP with the clusters of a Gaussian mixture, five per class, in place of the source classes.

    Source: Li et al. 2021 (CVPR), here diagonal and on 64 principal axes. Noise scores above LEEP's.
    """
    array, codes, counts = rep.labelled(features, labels)
    clusters = 5 * len(counts)
    enough = clusters < len(array)
    rep.require(enough, f"{len(array)} rows for {clusters} clusters; sample more rows.")
    return leep(_mixture(rep.principal(array, 64), clusters, np.random.default_rng(0)), codes)


def _mixture(points: Floats, clusters: int, random: np.random.Generator) -> Floats:
    """Responsibilities (N, K) of a diagonal Gaussian mixture fitted by EM."""
    floor = 1e-6 * points.var(axis=0).mean()
    centres = _spread_centres(points, clusters, random)
    share = np.eye(clusters)[rep.squared_distances(points, centres).argmin(axis=1)]
    previous = -np.inf
    for _ in range(100):
        weight = share.sum(axis=0) + 10 * np.finfo(np.float64).eps
        means = share.T @ points / weight[:, None]
        spread = np.maximum(share.T @ points**2 / weight[:, None] - means**2, 0.0) + floor
        # Log density of each point under each diagonal Gaussian, by matrix products.
        precision = 1.0 / spread
        density = points**2 @ precision.T - 2.0 * points @ (means * precision).T
        density += (means**2 * precision).sum(axis=1)
        density = -0.5 * (density + np.log(2 * np.pi * spread).sum(axis=1))
        density += np.log(weight / len(points))
        highest = density.max(axis=1)
        share = np.exp(density - highest[:, None])
        sums = share.sum(axis=1)
        share /= sums[:, None]
        total = (highest + np.log(sums)).mean()
        if total - previous < 1e-3:
            break
        previous = total
    return share


def _spread_centres(points: Floats, clusters: int, random: np.random.Generator) -> Floats:
    """Initial centres drawn by squared distance to those drawn before (k-means++)."""
    chosen = [int(random.integers(len(points)))]
    nearest = rep.squared_distances(points, points[chosen])[:, 0]
    while len(chosen) < clusters:
        # Fewer distinct points than clusters: the rest repeats points and stays empty.
        chance = nearest / nearest.sum() if nearest.sum() > 0 else None
        chosen.append(int(random.choice(len(points), p=chance)))
        nearest = np.minimum(nearest, rep.squared_distances(points, points[chosen[-1:]])[:, 0])
    return points[chosen]


def transrate(features: ArrayLike, labels: ArrayLike, distortion: float = 1e-4) -> float:
    """Coding rate of the features minus its mean within classes, which count by their share, in nats.

    ``distortion`` is the squared error per coordinate, so scale counts. Source: Huang et al. 2022.
    """
    array, codes, counts = rep.labelled(features, labels)
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


def gbc(features: ArrayLike, labels: ArrayLike) -> float:
    """Minus the overlap of the classes as Gaussians, over ordered pairs: from -C (C - 1) to 0.

    On 64 principal axes, with one variance per class. Source: Pandy et al. 2022 (arXiv 2111.12780).
    """
    array, codes, counts = rep.labelled(features, labels, smallest=2)
    points = rep.principal(array, 64)
    means = rep.class_means(points, codes, counts)
    spread = rep.class_means(points**2, codes, counts) - means**2
    spread = np.broadcast_to(spread.mean(axis=1, keepdims=True), spread.shape)
    # Duplicated rows would give log 0.
    spread = np.maximum(spread, 1e-4 * points.var(axis=0).mean())
    overlap = 0.0
    for mean, variance in zip(means, spread, strict=True):
        # Bhattacharyya coefficients of this class with all, itself (1) among them.
        middle = (variance + spread) / 2
        distance = ((mean - means) ** 2 / middle).sum(axis=1) / 8
        logs = np.log(middle) - (np.log(variance) + np.log(spread)) / 2
        overlap += np.exp(-distance - logs.sum(axis=1) / 2).sum() - 1.0
    return -float(overlap)


def knn_probe(features: ArrayLike, labels: ArrayLike, neighbours: int = 5) -> float:
    """Leave-one-out accuracy of the nearest neighbours, of which the nearest settles a tie.

    Source: Cover and Hart 1967; the estimator of transformer-ranker.
    """
    array, codes, counts = rep.labelled(features, labels)
    enough = 1 <= neighbours < len(array)
    rep.require(enough, f"{neighbours} neighbours from {len(array)} rows; expected 1 to rows - 1.")
    array = array - array.mean(axis=0)
    distance = rep.squared_distances(array, array)
    np.fill_diagonal(distance, np.inf)
    rows, tally = np.arange(len(array)), np.zeros((len(array), len(counts)))
    for place in range(neighbours):  # for a handful, minima are faster than a partition
        nearest = distance.argmin(axis=1)
        distance[rows, nearest] = np.inf
        # The surplus of a vote is more than that of all later votes, and all together less than a
        # whole vote; so it settles ties alone, whatever the names of the classes.
        tally[rows, codes[nearest]] += 1.0 + 0.25 * 0.5**place
    return float((tally.argmax(axis=1) == codes).mean())


def linear_probe(features: ArrayLike, labels: ArrayLike) -> float:
    """Cross-validated accuracy of a ridge classifier, in stratified folds.

    Source: Alain and Bengio 2016 (arXiv 1610.01644); penalty after Golub, Heath and Wahba 1979.
    """
    predicted = probe_predictions(features, labels)
    codes, _ = rep.classes(labels, len(predicted))
    return float((predicted == codes).mean())


def probe_predictions(features: ArrayLike, labels: ArrayLike) -> Integers:
    """Return the held-out class codes that ``linear_probe`` scores, shape (N,)."""
    # Products of all rows are made once; each fold subtracts its own.
    array, codes, counts = rep.labelled(features, labels, smallest=2)
    folds = min(5, int(counts.min()))
    array = array - array.mean(axis=0)
    targets = np.eye(len(counts))[codes]
    # Each class is spread evenly over the folds.
    shuffled, fold = np.random.default_rng(0).permutation(len(codes)), np.empty(len(codes), int)
    fold[shuffled[np.argsort(codes[shuffled], kind="stable")]] = np.arange(len(codes)) % folds
    gram, cross = array.T @ array, array.T @ targets
    predicted = np.empty(len(array), dtype=np.int64)
    for held in range(folds):
        out = fold == held
        weights, intercept = _ridge(array, targets, out, gram, cross)
        predicted[out] = (array[out] @ weights + intercept).argmax(axis=1)
    return predicted


def _ridge(
    array: Floats, targets: Floats, out: np.ndarray, gram: Floats, cross: Floats
) -> tuple[Floats, Floats]:
    """Weights (D, C) and intercept (C,) fitted without the rows marked in ``out``."""
    held, goals, rows = array[out], targets[out], int((~out).sum())
    # Products of the rows that are left: those of all rows minus the few that are held out.
    mean, level = -held.sum(axis=0) / rows, (targets.sum(axis=0) - goals.sum(axis=0)) / rows
    values, axes = rep.eigen(gram - held.T @ held - rows * np.outer(mean, mean), len(array))
    fit = axes.T @ (cross - held.T @ goals - rows * np.outer(mean, level))
    # Generalised cross-validation error of each penalty of a grid, from the eigenvalues alone.
    squares, total = (fit**2).sum(axis=1), (rows * level * (1.0 - level)).sum()
    grid = values.mean() * np.logspace(-5, 4, 19)
    shrunk = values + grid[:, None]
    error = total - (squares * (2.0 / shrunk - values / shrunk**2)).sum(axis=1)
    freedom = 1.0 + (values / shrunk).sum(axis=1)
    score = np.where(freedom < rows, error / np.maximum(rows - freedom, 1e-9) ** 2, np.inf)
    weights = axes @ (fit / (values + grid[score.argmin()])[:, None])
    return weights, level - mean @ weights
