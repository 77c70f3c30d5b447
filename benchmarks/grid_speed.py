"""A grid run as one plan against the same cells run each on its own: seconds and equal scores.

The stock way is a script per cell: it loads the encoder, trains the intermediate task, trains the
target, evaluates every language. A plan trains each intermediate stage once and loads the encoder
once. Both ways do the same cells with the same seeds here, on one device.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.table import Measurement, store
from helpers import study
from helpers.files import cores
from helpers.study.plan import Plan
from helpers.study.store import Store

SIZES: dict[str, dict[str, Any]] = {"tiny": {}, "demo": {"intermediates": ["mrpc-val"]}}


def as_plan(profile: str, folder: Path, engine: str = "local") -> float:
    """Run a study in one process of its own and return the seconds."""
    arguments = ["-m", "helpers.study", "--profile", profile, "--engine", engine]
    if SIZES[profile]:
        arguments += ["--intermediates", *SIZES[profile]["intermediates"]]
    return _run(arguments, folder)


def as_cells(plan: Plan, folder: Path) -> float:
    """Run every cell of a plan in a process and a store of its own; return the seconds of all."""
    seconds = 0.0
    targets = plan.runs[plan.runs["stage"] == "target"]
    for number, target in enumerate(targets.itertuples()):
        cell = folder / str(number)
        own = replace(plan, runs=plan.runs[plan.runs["run"].isin([target.run, target.parent])])
        command = ["-m", "helpers.study.run", "--plan", str(own.save(cell / "plans"))]
        seconds += _run([*command, *own.arms], cell)
    return seconds


def _run(arguments: list[str], folder: Path) -> float:
    environment = os.environ | {"TRANSFER_STORE": str(folder), "TRANSFER_QUIET": "1"}
    began = time.perf_counter()
    subprocess.run([sys.executable, *arguments], env=environment, check=True, capture_output=True)
    return time.perf_counter() - began


def scores(folders: list[Path]) -> pd.DataFrame:
    """Return the scores of several stores as one table that can be compared."""
    parts = [Store(folder).scores() for folder in folders]
    columns = ["run", "language", "seed", "value", "status"]
    return pd.concat(parts)[columns].sort_values(["run", "language", "seed"], ignore_index=True)


def measure(profile: str, processes: bool = False) -> list[Measurement]:
    """Run the same cells both ways: as a plan and one by one, or in one process and in several."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # Reading the data and choosing layers is done once for both ways, before the clock starts.
        plan = study.plan(profile, **SIZES[profile], store=Store(folder / "whole"))
        whole = as_plan(profile, folder / "whole")
        if processes:
            other = folder / "other"
            shutil.copytree(folder / "whole" / "known", other / "known")
            seconds, stores = as_plan(profile, other, "processes"), [other]
        else:
            seconds = as_cells(plan, folder / "cells")
            stores = sorted((folder / "cells").iterdir())
        # A process with fewer threads adds up in another order, so the last digits may differ.
        pd.testing.assert_frame_equal(scores([folder / "whole"]), scores(stores), atol=1e-6)
    facts: dict[str, Any] = {"unit": "s", "threads": cores(), "rows": len(plan)}
    note = f"profile {profile}; equal scores in both ways"
    if processes:
        facts |= {"reference": "one process with all threads", "reference_value": whole}
        name, value, ratio = "grid_in_processes_vs_one_process", seconds, whole / seconds
    else:
        facts |= {"reference": "every cell in a process of its own", "reference_value": seconds}
        name, value, ratio = "grid_vs_cells_from_scratch", whole, seconds / whole
    return [Measurement(_named(name, profile), value, ratio=ratio, note=note, **facts)]


def _named(name: str, profile: str) -> str:
    return name if profile == "demo" else f"{name}_{profile}"


def main() -> None:
    """Measure and store."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", choices=list(SIZES), default="demo")
    parser.add_argument("--processes", action="store_true", help="compare with several processes")
    options = parser.parse_args()
    found = measure(options.profile, options.processes)
    store(found)
    for row in found:
        print(f"{row.name}: {row.value:.1f} {row.unit}, {row.ratio:.2f} x {row.reference}")


if __name__ == "__main__":
    main()
