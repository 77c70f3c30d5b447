"""A worker that needs no encoder: quick, exact, resumable, and leaves a trace of what it did."""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path

from helpers.files import write_atomic
from helpers.study.execution import Progress, Stop, Stopped, Work
from helpers.study.plans import Builder, Job, Plan
from helpers.study.records import Attempt

STEPS = 5


def make_plan(
    intermediates: int = 2, targets: int = 2, seeds: int = 1, *, keep: bool = True, **facts: object
) -> Plan:
    """A plan of the usual shape, made without any data."""
    builder = Builder({"sha256": "fake"}, ["target"])
    data = {n: builder.part({"tasks": {f"t{n}": {}}, "test_rows": 0}) for n in range(targets)}
    tested = builder.part({"de": "1", "fr": "2"})
    settings = builder.settings({"epochs": 1})
    for seed in range(2 * seeds):
        for n in range(targets):
            common = {"settings": settings, "evaluation": tested, "tokens": (1000, 300)}
            builder.add(
                stage="target", condition="none", seed=seed, data=data[n], target=f"t{n}", **common
            )
    for seed in range(seeds):
        for m in range(intermediates):
            part = builder.part({"tasks": {f"i{m}": {}}})
            shared = {"condition": "single", "seed": seed, "intermediate": f"i{m}"}
            parent = builder.add(
                stage="intermediate", data=part, settings=settings, tokens=(2000, 0), **shared
            )
            for n in range(targets):
                builder.add(
                    stage="target",
                    data=data[n],
                    target=f"t{n}",
                    parent=parent,
                    settings=settings,
                    evaluation=tested,
                    tokens=(1000, 300),
                    **shared,
                )
    known = {"encoder": builder.encoder, "keep": keep, "judged": ["target"], "device": "cpu"}
    return Plan("fake", "fake", builder.table(), builder.parts, {}, known | facts)


def work(
    job: Job, start: Path | None, state: Path, *, seed: int, stop: Stop, progress: Progress
) -> Work:
    """Count to five, slowly if asked; the score depends on the job, its seed and its start."""
    _trace("begin", job, seed)
    _meet(int(os.environ.get("FAKE_MEET", "0")))
    _misbehave(job)
    done = _resume(state)
    while done < STEPS:
        time.sleep(float(os.environ.get("FAKE_STEP", "0")))
        done += 1
        progress(done, STEPS)
        if stop():
            write_atomic(state / "state.json", json.dumps({"done": done}).encode())
            raise Stopped("stopped")
    origin = (start / "encoder.bin").read_text() if start else ""
    value = fraction(job, seed, origin)
    dev = {"t": 0.1 if job.target in os.environ.get("FAKE_COLLAPSE", "-").split() else value}
    scores = [
        {"language": code, "split": "test", "metric": "accuracy", "value": value, "n": 9}
        for code in job.spec["evaluation"]
    ]
    _trace("end", job, seed)
    return Work(
        Attempt("done", seed, scores, dev, STEPS, 10, 1000, device="cpu fake"),
        {"t": 0.1},
        lambda folder: _save(folder, f"{job.run}/{seed}"),
    )


def fraction(job: Job, seed: int, origin: str) -> float:
    """The score of a job, between 0.2 and 1."""
    text = f"{job.intermediate}|{job.target}|{job.condition}|{seed}|{origin}"
    return 0.2 + 0.8 * int(hashlib.sha256(text.encode()).hexdigest()[:6], 16) / 0xFFFFFF


def trace() -> list[list[str]]:
    """What was done, one entry per begin and end."""
    path = Path(os.environ.get("FAKE_TRACE", os.devnull))
    return [line.split("|") for line in path.read_text().splitlines()] if path.exists() else []


def _trace(what: str, job: Job, seed: int) -> None:
    if os.environ.get("FAKE_TRACE"):
        handle = os.open(os.environ["FAKE_TRACE"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(handle, f"{what}|{job.run}|{seed}|{os.getpid()}\n".encode())
        os.close(handle)


def _meet(processes: int) -> None:
    """Wait until so many processes have begun a run, but no longer than a minute."""
    deadline = time.monotonic() + 60
    while len({entry[3] for entry in trace()}) < processes and time.monotonic() < deadline:
        time.sleep(0.02)


def _misbehave(job: Job) -> None:
    """Fail always, or fail once, where the test asks for it."""
    if os.environ.get("FAKE_DIE"):
        os.abort()
    names = {job.run, job.target, job.intermediate, job.stage}
    if names & set(os.environ.get("FAKE_FAIL", "-").split()):
        raise RuntimeError(f"asked to fail on {job.run}")
    once = os.environ.get("FAKE_FAIL_ONCE", "")
    if once and job.target and job.intermediate:
        try:
            os.close(os.open(once, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return
        raise RuntimeError("asked to fail once")


def _resume(state: Path) -> int:
    path = state / "state.json"
    return int(json.loads(path.read_text())["done"]) if path.exists() else 0


def _save(folder: Path, text: str) -> None:
    write_atomic(folder / "encoder.bin", text.encode())
    digest = hashlib.sha256(text.encode()).hexdigest()
    write_atomic(folder / "encoder.bin.sha256", digest.encode())
