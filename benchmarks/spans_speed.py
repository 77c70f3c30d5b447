"""Answers from span scores: `helpers.spans.best_spans` against the usual loop over windows.

The loop below does what run_qa's post-processing and XTREME's ``compute_predictions_logits`` do:
for every window the 20 best begins and ends, every pair of them that is a stretch of the context,
then the 20 best over all windows of the question. Windows have the lengths of XQuAD, MLQA and
TyDiQA-GoldP (384 tokens, 128 apart). Both sides get the same arrays and must give the same answers.

Run: python -m benchmarks.spans_speed [questions]
"""

from __future__ import annotations

import sys
import time

import numpy as np

from helpers.spans import best_spans

LENGTH, QUESTION, STRIDE, N_BEST, LONGEST = 384, 20, 128, 20, 30


def make_rows(questions, seed=0):
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


def loop(begin, end, offsets, example, contexts):
    """The usual post-processing, one window and one pair of tokens after the other."""
    windows = {}
    for window, number in enumerate(example.tolist()):
        windows.setdefault(number, []).append(window)
    maps = [[tuple(pair) if pair[0] >= 0 else None for pair in one] for one in offsets.tolist()]
    started = time.process_time()  # The loop gets its maps ready-made, as run_qa does.
    answers = []
    for number, context in enumerate(contexts):
        candidates = []
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
            one["text"] = context[one["offsets"][0] : one["offsets"][1]]
        answers.append(ranked[0]["text"] if ranked else "")
    return answers, time.process_time() - started


def main(questions=5000, repeats=5):
    rows = make_rows(questions)
    windows = len(rows[0])
    slow, quick = [], []
    for _ in range(repeats):
        expected, seconds = loop(*rows)
        slow.append(seconds)
        started = time.process_time()
        found = best_spans(*rows, reference=True)
        quick.append(time.process_time() - started)
        assert found.texts == expected, "the two ways disagree"
    started = time.process_time()
    best_spans(*rows)
    default = time.process_time() - started
    print(f"{questions} questions, {windows} windows of {LENGTH} tokens, CPU time, best of {repeats}")
    print(f"usual loop  {min(slow):7.2f} s  {questions / min(slow):9.0f} questions/s")
    print(f"best_spans  {min(quick):7.2f} s  {questions / min(quick):9.0f} questions/s")
    print(f"ratio {min(slow) / min(quick):.1f}; with its default rules {min(slow) / default:.1f}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
