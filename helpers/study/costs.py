"""What a plan will cost: runs, tokens, minutes and disk, before anything starts.

Minutes come from the store's own finished runs of the same encoder and device where there are any,
and otherwise from the arithmetic of the encoder and a stated rate of the device.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

import pandas as pd

if TYPE_CHECKING:
    from helpers.study.store import Store

# A forward pass is a third of the arithmetic of a training step.
TEST_WORK = 1 / 3
# Characters per sub-word piece of XLM-R's vocabulary, over all languages; a rough mean.
CHARACTERS_PER_TOKEN = 4.0
# Arithmetic per second that training reaches, where nothing was measured yet: two cores with AVX2
# (1,500 tokens/s of a 21-million-parameter encoder), and a data-centre GPU in bf16.
RATES = {"cpu": 1.9e11, "cuda": 1.5e14}
OVERHEAD_SECONDS = 1.0
RECORD_BYTES = 12_000


class Planned(Protocol):
    """What costs are computed of; a ``plans.Plan`` is one."""

    @property
    def profile(self) -> str:
        """Return the size of the study."""

    @property
    def encoder(self) -> str:
        """Return the name of the encoder."""

    @property
    def runs(self) -> pd.DataFrame:
        """Return one row per run, with the columns ``plans.COLUMNS``."""

    @property
    def facts(self) -> Mapping[str, Any]:
        """Return the device, the parameters of the encoder and whether checkpoints are kept."""


def rate(plan: Planned, store: Store | None = None) -> tuple[float, str]:
    """Return the tokens per second that a plan's runs can expect, and where that is from.

    Args:
        plan: the plan.
        store: finished runs to learn from.

    Returns:
        Training tokens per second (a token of evaluation costs a third), and a note.
    """
    if store is not None:
        done = store.index()
        done = done[(done["encoder"] == plan.encoder) & (done["status"] == "done")]
        done = done[(done["work"] > 0) & (done["seconds"] > 0)]
        done = done[done["device"].str.startswith("cpu") == (plan.facts.get("device") == "cpu")]
        if len(done) >= 3:
            speed = (done["work"] / done["seconds"]).median()
            return float(speed), f"measured in {len(done)} runs of this store"
    parameters = float(plan.facts.get("parameters", 0)) or 2e7
    device = str(plan.facts.get("device", "cpu"))
    return RATES[device] / (6 * parameters), f"computed for a {device}, not measured"


def minutes(plan: Planned, store: Store | None = None) -> pd.Series:
    """Return the estimated minutes of each run, in the plan's order."""
    speed, _ = rate(plan, store)
    work = plan.runs["train_tokens"] + plan.runs["test_tokens"] * TEST_WORK
    return (work / speed + OVERHEAD_SECONDS) / 60


def cost(
    plan: Planned, wanted: Iterable[str] | None = None, store: Store | None = None
) -> pd.DataFrame:
    """Return the cost of a plan, or of some of its runs.

    Args:
        plan: the plan.
        wanted: ids of the runs to count; all by default.
        store: finished runs to learn speeds from.

    Returns:
        A row per stage and condition and one for the total, with the columns runs,
        training_tokens, test_tokens, minutes (on one device) and megabytes (of records and
        checkpoints, at the end).
    """
    table = plan.runs.assign(
        minutes=minutes(plan, store), megabytes=_megabytes(plan, bool(plan.facts.get("keep")))
    )
    if wanted is not None:
        table = table[table["run"].isin(list(wanted))]
    named = table.rename(columns={"train_tokens": "training_tokens"})
    sums = ["training_tokens", "test_tokens", "minutes", "megabytes"]
    groups = named.groupby(["stage", "condition"], sort=False)
    result = groups[sums].sum().reset_index()
    result.insert(2, "runs", groups.size().to_numpy())
    total = {"stage": "total", "condition": "", "runs": len(table)} | dict(named[sums].sum())
    result = pd.concat([result, pd.DataFrame([total])], ignore_index=True)
    whole = dict.fromkeys(["runs", "training_tokens", "test_tokens"], "int64")
    return result.astype(whole).round({"minutes": 1, "megabytes": 1})


def _megabytes(plan: Planned, keep: bool) -> pd.Series:
    """Return what each run leaves in the store; checkpoints that are not kept count nothing."""
    kept = float(plan.facts.get("trained_parameters", 0)) * 4 * keep
    return ((plan.runs["stage"] == "intermediate") * kept + RECORD_BYTES) / 1e6


def peak_megabytes(plan: Planned, wanted: Iterable[str], *, keep: bool, workers: int = 1) -> float:
    """Return the disk that some runs need.

    Args:
        plan: the plan.
        wanted: ids of the runs.
        keep: whether checkpoints stay when nothing needs them any more.
        workers: runs at a time.

    Returns:
        Megabytes of records, checkpoints and states of what is unfinished.
    """
    parameters = float(plan.facts.get("trained_parameters", 0))
    kept = _megabytes(plan, keep)[plan.runs["run"].isin(list(wanted))].sum()
    # An unfinished run writes its weights, the best so far and two moments of the optimiser; one
    # checkpoint per worker is there even where none is kept.
    unfinished = workers * parameters * 4 * (4 + 1) / 1e6
    return float(kept + unfinished)


def sentence(plan: Planned, wanted: Iterable[str] | None = None, store: Store | None = None) -> str:
    """Return the cost of a plan in one sentence."""
    total = cost(plan, wanted, store).iloc[-1]
    _, note = rate(plan, store)
    return (
        f"{total['runs']:,} runs of profile {plan.profile!r} with encoder {plan.encoder!r}: about "
        f"{(total['training_tokens'] + total['test_tokens']) / 1e6:.2g} million tokens, "
        f"{_duration(total['minutes'])} on one device ({note}), "
        f"{total['megabytes']:,.0f} MB in the end."
    )


def _duration(minutes: float) -> str:
    if minutes < 90:
        return f"{minutes:.1f} minutes"
    return f"{minutes / 60:.1f} hours" if minutes < 48 * 60 else f"{minutes / 1440:.1f} days"
