"""One table for every benchmark: ``data/benchmarks.csv``."""

from __future__ import annotations

import math
import os
import platform
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from helpers.files import write_atomic

_PROJECT = Path(__file__).resolve().parent.parent
# The variable is for trying out, without touching the committed figures.
PATH = Path(os.environ.get("TRANSFER_BENCHMARKS") or _PROJECT / "data" / "benchmarks.csv")
NOT_MEASURED = "not measured"


def machine() -> str:
    """Return the processor's name and number of cores."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        name = lines[0].partition(":")[2].strip() if lines else name
    return f"cpu {name}, {os.cpu_count()} cores"


def today() -> str:
    """Return today's date in UTC."""
    return datetime.now(UTC).date().isoformat()


@dataclass(frozen=True)
class Measurement:
    """One figure, next to the reference it was measured against in the same run.

    Attributes:
        name: what was measured.
        value: the figure; NaN where it was not measured.
        unit: its unit.
        reference: what it is compared with.
        reference_value: the reference's figure, in the same unit.
        ratio: how many times better the figure is (NaN without a reference).
        device: processor or GPU.
        threads: threads used.
        rows: rows, pairs or runs worked on.
        date: day of the measurement.
        note: what a reader of the figure must know.
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


def not_measured(name: str, unit: str, device: str, why: str) -> Measurement:
    """Return the row of a figure that this machine cannot give; nothing is estimated."""
    return Measurement(name, math.nan, unit, device=device, note=f"{NOT_MEASURED}: {why}")


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
        alike = [
            key for key in rows if key[0] == row["name"] and _kind(key[1]) == _kind(row["device"])
        ]
        if not math.isnan(row["value"]):
            for key in alike:
                if math.isnan(rows[key]["value"]):
                    del rows[key]
        elif alike:
            continue
        rows[row["name"], row["device"]] = row
    table = pd.DataFrame([rows[key] for key in sorted(rows)], columns=columns)
    write_atomic(path, table.to_csv(index=False).encode())
    return table


def _kind(device: str) -> str:
    """Return ``"cpu"`` or ``"cuda"``."""
    return device.partition(" ")[0]
