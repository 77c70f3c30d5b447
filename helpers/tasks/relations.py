"""What is known beforehand of an intermediate and a target: shared rows, text, format."""

from __future__ import annotations

from helpers.tasks.registry import get
from helpers.tasks.task import Task


def relation(intermediate: Task | str, target: Task | str) -> dict[str, bool]:
    """Say what a dyad shares beyond what any similarity measures.

    Args:
        intermediate: a task or its name.
        target: a task or its name.

    Returns:
        ``identity_pair``: the target trains on rows that the intermediate trained on (MNLI and
        XNLI, SQuAD and XQuAD); ``same_source``: both, or the target's training task, are built
        from one text collection (QQP and PAWS-X); ``same_format``.
    """
    first, second = _task(intermediate), _task(target)
    trainer = get(second.train_with) if second.train_with else second
    texts = {*second.origin, *trainer.origin}
    return {
        "identity_pair": bool(_holds(first) & (_holds(trainer) | _holds(second))),
        "same_source": bool(set(first.origin) & texts),
        "same_format": first.format == second.format,
    }


def _task(task: Task | str) -> Task:
    return get(task) if isinstance(task, str) else task


def _holds(task: Task) -> set[str]:
    return set(task.holds or (task.name,))
