"""What the benchmarks measured, and what each size of the study costs by those measurements."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pandas as pd

from helpers import results
from helpers.book import number
from helpers.study import costs, profiles
from helpers.study.plans import Plan
from helpers.study.records import FINISHED
from helpers.study.store import Store, read_export

FOLDER = Path(__file__).resolve().parent.parent / "data"
NOT_MEASURED = "not measured"
# The rate of the large encoder on a GPU; rates of other formats are close, padding does not count.
_RATE = "train_pair_vs_tuned_trainer"


def figures(folder: Path = FOLDER) -> pd.DataFrame:
    """Return the table of the benchmarks, one row per figure and device."""
    return pd.read_csv(folder / "benchmarks.csv", keep_default_na=False, na_values=[""])


def figure(name: str, kind: str, column: str = "value", folder: Path = FOLDER) -> float:
    """Return one figure; NaN where it was not measured.

    Args:
        name: name of the figure.
        kind: ``"cpu"`` or ``"cuda"``; of several devices of a kind, the last measured.
        column: ``"value"``, ``"reference_value"`` or ``"ratio"``.
        folder: where the table lies.
    """
    found = _newest(name, kind, folder).dropna(subset=[column])
    return float(found[column].iloc[0]) if len(found) else math.nan


def _newest(name: str, kind: str, folder: Path) -> pd.DataFrame:
    """Return the rows of a figure on one kind of device, the last measured first."""
    table = figures(folder)
    found = table[(table["name"] == name) & (table["device"].str.split().str[0] == kind)]
    return found.dropna(subset=["value"]).sort_values("date", ascending=False)


def said(value: float, digits: int = 1, **style: Any) -> str:
    """Return a figure as prose shows it, or "not measured"."""
    return number(value, digits, **style) if math.isfinite(value) else NOT_MEASURED


def ways(plan: Plan, store: Store | None = None, folder: Path = FOLDER) -> pd.DataFrame:
    """Return what the study takes on each kind of hardware.

    Args:
        plan: the plan of a study on this machine.
        store: where its runs are.
        folder: where the measurements lie.

    Returns:
        Columns study, runs, hardware, device hours and known how; hours that nothing is known of
        are missing.
    """
    rows = [_here(plan, store or Store())]
    rows += [_committed(name) for name in results.committed()]
    rows.append(_paper(folder))
    return pd.DataFrame(rows, columns=["study", "runs", "hardware", "device hours", "known how"])


def _here(plan: Plan, store: Store) -> tuple[str, int, str, float, str]:
    """Return what a plan took here, or what its rest is expected to take."""
    index = store.index()
    own = index[index["run"].isin(plan.runs["run"]) & index["status"].isin(list(FINISHED))]
    device = str(plan.facts.get("device", "cpu"))
    if len(own) == len(plan):
        named = ", ".join(sorted(set(own["device"]) - {""})) or device
        return plan.profile, len(plan), named, own["seconds"].sum() / 3600, "measured here"
    _, note = costs.rate(plan, store)
    hours = float(costs.minutes(plan, store).sum()) / 60
    return plan.profile, len(plan), device, hours, f"computed from a rate {note}"


def _committed(profile: str) -> tuple[str, int, str, float, str]:
    """Return what a committed study took, added up over its runs."""
    runs = read_export(results.FOLDER / f"{profile}.parquet").drop_duplicates("run")
    devices = ", ".join(sorted(set(runs["device"]) - {""}))
    hours = float(runs["seconds"].sum()) / 3600
    return profile, len(runs), devices, hours, "measured, added up over runs"


def _paper(folder: Path) -> tuple[str, int, str, float, str]:
    """Return what the largest size takes on the GPU that was measured.

    Tokens of a set whose rows its source does not state are missing, so this is the least it takes.
    """
    paper, sets = profiles.PAPER, pd.read_csv(folder / "paper_tokens.csv")
    passes = {"intermediate": paper.seeds}  # one stage per intermediate and seed
    # Every target has a run per intermediate and seed, and twice as many baselines as seeds.
    passes["target"] = passes["evaluation"] = paper.seeds * (len(paper.intermediates) + 2)
    work = sets["stage"].map({"intermediate": 1, "target": 1, "evaluation": costs.TEST_WORK})
    tokens = (sets["tokens"] * sets["epochs"] * sets["stage"].map(passes) * work).sum()
    unknown = sets.loc[sets["rows"].isna() & (sets["stage"] != "evaluation"), "task"]
    rate = figure(_RATE, "cuda", folder=folder)
    hardware = ", ".join(_newest(_RATE, "cuda", folder)["device"][:1]) or "cuda"
    runs = int(sets["stage"].map(passes | {"evaluation": 0}).sum())
    note = f"computed from the measured rate on pairs; without {', '.join(unknown)}"
    return paper.name, runs, hardware, float(tokens) / rate / 3600, note
