"""Mining of translation pairs with margin scores, and controls for the geometry of vectors."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from helpers.errors import BadRows, HelpfulError, unknown
from helpers.metrics.neighbours import Neighbours, nearest, nearest_both

__all__ = [
    "MARGINS",
    "RETRIEVALS",
    "Mined",
    "Neighbours",
    "Space",
    "Threshold",
    "apply_threshold",
    "fit_space",
    "in_first_half",
    "mine",
    "mine_texts",
    "nearest",
    "nearest_both",
    "tune_threshold",
]

MARGINS = ("ratio", "distance", "absolute")
RETRIEVALS = ("max", "forward", "backward", "intersect")

CHUNK = 4096  # Rows centred at a time while whitening is fitted.


@dataclass(frozen=True)
class Mined:
    """Mined pairs, best first.

    Attributes:
        source: row numbers in ``x``, shape ``(pairs,)``.
        target: row numbers in ``y``, shape ``(pairs,)``.
        score: margin scores, shape ``(pairs,)``.
    """

    source: np.ndarray
    target: np.ndarray
    score: np.ndarray


def mine(
    x: Any,
    y: Any,
    k: int = 4,
    margin: str = "ratio",
    retrieval: str = "max",
    minimum: float = 0.0,
    device: str | None = None,
) -> Mined:
    """Mine translation pairs by margin score.

    The score of a pair is its cosine, compared with the mean cosine of both vectors to their ``k``
    nearest neighbours on the other side.

    Args:
        x: source vectors, shape ``(n, width)``, each text once.
        y: target vectors, shape ``(m, width)``, each text once.
        k: neighbours per side.
        margin: ``"ratio"`` divides by that mean, ``"distance"`` subtracts it, ``"absolute"``
            ignores it.
        retrieval: ``"forward"`` keeps each source's best target, ``"backward"`` the reverse,
            ``"intersect"`` what both choose; ``"max"`` takes all of both by falling score and
            leaves out those whose source or target is taken.
        minimum: only pairs above this score are kept.
        device: torch device that computes.

    Returns:
        The pairs, by falling score.

    Raises:
        BadRows: no vectors, different widths, or a vector that is not finite.
        HelpfulError: a ratio over a mean that is not positive, which has no meaning.
        UnknownName: no such margin or retrieval.

    Source:
        Artetxe and Schwenk (2019), "Margin-based parallel corpus mining", as XTREME applies it to
        BUCC: ``k=4``, ratio, max.
    """
    for kind, name, valid in (("margin", margin, MARGINS), ("retrieval", retrieval, RETRIEVALS)):
        if name not in valid:
            raise unknown(kind, name, valid)
    forward, backward = nearest_both(x, y, k, device=device)
    x_mean, y_mean = forward.similarity.mean(axis=1), backward.similarity.mean(axis=1)
    x_scores = _margin(forward.similarity, x_mean[:, None], y_mean[forward.index], margin)
    y_scores = _margin(backward.similarity, y_mean[:, None], x_mean[backward.index], margin)
    x_best, y_best = x_scores.argmax(axis=1), y_scores.argmax(axis=1)
    targets = np.take_along_axis(forward.index, x_best[:, None], axis=1)[:, 0]
    sources = np.take_along_axis(backward.index, y_best[:, None], axis=1)[:, 0]
    ways = {
        "forward": (np.arange(len(targets)), targets, x_scores.max(axis=1)),
        "backward": (sources, np.arange(len(sources)), y_scores.max(axis=1)),
    }
    source, target, score = _retrieve(ways, retrieval)
    order = np.argsort(-score, kind="stable")
    if retrieval == "max":
        order = _greedy(source, target, order)
    order = order[score[order] > minimum]
    return Mined(source[order], target[order], score[order])


def mine_texts(
    source_vectors: Any,
    target_vectors: Any,
    source_texts: Sequence[str],
    target_texts: Sequence[str],
    source_ids: Sequence[Hashable],
    target_ids: Sequence[Hashable],
    duplicates: str = "drop",
    **options: Any,
) -> pd.DataFrame:
    """Mine pairs of texts, merging identical texts before the search.

    Args:
        source_vectors: one vector per source text, shape ``(n, width)``.
        target_vectors: one vector per target text, shape ``(m, width)``.
        source_texts: the texts.
        target_texts: the texts.
        source_ids: their ids.
        target_ids: their ids.
        duplicates: what becomes of pairs with a text that has several ids: ``"drop"`` them, as
            XTREME does, or ``"expand"`` them to all combinations of ids, as jiant does.
        **options: passed on to :func:`mine`.

    Returns:
        Columns ``source``, ``target`` (ids) and ``score``, by falling score.

    Raises:
        BadRows: different numbers of texts, ids and vectors, or as :func:`mine`.
        UnknownName: neither ``"drop"`` nor ``"expand"``.

    Source:
        XTREME's BUCC mining: a merged text keeps the vector of its last occurrence, and texts that
        differ only in white space at their ends are repetitions.
    """
    if duplicates not in ("drop", "expand"):
        raise unknown("treatment of duplicates", duplicates, ("drop", "expand"))
    sides = []
    for side, vectors, texts, ids in (
        ("source", source_vectors, source_texts, source_ids),
        ("target", target_vectors, target_texts, target_ids),
    ):
        if not len(vectors) == len(texts) == len(ids):
            raise BadRows(
                f"{len(vectors)} vectors, {len(texts)} texts, {len(ids)} ids: give one each."
            )
        if not len(texts):
            raise BadRows(f"no {side} texts to mine: both sides need at least one.")
        seen: dict[Hashable, str] = {}
        for text, name in zip(texts, ids, strict=True):
            if name in seen:
                raise BadRows(
                    f"{side} id {name!r} stands for two texts, {seen[name]!r} and {text!r}: give "
                    "each text an id of its own."
                )
            seen[name] = text
        last = {text: place for place, text in enumerate(texts)}
        # Dictionaries keep the place of the first occurrence, so ties rank as in the text.
        sides.append((np.fromiter(last.values(), np.int64), _ids_of(list(last), texts, ids)))
    (x_rows, x_ids), (y_rows, y_ids) = sides
    mined = mine(source_vectors[x_rows], target_vectors[y_rows], **options)
    found: dict[tuple[Hashable, Hashable], float] = {}
    for source, target, score in zip(mined.source, mined.target, mined.score, strict=True):
        left, right = x_ids[source], y_ids[target]
        if duplicates == "drop" and len(left) * len(right) > 1:
            continue
        for pair in ((one, other) for one in left for other in right):
            found[pair] = max(float(score), found.get(pair, -math.inf))
    columns = {"source": [s for s, _ in found], "target": [t for _, t in found]}
    return pd.DataFrame(columns | {"score": np.fromiter(found.values(), float)})


@dataclass(frozen=True)
class Threshold:
    """A score above which mined pairs are taken for translations.

    Attributes:
        value: pairs with at least this score are kept.
        f1: F1 that it reaches on the pairs it was tuned on, if no two pairs share its score.
    """

    value: float
    f1: float


def tune_threshold(pairs: pd.DataFrame, gold: Collection[tuple[Hashable, Hashable]]) -> Threshold:
    """Choose the threshold that gives the best F1 on development pairs.

    As in XTREME, it lies midway between the last pair kept and the next. Where keeping all pairs is
    best there is no next one (the official code fails there): the threshold is the last score.

    Args:
        pairs: columns ``source``, ``target``, ``score``, as :func:`mine_texts` gives them.
        gold: the right pairs (source id, target id).

    Returns:
        The threshold; 0.0 where no pair is right.

    Raises:
        BadRows: no gold pairs.

    Source:
        XTREME's ``bucc_optimize``.
    """
    right = set(gold)
    if not right:
        raise BadRows("no gold pairs: a threshold cannot be tuned without them.")
    ranked = pairs.sort_values("score", ascending=False, kind="stable")
    hits = np.cumsum(
        [pair in right for pair in zip(ranked["source"], ranked["target"], strict=True)]
    )
    if not len(hits) or not hits[-1]:
        return Threshold(0.0, 0.0)
    # In this form and order, so that ties between positions fall as they do in the official code.
    precision, recall = hits / np.arange(1, len(hits) + 1), hits / len(right)
    with np.errstate(invalid="ignore"):
        f1 = np.where(hits > 0, 2 * precision * recall / (precision + recall), 0.0)
    last = int(f1.argmax())
    scores = ranked["score"].to_numpy()
    following = scores[last + 1] if last + 1 < len(scores) else scores[last]
    return Threshold(float(scores[last] + following) / 2, float(f1[last]))


def apply_threshold(pairs: pd.DataFrame, threshold: Threshold | float) -> list[tuple[Any, Any]]:
    """Return the pairs (source id, target id) that score at least the threshold.

    Args:
        pairs: columns ``source``, ``target``, ``score``.
        threshold: a tuned threshold, or a number.
    """
    value = threshold.value if isinstance(threshold, Threshold) else threshold
    kept = pairs[pairs["score"] >= value]
    return list(zip(kept["source"], kept["target"], strict=True))


def in_first_half(source_id: Hashable) -> bool:
    """Say to which half of a corpus a source text belongs, by a hash of its id.

    Where a mining task has no development corpus, the threshold is tuned on the pairs of one half
    and the score reported on the other; a chapter that does so must say so.

    Args:
        source_id: id of the source text.
    """
    return hashlib.sha256(str(source_id).encode()).digest()[0] % 2 == 0


@dataclass(frozen=True)
class Space:
    """A linear map of vectors, fitted to some of them.

    Attributes:
        mean: subtracted from each vector, shape ``(width,)``.
        matrix: then applied, shape ``(width, width)``; ``None`` for none.
    """

    mean: np.ndarray
    matrix: np.ndarray | None = None

    def apply(self, vectors: np.ndarray) -> np.ndarray:
        """Return the mapped vectors in 32-bit floats, shape as given."""
        centred = np.asarray(vectors, np.float32) - self.mean.astype(np.float32)
        return centred if self.matrix is None else centred @ self.matrix.astype(np.float32)


def fit_space(vectors: np.ndarray, kind: str = "centre", floor: float = 1e-6) -> Space:
    """Fit mean-centring or whitening, controls for retrieval scores that come from geometry alone.

    A few directions that all vectors share (or one outlying dimension) can dominate cosines;
    removing them raises retrieval without any training. Fit each language on its own vectors.

    Args:
        vectors: shape ``(n, width)``.
        kind: ``"centre"`` subtracts the mean; ``"whiten"`` also makes all directions equally wide.
        floor: smallest variance, as a share of the largest, that is stretched to 1; directions
            below it keep their order of size, so that few vectors are not blown up to noise.

    Returns:
        The fitted map.

    Raises:
        BadRows: no vectors, or vectors that are not finite.
        UnknownName: no such kind.

    Source:
        Hämmerl et al. (2023), on anisotropy and outlying dimensions in cross-lingual retrieval.
    """
    if kind not in ("centre", "whiten"):
        raise unknown("kind of space", kind, ("centre", "whiten"))
    values = np.asarray(vectors)
    if values.ndim != 2 or not len(values) or not np.isfinite(values).all():
        raise BadRows(
            f"a space needs finite vectors of shape (n, width), got shape {values.shape}."
        )
    mean = values.mean(axis=0, dtype=np.float64)
    if kind == "centre":
        return Space(mean)
    covariance = np.zeros((values.shape[1], values.shape[1]))
    for start in range(0, len(values), CHUNK):
        centred = values[start : start + CHUNK] - mean
        covariance += centred.T @ centred
    variance, axes = np.linalg.eigh(covariance / len(values))
    largest = variance[-1]
    if largest <= 0:
        raise BadRows("all vectors are equal: there is nothing to whiten.")
    return Space(mean, (axes / np.sqrt(np.maximum(variance, floor * largest))) @ axes.T)


def _margin(cosine: np.ndarray, mine: np.ndarray, theirs: np.ndarray, kind: str) -> np.ndarray:
    if kind == "absolute":
        return cosine
    mean = (mine + theirs) / 2
    if kind == "distance":
        return cosine - mean
    if mean.min() <= 0:
        raise HelpfulError(
            "a ratio margin needs neighbours with positive mean cosine, and some vectors have none "
            "(centred vectors may not): use margin='distance'."
        )
    return cosine / mean


def _retrieve(
    ways: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]], retrieval: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    if retrieval == "max":
        pairs = zip(ways["forward"], ways["backward"], strict=True)
        source, target, score = (np.concatenate(both) for both in pairs)
        return source, target, score
    if retrieval == "intersect":
        chosen = ways["backward"][0][ways["forward"][1]] == ways["forward"][0]
        source, target, score = (column[chosen] for column in ways["forward"])
        return source, target, score
    return ways[retrieval]


def _greedy(source: np.ndarray, target: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Return the places of pairs, in the given order, whose source and target are still free."""
    free_source = np.ones(source.max() + 1, bool)
    free_target = np.ones(target.max() + 1, bool)
    kept = []
    for place, one, other in zip(
        order.tolist(), source[order].tolist(), target[order].tolist(), strict=True
    ):
        if free_source[one] and free_target[other]:
            free_source[one] = free_target[other] = False
            kept.append(place)
    return np.array(kept, np.int64)


def _ids_of(
    unique: Iterable[str], texts: Sequence[str], ids: Sequence[Hashable]
) -> list[list[Hashable]]:
    """Return, for each unique text, the ids of all texts equal to it but for white space around."""
    known: dict[str, list[Hashable]] = {}
    for text, name in zip(texts, ids, strict=True):
        known.setdefault(text.strip(), []).append(name)
    return [known[text.strip()] for text in unique]
