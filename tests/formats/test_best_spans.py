import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.errors import BadRows
from helpers.formats import span as spans
from helpers.formats.span import best_spans


def slow(begin, end, offsets, example, contexts, n_best, longest, reference):
    """The usual loop: per example, ``(first character, character after the last, score)``."""
    result = []
    for number in range(len(contexts)):
        found = []
        for window in np.flatnonzero(np.asarray(example) == number):
            inside = offsets[window][:, 0] >= 0
            one, other = (
                s[window] if reference else np.where(inside, s[window], -np.inf)
                for s in (begin, end)
            )
            firsts = sorted(np.argsort(-one, kind="stable")[:n_best])
            lasts = sorted(np.argsort(-other, kind="stable")[:n_best])
            for i in firsts:
                for j in lasts:
                    if inside[i] and inside[j] and i <= j < i + longest:
                        span = (int(offsets[window][i, 0]), int(offsets[window][j, 1]))
                        found.append((*span, np.float32(begin[window][i] + end[window][j])))
        found.sort(key=lambda span: -span[2])
        if not reference:
            seen = set()
            found = [f for f in found if f[:2] not in seen and not seen.add(f[:2])]
        result.append(found[:n_best])
    return result


def windows(seed, questions, length, question, ties=False):
    """Windows of passages of random length, several where a passage is long."""
    chance = np.random.default_rng(seed)
    room, stride = length - question - 2, max(1, (length - question - 2) // 2)
    begin, end, offsets, example, contexts = [], [], [], [], []
    for number in range(questions):
        tokens = int(chance.integers(1, 3 * room))
        contexts.append("".join(chr(ord("a") + i % 26) * 2 for i in range(tokens)))
        for first in range(0, max(1, tokens - room + stride), stride):
            here = np.arange(first, min(first + room, tokens))
            place = np.full((length, 2), -1, np.int32)
            place[question + 1 : question + 1 + len(here)] = np.stack([2 * here, 2 * here + 2], 1)
            scores = chance.standard_normal((2, length)).astype(np.float32)
            if ties:
                scores = np.round(scores)
            begin.append(scores[0])
            end.append(scores[1])
            offsets.append(place)
            example.append(number)
    return np.stack(begin), np.stack(end), np.stack(offsets), np.array(example), contexts


def assert_same(found, expected, ties=False):
    for number, spans_ in enumerate(expected):
        real = found.scores[number] > -np.inf
        assert real.sum() == len(spans_)
        scores = [score for *_, score in spans_]
        np.testing.assert_array_equal(found.scores[number][real], np.array(scores, np.float64))
        if not ties:
            pairs = zip(found.starts[number][real], found.ends[number][real], strict=True)
            assert [tuple(map(int, pair)) for pair in pairs] == [span[:2] for span in spans_]


@settings(max_examples=60)
@given(
    st.integers(0, 2**31),
    st.integers(1, 4),
    st.integers(6, 40),
    st.integers(1, 25),
    st.integers(1, 12),
    st.booleans(),
    st.booleans(),
)
def test_stretches_equal_those_of_the_loop(
    seed, questions, length, n_best, longest, reference, ties
):
    rows = windows(seed, questions, length, question=2, ties=ties)
    found = best_spans(*rows, n_best=n_best, max_answer_tokens=longest, reference=reference)
    expected = slow(*rows, n_best, longest, reference)
    assert_same(found, expected, ties)
    for number, spans_ in enumerate(expected):
        if spans_ and not ties:
            first, after, score = spans_[0]
            assert found.texts[number] == rows[4][number][first:after]
            assert (found.start[number], found.score[number]) == (first, score)


def test_blocks_of_windows_do_not_change_the_result(monkeypatch):
    rows = windows(1, 20, 30, 2)
    whole = best_spans(*rows, null=True)
    monkeypatch.setattr(spans, "WINDOWS", 3)
    parts = best_spans(*rows, null=True)
    assert parts.texts == whole.texts
    for name in ("starts", "ends", "scores", "null_score"):
        np.testing.assert_array_equal(getattr(parts, name), getattr(whole, name))


def test_equal_scores_rank_by_place():
    scores = np.zeros((1, 5), np.float32)
    place = np.array([[[-1, -1], [0, 1], [1, 2], [2, 3], [-1, -1]]])
    found = best_spans(scores, scores, place, [0], ["abc"], n_best=3)
    assert list(zip(found.starts[0], found.ends[0], strict=True)) == [(0, 1), (0, 2), (0, 3)]


def test_packed_and_padded_windows_agree():
    begin, end, offsets, example, contexts = windows(2, 6, 20, 2)
    kept = [int(np.flatnonzero(one[:, 0] >= 0).max()) + 1 for one in offsets]
    packed = [
        np.concatenate([a[:n] for a, n in zip(array, kept, strict=True)])
        for array in (begin, end, offsets)
    ]
    whole = best_spans(begin, end, offsets, example, contexts)
    found = best_spans(*packed, example, contexts, lengths=np.array(kept))
    assert found.texts == whole.texts
    np.testing.assert_array_equal(found.scores, whole.scores)


def one_window(context, words, begin_at, end_at, bonus=5.0):
    """One window: a first token, a question token, then the words of the context."""
    place = np.array([[-1, -1], [-1, -1], *words])
    scores = np.zeros((2, len(place)), np.float32)
    scores[0, begin_at + 2] = scores[1, end_at + 2] = bonus
    return scores[:1], scores[1:], place[None], [0], [context]


def test_the_space_that_a_tokeniser_counts_to_a_word_is_trimmed():
    found = best_spans(*one_window("in  Paris now", [(0, 2), (2, 9), (9, 13)], 1, 1))
    assert found.texts == ["Paris"]
    assert found.start.tolist() == [4]
    assert (found.starts[0, 0], found.ends[0, 0]) == (2, 9)


def test_offsets_are_of_the_original_string_in_any_script():
    context = "עיר הבירה היא ירושלים"
    found = best_spans(*one_window(context, [(0, 3), (3, 9), (9, 13), (13, 21)], 3, 3))
    assert found.texts == ["ירושלים"]
    assert context[found.start[0] :] == "ירושלים"


def test_the_question_can_crowd_out_the_passage_only_in_the_published_loop():
    rows = list(one_window("a b c", [(0, 1), (2, 3), (4, 5)], 1, 1))
    for side in (0, 1):
        rows[side] = rows[side].copy()
        rows[side][0, :2] = 9.0
    assert best_spans(*rows, n_best=2).texts == ["b"]
    crowded = best_spans(*rows, n_best=2, reference=True)
    assert crowded.texts == [""]
    assert (crowded.start[0], crowded.score[0]) == (-1, -np.inf)


def test_a_stretch_in_two_windows_counts_once_with_its_better_score():
    begin, end, offsets, _, contexts = one_window("a b c", [(0, 1), (2, 3), (4, 5)], 1, 1)
    twice = [np.concatenate([one, one + extra]) for one, extra in ((begin, 0), (end, 1))]
    rows = (*twice, np.concatenate([offsets, offsets]), [0, 0], contexts)
    once = best_spans(*rows)
    assert (once.starts[0] == 2).sum() == 2  # "b" and "b c".
    assert once.score[0] == 11.0
    assert best_spans(*rows, reference=True).scores[0, :2].tolist() == [11.0, 10.0]


def test_answers_longer_than_allowed_are_left_out():
    rows = one_window("a b c", [(0, 1), (2, 3), (4, 5)], 0, 2)
    assert best_spans(*rows, max_answer_tokens=3).texts == ["a b c"]
    assert best_spans(*rows, max_answer_tokens=2).score[0] == 5.0


def test_the_null_score_is_the_smallest_over_windows():
    begin, end, offsets, example, contexts = windows(3, 8, 16, 2)
    found = best_spans(begin, end, offsets, example, contexts, null=True)
    for number in range(8):
        own = example == number
        assert found.null_score[number] == pytest.approx((begin[own, 0] + end[own, 0]).min())
    assert np.isnan(best_spans(begin, end, offsets, example, contexts).null_score).all()


def test_no_answer_wins_by_a_better_score():
    rows = list(one_window("a b c", [(0, 1), (2, 3), (4, 5)], 1, 1))
    rows[0] = rows[0].copy()
    rows[0][0, 0] = 12.0
    found = best_spans(*rows, null=True)
    assert found.null_score[0] - found.score[0] == 2.0
    assert found.answers() == [""]
    assert best_spans(*rows).answers() == ["b"]


def test_masked_scores_may_be_minus_infinity():
    rows = list(one_window("a b c", [(0, 1), (2, 3), (4, 5)], 1, 1))
    for side in (0, 1):
        rows[side] = np.where(rows[side] > 0, rows[side], -np.inf).astype(np.float32)
    found = best_spans(*rows)
    assert found.texts == ["b"]
    assert (found.scores[0] > -np.inf).sum() == 1


@pytest.mark.parametrize("change", ["end", "offsets", "example", "contexts", "nan", "lengths"])
def test_arrays_that_do_not_fit_are_refused(change):
    begin, end, offsets, example, contexts = windows(4, 3, 16, 2)
    lengths = None
    if change == "end":
        end = end[:, :-1]
    elif change == "offsets":
        offsets = offsets[:-1]
    elif change == "example":
        example = np.where(example == 1, 0, example)
    elif change == "contexts":
        contexts = contexts[:-1]
    elif change == "nan":
        begin = np.where(begin > 2, np.nan, begin)
        begin[0, 3] = np.nan
    else:
        begin, lengths = begin.ravel(), np.full(len(end), 15)
    with pytest.raises(BadRows):
        best_spans(begin, end, offsets, example, contexts, lengths=lengths)


def test_no_contexts_are_refused():
    with pytest.raises(BadRows, match="no contexts"):
        best_spans([], [], [], [], [])
