"""Do one arm in one process: ``python -m helpers.study.run <arm> [<arm> ...]``.

The encoder is loaded once, the intermediate stage trained once, then every target is trained, scored
in its languages and recorded. Each call is idempotent: a run that is done is left alone, an unfinished
fine-tuning goes on from its last state, an arm that another process works on is waited for. The exit
code is 0 when every run is done, 1 when one failed (its record says why), and 143 after SIGTERM or 130
after Ctrl-C (the state is written, and the same call goes on).
"""

from __future__ import annotations

import argparse
import functools
import importlib
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from helpers import tasks
from helpers.errors import BadRecord, BadRows, HelpfulError, StoreFull
from helpers.files import provenance, write_atomic
from helpers.models.settings import Outcome, Settings
from helpers.study.plan import Plan, changed_rows, find, load, missing
from helpers.study.profiles import MARGIN, RETRY_SEED
from helpers.study.store import FINISHED, Record, Store

if TYPE_CHECKING:
    from helpers.models.encoders import Encoder
    from helpers.models.training import Tuned

log = logging.getLogger("helpers.study.run")
Stop = Callable[[], bool]
# Told the run, its status, and what is being done of it; the status is "" while it is at work.
Tell = Callable[[str, str, str], None]
# After a SIGTERM a run gets this long to write its state; then the process ends in any case.
GRACE = 15.0
POLL = 0.5
SAME_FAILURES = 5
# In place of weights, in the checkpoint of a stage whose loss was no longer a number.
NO_ENCODER = "no-encoder.txt"


class Stopped(HelpfulError):
    """A run was asked to stop; what it had done is written down and the next start goes on."""

    def __init__(self, signal_number: int = signal.SIGTERM) -> None:
        """Remember which signal asked, for the exit code."""
        super().__init__("stopped as asked; the same command goes on where this one ended.")
        self.code = 128 + signal_number


class _Lost(HelpfulError):
    """The checkpoint of a stage fails its checksum; the stage must be done again."""


def do(plan: Plan, arm: str, store: Store, *, keep: bool, stop: Stop, tell: Tell) -> bool:
    """Do what is missing of an arm and record it, run by run.

    Args:
        plan: the plan.
        arm: id of the arm, of ``plan.arms``.
        store: where records go.
        keep: whether the checkpoint stays when nothing in the plan needs it any more.
        stop: when true, the run in hand writes its state and ``Stopped`` is raised.
        tell: told of every step and of every status that was recorded.

    Returns:
        Whether that was done; False where another process works on the arm.

    Raises:
        Stopped: ``stop`` said so; nothing was recorded.
        StoreFull: the disk is full; what was recorded is safe, the state is kept where it fits.
    """
    with store.lock(arm) as mine:
        if not mine:
            return False
        staged, start = plan.arms[arm][0] == arm, functools.cache(lambda: _start(plan, arm, store))
        left = [run for run in missing(plan, store, keep) if plan.arm_of[run] == arm]
        while left:
            run = left.pop(0)
            try:
                tell(run, _record_of(plan.job(run), store, start, stop, tell), "")
            except _Lost:
                store.drop_checkpoint(arm)
                start.cache_clear()
                left = [arm, run, *left]
        if staged and not keep and not set(plan.arms[arm]) & set(missing(plan, store, keep)):
            store.drop_checkpoint(arm)
    return True


def _start(plan: Plan, arm: str, store: Store) -> tuple[Any, str]:
    """Return the encoder that the runs of an arm start from, and why there is none.

    The stage that it comes from is done or has failed: it is the first run of its arm.
    """
    encoder, folder = pretrained(plan.encoder), store.checkpoint(arm)
    if plan.arms[arm][0] != arm:
        return encoder, ""
    status = store.status(arm)
    if folder is None or status not in FINISHED:
        return None, f"failed: its intermediate stage {arm} {status}"
    if (folder / NO_ENCODER).exists():
        # The weights before that stage would give the baseline's scores, and a gain of exactly 0.
        return None, "collapsed"
    try:
        return tuned_encoder(encoder, folder), ""
    except BadRecord as error:
        raise _Lost(str(error)) from error


def _record_of(
    job: Record, store: Store, start: Callable[[], tuple[Any, str]], stop: Stop, tell: Tell
) -> str:
    """Do one run and record it; return the status."""
    if stop():
        raise Stopped
    tell(job.run, "", job.name)
    with _logged(job, store):
        try:
            if changed := changed_rows(job, store):
                raise BadRows(
                    f"rows changed since the plan was made: {', '.join(changed)}. Nothing was "
                    "trained or scored; plan again, and what did not change is kept."
                )
            stage = job.stage == "intermediate"
            origin, lacking = (pretrained(job.encoder), "") if stage else start()
            if lacking:
                note = (
                    f"its intermediate stage {job.spec['parent']} collapsed: the loss was no longer a number, "
                    "so there is no encoder to start from"
                )
                notes = [note] * (lacking == "collapsed")
                outcomes = [Outcome(status=lacking, seed=job.spec["seed"], notes=notes)]
            else:
                outcomes = _attempts(job, origin, store, stop, tell)
        except (Stopped, StoreFull, _Lost):
            raise
        except Exception as error:  # a failed run is a result to show, not the end of a plan
            log.exception("failed")
            text = " ".join(str(error).split())
            status = f"failed: {type(error).__name__}: {text[:500]}"
            outcomes = [Outcome(status=status, seed=job.spec["seed"])]
        record = replace(job, attempts=outcomes, provenance=provenance())
        store.write(record)
        log.info("%s in %.1f s", record.status, sum(o.seconds for o in outcomes))
    if record.status in FINISHED:
        store.drop_progress(job.run)
    return record.status


def _attempts(job: Record, start: Encoder, store: Store, stop: Stop, tell: Tell) -> list[Outcome]:
    """Make an attempt, and one more with another seed if it collapses where that is retried."""
    outcomes: list[Outcome] = []
    for seed in (job.spec["seed"], job.spec["seed"] + RETRY_SEED)[: 1 + job.spec["judged"]]:
        began = time.monotonic()

        def step(done: int, total: int) -> None:
            tell(job.run, "", f"{job.name}: step {done}/{total}")

        tuned = attempt(job, start, store.progress(job.run) / str(seed), seed, stop, step)
        learnt = tuned.outcome.status == "done"
        outcome = _judged(tuned.outcome, job)
        outcomes.append(replace(outcome, seed=seed, seconds=time.monotonic() - began))
        if outcome.status != "collapsed":
            break
        log.warning("collapsed with seed %d: %s", seed, "; ".join(outcome.notes))
    if job.stage == "intermediate":
        store.save_checkpoint(job.run, tuned.save_encoder if learnt else _mark_nothing)
    return outcomes


def _mark_nothing(folder: Path) -> None:
    write_atomic(folder / NO_ENCODER, b"the loss was no longer a number: no encoder was kept\n")


def _judged(outcome: Outcome, job: Record) -> Outcome:
    """Apply the rule for collapsed runs, which was fixed before any result."""
    low = [
        f"{task}: English dev score {score:.3f} is not above {outcome.floor[task]:.3f} (constant "
        f"answer) + {MARGIN}"
        for task, score in outcome.dev.items()
        if task in outcome.floor and not score > outcome.floor[task] + MARGIN
    ]
    # Of several tasks trained together some may stay unlearnt; collapsed means that all did.
    if outcome.status != "done" or not low or len(low) < len(outcome.dev):
        return outcome
    status = "collapsed" if job.spec["judged"] else "done"
    return replace(outcome, status=status, notes=[*outcome.notes, *low])


def attempt(
    job: Record,
    start: Encoder,
    state: Path,
    seed: int,
    stop: Stop,
    step: Callable[[int, int], None],
) -> Tuned:
    """Fine-tune and score as a job says, from an encoder, or going on from a written state."""
    from helpers.models import training

    tuned = training.Tuned(start)
    if job.spec["settings"]:
        settings = Settings().override(job.spec["settings"])
        learnt = [tasks.get(name) for name in job.spec["data"]["tasks"]]
        try:
            tuned = training.fine_tune(
                start, learnt, settings, seed, checkpoint=state, progress=step, stop=stop
            )
        except training.Interrupted as error:
            raise Stopped from error
    if stop():
        raise Stopped
    outcome = tuned.outcome
    if job.stage == "intermediate":
        outcome.scores = _dev_scores(tuned, job)
    elif outcome.status == "done":
        outcome.scores = _scores(tuned, job)
    return tuned


def _scores(tuned: Tuned, job: Record) -> list[dict[str, Any]]:
    """Score a target in all its languages."""
    from helpers import evaluation
    from helpers.models import network

    data, scores = job.spec["data"], []
    for split, languages in data["splits"].items():
        asked = [language for language in languages if language in job.spec["evaluation"]]
        more = {"rows": data["test_rows"] or None, "split": split, "layer": data["layer"]}
        scores += evaluation.evaluate(tuned, tasks.get(job.target), asked, **more)
    device, outcome = network.best_device(), tuned.outcome
    outcome.device = outcome.device or network.describe(device)
    outcome.peak_memory_mb = max(outcome.peak_memory_mb, network.peak_memory_mb(device))
    return scores


def _dev_scores(tuned: Tuned, job: Record) -> list[dict[str, Any]]:
    """Return the English development scores of an intermediate stage as scores of a record."""
    rows = {name: facts["dev_rows"] for name, facts in job.spec["data"]["tasks"].items()}
    limit = tuned.settings.dev_rows or max(rows.values())
    facts = {"language": "en", "split": "dev", "status": "done"}
    return [
        {"task": name, "metric": tasks.get(name).metric, "value": value, **facts}
        | {"n": min(rows[name], limit)}
        for name, value in tuned.outcome.dev.items()
    ]


@functools.lru_cache(maxsize=1)
def pretrained(name: str) -> Encoder:
    """Load an encoder once per process; training copies what it changes."""
    from helpers.models import encoders

    return encoders.load(name)


def tuned_encoder(base: Encoder, folder: Path) -> Encoder:
    """Load the encoder that an intermediate stage left."""
    from helpers.models import training

    return training.load_encoder(base, folder)


@contextmanager
def _logged(job: Record, store: Store) -> Iterator[None]:
    """Write what happens in a run to its own log file."""
    path = store.log(job.run)
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False
    log.info("%s: %s, process %d", job.run, job.name, os.getpid())
    try:
        yield
    finally:
        log.removeHandler(handler)
        handler.close()


@contextmanager
def stopping() -> Iterator[Stop]:
    """Give a function that says whether SIGTERM or Ctrl-C has arrived, while the context lasts.

    ``GRACE`` seconds after a SIGTERM, or at a second Ctrl-C, the work ends at once. Nothing has to be
    cleaned up for that: records are whole or absent, and the kernel frees the lock of an arm.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False  # Python delivers signals to the main thread only.
        return
    asked: list[int] = []
    timer = threading.Timer(GRACE, os._exit, [128 + signal.SIGTERM])
    timer.daemon = True

    def handle(number: int, *_: object) -> None:
        if number == signal.SIGINT and asked:
            raise KeyboardInterrupt
        if number == signal.SIGTERM and signal.SIGTERM not in asked:
            timer.start()
        asked.append(number)

    before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield lambda: bool(asked)
    except Stopped:
        raise Stopped(asked[0] if asked else signal.SIGTERM) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        timer.cancel()


def patient(tell: Tell) -> Tell:
    """Tell what happens, and give up when run after run fails for the same reason."""
    alike = [""]

    def told(run: str, status: str, now: str) -> None:
        tell(run, status, now)
        if status:
            alike[:] = [*alike, status] if status == alike[-1] else [status]
        if status.startswith("failed") and len(alike) >= SAME_FAILURES:
            raise HelpfulError(
                f"{SAME_FAILURES} runs in a row ended with the same error, so the rest was not "
                f"tried: {status} See the logs in the store's folder logs."
            )

    return told


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


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m helpers.study.run", description=__doc__)
    parser.add_argument("arms", nargs="+", help="ids of arms, as plan.arms has them")
    parser.add_argument("--plan", type=Path, help="file of the plan; found by the arms otherwise")
    parser.add_argument("--store", type=Path, help="folder of the store; else TRANSFER_STORE")
    parser.add_argument("--keep", action="store_true", help="keep checkpoints nothing needs now")
    options = parser.parse_args(arguments)
    store = Store(options.store)
    failed: list[str] = []

    def tell(run: str, status: str, now: str) -> None:
        if status:
            print(f"{run} {plan.job(run).name}: {status}", flush=True)
            failed.extend([run] * status.startswith("failed"))

    try:
        register_tasks()
        plan = load(options.plan) if options.plan else find(store.plans, options.arms)
        with stopping() as stop:
            through(plan, options.arms, store, keep=options.keep, stop=stop, tell=tell)
    except Stopped as error:
        print(error, file=sys.stderr)
        return error.code
    except HelpfulError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 1 if failed else 0


def through(
    plan: Plan, arms: Sequence[str], store: Store, *, keep: bool, stop: Stop, tell: Tell
) -> None:
    """Do several arms in this process; those that others work on come last."""
    told, waiting = patient(tell), list(arms)
    while waiting:
        arm = waiting.pop(0)
        if not do(plan, arm, store, keep=keep, stop=stop, tell=told):
            waiting.append(arm)
            time.sleep(POLL)
        if stop():
            raise Stopped


if __name__ == "__main__":
    # The functions of the imported module, not a second copy of them.
    from helpers.study.run import main as imported

    sys.exit(imported())
