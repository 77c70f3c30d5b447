"""Exact match and F1 of answers to questions: SQuAD 1.1, SQuAD 2.0, MLQA.

XTREME scores XQuAD and TyDiQA-GoldP with SQuAD 1.1's normalisation in every language: English
articles and ASCII punctuation go, text is split at white space, so a Chinese or Thai answer is one
token. MLQA has its own normalisation per language.
"""

from __future__ import annotations

import re
import string
import sys
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import TypeVar

from helpers.errors import BadRows, HelpfulError, unknown

Answers = Mapping[str, str] | Sequence[str]
Golds = Mapping[str, Sequence[str]] | Sequence[Sequence[str]]
_T = TypeVar("_T")

_ARTICLES = {
    "ar": "",
    "de": "ein|eine|einen|einem|eines|einer|der|die|das|den|dem|des",
    "en": "a|an|the",
    "es": "un|una|unos|unas|el|la|los|las",
    "hi": "",
    "vi": "của|là|cái|chiếc|những",
    "zh": "",
}
_ARABIC_ARTICLE = "ال"
_CHINESE = re.compile("([\u4e00-\u9fa5])")
_ASCII_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalise(text: str, language: str = "") -> str:
    """Return an answer as the official scorers compare it.

    Args:
        text: an answer.
        language: ``""`` for SQuAD's rules, whatever the language of the text; else the language of
            the passage, for MLQA's rules.

    Returns:
        Lower-case text without punctuation and articles, tokens separated by one space.

    Raises:
        UnknownName: a language that MLQA's scorer does not know.

    Source:
        Rajpurkar et al. (2016), evaluation script 1.1; Lewis et al. (2020), MLQA evaluation 1.0.
    """
    return " ".join(_tokens(text, language))


def exact_match(prediction: str, answers: Sequence[str], language: str = "") -> float:
    """Return 1.0 where the normalised prediction equals one of the answers, else 0.0.

    Args:
        prediction: the predicted answer.
        answers: accepted answers, at least one.
        language: as in :func:`normalise`.
    """
    given = normalise(prediction, language)
    return float(any(given == normalise(answer, language) for answer in answers))


def token_f1(prediction: str, answers: Sequence[str], language: str = "") -> float:
    """Return the F1 of the tokens that prediction and answer share, best over the answers.

    Args:
        prediction: the predicted answer.
        answers: accepted answers, at least one.
        language: as in :func:`normalise`.
    """
    given = _tokens(prediction, language)
    return max(_overlap(given, _tokens(answer, language)) for answer in answers)


def squad(
    predictions: Answers, golds: Golds, language: str = "", unanswered: str = "error"
) -> dict[str, float]:
    """Return SQuAD 1.1's exact match and F1; also the score of XQuAD and TyDiQA-GoldP.

    Args:
        predictions: answer per question id, or one answer per question in the order of ``golds``.
        golds: accepted answers per question, keyed or ordered alike.
        language: as in :func:`normalise`; :func:`mlqa` sets it.
        unanswered: ``"error"``, or ``"zero"`` to count a question without a prediction as wrong,
            as the official scripts do.

    Returns:
        ``exact_match``, ``f1`` and their ``mean``, each from 0 to 1.

    Raises:
        BadRows: questions without gold answers, unknown question ids, or missing predictions.

    Source:
        Rajpurkar et al. (2016), evaluation script 1.1.
    """
    given, right = _aligned(predictions, golds, unanswered)
    empty = [name for name, answers in right.items() if not len(answers)]
    if empty:
        raise BadRows(
            f"{len(empty)} questions have no gold answer, such as {empty[0]!r}: score them with "
            "'squad2', or leave them out."
        )
    exact = f1 = 0.0
    for name, answers in right.items():
        if name in given:
            said = _tokens(given[name], language)
            accepted = [_tokens(answer, language) for answer in answers]
            exact += said in accepted
            f1 += max(_overlap(said, answer) for answer in accepted)
    exact, f1 = exact / len(right), f1 / len(right)
    return {"exact_match": exact, "f1": f1, "mean": (exact + f1) / 2}


def mlqa(
    predictions: Answers, golds: Golds, language: str, unanswered: str = "error"
) -> dict[str, float]:
    """Return MLQA's exact match and F1, normalised by the rules of the passage's language.

    Args:
        predictions: answer per question id, or one answer per question in the order of ``golds``.
        golds: accepted answers per question, keyed or ordered alike.
        language: language of passage and answer: ar, de, en, es, hi, vi or zh.
        unanswered: as in :func:`squad`.

    Returns:
        ``exact_match``, ``f1`` and their ``mean``, each from 0 to 1.

    Raises:
        BadRows: as :func:`squad`.
        UnknownName: a language that MLQA's scorer does not know.

    Source:
        Lewis et al. (2020), MLQA evaluation script 1.0.
    """
    if language not in _ARTICLES:
        raise unknown("MLQA language", language, _ARTICLES)
    return squad(predictions, golds, language, unanswered)


def squad2(
    predictions: Answers,
    golds: Golds,
    null_scores: Mapping[str, float] | Sequence[float] | None = None,
    threshold: float | None = None,
) -> dict[str, float]:
    """Return SQuAD 2.0's exact match and F1, with the best no-answer threshold where it can be had.

    Args:
        predictions: answer per question, ``""`` for no answer; keyed or ordered like ``golds``.
        golds: accepted answers per question; an empty list for a question without an answer.
        null_scores: how strongly each question looks unanswerable, larger = more so.
        threshold: answer nothing where the null score is above this; ``None`` takes predictions as
            they are.

    Returns:
        ``exact_match``, ``f1``, ``mean``; with ``null_scores`` also ``best_exact_match``,
        ``best_f1``, ``best_mean`` and the thresholds that give them. ``answerable_f1`` and
        ``unanswerable_f1`` (and ``_exact_match``) where such questions exist. From 0 to 1.

    Raises:
        BadRows: unknown ids, missing predictions, or missing null scores.
        HelpfulError: a threshold without null scores.

    Source:
        Rajpurkar et al. (2018), evaluation script 2.0.
    """
    given, right = _aligned(predictions, golds, "error")
    null = _null_scores(null_scores, golds, right)
    if threshold is not None and null is None:
        raise HelpfulError("a threshold needs null_scores=: one score per question.")
    result: dict[str, float] = {}
    has_answer = {name: len(answers) > 0 for name, answers in right.items()}
    rules: dict[str, Callable[[str, Sequence[str]], float]] = {
        "exact_match": exact_match,
        "f1": _squad2_f1,
    }
    for key, rule in rules.items():
        raw = {name: rule(given[name], _real(answers)) for name, answers in right.items()}
        kept = raw
        if null is not None and threshold is not None:
            quiet = {name for name in raw if null[name] > threshold}
            kept = {n: float(not has_answer[n]) if n in quiet else s for n, s in raw.items()}
        result |= _by_kind(key, kept, has_answer)
        if null is not None:
            best, at = best_threshold(given, raw, null, has_answer)
            result |= {f"best_{key}": best, f"best_{key}_threshold": at}
    result["mean"] = (result["exact_match"] + result["f1"]) / 2
    if null is not None:
        result["best_mean"] = (result["best_exact_match"] + result["best_f1"]) / 2
    return result


def best_threshold(
    predictions: Mapping[str, str],
    scores: Mapping[str, float],
    null_scores: Mapping[str, float],
    has_answer: Mapping[str, bool],
) -> tuple[float, float]:
    """Return the best mean score over all no-answer thresholds, and the threshold.

    As in the official script, questions are let in one by one by rising null score; where several
    share a null score, the best point may lie between them, which no threshold attains.

    Args:
        predictions: answer per question, ``""`` for none.
        scores: score per question if its prediction is kept.
        null_scores: how strongly each question looks unanswerable.
        has_answer: whether the question has an answer.

    Returns:
        Best score from 0 to 1, and its threshold (0.0 if answering nothing is best).

    Source:
        Rajpurkar et al. (2018), evaluation script 2.0.
    """
    current: float = sum(not answerable for answerable in has_answer.values())
    best, threshold = current, 0.0
    for name in sorted(null_scores, key=lambda name: null_scores[name]):
        if has_answer[name]:
            current += scores[name]
        elif predictions[name]:
            current -= 1
        if current > best:
            best, threshold = current, null_scores[name]
    return best / len(scores), float(threshold)


def _tokens(text: str, language: str) -> list[str]:
    lower = text.lower()
    if not language:
        return _article_pattern("en").sub(" ", lower.translate(_ASCII_PUNCTUATION)).split()
    if language not in _ARTICLES:
        raise unknown("MLQA language", language, _ARTICLES)
    bare = lower.translate(_punctuation())
    if language == "ar":
        return bare.replace(_ARABIC_ARTICLE, " ").split()
    if language == "zh":
        return _CHINESE.sub(r" \1 ", bare).split()
    return (_article_pattern(language).sub(" ", bare) if _ARTICLES[language] else bare).split()


@cache
def _article_pattern(language: str) -> re.Pattern[str]:
    return re.compile(rf"\b({_ARTICLES[language]})\b")


@cache
def _punctuation() -> dict[int, None]:
    """Return a table that deletes Unicode's punctuation and ASCII's."""
    marks = [i for i in range(sys.maxunicode) if unicodedata.category(chr(i)).startswith("P")]
    return dict.fromkeys([*marks, *map(ord, string.punctuation)])


def _overlap(given: list[str], right: list[str]) -> float:
    if given == right:
        return float(bool(given))
    shared = sum((Counter(given) & Counter(right)).values()) if given and right else 0
    if not shared:
        return 0.0
    precision, recall = shared / len(given), shared / len(right)
    return 2 * precision * recall / (precision + recall)


def _squad2_f1(prediction: str, answers: Sequence[str]) -> float:
    """Return the F1 of SQuAD 2.0: where either side is empty, 1 if both are."""
    given = _tokens(prediction, "")
    pairs = [(given, _tokens(answer, "")) for answer in answers]
    return max(_overlap(g, r) if g and r else float(g == r) for g, r in pairs)


def _real(answers: Sequence[str]) -> Sequence[str]:
    """Return the answers that survive normalisation; if none does, only silence is right."""
    return [answer for answer in answers if _tokens(answer, "")] or [""]


def _aligned(
    predictions: Answers, golds: Golds, unanswered: str
) -> tuple[dict[str, str], dict[str, Sequence[str]]]:
    """Bring predictions and golds, keyed or ordered, into keyed form."""
    if isinstance(predictions, Mapping) != isinstance(golds, Mapping):
        raise BadRows("predictions and golds must both be keyed by question id, or both be lists.")
    if not isinstance(predictions, Mapping) and len(predictions) != len(golds):
        raise BadRows(f"{len(predictions)} predictions for {len(golds)} questions.")
    given, right = _keyed(predictions), _keyed(golds)
    if not right:
        raise BadRows("no questions to score: an empty set has no score.")
    extra = [name for name in given if name not in right]
    if extra:
        raise BadRows(f"{len(extra)} predictions for unknown question ids, such as {extra[0]!r}.")
    missing = [name for name in right if name not in given]
    if missing and unanswered == "error":
        raise BadRows(f"{len(missing)} questions have no prediction, such as {missing[0]!r}.")
    return given, right


def _keyed(values: Mapping[str, _T] | Sequence[_T]) -> dict[str, _T]:
    if isinstance(values, Mapping):
        return dict(values)
    return {str(number): value for number, value in enumerate(values)}


def _null_scores(
    null_scores: Mapping[str, float] | Sequence[float] | None,
    golds: Golds,
    right: Mapping[str, Sequence[str]],
) -> dict[str, float] | None:
    if null_scores is None:
        return None
    if isinstance(null_scores, Mapping) != isinstance(golds, Mapping):
        raise BadRows("null_scores must be keyed like golds, or ordered like them.")
    keyed = _keyed(null_scores)
    if keyed.keys() != right.keys():
        raise BadRows(f"{len(keyed)} null scores for {len(right)} questions, or for other ids.")
    return keyed


def _by_kind(
    key: str, scores: Mapping[str, float], has_answer: Mapping[str, bool]
) -> dict[str, float]:
    """Return the mean score over all questions, and over those with and without an answer."""
    result = {key: sum(scores.values()) / len(scores)}
    for kind, wanted in (("answerable", True), ("unanswerable", False)):
        some = [score for name, score in scores.items() if has_answer[name] is wanted]
        if some:
            result[f"{kind}_{key}"] = sum(some) / len(some)
    return result
