"""Tables that may be empty, and what prose takes from them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from helpers.errors import BadFit


def tried(function: Callable[..., Any], *arguments: Any, **options: Any) -> pd.DataFrame:
    """Return the table that a function returns, or one without rows whose note says why.

    Args:
        function: an analysis that returns a table, or a column of named values (made one row).
        *arguments, **options: what it takes.
    """
    try:
        found = function(*arguments, **options)
    except BadFit as error:
        return nothing(str(error))
    return found.to_frame().T if isinstance(found, pd.Series) else found


def nothing(note: str, columns: Sequence[str] = ()) -> pd.DataFrame:
    """Return a table without rows that says why."""
    table = pd.DataFrame({column: pd.Series(dtype=float) for column in columns})
    table.attrs["note"] = note
    return table


def at(table: pd.DataFrame, row: Any, column: str) -> float:
    """Return one number of a table; NaN where the table, the row or the column is not there."""
    if row not in table.index or column not in table.columns:
        return float("nan")
    return float(table[column].to_dict()[row])


def said(table: pd.DataFrame, row: Any, column: str, otherwise: str = "not tested") -> str:
    """Return one text of a table, or another one where it is not there."""
    if row not in table.index or column not in table.columns:
        return otherwise
    return str(table[column].to_dict()[row])


def p_value(p: float) -> str:
    """Write what follows the letter p: ``"= 0.021"``, or ``"< 0.001"`` for a small one."""
    if not np.isfinite(p):
        return "not available"
    return "< 0.001" if p < 0.001 else f"= {p:.3f}"


def note(table: pd.DataFrame, otherwise: str = "") -> str:
    """Return why a table has no rows; ``otherwise`` where it has some."""
    return str(table.attrs.get("note", "")) if table.empty else otherwise


def ends(table: pd.DataFrame, column: str) -> tuple[float, float]:
    """Return the smallest and the largest value of a column; NaN where there are none."""
    if table.empty or column not in table.columns:
        return float("nan"), float("nan")
    return float(table[column].min()), float(table[column].max())
