"""A question and a passage; the answer is a stretch of the passage, or there is none.

:func:`best_spans` goes from begin and end scores of tokens to the best stretches of text, over the
overlapping windows of all passages at once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from helpers.errors import BadRows
from helpers.formats.base import Arrays, Batch, FormatBase, Head, Outputs, Rows
from helpers.formats.encoded import Encoded, Template, piece_ids, pieces_with_offsets
from helpers.tasks import Task

# As in XTREME; windows are less far apart where they are shorter.
QUESTION_PIECES = 64
STRIDE = 128
MAX_ANSWER_PIECES = 30
N_BEST = 20


class Span(FormatBase):
    """Predict begin and end of the answer; long passages are read in overlapping windows."""

    name = "span"

    def encode(self, task: Task, rows: Rows, encoder: Any, max_length: int, train: bool) -> Encoded:
        """Encode question and passage windows; in training, windows carry answer positions."""
        template = Template.of(encoder.tokenizer)
        questions = piece_ids(encoder.tokenizer, [row["question"] for row in rows])
        passages = list(dict.fromkeys(row["context"] for row in rows))
        pieces = dict(zip(passages, pieces_with_offsets(encoder.tokenizer, passages), strict=True))
        sequences, example, offset, allowed, begins, ends = [], [], [], [], [], []
        skipped: Counter[str] = Counter()
        for number, (row, question) in enumerate(zip(rows, questions, strict=True)):
            ids, offsets = pieces[row["context"]]
            answer = _answer_pieces(row, offsets) if train else (-1, -1)
            if answer is None:
                skipped["answer not found in its passage"] += 1
                continue
            question = question[: min(QUESTION_PIECES, max_length // 2)]
            room = max_length - template.pair_room - len(question)
            for begin in _window_starts(len(ids), room):
                body = ids[begin : begin + room]
                sequence = template.pair(question, body.tolist())
                first = len(sequence) - len(template.after) - len(body)
                place = np.full((len(sequence), 2), -1, np.int32)
                place[first : first + len(body)] = offsets[begin : begin + room]
                # The first token stands for "no answer"; so does an answer outside the window.
                inside = begin <= answer[0] and answer[1] < begin + len(body)
                begins.append(answer[0] - begin + first if inside else 0)
                ends.append(answer[1] - begin + first if inside else 0)
                allowed.append((place[:, 0] >= 0) | (np.arange(len(place)) == 0))
                sequences.append(sequence)
                example.append(number)
                offset.append(place)
        return Encoded.build(
            sequences,
            example,
            per_sequence={"begin": np.array(begins, np.int64), "end": np.array(ends, np.int64)},
            per_token={"offset": offset, "allowed": allowed},
            rows=len(rows),
            skipped=dict(skipped),
        )

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

    def predict(self, head: nn.Module, hidden: Tensor, batch: Batch, pooling: str) -> Outputs:
        """Return begin and end scores of each token, 0 outside the passage."""
        scores = head(hidden)
        return {"begin_score": scores[:, 0], "end_score": scores[:, 1]}

    def decode(self, task: Task, rows: Rows, encoded: Encoded, outputs: Arrays) -> list[Any]:
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

    def gold(self, task: Task, rows: Rows) -> list[Any]:
        """Return the accepted answer texts of the rows."""
        return [list(row["answers"]["text"]) for row in rows]

    def constant(self, task: Task, rows: Rows) -> list[Any]:
        """Return no answer for every question."""
        return [""] * len(rows)


def _window_starts(pieces: int, room: int) -> range:
    """Return the first piece of each window of ``room`` pieces, at most ``STRIDE`` apart."""
    # They overlap by the longest answer, or by half: every answer lies whole in one of them.
    step = min(STRIDE, max(1, room - MAX_ANSWER_PIECES, room // 2))
    return range(0, max(1, pieces - room + step), step)


def _answer_pieces(row: dict[str, Any], offsets: np.ndarray) -> tuple[int, int] | None:
    """Return first and last piece of the first answer: -1 without one, ``None`` if not found."""
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
    """Return where ``text`` begins in ``passage``, the occurrence nearest to ``start``; else -1."""
    # Published offsets are shifted in several copies: the text decides, the offset only chooses.
    if start >= 0 and passage.startswith(text, start):
        return start
    after = passage.find(text, max(0, start))
    before = passage.rfind(text, 0, max(0, start) + len(text))
    found = [place for place in (before, after) if place >= 0]
    return min(found, key=lambda place: abs(place - start), default=-1)


# --- From scores to stretches ---
WINDOWS = 256  # Windows searched at a time, so that their n_best squared sums stay in the cache.
LOWEST = np.float32(-1e36)  # Below this is no score, but a place that may not be chosen.


@dataclass(frozen=True)
class BestSpans:
    """The best stretches of each example's context, best first; -1 and -inf where there is none."""

    texts: list[str]  # of the best stretch, without white space around it
    start: np.ndarray  # its first character, (examples,)
    score: np.ndarray  # begin score plus end score, (examples,)
    null_score: np.ndarray  # smallest score of the windows' first tokens; NaN if not asked for
    starts: np.ndarray  # first characters, (examples, n_best)
    ends: np.ndarray  # the characters after their last ones, (examples, n_best)
    scores: np.ndarray  # (examples, n_best)

    def answers(self) -> list[str]:
        """Return the texts, ``""`` where "no answer" has a better score than the best stretch."""
        quiet = self.null_score > self.score
        return ["" if silent else text for silent, text in zip(quiet, self.texts, strict=True)]


def best_spans(
    start_logits: np.ndarray,
    end_logits: np.ndarray,
    offsets: np.ndarray,
    example_of_window: Sequence[int] | np.ndarray,
    contexts: Sequence[str],
    n_best: int = 20,
    max_answer_tokens: int = 30,
    null: bool = False,
    *,
    lengths: np.ndarray | None = None,
    reference: bool = False,
) -> BestSpans:
    """Find the best stretches of each context, as the usual loop over windows does, but at once.

    A stretch begins at one of the ``n_best`` best begins of a window and ends at one of its
    ``n_best`` best ends, not before it and at most ``max_answer_tokens`` tokens on. Those of all
    windows of an example compete; one that two windows hold counts once, with its better score.

    Args:
        start_logits: begin score per token; shape ``(windows, length)`` or, with ``lengths`` (tokens
            per window), all tokens one after the other.
        end_logits: end scores, likewise.
        offsets: first character and the one after the last of each token in its context, likewise;
            negative for tokens outside the context.
        example_of_window: number of the example that each window belongs to, shape ``(windows,)``.
        contexts: text per example.
        n_best: how many begins, ends and stretches to keep.
        max_answer_tokens: longest stretch.
        null: also compute the null score, from each window's first token.
        lengths: see above.
        reference: follow the loop of the transformers examples (``postprocess_qa_predictions``) to
            the letter: tokens outside the context can crowd out those in it, and the same stretch
            from two windows counts twice.
    """
    if not len(contexts):
        raise BadRows("no contexts: there is nothing to find stretches in.")
    begin, end = (_grid(scores, lengths, -np.inf) for scores in (start_logits, end_logits))
    place, example = _grid(offsets, lengths, -1), np.asarray(example_of_window, np.int64)
    _check(begin, end, place, example, len(contexts))
    tables = [
        _of_windows(begin[part], end[part], place[part], n_best, max_answer_tokens, reference)
        for part in (slice(i, i + WINDOWS) for i in range(0, len(begin), WINDOWS))
    ]
    of_windows = _Stretches(*(np.concatenate(column) for column in zip(*tables, strict=True)))
    best = _of_examples(of_windows, example, len(contexts), reference)
    null_score = np.full(len(contexts), np.nan)
    if null:
        null_score[:] = np.inf
        np.minimum.at(null_score, example, (begin[:, 0] + end[:, 0]).astype(np.float64))
    texts, start = _texts(best.starts[:, 0], best.ends[:, 0], contexts)
    return BestSpans(texts, start, best.scores[:, 0], null_score, *best)


class _Stretches(NamedTuple):
    """Stretches by row, best first: first character, character after the last, score."""

    starts: np.ndarray
    ends: np.ndarray
    scores: np.ndarray

    @classmethod
    def none(cls, rows: int, n_best: int) -> _Stretches:
        """Return rows without any stretch."""
        empty = np.full((rows, n_best), -1, np.int64)
        return cls(empty, empty.copy(), np.full((rows, n_best), -np.inf))


def _grid(values: np.ndarray, lengths: np.ndarray | None, fill: float) -> np.ndarray:
    """Return values of shape ``(windows, length, ...)``, padded; scores in 32-bit floats."""
    grid = np.asarray(values)
    if lengths is not None:
        if len(grid) != lengths.sum():
            raise BadRows(
                f"{lengths.sum()} tokens in {len(lengths)} windows, but {len(grid)} given."
            )
        shape = (len(lengths), lengths.max(initial=0), *grid.shape[1:])
        padded = np.full(shape, fill, grid.dtype)
        padded[np.arange(shape[1]) < lengths[:, None]] = grid
        grid = padded
    return grid.astype(np.float32, copy=False) if grid.dtype.kind == "f" else grid


def _check(
    begin: np.ndarray, end: np.ndarray, place: np.ndarray, example: np.ndarray, examples: int
) -> None:
    shapes = begin.shape, end.shape, place.shape, example.shape
    if (
        end.shape != begin.shape
        or place.shape != (*begin.shape, 2)
        or example.shape != begin.shape[:1]
    ):
        raise BadRows(
            f"begin scores, end scores, offsets and examples of windows do not fit: {shapes}. Expected "
            "(windows, length) twice, (windows, length, 2) and (windows,)."
        )
    windows = np.bincount(example, minlength=examples) if len(example) else np.zeros(examples, int)
    if len(windows) > examples or not windows.all():
        wrong = int(np.argmin(windows)) if len(windows) == examples else int(example.max())
        raise BadRows(
            f"example {wrong} of {examples}: each example needs a window, each window an example."
        )
    if np.isnan(begin).any() or np.isnan(end).any():
        raise BadRows("a begin or end score is NaN: the model has diverged.")


def _of_windows(
    begin: np.ndarray,
    end: np.ndarray,
    place: np.ndarray,
    n_best: int,
    longest: int,
    reference: bool,
) -> _Stretches:
    """Return the best stretches of each window."""
    inside = place[:, :, 0] >= 0
    first, first_score = _best_places(begin, inside, n_best, reference)
    last, last_score = _best_places(end, inside, n_best, reference)
    length = last[:, None, :] - first[:, :, None]
    scores = first_score[:, :, None] + last_score[:, None, :]
    allowed = ((length >= 0) & (length < longest)).reshape(len(scores), -1)
    scores = scores.reshape(allowed.shape)
    pairs, scores = _largest(np.where(allowed, scores, _barred(scores.shape[1])), n_best)
    order = np.argsort(-scores, axis=1, kind="stable")
    row = np.arange(len(scores))[:, None]
    i, j = np.divmod(pairs[row, order], last.shape[1])
    result = _Stretches.none(len(scores), n_best)
    result.scores[:, : order.shape[1]] = scores[row, order]
    real = result.scores[:, : order.shape[1]] > LOWEST
    result.scores[result.scores <= LOWEST] = -np.inf
    for table, token, side in ((result.starts, first[row, i], 0), (result.ends, last[row, j], 1)):
        table[:, : order.shape[1]] = np.where(real, place[row, token, side], -1)
    return result


def _best_places(
    scores: np.ndarray, inside: np.ndarray, n_best: int, reference: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Return the tokens with the best scores of each window, and these scores."""
    allowed = np.where(inside, scores, _barred(scores.shape[1]))
    tokens, _ = _largest(scores if reference else allowed, n_best)
    row = np.arange(len(scores))[:, None]
    return tokens.astype(np.int16 if scores.shape[1] < 2**15 else np.int64), allowed[row, tokens]


def _largest(values: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return columns, rising, and values of the ``k`` largest entries of each row; ties by column."""
    # Looking for entries above the k-th is several times faster than partitioning indices. A row
    # with fewer than k allowed entries is filled up with -inf.
    rows, width = values.shape
    if width <= k:
        return np.broadcast_to(np.arange(width), values.shape), values
    worst = np.partition(values, width - k, axis=1)[:, width - k, None]
    chosen = values >= np.maximum(worst, LOWEST)
    counts = np.count_nonzero(chosen, axis=1)
    tied = np.flatnonzero(counts > k)
    if len(tied):
        order = np.argsort(-values[tied], axis=1, kind="stable")[:, :k]
        chosen[tied] = False
        chosen[tied[:, None], order] = True
        counts[tied] = k
    row, column = np.divmod(np.flatnonzero(chosen), width)
    if len(row) == rows * k:
        columns = column.reshape(rows, k)
        return columns, values[np.arange(rows)[:, None], columns]
    rank = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
    columns, largest = np.zeros((rows, k), np.int64), np.full((rows, k), -np.inf, np.float32)
    columns[row, rank], largest[row, rank] = column, values[row, column]
    return columns, largest


def _barred(width: int) -> np.ndarray:
    """Return scores below ``LOWEST``, no two alike: many equal ones would be slow to partition."""
    return np.linspace(2 * LOWEST, 4 * LOWEST, width, dtype=np.float32)


def _of_examples(
    found: _Stretches, example: np.ndarray, examples: int, reference: bool
) -> _Stretches:
    """Return the best stretches of each example over its windows."""
    n_best = found.scores.shape[1]
    result = _Stretches.none(examples, n_best)
    several = np.bincount(example, minlength=examples)[example] > 1
    for table, column in zip(result, found, strict=True):
        table[example[~several]] = column[~several]
    window, rank = np.nonzero((found.scores > -np.inf) & several[:, None])
    ragged = [example[window], *(column[window, rank] for column in found)]
    if not reference:
        ragged = _once(ragged)
    order = np.lexsort((-ragged[3], ragged[0]))
    number = ragged[0][order]
    rank = np.arange(len(order)) - np.searchsorted(number, number)
    kept = rank < n_best
    for table, column in zip(result, ragged[1:], strict=True):
        table[number[kept], rank[kept]] = column[order[kept]]
    return result


def _once(ragged: list[np.ndarray]) -> list[np.ndarray]:
    """Keep the better score of a stretch that two windows of an example hold."""
    example, starts, ends, scores = ragged
    order = np.lexsort((-scores, ends, starts, example))
    same = np.ones(max(0, len(order) - 1), bool)
    for column in (example, starts, ends):
        same &= column[order[1:]] == column[order[:-1]]
    keep = np.ones(len(example), bool)
    keep[order[1:][same]] = False
    return [column[keep] for column in ragged]


def _texts(
    starts: np.ndarray, ends: np.ndarray, contexts: Sequence[str]
) -> tuple[list[str], np.ndarray]:
    """Return the texts without white space around them, and their first characters."""
    texts, trimmed = [], []
    for start, end, context in zip(starts.tolist(), ends.tolist(), contexts, strict=True):
        text = context[start:end] if start >= 0 else ""
        if text[:1].isspace():
            start += len(text) - len(text.lstrip())
        trimmed.append(start)
        texts.append(text.strip())
    return texts, np.array(trimmed, np.int64)
