"""Stop in time: pre-emption on a cluster is a SIGTERM and a short grace period."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# A run gets this long to write its state; then the process ends whatever it is doing.
GRACE = 15.0
EXIT = 128 + signal.SIGTERM


@contextmanager
def terminated() -> Iterator[Callable[[], bool]]:
    """Give a function that says whether SIGTERM has arrived, for as long as the context lasts.

    After ``GRACE`` seconds the process is ended. Nothing has to be cleaned up for that: records are
    whole or absent, and a claim whose holder is gone is taken over.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False  # Python delivers signals to the main thread only.
        return
    asked = threading.Event()
    timer = threading.Timer(GRACE, os._exit, [EXIT])
    timer.daemon = True

    def handle(*_: object) -> None:
        if not asked.is_set():
            asked.set()
            timer.start()

    before = signal.signal(signal.SIGTERM, handle)
    try:
        yield asked.is_set
    finally:
        signal.signal(signal.SIGTERM, before)
        timer.cancel()
