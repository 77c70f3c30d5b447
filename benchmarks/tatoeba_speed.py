"""Tatoeba end to end, every language: read, tokenise, embed, search and score.

    TRANSFER_DATA_ROOT=/folder/in/hub/layout python -m benchmarks.tatoeba_speed [--store]

Twice: from the hidden state that XTREME's script reads of an encoder of this depth, and from the last
one. The reference is the time that the matrix products of the same texts take at this machine's peak.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from benchmarks.table import Measurement, machine, not_measured, store
from benchmarks.training_speed import matmul_flops, matmul_peak
from helpers import data, evaluation, formats, tasks
from helpers.models import encoders, network
from helpers.models.encoders import Encoder
from helpers.models.training import Tuned
from helpers.tasks import Task

NAMES = ("tatoeba_36_pairs_xtreme_layer", "tatoeba_36_pairs_last_layer")
NO_DATA = "rows of some language are not on the machine that ran the benchmarks"


def xtreme_layer(layers: int) -> int:
    """Return the hidden state that XTREME's script reads; of a depth it does not know, two thirds."""
    return {12: 8, 24: 14}.get(layers) or max(1, layers * 2 // 3)


def forward_operations(encoder: Encoder, task: Task, languages: Sequence[str]) -> float:
    """Return the operations of all matrix products of one layer, for each distinct text once."""
    texts = {row["text"] for language in languages for row in data.rows(task, language, "test")}
    rows = [{"side": "candidate", "text": text} for text in sorted(texts)]
    longest = min(task.max_length, encoder.max_length)
    coded = formats.get(task.format).encode(task, rows, encoder, longest, False)
    return matmul_flops(coded, encoder.dimension, 1) / 3  # a backward pass is two thirds


def timed(
    encoder: Encoder, task: Task, languages: Sequence[str], layer: int
) -> tuple[float, float, list[dict[str, Any]]]:
    """Return seconds of an evaluation, the machine's peak around it, and the scores."""
    device = network.best_device()
    precision = network.resolve_precision("auto", device)
    peaks = [matmul_peak(device, precision)]
    began = time.perf_counter()
    scores = evaluation.evaluate(Tuned(encoder), task, languages, layer=layer)
    seconds = time.perf_counter() - began
    peaks.append(matmul_peak(device, precision))
    return seconds, float(np.mean(peaks)), scores


def measure(encoder: Encoder, task: Task, languages: Sequence[str]) -> list[Measurement]:
    """Score languages of a retrieval target from two layers of an untuned encoder."""
    device = network.describe(network.best_device()) if torch.cuda.is_available() else machine()
    found: list[Measurement] = []
    operations = 0.0
    for name, layer in zip(NAMES, (xtreme_layer(encoder.layers), encoder.layers), strict=True):
        seconds, peak, scores = timed(encoder, task, languages, layer)
        lost = [entry for entry in scores if entry["status"] != "done"]
        if lost:
            print(lost[0]["status"])
            return [not_measured(name, "s", device, NO_DATA) for name in NAMES]
        # Counted once, and after the first timing, which so reads what nobody has read before.
        operations = operations or forward_operations(encoder, task, languages)
        bare = layer * operations / peak
        accuracy = np.mean([entry["value"] for entry in scores])
        found.append(
            Measurement(
                name,
                seconds,
                "s",
                "its matrix products at the measured peak",
                bare,
                bare / seconds,
                device=device,
                threads=torch.get_num_threads(),
                rows=sum(entry["n"] for entry in scores),
                note=f"{encoder.name} encoder, hidden state {layer} of {encoder.layers}, "
                f"{len(languages)} languages, mean accuracy {accuracy:.3f}",
            )
        )
    return found


def main() -> None:
    """Measure, print and, if asked, store."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--store", action="store_true", help="put the figures into the table")
    options = parser.parse_args()
    task = tasks.get("tatoeba")
    rows = measure(encoders.load("bundled"), task, task.languages)
    for row in rows:
        print(f"{row.name:32} {row.value:7.1f} s  ratio {row.ratio:.2f}  {row.note}")
    if options.store:
        store(rows)


if __name__ == "__main__":
    main()
