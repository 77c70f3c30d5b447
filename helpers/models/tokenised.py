"""Tokenised rows kept on disk and mapped into memory, so that a set is tokenised once.

Off by default: ``kept_in`` names a folder, as every run of a study does with its store's. A set is
found by a hash of everything that decides it, so nothing in the folder is ever out of date, and all
of it may be deleted at any time.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import os
import shutil
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any

from helpers.files import drop_folder, sha256_file

if TYPE_CHECKING:
    from helpers.formats import Encoded, FormatBase
    from helpers.models.encoders import Encoder
    from helpers.tasks import Task

# The sets used longest ago are deleted above this size.
LIMIT_BYTES = 4 << 30
_SUMS = "checksums.json"
_folder: ContextVar[Path | None] = ContextVar("tokenised", default=None)
log = logging.getLogger("helpers.study.run")


@contextmanager
def kept_in(folder: Path | None) -> Iterator[None]:
    """Keep tokenised sets in a folder for as long as the context lasts; ``None``: keep nothing."""
    before = _folder.set(folder)
    try:
        yield
    finally:
        _folder.reset(before)


def encode(
    format_: FormatBase,
    task: Task,
    rows: Sequence[dict[str, Any]],
    encoder: Encoder,
    longest: int,
    train: bool,
) -> Encoded:
    """Tokenise rows as ``format_.encode`` does, or map what an earlier call has kept.

    Args:
        format_: the task's format.
        task: the task.
        rows: standard rows.
        encoder: its tokenizer is used, with the ids of the whole table.
        longest: longest input in pieces.
        train: whether answers are encoded too.

    Returns:
        The encoded set; where it is kept, its arrays are read-only and lie on disk.
    """
    folder = _folder.get()
    if folder is None:
        return format_.encode(task, rows, encoder, longest, train)
    path = folder / _key(format_, task, rows, encoder, longest, train)
    found = _load(path)
    if found is None:
        made = format_.encode(task, rows, encoder, longest, train)
        _keep(path, made)
        found = _load(path)
        return made if found is None else found
    return found


def _key(
    format_: FormatBase,
    task: Task,
    rows: Sequence[dict[str, Any]],
    encoder: Encoder,
    longest: int,
    train: bool,
) -> str:
    """Return a hash of all that decides what tokenising gives."""
    facts = [format_.name, task.metric, list(task.labels), longest, train]
    facts += [_code(), _tokenizer(encoder.tokenizer), getattr(rows, "fingerprint", "")]
    digest = hashlib.sha256(json.dumps(facts).encode())
    for row in () if facts[-1] else rows:
        digest.update(json.dumps(row, sort_keys=True, default=_plain).encode())
    return digest.hexdigest()[:32]


@functools.lru_cache(maxsize=1)
def _code() -> str:
    """Return a hash of the code that tokenises."""
    files = sorted((Path(__file__).parents[1] / "formats").glob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


@functools.lru_cache(maxsize=4)
def _tokenizer(tokenizer: Any) -> str:
    """Return a hash of a tokenizer's pieces, rules and special tokens."""
    content = tokenizer.backend_tokenizer.to_str() + repr(tokenizer.all_special_ids)
    return hashlib.sha256(content.encode()).hexdigest()


def _plain(value: Any) -> Any:
    """Turn NumPy's numbers and arrays into those of JSON."""
    return value.tolist()


def _load(path: Path) -> Encoded | None:
    """Map a kept set; one that is damaged is deleted and counts as absent."""
    from helpers.formats import Encoded

    try:
        sums = json.loads((path / _SUMS).read_text(encoding="utf-8"))
        for name, expected in sums.items():
            if sha256_file(path / name) != expected:
                raise ValueError(f"{name} does not match its checksum")
        found = Encoded.load(path)
        with suppress(OSError):  # somebody else's folder
            os.utime(path)  # What was used last is deleted last.
        return found
    except (OSError, ValueError) as error:
        # Gone altogether: never kept, or deleted by another process just now.
        if path.is_dir():
            log.warning("tokenised set %s is damaged and is made again: %s", path, error)
            _delete(path)
        return None


def _keep(path: Path, encoded: Encoded) -> None:
    """Write a set under another name and give it its own once it is whole."""
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        encoded.save(aside)
        sums = {file.name: sha256_file(file) for file in sorted(aside.iterdir())}
        (aside / _SUMS).write_text(json.dumps(sums), encoding="utf-8")
        # Fails where another process was faster: then its set is as good.
        os.replace(aside, path)
    except OSError as error:
        if not path.is_dir():
            log.warning("tokenised rows are not kept, the next run makes them again: %s", error)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    _shrink(path.parent, LIMIT_BYTES)


def _shrink(folder: Path, limit: int) -> None:
    """Delete the sets used longest ago until the rest is within the limit."""
    sets = []
    for path in folder.glob("[!.]*"):
        try:
            size = sum(file.stat().st_size for file in path.iterdir())
            sets.append((path.stat().st_mtime_ns, size, path))
        except OSError:
            continue  # Another process has just deleted it.
    total = sum(size for _, size, _ in sets)
    for _, size, path in sorted(sets):
        if total <= limit:
            return
        _delete(path)
        total -= size


def _delete(path: Path) -> None:
    with suppress(OSError):  # somebody else's folder
        drop_folder(path)
