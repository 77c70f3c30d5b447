"""What a plan must know of rows and encoders: fingerprints, counts, lengths, sizes.

Reading all rows of all languages takes minutes at full size, so it is remembered below the store, under
what could change it: the facts of a task, this package's code, the installed version of a data package,
the files of a data folder.
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from helpers import tasks
from helpers.models.settings import BUNDLED
from helpers.study.store import Store
from helpers.tasks import Task


def digest(text: str) -> str:
    """Return 16 hexadecimal digits that stand for a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class Survey(NamedTuple):
    """The rows of one task in one language and split; ``fingerprint`` is their SHA-256.

    ``characters`` are means per sequence that a row becomes, ``sequences`` its choices, else 1.
    """

    fingerprint: str
    source: str
    rows: int
    characters: float
    sequences: float


class Known:
    """What is known of rows and encoders, remembered in a store as long as nothing can change it."""

    def __init__(self, store: Store) -> None:
        """Remember below this store; what is there may be deleted at any time."""
        from joblib import Memory  # half of what importing this module would take

        try:
            self.memory = Memory(store.folder / "known", verbose=0)
        except OSError:  # a store that may only be read
            self.memory = Memory(None, verbose=0)
        # Folders are looked at once per plan, not once per process: in a notebook, data change.
        self._stamp_of = functools.cache(_stamp)

    def kept(self, function: Any, *asked: Any, stamp: str) -> Any:
        """Return what a function gives, as it was given before under the same stamp."""
        return self.memory.cache(function)(*asked, digest(f"{stamp} {_code()}"))

    def rows(self, task: Task, language: str, split: str) -> Survey:
        """Return what is known of rows; a user's own are read each time, as they change at will."""
        sources = task.source.flat()
        readers = [function for function in (task.adapt, *(s.read for s in sources)) if function]
        shipped = all(str(f.__module__).startswith("helpers.") for f in readers)
        if not shipped or any(source.kind == "tables" for source in sources):
            return Survey(*_look(task, language, split, ""))
        stamps = [self._stamp_of(source.kind, source.id) for source in sources]
        return Survey(*self.kept(_look, task, language, split, stamp=repr(stamps)))

    def encoder(self, name: str) -> Any:
        """Return what identifies an encoder, and the facts a cost needs."""
        if name in ("bundled", "bundled-random"):
            return self.kept(_describe, name, stamp=_stamp("package", BUNDLED))
        if not Path(name).exists():
            return _describe(name, "")  # Only loading it tells.
        return self.kept(_describe, name, stamp=_files(Path(name)))

    def layer(self, encoder: str, target: str, stamp: str) -> int:
        """Return the layer in which an encoder retrieves best on a target's development rows."""
        return int(self.kept(_choose_layer, encoder, target, stamp=stamp))


def _look(task: Task, language: str, split: str, stamp: str) -> tuple[Any, ...]:
    """Read rows and return the fields of a ``Survey``."""
    from helpers import data

    rows = data.rows(task, language=language, split=split)
    sample = [rows[i] for i in range(0, len(rows), max(1, len(rows) // 500))]
    sequences = sum(len(row.get("choices", "1")) for row in sample)
    characters = sum(map(_characters, sample)) / max(1, sequences)
    return rows.fingerprint, rows.source, len(rows), characters, sequences / max(1, len(sample))


def _characters(row: Mapping[str, Any]) -> int:
    """Count the characters of a row; a context is read once per choice."""
    total = sum(len(str(row.get(name, ""))) for name in ("first", "second", "question", "text"))
    total += sum(len(token) + 1 for token in row.get("tokens", ()))
    choices = row.get("choices", [""])
    return total + sum(len(str(row.get("context", ""))) + len(choice) for choice in choices)


def _describe(name: str, stamp: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Load an encoder; return what identifies it, and the facts a cost needs."""
    from helpers.study.run import pretrained

    encoder = pretrained(name)
    total = sum(weights.numel() for weights in encoder.model.parameters())
    words = encoder.model.get_input_embeddings().weight.numel()  # type: ignore[operator]
    facts = {"parameters": total - words, "words": words}
    facts["trained_parameters"] = total - words * encoder.freeze_embeddings
    return {"sha256": encoder.sha256, "layers": encoder.layers}, facts


def _choose_layer(encoder: str, task: str, stamp: str) -> int:
    """Return the layer in which an encoder retrieves best on a task's development rows."""
    from helpers import evaluation
    from helpers.study.run import pretrained

    target = tasks.get(task)
    return evaluation.choose_layer(pretrained(encoder), target, target.languages[0])


def _stamp(kind: str, name: str) -> str:
    """Return a version or a stamp of files that changes whenever the rows of a source can."""
    if kind == "package":
        try:
            return metadata.version(name.split("==")[0])
        except metadata.PackageNotFoundError:
            return "absent"
    root = os.environ.get(name if kind == "folder" else "TRANSFER_DATA_ROOT", "")
    return _files(Path(root) / (name if kind == "hub" else "")) if root else ""


def _files(place: Path, pattern: str = "*") -> str:
    """Return a stamp of names, sizes and times of a file, or of all files below a folder."""
    facts = [(str(p), p.stat()) for p in (place, *place.rglob(pattern)) if p.is_file()]
    return digest(repr((place, sorted((p, s.st_size, s.st_mtime_ns) for p, s in facts))))


@functools.cache
def _code() -> str:
    return _files(Path(__file__).resolve().parents[1], "*.py")
