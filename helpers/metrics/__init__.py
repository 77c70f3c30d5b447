"""Official scoring rules as pure functions, looked up by name; no torch, no transformers.

Answers: XQuAD and TyDiQA-GoldP have SQuAD 1.1's normalisation in every language: English articles and
ASCII punctuation go, text is split at white space, so a Chinese or Thai answer is one token. MLQA has
its own normalisation per language.

Tags: XTREME scores part-of-speech tags and named entities alike with seqeval's span F1. On bare tags
(``NOUN``, not ``B-PER``) that is not token accuracy: neighbours with the same tag become one span,
and what counts as "the same tag" changed between versions of seqeval:

- ``"seqeval-0.0.12"`` (the default; gives the figures that XTREME's own test expects): the type of
  a tag is what follows its last hyphen, so a bare tag is its own type.
- ``"seqeval-1.2.2"``: the type is what follows the first letter, so ``CCONJ`` and ``SCONJ`` are one.
- ``"plain"``: strict IOB2; an ``I-`` that continues nothing is no span, and a bare tag is a span of
  one token, so that F1 on bare tags is token accuracy.
"""

import inspect
import math
import operator
import re
import string
import sys
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence, Sized
from functools import cache
from itertools import chain
from typing import Any, NamedTuple

import numpy as np

from helpers.errors import BadRows, HelpfulError, known

VARIANTS = ("seqeval-0.0.12", "seqeval-1.2.2", "plain")
ENOUGH = 20  # A set of so many rows with a single label is a placeholder, not gold.

Answers = Mapping[str, str] | Sequence[str]
Golds = Mapping[str, Sequence[str]] | Sequence[Sequence[str]]
Ranked = Sequence[Sequence[Hashable]]
Right = Sequence[Collection[Hashable]]
Scores = dict[str, float]
Tags = Sequence[Sequence[str | int]]

# What stands for a label that is not told; "O" alone says that a set has no entity at all.
_HIDDEN = frozenset({"", "O", "_", "-", "?", "-1", "-100", -1, -100, None})


class Metric(NamedTuple):
    """A named score: its function, and the key of the value that stands for it."""

    function: Callable[..., Scores]
    main: str


_METRICS: dict[str, Metric] = {}


def register(
    name: str, function: Callable[..., Scores], main: str = "", *, replace: bool = False
) -> Metric:
    """Add a metric: ``function(predictions, golds, **options)`` gives values by key; ``main``: one key."""
    if "@" in name:
        raise HelpfulError(f"metric {name!r}: '@' is for a cut-off, as in 'map@20'; leave it out.")
    if name in _METRICS and not replace:
        raise HelpfulError(f"metric {name!r} exists; pass replace=True to overwrite it.")
    _METRICS[name] = Metric(function, main or name)
    return _METRICS[name]


def get(name: str) -> Metric:
    """Return a metric by name, whose cut-off as in ``map@20`` is ignored."""
    return _METRICS[known("metric", name.partition("@")[0], _METRICS)]


def score(name: str, predictions: Any, golds: Any, **options: Any) -> Scores:
    """Return values by key of a metric, by its name, with a cut-off where it has one: ``"map@20"``."""
    metric, (_, at, cut) = get(name), name.partition("@")
    # A cut-off is an option like others, written into the name.
    if at:
        cuts = "k" in inspect.signature(metric.function).parameters
        if not cuts or not cut.isdecimal() or int(cut) < 1:
            raise HelpfulError(f"metric {name!r}: a cut-off is a positive number, as in 'map@20'.")
        options["k"] = int(cut)
    found = metric.function(predictions, golds, **options)
    result = {key: float(value) for key, value in found.items()}
    if not math.isfinite(result.get(metric.main, math.nan)):
        raise HelpfulError(f"metric {name!r} gave {result}, without a finite {metric.main!r}.")
    return result


# --- What is scored -------------------------------------------------------------------------------
def same_length(predictions: Sized, golds: Sized, what: str = "examples") -> None:
    """Refuse predictions and golds that cannot be compared one by one, and empty sets."""
    if len(predictions) != len(golds):
        raise BadRows(f"{len(predictions)} predictions for {len(golds)} {what}: give one for each.")
    if not len(golds):
        raise BadRows(f"no {what} to score: an empty set has no score.")


def placeholder(golds: Iterable[Any], enough: int = ENOUGH) -> str:
    """Say why golds (labels, or lists of tags, answers or ids) look hidden; ``""`` if they do not."""
    rows, found = 0, set[Any]()
    for gold in golds:
        rows += 1
        told = gold if isinstance(gold, list | tuple) else (gold,)
        found.update(one.strip() if isinstance(one, str) else one for one in told)
        if len(found) > 1 and not found <= _HIDDEN:
            return ""
    if not rows or (found and not found <= _HIDDEN and rows < enough):
        return ""
    what = f"is {next(iter(found))!r}" if len(found) == 1 else "is blank"
    advice = "a placeholder for hidden labels, not gold. Use a copy with labels, or another split."
    return f"every gold of {rows} rows {what}: {advice}"


# --- Labels ---------------------------------------------------------------------------------------
def accuracy(predictions: Sequence[Any], golds: Sequence[Any]) -> Scores:
    """Return ``accuracy``, the share of right labels (XNLI, PAWS-X, XCOPA) or rows (Tatoeba)."""
    same_length(predictions, golds)
    # Label ids never match label names, and the score would be 0.
    texts = [{isinstance(label, str) for label in side} for side in (predictions, golds)]
    if len(texts[0] | texts[1]) > 1:
        said = f"{predictions[0]!r} is predicted and {golds[0]!r} gold: labels of different kinds"
        raise BadRows(f"{said}. Use label names on both sides or label ids on both sides.")
    hits = sum(given == right for given, right in zip(predictions, golds, strict=True))
    return {"accuracy": float(hits) / len(golds)}


def macro_f1(predictions: Sequence[Any], golds: Sequence[Any]) -> Scores:
    """Return F1 averaged over the labels that occur on either side, and accuracy."""
    result = accuracy(predictions, golds)
    # F1 of a label is twice its hits over the times it occurs on both sides.
    both = np.concatenate([np.asarray(golds), np.asarray(predictions)])
    labels, code = np.unique(both, return_inverse=True)
    right, given = code[: len(golds)], code[len(golds) :]
    hits = np.bincount(right[right == given], minlength=len(labels))
    seen = np.bincount(right, minlength=len(labels)) + np.bincount(given, minlength=len(labels))
    return {"macro_f1": float(np.mean(2 * hits / seen))} | result


# --- Tags -----------------------------------------------------------------------------------------
# Letters with a meaning in the chunking rules; every other first letter behaves like "?".
_LETTERS = {letter: code for code, letter in enumerate("OBIES.?")}
_O, _B, _I, _E, _S, _DOT, _OTHER = range(7)
Spans = tuple[np.ndarray, np.ndarray, np.ndarray]  # type, first and last position of each span


def span_f1(
    predictions: Tags,
    golds: Tags,
    variant: str = "seqeval-0.0.12",
    labels: Sequence[str] | None = None,
    ragged: bool = False,
) -> Scores:
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
    known("variant", variant, VARIANTS)
    given, right = predictions, golds
    if labels is not None:
        given, right = ([[labels[int(t)] for t in one] for one in side] for side in (given, right))
    tokens = {} if ragged else token_accuracy(given, right)
    same_length(given, right, "sentences")
    types: dict[str, int] = {}
    (type1, begin1, end1), (type2, begin2, end2) = (
        _read(s, variant, types) for s in (given, right)
    )
    # No two spans of one reading end together, so those of both that do are compared in pairs.
    _, mine, theirs = np.intersect1d(end1, end2, assume_unique=True, return_indices=True)
    same = (begin1[mine] == begin2[theirs]) & (type1[mine] == type2[theirs])
    return _f1(int(same.sum()), len(end1), len(end2)) | tokens


def _f1(hits: int, given: int, right: int) -> Scores:
    """Return F1, precision and recall of the hits among what is given and what is right."""
    precision, recall = (hits / number if number else 0.0 for number in (given, right))
    both = precision + recall
    f1 = 2 * precision * recall / both if both else 0.0
    return {"f1": f1, "precision": precision, "recall": recall}


def token_accuracy(predictions: Tags, golds: Tags) -> Scores:
    """Return ``token_accuracy``, the share of right tags over all tokens."""
    same_length(predictions, golds, "sentences")
    for number, (one, other) in enumerate(zip(predictions, golds, strict=True)):
        if len(one) != len(other):
            said = f"sentence {number} has {len(other)} tokens and {len(one)} predicted tags"
            raise BadRows(f"{said}: give one tag per token.")
    given, right = list(chain.from_iterable(predictions)), list(chain.from_iterable(golds))
    same_length(given, right, "tokens")
    return {"token_accuracy": sum(map(operator.eq, given, right)) / len(right)}


def spans(tags: Sequence[str], variant: str = "seqeval-0.0.12") -> list[tuple[str, int, int]]:
    """Return ``(type, first token, last token)`` of each span that a variant reads in a sentence."""
    types: dict[str, int] = {}
    found = _read([list(tags)], known("variant", variant, VARIANTS), types)
    names = list(types)
    triples = zip(*(column.tolist() for column in found), strict=True)
    return [(names[kind], begin, end) for kind, begin, end in triples]


def _read(sentences: Tags, variant: str, types: dict[str, int]) -> Spans:
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


def _split(tag: Any, variant: str) -> tuple[int, str]:
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


def _chunks(letter: np.ndarray, kind: np.ndarray) -> Spans:
    """Apply seqeval's rules (those of conlleval) to all positions at once."""
    # A span ends before a position by the pair of tags around the border alone, and it began at the
    # last position where a span started, so two arrays of borders give all spans.
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
    return kind[end], last_start[end], end


def _iob2(letter: np.ndarray, kind: np.ndarray) -> Spans:
    """Read strict IOB2: only a ``B-`` or a bare tag begins, only ``I-`` of its type continues."""
    continues = (letter[1:] == _I) & np.isin(letter[:-1], (_B, _I)) & (kind[1:] == kind[:-1])
    begin = np.flatnonzero(np.concatenate([[True], ~continues]))
    end = np.concatenate([begin[1:], [len(letter)]]) - 1
    real = np.isin(letter[begin], (_B, _OTHER))
    return kind[begin[real]], begin[real], end[real]


# --- Answers --------------------------------------------------------------------------------------
_ARTICLES = {
    "de": "ein|eine|einen|einem|eines|einer|der|die|das|den|dem|des",
    "en": "a|an|the",
    "es": "un|una|unos|unas|el|la|los|las",
    "vi": "của|là|cái|chiếc|những",
}
# By language of MLQA what is replaced, and by what: articles go, of which Hindi has none, and each
# Chinese character is a word.
_RULES = {code: (re.compile(rf"\b({words})\b"), " ") for code, words in _ARTICLES.items()}
_RULES |= {"ar": (re.compile("ال"), " "), "hi": (re.compile("\0"), "")}
_RULES |= {"zh": (re.compile("([\u4e00-\u9fa5])"), r" \1 ")}
_ASCII_PUNCTUATION = str.maketrans("", "", string.punctuation)


def squad(
    predictions: Answers, golds: Golds, language: str = "", unanswered: str = "error"
) -> Scores:
    """Return SQuAD 1.1's exact match and F1 (Rajpurkar et al., 2016); also of XQuAD and TyDiQA-GoldP.

    Args:
        predictions: answer per question id, or one answer per question in the order of ``golds``.
        golds: accepted answers per question, keyed or ordered alike.
        language: ``""`` for SQuAD's normalisation, whatever the language; :func:`mlqa` sets it.
        unanswered: ``"zero"`` counts a question without a prediction as wrong, as the official
            scripts do; ``"error"`` refuses it.

    Returns:
        ``exact_match``, ``f1`` and their ``mean``, each from 0 to 1; BadRows where there is none.
    """
    return _nearest(predictions, golds, language, unanswered)


def mlqa(predictions: Answers, golds: Golds, language: str, unanswered: str = "error") -> Scores:
    """Return :func:`squad`'s scores by MLQA's rules (Lewis et al., 2020) for the passage's language."""
    return _nearest(predictions, golds, known("MLQA language", language, _RULES), unanswered)


def squad2(predictions: Answers, golds: Golds) -> Scores:
    """Return SQuAD 2.0's scores (Rajpurkar et al., 2018); no answer: ``""`` given, ``[]`` in golds."""
    return _nearest(predictions, golds, silence=True)


def _nearest(
    given: Any, right: Any, language: str = "", unanswered: str = "error", silence: bool = False
) -> Scores:
    """Score each question by the accepted answer that is nearest; without a prediction it gets 0."""
    keyed = isinstance(right, Mapping)
    if isinstance(given, Mapping) != keyed:
        raise BadRows("predictions and golds must both be keyed by question id, or both be lists.")
    if not keyed or not right:
        same_length(given, right, "questions")
    # Ordered ones are keyed by their places.
    given, right = (dict(side if keyed else enumerate(side)) for side in (given, right))
    silent = [name for name in right if name not in given and unanswered == "error"]
    bare = [name for name in right if not silence and not len(right[name])]
    advice = "score them with 'squad2' or leave them out"
    for names, what in (
        ([name for name in given if name not in right], "predictions for unknown question ids"),
        (silent, "questions have no prediction"),
        (bare, f"questions have no gold answer: {advice}"),
    ):
        if names:
            raise BadRows(f"{len(names)} {what}, such as {names[0]!r}.")
    exact = f1 = 0.0
    for name, answers in right.items():
        if name in given:
            said = answer_tokens(given[name], language)
            accepted = [answer_tokens(answer, language) for answer in answers]
            # Answers that do not survive normalisation go; if none is left, only silence is right.
            if silence:
                accepted = list(filter(None, accepted)) or [[]]
            exact += said in accepted
            f1 += max(_overlap(said, answer, silence) for answer in accepted)
    exact, f1 = exact / len(right), f1 / len(right)
    return {"exact_match": exact, "f1": f1, "mean": (exact + f1) / 2}


def answer_tokens(text: str, language: str = "") -> list[str]:
    """Return the tokens that the scorers compare, by SQuAD's rules or a language's of MLQA."""
    # SQuAD knows English articles and ASCII marks; MLQA each language's articles and all marks.
    marks = _punctuation() if language else _ASCII_PUNCTUATION
    pattern, put = _RULES[language or "en"]
    return pattern.sub(put, text.lower().translate(marks)).split()


@cache
def _punctuation() -> dict[int, None]:
    """Return a table that deletes Unicode's punctuation and ASCII's."""
    marks = [i for i in range(sys.maxunicode) if unicodedata.category(chr(i)).startswith("P")]
    return dict.fromkeys([*marks, *map(ord, string.punctuation)])


def _overlap(given: list[str], right: list[str], silence: bool) -> float:
    """Return the F1 of the tokens that both answers share; where both have none, of silence."""
    if given == right:
        return float(bool(given) or silence)
    shared = sum((Counter(given) & Counter(right)).values()) if given and right else 0
    if not shared:
        return 0.0
    precision, recall = shared / len(given), shared / len(right)
    return 2 * precision * recall / (precision + recall)


# --- Retrieval ------------------------------------------------------------------------------------
def pair_f1(predictions: Iterable[Hashable], golds: Iterable[Hashable]) -> Scores:
    """Return BUCC's ``f1``, ``precision``, ``recall`` over pairs of ids (Zweigenbaum et al., 2018)."""
    given, right = set(predictions), set(golds)
    if not right:
        raise BadRows("no gold pairs to score: an empty set has no score.")
    return _f1(len(given & right), len(given), len(right))


def map_at_k(predictions: Ranked, golds: Right, k: int | None = 20) -> Scores:
    """Return ``map``, the mean average precision of the first ``k`` candidates (Roy et al., 2020)."""
    # As XTREME-R implements it for LAReQA: a candidate that comes twice counts once.
    total = 0.0
    for ranked, wanted in _ranked(predictions, golds):
        found: set[Hashable] = set()
        precisions = 0.0
        for rank, candidate in enumerate(ranked[:k], start=1):
            if candidate in wanted and candidate not in found:
                found.add(candidate)
                precisions += len(found) / rank
        total += precisions / min(len(wanted), k or len(wanted))
    return {"map": total / len(golds)}


def mrr_at_k(predictions: Ranked, golds: Right, k: int | None = 20) -> Scores:
    """Return ``mrr``, the mean reciprocal rank of the first right candidate among ``k``."""
    # Mewsli-X has one right entity per mention, so this is what XTREME-R calls its mAP@20.
    total = 0.0
    for ranked, wanted in _ranked(predictions, golds):
        hits = (1.0 / rank for rank, one in enumerate(ranked[:k], start=1) if one in wanted)
        total += next(hits, 0.0)
    return {"mrr": total / len(golds)}


def _ranked(predictions: Ranked, golds: Right) -> list[tuple[Sequence[Hashable], set[Hashable]]]:
    """Return each query's ranking beside its right candidates, of which it must have one."""
    same_length(predictions, golds, "queries")
    for number, right in enumerate(golds):
        if not len(right):
            raise BadRows(f"query {number} has no right candidate, so its ranking has no score.")
    return [(ranked, set(right)) for ranked, right in zip(predictions, golds, strict=True)]


register("accuracy", accuracy)
register("macro_f1", macro_f1)
register("span_f1", span_f1, "f1")
register("token_accuracy", token_accuracy)
register("squad", squad, "mean")
register("squad2", squad2, "mean")
register("mlqa", mlqa, "mean")
register("pair_f1", pair_f1, "f1")
register("map", map_at_k)
register("mrr", mrr_at_k)
