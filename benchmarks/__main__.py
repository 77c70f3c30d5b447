"""Run the benchmarks: ``python -m benchmarks [name ...]``.

A name is that of a benchmark or of a row of ``data/benchmarks.csv``. Without one, all are run but those
that take long for what they say; two quiet processor cores need less than half an hour. Each runs in a
process of its own, so that none warms another, and its rows are written when it is done.
"""

import re
import subprocess
import sys
import time
from collections.abc import Sequence

from benchmarks import harness

# What is called for each benchmark, and the names of its rows as a pattern.
JOBS = {
    "pair": ("training.pair", "(train|evaluate)_pair_vs_.*|train_matmul_share_of_peak"),
    "tagging": ("training.tagging", "(train|evaluate)_tagging_vs_.*|.*_share_of_peak_tagging"),
    "span": ("training.span", "(train|evaluate)_span_vs_.*_trainer|.*_share_of_peak_span"),
    "profile": ("training.profiles", "train_.*_(time_in_.*|matmul_rate)"),
    "neighbour": ("training.beside", "train_pair_beside_a_neighbour_vs_tuned_trainer"),
    "grid": ("studies.grid", "grid_vs_.*"),
    "plans": ("studies.plans", "(plan|resume)_100k_runs_.*"),
    "tatoeba": ("scoring.tatoeba", "tatoeba_.*"),
    "spans": ("scoring.spans", "evaluate_span_.*_reference_loop"),
    "mining": ("scoring.mining", "mining_.*|search_pool_.*"),
    "metrics": ("scoring.metrics_of_rows", "span_f1|squad|mlqa_en"),
    "reml": ("stats.mixed_models", "reml_.*"),
    "permutation": ("stats.relabelling", "max_t_.*"),
    "logme": ("similarity.logme", "logme_.*"),
    "similarity": ("similarity.table", "similarity_.*"),
}
LONG = ("similarity", "tatoeba")


def chosen(names: Sequence[str]) -> list[str]:
    """Return the benchmarks that some names of benchmarks or rows stand for, each once."""
    found: list[str] = []
    for name in names:
        writers = [job for job, (_, rows) in JOBS.items() if re.fullmatch(rows, name)]
        if not writers and name not in JOBS:
            there = f"the benchmarks {', '.join(JOBS)}, and the rows of {harness.COMMITTED.name}"
            raise SystemExit(f"unknown: {name}; there are {there}.")
        found += [name] if name in JOBS else writers
    return list(dict.fromkeys(found)) or [name for name in JOBS if name not in LONG]


def main() -> str:
    """Run the named benchmarks, or all; return which failed, if any."""
    failed = []
    for name in chosen(sys.argv[1:]):
        began = time.monotonic()
        try:
            rows = harness.apart(JOBS[name][0])
        except subprocess.CalledProcessError:
            failed.append(name)
            continue
        harness.store(rows)
        for row in rows:
            against = f", {row['ratio']:.2f} x {row['reference']}" if row["reference"] else ""
            print(f"{row['name']}: {row['value']:.4g} {row['unit']}{against}  {row['note']}")
        print(f"== {name}: {time.monotonic() - began:.0f} s\n", flush=True)
    return f"failed: {', '.join(failed)}" * bool(failed)


if __name__ == "__main__":
    sys.exit(main() or 0)
