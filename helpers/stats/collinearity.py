"""How measures of similarity overlap, once what belongs to single tasks is taken out."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.cluster import hierarchy
from scipy.spatial import distance

from helpers.errors import BadFit
from helpers.stats import permutation


def dyadic_parts(
    data: pd.DataFrame, columns: Sequence[str], rows: str = "intermediate", by: str = "target"
) -> pd.DataFrame:
    """Return columns without row and column effects, standardised.

    Args:
        data: one row per dyad; rows with a missing value in any of the columns are left out.
        columns: numeric columns.
        rows, by: the two tasks of a dyad.

    Raises:
        BadFit: a column does not vary between dyads, or too few complete dyads are there.
    """
    complete = data.dropna(subset=list(columns))
    table = permutation.grid(complete, columns[0], list(columns), rows, by)
    used = np.isfinite(table.outcome)
    basis = permutation.effects_basis(table, used, ("rows", "columns"))
    if used.sum() < basis.shape[1] + 3:
        raise BadFit(
            f"{int(used.sum())} complete dyads are too few to compare measures; leave out measures "
            "that are undefined for many dyads."
        )
    x = table.predictors[:, used].T
    rest = x - basis @ (basis.T @ x)
    flat = np.linalg.norm(rest, axis=0) <= 1e-8 * np.maximum(np.linalg.norm(x, axis=0), 1e-300)
    if flat.any():
        names = ", ".join(repr(c) for c, f in zip(columns, flat, strict=True) if f)
        raise BadFit(f"{names} belong to single tasks and do not vary between dyads; leave out.")
    return pd.DataFrame(rest / rest.std(0, ddof=1), columns=list(columns))


def vif(
    data: pd.DataFrame, measures: Sequence[str], rows: str = "intermediate", columns: str = "target"
) -> pd.Series:
    """Return variance inflation factors of the dyadic parts of measures.

    Args:
        data: one row per dyad.
        measures: numeric columns, at least two.
        rows, columns: the two tasks of a dyad.

    Returns:
        Factor per measure; infinite for one that the others determine. Above 5 they should not
        stand in one model.
    """
    parts = dyadic_parts(data, measures, rows, columns).to_numpy()
    out = {}
    for k, name in enumerate(measures):
        others = np.delete(parts, k, axis=1)
        rest = parts[:, k] - others @ np.linalg.lstsq(others, parts[:, k], rcond=None)[0]
        left = float(rest @ rest) / float(parts[:, k] @ parts[:, k])
        out[name] = 1 / left if left > 1e-10 else np.inf
    return pd.Series(out, name="vif")


def clusters(
    data: pd.DataFrame,
    measures: Sequence[str],
    threshold: float = 0.3,
    rows: str = "intermediate",
    columns: str = "target",
) -> pd.Series:
    """Group measures that say the same about dyads.

    Args:
        data: one row per dyad.
        measures: numeric columns, at least two.
        threshold: measures join while 1 - |Spearman| of their dyadic parts is below it on average.
        rows, columns: the two tasks of a dyad.

    Returns:
        Number of the group per measure.
    """
    if len(measures) < 2:
        raise BadFit("grouping needs at least two measures.")
    parts = dyadic_parts(data, measures, rows, columns)
    apart = 1 - parts.corr("spearman").abs().to_numpy()
    np.fill_diagonal(apart, 0)
    tree = hierarchy.linkage(distance.squareform(np.maximum(apart, 0), checks=False), "average")
    return pd.Series(hierarchy.fcluster(tree, threshold, "distance"), index=list(measures))


def commonality(
    data: pd.DataFrame,
    outcome: str,
    measures: Sequence[str],
    rows: str = "intermediate",
    columns: str = "target",
) -> pd.DataFrame:
    """Split explained variance of the dyadic outcome into unique and shared parts.

    Args:
        data: one row per dyad.
        outcome: numeric column.
        measures: at most 8 numeric columns.
        rows, columns: the two tasks of a dyad.

    Returns:
        One row per set of measures: ``r2`` of a regression on that set, and ``part``, the variance
        that exactly this set shares (its ``unique`` part for a single measure; parts sum to the r2
        of all measures, and may be negative: suppression).

    Source: Nimon & Reio, Hum. Resour. Dev. Rev. 10 (2011).
    """
    if not 1 <= len(measures) <= 8:
        raise BadFit(f"commonality takes 1 to 8 measures; {len(measures)} were given.")
    parts = dyadic_parts(data, [outcome, *measures], rows, columns)
    y = parts[outcome].to_numpy()
    sets = [c for k in range(len(measures) + 1) for c in itertools.combinations(measures, k)]
    r2 = {frozenset(c): _r2(y, parts[list(c)].to_numpy()) for c in sets}
    everything = frozenset(measures)
    rows_out = []
    for chosen in sets[1:]:
        others = everything - set(chosen)
        # inclusion-exclusion over what the chosen measures add to all the others
        part = -sum(
            (-1) ** (len(sub)) * r2[others | set(sub)]
            for k in range(len(chosen) + 1)
            for sub in itertools.combinations(chosen, k)
        )
        rows_out.append({"measures": " + ".join(chosen), "r2": r2[frozenset(chosen)], "part": part})
    return pd.DataFrame(rows_out).set_index("measures")


def _r2(y: np.ndarray, x: np.ndarray) -> float:
    if x.shape[1] == 0:
        return 0.0
    rest = y - x @ np.linalg.lstsq(x, y, rcond=None)[0]
    return 1 - float(rest @ rest) / float(y @ y)
