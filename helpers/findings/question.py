"""The question of the book, as tables: the specified answer, other ways to it, what it hangs on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from helpers.book import interval, number
from helpers.errors import BadFit
from helpers.findings.scope import BOTH, usable
from helpers.findings.tables import at, note, nothing, p_value, said, tried
from helpers.stats import confirmatory, design, effects, gains, multiverse, naive, prediction, reml
from helpers.stats import permutation as labels
from helpers.stats.confirmatory import FORMATS, PRIMARY, RANDOM, Confirmatory

SPECIFIED = "REML with blocks"
NEGATIVE, POSITIVE = ("_random", "_shuffled"), "early_score"  # columns that are controls


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


def answer(table: pd.DataFrame) -> str:
    """Say the answer to H1 in two sentences, whatever it is.

    Args:
        table: ``table`` of what `confirmed` returned.
    """
    if not np.isfinite(slope := at(table, "H1", "estimate")):
        return f"The question could not be tested. {note(table, 'There is no estimate.')}"
    ends = interval(at(table, "H1", "low"), at(table, "H1", "high"), 2)
    return (
        f"More similar tasks transfer better: {said(table, 'H1', 'verdict')}. Over "
        f"{number(at(table, 'H1', 'dyads'), 0)} pairs of tasks, one standard deviation of similarity "
        f"goes with {number(slope, 2, sign=True)} points of gain (95 % interval {ends}), "
        f"p {p_value(at(table, 'H1', 'p'))} from the model and "
        f"p {p_value(at(table, 'H1', 'p_permutation'))} by permutation."
    )


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
        Indexed by method, the specified ones first: specified (``"yes"``, ``"no"``), rows, estimate,
        low, high, df, p, note (why a method gives nothing). Permutations centre gains and similarity by task first,
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
    facts: dict[Any, Any] = {"method": name, "specified": "yes" if specified else "no"}
    facts["rows"] = rows
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


def measures(table: pd.DataFrame) -> list[str]:
    """Return the similarity measures of a dyad table, the primary one first, without the controls.

    Args:
        table: dyad table.
    """
    names = [n for n in gains.measures_of(table) if not n.endswith(NEGATIVE) and n != POSITIVE]
    return sorted(names, key=lambda name: name != PRIMARY)


def controls(table: pd.DataFrame, similarity: pd.DataFrame | None = None) -> pd.DataFrame:
    """Test the controls that were measured.

    Measures named ``..._random`` (from a random encoder) and ``..._shuffled`` (from shuffled
    labels) must not predict; ``early_score``, a partial outcome, must.

    Args:
        table: dyad table.
        similarity: what `results.controls` returned, where the table does not hold the controls.

    Returns:
        What `multiverse.controls` returns; no rows where none was measured.
    """
    if similarity is not None and len(similarity):
        table = gains.add_similarity(table, similarity)
    names = gains.measures_of(table)
    negative = [name for name in names if name.endswith(NEGATIVE)]
    positive = [name for name in names if name == POSITIVE]
    if not negative + positive:
        return nothing("No control was measured.")
    return tried(multiverse.controls, gains.exclude(table), negative, positive)
