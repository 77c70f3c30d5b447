"""Answers from span scores: `helpers.formats.span.best_spans` against the usual loop over windows.

The loop below does what the post-processing of the transformers examples does, which follows
XTREME's ``compute_predictions_logits``: for every window the 20 best begins and ends, every pair of
them that is a stretch of the context, then the 20 best over all windows of the question, with their
texts and probabilities. Windows have the lengths of XQuAD, MLQA and
TyDiQA-GoldP (384 tokens, 128 apart). Both sides get the same arrays and must give the same answers.

CPU time of one thread, the two sides in turn, least of five.

    python -m benchmarks.spans_speed [--questions 5000] [--store]
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np

from benchmarks.table import Measurement, store
from helpers.formats.span import best_spans

LENGTH, QUESTION, STRIDE, N_BEST, LONGEST = 384, 20, 128, 20, 30
REPEATS = 5
# Evaluation decodes by the default rules; the others follow the loop to the letter.
NAMES = {
    "default": "evaluate_span_vs_reference_loop",
    "reference": "evaluate_span_by_its_rules_vs_reference_loop",
}


def make_rows(
    questions: int, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, list[str]]:
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


def loop(
    begin: np.ndarray,
    end: np.ndarray,
    offsets: np.ndarray,
    example: np.ndarray,
    contexts: list[str],
) -> tuple[list[str], float]:
    """The usual post-processing, one window and one pair of tokens after the other."""
    windows: dict[int, list[int]] = {}
    for window, number in enumerate(example.tolist()):
        windows.setdefault(number, []).append(window)
    maps = [[tuple(pair) if pair[0] >= 0 else None for pair in one] for one in offsets.tolist()]
    started = time.process_time()  # The loop gets its maps ready-made, as run_qa does.
    answers: list[str] = []
    n_best: dict[int, list[dict[str, Any]]] = {}
    for number, context in enumerate(contexts):
        candidates: list[dict[str, Any]] = []
        for window in windows[number]:
            starts, ends, place = begin[window], end[window], maps[window]
            best_starts = np.argsort(starts)[-1 : -N_BEST - 1 : -1].tolist()
            best_ends = np.argsort(ends)[-1 : -N_BEST - 1 : -1].tolist()
            for i in best_starts:
                for j in best_ends:
                    if i >= len(place) or j >= len(place) or place[i] is None or place[j] is None:
                        continue
                    if j < i or j - i + 1 > LONGEST:
                        continue
                    candidates.append(
                        {
                            "offsets": (place[i][0], place[j][1]),
                            "score": starts[i] + ends[j],
                            "start_logit": starts[i],
                            "end_logit": ends[j],
                        }
                    )
        ranked = sorted(candidates, key=lambda one: one["score"], reverse=True)[:N_BEST]
        for one in ranked:
            first, last = one.pop("offsets")
            one["text"] = context[first:last]
        scores = np.array([one.pop("score") for one in ranked])
        powers = np.exp(scores - np.max(scores, initial=-np.inf))
        for one, probability in zip(ranked, powers / powers.sum(), strict=True):
            one["probability"] = probability
        answers.append(ranked[0]["text"] if ranked else "")
        n_best[number] = [
            {key: float(v) if isinstance(v, np.floating) else v for key, v in one.items()}
            for one in ranked
        ]
    return answers, time.process_time() - started


def measurements(questions: int) -> list[Measurement]:
    """Time both sides, and the default rules, in turn."""
    rows = make_rows(questions)
    least = {"loop": np.inf, "reference": np.inf, "default": np.inf}
    for _ in range(REPEATS):
        expected, seconds = loop(*rows)
        least["loop"] = min(least["loop"], seconds)
        for name in ("reference", "default"):
            started = time.process_time()
            found = best_spans(*rows, reference=name == "reference")
            least[name] = min(least[name], time.process_time() - started)
            assert name == "default" or found.texts == expected, "the two ways disagree"
    rate = {name: questions / seconds for name, seconds in least.items()}
    return [
        Measurement(
            NAMES[name],
            rate[name],
            "questions/s",
            "usual post-processing loop",
            rate["loop"],
            rate[name] / rate["loop"],
            threads=1,
            rows=questions,
            note=f"CPU time; {len(rows[0])} windows of {LENGTH} tokens",
        )
        for name in ("reference", "default")
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--questions", type=int, default=5_000)
    parser.add_argument("--store", action="store_true", help="put the figures into the table")
    options = parser.parse_args()
    rows = measurements(options.questions)
    for row in rows:
        print(
            f"{row.name:45} {row.value:8.0f} {row.unit}, {row.ratio:.1f} times the {row.reference}"
        )
    if options.store:
        store(rows)


if __name__ == "__main__":
    main()
