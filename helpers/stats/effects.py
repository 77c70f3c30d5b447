"""What a slope means: its size, whether it is negligible, and where in the data it comes from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import stats

from helpers.errors import BadFit
from helpers.stats import design, reml
from helpers.stats.reml import Fit


def effect_sizes(
    data: pd.DataFrame, outcome: str, predictor: str, random: Sequence[str]
) -> pd.Series:
    """Return the size of one slope in several units.

    Args:
        data: one row per dyad.
        outcome: numeric column, in points.
        predictor: numeric column.
        random: random effects.

    Returns:
        slope (per standard deviation of the predictor, in points), low, high, in_dyad_sd (the slope
        in standard deviations of the dyad residual of the model without the predictor),
        partial_r, r2_marginal, r2_conditional, dyad_variance_explained (share of that residual
        variance that is gone; may be negative).
    """
    scaled = design.standardise(data, [predictor])
    fit = reml.crossed_reml(scaled, outcome, [predictor], random)
    without = reml.crossed_reml(scaled, outcome, [], random)
    row, residual = fit[predictor], float(without.variances[reml.RESIDUAL])
    return pd.Series(
        {
            "slope": row["estimate"],
            "low": row["low"],
            "high": row["high"],
            "in_dyad_sd": row["estimate"] / np.sqrt(residual),
            "partial_r": row["t"] / np.sqrt(row["t"] ** 2 + row["df"]),
            "r2_marginal": fit.r2["marginal"],
            "r2_conditional": fit.r2["conditional"],
            "dyad_variance_explained": 1 - float(fit.variances[reml.RESIDUAL]) / residual,
        }
    )


def equivalence(fit: Fit, term: str, bound: float, level: float = 0.05) -> pd.Series:
    """Test whether a slope is negligible, by two one-sided tests.

    Args:
        fit: a fitted model.
        term: fixed effect.
        bound: largest size that counts as negligible, in the outcome's unit, above zero.
        level: level of each one-sided test.

    Returns:
        estimate, low, high (1 - 2 * level interval), bound, p (the larger of the two), equivalent.

    Raises:
        BadFit: the bound is not above zero.

    Source: Schuirmann, J. Pharmacokinet. Biopharm. 15 (1987).
    """
    if not bound > 0:
        raise BadFit(f"the bound of negligible effects must be above zero; it is {bound:g}.")
    row = fit[term]
    above = float(stats.t.sf((row["estimate"] + bound) / row["se"], row["df"]))
    below = float(stats.t.cdf((row["estimate"] - bound) / row["se"], row["df"]))
    low, high = fit.interval(term, 1 - 2 * level)
    p = max(above, below)
    return pd.Series(
        {
            "estimate": row["estimate"],
            "low": low,
            "high": high,
            "bound": bound,
            "p": p,
            "equivalent": p < level,
        }
    )


def within_and_between(
    data: pd.DataFrame,
    predictor: str,
    rows: str = "intermediate",
    columns: str = "target",
) -> pd.DataFrame:
    """Split a similarity into what belongs to the dyad and what to each of its tasks.

    The ``_dyad`` part is what is left after row and column effects (least squares, so that missing
    cells are allowed); its slope cannot be due to any property of one task, such as data size.

    Args:
        data: one row per dyad.
        predictor: numeric column.
        rows, columns: the two tasks.

    Returns:
        The data with ``<predictor>_dyad``, ``<predictor>_intermediate`` and ``<predictor>_target``
        (means over each task's dyads, centred).

    Source: Mundlak, Econometrica 46 (1978).
    """
    design.require(data, [predictor, rows, columns], [predictor])
    x = data[predictor].to_numpy(float)
    parts = [pd.get_dummies(data[c].astype(str)).to_numpy(float) for c in (rows, columns)]
    basis = np.hstack([np.ones((len(data), 1)), *parts])
    out = data.copy()
    out[f"{predictor}_dyad"] = x - basis @ np.linalg.lstsq(basis, x, rcond=None)[0]
    for name, column in ((f"{predictor}_intermediate", rows), (f"{predictor}_target", columns)):
        out[name] = data.groupby(column)[predictor].transform("mean") - x.mean()
    return out


def variance_shares(data: pd.DataFrame, outcome: str, random: Sequence[str]) -> pd.DataFrame:
    """Return how much each effect could explain at most: variance components without predictors.

    Args:
        data: rows of dyads, or of dyads by language.
        outcome: numeric column.
        random: random effects.

    Returns:
        Indexed by effect, residual last: variance, sd, share, low and high (profile likelihood).
    """
    fit = reml.crossed_reml(data, outcome, [], random)
    ends = [fit.profile(str(name)) for name in fit.variances.index]
    return pd.DataFrame(
        {
            "variance": fit.variances,
            "sd": np.sqrt(fit.variances),
            "share": fit.variances / fit.variances.sum(),
            "low": [e[0] for e in ends],
            "high": [e[1] for e in ends],
        }
    )


def mediation(
    data: pd.DataFrame,
    predictor: str,
    mediator: str,
    outcome: str,
    random: Sequence[str],
    *,
    draws: int = 20000,
    seed: int = 0,
) -> pd.DataFrame:
    """Split a slope into the part that runs through a mediator and the rest.

    Descriptive: it reads as a cause only if nothing else drives mediator and outcome together. The
    mediator (such as alignment drift) never enters the main model as a control.

    Args:
        data: one row per dyad.
        predictor, mediator, outcome: numeric columns.
        random: random effects of both models.
        draws: Monte Carlo draws of the two paths.
        seed: random seed.

    Returns:
        Indexed by path: ``predictor to mediator``, ``mediator to outcome``, ``through the
        mediator`` (their product), ``direct``, ``total``; estimate, low, high.

    Source: MacKinnon, Lockwood & Williams, Multivar. Behav. Res. 39 (2004), Monte Carlo interval.
    """
    first = reml.crossed_reml(data, mediator, [predictor], random)
    second = reml.crossed_reml(data, outcome, [predictor, mediator], random)
    total = reml.crossed_reml(data, outcome, [predictor], random)
    a, b, direct = first[predictor], second[mediator], second[predictor]
    rng = np.random.default_rng(seed)
    product = np.prod(
        [r["estimate"] + r["se"] * rng.standard_t(r["df"], draws) for r in (a, b)], axis=0
    )
    low, high = np.quantile(product, [0.025, 0.975])
    rows = {
        "predictor to mediator": a[["estimate", "low", "high"]].tolist(),
        "mediator to outcome": b[["estimate", "low", "high"]].tolist(),
        "through the mediator": [a["estimate"] * b["estimate"], low, high],
        "direct": direct[["estimate", "low", "high"]].tolist(),
        "total": total[predictor][["estimate", "low", "high"]].tolist(),
    }
    table = pd.DataFrame.from_dict(rows, orient="index", columns=["estimate", "low", "high"])
    return table.rename_axis("path")
