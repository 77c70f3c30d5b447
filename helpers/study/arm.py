"""Do arms in this process, as every engine does, and ``python -m helpers.study --plan FILE --arms ARM``.

The encoder is loaded once, the intermediate stage trained once, then every target is trained, scored
in its languages and recorded. Each call is idempotent: a run that is done is left alone, an unfinished
fine-tuning goes on from its last state, an arm that another process works on is waited for.
"""

from __future__ import annotations

import functools
import importlib
import math
import os
import shutil
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from helpers import tasks
from helpers.data import texts
from helpers.errors import BadRecord, BadRows, HelpfulError, StoreFull
from helpers.files import commit, provenance, utc, write_atomic
from helpers.models import Outcome, Settings
from helpers.study.plan import Plan, pretrained, stamp, survey
from helpers.study.profiles import MARGIN, RETRY_SEED, above
from helpers.study.store import AGAIN, FINISHED, Record, Store, missing

if TYPE_CHECKING:
    from helpers.models.encoders import Encoder
    from helpers.models.training import Tuned

Stop = Callable[[], bool]
# Told the run, its status, and what is being done of it; the status is "" while it is at work.
Tell = Callable[[str, str, str], None]
# After a SIGTERM a run gets this long to write its state; then the process ends in any case.
GRACE = 15.0
POLL = 0.5
SAME_FAILURES = 5
# In place of weights, in the checkpoint of a stage whose loss was no longer a number.
NO_ENCODER = "no-encoder.txt"
AFTER_STAGE = "failed: its intermediate stage"
# The last fine-tuning of the arm at work, after its start, training tasks, settings and seed.
_last: list[Any] = []


class Stopped(HelpfulError):
    """A run was asked to stop; what it had done is written down and the next start goes on."""

    def __init__(self, signal_number: int = signal.SIGTERM) -> None:
        super().__init__(f"stopped as asked; {AGAIN} where this one ended.")
        self.code = 128 + signal_number


def do(plan: Plan, arm: str, store: Store, *, keep: bool, stop: Stop, tell: Tell) -> bool:
    """Do what is missing of an arm, run by run, or raise Stopped; False: another process has it."""
    with store.lock(arm) as mine:
        if not mine:
            return False
        commit()  # it is remembered: when the record is written the files may be others
        # The encoder is loaded when the first target asks for it: its stage is done by then.
        runs, start = plan.arms[arm], functools.cache(lambda: _start(plan, arm, store, stop, tell))
        _last.clear()
        for run in missing(plan, store, keep):
            if plan.arm_of[run] == arm:
                tell(run, _record(plan.job(run), store, start, stop, tell), "")
        _last.clear()  # nothing of it is needed any more, and it may be gigabytes
        if runs[0] == arm and not keep and not set(runs) & set(missing(plan, store, keep)):
            store.drop_checkpoint(arm)
    return True


def _start(plan: Plan, arm: str, store: Store, stop: Stop, tell: Tell) -> Encoder | Outcome:
    """Return the encoder that the targets of an arm start from, or what comes of there being none."""
    encoder, folder, status = pretrained(plan.encoder), store.checkpoint(arm), store.status(arm)
    if plan.arms[arm][0] != arm:  # baselines have no stage before them
        return encoder
    # The stage is done or has failed: it is the first run of its arm.
    if folder is None or status not in FINISHED:
        return Outcome(f"{AFTER_STAGE} {arm} {status}")
    if (folder / NO_ENCODER).exists():
        # The weights before that stage would give the baseline's scores, and a gain of exactly 0.
        why = "the loss was no longer a number, so there is no encoder to start from"
        return Outcome("collapsed", notes=[f"its intermediate stage {arm} collapsed: {why}"])
    try:
        return tuned_encoder(encoder, folder)
    except BadRecord:  # damaged: the stage is done again
        store.drop_checkpoint(arm)
        tell(arm, _record(plan.job(arm), store, lambda: encoder, stop, tell), "")
        return _start(plan, arm, store, stop, tell)


def _record(
    job: Record, store: Store, start: Callable[[], Encoder | Outcome], stop: Stop, tell: Tell
) -> str:
    """Do one run and record it; return the status."""
    if stop():
        raise Stopped
    tell(job.run, "", job.name)
    log = functools.partial(_log, store.log(job.run))
    log(f"{job.run}: {job.name}, process {os.getpid()}")
    try:
        _refuse_changed_rows(job, store)
        origin = pretrained(job.encoder) if job.stage == "intermediate" else start()
        if isinstance(origin, Outcome):
            outcomes = [replace(origin, seed=job.spec["seed"])]
        else:
            outcomes = _attempts(job, origin, store, stop, tell)
    except (Stopped, StoreFull):
        raise
    except Exception as error:  # a failed run is a result to show, not the end of a plan
        log(traceback.format_exc())
        why = f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"
        outcomes = [Outcome(f"failed: {why}", job.spec["seed"])]
    record = replace(job, attempts=outcomes, provenance=provenance())
    store.write(record)
    notes = "; ".join(note for each in outcomes for note in each.notes)
    log(f"{record.status} in {sum(each.seconds for each in outcomes):.1f} s {notes}")
    if record.status in FINISHED:
        shutil.rmtree(store.progress(job.run), ignore_errors=True)
    return record.status


def _refuse_changed_rows(job: Record, store: Store) -> None:
    """Raise an error if the rows that a run would read are not those that its id stands for."""
    data, tested, asked = job.spec["data"], job.spec["evaluation"], {}
    # What the run would read, by task, language and split: its training rows, then its tests.
    for name, facts in data["tasks"].items():
        for split in facts.keys() & {"train", "dev"}:
            asked[tasks.get(name).train_with or name, "en", split] = facts[split]
    for split, languages in data.get("splits", {}).items():
        for language in tested.keys() & set(languages):
            asked[job.target, language, split] = tested[language]
    stamp.cache_clear()
    changed = [
        f"{name!r} ({language}, {split})"
        for (name, language, split), fingerprint in sorted(asked.items())
        if survey(store, tasks.get(name), language, split).fingerprint != fingerprint
    ]
    for language, fingerprint in data.get("text", {}).items():
        found = texts(language, job.spec["settings"]["mlm_rows"] or None)
        changed += [f"text ({language})"] * (found.fingerprint != fingerprint)
    if changed:
        said = f"rows changed since the plan was made: {', '.join(changed)}"
        raise BadRows(f"{said}. Nothing was done; plan again, and what did not change is kept.")


def _attempts(job: Record, start: Encoder, store: Store, stop: Stop, tell: Tell) -> list[Outcome]:
    """Make an attempt, and one more with another seed if it collapses where that is retried."""
    outcomes: list[Outcome] = []
    for seed in (job.spec["seed"], job.spec["seed"] + RETRY_SEED)[: 1 + job.spec["judged"]]:
        began = time.monotonic()

        def step(done: int, total: int) -> None:
            tell(job.run, "", f"{job.name}: step {done}/{total}")

        tuned = attempt(job, start, store.progress(job.run) / str(seed), seed, stop, step)
        # A stage that is judged to have learnt nothing still leaves an encoder; one that broke not.
        learnt, outcome = tuned.outcome.status == "done", _judged(tuned.outcome, job)
        outcomes.append(replace(outcome, seed=seed, seconds=time.monotonic() - began))
        if outcome.status != "collapsed":
            break
    if job.stage == "intermediate":
        fill = tuned.save_encoder if learnt else lambda at: write_atomic(at / NO_ENCODER, b"NaN\n")
        store.save_checkpoint(job.run, fill)
    return outcomes


def _judged(outcome: Outcome, job: Record) -> Outcome:
    """Apply the rule for collapsed runs, which was fixed before any result."""
    low = [
        f"{task}: English dev score {score:.3f} is not above {outcome.floor[task]:.3f} (constant "
        f"answer) + {MARGIN}"
        for task, score in outcome.dev.items()
        if task in outcome.floor and not above(score, outcome.floor[task])
    ]
    # Of several tasks trained together some may stay unlearnt; collapsed means that all did.
    if outcome.status != "done" or not low or len(low) < len(outcome.dev):
        return outcome
    status = "collapsed" if job.spec["judged"] else "done"
    return replace(outcome, status=status, notes=[*outcome.notes, *low])


def attempt(
    job: Record, start: Encoder, state: Path, seed: int, stop: Stop, step: Callable[..., None]
) -> Tuned:
    """Fine-tune and score as a job says, from an encoder, or going on from a written state."""
    from helpers import evaluation
    from helpers.models import network, training

    data, scores = job.spec["data"], []
    tuned = training.Tuned(start, settings=Settings(precision=data.get("precision", "auto")))
    if job.spec["settings"]:
        settings = Settings().override(job.spec["settings"])
        learnt = [training.training_task(tasks.get(name)) for name in data["tasks"]]
        made_of: list[Any] = [start, learnt, settings, seed]
        # Targets that train on the same rows, such as XQuAD and MLQA, share one fine-tuning.
        if _last[:-1] == made_of:
            known = _last[-1].outcome
            notes = [*known.notes, "fine-tuned once with another target of its arm"]
            tuned = replace(_last[-1], outcome=replace(known, tokens=0, notes=notes))
        else:
            _last.clear()  # two of them need not fit into memory
            try:
                tuned = training.fine_tune(*made_of, checkpoint=state, progress=step, stop=stop)
            except training.Interrupted as error:
                raise Stopped from error
            _last[:] = [*made_of, replace(tuned, outcome=replace(tuned.outcome))]
    if stop():
        raise Stopped
    outcome = tuned.outcome
    if job.stage == "intermediate":
        # All that is scored of a stage are its English development rows, while it is trained.
        for name, value in outcome.dev.items():
            count = min(data["tasks"][name]["dev_rows"], tuned.settings.dev_rows or math.inf)
            facts = {"metric": tasks.get(name).metric, "value": value, "n": count}
            where = {"task": name, "language": "en", "split": "dev", "status": "done"}
            scores.append(where | facts)
    elif outcome.status == "done":
        for split, languages in data["splits"].items():
            asked = [language for language in languages if language in job.spec["evaluation"]]
            more = {"rows": data["test_rows"] or None, "split": split, "layer": data["layer"]}
            scores += evaluation.evaluate(tuned, tasks.get(job.target), asked, **more)
        device = network.best_device()
        used = network.resolve_precision(tuned.settings.precision, device)
        outcome.device = outcome.device or network.describe(device)
        outcome.precision = outcome.precision or used
        outcome.peak_memory_mb = max(outcome.peak_memory_mb, network.peak_memory_mb(device))
    outcome.scores = scores
    return tuned


def tuned_encoder(base: Encoder, folder: Path) -> Encoder:
    """Load the encoder that an intermediate stage left."""
    from helpers.models import training  # loads PyTorch

    return training.load_encoder(base, folder)


def _log(path: Path, text: str) -> None:
    """Add a line to the log of a run; a full disk is for its record to say."""
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as stream:
            stream.write(f"{utc()} {text}\n")


@contextmanager
def stopping() -> Iterator[Stop]:
    """Give a function that says whether SIGTERM or Ctrl-C has arrived, while the context lasts."""
    # GRACE seconds after a SIGTERM, or at a second Ctrl-C, the work ends at once. Nothing has to be
    # cleaned up for that: records are whole or absent, and the kernel frees the lock of an arm.
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False  # Python delivers signals to the main thread only.
        return
    asked: list[int] = []
    timer = threading.Timer(GRACE, os._exit, [128 + signal.SIGTERM])
    timer.daemon = True

    def handle(number: int, *_: object) -> None:
        if number == signal.SIGINT and asked:
            raise KeyboardInterrupt
        first = number not in asked
        asked.append(number)  # before the timer starts: the next signal may interrupt just that
        if first and number == signal.SIGTERM:
            timer.start()

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
        # That a stage failed is one reason, whatever the number of its targets.
        if status and not status.startswith(AFTER_STAGE):
            alike[:] = [*alike, status] if status == alike[-1] else [status]
        if status.startswith("failed") and len(alike) >= SAME_FAILURES:
            said = f"{SAME_FAILURES} runs in a row ended with the same error: {status}"
            raise HelpfulError(f"{said} The rest was not tried; see the store's folder logs.")

    return told


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


def register_tasks() -> None:
    """Import the modules that ``TRANSFER_TASKS`` names, so that their tasks can be planned."""
    for module in filter(None, os.environ.get("TRANSFER_TASKS", "").split(",")):
        try:
            importlib.import_module(module.strip())
        except ModuleNotFoundError as error:
            said = f"TRANSFER_TASKS names module {module.strip()!r}, and {error}"
            raise HelpfulError(f"{said}. Name modules on PYTHONPATH, with commas.") from error
