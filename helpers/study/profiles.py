"""Sizes of the study: which encoder, tasks and settings, from seconds to GPU weeks.

The rules for collapsed runs belong here because they are fixed before any result: an attempt is
collapsed when its loss becomes NaN, or, in the stages a profile lists under ``judged``, when its
English development score is not above the score of the best constant answer on the same rows plus
``MARGIN`` (of several tasks trained together: on all of them). A collapsed attempt of a judged stage
is followed by one more with the seed ``seed + RETRY_SEED``; both stay in the store, and a second
collapse is final. At the smallest sizes an intermediate task is often not learnt at all, by design;
there that stage is not judged, and its record only notes the score.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from helpers.errors import unknown
from helpers.models.settings import Settings
from helpers.tasks import Task

MARGIN = 0.02
RETRY_SEED = 10_000
CONDITIONS = ("none", "single", "multitask", "mlm", "translated", "more_target", "shuffled")


@dataclass(frozen=True)
class Profile:
    """One size of the study.

    Attributes:
        name: what a plan is asked for by.
        about: encoder, data and hardware it is meant for, in one sentence.
        encoder: name for ``helpers.models.encoders.load``.
        intermediates, targets: names of the tasks a plan has by default.
        seeds: seeds of every cell; baselines have twice as many.
        intermediate, target: settings of the two stages.
        by_format: per stage and task format, settings that differ.
        by_condition: per condition, settings of its special stage that differ.
        test_rows: rows per language a target is evaluated on, by format; 0: all.
        keep: whether checkpoints of intermediate stages stay in the store.
        judged: stages in which a dev score no better than a constant answer counts as collapsed.
        task_settings: whether settings that a task states for itself apply.
        layer: hidden state that retrieval reads where a target has no development rows to choose
            it on; 0: the last.
    """

    name: str
    about: str
    encoder: str
    intermediates: tuple[str, ...]
    targets: tuple[str, ...]
    seeds: int
    intermediate: Settings
    target: Settings
    by_format: Mapping[str, Mapping[str, Mapping[str, Any]]] = field(default_factory=dict)
    by_condition: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    test_rows: Mapping[str, int] = field(default_factory=dict)
    keep: bool = True
    judged: Sequence[str] = ("intermediate", "target")
    task_settings: bool = True
    layer: int = 0

    def settings(self, task: Task, stage: str, condition: str) -> Settings:
        """Return the settings of one stage of one task.

        Args:
            task: the task that is trained on; of several, the first.
            stage: ``"intermediate"`` or ``"target"``.
            condition: one of ``CONDITIONS``.

        Returns:
            The stage's settings, changed by the format's, the task's and the condition's, in order.
        """
        chosen = self.intermediate if stage == "intermediate" else self.target
        chosen = chosen.override(self.by_format.get(stage, {}).get(task.format, {}))
        if self.task_settings:
            chosen = chosen.override(task.settings)
        special = "target" if condition == "more_target" else "intermediate"
        if stage == special:
            chosen = chosen.override(self.by_condition.get(condition, {}))
            chosen = chosen.override(_always(condition, chosen))
        return chosen.override({"max_length": min(chosen.max_length, task.max_length)})


def _always(condition: str, settings: Settings) -> dict[str, Any]:
    """Return what makes a condition what it is, at every size."""
    if condition == "shuffled":
        return {"shuffle_labels": True}
    if condition == "more_target":
        return {"epochs": settings.epochs * 2}
    if condition == "mlm" and not settings.mlm_share:
        return {"mlm_share": 0.25}
    return {}


TINY = Profile(
    name="tiny",
    about="A random two-layer encoder and generated tasks: tests the machinery in seconds.",
    encoder="tiny",
    intermediates=("toy-same", "toy-choice"),
    targets=("toy-intents", "toy-slots", "toy-messages"),
    seeds=1,
    intermediate=Settings(
        epochs=2, learning_rate=3e-3, batch_tokens=256, train_rows=48, dev_rows=32, max_length=32
    ),
    target=Settings(
        epochs=5, learning_rate=1e-2, batch_tokens=256, train_rows=64, dev_rows=32, max_length=32
    ),
    by_condition={"mlm": {"mlm_share": 0.2, "mlm_rows": 20, "mlm_languages": ("de",)}},
    test_rows={"pair": 12, "tagging": 12, "retrieval": 12},
    judged=(),
    task_settings=False,
)

DEMO = Profile(
    name="demo",
    about=(
        "A real 4-bit multilingual encoder and real text from pip packages, cut down to minutes on "
        "two processor cores: illustrative, not evidence."
    ),
    encoder="bundled",
    intermediates=("socialiqa-val", "boolq-val", "mrpc-val", "hellaswag-val"),
    targets=("intents", "slots", "messages"),
    seeds=1,
    intermediate=Settings(
        epochs=2,
        learning_rate=1e-4,
        head_rate=10,
        batch_tokens=512,
        train_rows=120,
        dev_rows=80,
        max_length=80,
    ),
    target=Settings(
        epochs=3,
        learning_rate=3e-4,
        head_rate=30,
        batch_tokens=192,
        train_rows=360,
        dev_rows=120,
        max_length=48,
    ),
    by_format={"intermediate": {"choice": {"train_rows": 70, "max_length": 64}}},
    by_condition={
        "mlm": {"mlm_share": 0.2, "mlm_rows": 300, "mlm_languages": ("de", "fr", "ru", "zh")}
    },
    test_rows={"pair": 25, "tagging": 25},
    judged=("target",),
    task_settings=False,
)

_HUB_INTERMEDIATES = (
    "anli_plus",
    "mnli",
    "qqp",
    "squad1",
    "squad2",
    "hellaswag",
    "cosmosqa",
    "commonsenseqa",
)
_XTREME_TARGETS = (
    "xnli",
    "pawsx",
    "udpos",
    "panx",
    "xquad",
    "mlqa",
    "tydiqa",
    "bucc2018",
    "tatoeba",
)

# Masked language modelling beside the intermediate task: languages of most targets.
_MLM_LANGUAGES = ("ar", "de", "el", "es", "fr", "hi", "ru", "sw", "th", "tr", "ur", "vi", "zh")

PILOT = Profile(
    name="pilot",
    about=(
        "Hub or mirror data with at most 5,000 training rows a task: CPU hours or GPU minutes with "
        "the bundled encoder. PAN-X and MLQA are scored on development rows, and a tagging task on "
        "UD-EWT stands in for CCG, so that a mirror without test labels and without CCGbank will do."
    ),
    encoder="bundled",
    intermediates=(*_HUB_INTERMEDIATES, "siqa", "xpos-ewt"),
    targets=(
        "xnli",
        "pawsx",
        "udpos",
        "panx-dev",
        "xquad",
        "mlqa-dev",
        "tydiqa",
        "xcopa",
        "tatoeba",
    ),
    seeds=1,
    intermediate=Settings(
        epochs=2, learning_rate=1e-4, batch_tokens=2048, train_rows=5000, dev_rows=500
    ),
    target=Settings(epochs=3, learning_rate=2e-4, batch_tokens=2048, train_rows=5000, dev_rows=300),
    by_format={
        "intermediate": {
            "span": {"max_length": 256, "batch_tokens": 4096},
            "choice": {"train_rows": 2500, "max_length": 96, "batch_tokens": 4096},
        },
        "target": {
            "span": {"max_length": 256, "epochs": 2, "batch_tokens": 4096},
            "choice": {"epochs": 5},
        },
    },
    by_condition={"mlm": {"mlm_share": 0.2, "mlm_rows": 2000, "mlm_languages": _MLM_LANGUAGES}},
    test_rows={"pair": 500, "choice": 500, "tagging": 400, "span": 250, "retrieval": 1000},
    task_settings=False,
)

# Batches are counted in tokens here: 32 rows of the length limit.
_PAPER = Settings(
    epochs=2,
    learning_rate=1e-5,
    batch_tokens=32 * 256,
    warmup=0.1,
    clip=1.0,
    dropout=0.1,
    pooling="first",
    max_length=256,
    evaluations=10,
)
PAPER = Profile(
    name="paper",
    about=(
        "XLM-R Large, all data and the settings of the study this book extends; meant for data-centre "
        "GPUs or a cluster."
    ),
    encoder="xlm-roberta-large",
    intermediates=(*_HUB_INTERMEDIATES, "ccg"),  # CCGbank is licensed: the error says how to get it
    targets=_XTREME_TARGETS,
    seeds=5,
    intermediate=_PAPER,
    target=_PAPER,
    by_format={
        "intermediate": {"span": {"batch_tokens": 16 * 384, "max_length": 384}},
        "target": {
            "span": {"batch_tokens": 16 * 384, "max_length": 384},
            "tagging": {"epochs": 10},
        },
    },
    by_condition={"mlm": {"mlm_share": 0.2, "mlm_rows": 10_000, "mlm_languages": _MLM_LANGUAGES}},
    keep=False,
    layer=14,
)

PROFILES = {profile.name: profile for profile in (TINY, DEMO, PILOT, PAPER)}


def get(name: str) -> Profile:
    """Return a profile by name, or raise UnknownName."""
    if name not in PROFILES:
        raise unknown("profile", name, PROFILES)
    return PROFILES[name]
