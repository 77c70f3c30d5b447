"""Where arms execute: this process, a pool of processes, or a cluster through Snakemake.

An engine is told which arms of a plan lack runs and makes their records appear in the store. None of
them has state of its own: whatever dies, the same command goes on from the records.
"""

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
from contextlib import suppress
from pathlib import Path
from typing import Any

from tqdm import tqdm

from helpers.errors import HelpfulError
from helpers.files import cores, write_atomic
from helpers.study.arm import GRACE, POLL, Stopped, do, patient, register_tasks, stopping, through
from helpers.study.plan import Plan, load, minutes
from helpers.study.store import AGAIN, Store

SNAKEFILE = Path(__file__).resolve().parents[2] / "workflow" / "Snakefile"
DEVICES = Path("/dev")
# Estimates are rough, and a job that hits its limit is lost work (it resumes, but queues again).
SLACK, LEAST_MINUTES = 3.0, 20


class Progress:
    """A bar of the runs that are to be done: done, rate, time left."""

    def __init__(self, plan: Plan, wanted: Sequence[str], store: Store, show: bool) -> None:
        self.store, self.wanted = store, set(wanted)
        # A log file gets at most a line a minute, however often it is told something.
        live = sys.stderr.isatty() or "ipykernel" in sys.modules
        how: dict[str, Any] = {"unit": " runs", "mininterval": 0.2 if live else 60, "miniters": 0}
        self.bar = tqdm(desc=plan.profile, total=len(wanted), disable=not show, **how)
        index = store.index()
        self.before = dict(zip(index["run"], index["changed"], strict=True))
        self.ended: Counter[str] = Counter()

    def tell(self, run: str, status: str, now: str) -> None:
        """Count a run that has a record now, or say what is being done."""
        if status and run in self.wanted:
            self.wanted.remove(run)
            self.ended[status.split(":")[0]] += 1
            self.bar.update()
        odd = [f"{n} {kind}" for kind, n in self.ended.items() if kind != "done"]
        self.bar.set_postfix_str(", ".join(filter(None, [*odd, now])), refresh=False)
        self.bar.update(0)

    def look(self) -> None:
        """Count the records that other processes wrote since the start."""
        index = self.store.index()
        for run, changed, status in index[["run", "changed", "status"]].itertuples(index=False):
            if run in self.wanted and self.before.get(run) != changed:
                self.tell(run, status, "")
        self.bar.update(0)


def local(*order: Any, **_: Any) -> None:
    """Do one arm after another in this process."""
    plan, arms, store, keep, progress = order
    with stopping() as stop:
        through(plan, arms, store, keep=keep, stop=stop, tell=progress.tell)


def processes(*order: Any, workers: int, **_: Any) -> None:
    """Do several arms at a time, each process with one device, or with one core and one thread."""
    import psutil

    plan, arms, store, keep, progress = order
    gpus, before = gpu_numbers(), set(multiprocessing.active_children())
    # An encoder with its optimiser and the libraries: what one process needs at least, in bytes.
    room = psutil.virtual_memory().available // (3 << 30)
    count = min(workers or len(gpus) or max(1, min(cores(), room)), len(arms))
    # A worker takes its device from a queue when it begins.
    spawn = multiprocessing.get_context("spawn")
    devices = spawn.SimpleQueue()
    for number in range(count):
        devices.put(gpus[number % len(gpus)] if gpus else "")
    fixed = (os.getpid(), str(plan.save(store.plans)), str(store.folder), keep)
    waiting, working = deque(arms), set[Future[str]]()
    pool = ProcessPoolExecutor(count, spawn, _begin, (devices, os.getpid()))
    with stopping() as stop:
        try:
            # No more arms are handed out than work at once, so that a stop leaves none behind.
            while waiting or working:
                while waiting and len(working) < count:
                    working.add(pool.submit(_in_worker, *fixed, waiting.popleft()))
                over, working = wait(working, timeout=1, return_when=FIRST_COMPLETED)
                waiting += [arm for work in over if (arm := work.result())]
                progress.look()
                if stop():
                    raise Stopped
        except BrokenProcessPool as error:
            if stop():  # the workers were asked to end, too, as by a signal to all of a group
                raise Stopped from error
            advice = f"{AGAIN}; if memory ran out, use fewer workers."
            raise HelpfulError(f"a worker process died, and its arm with it: {advice}") from error
        finally:
            # Whatever ends the loop ends the workers. One with an arm writes its state first; one
            # without could wait for ever, for the lock of a queue that a dead one held.
            left = set(multiprocessing.active_children()) - before
            for child in left:
                child.terminate()
            pool.shutdown(wait=False, cancel_futures=True)
            for child in left:
                child.join(GRACE + 1)
                child.kill()
                child.join()
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
    register_tasks()


def _in_worker(driver: int, file: str, folder: str, keep: bool, arm: str) -> str:
    """Do an arm in a worker; return it where another process works on it, to be tried again."""
    plan, tell = _work(file)
    with stopping() as stop:
        try:
            done = do(plan, arm, Store(folder), keep=keep, stop=stop, tell=tell)
        finally:
            # Asked to end, or left alone: nobody reads the result, whose queue may be locked for ever.
            if stop() or os.getppid() != driver:
                os._exit(128 + signal.SIGTERM)
    if not done:
        time.sleep(POLL)
    return "" if done else arm


@functools.cache
def _work(file: str) -> tuple[Plan, Callable[..., None]]:
    """Return the plan of a worker, and what counts failures over all of its arms."""
    return load(Path(file)), patient(lambda run, status, now: None)


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


def snakemake(*order: Any, workers: int, extra: Sequence[str]) -> None:
    """Do arms as jobs of Snakemake on this machine, one at a time where there is a GPU."""
    _workflow(["--cores", str(workers or (1 if gpu_numbers() else cores())), *extra], *order)


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
    # What the jobs need, in one file: arms with their minutes, the plan, the store, the resources.
    home = store.folder.resolve()
    folder, log = home / "workflow" / plan.id, home / "workflow" / plan.id / "snakemake.log"
    need = SLACK * minutes(plan, store).groupby(plan.runs["run"].map(plan.arm_of)).sum()
    gpus = int(plan.facts.get("device") == "cuda")
    parameters = float(plan.facts.get("parameters", 0)) + float(plan.facts.get("words", 0))
    content = {
        "arms": {arm: max(LEAST_MINUTES, math.ceil(need[arm])) for arm in arms},
        "plan": str(plan.save(home / "plans")),
        "store": str(home),
        "python": sys.executable,
        "keep": "yes" if keep else "no",
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
    command += ["--rerun-triggers", "mtime", *arguments]
    end = functools.partial(die_with_parent, os.getpid())
    with open(log, "ab") as stream, stopping() as stop:
        began = stream.tell()
        how: dict[str, Any] = {"start_new_session": True, "preexec_fn": end}
        process = subprocess.Popen(command, stdout=stream, stderr=stream, **how)
        try:
            while process.poll() is None:
                progress.look()
                if stop():
                    raise Stopped
                time.sleep(2)
        finally:
            if process.poll() is None:  # It is asked to stop, which cancels its jobs.
                process.terminate()
                with suppress(subprocess.TimeoutExpired):
                    process.wait(GRACE - 3)
                process.kill()  # nothing happens to one that has ended
                process.wait()
    progress.look()
    if process.returncode and progress.wanted:
        said = f"Snakemake ended with {process.returncode}, {len(progress.wanted)} runs are missing"
        # The lines of its log that speak of an error, each once, else its last ones.
        text = log.read_bytes()[began:].decode(errors="replace")
        lines = list(dict.fromkeys(filter(None, map(str.strip, text.splitlines()))))
        spoken = [line for line in lines if re.search(r"error|fail|denied|invalid", line, re.I)]
        shown = "\n  ".join([f"{log}:", *(spoken or lines[-10:])[:10]])
        raise HelpfulError(f"{said}; {AGAIN}. {shown}")


def problems(engine: str) -> list[str]:
    """Say what an engine needs and this machine lacks, before anything starts."""
    spec, install = importlib.util.find_spec, 'is not installed; run: pip install -e ".[grid]"'
    needs = (
        (f"Snakemake {install}", spec("snakemake")),
        (f"{SNAKEFILE} is missing; run from a checkout of the repository.", SNAKEFILE.is_file()),
        (f"the SLURM executor {install}", spec("snakemake_executor_plugin_slurm")),
        ("sbatch is not on the PATH; start from a cluster's login node.", shutil.which("sbatch")),
    )
    wanted = needs[: {"snakemake": 2, "slurm": 4}.get(engine, 0)]
    return [f"engine: {text}" for text, there in wanted if not there]


ENGINES: dict[str, Callable[..., None]] = {
    engine.__name__: engine for engine in (local, processes, snakemake, slurm)
}
