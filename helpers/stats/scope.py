"""What a study is, before any model: the scores that count, and where it departs from its plan."""

from __future__ import annotations

import numpy as np
import pandas as pd

from helpers.stats import confirmatory, gains
from helpers.stats.confirmatory import PRIMARY

DYAD = ["intermediate", "target"]
SEEDS, ROWS = 3, 2000  # per dyad, and per task for the primary similarity: the specification's
ILLUSTRATIVE = ("tiny", "demo")


def usable(scores: pd.DataFrame, collapsed: bool = False) -> tuple[pd.DataFrame, list[str]]:
    """Leave out targets without a finished baseline; return the rest and a sentence for each."""
    out, notes = scores, []
    enough = {"done", "collapsed"} if collapsed else {"done"}
    for target, part in scores[scores["stage"] == "target"].groupby("target"):
        arm = part[part["condition"] == "none"].drop_duplicates(["run", "seed"])["status"]
        if not enough & set(arm):
            said = ", ".join(f"{n} {status}" for status, n in arm.value_counts().items())
            notes.append(f"{target} has no finished baseline ({said or 'none was run'}).")
            out = out[out["target"] != target]
    return out.reset_index(drop=True), notes


def analysed(table: pd.DataFrame, measure: str = PRIMARY) -> pd.DataFrame:
    """Return the dyads that are analysed, with the similarity standardised over them."""
    return confirmatory.prepared(table, measure).dropna(subset=["gain"]).reset_index(drop=True)


def departures(
    scores: pd.DataFrame,
    profile: str,
    similarity: pd.DataFrame | None = None,
    controls: pd.DataFrame | None = None,
) -> list[str]:
    """Say where a study falls short of what the specification asks for.

    Args:
        scores: tidy score table.
        profile: name of its profile.
        similarity: what `results.similarities` returned.
        controls: what `multiverse.controls` returned, without rows where none was measured.
    """
    rest, notes = usable(scores)
    if profile in ILLUSTRATIVE:
        notes.insert(0, f"The profile is {profile}, which the specification calls illustrative.")
    # Seeds of dyads, then of baselines, which need twice as many, then dyads that are not there.
    arms = rest[(rest["condition"] == "single") & (rest["status"] == "done")]
    counts = arms.groupby(DYAD)["seed"].nunique()
    if few := int((counts < SEEDS).sum()):
        least = f"(the fewest: {int(counts.min())})"
        notes.append(f"{few} of {len(counts)} dyads have fewer than {SEEDS} seeds {least}.")
    base = rest[(rest["condition"] == "none") & (rest["status"] == "done")]
    seeds = base[~gains.untrained(base)].groupby("target")["seed"].nunique()
    if short := int((seeds < 2 * SEEDS).sum()):
        least = f"(the fewest: {int(seeds.min())})"
        which = f"{short} of {len(seeds)} trained baselines"
        notes.append(f"{which} have fewer than {2 * SEEDS} seeds {least}.")
    planned = rest["intermediate"].replace("", np.nan).nunique() * rest["target"].nunique()
    if len(counts) < planned:
        notes.append(f"{planned - len(counts)} of {planned} dyads have no finished run.")
    if similarity is not None:
        sizes = similarity.loc[similarity["measure"] == PRIMARY, "n"]
        if len(sizes) and sizes.max() < ROWS:
            notes.append(f"Similarity was measured on {sizes.max():,} rows a task, not {ROWS:,}.")
    if controls is not None:
        there = set(controls["kind"]) if len(controls) else set()
        lacking = [kind for kind in ("negative", "positive") if kind not in there]
        notes += [f"No {kind} control was measured." for kind in lacking]
    return notes


def standing(scores: pd.DataFrame, profile: str, similarity: pd.DataFrame | None = None) -> str:
    """Say in a few words how much the results of a profile can prove."""
    arms = usable(scores)[0].query("condition == 'single' and status == 'done'")
    count, short = len(arms[DYAD].drop_duplicates()), departures(scores, profile, similarity)
    if profile in ILLUSTRATIVE:
        return f"With {count} dyads, this page is an illustration, not evidence. {' '.join(short)}"
    if short:
        return f"These are {count} dyads. They fall short of the specification: {' '.join(short)}"
    return f"These are {count} dyads, run as the specification asks."
