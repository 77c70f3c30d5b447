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
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse
from statsmodels.regression.mixed_linear_model import MixedLM, VCSpec

from benchmarks.table import Measurement, store
from helpers.stats import design, scenarios
from helpers.stats.reml import crossed_reml

EFFECTS = ["intermediate", "target", "intermediate:target", "language", "target:language"]


def mixedlm(
    data: pd.DataFrame,
    outcome: str,
    fixed: Sequence[str],
    random: Sequence[str],
    weights: str | None = None,
    reml: bool = True,
    sparse_from: int = 500,
) -> Any:
    """Fit crossed random effects with statsmodels: one group, a variance component per effect."""
    named = design.build(data, outcome, fixed, random, weights)
    root = np.sqrt(named.weights)[:, None]
    z = [term.matrix() * root for term in named.terms]
    if named.y.size >= sparse_from:
        z = [sparse.csr_matrix(m) for m in z]
    spec = VCSpec(
        [t.name for t in named.terms], [[list(t.levels)] for t in named.terms], [[m] for m in z]
    )
    model = MixedLM(
        named.y * root[:, 0], named.x * root, groups=np.ones(named.y.size), exog_vc=spec
    )
    with warnings.catch_warnings():  # judged by the likelihood reached, not by warnings
        warnings.simplefilter("ignore")
        return model.fit(reml=reml, method="powell")


def logliks(data: pd.DataFrame, sparse_from: int | None) -> float:
    """Fit one side and return its log-likelihood."""
    if sparse_from is None:
        return crossed_reml(data, "gain", ["similarity"], EFFECTS).loglik
    return float(mixedlm(data, "gain", ["similarity"], EFFECTS, sparse_from=sparse_from).llf)


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
