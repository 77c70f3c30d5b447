import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import formats
from helpers.errors import UnknownName
from helpers.formats import Template, piece_ids
from helpers.tasks import Source, Task

LONG = "the red door and the green lamp " * 12


def task(format_, **facts):
    return Task("made-up", "target", format_, Source("rows", "made-up"), **facts)


def sequences(encoded):
    return [part.tolist() for part in np.split(encoded.tokens, encoded.starts[1:-1])]


def encode(format_, rows, encoder, longest=32, train=True):
    return formats.get(format_).encode(task(format_), rows, encoder, longest, train)


def test_pairs_are_what_the_tokenizer_makes_of_them(either):
    rows = [
        {"first": "the red door", "second": "green", "label": 1},
        {"first": "the lamp", "second": "", "label": 0},
        {"first": "the lamp", "second": None, "label": 0},
        {"first": "他在家", "second": "บ้าน", "label": 2},
    ]
    encoded = encode("pair", rows, either, 64)
    expected = [either.tokenizer(row["first"], row["second"] or None)["input_ids"] for row in rows]
    assert sequences(encoded) == expected
    assert encoded.per_sequence["label"].tolist() == [1, 0, 0, 2]


@settings(max_examples=40)
@given(st.integers(0, 60), st.integers(0, 60), st.integers(8, 40))
def test_long_pairs_fill_the_window_and_keep_their_beginnings(tiny, first, second, longest):
    words = LONG.split()
    row = {"first": " ".join(words[:first]), "second": " ".join(words[:second]), "label": 0}
    (sequence,) = sequences(encode("pair", [row], tiny, longest))
    one, other = piece_ids(tiny.tokenizer, [row["first"], row["second"]])
    template = Template.of(tiny.tokenizer)
    full = template.pair(one, other) if other else template.single(one)
    assert len(sequence) == min(longest, len(full))
    assert sequence[0] == full[0] and sequence[-1] == full[-1]
    if other:
        gap, places = template.between, range(len(sequence))
        cut = next(i for i in places if tuple(sequence[i : i + len(gap)]) == tuple(gap))
        assert sequence[1:cut] == one[: cut - 1]
        rest = sequence[cut + len(gap) : -1]
        assert rest == other[: len(rest)]
        # The longer one is cut.
        assert len(one) < cut or cut - 1 >= len(rest) - 1
        assert len(other) == len(rest) or len(rest) >= cut - 2


def test_pair_predictions_come_back_in_row_order(tiny):
    pair = formats.get("pair")
    rows = [{"first": "door", "second": "", "label": i % 3} for i in range(5)]
    encoded = encode("pair", rows, tiny)
    outputs = {"label": encoded.per_sequence["label"]}
    assert pair.decode(task("pair"), rows, encoded, outputs) == pair.gold(task("pair"), rows)
    assert pair.constant(task("pair"), rows) == [0] * 5  # 0 and 1 are equally frequent, 0 is first
    assert pair.weight(encoded, np.array([0, 2])) == 2  # it counts sequences
    with pytest.raises(UnknownName, match=r"'spam'.*'span'.*choice, pair"):
        formats.get("spam")


def test_choices_follow_their_context(either):
    rows = [
        {"context": "he opened the", "choices": ["door", "red lamp", "so"], "label": 1},
        {"context": "", "choices": ["yes", "no"], "label": 0},
    ]
    encoded = encode("choice", rows, either, 64)
    texts = [(row["context"], choice) for row in rows for choice in row["choices"]]
    assert sequences(encoded) == [either.tokenizer(*pair)["input_ids"] for pair in texts]
    assert encoded.example.tolist() == [0, 0, 0, 1, 1]
    assert encoded.per_sequence["right"].tolist() == [False, True, False, True, False]
    assert encoded.together and encoded.units.tolist() == [0, 3, 5]


@settings(max_examples=40)
@given(st.integers(0, 60), st.integers(1, 60), st.integers(8, 40))
def test_a_context_that_is_too_long_loses_its_beginning(tiny, context, choice, longest):
    words = LONG.split()
    choices = [" ".join(words[-choice:]), "door"]
    row = {"context": " ".join(words[:context]), "choices": choices, "label": 0}
    before, after = piece_ids(tiny.tokenizer, [row["context"], row["choices"][0]])
    template = Template.of(tiny.tokenizer)
    kept = after[: longest - len(template.pair([], []))]
    room = longest - len(template.pair([], [])) - len(kept)
    expected = template.pair(before[max(0, len(before) - room) :], kept)
    first, second = sequences(encode("choice", [row], tiny, longest))
    assert first == expected and len(first) <= longest and len(second) <= longest


def test_the_best_choice_of_each_row_wins(tiny):
    choice = formats.get("choice")
    rows = [
        {"context": "a", "choices": ["b", "c", "d"], "label": 2},
        {"context": "a", "choices": ["b", "c"], "label": 0},
        {"context": "a", "choices": ["b", "c", "d", "e"], "label": 1},
    ]
    encoded = encode("choice", rows, tiny)
    scores = np.array([-9.0, -9.5, -8.0, 1.0, 0.5, 3.0, 7.0, 6.0, -1.0])
    assert choice.decode(task("choice"), rows, encoded, {"score": scores}) == [2, 0, 1]
    assert choice.gold(task("choice"), rows) == [2, 0, 1]
    assert [choice.weight(encoded, some) for some in (np.arange(9), np.array([3, 4]))] == [3, 1]
