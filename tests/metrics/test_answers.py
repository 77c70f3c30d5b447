import string
import unicodedata
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.errors import BadRows, UnknownName
from helpers.metrics import answer_tokens as tokens
from helpers.metrics import mlqa, squad, squad2

WORDS = "the a an The cat, cat café U.S. dog's the-cat 42 北京 ال».".split() + ["  "]
TEXT = st.lists(st.sampled_from(WORDS), max_size=6).map(" ".join)
MLQA_LANGUAGES = ["ar", "de", "en", "es", "hi", "vi", "zh"]
ARTICLES = {
    "de": "ein eine einen einem eines einer der die das den dem des",
    "en": "a an the",
    "es": "un una unos unas el la los las",
    "vi": "của là cái chiếc những",
}


def slow_tokens(text, language):
    """Normalise character by character and word by word, without regular expressions."""
    kept = ""
    for mark in text.lower():
        spoken = not language or not unicodedata.category(mark).startswith("P")
        kept += mark if spoken and mark not in string.punctuation else ""
    if language == "ar":
        kept = " ".join(kept.split("ال"))
    if language == "zh":
        kept = "".join(f" {mark} " if "一" <= mark <= "龥" else mark for mark in kept)
    dropped = ARTICLES.get(language or "en", "").split()
    return [word for word in kept.split() if word not in dropped]


LANGUAGES = st.sampled_from(["", *MLQA_LANGUAGES])


@given(TEXT, st.lists(TEXT, min_size=1, max_size=3), LANGUAGES)
def test_normalisation_and_f1_equal_the_slow_way(prediction, answers, language):
    def f1(one, other):
        shared = sum((Counter(one) & Counter(other)).values())
        return 2 * shared / (len(one) + len(other)) if shared else 0.0

    said = slow_tokens(prediction, language)
    assert tokens(prediction, language) == said
    expected = max(f1(said, slow_tokens(answer, language)) for answer in answers)
    score = squad([prediction], [answers], language)
    assert score["f1"] == pytest.approx(expected, abs=1e-12)
    one = squad([prediction], [answers[:1]])
    assert one == pytest.approx(squad(answers[:1], [[prediction]]))
    if one["exact_match"] and tokens(prediction):
        assert one["f1"] == 1.0


TEXTS = [
    ("The  cat, a dog!", "", "cat dog"),
    ("北京大学", "", "北京大学"),
    ("北京 2008", "zh", "北 京 2008"),
    ("“北京”", "zh", "北 京"),
    ("«Der Hund»", "de", "hund"),
    ("«Der Hund»", "", "«der hund»"),
    ("những con mèo", "vi", "con mèo"),
    ("الطرق الترابية", "ar", "طرق ترابية"),
    ("उत्तर पूर्व।", "hi", "उत्तर पूर्व"),
    ("theatre", "en", "theatre"),
    ("the-cat", "en", "thecat"),
]


def test_normalisation_of_known_texts():
    found = [(text, code, " ".join(tokens(text, code))) for text, code, _ in TEXTS]
    assert found == TEXTS


def test_squad_takes_the_best_of_several_answers_keyed_or_ordered():
    score = squad(["in Paris"], [["London", "Paris", "the Paris"]])
    assert score == pytest.approx({"exact_match": 0.0, "f1": 2 / 3, "mean": 1 / 3})
    keyed = squad({"b": "x", "a": "y z"}, {"a": ["y"], "b": ["x"]})
    assert keyed == squad(["y z", "x"], [["y"], ["x"]])
    with pytest.raises(UnknownName, match="MLQA language 'fr'"):
        mlqa(["x"], [["x"]], "fr")
    score = squad({"a": "x"}, {"a": ["x"], "b": ["y"]}, unanswered="zero")
    assert score == {"exact_match": 0.5, "f1": 0.5, "mean": 0.5}


@pytest.mark.parametrize(
    ("predictions", "golds", "message"),
    [
        ({"a": "x"}, {"a": ["x"], "b": ["y"]}, "1 questions have no prediction, such as 'b'"),
        ({"a": "x", "c": "y"}, {"a": ["x"]}, "unknown question ids, such as 'c'"),
        (["x"], {"a": ["x"]}, "must both be keyed"),
        (["x"], [["x"], ["y"]], "1 predictions for 2 questions"),
        ([], [], "no questions"),
        (["x"], [[]], "no gold answer"),
    ],
)
def test_answers_that_cannot_be_compared_are_refused(predictions, golds, message):
    with pytest.raises(BadRows, match=message):
        squad(predictions, golds)


@pytest.mark.parametrize(
    ("said", "right", "exact", "f1"),
    [
        ("", [], 1.0, 1.0),  # silence is right where there is no answer
        ("x", [], 0.0, 0.0),
        ("", ["y"], 0.0, 0.0),
        ("b", ["a b"], 1.0, 1.0),
        ("", ["the"], 1.0, 1.0),  # nothing is left of it, so only silence is right
        ("cat", ["the"], 0.0, 0.0),
    ],
)
def test_squad2_knows_questions_without_an_answer(said, right, exact, f1):
    assert squad2([said], [right]) == {"exact_match": exact, "f1": f1, "mean": (exact + f1) / 2}
