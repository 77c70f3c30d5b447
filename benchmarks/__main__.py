"""Run the benchmarks: ``python -m benchmarks [--list] [name ...]``.

A name is that of a benchmark or of a row of ``data/benchmarks.csv``. Without one, all are run but those
that take long for what they say, ``processes``, ``similarity`` and ``tatoeba``; two quiet processor
cores need less than half an hour. Each runs in a process of its own, so that none warms another, and
writes its rows when it is done.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Job:
    """One benchmark.

    Attributes:
        command: module and arguments.
        rows: names of the rows that it writes on a processor; a GPU has fewer.
    """

    command: str
    rows: tuple[str, ...]


def _training(workload: str) -> Job:
    against = [f"{w}_{workload}_vs_{arm}_trainer" for w in _TWO for arm in ("stock", "tuned")]
    suffix = "" if workload == "pair" else f"_{workload}"
    rows = (*against, f"train_matmul_share_of_peak{suffix}")
    return Job(f"training_speed --workload {workload}", rows)


LONG = ("processes", "similarity", "tatoeba")
_TWO = ("train", "evaluate")
_PARTS = ("matmul", "attention", "elementwise", "optimiser", "rest")
_LOGME = (
    "2000_rows_384_columns_2",
    "2000_rows_384_columns_30",
    "2000_rows_1024_columns_3",
    "500_rows_1024_columns_17",
)
JOBS = {
    "pair": _training("pair"),
    "tagging": _training("tagging"),
    "span": _training("span"),
    "profile": Job(
        "training_speed --profile",
        tuple(
            f"train_{workload}_{figure}"
            for workload in ("pair", "tagging", "span")
            for figure in (*(f"time_in_{part}" for part in _PARTS), "matmul_rate")
        ),
    ),
    "memory": Job("training_speed --memory", ("train_large_32x128_peak_memory",)),
    "grid": Job("grid_speed", ("grid_vs_cells_from_scratch",)),
    "processes": Job("grid_speed --processes", ("grid_in_processes_vs_one_process",)),
    "plans": Job(
        "plans_speed",
        (
            "plan_100k_runs_seconds",
            "plan_100k_runs_peak_mb",
            "resume_100k_runs_seconds",
            "resume_100k_runs_first_look_seconds",
        ),
    ),
    "tatoeba": Job(
        "tatoeba_speed --store",
        ("tatoeba_36_pairs_xtreme_layer", "tatoeba_36_pairs_last_layer"),
    ),
    "spans": Job(
        "spans_speed --store",
        ("evaluate_span_vs_reference_loop", "evaluate_span_by_its_rules_vs_reference_loop"),
    ),
    "mining": Job(
        "mining_speed --store",
        (
            "mining_100k_vs_bare_matmul",
            "mining_100k_cpu_vs_bare_matmul",
            "mining_100k_peak_memory",
            "search_pool_wall",
            "search_pool_peak_memory",
        ),
    ),
    "metrics": Job("metrics_speed --store", ("span_f1", "squad", "mlqa_en")),
    "reml": Job(
        "reml_speed", ("reml_1818_rows_vs_mixedlm_dense", "reml_1818_rows_vs_mixedlm_sparse")
    ),
    "permutation": Job("permutation_speed", ("max_t_9999_relabellings_9x12_25_measures",)),
    "logme": Job(
        "similarity_speed --part logme --store", tuple(f"logme_{name}_classes" for name in _LOGME)
    ),
    "similarity": Job("similarity_speed --part table --store", ("similarity_9x12_dyads_seconds",)),
}


def chosen(names: Sequence[str]) -> list[str]:
    """Return the benchmarks that some names stand for, each once.

    Raises:
        SystemExit: a name is neither a benchmark nor a row; the text lists the benchmarks.
    """
    writers = {row: name for name, job in JOBS.items() for row in job.rows}
    unknown = [name for name in names if name not in JOBS and name not in writers]
    if unknown:
        raise SystemExit(
            f"unknown: {', '.join(unknown)}; there are the benchmarks {', '.join(JOBS)}, and the "
            "rows that --list shows."
        )
    usual = [name for name in JOBS if name not in LONG]
    return list(dict.fromkeys(writers.get(name, name) for name in names)) or usual


def main() -> int:
    """Run the named benchmarks, or all; return 1 when one failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="name")
    parser.add_argument("--list", action="store_true", help="show what there is")
    options = parser.parse_args()
    if options.list:
        print("\n".join(f"{name}: {', '.join(job.rows)}" for name, job in JOBS.items()))
        return 0
    names = chosen(options.names)
    failed = []
    for name in names:
        module, *arguments = JOBS[name].command.split()
        print(f"\n== {name}", flush=True)
        began = time.monotonic()
        if subprocess.run([sys.executable, "-m", f"benchmarks.{module}", *arguments]).returncode:
            failed.append(name)
        print(f"== {name}: {time.monotonic() - began:.0f} s", flush=True)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
