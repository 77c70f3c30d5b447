"""Tokenised rows mapped from disk, checksums compared, against tokenising them."""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.table import Measurement, store
from helpers import data, formats, tasks
from helpers.models import encoders, tokenised

TASK, LONGEST = "hellaswag-val", 96


def seconds(work: Callable[[], object]) -> float:
    """Return how long some work takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def measure(rows: int) -> list[Measurement]:
    """Tokenise and keep, then map three times and take the least."""
    encoder, task = encoders.load("bundled"), tasks.get(TASK)
    chosen, format_ = data.rows(task, "en", "train", rows), formats.get(task.format)

    def encode() -> None:
        tokenised.encode(format_, task, chosen, encoder, LONGEST, True)

    made = seconds(encode)
    with tempfile.TemporaryDirectory() as folder, tokenised.kept_in(Path(folder)):
        encode()
        again = min(seconds(encode) for _ in range(3))
    return [
        Measurement(
            "tokenised_rows_vs_tokenising",
            again,
            "s",
            "tokenising",
            made,
            made / again,
            rows=len(chosen),
            note=f"rows of {TASK}, bundled tokenizer",
        )
    ]


def main() -> None:
    """Measure and store."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=2000)
    (row,) = found = measure(parser.parse_args().rows)
    store(found)
    print(f"{row.name}: {row.value:.4f} {row.unit}, {row.ratio:.0f} x as fast as {row.reference}")


if __name__ == "__main__":
    main()
