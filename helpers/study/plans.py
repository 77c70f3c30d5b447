"""A plan: the runs of a study as a table, each with an id that is a hash of what determines it.

Runs share most of what determines them (settings, data, encoder), so each such part is kept once,
under its own hash, and a run's id is a hash over the hashes of its parts. A plan of a hundred
thousand runs is then a small table, and making it takes seconds.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from helpers.errors import BadRecord, UnknownName
from helpers.files import write_atomic
from helpers.study import costs

# Raise a stage's number by hand when a change of the code changes its results.
CODE = {"intermediate": 1, "target": 2}
# Settings that decide how a result is reached, not which one.
INCIDENTAL = ("checkpoint_seconds", "micro_tokens", "gradient_checkpointing", "offload")
COLUMNS = {
    "run": "str",
    "core": "str",
    "stage": "str",
    "condition": "str",
    "intermediate": "str",
    "target": "str",
    "seed": "int64",
    "parent": "str",
    "settings": "str",
    "data": "str",
    "evaluation": "str",
    "train_tokens": "int64",
    "test_tokens": "int64",
}


@dataclass(frozen=True)
class Job:
    """One run, with everything that is needed to do it.

    Attributes:
        run: id; ``core``: id without the languages of its evaluation.
        stage: ``intermediate`` or ``target``.
        condition, intermediate, target: names; ``intermediate`` joins several by "+".
        seed: seed of this stage.
        parent: run whose checkpoint this one starts from; "" for the pretrained encoder.
        encoder: name of the encoder.
        spec: what determines the result, in full, plus the settings that do not.
        sources: where rows come from, by language or task.
        judged: whether a dev score no better than a constant answer counts as collapsed.
        work: expected tokens; one of evaluation counts a third of one of training.
    """

    run: str
    core: str
    stage: str
    condition: str
    intermediate: str
    target: str
    seed: int
    parent: str
    encoder: str
    spec: Mapping[str, Any]
    sources: Mapping[str, str]
    judged: bool
    work: float = 0.0

    @property
    def name(self) -> str:
        """Return a short description for a log or a progress line."""
        via = self.intermediate or self.condition
        return f"{self.target or self.stage} via {via} (seed {self.seed})"


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
    def _place(self) -> dict[str, int]:
        return {run: place for place, run in enumerate(self.runs["run"])}

    @cached_property
    def dependents(self) -> dict[str, list[str]]:
        """Return, for each intermediate run, the runs that start from its checkpoint."""
        children: dict[str, list[str]] = {}
        for run, parent in zip(self.runs["run"], self.runs["parent"], strict=True):
            if parent:
                children.setdefault(parent, []).append(run)
        return children

    @cached_property
    def parents(self) -> dict[str, str]:
        """Return the run that each run starts from; "" for the pretrained encoder."""
        return dict(zip(self.runs["run"], self.runs["parent"], strict=True))

    @cached_property
    def stages(self) -> dict[str, str]:
        """Return the stage of each run."""
        return dict(zip(self.runs["run"], self.runs["stage"], strict=True))

    def job(self, run: str) -> Job:
        """Return one run with its full specification.

        Raises:
            UnknownName: the run is not part of this plan.
        """
        if run not in self._place:
            raise UnknownName(f"run {run!r} is not part of plan {self.id} ({len(self)} runs).")
        place = self._place[run]
        row = {name: self.runs[name].array[place] for name in COLUMNS}
        names = ("stage", "condition", "intermediate", "target", "parent")
        facts = {name: str(row[name]) for name in names}
        tested = self.parts[row["evaluation"]] if row["evaluation"] else {}
        data = self.parts[row["data"]]
        spec: dict[str, Any] = {
            **facts,
            "code": CODE[facts["stage"]],
            "seed": int(row["seed"]),
            "encoder": self.parts[self.facts["encoder"]],
            "settings": self.parts[row["settings"]] if row["settings"] else {},
            "data": data,
            "evaluation": tested,
        }
        sources = self.sources.get(facts["target"], {}) or {
            name: source for name in data["tasks"] for source in self.sources.get(name, {}).values()
        }
        return Job(
            run=run,
            core=str(row["core"]),
            seed=int(row["seed"]),
            encoder=self.encoder,
            spec=spec,
            sources=sources,
            judged=facts["stage"] in self.facts.get("judged", ()),
            work=float(row["train_tokens"] + row["test_tokens"] * costs.TEST_WORK),
            **facts,
        )

    def cost(self, wanted: Iterable[str] | None = None) -> pd.DataFrame:
        """Return runs, tokens, minutes and disk by stage and condition; see ``helpers.study.costs``."""
        return costs.cost(self, wanted)

    def _repr_html_(self) -> str:
        return f"<p>{costs.sentence(self)}</p>" + self.cost().to_html(index=False)

    def __repr__(self) -> str:
        """Return the plan's size and cost in one sentence."""
        return costs.sentence(self)

    def save(self, folder: Path) -> Path:
        """Write the plan where other processes find it; return the file."""
        table = pa.Table.from_pandas(self.runs, preserve_index=False)
        rest = {
            "profile": self.profile,
            "encoder": self.encoder,
            "parts": self.parts,
            "sources": self.sources,
            "facts": self.facts,
        }
        table = table.replace_schema_metadata({b"plan": json.dumps(rest).encode()})
        buffer = pa.BufferOutputStream()
        pq.write_table(table, buffer, compression="zstd")
        path = folder / f"{self.id}.parquet"
        write_atomic(path, buffer.getvalue().to_pybytes())
        return path


def load(path: Path) -> Plan:
    """Read a plan that ``Plan.save`` wrote.

    Raises:
        BadRecord: the file is not a plan.
    """
    try:
        table = pq.read_table(path)
        rest = json.loads(table.schema.metadata[b"plan"])
    except (OSError, pa.ArrowInvalid, KeyError, TypeError, ValueError) as error:
        raise BadRecord(f"{path} is not a plan ({error}); make the plan again.") from error
    return Plan(runs=table.to_pandas().astype(COLUMNS), **rest)


def find(folder: Path, runs: Iterable[str]) -> Plan:
    """Return the newest stored plan that holds all of some runs.

    Raises:
        UnknownName: no stored plan does.
    """
    wanted = list(runs)
    files = sorted(folder.glob("[!.]*.parquet"), key=lambda path: -path.stat().st_mtime_ns)
    for path in files:
        if set(wanted) <= set(pq.read_table(path, columns=["run"])["run"].to_pylist()):
            return load(path)
    raise UnknownName(
        f"no stored plan in {folder} holds run {', '.join(wanted)}. Plans are stored when they are "
        "run; check TRANSFER_STORE, or give the plan's file with --plan."
    )


def digest(text: str) -> str:
    """Return 16 hexadecimal digits that stand for a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def canonical(value: Any) -> str:
    """Return JSON that is the same for equal values."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


class Builder:
    """Collects runs and their shared parts."""

    def __init__(self, encoder: Mapping[str, Any], judged: Iterable[str] = ()) -> None:
        """Start a plan for one encoder.

        Args:
            encoder: what identifies its weights.
            judged: stages whose runs can be found collapsed by their dev score.
        """
        self.judged = tuple(judged)
        self.parts: dict[str, dict[str, Any]] = {}
        self.rows: list[tuple[Any, ...]] = []
        self._seen: set[str] = set()
        self.encoder = self.part(encoder)
        self._hashed: dict[str, str] = {}

    def part(self, value: Mapping[str, Any]) -> str:
        """Keep a shared part and return its hash."""
        text = canonical(value)
        key = digest(text)
        if key not in self.parts:
            self.parts[key] = json.loads(text)  # as it will be read back: lists for tuples
        return key

    def settings(self, value: Mapping[str, Any]) -> str:
        """Keep settings; incidental ones stay out of every run's id."""
        key = self.part(value)
        decisive = {k: v for k, v in value.items() if k not in INCIDENTAL}
        self._hashed[key] = digest(canonical(decisive))
        return key

    def add(
        self,
        *,
        stage: str,
        condition: str,
        seed: int,
        data: str,
        settings: str = "",
        evaluation: str = "",
        intermediate: str = "",
        target: str = "",
        parent: str = "",
        tokens: tuple[int, int] = (0, 0),
    ) -> str:
        """Add a run unless the plan has it; return its id.

        Args:
            stage, condition, intermediate, target, seed, parent: see ``Job``.
            data, settings, evaluation: hashes of shared parts.
            tokens: estimated training and evaluation tokens.
        """
        decisive = (
            f"{stage}|{CODE[stage]}|{self.encoder}|{condition}|{seed}|{data}|"
            f"{self._hashed.get(settings, '')}|{parent}|{stage in self.judged}"
        )
        core = digest(decisive)
        run = digest(f"{core}|{evaluation}")
        if run not in self._seen:
            self._seen.add(run)
            names = (run, core, stage, condition, intermediate, target, seed, parent)
            self.rows.append((*names, settings, data, evaluation, *tokens))
        return run

    def table(self) -> pd.DataFrame:
        """Return all runs, in the order in which they were added."""
        return pd.DataFrame(self.rows, columns=list(COLUMNS)).astype(COLUMNS)
