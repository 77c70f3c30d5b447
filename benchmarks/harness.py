"""The one timing harness, and the one table, of every benchmark.

The sides of a comparison take turns, so that a busy moment slows each alike; what has a memory of
its own, or warms what comes after it, runs in a fresh process. Figures go to ``data/benchmarks.csv``.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import math
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from helpers.files import write_atomic

COMMITTED = Path(__file__).resolve().parents[1] / "data" / "benchmarks.csv"
# The variable is for trying out, without touching the committed figures.
PATH = Path(os.environ.get("TRANSFER_BENCHMARKS") or COMMITTED)
NOT_MEASURED = "not measured"


def machine() -> str:
    """Return the processor's name and number of cores."""
    name, facts = platform.processor() or platform.machine(), Path("/proc/cpuinfo")
    if facts.exists():
        named = re.search(r"^model name\s*:\s*(.+)", facts.read_text(encoding="utf-8"), re.M)
        name = named[1] if named else name
    return f"cpu {name}, {os.cpu_count()} cores"


@dataclass(frozen=True)
class Measurement:
    """One figure, next to the reference it was measured against in the same run."""

    name: str
    value: float  # NaN where it was not measured
    unit: str
    reference: str = ""  # what it is compared with, in the same unit
    reference_value: float = math.nan
    ratio: float = math.nan  # how many times better the figure is
    device: str = field(default_factory=machine)
    threads: int = 0
    rows: int = 0  # rows, pairs or runs worked on
    date: str = field(default_factory=lambda: datetime.now(UTC).date().isoformat())
    note: str = ""  # what a reader of the figure must know


def compared(
    name: str, value: float, unit: str, reference: str, other: float, **facts: Any
) -> Measurement:
    """Return a figure beside its reference; a rate is better the higher, anything else the lower."""
    ratio = value / other if unit.endswith("/s") else other / value
    return Measurement(name, value, unit, reference, other, ratio, **facts)


def not_measured(name: str, unit: str, device: str, why: str) -> Measurement:
    """Return the row of a figure that this machine cannot give; nothing is estimated."""
    return Measurement(name, math.nan, unit, device=device, note=f"{NOT_MEASURED}: {why}")


def turns(
    sides: Mapping[str, Callable[[], Any]],
    repeats: int,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """Let the sides take turns; return the seconds of each turn, and what each side returned last."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    results = {}
    for _ in range(repeats):
        for name, side in sides.items():
            began = clock()
            results[name] = side()
            seconds[name].append(clock() - began)
    return seconds, results


def call(name: str, *arguments: Any) -> Any:
    """Call ``<module>.<function>`` of the benchmarks."""
    module, function = name.split(".")
    return getattr(importlib.import_module(f"benchmarks.{module}"), function)(*arguments)


def apart(name: str, *arguments: Any) -> Any:
    """Do :func:`call` in a fresh process, or raise RuntimeError; both ways goes JSON."""
    command = [sys.executable, "-m", "benchmarks.harness", name, json.dumps(arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{name}{arguments} failed:\n{done.stderr[-2000:]}")
    said = done.stdout.splitlines()[-1]
    print(name, *arguments, said, file=sys.stderr, flush=True)
    return json.loads(said)


@contextlib.contextmanager
def neighbour() -> Iterator[None]:
    """Keep one core busy with another program."""
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as other:
        try:
            yield
        finally:
            other.kill()


def store(measurements: list[Measurement], path: Path = PATH) -> pd.DataFrame:
    """Put measurements into the table, each in place of the older one of its name and device."""
    table = (
        pd.read_csv(path) if path.exists() else pd.DataFrame(columns=[*Measurement.__annotations__])
    )
    for row in measurements:
        # What was not measured never replaces a figure, nor stands beside one of the same kind of
        # device; it goes when there is a figure.
        kinds = table["device"].str.split().str[0]  # cpu or cuda
        alike = (table["name"] == row.name) & (kinds == row.device.split()[0])
        if not (math.isnan(row.value) and alike.any()):
            old = alike & ((table["device"] == row.device) | table["value"].isna())
            table = pd.concat([table[~old], pd.DataFrame([asdict(row)])])
    table = table.sort_values(["name", "device"])
    write_atomic(path, table.to_csv(index=False).encode())
    return table


if __name__ == "__main__":
    print(json.dumps(call(sys.argv[1], *json.loads(sys.argv[2]))))
