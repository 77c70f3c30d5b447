"""Run the benchmarks: ``python -m benchmarks [--list] [name ...]``.

A name is that of a benchmark or of a row of ``data/benchmarks.csv``. Without one, all are run but those
that take long for what they say; two quiet processor cores need less than half an hour. Each runs in a
process of its own, so that none warms another, and writes its rows when it is done.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import NamedTuple

from benchmarks import harness

LONG = ("processes", "similarity", "tatoeba")


class Job(NamedTuple):
    """One benchmark: ``call`` of a module here, its arguments, and the rows a processor writes."""

    call: str
    rows: list[str]
    arguments: tuple[str, ...] = ()


def _jobs() -> dict[str, Job]:
    jobs, spent = {}, []
    for name in ("pair", "tagging", "span"):
        share = "train_matmul_share_of_peak" + f"_{name}" * (name != "pair")
        stages, arms = ("train", "evaluate"), ("stock", "tuned")
        rows = [f"{stage}_{name}_vs_{arm}_trainer" for stage in stages for arm in arms]
        jobs[name] = Job("training.compare", [*rows, share], (name,))
        parts = ("matmul", "attention", "elementwise", "optimiser", "rest")
        spent += [f"train_{name}_time_in_{part}" for part in parts] + [f"train_{name}_matmul_rate"]
    jobs["profile"] = Job("training.profiles", spent)
    for line in filter(None, _OTHERS.splitlines()):
        name, call, *rows = line.split()
        jobs[name] = Job(call, rows)
    return jobs


# A line for each of the others: its name, what is called, and its rows.
_OTHERS = """
neighbour training.beside train_pair_beside_a_neighbour_vs_tuned_trainer
memory training.memory train_large_32x128_peak_memory
grid studies.grid grid_vs_cells_from_scratch
processes studies.processes grid_in_processes_vs_one_process
plans studies.plans plan_100k_runs_seconds plan_100k_runs_peak_mb resume_100k_runs_seconds \
resume_100k_runs_first_look_seconds
tatoeba scoring.tatoeba tatoeba_36_pairs_xtreme_layer tatoeba_36_pairs_last_layer
spans scoring.spans evaluate_span_vs_reference_loop evaluate_span_by_its_rules_vs_reference_loop
mining scoring.mining mining_100k_vs_bare_matmul mining_100k_cpu_vs_bare_matmul \
mining_100k_peak_memory search_pool_wall search_pool_peak_memory
metrics scoring.metrics_of_rows span_f1 squad mlqa_en
reml stats.mixed_models reml_1818_rows_vs_mixedlm_dense reml_1818_rows_vs_mixedlm_sparse
permutation stats.relabelling max_t_9999_relabellings_9x12_25_measures
logme similarity.logme logme_2000_rows_384_columns_2_classes \
logme_2000_rows_384_columns_30_classes logme_2000_rows_1024_columns_3_classes \
logme_500_rows_1024_columns_17_classes
similarity similarity.table similarity_9x12_dyads_seconds
"""
JOBS = _jobs()


def chosen(names: Sequence[str]) -> list[str]:
    """Return the benchmarks that some names of benchmarks or rows stand for, each once."""
    writers = {row: name for name, job in JOBS.items() for row in job.rows}
    unknown = [name for name in names if name not in JOBS and name not in writers]
    if unknown:
        there = f"the benchmarks {', '.join(JOBS)}, and the rows that --list shows"
        raise SystemExit(f"unknown: {', '.join(unknown)}; there are {there}.")
    usual = [name for name in JOBS if name not in LONG]
    return list(dict.fromkeys(writers.get(name, name) for name in names)) or usual


def here(name: str) -> None:
    """Run one benchmark in this process, store its rows and show them."""
    rows = harness.call(JOBS[name].call, *JOBS[name].arguments)
    harness.store(rows)
    for row in rows:
        against = f", {row.ratio:.2f} x {row.reference}" if row.reference else ""
        print(f"{row.name}: {row.value:.4g} {row.unit}{against}  {row.note}")


def main() -> int:
    """Run the named benchmarks, or all; return 1 when one failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="name")
    parser.add_argument("--list", action="store_true", help="show what there is")
    parser.add_argument("--here", action="store_true", help="in this process")
    options = parser.parse_args()
    if options.list:
        print("\n".join(f"{name}: {', '.join(job.rows)}" for name, job in JOBS.items()))
        return 0
    failed = []
    for name in chosen(options.names):
        if options.here:
            here(name)
            continue
        print(f"\n== {name}", flush=True)
        began = time.monotonic()
        if subprocess.run([sys.executable, "-m", "benchmarks", "--here", name]).returncode:
            failed.append(name)
        print(f"== {name}: {time.monotonic() - began:.0f} s", flush=True)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
