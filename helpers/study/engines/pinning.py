"""Take one free GPU: jobs that a scheduler starts side by side must not all use the first."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from helpers.study import locks
from helpers.study.engines.processes import gpu_numbers

_POLL = 1.0


@contextmanager
def pin(folder: Path, wanted: bool) -> Iterator[str]:
    """Hold one GPU of this machine for as long as the context lasts.

    Args:
        folder: where claims on GPUs are kept.
        wanted: False leaves everything as it is. So does a ``CUDA_VISIBLE_DEVICES`` that names a
            single GPU: then a scheduler has chosen already.

    Yields:
        The number of the GPU, or "" where there is none to choose.
    """
    numbers = gpu_numbers()
    if not wanted or len(numbers) < 2:
        yield ""
        return
    before = os.environ.get("CUDA_VISIBLE_DEVICES")
    with _free(folder, numbers) as claim:
        number = claim.path.stem.rpartition("-")[2]
        os.environ["CUDA_VISIBLE_DEVICES"] = number
        try:
            yield number
        finally:
            os.environ.pop("CUDA_VISIBLE_DEVICES")
            if before is not None:
                os.environ["CUDA_VISIBLE_DEVICES"] = before


def _free(folder: Path, numbers: list[str]) -> locks.Claim:
    while True:
        for number in numbers:
            claim = locks.claim(folder / f"gpu-{socket.gethostname()}-{number}.json")
            if claim:
                return claim
        time.sleep(_POLL)
