"""The mixed model against statsmodels' MixedLM, relabelling against one loop per relabelling."""

import statistics
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse
from statsmodels.regression.mixed_linear_model import MixedLM, VCSpec

from benchmarks.harness import Row, measured, turns
from data.make import calibration
from helpers.stats import design, permutation
from helpers.stats.reml import crossed_reml

EFFECTS = ["intermediate", "target", "intermediate:target", "language", "target:language"]
TASKS = ("intermediate", "target")
RELABELLINGS, MEASURES, SAMPLE = 9999, 25, 200


def mixed_models(repeats: int = 3) -> list[Row]:
    """Fit five components to 9 intermediates by XTREME-R's 202 target-language cells.

    MixedLM runs with the powell search, since its default search stops short; all sides must reach
    the same likelihood.
    """
    data = calibration.language_rows(np.random.default_rng(0), 0.3)
    sides: dict[str, Callable[[], float]] = {
        "ours": lambda: crossed_reml(data, "gain", ["similarity"], EFFECTS).loglik,
        "sparse": lambda: mixedlm(data, EFFECTS, sparse.csr_matrix).llf,
        "dense": lambda: mixedlm(data, EFFECTS).llf,
    }
    seconds, reached = turns(sides, repeats)
    if max(reached.values()) - reached["ours"] > 1e-3:
        raise SystemExit(f"MixedLM reaches a better likelihood: {reached}")
    median = {name: statistics.median(values) for name, values in seconds.items()}
    note = "; ".join(f"log-likelihood {name} {value:.3f}" for name, value in reached.items())
    rows = []
    for name in ("dense", "sparse"):
        row, stock = f"reml_1818_rows_vs_mixedlm_{name}", f"statsmodels MixedLM, powell, {name}"
        times = (median["ours"], "s", stock, median[name])
        rows.append(measured(row, *times, rows=len(data), note=note))
    return rows


def mixedlm(
    data: pd.DataFrame,
    effects: Sequence[str],
    form: Callable[[np.ndarray], Any] = np.asarray,
    reml: bool = True,
) -> Any:
    """Fit with statsmodels: one group, and a variance component per effect."""
    named = design.build(data, "gain", ["similarity"], effects)
    names, levels = zip(*((term.name, [list(term.levels)]) for term in named.terms), strict=True)
    parts = VCSpec(list(names), list(levels), [[form(term.matrix())] for term in named.terms])
    model = MixedLM(named.y, named.x, groups=np.ones(named.y.size), exog_vc=parts)
    with warnings.catch_warnings(action="ignore"):  # judged by the likelihood reached
        return model.fit(reml=reml, method="powell")


def relabelling(repeats: int = 3) -> list[Row]:
    """Relabel a 9 x 12 table of 25 measures; the plain loop is timed on a few and scaled."""
    rng = np.random.default_rng(0)
    i, t = (a.ravel() for a in np.indices((9, 12)))
    data = pd.DataFrame({"intermediate": i, "target": t, "gain": rng.normal(size=108)})
    data = data.assign(**{f"m{k}": rng.normal(size=108) for k in range(MEASURES)})
    names = [f"m{k}" for k in range(MEASURES)]
    sides = {
        "fast": lambda: permutation.min_p(data, "gain", names, *TASKS, n=RELABELLINGS),
        "slow": lambda: plain_loop(data, names, SAMPLE),
    }
    seconds, found = turns(sides, repeats)
    same = permutation.min_p(data, "gain", names, *TASKS, n=SAMPLE)["p"].to_numpy()
    if not np.allclose(same, found["slow"]):
        raise SystemExit("the loop and the vectorised code give other p-values")
    ours = statistics.median(seconds["fast"])
    loop = statistics.median(seconds["slow"]) * RELABELLINGS / SAMPLE
    note = f"loop timed on {SAMPLE} relabellings and scaled"
    name = "max_t_9999_relabellings_9x12_25_measures"
    return [measured(name, ours, "s", "one relabelling at a time", loop, rows=108, note=note)]


def plain_loop(data: pd.DataFrame, measures: list[str], n: int) -> np.ndarray:
    """Relabel and regress one table at a time; return p-values."""
    whole = permutation.grid(data, "gain", measures, *TASKS)
    orders = permutation.random_orders(whole, n, 0)

    def centred(x: np.ndarray) -> np.ndarray:
        return x - x.mean(0) - x.mean(1, keepdims=True) + x.mean()

    y = centred(whole.outcome).ravel()

    def t(x: np.ndarray) -> float:
        x = centred(x).ravel()
        b = x @ y / (x @ x)
        e = y - b * x
        return float(abs(b) / np.sqrt(e @ e / (x @ x)))

    out = []
    for x in map(centred, whole.predictors):
        moved = np.array([t(x[np.ix_(order[:9], order[9:])]) for order in orders])
        out.append((1 + np.sum(moved >= t(x) * (1 - 1e-10))) / (1 + n))
    return np.array(out)
