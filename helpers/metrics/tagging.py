"""Span-level F1 of tag sequences, as three readers of the tags would count it.

XTREME scores part-of-speech tags and named entities alike with seqeval's span F1. On bare tags
(``NOUN``, not ``B-PER``) that is not token accuracy: neighbours with the same tag become one span,
and what counts as "the same tag" changed between versions of seqeval:

- ``"seqeval-0.0.12"`` (the default; gives the figures that XTREME's own test expects): the type of
  a tag is what follows its last hyphen, so a bare tag is its own type.
- ``"seqeval-1.2.2"``: the type is what follows the first letter, so ``CCONJ`` and ``SCONJ`` are one.
- ``"plain"``: strict IOB2; an ``I-`` that continues nothing is no span, and a bare tag is a span of
  one token, so that F1 on bare tags is token accuracy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

from helpers.errors import BadRows, unknown
from helpers.metrics.check import same_length

VARIANTS = ("seqeval-0.0.12", "seqeval-1.2.2", "plain")

Tags = Sequence[Sequence[str]]

# Letters with a meaning in the chunking rules; every other first letter behaves like "?".
_LETTERS = {letter: code for code, letter in enumerate("OBIES.?")}
_O, _B, _I, _E, _S, _DOT, _OTHER = range(7)


@dataclass(frozen=True)
class _Spans:
    """Spans of one flat tag sequence: type, first and last position, each of shape (spans,)."""

    type: np.ndarray
    begin: np.ndarray
    end: np.ndarray

    def common(self, other: _Spans) -> int:
        """Return how many spans two readings share; no two spans of one reading end together."""
        _, mine, theirs = np.intersect1d(
            self.end, other.end, assume_unique=True, return_indices=True
        )
        same = (self.begin[mine] == other.begin[theirs]) & (self.type[mine] == other.type[theirs])
        return int(same.sum())


def span_f1(
    predictions: Sequence[Sequence[str | int]],
    golds: Sequence[Sequence[str | int]],
    variant: str = "seqeval-0.0.12",
    labels: Sequence[str] | None = None,
    ragged: bool = False,
) -> dict[str, float]:
    """Return micro-averaged precision, recall and F1 over spans, and token accuracy.

    Args:
        predictions: predicted tags, one sequence per sentence.
        golds: right tags, in the same order.
        variant: one of ``VARIANTS``.
        labels: tag names, where sentences hold tag ids.
        ragged: score sentences of unequal length as seqeval 0.0.12 does, by running all sentences
            into one sequence (token accuracy is then left out). By default they are refused.

    Returns:
        ``f1``, ``precision``, ``recall``, ``token_accuracy``, each from 0 to 1.

    Raises:
        BadRows: different lengths, nothing to score, or an empty tag.
        UnknownName: no such variant.

    Source:
        XTREME (Hu et al., 2020), tasks POS and NER; seqeval 0.0.12 and 1.2.2.
    """
    if variant not in VARIANTS:
        raise unknown("variant", variant, VARIANTS)
    given, right = _names(predictions, labels), _names(golds, labels)
    same_length(given, right, "sentences")
    if not ragged:
        _same_tokens(given, right)
    types: dict[str, int] = {}
    given_spans, right_spans = _read(given, variant, types), _read(right, variant, types)
    hits = given_spans.common(right_spans)
    precision = hits / len(given_spans.end) if len(given_spans.end) else 0.0
    recall = hits / len(right_spans.end) if len(right_spans.end) else 0.0
    both = precision + recall
    f1 = 2 * precision * recall / both if both > 0 else 0.0
    result = {"f1": f1, "precision": precision, "recall": recall}
    return result if ragged else result | token_accuracy(given, right)


def token_accuracy(
    predictions: Sequence[Sequence[str | int]], golds: Sequence[Sequence[str | int]]
) -> dict[str, float]:
    """Return the share of right tags over all tokens.

    Args:
        predictions: predicted tags, one sequence per sentence.
        golds: right tags, in the same order.

    Returns:
        ``token_accuracy``, from 0 to 1.

    Raises:
        BadRows: different lengths, or nothing to score.
    """
    same_length(predictions, golds, "sentences")
    _same_tokens(predictions, golds)
    given, right = list(chain.from_iterable(predictions)), list(chain.from_iterable(golds))
    same_length(given, right, "tokens")
    return {"token_accuracy": sum(map(_equal, given, right)) / len(right)}


def spans(tags: Sequence[str], variant: str = "seqeval-0.0.12") -> list[tuple[str, int, int]]:
    """Return the spans that a variant reads in one sentence.

    Args:
        tags: tags of one sentence.
        variant: one of ``VARIANTS``.

    Returns:
        ``(type, first token, last token)`` per span, in order.

    Raises:
        BadRows: an empty tag.
        UnknownName: no such variant.
    """
    if variant not in VARIANTS:
        raise unknown("variant", variant, VARIANTS)
    types: dict[str, int] = {}
    found = _read([list(tags)], variant, types)
    name = list(types)
    triples = zip(found.type.tolist(), found.begin.tolist(), found.end.tolist(), strict=True)
    return [(name[kind], begin, end) for kind, begin, end in triples]


def _equal(one: str | int, other: str | int) -> bool:
    return one == other


def _names(
    sentences: Sequence[Sequence[str | int]], labels: Sequence[str] | None
) -> Sequence[Sequence[str]]:
    if labels is None:
        return sentences  # type: ignore[return-value]
    return [[labels[int(tag)] for tag in sentence] for sentence in sentences]


def _same_tokens(
    predictions: Sequence[Sequence[str | int]], golds: Sequence[Sequence[str | int]]
) -> None:
    for number, (given, right) in enumerate(zip(predictions, golds, strict=True)):
        if len(given) != len(right):
            raise BadRows(
                f"sentence {number} has {len(right)} tokens and {len(given)} predicted tags: "
                "give one tag per token."
            )


def _read(sentences: Tags, variant: str, types: dict[str, int]) -> _Spans:
    """Read the spans of all sentences, run together with an ``O`` after each."""
    ends = [[*sentence, "O"] for sentence in sentences]
    flat = list(chain.from_iterable(ends))
    parts = {tag: _split(tag, variant) for tag in set(flat)}
    # Sorted, so that codes do not depend on the order of a set.
    for _, kind in sorted(parts.values()):
        types.setdefault(kind, len(types))
    letter = np.array([parts[tag][0] for tag in flat], np.int8)
    kind_code = {tag: types[kind] for tag, (_, kind) in parts.items()}
    kind_of = np.array([kind_code[tag] for tag in flat], np.int64)
    return _iob2(letter, kind_of) if variant == "plain" else _chunks(letter, kind_of)


def _split(tag: str, variant: str) -> tuple[int, str]:
    """Return the code of a tag's letter and its type."""
    if not isinstance(tag, str) or not tag:
        raise BadRows(f"{tag!r} is not a tag: give tag names, or tag ids together with labels=.")
    if variant == "plain":
        if tag == "O" or tag[:2] in ("B-", "I-"):
            return _LETTERS[tag[0]], tag[2:]
        return _OTHER, tag
    letter = _LETTERS.get(tag[0], _OTHER)
    if variant == "seqeval-0.0.12":
        return letter, tag.rpartition("-")[2]
    return letter, tag[1:].split("-", maxsplit=1)[-1] or "_"


def _chunks(letter: np.ndarray, kind: np.ndarray) -> _Spans:
    """Apply seqeval's rules (those of conlleval) to all positions at once.

    A span ends before a position by the pair of tags around the border alone, and it began at the
    last position where a span started, so two arrays of borders give all spans.
    """
    before = np.concatenate([[_O], letter[:-1]])
    changed = np.concatenate([[True], kind[1:] != kind[:-1]])
    ends = (before == _E) | (before == _S)
    ends |= np.isin(before, (_B, _I)) & np.isin(letter, (_B, _S, _O))
    ends |= ~np.isin(before, (_O, _DOT)) & changed
    starts = (letter == _B) | (letter == _S)
    starts |= np.isin(before, (_E, _S, _O)) & np.isin(letter, (_E, _I))
    starts |= ~np.isin(letter, (_O, _DOT)) & changed
    last_start = np.maximum.accumulate(np.where(starts, np.arange(len(letter)), 0))
    end = np.flatnonzero(ends) - 1
    return _Spans(kind[end], last_start[end], end)


def _iob2(letter: np.ndarray, kind: np.ndarray) -> _Spans:
    """Read strict IOB2: only a ``B-`` or a bare tag begins, only ``I-`` of its type continues."""
    continues = (letter[1:] == _I) & np.isin(letter[:-1], (_B, _I)) & (kind[1:] == kind[:-1])
    begin = np.flatnonzero(np.concatenate([[True], ~continues]))
    end = np.concatenate([begin[1:], [len(letter)]]) - 1
    real = np.isin(letter[begin], (_B, _OTHER))
    return _Spans(kind[begin[real]], begin[real], end[real])
