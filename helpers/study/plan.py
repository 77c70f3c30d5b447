"""Turn a profile and names into runs, each with an id that is a hash of what determines it.

Runs share most of what determines them (settings, data, encoder), so each such part is kept once,
under its own hash, and a run's id is a hash over the hashes of its parts. Runs that start from one
encoder form an *arm*: an intermediate stage with all targets that follow it, or the baselines of one
condition and seed. Arms share nothing, so no job waits for another.
"""

import json
import math
import os
import re
import sys
import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from functools import cache, cached_property, lru_cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd

from helpers import tasks
from helpers.data import rows, texts
from helpers.errors import BadRecord, HelpfulError, MissingData, UnknownName
from helpers.files import write_atomic
from helpers.models import BUNDLED, Settings
from helpers.study.profiles import Profile
from helpers.study.store import Record, Store, digest, missing, stamp_of
from helpers.tasks import Task

if TYPE_CHECKING:
    from helpers.models.encoders import Encoder

# Raise a stage's number by hand when a change of the code changes its results.
CODE = {"intermediate": 1, "target": 2}
# Settings that decide how a result is reached, not which one.
INCIDENTAL = ("checkpoint_seconds", "micro_tokens", "gradient_checkpointing", "offload")
NAMES = ("stage", "condition", "intermediate", "target", "parent")
PARTS = ("settings", "data", "evaluation")
COLUMNS = {
    **dict.fromkeys(("run", "core", "stage", "condition", "intermediate", "target"), "str"),
    **{"seed": "int64", "parent": "str"} | dict.fromkeys(PARTS, "str"),
    **dict.fromkeys(("train_tokens", "test_tokens"), "int64"),
}
# In place of languages: evaluate wherever the data are at hand, and say where they are not.
AVAILABLE = ("available",)
Names = tuple[str, ...]
Seeds = tuple[int, ...]
# A token of evaluation costs a third of one of training: there is no backward pass.
TEST_WORK = 1 / 3
# Characters per sub-word piece of XLM-R's vocabulary, over all languages; a rough mean.
CHARACTERS_PER_TOKEN = 4.0
# Arithmetic per second that training reaches, where nothing was measured yet: two cores with AVX2
# (1,500 tokens/s of a 21-million-parameter encoder), and a data-centre GPU in bf16.
RATES = {"cpu": 1.9e11, "cuda": 1.5e14}
OVERHEAD_SECONDS, RECORD_BYTES = 1.0, 12_000


@dataclass(frozen=True)
class Plan:
    """The runs of a study, in an order in which each comes after what it needs."""

    profile: str  # name of the profile it was made from
    encoder: str  # name of the encoder
    runs: pd.DataFrame  # a row per run, with the columns ``COLUMNS``
    parts: Mapping[str, Mapping[str, Any]]  # shared parts of the runs' specifications, by hash
    facts: Mapping[str, Any]  # what a cost needs: parameters, seeds, whether checkpoints are kept

    def __len__(self) -> int:
        return len(self.runs)

    @cached_property
    def id(self) -> str:
        """Return a hash of all runs."""
        return digest("\n".join(self.runs["run"]))

    @cached_property
    def arm_of(self) -> dict[str, str]:
        """Return each run's arm: the id of the stage it follows, or a hash for baselines."""
        own = self.runs["run"].where(self.runs["stage"] == "intermediate", self.runs["parent"])
        rows = zip(self.runs["run"], own, self.runs["condition"], self.runs["seed"], strict=True)
        encoder = self.facts["encoder"]
        return {run: arm or digest(f"{encoder}|{name}|{seed}") for run, arm, name, seed in rows}

    @cached_property
    def arms(self) -> dict[str, list[str]]:
        """Return the runs of each arm, its intermediate stage first."""
        found: dict[str, list[str]] = {}
        for run, arm in self.arm_of.items():
            found.setdefault(arm, []).append(run)
        return found

    @cached_property
    def _rows(self) -> dict[Any, dict[Any, Any]]:
        return self.runs.set_index("run").to_dict("index")

    def job(self, run: str) -> Record:
        """Return one run, with its full specification and nothing done, or raise UnknownName."""
        if run not in self._rows:
            raise UnknownName(f"run {run!r} is not part of plan {self.id} ({len(self)} runs).")
        row = self._rows[run]
        spec = {name: row[name] for name in (*NAMES, "seed")} | {"code": CODE[row["stage"]]}
        spec |= {"judged": row["stage"] in self.facts.get("judged", ())}
        spec |= {"encoder": self.parts[self.facts["encoder"]]}
        spec |= {name: self.parts.get(row[name], {}) for name in PARTS}
        work = float(row["train_tokens"] + row["test_tokens"] * TEST_WORK)
        facts = {name: row[name] for name in ("core", *NAMES[:-1])}
        return Record(run, encoder=self.encoder, spec=spec, work=work, **facts)

    def cost(self, store: Store | None = None) -> pd.DataFrame:
        """Return what a plan takes, before anything starts.

        Args:
            store: has the runs that are stored already and the speeds learnt; else the project's.

        Returns:
            A row per stage and condition and one for the total: arms, runs, training_tokens,
            test_tokens, minutes (on one device) and megabytes (of records and checkpoints, in the
            end); runs that are stored already, and minutes_left without them.
        """
        store = store or Store()
        # What each run takes; then sums over the runs of a stage and condition, and over all.
        keep, need = bool(self.facts["keep"]), minutes(self, store)
        left = self.runs["run"].isin(missing(self, store, keep))
        table = self.runs.rename(columns={"train_tokens": "training_tokens"}).assign(
            arms=self.runs["run"].map(self.arm_of),
            minutes=need,
            megabytes=megabytes(self, keep),
            stored=~left,
            minutes_left=need * left,
        )
        both = pd.concat([table, table.assign(stage="total", condition="")])
        sums = ("training_tokens", "test_tokens", "minutes", "megabytes", "stored", "minutes_left")
        how = {"arms": ("arms", "nunique"), "runs": ("run", "size")} | {n: (n, "sum") for n in sums}
        result = both.groupby(["stage", "condition"], sort=False).agg(**how).reset_index()
        return result.round({"minutes": 1, "megabytes": 1, "minutes_left": 1})

    def sentence(self, store: Store | None = None) -> str:
        """Return size and cost in one sentence; arguments as for ``cost``."""
        total = self.cost(store).iloc[-1]
        tokens = (total["training_tokens"] + total["test_tokens"]) / 1e6
        left = f"; {total['stored']:,} runs are stored, {_duration(total['minutes_left'])} are left"
        return (
            f"{total['runs']:,} runs of profile {self.profile!r} with encoder {self.encoder!r}, in "
            f"{total['arms']:,} arms: about {tokens:.2g} million tokens, "
            f"{_duration(total['minutes'])} on one device ({rate(self, store or Store())[1]}), "
            f"{total['megabytes']:,.0f} MB in the end{left * bool(total['stored'])}."
        )

    __repr__ = sentence

    def _repr_html_(self) -> str:
        return f"<p>{self.sentence()}</p>" + self.cost().to_html(index=False)

    def save(self, folder: Path) -> Path:
        """Write the plan where other processes find it; return the file."""
        table, path = self.runs.copy(), folder / f"{self.id}.parquet"
        table.attrs = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "runs"}
        write_atomic(path, table.to_parquet(index=False, compression="zstd"))
        return path


def load(path: Path) -> Plan:
    """Read a plan that ``Plan.save`` wrote, or raise BadRecord."""
    try:
        table = pd.read_parquet(path)
        rest, table.attrs = {str(name): fact for name, fact in table.attrs.items()}, {}
        return Plan(runs=table.astype(COLUMNS), **rest)
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise BadRecord(f"{path} is not a plan ({error}); make the plan again.") from error


# --- What a plan will cost ------------------------------------------------------------------------
def rate(plan: Plan, store: Store) -> tuple[float, str]:
    """Return the tokens per second that a plan's runs can expect, and where that is from."""
    device, done = str(plan.facts.get("device", "cpu")), store.index()
    done = done.query("encoder == @plan.encoder and status == 'done' and work > 0 and seconds > 0")
    done = done[done["device"].str.startswith("cpu") == (device == "cpu")]
    if len(done) >= 3:
        speed = (done["work"] / done["seconds"]).median()
        return float(speed), f"measured in {len(done)} runs of this store"
    parameters = float(plan.facts.get("parameters", 0)) or 2e7
    return RATES[device] / (6 * parameters), f"computed for a {device}, not measured"


def minutes(plan: Plan, store: Store) -> pd.Series:
    """Return the estimated minutes of each run, in the plan's order."""
    work = plan.runs["train_tokens"] + plan.runs["test_tokens"] * TEST_WORK
    return (work / rate(plan, store)[0] + OVERHEAD_SECONDS) / 60


def megabytes(plan: Plan, keep: bool) -> pd.Series:
    """Return what each run leaves in the store; checkpoints that are not kept count nothing."""
    kept = float(plan.facts.get("trained_parameters", 0)) * 4 * keep
    return ((plan.runs["stage"] == "intermediate") * kept + RECORD_BYTES) / 1e6


def _duration(minutes: float) -> str:
    if minutes < 90:
        return f"{minutes:.1f} minutes"
    return f"{minutes / 60:.1f} hours" if minutes < 48 * 60 else f"{minutes / 1440:.1f} days"


# --- What is known of rows and encoders -----------------------------------------------------------
# Reading all rows of all languages takes minutes at full size, so it is remembered below the store,
# under what could change it: the facts of a task, this package's code, the installed version of a
# data package, the files of a data folder.
class Survey(NamedTuple):
    """The rows of one task in one language and split."""

    fingerprint: str  # their SHA-256
    rows: int
    characters: float  # mean per sequence that a row becomes
    sequences: float  # mean per row: its choices, else 1


def survey(store: Store, task: Task, language: str, split: str) -> Survey:
    """Return what is known of rows; a user's own are read each time, as they change at will."""
    sources = task.source.flat()
    readers = [function for function in (task.adapt, *(s.read for s in sources)) if function]
    shipped = all(str(f.__module__).startswith("helpers.") for f in readers)
    if not shipped or any(source.kind == "tables" for source in sources):
        return _look(task, language, split)
    stamps = [stamp(source.kind, source.id) for source in sources]
    asked = re.sub(r" at 0x\w+", "", f"{task} {language} {split} {stamps}")
    return Survey(*store.kept(asked, lambda: _look(task, language, split)))


def _look(task: Task, language: str, split: str) -> Survey:
    read = rows(task, language=language, split=split)
    sample = [read[i] for i in range(0, len(read), max(1, len(read) // 500))]
    sequences = sum(len(row.get("choices", "1")) for row in sample)
    total = 0
    for row in sample:
        said = [str(row.get(name, "")) for name in ("first", "second", "question", "text")]
        said += [f"{token} " for token in row.get("tokens", ())]
        # A context is read once per choice.
        said += [str(row.get("context", "")) + each for each in row.get("choices", [""])]
        total += sum(map(len, said))
    means = total / max(1, sequences), sequences / max(1, len(sample))
    return Survey(read.fingerprint, len(read), *means)


def describe(name: str, store: Store) -> Any:
    """Return what identifies an encoder, and the facts a cost needs."""
    packaged = name in ("bundled", "bundled-random")
    if not packaged and not Path(name).exists():
        return _describe(name)  # Only loading it tells.
    changes = stamp("package", BUNDLED) if packaged else stamp_of(Path(name))
    return store.kept(f"{name} {changes}", lambda: _describe(name))


@lru_cache(maxsize=1)
def pretrained(name: str) -> "Encoder":
    """Load an encoder once per process; training copies what it changes."""
    from helpers.models import encoders  # loads PyTorch

    return encoders.load(name)


def _describe(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    encoder = pretrained(name)
    total = sum(weights.numel() for weights in encoder.model.parameters())
    words = encoder.model.get_input_embeddings().weight.numel()  # type: ignore[operator]
    facts = {"parameters": total - words, "words": words}
    facts["trained_parameters"] = total - words * encoder.freeze_embeddings
    return {"sha256": encoder.sha256, "layers": encoder.layers}, facts


@cache  # until the next plan: in a notebook, data change
def stamp(kind: str, name: str) -> str:
    """Return a version or a stamp of files that changes whenever the rows of a source can."""
    if kind == "package":
        try:
            return metadata.version(name.split("==")[0])
        except metadata.PackageNotFoundError:
            return "absent"
    root = os.environ.get(name if kind == "folder" else "TRANSFER_DATA_ROOT", "")
    return stamp_of(Path(root) / (name if kind == "hub" else "")) if root else ""


# --- Making a plan --------------------------------------------------------------------------------
class Builder:
    """Collects runs and the parts of their specifications that they share."""

    def __init__(self, encoder: Mapping[str, Any], judged: Iterable[str] = ()) -> None:
        # What identifies an encoder, and the stages that can be found collapsed.
        self.judged = tuple(judged)
        self.parts: dict[str, dict[str, Any]] = {}
        self.rows: dict[str, dict[str, Any]] = {}
        self._hashed = {"": ""}
        self.encoder = self.part(encoder)

    def part(self, value: Mapping[str, Any]) -> str:
        """Keep a shared part, as it will be read back, and return its hash."""
        text = json.dumps(value, sort_keys=True, separators=(",", ":"))
        self.parts.setdefault(key := digest(text), json.loads(text))
        return key

    def settings(self, value: Mapping[str, Any]) -> str:
        """Keep settings; incidental ones stay out of every run's id."""
        key = self.part(value)
        decisive = {name: v for name, v in value.items() if name not in INCIDENTAL}
        self._hashed[key] = digest(json.dumps(decisive, sort_keys=True, separators=(",", ":")))
        return key

    def add(
        self, stage: str, condition: str, seed: int, *, tokens: tuple[int, int], **facts: str
    ) -> str:
        """Add a run, its other columns by name, unless the plan has it; return its id."""
        row: dict[str, Any] = dict.fromkeys(COLUMNS, "") | facts
        # All that decides the weights, and then in which languages they are evaluated.
        core = digest(
            f"{stage}|{CODE[stage]}|{self.encoder}|{condition}|{seed}|{row['data']}|"
            f"{self._hashed[row['settings']]}|{row['parent']}|{stage in self.judged}"
        )
        run = digest(f"{core}|{row['evaluation']}")
        row |= {"run": run, "core": core, "stage": stage, "condition": condition, "seed": seed}
        row |= {"train_tokens": tokens[0], "test_tokens": tokens[1]}
        self.rows.setdefault(run, row)
        return run

    def table(self) -> pd.DataFrame:
        """Return all runs, in the order in which they were added."""
        return pd.DataFrame(list(self.rows.values()), columns=list(COLUMNS)).astype(COLUMNS)


class Maker(Builder):
    """One plan in the making; what stands in its way is collected."""

    def __init__(self, profile: Profile, encoder: str, languages: Names, store: Store) -> None:
        self.profile, self.name, self.store, self.languages = profile, encoder, store, languages
        self.problems: list[str] = []
        self.unread: dict[Names, dict[str, str]] = {}
        self.absent: dict[str, list[str]] = {}
        self.tuned: tuple[str, str, str] | None = None  # how the last target is fine-tuned
        stamp.cache_clear()
        self.facts: dict[str, Any] = {}
        identity = {"sha256": ""}
        try:
            identity, facts = describe(encoder, store)
            self.facts = facts | {"device": device()}
        except HelpfulError as error:
            self.problems.append(f"encoder: {error}")
        super().__init__(identity, profile.judged)

    def plan(self, first: list[Task], targets: list[Task], conditions: Names, seeds: Seeds) -> Plan:
        """Add all runs and return them."""
        # Baselines have twice as many seeds: half of them may serve as a covariate.
        more = tuple(seed for seed in range(2 * len(seeds)) if seed not in seeds)
        alone = {"none": (*seeds, *more)[: 2 * len(seeds)], "more_target": seeds}
        each = {name: {t.name: self._target(name, t) for t in targets} for name in conditions}
        for condition in [name for name in alone if name in conditions]:
            for target in targets:
                # Retrieval trains nothing, so nothing is random: one run is all there is to know.
                once = (0,) * (condition == "none") if target.format == "retrieval" else None
                for seed in alone[condition] if once is None else once:
                    self.add("target", condition, seed, **each[condition][target.name])
        # Each intermediate stage is followed by all targets, which start from its encoder.
        groups = [(name, group) for name in conditions for group in self._groups(name, first)]
        stages = [(name, "+".join(group), self._stage(name, group)) for name, group in groups]
        for seed in seeds:
            for condition, group, facts in stages:
                links = {"intermediate": group}
                links["parent"] = self.add("intermediate", condition, seed, **facts | links)
                for own in each[condition].values():
                    self.add("target", condition, seed, **own | links)
        chosen, asked = self.profile, [] if self.languages == AVAILABLE else list(self.languages)
        known = {"keep": chosen.keep, "judged": list(chosen.judged), **self.facts}
        known |= {"encoder": self.encoder, "stored": chosen.stored, "seeds": list(seeds)}
        known |= {"languages": asked, "absent": self.absent}
        return Plan(chosen.name, self.name, self.table(), self.parts, known)

    def lacking(self, most: int = 20) -> list[str]:
        """Return one problem per data set that lacks rows: what is asked of it, and why it fails."""
        found = []
        for number, entries in enumerate(self.unread.values()):
            places, text = list(entries), next(iter(entries.values()))
            more = f" and {len(places) - 4} more" * (len(places) > 4)
            # The first says in full what to do; the same advice need not fill the screen.
            text = textwrap.shorten(text, 160, placeholder=" ...") if number else text
            found.append(f"task {', '.join(places[:4])}{more}: {text}")
        rest = [f"and {len(found) - most} more data sets that are not at hand."]
        return found[:most] + rest * (len(found) > most)

    def _groups(self, condition: str, first: list[Task]) -> list[Names]:
        """Return the intermediate stages of a condition, each as the tasks it trains on."""
        if condition in ("none", "more_target"):
            return []
        ending = "-translated" * (condition == "translated")
        names = [f"{task.name}{ending}" for task in first]
        lost = [name for name in names if ending and name not in tasks.names()]
        said = "condition 'translated' needs a task"
        self.problems += [f"{said} {name!r} with translated rows; register one." for name in lost]
        if condition == "multitask":
            return [tuple(names)]
        return [(name,) for name in names if name not in lost]

    def _stage(self, condition: str, group: Names) -> dict[str, Any]:
        """Return settings, data and tokens of an intermediate stage."""
        settings = self.profile.settings(tasks.get(group[0]), "intermediate", condition)
        learnt = {name: self._training(tasks.get(name), settings) for name in group}
        data: dict[str, Any] = {"tasks": {name: facts for name, (facts, _) in learnt.items()}}
        if settings.mlm_share:
            data["text"] = {}
        for code in settings.mlm_languages if settings.mlm_share else ():
            try:
                data["text"][code] = texts(code, settings.mlm_rows or None).fingerprint
            except HelpfulError as error:
                self.unread.setdefault(("text",), {})[f"text {code}"] = str(error)
        tokens = sum(each for _, each in learnt.values()) / (1 - settings.mlm_share)
        shared = {"data": self.part(data), "tokens": (int(tokens), 0)}
        return shared | {"settings": self.settings(settings.facts())}

    def _target(self, condition: str, target: Task) -> dict[str, Any]:
        """Return target, settings, data, evaluation and tokens of a target."""
        name, (evaluation, tested) = target.name, self._testing(target.name)
        facts, settings, trained, layer = _facts(target), "", 0.0, None
        chosen = self.profile.settings(target, "target", condition)
        # Retrieval reads a layer of the encoder as it is; every other target is trained.
        if target.format == "retrieval":
            layer = self._layer(target)
        else:
            settings = self.settings(chosen.facts())
            facts, trained = self._training(target, chosen)
            # One that is fine-tuned like the target before it trains no tokens itself.
            before, self.tuned = self.tuned, (condition, target.train_with or name, settings)
            trained *= before != self.tuned
        splits: dict[str, list[str]] = {}
        for language in target.languages:
            splits.setdefault(_split(target, language), []).append(language)
        limit = self.profile.test_rows.get(target.format, 0)
        data = {"tasks": {name: facts}, "test_rows": limit, "splits": splits, "layer": layer}
        if not settings and chosen.precision != "auto":  # all else is for training
            data["precision"] = chosen.precision
        found = {"target": name, "settings": settings, "data": self.part(data)}
        return found | {"evaluation": evaluation, "tokens": (int(trained), int(tested))}

    def _training(self, task: Task, settings: Settings) -> tuple[dict[str, Any], float]:
        """Return what identifies a task's training, and the tokens of all its epochs."""
        source = tasks.get(task.train_with) if task.train_with else task
        train, dev = self._rows(source, "en", "train"), self._rows(source, "en", "dev")
        facts = {"train": train.fingerprint, "train_rows": train.rows}
        facts |= {"dev": dev.fingerprint, "dev_rows": dev.rows}
        longest = min(task.max_length, settings.max_length)
        each = tokens(task, train, settings.train_rows, longest)
        return _facts(task) | facts, each * settings.epochs

    @cache  # noqa: B019  (a maker lives as long as its plan is made)
    def _testing(self, name: str) -> tuple[str, float]:
        """Return the part with the fingerprint of each language's rows, and the tokens of all."""
        target, available = tasks.get(name), self.languages == AVAILABLE
        asked = set(target.languages if available else self.languages or target.languages)
        wanted = [code for code in target.languages if code in asked]
        found = {c: self._rows(target, c, _split(target, c), available) for c in wanted}
        there = {code: rows for code, rows in found.items() if rows.fingerprint}
        # What lacks stands in the way, but where those at hand were asked for and there are some.
        if available:
            self.absent[target.name] = [code for code in found if code not in there]
        if available and not there:
            self.problems.append(f"target {target.name!r}: no language's data are at hand.")
        elif not found:
            text = f"target {target.name!r} has none of the languages asked for"
            self.problems.append(f"{text}: {', '.join(self.languages)}.")
        limit = self.profile.test_rows.get(target.format, 0)
        read = sum(tokens(target, rows, limit, target.max_length) for rows in there.values())
        return self.part({code: rows.fingerprint for code, rows in there.items()}), read

    def _layer(self, target: Task) -> int | None:
        """Return the hidden state that retrieval reads: chosen once, on the plain encoder."""
        if not any("dev" in source.splits for source in target.source.flat()):
            return self.profile.layer or None
        gone = self.absent.get(target.name, ())
        there = (code for code in target.languages if code not in gone)
        language = next(there, target.languages[0])
        rows = self._rows(target, language, "dev")
        if not (rows.fingerprint and self.facts):
            return None

        def choose() -> int:
            from helpers import evaluation

            return evaluation.choose_layer(pretrained(self.name), target, language)

        asked = f"{self.name} {self.parts[self.encoder]} {target.name} {rows.fingerprint}"
        return int(self.store.kept(asked, choose))

    def _rows(self, task: Task, language: str, split: str, optional: bool = False) -> Survey:
        """Return what is known of rows; of those not at hand nothing, which stands in the way."""
        try:
            return survey(self.store, task, language, split)
        except HelpfulError as error:
            if not (optional and isinstance(error, MissingData)):
                held = {source.id for source in task.source.serving(language, split)}
                entries = self.unread.setdefault(tuple(sorted(held)) or (task.name,), {})
                entries[f"{task.name!r} {language} {split}"] = " ".join(str(error).split())
            return Survey("", 0, 0.0, 0.0)


def _split(task: Task, language: str) -> str:
    """Return the split a target is evaluated on: ``test``, or ``dev`` where none is public."""
    return "test" if task.source.serving(language, "test") else "dev"


def _facts(task: Task) -> dict[str, Any]:
    """Return the facts of a task that change a result, beyond its rows."""
    return {name: getattr(task, name) for name in ("format", "metric", "labels", "max_length")}


def tokens(task: Task, rows: Survey, limit: int, longest: float) -> float:
    """Estimate tokens; long contexts of questions are cut into windows, and all of them are read."""
    longest = math.inf if task.format == "span" else longest
    count = min(rows.rows, limit) if limit else rows.rows
    return count * rows.sequences * min(rows.characters / CHARACTERS_PER_TOKEN + 3, longest)


def device() -> str:
    """Return the kind of the best device here; where no driver is, without loading PyTorch."""
    # Where Linux shows the drivers of NVIDIA's and AMD's GPUs, and of those behind Windows.
    drivers = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")
    if sys.platform == "linux" and not any(Path(place).exists() for place in drivers):
        return "cpu"
    from helpers.models.network import best_device

    return best_device().type
