"""A grid as one plan against its cells one by one; planning and resuming 100,000 runs.

The stock way is a script per cell: it loads the encoder, trains the intermediate task, trains the
target, evaluates every language. A plan trains each intermediate stage once and loads the encoder
once. Both ways do the same cells with the same seeds here, on one device, and give equal scores.
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
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

    def ways(plan: Plan, whole: Path, cells: Path) -> tuple[float, float]:
        seconds, apart = as_plan(whole), 0.0
        targets = plan.runs[plan.runs["stage"] == "target"]
        for number, target in enumerate(targets.itertuples()):
            here = plan.runs["run"].isin([target.run, target.parent])
            own = replace(plan, runs=plan.runs[here])
            path = own.save(cells / str(number) / "plans")
            command = ["helpers.study.arm", "--plan", str(path), *own.arms]
            apart += _timed(command, cells / str(number))
        _equal(whole, *sorted(cells.iterdir()))
        return seconds, apart

    return _both("grid_vs_cells_from_scratch", "every cell in a process of its own", ways)


def processes() -> list[Measurement]:
    """Run the same plan in one process with all threads, and in several."""

    def ways(plan: Plan, whole: Path, other: Path) -> tuple[float, float]:
        one = as_plan(whole)
        shutil.copytree(whole / "known", other / "known")
        several = as_plan(other, "processes")
        _equal(whole, other)
        return several, one

    return _both("grid_in_processes_vs_one_process", "one process with all threads", ways)


def _both(
    name: str, reference: str, ways: Callable[[Plan, Path, Path], tuple[float, float]]
) -> list[Measurement]:
    """Time a plan both ways; its data are read and its layers chosen before the clock starts."""
    with tempfile.TemporaryDirectory() as folder:
        plan = study.plan(PROFILE, INTERMEDIATES, store=Store(Path(folder) / "whole"))
        ours, theirs = ways(plan, Path(folder) / "whole", Path(folder) / "other")
    note = f"profile {PROFILE}; equal scores in both ways"
    facts: dict[str, Any] = {"threads": cores(), "rows": len(plan), "note": note}
    return [compared(name, ours, "s", reference, theirs, **facts)]


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
    for facts in done[[*names]].to_dict("records"):
        record = Record(encoder=plan.encoder, spec=spec, attempts=[attempt], provenance={}, **facts)
        path = into.path(record.run)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(record.to_bytes())
    return len(done)
