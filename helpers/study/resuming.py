"""What of a plan is missing in a store; this is all there is to resuming."""

from __future__ import annotations

import time
from pathlib import Path

from helpers.study.plans import Plan
from helpers.study.records import FINISHED
from helpers.study.store import Store

MODES = ("stored", "missing", "always")


def missing(plan: Plan, store: Store, keep: bool) -> list[str]:
    """Return the runs of a plan that have to be done, parents first.

    A run is missing without a trustworthy record of a finished run; a failed one is missing too. An
    intermediate stage is also missing when a missing target needs its checkpoint, or when
    checkpoints are to be kept, and the checkpoint is gone.
    """
    finished = store.runs(FINISHED)
    saved = store.checkpoints()
    over = {run for run in plan.runs["run"] if run in finished}
    over |= set(stand_ins(plan, store, over))
    wanted = set()
    for parent, children in plan.dependents.items():
        if parent not in saved and (keep or any(child not in over for child in children)):
            wanted.add(parent)
    return [run for run in plan.runs["run"] if run not in over or run in wanted]


def stand_ins(plan: Plan, store: Store, over: set[str]) -> dict[str, str]:
    """Return runs that were done with more languages than a plan asks for.

    Args:
        plan: the plan.
        store: the store.
        over: runs of the plan that have their own record.

    Returns:
        For each run without a record of its own that another run answers as well, that run.
    """
    index = store.index()
    index = index[index["status"].isin(list(FINISHED)) & (index["stage"] == "target")]
    others = index[~index["run"].isin(over)].groupby("core")["run"].agg(list).to_dict()
    if not others:
        return {}
    found = {}
    for run, core in zip(plan.runs["run"], plan.runs["core"], strict=True):
        for other in others.get(core, ()) if run not in over else ():
            if _covers(plan, run, store, other):
                found[run] = other
    return found


def set_aside(plan: Plan, store: Store) -> Path:
    """Move the records of a plan out of the way, to do it all again; return where they are."""
    folder = store.folder / "replaced" / f"{time.strftime('%Y%m%dT%H%M%S')}-{time.time_ns()}"
    for run in plan.runs["run"]:
        path = store.path(run)
        if path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            path.rename(folder / path.name)
        store.drop_progress(run)
    return folder


def _covers(plan: Plan, run: str, store: Store, other: str) -> bool:
    """Return whether a record holds the same rows of every language that a run asks for."""
    asked = plan.job(run).spec["evaluation"]
    for record in store.records([other]):
        had = record.spec["evaluation"]
        return all(had.get(language) == rows for language, rows in asked.items())
    return False
