"""One run's record: what was asked, what came out, and a checksum over both.

A record file is one JSON object on three lines, so that its status can be read and checked without
parsing all of it: ``checksum`` (SHA-256 of every byte after the first line), ``summary`` (what the
index of a store needs) and ``record``.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from helpers.errors import BadRecord

SCORE_COLUMNS = (
    "run",
    "stage",
    "encoder",
    "condition",
    "intermediate",
    "target",
    "language",
    "split",
    "metric",
    "value",
    "n",
    "seed",
    "rows_trained",
    "seconds",
    "peak_memory_mb",
    "device",
    "commit",
    "versions",
    "data_source",
    "data_hash",
    "utc",
    "status",
)
FINISHED = ("done", "collapsed", "not applicable")


@dataclass(frozen=True)
class Attempt:
    """One try at a run; a collapsed one is followed by a second with another seed.

    Attributes:
        status: ``done``, ``collapsed``, ``not applicable`` or ``failed: why``.
        seed: the seed this attempt used.
        scores: one mapping per score with ``language``, ``split``, ``metric``, ``value`` (0..1),
            ``n`` and ``status``, and where known ``data_source`` and ``data_hash``; the main
            metric of a language comes before its others.
        dev: English dev score per trained task, from 0 to 1.
        steps, rows, tokens: optimiser steps, rows and real tokens trained on.
        seconds: wall time of training and evaluation.
        peak_memory_mb: highest memory use.
        device, precision: what it ran on, and in which number format.
        notes: what the reader of a score should know (token budget halved, resumed, ...).
    """

    status: str
    seed: int
    scores: Sequence[Mapping[str, Any]] = ()
    dev: Mapping[str, float] = field(default_factory=dict)
    steps: int = 0
    rows: int = 0
    tokens: int = 0
    seconds: float = 0.0
    peak_memory_mb: float = 0.0
    device: str = ""
    precision: str = ""
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Record:
    """Everything worth keeping of one run.

    Attributes:
        run: id of the run: a hash of exactly what determines its result.
        core: the same without the languages it is evaluated in.
        stage: ``intermediate`` or ``target``.
        encoder, condition, intermediate, target: the names a score is looked up by.
        spec: what was asked, in full (see ``helpers.study``).
        sources: per language or task, where its rows came from.
        attempts: one entry per attempt; the last one decides the status.
        provenance: commit, versions, UTC time.
        work: tokens the plan expected, for later estimates.
    """

    run: str
    core: str
    stage: str
    encoder: str
    condition: str
    intermediate: str
    target: str
    spec: Mapping[str, Any]
    sources: Mapping[str, str]
    attempts: Sequence[Attempt]
    provenance: Mapping[str, str]
    work: float = 0.0

    @property
    def status(self) -> str:
        """Return the status of the last attempt."""
        return self.attempts[-1].status

    def scores(self, every_metric: bool = True) -> list[dict[str, Any]]:
        """Return one mapping per score, keyed by ``SCORE_COLUMNS``.

        A failed attempt gives one row without a value, so that no failure disappears from a table.

        Args:
            every_metric: False leaves out all but the main metric of each language.
        """
        return [
            self._facts(attempt) | self._score(attempt, score)
            for attempt in self.attempts
            for score in _chosen(attempt.scores, every_metric)
        ]

    def _facts(self, attempt: Attempt) -> dict[str, Any]:
        names = ("run", "stage", "encoder", "condition", "intermediate", "target")
        facts = {name: getattr(self, name) for name in names}
        for name in ("seed", "seconds", "peak_memory_mb", "device"):
            facts[name] = getattr(attempt, name)
        for name in ("commit", "versions", "utc"):
            facts[name] = self.provenance.get(name, "")
        return facts | {"rows_trained": attempt.rows}

    def _score(self, attempt: Attempt, score: Mapping[str, Any]) -> dict[str, Any]:
        language, value = score["language"], score["value"]
        everything = "; ".join(dict.fromkeys(self.sources.values()))
        known = (self.spec.get("evaluation") or {}).get(language, "")
        own = score.get("status", "done") if attempt.status == "done" else attempt.status
        return {
            "language": language,
            "split": score["split"],
            "metric": score["metric"],
            "value": math.nan if value is None else value,
            "n": score["n"],
            "data_source": score.get("data_source") or self.sources.get(language, everything),
            "data_hash": score.get("data_hash") or known,
            "status": own,
        }

    def summary(self) -> dict[str, Any]:
        """Return what an index needs to know."""
        return {
            "run": self.run,
            "core": self.core,
            "stage": self.stage,
            "encoder": self.encoder,
            "status": self.status,
            "seconds": round(sum(attempt.seconds for attempt in self.attempts), 3),
            "tokens": sum(attempt.tokens for attempt in self.attempts),
            "work": self.work * len(self.attempts),
            "device": self.attempts[-1].device,
        }


_NOTHING = {"language": "", "split": "", "metric": "", "value": None, "n": 0}


def _chosen(scores: Sequence[Mapping[str, Any]], every_metric: bool) -> Iterable[Mapping[str, Any]]:
    if not scores:
        return [_NOTHING]
    if every_metric:
        return scores
    main: dict[tuple[str, str], Mapping[str, Any]] = {}
    for score in scores:
        main.setdefault((score["language"], score.get("task", "")), score)
    return main.values()


def to_bytes(record: Record) -> bytes:
    """Return a record as the bytes of its file."""
    summary = _json(record.summary())
    content = vars(record) | {"attempts": [vars(attempt) for attempt in record.attempts]}
    body = f'"summary":{summary},\n"record":{_json(content)}}}\n'.encode()
    return f'{{"checksum":"{hashlib.sha256(body).hexdigest()}",\n'.encode() + body


def summary_of(content: bytes, path: object) -> dict[str, Any]:
    """Check a record file and return its summary only.

    Raises:
        BadRecord: a byte is missing or changed.
    """
    first, _, body = content.partition(b"\n")
    if first != f'{{"checksum":"{hashlib.sha256(body).hexdigest()}",'.encode():
        raise BadRecord(f"{path} fails its checksum: it is half-written or altered.")
    line = body.partition(b"\n")[0]
    summary: dict[str, Any] = json.loads(line[len(b'"summary":') : -1])
    return summary


def from_bytes(content: bytes, path: object) -> Record:
    """Check a record file and return the record.

    Raises:
        BadRecord: a byte is missing or changed, or the fields are those of another version.
    """
    summary_of(content, path)
    fields = json.loads(content)["record"]
    try:
        fields["attempts"] = [Attempt(**attempt) for attempt in fields["attempts"]]
        return Record(**fields)
    except (KeyError, TypeError) as error:
        raise BadRecord(f"{path} was written by another version of this code: {error}.") from error


def _json(value: Any) -> str:
    return json.dumps(_finite(value), separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def _finite(value: Any) -> Any:
    """Replace not-a-number and infinity, which JSON does not know, by null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value
