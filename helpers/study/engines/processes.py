"""Several local processes on one plan, each pinned to its own device or its share of the cores.

Nothing is handed out: every process walks through the plan and claims what nobody works on, so a
process that dies costs only the run it was at, and another one takes that over.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from helpers.errors import HelpfulError
from helpers.machine import cores
from helpers.study.engines.signals import EXIT, GRACE, terminated
from helpers.study.execution import Stopped, encoder_of

if TYPE_CHECKING:
    from helpers.study.engines import Order

RESTARTS = 3
# An encoder with its optimiser and the libraries; what one process needs at least.
_BYTES_EACH = 3 << 30
_POLL = 1.0
DEVICES = Path("/dev")


def run(order: Order) -> None:
    """Do an order with several processes on this machine."""
    encoder_of.cache_clear()  # this process only watches
    plan = order.plan.save(order.store.folder / "plans")
    count = order.workers or default_workers()
    pool = [_Process(order, plan, number, count) for number in range(min(count, len(order.runs)))]
    with terminated() as stop:
        try:
            while any(process.running() for process in pool):
                if stop():
                    raise Stopped("stopped as asked; the same command goes on where this ended.")
                time.sleep(max(_POLL, 5 * report(order)))
        finally:
            _end(pool)
    report(order)


def default_workers() -> int:
    """Return one process per GPU, or one per core as far as memory goes."""
    gpus = gpu_numbers()
    if gpus:
        return len(gpus)
    return max(1, min(cores(), _free_memory() // _BYTES_EACH))


def gpu_numbers() -> list[str]:
    """Return the GPUs this process may use, without waking them up."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [number for number in chosen.split(",") if number.strip() not in ("", "-1")]
    numbers = [path.name.removeprefix("nvidia") for path in DEVICES.glob("nvidia[0-9]*")]
    return sorted((number for number in numbers if number.isdigit()), key=int)


def pinned(number: int, count: int) -> dict[str, str]:
    """Return the environment that gives one of several processes its share of the machine."""
    environment = dict(os.environ)
    gpus = gpu_numbers()
    if gpus:
        environment["CUDA_VISIBLE_DEVICES"] = gpus[number % len(gpus)]
    threads = str(max(1, cores() // count))
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        environment[name] = threads
    # Tokenisers have a thread pool of their own, which would take every core.
    return environment | {"RAYON_NUM_THREADS": threads, "TRANSFER_QUIET": "1"}


class _Process:
    """One worker process, started again when it dies."""

    def __init__(self, order: Order, plan: os.PathLike[str], number: int, count: int) -> None:
        self.log = order.store.folder / "logs" / f"worker-{number}.log"
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self.command = [sys.executable, "-m", "helpers.study.run", "--plan", os.fspath(plan)]
        self.command += ["--missing", "--share", f"{number}/{count}", "--since", str(order.began)]
        self.command += ["--store", os.fspath(order.store.folder)] + ["--keep"] * order.keep
        self.environment = pinned(number, count)
        self.restarts = 0
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        with open(self.log, "ab") as log:
            # A group of its own: Ctrl-C reaches the driver, which then ends its workers in order.
            return subprocess.Popen(
                self.command, env=self.environment, stderr=log, stdout=log, start_new_session=True
            )

    def running(self) -> bool:
        """Return whether the worker still works, starting it again where it died."""
        code = self.process.poll()
        if code is None:
            return True
        if code in (0, 1):  # 1: some runs failed, which their records say.
            return False
        if code == 2:  # An error that another start would only repeat.
            lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
            raise HelpfulError(f"a worker process gave up: {lines[-1] if lines else ''}")
        if self.restarts >= RESTARTS:
            raise HelpfulError(
                f"a worker process died {RESTARTS + 1} times, last with exit code {code}; see "
                f"{self.log}. If memory ran out, use fewer workers."
            )
        self.restarts += 1
        self.process = self._start()
        return True


def _end(pool: list[_Process]) -> None:
    """Ask the workers to stop, and insist after their grace period."""
    for process in pool:
        if process.process.poll() is None:
            process.process.send_signal(signal.SIGTERM)
    deadline = time.monotonic() + GRACE + 3
    for process in pool:
        try:
            process.process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.process.kill()
            process.process.wait()


def report(order: Order) -> float:
    """Bring the progress line up to date from the records; return the seconds that took."""
    began = time.monotonic()
    index = order.store.index()
    fresh = index[index["run"].isin(order.line.waiting)]
    facts = zip(fresh["run"], fresh["status"], fresh["changed"], strict=True)
    for run_id, status, changed in facts:
        if changed > order.began:
            order.line.finished(run_id, status)
    order.line.write()
    return time.monotonic() - began


def _free_memory() -> int:
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            facts = dict(line.split(":") for line in file)
        return int(facts["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return 1 << 62


assert EXIT != 1, "an exit that asks for a restart must differ from one that reports failed runs"
