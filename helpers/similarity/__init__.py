"""Task similarity: measures as functions of plain arrays, and their table over tasks.

    from helpers import similarity
    table = similarity.measure(["mrpc-val", "boolq-val", "intents"], ["text_embedding"])

A reader adds a measure in one cell::

    similarity.register(similarity.Measure(
        "length", "custom", ("intermediate.texts", "target.texts"),
        lambda a, b: -abs(mean(map(len, a)) - mean(map(len, b)))))
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import pandas as pd
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from helpers.errors import BadRecord, BadRows, HelpfulError, known, unknown
from helpers.files import cores
from helpers.similarity import catalogue
from helpers.similarity.catalogue import FAMILIES, Measure, added, names, needs, register, table
from helpers.similarity.reliability import independence, noise_ceiling, summarise
from helpers.similarity.representations import scalar
from helpers.tasks import Task
from helpers.tasks import get as get_task

if TYPE_CHECKING:
    from helpers.models.encoders import Encoder
    from helpers.similarity.inputs import Dyad, Inputs, Options, Parts
    from helpers.similarity.readers import Checkpoints

COLUMNS = tuple(
    "intermediate target language measure family value half_a half_b second ceiling reliability "
    "reliability_within seed_reliability seed_reliability_within reliability_note n seconds "
    "gather_seconds encoder seed status reason record".split()
)
_TEXTS = {*COLUMNS[:5], "reliability_note", "encoder", *COLUMNS[-3:]}
_NUMBERS = [name for name in COLUMNS if name not in {*_TEXTS, "n", "seed"}]
MODES = ("stored", "missing", "always")
# Where nobody says how much is read: so many rows a task, and more while a measure is less reliable.
STEPS = (300, 600, 1200, 2000)
RELIABLE = 0.9
Names = Sequence[str | Task]
Job = tuple[Measure, "Dyad"]
Record = Mapping[str, Any]
Records = dict[Job, Record]


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
    language_head: Any = None,
    early: Callable[..., float] | None = None,
    options: Options | None = None,
    folder: str | Path | None = None,
    mode: Literal["stored", "missing", "always"] = "missing",
    progress: bool = True,
) -> pd.DataFrame:
    """Measure how similar intermediates are to targets.

    It says first what reading will cost. Every value is stored when it is known, under a hash of what
    determines it, so that a second call computes only what is missing.

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
        sentence_encoder: one that was trained on none of the tasks, for ``sentence_embedding``.
        language_head: masked-language head of the encoder; see ``readers.language_head``.
        early: gives the English score of a short run on a target; see ``readers.early``.
        options: how many rows are read. By default 300 a task, then twice as many, up to 2,000, for
            the measures whose halves are not yet reliable (.9 over at least five dyads).
        folder: where values and arrays are kept; by default ``similarity`` in the store of runs.
        mode: ``"stored"`` computes nothing, ``"missing"`` what is not stored, ``"always"`` all.
        progress: say the cost before, and count values meanwhile.

    Returns:
        One row per dyad, language and measure, with the columns ``COLUMNS``. ``status`` is
        ``"done"``, ``"undefined"`` (``reason`` says why), ``"missing"`` or ``"failed: why"``;
        ``value`` is NaN unless done. UnknownName and HelpfulError say what was asked wrongly.
    """
    from helpers.models import encoders
    from helpers.similarity.inputs import Inputs, Options
    from helpers.study.store import default_folder

    known("mode", mode, MODES)
    sides, wanted = _roles(tasks), catalogue.chosen(measures)
    given: list[Any] = [encoder, sentence_encoder]
    plain, sentences = (encoders.load(one) if isinstance(one, str) else one for one in given)
    place = Path(folder) if folder is not None else default_folder() / "similarity"
    study = Inputs(
        plain,
        [*sides[0], *sides[1]],
        options or Options.sized(STEPS[0]),
        place / "arrays",
        checkpoints=checkpoints,
        parallel=_task(parallel),
        sentence_encoder=sentences,
        language_head=language_head,
        early=early,
    )

    def measured(study: Inputs, wanted: Sequence[Measure]) -> pd.DataFrame:
        jobs = _jobs(sides, wanted, languages, seeds)
        records = _records(study, jobs, place / "values.jsonl", mode, progress)
        return _table(records, jobs, seeds, study.encoder.name)

    found = measured(study, wanted)
    # While the halves of a measure disagree, more rows are read for it.
    for rows in STEPS[1:] if options is None else ():
        # Gradients are taken on so few rows that no more are read for them.
        low = (found["reliability"] < RELIABLE) & (found["family"] != "weights")
        again = [one for one in wanted if one.name in set(found.loc[low, "measure"])]
        if not again or not study.full():
            break
        weak = [one.name for one in again]
        if progress:
            said = f"reading {rows:,} rows a task: not reliable yet: {', '.join(weak)}"
            print(said, file=sys.stderr)
        study = replace(study, options=Options.sized(rows))
        more = measured(study, again)
        if (more["status"] == "missing").any():  # nothing is computed in this mode
            break
        found = pd.concat([found[~found["measure"].isin(weak)], more])
        found = _ordered(found, [one.name for one in wanted])
    return found


def _roles(tasks: Names | tuple[Names, Names]) -> tuple[list[Task], list[Task]]:
    """Return intermediates and targets."""
    if len(tasks) == 2 and all(isinstance(part, list | tuple) for part in tasks):
        sides = [[_task(one) for one in part] for part in cast("tuple[Names, Names]", tasks)]
    else:
        found = [_task(one) for one in tasks]
        sides = [[one for one in found if one.role == role] for role in catalogue.SIDES]
    intermediates, targets = sides
    if not intermediates or not targets:
        given = f"{len(intermediates)} intermediates and {len(targets)} targets were given"
        raise HelpfulError(f"{given}; pass one list with one of each or more, or two lists.")
    return intermediates, targets


def _task(value: Any) -> Any:
    return get_task(value) if isinstance(value, str) else value


def _jobs(
    sides: Any, measures: Sequence[Measure], languages: Sequence[str], seeds: Sequence[int]
) -> list[Job]:
    """All values, those that share a checkpoint next to each other."""
    from helpers.similarity.inputs import Dyad, Side

    jobs: list[Job] = []
    intermediates, targets = sides
    for seed in seeds[:2]:
        for i in (Side(task.name, seed) for task in intermediates):
            for language in languages:
                fits = [m for m in measures if language == "en" or m.languages]
                for t in targets:
                    if language == "en" or language in t.languages:
                        dyad = Dyad(i, Side(t.name, seed), language)
                        jobs += [(m, dyad) for m in fits if m.per == "dyad"]
                # Of an intermediate and a language alone.
                alone = [m for m in measures if m.per == "language" and language != "en"]
                jobs += [(m, Dyad(i, None, language)) for m in alone]
    if len(seeds) > 1:
        # Each task with itself under another seed: the most that a measure can show.
        for name in dict.fromkeys(task.name for task in (*intermediates, *targets)):
            own = Dyad(Side(name, seeds[0]), Side(name, seeds[1]))
            jobs += [(m, own) for m in measures if m.ceiling]
    return jobs


# --- Values: a line each in one file that is only ever appended to --------------------------------
def _stored(path: Path) -> dict[str, Record]:
    """Return what is kept by key; a line that was cut off or altered is as if it were not there."""
    lines = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    parts = [line.partition(" ") for line in lines.splitlines()]
    return dict(json.loads(body) for digest, _, body in parts if digest == _digest(body))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _records(study: Inputs, jobs: list[Job], path: Path, mode: str, progress: bool) -> Records:
    """Return the record of every job: what is stored, what cannot be, and what is computed now."""
    # First what is stored and what cannot be: the cost of the rest is said before it is read.
    stored = {} if mode == "always" else _stored(path)
    records: dict[Job, Record] = {}
    keys: dict[Job, str] = {}
    for job in jobs:
        one, dyad = job
        try:
            arrays = [study.key(need, dyad) for need in one.needs]
        except (catalogue.Undefined, BadRows) as error:
            records[job] = _record("undefined", str(error))
            continue
        keys[job] = _digest(repr((one.key, arrays)))
        if keys[job] in stored:
            records[job] = stored[keys[job]]
        elif mode == "stored":
            records[job] = _record("missing", "not computed yet", record=keys[job])

    def keep(job: Job, record: Record) -> None:
        """Keep a record for later calls, of this process and of others."""
        key, records[job] = keys[job], {**record, "record": keys[job]}
        stored[key], body = records[job], json.dumps([key, records[job]])
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a", encoding="utf-8") as file:
                file.write(f"{_digest(body)} {body}\n")
        except OSError as error:
            fix = "Free some space, or pass another folder=; values that were kept are untouched."
            raise HelpfulError(f"could not write {path}: {error.strerror}. {fix}") from error

    waiting = [job for job in jobs if job not in records]
    if progress and waiting:
        texts = study.cost({(need, dyad) for one, dyad in waiting for need in one.needs})
        read = f"{texts:,} passes of a text through an encoder, and any fine-tuning; they are kept"
        said = f"{len(waiting):,} values to compute ({len(records):,} are known or undefined)"
        print(f"{said}: {read if texts else 'nothing is read with an encoder'}", file=sys.stderr)
    bar = tqdm(total=len(waiting), unit="value", disable=not progress or not waiting)
    with ThreadPoolExecutor(cores()) as pool, bar:
        for dyad, group in groupby(waiting, key=lambda job: job[1]):
            bar.set_postfix_str(" → ".join(side.task for side in dyad[:2] if side))
            # Arrays are made one after the other: an encoder uses all cores itself.
            ready: list[tuple[Job, list[Parts]]] = []
            for job in group:
                bar.update()
                if keys[job] in stored:  # the same for another dyad
                    records[job] = stored[keys[job]]
                    continue
                try:
                    ready.append((job, [study.get(need, dyad) for need in job[0].needs]))
                except (catalogue.Undefined, BadRows) as error:
                    keep(job, _record("undefined", str(error)))
                except HelpfulError as error:  # a damaged checkpoint must not cost the other values
                    records[job] = _record(f"failed: {type(error).__name__}: {error}")
            # Measures share the cores: small decompositions in several threads each only wait.
            with threadpool_limits(1, user_api="blas"):
                computed = pool.map(lambda pair: _computed(pair[0][0], pair[1]), ready)
                for (job, _), record in zip(ready, computed, strict=True):
                    records[job] = record
                    if not record["status"].startswith("failed"):
                        keep(job, record)
    return records


def _record(status: str, reason: str = "", **facts: Any) -> dict[str, Any]:
    numbers = dict.fromkeys(("value", "half_a", "half_b", "seconds", "gather_seconds"), math.nan)
    return numbers | {"n": 0, "status": status, "reason": reason, "record": ""} | facts


def _computed(one: Measure, inputs: Sequence[Parts]) -> dict[str, Any]:
    """Compute a value, and where its arrays split into halves the value of each half."""
    record = _record("done", "; ".join(parts.note for parts in inputs if parts.note))
    record["n"] = min((parts.count for parts in inputs if parts.count is not None), default=0)
    record["gather_seconds"] = sum(parts.seconds for parts in inputs)
    split = any(parts.splits for parts in inputs)
    for part, column in (("all", "value"), ("a", "half_a"), ("b", "half_b"))[: 3 if split else 1]:
        start = time.perf_counter()
        try:
            record[column] = scalar(one.function(*(parts.get(part) for parts in inputs)))
        except HelpfulError as error:
            # Kept like a value: the same arrays would only fail the same way again.
            if part == "all":
                return record | {"status": "undefined", "reason": str(error)}
            record["reason"] = "; ".join(filter(None, [record["reason"], f"half: {error}"]))
        except Exception as error:  # a reader's own measure may fail in any way
            return record | {"status": f"failed: {type(error).__name__}: {error}"}
        if part == "all":
            record["seconds"] = time.perf_counter() - start
    return record


# --- The table ------------------------------------------------------------------------------------
def _table(records: Records, jobs: list[Job], seeds: Sequence[int], encoder: str) -> pd.DataFrame:
    """Join the records of both seeds and the ceilings into one row per dyad and measure."""

    def value(one: Measure, dyad: Dyad) -> float:
        return float(records[one, dyad]["value"]) if (one, dyad) in records else math.nan

    rows = []
    for one, dyad in jobs:
        i, t, language = dyad
        # Values of the second seed and of a task with itself become columns.
        if i.seed != seeds[0] or (t is not None and t.seed != i.seed):
            continue
        facts: dict[str, Any] = {"intermediate": i.task, "target": t.task if t else ""}
        facts |= {"language": language, "measure": one.name, "family": one.family}
        facts |= {"encoder": encoder, "seed": i.seed, "second": math.nan, "ceiling": math.nan}
        if len(seeds) > 1:
            other: Any = {side: side and side._replace(seed=seeds[1]) for side in (i, t)}
            facts["second"] = value(one, dyad._replace(intermediate=other[i], target=other[t]))
            if t:  # each task against itself under the other seed; NaN where one is unknown
                own = [value(one, dyad._replace(intermediate=s, target=other[s])) for s in (i, t)]
                facts["ceiling"] = noise_ceiling(*own)
        rows.append(facts | dict(records[one, dyad]))
    found = pd.DataFrame(rows)
    found = found.merge(summarise(found), on=["measure", "language"], how="left")[list(COLUMNS)]
    return _ordered(found.astype(dict.fromkeys(_NUMBERS, float)), found["measure"].unique())


def _ordered(found: pd.DataFrame, measures: Collection[str]) -> pd.DataFrame:
    order = found["measure"].map({name: place for place, name in enumerate(measures)})
    return found.iloc[order.argsort(kind="stable")].reset_index(drop=True)


def matrix(rows: pd.DataFrame, measure: str, column: str = "value") -> pd.DataFrame:
    """Return one measure (or UnknownName) of a table that ``measure`` returned, in English, as a matrix.

    Intermediates are in rows and targets in columns, in the order of the table; NaN where undefined.
    """
    part = rows[(rows["measure"] == measure) & (rows["language"] == "en")]
    if part.empty:
        raise unknown("measure in this table", measure, rows["measure"].unique())
    wide = part.pivot(index="intermediate", columns="target", values=column)
    return wide.reindex(index=part["intermediate"].unique(), columns=part["target"].unique())


def read(path: str | Path) -> pd.DataFrame:
    """Read a table of ``measure`` that ``data/make/similarity.py`` wrote, or raise BadRecord.

    Names and reasons stay the texts they are, "nan" and "null" among them; an empty number is NaN.
    """
    empty = {name: [""] for name in COLUMNS if name not in _TEXTS}
    how: dict[str, Any] = {"keep_default_na": False, "na_values": empty}
    try:
        content = Path(path).read_bytes()
        # A table that was cut off within a row may still be read as one.
        if not content.endswith(b"\n"):
            raise ValueError("its last line does not end")
        found = pd.read_csv(io.BytesIO(content), dtype=dict.fromkeys(_TEXTS, str), **how)
        if missing := [name for name in COLUMNS if name not in found.columns]:
            raise ValueError(f"it lacks the columns {', '.join(missing)}")
        return found[list(COLUMNS)]
    except (ValueError, OSError) as error:  # of a file that is not there, or of pandas
        why = f"{path} is missing, damaged or cut off ({str(error).splitlines()[0]})"
        raise BadRecord(f"{why}. git checkout {path}, or measure and write it again.") from error
