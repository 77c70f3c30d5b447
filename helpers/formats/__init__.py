"""The five formats: how a task of each is encoded, learnt, predicted and decoded."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

from helpers import metrics
from helpers.errors import unknown
from helpers.formats.base import Batch, FormatBase, pool
from helpers.formats.encoded import IGNORE, Encoded
from helpers.formats.labels import Choice, Pair, Retrieval, Tagging
from helpers.formats.span import Span
from helpers.tasks import Task

__all__ = ["Batch", "Encoded", "FormatBase", "get", "pool", "task_scores"]

_FORMATS: dict[str, FormatBase] = {
    format_.name: format_ for format_ in (Pair(), Choice(), Tagging(), Span(), Retrieval())
}


def get(name: str) -> FormatBase:
    """Return a format by name."""
    if name not in _FORMATS:
        raise unknown("format", name, _FORMATS)
    return _FORMATS[name]


def task_scores(
    task: Task, rows: Sequence[dict[str, Any]], predictions: Sequence[Any], language: str = "en"
) -> dict[str, float]:
    """Score one prediction per row by a task's own metric; its main value comes first."""
    gold = get(task.format).gold(task, rows)
    if task.format == "tagging":
        # Words whose right tag is unknown to the label set are left out.
        known = [[place for place, tag in enumerate(tags) if tag != IGNORE] for tags in gold]
        predictions, gold = (
            [[tags[i] for i in places] for tags, places in zip(side, known, strict=True) if places]
            for side in (predictions, gold)
        )
    metric = metrics.get(task.metric)
    offered: dict[str, Any] = {"labels": task.labels}
    if task.metric == "mlqa":  # the only rule that differs by language
        offered["language"] = language
    accepted = inspect.signature(metric.function).parameters
    options = {name: value for name, value in offered.items() if name in accepted}
    values = metrics.score(task.metric, predictions, gold, **options)
    return {metric.main: values[metric.main]} | values
