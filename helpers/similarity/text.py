"""Text and domain measures: how alike the texts of two tasks are; no labels, no fine-tuning."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from helpers.errors import BadRows
from helpers.similarity.arrays import (
    Floats,
    Integers,
    generator,
    matrix,
    squared_distances,
    vector,
)
from helpers.similarity.arrays import cosine as _cosine
from helpers.similarity.features import probe_predictions

__all__ = [
    "centred_cosine",
    "domain_classifier_error",
    "js_divergence",
    "matched",
    "mmd",
    "piece_counts",
    "pseudo_perplexity_change",
    "tfidf_cosine",
    "token_similarity",
    "vocabulary_overlap",
    "whitening",
]


def js_divergence(p: ArrayLike, q: ArrayLike, base: float = 2.0) -> float:
    """Jensen-Shannon divergence of two distributions over the same outcomes.

    Cost: O(outcomes). Estimated from counts it is biased upwards, more so for smaller samples:
    compare samples of one size (``token_similarity`` does).

    Args:
        p: weights >= 0, normalised here.
        q: weights >= 0 over the same outcomes.
        base: base of the logarithm; 2 gives a value from 0 to 1.

    Returns:
        0 for equal distributions, 1 (base 2) for disjoint ones.

    Raises:
        BadRows: NaN, a negative weight, different lengths, or weights that sum to 0.

    Source: Lin 1991 (IEEE Transactions on Information Theory 37, 145-151).
    """
    first, second = _distribution(p), _distribution(q)
    if first.shape != second.shape:
        raise BadRows(f"distributions over {first.size} and {second.size} outcomes; use one set.")
    middle = (first + second) / 2
    parts = [x[x > 0] @ np.log(x[x > 0] / middle[x > 0]) for x in (first, second)]
    return float(max(sum(parts) / 2 / np.log(base), 0.0))


def _distribution(weights: ArrayLike) -> Floats:
    array = vector(weights, "distribution")
    if array.min() < 0 or array.sum() == 0:
        raise BadRows("a distribution needs weights >= 0 with a positive sum; is the text empty?")
    return array / array.sum()


def _pieces(values: ArrayLike, name: str) -> Integers:
    array = np.asarray(values)
    if array.ndim != 1 or array.size == 0:
        raise BadRows(f"{name} has no pieces; the text is empty or holds only special pieces.")
    if array.dtype.kind not in "iu" or array.min() < 0:
        raise BadRows(f"{name} must be vocabulary ids >= 0; got {array.dtype}.")
    return array.astype(np.int64)


def matched(a: ArrayLike, b: ArrayLike, seed: int = 0) -> tuple[Integers, Integers]:
    """Return random subsets of two lists of pieces that have the same size.

    Args:
        a: vocabulary ids of all pieces of the first corpus, without special ids.
        b: the same for the second corpus.
        seed: seed of the draw.

    Returns:
        Two arrays of as many ids as the shorter corpus has.

    Raises:
        BadRows: a corpus without pieces, or ids that are not vocabulary ids.
    """
    first, second = _pieces(a, "first corpus"), _pieces(b, "second corpus")
    random, size = generator(seed), min(len(first), len(second))
    draws = [
        pieces if len(pieces) == size else random.choice(pieces, size, replace=False)
        for pieces in (first, second)
    ]
    return draws[0], draws[1]


def piece_counts(pieces: ArrayLike, size: int) -> Integers:
    """Count vocabulary ids.

    Args:
        pieces: ids of all pieces of a corpus.
        size: size of the vocabulary.

    Returns:
        Counts of shape (size,).

    Raises:
        BadRows: no pieces, or an id outside the vocabulary.
    """
    array = _pieces(pieces, "corpus")
    if array.max() >= size:
        raise BadRows(f"piece id {array.max()} lies outside a vocabulary of {size}.")
    return np.bincount(array, minlength=size)


def token_similarity(a: ArrayLike, b: ArrayLike, smoothing: float = 1.0, seed: int = 0) -> float:
    """One minus the Jensen-Shannon divergence of the pieces of two size-matched corpora.

    Cost: O(pieces).

    Args:
        a: vocabulary ids of all pieces of the first corpus, without special ids.
        b: the same for the second corpus.
        smoothing: pseudo-count of each piece that occurs in either corpus.
        seed: seed of the draw that matches the sizes.

    Returns:
        A value from 0 (no shared piece, no smoothing) to 1 (same frequencies).

    Raises:
        BadRows: a corpus without pieces.

    Source: Ruder and Plank 2017 (arXiv 1707.05246) use it to select training data.
    """
    first, second = matched(a, b, seed)
    values, places = np.unique(np.concatenate([first, second]), return_inverse=True)
    counts = [
        np.bincount(part, minlength=len(values)) + smoothing
        for part in (places[: len(first)], places[len(first) :])
    ]
    return 1.0 - js_divergence(counts[0], counts[1])


def vocabulary_overlap(a: ArrayLike, b: ArrayLike, seed: int = 0) -> float:
    """Jaccard overlap of the sets of pieces of two size-matched corpora.

    Cost: O(pieces). Without equal sizes the value would follow the larger corpus.

    Args:
        a: vocabulary ids of all pieces of the first corpus, without special ids.
        b: the same for the second corpus.
        seed: seed of the draw that matches the sizes.

    Returns:
        A value from 0 to 1.

    Raises:
        BadRows: a corpus without pieces.

    Source: Jaccard 1912; used for task selection by Schulte et al. 2024 (arXiv 2410.15148).
    """
    first, second = (np.unique(pieces) for pieces in matched(a, b, seed))
    shared = len(np.intersect1d(first, second, assume_unique=True))
    return shared / (len(first) + len(second) - shared)


def tfidf_cosine(a: ArrayLike, b: ArrayLike, texts_with: ArrayLike, texts: int) -> float:
    """Cosine of the TF-IDF vectors of two corpora.

    Cost: O(vocabulary).

    Args:
        a: counts of each piece in the first corpus, shape (vocabulary,).
        b: counts of each piece in the second corpus.
        texts_with: number of texts that hold each piece, over the union of all corpora compared.
        texts: number of texts in that union.

    Returns:
        A value from 0 to 1.

    Raises:
        BadRows: NaN, negative counts, different lengths, or a corpus without informative pieces.

    Source: Salton and Buckley 1988; inverse document frequency ln((1 + n) / (1 + n_piece)) + 1 as
        in scikit-learn, so that no weight is zero or negative.
    """
    frequency = vector(texts_with, "number of texts with each piece")
    if frequency.min() < 0 or frequency.max() > texts:
        raise BadRows(f"a piece occurs in {frequency.max():.0f} of {texts} texts.")
    weight = np.log((1.0 + texts) / (1.0 + frequency)) + 1.0
    first, second = _distribution(a), _distribution(b)
    if not first.shape == second.shape == weight.shape:
        raise BadRows("counts and document frequencies must cover the same vocabulary.")
    return _cosine(first * weight, second * weight, "TF-IDF vectors")


def centred_cosine(embeddings: ArrayLike, covariance: ArrayLike | None = None) -> Floats:
    """Cosines between task embeddings after their common mean is removed.

    Cost: O(T^2 D), plus one eigendecomposition where whitened. Encoders put all texts into a narrow
    cone, so raw cosines of any two tasks are near 1. The mean is that of the tasks given: values
    depend on which tasks are compared, and a study must fix that set.

    Args:
        embeddings: one mean embedding per task, shape (T, D).
        covariance: optional covariance of single texts, shape (D, D); the embeddings are whitened
            by it, shrunk towards the identity by 1 % of its trace.

    Returns:
        Cosines of shape (T, T), from -1 to 1, with ones on the diagonal.

    Raises:
        BadRows: NaN, fewer than 3 tasks, or a task that equals the mean of all.

    Source: task embeddings after Vu et al. 2020 (arXiv 2005.00770); centring after Mu
        and Viswanath 2018 (arXiv 1702.01417).
    """
    array = matrix(embeddings, "task embeddings", rows=3)
    array = array - array.mean(axis=0)
    if covariance is not None:
        root = whitening(covariance)
        if len(root) != array.shape[1]:
            raise BadRows(f"covariance has shape {root.shape} for {array.shape[1]} columns.")
        array = array @ root
    norms = np.linalg.norm(array, axis=1, keepdims=True)
    if norms.min() <= 1e-12 * norms.max() or norms.max() == 0.0:
        raise BadRows("a task embedding equals the mean of all tasks; it has no direction left.")
    unit = array / norms
    return np.clip(unit @ unit.T, -1.0, 1.0)


def whitening(covariance: ArrayLike) -> Floats:
    """Inverse square root of a covariance shrunk towards the identity by 1 % of its trace.

    Args:
        covariance: shape (D, D).

    Returns:
        A symmetric array W of shape (D, D), such that ``x @ W`` has nearly unit covariance.

    Raises:
        BadRows: not square, NaN, or not positive definite.
    """
    array = matrix(covariance, "covariance", rows=1)
    rows, columns = array.shape
    if rows != columns:
        raise BadRows(f"covariance has shape {array.shape}; expected a square array.")
    mean = np.trace(array) / columns
    values, axes = np.linalg.eigh(0.99 * array + 0.01 * mean * np.eye(columns))
    if values[0] <= 0:
        raise BadRows("the covariance is not positive definite even after shrinkage.")
    return (axes / np.sqrt(values)) @ axes.T


def mmd(a: ArrayLike, b: ArrayLike, bandwidth: float = 0.0) -> float:
    """Unbiased squared maximum mean discrepancy with a Gaussian kernel.

    Cost: O((N + M)^2 D) time, O((N + M)^2) memory. Invariant to rotation, and to scale with the
    default bandwidth. Smaller means more similar; it may be slightly negative for equal domains.

    Args:
        a: embeddings of texts of the first task, shape (N, D).
        b: embeddings of texts of the second task, shape (M, D).
        bandwidth: standard deviation of the kernel; 0 takes the median distance of the pooled
            texts, which differs from pair to pair.

    Returns:
        A value from about 0 to 2.

    Raises:
        BadRows: NaN, different columns, fewer than 2 rows, or texts that are all the same.

    Source: Gretton et al. 2012 (JMLR 13, 723-773), the unbiased estimate.
    """
    first, second = matrix(a, "first task"), matrix(b, "second task")
    if first.shape[1] != second.shape[1]:
        raise BadRows(f"embeddings have {first.shape[1]} and {second.shape[1]} columns.")
    middle = (first.mean(axis=0) + second.mean(axis=0)) / 2
    pooled = np.concatenate([first, second]) - middle
    distance = squared_distances(pooled, pooled)
    np.fill_diagonal(distance, 0.0)  # rounding leaves a trace there
    width = bandwidth**2 or _median_of_pairs(distance)
    if width <= 0:
        raise BadRows("most texts have the same embedding, so the kernel has no width.")
    kernel = np.exp(-distance / (2.0 * width))
    n, m = len(first), len(second)
    within = (kernel[:n, :n].sum() - n) / (n * (n - 1)) + (kernel[n:, n:].sum() - m) / (m * (m - 1))
    return float(within - 2.0 * kernel[:n, n:].mean())


def _median_of_pairs(distance: Floats) -> float:
    """Median over pairs of different rows of a symmetric matrix with a zero diagonal."""
    rows = len(distance)
    pairs = rows * (rows - 1) // 2
    # In order, the diagonal's zeros come first and every pair stands there twice.
    places = [rows + 2 * ((pairs - 1) // 2), rows + 2 * (pairs // 2)]
    return float(np.partition(distance, places, axis=None)[places].mean())


def domain_classifier_error(a: ArrayLike, b: ArrayLike, folds: int = 5, seed: int = 0) -> float:
    """Cross-validated error of a ridge classifier that tells two tasks' texts apart.

    Cost: one eigendecomposition of a D x D matrix per fold.

    Args:
        a: embeddings of texts of the first task, shape (N, D).
        b: embeddings of texts of the second task, shape (M, D).
        folds: number of stratified folds.
        seed: seed of the folds.

    Returns:
        Mean error of the two tasks: 0 where the domains are separable, about 0.5 where they are
        the same. The proxy A-distance is 2 - 4 times this.

    Raises:
        BadRows: NaN, different columns, or fewer than 2 texts of a task.

    Source: Ben-David et al. 2007 (NIPS 19); Blitzer et al. 2007 (ACL P07-1056) for text.
    """
    first, second = matrix(a, "first task"), matrix(b, "second task")
    if first.shape[1] != second.shape[1]:
        raise BadRows(f"embeddings have {first.shape[1]} and {second.shape[1]} columns.")
    domain = np.repeat([0, 1], [len(first), len(second)])
    predicted = probe_predictions(np.concatenate([first, second]), domain, folds, seed)
    errors = [(predicted[domain == side] != side).mean() for side in (0, 1)]
    return float(np.mean(errors))


def pseudo_perplexity_change(tuned: ArrayLike, plain: ArrayLike) -> float:
    """Mean masked-language loss of a tuned encoder minus that of the plain one.

    Cost: two masked forward passes per text. The head is the plain encoder's: tuning drops it.
    Smaller means that tuning moved less away from the target's text.

    Args:
        tuned: loss of each target text under the tuned encoder, nats per masked piece.
        plain: loss of the same texts, same masks, under the plain encoder.

    Returns:
        A difference in nats per piece.

    Raises:
        BadRows: NaN or different numbers of texts.

    Source: pseudo-log-likelihood after Salazar et al. 2020 (arXiv 1910.14659).
    """
    first, second = vector(tuned, "tuned losses"), vector(plain, "plain losses")
    if first.shape != second.shape:
        raise BadRows(f"{first.size} tuned and {second.size} plain losses; use the same texts.")
    return float((first - second).mean())
