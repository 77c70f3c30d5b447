import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import formats
from helpers.formats import IGNORE, piece_ids
from helpers.tasks import Source, Task, get
from tests.formats.conftest import SENTENCES

TASK = Task("made-up", "target", "tagging", Source("rows", "made-up"), labels=("O", "B-a", "I-a"))
TAGGING = formats.get("tagging")


def rows_of(sentences):
    tags = [[(i + n) % 3 for n in range(len(words))] for i, words in enumerate(sentences)]
    both = enumerate(zip(sentences, tags, strict=True))
    return [{"id": str(i), "tokens": words, "tags": own} for i, (words, own) in both]


def predicted(encoded):
    """Outputs of a head that is right where a label is asked for and wrong everywhere else."""
    return {"tag": np.where(encoded.per_token["word"] >= 0, encoded.per_token["tag"], 1_000_000)}


@pytest.mark.parametrize("longest", [8, 20, 128])
def test_every_word_of_every_script_gets_its_own_label(either, longest):
    rows = rows_of(SENTENCES.values())
    encoded = TAGGING.encode(TASK, rows, either, longest, True)
    assert encoded.lengths.max() <= longest
    assert TAGGING.decode(TASK, rows, encoded, predicted(encoded)) == TAGGING.gold(TASK, rows)
    words, example = encoded.per_token["word"], np.repeat(encoded.example, encoded.lengths)
    for number, row in enumerate(rows):
        mine = words[(example == number) & (words >= 0)]
        assert mine.tolist() == list(range(len(row["tokens"])))


@settings(max_examples=60)
@given(
    st.lists(st.lists(st.text(max_size=6), min_size=1, max_size=25), min_size=1, max_size=5),
    st.integers(5, 30),
)
def test_no_word_is_lost_or_moved_whatever_its_letters(tiny, sentences, longest):
    rows = rows_of(sentences)
    encoded = TAGGING.encode(TASK, rows, tiny, longest, True)
    assert encoded.lengths.max() <= longest
    assert TAGGING.decode(TASK, rows, encoded, predicted(encoded)) == TAGGING.gold(TASK, rows)
    labelled = (encoded.per_token["tag"] != IGNORE).sum()
    assert labelled == sum(map(len, sentences)) == TAGGING.weight(encoded, np.arange(len(encoded)))


def test_words_without_pieces_are_unknown_and_keep_their_label(either):
    rows = [{"id": "0", "tokens": ["the", "", "\u200b", "door"], "tags": [0, 1, 2, 0]}]
    encoded = TAGGING.encode(TASK, rows, either, 32, True)
    first, unknown = encoded.per_token["word"], either.tokenizer.unk_token_id
    assert [encoded.tokens[np.flatnonzero(first == word)[0]] for word in (1, 2)] == [unknown] * 2
    assert encoded.per_token["tag"][first >= 0].tolist() == [0, 1, 2, 0]


def test_the_first_piece_is_labelled_and_special_tokens_are_not(tiny):
    tokens = ["he", "xyzzy", "door"]
    encoded = TAGGING.encode(TASK, [{"tokens": tokens, "tags": [1, 2, 0]}], tiny, 64, True)
    sizes = [len(piece) for piece in piece_ids(tiny.tokenizer, tokens)]
    assert sizes[1] > 1
    pairs = zip([1, 2, 0], sizes, strict=True)
    expected = [one for tag, size in pairs for one in (tag, *[IGNORE] * (size - 1))]
    assert encoded.per_token["tag"].tolist() == [IGNORE, *expected, IGNORE]


def test_a_long_sentence_is_split_between_words(tiny):
    tokens = ["xyzzy", "door"] * 20
    encoded = TAGGING.encode(TASK, [{"tokens": tokens, "tags": [0] * 40}], tiny, 16, True)
    assert len(encoded) > 1 and set(encoded.example) == {0}
    pieces = [piece for word in piece_ids(tiny.tokenizer, tokens) for piece in word]
    bodies = [part[1:-1] for part in np.split(encoded.tokens, encoded.starts[1:-1])]
    assert np.concatenate(bodies).tolist() == pieces
    # A window begins with a word's first piece.
    assert (encoded.per_token["word"][encoded.starts[:-1] + 1] >= 0).all()


def test_rows_without_tags_can_be_predicted_and_unknown_tags_carry_no_loss(tiny):
    rows = [{"tokens": ["the", "door"]}, {"tokens": ["red"]}]
    encoded = TAGGING.encode(TASK, rows, tiny, 32, False)
    assert (encoded.per_token["tag"] == IGNORE).all()
    found = TAGGING.decode(TASK, rows, encoded, {"tag": np.ones(len(encoded.tokens), int)})
    assert found == [[1, 1], [1]] and TAGGING.decode(TASK, [], encoded, {}) == []
    rows = [{"tokens": ["the", "red", "door"], "tags": [IGNORE, IGNORE, 2]}]
    encoded = TAGGING.encode(TASK, rows, tiny, 32, True)
    assert TAGGING.weight(encoded, np.array([0])) == 1
    assert TAGGING.constant(TASK, rows) == [[2, 2, 2]]  # they are never the constant answer
    # Of spans that is not the most frequent tag: "O" finds none, "I-PER" reads each sentence as one.
    rows = [{"tags": [0, 0, 0]}, {"tags": [1, 2]}]
    assert TAGGING.constant(get("panx"), rows) == [[2, 2, 2], [2, 2]]
