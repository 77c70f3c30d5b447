"""Texts to piece ids and special tokens; tokenised rows as flat arrays, cut into batches."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

IGNORE = -100
"""Label of a token that carries no loss (PyTorch's ``ignore_index``)."""


@dataclass
class Encoded:
    """Sequences of one task in one language, tokenised once."""

    tokens: np.ndarray  # piece ids of all sequences one after the other, (tokens,)
    starts: np.ndarray  # first token of each sequence, (sequences + 1,)
    example: np.ndarray  # row that each sequence belongs to, (sequences,), not decreasing
    per_sequence: dict[str, np.ndarray] = field(default_factory=dict)  # (sequences, ...)
    per_token: dict[str, np.ndarray] = field(default_factory=dict)  # (tokens, ...)
    rows: int = 0
    together: bool = False  # the sequences of a row share a batch (choices of one question)
    skipped: dict[str, int] = field(default_factory=dict)  # rows left out of training, by reason

    def __len__(self) -> int:
        """Return the number of sequences."""
        return len(self.starts) - 1

    @cached_property
    def lengths(self) -> np.ndarray:
        """Length of each sequence in tokens, shape ``(sequences,)``."""
        return np.diff(self.starts)

    @classmethod
    def build(
        cls,
        sequences: Sequence[Sequence[int]],
        example: Sequence[int],
        *,
        per_sequence: dict[str, Any] | None = None,
        per_token: dict[str, Sequence[Any]] | None = None,
        **facts: Any,
    ) -> Encoded:
        """Flatten ragged sequences; ``per_token`` holds one list per sequence."""
        lengths = np.fromiter((len(s) for s in sequences), np.int64, len(sequences))
        flat = [np.asarray(s, np.int32) for s in sequences]
        return cls(
            tokens=np.concatenate(flat) if flat else np.zeros(0, np.int32),
            starts=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
            example=np.asarray(example, np.int64),
            per_sequence={k: np.asarray(v) for k, v in (per_sequence or {}).items()},
            per_token={
                k: np.concatenate([np.asarray(x) for x in v]) if len(v) else np.zeros(0, np.int64)
                for k, v in (per_token or {}).items()
            },
            **facts,
        )

    @cached_property
    def units(self) -> np.ndarray:
        """First sequence of each unit that must stay whole, shape ``(units + 1,)``."""
        if not self.together or not len(self):
            return np.arange(len(self) + 1)
        change = np.flatnonzero(np.diff(self.example)) + 1
        return np.concatenate([[0], change, [len(self)]])

    @cached_property
    def longest(self) -> np.ndarray:
        """Length of the longest sequence of each unit, shape ``(units,)``."""
        if not len(self):
            return np.zeros(0, np.int64)
        return np.maximum.reduceat(self.lengths, self.units[:-1])


def join(parts: Sequence[Encoded]) -> Encoded:
    """Put several encoded sets one after the other (all languages of one target)."""
    starts, examples, tokens, rows = [np.zeros(1, np.int64)], [], 0, 0
    for part in parts:
        starts.append(part.starts[1:] + tokens)
        examples.append(part.example + rows)
        tokens += len(part.tokens)
        rows += part.rows
    first = parts[0]
    return Encoded(
        tokens=np.concatenate([p.tokens for p in parts]),
        starts=np.concatenate(starts),
        example=np.concatenate(examples),
        per_sequence={
            k: np.concatenate([p.per_sequence[k] for p in parts]) for k in first.per_sequence
        },
        per_token={k: np.concatenate([p.per_token[k] for p in parts]) for k in first.per_token},
        rows=rows,
        together=first.together,
    )


def sorted_batches(encoded: Encoded, budget: int) -> list[np.ndarray]:
    """Cut all sequences, longest first, into batches of at most ``budget`` padded tokens."""
    return _cut(encoded, _by_length(encoded, np.arange(len(encoded.units) - 1)), budget)


def shuffled_batches(
    encoded: Encoded,
    budget: int,
    generator: np.random.Generator,
    pool: int = 50,
    packed: bool = False,
) -> list[np.ndarray]:
    """Cut shuffled units into batches of at most ``budget`` tokens; in padded ones padding counts."""
    units = len(encoded.units) - 1
    order = generator.permutation(units)
    if packed:
        return _cut_packed(encoded, order, budget)
    # Sorted by length inside pools of some batches, then the batches are shuffled again: the order
    # stays random while padding stays small.
    mean_tokens = max(1.0, len(encoded.tokens) / max(1, units))
    size = max(1, int(pool * budget / mean_tokens))
    batches = [
        batch
        for begin in range(0, units, size)
        for batch in _cut(encoded, _by_length(encoded, order[begin : begin + size]), budget)
    ]
    return [batches[i] for i in generator.permutation(len(batches))]


def _cut_packed(encoded: Encoded, units: np.ndarray, budget: int) -> list[np.ndarray]:
    """Cut units in their order so that the tokens of a batch stay within the budget."""
    first = encoded.units
    tokens = (encoded.starts[first[1:]] - encoded.starts[first[:-1]])[units]
    upto = np.concatenate([[0], np.cumsum(tokens)])
    batches, begin = [], 0
    while begin < len(units):
        end = int(np.searchsorted(upto, upto[begin] + budget, side="right")) - 1
        end = max(begin + 1, end)
        chosen = [np.arange(first[u], first[u + 1]) for u in units[begin:end]]
        batches.append(np.concatenate(chosen))
        begin = end
    return batches


def split(encoded: Encoded, batch: np.ndarray, budget: int) -> list[np.ndarray]:
    """Split one batch into parts of at most ``budget`` padded tokens, units kept whole."""
    first = encoded.units
    unit = np.unique(np.searchsorted(first, batch, side="right") - 1)
    return _cut(encoded, _by_length(encoded, unit), budget)


def _by_length(encoded: Encoded, units: np.ndarray) -> np.ndarray:
    return units[np.argsort(-encoded.longest[units], kind="stable")]


def _cut(encoded: Encoded, units: np.ndarray, budget: int) -> list[np.ndarray]:
    """Cut units, sorted longest first, so that (longest x sequences) stays within the budget."""
    first = encoded.units
    sizes = np.diff(first)[units]
    upto = np.concatenate([[0], np.cumsum(sizes)])
    sequences = np.repeat(first[units] - upto[:-1], sizes) + np.arange(upto[-1])
    batches = []
    begin = 0
    while begin < len(units):
        width = max(1, int(encoded.longest[units[begin]]))
        room = upto[begin] + budget // width
        end = max(begin + 1, int(np.searchsorted(upto, room, side="right")) - 1)
        batches.append(sequences[upto[begin] : upto[end]])
        begin = end
    return batches


def token_index(encoded: Encoded, batch: np.ndarray) -> np.ndarray:
    """Return the positions in ``encoded.tokens`` of a batch's sequences, in batch order."""
    begin, lengths = encoded.starts[batch], encoded.lengths[batch]
    shift = np.repeat(begin - np.concatenate([[0], np.cumsum(lengths)[:-1]]), lengths)
    return np.arange(int(lengths.sum())) + shift


# --- Tokenising ---
@dataclass(frozen=True)
class Template:
    """Special tokens that one tokenizer puts before, between and after its inputs."""

    before: tuple[int, ...]
    between: tuple[int, ...]
    after: tuple[int, ...]

    @classmethod
    def of(cls, tokenizer: Any) -> Template:
        """Read the template off the tokenizer by encoding a pair of one-letter texts."""
        pair = tokenizer("a", "b", return_special_tokens_mask=True)
        ids, special = pair["input_ids"], np.asarray(pair["special_tokens_mask"], bool)
        content = np.flatnonzero(~special)
        gap = int(content[np.flatnonzero(np.diff(content) > 1)[0]])
        right = int(content[content > gap][0])
        return cls(
            tuple(ids[: content[0]]), tuple(ids[gap + 1 : right]), tuple(ids[content[-1] + 1 :])
        )

    def single(self, first: Sequence[int]) -> list[int]:
        """Return one input with its special tokens."""
        return [*self.before, *first, *self.after]

    def pair(self, first: Sequence[int], second: Sequence[int]) -> list[int]:
        """Return two inputs with their special tokens."""
        return [*self.before, *first, *self.between, *second, *self.after]

    @property
    def single_room(self) -> int:
        """Number of special tokens around one input."""
        return len(self.before) + len(self.after)

    @property
    def pair_room(self) -> int:
        """Number of special tokens around two inputs."""
        return self.single_room + len(self.between)


def piece_ids(tokenizer: Any, texts: Sequence[str], chunk: int = 10_000) -> list[list[int]]:
    """Return the piece ids of each text, without special tokens; equal texts are encoded once."""
    unique = list(dict.fromkeys(texts))
    known: dict[str, list[int]] = {}
    for begin in range(0, len(unique), chunk):
        part = unique[begin : begin + chunk]
        known.update(zip(part, _quietly(tokenizer, part)["input_ids"], strict=True))
    return [known[text] for text in texts]


def _quietly(tokenizer: Any, texts: list[str], **options: Any) -> Any:
    """Encode without special tokens and without a warning on long texts: they are cut later."""
    return tokenizer(texts, add_special_tokens=False, verbose=False, **options)


def pieces_with_offsets(
    tokenizer: Any, texts: Sequence[str]
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return piece ids and character spans ``(pieces, 2)`` of each text, without white space."""
    # Tokenizers such as Gemma's and byte-level ones count the space before a word to its first piece.
    (probe,) = _quietly(tokenizer, ["one two"], return_offsets_mapping=True)["offset_mapping"]
    with_spaces = any("one two"[begin:end] != "one two"[begin:end].strip() for begin, end in probe)
    coded = _quietly(tokenizer, list(texts), return_offsets_mapping=True)
    found = []
    for text, ids, pairs in zip(texts, coded["input_ids"], coded["offset_mapping"], strict=True):
        offsets = np.array(pairs, np.int32).reshape(-1, 2)
        if with_spaces:
            inside = [text[begin:end] for begin, end in pairs]
            offsets[:, 0] += [len(piece) - len(piece.lstrip()) for piece in inside]
            offsets[:, 1] -= [len(piece) - len(piece.rstrip()) for piece in inside]
            offsets[:, 1] = offsets.max(1)  # a piece of spaces alone spans nothing
        found.append((np.asarray(ids, np.int32), _with_marks(text, offsets)))
    return found


def _with_marks(text: str, offsets: np.ndarray) -> np.ndarray:
    """Let a piece end after the marks that were composed with its last character.

    A normaliser that composes letter and accent aligns the result with the letter alone.
    """
    if unicodedata.is_normalized("NFKC", text):
        return offsets
    borders = np.zeros(len(text) + 1, np.int64)
    np.add.at(borders, offsets[:, 0], 1)
    np.add.at(borders, offsets[:, 1], -1)
    for place in np.flatnonzero(borders.cumsum()[:-1] == 0).tolist():
        if unicodedata.category(text[place])[0] not in "CZ":
            offsets[offsets[:, 1] == place, 1] = place + 1
    return offsets


def cut_longest(first: list[int], second: list[int], room: int) -> tuple[list[int], list[int]]:
    """Drop pieces from the end of the longer input until both fit in ``room``."""
    over = len(first) + len(second) - room
    if over <= 0:
        return first, second
    gap = len(first) - len(second)
    more = min(over, abs(gap))
    cut_first = (more if gap > 0 else 0) + (over - more + 1) // 2
    cut_second = (more if gap < 0 else 0) + (over - more) // 2
    return first[: len(first) - cut_first], second[: len(second) - cut_second]
