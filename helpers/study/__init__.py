"""Plan a study, run what is missing, and get one tidy table of scores.

    from helpers import study
    plan = study.plan("demo")
    plan.cost()
    scores = study.run(plan)

or ``python -m helpers.study --profile demo --engine local --mode missing``.
"""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

from helpers import tasks
from helpers.errors import BadPlan, HelpfulError, unknown
from helpers.study import costs, engines, planning
from helpers.study.engines.line import Line
from helpers.study.engines.signals import exit_code
from helpers.study.execution import Stopped
from helpers.study.plans import Plan
from helpers.study.profiles import PROFILES, Profile
from helpers.study.resuming import MODES, missing, set_aside, stand_ins
from helpers.study.run import register_tasks
from helpers.study.store import FINISHED, Store, free_bytes
from helpers.study.surveys import Surveys

__all__ = ["Plan", "plan", "run"]

# The module ``run`` is imported above, so that the name below stays the function; Python would warn
# where the module is then executed, as ``python -m helpers.study.run``.
warnings.filterwarnings("ignore", ".*'helpers.study.run' found in sys.modules", RuntimeWarning)


def plan(
    profile: str | Profile,
    intermediates: Iterable[str] | None = None,
    targets: Iterable[str] | None = None,
    conditions: Iterable[str] = ("none", "single"),
    seeds: int | Iterable[int] | None = None,
    encoder: str | None = None,
    languages: Iterable[str] | None = None,
    store: Store | None = None,
) -> Plan:
    """Plan a study; nothing is trained.

    Args:
        profile: ``"tiny"``, ``"demo"``, ``"pilot"`` or ``"paper"``, or a profile of your own.
        intermediates: names of the intermediate tasks; by default those of the profile.
        targets: names of the target tasks; by default those of the profile.
        conditions: how the intermediate stage is done; ``"none"`` is the baseline.
        seeds: how many seeds each cell has, or which; baselines have twice as many. A retrieval
            target of the plain encoder has one run, since nothing in it is random.
        encoder: name of the encoder; by default the profile's.
        languages: evaluate in these languages only; by default in all a target has.
            ``"available"``: in those whose data are at hand; ``plan.facts["absent"]`` has the rest.
        store: where surveys of the data are remembered; by default the project's store.

    Returns:
        The plan: ``plan.runs`` is its table, ``plan.cost()`` what it takes.

    Raises:
        UnknownName: a profile, condition or language that does not exist.
        BadPlan: data, tasks or the encoder are missing; the text names all of them at once.
    """
    wanted = planning.wish(profile, intermediates, targets, conditions, seeds, encoder, languages)
    return planning.make(wanted, Surveys((store or Store()).folder / "surveys.json"))


def run(
    plan: Plan,
    mode: str = "missing",
    engine: str = "local",
    progress: bool = True,
    *,
    store: Store | None = None,
    keep: bool | None = None,
    workers: int = 0,
    extra: Sequence[str] = (),
) -> pd.DataFrame:
    """Do what a plan needs and return its scores.

    Args:
        plan: the plan.
        mode: ``"stored"`` does nothing and returns what is there, ``"missing"`` does the rest,
            ``"always"`` does everything again (older records are moved aside, not deleted).
        engine: ``"local"``, ``"processes"``, ``"snakemake"`` or ``"slurm"``.
        progress: whether to show a line with runs done, rate and time left.
        store: where records are; by default the project's store.
        keep: whether checkpoints of intermediate stages stay; by default as the profile says.
        workers: how many runs at a time, where the engine does several; 0: it decides.
        extra: arguments for Snakemake.

    Returns:
        One row per score with the columns ``helpers.study.store.SCORE_COLUMNS``, collapsed and failed
        runs among them.

    Raises:
        UnknownName: an engine or mode that does not exist.
        BadPlan: something the plan needs is not there; nothing was started.
        StoreFull: the disk is full; what was finished is safe.
    """
    if mode not in MODES:
        raise unknown("mode", mode, MODES)
    chosen, store = engines.get(engine), store or Store()
    kept = bool(plan.facts.get("keep", True)) if keep is None else keep
    if mode == "stored":
        return stored(plan, store)
    wanted = list(plan.runs["run"]) if mode == "always" else missing(plan, store, kept)
    problems: list[str] = []
    if wanted:
        problems = chosen.problems() + _only_here(plan, engine)
        problems += _no_room(plan, wanted, store, kept)
    if problems:
        raise BadPlan(planning.listed("this plan cannot run", problems))
    if mode == "always":
        set_aside(plan, store)
    if wanted:
        store.sweep()
        plan.save(store.folder / "plans")
    # A second round redoes records that turn out to be damaged when they are read.
    for _ in range(2):
        if wanted:
            _execute(chosen, _order(plan, wanted, store, kept, progress, workers, extra))
        scores = stored(plan, store)
        if not store.rejected.keys() & set(plan.runs["run"]):
            break
        wanted = missing(plan, store, kept)
    return scores


def _execute(engine: engines.Engine, order: engines.Order) -> None:
    try:
        engine.run(order)
    finally:
        order.line.close()


def stored(plan: Plan, store: Store | None = None) -> pd.DataFrame:
    """Return the scores of a plan that are in the store.

    Raises:
        HelpfulError: not a single run of the plan is there; the text says how to get them.
    """
    store = store or Store()
    others = stand_ins(plan, store, store.runs(FINISHED) & set(plan.runs["run"]))
    scores = store.scores([others.get(run, run) for run in plan.runs["run"]])
    languages = plan.facts.get("languages")
    if languages:
        scores = scores[scores["language"].isin([*languages, ""])].reset_index(drop=True)
    if scores.empty and len(plan):
        raise HelpfulError(
            f"no run of this plan is in {store.folder}. {costs.sentence(plan)} Run it with "
            f"study.run(plan), or: python -m helpers.study --profile {plan.profile}"
        )
    return scores


def _order(
    plan: Plan,
    wanted: Sequence[str],
    store: Store,
    keep: bool,
    progress: bool,
    workers: int,
    extra: Sequence[str],
) -> engines.Order:
    minutes = dict(zip(plan.runs["run"], costs.minutes(plan, store), strict=True))
    line = Line({run: minutes[run] for run in wanted}, label=plan.profile, show=progress)
    return engines.Order(plan, wanted, store, line, keep, workers, extra, store.now())


def _only_here(plan: Plan, engine: str) -> list[str]:
    """Name the tasks that other processes could not know."""
    if engine == "local" or os.environ.get("TRANSFER_TASKS"):
        return []
    cells = {*plan.runs["intermediate"], *plan.runs["target"]}
    known = {name for cell in cells for name in cell.split("+")} & set(tasks.names())
    own = [n for n in sorted(known - tasks.SHIPPED) if tasks.get(n).group != "tiny"]
    return [
        f"task {name!r} is known to this session only, and engine {engine!r} starts others: use "
        "engine='local', or put its registration into a module that can be imported and set "
        "TRANSFER_TASKS=that_module."
        for name in own
    ]


def _no_room(plan: Plan, wanted: Sequence[str], store: Store, keep: bool) -> list[str]:
    need, free = costs.peak_megabytes(plan, wanted, keep=keep), free_bytes(store.folder) / 1e6
    if need < free:
        return []
    return [
        f"disk: what is missing needs about {need:,.0f} MB and {store.folder} has {free:,.0f}; set "
        f"TRANSFER_STORE to a folder on a larger disk{', or run it with keep=False (--keep no)' * keep}."
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Plan and run a study from the command line; return the exit code."""
    options = _parser().parse_args(arguments)
    try:
        register_tasks()
        chosen = _planned(options)
        print(costs.sentence(chosen, store=Store()), file=sys.stderr)
        left = missing(chosen, Store(), bool(chosen.facts.get("keep", True)))
        if options.mode == "missing" and len(left) < len(chosen):
            print(f"  {len(chosen) - len(left)} of them are stored already.", file=sys.stderr)
        for target, absent in chosen.facts.get("absent", {}).items():
            if absent:
                print(f"  {target}: no data in {', '.join(absent)}", file=sys.stderr)
        scores = run(
            chosen,
            options.mode,
            options.engine,
            keep={"": None, "yes": True, "no": False}[options.keep],
            workers=options.workers,
            extra=options.extra,
        )
    except Stopped as error:
        print(error, file=sys.stderr)
        return exit_code()
    except KeyboardInterrupt:
        print("stopped; what was stored stays, and the same command goes on.", file=sys.stderr)
        return 130
    except HelpfulError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return _told(chosen, scores)


def _planned(options: argparse.Namespace) -> Plan:
    """Make the plan; name what data, encoder and engine lack in one go."""
    lacking = engines.get(options.engine).problems()
    try:
        made = plan(
            options.profile,
            options.intermediates,
            options.targets,
            options.conditions,
            options.seeds,
            options.encoder,
            "available" if options.languages == ["available"] else options.languages,
        )
    except BadPlan as error:
        raise BadPlan("\n".join([str(error), *(f"  - {text}" for text in lacking)])) from None
    if lacking:
        raise BadPlan(planning.listed("this plan cannot run", lacking))
    return made


def _told(chosen: Plan, scores: pd.DataFrame) -> int:
    """Say what came out; failures make the exit code 1."""
    failed = scores[scores["status"].str.startswith("failed")]
    done = scores.loc[~scores["status"].str.startswith("failed"), "run"].nunique()
    print(f"{done} evaluated runs, {len(scores)} scores in {Store().folder}", file=sys.stderr)
    for row in failed.drop_duplicates("run").itertuples():
        print(f"  {row.run} {row.target} via {row.intermediate}: {row.status}", file=sys.stderr)
    return 1 if len(failed) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m helpers.study", description=__doc__)
    names: dict[str, Any] = {"nargs": "+", "metavar": "NAME"}
    parser.add_argument("--profile", required=True, choices=list(PROFILES))
    parser.add_argument("--engine", default="local", help=", ".join(engines.ENGINES))
    parser.add_argument("--mode", default="missing", help=", ".join(MODES))
    parser.add_argument(
        "--seeds", type=int, help="seeds of every cell; baselines have twice as many"
    )
    parser.add_argument("--intermediates", **names)
    parser.add_argument("--targets", **names)
    parser.add_argument("--conditions", default=("none", "single"), **names)
    parser.add_argument("--languages", help='codes, or "available": those at hand', **names)
    parser.add_argument("--encoder")
    parser.add_argument("--workers", type=int, default=0, help="runs at a time")
    parser.add_argument("--keep", default="", choices=["", "yes", "no"], help="keep checkpoints")
    parser.add_argument("extra", nargs="*", help="after --: arguments for Snakemake")
    return parser
