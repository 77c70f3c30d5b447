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

import functools
import hashlib
import json
import math
import os
import shutil
import time
import uuid
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import filelock
import pandas as pd

from helpers.errors import BadRecord, HelpfulError
from helpers.files import drop_folder, write_atomic
from helpers.models import Outcome

if TYPE_CHECKING:
    from helpers.study.plan import Plan

FINISHED = ("done", "collapsed", "not applicable")
NAMES = ("run", "stage", "encoder", "condition", "intermediate", "target")
SCORE_COLUMNS = (
    *NAMES, "language", "split", "metric", "value", "n", "seed", "rows_trained", "seconds",
    "peak_memory_mb", "device", "commit", "versions", "data_source", "data_hash", "utc", "status",
)  # fmt: skip
INDEX = {
    **dict.fromkeys(("run", "core", "stage", "encoder", "status"), "str"),
    **{"seconds": "float64", "work": "float64", "device": "str"},
    **{"bytes": "int64", "changed": "int64"},
}
# A failed attempt is one row without a value, so that no failure disappears from a table.
NOTHING = {"language": "", "split": "", "metric": "", "value": None, "n": 0}
SWEEP_SECONDS = 3600
AGAIN = "the same command, in mode 'missing', goes on"  # mode 'always' begins again


def default_folder() -> Path:
    """Return the folder of the store: ``TRANSFER_STORE``, or ``data/store`` of this project."""
    project = Path(__file__).resolve().parents[2]
    return Path(os.environ.get("TRANSFER_STORE") or project / "data" / "store").expanduser()


def digest(text: str) -> str:
    """Return 16 hexadecimal digits that stand for a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def stamp_of(place: Path, pattern: str = "*") -> str:
    """Return a stamp of names, sizes and times of a file, or of all files below a folder."""
    facts = [(str(p), p.stat()) for p in (place, *place.rglob(pattern)) if p.is_file()]
    return digest(repr((place, sorted((p, s.st_size, s.st_mtime_ns) for p, s in facts))))


@functools.cache
def code_stamp() -> str:
    """Return a stamp of this package's code."""
    return stamp_of(Path(__file__).resolve().parents[1], "*.py")


@dataclass(frozen=True)
class Record:
    """One run: what is asked of it and, once it is done, what came of each attempt."""

    run: str  # a hash of exactly what determines the result
    core: str  # the same without the languages of its evaluation
    stage: str
    encoder: str
    condition: str
    intermediate: str
    target: str
    spec: Mapping[str, Any]  # all that the hash stands for, in full
    attempts: list[Outcome] = field(default_factory=list)
    provenance: Mapping[str, str] = field(default_factory=dict)
    work: float = 0.0  # tokens that the plan expects

    @property
    def name(self) -> str:
        """Return a short description for a log or a progress line."""
        via = self.intermediate or self.condition
        return f"{self.target or self.stage} via {via} (seed {self.spec['seed']})"

    @property
    def status(self) -> str:
        """Return the status of the last attempt."""
        return self.attempts[-1].status

    def scores(self) -> list[dict[str, Any]]:
        """Return one mapping per language and main metric, keyed by ``SCORE_COLUMNS``."""
        facts = {name: getattr(self, name) for name in NAMES}
        facts |= {name: self.provenance.get(name, "") for name in ("commit", "versions", "utc")}
        hashes, rows = self.spec.get("evaluation") or {}, []
        for attempt in self.attempts:
            own = {n: getattr(attempt, n) for n in ("seed", "seconds", "device", "peak_memory_mb")}
            own |= facts | {"rows_trained": attempt.rows}
            source = "; ".join(dict.fromkeys(attempt.sources.values()))
            # The main metric of a language, or of a task, comes before its others.
            main: dict[Any, dict[str, Any]] = {}
            for score in attempt.scores or [NOTHING]:
                main.setdefault((score["language"], score.get("task")), score)
            for score in main.values():
                row = {name: score[name] for name in ("language", "split", "metric", "n")}
                row["value"] = math.nan if score["value"] is None else score["value"]
                row["data_source"] = score.get("data_source") or source
                row["data_hash"] = score.get("data_hash") or hashes.get(score["language"], "")
                done = attempt.status == "done"
                row["status"] = score.get("status", "done") if done else attempt.status
                rows.append(own | row)
        return rows

    def to_bytes(self) -> bytes:
        """Return the record as the bytes of its file."""
        all_of, last = self.attempts, self.attempts[-1]
        summary = {name: getattr(self, name) for name in ("run", "core", "stage", "encoder")}
        summary |= {"status": last.status, "seconds": round(sum(a.seconds for a in all_of), 3)}
        summary |= {"work": self.work * len(all_of), "device": last.device}
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
    fields.pop("sources", None)  # of an earlier version: each score has its own
    try:
        fields["attempts"] = [Outcome(**attempt) for attempt in fields["attempts"]]
        return Record(**fields)
    except (KeyError, TypeError) as error:
        raise BadRecord(f"{path} was written by another version of this code: {error}.") from error


def _json(value: Any) -> str:
    """Return JSON, with null for not-a-number and infinity, which it does not know."""
    finite = json.loads(json.dumps(value), parse_constant=lambda name: None)
    return json.dumps(finite, separators=(",", ":"), ensure_ascii=False)


class Store:
    """Records and checkpoints of runs, shared by any number of processes; made at the first write."""

    def __init__(self, folder: str | Path | None = None) -> None:
        self.folder = Path(folder) if folder is not None else default_folder()
        self.plans = self.folder / "plans"
        self.rejected: dict[str, str] = {}
        self._index: pd.DataFrame | None = None
        self._known: dict[str, tuple[int, int]] = {}

    # --- Records ----------------------------------------------------------------------------------
    def path(self, run: str) -> Path:
        """Return where the record of a run lies, or will lie."""
        return self.folder / "records" / run[:2] / f"{run}.json"

    def write(self, record: Record) -> Path:
        """Write a record, whole or not at all; an older record of the run is replaced."""
        write_atomic(self.path(record.run), record.to_bytes())
        self.rejected.pop(record.run, None)
        return self.path(record.run)

    def status(self, run: str) -> str:
        """Return the status of one run; "" where there is no record, or none that can be trusted."""
        index = self.index()
        return next(iter(index.loc[index["run"] == run, "status"]), "")

    def runs(self) -> set[str]:
        """Return the ids of all runs that are finished."""
        index = self.index()
        return set(index.loc[index["status"].isin(FINISHED), "run"])

    def records(self, runs: Iterable[str]) -> Iterator[Record]:
        """Yield the records of these runs in order; absent and untrustworthy ones are left out."""
        yield from filter(None, (self._read(run, record_of) for run in runs))

    def _read(self, run: str, parse: Callable[[bytes, object], Any]) -> Any:
        """Return what a record's bytes say; None, and a warning once, where they cannot be trusted."""
        path = self.path(run)
        try:
            return parse(path.read_bytes(), path)
        except FileNotFoundError:  # it may have been set aside meanwhile
            return None
        except BadRecord as error:
            if self.rejected.get(run) != str(error):
                warnings.warn(f"{error} It counts as missing and will be redone.", stacklevel=4)
            self.rejected[run] = str(error)
            if self._index is not None:
                self._index = self._index[self._index["run"] != run]
            return None

    def scores(self, runs: Iterable[str] | None = None, *, stage: str = "target") -> pd.DataFrame:
        """Return the scores of some runs (default: all) and one stage ("": both), ``SCORE_COLUMNS``."""
        wanted = sorted(self.index()["run"]) if runs is None else dict.fromkeys(runs)
        records = (each for each in self.records(wanted) if stage in ("", each.stage))
        rows = [row for record in records for row in record.scores()]
        return tidy(pd.DataFrame(rows, columns=list(SCORE_COLUMNS)))

    def export(self, path: str | Path, runs: Iterable[str] | None = None) -> Path:
        """Write the scores of runs as ``<path>.parquet`` and a CSV twin, for a repository."""
        table, target = self.scores(runs, stage=""), Path(path).with_suffix(".parquet")
        write_atomic(target, table.to_parquet(index=False, compression="zstd"))
        write_atomic(target.with_suffix(".csv"), table.to_csv(index=False).encode())
        return target

    def summary(self) -> pd.DataFrame:
        """Return runs, seconds and megabytes by stage and status, and a row for checkpoints."""
        index = self.index()
        status = index["status"].where(~index["status"].str.startswith("failed"), "failed")
        groups = index.assign(status=status, megabytes=index["bytes"] / 1e6)
        sums = {"seconds": ("seconds", "sum"), "megabytes": ("megabytes", "sum")}
        table = groups.groupby(["stage", "status"]).agg(runs=("run", "size"), **sums)
        size = 0
        for file in (self.folder / "checkpoints").rglob("*"):
            with suppress(FileNotFoundError):  # It vanished meanwhile.
                size += file.stat().st_size * file.is_file()
        table.loc[("checkpoint", "kept"), :] = len(self.checkpoints()), 0.0, size / 1e6
        if self.rejected:
            table.loc[("", "rejected"), :] = len(self.rejected), 0.0, 0.0
        return table.astype({"runs": int}).round(1).reset_index()

    # --- Checkpoints and unfinished work ----------------------------------------------------------
    def checkpoint(self, run: str) -> Path | None:
        """Return the folder of a run's checkpoint, None without; checksums are compared on reading."""
        folder = self.folder / "checkpoints" / run
        return folder if folder.is_dir() else None

    def save_checkpoint(self, run: str, fill: Callable[[Path], object]) -> None:
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

    def drop_checkpoint(self, run: str) -> None:
        """Delete a checkpoint, if there is one."""
        drop_folder(self.folder / "checkpoints" / run)

    def checkpoints(self) -> set[str]:
        """Return the ids of all runs that have a checkpoint folder."""
        return {path.name for path in (self.folder / "checkpoints").glob("[!.]*")}

    def progress(self, run: str) -> Path:
        """Return the folder for the state of an unfinished run."""
        return self.folder / "progress" / run

    def log(self, run: str) -> Path:
        """Return the log file of a run."""
        return self.folder / "logs" / f"{run}.log"

    def kept(self, asked: str, look: Callable[[], Any]) -> Any:
        """Return what a look at data gives, as it was given before by the same code."""
        file = self.folder / "known" / f"{digest(f'{asked} {code_stamp()}')}.json"
        with suppress(OSError, ValueError):
            return json.loads(file.read_bytes())
        found = look()
        with suppress(HelpfulError):  # A store that cannot be written can still be planned for.
            write_atomic(file, json.dumps(found).encode())
        return found

    @contextmanager
    def lock(self, arm: str) -> Iterator[bool]:
        """Hold an arm, so that processes that share a store do not do it twice; False: another does."""
        # The kernel frees the lock when its holder ends, however it ends. On a file system without such
        # locks filelock falls back to a file, which stays behind when its holder dies on another
        # machine: there, delete the folder ``locks`` before starting again.
        lock = filelock.FileLock(self.folder / "locks" / f"{arm}.lock")
        try:
            (self.folder / "locks").mkdir(parents=True, exist_ok=True)
            with suppress(filelock.Timeout):
                lock.acquire(blocking=False)
        except OSError as error:
            said = f"the store {self.folder} cannot be written ({error.strerror}), only read"
            raise HelpfulError(f"{said}; set TRANSFER_STORE to a folder that can.") from error
        try:
            yield lock.is_locked
        finally:
            lock.release()

    def held(self, arm: str) -> bool:
        """Return whether a process works on an arm."""
        if not os.access(self.folder / "locks" / f"{arm}.lock", os.W_OK):
            return False  # There is none, or the store may only be read.
        with self.lock(arm) as mine:
            return not mine

    def sweep(self) -> int:
        """Delete what killed processes left half-written; return how many things that were."""
        # Not while any process works on this store, nor within an hour: one may be about to begin.
        if any(self.held(path.stem) for path in (self.folder / "locks").glob("*.lock")):
            return 0
        names = ("records", "checkpoints", "plans", "known")
        found = [entry for name in names for entry in (self.folder / name).rglob(".*")]
        left = [e for e in found if e.lstat().st_mtime < time.time() - SWEEP_SECONDS]
        for entry in left:
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink(missing_ok=True)
        return len(left)

    # --- Index ------------------------------------------------------------------------------------
    def index(self) -> pd.DataFrame:
        """Return one row per record with the columns ``INDEX``; damaged ones are warned of and left out."""
        copy, records = self.folder / "index.parquet", self.folder / "records"
        if self._index is None:
            self._index = pd.DataFrame(columns=list(INDEX)).astype(INDEX)
            with suppress(OSError, ValueError, KeyError):  # It is only a copy of the summaries.
                self._index = pd.read_parquet(copy)[list(INDEX)].astype(INDEX)
            stamps = zip(self._index["bytes"], self._index["changed"], strict=True)
            self._known = dict(zip(self._index["run"], stamps, strict=True))
        # Only files that changed since the last look are read: 100,000 records take seconds.
        present = {}
        for shard in os.scandir(records) if records.is_dir() else ():
            for entry in os.scandir(shard):
                if entry.name.endswith(".json") and not entry.name.startswith("."):
                    facts = entry.stat()
                    present[entry.name[:-5]] = facts.st_size, facts.st_mtime_ns
        changed = [run for run, facts in present.items() if self._known.get(run) != facts]
        gone = self._known.keys() - present.keys()
        fresh = []
        for run in changed:
            if row := self._read(run, summary_of):
                self.rejected.pop(run, None)
                fresh.append(row | dict(zip(("bytes", "changed"), present[run], strict=True)))
        if changed or gone:
            keep = self._index[~self._index["run"].isin({*changed, *gone})]
            found = pd.DataFrame(fresh, columns=list(INDEX)).astype(INDEX)
            self._index = pd.concat([keep, found], ignore_index=True)
            self._known = present
        if len(changed) + len(gone) > 100:
            with suppress(HelpfulError):  # Without the copy the next look only takes longer.
                write_atomic(copy, self._index.to_parquet(index=False, compression="zstd"))
        return self._index


# --- What of a plan is missing in a store; this is all there is to resuming -----------------------
def missing(plan: "Plan", store: Store, keep: bool) -> list[str]:
    """Return the runs of a plan that have to be done, in its order; failed ones among them."""
    over = store.runs() & plan.arm_of.keys()
    over |= stand_ins(plan, store, over).keys()
    saved, again = store.checkpoints(), set()
    # A finished stage is done again where its checkpoint is gone, and is needed or to be kept.
    for arm, runs in plan.arms.items():
        if runs[0] == arm and arm not in saved and (keep or not over.issuperset(runs[1:])):
            again.add(arm)
    return [run for run in plan.runs["run"] if run not in over or run in again]


def stand_ins(plan: "Plan", store: Store, over: set[str]) -> dict[str, str]:
    """Return, for runs without a record, a run that was done with more languages and answers them."""
    index, found = store.index(), {}
    index = index[index["run"].isin(store.runs() - over) & (index["stage"] == "target")]
    others = index.groupby("core")["run"].agg(list).to_dict()
    for run, core in zip(plan.runs["run"], plan.runs["core"], strict=True) if others else ():
        for record in store.records(others.get(core, ())) if run not in over else ():
            asked, had = plan.job(run).spec["evaluation"], record.spec["evaluation"]
            if all(had.get(language) == rows for language, rows in asked.items()):
                found[run] = record.run
    return found


def tidy(table: pd.DataFrame) -> pd.DataFrame:
    """Give a table of scores its column types and its order."""
    kinds = dict.fromkeys(SCORE_COLUMNS, "str")
    kinds |= dict.fromkeys(("value", "seconds", "peak_memory_mb"), "float64")
    kinds |= dict.fromkeys(("n", "seed", "rows_trained"), "int64")
    order = ["encoder", "condition", "intermediate", "target", "stage", "seed", "language", "run"]
    return table.astype(kinds).sort_values(order, kind="stable", ignore_index=True)


def read_export(path: str | Path) -> pd.DataFrame:
    """Read scores that ``Store.export`` wrote, or raise BadRecord."""
    try:
        table = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise BadRecord(f"{path} is damaged ({error}); git checkout {path}") from error
    if missing := [name for name in SCORE_COLUMNS if name not in table.columns]:
        raise BadRecord(f"{path} lacks the columns {', '.join(missing)}; export it again.")
    return tidy(table[list(SCORE_COLUMNS)])
