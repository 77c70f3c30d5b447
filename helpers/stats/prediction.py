"""Out-of-sample prediction of gains, and which measures of similarity say the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import comb

import numpy as np
import pandas as pd
from scipy import stats
from scipy.cluster import hierarchy
from scipy.spatial import distance

from helpers.errors import BadFit
from helpers.stats import design, permutation, reml
from helpers.stats.reml import Fit


@dataclass(frozen=True)
class Forecast:
    """Joint prediction of new rows: mean (rows,), error covariance (rows, rows), df (rows,)."""

    mean: np.ndarray
    covariance: np.ndarray
    df: np.ndarray

    def table(self, level: float = 0.95) -> pd.DataFrame:
        """Return predicted, se, df, low, high; the interval is for one new observation."""
        se = np.sqrt(np.diag(self.covariance))
        half = stats.t.ppf(0.5 + level / 2, self.df) * se
        ends = {"low": self.mean - half, "high": self.mean + half}
        return pd.DataFrame({"predicted": self.mean, "se": se, "df": self.df, **ends})


def forecast(fit: Fit, new: pd.DataFrame, fixed: Sequence[str]) -> Forecast:
    """Predict new rows from a fit: fixed effects as asked for, and random effects of the levels seen.

    Error covariance: random effects, fixed effects and residual (Henderson 1975); df: Satterthwaite.
    """
    used = design.columns_of(new, fixed)
    design.require(new, used, [c for c in used if c in new and design.is_number(new, c)])
    pieces = {design.INTERCEPT: np.ones(len(new))}
    for name in fixed:
        pieces |= dict(design.expand(new, name, fit.design.levels))
    if missing := [n for n in fit.design.names if n not in pieces]:
        raise BadFit(f"cannot build {', '.join(missing)} for the new rows; pass the fit's effects.")
    x = np.column_stack([pieces[n] for n in fit.design.names])
    # the new rows on the levels seen, and each effect's kernel among the new rows
    seen, kernels = [np.zeros((len(new), 0))], []
    for term in fit.design.terms:
        design.require(new, design.columns_of(new, [term.name]))
        fresh = design.random_term(new, term.name)
        names = np.asarray(fresh.levels, object)[fresh.codes]
        known = names[:, None] == np.asarray(term.levels, object)[None, :]
        seen.append(known * fresh.slope[:, None])
        kernels.append((names[:, None] == names[None, :]) * np.outer(fresh.slope, fresh.slope))
    v, state = fit.peak.variances, fit.peak.state
    slopes = fit.peak.slopes
    z = (raw := np.hstack(seen)) * fit.cross.per_level(v[:-1] / v[-1])
    left = x - z @ slopes.zhx
    error = np.eye(len(z)) - z @ slopes.zhz @ z.T + left @ np.linalg.solve(state.info, left.T)
    among = sum((s * k for s, k in zip(v, kernels, strict=False)), np.zeros_like(error))
    covariance = v[-1] * error + among
    # a prediction minimises its error's variance, so that the derivative of that variance in one
    # component sees only the kernel of the error, y_new - weights @ y; it is linear in all of them
    apart = raw - z @ slopes.zhz - left @ np.linalg.solve(state.info, slopes.zhx.T)
    cut = zip(fit.cross.starts[:-1], fit.cross.starts[1:], strict=True)
    turn = [
        (apart[:, a:b] ** 2 - raw[:, a:b] ** 2).sum(1) + np.diag(kernel)
        for (a, b), kernel in zip(cut, kernels, strict=True)
    ]
    variance = np.diag(covariance)
    rest = variance - sum((s * g for s, g in zip(v, turn, strict=False)), np.zeros(len(z)))
    turned = np.array([*turn, rest / v[-1]])
    spread = np.einsum("kr,kl,lr->r", turned, fit.spread, turned)
    df = np.clip(2 * variance**2 / np.maximum(spread, 1e-300), 1.0, fit.rows - len(fit.table))
    return Forecast(x @ state.beta + z @ slopes.zpy, covariance, df)


@dataclass(frozen=True)
class LeftOut:
    """Predictions of units the model had not seen.

    Attributes:
        table: the rows with observed, predicted, baseline (without similarity), se, df, low, high.
        scores: r2 (share of the baseline's squared error that is gone), rmse, rmse_baseline, spearman
            (mean within target), coverage (inside the 95 % interval), units, rows.
        notes: plain sentences, such as effects a training part could not estimate.
    """

    table: pd.DataFrame
    scores: pd.Series
    notes: tuple[str, ...]


def leave_out(
    data: pd.DataFrame,
    outcome: str,
    fixed: Sequence[str],
    random: Sequence[str],
    unit: str,
    *,
    baseline: Sequence[str] = (),
) -> LeftOut:
    """Predict each unit from a model fitted without any of its rows.

    Args:
        data: one row per observation; position, not label, says which row is which.
        outcome: numeric column.
        fixed, random: effects of the model; a level not seen in training is predicted at zero.
        unit: column whose levels are left out one at a time: an intermediate, a target, a format,
            a block, a language family.
        baseline: fixed effects of the model to compare with.

    Raises:
        BadFit: a unit cannot be left out because the rest does not carry the model.
    """
    design.require(data, [unit, outcome, *design.columns_of(data, [*fixed, *random])], [outcome])
    data = data.reset_index(drop=True)
    levels = sorted(data[unit].astype(str).unique())
    if len(levels) < 3:
        raise BadFit(
            f"{unit!r} has {len(levels)} levels; leaving one out needs at least 3. Choose another "
            "unit."
        )
    parts, notes = [], []
    for level in levels:
        here = data[unit].astype(str) == level
        train, test = data[~here], data[here]
        try:
            full = reml.crossed_reml(train, outcome, fixed, random)
            plain = reml.crossed_reml(train, outcome, baseline, random)
        except BadFit as error:
            said = f"without {unit} {level} the rest does not carry the model: {error}"
            raise BadFit(said) from None
        found = forecast(full, test, fixed).table().set_index(test.index)
        found["baseline"] = forecast(plain, test, baseline).mean
        rest = test.assign(observed=test[outcome]).drop(columns=found.columns, errors="ignore")
        parts.append(pd.concat([rest, found], axis=1))
        notes += [f"without {unit} {level}: {note}" for note in full.design.notes]
    table = pd.concat(parts).sort_index()
    rest, plain_rest = (table["observed"] - table[c] for c in ("predicted", "baseline"))
    values = {
        "r2": 1 - float((rest**2).sum() / (plain_rest**2).sum()),
        "rmse": float(np.sqrt((rest**2).mean())),
        "rmse_baseline": float(np.sqrt((plain_rest**2).mean())),
        "spearman": _spearman_within(table),
        "coverage": float(table["observed"].between(table["low"], table["high"]).mean()),
        "units": len(levels),
        "rows": len(table),
    }
    return LeftOut(table, pd.Series(values), tuple(dict.fromkeys(notes)))


def _spearman_within(table: pd.DataFrame) -> float:
    """Return the mean rank correlation within targets of at least 3 rows; NaN if there is none."""
    values = [
        float(stats.spearmanr(part["predicted"], part["observed"]).statistic)
        for _, part in (table.groupby("target") if "target" in table else [])
        if len(part) >= 3 and part["predicted"].nunique() > 1 and part["observed"].nunique() > 1
    ]
    return float(np.mean(values)) if values else float("nan")


def expected_best(observed: np.ndarray, score: np.ndarray, k: int) -> float:
    """Return the expected best outcome among the ``k`` highest scores, ties broken at random."""
    k = min(k, observed.size)
    cut = np.sort(score)[::-1][k - 1]
    certain, tied = observed[score > cut], np.sort(observed[score == cut])
    floor, picks = certain.max(initial=-np.inf), k - certain.size
    # the largest of a random subset is the j-th smallest with this probability
    chances = np.array([comb(j, picks - 1) for j in range(tied.size)]) / comb(tied.size, picks)
    return float(chances @ np.maximum(tied, floor))


def strategies(
    table: pd.DataFrame, scores: Mapping[str, str], *, ks: Sequence[int] = (1, 3)
) -> pd.DataFrame:
    """Compare ways to choose an intermediate task for a target, by the points they lose.

    Args:
        table: one row per dyad: intermediate, target, observed (points) and the columns of
            ``scores``; predictions must come from a model that had not seen the target.
        scores: name of a strategy to the column it ranks by.
        ks: how many candidates may be tried.

    Returns:
        Indexed by strategy: ``regret@k`` (the best outcome less the best of the first k, mean over
        targets) and ``gain`` (of the first choice); with ``random``, ``best constant choice`` (the
        candidate best on average over the other targets) and ``best possible``.
    """
    design.require(table, ["target", "observed", *scores.values()], ["observed", *scores.values()])
    # a candidate's mean outcome over the other targets, less those targets' means
    centred = table["observed"] - table.groupby("target")["observed"].transform("mean")
    by = centred.groupby(table["intermediate"])
    elsewhere = by.transform("size") - 1
    constant = (by.transform("sum") - centred) / elsewhere.where(elsewhere > 0)
    work = table.assign(_constant=constant.fillna(centred.min() - 1), _none=0.0)
    every = {**scores, "best constant choice": "_constant", "random": "_none"}
    best = work.groupby("target")["observed"].max()

    def chosen(column: str, k: int) -> pd.Series:
        parts = work.groupby("target")[["observed", column]]
        return parts.apply(
            lambda p: expected_best(p["observed"].to_numpy(float), p[column].to_numpy(float), k)
        )

    regret = {
        f"regret@{k}": {name: (best - chosen(c, k)).mean() for name, c in every.items()} for k in ks
    }
    out = pd.DataFrame(regret)
    out["gain"] = pd.Series({name: chosen(c, 1).mean() for name, c in every.items()})
    out.loc["best possible"] = [0.0] * len(ks) + [best.mean()]
    return out.rename_axis("strategy")


def ndcg(observed: Sequence[float], score: Sequence[float], above_worst: bool = True) -> float:
    """Return the normalised discounted cumulative gain (Jarvelin & Kekalainen 2002) of a ranking.

    Relevance is the outcome less the worst one. The outcome itself, as some published values have it,
    lets a fully reversed ranking score near 1.
    """
    relevance = np.asarray(observed, float) - (np.min(observed) if above_worst else 0.0)
    discount = 1 / np.log2(np.arange(relevance.size) + 2)
    ideal = float(np.sort(relevance)[::-1] @ discount)
    # ties share the mean relevance of their group, so that the order of rows does not matter
    shared = pd.Series(relevance).groupby(np.asarray(score, float)).transform("mean").to_numpy()
    order = np.argsort(-np.asarray(score, float), kind="stable")
    return float(shared[order] @ discount) / ideal if ideal > 0 else 1.0


def predict_gain(
    new: pd.DataFrame,
    data: pd.DataFrame,
    outcome: str,
    fixed: Sequence[str],
    random: Sequence[str],
    *,
    level: float = 0.95,
    draws: int = 20000,
    seed: int = 0,
) -> pd.DataFrame:
    """Rank intermediates for a target nobody has run, with prediction intervals.

    Args:
        new: one row per candidate intermediate, with the columns of the effects.
        data: dyad table to learn from.
        outcome, fixed, random: the model, see `reml.crossed_reml`.
        level: coverage of the intervals.
        draws, seed: simulated outcomes for ``best``.

    Returns:
        ``new``, best first, with rank, predicted, se, df, low, high, ``best`` (probability of being the
        best of the candidates) and ``helps`` (of a gain above zero).
    """
    fit = reml.crossed_reml(data, outcome, fixed, random)
    found = forecast(fit, new, fixed)
    table = found.table(level).set_index(new.index)
    out = pd.concat([new.drop(columns=table.columns, errors="ignore"), table], axis=1)
    rng = np.random.default_rng(seed)
    root = np.linalg.cholesky(found.covariance + 1e-12 * np.eye(len(new)))
    drawn = found.mean + rng.normal(size=(draws, len(new))) @ root.T
    out["best"] = np.bincount(drawn.argmax(1), minlength=len(new)) / draws
    out["helps"] = stats.t.sf(-out["predicted"] / out["se"], out["df"])
    out = out.sort_values("predicted", ascending=False, kind="stable", ignore_index=True)
    out.insert(0, "rank", np.arange(1, len(out) + 1))
    return out


def influence(
    data: pd.DataFrame, outcome: str, fixed: Sequence[str], random: Sequence[str], term: str
) -> pd.DataFrame:
    """Return the slope of ``term`` with all tasks (first row) and without each in turn."""
    rows = [{"unit": "", "left_out": "", **reml.crossed_reml(data, outcome, fixed, random)[term]}]
    for unit in ("intermediate", "target"):
        for level in sorted(data[unit].astype(str).unique()):
            rest = data[data[unit].astype(str) != level]
            try:
                fit = reml.crossed_reml(rest, outcome, fixed, random)
            except BadFit as error:
                raise BadFit(f"without {unit} {level}: {error}") from None
            rows.append({"unit": unit, "left_out": level, **fit[term]})
    return pd.DataFrame(rows)[["unit", "left_out", "estimate", "se", "low", "high", "p"]]


# Measures that say the same.


def dyadic_parts(data: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """Return columns over the complete dyads without what belongs to single tasks, standardised."""
    complete = data.dropna(subset=list(columns))
    table = permutation.grid(complete, columns[0], columns, "intermediate", "target")
    used = np.isfinite(table.outcome)
    basis = permutation.effects_basis(table, used, permutation.BOTH)
    if used.sum() < basis.shape[1] + 3:
        raise BadFit(
            f"{int(used.sum())} complete dyads are too few to compare measures; leave out measures "
            "that are undefined for many dyads."
        )
    x = table.predictors[:, used].T
    rest = x - basis @ (basis.T @ x)
    flat = np.linalg.norm(rest, axis=0) <= 1e-8 * np.maximum(np.linalg.norm(x, axis=0), 1e-300)
    if flat.any():
        names = ", ".join(repr(c) for c, f in zip(columns, flat, strict=True) if f)
        raise BadFit(f"{names} belong to single tasks and do not vary between dyads; leave out.")
    return pd.DataFrame(rest / rest.std(0, ddof=1), columns=list(columns))


def overlap(table: pd.DataFrame, measures: Sequence[str]) -> pd.DataFrame:
    """Say which measures repeat one another about dyads, tasks' means removed, and what each adds.

    Args:
        table: dyad table without identity pairs.
        measures: similarity columns; the first of a group that says the same (1 - |Spearman| below .3
            on average) stands for it.

    Returns:
        Indexed by measure: group, vif, r2 (of the gain's dyadic part), unique (its part that no other
        of up to eight groups shares), note (why a measure is not compared).
    """
    used, notes = table.dropna(subset=["gain"]), {}
    for name in measures:
        missing = int(used[name].isna().sum())
        notes[name] = f"undefined for {missing} of {len(used)} dyads" if missing else ""
        try:
            dyadic_parts(used.dropna(subset=[name]), [name]) if not missing else None
        except BadFit as error:
            notes[name] = str(error)
    names = [name for name, reason in notes.items() if not reason]
    if len(names) < 2:
        raise BadFit("fewer than two measures are defined for all dyads and vary between them.")
    parts = dyadic_parts(used, ["gain", *names])
    gain, x = parts.pop("gain").to_numpy(), parts
    apart = 1 - x.corr("spearman").abs().to_numpy()
    np.fill_diagonal(apart, 0)
    tree = hierarchy.linkage(distance.squareform(np.maximum(apart, 0), checks=False), "average")
    raw = pd.Series(hierarchy.fcluster(tree, 0.3, "distance"), index=names)
    groups = raw.map({g: k for k, g in enumerate(dict.fromkeys(raw), 1)})

    def r2(y: np.ndarray, chosen: Sequence[str]) -> float:
        z = x[list(chosen)].to_numpy()
        rest = y - z @ np.linalg.lstsq(z, y, rcond=None)[0]
        return 1 - float(rest @ rest) / float(y @ y)

    out = pd.DataFrame({"note": notes}).assign(group=groups)
    explained = {n: r2(x[n].to_numpy(), [m for m in names if m != n]) for n in names}
    out["vif"] = pd.Series(
        {n: 1 / (1 - r) if r < 1 - 1e-10 else np.inf for n, r in explained.items()}
    )
    out["r2"] = pd.Series({n: r2(gain, [n]) for n in names})
    first = list(groups.drop_duplicates().index[:8])
    others = {n: [m for m in first if m != n] for n in first}
    out["unique"] = pd.Series({n: r2(gain, first) - r2(gain, rest) for n, rest in others.items()})
    return out[["group", "vif", "r2", "unique", "note"]].rename_axis("measure")
