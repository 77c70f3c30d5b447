"""The store: finished runs, checkpoints and logs in one folder, readable at any moment.

Layout of the folder (``data/store``, or wherever ``TRANSFER_STORE`` points)::

    records/ab/ab12....json      one record per run, written whole or not at all
    checkpoints/ab12.../         encoder after an intermediate stage, with checksums
    progress/ab12.../            state of an unfinished run, removed when it is done
    locks/ab12....lock           held by the process that works on an arm; safe to delete when none does
    logs/ab12....log             what happened in a run
    plans/                       plans that other processes work from
    known/                       what planning learnt of the data; safe to delete
    index.parquet                a copy of all summaries; safe to delete

A record file is one JSON object on three lines, so that its status can be read and checked without
parsing all of it: ``checksum`` (SHA-256 of every byte after the first line), ``summary`` (what the
index needs) and ``record``.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import time
import uuid
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import filelock
import pandas as pd

from helpers.errors import BadRecord, HelpfulError
from helpers.files import drop_folder, sync_folder, write_atomic
from helpers.models.settings import Outcome

__all__ = ["FINISHED", "SCORE_COLUMNS", "Record", "Store", "default_folder", "read_export"]

FINISHED = ("done", "collapsed", "not applicable")
_NAMES = ("run", "stage", "encoder", "condition", "intermediate", "target")
_COUNTS = ("n", "seed", "rows_trained")
_NUMBERS = ("value", "seconds", "peak_memory_mb")
SCORE_COLUMNS = (
    *_NAMES, "language", "split", "metric", "value", "n", "seed", "rows_trained", "seconds",
    "peak_memory_mb", "device", "commit", "versions", "data_source", "data_hash", "utc", "status",
)  # fmt: skip
_INDEX = {
    **dict.fromkeys(("run", "core", "stage", "encoder", "status"), "str"),
    **{"seconds": "float64", "tokens": "int64", "work": "float64", "device": "str"},
    **{"bytes": "int64", "changed": "int64"},
}
# A failed attempt is one row without a value, so that no failure disappears from a table.
_NOTHING = {"language": "", "split": "", "metric": "", "value": None, "n": 0}
_SWEEP_SECONDS = 3600


def default_folder() -> Path:
    """Return the folder of the store: ``TRANSFER_STORE``, or ``data/store`` of this project."""
    project = Path(__file__).resolve().parents[2]
    return Path(os.environ.get("TRANSFER_STORE") or project / "data" / "store").expanduser()


@dataclass(frozen=True)
class Record:
    """One run: what is asked of it and, once it is done, what came of each attempt.

    ``run`` is a hash of exactly what determines the result, ``core`` the same without the languages
    of its evaluation, ``spec`` all of it in full; ``work`` are the tokens that the plan expects.
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
    attempts: list[Outcome] = field(default_factory=list)
    provenance: Mapping[str, str] = field(default_factory=dict)
    work: float = 0.0

    @property
    def name(self) -> str:
        """Return a short description for a log or a progress line."""
        via = self.intermediate or self.condition
        return f"{self.target or self.stage} via {via} (seed {self.spec['seed']})"

    @property
    def status(self) -> str:
        """Return the status of the last attempt."""
        return self.attempts[-1].status

    def scores(self, every_metric: bool = True) -> list[dict[str, Any]]:
        """Return one mapping per score, keyed by ``SCORE_COLUMNS``, main metrics only on demand."""
        facts = {name: getattr(self, name) for name in _NAMES}
        facts |= {name: self.provenance.get(name, "") for name in ("commit", "versions", "utc")}
        everything = "; ".join(dict.fromkeys(self.sources.values()))
        rows = []
        for attempt in self.attempts:
            own = {name: getattr(attempt, name) for name in ("seed", "seconds", "device")}
            own |= {"peak_memory_mb": attempt.peak_memory_mb, "rows_trained": attempt.rows}
            main: set[tuple[str, str]] = set()
            for score in attempt.scores or [_NOTHING]:
                language, value = score["language"], score["value"]
                # The main metric of a language comes before its others.
                if (key := (language, score.get("task", ""))) in main and not every_metric:
                    continue
                main.add(key)
                known = (self.spec.get("evaluation") or {}).get(language, "")
                done = attempt.status == "done"
                rows.append(
                    facts
                    | own
                    | {name: score[name] for name in ("language", "split", "metric", "n")}
                    | {
                        "value": math.nan if value is None else value,
                        "data_source": score.get("data_source")
                        or self.sources.get(language, everything),
                        "data_hash": score.get("data_hash") or known,
                        "status": score.get("status", "done") if done else attempt.status,
                    }
                )
        return rows

    def to_bytes(self) -> bytes:
        """Return the record as the bytes of its file."""
        names = ("run", "core", "stage", "encoder", "status")
        summary = {name: getattr(self, name) for name in names} | {
            "seconds": round(sum(attempt.seconds for attempt in self.attempts), 3),
            "tokens": sum(attempt.tokens for attempt in self.attempts),
            "work": self.work * len(self.attempts),
            "device": self.attempts[-1].device,
        }
        body = f'"summary":{_json(summary)},\n"record":{_json(asdict(self))}}}\n'.encode()
        return f'{{"checksum":"{hashlib.sha256(body).hexdigest()}",\n'.encode() + body


def summary_of(content: bytes, path: object) -> dict[str, Any]:
    """Check the bytes of a record file and return its summary, or raise BadRecord."""
    first, _, body = content.partition(b"\n")
    if first != f'{{"checksum":"{hashlib.sha256(body).hexdigest()}",'.encode():
        raise BadRecord(f"{path} fails its checksum: it is half-written or altered.")
    summary: dict[str, Any] = json.loads(body.partition(b"\n")[0][len(b'"summary":') : -1])
    return summary


def record_of(content: bytes, path: object) -> Record:
    """Check the bytes of a record file and return the record, or raise BadRecord."""
    summary_of(content, path)
    fields = json.loads(content)["record"]
    try:
        fields["attempts"] = [Outcome(**attempt) for attempt in fields["attempts"]]
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
    return [_finite(item) for item in value] if isinstance(value, (list, tuple)) else value


class Store:
    """Records and checkpoints of runs, shared by any number of processes."""

    def __init__(self, folder: str | Path | None = None) -> None:
        """Open a store; the folder is made at the first write.

        Args:
            folder: where it lies; by default ``default_folder()``.
        """
        self.folder = Path(folder) if folder is not None else default_folder()
        self.plans = self.folder / "plans"
        self.rejected: dict[str, str] = {}
        self._index = pd.DataFrame(columns=list(_INDEX)).astype(_INDEX)
        self._known: dict[str, tuple[int, int]] = {}
        self._opened = False

    def __repr__(self) -> str:
        """Return the folder, for a notebook."""
        return f"Store({str(self.folder)!r})"

    # Records

    def path(self, run: str) -> Path:
        """Return where the record of a run lies, or will lie."""
        return self.folder / "records" / run[:2] / f"{run}.json"

    def write(self, record: Record) -> Path:
        """Write a record, whole or not at all; an older record of the run is replaced."""
        write_atomic(self.path(record.run), record.to_bytes())
        self.rejected.pop(record.run, None)
        return self.path(record.run)

    def read(self, run: str) -> Record | None:
        """Return the record of a run, None where there is none, or raise BadRecord."""
        path = self.path(run)
        return record_of(path.read_bytes(), path) if path.exists() else None

    def status(self, run: str) -> str:
        """Return the status of one run; "" where there is no record, or none that can be trusted."""
        path = self.path(run)
        try:
            return str(summary_of(path.read_bytes(), path)["status"])
        except (FileNotFoundError, BadRecord):
            return ""

    def runs(self, status: Collection[str] = FINISHED) -> set[str]:
        """Return the ids of all runs whose record has one of these statuses."""
        index = self.index()
        return set(index.loc[index["status"].isin(list(status)), "run"])

    def records(self, runs: Iterable[str]) -> Iterator[Record]:
        """Yield the records of these runs in order; absent and untrustworthy ones are left out."""
        for run in runs:
            try:
                record = self.read(run)
            except BadRecord as error:
                self._reject(run, str(error))
                continue
            if record is not None:
                yield record

    def scores(
        self,
        runs: Iterable[str] | None = None,
        *,
        stage: str = "target",
        every_metric: bool = False,
    ) -> pd.DataFrame:
        """Return one tidy table, a row per score, with the columns ``SCORE_COLUMNS``.

        Args:
            runs: ids of the runs wanted; all of the store by default.
            stage: ``"target"``, ``"intermediate"``, or "" for both.
            every_metric: also the metrics beside a task's main one.

        Returns:
            A DataFrame sorted by encoder, condition, intermediate, target, seed and language.
        """
        wanted = sorted(self.index()["run"]) if runs is None else dict.fromkeys(runs)
        rows = [
            row
            for record in self.records(wanted)
            if stage in ("", record.stage)
            for row in record.scores(every_metric)
        ]
        return tidy(pd.DataFrame(rows, columns=list(SCORE_COLUMNS)))

    def outcomes(self, runs: Iterable[str] | None = None) -> pd.DataFrame:
        """Return a row per attempt: English dev score, status, steps, tokens, seconds, notes."""
        facts = ("seed", "status", "steps", "rows", "tokens", "seconds", "device", "precision")
        rows = [
            {name: getattr(record, name) for name in _NAMES}
            | {"attempt": number}
            | {name: getattr(attempt, name) for name in facts}
            | {"dev": pd.Series(list(attempt.dev.values()), dtype=float).mean()}
            | {"notes": "; ".join(attempt.notes)}
            for record in self.records(sorted(self.index()["run"]) if runs is None else runs)
            for number, attempt in enumerate(record.attempts)
        ]
        return pd.DataFrame(rows, columns=[*_NAMES, "attempt", *facts, "dev", "notes"])

    def export(
        self, path: str | Path, runs: Iterable[str] | None = None, *, every_metric: bool = False
    ) -> Path:
        """Write the scores as ``<path>.parquet`` and a CSV twin, sorted, for a repository.

        Args:
            path: file name, with or without its suffix.
            runs: ids of the runs wanted; all of the store by default.
            every_metric: also the metrics beside a task's main one.

        Returns:
            The path of the parquet file.
        """
        table = self.scores(runs, stage="", every_metric=every_metric)
        target = Path(path).with_suffix(".parquet")
        write_atomic(target, table.to_parquet(index=False, compression="zstd"))
        write_atomic(target.with_suffix(".csv"), table.to_csv(index=False).encode())
        return target

    def summary(self) -> pd.DataFrame:
        """Return what is done, failed and collapsed, and what it took.

        Returns:
            A row per stage and status with runs, seconds and megabytes, and one for checkpoints.
        """
        index = self.index()
        status = index["status"].where(~index["status"].str.startswith("failed"), "failed")
        groups = index.assign(status=status, megabytes=index["bytes"] / 1e6)
        sums = {"seconds": ("seconds", "sum"), "megabytes": ("megabytes", "sum")}
        table = groups.groupby(["stage", "status"]).agg(runs=("run", "size"), **sums)
        files = [f for f in (self.folder / "checkpoints").rglob("*") if f.is_file()]
        rows = [["checkpoint", "kept", len(self.checkpoints()), 0.0, sum(map(_size, files)) / 1e6]]
        if self.rejected:
            rows.append(["", "rejected", len(self.rejected), 0.0, 0.0])
        table = table.reset_index()
        more = pd.DataFrame(rows, columns=list(table.columns))
        return pd.concat([table, more] if len(table) else [more], ignore_index=True).round(1)

    # Checkpoints and unfinished work

    def checkpoint(self, run: str) -> Path | None:
        """Return the folder of a run's checkpoint, or None where there is none.

        A checkpoint has its name only once it is whole; its checksums are compared when it is read.
        """
        folder = self.folder / "checkpoints" / run
        return folder if folder.is_dir() else None

    def save_checkpoint(self, run: str, fill: Callable[[Path], object]) -> Path:
        """Let a function fill a folder, and give that its name once it is whole."""
        folder = self.folder / "checkpoints" / run
        unfinished = folder.with_name(f".{run}.{uuid.uuid4().hex}.tmp")
        unfinished.mkdir(parents=True)
        try:
            fill(unfinished)
            self.drop_checkpoint(run)
            os.replace(unfinished, folder)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
        sync_folder(folder.parent)
        return folder

    def drop_checkpoint(self, run: str) -> None:
        """Delete a checkpoint; a process that is reading it keeps what it has opened."""
        drop_folder(self.folder / "checkpoints" / run)

    def checkpoints(self) -> set[str]:
        """Return the ids of all runs that have a checkpoint folder."""
        folder = self.folder / "checkpoints"
        return {p.name for p in folder.glob("[!.]*")} if folder.is_dir() else set()

    def progress(self, run: str) -> Path:
        """Return the folder for the state of an unfinished run."""
        return self.folder / "progress" / run

    def drop_progress(self, run: str) -> None:
        """Forget the state of an unfinished run."""
        shutil.rmtree(self.progress(run), ignore_errors=True)

    def log(self, run: str) -> Path:
        """Return the log file of a run."""
        return self.folder / "logs" / f"{run}.log"

    @contextmanager
    def lock(self, arm: str) -> Iterator[bool]:
        """Hold an arm, so that processes that share a store do not do it twice; False: another does.

        The kernel frees the lock when its holder ends, however it ends. On a file system without such
        locks filelock falls back to a file, which stays behind when its holder dies on another machine:
        there, delete the folder ``locks`` before starting again.
        """
        lock = filelock.FileLock(self._lock(arm))
        try:
            lock.acquire(blocking=False)
        except filelock.Timeout:
            yield False
            return
        try:
            yield True
        finally:
            lock.release()

    def held(self, arm: str) -> bool:
        """Return whether a process works on an arm."""
        file = self.folder / "locks" / f"{arm}.lock"
        if not os.access(file, os.W_OK):  # there is none, or the store may only be read
            return False
        with self.lock(arm) as mine:
            return not mine

    def _lock(self, arm: str) -> Path:
        path = self.folder / "locks" / f"{arm}.lock"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        except OSError as error:
            raise HelpfulError(
                f"the store {self.folder} cannot be written ({error.strerror}); set TRANSFER_STORE to "
                "a folder that can. What is stored there can still be read."
            ) from error
        return path

    def sweep(self) -> int:
        """Delete what killed processes left half-written; return how many things that were.

        Nothing is deleted while any process works on this store, nor within an hour: another may be
        about to begin.
        """
        if any(self.held(path.stem) for path in (self.folder / "locks").glob("*.lock")):
            return 0
        names = ("records", "checkpoints", "plans")
        found = [entry for name in names for entry in (self.folder / name).rglob(".*")]
        left = [e for e in found if e.lstat().st_mtime < time.time() - _SWEEP_SECONDS]
        for entry in left:
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink(missing_ok=True)
        return len(left)

    # Index

    def index(self) -> pd.DataFrame:
        """Return one row per record: run, core, stage, encoder, status, seconds, tokens, device.

        Only files that changed since the last look are read and checked, so that a store of a
        hundred thousand records is surveyed in seconds. Records that fail their checksum are left
        out, named once in a warning and kept in ``rejected``.
        """
        copy = self.folder / "index.parquet"
        if not self._opened:
            self._opened = True
            try:  # It is only a copy of the summaries, so errors end it.
                self._index = pd.read_parquet(copy)[list(_INDEX)].astype(_INDEX)
                stamps = zip(self._index["bytes"], self._index["changed"], strict=True)
                self._known = dict(zip(self._index["run"], stamps, strict=True))
            except (OSError, ValueError, KeyError):
                pass
        present = dict(self._scan())
        changed = [run for run, facts in present.items() if self._known.get(run) != facts]
        gone = [run for run in self._known if run not in present]
        if changed or gone:
            fresh = [row for run in changed if (row := self._look(run, present[run]))]
            keep = self._index[~self._index["run"].isin({*changed, *gone})]
            found = pd.DataFrame(fresh, columns=list(_INDEX)).astype(_INDEX)
            self._index = pd.concat([keep, found], ignore_index=True) if len(keep) else found
            self._known = present
        if len(changed) + len(gone) > 100:
            try:
                write_atomic(copy, self._index.to_parquet(index=False, compression="zstd"))
            except HelpfulError:
                pass  # Without the copy the next look only takes longer.
        return self._index

    def _scan(self) -> Iterator[tuple[str, tuple[int, int]]]:
        records = self.folder / "records"
        for shard in os.scandir(records) if records.is_dir() else ():
            for entry in os.scandir(shard):
                if entry.name.endswith(".json") and not entry.name.startswith("."):
                    facts = entry.stat()
                    yield entry.name[:-5], (facts.st_size, facts.st_mtime_ns)

    def _look(self, run: str, facts: tuple[int, int]) -> dict[str, Any] | None:
        path = self.path(run)
        try:
            row = summary_of(path.read_bytes(), path)
        except FileNotFoundError:
            return None
        except BadRecord as error:
            self._reject(run, str(error))
            return None
        self.rejected.pop(run, None)
        return row | {"bytes": facts[0], "changed": facts[1]}

    def _reject(self, run: str, why: str) -> None:
        if self.rejected.get(run) != why:
            warnings.warn(f"{why} It counts as missing and will be redone.", stacklevel=4)
        self.rejected[run] = why
        self._index = self._index[self._index["run"] != run]


def tidy(table: pd.DataFrame) -> pd.DataFrame:
    """Give a table of scores its column types and its order."""
    kinds = dict.fromkeys(SCORE_COLUMNS, "str") | dict.fromkeys(_NUMBERS, "float64")
    order = ["encoder", "condition", "intermediate", "target", "stage", "seed", "language", "run"]
    typed = table.astype(kinds | dict.fromkeys(_COUNTS, "int64"))
    return typed.sort_values(order, kind="stable", ignore_index=True)


def read_export(path: str | Path) -> pd.DataFrame:
    """Read scores that ``Store.export`` wrote, or raise BadRecord."""
    try:
        table = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise BadRecord(
            f"{path} is damaged ({error}); get it again: git checkout {path}"
        ) from error
    missing = [name for name in SCORE_COLUMNS if name not in table.columns]
    if missing:
        raise BadRecord(f"{path} lacks the columns {', '.join(missing)}; export it again.")
    return tidy(table[list(SCORE_COLUMNS)])


def free_bytes(folder: Path) -> int:
    """Return the bytes that can still be written below a folder, which need not exist yet."""
    folder = folder.absolute()
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0  # It vanished meanwhile.
