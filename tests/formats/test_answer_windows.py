import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import formats
from helpers.formats import span
from helpers.tasks import Source, Task
from tests.formats.conftest import PASSAGES

SPAN = formats.get("span")
PLAIN = Task("made-up", "intermediate", "span", Source("rows", "made-up"), metric="squad")
WITH_NULL = Task("made-up", "intermediate", "span", Source("rows", "made-up"), metric="squad2")


def row(context, answer, question="where", start=None):
    answers = {"text": [], "start": []}
    if answer is not None:
        place = context.index(answer) if start is None else start
        answers = {"text": [answer], "start": [place]}
    return {"id": "0", "context": context, "question": question, "answers": answers}


def encode(rows, encoder, longest=32, task=PLAIN, train=True):
    return SPAN.encode(task, rows, encoder, longest, train)


def decode(task, rows, encoded):
    """What a head says that is certain of the labelled begin and end of each window."""
    scores = np.zeros((2, len(encoded.tokens)), np.float32)
    for side, name in enumerate(("begin", "end")):
        scores[side, encoded.starts[:-1] + encoded.per_sequence[name]] = 9
    return SPAN.decode(task, rows, encoded, {"begin_score": scores[0], "end_score": scores[1]})


def seen(encoded):
    """Characters of the passage that each window holds: offsets of its pieces."""
    windows = np.split(encoded.per_token["offset"], encoded.starts[1:-1])
    return [offsets[offsets[:, 0] >= 0] for offsets in windows]


@pytest.mark.parametrize(("passage", "answer"), PASSAGES.values(), ids=PASSAGES)
def test_answers_come_back_as_they_stand_in_the_passage(either, passage, answer):
    # Where pieces are larger than the answer, it comes back with the rest of its piece.
    encoded = encode([row(passage, answer)], either, 64)
    (found,) = decode(PLAIN, [row(passage, answer)], encoded)
    assert answer in found
    offsets = encoded.per_token["offset"]
    begin, end = (int(encoded.per_sequence[side][0]) for side in ("begin", "end"))
    # No smaller stretch of pieces would hold it.
    place = passage.index(answer)
    assert offsets[begin, 0] <= place < offsets[begin, 1]
    assert offsets[end, 0] < place + len(answer) <= offsets[end, 1]
    assert found == passage[offsets[begin, 0] : offsets[end, 1]].strip()
    if len(found) > len(answer):
        assert offsets[begin, 0] < place or offsets[end, 1] > place + len(answer)


# Each is one piece of the tiny vocabulary.
WORDS = "the people find their way over many other words".split()


@settings(max_examples=50)
@given(st.data())
def test_every_answer_is_found_in_whatever_window_it_falls(tiny, data):
    count = data.draw(st.integers(1, 150))
    words = [WORDS[i % len(WORDS)] for i in range(count)]
    first = data.draw(st.integers(0, count - 1))
    last = data.draw(st.integers(first, min(count - 1, first + 6)))
    words[first] = "first"  # so that the answer occurs once
    passage, answer = " ".join(words), " ".join(words[first : last + 1])
    rows, longest = [row(passage, answer, "who")], data.draw(st.integers(40, 80))
    encoded = encode(rows, tiny, longest)
    assert decode(PLAIN, rows, encoded) == [answer] and encoded.lengths.max() <= longest
    assert (len(encoded) > 1) == (count > longest - 5)  # five other pieces stand in each window


def test_a_window_that_holds_only_part_of_the_answer_has_none(tiny, monkeypatch):
    monkeypatch.setattr(span, "STRIDE", 10)
    words = ["the"] * 60
    words[19:23] = ["people", "find", "their", "way"]
    asked = row(" ".join(words), "people find their way", "who")
    encoded = encode([asked], tiny, 25)
    begin, end = encoded.per_sequence["begin"], encoded.per_sequence["end"]
    texts = [" ".join(words)[place[0, 0] : place[-1, 1]] for place in seen(encoded)]
    holds = ["people find their way" in text for text in texts]
    assert any(holds) and not all(holds)
    assert ((begin > 0) == holds).all() and ((end > 0) == holds).all()
    assert ((end - begin)[begin > 0] == 3).all()


def test_answers_that_are_not_in_their_passage_are_skipped_and_counted(tiny):
    rows = [
        row("the red door", "red"),
        row("the red door", "lamp", start=-1),
        row("a", "", start=0),
    ]
    encoded = encode(rows, tiny)
    assert encoded.skipped == {"answer not found in its passage": 2}
    assert encoded.example.tolist() == [0] and encoded.rows == 3
    # In evaluation nothing is skipped: a question without a window has no answer to be scored.
    assert encode(rows, tiny, train=False).example.tolist() == [0, 1, 2]


def test_questions_without_an_answer_point_at_the_first_token(tiny):
    rows = [row("the red door", None), row("the red door", "red")]
    encoded = encode(rows, tiny, task=WITH_NULL)
    assert encoded.per_sequence["begin"][0] == encoded.per_sequence["end"][0] == 0
    assert decode(WITH_NULL, rows, encoded) == ["", "red"]
    # SQuAD 1.1 always has an answer, so the best stretch is given whatever the first token says.
    found = decode(PLAIN, rows, encoded)
    assert found[0] != "" and found[1] == "red"
    assert SPAN.gold(WITH_NULL, rows) == [[], ["red"]]
    assert SPAN.constant(WITH_NULL, rows) == ["", ""]


def test_only_the_passage_and_the_first_token_can_be_chosen(tiny):
    encoded = encode([row("the other words", "words", "who opened it")], tiny)
    offsets, allowed = encoded.per_token["offset"], encoded.per_token["allowed"]
    assert allowed[0] and (allowed[1:] == (offsets[1:, 0] >= 0)).all()
    assert allowed.sum() == 1 + 3
    # Long questions leave room for the passage.
    rows = [row("the red door", "red door", "who opened the door " * 60)]
    assert decode(PLAIN, rows, encode(rows, tiny, 40)) == ["red door"]
