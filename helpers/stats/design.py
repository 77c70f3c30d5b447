"""From named columns to the arrays of a mixed model, with every doubt put into a sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from helpers.errors import BadFit, unknown

INTERCEPT = "(intercept)"
# Below this share of a column or kernel left unexplained by the earlier ones, it counts as one of
# them: rounding leaves about 1e-15, the closest real measures seen leave more than 1e-4.
ALIASED = 1e-9


@dataclass(frozen=True)
class Term:
    """One random effect: a grouping, or a slope within a grouping.

    Attributes:
        name: as the caller wrote it.
        codes: level number of each row, shape (rows,).
        levels: level names in the order of their codes.
        slope: covariate whose slope varies by level, shape (rows,); ones for an intercept.
    """

    name: str
    codes: np.ndarray
    levels: tuple[str, ...]
    slope: np.ndarray

    def matrix(self) -> np.ndarray:
        """Return the dense design of the effect, shape (rows, levels)."""
        z = np.zeros((self.codes.size, len(self.levels)))
        z[np.arange(self.codes.size), self.codes] = self.slope
        return z


@dataclass(frozen=True)
class Design:
    """Arrays of a mixed model.

    Attributes:
        y: outcome, shape (rows,).
        x: fixed effects with the intercept first, shape (rows, fixed).
        names: names of the columns of ``x``.
        terms: the random effects that can be estimated.
        weights: known relative precisions, shape (rows,).
        notes: plain sentences about effects that were left out.
        levels: levels of the fixed effects that are categories.
    """

    y: np.ndarray
    x: np.ndarray
    names: tuple[str, ...]
    terms: tuple[Term, ...]
    weights: np.ndarray
    notes: tuple[str, ...]
    levels: Mapping[str, tuple[str, ...]]


def columns_of(data: pd.DataFrame, names: Sequence[str]) -> list[str]:
    """Return the data columns that terms such as ``"a"``, ``"a:b"`` or ``"x|a:b"`` refer to."""
    sides = [side for name in names for side in ([name] if name in data else name.split("|"))]
    return list(dict.fromkeys(part for side in sides for part in factors(data, side)))


def factors(data: pd.DataFrame, name: str) -> list[str]:
    """Return the columns of a product; a name that is a column itself, such as e5:logme, is one."""
    return [name] if name in data else name.split(":")


def require(data: pd.DataFrame, columns: Sequence[str], numeric: Sequence[str] = ()) -> None:
    """Check that columns exist and hold a value in every row.

    Args:
        data: the table.
        columns: columns that must be there and complete.
        numeric: those of them that must hold finite numbers.

    Raises:
        UnknownName: a column does not exist.
        BadFit: there are no rows, a value is missing, or a number is not finite.
    """
    for column in columns:
        if column not in data.columns:
            raise unknown("column", column, map(str, data.columns))
    if data.empty:
        raise BadFit("the table has no rows; check the filters that made it.")
    for column in columns:
        values = data[column]
        if column in numeric:
            values = pd.Series(np.where(np.isfinite(_numbers(data, column)), 1.0, np.nan))
        missing = int(values.isna().sum())
        if missing:
            raise BadFit(
                f"{missing} of {len(data)} rows have no usable value of {column!r}. Nothing is "
                f"imputed here: leave those rows out on purpose, data.dropna(subset=[{column!r}]), "
                "and say so, or complete the runs that are missing."
            )


def _numbers(data: pd.DataFrame, column: str) -> np.ndarray:
    """Return a column as floats, or say why it is not one."""
    try:
        return data[column].to_numpy(dtype=float, na_value=np.nan)
    except (TypeError, ValueError):
        raise BadFit(
            f"column {column!r} must hold numbers; it holds {data[column].dtype}."
        ) from None


def is_number(data: pd.DataFrame, column: str) -> bool:
    """Tell whether a column holds numbers or truth values (else it is a category)."""
    return bool(
        pd.api.types.is_numeric_dtype(data[column]) or pd.api.types.is_bool_dtype(data[column])
    )


def categories(data: pd.DataFrame, fixed: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return the levels of each fixed effect that is a category, in sorted order."""
    text = [c for c in columns_of(data, fixed) if not is_number(data, c)]
    levels = {c: tuple(sorted(data[c].astype(str).unique())) for c in text}
    for column, values in levels.items():
        if pd.to_numeric(pd.Series(values), errors="coerce").notna().all():
            raise BadFit(
                f"{column!r} holds numbers written as text, such as {values[0]!r}: convert it with "
                f"pandas.to_numeric(data[{column!r}]), or give its categories names."
            )
    return levels


def expand(
    data: pd.DataFrame, name: str, levels: Mapping[str, Sequence[str]]
) -> list[tuple[str, np.ndarray]]:
    """Return the design columns of one fixed effect; the first level of a category is left out.

    Args:
        data: one row per observation.
        name: a column, or ``"a:b"`` for a product.
        levels: levels of each category, see `categories`.

    Raises:
        BadFit: a category has one level, or a row has a level that is not among them.
    """
    out = [("", np.ones(len(data)))]
    for column in factors(data, name):
        if column in levels:
            pieces = _indicators(data, column, levels[column])
        else:
            pieces = [(column, _numbers(data, column))]
        out = [(f"{a}:{b}".lstrip(":"), u * v) for a, u in out for b, v in pieces]
    return out


def _indicators(
    data: pd.DataFrame, column: str, levels: Sequence[str]
) -> list[tuple[str, np.ndarray]]:
    text = data[column].astype(str)
    if len(levels) < 2:
        raise BadFit(
            f"{column!r} has the single value {levels[0]!r}, so it has no effect to "
            "estimate; remove it from the fixed effects or add rows that differ in it."
        )
    new = sorted(set(text) - set(levels))
    if new:
        raise BadFit(
            f"{column!r} has the value {new[0]!r}, which the fit has not seen (it knows "
            f"{', '.join(levels)}), so it cannot be predicted."
        )
    return [(f"{column}={v}", (text == v).to_numpy(float)) for v in levels[1:]]


def fixed_matrix(data: pd.DataFrame, fixed: Sequence[str]) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return the fixed-effects matrix, intercept first, and its column names.

    Args:
        data: one row per observation.
        fixed: column names; text columns become indicators, ``"a:b"`` is a product.

    Raises:
        BadFit: a column is constant, or a combination of the earlier ones.
    """
    columns = [(INTERCEPT, np.ones(len(data)))]
    levels = categories(data, fixed)
    for name in fixed:
        columns += expand(data, name, levels)
    refuse_aliased(columns)
    return np.column_stack([c for _, c in columns]), tuple(n for n, _ in columns)


def refuse_aliased(columns: Sequence[tuple[str, np.ndarray]]) -> None:
    """Raise if a column is constant or a linear combination of the columns before it.

    Args:
        columns: names and values, the intercept first.

    Raises:
        BadFit: which column, and what to do.
    """
    basis = np.zeros((columns[0][1].size, 0))
    for position, (name, column) in enumerate(columns):
        rest = column - basis @ (basis.T @ column)
        rest = rest - basis @ (basis.T @ rest)  # twice: one pass loses digits when nearly aliased
        norm, full = np.linalg.norm(rest), np.linalg.norm(column)
        if norm > np.sqrt(ALIASED) * max(full, 1e-300):
            basis = np.column_stack([basis, rest / norm])
            continue
        if position == 1 or np.ptp(column) <= 1e-12 * max(1.0, np.abs(column).max()):
            raise BadFit(
                f"{name!r} is constant over the {column.size} rows, so its effect cannot be "
                "estimated; remove it, or check how it was computed."
            )
        others = ", ".join(repr(n) for n, _ in columns[1:position])
        raise BadFit(
            f"{name!r} is a linear combination of {others or 'the intercept'}: their effects cannot"
            " be told apart; keep one of them, or combine them into one measure."
        )


def random_term(data: pd.DataFrame, name: str) -> Term:
    """Return one random effect.

    Args:
        data: one row per observation.
        name: ``"a"``; ``"a:b"`` for each combination of two columns; ``"x|a"`` for a slope of
            ``x`` that varies by ``a``, independent of the intercepts.
    """
    slope, _, group = ("", "", name) if name in data else name.rpartition("|")
    first, *others = factors(data, group)
    text = data[first].astype(object)
    for column in others:
        text = text.astype(str) + " x " + data[column].astype(object).astype(str)
    codes, levels = pd.factorize(text.to_numpy(), sort=True)
    by = _numbers(data, slope) if slope else np.ones(len(data))
    return Term(name, codes, tuple(map(str, levels)), by)


def estimable(
    x: np.ndarray, terms: Sequence[Term], weights: np.ndarray, residual: bool = True
) -> tuple[tuple[Term, ...], tuple[str, ...]]:
    """Keep the random effects whose variance the design can tell from the others.

    Each effect adds a known matrix (its kernel) to the covariance of the rows. After projecting
    out the fixed effects, an effect whose kernel is a combination of the earlier kernels and of
    the residual has no variance of its own. This one rule covers a single level, a level per row,
    the same grouping under two names, and a grouping that the fixed effects use up.

    Args:
        x: fixed effects, shape (rows, fixed).
        terms: candidate effects; earlier ones win.
        weights: known relative precisions, shape (rows,).
        residual: whether a residual variance is estimated too.

    Returns:
        The effects kept, and one sentence for each effect left out.
    """
    root = np.sqrt(weights)[:, None]
    q, _ = np.linalg.qr(x * root)
    free = [_project(q, term.matrix() * root) for term in terms]
    rows = x.shape[0] - x.shape[1]
    kept: list[int] = []
    notes: list[str] = []
    for k, term in enumerate(terms):
        own = float(np.sum((free[k].T @ free[k]) ** 2))
        if own <= ALIASED * max(1.0, float(np.sum(weights)) ** 2) or not _new(
            free, kept, k, own, rows if residual else 0
        ):
            notes.append(_why_left_out(term, own, [terms[j].name for j in kept]))
        else:
            kept.append(k)
    return tuple(terms[k] for k in kept), tuple(notes)


def _project(q: np.ndarray, z: np.ndarray) -> np.ndarray:
    return z - q @ (q.T @ z)


def _new(free: list[np.ndarray], kept: list[int], k: int, own: float, rows: int) -> bool:
    """Tell whether kernel ``k`` is more than a combination of the kept ones and the residual."""
    cross = [float(np.sum((free[j].T @ free[k]) ** 2)) for j in kept]
    gram = [[float(np.sum((free[i].T @ free[j]) ** 2)) for j in kept] for i in kept]
    if rows:
        traces = [float(np.sum(free[j] ** 2)) for j in kept]
        gram = [row + [trace] for row, trace in zip(gram, traces, strict=True)]
        gram.append([*traces, float(rows)])
        cross.append(float(np.sum(free[k] ** 2)))
    if not cross:
        return True
    weight = np.linalg.lstsq(np.array(gram), np.array(cross), rcond=None)[0]
    return bool(own - np.array(cross) @ weight > 1e-7 * own)


def _why_left_out(term: Term, own: float, kept: list[str]) -> str:
    if len(term.levels) == 1:
        why = f"it has one level, {term.levels[0]!r}"
    elif len(term.levels) == term.codes.size:
        why = "it has one level per row, which is what the residual is"
    elif own == 0 or not kept:
        why = "the fixed effects and the residual already account for it"
    else:
        why = f"this table cannot tell it from {', '.join(kept)} and the residual"
    return f"random effect {term.name!r} was left out: {why}."


def build(
    data: pd.DataFrame,
    outcome: str,
    fixed: Sequence[str],
    random: Sequence[str],
    weights: str | None = None,
    residual: bool = True,
) -> Design:
    """Return the arrays of a mixed model, or say why it cannot be fitted.

    Args:
        data: one row per observation.
        outcome: numeric column.
        fixed: fixed effects, see `fixed_matrix`; the intercept is always there.
        random: random effects, see `random_term`.
        weights: column of known relative precisions (the variance of a row is divided by it).
        residual: whether a residual variance is estimated.

    Raises:
        UnknownName: a column does not exist.
        BadFit: values are missing, a measure is constant or collinear, or there are too few rows.
    """
    slopes = [name.split("|")[0] for name in random if "|" in name and name not in data]
    used = columns_of(data, [*fixed, *random])
    numeric = [c for c in columns_of(data, fixed) if c in data and is_number(data, c)]
    extra = [weights] if weights else []
    require(data, [outcome, *used, *extra], [outcome, *numeric, *slopes, *extra])
    y = _numbers(data, outcome)
    x, names = fixed_matrix(data, fixed)
    w = _numbers(data, weights) if weights else np.ones(len(data))
    if np.any(w <= 0):
        raise BadFit(f"weights in {weights!r} must be above zero; leave such rows out instead.")
    if np.ptp(y) == 0:
        raise BadFit(f"{outcome!r} is {y[0]:g} in every row; there is nothing to explain.")
    _refuse_too_few(len(y), len(names), len(random))
    terms, notes = estimable(x, [random_term(data, name) for name in random], w, residual)
    return Design(y, x, names, terms, w, notes, categories(data, fixed))


def _refuse_too_few(rows: int, fixed: int, random: int) -> None:
    need = fixed + random + 2
    if rows < need:
        raise BadFit(
            f"{rows} rows cannot carry {fixed} fixed effects and {random + 1} variances (at least "
            f"{need} rows are needed): add intermediates or targets, or ask for fewer effects."
        )


def double_centre(matrix: np.ndarray) -> np.ndarray:
    """Return a complete matrix without its row and column means, shape unchanged."""
    m = np.asarray(matrix, float)
    return m - m.mean(1, keepdims=True) - m.mean(0, keepdims=True) + m.mean()


def standardise(data: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """Return a copy in which numeric columns have mean 0 and standard deviation 1.

    Args:
        data: one row per observation; missing values stay missing.
        columns: columns to change.

    Raises:
        BadFit: a column is constant.
    """
    out = data.copy()
    for column in columns:
        values = _numbers(data, column)
        if not np.isfinite(values).any():
            raise BadFit(f"{column!r} has no value in any row, so it cannot be used; leave it out.")
        spread = np.nanstd(values, ddof=1) if np.isfinite(values).sum() > 1 else 0.0
        if not spread > 1e-12 * max(1.0, float(np.nanmax(np.abs(values), initial=0.0))):
            raise BadFit(f"{column!r} is constant, so it cannot be standardised; leave it out.")
        out[column] = (values - np.nanmean(values)) / spread
    return out
