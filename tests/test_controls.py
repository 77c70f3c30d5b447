import pytest

from helpers.controls import string_copy_accuracy, tag_copy_scores
from helpers.errors import BadRows


def pair(first, label, second=""):
    return {"id": first, "first": first, "second": second, "label": label}


TRAIN = [
    pair("turn on the lamp in Nairobi", 0),
    pair("what is the weather in Lisbon", 1),
    pair("play the song Yesterday", 2),
]


def test_the_label_of_the_sentence_that_shares_most_is_copied():
    german = [
        pair("mach die Lampe in Nairobi an", 0),
        pair("wie ist das Wetter in Lisbon", 1),
        pair("spiel das Lied Yesterday", 2),
    ]
    assert string_copy_accuracy(TRAIN, {"de": german}) == {"de": 1.0}


def test_without_shared_strings_the_first_row_is_copied():
    rows = [pair("東京", 1), pair("大阪", 0)]
    assert string_copy_accuracy(TRAIN, {"ja": rows}) == {"ja": 0.5}


def test_the_training_rows_themselves_are_found_and_case_does_not_matter():
    shouted = [pair(row["first"].upper(), row["label"]) for row in TRAIN]
    assert string_copy_accuracy(TRAIN, {"en": TRAIN, "xx": shouted}) == {"en": 1.0, "xx": 1.0}


def test_labels_may_be_names():
    train = [pair("red", "warm"), pair("blue", "cold")]
    assert string_copy_accuracy(train, {"en": [pair("blue", "cold")]}) == {"en": 1.0}


def test_tags_are_copied_by_form_and_others_are_tagged_as_outside():
    train = [{"tokens": ["Paris", "is", "big", "."], "tags": [1, 0, 0, 0]}]
    rows = [{"tokens": ["Paris", "ist", "Ulm", "."], "tags": [1, 0, 1, 0]}]
    scores = tag_copy_scores(train, {"de": rows}, labels=["O", "B-LOC"])["de"]
    assert scores["token_accuracy"] == 0.75
    assert scores["seen"] == 0.5
    assert (scores["precision"], scores["recall"]) == (1.0, 0.5)


def test_nothing_to_copy_or_to_score_is_refused():
    with pytest.raises(BadRows, match="training"):
        string_copy_accuracy([], {"de": TRAIN})
    with pytest.raises(BadRows, match="de: no rows"):
        string_copy_accuracy(TRAIN, {"de": []})
    with pytest.raises(BadRows, match="training: no rows"):
        tag_copy_scores([], {"de": []}, ["O"])
    with pytest.raises(BadRows, match="de: no rows"):
        tag_copy_scores([{"tokens": ["a"], "tags": [0]}], {"de": []}, ["O"])
