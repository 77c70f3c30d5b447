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
CELLS_AT_ONCE = 3_000_000  # numbers held per batch of permutations: about 24 MB
CLOSE = 1e-10  # relative slack when a permuted statistic ties with the observed one


class Permuted(NamedTuple):
    """Result of a permutation test.

    Attributes:
        estimate: slope of the outcome on the predictor, effects removed.
        p: two-sided p-value.
        null: slope under each permutation, shape (permutations,).
    """

    estimate: float
    p: float
    null: np.ndarray


@dataclass(frozen=True)
class Grid:
    """A table of intermediates by targets.

    Attributes:
        rows, columns: names.
        outcome: shape (rows, columns), NaN where there is none.
        predictors: shape (measures, rows, columns), NaN where undefined.
        given: covariates, shape (covariates, rows, columns).
        row_groups, column_groups: group of each row and column; permutations stay inside.
        blocks: number of the row group x column group of each cell, shape (rows, columns).
    """

    rows: np.ndarray
    columns: np.ndarray
    outcome: np.ndarray
    predictors: np.ndarray
    given: np.ndarray
    row_groups: np.ndarray
    column_groups: np.ndarray

    @property
    def blocks(self) -> np.ndarray:
        """Number of the block each cell is in, shape (rows, columns)."""
        return self.row_groups[:, None] * (self.column_groups.max() + 1) + self.column_groups


def grid(
    data: pd.DataFrame,
    outcome: str,
    predictors: Sequence[str],
    rows: str,
    columns: str,
    within: tuple[str, str] | None = None,
    given: Sequence[str] = (),
) -> Grid:
    """Arrange a dyad table as arrays.

    Args:
        data: one row per dyad. A row may lack the outcome (an excluded pair): its predictors still
            take part when labels are permuted.
        outcome, predictors, given: numeric columns.
        rows, columns: the two tasks of a dyad.
        within: columns with the format of the row task and of the column task.

    Raises:
        UnknownName: a column does not exist.
        BadFit: a dyad appears twice, a task has two formats, or a covariate is missing.
    """
    names = [rows, columns, *(within or ())]
    design.require(data, names)
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
    row_names = np.sort(data[rows].astype(str).unique())
    column_names = np.sort(data[columns].astype(str).unique())
    i = np.searchsorted(row_names, data[rows].astype(str))
    j = np.searchsorted(column_names, data[columns].astype(str))

    def fill(column: str) -> np.ndarray:
        table = np.full((row_names.size, column_names.size), np.nan)
        table[i, j] = data[column].to_numpy(dtype=float, na_value=np.nan)
        return table

    tables = [fill(c) for c in given]
    z = np.array(tables).reshape(len(given), row_names.size, column_names.size)
    groups = [
        _groups(data, name, format, ordered)
        for name, format, ordered in zip(
            (rows, columns), within or ("", ""), (row_names, column_names), strict=True
        )
    ]
    x = np.array([fill(c) for c in predictors])
    return Grid(row_names, column_names, fill(outcome), x, z, groups[0], groups[1])


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
    """Return an orthonormal basis of the effects to remove.

    Args:
        table: the grid.
        used: which cells take part, shape (rows, columns).
        effects: among ``"rows"``, ``"columns"``, ``"blocks"``; the mean and ``given`` always.

    Returns:
        Shape (cells, rank).
    """
    for effect in effects:
        if effect not in EFFECTS:
            raise unknown("effect", effect, EFFECTS)
    i, j = np.nonzero(used)
    parts = [np.ones((i.size, 1))]
    by = {"rows": i, "columns": j, "blocks": table.blocks[i, j]}
    parts += [(by[e][:, None] == np.unique(by[e])).astype(float) for e in effects]
    parts += [z[i, j][:, None] for z in table.given]
    u, s, _ = np.linalg.svd(np.hstack(parts), full_matrices=False)
    return u[:, s > 1e-9 * s[0]]


def relabellings(table: Grid, n: int, seed: int) -> tuple[Iterator[np.ndarray], int, bool]:
    """Yield ways to relabel rows and columns within their groups, in batches.

    All of them where there are at most ``n``; else ``n`` random ones.

    Returns:
        Batches of shape (batch, rows + columns), their total number, and whether it is exact.
    """
    if n < 1:
        raise BadFit(f"n must be at least 1 permutation; it is {n}.")
    sizes = [np.bincount(g) for g in (table.row_groups, table.column_groups)]
    count = math.prod(math.factorial(int(k)) for s in sizes for k in s)
    batch = max(1, CELLS_AT_ONCE // (table.predictors.size or 1))
    if count <= n:
        return _every(table, batch), count, True
    return _random(table, n, seed, batch), n, False


def _every(table: Grid, batch: int) -> Iterator[np.ndarray]:
    both = np.array(
        [
            np.concatenate([p, q + table.rows.size])
            for p in _within(table.row_groups)
            for q in _within(table.column_groups)
        ]
    )
    both[:, table.rows.size :] -= table.rows.size
    for start in range(0, len(both), batch):
        yield both[start : start + batch]


def _within(groups: np.ndarray) -> Iterator[np.ndarray]:
    members = [np.flatnonzero(groups == g) for g in np.unique(groups)]
    for choice in itertools.product(*(itertools.permutations(m) for m in members)):
        order = np.empty(groups.size, int)
        for place, values in zip(members, choice, strict=True):
            order[place] = values
        yield order


def _random(table: Grid, n: int, seed: int, batch: int) -> Iterator[np.ndarray]:
    rng = np.random.default_rng(seed)
    for start in range(0, n, batch):
        yield random_orders(table, min(batch, n - start), rng)


def random_orders(table: Grid, n: int, seed: int | np.random.Generator) -> np.ndarray:
    """Return random relabellings within groups, shape (n, rows + columns)."""
    rng = np.random.default_rng(seed)
    return np.hstack([_shuffled(rng, g, n) for g in (table.row_groups, table.column_groups)])


def _shuffled(rng: np.random.Generator, groups: np.ndarray, size: int) -> np.ndarray:
    """Return random orders that keep each group in its own places, shape (size, members)."""
    keys = groups + rng.random((size, groups.size))
    out = np.empty((size, groups.size), int)
    out[:, np.argsort(groups, kind="stable")] = np.argsort(keys, axis=1)
    return out


@dataclass(frozen=True)
class Slopes:
    """The slope of one outcome on predictors, effects removed, ready for relabelled predictors.

    Attributes:
        used: cells of the regression, shape (rows, columns).
        basis: effects removed there, shape (cells, rank).
        outcome: outcome without the effects, shape (cells,).
        df: residual degrees of freedom.
    """

    used: np.ndarray
    basis: np.ndarray
    outcome: np.ndarray
    df: int

    def of(self, predictor: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return slope, t and partial correlation.

        Args:
            predictor: values at the used cells, shape (..., cells).

        Returns:
            Three arrays of shape (...); zeros where the predictor lies within the effects.
        """
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


def slopes(table: Grid, used: np.ndarray, effects: Sequence[str], outcome: str = "") -> Slopes:
    """Prepare the regression on the used cells.

    Raises:
        BadFit: too few cells for the effects, or an outcome that the effects explain fully.
    """
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
        raise BadFit(f"nothing of the outcome {outcome!r} is left once the effects are removed.")
    return Slopes(used, basis, rest, df)


def residual_tables(table: Grid, effects: Sequence[str]) -> np.ndarray:
    """Return the predictors without the effects, 0 where undefined, shape as the predictors."""
    out = np.zeros_like(table.predictors)
    for k, x in enumerate(table.predictors):
        known = np.isfinite(x)
        known &= np.isfinite(table.given).all(0) if len(table.given) else True
        if not known.any():
            continue
        basis = effects_basis(table, known, effects)
        values = x[known]
        rest = values - basis @ (basis.T @ values)
        small = np.linalg.norm(rest) <= 1e-10 * max(float(np.linalg.norm(values)), 1e-300)
        out[k][known] = 0.0 if small else rest
    return out


def relabel(tables: np.ndarray, order: np.ndarray, used: np.ndarray) -> np.ndarray:
    """Return relabelled tables at the used cells.

    Args:
        tables: shape (measures, rows, columns).
        order: shape (batch, rows + columns), see `relabellings`.
        used: shape (rows, columns).

    Returns:
        Shape (measures, batch, cells).
    """
    count, columns = tables.shape[1:]
    i, j = np.nonzero(used)
    index = order[:, i] * columns + order[:, count + j]
    return tables.reshape(len(tables), -1)[:, index]


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
    effects: Sequence[str] = ("rows", "columns"),
) -> Permuted:
    """Test the slope of a dyad outcome on a similarity by relabelling tasks.

    Args:
        data: one row per dyad; rows without an outcome only lend their predictor.
        outcome, predictor: numeric columns.
        rows, columns: the two tasks of a dyad.
        within: columns with the formats of the two tasks; labels then move only within formats.
        n: number of random relabellings; where fewer exist, each is used once and p is exact.
        seed: seed of the random relabellings.
        given: further covariates, removed from both sides.
        effects: which of ``"rows"``, ``"columns"``, ``"blocks"`` are removed from both sides.

    Returns:
        Slope, two-sided p of its t statistic, and the slopes under relabelling. A random p is
        (1 + b) / (1 + n); an exact one counts all relabellings, the observed included.

    Raises:
        UnknownName: a column does not exist.
        BadFit: cells appear twice or are too few, or the predictor cannot be told from the effects.

    Source: Dekker, Krackhardt & Snijders, Psychometrika 72 (2007), double semi-partialling;
        Phipson & Smyth, Stat. Appl. Genet. Mol. Biol. 9 (2010) for the p-value.
    """
    one = [predictor]
    found = _permute(data, outcome, one, rows, columns, within, n, seed, given, effects)
    return Permuted(float(found.slope[0]), float(found.p()[0]), found.null_slope[0])


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
    effects: Sequence[str] = ("rows", "columns"),
) -> pd.DataFrame:
    """Test many similarities at once, with p-values adjusted by the largest statistic.

    Every measure is relabelled in the same way, so the adjustment knows how measures go together.

    Args:
        data, outcome, rows, columns, within, n, seed, given, effects: as in `qap`.
        predictors: numeric columns, one per measure. Cells where one is undefined leave that
            measure's regression, not the others'.

    Returns:
        Indexed by measure: estimate, t, cells, p, p_max_t (family-wise, two-sided); a measure
        without any value has no cells and only missing values.

    Raises:
        BadFit: as in `qap`.

    Source: Westfall & Young, Resampling-Based Multiple Testing (1993), single-step maxT.
    """
    defined = [
        p for p in predictors if p not in data or data[[outcome, p]].notna().all(axis=1).any()
    ]
    found = _permute(data, outcome, defined, rows, columns, within, n, seed, given, effects)
    table = pd.DataFrame(
        {
            "estimate": found.slope,
            "t": found.t,
            "cells": found.cells,
            "p": found.p(),
            "p_max_t": found.p_max(),
        },
        index=defined,
    )
    table = table.reindex(list(predictors)).rename_axis("measure")
    return table.fillna({"cells": 0}).astype({"cells": int})


@dataclass(frozen=True)
class _Found:
    slope: np.ndarray
    t: np.ndarray
    cells: np.ndarray
    null_slope: np.ndarray
    null_t: np.ndarray
    exact: bool

    def p(self) -> np.ndarray:
        """Two-sided p-value of each measure."""
        return p_values(self.null_t, self.t[:, None], self.exact)

    def p_max(self) -> np.ndarray:
        """p-value of each measure against the largest statistic of all."""
        largest = np.abs(self.null_t).max(0)
        return p_values(largest[None, :], self.t[:, None], self.exact)


def p_values(null: np.ndarray, observed: np.ndarray, exact: bool) -> np.ndarray:
    """Return the share of the null at least as far from zero as observed.

    Args:
        null: shape (measures, permutations).
        observed: shape (measures, 1).
        exact: whether the null lists every relabelling, the observed among them.
    """
    size = np.abs(observed)
    beyond = (np.abs(null) >= size * (1 - CLOSE)).sum(1)
    return beyond / null.shape[1] if exact else (1 + beyond) / (1 + null.shape[1])


def _permute(
    data: pd.DataFrame,
    outcome: str,
    predictors: list[str],
    rows: str,
    columns: str,
    within: tuple[str, str] | None,
    n: int,
    seed: int,
    given: Sequence[str],
    effects: Sequence[str],
) -> _Found:
    """Compute observed and permuted statistics of every measure."""
    if not predictors:
        raise BadFit("there is no measure to test; name at least one column that has values.")
    table = grid(data, outcome, predictors, rows, columns, within, given)
    return _test(table, predictors, outcome, n, seed, effects)


def qap_grid(
    table: Grid, n: int = 9999, seed: int = 0, effects: Sequence[str] = ("rows", "columns")
) -> Permuted:
    """Run `qap` on arrays already arranged, for simulations that draw many such tables.

    Args:
        table: grid with one predictor.
        n, seed, effects: as in `qap`.
    """
    found = _test(table, ["predictor"], "outcome", n, seed, effects)
    return Permuted(float(found.slope[0]), float(found.p()[0]), found.null_slope[0])


def _test(
    table: Grid, predictors: list[str], outcome: str, n: int, seed: int, effects: Sequence[str]
) -> _Found:
    fits, tables = _fits(table, predictors, outcome, effects)
    observed = [fit.of(x[fit.used]) for fit, x in zip(fits, tables, strict=True)]
    orders, total, exact = relabellings(table, n, seed)
    null_slope, null_t = np.empty((2, len(fits), total))
    start = 0
    for order in orders:
        stop = start + len(order)
        for k, fit in enumerate(fits):
            values = relabel(tables[k : k + 1], order, fit.used)[0]
            null_slope[k, start:stop], null_t[k, start:stop], _ = fit.of(values)
        start = stop
    _refuse_unmoved(predictors, null_slope, observed, total)
    slope, t, _ = (np.array([o[part] for o in observed], float) for part in range(3))
    cells = np.array([int(fit.used.sum()) for fit in fits])
    return _Found(slope, t, cells, null_slope, null_t, exact)


def _fits(
    table: Grid, predictors: Sequence[str], outcome: str, effects: Sequence[str]
) -> tuple[list[Slopes], np.ndarray]:
    """Prepare each measure's regression, or say why it has none."""
    tables = residual_tables(table, effects)
    known = np.isfinite(table.outcome)
    known &= np.isfinite(table.given).all(0) if len(table.given) else True
    fits = []
    for k, name in enumerate(predictors):
        used = known & np.isfinite(table.predictors[k])
        if not used.any():
            raise BadFit(f"{name!r} has no value for any dyad with an outcome; leave it out.")
        fit = slopes(table, used, effects, outcome)
        raw = table.predictors[k][used]
        rest = tables[k][used] - fit.basis @ (fit.basis.T @ tables[k][used])
        if np.linalg.norm(rest) <= 1e-8 * max(float(np.linalg.norm(raw)), 1e-300):
            raise BadFit(
                f"{name!r} does not vary once {', '.join(effects) or 'the mean'} and covariates are"
                " removed, so its slope cannot be tested; remove fewer effects or leave it out."
            )
        fits.append(fit)
    return fits, tables


def _refuse_unmoved(
    predictors: Sequence[str], null: np.ndarray, observed: Sequence[tuple], total: int
) -> None:
    """Raise for a predictor that every relabelling leaves as it was."""
    for k, name in enumerate(predictors):
        if total == 1 or np.ptp(null[k]) <= 1e-10 * max(abs(float(observed[k][0])), 1e-300):
            raise BadFit(
                f"relabelling within the given groups leaves the slope of {name!r} unchanged: it is"
                " fixed by the groups (or each group has one task). Test it with within=None."
            )
