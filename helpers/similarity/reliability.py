"""How far a measure can be trusted: split halves, seeds, ceilings, and what they do to a slope."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from helpers.errors import BadRows
from helpers.similarity.arrays import Floats

__all__ = ["correlation", "disattenuated", "lacking", "spearman_brown", "summarise", "within"]

# With fewer dyads than this a correlation over dyads is noise.
FEWEST_DYADS = 5


def spearman_brown(half: float) -> float:
    """Reliability of a measure on all rows from the correlation of its values on two halves.

    Args:
        half: correlation over dyads between the two halves.

    Returns:
        2 r / (1 + r); a negative correlation stays as it is, since the formula would inflate it.

    Source: Spearman 1910; Brown 1910.
    """
    return half if half < 0 else 2.0 * half / (1.0 + half)


def correlation(a: ArrayLike, b: ArrayLike) -> float:
    """Pearson correlation over the dyads where both values are known.

    Args:
        a: one value per dyad, NaN where unknown.
        b: the other value per dyad.

    Returns:
        A value from -1 to 1; NaN with fewer than 5 dyads or without variation (``lacking`` says
        which).
    """
    if lacking(a, b):
        return float("nan")
    first, second = _known(a, b)
    return float(np.corrcoef(first, second)[0, 1])


def lacking(a: ArrayLike, b: ArrayLike) -> str:
    """Return why two columns of values have no correlation, or an empty text where they have one.

    Args:
        a: one value per dyad, NaN where unknown.
        b: the other value per dyad.
    """
    first, second = _known(a, b)
    if len(first) == 0:
        return "no dyad has both values"
    if len(first) < FEWEST_DYADS:
        return f"{len(first)} dyads have both values; {FEWEST_DYADS} are needed"
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return "the values do not vary over the dyads"
    return ""


def _known(a: ArrayLike, b: ArrayLike) -> tuple[Floats, Floats]:
    """Values of the dyads that have both."""
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    known = np.isfinite(first) & np.isfinite(second)
    return first[known], second[known]


def within(values: ArrayLike, intermediate: Sequence[str], target: Sequence[str]) -> Floats:
    """Values of dyads after the effects of their intermediate and their target are removed.

    A measure may be reliable only because targets differ. What a model with task effects uses is
    this remainder, so its reliability is the one that limits the slope.

    Args:
        values: one value per dyad, NaN where unknown.
        intermediate: name of the intermediate of each dyad.
        target: name of the target of each dyad.

    Returns:
        Residuals of the additive two-way least-squares fit, NaN where the value is unknown.
    """
    array = np.asarray(values, dtype=np.float64)
    known = np.isfinite(array)
    residual = np.full(len(array), np.nan)
    if known.sum() == 0:
        return residual
    columns = [np.ones((int(known.sum()), 1))]
    for names in (intermediate, target):
        levels = np.asarray(names, dtype=object)[known]
        columns.append(np.stack([levels == level for level in dict.fromkeys(levels)], axis=1))
    design = np.concatenate(columns, axis=1).astype(np.float64)
    fitted = design @ np.linalg.lstsq(design, array[known], rcond=None)[0]
    rest = array[known] - fitted
    # Rounding must not pass for variation where the two effects explain everything.
    scale = np.abs(array[known]).max()
    residual[known] = np.where(np.abs(rest) > 1e-9 * scale, rest, 0.0)
    return residual


def disattenuated(slope: float, reliability: float) -> float:
    """Slope per standard deviation of the measure as it would be without measurement error.

    Args:
        slope: slope on the standardised measure.
        reliability: reliability of the measure, above 0.

    Returns:
        The slope divided by the root of the reliability: both the slope and the standard deviation
        of the measure change, which leaves one root.

    Raises:
        BadRows: a reliability that is not in (0, 1].

    Source: Spearman 1904; Fuller 1987, chapter 1, for regression.
    """
    if not 0 < reliability <= 1:
        raise BadRows(
            f"reliability {reliability} does not lie in (0, 1]; the slope cannot be corrected."
        )
    return slope / float(np.sqrt(reliability))


def summarise(table: pd.DataFrame) -> pd.DataFrame:
    """Reliabilities of each measure, over its dyads.

    Args:
        table: rows with ``measure``, ``language``, ``intermediate``, ``target``, ``value``,
            ``half_a``, ``half_b``, ``second`` and ``reason``.

    Returns:
        One row per measure and language: ``reliability`` (split half, stepped up),
        ``reliability_within`` (the same after both task effects are removed),
        ``seed_reliability`` (correlation of two seeds), ``seed_reliability_within``, and
        ``reliability_note``, which says why those that are NaN do not exist.
    """
    rows = []
    for (measure, language), part in table.groupby(["measure", "language"], sort=False):
        names = part["intermediate"].tolist(), part["target"].tolist()
        columns = {name: part[name].to_numpy() for name in ("half_a", "half_b", "value", "second")}
        inner = {name: within(values, *names) for name, values in columns.items()}
        halves, seeds = ("half_a", "half_b"), ("value", "second")
        rows.append(
            {
                "measure": measure,
                "language": language,
                "reliability": spearman_brown(correlation(*(columns[c] for c in halves))),
                "reliability_within": spearman_brown(correlation(*(inner[c] for c in halves))),
                "seed_reliability": correlation(*(columns[c] for c in seeds)),
                "seed_reliability_within": correlation(*(inner[c] for c in seeds)),
                "reliability_note": _note(columns, inner, "half: " in str(set(part["reason"]))),
            }
        )
    return pd.DataFrame(rows)


def _note(columns: Mapping[str, Floats], inner: Mapping[str, Floats], too_small: bool) -> str:
    """Say which reliabilities do not exist, and why."""
    pairs = {"split half": ("half_a", "half_b"), "two seeds": ("value", "second")}
    halves = "the halves are too small (see reason)" if too_small else "nothing in it is sampled"
    missing = {"split half": halves, "two seeds": "no dyad has a value of a second seed"}
    if not np.isfinite(columns["value"]).any():
        return "no dyad has a value"
    found = []
    for kind, (a, b) in pairs.items():
        if not np.isfinite(columns[b]).any():
            found.append(f"{kind}: {missing[kind]}")
        elif why := lacking(columns[a], columns[b]):
            found.append(f"{kind}: {why}")
        elif lacking(inner[a], inner[b]):
            found.append(f"{kind}, within: nothing is left once task effects are removed")
    return "; ".join(found)
