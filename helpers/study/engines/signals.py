"""Stop in time: Ctrl-C, and pre-emption on a cluster, which is a SIGTERM and a short grace period."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# After a SIGTERM a run gets this long to write its state; then the process ends in any case.
GRACE = 15.0
EXIT = 128 + signal.SIGTERM
_last = [int(signal.SIGTERM)]


def exit_code() -> int:
    """Return the exit code of a process that was asked to stop: 130 for Ctrl-C, else 143."""
    return 128 + _last[0]


@contextmanager
def terminated() -> Iterator[Callable[[], bool]]:
    """Give a function that says whether SIGTERM or Ctrl-C has arrived, while the context lasts.

    ``GRACE`` seconds after a SIGTERM, or at a second Ctrl-C, the work ends at once. Nothing has to be
    cleaned up for that: records are whole or absent, and a claim whose holder is gone is taken over.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False  # Python delivers signals to the main thread only.
        return
    asked = threading.Event()
    timer = threading.Timer(GRACE, os._exit, [EXIT])
    timer.daemon = True

    def handle(number: int, *_: object) -> None:
        _last[0] = number
        if number == signal.SIGINT and asked.is_set():
            raise KeyboardInterrupt
        if number == signal.SIGTERM and not asked.is_set():
            timer.start()
        asked.set()

    before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield asked.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        timer.cancel()
