import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, label_ranking_average_precision_score

from helpers.errors import BadRows
from helpers.metrics import average_precision, map_at_k, mrr_at_k, pair_f1

RANKING = st.permutations(range(8))
RIGHT = st.sets(st.integers(0, 7), min_size=1)


@given(RANKING, RIGHT)
def test_uncut_average_precision_equals_scikit_learn(ranked, right):
    truth = [candidate in right for candidate in ranked]
    expected = average_precision_score(truth, -np.arange(8.0))
    assert average_precision(ranked, right) == pytest.approx(expected)


@given(st.lists(st.tuples(RANKING, st.integers(0, 7)), min_size=1, max_size=5))
def test_with_one_right_candidate_map_is_mrr(queries):
    predictions = [ranked for ranked, _ in queries]
    golds = [[right] for _, right in queries]
    assert map_at_k(predictions, golds, 3)["map"] == pytest.approx(
        mrr_at_k(predictions, golds, 3)["mrr"]
    )
    truth = np.array([[place == right for place in range(8)] for _, right in queries])
    order = np.array([np.argsort(ranked) for ranked in predictions])
    expected = label_ranking_average_precision_score(truth, -order.astype(float))
    assert mrr_at_k(predictions, golds, None)["mrr"] == pytest.approx(expected)


@given(RANKING, RIGHT, st.integers(1, 8))
def test_average_precision_is_one_exactly_when_the_first_places_are_right(ranked, right, k):
    first = set(ranked[: min(k, len(right))])
    assert (average_precision(ranked, right, k) == pytest.approx(1.0)) == (first <= right)


def test_the_divisor_is_the_smaller_of_targets_and_k():
    assert average_precision([1, 2], [1, 2, 3, 4], k=2) == 1.0
    assert average_precision([1, 9, 2], [1, 2], k=20) == pytest.approx((1 + 2 / 3) / 2)


def test_a_candidate_that_comes_twice_counts_once():
    assert average_precision([1, 1, 2], [1, 2]) == pytest.approx((1 + 2 / 3) / 2)


def test_hits_beyond_k_do_not_count():
    assert mrr_at_k([["x"] * 20 + ["y"]], [["y"]], 20) == {"mrr": 0.0}
    assert mrr_at_k([["x"] * 19 + ["y"]], [["y"]], 20) == {"mrr": 1 / 20}


@given(
    st.sets(st.tuples(st.integers(0, 3), st.integers(0, 3))),
    st.sets(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1),
)
def test_pair_f1_is_the_dice_overlap_of_two_sets(given_pairs, right):
    score = pair_f1(list(given_pairs) * 2, right)
    assert score["f1"] == pytest.approx(
        2 * len(given_pairs & right) / (len(given_pairs) + len(right))
    )


def test_nothing_to_find_is_refused():
    with pytest.raises(BadRows, match="no gold pairs"):
        pair_f1([(1, 2)], [])
    with pytest.raises(BadRows, match="without a right candidate"):
        map_at_k([[1]], [[]])
    with pytest.raises(BadRows, match="without a right candidate"):
        mrr_at_k([[1]], [[]])
    with pytest.raises(BadRows, match="1 predictions for 2 queries"):
        mrr_at_k([[1]], [[1], [2]])
