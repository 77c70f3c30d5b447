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

# The variable is for trying out, without touching the committed figures.
PATH = Path(
    os.environ.get("TRANSFER_BENCHMARKS")
    or Path(__file__).resolve().parents[1] / "data" / "benchmarks.csv"
)
NOT_MEASURED = "not measured"


def machine() -> str:
    """Return the processor's name and number of cores."""
    name, facts = platform.processor() or platform.machine(), Path("/proc/cpuinfo")
    if facts.exists():
        lines = [
            line
            for line in facts.read_text(encoding="utf-8").splitlines()
            if line.startswith("model name")
        ]
        name = lines[0].partition(":")[2].strip() if lines else name
    return f"cpu {name}, {os.cpu_count()} cores"


def today() -> str:
    return datetime.now(UTC).date().isoformat()


@dataclass(frozen=True)
class Measurement:
    """One figure, next to the reference it was measured against in the same run.

    Attributes:
        name, value, unit: what was measured; NaN where it was not.
        reference, reference_value: what it is compared with, in the same unit.
        ratio: how many times better the figure is (NaN without a reference).
        device, threads: processor or GPU, and threads used.
        rows: rows, pairs or runs worked on.
        date, note: day of the measurement, and what a reader of the figure must know.
    """

    name: str
    value: float
    unit: str
    reference: str = ""
    reference_value: float = math.nan
    ratio: float = math.nan
    device: str = field(default_factory=machine)
    threads: int = 0
    rows: int = 0
    date: str = field(default_factory=today)
    note: str = ""


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


def apart(call: str, *arguments: Any) -> Any:
    """Call ``<module>.<function>`` of the benchmarks in a fresh process; both ways goes JSON.

    Raises:
        RuntimeError: the process failed; the text is the end of what it wrote.
    """
    command = [sys.executable, "-m", "benchmarks.harness", call, json.dumps(arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{call}{arguments} failed:\n{done.stderr[-2000:]}")
    print(call, *arguments, done.stdout.splitlines()[-1], file=sys.stderr, flush=True)
    return json.loads(done.stdout.splitlines()[-1])


@contextlib.contextmanager
def neighbour() -> Iterator[None]:
    """Keep one core busy with another program."""
    other = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        other.kill()
        other.wait()


def store(measurements: list[Measurement], path: Path = PATH) -> pd.DataFrame:
    """Put measurements into the table, each in place of the older one of its name and device.

    A row that says "not measured" never replaces a figure, nor stands beside one of the same kind
    of device; it goes when there is a figure. Rows of other devices are left alone.
    """
    columns = list(Measurement.__dataclass_fields__)
    old = pd.read_csv(path) if path.exists() else pd.DataFrame(columns=columns)
    rows: dict[tuple[str, str], dict[Any, Any]] = {
        (row["name"], row["device"]): row for row in old.to_dict("records")
    }
    for row in map(asdict, measurements):
        kind = row["device"].partition(" ")[0]  # cpu or cuda
        alike = [key for key in rows if (key[0], key[1].partition(" ")[0]) == (row["name"], kind)]
        if math.isnan(row["value"]):
            if alike:
                continue
        else:
            for key in [key for key in alike if math.isnan(rows[key]["value"])]:
                del rows[key]
        rows[row["name"], row["device"]] = row
    table = pd.DataFrame([rows[key] for key in sorted(rows)], columns=columns)
    write_atomic(path, table.to_csv(index=False).encode())
    return table


if __name__ == "__main__":
    module, function = sys.argv[1].rsplit(".", 1)
    found = getattr(importlib.import_module(f"benchmarks.{module}"), function)
    print(json.dumps(found(*json.loads(sys.argv[2]))))
