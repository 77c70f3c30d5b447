"""Scoring, answers from span scores, mining and search, each against the stock way or a bare product.

Both sides get the same rows and must give the same figures.
"""

import itertools
import re
import resource
import string
import tempfile
import time
import unicodedata
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from benchmarks.harness import Row, apart, measured, turns
from helpers.metrics import mlqa, span_f1, squad
from helpers.metrics.mining import TILE, mine, nearest

REPEATS = 5

# Metrics: CPU time of one thread, least of five turns.

UPOS = "ADJ ADP ADV AUX CCONJ DET INTJ NOUN NUM PART PRON PROPN PUNCT SCONJ SYM VERB X".split()
WORDS = "the a red dog's house, in Oslo; 1,234 of «Paris» der die una 北京 大学 2008年".split()


def metrics_of_rows(sentences: int = 20_000, answers: int = 5_000) -> list[Row]:
    """Score tags against seqeval, nine in ten right, and answers against the published script."""
    import seqeval.metrics

    chance = np.random.default_rng(0)
    golds = [
        [UPOS[i] for i in chance.integers(0, 17, chance.integers(5, 36))] for _ in range(sentences)
    ]
    given = [[t if chance.random() < 0.9 else UPOS[chance.integers(17)] for t in s] for s in golds]
    chance = np.random.default_rng(0)
    right = [[" ".join(chance.choice(WORDS, chance.integers(1, 6)))] for _ in range(answers)]
    said = [x[0] if chance.random() < 0.5 else " ".join(chance.choice(WORDS, 3)) for x in right]
    ascii_marks = set(string.punctuation)
    all_marks = {chr(i) for i in range(0x110000) if unicodedata.category(chr(i))[0] == "P"}

    def both(score: dict[str, float]) -> list[float]:
        return [score["exact_match"], score["f1"]]

    ways: dict[str, tuple[int, str, Callable[[], Any], Callable[[], Any]]] = {
        "span_f1": (
            sentences, "seqeval 1.2.2", lambda: span_f1(given, golds, "seqeval-1.2.2")["f1"],
            lambda: seqeval.metrics.f1_score(golds, given),
        ),
        "squad": (
            answers, "published script", lambda: both(squad(said, right)),
            lambda: stock_answers(said, right, ascii_marks),
        ),
        "mlqa_en": (
            answers, "published script", lambda: both(mlqa(said, right, "en")),
            lambda: stock_answers(said, right, ascii_marks | all_marks),
        ),
    }  # fmt: skip
    rows = []
    for name, (count, reference, ours, stock) in ways.items():
        with warnings.catch_warnings(action="ignore"):  # seqeval's, of odd tags
            seconds, found = turns({"ours": ours, "stock": stock}, REPEATS, time.process_time)
        assert np.allclose(found["ours"], found["stock"], rtol=0, atol=1e-12), "the ways disagree"
        rate = {side: count / min(spent) for side, spent in seconds.items()}
        facts = {"rows": count, "threads": 1, "note": "CPU time"}
        rows.append(measured(name, rate["ours"], "rows/s", reference, rate["stock"], **facts))
    return rows


def stock_answers(
    predictions: list[str], golds: list[list[str]], drop: set[str]
) -> tuple[float, float]:
    """Exact match and F1 as the published scripts compute them, character by character."""

    def tokens(text: str) -> list[str]:
        kept = "".join(mark for mark in text.lower() if mark not in drop)
        return re.sub(r"\b(a|an|the)\b", " ", kept).split()

    def overlap(one: list[str], other: list[str]) -> float:
        shared = sum((Counter(one) & Counter(other)).values())
        return 2 * shared / (len(one) + len(other)) if shared else 0.0

    exact = f1 = 0.0
    for prediction, answers in zip(predictions, golds, strict=True):
        exact += max(tokens(prediction) == tokens(answer) for answer in answers)
        f1 += max(overlap(tokens(prediction), tokens(answer)) for answer in answers)
    return exact / len(golds), f1 / len(golds)


# Spans: windows have the lengths of XQuAD, MLQA and TyDiQA-GoldP (384 tokens, 128 apart).

LENGTH, QUESTION, STRIDE, N_BEST, LONGEST = 384, 20, 128, 20, 30


def spans(questions: int = 5_000) -> list[Row]:
    """Decode by the default rules, and by those of the usual loop, which it follows to the letter."""
    from helpers.formats.span import best_spans

    rows = span_rows(questions)
    *_, offsets, _, _ = rows
    # The loop gets its maps ready-made, as run_qa does.
    maps = [[tuple(pair) if pair[0] >= 0 else None for pair in one] for one in offsets.tolist()]
    sides = {
        "loop": lambda: span_loop(*rows, maps),
        "by_its_rules_": lambda: best_spans(*rows, reference=True).texts,
        "": lambda: best_spans(*rows).texts,
    }
    seconds, found = turns(sides, REPEATS, time.process_time)
    assert found["by_its_rules_"] == found["loop"], "the two ways disagree"
    rate = {name: questions / min(values) for name, values in seconds.items()}
    facts: Row = {"threads": 1, "rows": questions}
    facts["note"] = f"CPU time; {len(offsets)} windows of {LENGTH} tokens"
    stock = ("questions/s", "usual post-processing loop", rate["loop"])
    names = {name: f"evaluate_span_{name}vs_reference_loop" for name in ("by_its_rules_", "")}
    return [measured(row, rate[name], *stock, **facts) for name, row in names.items()]


def span_rows(questions: int, seed: int = 0) -> tuple[Any, Any, Any, Any, list[str]]:
    """Contexts of 60 to 600 tokens of four characters, with scores that favour one answer."""
    chance = np.random.default_rng(seed)
    room = LENGTH - QUESTION - 3
    scores, offsets, example, contexts = [], [], [], []
    for number in range(questions):
        tokens = int(np.clip(chance.lognormal(5.2, 0.5), 60, 600))
        contexts.append("".join(f"w{i % 1000:03d}" for i in range(tokens)))
        answer = int(chance.integers(0, tokens - 3))
        for first in range(0, max(1, tokens - room + STRIDE), STRIDE):
            place = np.full((LENGTH, 2), -1, np.int32)
            here = np.arange(first, min(first + room, tokens))
            inside = slice(QUESTION + 2, QUESTION + 2 + len(here))
            place[inside] = np.stack([4 * here, 4 * here + 4], axis=1)
            window = chance.normal(-4, 2, (2, LENGTH)).astype(np.float32)
            if answer in here and answer + 2 in here:
                window[[0, 1], inside.start + answer - first + np.array([0, 2])] += 9
            scores.append(window)
            offsets.append(place)
            example.append(number)
    begin, end = np.stack(scores, axis=1)
    return begin, end, np.stack(offsets), np.array(example), contexts


def span_loop(
    begin: Any, end: Any, offsets: Any, example: Any, contexts: list[str], maps: list[Any]
) -> list[str]:
    """The post-processing of the transformers examples, which follows XTREME's.

    For every window the 20 best begins and ends, every pair of them that is a stretch of the
    context, then the 20 best over all windows of the question, with texts and probabilities.
    """
    answers: list[str] = []
    windows = np.split(np.arange(len(example)), np.flatnonzero(np.diff(example)) + 1)
    for context, own in zip(contexts, windows, strict=True):
        candidates: list[dict[str, Any]] = []
        for window in own.tolist():
            starts, ends, place = begin[window], end[window], maps[window]
            best_ends = np.argsort(ends)[-1 : -N_BEST - 1 : -1].tolist()
            for i in np.argsort(starts)[-1 : -N_BEST - 1 : -1].tolist():
                for j in best_ends:
                    if i >= len(place) or j >= len(place) or place[i] is None or place[j] is None:
                        continue
                    if j < i or j - i + 1 > LONGEST:
                        continue
                    facts = {"start_logit": starts[i], "end_logit": ends[j]}
                    facts |= {"offsets": (place[i][0], place[j][1]), "score": starts[i] + ends[j]}
                    candidates.append(facts)
        ranked = sorted(candidates, key=lambda one: one["score"], reverse=True)[:N_BEST]
        scores = np.array([one.pop("score") for one in ranked])
        powers = np.exp(scores - np.max(scores, initial=-np.inf))
        for one, probability in zip(ranked, powers / powers.sum(), strict=True):
            one["text"] = context[slice(*one.pop("offsets"))]
            one["probability"] = probability
            # what the script writes as its n-best list
            one |= {k: float(v) for k, v in one.items() if isinstance(v, np.floating)}
        answers.append(ranked[0]["text"] if ranked else "")
    return answers


# Mining n x n vectors needs one product of all pairs; the published code does two. Each part runs in
# a process of its own, so that peak memory is its own.

WIDTH, QUERIES = 384, 2000


def vectors(rows: int, seed: int) -> np.ndarray:
    """Random vectors around a common direction, as an encoder's are."""
    return np.random.default_rng(seed).standard_normal((rows, WIDTH), dtype=np.float32) + 1


def bare_products(rows: int) -> dict[str, float]:
    """One product of all pairs, tile by tile into one buffer, and nothing else."""
    x, y = (torch.from_numpy(vectors(rows, seed)) for seed in (0, 1))
    tile = torch.empty(TILE, TILE)

    def multiply() -> None:
        for i, j in itertools.product(range(0, rows, TILE), repeat=2):
            one, other = x[i : i + TILE], y[j : j + TILE]
            whole = len(one) == len(other) == TILE
            torch.mm(one, other.T, out=tile if whole else None)

    return _spent(multiply)[1]


def mined(rows: int) -> dict[str, float]:
    """Mine both directions by margin."""
    x, y = vectors(rows, 0), vectors(rows, 1)
    y[: rows // 2] += 2 * x[: rows // 2]
    found, spent = _spent(lambda: mine(x, y))
    right = (found.source == found.target) & (found.source < rows // 2)
    assert right.sum() == rows // 2, "translations were lost"
    return spent


def pool(rows: int) -> dict[str, float]:
    """Search a memory-mapped pool of 16-bit vectors."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pool.npy"
        mapped = np.lib.format.open_memmap(path, "w+", np.float16, (rows, WIDTH))
        for start in range(0, rows, 50_000):
            part = vectors(min(50_000, rows - start), start)
            mapped[start : start + len(part)] = part
        queries = np.array(mapped[:: rows // QUERIES][:QUERIES], np.float32)
        del mapped
        found, spent = _spent(lambda: nearest(queries, np.load(path, mmap_mode="r"), 20))
        assert (found.index[:, 0] == np.arange(0, rows, rows // QUERIES)[:QUERIES]).all()
        return spent


def _spent(work: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    """Return what some work returns, and what it and this process took."""
    wall, cpu = time.perf_counter(), time.process_time()
    found = work()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return found, {"wall": wall, "cpu": cpu, "memory": memory, "threads": torch.get_num_threads()}


def mining(rows: int = 100_000, pool_rows: int = 1_000_000) -> list[Row]:
    """Mine between two rounds of bare products, then search."""
    parts = ("bare_products", "mined", "bare_products")
    before, ours, after = (apart(f"scoring.{part}", rows) for part in parts)
    facts = {"rows": rows, "threads": ours["threads"], "note": f"both directions, width {WIDTH}"}
    size, found = f"mining_{rows // 1000}k", []
    for clock, suffix in (("wall", ""), ("cpu", "_cpu")):
        bare = ("one bare product of all pairs", (before[clock] + after[clock]) / 2)
        found.append(measured(f"{size}{suffix}_vs_bare_matmul", ours[clock], "s", *bare, **facts))
    facts["note"] = "whole process"
    found.append(measured(f"{size}_peak_memory", ours["memory"], "MB", **facts))
    search = apart("scoring.pool", pool_rows)
    facts |= {"rows": pool_rows, "note": "whole process, with the pages of the pool in memory"}
    found.append(measured("search_pool_peak_memory", search["memory"], "MB", **facts))
    facts["note"] = f"{QUERIES} queries, 20 neighbours, pool in 16 bits on disk"
    return [*found, measured("search_pool_wall", search["wall"], "s", **facts)]


# Tatoeba end to end: read, tokenise, embed, search and score.

TATOEBA = ("tatoeba_36_pairs_xtreme_layer", "tatoeba_36_pairs_last_layer")


def xtreme_layer(layers: int) -> int:
    """Return the hidden state that XTREME's script reads; of a depth it does not know, two thirds."""
    return {12: 8, 24: 14}.get(layers) or max(1, layers * 2 // 3)


def tatoeba(
    name: str = "bundled", target: str = "tatoeba", languages: Sequence[str] = ()
) -> list[Row]:
    """Score a retrieval target from two layers of an untuned encoder, beside its bare products."""
    from benchmarks.training import here, matmul_flops, matmul_peak
    from helpers import data, evaluation, formats, tasks
    from helpers.models import encoders, network
    from helpers.models.training import Tuned

    encoder, task = encoders.load(name), tasks.get(target)
    languages = languages or task.languages
    device = network.best_device()
    precision = network.resolve_precision("auto", device)
    found = []
    for layer in (xtreme_layer(encoder.layers), encoder.layers):
        before = matmul_peak(device, precision)
        began = time.perf_counter()
        scores = evaluation.evaluate(Tuned(encoder), task, languages, layer=layer)
        seconds = time.perf_counter() - began
        peak = (before + matmul_peak(device, precision)) / 2
        found.append((layer, seconds, peak, scores))
    # Operations are counted after the clock, which starts with what nobody has read before.
    texts = {r["text"] for code in languages for r in data.rows(task, code, "test")}
    each = [{"side": "candidate", "text": text} for text in sorted(texts)]
    longest = min(task.max_length, encoder.max_length)
    coded = formats.get(task.format).encode(task, each, encoder, longest, False)
    operations = matmul_flops(coded, encoder.dimension, 1) / 3  # without a backward pass
    rows = []
    for row, (layer, seconds, peak, scores) in zip(TATOEBA, found, strict=True):
        table = pd.DataFrame(scores)
        product = ("its matrix products at the measured peak", layer * operations / peak)
        note = f"{encoder.name} encoder, hidden state {layer} of {encoder.layers}, "
        note += f"{len(languages)} languages, mean accuracy {table['value'].mean():.3f}"
        rows.append(measured(row, seconds, "s", *product, note=note, **here(table["n"].sum())))
    return rows
