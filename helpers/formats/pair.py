"""One or two texts, one label: inference, paraphrase, intent, yes/no questions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.nn import functional

from helpers.formats.base import Batch, FormatBase, Head, most_frequent, pool
from helpers.formats.encoded import Encoded
from helpers.formats.tokenise import Template, cut_longest, piece_ids
from helpers.tasks import Task


class Pair(FormatBase):
    """Classify a text or a pair of texts from its pooled states."""

    name = "pair"

    def encode(
        self, task: Task, rows: Sequence[dict[str, Any]], encoder: Any, max_length: int, train: bool
    ) -> Encoded:
        """Encode ``first`` and ``second``, the longer one cut first; no second text: one input."""
        template = Template.of(encoder.tokenizer)
        first = piece_ids(encoder.tokenizer, [row["first"] for row in rows])
        second = piece_ids(encoder.tokenizer, [row.get("second") or "" for row in rows])
        sequences = [
            template.pair(*cut_longest(a, b, max_length - template.pair_room))
            if b
            else template.single(a[: max_length - template.single_room])
            for a, b in zip(first, second, strict=True)
        ]
        return Encoded.build(
            sequences,
            range(len(rows)),
            per_sequence={"label": np.array([row["label"] for row in rows], np.int64)},
            rows=len(rows),
        )

    def head(self, task: Task, width: int, dropout: float) -> nn.Module:
        """Return a head with one score per label."""
        return Head(width, len(task.labels), dropout)

    def loss(self, head: nn.Module, hidden: Tensor, batch: Batch, pooling: str) -> Tensor:
        """Return the summed cross-entropy of the labels."""
        scores = head(pool(hidden, batch, pooling))
        return functional.cross_entropy(scores, batch.fields["label"], reduction="sum")

    def weight(self, encoded: Encoded, index: np.ndarray) -> float:
        """Return the number of sequences."""
        return float(len(index))

    def predict(
        self, head: nn.Module, hidden: Tensor, batch: Batch, pooling: str
    ) -> dict[str, Tensor]:
        """Return the best label of each sequence."""
        return {"label": head(pool(hidden, batch, pooling)).argmax(-1)}

    def decode(
        self,
        task: Task,
        rows: Sequence[dict[str, Any]],
        encoded: Encoded,
        outputs: dict[str, np.ndarray],
    ) -> list[Any]:
        """Return label ids in row order."""
        return [int(label) for label in outputs["label"]]

    def gold(self, task: Task, rows: Sequence[dict[str, Any]]) -> list[Any]:
        """Return the label ids of the rows."""
        return [int(row["label"]) for row in rows]

    def constant(self, task: Task, rows: Sequence[dict[str, Any]]) -> list[Any]:
        """Return the most frequent label for every row."""
        gold = self.gold(task, rows)
        return [most_frequent(gold)] * len(gold)
