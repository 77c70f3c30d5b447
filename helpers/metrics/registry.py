"""Metrics by name, so that a task can name its score and a notebook can add one."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from helpers.errors import HelpfulError, unknown
from helpers.metrics.answers import mlqa, squad, squad2
from helpers.metrics.classification import accuracy, macro_f1
from helpers.metrics.ranking import map_at_k, mrr_at_k, pair_f1
from helpers.metrics.tagging import span_f1, token_accuracy


@dataclass(frozen=True)
class Metric:
    """A named score.

    Attributes:
        name: name in the registry; ``map`` and ``mrr`` are also found as ``map@20`` and the like.
        function: ``function(predictions, golds, **options)`` gives values by key.
        main: the key of the value that stands for the metric.
        about: what it measures, in one line.
    """

    name: str
    function: Callable[..., dict[str, float]]
    main: str
    about: str = ""


_METRICS: dict[str, Metric] = {}


def register(
    name: str,
    function: Callable[..., dict[str, float]],
    main: str = "",
    about: str = "",
    *,
    replace: bool = False,
) -> Metric:
    """Add a metric, so that tasks and :func:`score` accept its name.

    Args:
        name: new name, without ``@``.
        function: ``function(predictions, golds, **options)`` that gives values by key, from 0 to 1.
        main: key of the main value; by default the metric's name.
        about: what it measures, in one line.
        replace: overwrite a metric of the same name (handy in a notebook).

    Returns:
        The registered metric.

    Raises:
        HelpfulError: the name is taken and ``replace`` is false, or it holds an ``@``.
    """
    if "@" in name:
        raise HelpfulError(
            f"metric {name!r}: '@' is for the cut-off, as in 'map@20'; leave it out."
        )
    if name in _METRICS and not replace:
        raise HelpfulError(f"metric {name!r} exists; pass replace=True to overwrite it.")
    _METRICS[name] = Metric(name, function, main or name, about)
    return _METRICS[name]


def get(name: str) -> Metric:
    """Return a metric by name; a cut-off as in ``map@20`` is ignored.

    Raises:
        UnknownName: no such metric; the error lists the nearest names.
    """
    base = name.partition("@")[0]
    if base not in _METRICS:
        raise unknown("metric", name, _METRICS)
    return _METRICS[base]


def names() -> list[str]:
    """Return the names of all metrics, in the order they were added."""
    return list(_METRICS)


def main(name: str) -> str:
    """Return the key of a metric's main value, as in the result of :func:`score`."""
    return get(name).main


def score(name: str, predictions: Any, golds: Any, **options: Any) -> dict[str, float]:
    """Score predictions by a metric's name.

    Args:
        name: a registered metric, with a cut-off where it has one: ``"map@20"``.
        predictions: what was predicted, in the form the metric's function documents.
        golds: what is right, in the same form or order.
        **options: passed on to the metric's function.

    Returns:
        Values by key, most of them from 0 to 1; ``main(name)`` is the key of the main one.

    Raises:
        UnknownName: no such metric or option.
        HelpfulError: a cut-off that is no positive number, or a function that gives no main value.
        BadRows: predictions and golds that cannot be compared.
    """
    metric, (_, at, cut) = get(name), name.partition("@")
    accepted = inspect.signature(metric.function).parameters
    if at:
        if not cut.isdecimal() or int(cut) < 1 or "k" not in accepted:
            raise HelpfulError(f"metric {name!r}: a cut-off is a positive number, as in 'map@20'.")
        options["k"] = int(cut)
    if not any(p.kind is inspect.Parameter.VAR_KEYWORD for p in accepted.values()):
        for option in options:
            if option not in accepted:
                raise unknown(f"option of metric {metric.name!r}", option, list(accepted)[2:])
    result = {
        key: float(value) for key, value in metric.function(predictions, golds, **options).items()
    }
    if not math.isfinite(result.get(metric.main, math.nan)):
        raise HelpfulError(f"metric {name!r} gave {result}, without a finite {metric.main!r}.")
    return result


register("accuracy", accuracy, about="share of right labels")
register("macro_f1", macro_f1, about="F1 averaged over labels")
register("span_f1", span_f1, "f1", "F1 over labelled spans, seqeval 0.0.12's by default")
register("token_accuracy", token_accuracy, about="share of right tags over tokens")
register("squad", squad, "mean", "mean of exact match and F1, SQuAD 1.1")
register("squad2", squad2, "mean", "mean of exact match and F1, SQuAD 2.0")
register("mlqa", mlqa, "mean", "mean of exact match and F1, MLQA's rules per language")
register("pair_f1", pair_f1, "f1", "F1 over mined pairs, BUCC")
register("map", map_at_k, "map", "mean average precision, LAReQA at 20")
register("mrr", mrr_at_k, "mrr", "mean reciprocal rank, Mewsli-X at 20")
