"""Means over languages and over tasks, as the official script takes them, and without English."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from helpers.errors import BadRows, unknown
from helpers.metrics.xtreme import benchmark


def task_mean(by_language: Mapping[str, float]) -> dict[str, float]:
    """Return a task's plain mean over languages, with and without English.

    XTREME counts English wherever it is in a task's list; zero-shot transfer is what is left
    without it.

    Args:
        by_language: score per language.

    Returns:
        ``all``; and ``without_english`` where other languages are left.

    Raises:
        BadRows: no language.
    """
    if not by_language:
        raise BadRows("no language to average over.")
    others = [value for language, value in by_language.items() if language != "en"]
    result = {"all": sum(by_language.values()) / len(by_language)}
    return result | ({"without_english": sum(others) / len(others)} if others else {})


@dataclass(frozen=True)
class OverallScore:
    """Means over tasks.

    Attributes:
        value: the benchmark's official mean over all tasks; ``None`` where there is none.
        groups: official mean per group of tasks that is complete.
        tasks_mean: plain mean over the benchmark's tasks, where all of them have a score; for
            XTREME it is the official one, for XTREME-R it is ours.
        statement: why ``value`` is ``None``; empty otherwise.
    """

    value: float | None
    groups: dict[str, float]
    tasks_mean: float | None
    statement: str = ""


def overall(by_task: Mapping[str, float], name: str = "xtreme") -> OverallScore:
    """Return a benchmark's means over its groups and over all tasks.

    Args:
        by_task: main score per task: mean over languages; for questions, the mean of mean exact
            match and mean F1.
        name: ``"xtreme"`` or ``"xtreme-r"``.

    Returns:
        The means, with a statement where the official script gives no overall mean.

    Raises:
        UnknownName: no such benchmark, or a task that is not in it.

    Source:
        XTREME's evaluation script, revision 838c13b.
    """
    facts = benchmark(name)
    for task in by_task:
        if task not in facts.tasks:
            raise unknown(f"{name} task", task, facts.tasks)
    groups = {
        group: sum(by_task[task] for task in members) / len(members)
        for group, members in facts.groups.items()
        if all(task in by_task for task in members)
    }
    missing = [task for task in facts.tasks if task not in by_task]
    mean = None if missing else sum(by_task.values()) / len(by_task)
    statement = facts.no_overall
    if missing and not statement:
        statement = f"no overall mean: {', '.join(missing)} have no score."
    return OverallScore(None if statement else mean, groups, mean, statement)
