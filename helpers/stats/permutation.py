"""Permutation tests that move whole tasks: quadratic assignment for intermediate x target tables.

The cells of such a table are not exchangeable, because the cells of one task share that task. The
labels of the tasks are. So the similarity table has its rows and columns relabelled, its row,
column and covariate effects removed before and after (double semi-partialling), and the slope is
computed again. Permuting only within formats keeps the format blocks where they are.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd

from helpers.errors import BadFit, unknown
from helpers.stats import design

EFFECTS = ("rows", "columns", "blocks")
BOTH = ("rows", "columns")
CELLS_AT_ONCE = 3_000_000  # numbers held per batch of permutations: about 24 MB
CLOSE = 1e-10  # relative slack when a permuted statistic ties with the observed one


class Permuted(NamedTuple):
    """Slope of the outcome on the predictor, two-sided p, and the slope under each relabelling."""

    estimate: float
    p: float
    null: np.ndarray


@dataclass(frozen=True)
class Grid:
    """A table of intermediates by targets, as arrays with NaN where there is nothing.

    ``predictors`` and ``given`` have shape (columns of data, rows, columns); permutations stay inside
    ``row_groups`` and ``column_groups``.
    """

    rows: np.ndarray
    columns: np.ndarray
    outcome: np.ndarray
    predictors: np.ndarray
    given: np.ndarray
    row_groups: np.ndarray
    column_groups: np.ndarray


def grid(
    data: pd.DataFrame,
    outcome: str,
    predictors: Sequence[str],
    rows: str,
    columns: str,
    within: tuple[str, str] | None = None,
    given: Sequence[str] = (),
) -> Grid:
    """Arrange a dyad table as arrays; a row without outcome still lends its predictors to permutations."""
    design.require(data, [rows, columns, *(within or ())])
    for column in [outcome, *predictors, *given]:
        if column not in data.columns:
            raise unknown("column", column, map(str, data.columns))
    twice = data.duplicated([rows, columns])
    if twice.any():
        pair = " x ".join(data.loc[twice, [rows, columns]].iloc[0].astype(str))
        raise BadFit(
            f"{pair} appears more than once: average languages and seeds first (gains.dyads), and "
            "test one encoder and condition at a time."
        )
    names = [np.sort(data[task].astype(str).unique()) for task in (rows, columns)]
    i, j = (
        np.searchsorted(n, data[t].astype(str)) for n, t in zip(names, (rows, columns), strict=True)
    )

    def fill(chosen: Sequence[str]) -> np.ndarray:
        tables = np.full((len(chosen), names[0].size, names[1].size), np.nan)
        for table, column in zip(tables, chosen, strict=True):
            table[i, j] = data[column].to_numpy(dtype=float, na_value=np.nan)
        return tables

    groups = [
        _groups(data, task, format, ordered)
        for task, format, ordered in zip((rows, columns), within or ("", ""), names, strict=True)
    ]
    tables = (fill([outcome])[0], fill(predictors), fill(given))
    return Grid(names[0], names[1], *tables, groups[0], groups[1])


def _groups(data: pd.DataFrame, name: str, format: str, ordered: np.ndarray) -> np.ndarray:
    """Return the group number of each task; all 0 without formats."""
    if not format:
        return np.zeros(ordered.size, int)
    pairs = data[[name, format]].astype(str).drop_duplicates()
    if pairs[name].duplicated().any():
        task = pairs.loc[pairs[name].duplicated(), name].iloc[0]
        raise BadFit(f"{task!r} has more than one value of {format!r}; a task has one format.")
    formats = pairs.set_index(name)[format].reindex(ordered)
    return np.asarray(pd.factorize(formats, sort=True)[0])


def effects_basis(table: Grid, used: np.ndarray, effects: Sequence[str]) -> np.ndarray:
    """Return an orthonormal basis (cells, rank) of the effects to remove; mean and given always."""
    for effect in effects:
        if effect not in EFFECTS:
            raise unknown("effect", effect, EFFECTS)
    i, j = np.nonzero(used)
    blocks = table.row_groups[i] * (table.column_groups.max() + 1) + table.column_groups[j]
    by = {"rows": i, "columns": j, "blocks": blocks}
    parts = [np.ones((i.size, 1))]
    parts += [(by[e][:, None] == np.unique(by[e])).astype(float) for e in effects]
    parts += [z[i, j][:, None] for z in table.given]
    u, s, _ = np.linalg.svd(np.hstack(parts), full_matrices=False)
    return u[:, s > 1e-9 * s[0]]


def relabellings(table: Grid, n: int, seed: int) -> tuple[Iterator[np.ndarray], int, bool]:
    """Return batches (batch, rows + columns) of relabellings within groups, their number, and if exact.

    All of them where there are at most ``n``, else ``n`` random ones.
    """
    if n < 1:
        raise BadFit(f"n must be at least 1 permutation; it is {n}.")
    groups = (table.row_groups, table.column_groups)
    count = math.prod(math.factorial(int(k)) for g in groups for k in np.bincount(g))
    batch = max(1, CELLS_AT_ONCE // (table.predictors.size or 1))
    if count <= n:
        every = itertools.product(*(list(_within(g)) for g in groups))
        orders = np.array([np.concatenate(pair) for pair in every])
        return (orders[k : k + batch] for k in range(0, count, batch)), count, True
    rng = np.random.default_rng(seed)
    sizes = (min(batch, n - k) for k in range(0, n, batch))
    return (random_orders(table, size, rng) for size in sizes), n, False


def _within(groups: np.ndarray) -> Iterator[np.ndarray]:
    members = [np.flatnonzero(groups == g) for g in np.unique(groups)]
    for choice in itertools.product(*(itertools.permutations(m) for m in members)):
        order = np.empty(groups.size, int)
        for place, values in zip(members, choice, strict=True):
            order[place] = values
        yield order


def random_orders(table: Grid, n: int, seed: int | np.random.Generator) -> np.ndarray:
    """Return random relabellings within groups, shape (n, rows + columns)."""
    rng, out = np.random.default_rng(seed), []
    for groups in (table.row_groups, table.column_groups):
        keys = groups + rng.random((n, groups.size))  # sorting keeps each group in its places
        order = np.empty((n, groups.size), int)
        order[:, np.argsort(groups, kind="stable")] = np.argsort(keys, axis=1)
        out.append(order)
    return np.hstack(out)


@dataclass(frozen=True)
class Slopes:
    """Regression of one outcome on a predictor over the ``used`` cells, effects (``basis``) removed."""

    used: np.ndarray
    basis: np.ndarray
    outcome: np.ndarray
    df: int

    def of(self, predictor: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return slope, t and partial correlation of predictors (..., cells); 0 within the effects."""
        along = predictor @ self.basis
        xx = np.einsum("...c,...c->...", predictor, predictor)
        left = xx - np.einsum("...r,...r->...", along, along)
        xy = predictor @ self.outcome
        flat = left <= 1e-10 * np.maximum(xx, 1e-300)
        left = np.where(flat, 1.0, left)
        slope = np.where(flat, 0.0, xy / left)
        yy = float(self.outcome @ self.outcome)
        rss = np.maximum(yy - slope * xy, 1e-12 * yy)
        t = slope * np.sqrt(left * self.df / rss)
        return slope, t, slope * np.sqrt(left / yy)


def slopes(
    table: Grid, measure: int, name: str, effects: Sequence[str], tables: np.ndarray
) -> Slopes:
    """Prepare the regression on one measure of a grid, given its `residual_tables`, or say why not."""
    used = np.isfinite(table.outcome) & np.isfinite(table.given).all(0)
    used &= np.isfinite(table.predictors[measure])
    if not used.any():
        raise BadFit(f"{name!r} has no value for any dyad with an outcome; leave it out.")
    basis = effects_basis(table, used, effects)
    y = table.outcome[used]
    df = y.size - basis.shape[1] - 1
    if df < 1:
        raise BadFit(
            f"{y.size} cells cannot carry {basis.shape[1]} effects and a slope: add intermediates "
            "or targets, or remove fewer effects."
        )
    rest = y - basis @ (basis.T @ y)
    if rest @ rest <= 1e-20 * max(y @ y, 1e-300):
        raise BadFit("nothing of the outcome is left once the effects are removed.")
    raw, x = table.predictors[measure][used], tables[measure][used]
    if np.linalg.norm(x - basis @ (basis.T @ x)) <= 1e-8 * max(float(np.linalg.norm(raw)), 1e-300):
        raise BadFit(
            f"{name!r} does not vary once {', '.join(effects) or 'the mean'} and covariates are"
            " removed, so its slope cannot be tested; remove fewer effects or leave it out."
        )
    return Slopes(used, basis, rest, df)


def residual_tables(table: Grid, effects: Sequence[str]) -> np.ndarray:
    """Return the predictors without the effects, 0 where undefined, shape as the predictors."""
    out = np.zeros_like(table.predictors)
    for k, x in enumerate(table.predictors):
        known = np.isfinite(x) & np.isfinite(table.given).all(0)
        if not known.any():
            continue
        basis = effects_basis(table, known, effects)
        values = x[known]
        rest = values - basis @ (basis.T @ values)
        small = np.linalg.norm(rest) <= 1e-10 * max(float(np.linalg.norm(values)), 1e-300)
        out[k][known] = 0.0 if small else rest
    return out


def relabel(table: np.ndarray, order: np.ndarray, used: np.ndarray) -> np.ndarray:
    """Return a relabelled table (rows, columns) at the used cells, shape (batch, cells)."""
    count, columns = table.shape
    i, j = np.nonzero(used)
    return table.ravel()[order[:, i] * columns + order[:, count + j]]


def qap(
    data: pd.DataFrame,
    outcome: str,
    predictor: str,
    rows: str,
    columns: str,
    within: tuple[str, str] | None = None,
    n: int = 9999,
    seed: int = 0,
    *,
    given: Sequence[str] = (),
    effects: Sequence[str] = BOTH,
) -> Permuted:
    """Test the slope of a dyad outcome on a similarity by relabelling tasks.

    Args:
        data: one row per dyad; rows without an outcome only lend their predictor.
        outcome, predictor: numeric columns.
        rows, columns: the two tasks of a dyad.
        within: columns with the formats of the two tasks; labels then move only within formats.
        n, seed: random relabellings; where fewer exist, each is used once and p is exact.
        given: further covariates, removed from both sides.
        effects: which of ``"rows"``, ``"columns"``, ``"blocks"`` are removed from both sides.

    Returns:
        Slope, two-sided p of its t statistic ((1 + b) / (1 + n) if random), slopes under relabelling.

    Raises:
        BadFit: cells appear twice or are too few, or the predictor cannot be told from the effects.

    Source: Dekker, Krackhardt & Snijders, Psychometrika 72 (2007), double semi-partialling;
        Phipson & Smyth, Stat. Appl. Genet. Mol. Biol. 9 (2010) for the p-value.
    """
    table = grid(data, outcome, [predictor], rows, columns, within, given)
    found, _, null_slope, null_t, exact = _permute(table, [predictor], n, seed, effects)
    p = p_values(null_t, found[:, 1:2], exact)
    return Permuted(float(found[0, 0]), float(p[0]), null_slope[0])


def max_t(
    data: pd.DataFrame,
    outcome: str,
    predictors: Sequence[str],
    rows: str,
    columns: str,
    within: tuple[str, str] | None = None,
    n: int = 9999,
    seed: int = 0,
    *,
    given: Sequence[str] = (),
) -> pd.DataFrame:
    """Test many similarities at once as `qap` does, with p-values adjusted by the largest statistic.

    Every measure is relabelled in the same way, so the adjustment knows how measures go together
    (Westfall & Young 1993, single-step maxT).

    Returns:
        Indexed by measure: estimate, t, cells, p, p_max_t (family-wise); missing for a measure that
        cannot be tested, such as one without a value or fixed by the groups.
    """
    names = list(predictors)
    table = grid(data, outcome, names, rows, columns, within, given)
    found, cells, null_slope, null_t, exact = _permute(table, names, n, seed, BOTH)
    out = pd.DataFrame(found[:, :2], columns=["estimate", "t"]).assign(cells=cells)
    can = np.isfinite(found[:, 0])
    largest = np.abs(null_t[can]).max(0)
    out["p"] = p_values(null_t, found[:, 1:2], exact)
    out["p_max_t"] = p_values(largest[None, :], found[:, 1:2], exact)
    out.loc[~can, ["p", "p_max_t"]] = np.nan
    return out.set_index(pd.Index(names, name="measure"))


def p_values(null: np.ndarray, observed: np.ndarray, exact: bool) -> np.ndarray:
    """Return the share of the null (measures, permutations) that lies as far from zero as observed."""
    beyond = (np.abs(null) >= np.abs(observed) * (1 - CLOSE)).sum(1)
    return beyond / null.shape[1] if exact else (1 + beyond) / (1 + null.shape[1])


def _permute(
    table: Grid, names: Sequence[str], n: int, seed: int, effects: Sequence[str]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, bool]:
    """Return slope and t, cells, both statistics under relabelling, and whether that is exact."""
    tables = residual_tables(table, effects)
    fits: list[Slopes | None] = []
    problem = BadFit("there is no measure to test; name at least one column.")
    for k, name in enumerate(names):
        try:
            fits.append(slopes(table, k, name, effects, tables))
        except BadFit as error:
            fits.append(None)
            problem = error
    if not any(fits):
        raise problem
    orders, total, exact = relabellings(table, n, seed)
    null = np.full((2, len(fits), total), np.nan)
    start = 0
    for order in orders:
        stop = start + len(order)
        for k, fit in enumerate(fits):
            if fit is not None:
                null[:, k, start:stop] = fit.of(relabel(tables[k], order, fit.used))[:2]
        start = stop
    found, cells = np.full((len(fits), 2), np.nan), np.zeros(len(fits), int)
    for k, (fit, name) in enumerate(zip(fits, names, strict=True)):
        if fit is None:
            continue
        found[k], cells[k] = fit.of(tables[k][fit.used])[:2], fit.used.sum()
        if total == 1 or np.ptp(null[0, k]) <= 1e-10 * max(abs(float(found[k, 0])), 1e-300):
            found[k] = np.nan
            problem = BadFit(
                f"relabelling within the given groups leaves the slope of {name!r} unchanged: it is"
                " fixed by the groups (or each group has one task). Test it with within=None."
            )
    if not np.isfinite(found[:, 0]).any():
        raise problem
    return found, cells, null[0], null[1], exact
