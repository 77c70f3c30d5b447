"""One table for every benchmark: ``data/benchmarks.csv``."""

from __future__ import annotations

import math
import os
import platform
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd

PATH = Path(__file__).resolve().parent.parent / "data" / "benchmarks.csv"
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

    A row that says "not measured" never replaces a figure.
    """
    columns = list(Measurement.__dataclass_fields__)
    fresh = pd.DataFrame([asdict(m) for m in measurements], columns=columns)
    old = pd.read_csv(path) if path.exists() else pd.DataFrame(columns=fresh.columns)
    known = set(zip(old["name"], old["device"], strict=True))
    real = fresh["value"].notna()
    absent = [pair not in known for pair in zip(fresh["name"], fresh["device"], strict=True)]
    fresh = fresh[real | pd.Series(absent, index=fresh.index)]
    replaced = set(zip(fresh["name"], fresh["device"], strict=True))
    kept = old[[p not in replaced for p in zip(old["name"], old["device"], strict=True)]]
    parts = [part for part in (kept, fresh) if len(part)]
    table = pd.concat(parts, ignore_index=True).sort_values(["name", "device"])
    path.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(path, index=False)
    return table
