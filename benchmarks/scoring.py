"""Scoring, answers from span scores, mining and search, each against the stock way or a bare product.

Both sides get the same rows and must give the same figures.
"""

from __future__ import annotations

import re
import resource
import string
import tempfile
import time
import unicodedata
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import Measurement, apart, compared, machine, not_measured, turns

REPEATS = 5
CPU_TIME: dict[str, Any] = {"threads": 1, "note": "CPU time"}

# Metrics: CPU time of one thread, least of five turns.

UPOS = "ADJ ADP ADV AUX CCONJ DET INTJ NOUN NUM PART PRON PROPN PUNCT SCONJ SYM VERB X".split()
WORDS = "the a red dog's house, in Oslo; 1,234 of «Paris» der die una 北京 大学 2008年".split()


def metrics_of_rows(sentences: int = 20_000, answers: int = 5_000) -> list[Measurement]:
    """Score tags against seqeval, nine in ten right, and answers against the published script."""
    import seqeval.metrics

    from helpers.metrics import mlqa, span_f1, squad

    chance = np.random.default_rng(0)
    golds = [
        [UPOS[i] for i in chance.integers(0, 17, chance.integers(5, 36))] for _ in range(sentences)
    ]
    given = [[t if chance.random() < 0.9 else UPOS[chance.integers(17)] for t in s] for s in golds]

    def stock_spans() -> float:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return seqeval.metrics.f1_score(golds, given)

    sides = {"ours": lambda: span_f1(given, golds, "seqeval-1.2.2")["f1"], "stock": stock_spans}
    seconds, found = turns(sides, REPEATS, time.process_time)
    assert abs(found["ours"] - found["stock"]) < 1e-12, "the two ways disagree"
    ours, stock = (sentences / min(seconds[side]) for side in sides)
    rows = [compared("span_f1", ours, "rows/s", "seqeval 1.2.2", stock, rows=sentences, **CPU_TIME)]
    chance = np.random.default_rng(0)
    right = [[" ".join(chance.choice(WORDS, chance.integers(1, 6)))] for _ in range(answers)]
    said = [x[0] if chance.random() < 0.5 else " ".join(chance.choice(WORDS, 3)) for x in right]
    ascii_marks = set(string.punctuation)
    all_marks = {chr(i) for i in range(0x110000) if unicodedata.category(chr(i))[0] == "P"}
    for name, score, drop in (
        ("squad", squad, ascii_marks),
        ("mlqa_en", lambda p, g: mlqa(p, g, "en"), ascii_marks | all_marks),
    ):
        both = {
            "ours": lambda score=score: score(said, right),
            "stock": lambda drop=drop: stock_answers(said, right, drop),
        }
        seconds, found = turns(both, REPEATS, time.process_time)
        figures = found["ours"]["exact_match"], found["ours"]["f1"]
        assert np.allclose(figures, found["stock"]), "the two ways disagree"
        ours, stock = (answers / min(seconds[side]) for side in both)
        facts = CPU_TIME | {"rows": answers}
        rows.append(compared(name, ours, "rows/s", "published script", stock, **facts))
    return rows


def stock_answers(
    predictions: list[str], golds: list[list[str]], drop: set[str]
) -> tuple[float, float]:
    """Exact match and F1 as the published scripts compute them, character by character."""

    def tokens(text: str) -> list[str]:
        kept = "".join(mark for mark in text.lower() if mark not in drop)
        return re.sub(r"\b(a|an|the)\b", " ", kept).split()

    exact = f1 = 0.0
    for prediction, answers in zip(predictions, golds, strict=True):
        exact += max(tokens(prediction) == tokens(answer) for answer in answers)
        best = 0.0
        for answer in answers:
            one, other = tokens(prediction), tokens(answer)
            shared = sum((Counter(one) & Counter(other)).values())
            best = max(best, 2 * shared / (len(one) + len(other)) if shared else 0.0)
        f1 += best
    return exact / len(golds), f1 / len(golds)


# Spans: windows have the lengths of XQuAD, MLQA and TyDiQA-GoldP (384 tokens, 128 apart).

LENGTH, QUESTION, STRIDE, N_BEST, LONGEST = 384, 20, 128, 20, 30


def spans(questions: int = 5_000) -> list[Measurement]:
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
    facts = {"threads": 1, "rows": questions}
    note = f"CPU time; {len(offsets)} windows of {LENGTH} tokens"
    return [
        compared(
            f"evaluate_span_{name}vs_reference_loop", rate[name], "questions/s",
            "usual post-processing loop", rate["loop"], note=note, **facts,
        )
        for name in ("by_its_rules_", "")
    ]  # fmt: skip


def span_rows(questions: int, seed: int = 0) -> tuple[Any, Any, Any, Any, list[str]]:
    """Contexts of 60 to 600 tokens of four characters, with scores that favour one answer."""
    chance = np.random.default_rng(seed)
    room = LENGTH - QUESTION - 3
    begin, end, offsets, example, contexts = [], [], [], [], []
    for number in range(questions):
        tokens = int(np.clip(chance.lognormal(5.2, 0.5), 60, 600))
        contexts.append("".join(f"w{i % 1000:03d}" for i in range(tokens)))
        answer = int(chance.integers(0, tokens - 3))
        for first in range(0, max(1, tokens - room + STRIDE), STRIDE):
            place = np.full((LENGTH, 2), -1, np.int32)
            here = np.arange(first, min(first + room, tokens))
            inside = slice(QUESTION + 2, QUESTION + 2 + len(here))
            place[inside] = np.stack([4 * here, 4 * here + 4], axis=1)
            scores = chance.normal(-4, 2, (2, LENGTH)).astype(np.float32)
            if answer in here and answer + 2 in here:
                scores[0, inside.start + answer - first] += 9
                scores[1, inside.start + answer + 2 - first] += 9
            begin.append(scores[0])
            end.append(scores[1])
            offsets.append(place)
            example.append(number)
    return np.stack(begin), np.stack(end), np.stack(offsets), np.array(example), contexts


def span_loop(
    begin: Any, end: Any, offsets: Any, example: Any, contexts: list[str], maps: list[Any]
) -> list[str]:
    """The post-processing of the transformers examples, which follows XTREME's.

    For every window the 20 best begins and ends, every pair of them that is a stretch of the
    context, then the 20 best over all windows of the question, with texts and probabilities.
    """
    windows: dict[int, list[int]] = {}
    for window, number in enumerate(example.tolist()):
        windows.setdefault(number, []).append(window)
    answers: list[str] = []
    for number, context in enumerate(contexts):
        candidates: list[dict[str, Any]] = []
        for window in windows[number]:
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
        for one in ranked:
            first, last = one.pop("offsets")
            one["text"] = context[first:last]
        scores = np.array([one.pop("score") for one in ranked])
        powers = np.exp(scores - np.max(scores, initial=-np.inf))
        for one, probability in zip(ranked, powers / powers.sum(), strict=True):
            one["probability"] = probability
        answers.append(ranked[0]["text"] if ranked else "")
        for one in ranked:  # what the script writes as its n-best list
            one |= {k: float(v) for k, v in one.items() if isinstance(v, np.floating)}
    return answers


# Mining n x n vectors needs one product of all pairs; the published code does two. Each part runs in
# a process of its own, so that peak memory is its own.

WIDTH, QUERIES = 384, 2000


def vectors(rows: int, seed: int) -> np.ndarray:
    """Random vectors around a common direction, as an encoder's are."""
    values = np.random.default_rng(seed).standard_normal((rows, WIDTH), dtype=np.float32)
    values += 1
    return values


def bare_products(rows: int) -> dict[str, float]:
    """One product of all pairs, tile by tile into one buffer, and nothing else."""
    import torch

    from helpers.metrics.mining import TILE

    x, y = (torch.from_numpy(vectors(rows, seed)) for seed in (0, 1))
    tile = torch.empty(TILE, TILE)
    started = time.perf_counter(), time.process_time()
    for i in range(0, rows, TILE):
        for j in range(0, rows, TILE):
            one, other = x[i : i + TILE], y[j : j + TILE]
            whole = len(one) == len(other) == TILE
            torch.mm(one, other.T, out=tile if whole else None)
    return _spent(started)


def mined(rows: int) -> dict[str, float]:
    """Mine both directions by margin."""
    from helpers.metrics.mining import mine

    x, y = vectors(rows, 0), vectors(rows, 1)
    y[: rows // 2] += 2 * x[: rows // 2]
    started = time.perf_counter(), time.process_time()
    found = mine(x, y)
    spent = _spent(started)
    right = (found.source == found.target) & (found.source < rows // 2)
    assert right.sum() == rows // 2, "translations were lost"
    return spent


def pool(rows: int) -> dict[str, float]:
    """Search a memory-mapped pool of 16-bit vectors."""
    from helpers.metrics.mining import nearest

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pool.npy"
        mapped = np.lib.format.open_memmap(path, "w+", np.float16, (rows, WIDTH))
        for start in range(0, rows, 50_000):
            part = vectors(min(50_000, rows - start), start)
            mapped[start : start + len(part)] = part
        queries = np.array(mapped[:: rows // QUERIES][:QUERIES], np.float32)
        del mapped
        started = time.perf_counter(), time.process_time()
        found = nearest(queries, np.load(path, mmap_mode="r"), 20)
        assert (found.index[:, 0] == np.arange(0, rows, rows // QUERIES)[:QUERIES]).all()
        return _spent(started)


def _spent(started: tuple[float, float]) -> dict[str, float]:
    import torch

    wall, cpu = time.perf_counter() - started[0], time.process_time() - started[1]
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"wall": wall, "cpu": cpu, "memory": memory, "threads": torch.get_num_threads()}


def mining(rows: int = 100_000, pool_rows: int = 1_000_000) -> list[Measurement]:
    """Mine between two rounds of bare products, then search."""
    parts = ("bare_products", "mined", "bare_products")
    before, ours, after = (apart(f"scoring.{part}", rows) for part in parts)
    search = apart("scoring.pool", pool_rows)
    size, threads = f"{rows // 1000}k", int(ours["threads"])
    whole, bare = "whole process", "one bare product of all pairs"
    return [
        *(
            compared(
                f"mining_{size}{'_cpu' * (clock == 'cpu')}_vs_bare_matmul", ours[clock], "s", bare,
                (before[clock] + after[clock]) / 2, rows=rows, threads=threads,
                note=f"both directions, width {WIDTH}",
            )
            for clock in ("wall", "cpu")
        ),
        Measurement(
            f"mining_{size}_peak_memory", ours["memory"], "MB", rows=rows, note=whole, threads=threads
        ),
        Measurement(
            "search_pool_wall", search["wall"], "s", rows=pool_rows, threads=threads,
            note=f"{QUERIES} queries, 20 neighbours, pool in 16 bits on disk",
        ),
        Measurement(
            "search_pool_peak_memory", search["memory"], "MB", rows=pool_rows, threads=threads,
            note=f"{whole}, with the pages of the pool that are in memory",
        ),
    ]  # fmt: skip


# Tatoeba end to end: read, tokenise, embed, search and score.

TATOEBA = ("tatoeba_36_pairs_xtreme_layer", "tatoeba_36_pairs_last_layer")
NO_DATA = "rows of some language are not on the machine that ran the benchmarks"


def xtreme_layer(layers: int) -> int:
    """Return the hidden state that XTREME's script reads; of a depth it does not know, two thirds."""
    return {12: 8, 24: 14}.get(layers) or max(1, layers * 2 // 3)


def tatoeba(
    name: str = "bundled", target: str = "tatoeba", languages: Sequence[str] = ()
) -> list[Measurement]:
    """Score a retrieval target from two layers of an untuned encoder, beside its bare products."""
    import torch

    from benchmarks.training import matmul_flops, matmul_peak
    from helpers import data, evaluation, formats, tasks
    from helpers.models import encoders, network
    from helpers.models.training import Tuned

    encoder, task = encoders.load(name), tasks.get(target)
    languages = languages or task.languages
    best = network.best_device()
    precision = network.resolve_precision("auto", best)
    device = network.describe(best) if torch.cuda.is_available() else machine()
    found: list[Measurement] = []
    operations = 0.0
    for row, layer in zip(TATOEBA, (xtreme_layer(encoder.layers), encoder.layers), strict=True):
        before = matmul_peak(best, precision)
        began = time.perf_counter()
        scores = evaluation.evaluate(Tuned(encoder), task, languages, layer=layer)
        seconds = time.perf_counter() - began
        peak = (before + matmul_peak(best, precision)) / 2
        lost = [entry for entry in scores if entry["status"] != "done"]
        if lost:
            print(lost[0]["status"])
            return [not_measured(one, "s", device, NO_DATA) for one in TATOEBA]
        if (
            not operations
        ):  # counted after the first timing, which reads what nobody has read before
            texts = {r["text"] for code in languages for r in data.rows(task, code, "test")}
            each = [{"side": "candidate", "text": text} for text in sorted(texts)]
            longest = min(task.max_length, encoder.max_length)
            coded = formats.get(task.format).encode(task, each, encoder, longest, False)
            operations = matmul_flops(coded, encoder.dimension, 1) / 3  # without a backward pass
        accuracy = np.mean([entry["value"] for entry in scores])
        note = f"{encoder.name} encoder, hidden state {layer} of {encoder.layers}, "
        note += f"{len(languages)} languages, mean accuracy {accuracy:.3f}"
        found.append(
            compared(
                row, seconds, "s", "its matrix products at the measured peak",
                layer * operations / peak, device=device, threads=torch.get_num_threads(),
                rows=sum(entry["n"] for entry in scores), note=note,
            )
        )  # fmt: skip
    return found
