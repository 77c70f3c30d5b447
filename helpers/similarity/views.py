"""Turn rows into what an encoder reads, and its states into rows of features.

A *unit* is what carries a label: a text (pair), a context with one of its choices (choice: right or
not), a word (tagging), or a piece of a passage (span: inside the answer or not). A tagging or span
task so has more units than rows; all units of a row stay in the same half.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array
from torch import Tensor

from helpers import formats
from helpers.formats import Batch, Encoded
from helpers.formats.base import pool
from helpers.formats.encoded import sorted_batches, token_index
from helpers.models import devices
from helpers.models.encoders import Encoder
from helpers.models.network import Network
from helpers.similarity.arrays import Integers
from helpers.similarity.catalogue import Undefined
from helpers.similarity.samples import Sample, label_counts, subset

__all__ = ["RARE", "Reader", "View", "encode", "label_view", "row_means", "take"]

Single = NDArray[np.float32]

# Classes below one unit in so many are left out: each half of a sample must still hold a few of
# every class. At least 4 and at most 12 units are asked for.
RARE = 100
# A row of a tagging or span task gives several units, so fewer rows are read for as many units.
UNITS_PER_ROW = 4


@dataclass(frozen=True)
class View:
    """The labelled units of a sample, encoded.

    Attributes:
        encoded: the sequences, in the encoder's own ids.
        by_token: whether units are tokens rather than sequences.
        units: position of each unit among the sequences or the tokens.
        labels: label of each unit.
        rows: row of the sample that each unit belongs to.
        dropped: how many classes were too rare.
    """

    encoded: Encoded
    by_token: bool
    units: Integers
    labels: Integers
    rows: Integers
    dropped: int


def encode(sample: Sample, encoder: Encoder, max_length: int, answers: bool = False) -> Encoded:
    """Tokenise a sample as its format does.

    Args:
        sample: the rows.
        encoder: whose tokenizer and (pruned) ids are used.
        max_length: longest input in pieces; the task's and the encoder's limits hold too.
        answers: mark the answers of span rows; rows without a findable answer are then left out.

    Returns:
        The sequences; ``example`` says which row each belongs to.
    """
    task = sample.task
    longest = min(max_length, task.max_length, encoder.max_length)
    encoded = formats.get(task.format).encode(task, sample.rows, encoder, longest, answers)
    encoded.tokens = encoder.remap(encoded.tokens).astype(np.int32)
    return encoded


def label_view(sample: Sample, encoder: Encoder, max_length: int, units: int) -> View:
    """Encode the labelled units of a sample.

    Args:
        sample: the rows.
        encoder: whose tokenizer is used.
        max_length: longest input in pieces.
        units: at most so many units, drawn by the sample's seed.

    Returns:
        The units; rare classes are left out.

    Raises:
        Undefined: the format has no labels.
        BadRows: fewer than two classes are left.
    """
    kind = sample.task.format
    if kind == "retrieval":
        raise Undefined(f"{sample.task.name} is a retrieval task: its texts have no labels.")
    encoded = encode(sample, encoder, max_length, answers=kind == "span")
    by_token = kind in ("tagging", "span")
    if by_token:
        encoded = _first_rows(encoded, units // UNITS_PER_ROW)
    marks = _labels(encoded, kind, sample.seed)
    known = np.flatnonzero(marks >= 0)
    drawn = subset(known, units, sample.seed)
    kept, dropped = label_counts(marks[drawn], int(np.clip(len(drawn) // RARE, 4, 12)))
    chosen = drawn[kept]
    rows = _rows_of(encoded, by_token)
    return View(encoded, by_token, chosen, marks[chosen], rows[chosen], dropped)


def _first_rows(encoded: Encoded, rows: int) -> Encoded:
    """Drop the sequences of all but some rows, evenly spaced over the sample."""
    present = np.unique(encoded.example)
    places = np.linspace(0, len(present) - 1, min(len(present), max(rows, 1))).round().astype(int)
    return take(encoded, np.flatnonzero(np.isin(encoded.example, present[places])))


def take(encoded: Encoded, sequences: NDArray[np.int64]) -> Encoded:
    """Return some sequences of an encoded set; they keep the numbers of their rows."""
    tokens = token_index(encoded, sequences)
    return Encoded(
        tokens=encoded.tokens[tokens],
        starts=np.concatenate([[0], np.cumsum(encoded.lengths[sequences])]).astype(np.int64),
        example=encoded.example[sequences],
        per_sequence={name: values[sequences] for name, values in encoded.per_sequence.items()},
        per_token={name: values[tokens] for name, values in encoded.per_token.items()},
        rows=encoded.rows,
        together=encoded.together,
    )


def _labels(encoded: Encoded, kind: str, seed: int) -> Integers:
    """Label of every sequence or token; -1 where there is none."""
    if kind == "pair":
        return encoded.per_sequence["label"].astype(np.int64)
    if kind == "choice":
        return encoded.per_sequence["right"].astype(np.int64)
    if kind == "tagging":
        tags = encoded.per_token["tag"].astype(np.int64)
        return np.where(tags >= 0, tags, -1)
    return _answer_labels(encoded, seed)


def _answer_labels(encoded: Encoded, seed: int) -> Integers:
    """1 inside the answer, 0 on as many other pieces of the passage, -1 elsewhere."""
    labels = np.full(len(encoded.tokens), -1, dtype=np.int64)
    random = np.random.default_rng([seed, 5])
    marks = zip(encoded.per_sequence["begin"], encoded.per_sequence["end"], strict=True)
    for place, (begin, end) in enumerate(marks):
        start, stop = encoded.starts[place], encoded.starts[place + 1]
        if begin == 0:  # the place of "no answer in this window"
            continue
        inside = np.arange(start + begin, start + end + 1)
        passage = start + np.flatnonzero(encoded.per_token["allowed"][start:stop])
        outside = np.setdiff1d(passage[passage > start], inside)
        labels[inside] = 1
        labels[random.permutation(outside)[: len(inside)]] = 0
    return labels


def _rows_of(encoded: Encoded, by_token: bool) -> Integers:
    return np.repeat(encoded.example, encoded.lengths) if by_token else encoded.example


class Reader:
    """Reads encoded texts with one encoder, without gradients."""

    def __init__(self, encoder: Encoder, budget: int | None = None) -> None:
        """Put an encoder on the best device; ``budget`` is padded tokens per forward pass."""
        self.device = devices.best_device()
        self.encoder = encoder
        self.budget = budget or devices.forward_tokens(self.device)
        model: torch.nn.Module = encoder.model
        self.network = Network(model.to(self.device), {}, {}).eval()

    def states(self, encoded: Encoded) -> Iterator[tuple[np.ndarray, Batch, Tensor]]:
        """Yield the sequences of each batch, the batch, and its token states."""
        with torch.inference_mode():
            for index in sorted_batches(encoded, self.budget):
                batch = Batch.collate(encoded, index, self.device)
                yield index, batch, self.network.states(batch)

    def sequences(self, encoded: Encoded, pooling: str = "mean") -> Single:
        """Return one pooled state per sequence, shape (sequences, D)."""
        result = np.empty((len(encoded), self.encoder.dimension), np.float32)
        for index, batch, hidden in self.states(encoded):
            result[index] = pool(hidden, batch, pooling).cpu().numpy()
        return result

    def units(self, view: View, pooling: str = "mean") -> Single:
        """Return the state of each unit of a view, shape (units, D)."""
        if not view.by_token:
            return self.sequences(view.encoded, pooling)[view.units]
        place = np.full(len(view.encoded.tokens), -1, dtype=np.int64)
        place[view.units] = np.arange(len(view.units))
        result = np.empty((len(view.units), self.encoder.dimension), np.float32)
        for index, _, hidden in self.states(view.encoded):
            targets = place[token_index(view.encoded, index)]
            wanted = np.flatnonzero(targets >= 0)
            chosen = hidden[torch.from_numpy(wanted).to(hidden.device)]
            result[targets[wanted]] = chosen.float().cpu().numpy()
        return result

    def texts(self, texts: list[str], max_length: int) -> Single:
        """Return the mean state of each text, shape (texts, D)."""
        task = _plain_text_task()
        rows = [{"id": str(i), "side": "query", "text": t, "gold": []} for i, t in enumerate(texts)]
        sample = Sample(task, "", rows, 0, "texts")
        return self.sequences(encode(sample, self.encoder, max_length))


def row_means(states: Single, rows: Integers, count: int) -> Single:
    """Return the mean over the sequences of each row, shape (count, D).

    Args:
        states: state of each sequence, shape (sequences, D).
        rows: row that each sequence belongs to.
        count: how many rows there are.
    """
    place = np.arange(len(states))
    belongs = csr_array((np.ones(len(states)), (rows, place)), shape=(count, len(states)))
    total = belongs @ states  # np.add.at takes fifteen times as long
    counts = np.bincount(rows, minlength=count)
    return (total / np.maximum(counts, 1)[:, None]).astype(np.float32)


def _plain_text_task() -> formats.base.Task:
    from helpers.tasks import Source, Task

    return Task("texts", "target", "retrieval", Source("rows", "texts"), max_length=512)
