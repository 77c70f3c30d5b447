"""Out-of-sample prediction of gains."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import comb

import numpy as np
import pandas as pd
from pandas.api.types import is_numeric_dtype
from scipy import stats

from helpers.errors import BadFit
from helpers.stats import design, reml
from helpers.stats.reml import Fit

DRAWS = 20000  # simulated outcomes behind a probability of being the best


def forecast(fit: Fit, new: pd.DataFrame, fixed: Sequence[str]) -> tuple[pd.DataFrame, np.ndarray]:
    """Predict new rows from a fit, random effects of the levels seen in it; df by Satterthwaite.

    Returns predicted, se, df, low, high (95 %, of one new observation), and the covariance of all errors.
    """
    used = design.columns_of(new, fixed)
    design.require(new, used, [c for c in used if c in new and is_numeric_dtype(new[c])])
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
    v, state, slopes = fit.peak.variances, fit.peak.state, fit.peak.slopes
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
    df = np.clip(2 * variance**2 / np.maximum(spread, 1e-300), 1.0, fit.cross.rows - len(fit.table))
    mean, half = x @ state.beta + z @ slopes.zpy, stats.t.ppf(0.975, df) * np.sqrt(variance)
    ends = {"low": mean - half, "high": mean + half}
    columns = {"predicted": mean, "se": np.sqrt(variance), "df": df, **ends}
    return pd.DataFrame(columns, new.index), covariance


@dataclass(frozen=True)
class LeftOut:
    """Predictions of units the model had not seen.

    Attributes:
        table: the rows with observed, predicted, baseline (no fixed effect), se, df, low, high.
        scores: r2 (share of the baseline's squared error that is gone), rmse, rmse_baseline, spearman
            (mean within target), coverage (inside the 95 % interval), units, rows.
        notes: plain sentences, such as effects a training part could not estimate.
    """

    table: pd.DataFrame
    scores: pd.Series
    notes: tuple[str, ...]


def leave_out(
    data: pd.DataFrame, outcome: str, fixed: Sequence[str], random: Sequence[str], unit: str
) -> LeftOut:
    """Predict each unit from a model fitted without any of its rows.

    Args:
        data: one row per observation; position, not label, says which row is which.
        outcome: numeric column.
        fixed, random: effects of the model; a level not seen in training is predicted at zero.
        unit: column whose levels are left out one at a time: an intermediate, a target, a format,
            a block, a language family.

    Raises:
        BadFit: a unit cannot be left out because the rest does not carry the model.
    """
    design.require(data, [unit, outcome, *design.columns_of(data, [*fixed, *random])], [outcome])
    data = data.reset_index(drop=True)
    levels = sorted(data[unit].astype(str).unique())
    if len(levels) < 3:
        raise BadFit(f"{unit!r} has {len(levels)} levels; leaving one out needs at least 3.")
    parts, notes = [], []
    for level in levels:
        here = data[unit].astype(str) == level
        train, test = data[~here], data[here]
        try:
            full, plain = (reml.crossed_reml(train, outcome, f, random) for f in (fixed, []))
        except BadFit as error:
            said = f"without {unit} {level} the rest does not carry the model: {error}"
            raise BadFit(said) from None
        found, _ = forecast(full, test, fixed)
        found["baseline"] = forecast(plain, test, [])[0]["predicted"]
        rest = test.assign(observed=test[outcome]).drop(columns=found.columns, errors="ignore")
        parts.append(pd.concat([rest, found], axis=1))
        notes += [f"without {unit} {level}: {note}" for note in full.design.notes]
    table = pd.concat(parts).sort_index()
    rest, plain_rest = (table["observed"] - table[c] for c in ("predicted", "baseline"))
    # ranks within each target of at least 3 rows that differ
    parts = [part[["predicted", "observed"]] for _, part in table.groupby("target")]
    parts = [part for part in parts if len(part) >= 3 and (part.nunique() > 1).all()]
    ranks = [float(stats.spearmanr(part).statistic) for part in parts]
    values = {
        "r2": 1 - float((rest**2).sum() / (plain_rest**2).sum()),
        "rmse": float(np.sqrt((rest**2).mean())),
        "rmse_baseline": float(np.sqrt((plain_rest**2).mean())),
        "spearman": float(np.mean(ranks or [np.nan])),
        "coverage": float(table["observed"].between(table["low"], table["high"]).mean()),
        "units": len(levels),
        "rows": len(table),
    }
    return LeftOut(table, pd.Series(values), tuple(dict.fromkeys(notes)))


def expected_best(observed: np.ndarray, score: np.ndarray, k: int) -> float:
    """Return the expected best outcome among the ``k`` highest scores, ties broken at random."""
    k = min(k, observed.size)
    cut = np.sort(score)[::-1][k - 1]
    certain, tied = observed[score > cut], np.sort(observed[score == cut])
    floor, picks = certain.max(initial=-np.inf), k - certain.size
    # the largest of a random subset is the j-th smallest with this probability
    chances = np.array([comb(j, picks - 1) for j in range(tied.size)]) / comb(tied.size, picks)
    return float(chances @ np.maximum(tied, floor))


def strategies(table: pd.DataFrame, scores: Mapping[str, str]) -> pd.DataFrame:
    """Compare ways to choose an intermediate task for a target, by the points they lose.

    Args:
        table: one row per dyad: intermediate, target, observed (points) and the columns of
            ``scores``; predictions must come from a model that had not seen the target.
        scores: name of a strategy to the column it ranks by.

    Returns:
        Indexed by strategy: ``regret@1`` and ``regret@3`` (the best outcome less the best of the first
        k, mean over targets) and ``gain`` (of the first choice); with ``random``, ``best constant
        choice`` (the candidate best on average over the other targets) and ``best possible``.
    """
    design.require(table, ["target", "observed", *scores.values()], ["observed", *scores.values()])
    # a candidate's mean outcome over the other targets, less those targets' means
    centred = table["observed"] - table.groupby("target")["observed"].transform("mean")
    by = centred.groupby(table["intermediate"])
    elsewhere = by.transform("size") - 1
    constant = (by.transform("sum") - centred) / elsewhere.where(elsewhere > 0)
    work = table.assign(_constant=constant.fillna(centred.min() - 1), _none=0.0)
    best = work.groupby("target")["observed"].max()
    rows = {}
    for name, column in {**scores, "best constant choice": "_constant", "random": "_none"}.items():
        parts = [p[["observed", column]].to_numpy(float).T for _, p in work.groupby("target")]
        one, three = (np.array([expected_best(y, x, k) for y, x in parts]) for k in (1, 3))
        rows[name] = [(best - one).mean(), (best - three).mean(), one.mean()]
    rows["best possible"] = [0.0, 0.0, best.mean()]
    out = pd.DataFrame.from_dict(rows, "index", columns=["regret@1", "regret@3", "gain"])
    return out.rename_axis("strategy")


def ndcg(observed: Sequence[float], score: Sequence[float], above_worst: bool = True) -> float:
    """Return the normalised discounted cumulative gain (Jarvelin & Kekalainen 2002) of a ranking.

    Relevance is the outcome less the worst; the outcome itself lets a reversed ranking score near 1.
    """
    relevance = np.asarray(observed, float) - (np.min(observed) if above_worst else 0.0)
    discount = 1 / np.log2(np.arange(relevance.size) + 2)
    ideal = float(np.sort(relevance)[::-1] @ discount)
    # ties share the mean relevance of their group, so that the order of rows does not matter
    shared = pd.Series(relevance).groupby(np.asarray(score, float)).transform("mean").to_numpy()
    order = np.argsort(-np.asarray(score, float), kind="stable")
    return float(shared[order] @ discount) / ideal if ideal > 0 else 1.0


def predict_gain(
    new: pd.DataFrame, data: pd.DataFrame, outcome: str, fixed: Sequence[str], random: Sequence[str]
) -> pd.DataFrame:
    """Rank ``new`` candidates for a target nobody has run, by the model of a dyad table, best first.

    Added are what a forecast has, ``best`` (the probability of being the best of the candidates, by
    simulation) and ``helps`` (of a gain above zero).
    """
    table, covariance = forecast(reml.crossed_reml(data, outcome, fixed, random), new, fixed)
    out = pd.concat([new.drop(columns=table.columns, errors="ignore"), table], axis=1)
    root = np.linalg.cholesky(covariance + 1e-12 * np.eye(len(new)))
    noise = np.random.default_rng(0).normal(size=(DRAWS, len(new)))
    drawn = table["predicted"].to_numpy() + noise @ root.T
    out["best"] = np.bincount(drawn.argmax(1), minlength=len(new)) / DRAWS
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
