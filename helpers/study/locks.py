"""Claims on runs, so that processes that share a store do not do the same work twice.

A claim is only a courtesy: records are written atomically under a name that depends on nothing but
their content, so two processes that did the same run would write the same record. This keeps the
rules simple. A claim whose holder died is taken over: at once where the holder lived on this
machine, and after a silence of ``PATIENCE`` seconds where it lived on another. Silence is measured
by watching the claim change on the watcher's own monotonic clock, so no clock has to be right.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

BEAT = 10.0
PATIENCE = 90.0
_seen: dict[str, tuple[int, float]] = {}


@dataclass(frozen=True)
class Holder:
    """The process that holds a claim.

    Attributes:
        machine: host name, boot and process-number space; equal only where ``pid`` means the same.
        pid: process number.
        started: when the process started, in ticks since boot, since numbers are used again.
        token: one claim, so that the same process can tell its claims apart.
    """

    machine: str
    pid: int
    started: str
    token: str


class Claim:
    """A run claimed by this process; use it as a context, or call ``release``."""

    def __init__(self, path: Path, holder: Holder) -> None:
        """Start beating; ``claim`` makes claims."""
        self.path = path
        self.holder = holder
        _Heart.add(self)

    def __enter__(self) -> Claim:
        """Hold the run for as long as the context lasts."""
        return self

    def __exit__(self, *_: object) -> None:
        """Give the run back."""
        self.release()

    def beat(self) -> None:
        """Show that the holder lives."""
        try:
            os.utime(self.path)
        except OSError:
            pass  # Taken over while this machine slept: the work is the same either way.

    def release(self) -> None:
        """Give the run back, unless another process has taken the claim over."""
        _Heart.remove(self)
        if _read(self.path) == self.holder:
            self.path.unlink(missing_ok=True)


def claim(path: Path) -> Claim | None:
    """Claim a run, or return None while a living process holds it.

    Args:
        path: the claim's file; the folder is made when missing.

    Returns:
        The claim, or None. Call again later: a dead holder elsewhere shows only with time.
    """
    holder = Holder(_machine(), os.getpid(), _started(os.getpid()), uuid.uuid4().hex)
    if _create(path, holder) or (_abandoned(path) and _create(path, holder)):
        _seen.pop(str(path), None)
        return Claim(path, holder)
    return None


def held(path: Path) -> bool:
    """Return whether a claim exists and its holder is not known to be dead."""
    return path.exists() and not _dead(path, _read(path))


def _create(path: Path, holder: Holder) -> bool:
    """Link a finished file to the claim's name: that is atomic, on network disks too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{holder.token}.tmp")
    unfinished.write_text(json.dumps(asdict(holder)), encoding="utf-8")
    try:
        os.link(unfinished, path)
    except (FileExistsError, FileNotFoundError):
        return False
    finally:
        unfinished.unlink(missing_ok=True)
    return True


def _abandoned(path: Path) -> bool:
    """Remove a claim whose holder is dead; return whether the name may be free now."""
    holder = _read(path)
    if not _dead(path, holder):
        return False
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        os.rename(path, aside)
    except FileNotFoundError:
        return True
    try:
        if _read(aside) != holder:
            os.link(aside, path)  # Another process was faster, and this is its living claim.
            return False
    except FileExistsError:
        return False
    finally:
        aside.unlink(missing_ok=True)
    return True


def _dead(path: Path, holder: Holder | None) -> bool:
    if holder is not None and holder.machine == _machine():
        return _started(holder.pid) != holder.started
    if holder is not None and _same_host_rebooted(holder):
        return True
    return _silent(path)


def _same_host_rebooted(holder: Holder) -> bool:
    host, boot, space = _machine().split("|")
    other_host, other_boot, other_space = (holder.machine.split("|") + ["", ""])[:3]
    return bool(boot) and host == other_host and space == other_space and boot != other_boot


def _silent(path: Path) -> bool:
    """Return whether a claim has not changed for ``PATIENCE`` seconds of this process's watch."""
    try:
        beat = path.stat().st_mtime_ns
    except FileNotFoundError:
        return True
    last, since = _seen.get(str(path), (None, 0.0))
    if beat != last:
        _seen[str(path)] = (beat, time.monotonic())
        return False
    return time.monotonic() - since > PATIENCE


def _read(path: Path) -> Holder | None:
    try:
        return Holder(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


@lru_cache(maxsize=1)
def _machine() -> str:
    boot = _text("/proc/sys/kernel/random/boot_id")
    try:
        space = os.readlink("/proc/self/ns/pid")
    except OSError:
        space = ""
    return f"{socket.gethostname()}|{boot}|{space}"


def _started(pid: int) -> str:
    """Return when a process started, "?" where the system does not say, "" when it is gone."""
    if os.path.exists("/proc/self/stat"):
        fields = _text(f"/proc/{pid}/stat").rpartition(")")[2].split()
        return "" if not fields or fields[0] in "ZX" else fields[19]
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return ""
    except PermissionError:
        pass
    return "?"


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError:
        return ""


class _Heart:
    """One thread that beats for all claims of this process."""

    _claims: set[Claim] = set()
    _lock = threading.Lock()
    _thread: threading.Thread | None = None

    @classmethod
    def add(cls, claim: Claim) -> None:
        with cls._lock:
            cls._claims.add(claim)
            if cls._thread is None or not cls._thread.is_alive():
                cls._thread = threading.Thread(target=cls._run, name="claims", daemon=True)
                cls._thread.start()

    @classmethod
    def remove(cls, claim: Claim) -> None:
        with cls._lock:
            cls._claims.discard(claim)

    @classmethod
    def _run(cls) -> None:
        while True:
            time.sleep(BEAT)
            with cls._lock:
                claims = list(cls._claims)
            for claim in claims:
                claim.beat()
