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
    """One benchmark: what is called of a module here, and the rows a processor writes."""

    call: str
    rows: list[str]


# A line for each: its name, what is called, and its rows.
_TABLE = """
pair training.pair train_pair_vs_stock_trainer train_pair_vs_tuned_trainer \
evaluate_pair_vs_stock_trainer evaluate_pair_vs_tuned_trainer train_matmul_share_of_peak
tagging training.tagging train_tagging_vs_stock_trainer train_tagging_vs_tuned_trainer \
evaluate_tagging_vs_stock_trainer evaluate_tagging_vs_tuned_trainer \
train_matmul_share_of_peak_tagging
span training.span train_span_vs_stock_trainer train_span_vs_tuned_trainer \
evaluate_span_vs_stock_trainer evaluate_span_vs_tuned_trainer train_matmul_share_of_peak_span
profile training.profiles train_pair_matmul_rate train_tagging_matmul_rate train_span_matmul_rate \
train_pair_time_in_matmul train_pair_time_in_attention train_pair_time_in_elementwise \
train_pair_time_in_optimiser train_pair_time_in_rest \
train_tagging_time_in_matmul train_tagging_time_in_attention train_tagging_time_in_elementwise \
train_tagging_time_in_optimiser train_tagging_time_in_rest \
train_span_time_in_matmul train_span_time_in_attention train_span_time_in_elementwise \
train_span_time_in_optimiser train_span_time_in_rest
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
JOBS = {n: Job(call, rows) for n, call, *rows in map(str.split, _TABLE.strip().splitlines())}


def chosen(names: Sequence[str]) -> list[str]:
    """Return the benchmarks that some names of benchmarks or rows stand for, each once."""
    writers = {row: name for name, job in JOBS.items() for row in job.rows}
    unknown = [name for name in names if name not in JOBS and name not in writers]
    if unknown:
        there = f"the benchmarks {', '.join(JOBS)}, and the rows that --list shows"
        raise SystemExit(f"unknown: {', '.join(unknown)}; there are {there}.")
    usual = [name for name in JOBS if name not in LONG]
    return list(dict.fromkeys(writers.get(name, name) for name in names)) or usual


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
            rows = harness.call(JOBS[name].call)
            harness.store(rows)
            for row in rows:
                against = f", {row.ratio:.2f} x {row.reference}" if row.reference else ""
                print(f"{row.name}: {row.value:.4g} {row.unit}{against}  {row.note}")
            continue
        began = time.monotonic()
        if subprocess.run([sys.executable, "-m", "benchmarks", "--here", name]).returncode:
            failed.append(name)
        print(f"== {name}: {time.monotonic() - began:.0f} s\n", flush=True)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
