"""Sizes of the study: which encoder, tasks and settings, from seconds to GPU weeks.

They are data, in ``data/profiles.toml``. The rules for collapsed runs belong here because they are
fixed before any result: an attempt is collapsed when its loss becomes NaN, or, in the stages a profile
lists under ``judged``, when its English development score is not above the score of the best constant
answer on the same rows plus ``MARGIN`` (of several tasks trained together: on all of them). A collapsed
attempt of a judged stage is followed by one more with the seed ``seed + RETRY_SEED``; both stay in the
store, and a second collapse is final. At the smallest sizes an intermediate task is often not learnt at
all, by design; there that stage is not judged, and its record only notes the score.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from helpers.errors import known
from helpers.models import Settings
from helpers.tasks import Task

MARGIN = 0.02
RETRY_SEED = 10_000
CONDITIONS = ("none", "single", "multitask", "mlm", "translated", "more_target", "shuffled")
STAGES = ("intermediate", "target")


@dataclass(frozen=True)
class Profile:
    """One size of the study."""

    name: str  # what a plan is asked for by
    about: str  # encoder, data and hardware it is meant for, in one sentence
    encoder: str  # name for ``helpers.models.encoders.load``
    intermediates: tuple[str, ...]  # names of the tasks a plan has by default
    targets: tuple[str, ...]
    seeds: int  # of every cell; baselines have twice as many
    intermediate: Settings  # of the stage; in the file, ``settings`` are those of both stages
    target: Settings
    # Settings that differ: per stage and task format, and per condition in its special stage.
    by_format: Mapping[str, Mapping[str, Mapping[str, Any]]] = field(default_factory=dict)
    by_condition: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    test_rows: Mapping[str, int] = field(default_factory=dict)  # per language, by format; 0: all
    keep: bool = True  # whether checkpoints of intermediate stages stay in the store
    judged: tuple[str, ...] = STAGES  # in which a score no better than a constant is collapsed
    task_settings: bool = True  # whether settings that a task states for itself apply
    layer: int = 0  # that retrieval reads where no development rows can choose it; 0: the last
    stored: bool = False  # whether its scores are to be committed: a commit must say what made them
    # Languages per target that were given up before the first run: no labelled rows were at hand.
    absent: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def settings(self, task: Task, stage: str, condition: str) -> Settings:
        """Return the settings of a stage (of several tasks of the first) in one of ``CONDITIONS``."""
        # The stage's settings, changed by the format's, the task's and the condition's, in order.
        chosen = self.intermediate if stage == "intermediate" else self.target
        chosen = chosen.override(self.by_format.get(stage, {}).get(task.format, {}))
        if self.task_settings:
            chosen = chosen.override(task.settings)
        special = "target" if condition == "more_target" else "intermediate"
        if stage == special:
            chosen = chosen.override(self.by_condition.get(condition, {}))
            # What makes a condition what it is, at every size.
            always: dict[str, dict[str, Any]] = {
                "shuffled": {"shuffle_labels": True},
                "more_target": {"epochs": chosen.epochs * 2},
                "mlm": {"mlm_share": chosen.mlm_share or 0.25},
            }
            chosen = chosen.override(always.get(condition, {}))
        return chosen.override({"max_length": min(chosen.max_length, task.max_length)})


def _read(facts: dict[str, Any]) -> dict[str, Profile]:
    """Return the profiles of a file by name."""
    found = {}
    for name, own in facts.items():
        both = own.pop("settings", {})
        own |= {stage: Settings(**both | own.get(stage, {})) for stage in STAGES}
        own |= {fact: tuple(value) for fact, value in own.items() if isinstance(value, list)}
        own["absent"] = {target: tuple(codes) for target, codes in own.get("absent", {}).items()}
        found[name] = Profile(name, **own)
    return found


FILE = Path(__file__).resolve().parents[2] / "data" / "profiles.toml"
PROFILES = _read(tomllib.loads(FILE.read_text("utf-8")))
TINY, DEMO, PAPER = (PROFILES[name] for name in ("tiny", "demo", "paper"))


def get(name: str) -> Profile:
    """Return a profile by name, or raise UnknownName."""
    return PROFILES[known("profile", name, PROFILES)]


def above(score: Any, floor: Any) -> Any:
    """Return whether a score, or each of a column, is more than the margin above its floor."""
    # Rounded, so that exactly the margin is not above, whatever the last binary digit.
    return round(score - floor, 9) > MARGIN
