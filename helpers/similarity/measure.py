"""Measure the similarity of tasks: one tidy table, every value kept, and how far to trust it."""

from __future__ import annotations

import hashlib
import io
import json
import math
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from helpers.errors import BadRecord, BadRows, HelpfulError, unknown
from helpers.files import cores, write_atomic
from helpers.similarity import catalogue
from helpers.similarity.catalogue import Measure, Undefined
from helpers.similarity.reliability import noise_ceiling, summarise
from helpers.similarity.representations import principal, scalar

if TYPE_CHECKING:
    from torch import nn

    from helpers.models.encoders import Encoder
    from helpers.models.training import Tuned
    from helpers.similarity.inputs import Dyad, Inputs, Options, Parts
    from helpers.similarity.readers import Checkpoints
    from helpers.tasks import Task

_NAMES = ("intermediate", "target", "language", "measure", "family")
_VALUES = ("value", "half_a", "half_b", "second", "ceiling")
_TRUST = ("reliability", "reliability_within", "seed_reliability", "seed_reliability_within")
_NUMBERS = (*_VALUES, *_TRUST, "seconds", "gather_seconds")
_COUNTS = ("n", "passes", "seed")
COLUMNS = (
    *_NAMES,
    *_VALUES,
    *_TRUST,
    "reliability_note",
    "n",
    "seconds",
    "gather_seconds",
    "passes",
    "encoder",
    "seed",
    "status",
    "reason",
    "record",
)
MODES = ("stored", "missing", "always")
# Where nobody says how much is read: so many rows a task, and more while a measure is less reliable.
STEPS = (300, 600, 1200, 2000)
RELIABLE = 0.9
Names = Sequence["str | Task"]
Job = tuple[Measure, "Dyad"]


def measure(
    tasks: Names | tuple[Names, Names],
    measures: Collection[str | Measure] | None = None,
    encoder: str | Encoder = "bundled",
    *,
    checkpoints: Checkpoints = None,
    languages: Sequence[str] = ("en",),
    seeds: Sequence[int] = (0, 1),
    parallel: str | Task | None = None,
    sentence_encoder: str | Encoder | None = None,
    language_head: nn.Module | None = None,
    early: Callable[[Tuned, Task, int], float] | None = None,
    options: Options | None = None,
    folder: str | Path | None = None,
    mode: Literal["stored", "missing", "always"] = "missing",
    progress: bool = True,
) -> pd.DataFrame:
    """Measure how similar intermediates are to targets.

    It says first what reading will cost. Arrays are made once per checkpoint and task and kept; every
    value is stored when it is known, under a hash of what determines it. A second call computes only
    what is missing.

    Args:
        tasks: intermediates and targets, or one list that holds tasks of both roles.
        measures: names or measures; all of the catalogue by default.
        encoder: the study's encoder before any tuning, or its name.
        checkpoints: tuned encoders: a mapping from (task, seed), or a function of both, to a
            ``Tuned`` or a ``readers.Checkpoint``. Measures that need one are undefined without.
        languages: ``"en"`` for training rows; other codes add the label measures on the target's
            development rows, and the cross-lingual measures on ``parallel``.
        seeds: the first gives ``value``; the second ``second`` and the ceilings.
        parallel: a bitext task for the cross-lingual measures.
        sentence_encoder: another encoder for ``sentence_embedding``; choose one that was not
            trained on any of the tasks.
        language_head: masked-language head of the encoder; see ``readers.language_head``.
        early: trains a tuned encoder briefly on a target and returns its English score; see
            ``readers.Early``.
        options: how many rows are read. By default 300 a task, then twice as many, up to 2,000, for
            the measures whose halves are not yet reliable (.9 over at least five dyads).
        folder: where values and arrays are kept; by default ``similarity`` in the store of runs.
        mode: ``"stored"`` computes nothing, ``"missing"`` what is not stored, ``"always"`` all.
        progress: say the cost before, and count values meanwhile.

    Returns:
        One row per dyad, language and measure, with the columns ``COLUMNS``. ``status`` is
        ``"done"``, ``"undefined"`` (``reason`` says why), ``"missing"`` or ``"failed: why"``;
        ``value`` is NaN unless done. Nothing is imputed.

    Raises:
        UnknownName: a task, measure, array, mode or encoder that does not exist.
        HelpfulError: no intermediate or no target.
    """
    from helpers.similarity.inputs import Inputs, Options

    if mode not in MODES:
        raise unknown("mode", mode, MODES)
    intermediates, targets = _roles(tasks)
    chosen = catalogue.chosen(measures)
    plain, other = _encoder(encoder), sentence_encoder and _encoder(sentence_encoder)
    place = Path(folder) if folder is not None else default_place()
    values = _Values(place / "values.jsonl")
    parallel_task = _task(parallel) if parallel is not None else None

    def once(wanted: Sequence[Measure], size: Options) -> tuple[pd.DataFrame, Inputs]:
        study = Inputs(
            plain,
            [*intermediates, *targets],
            checkpoints=checkpoints,
            options=size,
            folder=place / "arrays",
            parallel_task=parallel_task,
            sentence_encoder=other or None,
            language_head=language_head,
            early=early,
        )
        jobs = _jobs(intermediates, targets, wanted, languages, seeds)
        records = _records(study, jobs, values, mode, progress)
        return _table(records, jobs, seeds, plain.name), study

    if options is not None:
        return once(chosen, options)[0]
    table, study = once(chosen, Options.sized(STEPS[0]))
    for rows in STEPS[1:]:
        # Gradients are taken on so few rows that no more are read for them.
        weak = table.loc[
            (table["reliability"] < RELIABLE) & (table["family"] != "weights"), "measure"
        ]
        again = [m for m in chosen if m.name in set(weak)]
        if not again or not study.full():
            break
        if progress:
            low = ", ".join(m.name for m in again)
            print(f"reading {rows:,} rows a task: not reliable yet: {low}", file=sys.stderr)
        more, study = once(again, Options.sized(rows))
        if (more["status"] == "missing").any():  # nothing is computed in this mode
            break
        table = pd.concat([table[~table["measure"].isin(set(weak))], more])
        places = {m.name: place for place, m in enumerate(chosen)}
        order = table["measure"].map(places).argsort(kind="stable")
        table = table.iloc[order].reset_index(drop=True)
    return table


def _roles(tasks: Names | tuple[Names, Names]) -> tuple[list[Task], list[Task]]:
    """Return intermediates and targets."""
    from helpers.tasks import Task

    if len(tasks) == 2 and not any(isinstance(part, str | Task) for part in tasks):
        intermediates, targets = ([_task(t) for t in part] for part in tasks)  # type: ignore[union-attr]
    else:
        found = [_task(t) for t in tasks]
        intermediates = [t for t in found if t.role == "intermediate"]
        targets = [t for t in found if t.role == "target"]
    if not intermediates or not targets:
        raise HelpfulError(
            f"{len(intermediates)} intermediates and {len(targets)} targets were given; a similarity "
            "needs at least one of each. Pass one list with both, or (intermediates, targets)."
        )
    return intermediates, targets


def _task(value: Any) -> Task:
    from helpers import tasks

    return tasks.get(value) if isinstance(value, str) else value


def _encoder(value: Any) -> Encoder:
    from helpers.models import encoders

    return encoders.load(value) if isinstance(value, str) else value


def default_place() -> Path:
    """Return where values and arrays are kept unless a caller says otherwise."""
    from helpers.study.store import default_folder

    return default_folder() / "similarity"


def _jobs(
    intermediates: Sequence[Task],
    targets: Sequence[Task],
    measures: Sequence[Measure],
    languages: Sequence[str],
    seeds: Sequence[int],
) -> list[Job]:
    """All values, those that share a checkpoint next to each other."""
    from helpers.similarity.inputs import Dyad, Side

    jobs: list[Job] = []
    for seed in seeds[:2]:
        for i in intermediates:
            for language in languages:
                for t in targets:
                    dyad = Dyad(Side(i.name, seed), Side(t.name, seed), language)
                    fits = language == "en" or language in t.languages
                    jobs += [
                        (m, dyad)
                        for m in measures
                        if m.per == "dyad" and fits and (language == "en" or m.languages)
                    ]
                alone = Dyad(Side(i.name, seed), None, language)
                jobs += [(m, alone) for m in measures if m.per == "language" and language != "en"]
    if len(seeds) > 1:
        # Each task with itself under another seed: the most that a measure can show.
        for name in dict.fromkeys(task.name for task in (*intermediates, *targets)):
            own = Dyad(Side(name, seeds[0]), Side(name, seeds[1]))
            jobs += [(m, own) for m in measures if m.ceiling]
    return jobs


# Values.


class _Values:
    """Records of values by key, a line each in one file that is only ever appended to."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.known: dict[str, dict[str, Any]] = {}
        lines = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
        for line in lines.splitlines():
            digest, _, body = line.partition(" ")
            if digest == _digest(body):  # else it was cut off or altered: computed again
                key, record = json.loads(body)
                self.known[key] = record

    def add(self, key: str, record: dict[str, Any]) -> None:
        """Keep a record for later calls, of this process and of others."""
        self.known[key] = record
        body = json.dumps([key, record])
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(f"{_digest(body)} {body}\n")
        except OSError as error:
            raise HelpfulError(
                f"could not write {self.path}: {error.strerror}. Free some space, or pass another "
                "folder=; values that were kept are untouched."
            ) from error


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _records(
    study: Inputs, jobs: Sequence[Job], values: _Values, mode: str, progress: bool
) -> dict[Job, dict[str, Any]]:
    """Return the record of every job: what is stored, what cannot be, and what is computed now."""
    records: dict[Job, dict[str, Any]] = {}
    keys: dict[Job, str] = {}
    for job in jobs:
        one, dyad = job
        try:
            arrays = [study.key(need, dyad) for need in one.needs]
        except (Undefined, BadRows) as error:
            records[job] = _record("undefined", str(error))
            continue
        keys[job] = _digest(repr((one.key, arrays)))
        if mode != "always" and keys[job] in values.known:
            records[job] = values.known[keys[job]]
        elif mode == "stored":
            records[job] = _record("missing", "not computed yet", record=keys[job])
    waiting = [job for job in jobs if job not in records]
    if progress and waiting:
        print(_cost(study, waiting, len(records)), file=sys.stderr)
    bar = tqdm(total=len(waiting), unit="value", disable=not progress or not waiting)
    with ThreadPoolExecutor(cores()) as pool, bar:
        for dyad, jobs_of_dyad in groupby(waiting, key=lambda job: job[1]):
            group = list(jobs_of_dyad)
            bar.set_postfix_str(" → ".join(side.task for side in dyad[:2] if side))
            # Arrays are made one after the other: an encoder uses all cores itself.
            ready: list[tuple[Job, list[Parts]]] = []
            for job in group:
                if mode != "always" and keys[job] in values.known:  # the same for another dyad
                    records[job] = values.known[keys[job]]
                    continue
                try:
                    ready.append((job, [study.get(need, dyad) for need in job[0].needs]))
                except (Undefined, BadRows) as error:
                    records[job] = _record("undefined", str(error), record=keys[job])
                    values.add(keys[job], records[job])
                except HelpfulError as error:  # a damaged checkpoint must not cost the other values
                    records[job] = _record(f"failed: {type(error).__name__}: {error}")
            # Measures share the cores: small decompositions in several threads each only wait.
            with threadpool_limits(1, user_api="blas"):
                computed = pool.map(lambda pair: _computed(pair[0][0], pair[1]), ready)
                for (job, _), record in zip(ready, computed, strict=True):
                    records[job] = record | {"record": keys[job]}
                    if not record["status"].startswith("failed"):
                        values.add(keys[job], records[job])
            bar.update(len(group))
    return records


def _record(status: str, reason: str = "", **facts: Any) -> dict[str, Any]:
    numbers = dict.fromkeys(("value", "half_a", "half_b", "seconds", "gather_seconds"), math.nan)
    return numbers | {"n": 0, "passes": 0, "status": status, "reason": reason, "record": ""} | facts


def _computed(one: Measure, inputs: Sequence[Parts]) -> dict[str, Any]:
    """Compute a value, and where its arrays split into halves the value of each half."""
    record = _record(
        "done",
        "; ".join(parts.note for parts in inputs if parts.note),
        n=min((parts.count for parts in inputs if parts.count is not None), default=0),
        passes=sum(parts.passes for parts in inputs),
        gather_seconds=sum(parts.seconds for parts in inputs),
    )
    start = time.perf_counter()
    try:
        record["value"] = scalar(one.function(*(parts.get("all") for parts in inputs)))
    except HelpfulError as error:
        # Kept like a value: the same arrays would only fail the same way again.
        return record | {"status": "undefined", "reason": str(error)}
    except Exception as error:  # a reader's own measure may fail in any way
        return record | {"status": f"failed: {type(error).__name__}: {error}"}
    record["seconds"] = time.perf_counter() - start
    if any(parts.splits for parts in inputs):
        for half in ("a", "b"):
            try:
                value = scalar(one.function(*(parts.get(half) for parts in inputs)))
                record[f"half_{half}"] = value
            except HelpfulError as error:
                record["reason"] = "; ".join(filter(None, [record["reason"], f"half: {error}"]))
            except Exception as error:
                return record | {"status": f"failed: {type(error).__name__}: {error}"}
    return record


def _cost(study: Inputs, jobs: Sequence[Job], known: int) -> str:
    """Say what is going to be read, and about how long that takes here."""
    readings, seconds = study.cost({(need, dyad) for one, dyad in jobs for need in one.needs})
    asked = f"{len(jobs):,} values to compute ({known:,} are known or undefined)"
    if not readings:
        return f"{asked}; nothing is read with an encoder"
    minutes = f"{seconds:,.0f} s" if seconds < 120 else f"{seconds / 60:,.0f} minutes"
    return (
        f"{asked}: {readings:,} passes of a text through an encoder, about {minutes} here, beside "
        "any fine-tuning; they are kept"
    )


# The table.


def _table(
    records: Mapping[Job, Mapping[str, Any]],
    jobs: Sequence[Job],
    seeds: Sequence[int],
    encoder: str,
) -> pd.DataFrame:
    """Join the records of both seeds and the ceilings into one row per dyad and measure."""

    def value(job: Job) -> float:
        return float(records[job]["value"]) if job in records else math.nan

    rows = []
    for one, dyad in jobs:
        i, t = dyad.intermediate, dyad.target
        if i.seed != seeds[0] or (t is not None and t.seed != i.seed):
            continue
        second = ceiling = math.nan
        if len(seeds) > 1:
            other = {side: side._replace(seed=seeds[1]) for side in (i, t) if side}
            second = value((one, dyad._replace(intermediate=other[i], target=t and other[t])))
            if t:  # each task against itself under the other seed; NaN where one is unknown
                own = [value((one, dyad._replace(intermediate=s, target=other[s]))) for s in (i, t)]
                ceiling = noise_ceiling(*own)
        rows.append(
            {"intermediate": i.task, "target": t.task if t else "", "language": dyad.language}
            | {"measure": one.name, "family": one.family, "encoder": encoder, "seed": seeds[0]}
            | {"second": second, "ceiling": ceiling, **records[one, dyad]}
        )
    columns = [name for name in COLUMNS if name not in (*_TRUST, "reliability_note")]
    table = pd.DataFrame(rows, columns=columns)
    table = table.merge(summarise(table), on=["measure", "language"], how="left")
    table = table[list(COLUMNS)].astype(dict.fromkeys(_NUMBERS, "float64"))
    order = {name: place for place, name in enumerate(dict.fromkeys(table["measure"]))}
    by_measure = table["measure"].map(order)
    return table.iloc[by_measure.argsort(kind="stable")].reset_index(drop=True)


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
        files.append(to_csv(wide, place / f"{name}.csv", index=True))
    dyads = known.loc[known["target"] != "", ["measure", "language"]].drop_duplicates()
    for name, language in dyads.itertuples(index=False):
        suffix = "" if language == "en" else f".{language}"
        wide = matrix(table[table["target"] != ""], name, language=language)
        files.append(to_csv(wide, place / f"{name}{suffix}.csv", index=True))
    return files


def to_csv(table: pd.DataFrame, path: str | Path, index: bool = False) -> Path:
    """Write a table as one CSV file, whole or not at all; missing values are empty."""
    content = table.to_csv(index=index, float_format="%.8g", lineterminator="\n")
    write_atomic(Path(path), content.encode())
    return Path(path)


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
        if file.suffix == ".csv":
            content = file.read_bytes()
            if not content.endswith(b"\n"):
                raise ValueError("its last line does not end")
            texts = {name: str for name in COLUMNS if name not in (*_NUMBERS, *_COUNTS)}
            empty = dict.fromkeys((*_NUMBERS, *_COUNTS), [""])
            table = pd.read_csv(
                io.BytesIO(content), dtype=texts, keep_default_na=False, na_values=empty
            )
        else:
            table = pd.read_parquet(file)
    except (ValueError, OSError) as error:  # what pandas and pyarrow raise of a damaged file
        reason = str(error).splitlines()[0]
        raise BadRecord(f"{file} is damaged or cut off ({reason}). {again}") from error
    missing = [name for name in COLUMNS if name not in table.columns]
    if missing:
        raise BadRecord(f"{file} lacks the columns {', '.join(missing)}. {again}")
    return table[list(COLUMNS)]


def pair(
    intermediate: str,
    target: str,
    encoder: Encoder,
    *,
    checkpoints: Checkpoints = None,
    rows: int = 200,
    folder: str | Path | None = None,
) -> dict[str, pd.DataFrame]:
    """What four families of measures have to go by, of one pair of tasks, as tables to be drawn.

    Args:
        intermediate: its name.
        target: its name.
        encoder: the study's encoder before any tuning.
        checkpoints: as for ``measure``; without one of the intermediate the features are those of
            the plain encoder.
        rows: how many rows of each task are read.
        folder: where arrays are kept; by default with those of ``measure``.

    Returns:
        ``texts`` (x, y on the common principal axes, task), ``pieces`` (how often each occurs in
        either task, per 1,000), ``labels`` (share of each class in %, task) and ``features`` (x, y,
        label of the target's units; ``attrs["after"]`` says after which tuning). A table of what
        does not exist is empty, and its ``attrs["note"]`` says why.
    """
    from helpers.similarity.inputs import Dyad, Inputs, Options, Side

    place = (Path(folder) if folder is not None else default_place()) / "arrays"
    tasks = [_task(intermediate), _task(target)]
    options = Options.sized(rows)
    study = Inputs(encoder, tasks, checkpoints=checkpoints, options=options, folder=place)
    dyad = Dyad(Side(intermediate, 0), Side(target, 0))
    names = {"intermediate": intermediate, "target": target}

    def get(need: str) -> Any:
        return study.get(need, dyad).values

    def texts() -> pd.DataFrame:
        both = {name: get(f"{side}.embeddings") for side, name in names.items()}
        plane = principal(np.concatenate(list(both.values())).astype(np.float64), 2)
        task = np.repeat(list(both), [len(part) for part in both.values()])
        return pd.DataFrame(plane, columns=["x", "y"]).assign(task=task)

    def pieces() -> pd.DataFrame:
        counts = {side: get(f"{side}.counts") for side in names}
        table = pd.DataFrame({side: 1000 * found / found.sum() for side, found in counts.items()})
        return table[(table > 0).any(axis=1)]

    def labels() -> pd.DataFrame:
        found = []
        for side, name in names.items():
            counts = pd.Series(get(f"{side}.labels")).value_counts(normalize=True)
            found.append(pd.DataFrame({"share": 100 * counts.to_numpy(), "task": name}))
        return pd.concat(found).rename_axis("class").reset_index()

    def features() -> pd.DataFrame:
        after = f"after {intermediate}"
        try:
            states = get("tuned.features")
        except Undefined:
            after, states = "before any tuning", get("target.features")
        plane = principal(states.astype(np.float64), 2)
        if plane.shape[1] < 2:
            raise BadRows("the features vary along one direction only; there is no plane to draw.")
        table = pd.DataFrame(plane, columns=["x", "y"]).assign(label=get("target.labels"))
        table.attrs["after"] = after
        return table

    tables = {}
    for name, make in zip(
        ("texts", "pieces", "labels", "features"), (texts, pieces, labels, features), strict=True
    ):
        try:
            tables[name] = make()
        except (Undefined, BadRows) as error:
            tables[name] = pd.DataFrame()
            tables[name].attrs["note"] = str(error)
    return tables
