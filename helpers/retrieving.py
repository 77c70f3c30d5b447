"""Score a retrieval target from the vectors of its queries and candidates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from helpers import metrics
from helpers.errors import unknown
from helpers.metrics.mining import (
    apply_threshold,
    fit_space,
    in_first_half,
    mine_texts,
    nearest,
    tune_threshold,
)
from helpers.metrics.neighbours import Taken
from helpers.tasks import Task

SPACES = ("raw", "centre", "whiten")


def retrieval_scores(
    task: Task, rows: Sequence[dict[str, Any]], vectors: np.ndarray | Taken, space: str = "raw"
) -> dict[str, float]:
    """Score a retrieval target in one language.

    ``accuracy`` asks for the nearest candidate of each query (Tatoeba), ``pair_f1`` mines pairs by
    ratio margin (BUCC; threshold tuned on one half of the queries, score on the other, as the hub
    has no development corpus), ``map@k`` and ``mrr@k`` rank the candidates (LAReQA, Mewsli-X).

    Args:
        task: names the metric.
        rows: standard rows, queries and candidates in any order.
        vectors: one vector per row, shape ``(rows, width)``.
        space: ``"raw"``, or a control that changes the geometry and nothing else: ``"centre"``
            subtracts each side's mean, ``"whiten"`` also equalises the directions.

    Returns:
        Values by key, the main one first.

    Raises:
        UnknownName: no such space.
    """
    if space not in SPACES:
        raise unknown("space", space, SPACES)
    base = task.metric.partition("@")[0]
    queries, candidates, is_query = _sides(rows, texts=base == "pair_f1")
    left, right = _chosen(vectors, is_query), _chosen(vectors, ~is_query)
    if space != "raw":
        left, right = (fit_space(np.asarray(s), space).apply(np.asarray(s)) for s in (left, right))
    if base == "pair_f1":
        return _mined(queries, candidates, left, right)
    depth = int(task.metric.partition("@")[2] or 20) if base in ("map", "mrr") else 1
    # XTREME-R takes inner products, of vectors that its dual encoders normalise: cosines.
    found = nearest(left, right, k=depth, similarity="cosine").index
    ids = np.array([row["id"] for row in candidates], dtype=object)
    ranked = [list(ids[places]) for places in found]
    gold = [row["gold"] for row in queries]
    if base == "accuracy":
        hits = [best[0] in right_ones for best, right_ones in zip(ranked, gold, strict=True)]
        return metrics.score("accuracy", [int(hit) for hit in hits], [1] * len(hits))
    return metrics.score(task.metric, ranked, gold)


def _chosen(vectors: np.ndarray | Taken, mask: np.ndarray) -> Any:
    """Return rows without copying them: a million candidates are there once."""
    places = np.flatnonzero(mask)
    if isinstance(vectors, Taken):
        return Taken(vectors.vectors, vectors.places[places])
    return Taken(vectors, places)


def _sides(
    rows: Sequence[dict[str, Any]], texts: bool
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], np.ndarray]:
    """Return queries, candidates and which rows are queries, reading memory-mapped rows once.

    Of a million candidates only the ids are kept, unless ``texts`` are needed.
    """
    queries, candidates, is_query = [], [], np.zeros(len(rows), bool)
    for place, row in enumerate(rows):
        is_query[place] = row["side"] == "query"
        if is_query[place]:
            queries.append(row)
        else:
            candidates.append(row if texts else {"id": row["id"]})
    return queries, candidates, is_query


def _mined(
    queries: list[dict[str, Any]],
    candidates: list[dict[str, Any]],
    left: Any,
    right: Any,
) -> dict[str, float]:
    pairs = mine_texts(
        left,
        right,
        [row["text"] for row in queries],
        [row["text"] for row in candidates],
        [row["id"] for row in queries],
        [row["id"] for row in candidates],
    )
    gold = [(row["id"], other) for row in queries for other in row["gold"]]
    first = np.array([in_first_half(source) for source in pairs["source"]], bool)
    tuned = tune_threshold(pairs[first], [pair for pair in gold if in_first_half(pair[0])])
    kept = apply_threshold(pd.DataFrame(pairs[~first]), tuned)
    values = metrics.score("pair_f1", kept, [pair for pair in gold if not in_first_half(pair[0])])
    best = tune_threshold(pairs, gold).f1
    return values | {"best_threshold_f1": best}
