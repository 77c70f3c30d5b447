"""What the five formats share: a batch on the device, pooling, and the interface of a format."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from helpers.formats.encoded import Encoded, token_index
from helpers.tasks import Task


@dataclass
class Batch:
    """Some sequences of one encoded set, as tensors.

    Attributes:
        ids: piece ids of all sequences, unpadded, shape ``(tokens,)``.
        lengths: tokens per sequence, shape ``(sequences,)``, on the host.
        starts: first token of each sequence, shape ``(sequences,)``, on the device.
        sequence: sequence that each token belongs to, shape ``(tokens,)``.
        row: row that each sequence belongs to, counted within the batch, shape ``(sequences,)``.
        rows: number of rows in the batch.
        fields: the encoded set's per-sequence and per-token arrays.
        index: indices of the sequences in the encoded set, on the host.
    """

    ids: Tensor
    lengths: np.ndarray
    starts: Tensor
    sequence: Tensor
    row: Tensor
    rows: int
    fields: dict[str, Tensor]
    index: np.ndarray

    @classmethod
    def collate(
        cls, encoded: Encoded, index: np.ndarray, device: torch.device | str = "cpu"
    ) -> Batch:
        """Gather sequences of an encoded set and move them to a device without blocking."""
        tokens = token_index(encoded, index)
        lengths = encoded.lengths[index]
        members, row = np.unique(encoded.example[index], return_inverse=True)

        def put(array: np.ndarray) -> Tensor:
            tensor = torch.from_numpy(np.ascontiguousarray(array))
            if str(device).startswith("cuda"):
                return tensor.pin_memory().to(device, non_blocking=True)
            return tensor

        fields = {name: put(array[index]) for name, array in encoded.per_sequence.items()}
        fields |= {name: put(array[tokens]) for name, array in encoded.per_token.items()}
        return cls(
            ids=put(encoded.tokens[tokens].astype(np.int64)),
            lengths=lengths,
            starts=put(np.cumsum(lengths) - lengths),
            sequence=put(np.repeat(np.arange(len(lengths)), lengths)),
            row=put(row),
            rows=len(members),
            fields=fields,
            index=index,
        )


def pool(hidden: Tensor, batch: Batch, how: str) -> Tensor:
    """Pool token states into one vector per sequence.

    Args:
        hidden: token states, shape ``(tokens, ..., width)``.
        batch: the batch they belong to.
        how: ``"mean"`` over all tokens of a sequence, special ones included, or ``"first"``.

    Returns:
        Shape ``(sequences, ..., width)``, in 32-bit floats.
    """
    if how == "first":
        return hidden[batch.starts].float()
    total = torch.zeros(len(batch.lengths), *hidden.shape[1:], device=hidden.device)
    total = total.index_add(0, batch.sequence, hidden.float())
    counts = torch.zeros(len(batch.lengths), device=hidden.device)
    counts = counts.index_add(0, batch.sequence, torch.ones_like(batch.sequence, dtype=torch.float))
    return total / counts.view(-1, *[1] * (total.ndim - 1))


class Head(nn.Module):
    """Dropout and one linear layer on top of the encoder."""

    def __init__(self, width: int, outputs: int, dropout: float = 0.0) -> None:
        """Make a head from ``width`` features to ``outputs`` scores."""
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(width, outputs)
        nn.init.normal_(self.out.weight, std=0.02)
        nn.init.zeros_(self.out.bias)

    def forward(self, features: Tensor) -> Tensor:
        """Return scores of shape ``(..., outputs)`` in 32-bit floats."""
        return self.out(self.dropout(features)).float()


class FormatBase(ABC):
    """How tasks of one format are encoded, learnt, predicted and decoded.

    ``loss`` gives a sum and ``weight`` the number of terms in it, so that a step's gradient does
    not depend on how its batch is split over micro-batches or processes.
    """

    name: str

    @abstractmethod
    def encode(
        self, task: Task, rows: Sequence[dict[str, Any]], encoder: Any, max_length: int, train: bool
    ) -> Encoded:
        """Tokenise standard rows."""

    @abstractmethod
    def head(self, task: Task, width: int, dropout: float) -> nn.Module:
        """Make the untrained head of a task."""

    @abstractmethod
    def loss(self, head: nn.Module, hidden: Tensor, batch: Batch, pooling: str) -> Tensor:
        """Return the summed loss of a batch, a scalar."""

    @abstractmethod
    def weight(self, encoded: Encoded, index: np.ndarray) -> float:
        """Return the number of terms in the loss of these sequences, known without the device."""

    @abstractmethod
    def predict(
        self, head: nn.Module, hidden: Tensor, batch: Batch, pooling: str
    ) -> dict[str, Tensor]:
        """Return what decoding needs, reduced on the device; first dimension: sequences or tokens."""

    @abstractmethod
    def decode(
        self,
        task: Task,
        rows: Sequence[dict[str, Any]],
        encoded: Encoded,
        outputs: dict[str, np.ndarray],
    ) -> list[Any]:
        """Return one prediction per row, in row order."""

    @abstractmethod
    def gold(self, task: Task, rows: Sequence[dict[str, Any]]) -> list[Any]:
        """Return what the predictions are compared with, in row order."""

    @abstractmethod
    def constant(self, task: Task, rows: Sequence[dict[str, Any]]) -> list[Any]:
        """Return the best predictions that do not read the input: the floor of a useful run."""


def most_frequent(values: Sequence[Any]) -> Any:
    """Return the value that occurs most often, the first of equals."""
    return Counter(values).most_common(1)[0][0]
