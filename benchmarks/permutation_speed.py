"""Time 9,999 relabellings of a 9 x 12 table with 25 measures, against one loop per relabelling.

    python -m benchmarks.permutation_speed [--repeats 3]

The loop is the plain way: relabel, regress, repeat. It is timed on 200 relabellings and scaled, and
must give the same p-values as the vectorised code on the same relabellings.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np
import pandas as pd

from benchmarks.table import Measurement, store
from helpers.stats import permutation

TASKS = ("intermediate", "target")
RELABELLINGS, MEASURES, SAMPLE = 9999, 25, 200


def table() -> pd.DataFrame:
    """A 9 x 12 dyad table with 25 measures of noise."""
    rng = np.random.default_rng(0)
    i, t = (a.ravel() for a in np.indices((9, 12)))
    data = pd.DataFrame({"intermediate": i, "target": t, "gain": rng.normal(size=108)})
    return data.assign(**{f"m{k}": rng.normal(size=108) for k in range(MEASURES)})


def loop(data: pd.DataFrame, measures: list[str], n: int) -> np.ndarray:
    """Relabel and regress one table at a time; return p-values."""
    whole = permutation.grid(data, "gain", measures, *TASKS)
    orders = permutation.random_orders(whole, n, 0)
    used = np.full(whole.outcome.shape, True)
    basis = permutation.effects_basis(whole, used, ("rows", "columns"))
    y = whole.outcome.ravel()
    y = y - basis @ (basis.T @ y)

    def t(x: np.ndarray) -> float:
        x = x - basis @ (basis.T @ x)
        b = x @ y / (x @ x)
        e = y - b * x
        return float(b / np.sqrt(e @ e / (x @ x)))

    out = []
    for x in whole.predictors:
        flat = x.ravel()
        rest = (flat - basis @ (basis.T @ flat)).reshape(x.shape)
        observed = abs(t(flat))
        beyond = sum(
            abs(t(rest[np.ix_(order[:9], order[9:])].ravel())) >= observed * (1 - 1e-10)
            for order in orders
        )
        out.append((1 + beyond) / (1 + n))
    return np.array(out)


def measure(repeats: int) -> list[Measurement]:
    """Time both ways alternately."""
    data = table()
    names = [f"m{k}" for k in range(MEASURES)]
    fast, slow = [], []
    for _ in range(repeats):
        start = time.perf_counter()
        permutation.max_t(data, "gain", names, *TASKS, n=RELABELLINGS)
        fast.append(time.perf_counter() - start)
        start = time.perf_counter()
        plain = loop(data, names, SAMPLE)
        slow.append((time.perf_counter() - start) * RELABELLINGS / SAMPLE)
    ours = permutation.max_t(data, "gain", names, *TASKS, n=SAMPLE)["p"].to_numpy()
    if not np.allclose(ours, plain):
        raise SystemExit("the loop and the vectorised code give other p-values")
    value, other = statistics.median(fast), statistics.median(slow)
    return [
        Measurement(
            "max_t_9999_relabellings_9x12_25_measures", value, "s", "one relabelling at a time",
            other, other / value, rows=108, note=f"loop timed on {SAMPLE} relabellings and scaled",
        )
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    print(store(measure(parser.parse_args().repeats)).tail(1).to_string())


if __name__ == "__main__":
    main()
