"""The mixed model against statsmodels' MixedLM, relabelling against one loop per relabelling."""

from __future__ import annotations

import statistics
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse
from statsmodels.regression.mixed_linear_model import MixedLM, VCSpec

from benchmarks.harness import Measurement, compared, turns
from data.make import calibration
from helpers.stats import design, permutation
from helpers.stats.reml import crossed_reml

EFFECTS = ["intermediate", "target", "intermediate:target", "language", "target:language"]
TASKS = ("intermediate", "target")
RELABELLINGS, MEASURES, SAMPLE = 9999, 25, 200


def mixed_models(repeats: int = 3) -> list[Measurement]:
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
    least = {name: statistics.median(values) for name, values in seconds.items()}
    note = "; ".join(f"log-likelihood {name} {value:.3f}" for name, value in reached.items())
    rows = []
    for name in ("dense", "sparse"):
        row, stock = f"reml_1818_rows_vs_mixedlm_{name}", f"statsmodels MixedLM, powell, {name}"
        facts: dict[str, Any] = {"rows": len(data), "note": note}
        rows.append(compared(row, least["ours"], "s", stock, least[name], **facts))
    return rows


def mixedlm(
    data: pd.DataFrame,
    effects: Sequence[str],
    form: Callable[[np.ndarray], Any] = np.asarray,
    weights: str | None = None,
    reml: bool = True,
) -> Any:
    """Fit with statsmodels: one group, and a variance component per effect."""
    named = design.build(data, "gain", ["similarity"], effects, weights)
    root = np.sqrt(named.weights)[:, None]
    matrices = [[form(term.matrix() * root)] for term in named.terms]
    levels = [[list(term.levels)] for term in named.terms]
    parts = VCSpec([term.name for term in named.terms], levels, matrices)
    one = np.ones(named.y.size)
    model = MixedLM(named.y * root[:, 0], named.x * root, groups=one, exog_vc=parts)
    with warnings.catch_warnings():  # judged by the likelihood reached, not by warnings
        warnings.simplefilter("ignore")
        return model.fit(reml=reml, method="powell")


def relabelling(repeats: int = 3) -> list[Measurement]:
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
    return [compared(name, ours, "s", "one relabelling at a time", loop, rows=108, note=note)]


def plain_loop(data: pd.DataFrame, measures: list[str], n: int) -> np.ndarray:
    """Relabel and regress one table at a time; return p-values."""
    whole = permutation.grid(data, "gain", measures, *TASKS)
    orders = permutation.random_orders(whole, n, 0)
    used = np.full(whole.outcome.shape, True)
    basis = permutation.effects_basis(whole, used, ("rows", "columns"))

    def rest_of(values: np.ndarray) -> np.ndarray:
        return values - basis @ (basis.T @ values)

    y = rest_of(whole.outcome.ravel())

    def t(x: np.ndarray) -> float:
        x = rest_of(x)
        b = x @ y / (x @ x)
        e = y - b * x
        return float(b / np.sqrt(e @ e / (x @ x)))

    out = []
    for x in whole.predictors:
        rest = rest_of(x.ravel()).reshape(x.shape)
        observed = abs(t(x.ravel())) * (1 - 1e-10)
        moved = [abs(t(rest[np.ix_(order[:9], order[9:])].ravel())) for order in orders]
        out.append((1 + np.sum(np.array(moved) >= observed)) / (1 + n))
    return np.array(out)
