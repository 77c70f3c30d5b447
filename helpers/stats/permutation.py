"""Permutation tests that move whole tasks: quadratic assignment for intermediate x target tables.

The cells of such a table are not exchangeable, because the cells of one task share that task. The
labels of the tasks are. So the similarity table has its rows and columns relabelled, its row,
column and covariate effects removed before and after (double semi-partialling), and the slope is
computed again. Permuting only within formats keeps the format blocks where they are.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd

from helpers.errors import BadFit, unknown
from helpers.stats import design

BOTH = ("rows", "columns")
CELLS_AT_ONCE = 3_000_000  # numbers held per batch of permutations: about 24 MB
LEAST_CELLS = 20  # of a measure, to be in a family of measures
CLOSE = 1e-10  # relative slack when a permuted statistic ties with the observed one


class Permuted(NamedTuple):
    """Slope of the outcome on the predictor, two-sided p, the least p, slopes under relabelling."""

    estimate: float
    p: float
    smallest: float
    null: np.ndarray


@dataclass(frozen=True)
class Grid:
    """A table of intermediates by targets, as arrays with NaN where there is nothing."""

    rows: np.ndarray
    columns: np.ndarray
    outcome: np.ndarray
    predictors: np.ndarray  # as given: shape (columns of data, rows, columns)
    given: np.ndarray
    row_groups: np.ndarray  # labels move inside groups only
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
    tasks, values = [rows, columns], [outcome, *predictors, *given]
    design.require(data, [*tasks, *(within or ())])
    for column in set(values) - set(data.columns):
        raise unknown("column", column, map(str, data.columns))
    if (twice := data.duplicated(tasks)).any():
        pair = " x ".join(data.loc[twice, tasks].iloc[0].astype(str))
        said = "average languages and seeds first (gains.dyads), of one encoder and condition"
        raise BadFit(f"{pair} appears more than once: {said}.")
    keyed = data.assign(**data[tasks].astype(str))
    wide = keyed.set_index(tasks)[values].astype(float).unstack()
    names = [np.sort(keyed[task].unique()) for task in tasks]
    arrays = wide.to_numpy().reshape(names[0].size, -1, names[1].size).transpose(1, 0, 2).copy()
    groups = [np.zeros(n.size, int) for n in names]
    for k, format in enumerate(within or ()):
        formats = keyed[[tasks[k], format]].astype(str).drop_duplicates()
        if (more := formats[tasks[k]].duplicated()).any():
            task = formats.loc[more, tasks[k]].iloc[0]
            raise BadFit(f"{task!r} has more than one value of {format!r}; a task has one format.")
        formats = formats.sort_values(tasks[k])  # as the names are
        groups[k] = np.asarray(pd.factorize(formats[format], sort=True)[0])
    last = 1 + len(predictors)
    tables = (arrays[0], arrays[1:last], arrays[last:])
    return Grid(names[0], names[1], *tables, groups[0], groups[1])


def effects_basis(table: Grid, used: np.ndarray, effects: Sequence[str]) -> np.ndarray:
    """Return an orthonormal basis (cells, rank) of the effects to remove; mean and given always."""
    i, j = np.nonzero(used)
    blocks = table.row_groups[i] * (table.column_groups.max() + 1) + table.column_groups[j]
    by, parts = {"rows": i, "columns": j, "blocks": blocks}, [np.ones((i.size, 1))]
    parts += [(by[e][:, None] == np.unique(by[e])).astype(float) for e in effects]
    parts += [z[i, j][:, None] for z in table.given]
    u, s, _ = np.linalg.svd(np.hstack(parts), full_matrices=False)
    return u[:, s > 1e-9 * s[0]]


def relabellings(table: Grid, n: int, seed: int) -> tuple[Iterator[np.ndarray], bool]:
    """Return batches (batch, rows + columns) of all or ``n`` random relabellings, and whether of all."""
    if n < 1:
        raise BadFit(f"n must be at least 1 permutation; it is {n}.")
    groups = (table.row_groups, table.column_groups)
    count = math.prod(math.factorial(int(k)) for g in groups for k in np.bincount(g))
    batch = max(1, CELLS_AT_ONCE // (table.predictors.size or 1))
    if count <= n:
        every = itertools.product(*(list(_within(g)) for g in groups))
        orders = np.array([np.concatenate(pair) for pair in every])
        return (orders[k : k + batch] for k in range(0, count, batch)), True
    rng = np.random.default_rng(seed)
    sizes = (min(batch, n - k) for k in range(0, n, batch))
    return (random_orders(table, size, rng) for size in sizes), False


def _within(groups: np.ndarray) -> Iterator[np.ndarray]:
    members = [np.flatnonzero(groups == g) for g in np.unique(groups)]
    for choice in itertools.product(*(itertools.permutations(m) for m in members)):
        order = np.empty(groups.size, int)
        order[np.concatenate(members)] = np.concatenate(choice)
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


def relabel(table: np.ndarray, order: np.ndarray, used: np.ndarray) -> np.ndarray:
    """Return a relabelled table (rows, columns) at the used cells, shape (batch, cells)."""
    count, columns = table.shape
    i, j = np.nonzero(used)
    return table.ravel()[order[:, i] * columns + order[:, count + j]]


@dataclass(frozen=True)
class Regression:
    """Regression of an outcome on a predictor over the ``used`` cells, effects (``basis``) removed."""

    used: np.ndarray
    basis: np.ndarray
    outcome: np.ndarray
    predictor: np.ndarray  # (rows, columns), without the effects, 0 where undefined
    df: int

    def of(self, predictor: np.ndarray) -> np.ndarray:
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
        return np.array([slope, slope * np.sqrt(left * self.df / rss), slope * np.sqrt(left / yy)])


def regression(
    table: Grid, measure: int, name: str, effects: Sequence[str], predictor: np.ndarray
) -> Regression:
    """Prepare the regression on one measure of a grid, given its `residual_tables`, or say why not."""
    used = np.isfinite(table.outcome) & np.isfinite(table.given).all(0)
    used &= np.isfinite(table.predictors[measure])
    if not used.any():
        raise BadFit(f"{name!r} has no value for any dyad with an outcome; leave it out.")
    basis = effects_basis(table, used, effects)
    y, x, raw = table.outcome[used], predictor[used], table.predictors[measure][used]
    df = y.size - basis.shape[1] - 1
    if df < 1:
        said = f"{y.size} cells cannot carry {basis.shape[1]} effects and a slope"
        raise BadFit(f"{said}: add intermediates or targets, or remove fewer effects.")
    rest = y - basis @ (basis.T @ y)
    if rest @ rest <= 1e-20 * max(y @ y, 1e-300):
        raise BadFit("nothing of the outcome is left once the effects are removed.")
    if np.linalg.norm(x - basis @ (basis.T @ x)) <= 1e-8 * max(float(np.linalg.norm(raw)), 1e-300):
        gone = f"{', '.join(effects) or 'the mean'} and covariates are removed"
        raise BadFit(f"{name!r} does not vary once {gone}; remove fewer effects or leave it out.")
    return Regression(used, basis, rest, predictor, df)


def residual_tables(table: Grid, effects: Sequence[str]) -> np.ndarray:
    """Return the predictors without the effects, 0 where undefined, shape as the predictors."""
    out = np.zeros_like(table.predictors)
    for k, x in enumerate(table.predictors):
        known = np.isfinite(x) & np.isfinite(table.given).all(0)
        if known.any():
            basis, values = effects_basis(table, known, effects), x[known]
            rest = values - basis @ (basis.T @ values)
            small = np.linalg.norm(rest) <= 1e-10 * max(float(np.linalg.norm(values)), 1e-300)
            out[k][known] = 0.0 if small else rest
    return out


def relabelled(
    table: Grid, fits: Sequence[Regression], n: int, seed: int
) -> tuple[np.ndarray, bool]:
    """Return slope, t and partial correlation (3, fits, relabellings), the same for all, and if exact."""
    batches, exact = relabellings(table, n, seed)
    null = [
        np.stack([fit.of(relabel(fit.predictor, orders, fit.used)) for fit in fits], axis=1)
        for orders in batches
    ]
    return np.concatenate(null, axis=2), exact


def p_values(null: np.ndarray, observed: np.ndarray, exact: bool) -> np.ndarray:
    """Return the share of the null (measures, permutations) that lies as far from zero as observed."""
    beyond = (np.abs(null) >= np.abs(observed)[:, None] * (1 - CLOSE)).sum(1)
    return beyond / null.shape[1] if exact else (1 + beyond) / (1 + null.shape[1])


def _tested(
    table: Grid, names: Sequence[str], n: int, seed: int
) -> tuple[pd.DataFrame, np.ndarray, bool]:
    """Return estimate, t, cells and p per measure, the null of those that can be tested, and if exact."""
    tables, fits = residual_tables(table, BOTH), dict[str, Regression]()
    problem = BadFit("there is no measure to test; name at least one column.")
    for k, name in enumerate(names):
        try:
            fits[name] = regression(table, k, name, BOTH, tables[k])
        except BadFit as error:
            problem = error
    if not fits:
        raise problem
    null, exact = relabelled(table, list(fits.values()), n, seed)
    observed = [fit.of(fit.predictor[fit.used])[:2] for fit in fits.values()]
    found = pd.DataFrame(observed, [*fits], ["estimate", "t"])
    found["cells"] = [int(fit.used.sum()) for fit in fits.values()]
    fixed = np.ptp(null[0], axis=1) <= 1e-10 * np.maximum(found["estimate"].abs(), 1e-300)
    if fixed.all():
        said = f"relabelling within groups leaves the slope of {found.index[-1]!r} unchanged"
        raise BadFit(f"{said}: it is fixed by the groups. Test it with within=None.")
    found["p"] = p_values(null[1], found["t"].to_numpy(), exact)
    found.loc[fixed, ["estimate", "t", "p"]] = np.nan
    return found, null[:, ~fixed.to_numpy()], exact


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
) -> Permuted:
    """Test the slope of a dyad outcome on a similarity by relabelling tasks, their own effects removed.

    Args:
        data: one row per dyad; rows without an outcome only lend their predictor.
        outcome, predictor: numeric columns.
        rows, columns: the two tasks of a dyad.
        within: columns with the formats of the two tasks; labels then move only within formats.
        n, seed: random relabellings; where fewer exist, each is used once and p is exact.
        given: further covariates, removed from both sides.

    Returns:
        Slope, two-sided p of its t statistic ((1 + b) / (1 + n) if random), the smallest p that these
        relabellings can give (several tie with the largest t where tasks have the same similarities),
        slopes under relabelling.

    Raises:
        BadFit: cells appear twice or are too few, or the predictor cannot be told from the effects.

    Source: Dekker, Krackhardt & Snijders, Psychometrika 72 (2007), double semi-partialling;
        Phipson & Smyth, Stat. Appl. Genet. Mol. Biol. 9 (2010) for the p-value.
    """
    table = grid(data, outcome, [predictor], rows, columns, within, given)
    found, null, exact = _tested(table, [predictor], n, seed)
    t = np.abs(null[1, 0])
    smallest = float((t >= t.max() * (1 - CLOSE)).sum() / (t.size if exact else t.size + 1))
    estimate, p = found[["estimate", "p"]].iloc[0].astype(float)
    return Permuted(estimate, p, smallest, null[0, 0])


def min_p(
    data: pd.DataFrame,
    outcome: str,
    predictors: Sequence[str],
    rows: str,
    columns: str,
    within: tuple[str, str] | None = None,
    n: int = 9999,
    seed: int = 0,
) -> pd.DataFrame:
    """Test many similarities at once as `qap` does: estimate, t, cells, p and p_min_p by measure.

    All are relabelled alike, so the family-wise p_min_p knows how measures go together (Westfall & Young
    1993, single-step minP); each is judged by its own null. One without a value, or fixed by the groups,
    has none of them; one with less than ``LEAST_CELLS`` is not in the family.
    """
    table = grid(data, outcome, predictors, rows, columns, within)
    found, null, exact = _tested(table, predictors, n, seed)
    tested = found[found["p"].notna()]
    # of a random null the observed table is one more relabelling
    every = null[1] if exact else np.column_stack([tested["t"], null[1]])
    family = np.abs(every[(tested["cells"] >= LEAST_CELLS).to_numpy()])
    least = np.ones(every.shape[1])
    for t in family:
        beyond = t.size - np.searchsorted(np.sort(t), t * (1 - CLOSE))
        least = np.minimum(least, beyond / t.size)
    at_most = np.searchsorted(np.sort(least), tested["p"] * (1 + CLOSE), side="right") / least.size
    found["p_min_p"] = pd.Series(at_most, tested.index).where(tested["cells"] >= LEAST_CELLS)
    found = found.reindex(pd.Index(predictors, name="measure"))
    return found.assign(cells=found["cells"].fillna(0).astype(int))
