"""All defensible analyses at once: specification curve, families of measures, controls."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy import stats

from helpers.errors import BadFit, unknown
from helpers.stats import design, permutation, reml
from helpers.stats.confirmatory import DYAD, FORMATS, RANDOM, TASKS
from helpers.stats.gains import SCALES, scale_within

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
        table: one row per specification, ordered by r (partial correlation): scale, measure, subset,
            removed, cells, r, p (its own permutation test), p_bh (Benjamini and Hochberg).
        joint: specifications, median (of r), p_median, share_positive, p_share, permutations.
        band: low, middle, high: where 95 % and the median of the same rank lie under permutation.
        notes: plain sentences about specifications that do not exist.
    """

    table: pd.DataFrame
    joint: pd.Series
    band: pd.DataFrame
    notes: tuple[str, ...]


def subsets_of(
    table: pd.DataFrame,
    with_collapsed: pd.DataFrame | None = None,
    with_half_converged: pd.DataFrame | None = None,
) -> dict[str, pd.DataFrame]:
    """Return the subsets of the specification: ``all`` (without identity pairs) and those that differ.

    Args:
        table: dyad table with identity pairs.
        with_collapsed, with_half_converged: the same of gains of these runs, too.
    """
    base = table[~table["identity_pair"]]
    out = {"all": base}
    if len(base) < len(table):
        out["with identity pairs"] = table
    for format in ("retrieval", "span"):
        part = base[(base[list(FORMATS)] != format).all(axis=1)]
        if 0 < len(part) < len(base):
            out[f"without {format}"] = part
    more = {"collapsed": with_collapsed, "half-converged": with_half_converged}
    for kind, other in more.items():
        if other is not None:
            part = other[~other["identity_pair"]]
            if not part["gain"].equals(base["gain"]):
                out[f"with {kind} runs"] = part
    return out


def run(
    subsets: Mapping[str, pd.DataFrame], measures: Sequence[str], *, n: int = 999, seed: int = 0
) -> Multiverse:
    """Estimate every combination of scale, measure, subset and effects removed, and test jointly.

    Each relabelling of tasks within formats is applied to all specifications at once, so the joint test
    knows how strongly they depend on one another (Simonsohn, Simmons & Nelson, Nat. Hum. Behav. 4, 2020).
    Gains scaled within targets are one more scale where every table has them.

    Args:
        subsets, measures: dyad tables by name, see `subsets_of`, and similarity columns.
        n, seed: relabellings.
    """
    keep = [*TASKS, *FORMATS]
    for table in subsets.values():
        design.require(table, keep)
        for measure in set(measures) - set(table.columns):
            raise unknown("measure", measure, map(str, table.columns))
    # every dyad of any subset once: relabelled similarities come from all of them
    union = pd.concat([t[[*keep, *measures]] for t in subsets.values()]).drop_duplicates(TASKS)
    whole = permutation.grid(union.assign(_any=0.0), "_any", measures, *DYAD, FORMATS)
    residuals = {key: permutation.residual_tables(whole, e) for key, e in REMOVED.items()}
    known = [m for m, x in zip(measures, whole.predictors, strict=True) if np.isfinite(x).any()]
    notes = [f"{m} is not defined for any dyad." for m in measures if m not in known]
    scales = [*SCALES, *{"gain_within"}.intersection(*[t.columns for t in subsets.values()])]
    fits: dict[tuple[str, ...], permutation.Regression] = {}
    for (subset, table), scale in itertools.product(subsets.items(), scales):
        wide = table.assign(**table[TASKS].astype(str), _y=table.get(scale, np.nan))
        wide = wide.pivot(index=TASKS[0], columns=TASKS[1], values="_y").astype(float)
        grid = replace(whole, outcome=wide.reindex(whole.rows, columns=whole.columns).to_numpy())
        if not np.isfinite(grid.outcome).any():
            notes.append(f"{scale} is not defined in subset {subset!r}.")
            continue
        for key, measure in itertools.product(REMOVED, known):
            label, m = (scale, measure, subset, key), measures.index(measure)
            try:
                fit = permutation.regression(grid, m, measure, REMOVED[key], residuals[key][m])
                if fit.df < LEAST_DF:
                    raise BadFit("too few residual degrees of freedom.")
                fits[label] = fit
            except BadFit:
                notes.append(f"{', '.join(label)}: too few dyads, or no variation left.")
    if not fits:
        raise BadFit("no specification has enough dyads to be estimated; add tasks or measures.")
    (_, _, null), exact = permutation.relabelled(whole, list(fits.values()), n, seed)
    table = pd.DataFrame([*fits], columns=["scale", "measure", "subset", "removed"])
    table["cells"] = [int(fit.used.sum()) for fit in fits.values()]
    table["r"] = [float(fit.of(fit.predictor[fit.used])[2]) for fit in fits.values()]
    moves = np.ptp(null, axis=1) > 1e-12
    notes += [
        f"{', '.join(label)}: fixed by the formats, so relabelling within them cannot test it."
        for label in itertools.compress(fits, ~moves)
    ]
    if not moves.any():
        raise BadFit("relabelling within formats changes nothing; add tasks to some format.")
    # each specification, and median and share of positive ones jointly
    table, null = table[moves], null[moves]
    observed = table["r"].to_numpy()
    p = permutation.p_values(null, observed, exact)
    table = table.assign(p=p, p_bh=stats.false_discovery_control(p))
    median, share = float(np.median(observed)), float((observed > 0).mean())
    joint = np.array([np.median(null, axis=0), (null > 0).mean(0) - 0.5])
    sides = permutation.p_values(joint, np.array([median, share - 0.5]), exact)
    values = {
        "specifications": len(table), "median": median, "p_median": sides[0],
        "share_positive": share, "p_share": sides[1], "permutations": null.shape[1],
    }  # fmt: skip
    ends = np.quantile(np.sort(null, axis=0), [0.025, 0.5, 0.975], axis=1)
    band = pd.DataFrame(dict(zip(("low", "middle", "high"), ends, strict=True)))
    ordered = table.sort_values("r", kind="stable", ignore_index=True)
    return Multiverse(ordered, pd.Series(values), band, tuple(notes))


def _slope(data: pd.DataFrame, measure: str, outcome: str) -> reml.Fit:
    """Fit the primary model to the dyads that have a measure, standardised over them."""
    here = design.standardise(data.dropna(subset=[measure, outcome]), [measure])
    return reml.crossed_reml(here, outcome, [measure], RANDOM)


def all_measures(
    data: pd.DataFrame,
    measures: Sequence[str],
    *,
    outcome: str = "gain",
    reliability: Mapping[str, float] | None = None,
    n: int = 9999,
    seed: int = 0,
) -> pd.DataFrame:
    """Fit the primary model once per measure, standardised, and adjust for their number.

    Besides dyads, slope, se, df, low, high and p there are p_bh (Benjamini and Hochberg), p_permutation
    and p_min_p, and the slope_disattenuated by a measure's reliability (Spearman 1904); a note says why
    a measure has none.
    """
    rows: dict[str, dict[str, object]] = {}
    for measure in set(measures) - set(data.columns):
        raise unknown("measure", measure, map(str, data.columns))
    for measure in measures:
        try:
            fit = _slope(data, measure, outcome)
            rows[measure] = {**fit[measure], "note": " ".join(fit.design.notes)}
        except BadFit as error:
            rows[measure] = {"note": str(error)}
        rows[measure]["dyads"] = int(data[[measure, outcome]].notna().all(axis=1).sum())
    table = pd.DataFrame.from_dict(rows, orient="index").rename(columns={"estimate": "slope"})
    table = table.reindex(columns=["dyads", "slope", "se", "df", "low", "high", "p", "note"])
    fitted = table.index[table["p"].notna()]
    # Few dyads give a p, and no member of the family, as for p_min_p.
    family = fitted[table.loc[fitted, "dyads"] >= permutation.LEAST_CELLS]
    table["p_bh"] = np.nan
    if len(family):
        table.loc[family, "p_bh"] = stats.false_discovery_control(table.loc[family, "p"])
    try:
        found = permutation.min_p(data, outcome, list(fitted), *DYAD, FORMATS, n, seed)
    except BadFit:
        found = pd.DataFrame(columns=["p", "p_min_p"], dtype=float)
    table = table.join(found[["p", "p_min_p"]].rename(columns={"p": "p_permutation"}))
    known = pd.Series(dict(reliability or {}), dtype=float).reindex(table.index)
    table["reliability"] = known
    valid = known.where(known.between(0, 1, inclusive="right"))
    table["slope_disattenuated"] = table["slope"] / np.sqrt(valid)
    return table.rename_axis("measure")


def controls(
    data: pd.DataFrame, negative: Sequence[str], positive: Sequence[str], outcome: str = "gain"
) -> pd.DataFrame:
    """Check measures that must not predict, and measures that must (with a slope above zero).

    Args:
        data: dyad table.
        negative: such as similarity from a random encoder.
        positive: such as the early target score; scaled within targets where the outcome is.
        outcome: ``"gain"``, or ``"gain_within"`` as `gains.scale_within` adds it.
    """
    rows = []
    for kind, names in (("negative", negative), ("positive", positive)):
        for name in names:
            # How well a target is learnt differs between targets, which no gain within one can follow.
            within = outcome == "gain_within" and kind == "positive"
            here = data.assign(**{name: scale_within(data, name)[f"{name}_within"]})
            row = _slope(here if within else data, name, outcome)[name]
            found = bool(row["p"] < 0.05)
            passed = not found if kind == "negative" else found and row["estimate"] > 0
            rows.append([name, kind, *row[["estimate", "low", "high", "p"]], passed])
    return pd.DataFrame(rows, columns=["measure", "kind", "slope", "low", "high", "p", "passed"])
