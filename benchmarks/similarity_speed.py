"""Time the similarity measures: LogME against its authors' loop, and a whole table of dyads.

    python -m benchmarks.similarity_speed [--store]
    python -m benchmarks.similarity_speed --part table --rows 200 --dyads 2 3   # a quick look

Three parts. ``logme``: random features, against the algorithm of the paper; repeats of both sides
alternate, so that a busy machine slows both alike, and medians count. ``measures``: each measure of
arrays once. ``table``: every label-free, label and feature measure of 9 x 12 dyads of made-up tasks
with 2,000 rows each, both seeds and both halves as in a study. Its encoder is one shallow layer of
the bundled one's width: features are gathered once per checkpoint and task, and the figure is what
comes after that.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from benchmarks.table import Measurement, store
from helpers import formats, similarity
from helpers.models import encoders, network, training
from helpers.similarity import features, representations, text
from helpers.similarity.inputs import Options
from helpers.similarity.readers import Checkpoint
from helpers.tasks import Source, Task


def reference_logme(f: np.ndarray, y: np.ndarray) -> float:
    """The algorithm of You et al. 2022 as published: a full SVD, then a loop over classes."""
    rows, columns = f.shape
    if rows > columns:
        _, s, vh = np.linalg.svd(f.T @ f)
        s = np.sqrt(s)
        k = int((s > 1e-10).sum())
        s, vh = s[:k, None], vh[:k]
        u = f @ vh.T / s.T
    else:
        u, s, vh = np.linalg.svd(f, full_matrices=False)
        s = s[:, None]
    sigma = s**2
    evidences = []
    for label in range(int(y.max()) + 1):
        target = (y == label).astype(np.float64)[:, None]
        x = u.T @ target
        x2 = x**2
        rest = (target**2).sum() - x2.sum()
        alpha = beta = 1.0
        for _ in range(11):
            t = alpha / beta
            gamma = (sigma / (sigma + t)).sum()
            m2 = (sigma * x2 / (t + sigma) ** 2).sum()
            r2 = (x2 / (1 + sigma / t) ** 2).sum() + rest
            alpha, beta = gamma / (m2 + 1e-5), (rows - gamma) / (r2 + 1e-5)
            if abs(alpha / beta - t) / t <= 1e-3:
                break
        evidence = columns / 2 * np.log(alpha) + rows / 2 * np.log(beta)
        evidence -= 0.5 * np.log(alpha + beta * sigma).sum() + beta / 2 * r2 + alpha / 2 * m2
        evidences.append((evidence - rows / 2 * np.log(2 * np.pi)) / rows)
        _ = vh.T @ (s * x / (t + sigma))  # the weights, which the published code keeps
    return float(np.mean(evidences))


def alternate(calls: list[Callable[[], float]], repeats: int) -> list[float]:
    """Median seconds of each call, repeats interleaved."""
    seconds: list[list[float]] = [[] for _ in calls]
    for _ in range(repeats):
        for place, call in enumerate(calls):
            start = time.perf_counter()
            call()
            seconds[place].append(time.perf_counter() - start)
    return [statistics.median(values) for values in seconds]


def compare_logme(base: int, columns: int, repeats: int) -> list[Measurement]:
    found = []
    print(
        f"{'rows':>6} {'columns':>8} {'classes':>8} {'reference s':>12} {'ours s':>9} {'ratio':>6}"
    )
    for rows, width, classes in [
        (base, columns, 2),
        (base, columns, 30),
        (base, 1024, 3),
        (base // 4, 1024, 17),
    ]:
        random = np.random.default_rng(0)
        f, y = random.normal(size=(rows, width)), np.arange(rows) % classes
        f[:, :classes] += np.eye(classes)[y]
        ours, theirs = features.logme(f, y), reference_logme(f, y)
        # Directions without variance count in ours only, so values agree where rows > columns.
        if rows > width and abs(ours - theirs) > 1e-4:
            raise SystemExit(f"values differ: {ours} and {theirs}")
        old, new = alternate(
            [functools.partial(side, f, y) for side in (reference_logme, features.logme)], repeats
        )
        print(f"{rows:>6} {width:>8} {classes:>8} {old:>12.3f} {new:>9.3f} {old / new:>6.1f}")
        found.append(
            Measurement(
                f"logme_{rows}_rows_{width}_columns_{classes}_classes",
                new,
                "s",
                reference="loop of LogME's authors, NumPy",
                reference_value=old,
                ratio=old / new,
                threads=torch.get_num_threads(),
                rows=rows,
                note=f"the same random features on both sides; median of {repeats} alternating calls",
            )
        )
    return found


def time_all(rows: int, columns: int, repeats: int) -> None:
    random = np.random.default_rng(0)
    a, b = random.normal(size=(2, rows, columns))
    labels = np.arange(rows) % 4
    few = slice(0, rows // 2)
    half = f"{rows // 2:,} rows"
    calls: dict[str, Callable[[], float]] = {
        name: functools.partial(getattr(features, name), a, labels)
        for name in ("logme", "h_score", "nleep", "transrate", "gbc", "knn_probe", "linear_probe")
    }
    calls |= {
        "linear_cka": lambda: features.linear_cka(a, b),
        f"rsa, {half}": lambda: features.rsa(a[few], b[few]),
        "pwcca": lambda: features.pwcca(a, b, dimensions=50),
        f"mmd, {half}": lambda: text.mmd(a[few], b[few]),
        "domain_classifier_error": lambda: text.domain_classifier_error(a, b),
        f"otdd, {half}": lambda: representations.otdd(a[few], labels[few], b[few], labels[few]),
    }
    seconds = alternate(list(calls.values()), repeats)
    print(f"\n{rows} rows, {columns} columns, 4 classes: median seconds")
    for name, value in zip(calls, seconds, strict=True):
        print(f"{name:>24} {value:8.3f}")
    print(f"{'sum':>24} {sum(seconds):8.3f}  (x 108 dyads = {108 * sum(seconds) / 60:.1f} minutes)")


WORDS = "alpha beta gamma delta epsilon zeta eta theta iota kappa lamda mu".split()


def made_up_task(number: int, role: Literal["intermediate", "target"], rows: int) -> Any:
    """A task of short random sentences whose label is a word that occurs in them."""
    classes = (2, 3, 4, 6, 12)[number % 5]
    vocabulary = [f"{word}{number % 4}" for word in WORDS]

    def read(language: str, split: str) -> list[dict[str, Any]]:
        random = np.random.default_rng(number)
        labels = random.integers(0, classes, rows)
        return [
            {
                "id": str(place),
                "first": " ".join([*random.choice(vocabulary, 4), vocabulary[label]]),
                "second": "",
                "label": int(label),
            }
            for place, label in enumerate(labels)
        ]

    source = Source("rows", f"made-up-{number}", splits={"train": "train"}, read=read)
    names = tuple(WORDS[:classes])
    return Task(f"{role}-{number}", role, "pair", source, labels=names, max_length=32)


def wide_encoder(columns: int) -> Any:
    """The tiny encoder's tokenizer over one random layer of a given width."""
    from transformers import BertConfig, BertModel

    tiny = encoders.load("tiny")
    config = BertConfig(
        vocab_size=len(tiny.tokenizer),
        hidden_size=columns,
        num_hidden_layers=1,
        num_attention_heads=columns // 32,
        intermediate_size=2 * columns,
    )
    model = BertModel(config, add_pooling_layer=False).eval()
    return dataclasses.replace(tiny, name="wide", model=model, dimension=columns, sha256="wide")


def shifted(encoder: Any, task: Any, seed: int) -> training.Tuned:
    """A stand-in for a fine-tuned encoder: the same weights with noise, and a random head."""
    generator = torch.Generator().manual_seed(seed + 1000 * int(task.name.split("-")[1]))
    moved = encoder.prune(range(len(encoder.tokenizer)))
    with torch.no_grad():
        for parameter in moved.model.parameters():
            parameter.add_(0.01 * torch.randn(parameter.shape, generator=generator))
    head = formats.get("pair").head(task, encoder.dimension, 0.0)
    return training.Tuned(moved, {task.name: head}, {task.name: task})


def time_table(rows: int, columns: int, shape: tuple[int, int]) -> list[Measurement]:
    timed: dict[str, tuple[float, float]] = {}
    first, second = shape
    intermediates = [made_up_task(n, "intermediate", rows) for n in range(first)]
    targets = [made_up_task(n, "target", rows) for n in range(first, first + second)]
    encoder = wide_encoder(columns)
    by_name = {task.name: task for task in (*intermediates, *targets)}
    points = {
        (name, seed): Checkpoint(f"{name} {seed}", functools.partial(shifted, encoder, task, seed))
        for name, task in by_name.items()
        for seed in (0, 1)
    }
    families = ("text", "format", "labels", "representations", "transport")
    names = [name for family in families for name in similarity.names(family)]
    options = Options.sized(rows)
    with tempfile.TemporaryDirectory() as folder:
        for what in ("arrays and measures", "measures alone", "nothing, all stored"):
            if what == "measures alone":
                (Path(folder) / "values.jsonl").unlink()
            start, worked = time.perf_counter(), time.process_time()
            table = similarity.measure(
                (intermediates, targets),
                names,
                encoder,
                checkpoints=points,
                options=options,
                folder=folder,
                progress=False,
            )
            seconds = time.perf_counter() - start
            peak = network.peak_memory_mb(torch.device("cpu"))
            worked = time.process_time() - worked
            timed[what] = seconds, peak
            print(f"{what:>22}: {seconds:6.1f} s, {worked:6.1f} s of CPU, peak {peak:,.0f} MB")
        done = table[table["status"] == "done"]
        print(f"{len(done)} of {len(table)} rows of {done['measure'].nunique()} measures are done")
        costs = done.groupby("measure", sort=False)["seconds"].sum()
        print(costs.round(2).to_string())
    seconds, peak = timed["measures alone"]
    note = (
        f"{done['measure'].nunique()} measures of made-up tasks, two seeds, halves too, {columns} "
        f"columns; arrays are there already; peak {peak:,.0f} MB"
    )
    name = f"similarity_{first}x{second}_dyads_seconds"
    return [Measurement(name, seconds, "s", threads=torch.get_num_threads(), rows=rows, note=note)]


PARTS = ("logme", "measures", "table")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", choices=PARTS, help="one part alone")
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--columns", type=int, default=384)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--dyads", type=int, nargs=2, default=(9, 12))
    parser.add_argument("--store", action="store_true", help="put the figures into the table")
    options = parser.parse_args()
    parts = [options.part] if options.part else PARTS
    found = []
    if "logme" in parts:
        found += compare_logme(options.rows, options.columns, options.repeats)
    if "measures" in parts:
        time_all(options.rows, options.columns, options.repeats)
    if "table" in parts:
        found += time_table(options.rows, options.columns, tuple(options.dyads))
    if options.store:
        store(found)


if __name__ == "__main__":
    main()
