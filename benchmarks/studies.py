"""A grid as one plan against its cells one by one; planning and resuming 100,000 runs.

The stock way is a script per cell: it loads the encoder, trains the intermediate task, trains the
target, evaluates every language. A plan trains each intermediate stage once and loads the encoder
once. Both ways do the same cells with the same seeds here, on one device, and give equal scores.
"""

import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.harness import Row, measured
from helpers import study
from helpers.files import cores
from helpers.models import Outcome
from helpers.study.plan import Plan
from helpers.study.store import Record, Store, missing

PROFILE, INTERMEDIATE = "demo", "mrpc-val"
# A target of the study has about this many languages; their scores are most of a record.
LANGUAGES = 25


def grid() -> list[Row]:
    """Run the same cells as a plan, and each in a process and a store of its own."""
    with tempfile.TemporaryDirectory() as name:
        whole, other = Path(name) / "whole", Path(name) / "other"
        # Data are read and layers chosen before the clock starts.
        plan = study.plan(PROFILE, [INTERMEDIATE], store=Store(whole))
        size = ["--profile", PROFILE, "--intermediates", INTERMEDIATE]
        ours = _timed(["--engine", "local", *size], whole)
        theirs = 0.0
        for target in plan.runs.query("stage == 'target'").itertuples():
            own = replace(plan, runs=plan.runs[plan.runs["run"].isin([target.run, target.parent])])
            place = other / str(target.run)
            theirs += _timed(["--plan", str(own.save(place / "plans")), "--arms", *own.arms], place)
        # Both ways must give the same scores.
        columns = ["run", "language", "seed", "value", "status"]
        sides = ([whole], sorted(other.iterdir()))
        one, same = (pd.concat([Store(f).scores() for f in side])[columns] for side in sides)
        one, same = (side.sort_values(columns[:3], ignore_index=True) for side in (one, same))
        pd.testing.assert_frame_equal(one, same, atol=1e-6)
    name, note = "grid_vs_cells_from_scratch", f"profile {PROFILE}; equal scores in both ways"
    times = (ours, "s", "every cell in a process of its own", theirs)
    return [measured(name, *times, threads=cores(), rows=len(plan), note=note)]


def _timed(arguments: list[str], folder: Path) -> float:
    environment = os.environ | {"TRANSFER_STORE": str(folder)}
    command, began = [sys.executable, "-m", "helpers.study", *arguments], time.perf_counter()
    subprocess.run(command, env=environment, check=True, capture_output=True)
    return time.perf_counter() - began


def plans(runs: int = 100_000) -> list[Row]:
    """Plan, fill nine tenths of a store, and resume: once cold and once with the index."""
    with tempfile.TemporaryDirectory() as name:
        folder, kept, clock = Path(name), Store(name), time.perf_counter
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
        measured("plan_100k_runs_seconds", planning, "s", **facts),
        measured("resume_100k_runs_seconds", warm, "s", **facts),
        measured("resume_100k_runs_first_look_seconds", cold, "s", **facts),
        measured("plan_100k_runs_peak_mb", peak, "MB", note=note, **facts),
    ]


def fill(plan: Plan, into: Store, share: float) -> int:
    """Write records for the first share of a plan's runs, as many scores each as in the study."""
    done = plan.runs.iloc[: int(len(plan) * share)]
    score = {"split": "test", "metric": "accuracy", "value": 0.123456789, "n": 1000}
    scores = [{"language": f"l{n}"} | score for n in range(LANGUAGES)]
    attempt = Outcome("done", 0, scores, seconds=1.0, tokens=1000, device="cpu x")
    spec = plan.job(done["run"].iloc[-1]).spec
    for facts in done["run core stage condition intermediate target".split()].to_dict("records"):
        named: Any = facts
        record = Record(encoder=plan.encoder, spec=spec, attempts=[attempt], provenance={}, **named)
        path = into.path(record.run)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(record.to_bytes())
    return len(done)
