"""Do single runs of a stored plan: ``python -m helpers.study.run <run id> [<run id> ...]``.

Each call is idempotent: a run that is done is left alone, one that another process works on is
waited for, one whose intermediate stage is missing does that first. The exit code is 0 when every run
is done, 1 when one failed (its record says why), and 143 after SIGTERM (the state is written, and the
same call goes on).
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from helpers.errors import HelpfulError
from helpers.study import plans
from helpers.study.engines.local import Queue
from helpers.study.engines.pinning import pin
from helpers.study.engines.signals import exit_code, terminated
from helpers.study.execution import Stop, Stopped
from helpers.study.resuming import missing
from helpers.study.store import Store


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says; return the exit code."""
    options = _parser().parse_args(arguments)
    store = Store(options.store)
    try:
        register_tasks()
        with terminated() as stop, pin(store.folder / "claims", options.pin):
            plan = _plan(store, options.plan, options.runs)
            return _work(_queue(options, plan, store, stop))
    except Stopped as error:
        print(error, file=sys.stderr)
        return exit_code()
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    except HelpfulError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def register_tasks() -> None:
    """Import the modules that ``TRANSFER_TASKS`` names, so that their tasks can be planned."""
    for module in filter(None, os.environ.get("TRANSFER_TASKS", "").split(",")):
        try:
            importlib.import_module(module.strip())
        except ModuleNotFoundError as error:
            raise HelpfulError(
                f"TRANSFER_TASKS names module {module.strip()!r}, and {error}. Name modules that "
                "register tasks, separated by commas, in a folder on PYTHONPATH."
            ) from error


def _queue(options: argparse.Namespace, plan: plans.Plan, store: Store, stop: Stop) -> Queue:
    runs = missing(plan, store, options.keep) if options.missing else options.runs
    shared = _shared(runs, options.share)
    more = {"keep": options.keep, "since": options.since}
    return Queue(plan, shared, store, stop=stop, **more)


def _work(queue: Queue) -> int:
    failed = 0

    def finished(run: str, status: str) -> None:
        nonlocal failed
        failed += status.startswith("failed")
        print(f"{run} {queue.plan.job(run).name}: {status}", flush=True)

    queue.through(finished)
    return 1 if failed else 0


def _plan(store: Store, path: Path | None, runs: Sequence[str]) -> plans.Plan:
    plan = plans.load(path) if path else plans.find(store.folder / "plans", runs)
    for run in runs:
        plan.job(run)
    return plan


def _shared(runs: Sequence[str], share: str) -> list[str]:
    """Start each of several processes at another place, so that they do not meet at once."""
    number, _, count = share.partition("/")
    begin = len(runs) * int(number) // int(count)
    return [*runs[begin:], *runs[:begin]]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m helpers.study.run", description=__doc__)
    parser.add_argument("runs", nargs="*", help="ids of runs, parents before what needs them")
    parser.add_argument("--plan", type=Path, help="file of the plan; found by the ids otherwise")
    parser.add_argument("--store", type=Path, help="folder of the store; else TRANSFER_STORE")
    parser.add_argument("--missing", action="store_true", help="do every missing run of the plan")
    parser.add_argument("--share", default="0/1", help="NUMBER/COUNT: start this far into the list")
    parser.add_argument("--since", type=int, default=0, help="leave runs that failed after this")
    parser.add_argument("--keep", action="store_true", help="keep checkpoints nothing needs now")
    parser.add_argument("--pin", action="store_true", help="take a free GPU and no other")
    return parser


if __name__ == "__main__":
    sys.exit(main())
