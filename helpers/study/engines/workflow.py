"""The grid through Snakemake, on this machine or on a SLURM cluster.

Short runs are put into batches, so that starting a process and loading an encoder are paid once for
many of them: an intermediate stage with the targets that start from it, as far as the time limit of
a batch goes. Batches, not runs, are what Snakemake sees.
"""

from __future__ import annotations

import importlib.util
import json
import math
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from helpers.errors import HelpfulError
from helpers.files import write_atomic
from helpers.machine import cores
from helpers.study import costs
from helpers.study.engines.processes import gpu_numbers, report
from helpers.study.engines.signals import GRACE, terminated
from helpers.study.execution import Stopped, encoder_of
from helpers.study.plans import Plan, digest

if TYPE_CHECKING:
    from helpers.study.engines import Order

SNAKEFILE = Path(__file__).resolve().parents[3] / "workflow" / "Snakefile"
# Jobs shorter than this are grouped; longer runs are jobs of their own.
BATCH_MINUTES = 30.0
# Estimates are rough, and a job that hits its limit is lost work (it resumes, but queues again).
_SLACK, _LEAST_MINUTES = 3.0, 20
_POLL = 2.0


@dataclass(frozen=True)
class Batch:
    """Runs that one job does.

    Attributes:
        id: hash of its runs.
        runs: ids, parents first.
        needs: batches that must be over before.
        runtime: time limit in minutes.
    """

    id: str
    runs: tuple[str, ...]
    needs: tuple[str, ...]
    runtime: int


def run_here(order: Order) -> None:
    """Do an order with Snakemake on this machine."""
    jobs = order.workers or (len(gpu_numbers()) or cores())
    _run(order, ["--cores", str(jobs)], jobs)


def run_slurm(order: Order) -> None:
    """Do an order with Snakemake on a SLURM cluster; each batch is a job of its own."""
    arguments = ["--executor", "slurm", "--jobs", str(order.workers or 100)]
    # The status check of clusters without accounting: sacct would never answer there.
    if not _has_accounting():
        arguments += ["--slurm-no-account", "--slurm-status-command", "squeue"]
    _run(order, arguments, cores())


def problems() -> list[str]:
    """Say what Snakemake needs and this machine lacks."""
    found = []
    if importlib.util.find_spec("snakemake") is None:
        found.append('engine: Snakemake is not installed; run: pip install -e ".[grid]"')
    if not SNAKEFILE.is_file():
        found.append(f"engine: {SNAKEFILE} is missing; run from a checkout of the repository.")
    return found


def slurm_problems() -> list[str]:
    """Say what SLURM needs and this machine lacks."""
    found = problems()
    if importlib.util.find_spec("snakemake_executor_plugin_slurm") is None:
        found.append('engine: the SLURM executor is not installed; run: pip install -e ".[grid]"')
    if shutil.which("sbatch") is None:
        found.append("engine: sbatch is not on the PATH; start from a login node of the cluster.")
    return found


def batches(plan: Plan, runs: Sequence[str], minutes: float, each: Sequence[float]) -> list[Batch]:
    """Put runs into batches.

    Args:
        plan: the plan.
        runs: ids of the runs to do, parents first.
        minutes: how long a batch of several runs may take.
        each: estimated minutes of each of them.

    Returns:
        Batches in an order in which each comes after what it needs.
    """
    time_of = dict(zip(runs, each, strict=True))
    found: list[Batch] = []
    holder: dict[str, str] = {}
    for chain in _chains(plan, runs):
        for part in _cut(chain, time_of, minutes):
            parents = {plan.parents[run] for run in part} - set(part)
            needs = sorted({holder[parent] for parent in parents if parent in holder})
            limit = max(_LEAST_MINUTES, math.ceil(_SLACK * sum(time_of[run] for run in part)))
            batch = Batch(digest("\n".join(part)), tuple(part), tuple(needs), limit)
            holder |= dict.fromkeys(part, batch.id)
            found.append(batch)
    return found


def _chains(plan: Plan, runs: Iterable[str]) -> Iterable[list[str]]:
    """Return the runs grouped by the intermediate stage they belong to; baselines are one group."""
    groups: dict[str, list[str]] = {}
    for run in runs:
        parent = plan.parents[run] or (run if plan.stages[run] == "intermediate" else "")
        groups.setdefault(parent, []).append(run)
    return groups.values()


def _cut(chain: Sequence[str], time_of: dict[str, float], minutes: float) -> Iterable[list[str]]:
    part: list[str] = []
    for run in chain:
        if part and sum(time_of[other] for other in [*part, run]) > minutes:
            yield part
            part = []
        part.append(run)
    if part:
        yield part


def _run(order: Order, arguments: Sequence[str], jobs: int) -> None:
    encoder_of.cache_clear()  # this process only watches
    folder = order.store.folder.resolve() / "workflow" / order.plan.id
    listing = _write(order, folder, jobs)
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(SNAKEFILE)]
    command += ["--directory", str(folder), "--config", f"batches={listing}", *arguments]
    # No lock: a driver that was killed leaves one, and claims in the store keep two drivers apart.
    command += ["--nolock", "--rerun-incomplete", "--keep-going", "--retries", "1"]
    command += ["--rerun-triggers", "mtime", *order.extra]
    log = folder / "snakemake.log"
    began = log.stat().st_size if log.exists() else 0
    with open(log, "ab") as stream, terminated() as stop:
        process = subprocess.Popen(command, stdout=stream, stderr=stream, start_new_session=True)
        try:
            _wait(order, process, stop)
        finally:
            _end(process)
    report(order)
    if process.returncode and order.line.waiting:
        lost = len(order.line.waiting)
        raise HelpfulError(
            f"Snakemake ended with exit code {process.returncode} and {lost} runs have no record; "
            f"the same command goes on from what is done. See {log}:\n{_complaints(log, began)}"
        )


def _complaints(log: Path, began: int) -> str:
    """Return the lines of Snakemake's log that speak of an error, each once, else its last lines."""
    lines = log.read_bytes()[began:].decode(errors="replace").splitlines()
    spoken = [line.strip() for line in lines if re.search(r"error|fail|denied|invalid", line, re.I)]
    chosen = list(dict.fromkeys(spoken)) or [line.strip() for line in lines if line.strip()][-10:]
    return "\n".join(f"  {line}" for line in chosen[:10])


def _wait(order: Order, process: subprocess.Popen[bytes], stop: Any) -> None:
    while process.poll() is None:
        if stop():
            raise Stopped("stopped as asked; the same command goes on where this one ended.")
        time.sleep(max(_POLL, 5 * report(order)))


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ask Snakemake to stop, which cancels its jobs, and insist after a while."""
    if process.poll() is not None:
        return
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(GRACE - 3)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _write(order: Order, folder: Path, jobs: int) -> Path:
    """Write the plan, its batches and nothing else; markers of what is to be done are removed."""
    plan_file = order.plan.save(order.store.folder.resolve() / "plans")
    minutes = dict(zip(order.plan.runs["run"], costs.minutes(order.plan, order.store), strict=True))
    listed = batches(order.plan, order.runs, BATCH_MINUTES, [minutes[run] for run in order.runs])
    markers = folder / "markers"
    markers.mkdir(parents=True, exist_ok=True)
    for batch in listed:
        (markers / f"{batch.id}.done").unlink(missing_ok=True)
    gpus = int(order.plan.facts.get("device") == "cuda")
    content = {
        "batches": [asdict(batch) for batch in listed],
        "plan": str(plan_file),
        "store": str(order.store.folder.resolve()),
        "markers": str(markers),
        "python": sys.executable,
        "keep": order.keep,
        "threads": 1 if not gpus else max(1, cores() // jobs),
        "mem_mb": _memory(order.plan),
        "gpus": gpus,
    }
    path = folder / "batches.json"
    write_atomic(path, json.dumps(content, indent=1).encode())
    return path


def _memory(plan: Plan) -> int:
    """Return the memory of a job in MB: weights, gradients, two moments, twice, and libraries."""
    parameters = float(plan.facts.get("parameters", 0)) + float(plan.facts.get("words", 0))
    return round(2500 + parameters * 4 * 5 * 2 / 1e6)


def _has_accounting() -> bool:
    shown = subprocess.run(
        ["scontrol", "show", "config"], capture_output=True, text=True, timeout=60
    )
    lines = [line for line in shown.stdout.splitlines() if "AccountingStorageType" in line]
    return any("none" not in line for line in lines)
