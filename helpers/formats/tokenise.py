"""Texts to piece ids, with offsets on the text as it was given, and the special tokens around."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


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
    """Return piece ids and character spans of each text.

    Returns:
        Per text: ids of shape ``(pieces,)`` and offsets of shape ``(pieces, 2)``, begin and end in
        characters of the given text; white space before a piece is not part of its span.
    """
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

    A normaliser that composes a letter and its accent aligns the result with the letter alone, so an
    answer that ends there would lose its accent. White space and control characters stay outside.
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
