"""What a plan must know before it runs: of a task's rows how many, how long, and their fingerprint.

Reading all rows of all languages takes minutes at full size, so a survey is remembered in the store
under a key that changes with anything that could change the rows: the facts of the task, this
package's own code, the installed version of a data package, and the files of a data folder. The facts
of an encoder are remembered likewise, so that a plan need not load it.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from helpers.errors import HelpfulError
from helpers.files import write_atomic
from helpers.models import bundled
from helpers.tasks import Task

_TEXT = ("first", "second", "context", "question", "text")


@dataclass(frozen=True)
class Survey:
    """The rows of one task in one language and split.

    Attributes:
        fingerprint: SHA-256 of the standard rows.
        source: where they came from, as ``helpers.data`` says it.
        rows: how many there are.
        characters: mean characters per sequence that a row becomes.
        sequences: sequences that a row becomes: its choices, else 1.
    """

    fingerprint: str
    source: str
    rows: int
    characters: float
    sequences: float


class Surveys:
    """Surveys of tasks, remembered in a file."""

    def __init__(self, path: Path) -> None:
        """Remember surveys in this file; it may be deleted at any time."""
        self.path = path
        self._known: dict[str, Any] = {}
        self._new = False
        # Folders are looked at once per plan, not once per process: in a notebook, data change.
        self._stamp_of = functools.cache(_stamp)
        try:
            self._known = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            pass

    def of(self, task: Task, language: str, split: str) -> Survey:
        """Return the survey of one task, language and split, reading the rows where needed.

        Raises:
            HelpfulError: what ``helpers.data.rows`` raises for missing or bad rows.
        """
        key = self._key(task, language, split)
        return Survey(**self.kept(key, lambda: asdict(_survey(task, language, split))))

    def kept(self, key: str, make: Callable[[], Any]) -> Any:
        """Return what is remembered under a key, or make it and remember it.

        Args:
            key: what it depends on; "": it is made each time.
            make: returns something that JSON can hold.
        """
        if key in self._known:
            return self._known[key]
        made = make()
        if key:
            self._known[key] = made
            self._new = True
        return made

    def _key(self, task: Task, language: str, split: str) -> str:
        """Return what the rows depend on, or "" where they are the user's own and read each time."""
        sources = task.source.flat()
        functions = [task.adapt, *(source.read for source in sources)]
        own = [
            f for f in functions if f and not getattr(f, "__module__", "").startswith("helpers.")
        ]
        if own or any(source.kind == "tables" for source in sources):
            return ""
        stamps = [self._stamp_of(source.kind, source.id) for source in sources]
        content = json.dumps([_plain(task), language, split, stamps, _code()], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:24]

    def layer(self, key: str, encoder: str, task: Task) -> int:
        """Return the layer in which an encoder retrieves best on a task's development rows.

        Args:
            key: what the choice depends on.
            encoder: name of the encoder.
            task: a retrieval target with development rows.
        """

        def choose() -> int:
            from helpers import evaluation
            from helpers.study.execution import encoder_of

            return evaluation.choose_layer(encoder_of(encoder), task, task.languages[0])

        return int(self.kept(key, choose))

    def save(self) -> None:
        """Write what was learnt; a disk without room only makes the next plan slower."""
        if self._new:
            try:
                write_atomic(self.path, json.dumps(self._known).encode())
            except HelpfulError:
                return
            self._new = False


def encoder_key(name: str) -> str:
    """Return what the facts of an encoder depend on, or "" where only loading it tells.

    Raises:
        MissingData: the package that brings the encoder is not installed.
    """
    if name in ("bundled", "bundled-random"):
        facts = bundled.path().stat()
        stamp = f"{facts.st_size}|{facts.st_mtime_ns}"
    elif os.path.isdir(name):
        stamp = _files(name)
    else:
        return ""
    return hashlib.sha256(f"encoder {name} {stamp} {_code()}".encode()).hexdigest()[:24]


def _survey(task: Task, language: str, split: str) -> Survey:
    from helpers import data

    rows = data.rows(task, language=language, split=split)
    step = max(1, len(rows) // 500)
    sample = [rows[i] for i in range(0, len(rows), step)]
    sequences = sum(len(row.get("choices", "1")) for row in sample)
    return Survey(
        fingerprint=rows.fingerprint,
        source=rows.source,
        rows=len(rows),
        characters=sum(map(_characters, sample)) / max(1, sequences),
        sequences=sequences / max(1, len(sample)),
    )


def _characters(row: Mapping[str, Any]) -> int:
    texts = [str(row.get(name, "")) for name in _TEXT if name != "context" or "choices" not in row]
    together = sum(map(len, texts)) + sum(len(token) + 1 for token in row.get("tokens", ()))
    context = len(str(row.get("context", "")))
    return together + sum(context + len(choice) for choice in row.get("choices", ()))


def _stamp(kind: str, name: str) -> str:
    if kind == "package":
        try:
            return metadata.version(name.split("==")[0])
        except metadata.PackageNotFoundError:
            return "absent"
    root = os.environ.get(name if kind == "folder" else "TRANSFER_DATA_ROOT", "")
    return _files(str(Path(root) / name if kind == "hub" else root)) if root else ""


def _files(folder: str) -> str:
    """Return a stamp of names, sizes and times of all files below a folder."""
    digest = hashlib.sha256(folder.encode())
    for path in sorted(Path(folder).rglob("*")):
        facts = path.stat()
        digest.update(f"{path}|{facts.st_size}|{facts.st_mtime_ns}\n".encode())
    return digest.hexdigest()


@functools.lru_cache(maxsize=1)
def _code() -> str:
    return _files(str(Path(__file__).resolve().parents[1]))


def _plain(value: Any) -> Any:
    """Turn facts into JSON, functions into their names."""
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in fields(value) if f.name != "about"}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if callable(value):
        return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', '')}"
    return value
