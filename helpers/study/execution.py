"""Do one run: train, evaluate, judge, record. Every run is idempotent and can be stopped."""

from __future__ import annotations

import functools
import importlib
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from helpers import tasks
from helpers.errors import BadRecord, BadRows, HelpfulError, StoreFull
from helpers.files import write_atomic
from helpers.provenance import provenance
from helpers.study import profiles, tracking
from helpers.study.plans import Job, Plan
from helpers.study.records import FINISHED, Attempt, Record
from helpers.study.store import Store
from helpers.study.surveys import Surveys

if TYPE_CHECKING:
    from helpers.models.encoders import Encoder
    from helpers.models.training import Tuned

# In place of weights, in the checkpoint of a stage whose loss was no longer a number.
NO_ENCODER = "no-encoder.txt"
log = logging.getLogger("helpers.study.run")
Stop = Callable[[], bool]
Progress = Callable[[int, int], None]


class Stopped(HelpfulError):
    """A run was asked to stop; what it had done is written down and the next start goes on."""


class MissingParent(HelpfulError):
    """The checkpoint a run starts from is not in the store, or fails its checksum."""


@dataclass
class Work:
    """What a worker gives back.

    Attributes:
        attempt: what came out.
        floor: score of the best constant answer on the English dev rows, per trained task.
        save: writes the encoder into a folder, after an intermediate stage.
    """

    attempt: Attempt
    floor: dict[str, float]
    save: Callable[[Path], None] | None = None


class Worker(Protocol):
    """Trains and evaluates; ``fine_tuning`` is the real one, tests have a quick one."""

    def __call__(
        self,
        job: Job,
        start: Path | None,
        state: Path,
        *,
        seed: int,
        stop: Stop,
        progress: Progress,
    ) -> Work:
        """Do one attempt at a job.

        Args:
            job: the run.
            start: checkpoint of the intermediate stage, or None for the pretrained encoder.
            state: folder for the state of an unfinished attempt.
            seed: seed of this attempt.
            stop: asked now and then; when true the worker writes its state and raises ``Stopped``.
            progress: called with steps done and steps in all.
        """


def execute(
    plan: Plan,
    run: str,
    store: Store,
    *,
    stop: Stop = lambda: False,
    progress: Progress = lambda done, total: None,
    worker: Worker | None = None,
) -> str:
    """Do one run that this process has claimed, and record it.

    Args:
        plan: the plan it belongs to.
        run: its id.
        store: where its parent's checkpoint is, and where the record goes.
        stop: when true, the run writes its state and stops.
        progress: called with steps done and steps in all.
        worker: trains and evaluates; by default ``fine_tuning``.

    Returns:
        The status that was recorded: ``done``, ``collapsed`` or ``failed: why``.

    Raises:
        Stopped: ``stop`` said so; nothing was recorded.
        StoreFull: the disk is full; nothing was recorded, the state is kept where it fits.
        MissingParent: the checkpoint it starts from is not there; the parent must run first.
    """
    job = plan.job(run)
    start = _start(job, store)
    with _logged(job, store):
        try:
            refuse_changed_rows(job, Surveys(store.folder / "surveys.json"))
            if start is not None and (start / NO_ENCODER).exists():
                store.write(_record(job, [_nothing_to_start_from(job)]))
                return "collapsed"
            record = _attempted(job, start, store, stop, progress, worker or default_worker())
        except (Stopped, StoreFull, MissingParent, KeyboardInterrupt):
            raise
        except Exception as error:  # a failed run is a result to show, not the end of a plan
            log.exception("failed")
            record = _record(job, [Attempt(status=_why(error), seed=job.seed)])
        store.write(record)
        tracking.track(record)
        log.info("%s in %.1f s", record.status, sum(a.seconds for a in record.attempts))
    if record.status in FINISHED:
        store.drop_progress(run)
    return record.status


def _start(job: Job, store: Store) -> Path | None:
    if not job.parent:
        return None
    folder = store.checkpoint(job.parent)
    if folder is None:
        raise MissingParent(f"run {job.run} starts from run {job.parent}, which has no checkpoint.")
    return folder


def _attempted(
    job: Job,
    start: Path | None,
    store: Store,
    stop: Stop,
    progress: Progress,
    worker: Worker,
) -> Record:
    """Make an attempt, and one more with another seed if it collapses where that is retried."""
    attempts: list[Attempt] = []
    for seed in (job.seed, job.seed + profiles.RETRY_SEED)[: 1 + job.judged]:
        state = store.progress(job.run) / str(seed)
        began = time.monotonic()
        try:
            work = worker(job, start, state, seed=seed, stop=stop, progress=progress)
        except BadRecord as error:
            if start is None or not _damaged(start):
                raise
            store.drop_checkpoint(job.parent)
            raise MissingParent(str(error)) from error
        attempt = replace(_judged(work, job), seconds=time.monotonic() - began)
        attempts.append(attempt)
        if attempt.status != "collapsed":
            break
        log.warning("collapsed with seed %d: %s", seed, "; ".join(attempt.notes))
    if work.save is not None and job.stage == "intermediate":
        # Where the loss was no number there is no encoder; a mark in its place says so.
        learnt = work.attempt.status == "done"
        store.save_checkpoint(job.run, work.save if learnt else _mark_nothing)
    return _record(job, attempts)


def _mark_nothing(folder: Path) -> None:
    write_atomic(folder / NO_ENCODER, b"the loss was no longer a number: no encoder was kept\n")


def _nothing_to_start_from(job: Job) -> Attempt:
    """Return what is recorded of a target whose intermediate stage left no encoder.

    The weights before that stage would give the baseline's scores, and so a gain of exactly 0.
    """
    note = f"its intermediate stage {job.parent} collapsed: the loss was no longer a number"
    return Attempt("collapsed", job.seed, notes=[f"{note}, so there is no encoder to start from"])


def refuse_changed_rows(job: Job, surveys: Surveys) -> None:
    """Compare the rows that a run would read now with those that its id stands for.

    Raises:
        BadRows: some differ; the text names them.
    """
    data, tested = job.spec["data"], job.spec["evaluation"]
    asked = [
        (tasks.get(tasks.get(name).train_with or name), "en", split, facts[split])
        for name, facts in data["tasks"].items()
        for split in ("train", "dev")
        if split in facts
    ]
    asked += [
        (tasks.get(job.target), language, split, tested[language])
        for split, languages in data.get("splits", {}).items()
        for language in languages
        if language in tested
    ]
    changed = [
        f"{task.name!r} ({language}, {split})"
        for task, language, split, known in asked
        if surveys.of(task, language, split).fingerprint != known
    ]
    if changed:
        raise BadRows(
            f"rows changed since the plan was made: {', '.join(changed)}. Nothing was trained or "
            "scored; plan again, and what did not change is kept."
        )


def _judged(work: Work, job: Job) -> Attempt:
    """Apply the rule for collapsed runs, which was fixed before any result."""
    attempt = work.attempt
    if attempt.status != "done":
        return attempt
    low = [
        f"{task}: English dev score {score:.3f} is not above {work.floor[task]:.3f} (constant "
        f"answer) + {profiles.MARGIN}"
        for task, score in attempt.dev.items()
        if task in work.floor and not score > work.floor[task] + profiles.MARGIN
    ]
    # Of several tasks trained together some may stay unlearnt; collapsed means that all did.
    if not low or len(low) < len(attempt.dev):
        return attempt
    status = "collapsed" if job.judged else "done"
    return replace(attempt, status=status, notes=[*attempt.notes, *low])


def _record(job: Job, attempts: list[Attempt]) -> Record:
    return Record(
        run=job.run,
        core=job.core,
        stage=job.stage,
        encoder=job.encoder,
        condition=job.condition,
        intermediate=job.intermediate,
        target=job.target,
        spec=job.spec,
        sources=job.sources,
        attempts=attempts,
        provenance=provenance(),
        work=job.work,
    )


def record_failure(job: Job, store: Store, why: str) -> None:
    """Record a run that could not be tried, so that its cell says why it is empty."""
    store.write(_record(job, [Attempt(status=why, seed=job.seed)]))


def _why(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"failed: {type(error).__name__}: {text[:500]}"


def _damaged(checkpoint: Path) -> bool:
    """Return whether a checkpoint fails its checksums (and not something else of a run)."""
    from helpers.files import sha256_file

    sums = list(checkpoint.glob("*.sha256"))
    return not sums or any(
        not name.with_suffix("").is_file()
        or sha256_file(name.with_suffix("")).encode() != name.read_bytes().strip()
        for name in sums
    )


@contextmanager
def _logged(job: Job, store: Store) -> Iterator[None]:
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


# What a run really does


@functools.lru_cache(maxsize=1)
def default_worker() -> Worker:
    """Return ``fine_tuning``, or the function that ``TRANSFER_WORKER=module:name`` names."""
    module, _, name = os.environ.get("TRANSFER_WORKER", "").partition(":")
    return getattr(importlib.import_module(module), name) if module else fine_tuning


def fine_tuning(
    job: Job, start: Path | None, state: Path, *, seed: int, stop: Stop, progress: Progress
) -> Work:
    """Fine-tune and evaluate, as a job says; see ``Worker``."""
    from helpers.models import training

    encoder = encoder_of(job.encoder)
    if start is not None:
        encoder = training.load_encoder(encoder, start)
    names = list(job.spec["data"]["tasks"])
    if not job.spec["settings"]:
        return Work(_evaluated(training.Tuned(encoder), job, Attempt("done", seed)), {})
    settings = training.Settings().override(job.spec["settings"])
    try:
        tuned = training.fine_tune(
            encoder,
            [tasks.get(name) for name in names],
            settings,
            seed,
            checkpoint=state,
            progress=progress,
            stop=stop,
        )
    except training.Interrupted as error:
        raise Stopped(str(error)) from error
    if stop():
        raise Stopped("stopped between training and evaluation")
    attempt = _evaluated(tuned, job, _attempt(tuned, seed))
    return Work(attempt, dict(tuned.outcome.floor), tuned.save_encoder)


def _attempt(tuned: Tuned, seed: int) -> Attempt:
    outcome = tuned.outcome
    names = ("status", "dev", "steps", "rows", "tokens", "peak_memory_mb", "device", "precision")
    facts = {name: value for name, value in asdict(outcome).items() if name in names}
    return Attempt(seed=seed, notes=list(outcome.notes), **facts)


def _evaluated(tuned: Tuned, job: Job, attempt: Attempt) -> Attempt:
    """Add the scores of a target in all its languages, or the dev scores of an intermediate."""
    if job.stage == "intermediate":
        return replace(attempt, scores=_dev_scores(tuned, job))
    if attempt.status != "done":
        return attempt
    from helpers import evaluation
    from helpers.models import network

    target, data = tasks.get(job.target), job.spec["data"]
    scores = []
    for split, languages in data["splits"].items():
        asked = [language for language in languages if language in job.spec["evaluation"]]
        scores += evaluation.evaluate(
            tuned, target, asked, rows=data["test_rows"] or None, split=split, layer=data["layer"]
        )
    device = network.best_device()
    return replace(
        attempt,
        scores=scores,
        device=attempt.device or network.describe(device),
        peak_memory_mb=max(attempt.peak_memory_mb, network.peak_memory_mb(device)),
    )


def _dev_scores(tuned: Tuned, job: Job) -> list[dict[str, Any]]:
    rows = {name: facts["dev_rows"] for name, facts in job.spec["data"]["tasks"].items()}
    limit = tuned.settings.dev_rows or max(rows.values())
    return [
        {
            "task": name,
            "language": "en",
            "split": "dev",
            "metric": tasks.get(name).metric,
            "value": value,
            "n": min(rows[name], limit),
            "status": "done",
        }
        for name, value in tuned.outcome.dev.items()
    ]


@functools.lru_cache(maxsize=1)
def encoder_of(name: str) -> Encoder:
    """Load an encoder once per process; training copies what it changes."""
    from helpers.models import encoders

    return encoders.load(name)
