"""Other explanations of a slope: headroom, measures that repeat one another, drift, languages."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from helpers.errors import BadFit, BadRows
from helpers.findings.question import kept, language_rows
from helpers.findings.scope import BOTH, usable
from helpers.findings.tables import note, nothing
from helpers.stats import collinearity, design, effects, gains, interaction, prediction, reml
from helpers.stats.confirmatory import DISTANCE, PRIMARY, RANDOM

MEDIATOR = "alignment_drift"
PATHS = {
    "predictor to mediator": "similarity to drift",
    "mediator to outcome": "drift to gain",
    "through the mediator": "through drift",
}
FAMILY = "language family"
# Random effects of rows per language: those of dyads, and what languages add.
BY_LANGUAGE = (*RANDOM, "intermediate:target", "language", "target:language")
MOST = 8  # groups of measures whose shared parts are told apart: their number doubles with each


def headroom(
    scores: pd.DataFrame, similarity: pd.DataFrame, measure: str = PRIMARY
) -> pd.DataFrame:
    """Fit gains to headroom and to similarity, alone and together, with baseline seeds split.

    Half of the baseline seeds are subtracted and the other half give the headroom, so that no run
    stands on both sides.

    Args:
        scores: tidy score table.
        similarity: what `results.similarities` returned.
        measure: similarity.

    Returns:
        Indexed by slope: dyads, estimate, low, high, df, p; similarity per standard deviation,
        headroom per 10 points that the baseline leaves.

    Raises:
        BadFit: a single baseline seed, or too few dyads.
    """
    try:
        rows = gains.gains(usable(scores)[0], headroom=True)
    except BadRows as error:
        raise BadFit(str(error)) from None
    table = gains.dyads(rows, similarity=similarity).dropna(subset=["headroom"])
    used = kept(table.assign(headroom=table["headroom"] / 10), measure)
    out = {}
    for fixed in (["headroom"], [measure], ["headroom", measure]):
        fit = reml.crossed_reml(used, "gain", fixed, RANDOM)
        for term in fixed:
            name = "headroom" if term == "headroom" else "similarity"
            name += " alone" if len(fixed) == 1 else " beside the other"
            out[name] = {"dyads": fit.rows, **fit[term]}
    columns = ["dyads", "estimate", "low", "high", "df", "p"]
    return pd.DataFrame.from_dict(out, orient="index")[columns].rename_axis("slope")


def overlap(table: pd.DataFrame, measures: Sequence[str], outcome: str = "gain") -> pd.DataFrame:
    """Say which measures repeat one another about dyads, and what each alone could add.

    Measures are compared without what belongs to single tasks, over the dyads analysed.

    Args:
        table: dyad table with identity pairs in it.
        measures: similarity columns; the first of a group that says the same stands for it.
        outcome: numeric column.

    Returns:
        Indexed by measure: group (measures that say the same), vif, r2 (of the outcome's dyadic
        part), unique (the part of r2 that no other group's first measure shares; missing for the
        rest of a group), note (why a measure is not compared).

    Raises:
        BadFit: fewer than two measures can be compared.
    """
    used = gains.exclude(table).dropna(subset=[outcome])
    notes = {name: _incomparable(used, name) for name in measures}
    names = [name for name, reason in notes.items() if not reason]
    if len(names) < 2:
        raise BadFit("fewer than two measures are defined for all dyads and vary between them.")
    out = pd.DataFrame({"note": notes})
    groups = collinearity.clusters(used, names)
    out["group"] = groups.map({g: k for k, g in enumerate(dict.fromkeys(groups), 1)})
    out["vif"] = collinearity.vif(used, names)
    out["r2"] = [
        collinearity.commonality(used, outcome, [n])["r2"].iloc[0] if n in names else float("nan")
        for n in out.index
    ]
    first = list(groups.drop_duplicates().index[:MOST])
    out["unique"] = collinearity.commonality(used, outcome, first)["part"].reindex(out.index)
    return out[["group", "vif", "r2", "unique", "note"]].rename_axis("measure")


def _incomparable(used: pd.DataFrame, measure: str) -> str:
    missing = int(used[measure].isna().sum())
    if missing:
        return f"undefined for {missing} of {len(used)} dyads"
    try:
        collinearity.dyadic_parts(used, [measure])
    except BadFit as error:
        return str(error)
    return ""


def mediated(
    table: pd.DataFrame,
    rows: pd.DataFrame,
    similarity: pd.DataFrame,
    measure: str = PRIMARY,
    mediator: str = MEDIATOR,
) -> pd.DataFrame:
    """Split the slope into what runs through the drift of languages' alignment and the rest.

    Args:
        table: dyad table with identity pairs in it.
        rows: gains per language.
        similarity: what `results.similarities` returned; its rows without a target hold the drift
            of an intermediate in a language.
        measure: similarity.
        mediator: measure of an intermediate and a language, averaged over a target's languages.

    Returns:
        Indexed by path (similarity to drift, drift to gain, through drift, direct, total):
        estimate, low, high, dyads; similarity and drift per standard deviation.

    Raises:
        BadFit: the mediator was not measured, or the dyads do not carry the models.
    """
    own = similarity[(similarity["measure"] == mediator) & (similarity["status"] == "done")]
    if own.empty:
        raise BadFit(
            f"{mediator} was not measured in this study: it needs the intermediate stages' encoders "
            "and parallel sentences."
        )
    cells = language_rows(rows, kept(table, measure), measure)
    cells = cells.merge(own[["intermediate", "language", "value"]], on=["intermediate", "language"])
    keep = [*BOTH, "block", measure]
    means = cells.groupby(keep, as_index=False).agg(gain=("gain", "mean"), drift=("value", "mean"))
    if (means.groupby("intermediate")["drift"].std() < 1e-9).all():
        raise BadFit(
            "all targets were tested in the same languages, so the drift belongs to the "
            "intermediate alone and its part in a slope over pairs cannot be told."
        )
    scaled = design.standardise(means, [measure, "drift"])
    found = effects.mediation(scaled, measure, "drift", "gain", RANDOM)
    return found.rename(index=PATHS).assign(dyads=len(scaled))


def language_slopes(
    table: pd.DataFrame, rows: pd.DataFrame, measure: str = PRIMARY, distance: str = DISTANCE
) -> pd.DataFrame:
    """Return the slope on similarity in each language, partially pooled, beside its distance.

    Args:
        table: dyad table with identity pairs in it.
        rows: gains per language with the column ``distance``.
        measure: similarity.
        distance: language column.

    Returns:
        Indexed by language: slope, se, deviation (points per standard deviation of similarity),
        targets (in how many the language was tested) and the distance. No rows where they do not
        carry the model.
    """
    try:
        used = kept(table, measure)
        reml.crossed_reml(used, "gain", [measure], RANDOM)  # rows of languages add no dyads
        cells = language_rows(rows, used, measure)
        found = interaction.by_language(cells, measure, BY_LANGUAGE[:4])
    except BadFit as error:
        return nothing(str(error), ["slope", "se", "deviation", "targets", distance])
    found["targets"] = cells.groupby("language")["target"].nunique()
    return found.join(rows.groupby("language")[distance].first())


def unseen_families(
    table: pd.DataFrame, rows: pd.DataFrame, measure: str = PRIMARY
) -> prediction.LeftOut | str:
    """Predict gains per language in language families that the model has not seen.

    Args:
        table: dyads, as `kept` returns them.
        rows: gains per language with the column ``family``.
        measure: similarity.

    Returns:
        The predictions, or the sentence that says why there are none.
    """
    if table.empty:
        return note(table) or "no dyads"
    cells = language_rows(rows, table, measure)
    cells[FAMILY] = cells["language"].map(rows.groupby("language")["family"].first())
    try:
        return prediction.leave_out(
            cells.dropna(subset=[FAMILY]), "gain", [measure], BY_LANGUAGE, FAMILY
        )
    except BadFit as error:
        return str(error)
