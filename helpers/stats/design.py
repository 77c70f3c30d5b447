"""From named columns to the arrays of a mixed model, with every doubt put into a sentence."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from pandas.api.types import is_numeric_dtype

from helpers.errors import BadFit, known

INTERCEPT = "(intercept)"
# Below this share of a column or kernel left unexplained by the earlier ones, it counts as one of
# them: rounding leaves about 1e-15, the closest real measures seen leave more than 1e-4.
ALIASED = 1e-9


@dataclass(frozen=True)
class Term:
    """One random effect: level number per row, level names, and the slope covariate (ones: intercepts)."""

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
    """Outcome, fixed effects (intercept first), random effects kept, weights, sentences on those left out."""

    y: np.ndarray
    x: np.ndarray
    names: tuple[str, ...]
    terms: tuple[Term, ...]
    weights: np.ndarray
    notes: tuple[str, ...]
    levels: Mapping[str, Sequence[str]]  # of each fixed effect that is a category


def columns_of(data: pd.DataFrame, names: Sequence[str]) -> list[str]:
    """Return the data columns that terms such as ``"a"``, ``"a:b"`` or ``"x|a:b"`` refer to."""
    sides = [side for name in names for side in ([name] if name in data else name.split("|"))]
    return list(dict.fromkeys(part for side in sides for part in factors(data, side)))


def factors(data: pd.DataFrame, name: str) -> list[str]:
    """Return the columns of a product; a name that is a column itself, such as e5:logme, is one."""
    return [name] if name in data else name.split(":")


def require(data: pd.DataFrame, columns: Sequence[str], numeric: Sequence[str] = ()) -> None:
    """Raise unless the columns exist and hold a value, the numeric ones a finite one, in each row."""
    for column in columns:
        known("column", column, [*map(str, data.columns)])
    if data.empty:
        raise BadFit("the table has no rows; check the filters that made it.")
    for column in columns:
        usable = np.isfinite(numbers(data, column)) if column in numeric else data[column].notna()
        if missing := int((~usable).sum()):
            said = f"{missing} of {len(data)} rows have no usable value of {column!r}"
            raise BadFit(f"{said}: complete the runs, or data.dropna(subset=[{column!r}]).")


def numbers(data: pd.DataFrame, column: str) -> np.ndarray:
    """Return a column as floats, or say why it is not one."""
    try:
        return data[column].to_numpy(dtype=float, na_value=np.nan)
    except (TypeError, ValueError):
        raise BadFit(f"column {column!r} must hold numbers, not {data[column].dtype}.") from None


def categories(data: pd.DataFrame, fixed: Sequence[str]) -> dict[str, list[str]]:
    """Return the levels of each fixed effect that is a category, in sorted order."""
    text = [c for c in columns_of(data, fixed) if not is_numeric_dtype(data[c])]
    levels = {c: sorted(data[c].astype(str).unique()) for c in text}
    for column, values in levels.items():
        if pd.to_numeric(pd.Series(values), errors="coerce").notna().all():
            said = f"{column!r} holds numbers written as text, such as {values[0]!r}"
            raise BadFit(f"{said}: use pandas.to_numeric, or give its categories names.")
    return levels


def expand(
    data: pd.DataFrame, name: str, levels: Mapping[str, Sequence[str]]
) -> list[tuple[str, np.ndarray]]:
    """Return the design columns of one fixed effect; the first level of a category is left out."""
    out = [("", np.ones(len(data)))]
    for column in factors(data, name):
        pieces = [(column, data[column])]
        if column in levels:
            text, seen = data[column].astype(str), levels[column]
            if len(seen) < 2:
                raise BadFit(f"{column!r} has the single value {seen[0]!r}: leave it out.")
            if new := sorted(set(text) - set(seen)):
                said = f"{column!r} has the value {new[0]!r}, which the fit has not seen"
                raise BadFit(f"{said}, so it cannot be predicted; it knows {', '.join(seen)}.")
            pieces = [(f"{column}={value}", text == value) for value in seen[1:]]
        out = [(f"{a}:{b}".lstrip(":"), u * v.to_numpy(float)) for a, u in out for b, v in pieces]
    return out


def fixed_matrix(data: pd.DataFrame, fixed: Sequence[str]) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return the fixed-effects matrix (rows, fixed), intercept first, and its column names."""
    levels = categories(data, fixed)
    columns = [(INTERCEPT, np.ones(len(data)))]
    columns += [pair for name in fixed for pair in expand(data, name, levels)]
    basis = np.zeros((len(data), 0))
    for position, (name, column) in enumerate(columns):
        rest = column - basis @ (basis.T @ column)
        rest = rest - basis @ (basis.T @ rest)  # twice: one pass loses digits when nearly aliased
        norm = np.linalg.norm(rest)
        if norm > np.sqrt(ALIASED) * max(np.linalg.norm(column), 1e-300):
            basis = np.column_stack([basis, rest / norm])
            continue
        if position == 1 or np.ptp(column) <= 1e-12 * max(1.0, np.abs(column).max()):
            raise BadFit(f"{name!r} is constant over the {column.size} rows; leave it out.")
        others = ", ".join(repr(n) for n, _ in columns[1:position])
        raise BadFit(f"{name!r} is a linear combination of {others}: keep one of them.")
    return np.column_stack([c for _, c in columns]), tuple(n for n, _ in columns)


def random_term(data: pd.DataFrame, name: str) -> Term:
    """Return one random effect: ``"a"``, ``"a:b"`` for combinations, ``"x|a"`` for slopes by a."""
    slope, _, group = ("", "", name) if name in data else name.rpartition("|")
    first, *others = factors(data, group)
    text = data[first].astype(object)
    for column in others:
        text = text.astype(str) + " x " + data[column].astype(object).astype(str)
    codes, levels = pd.factorize(text.to_numpy(), sort=True)
    by = numbers(data, slope) if slope else np.ones(len(data))
    return Term(name, codes, tuple(map(str, levels)), by)


def estimable(
    x: np.ndarray, terms: Sequence[Term], weights: np.ndarray
) -> tuple[tuple[Term, ...], tuple[str, ...]]:
    """Keep the random effects whose variance the design can tell from the others; say why not the rest.

    Each effect adds a known matrix (its kernel) to the covariance of the rows. After projecting out the
    fixed effects, an effect whose kernel is a combination of the earlier kernels and of the residual
    has no variance of its own.
    """
    if not terms:
        return (), ()
    root = np.sqrt(weights)[:, None]
    q, _ = np.linalg.qr(x * root)
    z = np.hstack([term.matrix() * root for term in terms])
    along = q.T @ z
    left = z.T @ z - along.T @ along
    # inner products of the kernels, the residual's last
    cut = np.cumsum([0, *(len(term.levels) for term in terms[:-1])])
    among = np.add.reduceat(np.add.reduceat(left**2, cut, axis=0), cut, axis=1)
    traces = np.add.reduceat(left.diagonal(), cut)
    gram = np.block([[among, traces[:, None]], [traces, np.array([x.shape[0] - x.shape[1]])]])
    kept: list[int] = []
    notes: list[str] = []
    for k, term in enumerate(terms):
        others = [*kept, len(terms)]
        own, cross = gram[k, k], gram[others, k]
        weight = np.linalg.lstsq(gram[np.ix_(others, others)], cross, rcond=None)[0]
        nothing = own <= ALIASED * max(1.0, float(np.sum(weights)) ** 2)
        if not nothing and own - cross @ weight > 1e-7 * own:
            kept.append(k)
            continue
        names = ", ".join(terms[j].name for j in kept)
        why = f"this table cannot tell it from {names} and the residual"
        if len(term.levels) == 1:
            why = f"it has one level, {term.levels[0]!r}"
        elif len(term.levels) == term.codes.size:
            why = "it has one level per row, which is what the residual is"
        elif nothing or not kept:
            why = "the fixed effects and the residual already account for it"
        notes.append(f"random effect {term.name!r} was left out: {why}.")
    return tuple(terms[k] for k in kept), tuple(notes)


def build(
    data: pd.DataFrame,
    outcome: str,
    fixed: Sequence[str],
    random: Sequence[str],
    weights: str | None = None,
) -> Design:
    """Return the arrays of a mixed model, see `reml.crossed_reml`, or say why it cannot be fitted."""
    slopes = [name.split("|")[0] for name in random if "|" in name and name not in data]
    numeric = [c for c in columns_of(data, fixed) if c in data and is_numeric_dtype(data[c])]
    extra = [weights] if weights else []
    used = [outcome, *columns_of(data, [*fixed, *random]), *extra]
    require(data, used, [outcome, *numeric, *slopes, *extra])
    y, (x, names) = numbers(data, outcome), fixed_matrix(data, fixed)
    w = numbers(data, weights) if weights else np.ones(len(data))
    if np.any(w <= 0):
        raise BadFit(f"weights in {weights!r} must be above zero; leave such rows out instead.")
    if np.ptp(y) == 0:
        raise BadFit(f"{outcome!r} is {y[0]:g} in every row; there is nothing to explain.")
    if len(y) < (need := len(names) + len(random) + 2):
        said = f"{len(y)} rows cannot carry {len(names)} effects and {len(random) + 1} variances"
        raise BadFit(f"{said} (at least {need}): add tasks, or ask for fewer effects.")
    terms, notes = estimable(x, [random_term(data, name) for name in random], w)
    return Design(y, x, names, terms, w, notes, categories(data, fixed))


def standardise(data: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """Return a copy in which numeric columns have mean 0 and standard deviation 1; missing stay missing."""
    out = data.copy()
    for column in columns:
        values = numbers(data, column)
        if not np.isfinite(values).any():
            raise BadFit(f"{column!r} has no value in any row, so it cannot be used; leave it out.")
        spread = np.nanstd(values, ddof=1) if np.isfinite(values).sum() > 1 else 0.0
        if not spread > 1e-12 * max(1.0, float(np.nanmax(np.abs(values)))):
            raise BadFit(f"{column!r} is constant, so it cannot be standardised; leave it out.")
        out[column] = (values - np.nanmean(values)) / spread
    return out
