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


@pytest.mark.parametrize(
    ("train", "test", "expected"),
    [
        # The label of the sentence that shares most, else that of the first row.
        (TRAIN, pairs("mach die Lampe in Nairobi an", "wie ist das Wetter in Lisbon"), 1.0),
        (TRAIN, pairs("東京", "大阪", labels=(1, 0)), 0.5),
        # The training rows themselves are found, whatever their case; labels may be names.
        (TRAIN, TRAIN, 1.0),
        (TRAIN, [row | {"first": row["first"].upper()} for row in TRAIN], 1.0),
        (pairs("red", "blue", labels=NAMES), pairs("blue", labels=NAMES[1:]), 1.0),
    ],
)
def test_the_label_of_the_most_similar_row_is_copied(train, test, expected):
    assert copy_score(train, rows(test)) == expected


def test_tags_are_copied_by_form_and_others_are_tagged_as_outside():
    train = [{"tokens": ["Paris", "is", "big", "."], "tags": [1, 0, 0, 0]}]
    test = [{"tokens": ["Paris", "ist", "Ulm", "."], "tags": [1, 0, 1, 0]}]
    # One of the two names was found, and nothing else was taken for a name.
    assert copy_score(train, rows(test, "tagging", ("O", "B-LOC"))) == pytest.approx(2 / 3)


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
