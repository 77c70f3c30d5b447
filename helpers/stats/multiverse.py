"""All defensible analyses at once: specification curve, families of measures, controls."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from helpers.errors import BadFit, unknown
from helpers.stats import design, permutation, reml
from helpers.stats.gains import SCALES
from helpers.stats.permutation import Grid

FORMATS = ("intermediate_format", "target_format")
RANDOM = ("intermediate", "target", "block")
REMOVED: Mapping[str, tuple[str, ...]] = {
    "none": (),
    "target": ("columns",),
    "both": ("rows", "columns"),
    "both and block": ("rows", "columns", "blocks"),
}
LEAST_DF = 3  # a specification with fewer residual degrees of freedom is left out


@dataclass(frozen=True)
class Multiverse:
    """Result of `run`.

    Attributes:
        table: one row per specification, ordered by r: scale, measure, subset, removed, cells, r
            (partial correlation), p (its own permutation test), p_bh (adjusted over all
            specifications by Benjamini and Hochberg).
        joint: specifications, median (of r), p_median, share_positive, p_share, permutations.
        band: per rank of the ordered curve, the 2.5, 50 and 97.5 % points of the same rank under
            permutation: low, middle, high.
        notes: plain sentences about specifications that do not exist.
    """

    table: pd.DataFrame
    joint: pd.Series
    band: pd.DataFrame
    notes: tuple[str, ...]


def subsets_of(
    table: pd.DataFrame, with_collapsed: pd.DataFrame | None = None
) -> dict[str, pd.DataFrame]:
    """Return the subsets of the specification as dyad tables.

    Args:
        table: dyad table with identity pairs in it.
        with_collapsed: the same from gains with collapsed runs.

    Returns:
        ``all`` (without identity pairs), ``with identity pairs``, ``without retrieval``, ``without
        span`` and ``with collapsed runs``; those equal to ``all`` or empty are not there.
    """
    base = table[~table["identity_pair"]]
    out = {"all": base}
    if len(base) < len(table):
        out["with identity pairs"] = table
    for format in ("retrieval", "span"):
        part = base[(base[list(FORMATS)] != format).all(axis=1)]
        if 0 < len(part) < len(base):
            out[f"without {format}"] = part
    if with_collapsed is not None:
        out["with collapsed runs"] = with_collapsed[~with_collapsed["identity_pair"]]
    return out


@dataclass(frozen=True)
class _Spec:
    """One specification: which cells, what is removed, and the outcome left to explain."""

    label: tuple[str, str, str, str]
    measure: int
    removed: str
    fit: permutation.Slopes


def run(
    subsets: Mapping[str, pd.DataFrame] | pd.DataFrame,
    measures: Sequence[str],
    *,
    scales: Sequence[str] = SCALES,
    removed: Mapping[str, tuple[str, ...]] = REMOVED,
    rows: str = "intermediate",
    columns: str = "target",
    within: tuple[str, str] | None = FORMATS,
    n: int = 999,
    seed: int = 0,
) -> Multiverse:
    """Estimate every combination of scale, measure, subset and effects removed, and test jointly.

    Each relabelling of tasks is applied to all specifications at once, so the joint test knows how
    strongly they depend on one another.

    Args:
        subsets: dyad tables by name (see `subsets_of`), or one dyad table.
        measures: similarity columns.
        scales: outcome columns; those that are missing or undefined everywhere are noted.
        removed: name to effects removed from both sides, see `permutation.qap`.
        rows, columns: the two tasks of a dyad.
        within: format columns; labels move only within formats (None: freely).
        n: relabellings (all of them where there are no more than that).
        seed: random seed.

    Raises:
        UnknownName: a measure or format column that a table does not have.
        BadFit: no specification can be estimated.

    Source: Simonsohn, Simmons & Nelson, Nat. Hum. Behav. 4 (2020), joint inference by permutation.
    """
    tables = {"all": subsets} if isinstance(subsets, pd.DataFrame) else dict(subsets)
    union = _union(tables, measures, rows, columns, within)
    whole = permutation.grid(union, "_any", list(measures), rows, columns, within)
    residuals = {key: permutation.residual_tables(whole, e) for key, e in removed.items()}
    specs, notes = _specifications(
        whole, tables, measures, scales, removed, residuals, rows, columns
    )
    if not specs:
        raise BadFit("no specification has enough dyads to be estimated; add tasks or measures.")
    observed, null, exact = _curves(whole, specs, residuals, n, seed)
    keep = np.ptp(null, axis=0) > 1e-12
    notes += [
        f"{', '.join(specs[k].label)}: fixed by the formats, so relabelling within them cannot test it."
        for k in np.flatnonzero(~keep)
    ]
    if not keep.any():
        raise BadFit("relabelling within formats changes nothing; use within=None, or more tasks.")
    labels = [s.label for s, k in zip(specs, keep, strict=True) if k]
    cells = [int(s.fit.used.sum()) for s, k in zip(specs, keep, strict=True) if k]
    return _report(labels, cells, observed[keep], null[:, keep], exact, notes)


def _union(
    tables: Mapping[str, pd.DataFrame],
    measures: Sequence[str],
    rows: str,
    columns: str,
    within: tuple[str, str] | None,
) -> pd.DataFrame:
    """Return every dyad of any subset once, with its measures."""
    keep = [rows, columns, *(within or ()), *measures]
    for table in tables.values():
        design.require(table, [rows, columns, *(within or ())])
        for measure in measures:
            if measure not in table.columns:
                raise unknown("measure", measure, map(str, table.columns))
    union = pd.concat([t[keep] for t in tables.values()]).drop_duplicates([rows, columns])
    return union.assign(_any=0.0)


def _specifications(
    whole: Grid,
    tables: Mapping[str, pd.DataFrame],
    measures: Sequence[str],
    scales: Sequence[str],
    removed: Mapping[str, tuple[str, ...]],
    residuals: Mapping[str, np.ndarray],
    rows: str,
    columns: str,
) -> tuple[list[_Spec], list[str]]:
    """Prepare every specification that exists; say which do not."""
    empty = {m for m, values in enumerate(whole.predictors) if not np.isfinite(values).any()}
    specs: list[_Spec] = []
    notes = [f"{measures[m]} is not defined for any dyad." for m in sorted(empty)]
    for subset, table in tables.items():
        for scale in scales:
            outcome = _outcome(whole, table, scale, rows, columns)
            if not np.isfinite(outcome).any():
                notes.append(f"{scale} is not defined in subset {subset!r}.")
                continue
            grid = Grid(
                whole.rows, whole.columns, outcome, whole.predictors, whole.given,
                whole.row_groups, whole.column_groups,
            )  # fmt: skip
            for key, e in removed.items():
                for m, measure in enumerate(measures):
                    if m in empty:
                        continue
                    label = (scale, measure, subset, key)
                    fit = _prepared(grid, m, e, residuals[key])
                    if fit is None:
                        notes.append(f"{', '.join(label)}: too few dyads, or no variation left.")
                    else:
                        specs.append(_Spec(label, m, key, fit))
    return specs, notes


def _outcome(whole: Grid, table: pd.DataFrame, scale: str, rows: str, columns: str) -> np.ndarray:
    out = np.full(whole.outcome.shape, np.nan)
    if scale in table.columns:
        i = np.searchsorted(whole.rows, table[rows].astype(str))
        j = np.searchsorted(whole.columns, table[columns].astype(str))
        out[i, j] = table[scale].to_numpy(dtype=float, na_value=np.nan)
    return out


def _prepared(
    grid: Grid, m: int, e: Sequence[str], residuals: np.ndarray
) -> permutation.Slopes | None:
    used = np.isfinite(grid.outcome) & np.isfinite(grid.predictors[m])
    if not used.any():
        return None
    try:
        fit = permutation.slopes(grid, used, e)
    except BadFit:
        return None
    x = residuals[m][used]
    left = x - fit.basis @ (fit.basis.T @ x)
    scale = float(np.linalg.norm(grid.predictors[m][used]))
    flat = np.linalg.norm(left) <= 1e-8 * max(scale, 1e-300)
    return None if fit.df < LEAST_DF or flat else fit


def _curves(
    whole: Grid, specs: Sequence[_Spec], residuals: Mapping[str, np.ndarray], n: int, seed: int
) -> tuple[np.ndarray, np.ndarray, bool]:
    """Return r of each specification, observed and under each relabelling."""
    batches, total, exact = permutation.relabellings(whole, n, seed)
    null = np.empty((total, len(specs)))
    start = 0
    for orders in batches:
        null[start : start + len(orders)] = np.column_stack(
            [r for r in _correlations(specs, residuals, orders)]
        )
        start += len(orders)
    still = np.arange(whole.rows.size + whole.columns.size)
    still[whole.rows.size :] -= whole.rows.size
    observed = np.column_stack([r for r in _correlations(specs, residuals, still[None, :])])[0]
    return observed, null, exact


def _correlations(
    specs: Sequence[_Spec], residuals: Mapping[str, np.ndarray], orders: np.ndarray
) -> Iterator[np.ndarray]:
    for s in specs:
        tables = residuals[s.removed][s.measure : s.measure + 1]
        yield s.fit.of(permutation.relabel(tables, orders, s.fit.used)[0])[2]


def _report(
    labels: Sequence[tuple[str, str, str, str]],
    cells: Sequence[int],
    observed: np.ndarray,
    null: np.ndarray,
    exact: bool,
    notes: Sequence[str],
) -> Multiverse:
    table = pd.DataFrame(labels, columns=["scale", "measure", "subset", "removed"])
    p = permutation.p_values(null.T, observed[:, None], exact)
    table = table.assign(cells=cells, r=observed, p=p, p_bh=benjamini_hochberg(p))
    median, share = float(np.median(observed)), float((observed > 0).mean())
    null_median, null_share = np.median(null, axis=1), (null > 0).mean(1)
    sides = [
        permutation.p_values(np.atleast_2d(a), np.array([[b]]), exact)[0]
        for a, b in ((null_median, median), (null_share - 0.5, share - 0.5))
    ]
    joint = pd.Series(
        {
            "specifications": len(table),
            "median": median,
            "p_median": sides[0],
            "share_positive": share,
            "p_share": sides[1],
            "permutations": len(null),
        }
    )
    low, middle, high = np.quantile(np.sort(null, axis=1), [0.025, 0.5, 0.975], axis=0)
    band = pd.DataFrame({"low": low, "middle": middle, "high": high})
    table = table.sort_values("r", kind="stable", ignore_index=True)
    return Multiverse(table, joint, band, tuple(notes))


def benjamini_hochberg(p: Sequence[float] | np.ndarray) -> np.ndarray:
    """Return p-values adjusted for the false discovery rate; missing ones stay missing.

    Source: Benjamini & Hochberg, J. R. Stat. Soc. B 57 (1995).
    """
    values = np.asarray(p, float)
    out = np.full(values.shape, np.nan)
    known = np.flatnonzero(np.isfinite(values))
    order = known[np.argsort(values[known])]
    scaled = values[order] * known.size / np.arange(1, known.size + 1)
    out[order] = np.minimum(np.minimum.accumulate(scaled[::-1])[::-1], 1.0)
    return out


def all_measures(
    data: pd.DataFrame,
    measures: Sequence[str],
    *,
    outcome: str = "gain",
    fixed: Sequence[str] = (),
    random: Sequence[str] = RANDOM,
    within: tuple[str, str] | None = FORMATS,
    reliability: Mapping[str, float] | None = None,
    n: int = 9999,
    seed: int = 0,
) -> pd.DataFrame:
    """Fit the primary model once per measure and adjust for their number.

    Args:
        data: dyad table; rows where a measure is undefined leave that measure's model.
        measures: similarity columns; each is standardised over the dyads it is defined for.
        outcome: numeric column.
        fixed: further fixed effects.
        random: random effects.
        within: format columns of the permutation companion.
        reliability: reliability per measure for the disattenuated slope; the one after task
            effects are removed (``reliability_within`` of the similarity table) limits this slope.
        n, seed: relabellings of the companion.

    Returns:
        Indexed by measure: dyads, slope, se, df, low, high, p, p_bh (over the measures),
        p_permutation, p_max_t (over the measures), reliability, slope_disattenuated, note (why
        there is no fit).

    Raises:
        UnknownName: the table has no such measure.
    """
    rows, testable = {}, []
    for measure in measures:
        if measure not in data.columns:
            raise unknown("measure", measure, map(str, data.columns))
        here = data.dropna(subset=[measure, outcome])
        try:
            scaled = design.standardise(here, [measure])
            fit = reml.crossed_reml(scaled, outcome, [measure, *fixed], random)
        except BadFit as error:
            rows[measure] = {"dyads": len(here), "note": str(error)}
            continue
        testable.append(measure)
        rows[measure] = {
            "dyads": len(here),
            **fit[measure],
            "note": " ".join(fit.model.design.notes),
        }
    table = pd.DataFrame.from_dict(rows, orient="index").rename(columns={"estimate": "slope"})
    table = table.reindex(columns=["dyads", "slope", "se", "df", "low", "high", "p", "note"])
    table["p_bh"] = benjamini_hochberg(table["p"].to_numpy(float))
    table = table.join(_companion(data, testable, outcome, fixed, within, n, seed))
    known = pd.Series(dict(reliability or {}), dtype=float)
    table["reliability"] = known.reindex(table.index)
    table["slope_disattenuated"] = [
        s / np.sqrt(r) if 0 < r <= 1 else np.nan
        for s, r in zip(table["slope"], table["reliability"], strict=True)
    ]
    return table.rename_axis("measure")


def _companion(
    data: pd.DataFrame,
    measures: Sequence[str],
    outcome: str,
    fixed: Sequence[str],
    within: tuple[str, str] | None,
    n: int,
    seed: int,
) -> pd.DataFrame:
    """Return permutation p-values of the measures that relabelling can test."""
    task = ("intermediate", "target")
    can = []
    for measure in measures:
        try:
            permutation.qap(data, outcome, measure, *task, within, 99, seed, given=fixed)
            can.append(measure)
        except BadFit:
            continue
    names = {"p": "p_permutation", "p_max_t": "p_max_t"}
    if not can:
        return pd.DataFrame(columns=list(names.values()), index=list(measures), dtype=float)
    found = permutation.max_t(data, outcome, can, *task, within, n, seed, given=fixed)
    return found[list(names)].rename(columns=names).reindex(list(measures))


def controls(
    data: pd.DataFrame,
    negative: Sequence[str],
    positive: Sequence[str],
    *,
    outcome: str = "gain",
    random: Sequence[str] = RANDOM,
    level: float = 0.05,
) -> pd.DataFrame:
    """Check measures that must not predict, and measures that must.

    Args:
        data: dyad table.
        negative: measures without content, such as similarity from a random encoder.
        positive: measures that see the answer, such as the early target score.
        outcome: numeric column.
        random: random effects.
        level: of each test.

    Returns:
        measure, kind, slope, low, high, p, passed (a positive control must have a slope above zero).

    Raises:
        BadFit: a control cannot be fitted.
    """
    rows = []
    for kind, names in (("negative", negative), ("positive", positive)):
        for name in names:
            here = design.standardise(data.dropna(subset=[name, outcome]), [name])
            row = reml.crossed_reml(here, outcome, [name], random)[name]
            found = bool(row["p"] < level)
            passed = not found if kind == "negative" else found and row["estimate"] > 0
            ends = [row["estimate"], row["low"], row["high"], row["p"]]
            rows.append([name, kind, *ends, passed])
    return pd.DataFrame(rows, columns=["measure", "kind", "slope", "low", "high", "p", "passed"])
