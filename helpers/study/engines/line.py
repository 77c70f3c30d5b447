"""One progress line per plan: runs done, rate, time left, failures."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from typing import TextIO

_QUIET_LINE_SECONDS = 60.0


class Line:
    """The progress line of a plan; silent while a book is built."""

    def __init__(
        self,
        minutes: Mapping[str, float],
        *,
        label: str = "",
        show: bool = True,
        stream: TextIO | None = None,
    ) -> None:
        """Start the clock.

        Args:
            minutes: estimated minutes of every run that is to be done.
            label: what the line starts with.
            show: False for silence; ``TRANSFER_QUIET`` silences it too.
            stream: where to write; standard error by default.
        """
        self.stream = stream or sys.stderr
        self.minutes = dict(minutes)
        self.label = label
        self.done = self.failed = self.collapsed = 0
        self.show = show and os.environ.get("TRANSFER_QUIET", "0") in ("", "0")
        self._live = self.stream.isatty() or "ipykernel" in sys.modules
        self._began = self._written = time.monotonic()
        self._finished: set[str] = set()
        self._work_done = 0.0
        self._width = 0

    @property
    def waiting(self) -> set[str]:
        """Return the runs that have not been counted yet."""
        return set(self.minutes) - self._finished

    def finished(self, run: str, status: str) -> None:
        """Count a run that has a record now; each counts once."""
        if run in self._finished or run not in self.minutes:
            return
        self._finished.add(run)
        self._work_done += self.minutes[run]
        self.done += 1
        self.failed += status.startswith("failed")
        self.collapsed += status == "collapsed"
        self.write()

    def text(self, now: str = "") -> str:
        """Return the line; ``now`` names what is being done."""
        elapsed = time.monotonic() - self._began
        parts = [f"{self.label} {self.done}/{len(self.minutes)} runs".strip()]
        if self.done:
            parts.append(f"{60 * self.done / max(elapsed, 1e-9):.1f}/min")
            left = sum(self.minutes.values()) - self._work_done
            parts.append(f"{_clock(elapsed * left / max(self._work_done, 1e-9))} left")
        parts += [f"{self.failed} failed"] * bool(self.failed)
        parts += [f"{self.collapsed} collapsed"] * bool(self.collapsed)
        parts += [now] * bool(now)
        return " | ".join(parts)

    def write(self, now: str = "") -> None:
        """Show the line: in place on a terminal or in a notebook, else once a minute."""
        if not self.show:
            return
        if self._live:
            text = self.text(now)
            self.stream.write("\r" + text.ljust(self._width))
            self._width = len(text)
        elif time.monotonic() - self._written > _QUIET_LINE_SECONDS:
            self.stream.write(self.text(now) + "\n")
            self._written = time.monotonic()
        self.stream.flush()

    def close(self) -> None:
        """End the line with what came out in all."""
        if not self.show or not self.minutes:
            return
        elapsed = _clock(time.monotonic() - self._began)
        text = f"{self.label} {self.done}/{len(self.minutes)} runs in {elapsed}"
        text += f", {self.failed} failed" * bool(self.failed)
        text += f", {self.collapsed} collapsed" * bool(self.collapsed)
        self.stream.write(("\r" if self._live else "") + text.strip().ljust(self._width) + "\n")
        self.stream.flush()


def _clock(seconds: float) -> str:
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02d}"
    return f"{whole // 3600}:{whole % 3600 // 60:02d} h"
