"""Where runs execute: this process, local processes, or a cluster through Snakemake.

An engine is told which runs of a plan are missing and makes their records appear in the store. None
of them has state of its own: whatever dies, the same command goes on from the records.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from helpers.errors import unknown
from helpers.study.engines import local, processes, workflow
from helpers.study.engines.line import Line
from helpers.study.plans import Plan
from helpers.study.store import Store

__all__ = ["ENGINES", "Engine", "Order", "get"]


@dataclass
class Order:
    """What an engine is asked to do.

    Attributes:
        plan: the plan.
        runs: ids of the runs that are missing, parents first.
        store: where records go.
        line: the plan's progress line.
        keep: whether checkpoints of intermediate stages stay when nothing needs them any more.
        workers: how many runs at a time; 0: the engine decides.
        extra: arguments handed to the engine underneath (Snakemake).
        began: ``store.now()`` of when it was given.
    """

    plan: Plan
    runs: Sequence[str]
    store: Store
    line: Line
    keep: bool = True
    workers: int = 0
    extra: Sequence[str] = field(default_factory=tuple)
    began: int = 0


@dataclass(frozen=True)
class Engine:
    """One way to execute runs.

    Attributes:
        run: does an order; returns when every run has a record or cannot get one.
        problems: says what is missing on this machine, before anything starts.
    """

    run: Callable[[Order], None]
    problems: Callable[[], list[str]]


ENGINES = {
    "local": Engine(local.run, lambda: []),
    "processes": Engine(processes.run, lambda: []),
    "snakemake": Engine(workflow.run_here, workflow.problems),
    "slurm": Engine(workflow.run_slurm, workflow.slurm_problems),
}


def get(name: str) -> Engine:
    """Return an engine by name.

    Raises:
        UnknownName: no such engine; the error lists the valid ones.
    """
    if name not in ENGINES:
        raise unknown("engine", name, ENGINES)
    return ENGINES[name]
