"""How well the best intermediate of a target is found beforehand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from helpers.errors import BadFit
from helpers.findings.tables import note, nothing
from helpers.stats import prediction
from helpers.stats.confirmatory import PRIMARY, RANDOM


def unseen(
    table: pd.DataFrame, units: Sequence[str], fixed: Sequence[str] = (PRIMARY,)
) -> dict[str, prediction.LeftOut | str]:
    """Predict the levels of each unit from a model that has not seen them.

    Args:
        table: dyads, as `kept` returns them.
        units: columns whose levels are left out in turn.
        fixed: fixed effects of the model.

    Returns:
        Per unit the predictions, or the sentence that says why there are none.
    """
    out: dict[str, prediction.LeftOut | str] = {}
    if table.empty:
        return dict.fromkeys(units, note(table))
    for unit in units:
        try:
            out[unit] = prediction.leave_out(table, "gain", list(fixed), RANDOM, unit)
        except BadFit as error:
            out[unit] = str(error)
    return out


def unseen_table(found: Mapping[str, prediction.LeftOut | str]) -> pd.DataFrame:
    """Return the scores of `unseen`, a row per unit, with a note where there are none."""
    rows = [
        {"left out": unit, "note": result}
        if isinstance(result, str)
        else {"left out": unit, **result.scores, "note": ""}
        for unit, result in found.items()
    ]
    names = ["units", "rows", "r2", "spearman", "rmse", "rmse_baseline", "coverage", "note"]
    table = pd.DataFrame(rows).set_index("left out").reindex(columns=names)
    return table.astype({"units": "Int64", "rows": "Int64"})


def predicted(found: prediction.LeftOut | str) -> pd.DataFrame:
    """Return the predictions of one unit of `unseen`, or a table without rows that says why."""
    return nothing(found) if isinstance(found, str) else found.table


def rows_trained(stages: pd.DataFrame) -> pd.Series:
    """Return the mean number of rows each intermediate was trained on.

    Args:
        stages: what `results.stages` returned.
    """
    own = stages[stages["condition"] == "single"]
    return own.groupby("intermediate")["rows_trained"].mean()


def choices(table: pd.DataFrame, found: prediction.LeftOut | str, sizes: pd.Series) -> pd.DataFrame:
    """Compare ways to choose an intermediate task by the points they lose.

    Args:
        table: dyads, as `kept` returns them.
        found: predictions with targets left out, or why there are none; then similarity itself is
            not among the strategies.
        sizes: training rows per intermediate.

    Returns:
        What `prediction.strategies` returns, best first choice on top.

    Raises:
        BadFit: no target has two candidates.
    """
    if table.empty:
        raise BadFit(note(table))
    ways = {"same format": "same_format", "most training rows": "size"}
    if isinstance(found, str):
        candidates = table.assign(observed=table["gain"])
    else:
        candidates, ways = found.table, {"similarity": "predicted", **ways}
    counts = candidates.groupby("target")["intermediate"].transform("nunique")
    if not (counts > 1).any():
        raise BadFit("no target has two intermediates to choose from.")
    candidates = candidates[counts > 1].assign(size=candidates["intermediate"].map(sizes))
    candidates["size"] = candidates["size"].fillna(0.0)
    return prediction.strategies(candidates, ways).sort_values("regret@1")
