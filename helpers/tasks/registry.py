"""The registry of tasks: facts only, looked up by name."""

from __future__ import annotations

from collections.abc import Iterator

from helpers.errors import HelpfulError, unknown
from helpers.tasks.task import FIELDS, FORMATS, KINDS, METRICS, ROLES, Source, Task

_TASKS: dict[str, Task] = {}


def register(task: Task, *, replace: bool = False) -> Task:
    """Add a task to the registry, so that plans, runs and similarity accept its name.

    Args:
        task: the task to add.
        replace: overwrite a task of the same name (handy in a notebook).

    Returns:
        The task, unchanged.

    Raises:
        UnknownName: the format, role or kind of a source is none that exists.
        HelpfulError: the name is taken and ``replace`` is false, or facts of the task do not fit
            together; the text lists them.
    """
    for kind, name, valid in (("format", task.format, FORMATS), ("role", task.role, ROLES)):
        if name not in valid:
            raise unknown(kind, name, valid)
    for source in task.source.flat():
        if source.kind not in KINDS:
            raise unknown("kind of source", source.kind, KINDS)
    if task.name in _TASKS and not replace:
        raise HelpfulError(f"task {task.name!r} exists; pass replace=True to overwrite it.")
    problems = [*_own_problems(task), *_source_problems(task), *_trainer_problems(task)]
    if problems:
        listed = "".join(f"\n  - {problem}" for problem in problems)
        raise HelpfulError(f"task {task.name!r} was not registered:{listed}")
    _TASKS[task.name] = task
    return task


def _own_problems(task: Task) -> Iterator[str]:
    if not task.name.strip() or set(task.name) & set("+/, "):
        yield "its name is empty or holds one of '+', '/', ',' and space; use letters, digits, '-'."
    base, fitting = task.metric.partition("@")[0], METRICS[task.format]
    if base not in fitting and any(base in others for others in METRICS.values()):
        yield f"metric {task.metric!r} cannot score {task.format}; take {', '.join(fitting)}."
    for name in sorted(set(task.columns) - set(FIELDS[task.format])):
        yield f"columns name {name!r}, but {task.format} rows have {', '.join(FIELDS[task.format])}."
    for what, values in (("labels", task.labels), ("languages", task.languages)):
        if isinstance(values, str) or len(set(values)) < len(values):
            yield f"{what} {values!r}: expected a tuple of different names."
    if not task.languages:
        yield "it has no languages; expected at least one, such as ('en',)."
    if not 0 <= task.chance < 1:
        yield f"chance {task.chance}: the score of guessing lies from 0 to below 1."


def _source_problems(task: Task) -> Iterator[str]:
    for source in task.source.flat():
        if source.kind == "rows" and source.read is None:
            yield f"source {source.id!r} of kind 'rows' needs read=function(language, split)."
        if source.kind == "tables" and not source.config:
            yield f"source {source.id!r} of kind 'tables' needs config='file-{{language}}-{{split}}.csv'."
        served = [code for code in task.languages if code in (source.languages or task.languages)]
        if task.adapt is None and _same_rows(source, served):
            yield (
                f"source {source.id!r} gives the same rows in each of {', '.join(served[:5])}: write "
                "{language} into its config, name configs={...}, or tell languages by adapt."
            )


def _same_rows(source: Source, languages: list[str]) -> bool:
    """Say whether languages that differ would read one and the same configuration or file."""
    if source.kind not in ("hub", "files", "tables") or source.language:
        return False
    return len(languages) > 1 and len({source.config_for(code) for code in languages}) == 1


def _trainer_problems(task: Task) -> Iterator[str]:
    trainer = _TASKS.get(task.train_with)
    if trainer is None:
        return
    if trainer.format != task.format:
        yield f"it trains with {trainer.name!r}, whose format is {trainer.format}, not {task.format}."
    elif trainer.labels != task.labels:
        yield f"it trains with {trainer.name!r}, whose labels are {trainer.labels}; state the same."


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
