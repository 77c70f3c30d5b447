"""What the formats share: a batch on the device, pooling, a head, and the interface of a format."""

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

Rows = Sequence[dict[str, Any]]
Arrays = dict[str, np.ndarray]
Outputs = dict[str, Tensor]


@dataclass
class Batch:
    """Some sequences of one encoded set, unpadded, as tensors on a device."""

    ids: Tensor  # piece ids of all sequences, (tokens,)
    lengths: np.ndarray  # tokens per sequence, (sequences,), on the host
    starts: Tensor  # first token of each sequence, (sequences,)
    sequence: Tensor  # sequence that each token belongs to, (tokens,)
    row: Tensor  # row that each sequence belongs to, counted within the batch, (sequences,)
    rows: int  # rows in the batch
    fields: dict[str, Tensor]  # the encoded set's per-sequence and per-token arrays
    index: np.ndarray  # the sequences in the encoded set, on the host

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
    """Pool states of tokens into 32-bit floats of sequences: the mean of all, or the first."""
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
    not depend on how its batch is split over micro-batches.
    """

    name: str

    @abstractmethod
    def encode(self, task: Task, rows: Rows, encoder: Any, max_length: int, train: bool) -> Encoded:
        """Tokenise standard rows."""

    @abstractmethod
    def head(self, task: Task, width: int, dropout: float) -> nn.Module:
        """Make the untrained head of a task."""

    @abstractmethod
    def loss(self, head: nn.Module, hidden: Tensor, batch: Batch, pooling: str) -> Tensor:
        """Return the summed loss of a batch, a scalar."""

    def weight(self, encoded: Encoded, index: np.ndarray) -> float:
        """Return the number of terms in the loss of these sequences, known without the device."""
        return float(len(index))

    @abstractmethod
    def predict(self, head: nn.Module, hidden: Tensor, batch: Batch, pooling: str) -> Outputs:
        """Return what decoding needs, reduced on the device; first dimension: sequences or tokens."""

    @abstractmethod
    def decode(self, task: Task, rows: Rows, encoded: Encoded, outputs: Arrays) -> list[Any]:
        """Return one prediction per row, in row order."""

    def gold(self, task: Task, rows: Rows) -> list[Any]:
        """Return what the predictions are compared with, in row order."""
        return [int(row["label"]) for row in rows]

    def constant(self, task: Task, rows: Rows) -> list[Any]:
        """Return the best predictions that do not read the input: the floor of a useful run."""
        gold = self.gold(task, rows)
        return [most_frequent(gold)] * len(gold)


def most_frequent(values: Sequence[Any]) -> Any:
    """Return the value that occurs most often, the first of equals."""
    return Counter(values).most_common(1)[0][0]
