"""One run on several GPUs or nodes: the processes of ``torchrun`` or ``accelerate launch``.

The first process claims, judges and records as it would alone; whenever it trains, it tells the
others to train the same attempt with it, since every step of the training needs all of them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from helpers.study import execution
from helpers.study.execution import Progress, Stop, Work, Worker
from helpers.study.plans import Job, Plan

Message = tuple[str, int, str, str]
_OVER: Message = ("", 0, "", "")


def count() -> int:
    """Return how many processes a launcher started for this run; 1 without one."""
    return int(os.environ.get("WORLD_SIZE", "1"))


@contextmanager
def leading() -> Iterator[Worker]:
    """Give a worker with which the other processes take part in every attempt of this one."""
    real = execution.default_worker()

    def together(
        job: Job, start: Path | None, state: Path, *, seed: int, stop: Stop, progress: Progress
    ) -> Work:
        _tell((job.run, seed, str(start or ""), str(state)))
        return real(job, start, state, seed=seed, stop=stop, progress=progress)

    try:
        yield together
    finally:
        _tell(_OVER)


def follow(plan: Plan, stop: Stop) -> None:
    """Take part in attempts until the first process says that there are no more."""
    while True:
        run, seed, start, state = _tell(None)
        if not run:
            return
        try:
            execution.default_worker()(
                plan.job(run),
                Path(start) if start else None,
                Path(state),
                seed=seed,
                stop=stop,
                progress=lambda done, total: None,
            )
        except Exception as error:  # the first process meets the same error, and records it
            execution.log.info("attempt ended: %s", error)


def _tell(message: Message | None) -> Message:
    """Send a message from the first process to all, or receive it."""
    import torch
    from accelerate import PartialState
    from torch import distributed

    # Joins the group that the launcher describes. The others wait while the first evaluates.
    PartialState(cpu=not torch.cuda.is_available(), timeout=timedelta(days=1))
    box: list[Any] = [message]
    distributed.broadcast_object_list(box, src=0)
    found: Message = box[0]
    return found
