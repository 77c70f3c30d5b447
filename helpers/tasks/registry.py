"""The registry of tasks: facts only, looked up by name."""

from __future__ import annotations

from helpers.errors import HelpfulError, unknown
from helpers.tasks.task import FORMATS, Task

_TASKS: dict[str, Task] = {}


def register(task: Task, *, replace: bool = False) -> Task:
    """Add a task to the registry, so that plans, runs and similarity accept its name.

    Args:
        task: the task to add.
        replace: overwrite a task of the same name (handy in a notebook).

    Returns:
        The task, unchanged.

    Raises:
        UnknownName: the format is not one of ``FORMATS``.
        HelpfulError: the name is taken and ``replace`` is false.
    """
    if task.format not in FORMATS:
        raise unknown("format", task.format, FORMATS)
    if task.name in _TASKS and not replace:
        raise HelpfulError(f"task {task.name!r} exists; pass replace=True to overwrite it.")
    _TASKS[task.name] = task
    return task


def get(name: str) -> Task:
    """Return a task by name.

    Raises:
        UnknownName: no such task; the error lists the nearest names.
    """
    if name not in _TASKS:
        raise unknown("task", name, _TASKS)
    return _TASKS[name]


def names(role: str = "", group: str = "", format: str = "") -> list[str]:
    """Return task names in registration order, filtered by role, group and format."""
    return [
        task.name
        for task in _TASKS.values()
        if role in ("", task.role)
        and format in ("", task.format)
        and (not group or group in task.group.split(","))
    ]
