"""Files that are whole or absent, and where a number came from: commit, versions, time, cores."""

import contextlib
import errno
import functools
import hashlib
import json
import os
import platform
import shutil
import subprocess
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from helpers.errors import BadRecord, HelpfulError, StoreFull


def write_atomic(path: Path, content: bytes) -> None:
    """Write a file, whole or not at all, or raise StoreFull or HelpfulError and leave the old one."""
    name = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(name, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            name.unlink()
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        advice = "Free some space" if full else "Make its folder writable"
        wrong = f"could not write {path}: {error.strerror or error}; what was stored is untouched"
        text = f"{wrong}. {advice} or choose another folder (the store's in TRANSFER_STORE)."
        raise (StoreFull if full else HelpfulError)(text) from error


def drop_folder(folder: Path) -> None:
    """Delete a folder at once, if it is there; a process that reads it keeps what it has opened."""
    aside = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}.tmp")
    with contextlib.suppress(FileNotFoundError):
        os.replace(folder, aside)
    shutil.rmtree(aside, ignore_errors=True)


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal characters."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def save_tensors(path: Path, tensors: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    """Write tensors by name and a few facts as a safetensors file, with ``<path>.sha256`` beside it."""
    from safetensors.torch import save

    cpu = {name: tensor.detach().to("cpu").contiguous() for name, tensor in tensors.items()}
    content = save(cpu, metadata={"facts": json.dumps(dict(facts))})
    sum_file = path.with_name(path.name + ".sha256")
    sum_file.unlink(missing_ok=True)
    write_atomic(path, content)
    write_atomic(sum_file, hashlib.sha256(content).hexdigest().encode())


def load_tensors(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read tensors and facts after checking their checksum, or raise BadRecord."""
    from safetensors import SafetensorError, safe_open

    sum_file = path.with_name(path.name + ".sha256")
    if not path.exists() or not sum_file.exists():
        raise BadRecord(f"{path} or its checksum is missing: redo the run that writes it.")
    if sha256_file(path).encode() != sum_file.read_bytes().strip():
        raise BadRecord(f"{path} does not match its checksum: delete it and redo its run.")
    try:
        with safe_open(path, framework="pt") as stream:
            facts = json.loads((stream.metadata() or {}).get("facts", "{}"))
            return {name: stream.get_tensor(name) for name in stream.keys()}, facts
    except SafetensorError as error:
        raise BadRecord(f"{path} is not a safetensors file: {error}. Redo its run.") from error


def provenance() -> dict[str, str]:
    """Return commit, versions and UTC time as text, for a record."""
    return {"commit": commit(), "versions": versions(), "utc": utc()}


def utc(when: float | None = None) -> str:
    """Return a time, by default now, as ISO 8601 in UTC, to the second."""
    moment = datetime.now(UTC) if when is None else datetime.fromtimestamp(when, UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


@functools.cache
def commit() -> str:
    """Return the short commit of this code; ``+changes`` where helpers or profiles may differ from it."""
    head, places = _git("rev-parse", "--short=12", "HEAD"), ("helpers", "data/profiles.toml")
    # A line for the branch, then one per change; none at all where git cannot tell.
    said = _git("status", "--porcelain", "--branch", "--", *places).splitlines()
    return head + "+changes" * (len(said) != 1) if head else "unknown"


@functools.cache
def versions() -> str:
    """Return the versions of Python and of the packages that can change a score."""
    found = [f"python {platform.python_version()}"]
    for package in ("torch", "transformers", "tokenizers", "datasets", "numpy"):
        with contextlib.suppress(metadata.PackageNotFoundError):  # Binder has no torch
            found.append(f"{package} {metadata.version(package)}")
    return "; ".join(found)


def history(file: str) -> list[tuple[str, str, str]]:
    """Return commit, time (ISO 8601 in UTC) and subject of what changed a file, oldest first."""
    said = _git("log", "--reverse", "--format=%H%x09%ct%x09%s", "--", file)
    rows = [line.split("\t", 2) for line in said.splitlines()]
    return [(sha, utc(int(when)), subject) for sha, when, subject in rows]


def address() -> str:
    """Return the address of the project's repository, as ``_config.yml`` names it; "" without one."""
    config = Path(__file__).resolve().parents[1] / "_config.yml"
    return str(yaml.safe_load(config.read_text("utf-8"))["repository"]["url"])


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(Path(__file__).resolve().parents[1]), *arguments]
    how: dict[str, Any] = {"capture_output": True, "text": True, "timeout": 20, "check": True}
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        return subprocess.run(command, **how).stdout.strip()
    return ""


def cores() -> int:
    """Return the processor cores this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1
