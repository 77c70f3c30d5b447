"""Plan and run a study from the command line: ``python -m helpers.study``.

The exit code is 0 when no run failed, 1 when one did (its record says why), 2 after an error, and 143 after
SIGTERM or 130 after Ctrl-C (the state is written, and the same command in mode 'missing' goes on).
"""

import argparse
import sys
from collections.abc import Sequence
from os.path import getmtime
from pathlib import Path
from typing import Any

import pandas as pd

from helpers import study
from helpers.errors import HelpfulError, known
from helpers.study.arm import Stopped, register_tasks, stopping, through
from helpers.study.engines import ENGINES
from helpers.study.plan import load, minutes
from helpers.study.profiles import PROFILES
from helpers.study.store import AGAIN, Store, missing


def parser() -> argparse.ArgumentParser:
    """Return what reads the command line."""
    made = argparse.ArgumentParser(prog="python -m helpers.study", description=__doc__)
    names: dict[str, Any] = {"nargs": "+", "metavar": "NAME"}
    made.add_argument("--profile", choices=list(PROFILES), help="demo where none is named")
    made.add_argument("--engine", default="local", choices=list(ENGINES))
    made.add_argument("--mode", default="missing", choices=study.MODES)
    made.add_argument("--status", action="store_true", help="only say what is done and missing")
    made.add_argument("--seeds", type=int, help="of every cell; baselines have twice as many")
    made.add_argument("--intermediates", **names)
    made.add_argument("--targets", **names)
    made.add_argument("--conditions", default=("none", "single"), **names)
    made.add_argument("--languages", help='codes, or "available": those at hand', **names)
    made.add_argument("--encoder")
    made.add_argument("--workers", type=int, default=0, help="arms at a time")
    made.add_argument("--keep", choices=["yes", "no"], help="keep checkpoints, else as planned")
    made.add_argument("--dirty", action="store_true", help="store what uncommitted code makes")
    made.add_argument("--plan", type=Path, help="file of plan.save(): do its arms, or some of them")
    made.add_argument("--arms", help="names of these, as plan.arms has them", **names)
    made.add_argument("extra", nargs="*", help="after --: arguments for Snakemake")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says; return the exit code."""
    asked = parser().parse_args(arguments)
    try:
        register_tasks()
        if asked.status:
            return _print_status(Store(), asked.profile or "")
        if asked.arms and not asked.plan:
            raise HelpfulError("--arms needs --plan, the file that plan.save() wrote of theirs.")
        keep = None if asked.keep is None else asked.keep == "yes"
        if asked.plan:
            return _do_arms(load(asked.plan), asked.arms, keep)
        cells = (asked.intermediates, asked.targets, asked.conditions, asked.seeds)
        plan = study.plan(asked.profile or "demo", *cells, asked.encoder, asked.languages)
        print(plan.sentence(), file=sys.stderr)
        for target, absent in plan.facts["absent"].items():
            if absent:
                print(f"  {target}: no data in {', '.join(absent)}", file=sys.stderr)
        more = {"workers": asked.workers, "extra": asked.extra, "dirty": asked.dirty}
        scores = study.run(plan, asked.mode, asked.engine, keep=keep, **more)
    except KeyboardInterrupt:
        print(f"stopped; what was stored stays, and {AGAIN}.", file=sys.stderr)
        return 130
    except HelpfulError as error:
        print(error if isinstance(error, Stopped) else f"error: {error}", file=sys.stderr)
        return error.code if isinstance(error, Stopped) else 2
    failed = scores[scores["status"].str.startswith("failed")]
    done = scores.loc[~scores["run"].isin(failed["run"]), "run"].nunique()
    print(f"{done} evaluated runs, {len(scores)} scores in {Store().folder}", file=sys.stderr)
    for row in failed.drop_duplicates("run").itertuples():
        print(f"  {row.run} {row.target} via {row.intermediate}: {row.status}", file=sys.stderr)
    return 1 if len(failed) else 0


def _do_arms(plan: study.Plan, names: Sequence[str] | None, keep: bool | None) -> int:
    """Do some arms in this process, as a scheduler asks for them."""
    arms, failed = [known("arm", name, plan.arms) for name in names or plan.arms], list[str]()
    kept = bool(plan.facts["keep"]) if keep is None else keep

    def tell(run: str, status: str, now: str) -> None:
        if status:
            print(f"{run} {plan.job(run).name}: {status}", flush=True)
            failed.extend([run] * status.startswith("failed"))

    with stopping() as stop:
        through(plan, arms, Store(), keep=kept, stop=stop, tell=tell)
    return 1 if failed else 0


def status(store: Store, profile: str = "") -> pd.DataFrame:
    """Return a row per plan that was started in a store, newest first; minutes_left on one device."""
    rows = []
    for path in sorted(store.plans.glob("[!.]*.parquet"), key=getmtime, reverse=True):
        try:
            plan = load(path)
        except HelpfulError as error:
            print(error, file=sys.stderr)
            continue
        index, left = store.index(), missing(plan, store, keep=False)
        own = index.loc[index["run"].isin(plan.arm_of), "status"].str.split(":").str[0].tolist()
        row = {"plan": plan.id, "profile": plan.profile, "encoder": plan.encoder, "runs": len(plan)}
        row |= {name: own.count(name) for name in ("done", "collapsed", "failed")}
        row["running"] = sum(store.held(arm) for arm in {plan.arm_of[run] for run in left})
        rest = minutes(plan, store)[plan.runs["run"].isin(left)].sum()
        rows += [row | {"missing": len(left), "minutes_left": round(rest, 1)}]
    return pd.DataFrame([row for row in rows if profile in ("", row["profile"])])


def _print_status(store: Store, profile: str, most: int = 10) -> int:
    table, index = status(store, profile), store.index()
    with pd.option_context("display.width", 200, "display.max_columns", 20):
        print(f"{store.folder}\n\n{store.summary().to_string(index=False)}\n")
        print(table.to_string(index=False) if len(table) else "no plan was started here yet")
    failed = index[index["status"].str.startswith("failed")]
    for run, why in zip(failed["run"][:most], failed["status"][:most], strict=True):
        print(f"{run} {why} (log: {store.log(run)})")
    print(f"... and {len(failed) - most} more\n" * (len(failed) > most), end="")
    return 0


# Processes of a pool import this module, and must not start a study.
if __name__ == "__main__":
    sys.exit(main())
