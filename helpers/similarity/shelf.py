"""Arrays that measures share: how each splits into halves, and a cache in memory and on disk."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from helpers.errors import BadRecord
from helpers.files import write_atomic
from helpers.similarity.arrays import Integers

__all__ = ["Cache", "Parts", "Wanted"]

# Raise it when the way arrays are gathered changes: older files are then not read again.
VERSION = 1


@dataclass(frozen=True)
class Parts:
    """One array (or list, or mapping of arrays), and how it splits into two disjoint halves.

    Attributes:
        values: what a measure gets.
        rows: row that each entry along ``axis`` belongs to; ``None`` where it cannot be split.
        second: whether each row is in the second half.
        halves: values of the two halves where they are not slices of ``values``.
        axis: the axis of ``values`` along which entries lie.
        entries: number of examples behind it, where ``rows`` does not say.
        passes: rows sent through an encoder to get it, backward passes counted as well.
        seconds: what that took.
        note: what a reader should know, such as classes left out.
    """

    values: Any
    rows: Integers | None = None
    second: Any = None
    halves: tuple[Any, Any] | None = None
    axis: int = 0
    entries: int = 0
    passes: int = 0
    seconds: float = 0.0
    note: str = ""

    @property
    def splits(self) -> bool:
        """Whether the two halves are different data."""
        return self.rows is not None or self.halves is not None

    @property
    def count(self) -> int | None:
        """Number of entries, None where there are none to count."""
        return (self.entries or None) if self.rows is None else len(self.rows)

    def get(self, part: str) -> Any:
        """Return the values of ``"all"`` rows or of half ``"a"`` or ``"b"``."""
        if part == "all" or not self.splits:
            return self.values
        if self.halves is not None:
            return self.halves[part == "b"]
        assert self.rows is not None
        places = np.flatnonzero(np.asarray(self.second)[self.rows] == (part == "b"))
        if isinstance(self.values, list):
            return [self.values[place] for place in places]
        return np.take(self.values, places, axis=self.axis)


@dataclass(frozen=True)
class Wanted:
    """An array that can be made: what determines it, and how.

    Attributes:
        kind: what it is.
        facts: everything that its content depends on.
        make: makes it.
        keep: whether it is worth a file.
    """

    kind: str
    facts: tuple[Any, ...]
    make: Callable[[], Parts]
    keep: bool = True

    @property
    def key(self) -> str:
        """Hash of what determines the content."""
        return hashlib.sha256(repr((VERSION, self.kind, self.facts)).encode()).hexdigest()


class Cache:
    """Arrays by key: the latest in memory, those worth it in files that are whole or absent."""

    def __init__(self, folder: Path, megabytes: float = 1500.0) -> None:
        """Open a cache below a folder, which is made at the first write."""
        self.folder = folder
        self.limit = megabytes * 1e6
        self._held: OrderedDict[str, Parts] = OrderedDict()
        self._sizes: dict[str, int] = {}

    def get(self, wanted: Wanted) -> Parts:
        """Return an array from memory, from its file, or made now."""
        key = wanted.key
        if key in self._held:
            self._held.move_to_end(key)
            return self._held[key]
        parts = self._read(key) if wanted.keep else None
        if parts is None:
            parts = wanted.make()
            if wanted.keep:
                write_atomic(self.path(key), _to_bytes(parts))
        self._hold(key, parts)
        return parts

    def path(self, key: str) -> Path:
        """Return where an array lies, or will lie."""
        return self.folder / key[:2] / f"{key}.npz"

    def _read(self, key: str) -> Parts | None:
        path = self.path(key)
        if not path.exists():
            return None
        try:
            return _from_bytes(path.read_bytes(), path)
        except BadRecord:
            return None  # a damaged file is made again

    def _hold(self, key: str, parts: Parts) -> None:
        self._held[key] = parts
        self._sizes[key] = _size(parts)
        while sum(self._sizes.values()) > self.limit and len(self._held) > 1:
            oldest, _ = self._held.popitem(last=False)
            del self._sizes[oldest]


def _size(parts: Parts) -> int:
    """Bytes of the arrays of a part; texts count as nothing."""
    total = 0
    for values in (parts.values, *(parts.halves or ())):
        for array in values.values() if isinstance(values, Mapping) else (values,):
            total += getattr(array, "nbytes", 0)
    return total


def _to_bytes(parts: Parts) -> bytes:
    arrays: dict[str, Any] = {}
    meta = {name: getattr(parts, name) for name in ("axis", "entries", "passes", "seconds", "note")}
    named = {"values": parts.values}
    if parts.halves is not None:
        named |= {"a": parts.halves[0], "b": parts.halves[1]}
    for name, values in named.items():
        if isinstance(values, Mapping):
            arrays |= {f"{name}/{key}": value for key, value in values.items()}
        else:
            arrays[name] = np.asarray(values)
    for name in ("rows", "second"):
        if getattr(parts, name) is not None:
            arrays[name] = np.asarray(getattr(parts, name))
    stream = io.BytesIO()
    np.savez(stream, meta=np.array(json.dumps(meta)), **arrays)
    return stream.getvalue()


def _from_bytes(content: bytes, path: Path) -> Parts:
    try:
        with np.load(io.BytesIO(content)) as file:
            arrays = {name: file[name] for name in file.files}
        meta = json.loads(str(arrays.pop("meta")))
        values = {name: _joined(arrays, name) for name in ("values", "a", "b")}
    except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise BadRecord(f"{path} cannot be read: {error}. Delete it; it is made again.") from error
    halves = None if values["a"] is None else (values["a"], values["b"])
    rows, second = arrays.get("rows"), arrays.get("second")
    return Parts(values["values"], rows, second, halves, **meta)


def _joined(arrays: Mapping[str, Any], name: str) -> Any:
    """Return an array, or the mapping whose entries were written as ``name/key``."""
    if name in arrays:
        return arrays[name]
    prefix = f"{name}/"
    found = {key[len(prefix) :]: v for key, v in arrays.items() if key.startswith(prefix)}
    return found or None
