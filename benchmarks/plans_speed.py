"""Plan 100,000 runs and find what is missing of them: seconds and memory."""

from __future__ import annotations

import argparse
import resource
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.table import Measurement, store
from helpers import study
from helpers.models.settings import Outcome
from helpers.study.plan import Plan, missing
from helpers.study.store import Record, Store

RUNS = 100_000
# A target of the study has about this many languages; their scores are most of a record.
LANGUAGES = 25


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Return how many seconds some work took, and what came of it."""
    began = time.perf_counter()
    result = work()
    return time.perf_counter() - began, result


def fill(plan: Plan, into: Store, share: float) -> int:
    """Write records for the first share of a plan's runs, as many scores each as in the study."""
    done = plan.runs.iloc[: int(len(plan) * share)]
    score = {"split": "test", "metric": "accuracy", "value": 0.123456789, "n": 1000}
    scores = [{"language": f"l{n}"} | score for n in range(LANGUAGES)]
    attempt = Outcome("done", 0, scores, seconds=1.0, tokens=1000, device="cpu x")
    spec = plan.job(done["run"].iloc[-1]).spec
    names = ("run", "core", "stage", "condition", "intermediate", "target")
    for values in zip(*(done[name] for name in names), strict=True):
        facts: dict[str, Any] = dict(zip(names, values, strict=True))
        record = Record(
            encoder=plan.encoder, spec=spec, sources={}, attempts=[attempt], provenance={}, **facts
        )
        path = into.path(record.run)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(record.to_bytes())
    return len(done)


def measure(folder: Path, runs: int) -> list[Measurement]:
    """Plan, fill nine tenths of a store, and resume: once cold and once with the index."""
    kept = Store(folder)
    study.plan(
        "tiny", store=kept
    )  # reads the data and loads the encoder, which size does not change
    each = len(study.plan("tiny", seeds=2, store=kept)) - len(study.plan("tiny", store=kept))
    planning, plan = timed(lambda: study.plan("tiny", seeds=-(-runs // each), store=kept))
    saving, _ = timed(lambda: plan.save(folder / "plans"))
    print(f"planned {len(plan):,} runs in {planning:.1f} s, saved in {saving:.1f} s", flush=True)
    written = fill(plan, kept, 0.9)
    cold, left = timed(lambda: missing(plan, Store(folder), keep=False))
    warm, again = timed(lambda: missing(plan, Store(folder), keep=False))
    # One intermediate stage may lie across the cut: its checkpoint is not there and is made again.
    assert left == again and 0 <= len(left) - (len(plan) - written) <= 1
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    facts: dict[str, Any] = {"threads": 1, "rows": len(plan)}
    return [
        Measurement("plan_100k_runs_seconds", planning + saving, "s", **facts),
        Measurement("resume_100k_runs_seconds", warm, "s", **facts),
        Measurement("resume_100k_runs_first_look_seconds", cold, "s", **facts),
        Measurement(
            "plan_100k_runs_peak_mb",
            peak,
            "MB",
            note="the libraries for training included",
            **facts,
        ),
    ]


def main() -> None:
    """Measure and store."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=RUNS)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp())
    try:
        found = measure(folder, options.runs)
    finally:
        shutil.rmtree(folder)
    if options.runs == RUNS:
        store(found)
    for row in found:
        print(f"{row.name}: {row.value:.2f} {row.unit}")


if __name__ == "__main__":
    main()
