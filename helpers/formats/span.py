"""A question and a passage; the answer is a stretch of the passage, or there is none."""

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from helpers import formats
from helpers.errors import BadRows
from helpers.formats import Arrays, Batch, Encoded, FormatBase, Outputs, Rows, Template
from helpers.tasks import Task

# As in XTREME; windows are less far apart where they are shorter.
QUESTION_PIECES = 64
STRIDE = 128
MAX_ANSWER_PIECES = 30
N_BEST = 20


class Span(FormatBase):
    """Predict begin and end of the answer; long passages are read in overlapping windows."""

    name = "span"
    scores = 2  # of a begin and an end, per token

    def encode(self, task: Task, rows: Rows, encoder: Any, max_length: int, train: bool) -> Encoded:
        """Encode question and passage windows; in training, windows carry answer positions."""
        template = Template.of(encoder.tokenizer)
        questions = formats.piece_ids(encoder.tokenizer, [row["question"] for row in rows])
        passages = list(dict.fromkeys(row["context"] for row in rows))
        coded = formats.pieces_with_offsets(encoder.tokenizer, passages)
        pieces = dict(zip(passages, coded, strict=True))
        sequences, example, offset, allowed = [], [], [], []
        places: list[tuple[int, int]] = []
        skipped: Counter[str] = Counter()
        for number, (row, question) in enumerate(zip(rows, questions, strict=True)):
            ids, offsets = pieces[row["context"]]
            answer = _answer_pieces(row, offsets) if train else (-1, -1)
            if answer is None:
                skipped["answer not found in its passage"] += 1
                continue
            question = question[: min(QUESTION_PIECES, max_length // 2)]
            room = max_length - len(template.pair(question, []))
            # Windows overlap by the longest answer, or by half: every answer lies whole in one.
            step = min(STRIDE, max(1, room - MAX_ANSWER_PIECES, room // 2))
            for begin in range(0, max(1, len(ids) - room + step), step):
                body = ids[begin : begin + room]
                sequence = template.pair(question, body.tolist())
                first = len(sequence) - len(template.after) - len(body)
                place = np.full((len(sequence), 2), -1, np.int32)
                place[first : first + len(body)] = offsets[begin : begin + room]
                # The first token stands for "no answer"; so does an answer outside the window.
                inside = begin <= answer[0] and answer[1] < begin + len(body)
                shift = first - begin
                places.append((answer[0] + shift, answer[1] + shift) if inside else (0, 0))
                allowed.append((place[:, 0] >= 0) | (np.arange(len(place)) == 0))
                sequences.append(sequence)
                example.append(number)
                offset.append(place)
        begins, ends = np.array(places, np.int64).reshape(-1, 2).T.copy()
        return Encoded.build(
            sequences,
            example,
            per_sequence={"begin": begins, "end": ends},
            per_token={"offset": offset, "allowed": allowed},
            rows=len(rows),
            skipped=dict(skipped),
        )

    def loss(self, head: nn.Module, hidden: Tensor, batch: Batch, pooling: str) -> Tensor:
        """Return the summed mean of begin and end cross-entropy over the tokens of a window."""
        scores = head(hidden).float().masked_fill(~batch.fields["allowed"][:, None], -torch.inf)
        padded = scores.new_full((len(batch.lengths), int(batch.lengths.max()), 2), -torch.inf)
        place = torch.arange(len(scores), device=scores.device) - batch.starts[batch.sequence]
        padded = padded.index_put((batch.sequence, place), scores)
        begin, end = (
            functional.cross_entropy(padded[..., side], batch.fields[name], reduction="sum")
            for side, name in enumerate(("begin", "end"))
        )
        return (begin + end) / 2

    def predict(self, head: nn.Module, hidden: Tensor, batch: Batch, pooling: str) -> Outputs:
        """Return begin and end scores of each token, 0 outside the passage."""
        scores = head(hidden).float()
        return {"begin_score": scores[:, 0], "end_score": scores[:, 1]}

    def decode(self, task: Task, rows: Rows, encoded: Encoded, outputs: Arrays) -> list[Any]:
        """Return the best answer text of each row; "" where the null score wins (SQuAD 2.0)."""
        scores = outputs["begin_score"], outputs["end_score"]
        contexts, offsets = [row["context"] for row in rows], encoded.per_token["offset"]
        found = best_spans(*scores, offsets, encoded.example, contexts, lengths=encoded.lengths)
        quiet = found.null_scores > (found.scores if task.metric == "squad2" else np.inf)
        return ["" if none else text for none, text in zip(quiet, found.texts, strict=True)]

    def gold(self, task: Task, rows: Rows) -> list[Any]:
        """Return the accepted answer texts of the rows."""
        return [list(row["answers"]["text"]) for row in rows]

    def constant(self, task: Task, rows: Rows) -> list[Any]:
        """Return no answer for every question."""
        return [""] * len(rows)


def _answer_pieces(row: dict[str, Any], offsets: np.ndarray) -> tuple[int, int] | None:
    """Return first and last piece of the first answer: -1 without one, ``None`` if not found."""
    if not row["answers"]["text"]:
        return -1, -1
    text, begin = row["answers"]["text"][0], row["answers"]["start"][0]
    begin, end = begin + len(text) - len(text.lstrip()), begin + len(text.rstrip())
    first = int(np.searchsorted(offsets[:, 1], begin, side="right"))
    last = int(np.searchsorted(offsets[:, 0], end, side="left")) - 1
    return (first, last) if first <= last and begin >= 0 else None


# --- From scores to stretches ---------------------------------------------------------------------
WINDOWS = 256  # Windows searched at a time, so that their n_best squared sums stay in the cache.
LOWEST = np.float32(-1e36)  # Below this is no score, but a place that may not be chosen.


class BestSpans(NamedTuple):
    """The best stretch of each example's context; "" and -inf where there is none."""

    texts: list[str]  # without white space around them
    scores: np.ndarray  # begin score plus end score, (examples,)
    null_scores: np.ndarray  # smallest score of the windows' first tokens, (examples,)


def best_spans(
    start_logits: np.ndarray,
    end_logits: np.ndarray,
    offsets: np.ndarray,
    example_of_window: Sequence[int] | np.ndarray,
    contexts: Sequence[str],
    lengths: np.ndarray | None = None,
    reference: bool = False,
) -> BestSpans:
    """Find the best stretch of each context, as the usual loop over windows does, but at once.

    Scores and offsets (characters in the context, negative outside) are of shape (windows, length) or,
    with ``lengths``, one after the other. ``reference`` follows the loop of the transformers examples
    (``postprocess_qa_predictions``) to the letter: tokens outside the context can crowd out others.
    """
    begin, end = (_grid(scores, lengths, -np.inf) for scores in (start_logits, end_logits))
    place, example = _grid(offsets, lengths, -1), np.asarray(example_of_window, np.int64)
    if np.isnan(begin).any() or np.isnan(end).any():
        raise BadRows("a begin or end score is NaN: the model has diverged.")
    # The best stretch of each window, then the best of an example's windows; of equals the first.
    parts = (slice(i, i + WINDOWS) for i in range(0, len(begin), WINDOWS))
    blocks = [_of_windows(begin[one], end[one], place[one], reference) for one in parts]
    of_windows = [np.concatenate(column) for column in zip(*blocks, strict=True)]
    order = np.lexsort((-of_windows[2], example))
    best = order[np.unique(example[order], return_index=True)[1]]
    starts, ends, scores = (column[best] for column in of_windows)
    null_scores = np.full(len(contexts), np.inf)
    np.minimum.at(null_scores, example, begin[:, 0] + end[:, 0])
    found = zip(contexts, starts.tolist(), ends.tolist(), strict=True)
    texts = [text[a:b].strip() if a >= 0 else "" for text, a, b in found]
    return BestSpans(texts, scores, null_scores)


def _grid(values: np.ndarray, lengths: np.ndarray | None, fill: float) -> np.ndarray:
    """Return values of shape ``(windows, length, ...)``, padded; scores in 32-bit floats."""
    grid = np.asarray(values)
    if lengths is not None:
        shape = (len(lengths), lengths.max(initial=0), *grid.shape[1:])
        padded = np.full(shape, fill, grid.dtype)
        padded[np.arange(shape[1]) < lengths[:, None]] = grid
        grid = padded
    return grid.astype(np.float32, copy=False) if grid.dtype.kind == "f" else grid


def _of_windows(
    begin: np.ndarray, end: np.ndarray, place: np.ndarray, reference: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return first character, character after the last, and score of each window's best stretch."""
    inside, row = place[:, :, 0] >= 0, np.arange(len(begin))
    # The best begins and ends, then the sum of each pair that is a stretch: the end is not before
    # the begin, and not too far on. Barred scores differ: many equal ones partition slowly.
    barred = np.linspace(2 * LOWEST, 4 * LOWEST, begin.shape[1], dtype=np.float32)
    tokens, scores = [], []
    for side in (begin, end):
        allowed = np.where(inside, side, barred)
        tokens.append(_largest(side if reference else allowed, N_BEST))
        scores.append(allowed[row[:, None], tokens[-1]])
    (first, last), (first_score, last_score) = tokens, scores
    length = last[:, None, :] - first[:, :, None]
    sums = first_score[:, :, None] + last_score[:, None, :]
    fits = (length >= 0) & (length < MAX_ANSWER_PIECES)
    sums = np.where(fits, sums, -np.inf).reshape(len(row), -1)
    best = sums.argmax(axis=1)
    i, j = np.divmod(best, last.shape[1])
    score = sums[row, best]
    real = score > LOWEST
    starts, ends = place[row, first[row, i], 0], place[row, last[row, j], 1]
    return np.where(real, starts, -1), np.where(real, ends, -1), np.where(real, score, -np.inf)


def _largest(values: np.ndarray, k: int) -> np.ndarray:
    """Return the columns, rising, of the ``k`` largest entries of each row; ties by column."""
    # Looking for entries above the k-th is several times faster than partitioning indices. A row
    # with fewer than k allowed entries is filled up with its first column.
    rows, width = values.shape
    if width <= k:
        return np.broadcast_to(np.arange(width, dtype=np.int16), values.shape)
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
    rank = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
    columns = np.zeros((rows, k), np.int16 if width < 2**15 else np.int64)
    columns[row, rank] = column
    return columns
