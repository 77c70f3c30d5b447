"""Time a five-component mixed model of 1,818 rows against statsmodels' MixedLM.

    python -m benchmarks.reml_speed [--repeats 3]

Rows are 9 intermediates by the 202 target-language cells of XTREME-R. MixedLM runs with the powell
search, dense and sparse; its default search is not timed, because it stops short. All sides must
reach the same likelihood. Repeats alternate and medians are stored.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import pandas as pd

from benchmarks.table import Measurement, store
from helpers.stats import mixed, scenarios
from helpers.stats.reml import crossed_reml

EFFECTS = ["intermediate", "target", "intermediate:target", "language", "target:language"]


def logliks(data: pd.DataFrame, sparse_from: int | None) -> float:
    """Fit one side and return its log-likelihood."""
    if sparse_from is None:
        return crossed_reml(data, "gain", ["similarity"], EFFECTS, check=False).loglik
    mixed.SPARSE_FROM = sparse_from
    return mixed.mixedlm(data, "gain", ["similarity"], EFFECTS).loglik


def measure(repeats: int) -> list[Measurement]:
    """Time the three sides alternately."""
    data = scenarios.language_rows(np.random.default_rng(0), 0.3)
    sides: dict[str, Callable[[], float]] = {
        "ours": lambda: logliks(data, None),
        "sparse": lambda: logliks(data, 500),
        "dense": lambda: logliks(data, 10**9),
    }
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    reached: dict[str, float] = {}
    for _ in range(repeats):
        for name, side in sides.items():
            start = time.perf_counter()
            reached[name] = side()
            seconds[name].append(time.perf_counter() - start)
    if max(reached.values()) - reached["ours"] > 1e-3:
        raise SystemExit(f"MixedLM reaches a better likelihood: {reached}")
    ours, sparse, dense = (statistics.median(seconds[n]) for n in ("ours", "sparse", "dense"))
    note = "; ".join(f"log-likelihood {name} {value:.3f}" for name, value in reached.items())
    return [
        Measurement(
            f"reml_1818_rows_vs_mixedlm_{name}", ours, "s", f"statsmodels MixedLM, powell, {name}",
            other, other / ours, rows=len(data), note=note,
        )
        for name, other in (("dense", dense), ("sparse", sparse))
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    print(store(measure(parser.parse_args().repeats)).tail(2).to_string())


if __name__ == "__main__":
    main()
