"""One label per word: parts of speech, names, slots, supertags."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.nn import functional

from helpers.formats.base import Batch, FormatBase, Head, most_frequent
from helpers.formats.encoded import IGNORE, Encoded
from helpers.formats.tokenise import Template, piece_ids
from helpers.tasks import Task


class Tagging(FormatBase):
    """Label the first piece of every word; long sentences are split at words and joined again.

    Words are tokenised one by one, as XTREME's own preprocessing does, so that a word's pieces do
    not depend on its neighbours, whatever the script.
    """

    name = "tagging"

    def encode(
        self, task: Task, rows: Sequence[dict[str, Any]], encoder: Any, max_length: int, train: bool
    ) -> Encoded:
        """Encode words, splitting a sentence where its pieces exceed ``max_length``."""
        tokenizer = encoder.tokenizer
        template = Template.of(tokenizer)
        room = max_length - template.single_room
        words = iter(piece_ids(tokenizer, [word for row in rows for word in row["tokens"]]))
        sequences, example, tags, places = [], [], [], []
        for number, row in enumerate(rows):
            pieces = [next(words)[:room] or [tokenizer.unk_token_id] for _ in row["tokens"]]
            labels = row.get("tags") or [IGNORE] * len(pieces)
            for begin, end in _chunks([len(p) for p in pieces], room):
                body = [i for piece in pieces[begin:end] for i in piece]
                sequences.append(template.single(body))
                example.append(number)
                tags.append(_spread(pieces[begin:end], labels[begin:end], template, IGNORE))
                places.append(_spread(pieces[begin:end], range(begin, end), template, -1))
        return Encoded.build(
            sequences, example, per_token={"tag": tags, "word": places}, rows=len(rows)
        )

    def head(self, task: Task, width: int, dropout: float) -> nn.Module:
        """Return a head with one score per label."""
        return Head(width, len(task.labels), dropout)

    def loss(self, head: nn.Module, hidden: Tensor, batch: Batch, pooling: str) -> Tensor:
        """Return the summed cross-entropy over first pieces."""
        tags = batch.fields["tag"]
        return functional.cross_entropy(head(hidden), tags, ignore_index=IGNORE, reduction="sum")

    def weight(self, encoded: Encoded, index: np.ndarray) -> float:
        """Return the number of labelled words in the sequences."""
        upto = self._labelled(encoded)
        return float((upto[encoded.starts[index + 1]] - upto[encoded.starts[index]]).sum())

    @staticmethod
    def _labelled(encoded: Encoded) -> np.ndarray:
        known = encoded.__dict__.get("labelled_upto")
        if known is None:
            known = np.concatenate([[0], np.cumsum(encoded.per_token["tag"] != IGNORE)])
            encoded.__dict__["labelled_upto"] = known
        return known

    def predict(
        self, head: nn.Module, hidden: Tensor, batch: Batch, pooling: str
    ) -> dict[str, Tensor]:
        """Return the best label of each token."""
        return {"tag": head(hidden).argmax(-1)}

    def decode(
        self,
        task: Task,
        rows: Sequence[dict[str, Any]],
        encoded: Encoded,
        outputs: dict[str, np.ndarray],
    ) -> list[Any]:
        """Return one label id per word of each row."""
        first = np.flatnonzero(encoded.per_token["word"] >= 0)
        ends = np.cumsum([len(row["tokens"]) for row in rows])
        return (
            [part.tolist() for part in np.split(outputs["tag"][first], ends[:-1])] if rows else []
        )

    def gold(self, task: Task, rows: Sequence[dict[str, Any]]) -> list[Any]:
        """Return the label ids of the rows."""
        return [list(row["tags"]) for row in rows]

    def constant(self, task: Task, rows: Sequence[dict[str, Any]]) -> list[Any]:
        """Return the most frequent label for every word."""
        gold = self.gold(task, rows)
        known = [tag for tags in gold for tag in tags if tag != IGNORE]
        common = most_frequent(known or [0])
        return [[common] * len(tags) for tags in gold]


def _chunks(sizes: Sequence[int], room: int) -> list[tuple[int, int]]:
    """Cut words of given sizes into runs that fit in ``room`` pieces; no word is lost."""
    chunks, begin, used = [], 0, 0
    for place, size in enumerate(sizes):
        if used + size > room:
            chunks.append((begin, place))
            begin, used = place, 0
        used += size
    return [*chunks, (begin, len(sizes))] if len(sizes) > begin else chunks


def _spread(
    pieces: Sequence[Sequence[int]], values: Sequence[int], template: Template, rest: int
) -> np.ndarray:
    """Put each word's value on its first piece and ``rest`` everywhere else."""
    body = [
        v for p, value in zip(pieces, values, strict=True) for v in (value, *[rest] * (len(p) - 1))
    ]
    return np.array(
        [*[rest] * len(template.before), *body, *[rest] * len(template.after)], np.int64
    )
