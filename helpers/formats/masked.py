"""Masked language modelling, mixed into intermediate training to keep the languages alive."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.nn import functional

from helpers.formats.base import Batch, FormatBase
from helpers.formats.encoded import IGNORE, Encoded
from helpers.formats.tokenise import Template, piece_ids
from helpers.tasks import Task

MASKED_SHARE = 0.15


class Masked(FormatBase):
    """Predict hidden pieces over the pruned vocabulary of the run's own text.

    Source: Devlin et al. (2019), section 3.1: 15 % of the pieces are targets; of these 80 % are
    masked, 10 % replaced by a random piece and 10 % left as they are.
    """

    name = "masked"

    def encode(
        self, task: Task, rows: Sequence[dict[str, Any]], encoder: Any, max_length: int, train: bool
    ) -> Encoded:
        """Cut paragraphs at ``max_length`` and hide pieces, the same ones whenever asked."""
        template = Template.of(encoder.tokenizer)
        room = max_length - template.single_room
        ids = piece_ids(encoder.tokenizer, [row["text"] for row in rows])
        sequences = [template.single(piece[:room]) for piece in ids]
        encoded = Encoded.build(sequences, range(len(rows)), rows=len(rows))
        return _hide(encoded, encoder.tokenizer)

    def head(self, task: Task, width: int, dropout: float) -> nn.Module:
        """Return a head over ``task.settings["pieces"]`` pieces."""
        return PieceHead(width, int(task.settings["pieces"]))

    def loss(self, head: nn.Module, hidden: Tensor, batch: Batch, pooling: str) -> Tensor:
        """Return the summed cross-entropy of the hidden pieces."""
        target = batch.fields["target"]
        chosen = target != IGNORE
        return functional.cross_entropy(head(hidden[chosen]), target[chosen], reduction="sum")

    def weight(self, encoded: Encoded, index: np.ndarray) -> float:
        """Return the number of hidden pieces in the sequences."""
        hidden = encoded.per_token["target"] != IGNORE
        spans = zip(encoded.starts[index], encoded.starts[index + 1], strict=True)
        return float(max(1, sum(int(hidden[a:b].sum()) for a, b in spans)))

    def predict(
        self, head: nn.Module, hidden: Tensor, batch: Batch, pooling: str
    ) -> dict[str, Tensor]:
        """Return each hidden piece's log probability, 0 elsewhere."""
        target = batch.fields["target"]
        chosen = target != IGNORE
        # Scores of every token over a whole vocabulary would be gigabytes.
        scores = head(hidden[chosen]).log_softmax(-1)
        picked = scores.new_zeros(len(target))
        picked[chosen] = scores.gather(-1, target[chosen][:, None])[:, 0]
        return {"logprob": picked}

    def decode(
        self,
        task: Task,
        rows: Sequence[dict[str, Any]],
        encoded: Encoded,
        outputs: dict[str, np.ndarray],
    ) -> list[Any]:
        """Return the mean log probability of each row's hidden pieces."""
        hidden = encoded.per_token["target"] != IGNORE
        total = np.add.reduceat(outputs["logprob"], encoded.starts[:-1])
        return (total / np.maximum(np.add.reduceat(hidden, encoded.starts[:-1]), 1)).tolist()

    def gold(self, task: Task, rows: Sequence[dict[str, Any]]) -> list[Any]:
        """Return nothing to compare with: the text itself is the target."""
        return [None] * len(rows)

    def constant(self, task: Task, rows: Sequence[dict[str, Any]]) -> list[Any]:
        """Return nothing: there is no constant answer."""
        return [None] * len(rows)


class PieceHead(nn.Module):
    """BERT's transform, then scores over the pieces."""

    def __init__(self, width: int, pieces: int) -> None:
        """Make a head from ``width`` features to ``pieces`` scores."""
        super().__init__()
        self.transform = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.LayerNorm(width))
        self.out = nn.Linear(width, pieces)

    def forward(self, features: Tensor) -> Tensor:
        """Return scores in 32-bit floats."""
        return self.out(self.transform(features)).float()


def _hide(encoded: Encoded, tokenizer: Any) -> Encoded:
    generator = np.random.default_rng([len(encoded.tokens), 15])
    special = np.isin(encoded.tokens, tokenizer.all_special_ids)
    chosen = (generator.random(len(encoded.tokens)) < MASKED_SHARE) & ~special
    encoded.per_token["target"] = np.where(chosen, encoded.tokens, IGNORE).astype(np.int64)
    fate = generator.random(len(encoded.tokens))
    tokens = np.where(chosen & (fate < 0.8), tokenizer.mask_token_id, encoded.tokens)
    strangers = generator.permutation(encoded.tokens[~special])
    swapped = np.flatnonzero(chosen & (fate >= 0.8) & (fate < 0.9))
    tokens[swapped] = strangers[: len(swapped)]
    encoded.tokens = tokens.astype(np.int32)
    return encoded
