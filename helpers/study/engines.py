"""Where arms execute: this process, a pool of processes, or a cluster through Snakemake.

An engine is told which arms of a plan lack runs and makes their records appear in the store. None of
them has state of its own: whatever dies, the same command goes on from the records.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import json
import math
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from tqdm import tqdm

from helpers.errors import HelpfulError
from helpers.files import cores, write_atomic
from helpers.study.plan import Plan, load, minutes
from helpers.study.run import (
    GRACE,
    POLL,
    Stopped,
    Tell,
    do,
    patient,
    register_tasks,
    stopping,
    through,
)
from helpers.study.store import Store

SNAKEFILE = Path(__file__).resolve().parents[2] / "workflow" / "Snakefile"
DEVICES = Path("/dev")
# An encoder with its optimiser and the libraries; what one process needs at least.
_BYTES_EACH = 3 << 30
# Estimates are rough, and a job that hits its limit is lost work (it resumes, but queues again).
_SLACK, _LEAST_MINUTES = 3.0, 20


class Progress:
    """A bar of the runs of a plan: done, rate, time left; silent while a book is built."""

    def __init__(self, plan: Plan, wanted: Sequence[str], store: Store, show: bool) -> None:
        """Start the clock; ``wanted``: the runs that are to be done."""
        quiet = os.environ.get("TRANSFER_QUIET", "0") not in ("", "0")
        live = sys.stderr.isatty() or "ipykernel" in sys.modules
        self.plan, self.store, self.wanted = plan, store, set(wanted)
        self.bar = tqdm(
            desc=plan.profile,
            total=len(self.wanted),
            unit=" runs",
            disable=not show or quiet,
            mininterval=0.2 if live else 60,
        )
        self.before = self._seen()
        self.ended: Counter[str] = Counter()

    def tell(self, name: str, status: str, now: str) -> None:
        """Count a run that has a record now, or say what is being done."""
        if status and name in self.wanted:
            self.wanted.remove(name)
            self.ended[status.split(":")[0]] += 1
            self.bar.update()
        odd = [f"{n} {kind}" for kind, n in self.ended.items() if kind != "done"]
        self.bar.set_postfix_str(", ".join([*odd, now or ""]).strip(", "), refresh=False)
        self.bar.update(0)

    def look(self) -> None:
        """Count the records that other processes wrote since the start."""
        for name, (changed, status) in self._seen().items():
            if name in self.wanted and self.before.get(name, (0, ""))[0] != changed:
                self.tell(name, status, "")
        self.bar.refresh()

    def _seen(self) -> dict[str, tuple[int, str]]:
        index = self.store.index()
        return {
            n: (c, s)
            for n, c, s in zip(index["run"], index["changed"], index["status"], strict=True)
        }


def local(
    plan: Plan, arms: list[str], store: Store, keep: bool, progress: Progress, **_: Any
) -> None:
    """Do one arm after another in this process."""
    with stopping() as stop:
        through(plan, arms, store, keep=keep, stop=stop, tell=progress.tell)


def processes(
    plan: Plan,
    arms: list[str],
    store: Store,
    keep: bool,
    progress: Progress,
    workers: int,
    **_: Any,
) -> None:
    """Do several arms at a time, each process with one device, or with one core and one thread."""
    gpus, before = gpu_numbers(), set(multiprocessing.active_children())
    fit = len(gpus) or max(1, min(cores(), _free_memory() // _BYTES_EACH))
    count = min(workers or fit, len(arms))
    spawn = multiprocessing.get_context("spawn")
    devices = spawn.SimpleQueue()
    for number in range(count):
        devices.put(gpus[number % len(gpus)] if gpus else "")
    file, waiting = str(plan.save(store.plans)), deque(arms)
    working: set[Future[str]] = set()
    pool = ProcessPoolExecutor(count, spawn, _begin, (devices, os.getpid()))
    with stopping() as stop:
        try:
            while waiting or working:
                while waiting and len(working) < count:
                    arm = waiting.popleft()
                    work = pool.submit(_in_worker, os.getpid(), file, arm, str(store.folder), keep)
                    working.add(work)
                over, working = wait(working, timeout=1, return_when=FIRST_COMPLETED)
                waiting += [arm for work in over if (arm := work.result())]
                progress.look()
                if stop():
                    raise Stopped
        except BrokenProcessPool as error:
            raise HelpfulError(
                "a worker process died, and its arm with it; the same command goes on from what is "
                "stored. If memory ran out, use fewer workers."
            ) from error
        finally:
            # An arm that is under way writes its state when it is asked to end. A worker that ended
            # between two arms may have held the lock of the pool's queue, for which others wait.
            left = set(multiprocessing.active_children()) - before if working else set()
            for child in left:
                child.terminate()
            pool.shutdown(wait=not left, cancel_futures=True)
            for child in left:
                child.join(GRACE + 1)
                child.kill()
    progress.look()


def _begin(devices: Any, driver: int) -> None:
    """Prepare a worker: one device, one thread each, and an end when the driver ends."""
    die_with_parent(driver)
    # Ctrl-C reaches the driver, which ends its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if number := devices.get():
        os.environ["CUDA_VISIBLE_DEVICES"] = number
    else:
        names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS")
        os.environ.update(dict.fromkeys(names, "1"))
    os.environ["TRANSFER_QUIET"] = "1"
    register_tasks()


def _in_worker(driver: int, file: str, arm: str, folder: str, keep: bool) -> str:
    """Do an arm in a worker; return it where another process works on it, to be tried again."""
    plan, store = _plan_of(file), Store(folder)
    try:
        with stopping() as stop:
            done = do(plan, arm, store, keep=keep, stop=stop, tell=_patient())
    finally:
        if os.getppid() != driver:  # Nobody reads the result, and its queue may be locked for ever.
            os._exit(128 + signal.SIGTERM)
    if not done:
        time.sleep(POLL)
    return "" if done else arm


@functools.lru_cache(maxsize=1)
def _plan_of(file: str) -> Plan:
    return load(Path(file))


@functools.lru_cache(maxsize=1)
def _patient() -> Tell:
    return patient(lambda name, status, now: None)


def die_with_parent(parent: int) -> None:
    """Ask the kernel (Linux) for a SIGTERM when the process that started this one is gone."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGTERM)


def gpu_numbers() -> list[str]:
    """Return the GPUs this process may use, without waking them up."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [number for number in chosen.split(",") if number.strip() not in ("", "-1")]
    numbers = [path.name.removeprefix("nvidia") for path in DEVICES.glob("nvidia[0-9]*")]
    return sorted((number for number in numbers if number.isdigit()), key=int)


def _free_memory() -> int:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return int(dict(line.split(":") for line in lines)["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return 1 << 62


def snakemake(*order: Any, workers: int, extra: Sequence[str]) -> None:
    """Do arms as jobs of Snakemake on this machine, one at a time where there is a GPU."""
    jobs = workers or (1 if gpu_numbers() else cores())
    _workflow(["--cores", str(jobs), *extra], *order)


def slurm(*order: Any, workers: int, extra: Sequence[str]) -> None:
    """Do arms as jobs of a SLURM cluster, through Snakemake."""
    arguments = ["--executor", "slurm", "--jobs", str(workers or 100)]
    shown = subprocess.run(["scontrol", "show", "config"], capture_output=True, text=True)
    accounting = [line for line in shown.stdout.splitlines() if "AccountingStorageType" in line]
    # The status check of clusters without accounting: sacct would never answer there.
    if all("none" in line for line in accounting):
        arguments += ["--slurm-no-account", "--slurm-status-command", "squeue"]
    _workflow([*arguments, *extra], *order)


def _workflow(
    arguments: list[str], plan: Plan, arms: list[str], store: Store, keep: bool, progress: Progress
) -> None:
    """Write the arms as jobs for Snakemake, run it, and report its own words where it fails."""
    folder = store.folder.resolve() / "workflow" / plan.id
    need = dict(zip(plan.runs["run"], minutes(plan, store), strict=True))
    limit = {arm: _SLACK * sum(need[name] for name in plan.arms[arm]) for arm in arms}
    gpus = int(plan.facts.get("device") == "cuda")
    parameters = float(plan.facts.get("parameters", 0)) + float(plan.facts.get("words", 0))
    content = {
        "arms": {arm: max(_LEAST_MINUTES, math.ceil(limit[arm])) for arm in arms},
        "plan": str(plan.save(store.folder.resolve() / "plans")),
        "store": str(store.folder.resolve()),
        "python": sys.executable,
        "keep": keep,
        "threads": cores() if gpus and "--cores" in arguments else 1,
        # Weights, gradients, two moments, twice, and libraries, in MB.
        "mem_mb": round(2500 + parameters * 4 * 5 * 2 / 1e6),
        "gpus": gpus,
    }
    write_atomic(folder / "arms.json", json.dumps(content, indent=1).encode())
    shutil.rmtree(folder / "done", ignore_errors=True)  # the records say what is done
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(SNAKEFILE)]
    command += ["--directory", str(folder), "--config", f"arms={folder / 'arms.json'}"]
    # No lock: a driver that was killed leaves one, and those of the store keep two drivers apart.
    command += ["--nolock", "--rerun-incomplete", "--keep-going", "--retries", "1"]
    log, me = folder / "snakemake.log", os.getpid()
    with open(log, "ab") as stream, stopping() as stop:
        began = stream.tell()
        process = subprocess.Popen(
            [*command, "--rerun-triggers", "mtime", *arguments],
            stdout=stream,
            stderr=stream,
            start_new_session=True,
            preexec_fn=functools.partial(die_with_parent, me),
        )
        try:
            while process.poll() is None:
                progress.look()
                if stop():
                    raise Stopped
                time.sleep(2)
        finally:
            _end(process)
    progress.look()
    if process.returncode and progress.wanted:
        raise HelpfulError(
            f"Snakemake ended with exit code {process.returncode} and {len(progress.wanted)} runs "
            "have no record; the same command goes on from what is done. See "
            f"{log}:\n{_complaints(log, began)}"
        )


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ask Snakemake to stop, which cancels its jobs, and insist after a while."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(GRACE - 3)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _complaints(log: Path, began: int) -> str:
    """Return the lines of Snakemake's log that speak of an error, each once, else its last lines."""
    lines = log.read_bytes()[began:].decode(errors="replace").splitlines()
    spoken = [line.strip() for line in lines if re.search(r"error|fail|denied|invalid", line, re.I)]
    chosen = list(dict.fromkeys(spoken)) or [line.strip() for line in lines if line.strip()][-10:]
    return "\n".join(f"  {line}" for line in chosen[:10])


def problems(engine: str) -> list[str]:
    """Say what an engine needs and this machine lacks, before anything starts."""
    found = []
    if engine in ("snakemake", "slurm") and importlib.util.find_spec("snakemake") is None:
        found.append('engine: Snakemake is not installed; run: pip install -e ".[grid]"')
    if engine in ("snakemake", "slurm") and not SNAKEFILE.is_file():
        found.append(f"engine: {SNAKEFILE} is missing; run from a checkout of the repository.")
    if engine == "slurm" and importlib.util.find_spec("snakemake_executor_plugin_slurm") is None:
        found.append('engine: the SLURM executor is not installed; run: pip install -e ".[grid]"')
    if engine == "slurm" and shutil.which("sbatch") is None:
        found.append("engine: sbatch is not on the PATH; start from a login node of the cluster.")
    return found


ENGINES: dict[str, Callable[..., None]] = {
    "local": local,
    "processes": processes,
    "snakemake": snakemake,
    "slurm": slurm,
}
