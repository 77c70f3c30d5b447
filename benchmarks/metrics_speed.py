"""Scoring against the stock way: span F1 against seqeval, answers against the usual script.

    python -m benchmarks.metrics_speed [--sentences 20000] [--answers 5000] [--store]

Both sides get the same rows and must give the same figures. CPU time of one thread, best of five,
the two sides in turn.
"""

from __future__ import annotations

import argparse
import functools
import re
import string
import time
import unicodedata
import warnings
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import seqeval.metrics

from benchmarks.table import Measurement, store
from helpers.metrics import mlqa, span_f1, squad

UPOS = "ADJ ADP ADV AUX CCONJ DET INTJ NOUN NUM PART PRON PROPN PUNCT SCONJ SYM VERB X".split()
REPEATS = 5


def tagged(sentences: int, seed: int = 0) -> tuple[list[list[str]], list[list[str]]]:
    """Sentences of about 20 tags, nine in ten predicted rightly."""
    chance = np.random.default_rng(seed)
    golds = [
        [UPOS[i] for i in chance.integers(0, 17, chance.integers(5, 36))] for _ in range(sentences)
    ]
    predictions = [
        [tag if chance.random() < 0.9 else UPOS[chance.integers(17)] for tag in sentence]
        for sentence in golds
    ]
    return predictions, golds


def answered(answers: int, seed: int = 0) -> tuple[list[str], list[list[str]]]:
    """Short answers in two scripts, half of them right."""
    chance = np.random.default_rng(seed)
    words = "the a red dog's house, in Oslo; 1,234 of «Paris» der die una 北京 大学 2008年".split()
    golds = [[" ".join(chance.choice(words, chance.integers(1, 6)))] for _ in range(answers)]
    predictions = [
        one[0] if chance.random() < 0.5 else " ".join(chance.choice(words, 3)) for one in golds
    ]
    return predictions, golds


def stock_spans(predictions: list[list[str]], golds: list[list[str]]) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return seqeval.metrics.f1_score(golds, predictions)


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


def best_of(*sides: Callable[[], Any]) -> tuple[list[float], list[Any]]:
    """Return the least CPU time of each side, and their results, run in turn."""
    least, results = [float("inf")] * len(sides), [None] * len(sides)
    for _ in range(REPEATS):
        for number, side in enumerate(sides):
            started = time.process_time()
            results[number] = side()
            least[number] = min(least[number], time.process_time() - started)
    return least, results


def measurement(name: str, rows: int, seconds: list[float], reference: str) -> Measurement:
    ours, stock = (rows / one for one in seconds)
    return Measurement(
        name, ours, "rows/s", reference, stock, ours / stock, threads=1, rows=rows, note="CPU time"
    )


def measurements(sentences: int, answers: int) -> list[Measurement]:
    tags = tagged(sentences)
    seconds, (ours, stock) = best_of(
        lambda: span_f1(*tags, "seqeval-1.2.2")["f1"], lambda: stock_spans(*tags)
    )
    assert abs(ours - stock) < 1e-12, "the two ways disagree"
    rows = [measurement("span_f1", sentences, seconds, "seqeval 1.2.2")]
    predictions, golds = answered(answers)
    ascii_marks = set(string.punctuation)
    all_marks = {chr(i) for i in range(0x110000) if unicodedata.category(chr(i))[0] == "P"}
    for name, score, drop in (
        ("squad", lambda: squad(predictions, golds), ascii_marks),
        ("mlqa_en", lambda: mlqa(predictions, golds, "en"), ascii_marks | all_marks),
    ):
        stock_way = functools.partial(stock_answers, predictions, golds, drop)
        seconds, (ours, stock) = best_of(score, stock_way)
        assert np.allclose((ours["exact_match"], ours["f1"]), stock), "the two ways disagree"
        rows.append(measurement(name, answers, seconds, "published script"))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sentences", type=int, default=20_000)
    parser.add_argument("--answers", type=int, default=5_000)
    parser.add_argument("--store", action="store_true", help="put the figures into the table")
    options = parser.parse_args()
    rows = measurements(options.sentences, options.answers)
    for row in rows:
        print(f"{row.name:10} {row.value:10.0f} {row.unit}, {row.ratio:.1f} times {row.reference}")
    if options.store:
        store(rows)


if __name__ == "__main__":
    main()
