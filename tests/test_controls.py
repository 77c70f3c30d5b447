import pytest

from helpers.controls import copy_score
from helpers.data import Rows
from helpers.errors import HelpfulError


def rows(found, format="pair", labels=()):
    return Rows("made-up", "de", "test", "rows", labels, {}, {}, format, found)


def pairs(*texts, labels=(0, 1, 2)):
    found = zip(texts, labels, strict=False)
    return [{"id": first, "first": first, "second": "", "label": label} for first, label in found]


LAMP, RAIN = "turn on the lamp in Nairobi", "what is the weather in Lisbon"
TRAIN = pairs(LAMP, RAIN, "play the song Yesterday")
NAMES = ("warm", "cold")
TAGGED = [{"tokens": ["Paris", "is", "big", "."], "tags": [1, 0, 0, 0]}]
OTHERS = [{"tokens": ["Paris", "ist", "Ulm", "."], "tags": [1, 0, 1, 0]}]


@pytest.mark.parametrize(
    ("train", "test", "expected"),
    [
        # The label of the sentence that shares most, else that of the first row.
        (TRAIN, rows(pairs("mach die Lampe in Nairobi an", "wie ist das Wetter in Lisbon")), 1.0),
        (TRAIN, rows(pairs("東京", "大阪", labels=(1, 0))), 0.5),
        # The training rows themselves are found, whatever their case; labels may be names.
        (TRAIN, rows(TRAIN), 1.0),
        (TRAIN, rows([row | {"first": row["first"].upper()} for row in TRAIN]), 1.0),
        (pairs("red", "blue", labels=NAMES), rows(pairs("blue", labels=NAMES[1:])), 1.0),
        # Tags are copied by form: one of two names is found, and nothing else is taken for one.
        (TAGGED, rows(OTHERS, "tagging", ("O", "B-LOC")), 2 / 3),
    ],
)
def test_what_was_learnt_of_whatever_looks_most_alike_is_copied(train, test, expected):
    assert copy_score(train, test) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("train", "test", "said"),
    [
        ([], rows(TRAIN), "training: no rows"),
        (TRAIN, rows([]), "de: no rows"),
        ([], rows([], "tagging", ("O",)), "training: no rows"),
        ([{"tokens": ["a"], "tags": [0]}], rows([], "tagging", ("O",)), "de: no rows"),
        (TRAIN, rows(TRAIN, "span"), "no string-copy control for format 'span'"),
    ],
)
def test_nothing_to_copy_or_to_score_is_refused(train, test, said):
    with pytest.raises(HelpfulError, match=said):
        copy_score(train, test)
