"""Tables of the results chapters, for a study of any size.

A chapter must read as well for six dyads as for ninety. Where a study does not carry an analysis, its
table here has no rows and says why in ``attrs["note"]``; ``helpers.plots`` and ``helpers.book.table``
show that sentence, and `at` gives a missing value, which prose writes as "not available".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from helpers.errors import BadFit, BadRows
from helpers.stats import (
    confirmatory,
    design,
    effects,
    gains,
    multiverse,
    naive,
    noise,
    prediction,
    reml,
)
from helpers.stats import permutation as labels
from helpers.stats.confirmatory import FORMATS, PRIMARY, RANDOM, Confirmatory

BOTH = ("intermediate", "target")
SPECIFIED = "REML with blocks"
PUBLISHED = Path(__file__).resolve().parent.parent / "data" / "published"
SEEDS, ROWS = 3, 2000  # per dyad, and per task for the primary similarity: the specification's
ILLUSTRATIVE = ("tiny", "embedded")


def tried(function: Callable[..., Any], *arguments: Any, **options: Any) -> pd.DataFrame:
    """Return the table that a function returns, or one without rows whose note says why.

    Args:
        function: an analysis that returns a table, or a column of named values (made one row).
        *arguments, **options: what it takes.
    """
    try:
        found = function(*arguments, **options)
    except BadFit as error:
        return nothing(str(error))
    return found.to_frame().T if isinstance(found, pd.Series) else found


def nothing(note: str, columns: Sequence[str] = ()) -> pd.DataFrame:
    """Return a table without rows that says why."""
    table = pd.DataFrame({column: pd.Series(dtype=float) for column in columns})
    table.attrs["note"] = note
    return table


def at(table: pd.DataFrame, row: Any, column: str) -> float:
    """Return one number of a table; NaN where the table, the row or the column is not there."""
    if row not in table.index or column not in table.columns:
        return float("nan")
    return float(table[column].to_dict()[row])


def said(table: pd.DataFrame, row: Any, column: str, otherwise: str = "not tested") -> str:
    """Return one text of a table, or another one where it is not there."""
    if row not in table.index or column not in table.columns:
        return otherwise
    return str(table[column].to_dict()[row])


def p_value(p: float) -> str:
    """Write what follows the letter p: ``"= 0.021"``, or ``"< 0.001"`` for a small one."""
    if not np.isfinite(p):
        return "not available"
    return "< 0.001" if p < 0.001 else f"= {p:.3f}"


def note(table: pd.DataFrame, otherwise: str = "") -> str:
    """Return why a table has no rows; ``otherwise`` where it has some."""
    return str(table.attrs.get("note", "")) if table.empty else otherwise


# Scores


def usable(scores: pd.DataFrame, collapsed: bool = False) -> tuple[pd.DataFrame, list[str]]:
    """Leave out targets without a finished baseline: nothing can be subtracted there.

    Args:
        scores: tidy score table.
        collapsed: whether a collapsed baseline counts as finished.

    Returns:
        The rest, and a sentence for each target left out.
    """
    out, notes = scores, []
    enough = {"done", "collapsed"} if collapsed else {"done"}
    for target, part in scores[scores["stage"] == "target"].groupby("target"):
        arm = part[part["condition"] == "none"].drop_duplicates("run")["status"]
        if not enough & set(arm):
            said = ", ".join(f"{n} {status}" for status, n in arm.value_counts().items())
            notes.append(f"{target} has no finished baseline ({said or 'none was run'}).")
            out = out[out["target"] != target]
    return out.reset_index(drop=True), notes


def departures(
    scores: pd.DataFrame, profile: str, similarity: pd.DataFrame | None = None
) -> list[str]:
    """Say where a study falls short of what the specification asks for.

    Args:
        scores: tidy score table.
        profile: name of its profile.
        similarity: what `results.similarities` returned.
    """
    rest, notes = usable(scores)
    if profile in ILLUSTRATIVE:
        notes.insert(0, f"The profile is {profile}, which the specification calls illustrative.")
    arms = rest[(rest["condition"] == "single") & (rest["status"] == "done")]
    counts = arms.groupby(["intermediate", "target"])["seed"].nunique()
    few = int((counts < SEEDS).sum())
    if few:
        notes.append(
            f"{few} of {len(counts)} dyads have fewer than {SEEDS} seeds (the fewest: "
            f"{int(counts.min())})."
        )
    planned = rest["intermediate"].replace("", np.nan).nunique() * rest["target"].nunique()
    if len(counts) < planned:
        notes.append(f"{planned - len(counts)} of {planned} dyads have no finished run.")
    if similarity is not None:
        sizes = similarity.loc[similarity["measure"] == PRIMARY, "n"]
        if len(sizes) and sizes.max() < ROWS:
            notes.append(f"Similarity was measured on {sizes.max():,} rows a task, not {ROWS:,}.")
    return notes


def standing(scores: pd.DataFrame, profile: str, similarity: pd.DataFrame | None = None) -> str:
    """Say in a few words how much the results of a profile can prove.

    Args:
        scores: tidy score table.
        profile: name of its profile.
        similarity: what `results.similarities` returned.
    """
    arms = usable(scores)[0].query("condition == 'single' and status == 'done'")
    count = len(arms[list(BOTH)].drop_duplicates())
    short = departures(scores, profile, similarity)
    if profile in ILLUSTRATIVE:
        return f"With {count} dyads, this page is an illustration, not evidence. {' '.join(short)}"
    if short:
        return f"These are {count} dyads. They fall short of the specification: {' '.join(short)}"
    return f"These are {count} dyads, run as the specification asks."


# Gains


def intervals(scores: pd.DataFrame, level: float = 0.95) -> pd.DataFrame:
    """Return the gain of every dyad with an interval over seeds.

    A dyad that ran once has no spread of its own. It borrows that of its target's other arms, taken
    as equal in all of them.

    Args:
        scores: tidy score table.
        level: coverage aimed at.

    Returns:
        Columns of `noise.bootstrap`, ``spread`` (``"own runs"``, ``"other runs of the target"`` or
        ``"unknown"``) and ``clear``: whether the interval leaves out zero.
    """
    table = noise.bootstrap(scores, level=level)
    own = table["se"].notna()
    spread = _spread(scores)
    half = np.array([_half(spread[str(row.target)], row, level) for row in table.itertuples()])
    table["low"] = table["low"].where(own, table["gain"] - half)
    table["high"] = table["high"].where(own, table["gain"] + half)
    known = np.where(np.isfinite(half), "other runs of the target", "unknown")
    table["spread"] = np.where(own, "own runs", known)
    table["clear"] = (table["low"] > 0) | (table["high"] < 0)
    return table


def _spread(scores: pd.DataFrame) -> dict[str, tuple[float, int, bool]]:
    """Return, per target, the variance between whole runs of one arm, its df, and a flag.

    The flag says that the baseline trains nothing, so that it has no noise.
    """
    rows = gains.clean(scores)
    rows = rows[rows["language"] != "en"]
    runs = rows.groupby(["target", "condition", "intermediate", "seed"])["value"].mean() * 100
    out = {}
    for target, part in runs.groupby(level="target"):
        arms = part.groupby(level=["condition", "intermediate"])
        df = int((arms.size() - 1).sum())
        squares = float(((part - arms.transform("mean")) ** 2).sum())
        plain = rows[(rows["target"] == target) & (rows["condition"] == "none")]
        exact = "rows_trained" in plain and bool((plain["rows_trained"] == 0).all())
        out[str(target)] = (squares / df if df else np.nan, df, exact)
    return out


def _half(spread: tuple[float, int, bool], row: Any, level: float) -> float:
    variance, df, exact = spread
    if not df:
        return float("nan")
    shares = 1 / row.seeds + (0 if exact else 1 / row.baseline_seeds)
    return float(stats.t.ppf(0.5 + level / 2, df) * np.sqrt(variance * shares))


def grid(table: pd.DataFrame, column: str) -> pd.DataFrame:
    """Return one column of a dyad table as intermediates by targets, in order of appearance."""
    wide = table.pivot(index="intermediate", columns="target", values=column)
    return wide.reindex(index=table["intermediate"].unique(), columns=table["target"].unique())


def runs(scores: pd.DataFrame) -> pd.DataFrame:
    """Return the mean score of every finished run over the languages other than English.

    Args:
        scores: tidy score table.

    Returns:
        target, arm (``"without"`` or ``"with an intermediate"``), intermediate, seed, score (points).
    """
    rows = gains.clean(scores)
    rows = rows[(rows["language"] != "en") & rows["condition"].isin(["none", "single"])]
    by = ["target", "condition", "intermediate", "seed"]
    out = rows.groupby(by, as_index=False, sort=False)["value"].mean()
    out["arm"] = out["condition"].map({"none": "without", "single": "with an intermediate"})
    return out.assign(score=100 * out["value"]).drop(columns=["condition", "value"])


def baselines(rows: pd.DataFrame) -> pd.DataFrame:
    """Return, per target, its baseline, the noise of that, and how much gains differ.

    Args:
        rows: what `gains.gains` returned.

    Returns:
        target, metric, languages, baseline (points, English left out), seeds, seed_sd (points;
        missing with one run), gain (mean over intermediates) and gain_sd (its spread over them).
    """
    part = rows[(rows["language"] != "en") & (rows["condition"] == "single")]
    out = part.groupby("target", sort=False).agg(
        metric=("metric", "first"),
        languages=("language", "nunique"),
        baseline=("baseline", "mean"),
        seeds=("baseline_seeds", "min"),
        seed_sd=("baseline_sd", "first"),
    )
    out["baseline"] *= 100
    each = part.groupby(["target", "intermediate"])["gain"].mean().groupby(level="target")
    return out.join(each.agg(gain="mean", gain_sd="std")).reset_index()


def english(rows: pd.DataFrame) -> pd.DataFrame:
    """Return each dyad's gain in English beside its mean gain in the other languages.

    Args:
        rows: what `gains.gains` returned.

    Returns:
        intermediate, target, english, others, both in points; targets without English rows are not
        there.
    """
    part = rows[rows["condition"] == "single"]
    part = part.assign(where=np.where(part["language"] == "en", "english", "others"))
    wide = part.pivot_table(index=list(BOTH), columns="where", values="gain", observed=True)
    if not {"english", "others"} <= set(wide.columns):
        note = "No target has rows in English and in another language."
        return nothing(note, [*BOTH, "english", "others"])
    return wide.dropna().reset_index().rename_axis(columns=None)


def published(table: pd.DataFrame, folder: Path = PUBLISHED) -> pd.DataFrame:
    """Return published scores with and without an intermediate task, beside the gains of a study.

    The published ones are test scores of the best intermediate per target, which is a selection; of
    a study both the mean and the best gain are shown.

    Args:
        table: dyad table.
        folder: where the published numbers lie.

    Returns:
        target, metric, without, with_best (points), difference, source, and, where the study has
        the target, mean_here and best_here.
    """
    rows = pd.read_csv(folder / "phang2020_test.csv")
    wide = rows.pivot_table(index=["target", "metric", "source"], columns="model", values="value")
    wide = wide.dropna().rename(
        columns={"XLM-R Large": "without", "X-STILTs (Phang 2020)": "with_best"}
    )
    wide["difference"] = wide["with_best"] - wide["without"]
    out = wide.reset_index().rename_axis(columns=None)
    out = out[~out["target"].str.contains("category|avg")]
    here = table.groupby("target")["gain"].agg(mean_here="mean", best_here="max")
    out = out.join(here, on="target").sort_values(["target", "metric"], ignore_index=True)
    names = ["target", "metric", "without", "with_best", "difference", "mean_here", "best_here"]
    return out[[*names, "source"]]


def shares(table: pd.DataFrame, spread: pd.DataFrame) -> pd.DataFrame:
    """Split the variance of gains between dyads into what tasks, formats and dyads hold.

    Args:
        table: dyad table.
        spread: what `intervals` returned; its standard errors give the part that seeds explain.

    Returns:
        Indexed by effect: variance, low, high (profile likelihood), sd, sd_low, sd_high (points),
        share, and the row ``"of that, seed noise"``: the mean sampling variance of a dyad's gain, which no
        similarity can explain.

    Raises:
        BadFit: the dyads do not carry the model.
    """
    out = effects.variance_shares(table, "gain", RANDOM).rename(
        index={reml.RESIDUAL: "dyad and noise"}
    )
    noise_of = float((spread["se"] ** 2).mean())
    out.loc["of that, seed noise", ["variance", "sd"]] = noise_of, np.sqrt(noise_of)
    out.loc["of that, seed noise", "share"] = noise_of / out["variance"].iloc[:-1].sum()
    out["sd_low"], out["sd_high"] = np.sqrt(out["low"]), np.sqrt(out["high"])
    names = ["variance", "low", "high", "sd", "sd_low", "sd_high", "share"]
    return out[names].rename_axis("effect")


def mean_gain(table: pd.DataFrame) -> pd.DataFrame:
    """Return the mean gain over dyads with its interval, tasks and blocks taken as drawn.

    Args:
        table: dyad table.

    Returns:
        One row, ``"mean"``: estimate, se, df, low, high.

    Raises:
        BadFit: the dyads do not carry the model.
    """
    fit = reml.crossed_reml(table, "gain", [], RANDOM)
    return fit.table.rename(index={design.INTERCEPT: "mean"})


# The question


def confirmed(
    table: pd.DataFrame, rows: pd.DataFrame | None = None, **options: Any
) -> Confirmatory:
    """Run the confirmatory analysis, or say in its tables and notes why it cannot be run.

    Args:
        table: dyad table with identity pairs in it.
        rows: gains per language with language distances, see `confirmatory.confirm`.
        **options: of `confirmatory.confirm`.
    """
    try:
        found = confirmatory.confirm(table, rows, **options)
        tidy = found.table.infer_objects().astype({"dyads": int})
        return replace(found, table=tidy, equivalence=found.equivalence.infer_objects())
    except BadFit as error:
        none = nothing(str(error))
        return Confirmatory(none, none, {}, (f"Nothing was tested: {error}",))


def kept(table: pd.DataFrame, measure: str = PRIMARY) -> pd.DataFrame:
    """Return the dyads that are analysed, with the measure standardised over them.

    Raises:
        BadFit: the measure does not vary over them.
    """
    return confirmatory.prepared(table, measure).dropna(subset=["gain"]).reset_index(drop=True)


def methods(
    table: pd.DataFrame,
    rows: pd.DataFrame,
    measure: str = PRIMARY,
    *,
    n: int = 9999,
    seed: int = 0,
) -> pd.DataFrame:
    """Estimate one slope in ways that differ in what they count as independent.

    Args:
        table: dyad table with identity pairs in it.
        rows: gains per language.
        measure: similarity.
        n, seed: relabellings.

    Returns:
        Indexed by method, the specified ones first: specified, rows, estimate, low, high, df, p,
        note (why a method gives nothing). Permutations centre gains and similarity by task first,
        so their estimate differs from that of the model.

    Raises:
        BadFit: the measure does not vary over the dyads.
    """
    whole = confirmatory.prepared(table, measure)
    used = kept(table, measure)
    cells = language_rows(rows, used, measure)

    def permuted(within: tuple[str, str] | None) -> pd.Series:
        found = labels.qap(whole, "gain", measure, *BOTH, within, n, seed)
        return pd.Series({"estimate": found.estimate, "p": found.p})

    def ols(data: pd.DataFrame, clusters: Sequence[str] = ()) -> pd.Series:
        return naive.ols(data, "gain", measure, clusters=clusters)

    asked: list[tuple[str, bool, int, Callable[[], pd.Series]]] = [
        (SPECIFIED, True, len(used), lambda: _slope(used, measure)),
        ("permutation within formats", True, len(used), lambda: permuted(FORMATS)),
        ("permutation, free", False, len(used), lambda: permuted(None)),
        ("OLS on dyads", False, len(used), lambda: ols(used)),
        ("OLS on dyads, clustered both ways", False, len(used), lambda: ols(used, BOTH)),
        ("OLS on language rows", False, len(cells), lambda: ols(cells)),
    ]
    answers = [_answer(*one) for one in asked]
    columns = ["method", "specified", "rows", "estimate", "low", "high", "df", "p", "note"]
    return pd.DataFrame(answers).reindex(columns=columns).set_index("method")


def _answer(name: str, specified: bool, rows: int, ask: Callable[[], pd.Series]) -> dict[Any, Any]:
    facts: dict[Any, Any] = {"method": name, "specified": specified, "rows": rows}
    try:
        return facts | ask().to_dict() | {"note": ""}
    except BadFit as error:
        return facts | {"note": str(error)}


def _slope(data: pd.DataFrame, measure: str) -> pd.Series:
    return reml.crossed_reml(data, "gain", [measure], RANDOM)[measure]


def language_rows(rows: pd.DataFrame, used: pd.DataFrame, measure: str = PRIMARY) -> pd.DataFrame:
    """Return gains per dyad and language, seeds averaged, English left out, with the similarity.

    Args:
        rows: what `gains.gains` returned.
        used: what `kept` returned.
        measure: similarity.
    """
    single = rows[(rows["language"] != "en") & (rows["condition"] == "single")]
    mean = single.groupby([*BOTH, "language"], as_index=False)["gain"].mean()
    return mean.merge(used[[*BOTH, "block", *FORMATS, measure]], on=list(BOTH))


def centred(table: pd.DataFrame, measure: str = PRIMARY) -> pd.DataFrame:
    """Return gain and similarity raw and without what belongs to single tasks.

    Args:
        table: dyad table with identity pairs in it.
        measure: similarity.

    Returns:
        The dyads analysed, with ``gain_dyad`` and ``<measure>_dyad``.

    Raises:
        BadFit: the measure does not vary over the dyads.
    """
    used = kept(table, measure)
    for column in ("gain", measure):
        split = effects.within_and_between(used, column)
        used[f"{column}_dyad"] = split[f"{column}_dyad"]
    return used


def null_slopes(
    table: pd.DataFrame,
    measure: str = PRIMARY,
    *,
    within: bool = True,
    n: int = 9999,
    seed: int = 0,
) -> pd.Series:
    """Return the slope under relabelling of tasks.

    Args:
        table: dyad table with identity pairs in it.
        measure: similarity.
        within: move labels within formats only.
        n, seed: relabellings.

    Returns:
        Slopes, with ``estimate`` (observed) and ``p`` in ``attrs``; no rows and a ``note`` where
        relabelling can test nothing.
    """
    try:
        whole = confirmatory.prepared(table, measure)
        found = labels.qap(whole, "gain", measure, *BOTH, FORMATS if within else None, n, seed)
    except BadFit as error:
        none = pd.Series(dtype=float)
        none.attrs |= {"note": str(error), "estimate": float("nan"), "p": float("nan")}
        return none
    slopes = pd.Series(found.null, name="slope")
    slopes.attrs |= {"estimate": found.estimate, "p": found.p}
    return slopes


def variants(
    scores: pd.DataFrame, similarity: pd.DataFrame, stages: pd.DataFrame
) -> dict[str, pd.DataFrame]:
    """Return dyad tables that differ in what they leave out; those equal to the first are not there.

    Args:
        scores: tidy score table.
        similarity: what `results.similarities` returned.
        stages: what `results.stages` returned.
    """
    rows = gains.gains(usable(scores)[0])
    every = gains.gains(usable(scores, collapsed=True)[0], collapsed=True)
    table = gains.dyads(rows, similarity=similarity)
    base = gains.exclude(table)
    failed = unlearnt(stages)
    out = {
        "as specified": base,
        "with identity pairs": table,
        "without pairs that share source text": base[~base["same_source"]],
        "with English": gains.exclude(gains.dyads(rows, english=True, similarity=similarity)),
        "with collapsed runs": gains.exclude(gains.dyads(every, similarity=similarity)),
        "without intermediates that were not learnt": base[~base["intermediate"].isin(failed)],
        "without retrieval targets": base[base["target_format"] != "retrieval"],
    }
    same = [name for name, other in out.items() if name != "as specified" and _same(base, other)]
    return {name: other for name, other in out.items() if name not in same}


def _same(first: pd.DataFrame, second: pd.DataFrame) -> bool:
    if len(first) != len(second):
        return False
    return bool(np.allclose(first["gain"], second["gain"].to_numpy(), equal_nan=True))


def unlearnt(stages: pd.DataFrame) -> list[str]:
    """Return the intermediates none of whose own stages is done.

    Args:
        stages: what `results.stages` returned.
    """
    own = stages[stages["condition"] == "single"]
    done = set(own.loc[own["status"] == "done", "intermediate"])
    return sorted(set(own["intermediate"]) - done)


def slopes(tables: Mapping[str, pd.DataFrame], measure: str = PRIMARY) -> pd.DataFrame:
    """Fit the specified model to each of several dyad tables.

    Args:
        tables: name to dyad table, such as `variants` returns.
        measure: similarity; standardised over each table's dyads.

    Returns:
        Indexed by name: dyads, estimate, low, high, df, p, note (why there is no fit).
    """
    rows = []
    for name, table in tables.items():
        facts: dict[Any, Any] = {"variant": name, "dyads": int(table[measure].notna().sum())}
        try:
            scaled = design.standardise(table.dropna(subset=[measure, "gain"]), [measure])
            rows.append(facts | _slope(scaled, measure).to_dict() | {"note": ""})
        except BadFit as error:
            rows.append(facts | {"note": str(error)})
    columns = ["variant", "dyads", "estimate", "low", "high", "df", "p", "note"]
    return pd.DataFrame(rows).reindex(columns=columns).set_index("variant")


def parts(table: pd.DataFrame, measure: str = PRIMARY) -> pd.DataFrame:
    """Return the slope on the dyad's own part of a similarity, and on each task's mean of it.

    Args:
        table: dyad table with identity pairs in it.
        measure: similarity.

    Returns:
        Indexed by part: estimate, se, df, t, p, low, high, in points per standard deviation of the
        whole similarity.

    Raises:
        BadFit: the dyads do not carry three slopes.
    """
    split = effects.within_and_between(kept(table, measure), measure)
    names = {
        f"{measure}_dyad": "of the dyad itself",
        f"{measure}_intermediate": "of the intermediate",
        f"{measure}_target": "of the target",
    }
    fit = reml.crossed_reml(split, "gain", list(names), RANDOM)
    return fit.table.loc[list(names)].rename(index=names).rename_axis("part")


def influence(table: pd.DataFrame, measure: str = PRIMARY) -> pd.DataFrame:
    """Return the slope without each task in turn, and with all.

    Args:
        table: dyad table with identity pairs in it.
        measure: similarity.

    Returns:
        What `prediction.influence` returns, ``left_out`` being ``"nothing"`` in the first row.

    Raises:
        BadFit: the dyads do not carry the model, or not without one of the tasks.
    """
    found = prediction.influence(kept(table, measure), "gain", [measure], RANDOM, measure)
    return found.replace({"left_out": {"": "nothing"}, "unit": {"": "none"}})


def ends(table: pd.DataFrame, column: str) -> tuple[float, float]:
    """Return the smallest and the largest value of a column; NaN where there are none."""
    if table.empty or column not in table.columns:
        return float("nan"), float("nan")
    return float(table[column].min()), float(table[column].max())


def curve(
    tables: Mapping[str, pd.DataFrame],
    measures: Sequence[str],
    *,
    n: int = 999,
    seed: int = 0,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Run the multiverse, as tables to draw.

    Args:
        tables: subsets by name, see `multiverse.subsets_of`.
        measures: similarity columns.
        n, seed: relabellings.

    Returns:
        The specifications in order of their partial correlation ``r`` with ``low`` and ``high``
        (where the same rank lies in 95 % of relabellings) and ``primary``, and the joint test as
        one row; both without rows where nothing can be estimated.
    """
    try:
        found = multiverse.run(tables, measures, n=n, seed=seed)
    except BadFit as error:
        return nothing(str(error)), nothing(str(error))
    wanted = {"scale": "gain", "measure": PRIMARY, "subset": "all", "removed": "both"}
    table = found.table.join(found.band)
    table["primary"] = np.logical_and.reduce([table[k] == v for k, v in wanted.items()])
    return table, found.joint.to_frame().T


def controls(table: pd.DataFrame) -> pd.DataFrame:
    """Test the controls that were measured.

    Measures named ``..._random`` (from a random encoder) and ``..._shuffled`` (from shuffled
    labels) must not predict; ``early_score``, a partial outcome, must.

    Args:
        table: dyad table.

    Returns:
        What `multiverse.controls` returns; no rows where none was measured.
    """
    names = gains.measures_of(table)
    negative = [name for name in names if name.endswith(("_random", "_shuffled"))]
    positive = [name for name in names if name == "early_score"]
    if not negative + positive:
        return nothing("No control was measured.")
    return tried(multiverse.controls, gains.exclude(table), negative, positive)


# Prediction


def unseen(
    table: pd.DataFrame, units: Sequence[str], fixed: Sequence[str] = (PRIMARY,)
) -> dict[str, prediction.LeftOut | str]:
    """Predict the levels of each unit from a model that has not seen them.

    Args:
        table: dyads, as `kept` returns them.
        units: columns whose levels are left out in turn.
        fixed: fixed effects of the model.

    Returns:
        Per unit the predictions, or the sentence that says why there are none.
    """
    out: dict[str, prediction.LeftOut | str] = {}
    for unit in units:
        try:
            out[unit] = prediction.leave_out(table, "gain", list(fixed), RANDOM, unit)
        except BadFit as error:
            out[unit] = str(error)
    return out


def unseen_table(found: Mapping[str, prediction.LeftOut | str]) -> pd.DataFrame:
    """Return the scores of `unseen`, a row per unit, with a note where there are none."""
    rows = [
        {"left out": unit, "note": result}
        if isinstance(result, str)
        else {"left out": unit, **result.scores, "note": ""}
        for unit, result in found.items()
    ]
    names = ["units", "rows", "r2", "spearman", "rmse", "rmse_baseline", "coverage", "note"]
    return pd.DataFrame(rows).set_index("left out").reindex(columns=names)


def rows_trained(stages: pd.DataFrame) -> pd.Series:
    """Return the mean number of rows each intermediate was trained on.

    Args:
        stages: what `results.stages` returned.
    """
    own = stages[stages["condition"] == "single"]
    return own.groupby("intermediate")["rows_trained"].mean()


def choices(table: pd.DataFrame, found: prediction.LeftOut | str, sizes: pd.Series) -> pd.DataFrame:
    """Compare ways to choose an intermediate task by the points they lose.

    Args:
        table: dyads, as `kept` returns them.
        found: predictions with targets left out, or why there are none; then similarity itself is
            not among the strategies.
        sizes: training rows per intermediate.

    Returns:
        What `prediction.strategies` returns, best first choice on top.

    Raises:
        BadRows: no target has two candidates.
    """
    ways = {"same format": "same_format", "most training rows": "size"}
    if isinstance(found, str):
        candidates = table.assign(observed=table["gain"])
    else:
        candidates, ways = found.table, {"similarity": "predicted", **ways}
    counts = candidates.groupby("target")["intermediate"].transform("nunique")
    if not (counts > 1).any():
        raise BadRows("no target has two intermediates to choose from.")
    candidates = candidates[counts > 1].assign(size=candidates["intermediate"].map(sizes))
    candidates["size"] = candidates["size"].fillna(0.0)
    return prediction.strategies(candidates, ways).sort_values("regret@1")
