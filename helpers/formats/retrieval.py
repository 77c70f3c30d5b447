"""Texts that find their counterpart: bitext in another language, sentences that hold an answer."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from helpers.formats.base import Batch, FormatBase, pool
from helpers.formats.encoded import Encoded, join
from helpers.formats.tokenise import Template, piece_ids
from helpers.tasks import Task

_AT_ONCE = 10_000


class Retrieval(FormatBase):
    """Embed queries and candidates with one encoder; nearest neighbours answer.

    Bitext targets train nothing. Where a target has training pairs (a query and its candidate),
    they are trained as a dual encoder with in-batch negatives.
    """

    name = "retrieval"

    def encode(
        self, task: Task, rows: Sequence[dict[str, Any]], encoder: Any, max_length: int, train: bool
    ) -> Encoded:
        """Encode texts; in training, each query is followed by its first right candidate."""
        groups = iter(_training_pairs(rows)) if train else ((row,) for row in rows)
        # A few at a time: pieces as Python numbers take ten times the memory of an array.
        parts = [
            _encoded(chosen, encoder.tokenizer, max_length, train)
            for chosen in iter(lambda: list(islice(groups, _AT_ONCE)), [])
        ]
        return join(parts) if parts else _encoded([], encoder.tokenizer, max_length, train)

    def head(self, task: Task, width: int, dropout: float) -> nn.Module:
        """Return a head that only holds the softmax temperature of the dual encoder."""
        return Temperature()

    def loss(self, head: nn.Module, hidden: Tensor, batch: Batch, pooling: str) -> Tensor:
        """Return the summed cross-entropy of each query against the batch's candidates.

        Unlike other losses it depends on how a step is split: fewer candidates are told apart.
        """
        vectors = functional.normalize(pool(hidden, batch, pooling), dim=-1)
        pairs = vectors.view(-1, 2, vectors.shape[-1])
        scores = head(pairs[:, 0] @ pairs[:, 1].T)
        right = torch.arange(len(scores), device=scores.device)
        return functional.cross_entropy(scores, right, reduction="sum")

    def weight(self, encoded: Encoded, index: np.ndarray) -> float:
        """Return the number of queries."""
        return float(len(index) // 2)

    def predict(
        self, head: nn.Module, hidden: Tensor, batch: Batch, pooling: str
    ) -> dict[str, Tensor]:
        """Return one vector per text."""
        return {"vector": pool(hidden, batch, pooling)}

    def decode(
        self,
        task: Task,
        rows: Sequence[dict[str, Any]],
        encoded: Encoded,
        outputs: dict[str, np.ndarray],
    ) -> list[Any]:
        """Return one vector per row: an array of shape ``(rows, width)``."""
        return cast(list[Any], outputs["vector"])

    def gold(self, task: Task, rows: Sequence[dict[str, Any]]) -> list[Any]:
        """Return the ids of the right candidates of each query."""
        return [list(row["gold"]) for row in rows if row["side"] == "query"]

    def constant(self, task: Task, rows: Sequence[dict[str, Any]]) -> list[Any]:
        """Return the same vector for every text."""
        return [np.ones(1, np.float32)] * len(rows)


def _encoded(
    groups: Sequence[tuple[dict[str, Any], ...]], tokenizer: Any, max_length: int, train: bool
) -> Encoded:
    template = Template.of(tokenizer)
    flat = [row for group in groups for row in group]
    room = max_length - template.single_room
    ids = piece_ids(tokenizer, [row["text"] for row in flat])
    return Encoded.build(
        [template.single(piece[:room]) for piece in ids],
        [number for number, group in enumerate(groups) for _ in group],
        per_sequence={"is_query": np.array([row["side"] == "query" for row in flat], bool)},
        rows=len(groups),
        together=train,
    )


class Temperature(nn.Module):
    """Scale of the cosines before the softmax, learnt from 1/20."""

    def __init__(self) -> None:
        """Start at a temperature of 0.05."""
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(3.0))

    def forward(self, cosines: Tensor) -> Tensor:
        """Return the scaled cosines."""
        return cosines * self.log_scale.exp().clamp(max=100.0)


def _training_pairs(
    rows: Sequence[dict[str, Any]],
) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    candidates = {row["id"]: row for row in rows if row["side"] == "candidate"}
    return [
        (row, candidates[row["gold"][0]])
        for row in rows
        if row["side"] == "query" and row["gold"] and row["gold"][0] in candidates
    ]
