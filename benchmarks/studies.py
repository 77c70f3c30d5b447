"""A grid as one plan against its cells one by one; planning and resuming 100,000 runs.

The stock way is a script per cell: it loads the encoder, trains the intermediate task, trains the
target, evaluates every language. A plan trains each intermediate stage once and loads the encoder
once. Both ways do the same cells with the same seeds here, on one device, and give equal scores.
"""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.harness import Measurement, compared
from helpers import study
from helpers.files import cores
from helpers.models import Outcome
from helpers.study.plan import Plan
from helpers.study.store import Record, Store, missing

PROFILE = "demo"
INTERMEDIATES = ["mrpc-val"]
# A target of the study has about this many languages; their scores are most of a record.
LANGUAGES = 25


def grid() -> list[Measurement]:
    """Run the same cells as a plan, and each in a process and a store of its own."""
    with planned() as (plan, whole, other):
        ours, theirs = as_plan(whole), 0.0
        for target in plan.runs.query("stage == 'target'").itertuples():
            own = replace(plan, runs=plan.runs[plan.runs["run"].isin([target.run, target.parent])])
            place = other / str(target.run)
            command = ["helpers.study.arm", "--plan", str(own.save(place / "plans")), *own.arms]
            theirs += _timed(command, place)
        _equal(whole, *sorted(other.iterdir()))
    times = (ours, "s", "every cell in a process of its own", theirs)
    return [compared("grid_vs_cells_from_scratch", *times, **_facts(plan))]


def processes() -> list[Measurement]:
    """Run the same plan in one process with all threads, and in several."""
    with planned() as (plan, whole, other):
        one = as_plan(whole)
        shutil.copytree(whole / "known", other / "known")
        several = as_plan(other, "processes")
        _equal(whole, other)
    times = (several, "s", "one process with all threads", one)
    return [compared("grid_in_processes_vs_one_process", *times, **_facts(plan))]


@contextlib.contextmanager
def planned() -> Iterator[tuple[Plan, Path, Path]]:
    """Lend a plan and two stores; its data are read and its layers chosen before the clock starts."""
    with tempfile.TemporaryDirectory() as name:
        whole, other = Path(name) / "whole", Path(name) / "other"
        yield study.plan(PROFILE, INTERMEDIATES, store=Store(whole)), whole, other


def _facts(plan: Plan) -> dict[str, Any]:
    note = f"profile {PROFILE}; equal scores in both ways"
    return {"threads": cores(), "rows": len(plan), "note": note}


def as_plan(folder: Path, engine: str = "local") -> float:
    """Run a study in one process of its own and return the seconds."""
    size = ["--intermediates", *INTERMEDIATES]
    return _timed(["helpers.study", "--profile", PROFILE, "--engine", engine, *size], folder)


def _timed(arguments: list[str], folder: Path) -> float:
    environment = os.environ | {"TRANSFER_STORE": str(folder), "TRANSFER_QUIET": "1"}
    began = time.perf_counter()
    command = [sys.executable, "-m", *arguments]
    subprocess.run(command, env=environment, check=True, capture_output=True)
    return time.perf_counter() - began


def _equal(whole: Path, *folders: Path) -> None:
    """Refuse unless both ways gave the same scores."""
    columns = ["run", "language", "seed", "value", "status"]
    sides = (pd.concat([Store(f).scores() for f in side]) for side in ([whole], folders))
    one, other = (side[columns].sort_values(columns[:3], ignore_index=True) for side in sides)
    # A process with fewer threads adds up in another order, so the last digits may differ.
    pd.testing.assert_frame_equal(one, other, atol=1e-6)


def plans(runs: int = 100_000) -> list[Measurement]:
    """Plan, fill nine tenths of a store, and resume: once cold and once with the index."""
    with tempfile.TemporaryDirectory() as name:
        folder, clock = Path(name), time.perf_counter
        kept = Store(folder)
        # Reading the data and loading the encoder take what they take at any size.
        each = -len(study.plan("tiny", store=kept)) + len(study.plan("tiny", seeds=2, store=kept))
        began = clock()
        plan = study.plan("tiny", seeds=-(-runs // each), store=kept)
        plan.save(folder / "plans")
        planning = clock() - began
        written = fill(plan, kept, 0.9)
        began = clock()
        left = missing(plan, Store(folder), keep=False)
        cold, began = clock() - began, clock()
        again = missing(plan, Store(folder), keep=False)
        warm = clock() - began
    # One intermediate stage may lie across the cut: its checkpoint is not there and is made again.
    assert left == again and 0 <= len(left) - (len(plan) - written) <= 1
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    facts: dict[str, Any] = {"threads": 1, "rows": len(plan)}
    note = "the libraries for training included"
    return [
        Measurement("plan_100k_runs_seconds", planning, "s", **facts),
        Measurement("resume_100k_runs_seconds", warm, "s", **facts),
        Measurement("resume_100k_runs_first_look_seconds", cold, "s", **facts),
        Measurement("plan_100k_runs_peak_mb", peak, "MB", note=note, **facts),
    ]


def fill(plan: Plan, into: Store, share: float) -> int:
    """Write records for the first share of a plan's runs, as many scores each as in the study."""
    done = plan.runs.iloc[: int(len(plan) * share)]
    score = {"split": "test", "metric": "accuracy", "value": 0.123456789, "n": 1000}
    scores = [{"language": f"l{n}"} | score for n in range(LANGUAGES)]
    attempt = Outcome("done", 0, scores, seconds=1.0, tokens=1000, device="cpu x")
    spec = plan.job(done["run"].iloc[-1]).spec
    names = ("run", "core", "stage", "condition", "intermediate", "target")
    for values in done[[*names]].itertuples(index=False, name=None):
        facts: dict[str, Any] = dict(zip(names, values, strict=True))
        record = Record(encoder=plan.encoder, spec=spec, attempts=[attempt], provenance={}, **facts)
        path = into.path(record.run)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(record.to_bytes())
    return len(done)
