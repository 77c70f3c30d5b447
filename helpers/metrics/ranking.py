"""Scores of retrieval: F1 of mined pairs, mean average precision, mean reciprocal rank."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Sequence

from helpers.errors import BadRows
from helpers.metrics.check import same_length

Pair = tuple[Hashable, Hashable]


def pair_f1(predictions: Iterable[Pair], golds: Iterable[Pair]) -> dict[str, float]:
    """Return BUCC's precision, recall and F1 over sets of aligned pairs.

    Args:
        predictions: mined pairs (source id, target id); a pair given twice counts once.
        golds: right pairs.

    Returns:
        ``f1``, ``precision``, ``recall``, each from 0 to 1; all 0 where no pair is right.

    Raises:
        BadRows: no gold pairs.

    Source:
        Zweigenbaum et al. (2018), as implemented in XTREME's evaluation script.
    """
    given, right = set(predictions), set(golds)
    if not right:
        raise BadRows("no gold pairs to score: an empty set has no score.")
    hits = len(given & right)
    if not hits:
        return {"f1": 0.0, "precision": 0.0, "recall": 0.0}
    precision, recall = hits / len(given), hits / len(right)
    f1 = 2 * precision * recall / (precision + recall)
    return {"f1": f1, "precision": precision, "recall": recall}


def average_precision(
    ranked: Sequence[Hashable], right: Collection[Hashable], k: int | None = None
) -> float:
    """Return the average precision of one ranking.

    Args:
        ranked: candidates, best first; a candidate that comes again is not counted again.
        right: the right candidates, at least one.
        k: how many of the ranked count; ``None`` for all.

    Returns:
        Sum of the precisions at the hits over ``min(len(right), k)``, from 0 to 1.

    Raises:
        BadRows: no right candidate.

    Source:
        LAReQA (Roy et al., 2020), as implemented in XTREME-R.
    """
    wanted = set(right)
    if not wanted:
        raise BadRows("a query without a right candidate has no average precision.")
    found: set[Hashable] = set()
    total = 0.0
    for rank, candidate in enumerate(ranked[:k], start=1):
        if candidate in wanted and candidate not in found:
            found.add(candidate)
            total += len(found) / rank
    return total / min(len(wanted), k or len(wanted))


def map_at_k(
    predictions: Sequence[Sequence[Hashable]],
    golds: Sequence[Collection[Hashable]],
    k: int | None = 20,
) -> dict[str, float]:
    """Return the mean average precision of the first ``k`` candidates; LAReQA's score.

    Args:
        predictions: per query, candidates, best first.
        golds: per query, the right candidates.
        k: how many of the ranked count; ``None`` for all.

    Returns:
        ``map``, from 0 to 1.

    Raises:
        BadRows: different lengths, nothing to score, or a query without a right candidate.

    Source:
        LAReQA (Roy et al., 2020), as implemented in XTREME-R.
    """
    same_length(predictions, golds, "queries")
    pairs = zip(predictions, golds, strict=True)
    return {"map": sum(average_precision(ranked, right, k) for ranked, right in pairs) / len(golds)}


def mrr_at_k(
    predictions: Sequence[Sequence[Hashable]],
    golds: Sequence[Collection[Hashable]],
    k: int | None = 20,
) -> dict[str, float]:
    """Return the mean reciprocal rank of the first right candidate among ``k``.

    Mewsli-X has one right entity per mention, so this is what XTREME-R calls its mAP@20.

    Args:
        predictions: per query, candidates, best first.
        golds: per query, the right candidates.
        k: how many of the ranked count; ``None`` for all.

    Returns:
        ``mrr``, from 0 to 1.

    Raises:
        BadRows: different lengths, nothing to score, or a query without a right candidate.

    Source:
        XTREME-R (Ruder et al., 2021), Mewsli-X.
    """
    same_length(predictions, golds, "queries")
    if not all(golds):
        raise BadRows("a query without a right candidate has no reciprocal rank.")
    pairs = zip(predictions, map(set, golds), strict=True)
    return {"mrr": sum(_reciprocal_rank(ranked[:k], right) for ranked, right in pairs) / len(golds)}


def _reciprocal_rank(ranked: Sequence[Hashable], right: set[Hashable]) -> float:
    hits = (rank for rank, candidate in enumerate(ranked, start=1) if candidate in right)
    first = next(hits, 0)
    return 1.0 / first if first else 0.0
