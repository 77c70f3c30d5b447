import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.errors import BadRows
from helpers.formats import span as spans


def best_spans(*rows, n_best=20, longest=30, **options):
    """Find stretches by other limits than XTREME's, three windows at a time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spans, "WINDOWS", 3)
        patch.setattr(spans, "N_BEST", n_best)
        patch.setattr(spans, "MAX_ANSWER_PIECES", longest)
        return spans.best_spans(*rows, **options)


def slow(begin, end, offsets, example, contexts, n_best, longest, reference):
    """The usual loop: the best text of each example and its score."""
    result = []
    for number, context in enumerate(contexts):
        best = ("", -np.inf)
        for window in np.flatnonzero(np.asarray(example) == number):
            inside = offsets[window][:, 0] >= 0
            seen = inside | reference
            one, other = (np.where(seen, s[window], -np.inf) for s in (begin, end))
            firsts = sorted(np.argsort(-one, kind="stable")[:n_best])
            lasts = sorted(np.argsort(-other, kind="stable")[:n_best])
            for i in firsts:
                for j in lasts:
                    score = np.float32(begin[window][i] + end[window][j])
                    if inside[i] and inside[j] and i <= j < i + longest and score > best[1]:
                        best = (context[offsets[window][i, 0] : offsets[window][j, 1]], score)
        result.append(best)
    return result


def windows(seed, questions, length, question, ties=False):
    """Windows of passages of random length, several where a passage is long."""
    chance = np.random.default_rng(seed)
    room, stride = length - question - 2, max(1, (length - question - 2) // 2)
    begin, end, offsets, example, contexts = [], [], [], [], []
    for number in range(questions):
        tokens = int(chance.integers(1, 3 * room))
        contexts.append("".join(chr(0x4E00 + i) * 2 for i in range(tokens)))
        for first in range(0, max(1, tokens - room + stride), stride):
            here = np.arange(first, min(first + room, tokens))
            place = np.full((length, 2), -1, np.int32)
            place[question + 1 : question + 1 + len(here)] = np.stack([2 * here, 2 * here + 2], 1)
            scores = chance.standard_normal((2, length)).astype(np.float32)
            scores = np.where(scores < -1, -np.inf, np.round(scores)) if ties else scores
            begin.append(scores[0])
            end.append(scores[1])
            offsets.append(place)
            example.append(number)
    return np.stack(begin), np.stack(end), np.stack(offsets), np.array(example), contexts


NUMBERS = [(0, 2**31), (1, 4), (6, 40), (1, 25), (1, 12)]


@settings(max_examples=60)
@given(st.tuples(*(st.integers(*ends) for ends in NUMBERS)), st.booleans(), st.booleans())
def test_stretches_equal_those_of_the_loop(numbers, reference, ties):
    seed, questions, length, n_best, longest = numbers
    rows = windows(seed, questions, length, question=2, ties=ties)
    found = best_spans(*rows, n_best=n_best, longest=longest, reference=reference)
    expected = slow(*rows, n_best, longest, reference)
    assert list(zip(found.texts, found.scores, strict=True)) == expected


def test_packing_of_windows_does_not_change_the_result():
    begin, end, offsets, example, contexts = rows = windows(1, 20, 30, 2)
    whole = best_spans(*rows)
    kept = [int(np.flatnonzero(one[:, 0] >= 0).max()) + 1 for one in offsets]
    cut = lambda array: np.concatenate([a[:n] for a, n in zip(array, kept, strict=True)])  # noqa: E731
    packed = map(cut, (begin, end, offsets))
    found = best_spans(*packed, example, contexts, lengths=np.array(kept))
    assert found.texts == whole.texts
    np.testing.assert_array_equal(found.scores, whole.scores)
    for number in range(20):  # the null score is the smallest over windows
        own = example == number
        assert whole.null_scores[number] == pytest.approx((begin[own, 0] + end[own, 0]).min())


def one_window(context, words, begin_at, end_at, bonus=5.0):
    """One window: a first token, a question token, then the words of the context."""
    place = np.array([[-1, -1], [-1, -1], *words])
    scores = np.zeros((2, len(place)), np.float32)
    scores[0, begin_at + 2] = scores[1, end_at + 2] = bonus
    return scores[:1], scores[1:], place[None], [0], [context]


def test_offsets_are_of_the_original_string_and_a_space_before_a_word_is_trimmed():
    found = best_spans(*one_window("in  Paris now", [(0, 2), (2, 9), (9, 13)], 1, 1))
    assert found.texts == ["Paris"]
    context = "עיר הבירה היא ירושלים"
    found = best_spans(*one_window(context, [(0, 3), (3, 9), (9, 13), (13, 21)], 3, 3))
    assert found.texts == ["ירושלים"]


def test_scores_that_are_no_numbers_are_refused():
    begin, *rest = windows(4, 3, 16, 2)
    begin[0, 3] = np.nan
    with pytest.raises(BadRows, match="NaN"):
        best_spans(begin, *rest)
