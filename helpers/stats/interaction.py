"""Does similarity matter less, or more, far from English?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from helpers.errors import BadFit
from helpers.stats import design, reml


def distance_slopes(
    data: pd.DataFrame, outcome: str, covariate: str, keep: Sequence[str] = (), least: int = 5
) -> pd.DataFrame:
    """Return the least-squares slope of an outcome on a language covariate within each dyad.

    Args:
        data: one row per dyad and language.
        outcome, covariate: numeric columns.
        keep: columns that are constant within a dyad and are carried along.
        least: dyads with fewer languages are left out.

    Returns:
        intermediate, target, ``keep``, slope, languages.

    Raises:
        BadFit: no dyad has enough languages that differ in the covariate.
    """
    design.require(data, ["intermediate", "target", outcome, covariate], [outcome, covariate])
    by = ["intermediate", "target", *keep]
    x = data[covariate] - data.groupby(by)[covariate].transform("mean")
    parts = data[by].assign(xy=x * data[outcome], xx=x**2, languages=1)
    out = parts.groupby(by, as_index=False).sum()
    out = out[(out["languages"] >= least) & (out["xx"] > 1e-12)]
    if out.empty:
        raise BadFit(
            f"no dyad has {least} languages that differ in {covariate!r}; add languages, or leave "
            "the interaction out."
        )
    out["slope"] = out["xy"] / out["xx"]
    return out.drop(columns=["xy", "xx"]).reset_index(drop=True)


def by_distance(
    data: pd.DataFrame,
    predictor: str,
    covariate: str,
    random: Sequence[str],
    *,
    outcome: str = "gain",
    keep: Sequence[str] = (),
    least: int = 5,
) -> reml.Fit:
    """Test whether the slope of gain on similarity changes with a language covariate.

    The outcome of the model is each dyad's own slope of gain on the covariate, so that the dyad
    stays the unit of inference: languages of one dyad are not independent evidence on similarity,
    and a test on rows would treat them so.

    Args:
        data: one row per dyad and language (seeds averaged) with the predictor on each row.
        predictor: similarity.
        covariate: language column, such as ``"syntactic"`` distance to English; both are
            standardised, the covariate over languages.
        random: random effects between dyads.
        outcome: numeric column.
        keep: further columns of the model, constant within a dyad (formats, block).
        least: dyads with fewer languages are left out.

    Returns:
        The fit; its slope of ``predictor`` is the change of the similarity slope per standard
        deviation of the covariate.

    Raises:
        BadFit: too few languages or dyads.
    """
    rows = standard_over_languages(data, covariate)
    carried = list(dict.fromkeys([predictor, *keep, *design.columns_of(rows, random)]))
    carried = [c for c in carried if c not in ("intermediate", "target")]
    slopes = distance_slopes(rows, outcome, covariate, carried, least)
    return reml.crossed_reml(design.standardise(slopes, [predictor]), "slope", [predictor], random)


def standard_over_languages(data: pd.DataFrame, covariate: str) -> pd.DataFrame:
    """Standardise a language covariate over languages, each counting once.

    Args:
        data: rows with ``language`` and the covariate.
        covariate: numeric column, constant within a language.
    """
    design.require(data, ["language", covariate], [covariate])
    values = data.groupby("language")[covariate].first().reset_index()
    scaled = design.standardise(values, [covariate]).set_index("language")[covariate]
    return data.assign(**{covariate: data["language"].map(scaled)})


def by_language(
    data: pd.DataFrame,
    predictor: str,
    random: Sequence[str] = ("intermediate", "target", "block", "intermediate:target"),
    *,
    outcome: str = "gain",
) -> pd.DataFrame:
    """Return the similarity slope of each language, partially pooled.

    Args:
        data: one row per dyad and language (seeds averaged).
        predictor: similarity; it is standardised.
        random: random effects besides those of language and target x language.
        outcome: numeric column.

    Returns:
        Indexed by language: slope (common slope plus the language's predicted deviation), se (of
        the prediction error), deviation; ordered by slope. With no spread between languages every
        slope is the common one.

    Raises:
        BadFit: the rows do not carry the model.
    """
    rows = design.standardise(data, [predictor])
    effects = [*random, "language", "target:language", f"{predictor}|language"]
    fit = reml.crossed_reml(rows, outcome, [predictor], effects)
    term = f"{predictor}|language"
    common = fit[predictor]["estimate"]
    if term in fit.blups:
        own, se = fit.blups[term]["blup"], _slope_errors(fit, term, predictor)
    else:
        own = pd.Series(0.0, index=sorted(rows["language"].astype(str).unique()))
        se = np.full(len(own), fit[predictor]["se"])
    table = pd.DataFrame({"slope": common + own, "se": se, "deviation": own})
    return table.rename_axis("language").sort_values("slope")


def _slope_errors(fit: reml.Fit, term: str, predictor: str) -> np.ndarray:
    """Return the standard error of the common slope plus each level's deviation."""
    cross, v, slopes = fit.model.cross, fit.peak.variances, fit.peak.slopes
    k = [t.name for t in fit.model.design.terms].index(term)
    part = slice(cross.starts[k], cross.starts[k + 1])
    ratio = v[k] / v[-1]
    column = np.eye(len(fit.table))[fit.model.design.names.index(predictor)]
    left = column - ratio * slopes.zhx[part]
    by_fixed = np.einsum("li,li->l", left, np.linalg.solve(fit.peak.state.info, left.T).T)
    return np.sqrt(v[k] + v[-1] * (by_fixed - ratio**2 * np.diag(slopes.zhz)[part]))
