"""The store: finished runs, checkpoints, claims and logs in one folder, readable at any moment.

Layout of the folder (``data/store``, or wherever ``TRANSFER_STORE`` points)::

    records/ab/ab12....json      one record per run, written whole or not at all
    checkpoints/ab12.../         encoder after an intermediate stage, with checksums
    progress/ab12.../            state of an unfinished run, removed when it is done
    claims/ab12....json          who works on which run
    logs/ab12....log             what happened in a run
    plans/                       plans that other processes work from
    index.parquet                a copy of all summaries; safe to delete
"""

from __future__ import annotations

import os
import shutil
import uuid
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from helpers.errors import BadRecord, HelpfulError
from helpers.files import drop_folder, sync_folder, write_atomic
from helpers.study import locks
from helpers.study.records import (
    FINISHED,
    SCORE_COLUMNS,
    Record,
    from_bytes,
    summary_of,
    to_bytes,
)

__all__ = [
    "FINISHED",
    "SCORE_COLUMNS",
    "Store",
    "default_folder",
    "read_export",
    "scores",
    "summary",
]

_SWEEP_SECONDS = 3600
_FOLDERS = ("records", "checkpoints", "claims", "plans")
_INDEX = {
    "run": "str",
    "core": "str",
    "stage": "str",
    "encoder": "str",
    "status": "str",
    "seconds": "float64",
    "tokens": "int64",
    "work": "float64",
    "device": "str",
    "bytes": "int64",
    "changed": "int64",
}


def default_folder() -> Path:
    """Return the folder of the store: ``TRANSFER_STORE``, or ``data/store`` of this project."""
    project = Path(__file__).resolve().parents[2]
    return Path(os.environ.get("TRANSFER_STORE") or project / "data" / "store").expanduser()


class Store:
    """Records and checkpoints of runs, shared by any number of processes."""

    def __init__(self, folder: str | Path | None = None) -> None:
        """Open a store; the folder is made at the first write.

        Args:
            folder: where it lies; by default ``default_folder()``.
        """
        self.folder = Path(folder) if folder is not None else default_folder()
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
        """Write a record, whole or not at all; an older record of the run is replaced.

        Raises:
            StoreFull: the disk is full.
        """
        path = self.path(record.run)
        write_atomic(path, to_bytes(record))
        self.rejected.pop(record.run, None)
        return path

    def read(self, run: str) -> Record | None:
        """Return the record of a run, or None where there is none.

        Raises:
            BadRecord: the file fails its checksum; the text names it.
        """
        path = self.path(run)
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        return from_bytes(content, path)

    def status(self, run: str) -> str:
        """Return the status of one run; "" where there is no record, or none that can be trusted."""
        path = self.path(run)
        try:
            return str(summary_of(path.read_bytes(), path)["status"])
        except FileNotFoundError:
            return ""
        except BadRecord as error:
            self.rejected[run] = str(error)
            return ""

    def written(self, run: str) -> int:
        """Return when the record of a run was written, on the clock of ``now``; 0: never."""
        try:
            return self.path(run).stat().st_mtime_ns
        except FileNotFoundError:
            return 0

    def now(self) -> int:
        """Return the time in nanoseconds on the clock of the disk that holds the store."""
        self.folder.mkdir(parents=True, exist_ok=True)
        clock = self.folder / ".clock"
        clock.touch()
        os.utime(clock)
        return clock.stat().st_mtime_ns

    def index(self) -> pd.DataFrame:
        """Return one row per record: run, core, stage, encoder, status, seconds, tokens, device.

        Only files that changed since the last look are read and checked, so that a store of a
        hundred thousand records is surveyed in seconds. Records that fail their checksum are left
        out, named once in a warning and kept in ``rejected``.
        """
        if not self._opened:
            self._open_index()
        present = {run: facts for run, facts in self._scan()}
        changed = [run for run, facts in present.items() if self._known.get(run) != facts]
        gone = [run for run in self._known if run not in present]
        if changed or gone:
            fresh = [self._look(run, present[run]) for run in changed]
            keep = self._index[~self._index["run"].isin({*changed, *gone})]
            found = pd.DataFrame([row for row in fresh if row], columns=list(_INDEX)).astype(_INDEX)
            self._index = pd.concat([keep, found], ignore_index=True) if len(keep) else found
            self._known = present
            if len(changed) + len(gone) > 100:
                self._save_index()
        return self._index

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
        wanted = sorted(self.index()["run"]) if runs is None else list(dict.fromkeys(runs))
        rows = [
            row
            for record in self.records(wanted)
            if stage in ("", record.stage)
            for row in record.scores(every_metric)
        ]
        return tidy(pd.DataFrame(rows, columns=list(SCORE_COLUMNS)))

    def outcomes(self, runs: Iterable[str] | None = None) -> pd.DataFrame:
        """Return a row per attempt: English dev score, status, steps, tokens, seconds, notes."""
        wanted = sorted(self.index()["run"]) if runs is None else list(dict.fromkeys(runs))
        names = ("run", "stage", "encoder", "condition", "intermediate", "target")
        facts = ("seed", "status", "steps", "rows", "tokens", "seconds", "device", "precision")
        rows = [
            {name: getattr(record, name) for name in names}
            | {"attempt": number}
            | {name: getattr(attempt, name) for name in facts}
            | {"dev": _mean(attempt.dev.values()), "notes": "; ".join(attempt.notes)}
            for record in self.records(wanted)
            for number, attempt in enumerate(record.attempts)
        ]
        return pd.DataFrame(rows, columns=[*names, "attempt", *facts, "dev", "notes"])

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

    def summary(self, wanted: Collection[str] | None = None) -> pd.DataFrame:
        """Return what is done, failed, collapsed and missing, and what it took.

        Args:
            wanted: ids of the runs of a plan (``plan.runs["run"]``); then runs without a record
                count as missing.

        Returns:
            A row per stage and status with runs, seconds and megabytes, and one for checkpoints.
        """
        index = self.index()
        if wanted is not None:
            index = index[index["run"].isin(list(wanted))]
        status = index["status"].where(~index["status"].str.startswith("failed"), "failed")
        groups = index.assign(status=status, megabytes=index["bytes"] / 1e6)
        table = (
            groups.groupby(["stage", "status"], sort=True)
            .agg(runs=("run", "size"), seconds=("seconds", "sum"), megabytes=("megabytes", "sum"))
            .reset_index()
        )
        more = [_line("", "rejected", len(self.rejected), 0.0)] if self.rejected else []
        if wanted is not None:
            more.append(_line("", "missing", len(set(wanted)) - len(index), 0.0))
        saved = self.checkpoints()
        size = sum(size_of(self.folder / "checkpoints" / run) for run in saved) / 1e6
        more.append(_line("checkpoint", "kept", len(saved), size))
        return pd.concat([table, pd.DataFrame(more)], ignore_index=True).round(1)

    # Checkpoints

    def checkpoint(self, run: str) -> Path | None:
        """Return the folder of a run's checkpoint, or None where there is none.

        A checkpoint has its name only once it is whole; ``helpers.models.training.load_encoder`` compares
        its checksums when it reads it.
        """
        folder = self.folder / "checkpoints" / run
        return folder if folder.is_dir() else None

    def save_checkpoint(self, run: str, fill: Callable[[Path], object]) -> Path:
        """Write a checkpoint under another name, and give it its own once it is whole.

        Args:
            run: id of the run it belongs to.
            fill: writes safetensors files with their ``.sha256`` into the folder it is given.

        Raises:
            StoreFull: the disk is full; an older checkpoint of the run is untouched.
        """
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
        if not folder.is_dir():
            return set()
        return {name for name in os.listdir(folder) if not name.startswith(".")}

    # Unfinished work

    def progress(self, run: str) -> Path:
        """Return the folder for the state of an unfinished run."""
        return self.folder / "progress" / run

    def drop_progress(self, run: str) -> None:
        """Forget the state of an unfinished run."""
        shutil.rmtree(self.progress(run), ignore_errors=True)

    def claim(self, run: str) -> locks.Claim | None:
        """Claim a run, or return None while another living process works on it."""
        return locks.claim(self._claim(run))

    def claimed(self, run: str) -> bool:
        """Return whether a process that is not known to be dead works on a run."""
        return locks.held(self._claim(run))

    def log(self, run: str) -> Path:
        """Return the log file of a run."""
        return self.folder / "logs" / f"{run}.log"

    def sweep(self) -> int:
        """Delete what killed processes left half-written; return how many things that were.

        Nothing is deleted while any process works on this store, nor within an hour, as the disk
        counts it: another process may be about to begin.
        """
        claims = self.folder / "claims"
        if claims.is_dir() and any(locks.held(path) for path in claims.glob("[!.]*.json")):
            return 0
        found = [entry for name in _FOLDERS for entry in (self.folder / name).rglob(".*")]
        newest = self.now() - _SWEEP_SECONDS * 10**9 if found else 0
        left = [entry for entry in found if entry.lstat().st_mtime_ns < newest]
        for entry in left:
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink(missing_ok=True)
        return len(left)

    def _claim(self, run: str) -> Path:
        return self.folder / "claims" / f"{run}.json"

    # Index

    def _scan(self) -> Iterator[tuple[str, tuple[int, int]]]:
        records = self.folder / "records"
        if not records.is_dir():
            return
        for shard in os.scandir(records):
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
        new = self.rejected.get(run) != why
        self.rejected[run] = why
        self._index = self._index[self._index["run"] != run]
        if new:
            warnings.warn(f"{why} It counts as missing and will be redone.", stacklevel=4)

    def _open_index(self) -> None:
        """Start from the stored copy of all summaries; it is only a copy, so errors end it."""
        self._opened = True
        try:
            table = pd.read_parquet(self.folder / "index.parquet")
            self._index = table[list(_INDEX)].astype(_INDEX)
        except (OSError, ValueError, KeyError):
            return
        stamps = zip(self._index["bytes"], self._index["changed"], strict=True)
        self._known = dict(zip(self._index["run"], stamps, strict=True))

    def _save_index(self) -> None:
        try:
            content = self._index.to_parquet(index=False, compression="zstd")
            write_atomic(self.folder / "index.parquet", content)
        except HelpfulError:
            return  # Without the copy the next look only takes longer.


def scores(folder: str | Path | None = None, *, stage: str = "target") -> pd.DataFrame:
    """Return all scores of a store as one tidy table; see ``Store.scores``."""
    return Store(folder).scores(stage=stage)


def summary(folder: str | Path | None = None) -> pd.DataFrame:
    """Return what a store holds: done, failed, collapsed, seconds, megabytes."""
    return Store(folder).summary()


def tidy(table: pd.DataFrame) -> pd.DataFrame:
    """Give a table of scores its column types and its order."""
    numbers = {"value": "float64", "seconds": "float64", "peak_memory_mb": "float64"}
    counts = dict.fromkeys(("n", "seed", "rows_trained"), "int64")
    texts = {name: "str" for name in SCORE_COLUMNS if name not in {*numbers, *counts}}
    order = ["encoder", "condition", "intermediate", "target", "stage", "seed", "language", "run"]
    typed = table.astype(texts | numbers | counts)
    return typed.sort_values(order, kind="stable", ignore_index=True)


def read_export(path: str | Path) -> pd.DataFrame:
    """Read scores that ``Store.export`` wrote.

    Raises:
        BadRecord: a column is missing.
    """
    table = pd.read_parquet(path)
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


def size_of(folder: Path) -> int:
    """Return the bytes in all files below a folder; files that vanish meanwhile count nothing."""
    total = 0
    for file in folder.rglob("*"):
        try:
            total += file.stat().st_size if file.is_file() else 0
        except FileNotFoundError:
            continue
    return total


def _mean(values: Iterable[float | None]) -> float:
    found = [value for value in values if value is not None]
    return sum(found) / len(found) if found else float("nan")


def _line(stage: str, status: str, runs: int, megabytes: float) -> dict[str, Any]:
    return {
        "stage": stage,
        "status": status,
        "runs": runs,
        "seconds": 0.0,
        "megabytes": megabytes,
    }
