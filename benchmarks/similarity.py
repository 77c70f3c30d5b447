"""LogME against its authors' loop, and a whole table of dyads.

The table holds every label-free, label and feature measure of 9 x 12 dyads of made-up tasks with 2,000
rows each, both seeds and both halves as in a study. Its encoder is one shallow layer of the bundled
one's width: features are gathered once per checkpoint and task, and the figure is what comes after.
"""

import functools
import itertools
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from benchmarks.harness import Row, measured, turns
from benchmarks.workloads import random_encoder
from helpers import formats, similarity
from helpers.models import network, training
from helpers.similarity import features
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
    sigma, evidences = s**2, []
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


def logme(base: int = 2000, repeats: int = 7) -> list[Row]:
    """Score random features both ways."""
    found, stock = [], "loop of LogME's authors, NumPy"
    note = f"the same random features on both sides; median of {repeats} alternating calls"
    facts: dict[str, Any] = {"threads": torch.get_num_threads(), "note": note}
    sizes = ((base, 384, 2), (base, 384, 30), (base, 1024, 3), (base // 4, 1024, 17))
    for rows, width, classes in sizes:
        random = np.random.default_rng(0)
        f, y = random.normal(size=(rows, width)), np.arange(rows) % classes
        f[:, :classes] += np.eye(classes)[y]
        ways = {"theirs": reference_logme, "ours": features.logme}
        sides = {name: functools.partial(way, f, y) for name, way in ways.items()}
        seconds, values = turns(sides, repeats)
        # Directions without variance count in ours only, so values agree where rows > columns.
        if rows > width and abs(values["ours"] - values["theirs"]) > 1e-4:
            raise SystemExit(f"values differ: {values}")
        theirs, ours = (statistics.median(seconds[side]) for side in sides)
        name = f"logme_{rows}_rows_{width}_columns_{classes}_classes"
        found.append(measured(name, ours, "s", stock, theirs, rows=rows, **facts))
    return found


WORDS = "alpha beta gamma delta epsilon zeta eta theta iota kappa lamda mu".split()


def made_up_task(number: int, role: Literal["intermediate", "target"], rows: int) -> Any:
    """A task of short random sentences whose label is a word that occurs in them."""
    classes = (2, 3, 4, 6, 12)[number % 5]
    vocabulary = [f"{word}{number % 4}" for word in WORDS]

    def read(language: str, split: str) -> list[dict[str, Any]]:
        random = np.random.default_rng(number)
        labels = random.integers(0, classes, rows)
        texts = [" ".join([*random.choice(vocabulary, 4), vocabulary[n]]) for n in labels]
        return [
            {"id": str(place), "first": text, "second": "", "label": int(label)}
            for place, (text, label) in enumerate(zip(texts, labels, strict=True))
        ]

    source = Source("rows", f"made-up-{number}", splits={"train": "train"}, read=read)
    names = tuple(WORDS[:classes])
    return Task(f"{role}-{number}", role, "pair", source, labels=names, max_length=32)


def shifted(encoder: Any, task: Any, seed: int) -> training.Tuned:
    """A stand-in for a fine-tuned encoder: the same weights with noise, and a random head."""
    generator = torch.Generator().manual_seed(seed + 1000 * int(task.name.split("-")[1]))
    moved = encoder.prune(range(len(encoder.tokenizer)))
    with torch.no_grad():
        for parameter in moved.model.parameters():
            parameter.add_(0.01 * torch.randn(parameter.shape, generator=generator))
    head = formats.get("pair").head(task, encoder.dimension, 0.0)
    return training.Tuned(moved, {task.name: head}, {task.name: task})


def table(rows: int = 2000, columns: int = 384) -> list[Row]:
    """Measure 9 x 12 dyads, once their arrays are there."""
    intermediates = [made_up_task(n, "intermediate", rows) for n in range(9)]
    targets = [made_up_task(n, "target", rows) for n in range(9, 21)]
    shape = {"num_attention_heads": columns // 32, "intermediate_size": 2 * columns}
    encoder = random_encoder("wide", "Bert", columns, 1, **shape)
    points = {
        (t.name, seed): Checkpoint(f"{t.name} {seed}", functools.partial(shifted, encoder, t, seed))
        for t, seed in itertools.product((*intermediates, *targets), (0, 1))
    }
    families = ("text", "format", "labels", "representations", "transport")
    names = [name for family in families for name in similarity.names(family)]
    with tempfile.TemporaryDirectory() as folder:
        how: dict[str, Any] = {"checkpoints": points, "options": Options.sized(rows)}
        how |= {"folder": folder, "progress": False}
        similarity.measure((intermediates, targets), names, encoder, **how)
        (Path(folder) / "values.jsonl").unlink()
        began = time.perf_counter()
        found = similarity.measure((intermediates, targets), names, encoder, **how)
        seconds = time.perf_counter() - began
    count = found.query("status == 'done'")["measure"].nunique()
    peak = network.peak_memory_mb(torch.device("cpu"))
    note = f"{count} measures of made-up tasks, two seeds, halves too, {columns} columns; "
    note += f"arrays are there already; peak {peak:,.0f} MB"
    facts: dict[str, Any] = {"threads": torch.get_num_threads(), "rows": rows, "note": note}
    return [measured("similarity_9x12_dyads_seconds", seconds, "s", **facts)]
