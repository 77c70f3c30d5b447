"""Measure the similarity of tasks: one tidy table, stored value by value, resumable."""

from __future__ import annotations

import hashlib
import io
import json
import math
import time
import tracemalloc
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd
from threadpoolctl import threadpool_limits

from helpers.errors import BadRecord, BadRows, HelpfulError, unknown
from helpers.files import write_atomic
from helpers.machine import cores
from helpers.similarity import catalogue, reliability
from helpers.similarity.arrays import scalar
from helpers.similarity.catalogue import Measure, Undefined
from helpers.similarity.weights import noise_ceiling

if TYPE_CHECKING:
    from torch import nn

    from helpers.models.encoders import Encoder
    from helpers.models.training import Tuned
    from helpers.similarity.checkpoints import Source
    from helpers.similarity.gather import Dyad, Gatherer, Options, Side
    from helpers.tasks import Task

__all__ = ["COLUMNS", "export", "matrix", "measure", "read", "to_csv"]

COLUMNS = (
    "intermediate",
    "target",
    "language",
    "measure",
    "family",
    "value",
    "half_a",
    "half_b",
    "second",
    "ceiling",
    "reliability",
    "reliability_within",
    "seed_reliability",
    "seed_reliability_within",
    "reliability_note",
    "n",
    "seconds",
    "gather_seconds",
    "passes",
    "memory_mb",
    "encoder",
    "seed",
    "status",
    "reason",
    "record",
)
MODES = ("stored", "missing", "always")
_NUMBERS = (
    "value half_a half_b second ceiling reliability reliability_within seed_reliability "
    "seed_reliability_within seconds gather_seconds memory_mb"
).split()
_COUNTED = (*_NUMBERS, "n", "passes", "seed")
_PARTS = ("all", "a", "b")
Names = Sequence["str | Task"]


def measure(
    tasks: Names | tuple[Names, Names],
    measures: Collection[str | Measure] | None = None,
    encoder: str | Encoder = "bundled",
    *,
    checkpoints: Source = None,
    languages: Sequence[str] = ("en",),
    seeds: Sequence[int] = (0, 1),
    parallel: str | Task | None = None,
    sentence_encoder: str | Encoder | None = None,
    language_head: nn.Module | None = None,
    early: Callable[[Tuned, Task, int], float] | None = None,
    options: Options | None = None,
    folder: str | Path | None = None,
    mode: Literal["stored", "missing", "always"] = "missing",
    workers: int = 2,
    progress: Callable[[int, int], None] | None = None,
) -> pd.DataFrame:
    """Measure how similar intermediates are to targets.

    Arrays are gathered once per checkpoint and task and kept; every value is stored when it is
    known, under a hash of what determines it. A second call computes only what is missing.

    Args:
        tasks: intermediates and targets, or one list that holds tasks of both roles.
        measures: names or measures; all of the catalogue by default.
        encoder: the study's encoder before any tuning, or its name.
        checkpoints: tuned encoders: a mapping from (task, seed), or a function of both, to a
            ``Tuned`` or a ``Checkpoint``. Measures that need one are undefined where it is missing.
        languages: ``"en"`` for training rows; other codes add the label measures on the target's
            development rows, and the cross-lingual measures on ``parallel``.
        seeds: the first gives ``value``; the second ``second`` and the ceilings.
        parallel: a bitext task for the cross-lingual measures.
        sentence_encoder: another encoder for ``sentence_embedding``; choose one that was not
            trained on any of the tasks.
        language_head: masked-language head of the encoder, from hidden states to pieces; see
            ``heads.language_head``.
        early: trains a tuned encoder briefly on a target and returns its English score; see
            ``early.Early``.
        options: how many rows are read.
        folder: where values and arrays are kept; by default ``similarity`` in the store of runs.
        mode: ``"stored"`` computes nothing, ``"missing"`` what is not stored, ``"always"`` all.
        workers: threads that compute measures, beside the one that gathers arrays.
        progress: called with (values done, values in all).

    Returns:
        One row per dyad, language and measure, with the columns ``COLUMNS``. ``status`` is
        ``"done"``, ``"undefined"`` (``reason`` says why), ``"missing"`` or ``"failed: why"``;
        ``value`` is NaN unless done. Nothing is imputed.

    Raises:
        UnknownName: a task, measure, mode or encoder that does not exist.
        HelpfulError: no intermediate or no target.
    """
    from helpers.similarity.gather import Gatherer

    if mode not in MODES:
        raise unknown("mode", mode, MODES)
    intermediates, targets = _roles(tasks)
    chosen = _chosen(measures)
    place = Path(folder) if folder is not None else default_place()
    gatherer = Gatherer(
        _encoder(encoder),
        [*intermediates, *targets],
        checkpoints=checkpoints,
        options=options,
        folder=place / "arrays",
        parallel_task=_task(parallel) if parallel is not None else None,
        sentence_encoder=_encoder(sentence_encoder) if sentence_encoder is not None else None,
        language_head=language_head,
        early=early,
    )
    jobs = _jobs(intermediates, targets, chosen, languages, seeds)
    run = _Run(gatherer, place / "values", mode, workers, progress or (lambda done, total: None))
    return _table(run.all(jobs), jobs, seeds, gatherer.encoder.name)


def _roles(tasks: Names | tuple[Names, Names]) -> tuple[list[Task], list[Task]]:
    """Return intermediates and targets."""
    if len(tasks) == 2 and not any(_is_task(part) for part in tasks):
        intermediates, targets = ([_task(t) for t in part] for part in tasks)  # type: ignore[union-attr]
    else:
        found = [_task(t) for t in tasks]  # type: ignore[arg-type]
        intermediates = [t for t in found if t.role == "intermediate"]
        targets = [t for t in found if t.role == "target"]
    if not intermediates or not targets:
        raise HelpfulError(
            f"{len(intermediates)} intermediates and {len(targets)} targets were given; a similarity "
            "needs at least one of each. Pass one list with both, or (intermediates, targets)."
        )
    return intermediates, targets


def _is_task(value: object) -> bool:
    from helpers.tasks import Task

    return isinstance(value, str | Task)


def _task(value: Any) -> Task:
    from helpers import tasks

    return tasks.get(value) if isinstance(value, str) else value


def _encoder(value: Any) -> Encoder:
    from helpers.models import encoders

    return encoders.load(value) if isinstance(value, str) else value


def _chosen(measures: Collection[str | Measure] | None) -> list[Measure]:
    wanted = catalogue.names() if measures is None else measures
    chosen = [catalogue.get(m) if isinstance(m, str) else m for m in wanted]
    for measure in chosen:
        catalogue.check(measure)  # one that was never registered may ask for what does not exist
    return chosen


def default_place() -> Path:
    """Return where values and arrays are kept unless a caller says otherwise."""
    from helpers.study.store import default_folder

    return default_folder() / "similarity"


@dataclass(frozen=True)
class _Job:
    """One value to be had: a measure of a dyad, or of a task with itself for its ceiling."""

    measure: Measure
    dyad: Dyad


def _jobs(
    intermediates: Sequence[Task],
    targets: Sequence[Task],
    measures: Sequence[Measure],
    languages: Sequence[str],
    seeds: Sequence[int],
) -> list[_Job]:
    """All values, those that share a checkpoint next to each other."""
    from helpers.similarity.gather import Dyad, Side

    jobs = []
    for seed in seeds[:2]:
        for i in intermediates:
            own = Side(i.name, seed)
            for language in languages:
                for t in targets:
                    dyad = Dyad(own, Side(t.name, seed), language)
                    jobs += [_Job(m, dyad) for m in measures if _fits(m, language, t)]
                jobs += [
                    _Job(m, Dyad(own, None, language))
                    for m in measures
                    if m.per == "language" and language != "en"
                ]
    return jobs + _self_jobs([*intermediates, *targets], measures, seeds)


def _fits(measure: Measure, language: str, target: Task) -> bool:
    if measure.per != "dyad":
        return False
    return language == "en" or (measure.languages and language in target.languages)


def _self_jobs(
    tasks: Iterable[Task], measures: Sequence[Measure], seeds: Sequence[int]
) -> list[_Job]:
    """Each task with itself under another seed: the most that a measure can show."""
    from helpers.similarity.gather import Dyad, Side

    if len(seeds) < 2:
        return []
    names = dict.fromkeys(task.name for task in tasks)
    return [
        _Job(m, Dyad(Side(name, seeds[0]), Side(name, seeds[1])))
        for name in names
        for m in measures
        if m.ceiling
    ]


@dataclass
class _Run:
    """One call: gathers arrays in this thread, computes values in others, stores each."""

    gatherer: Gatherer
    folder: Path
    mode: str
    workers: int
    progress: Callable[[int, int], None]
    _memory: dict[str, float] = field(default_factory=dict)

    def all(self, jobs: Sequence[_Job]) -> dict[_Job, dict[str, Any]]:
        """Return the record of every job."""
        records: dict[_Job, dict[str, Any]] = {}
        waiting: dict[_Job, Any] = {}
        workers = max(1, self.workers)
        # Each thread has its share of the cores: small decompositions in more threads only wait.
        share = max(1, cores() // workers)
        with threadpool_limits(share, user_api="blas"), ThreadPoolExecutor(workers) as pool:
            for job in jobs:
                found = self._prepared(
                    job, lambda: self._collect(waiting, records, len(jobs), keep=0)
                )
                if callable(found):
                    waiting[job] = pool.submit(found)
                else:
                    records[job] = found
                # Waiting jobs hold their arrays: no more of them than keep the threads busy.
                if len(waiting) > 4 * self.workers:
                    self._collect(waiting, records, len(jobs), keep=2 * self.workers)
                self.progress(len(records), len(jobs))
            self._collect(waiting, records, len(jobs), keep=0)
        return records

    def _collect(
        self,
        waiting: dict[_Job, Any],
        records: dict[_Job, dict[str, Any]],
        total: int,
        keep: int,
    ) -> None:
        for job in list(waiting)[: max(len(waiting) - keep, 0)]:
            records[job] = waiting.pop(job).result()
            self.progress(len(records), total)

    def _prepared(self, job: _Job, settle: Callable[[], None]) -> Any:
        """Return a record that is known already, or a function that computes it."""
        try:
            wanted = [self.gatherer.wanted(need, job.dyad) for need in job.measure.needs]
            key = _key(job.measure, [w.key for w in wanted])
            stored = None if self.mode == "always" else self._read(key)
            if stored is not None or self.mode == "stored":
                return stored or _blank("missing", "not computed yet", key)
            inputs = {need: self.gatherer.get(need, job.dyad) for need in job.measure.needs}
        except (Undefined, BadRows) as error:
            return _blank("undefined", str(error))
        except HelpfulError as error:  # a damaged checkpoint must not cost the rest of the table
            return _blank(f"failed: {type(error).__name__}: {error}", "")
        if job.measure.name not in self._memory and not tracemalloc.is_tracing():
            settle()  # what other threads allocate would be counted as this measure's memory
            self._profile(job.measure, inputs)
        return lambda: self._computed(job.measure, inputs, key)

    def _profile(self, measure: Measure, inputs: Mapping[str, Any]) -> None:
        """Note the memory that a measure allocates, once: tracing it each time would be slow."""
        tracemalloc.start()
        try:
            measure.function(*(inputs[need].get("all") for need in measure.needs))
        except Exception:  # the value itself is computed, and its error recorded, elsewhere
            return
        finally:
            self._memory[measure.name] = tracemalloc.get_traced_memory()[1] / 1e6
            tracemalloc.stop()

    def _computed(self, measure: Measure, inputs: Mapping[str, Any], key: str) -> dict[str, Any]:
        splits = any(parts.splits for parts in inputs.values())
        record = _blank("done", "; ".join(p.note for p in inputs.values() if p.note), key)
        record |= _costs(inputs) | {"memory_mb": self._memory.get(measure.name, math.nan)}
        for part, column in zip(_PARTS, ("value", "half_a", "half_b"), strict=True):
            if part != "all" and not splits:
                continue
            start = time.perf_counter()
            try:
                arrays = [inputs[need].get(part) for need in measure.needs]
                record[column] = scalar(measure.function(*arrays))
            except HelpfulError as error:
                if part == "all":
                    # Kept like a value: the same arrays would only fail the same way again.
                    record |= _undefined(error)
                    break
                record["reason"] = "; ".join(filter(None, [record["reason"], f"half: {error}"]))
            except Exception as error:  # a reader's own measure may fail in any way
                return record | {"status": f"failed: {type(error).__name__}: {error}"}
            if part == "all":
                record["seconds"] = time.perf_counter() - start
        self._write(key, record)
        return record

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.json"

    def _read(self, key: str) -> dict[str, Any] | None:
        try:
            content = json.loads(self._path(key).read_bytes())
        except FileNotFoundError:
            return None
        except ValueError:
            return None  # half-written by hand or damaged: computed again
        body, checksum = content.get("record"), content.get("checksum")
        if not isinstance(body, dict) or checksum != _checksum(body):
            return None
        return {k: math.nan if v is None else v for k, v in body.items()}

    def _write(self, key: str, record: Mapping[str, Any]) -> None:
        body = {k: None if _is_nan(v) else v for k, v in record.items()}
        content = {"record": body, "checksum": _checksum(body)}
        write_atomic(self._path(key), json.dumps(content, indent=1).encode())


def _key(measure: Measure, arrays: Sequence[str]) -> str:
    return hashlib.sha256(repr((measure.key, list(arrays))).encode()).hexdigest()


def _checksum(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def _blank(status: str, reason: str, key: str = "") -> dict[str, Any]:
    numbers = ("value", "half_a", "half_b", "seconds", "gather_seconds", "memory_mb")
    facts = dict.fromkeys(numbers, math.nan)
    return facts | {"n": 0, "passes": 0, "status": status, "reason": reason, "record": key}


def _undefined(error: Exception) -> dict[str, Any]:
    numbers = dict.fromkeys(("value", "half_a", "half_b"), math.nan)
    return numbers | {"status": "undefined", "reason": str(error)}


def _costs(inputs: Mapping[str, Any]) -> dict[str, Any]:
    counts = [parts.count for parts in inputs.values() if parts.count is not None]
    return {
        "n": min(counts, default=0),
        "passes": sum(parts.passes for parts in inputs.values()),
        "gather_seconds": sum(parts.seconds for parts in inputs.values()),
    }


def _table(
    records: Mapping[_Job, Mapping[str, Any]],
    jobs: Sequence[_Job],
    seeds: Sequence[int],
    encoder: str,
) -> pd.DataFrame:
    """Join the records of both seeds and the ceilings into one row per dyad and measure."""
    rows = []
    for job in jobs:
        if job.dyad.intermediate.seed != seeds[0] or _is_self(job.dyad):
            continue
        target = job.dyad.target.task if job.dyad.target else ""
        rows.append(
            {"intermediate": job.dyad.intermediate.task, "target": target}
            | {"language": job.dyad.language, "measure": job.measure.name}
            | {"family": job.measure.family, "encoder": encoder, "seed": seeds[0]}
            | dict(records[job])
            | {"second": _second(records, job, seeds), "ceiling": _ceiling(records, job, seeds)}
        )
    table = pd.DataFrame(rows, columns=[c for c in COLUMNS if "reliability" not in c])
    table = table.merge(reliability.summarise(table), on=["measure", "language"], how="left")
    table = table[list(COLUMNS)].astype(dict.fromkeys(_NUMBERS, "float64"))
    order = {name: place for place, name in enumerate(dict.fromkeys(table["measure"]))}
    by_measure = table["measure"].map(order)
    return table.iloc[by_measure.argsort(kind="stable")].reset_index(drop=True)


def _is_self(dyad: Dyad) -> bool:
    return dyad.target is not None and dyad.target.seed != dyad.intermediate.seed


def _value(records: Mapping[_Job, Mapping[str, Any]], job: _Job) -> float:
    record = records.get(job)
    return float(record["value"]) if record is not None else math.nan


def _second(records: Mapping[_Job, Mapping[str, Any]], job: _Job, seeds: Sequence[int]) -> float:
    """Value of the same measure with the other seed's samples and checkpoints."""
    if len(seeds) < 2:
        return math.nan
    return _value(records, _Job(job.measure, _with_seed(job.dyad, seeds[1])))


def _with_seed(dyad: Dyad, seed: int) -> Dyad:
    from helpers.similarity.gather import Dyad, Side

    target = Side(dyad.target.task, seed) if dyad.target else None
    return Dyad(Side(dyad.intermediate.task, seed), target, dyad.language)


def _ceiling(records: Mapping[_Job, Mapping[str, Any]], job: _Job, seeds: Sequence[int]) -> float:
    """Noise ceiling of a dyad from each task's similarity to itself; NaN where one is unknown."""
    if not job.measure.ceiling or len(seeds) < 2 or job.dyad.target is None:
        return math.nan
    own = [
        _value(records, _Job(job.measure, _against_itself(side, seeds)))
        for side in (job.dyad.intermediate, job.dyad.target)
    ]
    return math.nan if any(map(math.isnan, own)) else noise_ceiling(*own)


def _against_itself(side: Side, seeds: Sequence[int]) -> Dyad:
    from helpers.similarity.gather import Dyad, Side

    return Dyad(Side(side.task, seeds[0]), Side(side.task, seeds[1]))


def matrix(
    table: pd.DataFrame, measure: str, column: str = "value", language: str = "en"
) -> pd.DataFrame:
    """Return one measure as a matrix.

    Args:
        table: what ``measure`` returned.
        measure: name of the measure.
        column: which column to show, such as ``"value"`` or ``"half_a"``.
        language: language of the target's rows.

    Returns:
        Intermediates in rows and targets in columns, in the order of the table; NaN where the
        measure is not defined.

    Raises:
        UnknownName: a measure that the table does not hold.
    """
    part = table[(table["measure"] == measure) & (table["language"] == language)]
    if part.empty:
        raise unknown("measure in this table", measure, table["measure"].unique())
    wide = part.pivot(index="intermediate", columns="target", values=column)
    order = dict.fromkeys(part["intermediate"]), dict.fromkeys(part["target"])
    return wide.reindex(index=list(order[0]), columns=list(order[1]))


def export(table: pd.DataFrame, folder: str | Path) -> list[Path]:
    """Write a table, and each of its measures as a matrix in CSV.

    Args:
        table: what ``measure`` returned.
        folder: where to; made if needed.

    Returns:
        The files: ``table.parquet``, and ``<measure>.csv`` (``<measure>.<language>.csv`` for rows
        that are not English; a measure per language has intermediates in rows, languages in columns).
        A measure without any value has no file.
    """
    place = Path(folder)
    files = [place / "table.parquet"]
    write_atomic(files[0], table.to_parquet(index=False, compression="zstd"))
    known = table[table["value"].notna()]  # a matrix of nothing would say nothing
    for name, part in known[known["target"] == ""].groupby("measure", sort=False):
        wide = part.pivot(index="intermediate", columns="language", values="value")
        files.append(_csv(wide, place / f"{name}.csv"))
    dyads = known.loc[known["target"] != "", ["measure", "language"]].drop_duplicates()
    for name, language in dyads.itertuples(index=False):
        suffix = "" if language == "en" else f".{language}"
        wide = matrix(table[table["target"] != ""], name, language=language)
        files.append(_csv(wide, place / f"{name}{suffix}.csv"))
    return files


def to_csv(table: pd.DataFrame, path: str | Path) -> Path:
    """Write a table as one CSV file, whole or not at all; missing values are empty."""
    content = table.to_csv(index=False, float_format="%.8g", lineterminator="\n")
    write_atomic(Path(path), content.encode())
    return Path(path)


def _csv(wide: pd.DataFrame, path: Path) -> Path:
    write_atomic(path, wide.to_csv(float_format="%.8g", lineterminator="\n").encode())
    return path


def read(path: str | Path) -> pd.DataFrame:
    """Read a table that ``export`` or ``to_csv`` wrote.

    Args:
        path: the CSV or parquet file, or the folder that holds ``table.parquet``.

    Returns:
        The columns ``COLUMNS``. Names and reasons stay the texts they are, "nan" and "null" among
        them; an empty number is NaN.

    Raises:
        BadRecord: the file is missing, cut off or no table, or a column of it is missing.
    """
    file = Path(path)
    file = file / "table.parquet" if file.is_dir() else file
    again = f"Take it from the repository, git checkout {file}, or measure and write it again."
    if not file.exists():
        raise BadRecord(f"{file} is not there; write it with helpers.similarity.export.")
    try:
        table = _from_csv(file) if file.suffix == ".csv" else pd.read_parquet(file)
    except (ValueError, OSError) as error:  # what pandas and pyarrow raise of a damaged file
        reason = str(error).splitlines()[0]
        raise BadRecord(f"{file} is damaged or cut off ({reason}). {again}") from error
    missing = [name for name in COLUMNS if name not in table.columns]
    if missing:
        raise BadRecord(f"{file} lacks the columns {', '.join(missing)}. {again}")
    return table[list(COLUMNS)]


def _from_csv(file: Path) -> pd.DataFrame:
    content = file.read_bytes()
    if not content.endswith(b"\n"):
        raise ValueError("its last line does not end")
    texts = dict.fromkeys((name for name in COLUMNS if name not in _COUNTED), str)
    empty = dict.fromkeys(_COUNTED, [""])
    return pd.read_csv(io.BytesIO(content), dtype=texts, keep_default_na=False, na_values=empty)
