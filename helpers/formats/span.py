"""A question and a passage; the answer is a stretch of the passage, or there is none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from helpers.formats.base import Batch, FormatBase, Head
from helpers.formats.encoded import Encoded
from helpers.formats.spans import best_spans
from helpers.formats.tokenise import Template, piece_ids, pieces_with_offsets
from helpers.tasks import Task

QUESTION_PIECES = 64
STRIDE = 128
MAX_ANSWER_PIECES = 30
N_BEST = 20


class Span(FormatBase):
    """Predict begin and end of the answer; long passages are read in overlapping windows.

    Lengths follow XTREME: question at most 64 pieces, windows 128 pieces apart (less where they are
    shorter), answers at most 30.
    """

    name = "span"

    def encode(
        self, task: Task, rows: Sequence[dict[str, Any]], encoder: Any, max_length: int, train: bool
    ) -> Encoded:
        """Encode question and passage windows; in training, windows carry answer positions."""
        template = Template.of(encoder.tokenizer)
        questions = piece_ids(encoder.tokenizer, [row["question"] for row in rows])
        passages = list(dict.fromkeys(row["context"] for row in rows))
        pieces = dict(zip(passages, pieces_with_offsets(encoder.tokenizer, passages), strict=True))
        built = _Windows()
        for number, (row, question) in enumerate(zip(rows, questions, strict=True)):
            ids, offsets = pieces[row["context"]]
            answer = _answer_pieces(row, offsets) if train else None
            if train and answer is None:
                built.skipped["answer not found in its passage"] += 1
                continue
            question = question[: min(QUESTION_PIECES, max_length // 2)]
            room = max_length - template.pair_room - len(question)
            for begin in _window_starts(len(ids), room):
                built.add(number, template, question, ids, offsets, begin, room, answer)
        return built.encoded(len(rows))

    def head(self, task: Task, width: int, dropout: float) -> nn.Module:
        """Return a head with a begin and an end score per token."""
        return Head(width, 2, dropout)

    def _scores(self, head: nn.Module, hidden: Tensor, batch: Batch) -> Tensor:
        """Return begin and end scores per window, padded with -inf, shape ``(windows, length, 2)``."""
        allowed = batch.fields["allowed"][:, None]
        scores = head(hidden).masked_fill(~allowed, -torch.inf)
        longest = int(batch.lengths.max())
        padded = scores.new_full((len(batch.lengths), longest, 2), -torch.inf)
        place = torch.arange(len(scores), device=scores.device) - batch.starts[batch.sequence]
        return padded.index_put((batch.sequence, place), scores)

    def loss(self, head: nn.Module, hidden: Tensor, batch: Batch, pooling: str) -> Tensor:
        """Return the summed mean of begin and end cross-entropy."""
        scores = self._scores(head, hidden, batch)
        begin, end = batch.fields["begin"], batch.fields["end"]
        first = functional.cross_entropy(scores[..., 0], begin, reduction="sum")
        return (first + functional.cross_entropy(scores[..., 1], end, reduction="sum")) / 2

    def weight(self, encoded: Encoded, index: np.ndarray) -> float:
        """Return the number of windows."""
        return float(len(index))

    def predict(
        self, head: nn.Module, hidden: Tensor, batch: Batch, pooling: str
    ) -> dict[str, Tensor]:
        """Return begin and end scores of each token, 0 outside the passage."""
        scores = head(hidden)
        return {"begin_score": scores[:, 0], "end_score": scores[:, 1]}

    def decode(
        self,
        task: Task,
        rows: Sequence[dict[str, Any]],
        encoded: Encoded,
        outputs: dict[str, np.ndarray],
    ) -> list[Any]:
        """Return the best answer text of each row; "" where the null score wins (SQuAD 2.0)."""
        null = task.metric == "squad2"
        found = best_spans(
            outputs["begin_score"],
            outputs["end_score"],
            encoded.per_token["offset"],
            encoded.example,
            [row["context"] for row in rows],
            n_best=N_BEST,
            max_answer_tokens=MAX_ANSWER_PIECES,
            null=null,
            lengths=encoded.lengths,
        )
        return found.answers() if null else found.texts

    def gold(self, task: Task, rows: Sequence[dict[str, Any]]) -> list[Any]:
        """Return the accepted answer texts of the rows."""
        return [list(row["answers"]["text"]) for row in rows]

    def constant(self, task: Task, rows: Sequence[dict[str, Any]]) -> list[Any]:
        """Return no answer for every question."""
        return [""] * len(rows)


class _Windows:
    """Collects windows and what is known of their tokens."""

    def __init__(self) -> None:
        self.sequences: list[list[int]] = []
        self.example: list[int] = []
        self.offset: list[np.ndarray] = []
        self.allowed: list[np.ndarray] = []
        self.begin: list[int] = []
        self.end: list[int] = []
        self.skipped: Counter[str] = Counter()

    def add(
        self,
        number: int,
        template: Template,
        question: list[int],
        ids: np.ndarray,
        offsets: np.ndarray,
        begin: int,
        room: int,
        answer: tuple[int, int] | None,
    ) -> None:
        """Add the window of a passage that starts at piece ``begin``."""
        body = ids[begin : begin + room]
        sequence = template.pair(question, body.tolist())
        first = len(sequence) - len(template.after) - len(body)
        offset = np.full((len(sequence), 2), -1, np.int32)
        offset[first : first + len(body)] = offsets[begin : begin + room]
        allowed = offset[:, 0] >= 0
        allowed[0] = True
        inside = answer is not None and begin <= answer[0] and answer[1] < begin + len(body)
        self.sequences.append(sequence)
        self.example.append(number)
        self.offset.append(offset)
        self.allowed.append(allowed)
        self.begin.append(answer[0] - begin + first if inside and answer else 0)
        self.end.append(answer[1] - begin + first if inside and answer else 0)

    def encoded(self, rows: int) -> Encoded:
        """Return the collected windows."""
        return Encoded.build(
            self.sequences,
            self.example,
            per_sequence={
                "begin": np.array(self.begin, np.int64),
                "end": np.array(self.end, np.int64),
            },
            per_token={"offset": self.offset, "allowed": self.allowed},
            rows=rows,
            skipped=dict(self.skipped),
        )


def _window_starts(pieces: int, room: int) -> range:
    """Return the first piece of each window of ``room`` pieces, at most ``STRIDE`` apart.

    Windows overlap by the longest answer, or by half where they are short, so that every answer lies
    whole in one of them.
    """
    step = min(STRIDE, max(1, room - MAX_ANSWER_PIECES, room // 2))
    return range(0, max(1, pieces - room + step), step)


def _answer_pieces(row: dict[str, Any], offsets: np.ndarray) -> tuple[int, int] | None:
    """Return the first and last piece of the first answer.

    Returns:
        ``(-1, -1)`` for a question without answer; ``None`` where the text is not in the passage.
    """
    if not row["answers"]["text"]:
        return -1, -1
    text, start = row["answers"]["text"][0].strip(), row["answers"]["start"][0]
    place = nearest(row["context"], text, start)
    if place < 0 or not text or not len(offsets):
        return None
    first = int(np.searchsorted(offsets[:, 1], place, side="right"))
    last = int(np.searchsorted(offsets[:, 0], place + len(text), side="left")) - 1
    return (first, last) if first <= last else None


def nearest(passage: str, text: str, start: int) -> int:
    """Return where ``text`` begins in ``passage``, the occurrence nearest to ``start``; else -1.

    Published offsets are shifted in several copies (XQuAD, MLQA and TyDiQA on the hub), so the text
    decides and the offset only chooses between occurrences.
    """
    if start >= 0 and passage.startswith(text, start):
        return start
    after = passage.find(text, max(0, start))
    before = passage.rfind(text, 0, max(0, start) + len(text))
    found = [place for place in (before, after) if place >= 0]
    return min(found, key=lambda place: abs(place - start), default=-1)
