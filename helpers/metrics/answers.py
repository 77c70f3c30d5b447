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
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from helpers.errors import BadRows, unknown

Answers = Mapping[str, str] | Sequence[str]
Golds = Mapping[str, Sequence[str]] | Sequence[Sequence[str]]

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


def squad(
    predictions: Answers, golds: Golds, language: str = "", unanswered: str = "error"
) -> dict[str, float]:
    """Return SQuAD 1.1's exact match and F1; also the score of XQuAD and TyDiQA-GoldP.

    Args:
        predictions: answer per question id, or one answer per question in the order of ``golds``.
        golds: accepted answers per question, keyed or ordered alike.
        language: ``""`` for SQuAD's normalisation, whatever the language; :func:`mlqa` sets it.
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
    # SQuAD 1.1 has an answer to every question.
    empty = [name for name, answers in right.items() if not len(answers)]
    if empty:
        raise BadRows(
            f"{len(empty)} questions have no gold answer, such as {empty[0]!r}: score them with "
            "'squad2', or leave them out."
        )
    exact = f1 = 0.0
    # The accepted answer that is nearest counts; a question without a prediction adds nothing.
    for name, answers in right.items():
        if name in given:
            said = tokens(given[name], language)
            accepted = [tokens(answer, language) for answer in answers]
            exact += said in accepted
            f1 += max(_overlap(said, answer) for answer in accepted)
    exact, f1 = exact / len(right), f1 / len(right)
    return {"exact_match": exact, "f1": f1, "mean": (exact + f1) / 2}


def mlqa(
    predictions: Answers, golds: Golds, language: str, unanswered: str = "error"
) -> dict[str, float]:
    """Return :func:`squad`'s scores by MLQA's rules (Lewis et al., 2020) for the passage's language."""
    if language not in _ARTICLES:
        raise unknown("MLQA language", language, _ARTICLES)
    return squad(predictions, golds, language, unanswered)


def squad2(predictions: Answers, golds: Golds) -> dict[str, float]:
    """Return SQuAD 2.0's scores (Rajpurkar et al., 2018); no answer: ``""`` given, ``[]`` in golds."""
    given, right = _aligned(predictions, golds, "error")
    exact = f1 = 0.0
    for name, answers in right.items():
        said = tokens(given[name])
        # Answers that do not survive normalisation go; if none is left, only silence is right.
        accepted = [kept for answer in answers if (kept := tokens(answer))] or [[]]
        exact += said in accepted
        f1 += max(_overlap(said, a) if said and a else float(said == a) for a in accepted)
    exact, f1 = exact / len(right), f1 / len(right)
    return {"exact_match": exact, "f1": f1, "mean": (exact + f1) / 2}


def tokens(text: str, language: str = "") -> list[str]:
    """Return the tokens that the scorers compare, by SQuAD's rules or a language's of MLQA."""
    lower = text.lower()
    # SQuAD knows English articles and ASCII marks; MLQA each language's articles and all marks.
    if not language:
        return _article_pattern("en").sub(" ", lower.translate(_ASCII_PUNCTUATION)).split()
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
    """Return the F1 of the tokens that both answers share."""
    if given == right:  # of two empty answers nothing is shared
        return float(bool(given))
    shared = sum((Counter(given) & Counter(right)).values()) if given and right else 0
    if not shared:
        return 0.0
    precision, recall = shared / len(given), shared / len(right)
    return 2 * precision * recall / (precision + recall)


def _aligned(
    predictions: Answers, golds: Golds, unanswered: str
) -> tuple[dict[str, str], dict[str, Sequence[str]]]:
    """Bring predictions and golds, keyed or ordered, into keyed form."""
    if isinstance(predictions, Mapping) != isinstance(golds, Mapping):
        raise BadRows("predictions and golds must both be keyed by question id, or both be lists.")
    if not isinstance(golds, Mapping) and len(predictions) != len(golds):
        raise BadRows(f"{len(predictions)} predictions for {len(golds)} questions.")
    # Ordered answers are keyed by their places.
    sides: list[Any] = [
        dict(side) if isinstance(side, Mapping) else {str(i): one for i, one in enumerate(side)}
        for side in (predictions, golds)
    ]
    given, right = sides
    extra, missing = [n for n in given if n not in right], [n for n in right if n not in given]
    if not right:
        raise BadRows("no questions to score: an empty set has no score.")
    if extra:
        raise BadRows(f"{len(extra)} predictions for unknown question ids, such as {extra[0]!r}.")
    if missing and unanswered == "error":
        raise BadRows(f"{len(missing)} questions have no prediction, such as {missing[0]!r}.")
    return given, right
