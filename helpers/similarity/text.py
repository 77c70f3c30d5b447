"""Measures of texts, forms and languages, none of which needs fine-tuning.

Those of forms (format, inputs, labels) are the confounders that any other measure has to beat: tasks
of one format often transfer alike for reasons that have nothing to do with their content.
"""

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from helpers.errors import MissingData
from helpers.similarity import representations as rep
from helpers.similarity.features import probe_predictions
from helpers.similarity.representations import Floats, Integers, require

LANGUAGES = Path(__file__).parents[2] / "data" / "languages.csv"


# --- Pieces of two corpora ------------------------------------------------------------------------
def js_divergence(p: ArrayLike, q: ArrayLike) -> float:
    """Jensen-Shannon divergence of two weightings of the same outcomes, 0 to 1 (Lin 1991)."""
    first, second = _distribution(p), _distribution(q)
    require(first.shape == second.shape, f"{first.size} and {second.size} outcomes; use one set.")
    middle = (first + second) / 2
    parts = [x[x > 0] @ np.log(x[x > 0] / middle[x > 0]) for x in (first, second)]
    return float(max(sum(parts) / 2 / np.log(2.0), 0.0))


def _distribution(weights: ArrayLike) -> Floats:
    array = rep.vector(weights, "distribution")
    proper = array.min() >= 0 and array.sum() > 0
    require(proper, "a distribution needs weights >= 0 with a positive sum; is the text empty?")
    return array / array.sum()


def _pieces(values: ArrayLike, name: str) -> Integers:
    array = np.asarray(values)
    filled = array.ndim == 1 and array.size > 0
    require(filled, f"{name} has no pieces; the text is empty or holds only special pieces.")
    ids = array.dtype.kind in "iu" and array.min() >= 0
    require(ids, f"{name} must be vocabulary ids >= 0; got {array.dtype}.")
    return array.astype(np.int64)


def matched(a: ArrayLike, b: ArrayLike) -> list[Integers]:
    """Return random subsets of two lists of pieces, both as long as the shorter list."""
    both = [_pieces(a, "first corpus"), _pieces(b, "second corpus")]
    random, size = np.random.default_rng(0), min(map(len, both))
    return [x if len(x) == size else random.choice(x, size, replace=False) for x in both]


def piece_counts(pieces: ArrayLike, size: int) -> Integers:
    """Count the ids of all pieces of a corpus, shape (size of the vocabulary,)."""
    array = _pieces(pieces, "corpus")
    require(array.max() < size, f"piece id {array.max()} lies outside a vocabulary of {size}.")
    return np.bincount(array, minlength=size)


def token_similarity(a: ArrayLike, b: ArrayLike) -> float:
    """One minus the divergence of the pieces of two corpora (Ruder and Plank 2017, 1707.05246)."""
    # Of counts it is biased upwards, more so for smaller samples; each piece is counted once more.
    first, second = matched(a, b)
    values, places = np.unique(np.concatenate([first, second]), return_inverse=True)
    parts = np.split(places, [len(first)])
    return 1.0 - js_divergence(*(np.bincount(x, minlength=len(values)) + 1.0 for x in parts))


def vocabulary_overlap(a: ArrayLike, b: ArrayLike) -> float:
    """Jaccard overlap of the sets of pieces of two size-matched corpora; see ``token_similarity``."""
    first, second = (np.unique(pieces) for pieces in matched(a, b))
    shared = len(np.intersect1d(first, second, assume_unique=True))
    return shared / (len(first) + len(second) - shared)


def tfidf_cosine(a: ArrayLike, b: ArrayLike, texts_with: ArrayLike, texts: int) -> float:
    """Cosine of the TF-IDF vectors of two corpora, 0 to 1 (Salton and Buckley 1988)."""
    # Both count each piece; ``texts_with`` of all ``texts`` hold it. Weights as scikit-learn's.
    frequency = rep.vector(texts_with, "number of texts with each piece")
    most = frequency.max()
    require(frequency.min() >= 0 and most <= texts, f"a piece is in {most:.0f} of {texts} texts.")
    # So that no weight is zero or negative.
    weight = np.log((1.0 + texts) / (1.0 + frequency)) + 1.0
    first, second = _distribution(a), _distribution(b)
    same = first.shape == second.shape == weight.shape
    require(same, "counts and document frequencies must cover the same vocabulary.")
    return rep.cosine(first * weight, second * weight, "TF-IDF vectors")


# --- Embeddings of texts --------------------------------------------------------------------------
def whitening(covariance: ArrayLike) -> Floats:
    """Inverse square root of a covariance (D, D) shrunk to the identity by 1 % of its trace."""
    array = rep.matrix(covariance, "covariance", rows=1)
    size = len(array)
    require(array.shape == (size, size), f"the covariance {array.shape} is not a square array.")
    values, axes = np.linalg.eigh(0.99 * array + 0.01 * (np.trace(array) / size) * np.eye(size))
    require(values[0] > 0, "the covariance is not positive definite even after shrinkage.")
    return (axes / np.sqrt(values)) @ axes.T


def mmd(a: ArrayLike, b: ArrayLike) -> float:
    """Unbiased squared maximum mean discrepancy of embeddings (N, D) and (M, D) (Gretton et al. 2012)."""
    first, second = rep.paired(a, b, "embeddings", 2, axis=1)
    middle = (first.mean(axis=0) + second.mean(axis=0)) / 2
    pooled = np.concatenate([first, second]) - middle
    distance = rep.squared_distances(pooled, pooled)
    np.fill_diagonal(distance, 0.0)  # rounding leaves a trace there
    # The kernel is as wide as the median distance: in order, the diagonal's zeros come first and every
    # pair stands there twice.
    rows, pairs = len(distance), len(distance) * (len(distance) - 1) // 2
    places = [rows + 2 * ((pairs - 1) // 2), rows + 2 * (pairs // 2)]
    width = float(np.partition(distance, places, axis=None)[places].mean())
    require(width > 0, "most texts have the same embedding, so the kernel has no width.")
    kernel = np.exp(-distance / (2.0 * width))
    n, m = len(first), len(second)
    within = (kernel[:n, :n].sum() - n) / (n * (n - 1)) + (kernel[n:, n:].sum() - m) / (m * (m - 1))
    return float(within - 2.0 * kernel[:n, n:].mean())


def domain_classifier_error(a: ArrayLike, b: ArrayLike) -> float:
    """Cross-validated error of a ridge classifier of two tasks' embeddings (Ben-David et al. 2007)."""
    # Mean over both tasks: 0 where they are separable, about .5 where they are the same.
    first, second = rep.paired(a, b, "embeddings", 2, axis=1)
    domain = np.repeat([0, 1], [len(first), len(second)])
    wrong = probe_predictions(np.concatenate([first, second]), domain) != domain
    return float(np.mean([wrong[domain == side].mean() for side in (0, 1)]))


def pseudo_perplexity_change(tuned: ArrayLike, plain: ArrayLike) -> float:
    """Mean loss of masked pieces, tuned minus plain, nats (Salazar et al. 2020, 1910.14659)."""
    first, second = rep.vector(tuned, "tuned losses"), rep.vector(plain, "plain losses")
    same = first.shape == second.shape
    require(same, f"{first.size} tuned and {second.size} plain losses; use the same texts.")
    return float((first - second).mean())


# --- Formats and labels ---------------------------------------------------------------------------
def label_entropy_similarity(a: ArrayLike, b: ArrayLike) -> float:
    """Minus the absolute difference of the entropies of two label distributions, in nats."""
    shares = [rep.classes(labels, np.size(labels))[1] / np.size(labels) for labels in (a, b)]
    first, second = (float(-(share * np.log(share)).sum()) for share in shares)
    return -abs(first - second)


def label_count_similarity(a: ArrayLike, b: ArrayLike) -> float:
    """Minus the absolute difference of the logarithms of two class counts, in nats."""
    counts = [len(rep.classes(labels, np.size(labels))[1]) for labels in (a, b)]
    return -abs(float(np.log(counts[0] / counts[1])))


def label_name_cosine(a: ArrayLike, b: ArrayLike) -> float:
    """Mean cosine of each label name (C, D) with its nearest name in the other task, both ways."""
    first, second = rep.paired(a, b, "label embeddings", 1, axis=1)
    first, second = (rep.unit_rows(x, "the embedding of a label name") for x in (first, second))
    cosines = first @ second.T
    nearest = cosines.max(axis=1).mean() + cosines.max(axis=0).mean()
    return float(np.clip(nearest / 2, -1.0, 1.0))


# --- Languages ------------------------------------------------------------------------------------
def languages(path: Path = LANGUAGES) -> pd.DataFrame:
    """Return the facts of each language, by code; data/languages.README.md explains the columns."""
    if not path.exists():
        raise MissingData(f"no {path}: git checkout it, or make it as data/make/languages.py says.")
    return pd.read_csv(path, keep_default_na=False, na_values=[""]).set_index("language")
