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
import time
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

from helpers import tasks
from helpers.errors import BadPlan, HelpfulError, unknown
from helpers.study import engines
from helpers.study.plan import (
    Plan,
    listed,
    load,
    make,
    minutes,
    missing,
    peak_megabytes,
    stand_ins,
)
from helpers.study.profiles import PROFILES, Profile
from helpers.study.run import Stopped, register_tasks
from helpers.study.store import Store, free_bytes

__all__ = ["Plan", "plan", "run", "status", "stored"]

MODES = ("stored", "missing", "always")

# The modules ``plan`` and ``run`` are imported above, so these names are the functions from here on;
# Python would warn where one is then executed, as ``python -m helpers.study.run``.
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
        store: where what is known of the data is remembered; by default the project's store.

    Returns:
        The plan: ``plan.runs`` is its table, ``plan.cost()`` what it takes.

    Raises:
        UnknownName: a profile, condition or language that does not exist.
        BadPlan: data, tasks or the encoder are missing; the text names all of them at once.
    """
    asked = (profile, intermediates, targets, conditions, seeds, encoder, languages)
    return make(*asked, store or Store())


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
        progress: whether to show runs done, rate and time left.
        store: where records are; by default the project's store.
        keep: whether checkpoints of intermediate stages stay; by default as the profile says.
        workers: how many arms at a time, where the engine does several; 0: it decides.
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
    work, store = _engine(engine), store or Store()
    if mode == "stored":
        return stored(plan, store)
    kept = bool(plan.facts.get("keep", True)) if keep is None else keep
    wanted = list(plan.runs["run"]) if mode == "always" else missing(plan, store, kept)
    lacking = engines.problems(engine) if wanted else []
    lacking += _only_here(plan, engine) + _no_room(plan, wanted, store, kept) if wanted else []
    if lacking:
        raise BadPlan(listed(lacking))
    if mode == "always":
        _set_aside(plan, store)
    # A second round redoes records that turn out to be damaged when they are read.
    for _ in range(2):
        if wanted:
            store.sweep()
            plan.save(store.plans)
            shown = engines.Progress(plan, wanted, store, progress)
            arms = list(dict.fromkeys(plan.arm_of[run] for run in wanted))
            try:
                work(plan, arms, store, kept, shown, workers=workers, extra=extra)
            finally:
                shown.bar.close()
        scores = stored(plan, store)
        if not store.rejected.keys() & plan.arm_of.keys():
            break
        wanted = missing(plan, store, kept)
    return scores


def stored(plan: Plan, store: Store | None = None) -> pd.DataFrame:
    """Return the scores of a plan that are in the store.

    Raises:
        HelpfulError: not a single run of the plan is there; the text says how to get them.
    """
    store = store or Store()
    others = stand_ins(plan, store, store.runs() & plan.arm_of.keys())
    scores = store.scores([others.get(run, run) for run in plan.runs["run"]])
    languages = plan.facts.get("languages")
    if languages:
        scores = scores[scores["language"].isin([*languages, ""])].reset_index(drop=True)
    if scores.empty and len(plan):
        raise HelpfulError(
            f"no run of this plan is in {store.folder}. {plan.sentence(store)} Run it with "
            f"study.run(plan), or: python -m helpers.study --profile {plan.profile}"
        )
    return scores


def status(store: Store | None = None, profile: str = "") -> pd.DataFrame:
    """Return one row per plan that was started in a store, newest first.

    Args:
        store: the store; by default the project's.
        profile: only plans of this profile.

    Returns:
        Columns plan, profile, encoder, runs, done, collapsed, failed, running (arms), missing and
        minutes_left (on one device, as far as can be estimated).
    """
    store, rows = store or Store(), []
    names = ["plan", "profile", "encoder", "runs", "done", "collapsed", "failed", "running"]
    for path in sorted(
        store.plans.glob("[!.]*.parquet"), key=lambda path: -path.stat().st_mtime_ns
    ):
        try:
            plan = load(path)
        except HelpfulError as error:
            print(error, file=sys.stderr)
            continue
        if profile not in ("", plan.profile):
            continue
        index = store.index().set_index("run")["status"]
        own = index[index.index.isin(plan.arm_of)].str.split(":").str[0].value_counts()
        left = missing(plan, store, keep=False)
        rest = minutes(plan, store)[plan.runs["run"].isin(left)].sum()
        counts = [int(own.get(name, 0)) for name in ("done", "collapsed", "failed")]
        running = sum(store.held(arm) for arm in {plan.arm_of[run] for run in left})
        facts = [plan.id, plan.profile, plan.encoder, len(plan)]
        rows.append([*facts, *counts, running, len(left), round(rest, 1)])
    return pd.DataFrame(rows, columns=[*names, "missing", "minutes_left"])


def _engine(name: str) -> Any:
    if name not in engines.ENGINES:
        raise unknown("engine", name, engines.ENGINES)
    return engines.ENGINES[name]


def _set_aside(plan: Plan, store: Store) -> None:
    """Move the records of a plan out of the way, to do it all again."""
    folder = store.folder / "replaced" / f"{time.strftime('%Y%m%dT%H%M%S')}-{time.time_ns()}"
    for run in plan.runs["run"]:
        if store.path(run).exists():
            folder.mkdir(parents=True, exist_ok=True)
            store.path(run).rename(folder / store.path(run).name)
        store.drop_progress(run)


def _only_here(plan: Plan, engine: str) -> list[str]:
    """Name the tasks that other processes could not know."""
    if engine == "local" or os.environ.get("TRANSFER_TASKS"):
        return []
    cells = {*plan.runs["intermediate"], *plan.runs["target"]}
    known = {name for cell in cells for name in cell.split("+")} & set(tasks.names())
    return [
        f"task {name!r} is known to this session only, and engine {engine!r} starts others: use "
        "engine='local', or put its registration into a module that can be imported and set "
        "TRANSFER_TASKS=that_module."
        for name in sorted(known - tasks.SHIPPED)
        if tasks.get(name).group != "tiny"
    ]


def _no_room(plan: Plan, wanted: Sequence[str], store: Store, keep: bool) -> list[str]:
    need, free = peak_megabytes(plan, wanted, keep=keep), free_bytes(store.folder) / 1e6
    other = ", or run it with keep=False (--keep no)" * keep
    return [
        f"disk: what is missing needs about {need:,.0f} MB and {store.folder} has {free:,.0f}; set "
        f"TRANSFER_STORE to a folder on a larger disk{other}."
    ][: need >= free]


def main(arguments: Sequence[str] | None = None) -> int:
    """Plan and run a study from the command line; return the exit code."""
    options = _parser().parse_args(arguments)
    try:
        register_tasks()
        if options.status:
            return _print_status(Store(), options.profile or "")
        _engine(options.engine)
        chosen = plan(
            options.profile or "demo",
            options.intermediates,
            options.targets,
            options.conditions,
            options.seeds,
            options.encoder,
            "available" if options.languages == ["available"] else options.languages,
        )
        print(chosen.sentence(), file=sys.stderr)
        for target, absent in chosen.facts.get("absent", {}).items():
            if absent:
                print(f"  {target}: no data in {', '.join(absent)}", file=sys.stderr)
        keep = {"": None, "yes": True, "no": False}[options.keep]
        more = {"keep": keep, "workers": options.workers, "extra": options.extra}
        scores = run(chosen, options.mode, options.engine, **more)
    except Stopped as error:
        print(error, file=sys.stderr)
        return error.code
    except KeyboardInterrupt:
        print("stopped; what was stored stays, and the same command goes on.", file=sys.stderr)
        return 130
    except HelpfulError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    failed = scores[scores["status"].str.startswith("failed")]
    done = scores.loc[~scores["run"].isin(failed["run"]), "run"].nunique()
    print(f"{done} evaluated runs, {len(scores)} scores in {Store().folder}", file=sys.stderr)
    for row in failed.drop_duplicates("run").itertuples():
        print(f"  {row.run} {row.target} via {row.intermediate}: {row.status}", file=sys.stderr)
    return 1 if len(failed) else 0


def _print_status(store: Store, profile: str, most: int = 10) -> int:
    """Print the state of the store and of its plans."""
    table, index = status(store, profile), store.index()
    with pd.option_context("display.width", 200, "display.max_columns", 20):
        print(f"{store.folder}\n\n{store.summary().to_string(index=False)}\n")
        print(table.to_string(index=False) if len(table) else "no plan was started here yet")
    failed = index[index["status"].str.startswith("failed")]
    for run, why in zip(failed["run"][:most], failed["status"][:most], strict=True):
        print(f"{run} {why} (log: {store.log(run)})")
    print(f"... and {len(failed) - most} more\n" * (len(failed) > most), end="")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m helpers.study", description=__doc__)
    names: dict[str, Any] = {"nargs": "+", "metavar": "NAME"}
    parser.add_argument("--profile", choices=list(PROFILES), help="demo where none is named")
    parser.add_argument("--engine", default="local", help=", ".join(engines.ENGINES))
    parser.add_argument("--mode", default="missing", help=", ".join(MODES))
    parser.add_argument("--status", action="store_true", help="only say what is done and missing")
    parser.add_argument("--seeds", type=int, help="of every cell; baselines have twice as many")
    parser.add_argument("--intermediates", **names)
    parser.add_argument("--targets", **names)
    parser.add_argument("--conditions", default=("none", "single"), **names)
    parser.add_argument("--languages", help='codes, or "available": those at hand', **names)
    parser.add_argument("--encoder")
    parser.add_argument("--workers", type=int, default=0, help="arms at a time")
    parser.add_argument("--keep", default="", choices=["", "yes", "no"], help="keep checkpoints")
    parser.add_argument("extra", nargs="*", help="after --: arguments for Snakemake")
    return parser
