"""Official scoring rules as pure functions, looked up by name; no torch, no transformers."""

from __future__ import annotations

from helpers.metrics.answers import (
    best_threshold,
    exact_match,
    mlqa,
    normalise,
    squad,
    squad2,
    token_f1,
)
from helpers.metrics.averages import OverallScore, overall, task_mean
from helpers.metrics.classification import accuracy, macro_f1
from helpers.metrics.ranking import average_precision, map_at_k, mrr_at_k, pair_f1
from helpers.metrics.registry import Metric, get, main, names, register, score
from helpers.metrics.tagging import VARIANTS, span_f1, spans, token_accuracy

__all__ = [
    "VARIANTS",
    "Metric",
    "OverallScore",
    "accuracy",
    "average_precision",
    "best_threshold",
    "exact_match",
    "get",
    "macro_f1",
    "main",
    "map_at_k",
    "mlqa",
    "mrr_at_k",
    "names",
    "normalise",
    "overall",
    "pair_f1",
    "register",
    "score",
    "span_f1",
    "spans",
    "squad",
    "squad2",
    "task_mean",
    "token_accuracy",
    "token_f1",
]
