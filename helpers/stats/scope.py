"""What a study is, before any model: the scores that count, its departures, how far seeds move a gain."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from helpers.errors import BadFit
from helpers.stats import collinearity, confirmatory, gains, noise
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


def intervals(scores: pd.DataFrame, level: float = 0.95) -> pd.DataFrame:
    """Return the gain of every dyad with an interval over seeds.

    A dyad that ran once has no spread of its own. It borrows that of its target's other arms.

    Args:
        scores: tidy score table.
        level: coverage aimed at.

    Returns:
        Columns of `noise.bootstrap`, ``own_noise`` (points: standard error that a dyad's own runs give
        its gain; what the shared baseline adds is not in it), ``spread`` (whose: ``"own runs"``,
        ``"other runs of the target"``, ``"unknown"``) and ``clear``: the interval leaves out zero.
    """
    table = noise.bootstrap(scores, level=level)
    rows = gains.clean(scores)
    rows = rows[rows["language"] != "en"]
    runs = rows.groupby(["target", "condition", "intermediate", "seed"])["value"].mean() * 100
    variance, freedom, exact = {}, {}, {}
    for target, part in runs.groupby(level="target"):
        # Whole runs of one arm differ by their seeds alone; all arms of a target are pooled.
        arms = part.groupby(level=["condition", "intermediate"])
        freedom[target] = int((arms.size() - 1).sum())
        squares = float(((part - arms.transform("mean")) ** 2).sum())
        variance[target] = squares / freedom[target] if freedom[target] else np.nan
        base = rows[(rows["target"] == target) & (rows["condition"] == "none")]
        exact[target] = bool(gains.untrained(base).all())  # it trains nothing: no noise
    # Variance and degrees of freedom of a dyad are those of its target.
    of_target = {name: table["target"].map(of) for name, of in (("v", variance), ("df", freedom))}
    baseline = np.where(table["target"].map(exact), 0.0, 1 / table["baseline_seeds"])
    t = stats.t.ppf(0.5 + level / 2, of_target["df"].replace(0, np.nan))
    half = t * np.sqrt(of_target["v"].astype(float) * (1 / table["seeds"] + baseline))
    own = table["se"].notna()
    table["own_noise"] = np.sqrt(of_target["v"].astype(float) / table["seeds"])
    table["low"] = table["low"].where(own, table["gain"] - half)
    table["high"] = table["high"].where(own, table["gain"] + half)
    known = np.where(np.isfinite(half), "other runs of the target", "unknown")
    table["spread"] = np.where(own, "own runs", known)
    table["clear"] = (table["low"] > 0) | (table["high"] < 0)
    return table


def overlap(table: pd.DataFrame, measures: list[str]) -> pd.DataFrame:
    """Say which measures repeat one another about dyads, tasks' means removed, and what each could add.

    Args:
        table: dyad table with identity pairs in it.
        measures: similarity columns; the first of a group that says the same stands for it.

    Returns:
        Indexed by measure: group, vif, r2 (of the gain's dyadic part), unique (what no other group's
        first measure shares; for the first of eight groups), note (why a measure is not compared).
    """
    used = gains.exclude(table).dropna(subset=["gain"])
    notes: dict[str, Any] = {}
    for name in measures:
        missing = int(used[name].isna().sum())
        if missing:
            notes[name] = f"undefined for {missing} of {len(used)} dyads"
            continue
        try:
            collinearity.dyadic_parts(used, [name])
            notes[name] = ""
        except BadFit as error:
            notes[name] = str(error)
    names = [name for name, reason in notes.items() if not reason]
    if len(names) < 2:
        raise BadFit("fewer than two measures are defined for all dyads and vary between them.")
    out = pd.DataFrame({"note": notes})
    groups = collinearity.clusters(used, names)
    out["group"] = groups.map({g: k for k, g in enumerate(dict.fromkeys(groups), 1)})
    out["vif"] = collinearity.vif(used, names)
    alone = {n: collinearity.commonality(used, "gain", [n])["r2"].iloc[0] for n in names}
    out["r2"] = pd.Series(alone)
    first = list(groups.drop_duplicates().index[:8])  # the shared parts double with each group
    out["unique"] = collinearity.commonality(used, "gain", first)["part"].reindex(out.index)
    return out[["group", "vif", "r2", "unique", "note"]].rename_axis("measure")
