"""From begin and end scores of tokens to the best stretches of text, over overlapping windows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from helpers.errors import BadRows

WINDOWS = 256  # Windows searched at a time, so that their n_best squared sums stay in the cache.
LOWEST = np.float32(-1e36)  # Below this is no score, but a place that may not be chosen.


@dataclass(frozen=True)
class BestSpans:
    """The best stretches of each example's context.

    Attributes:
        texts: text of the best stretch without white space around it, ``""`` where there is none.
        start: its first character in the context, -1 where there is none, shape ``(examples,)``.
        score: begin score plus end score, -inf where there is none, shape ``(examples,)``.
        null_score: smallest score of "no answer" over the windows (begin and end at the first
            token); NaN where it was not asked for, shape ``(examples,)``.
        starts: first characters of the best stretches, best first, then -1;
            shape ``(examples, n_best)``.
        ends: the characters after their last ones, likewise.
        scores: their scores, then -inf, likewise.
    """

    texts: list[str]
    start: np.ndarray
    score: np.ndarray
    null_score: np.ndarray
    starts: np.ndarray
    ends: np.ndarray
    scores: np.ndarray

    def answers(self, threshold: float = 0.0) -> list[str]:
        """Return the texts, ``""`` where "no answer" beats the best stretch by over a threshold.

        Args:
            threshold: how much larger the null score must be; tune it on development data.
        """
        quiet = self.null_score - self.score > threshold
        return ["" if silent else text for silent, text in zip(quiet, self.texts, strict=True)]


def best_spans(
    start_logits: np.ndarray | Sequence[np.ndarray],
    end_logits: np.ndarray | Sequence[np.ndarray],
    offsets: np.ndarray | Sequence[np.ndarray],
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
        start_logits: begin score per token; shape ``(windows, length)``, or one array per window,
            or, with ``lengths``, all tokens one after the other; taken as 32-bit floats.
        end_logits: end scores, likewise.
        offsets: first character and the one after the last of each token in its context, likewise
            with a last dimension of 2; negative for tokens outside the context (question, special
            tokens, padding).
        example_of_window: number of the example that each window belongs to, shape ``(windows,)``.
        contexts: text per example.
        n_best: how many begins, ends and stretches to keep.
        max_answer_tokens: longest stretch.
        null: also compute the null score, from each window's first token.
        lengths: tokens per window, where all tokens are given one after the other.
        reference: follow the loop of the transformers examples to the letter. It takes the best
            begins and ends over all tokens before it drops those outside the context, so that the
            question can crowd out the passage; and the same stretch from two windows counts twice.

    Returns:
        The best stretches; equal scores by window, then by place in it.

    Raises:
        BadRows: shapes that do not fit, an example without a window, or a score that is NaN.

    Source:
        ``postprocess_qa_predictions`` of the transformers examples, which follows XTREME's
        ``compute_predictions_logits`` but for the latter's rule that a begin counts only in the
        window that shows most text around it.
    """
    if not len(contexts):
        raise BadRows("no contexts: there is nothing to find stretches in.")
    begin, end = _grid(start_logits, lengths), _grid(end_logits, lengths)
    place, example = _offsets(offsets, lengths), np.asarray(example_of_window, np.int64)
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


def _grid(values: np.ndarray | Sequence[np.ndarray], lengths: np.ndarray | None) -> np.ndarray:
    """Return scores of shape ``(windows, length)``, padded with -inf."""
    if isinstance(values, np.ndarray) and values.ndim == 2:
        return values.astype(np.float32, copy=False)
    return _padded(values, lengths, -np.inf, ()).astype(np.float32, copy=False)


def _offsets(values: np.ndarray | Sequence[np.ndarray], lengths: np.ndarray | None) -> np.ndarray:
    """Return offsets of shape ``(windows, length, 2)``, padded with -1."""
    if isinstance(values, np.ndarray) and values.ndim == 3:
        return values
    return _padded(values, lengths, -1, (2,))


def _padded(
    values: np.ndarray | Sequence[np.ndarray],
    lengths: np.ndarray | None,
    fill: float,
    last: tuple[int, ...],
) -> np.ndarray:
    if lengths is None:
        values = [np.asarray(value) for value in values]
        lengths = np.array([len(value) for value in values], np.int64)
        values = np.concatenate(values) if values else np.empty((0, *last))
    flat = np.asarray(values)
    counts = np.asarray(lengths, np.int64)
    if flat.shape != (counts.sum(), *last):
        raise BadRows(
            f"{counts.sum()} tokens in {len(counts)} windows, but scores of shape {flat.shape}."
        )
    grid = np.full((len(counts), counts.max(initial=0), *last), fill, flat.dtype)
    grid[np.arange(grid.shape[1]) < counts[:, None]] = flat
    return grid


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
    """Return columns, rising, and values of the ``k`` largest entries of each row; ties by column.

    Looking for the entries above the k-th is several times faster than partitioning indices. A row
    with fewer than ``k`` allowed entries is filled up with -inf.
    """
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
    """Return scores that stand for "not allowed": all below ``LOWEST``, and no two alike.

    Partitioning is several times slower where many values are equal, as -inf would be.
    """
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
    """Return the texts without white space around them, and their first characters.

    Tokenisers of the SentencePiece kind count the space before a word to the word.
    """
    texts, trimmed = [], []
    for start, end, context in zip(starts.tolist(), ends.tolist(), contexts, strict=True):
        text = context[start:end] if start >= 0 else ""
        if text[:1].isspace():
            start += len(text) - len(text.lstrip())
        trimmed.append(start)
        texts.append(text.strip())
    return texts, np.array(trimmed, np.int64)
