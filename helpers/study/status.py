"""Say what is done, running, failed and missing: ``python -m helpers.study.status``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from helpers.errors import HelpfulError
from helpers.study import costs, plans
from helpers.study.resuming import missing
from helpers.study.store import Store


def status(store: Store, profile: str = "") -> pd.DataFrame:
    """Return one row per plan that was started in a store, newest first.

    Args:
        store: the store.
        profile: only plans of this profile.

    Returns:
        Columns plan, profile, encoder, runs, done, collapsed, failed, running, missing and
        minutes_left (on one device, as far as can be estimated).
    """
    files = (store.folder / "plans").glob("[!.]*.parquet")
    rows = []
    for path in sorted(files, key=lambda path: -path.stat().st_mtime_ns):
        try:
            plan = plans.load(path)
        except HelpfulError as error:
            print(error, file=sys.stderr)
            continue
        if profile in ("", plan.profile):
            rows.append(_row(plan, store))
    columns = ["plan", "profile", "encoder", "runs", "done", "collapsed", "failed", "running"]
    return pd.DataFrame(rows, columns=[*columns, "missing", "minutes_left"])


def _row(plan: plans.Plan, store: Store) -> dict[str, object]:
    index = store.index()
    own = index[index["run"].isin(plan.runs["run"])]["status"]
    left = missing(plan, store, keep=False)
    minutes = dict(zip(plan.runs["run"], costs.minutes(plan, store), strict=True))
    return {
        "plan": plan.id,
        "profile": plan.profile,
        "encoder": plan.encoder,
        "runs": len(plan),
        "done": int((own == "done").sum()),
        "collapsed": int((own == "collapsed").sum()),
        "failed": int(own.str.startswith("failed").sum()),
        "running": sum(store.claimed(run) for run in left),
        "missing": len(left),
        "minutes_left": round(sum(minutes[run] for run in left), 1),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the state of the store and of its plans."""
    parser = argparse.ArgumentParser(prog="python -m helpers.study.status", description=__doc__)
    parser.add_argument("--profile", default="", help="only plans of this profile")
    parser.add_argument("--store", type=Path, help="folder of the store; else TRANSFER_STORE")
    options = parser.parse_args(arguments)
    store = Store(options.store)
    print(f"{store.folder}\n")
    with pd.option_context("display.width", 200, "display.max_columns", 20):
        print(store.summary().to_string(index=False), end="\n\n")
        table = status(store, options.profile)
        print(table.to_string(index=False) if len(table) else "no plan was started here yet")
        _print_failures(store)
    return 0


def _print_failures(store: Store, most: int = 10) -> None:
    index = store.index()
    failed = index[index["status"].str.startswith("failed")]
    for run, why in zip(failed["run"][:most], failed["status"][:most], strict=True):
        print(f"{run} {why} (log: {store.log(run)})")
    if len(failed) > most:
        print(f"... and {len(failed) - most} more")


if __name__ == "__main__":
    sys.exit(main())
