"""statsmodels' MixedLM, guarded: the independent check of every fit, and a public face."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse

from helpers.errors import BadFit
from helpers.stats import design, likelihood
from helpers.stats.design import Design
from helpers.stats.likelihood import Cross, Peak

SEARCHES = ("powell", "nm", "lbfgs")  # never the default: it stops short where a variance is zero
TOLERANCE = 1e-2  # log-likelihood units in which two searches must agree
SPARSE_FROM = 500


@dataclass(frozen=True)
class Mixed:
    """What MixedLM found.

    Attributes:
        table: estimate and se of each fixed effect; se by generalised least squares at the
            estimated variances (MixedLM's own come from a joint Hessian that fails at zero).
        variances: one per random effect, and ``"residual"`` last.
        loglik: log-likelihood.
        search: optimiser that reached it.
        result: the statsmodels result.
    """

    table: pd.DataFrame
    variances: pd.Series
    loglik: float
    search: str
    result: Any


def mixedlm(
    data: pd.DataFrame,
    outcome: str,
    fixed: Sequence[str],
    random: Sequence[str],
    weights: str | None = None,
    reml: bool = True,
) -> Mixed:
    """Fit crossed random effects with statsmodels, guarded.

    One dummy group holds all rows, each random effect is a variance component, three searches are
    tried, and the best likelihood is kept rather than the first that claims convergence.

    Args:
        data: one row per observation.
        outcome: numeric column.
        fixed: as in `reml.crossed_reml`.
        random: as in `reml.crossed_reml`.
        weights: column of known relative precisions.
        reml: restricted likelihood, or the plain one.

    Raises:
        BadFit: the data do not carry the model, or every search failed.
    """
    return _search(design.build(data, outcome, fixed, random, weights), reml)


def _model(named: Design) -> Any:
    """Return the MixedLM of whitened arrays, all rows in one group."""
    from statsmodels.regression.mixed_linear_model import MixedLM, VCSpec

    root = np.sqrt(named.weights)[:, None]
    z = [t.matrix() * root for t in named.terms]
    if named.y.size > SPARSE_FROM:
        z = [sparse.csr_matrix(m) for m in z]
    spec = VCSpec(
        [t.name for t in named.terms],
        [[list(t.levels)] for t in named.terms],
        [[m] for m in z],
    )
    return MixedLM(
        named.y * root[:, 0],
        named.x * root,
        groups=np.ones(named.y.size),
        exog_vc=spec,
    )


def _search(named: Design, reml: bool) -> Mixed:
    if not named.terms:
        raise BadFit("no random effect can be estimated, so there is no mixed model to fit.")
    best, found = None, ""
    with warnings.catch_warnings(record=True):  # judged by the likelihood reached, not by warnings
        warnings.simplefilter("always")
        for search in SEARCHES:
            try:
                result = _model(named).fit(reml=reml, method=search)
            except (np.linalg.LinAlgError, ValueError):
                continue
            if best is None or result.llf > best.llf + 1e-6:
                best, found = result, search
            if best is not None and search == "powell":
                break  # the others are for when it fails
    if best is None:
        raise BadFit("MixedLM failed with every search; use fewer random effects.")
    return _mixed(named, best, found)


def _mixed(named: Design, result: Any, search: str) -> Mixed:
    """Recompute standard errors by generalised least squares at the variances found."""
    residual = float(result.scale)
    variances = np.append(np.asarray(result.vcomp, float), residual)
    root = np.sqrt(named.weights)[:, None]
    x, y = named.x * root, named.y * root[:, 0]
    v = residual * np.eye(y.size)
    for variance, term in zip(variances, named.terms, strict=False):
        z = term.matrix() * root
        v += variance * z @ z.T
    se = np.sqrt(np.diag(np.linalg.inv(x.T @ np.linalg.solve(v, x))))
    table = pd.DataFrame(
        {"estimate": np.asarray(result.fe_params, float), "se": se},
        index=pd.Index(named.names, name="term"),
    )
    names = [t.name for t in named.terms] + ["residual"]
    llf = float(result.llf) + 0.5 * float(np.log(named.weights).sum())
    return Mixed(table, pd.Series(variances, index=names), llf, search, result)


def confirm(named: Design, cross: Cross, peak: Peak, reml: bool) -> str:
    """Check a maximum against MixedLM: same likelihood, no better one, same estimates.

    Args:
        named: the arrays of the model.
        cross: their cross-products.
        peak: the maximum to check.
        reml: restricted likelihood, or the plain one.

    Returns:
        A sentence for the reader.

    Raises:
        BadFit: MixedLM finds a better fit, values the same variances differently, or estimates
            other coefficients.
    """
    if not named.terms:
        return ""
    try:
        theirs = _search(named, reml)
    except BadFit:
        return "could not be compared: statsmodels' MixedLM failed on this table."
    gap = theirs.loglik - peak.loglik
    if gap > TOLERANCE:
        raise BadFit(
            f"statsmodels' MixedLM found a better fit (log-likelihood {theirs.loglik:.4f} against "
            f"{peak.loglik:.4f}), so this one is not shown: fit with fewer random effects."
        )
    ratios = theirs.variances.to_numpy()[:-1] / theirs.variances.iloc[-1]
    state = likelihood.solve(cross, ratios)
    ours = likelihood.loglik(cross, state, float(theirs.variances.iloc[-1]), reml)
    se = np.sqrt(theirs.variances.iloc[-1] * np.diag(np.linalg.inv(state.info)))
    off = np.abs(state.beta - theirs.table["estimate"]) / theirs.table["se"]
    off = np.maximum(off, np.abs(se / theirs.table["se"] - 1))
    if abs(ours - theirs.loglik) > TOLERANCE or off.max() > TOLERANCE:
        raise BadFit(
            f"at the variances of statsmodels' MixedLM the two implementations disagree "
            f"(log-likelihood {ours:.4f} against {theirs.loglik:.4f}, coefficients by up to "
            f"{off.max():.3f} standard errors), so no coefficient is shown; this is a fault in one "
            "of them: please report the table that shows it."
        )
    if gap < -TOLERANCE:
        return (
            f"MixedLM stopped {-gap:.2f} log-likelihood units short of this maximum; at its own "
            "variances both give the same likelihood and coefficients."
        )
    return "agrees with statsmodels' MixedLM."
