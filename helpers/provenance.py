"""Where a number came from: commit, versions, device and time."""

from __future__ import annotations

import platform
import subprocess
from datetime import UTC, datetime
from functools import lru_cache
from importlib import metadata
from pathlib import Path

PACKAGES = ("torch", "transformers", "tokenizers", "datasets", "numpy")


def provenance() -> dict[str, str]:
    """Return commit, versions and UTC time as text, for a record."""
    return {"commit": commit(), "versions": versions(), "utc": utc()}


def utc() -> str:
    """Return the time now, as ISO 8601 in UTC, to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@lru_cache(maxsize=1)
def commit() -> str:
    """Return the short commit of this code; ``+changes`` where helpers differ from it."""
    here = Path(__file__).resolve().parent
    head = _git(here, "rev-parse", "--short=12", "HEAD")
    if not head:
        return "unknown"
    return head + ("+changes" if _git(here, "status", "--porcelain", "--", ".") else "")


@lru_cache(maxsize=1)
def versions() -> str:
    """Return the versions of Python and of the packages that can change a score."""
    found = [f"python {platform.python_version()}"]
    for package in PACKAGES:
        try:
            found.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            continue
    return "; ".join(found)


def history(file: str) -> list[tuple[str, str, str]]:
    """Return the commits that changed a file of this project, oldest first; none without git.

    Args:
        file: path from the root of the project.

    Returns:
        Commit, time (ISO 8601 in UTC, to the second) and subject of each.
    """
    root = Path(__file__).resolve().parent.parent
    said = _git(root, "log", "--reverse", "--format=%H%x09%ct%x09%s", "--", file)
    rows = [line.split("\t", 2) for line in said.splitlines()]
    return [
        (sha, datetime.fromtimestamp(int(when), UTC).strftime("%Y-%m-%dT%H:%M:%SZ"), subject)
        for sha, when, subject in rows
    ]


def _git(folder: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=20
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
