"""Files that are whole or absent: atomic writes, checksums, tensors in safetensors."""

from __future__ import annotations

import errno
import functools
import hashlib
import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from helpers.errors import BadRecord, HelpfulError, StoreFull

if TYPE_CHECKING:
    import torch


def write_atomic(path: Path, content: bytes) -> None:
    """Write a file so that a reader sees the old content or the new, never a part.

    Args:
        path: final name; its folder is made if needed.
        content: the bytes to write.

    Raises:
        StoreFull: the disk is full; nothing is left under ``path``'s name.
        HelpfulError: the folder is not writable; likewise.
    """
    name = ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(name, 0o666 & ~_mask())  # a temporary file starts out readable by its owner alone
        os.replace(name, path)
        sync_folder(path.parent)
    except OSError as error:
        if name:
            Path(name).unlink(missing_ok=True)
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        advice = "Free some space" if full else "Make its folder writable"
        raise (StoreFull if full else HelpfulError)(
            f"could not write {path}: {error.strerror or error}. {advice} or choose another folder "
            "(the store is where TRANSFER_STORE says); what was already stored is untouched."
        ) from error


@functools.cache
def _mask() -> int:
    """Return the permissions that this process leaves off new files."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def sync_folder(folder: Path) -> None:
    """Make a rename itself durable, on file systems that know how."""
    handle = -1
    try:
        handle = os.open(folder, os.O_RDONLY)
        os.fsync(handle)
    except OSError:
        pass  # The content is safe either way; only the moment of the rename is not.
    finally:
        if handle >= 0:
            os.close(handle)


def drop_folder(folder: Path) -> None:
    """Delete a folder at once, if it is there; a process that reads it keeps what it has opened.

    Raises:
        OSError: it may not be moved, as somebody else's may not.
    """
    aside = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}.tmp")
    try:
        os.replace(folder, aside)
    except FileNotFoundError:
        return
    shutil.rmtree(aside, ignore_errors=True)


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal characters."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def save_tensors(
    path: Path, tensors: Mapping[str, torch.Tensor], facts: Mapping[str, Any] | None = None
) -> None:
    """Write named tensors and a few facts as one safetensors file with a checksum beside it.

    Args:
        path: file to write; ``<path>.sha256`` is written after it.
        tensors: name to tensor; copied to the CPU.
        facts: JSON-able facts kept in the file's header.
    """
    from safetensors.torch import save

    cpu = {name: tensor.detach().to("cpu").contiguous() for name, tensor in tensors.items()}
    content = save(cpu, metadata={"facts": json.dumps(dict(facts or {}))})
    sum_file = path.with_name(path.name + ".sha256")
    sum_file.unlink(missing_ok=True)
    write_atomic(path, content)
    write_atomic(sum_file, hashlib.sha256(content).hexdigest().encode())


def load_tensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Read what :func:`save_tensors` wrote, after checking its checksum.

    Returns:
        The tensors by name, on the CPU, and the facts.

    Raises:
        BadRecord: the file is missing, truncated or altered; the message names it.
    """
    from safetensors import SafetensorError, safe_open

    sum_file = path.with_name(path.name + ".sha256")
    if not path.exists() or not sum_file.exists():
        raise BadRecord(
            f"{path} or its checksum is missing: the run that writes it must be redone."
        )
    if sha256_file(path).encode() != sum_file.read_bytes().strip():
        raise BadRecord(f"{path} does not match its checksum: delete it and redo its run.")
    try:
        with safe_open(path, framework="pt") as stream:
            facts = json.loads((stream.metadata() or {}).get("facts", "{}"))
            return {name: stream.get_tensor(name) for name in stream.keys()}, facts
    except SafetensorError as error:
        raise BadRecord(f"{path} is not a safetensors file: {error}. Redo its run.") from error
