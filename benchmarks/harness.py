"""The one timing harness, and the one table, of every benchmark.

The sides of a comparison take turns, so that a busy moment slows each alike; what has a memory of
its own, or warms what comes after it, runs in a fresh process. Figures go to ``data/benchmarks.csv``.
"""

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
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from helpers.files import write_atomic

COMMITTED = Path(__file__).resolve().parents[1] / "data" / "benchmarks.csv"
# The variable is for trying out, without touching the committed figures.
PATH = Path(os.environ.get("TRANSFER_BENCHMARKS") or COMMITTED)
Row = dict[str, Any]


def machine() -> str:
    """Return the processor's name and number of cores."""
    name, facts = platform.processor() or platform.machine(), Path("/proc/cpuinfo")
    if facts.exists():
        named = re.search(r"^model name\s*:\s*(.+)", facts.read_text(encoding="utf-8"), re.M)
        name = named[1] if named else name
    return f"cpu {name}, {os.cpu_count()} cores"


def measured(
    name: str, value: float, unit: str, reference: str = "", other: float = math.nan, **facts: Any
) -> Row:
    """Return a row of the table: a figure, beside the reference of the same run where it has one."""
    # How many times better it is: a rate is better the higher, anything else the lower.
    ratio = value / other if unit.endswith("/s") else other / value
    figures = {"value": value, "unit": unit, "reference": reference, "reference_value": other}
    where = {"ratio": ratio, "device": machine(), "threads": 0, "rows": 0}
    date = datetime.now(UTC).date().isoformat()
    return {"name": name, **figures, **where, "date": date, "note": ""} | facts


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
    """Do :func:`call` in a fresh process, or raise CalledProcessError; JSON goes both ways."""
    command = [sys.executable, "-m", "benchmarks.harness", name, json.dumps(arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
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


def store(rows: list[Row], path: Path = PATH) -> None:
    """Put rows into the table, each in place of the older one of its name and device."""
    new = pd.DataFrame(rows)
    table = pd.concat([pd.read_csv(path) if path.exists() else new[:0], new])
    table = table.drop_duplicates(["name", "device"], keep="last")
    # What was not measured makes room for a figure on the same kind of device, cpu or cuda.
    there = table["value"].notna()
    told = there.groupby([table["name"], table["device"].str.split().str[0]]).transform("any")
    table = table[there | ~told].sort_values(["name", "device"])
    write_atomic(path, table.to_csv(index=False).encode())


if __name__ == "__main__":
    print(json.dumps(call(sys.argv[1], *json.loads(sys.argv[2]))))
