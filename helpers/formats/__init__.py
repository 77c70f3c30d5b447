"""The five formats: how a task of each is encoded, learnt, predicted and decoded."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

from helpers import metrics
from helpers.errors import unknown
from helpers.formats.encoded import IGNORE, FormatBase
from helpers.formats.encoded import Batch as Batch
from helpers.formats.encoded import Encoded as Encoded
from helpers.formats.encoded import pool as pool
from helpers.formats.labels import Choice, Pair, Retrieval, Tagging
from helpers.formats.span import Span
from helpers.tasks import Task

_ALL: tuple[FormatBase, ...] = (Pair(), Choice(), Tagging(), Span(), Retrieval())
_FORMATS = {format_.name: format_ for format_ in _ALL}


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
    # A metric is told the label names where it takes them, and MLQA's, the only one, the language.
    metric = metrics.get(task.metric)
    labels = "labels" in inspect.signature(metric.function).parameters
    options: dict[str, Any] = {"labels": task.labels} if labels else {}
    options |= {"language": language} if task.metric == "mlqa" else {}
    values = metrics.score(task.metric, predictions, gold, **options)
    return {metric.main: values[metric.main]} | values
