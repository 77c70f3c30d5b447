"""What a fine-tuning run can be told, and what it tells in return."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from helpers.errors import HelpfulError, unknown

SAMPLINGS = ("proportional", "temperature", "capped")
POOLINGS = ("mean", "first")
SHORTEST = 8


@dataclass(frozen=True)
class Settings:
    """Settings of one fine-tuning run.

    Attributes:
        epochs: passes over the training rows (of several tasks: over their sampled mixture).
        learning_rate: peak of AdamW's rate, after warm-up and before linear decay to 0.
        head_rate: the heads' rate, as a multiple of it: they start from nothing, and in a run of a
            few dozen steps would still be near it.
        batch_tokens: padded tokens per optimiser step.
        micro_tokens: padded tokens per forward pass; 0: all of a step. Halved when memory runs out.
        warmup: share of the steps in which the rate rises.
        weight_decay: AdamW's; never applied to embeddings, biases and normalisation.
        clip: largest norm of the gradient; 0: no limit.
        dropout: of the head; the encoder's own dropout is set to it as well.
        pooling: ``"mean"`` over tokens or the ``"first"`` token.
        train_rows: at most so many training rows per task; 0: all.
        dev_rows: at most so many English development rows per task; 0: all.
        max_length: longest input in pieces; a task's own limit may be lower.
        evaluations: how often the English development score is taken; the best state is kept.
        precision: ``"auto"``, ``"fp32"`` or ``"bf16"``.
        freeze_embeddings: leave the word embeddings alone; ``None``: as the encoder says.
        frozen_layers: leave so many lower layers alone.
        gradient_checkpointing: trade a third of the speed for memory.
        offload: keep what the backward pass needs in main memory, not on the GPU; slower still,
            for inputs that do not fit with ``gradient_checkpointing`` alone.
        compile: compile the encoder's layers (worth its minute on a GPU and a large encoder).
        sampling: how tasks are mixed: by size, by size to a power, or by size up to a cap.
        temperature: with ``"temperature"``: probability goes with size ** (1 / temperature).
        cap: with ``"capped"``: sizes above it count as the cap (0: no cap).
        mlm_share: share of the steps spent on masked language modelling in many languages.
        mlm_rows: paragraphs per language for it.
        mlm_languages: languages of that text.
        shuffle_labels: control: labels permuted among the training rows.
        checkpoint_seconds: how often an unfinished run is written down.
    """

    epochs: float = 2.0
    learning_rate: float = 1e-4
    head_rate: float = 1.0
    batch_tokens: int = 1024
    micro_tokens: int = 0
    warmup: float = 0.1
    weight_decay: float = 0.0
    clip: float = 1.0
    dropout: float = 0.0
    pooling: str = "mean"
    train_rows: int = 0
    dev_rows: int = 500
    max_length: int = 128
    evaluations: int = 1
    precision: str = "auto"
    freeze_embeddings: bool | None = None
    frozen_layers: int = 0
    gradient_checkpointing: bool = False
    offload: bool = False
    compile: bool = False
    sampling: str = "proportional"
    temperature: float = 1.0
    cap: int = 0
    mlm_share: float = 0.0
    mlm_rows: int = 0
    mlm_languages: tuple[str, ...] = ()
    shuffle_labels: bool = False
    checkpoint_seconds: float = 300.0

    def __post_init__(self) -> None:
        """Reject settings that cannot be meant."""
        if self.sampling not in SAMPLINGS:
            raise unknown("sampling", self.sampling, SAMPLINGS)
        if self.pooling not in POOLINGS:
            raise unknown("pooling", self.pooling, POOLINGS)
        for name in (
            "epochs",
            "learning_rate",
            "head_rate",
            "batch_tokens",
            "temperature",
        ):
            if not getattr(self, name) > 0:
                raise HelpfulError(f"{name} must be above 0, got {getattr(self, name)!r}.")
        for name in ("mlm_share", "warmup", "dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise HelpfulError(f"{name} is a share in [0, 1), got {getattr(self, name)!r}.")
        if self.max_length < SHORTEST:
            raise HelpfulError(
                f"max_length counts special tokens too and must be at least {SHORTEST}, got "
                f"{self.max_length!r}."
            )

    def override(self, changes: Mapping[str, Any]) -> Settings:
        """Return these settings with some changed.

        Raises:
            UnknownName: there is no such setting.
        """
        known = asdict(self)
        for name in changes:
            if name not in known:
                raise unknown("setting", name, known)
        return replace(self, **changes)


@dataclass
class Outcome:
    """What came of a fine-tuning run.

    Attributes:
        status: ``"done"`` or ``"collapsed"`` (the loss became NaN).
        dev: English development score per task, of the state that was kept, from 0 to 1.
        floor: score of the best constant answer on the same rows, per task.
        steps: optimiser steps made.
        kept_step: step of the state that was kept.
        rows: training rows seen per epoch.
        tokens: training tokens, padding not counted, over all epochs.
        seconds: wall time of training, loading of rows and tokenising not counted.
        peak_memory_mb: largest memory in MB.
        device: its name.
        precision: number format of the arithmetic.
        loss: mean training loss over the last tenth of the steps.
        sources: per task, where its rows came from.
        fingerprints: per task, SHA-256 of its training rows.
        notes: what else should be known (rows skipped, token budget halved).
    """

    status: str = "done"
    dev: dict[str, float] = field(default_factory=dict)
    floor: dict[str, float] = field(default_factory=dict)
    steps: int = 0
    kept_step: int = 0
    rows: int = 0
    tokens: int = 0
    seconds: float = 0.0
    peak_memory_mb: float = 0.0
    device: str = ""
    precision: str = ""
    loss: float = float("nan")
    sources: dict[str, str] = field(default_factory=dict)
    fingerprints: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
