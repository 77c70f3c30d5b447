"""One context, several possible continuations or answers, one of them right."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from helpers.formats.base import Batch, FormatBase, Head, most_frequent, pool
from helpers.formats.encoded import Encoded
from helpers.formats.tokenise import Template, piece_ids
from helpers.tasks import Task


class Choice(FormatBase):
    """Score every (context, choice) pair and compare the scores within a row."""

    name = "choice"

    def encode(
        self, task: Task, rows: Sequence[dict[str, Any]], encoder: Any, max_length: int, train: bool
    ) -> Encoded:
        """Encode each choice after its context, whose beginning is cut when both are too long."""
        template = Template.of(encoder.tokenizer)
        contexts = piece_ids(encoder.tokenizer, [row["context"] for row in rows])
        flat = piece_ids(encoder.tokenizer, [choice for row in rows for choice in row["choices"]])
        sequences, example, right = [], [], []
        position = 0
        for number, (row, context) in enumerate(zip(rows, contexts, strict=True)):
            for rank in range(len(row["choices"])):
                choice = flat[position][: max_length - template.pair_room]
                room = max_length - template.pair_room - len(choice)
                sequences.append(
                    template.pair(context[len(context) - min(room, len(context)) :], choice)
                )
                example.append(number)
                right.append(rank == row["label"])
                position += 1
        return Encoded.build(
            sequences, example, per_sequence={"right": right}, rows=len(rows), together=True
        )

    def head(self, task: Task, width: int, dropout: float) -> nn.Module:
        """Return a head with one score."""
        return Head(width, 1, dropout)

    def loss(self, head: nn.Module, hidden: Tensor, batch: Batch, pooling: str) -> Tensor:
        """Return the summed negative log probability of the right choices."""
        scores = head(pool(hidden, batch, pooling)).squeeze(-1)
        right = (scores * batch.fields["right"]).sum()
        return segment_logsumexp(scores, batch.row, batch.rows).sum() - right

    def weight(self, encoded: Encoded, index: np.ndarray) -> float:
        """Return the number of rows among the sequences."""
        return float(len(np.unique(encoded.example[index])))

    def predict(
        self, head: nn.Module, hidden: Tensor, batch: Batch, pooling: str
    ) -> dict[str, Tensor]:
        """Return the score of each choice."""
        return {"score": head(pool(hidden, batch, pooling)).squeeze(-1)}

    def decode(
        self,
        task: Task,
        rows: Sequence[dict[str, Any]],
        encoded: Encoded,
        outputs: dict[str, np.ndarray],
    ) -> list[Any]:
        """Return the rank of the best choice of each row."""
        first = encoded.units
        return [int(outputs["score"][a:b].argmax()) for a, b in zip(first, first[1:], strict=False)]

    def gold(self, task: Task, rows: Sequence[dict[str, Any]]) -> list[Any]:
        """Return the rank of the right choice of each row."""
        return [int(row["label"]) for row in rows]

    def constant(self, task: Task, rows: Sequence[dict[str, Any]]) -> list[Any]:
        """Return the most frequent rank for every row."""
        gold = self.gold(task, rows)
        return [most_frequent(gold)] * len(gold)


def segment_logsumexp(scores: Tensor, segment: Tensor, segments: int) -> Tensor:
    """Return log-sum-exp of scores within each segment.

    Args:
        scores: shape ``(n,)``.
        segment: segment of each score, every one of ``0 .. segments - 1`` used, shape ``(n,)``.
        segments: number of segments, known on the host so that the device is not waited for.

    Returns:
        Shape ``(segments,)``.
    """
    top = torch.full((segments,), -torch.inf, device=scores.device)
    top = top.scatter_reduce(0, segment, scores.detach(), "amax")
    total = torch.zeros(segments, device=scores.device)
    return total.index_add(0, segment, (scores - top[segment]).exp()).log() + top
