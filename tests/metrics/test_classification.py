import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sk

from helpers.errors import BadRows
from helpers.metrics import accuracy, macro_f1

LABELS = st.lists(
    st.tuples(st.sampled_from("abcd"), st.sampled_from("abcd")), min_size=1, max_size=40
)


@given(LABELS)
def test_scores_equal_those_of_scikit_learn(pairs):
    golds, predictions = map(list, zip(*pairs, strict=True))
    score = macro_f1(predictions, golds)
    assert score["accuracy"] == pytest.approx(sk.accuracy_score(golds, predictions))
    assert score["macro_f1"] == pytest.approx(
        sk.f1_score(golds, predictions, average="macro", zero_division=0)
    )


def test_arrays_of_ids_are_labels_too():
    assert accuracy(np.array([0, 1, 1]), np.array([0, 1, 2])) == {"accuracy": pytest.approx(2 / 3)}
    assert macro_f1(np.array([5, 5]), np.array([5, 5]))["macro_f1"] == 1.0


@pytest.mark.parametrize(
    ("predictions", "golds", "message"),
    [
        ([1], [1, 2], "1 predictions for 2 examples"),
        ([], [], "no examples"),
        (["0", "1"], [0, 1], "different kinds"),
    ],
)
def test_labels_that_cannot_be_compared_are_refused(predictions, golds, message):
    with pytest.raises(BadRows, match=message):
        accuracy(predictions, golds)
