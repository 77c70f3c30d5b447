"""The confirmatory analysis, as the specification page of the book fixes it.

Nothing here is chosen by looking at gains; see ``book/specification.md``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from helpers.errors import BadFit, BadRows
from helpers.stats import design, effects, interaction, permutation, reml
from helpers.stats.reml import Fit

PRIMARY = "text_embedding"
RANDOM = ("intermediate", "target", "block")
FORMATS = ("intermediate_format", "target_format")
NEGLIGIBLE_POINTS = 0.5
NEGLIGIBLE_SD = 0.3
LEVEL = 0.05
DISTANCE = "syntactic"


Answered = tuple[pd.Series, Fit]


@dataclass(frozen=True)
class Confirmatory:
    """Result of `confirm`.

    Attributes:
        table: indexed by hypothesis: question, dyads, estimate, low, high, df, p (REML,
            Kenward-Roger), p_likelihood (likelihood ratio), p_permutation (within formats),
            p_smallest (what permutation could reach), and verdict in words.
        equivalence: two one-sided tests of H1's slope against both bounds of the specification.
        fits: the REML fit per hypothesis, where there is one.
        notes: plain sentences a reader needs.
    """

    table: pd.DataFrame
    equivalence: pd.DataFrame
    fits: Mapping[str, Fit]
    notes: tuple[str, ...]


def confirm(
    dyads: pd.DataFrame,
    rows: pd.DataFrame | None = None,
    *,
    measure: str = PRIMARY,
    distance: str = DISTANCE,
    controls: pd.DataFrame | None = None,
    n: int = 9999,
    seed: int = 0,
) -> Confirmatory:
    """Run H1, H2 and H3 in order, each with three ways of inference side by side.

    Args:
        dyads: dyad table of one encoder with identity pairs in it (they only lend their similarity
            to the permutation test), as from `gains.dyads` with similarity.
        rows: what `gains.gains` returned with the column ``distance`` joined, for H3; English and
            other conditions are left out here.
        measure: the primary similarity.
        distance: language column of H3.
        controls: what `multiverse.controls` returned; if one failed, every verdict is withheld.
        n: relabellings.
        seed: random seed of the relabellings.

    Raises:
        BadRows: several encoders, or the measure is missing.
        BadFit: H1 cannot be fitted; a later hypothesis that cannot is reported as such.
    """
    scaled = prepared(dyads, measure)
    used = scaled.dropna(subset=["gain"])
    answers = {"H1": _by_dyads(scaled, used, measure, [], n, seed)}
    questions = {"H1": "slope above zero", "H2": "slope above zero beside equal formats"}
    notes = list(answers["H1"][1].notes)
    if "same_format" in scaled:
        _attempt(
            answers, notes, "H2", lambda: _by_dyads(scaled, used, measure, ["same_format"], n, seed)
        )
    if rows is not None:
        questions["H3"] = f"slope falls with {distance} distance"
        _attempt(
            answers, notes, "H3", lambda: _by_languages(rows, scaled, measure, distance, n, seed)
        )
    table = pd.DataFrame({name: row for name, (row, _) in answers.items()}).T
    table.insert(0, "question", pd.Series(questions))
    table["verdict"] = _verdicts(table)
    if controls is not None and not controls["passed"].all():
        failed = ", ".join(controls.loc[~controls["passed"], "measure"])
        table["verdict"] = f"withheld: the control {failed} failed"
    first = answers["H1"][1]
    return Confirmatory(
        table.rename_axis("hypothesis"),
        _negligible(first, used, measure),
        {name: fit for name, (_, fit) in answers.items()},
        tuple(dict.fromkeys(notes)),
    )


def _attempt(
    answers: dict[str, Answered], notes: list[str], name: str, ask: Callable[[], Answered]
) -> None:
    try:
        answers[name] = ask()
    except BadFit as error:
        notes.append(f"{name} was not tested: {error}")


def prepared(dyads: pd.DataFrame, measure: str) -> pd.DataFrame:
    """Blank the gains of identity pairs and standardise similarity over the dyads analysed.

    Args:
        dyads: dyad table of one encoder, identity pairs in it.
        measure: similarity; dyads without it are left out.

    Raises:
        BadRows: several encoders, or no such measure.
        BadFit: the measure does not vary over the dyads that have a gain.
    """
    if measure not in dyads.columns:
        raise BadRows(f"the dyad table has no similarity {measure!r}; add it with gains.dyads.")
    if "encoder" in dyads and dyads["encoder"].nunique() > 1:
        raise BadRows("one encoder at a time: filter the dyad table by encoder.")
    known = dyads.dropna(subset=[measure]).copy()
    if "identity_pair" in known:
        known.loc[known["identity_pair"].astype(bool), "gain"] = np.nan
    here = known.loc[known["gain"].notna(), measure]
    if here.size < 2 or not here.std() > 0:
        raise BadFit(f"{measure!r} does not vary over the {here.size} dyads that have a gain.")
    known[measure] = (known[measure] - here.mean()) / here.std()
    return known


def _by_dyads(
    scaled: pd.DataFrame, used: pd.DataFrame, measure: str, extra: list[str], n: int, seed: int
) -> tuple[pd.Series, Fit]:
    fit = reml.crossed_reml(used, "gain", [measure, *extra], RANDOM)
    return _answer(fit, used, scaled, "gain", measure, extra, n, seed), fit


def _by_languages(
    rows: pd.DataFrame, scaled: pd.DataFrame, measure: str, distance: str, n: int, seed: int
) -> tuple[pd.Series, Fit]:
    key = ["intermediate", "target"]
    facts = scaled.loc[scaled["gain"].notna(), [*key, measure, "block", *FORMATS]]
    keep = rows["language"] != "en"
    if "condition" in rows:
        keep &= rows["condition"] == "single"
    mean = (
        rows[keep]
        .groupby([*key, "language"], as_index=False)
        .agg(**{"gain": ("gain", "mean"), distance: (distance, "first")})
    )
    mean = mean.dropna(subset=[distance]).merge(facts, on=key)
    fit = interaction.by_distance(mean, measure, distance, RANDOM, keep=FORMATS)
    slopes = interaction.distance_slopes(
        interaction.standard_over_languages(mean, distance), "gain", distance,
        [measure, "block", *FORMATS],
    )  # fmt: skip
    slopes = design.standardise(slopes, [measure])
    return _answer(fit, slopes, slopes, "slope", measure, [], n, seed), fit


def _answer(
    fit: Fit,
    used: pd.DataFrame,
    scaled: pd.DataFrame,
    outcome: str,
    measure: str,
    extra: list[str],
    n: int,
    seed: int,
) -> pd.Series:
    """Return the estimate with three p-values."""
    pair = [
        reml.crossed_reml(used, outcome, fixed, RANDOM, reml=False)
        for fixed in ([measure, *extra], extra)
    ]
    row = fit[measure]
    try:
        found = permutation.qap(
            scaled, outcome, measure, "intermediate", "target", FORMATS, n, seed, given=extra
        )
        p_permutation, smallest = found.p, 1 / len(found.null)
    except BadFit:
        p_permutation = smallest = float("nan")
    return pd.Series(
        {
            "dyads": fit.rows,
            "estimate": row["estimate"],
            "low": row["low"],
            "high": row["high"],
            "df": row["df"],
            "p": row["p"],
            "p_likelihood": reml.compare(*pair)["p"],
            "p_permutation": p_permutation,
            "p_smallest": smallest,
        }
    )


def _verdicts(table: pd.DataFrame) -> list[str]:
    """Say what the fixed sequence of tests, and its companion, allow to say."""
    out, going = [], True
    for name, row in table.iterrows():
        rejected = bool(row["p"] < LEVEL)
        right = rejected and (row["estimate"] > 0) == (name != "H3")
        if not going:
            out.append("not tested: an earlier hypothesis was not supported")
        elif not row["p_smallest"] < LEVEL:
            out.append("unsettled: too few tasks for the permutation to reach 5 %")
        elif rejected != bool(row["p_permutation"] < LEVEL):
            out.append("unsettled: model and permutation disagree")
        elif rejected and not right:
            out.append("contradicted: the slope has the other sign")
        else:
            out.append("supported" if right else "not supported")
        going = going and out[-1] == "supported"
    return out


def _negligible(fit: Fit, used: pd.DataFrame, measure: str) -> pd.DataFrame:
    without = reml.crossed_reml(used, "gain", [], RANDOM)
    in_sd = NEGLIGIBLE_SD * float(np.sqrt(without.variances[reml.RESIDUAL]))
    bounds = {"points": NEGLIGIBLE_POINTS, "dyad SD": in_sd}
    rows = {name: effects.equivalence(fit, measure, b, LEVEL) for name, b in bounds.items()}
    return pd.DataFrame(rows).T.rename_axis("bound in")
