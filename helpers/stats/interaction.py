"""Does similarity matter less, or more, far from English?"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from helpers.errors import BadFit
from helpers.stats import design


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
