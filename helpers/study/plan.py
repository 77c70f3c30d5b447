"""Turn a profile and a few names into runs, each with an id that is a hash of what determines it.

Runs share most of what determines them (settings, data, encoder), so each such part is kept once,
under its own hash, and a run's id is a hash over the hashes of its parts. Runs that start from one
encoder form an *arm*: an intermediate stage with all targets that follow it, or the baselines of one
condition and seed. Arms share nothing, so no job waits for another.
"""

from __future__ import annotations

import functools
import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from helpers import tasks
from helpers.errors import BadPlan, BadRecord, HelpfulError, MissingData, UnknownName, unknown
from helpers.files import write_atomic
from helpers.models.settings import Settings
from helpers.study import profiles
from helpers.study.known import Known, Survey, digest
from helpers.study.profiles import CONDITIONS, Profile
from helpers.study.store import Record, Store
from helpers.tasks import Task

# Raise a stage's number by hand when a change of the code changes its results.
CODE = {"intermediate": 1, "target": 2}
# Settings that decide how a result is reached, not which one.
INCIDENTAL = ("checkpoint_seconds", "micro_tokens", "gradient_checkpointing", "offload")
NAMES = ("stage", "condition", "intermediate", "target", "parent")
COLUMNS = {
    **dict.fromkeys(("run", "core", "stage", "condition", "intermediate", "target"), "str"),
    "seed": "int64",
    **dict.fromkeys(("parent", "settings", "data", "evaluation"), "str"),
    **dict.fromkeys(("train_tokens", "test_tokens"), "int64"),
}
# In place of languages: evaluate wherever the data are at hand, and say where they are not.
AVAILABLE = "available"
# The intermediate stage of these conditions is one run per intermediate task.
_PER_TASK = ("single", "mlm", "translated", "shuffled")
# Where Linux shows the drivers of NVIDIA's and AMD's GPUs, and of those behind Windows.
_DRIVERS = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")
# So many data sets without rows are named, so that the list fits on a screen.
_SHOWN = 20
# A token of evaluation costs a third of one of training: there is no backward pass.
TEST_WORK = 1 / 3
# Characters per sub-word piece of XLM-R's vocabulary, over all languages; a rough mean.
CHARACTERS_PER_TOKEN = 4.0
# Arithmetic per second that training reaches, where nothing was measured yet: two cores with AVX2
# (1,500 tokens/s of a 21-million-parameter encoder), and a data-centre GPU in bf16.
RATES = {"cpu": 1.9e11, "cuda": 1.5e14}
_OVERHEAD_SECONDS, _RECORD_BYTES = 1.0, 12_000


@dataclass(frozen=True)
class Plan:
    """The runs of a study, in an order in which each comes after what it needs.

    Attributes:
        profile: name of the profile it was made from.
        encoder: name of the encoder.
        runs: a row per run, with the columns ``COLUMNS``.
        parts: shared parts of the runs' specifications, by hash.
        sources: where rows come from: task -> language -> source.
        facts: what a cost needs: parameters of the encoder, seeds, whether checkpoints are kept.
    """

    profile: str
    encoder: str
    runs: pd.DataFrame
    parts: Mapping[str, Mapping[str, Any]]
    sources: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        """Return the number of runs."""
        return len(self.runs)

    @cached_property
    def id(self) -> str:
        """Return a hash of all runs."""
        return digest("\n".join(self.runs["run"]))

    @cached_property
    def arm_of(self) -> dict[str, str]:
        """Return each run's arm: the id of the stage it follows, or a hash for baselines."""
        found = {}
        names = ("run", "stage", "parent", "condition", "seed")
        for run, stage, parent, condition, seed in zip(*(self.runs[n] for n in names), strict=True):
            alone = f"{self.facts['encoder']}|{condition}|{seed}"
            found[run] = run if stage == "intermediate" else parent or digest(alone)
        return found

    @cached_property
    def arms(self) -> dict[str, list[str]]:
        """Return the runs of each arm, its intermediate stage first."""
        found: dict[str, list[str]] = {}
        for run, arm in self.arm_of.items():
            found.setdefault(arm, []).append(run)
        return found

    @cached_property
    def _rows(self) -> dict[str, dict[str, Any]]:
        return {
            row["run"]: {str(k): v for k, v in row.items()} for row in self.runs.to_dict("records")
        }

    def job(self, run: str) -> Record:
        """Return one run, with its full specification and nothing done, or raise UnknownName."""
        if run not in self._rows:
            raise UnknownName(f"run {run!r} is not part of plan {self.id} ({len(self)} runs).")
        row = self._rows[run]
        data = self.parts[row["data"]]
        spec: dict[str, Any] = {
            **{name: row[name] for name in NAMES},
            "code": CODE[row["stage"]],
            "seed": row["seed"],
            "judged": row["stage"] in self.facts.get("judged", ()),
            "encoder": self.parts[self.facts["encoder"]],
            "settings": self.parts[row["settings"]] if row["settings"] else {},
            "data": data,
            "evaluation": self.parts[row["evaluation"]] if row["evaluation"] else {},
        }
        sources = self.sources.get(row["target"], {}) or {
            name: source for name in data["tasks"] for source in self.sources.get(name, {}).values()
        }
        work = float(row["train_tokens"] + row["test_tokens"] * TEST_WORK)
        facts = {name: row[name] for name in ("core", *NAMES[:-1])}
        return Record(run, encoder=self.encoder, spec=spec, sources=sources, work=work, **facts)

    def cost(self, store: Store | None = None) -> pd.DataFrame:
        """Return what a plan takes, before anything starts.

        Args:
            store: where finished runs are, which are counted as stored and from which speeds are
                learnt; by default the project's store.

        Returns:
            A row per stage and condition and one for the total: arms, runs, training_tokens,
            test_tokens, minutes (on one device) and megabytes (of records and checkpoints, in the
            end); runs that are stored already, and minutes_left without them.
        """
        store = store or Store()
        left = self.runs["run"].isin(missing(self, store, keep=False))
        table = self.runs.rename(columns={"train_tokens": "training_tokens"}).assign(
            arms=self.runs["run"].map(self.arm_of),
            minutes=minutes(self, store),
            megabytes=_megabytes(self, bool(self.facts.get("keep"))),
            stored=~left,
            minutes_left=minutes(self, store) * left,
        )
        both = pd.concat([table, table.assign(stage="total", condition="")])
        sums = ("training_tokens", "test_tokens", "minutes", "megabytes", "stored", "minutes_left")
        how = {"arms": ("arms", "nunique"), "runs": ("run", "size")} | {n: (n, "sum") for n in sums}
        result = both.groupby(["stage", "condition"], sort=False).agg(**how).reset_index()
        return result.round({"minutes": 1, "megabytes": 1, "minutes_left": 1})

    def sentence(self, store: Store | None = None) -> str:
        """Return size and cost in one sentence; arguments as for ``cost``."""
        total = self.cost(store).iloc[-1]
        left = f"; {total['stored']:,} runs are stored, {_duration(total['minutes_left'])} are left"
        return (
            f"{total['runs']:,} runs of profile {self.profile!r} with encoder {self.encoder!r}, in "
            f"{total['arms']:,} arms: about "
            f"{(total['training_tokens'] + total['test_tokens']) / 1e6:.2g} million tokens, "
            f"{_duration(total['minutes'])} on one device ({rate(self, store or Store())[1]}), "
            f"{total['megabytes']:,.0f} MB in the end{left * bool(total['stored'])}."
        )

    def __repr__(self) -> str:
        """Return the plan's size and cost in one sentence."""
        return self.sentence()

    def _repr_html_(self) -> str:
        return f"<p>{self.sentence()}</p>" + self.cost().to_html(index=False)

    def save(self, folder: Path) -> Path:
        """Write the plan where other processes find it; return the file."""
        rest = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "runs"}
        table = pa.Table.from_pandas(self.runs, preserve_index=False)
        table = table.replace_schema_metadata({b"plan": json.dumps(rest).encode()})
        buffer = pa.BufferOutputStream()
        pq.write_table(table, buffer, compression="zstd")
        path = folder / f"{self.id}.parquet"
        write_atomic(path, buffer.getvalue().to_pybytes())
        return path


def load(path: Path) -> Plan:
    """Read a plan that ``Plan.save`` wrote, or raise BadRecord."""
    try:
        table = pq.read_table(path)
        rest = json.loads(table.schema.metadata[b"plan"])
    except (OSError, pa.ArrowInvalid, KeyError, TypeError, ValueError) as error:
        raise BadRecord(f"{path} is not a plan ({error}); make the plan again.") from error
    return Plan(runs=table.to_pandas().astype(COLUMNS), **rest)


def find(folder: Path, arms: Iterable[str]) -> Plan:
    """Return the newest stored plan that holds all of some arms, or raise UnknownName."""
    wanted = set(arms)
    for path in sorted(folder.glob("[!.]*.parquet"), key=lambda path: -path.stat().st_mtime_ns):
        if wanted <= set((plan := load(path)).arms):
            return plan
    raise UnknownName(
        f"no stored plan in {folder} holds arm {', '.join(wanted)}. Plans are stored when they are "
        "run; check TRANSFER_STORE, or give the plan's file with --plan."
    )


# What of a plan is missing in a store; this is all there is to resuming.


def missing(plan: Plan, store: Store, keep: bool) -> list[str]:
    """Return the runs of a plan that have to be done, in its order.

    A run is missing without a trustworthy record of a finished run; a failed one is missing too. An
    intermediate stage is also missing when a missing target needs its checkpoint, or when
    checkpoints are to be kept, and the checkpoint is gone.
    """
    over = store.runs() & set(plan.runs["run"])
    over |= set(stand_ins(plan, store, over))
    saved, wanted = store.checkpoints(), set()
    for arm, runs in plan.arms.items():
        if runs[0] == arm and arm not in saved and (keep or not over.issuperset(runs[1:])):
            wanted.add(arm)
    return [run for run in plan.runs["run"] if run not in over or run in wanted]


def stand_ins(plan: Plan, store: Store, over: set[str]) -> dict[str, str]:
    """Return, for runs without a record, a run that was done with more languages and answers them."""
    index = store.index()
    index = index[index["run"].isin(store.runs() - over) & (index["stage"] == "target")]
    others = index.groupby("core")["run"].agg(list).to_dict()
    found = {}
    for run, core in zip(plan.runs["run"], plan.runs["core"], strict=True) if others else ():
        for record in store.records(others.get(core, ())) if run not in over else ():
            asked, had = plan.job(run).spec["evaluation"], record.spec["evaluation"]
            if all(had.get(language) == rows for language, rows in asked.items()):
                found[run] = record.run
    return found


def changed_rows(job: Record, store: Store) -> list[str]:
    """Return which of the rows that a run would read are not those that its id stands for."""
    data, tested = job.spec["data"], job.spec["evaluation"]
    asked = [
        (tasks.get(tasks.get(name).train_with or name), "en", split, facts[split])
        for name, facts in data["tasks"].items()
        for split in ("train", "dev")
        if split in facts
    ]
    asked += [
        (tasks.get(job.target), language, split, tested[language])
        for split, languages in data.get("splits", {}).items()
        for language in languages
        if language in tested
    ]
    known, text = Known(store), data.get("text", {})
    limit = job.spec["settings"].get("mlm_rows") or None
    return [
        f"{task.name!r} ({language}, {split})"
        for task, language, split, fingerprint in asked
        if known.rows(task, language, split).fingerprint != fingerprint
    ] + [f"text ({code})" for code, known_as in text.items() if _text(code, limit) != known_as]


# What a plan will cost


def rate(plan: Plan, store: Store) -> tuple[float, str]:
    """Return the tokens per second that a plan's runs can expect, and where that is from."""
    device, done = str(plan.facts.get("device", "cpu")), store.index()
    done = done[(done["encoder"] == plan.encoder) & (done["status"] == "done")]
    done = done[(done["work"] > 0) & (done["seconds"] > 0)]
    done = done[done["device"].str.startswith("cpu") == (device == "cpu")]
    if len(done) >= 3:
        speed = (done["work"] / done["seconds"]).median()
        return float(speed), f"measured in {len(done)} runs of this store"
    parameters = float(plan.facts.get("parameters", 0)) or 2e7
    return RATES[device] / (6 * parameters), f"computed for a {device}, not measured"


def minutes(plan: Plan, store: Store) -> pd.Series:
    """Return the estimated minutes of each run, in the plan's order."""
    work = plan.runs["train_tokens"] + plan.runs["test_tokens"] * TEST_WORK
    return (work / rate(plan, store)[0] + _OVERHEAD_SECONDS) / 60


def peak_megabytes(plan: Plan, wanted: Iterable[str], *, keep: bool) -> float:
    """Return the disk that some runs need, with the state of an unfinished one."""
    kept = _megabytes(plan, keep)[plan.runs["run"].isin(list(wanted))].sum()
    # An unfinished run writes its weights, the best so far and two moments of the optimiser; one
    # checkpoint is there even where none is kept.
    return float(kept) + float(plan.facts.get("trained_parameters", 0)) * 4 * (4 + 1) / 1e6


def _megabytes(plan: Plan, keep: bool) -> pd.Series:
    """Return what each run leaves in the store; checkpoints that are not kept count nothing."""
    kept = float(plan.facts.get("trained_parameters", 0)) * 4 * keep
    return ((plan.runs["stage"] == "intermediate") * kept + _RECORD_BYTES) / 1e6


def _duration(minutes: float) -> str:
    if minutes < 90:
        return f"{minutes:.1f} minutes"
    return f"{minutes / 60:.1f} hours" if minutes < 48 * 60 else f"{minutes / 1440:.1f} days"


# Making a plan


def make(
    profile: str | Profile,
    intermediates: Iterable[str] | None,
    targets: Iterable[str] | None,
    conditions: Iterable[str],
    seeds: int | Iterable[int] | None,
    encoder: str | None,
    languages: Iterable[str] | None,
    store: Store,
) -> Plan:
    """Check what was asked for, and make the plan; see ``helpers.study.plan``."""
    chosen = profiles.get(profile) if isinstance(profile, str) else profile
    problems: list[str] = []
    first = _tasks(intermediates, chosen.intermediates, "intermediate", problems)
    then = _tasks(targets, chosen.targets, "target", problems)
    if problems:
        raise BadPlan(listed(problems))
    for name in (wanted := _names(conditions)):
        if name not in CONDITIONS:
            raise unknown("condition", name, CONDITIONS)
    codes = () if languages == AVAILABLE else _names(languages)
    spoken = {code for task in then for code in task.languages}
    for code in codes:
        if code not in spoken:
            raise tasks.unknown_language("language", code, spoken)
    number = chosen.seeds if seeds is None else seeds
    listing = tuple(range(number)) if isinstance(number, int) else tuple(number)
    if not listing or len(set(listing)) < len(listing) or min(listing) < 0:
        raise BadPlan(f"seeds must be different numbers from 0 up, at least one; got {listing}.")
    maker = _Maker(chosen, encoder or chosen.encoder, codes, languages == AVAILABLE, store)
    plan = maker.plan(first, then, wanted, listing)
    if problems := maker.problems + maker.lacking():
        raise BadPlan(listed(problems))
    return plan


def listed(problems: Sequence[str]) -> str:
    """Return one text that names every problem."""
    lines = "\n".join(f"  - {problem}" for problem in problems)
    return f"this plan cannot run: {len(problems)} problem{'s'[: len(problems) > 1]}.\n{lines}"


def _names(value: Iterable[str] | None) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value or ())


def _tasks(
    given: Iterable[str] | None, default: tuple[str, ...], role: str, problems: list[str]
) -> list[Task]:
    found = {}
    articles = {"intermediate": "an intermediate", "target": "a target"}
    for name in default if given is None else _names(given):
        try:
            found[name] = tasks.get(name)
        except HelpfulError as error:
            problems.append(str(error))
            continue
        if (other := found[name].role) != role:
            problems.append(f"task {name!r} is {articles[other]}, not {articles[role]}.")
    return list(found.values())


class Builder:
    """Collects runs and the parts of their specifications that they share."""

    def __init__(self, encoder: Mapping[str, Any], judged: Iterable[str] = ()) -> None:
        """Start from what identifies an encoder, and the stages that can be found collapsed."""
        self.judged = tuple(judged)
        self.parts: dict[str, dict[str, Any]] = {}
        self.rows: dict[str, dict[str, Any]] = {}
        self._hashed = {"": ""}
        self.encoder = self.part(encoder)

    def part(self, value: Mapping[str, Any]) -> str:
        """Keep a shared part and return its hash."""
        text = _canonical(value)
        self.parts.setdefault(digest(text), json.loads(text))  # as it will be read back
        return digest(text)

    def settings(self, value: Mapping[str, Any]) -> str:
        """Keep settings; incidental ones stay out of every run's id."""
        key = self.part(value)
        decisive = {name: v for name, v in value.items() if name not in INCIDENTAL}
        self._hashed[key] = digest(_canonical(decisive))
        return key

    def add(
        self, stage: str, condition: str, seed: int, *, tokens: tuple[int, int], **facts: str
    ) -> str:
        """Add a run, its other columns by name, unless the plan has it; return its id."""
        row: dict[str, Any] = dict.fromkeys(COLUMNS, "") | facts
        decisive = (
            f"{stage}|{CODE[stage]}|{self.encoder}|{condition}|{seed}|{row['data']}|"
            f"{self._hashed[row['settings']]}|{row['parent']}|{stage in self.judged}"
        )
        row |= {"stage": stage, "condition": condition, "seed": seed, "core": digest(decisive)}
        row |= {"run": digest(f"{row['core']}|{row['evaluation']}")}
        row |= {"train_tokens": tokens[0], "test_tokens": tokens[1]}
        return str(self.rows.setdefault(row["run"], row)["run"])

    def table(self) -> pd.DataFrame:
        """Return all runs, in the order in which they were added."""
        return pd.DataFrame(list(self.rows.values()), columns=list(COLUMNS)).astype(COLUMNS)


class _Maker:
    """One plan in the making; problems are collected on the way."""

    def __init__(
        self,
        profile: Profile,
        encoder: str,
        languages: tuple[str, ...],
        available: bool,
        store: Store,
    ) -> None:
        self.profile, self.name, self.known = profile, encoder, Known(store)
        self.languages, self.available = languages, available
        self.problems: list[str] = []
        self.unread: dict[tuple[str, ...], dict[str, str]] = {}
        self.sources: dict[str, dict[str, str]] = {}
        self.absent: dict[str, list[str]] = {}
        self.identity: dict[str, Any] = {"sha256": ""}
        self.facts: dict[str, Any] = {}
        try:
            self.identity, facts = self.known.encoder(encoder)
            self.facts = facts | {"device": device()}
        except HelpfulError as error:
            self.problems.append(f"encoder: {error}")
        self.builder = Builder(self.identity, profile.judged)

    def plan(
        self,
        first: list[Task],
        targets: list[Task],
        conditions: tuple[str, ...],
        seeds: Sequence[int],
    ) -> Plan:
        """Add all runs and return them."""
        for target in targets:
            if self.languages and not set(self.languages) & set(target.languages):
                text = f"target {target.name!r} has none of the languages asked for"
                self.problems.append(f"{text}: {', '.join(self.languages)}.")
        for condition in ("none", "more_target"):
            for target in targets if condition in conditions else ():
                for seed in _alone(target, condition, seeds):
                    self._target(condition, target.name, seed)
        groups = {condition: self._groups(condition, first) for condition in conditions}
        for seed in seeds:
            for condition, names in groups.items():
                for group in names:
                    facts = {"intermediate": "+".join(group), **self._stage(condition, group)}
                    parent = self.builder.add("intermediate", condition, seed, **facts)
                    links = {"intermediate": facts["intermediate"], "parent": parent}
                    for target in targets:
                        self._target(condition, target.name, seed, **links)
        known = {"keep": self.profile.keep, "judged": list(self.profile.judged), **self.facts}
        known |= {"seeds": list(seeds), "languages": list(self.languages), "absent": self.absent}
        known |= {"encoder": self.builder.encoder}
        parts, table = self.builder.parts, self.builder.table()
        return Plan(self.profile.name, self.name, table, parts, self.sources, known)

    def lacking(self) -> list[str]:
        """Return one problem per data set that lacks rows: what is asked of it, and why it fails."""
        found = []
        for number, entries in enumerate(self.unread.values()):
            places, text = list(entries), next(iter(entries.values()))
            more = f" and {len(places) - 4} more" if len(places) > 4 else ""
            # The first says in full what to do; the same advice need not fill the screen.
            if number and len(text) > 160:
                text = text[:160].rsplit(" ", 1)[0] + " ..."
            found.append(f"task {', '.join(places[:4])}{more}: {text}")
        rest = len(found) - _SHOWN
        return found[:_SHOWN] + [f"and {rest} more data sets that are not at hand."][: max(0, rest)]

    def _groups(self, condition: str, first: list[Task]) -> list[tuple[str, ...]]:
        """Return the intermediate stages of a condition, each as the tasks it trains on."""
        names = [task.name for task in first]
        if condition == "multitask":
            return [tuple(names)]
        if condition == "translated":
            lost = [name for name in names if f"{name}-translated" not in tasks.names()]
            self.problems += [
                f"condition 'translated' needs a task '{name}-translated' with the translated rows of "
                f"{name!r}; register one."
                for name in lost
            ]
            names = [f"{name}-translated" for name in names if name not in lost]
        return [(name,) for name in names] if condition in _PER_TASK else []

    def _target(self, condition: str, target: str, seed: int, **links: Any) -> None:
        self.builder.add("target", condition, seed, **self._facts_of(condition, target), **links)

    @functools.cache  # noqa: B019  (a maker lives as long as its plan is made)
    def _stage(self, condition: str, group: tuple[str, ...]) -> dict[str, Any]:
        """Return settings, data and tokens of an intermediate stage."""
        settings = self.profile.settings(tasks.get(group[0]), "intermediate", condition)
        facts, tokens = {}, 0.0
        for name in group:
            facts[name], count = self._training(tasks.get(name), settings)
            tokens += count * settings.epochs
        data: dict[str, Any] = {"tasks": facts}
        if settings.mlm_share:
            data["text"] = self._text(settings)
        tokens /= 1 - settings.mlm_share
        shared = {"data": self.builder.part(data), "tokens": (int(tokens), 0)}
        return shared | {"settings": self.builder.settings(settings.facts())}

    def _text(self, settings: Settings) -> dict[str, str]:
        """Return the fingerprints of the text for masked language modelling."""
        found = {}
        for language in settings.mlm_languages:
            try:
                found[language] = _text(language, settings.mlm_rows or None)
            except HelpfulError as error:
                self.unread.setdefault(("text",), {})[f"text {language}"] = str(error)
        return found

    @functools.cache  # noqa: B019
    def _facts_of(self, condition: str, name: str) -> dict[str, Any]:
        """Return target, settings, data, evaluation and tokens of a target."""
        target = tasks.get(name)
        limit = self.profile.test_rows.get(target.format, 0)
        fingerprints, tested = self._testing(target, limit)
        settings, trained, facts = "", 0.0, _facts(target)
        if target.format != "retrieval":
            chosen = self.profile.settings(target, "target", condition)
            settings = self.builder.settings(chosen.facts())
            facts, count = self._training(target, chosen)
            trained = count * chosen.epochs
        data: dict[str, Any] = {
            "tasks": {name: facts},
            "test_rows": limit,
            "splits": {},
            "layer": None,
        }
        for language in target.languages:
            data["splits"].setdefault(test_split(target, language), []).append(language)
        if target.format == "retrieval":
            data["layer"] = self._layer(target)
        shared = {"target": name, "settings": settings, "data": self.builder.part(data)}
        tokens = (int(trained), int(tested))
        return shared | {"evaluation": self.builder.part(fingerprints), "tokens": tokens}

    def _training(self, task: Task, settings: Settings) -> tuple[dict[str, Any], float]:
        """Return what identifies a task's training, and the tokens of one epoch."""
        facts, tokens = _facts(task), 0.0
        source = tasks.get(task.train_with) if task.train_with else task
        for split in ("train", "dev"):
            survey = self._survey(source, "en", split)
            facts[split] = survey.fingerprint if survey else ""
            facts[f"{split}_rows"] = survey.rows if survey else 0
            if survey and split == "train":
                longest = min(task.max_length, settings.max_length)
                tokens = _tokens(task, survey, settings.train_rows, longest)
                self.sources.setdefault(task.name, {}).setdefault("train", survey.source)
        return facts, tokens

    def _testing(self, target: Task, limit: int) -> tuple[dict[str, str], float]:
        """Return the fingerprint of each language's rows, and the tokens of all."""
        fingerprints, tokens = {}, 0.0
        wanted = [code for code in target.languages if code in (self.languages or target.languages)]
        for language in wanted:
            survey = self._survey(target, language, test_split(target, language), self.available)
            if survey:
                fingerprints[language] = survey.fingerprint
                tokens += _tokens(target, survey, limit, target.max_length)
                self.sources.setdefault(target.name, {})[language] = survey.source
        if self.available:
            self.absent[target.name] = [code for code in wanted if code not in fingerprints]
            if not fingerprints:
                self.problems.append(f"target {target.name!r}: no language's data are at hand.")
        return fingerprints, tokens

    def _layer(self, target: Task) -> int | None:
        """Return the hidden state that retrieval reads: chosen once, on the plain encoder."""
        if not any("dev" in source.splits for source in target.source.flat()):
            return self.profile.layer or None
        survey = self._survey(target, target.languages[0], "dev")
        if survey is None or not self.facts:
            return None
        stamp = f"{self.identity} {survey.fingerprint}"
        return self.known.layer(self.name, target.name, stamp)

    def _survey(
        self, task: Task, language: str, split: str, optional: bool = False
    ) -> Survey | None:
        try:
            return self.known.rows(task, language, split)
        except HelpfulError as error:
            if not (optional and isinstance(error, MissingData)):
                held = {source.id for source in task.source.serving(language, split)}
                entries = self.unread.setdefault(tuple(sorted(held)) or (task.name,), {})
                entries[f"{task.name!r} {language} {split}"] = " ".join(str(error).split())
            return None


def _text(language: str, limit: int | None) -> str:
    """Return the fingerprint of text for masked language modelling."""
    from helpers.data import texts

    return texts(language, limit).fingerprint


def _alone(target: Task, condition: str, seeds: Sequence[int]) -> tuple[int, ...]:
    """Return the seeds of a target without an intermediate stage."""
    if target.format == "retrieval":
        # Nothing is trained, so nothing is random: one run is all there is to know.
        return (0,) if condition == "none" else ()
    # Baselines have twice as many: half of them may serve as a covariate.
    more = (seed for seed in range(2 * len(seeds)) if seed not in seeds)
    return (*seeds, *more)[: 2 * len(seeds)] if condition == "none" else tuple(seeds)


def test_split(task: Task, language: str) -> str:
    """Return the split a target is evaluated on: ``test``, or ``dev`` where none is public."""
    return "test" if task.source.serving(language, "test") else "dev"


def _facts(task: Task) -> dict[str, Any]:
    """Return the facts of a task that change a result, beyond its rows."""
    return {name: getattr(task, name) for name in ("format", "metric", "labels", "max_length")}


def _tokens(task: Task, survey: Survey, limit: int, longest: float) -> float:
    """Estimate tokens; long contexts of questions are cut into windows, and all of them are read."""
    longest = math.inf if task.format == "span" else longest
    rows = min(survey.rows, limit) if limit else survey.rows
    return rows * survey.sequences * min(survey.characters / CHARACTERS_PER_TOKEN + 3, longest)


def device() -> str:
    """Return the kind of the best device here; where no driver is, without loading PyTorch."""
    if sys.platform == "linux" and not any(Path(place).exists() for place in _DRIVERS):
        return "cpu"
    from helpers.models.network import best_device

    return best_device().type


def _canonical(value: Any) -> str:
    """Return JSON that is the same for equal values."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))
