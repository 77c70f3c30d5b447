import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sk

from helpers import metrics
from helpers.errors import BadRows, HelpfulError, UnknownName
from helpers.metrics import accuracy, macro_f1, map_at_k, mrr_at_k, pair_f1, placeholder


def test_a_metric_added_in_a_cell_is_scored_by_name(monkeypatch):
    monkeypatch.setattr(metrics, "_METRICS", dict(metrics._METRICS))
    metrics.register("length", lambda predictions, golds, scale=1: {"length": scale * len(golds)})
    assert metrics.score("length", "ab", "ab", scale=2) == {"length": 4.0}
    with pytest.raises(HelpfulError, match="replace=True"):
        metrics.register("length", max)
    metrics.register("length", lambda predictions, golds: {"other": 1}, "other", replace=True)
    assert metrics.get("length").main == "other"
    metrics.register("broken", lambda predictions, golds: {"broken": float("nan")})
    with pytest.raises(HelpfulError, match="finite 'broken'"):
        metrics.score("broken", [1], [1])
    with pytest.raises(HelpfulError, match="leave it out"):
        metrics.register("map@5", max)


def test_a_cut_off_is_part_of_the_name():
    ranked, golds = [["x", "y"]], [["y"]]
    assert metrics.score("mrr@1", ranked, golds) == {"mrr": 0.0}
    assert metrics.score("mrr@2", ranked, golds) == {"mrr": 0.5}
    assert metrics.get("map@20").main == "map"
    for name in ("map@0", "map@x", "accuracy@3"):
        with pytest.raises(HelpfulError, match="cut-off"):
            metrics.score(name, [[1]], [[1]])
    with pytest.raises(UnknownName, match="'span_f1'"):
        metrics.score("spanf1", [["O"]], [["O"]])


@pytest.mark.parametrize(
    ("name", "predictions", "golds", "options"),
    [
        ("accuracy", [1, 0], [1, 0], {}),
        ("macro_f1", [1, 0], [1, 0], {}),
        ("span_f1", [["B-PER"]], [["B-PER"]], {}),
        ("token_accuracy", [["X"]], [["X"]], {}),
        ("squad", ["x"], [["x"]], {}),
        ("squad2", [""], [[]], {}),
        ("mlqa", ["x"], [["x"]], {"language": "de"}),
        ("pair_f1", [("a", "b")], [("a", "b")], {}),
        ("map@20", [["a"]], [["a"]], {}),
        ("mrr", [["a"]], [["a"]], {}),
    ],
)
def test_every_metric_gives_one_for_a_perfect_prediction(name, predictions, golds, options):
    assert metrics.score(name, predictions, golds, **options)[metrics.get(name).main] == 1.0
    with pytest.raises(BadRows):
        metrics.score(name, [], [], **options)


def test_scoring_needs_neither_torch_nor_transformers():
    code = (
        "import sys, helpers.metrics, helpers.metrics.submissions;"
        "bad = {'torch', 'transformers', 'datasets'} & set(sys.modules); assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


LABEL = st.sampled_from("abcd")


@given(st.lists(st.tuples(LABEL, LABEL), min_size=1, max_size=40))
def test_scores_equal_those_of_scikit_learn(pairs):
    golds, predictions = map(list, zip(*pairs, strict=True))
    macro = sk.f1_score(golds, predictions, average="macro", zero_division=0)
    expected = {"accuracy": sk.accuracy_score(golds, predictions), "macro_f1": macro}
    assert macro_f1(predictions, golds) == pytest.approx(expected)
    # Arrays of ids are labels too.
    ids = [np.array(["abcd".index(one) for one in side]) for side in (predictions, golds)]
    assert macro_f1(*ids) == pytest.approx(expected)


RANKING = st.permutations(range(8))
RIGHT = st.sets(st.integers(0, 7), min_size=1)


def ap(ranked, right, k=None):
    return map_at_k([ranked], [right], k)["map"]


@given(RANKING, RIGHT)
def test_uncut_average_precision_equals_scikit_learn(ranked, right):
    truth = [candidate in right for candidate in ranked]
    assert ap(ranked, right) == pytest.approx(sk.average_precision_score(truth, -np.arange(8.0)))


@given(st.lists(st.tuples(RANKING, st.integers(0, 7)), min_size=1, max_size=5))
def test_with_one_right_candidate_map_is_mrr(queries):
    predictions, golds = [ranked for ranked, _ in queries], [[right] for _, right in queries]
    found = map_at_k(predictions, golds, 3)["map"]
    assert found == pytest.approx(mrr_at_k(predictions, golds, 3)["mrr"])
    truth = np.array([[place == right for place in range(8)] for _, right in queries])
    order = np.array([np.argsort(ranked) for ranked in predictions])
    expected = sk.label_ranking_average_precision_score(truth, -order.astype(float))
    assert mrr_at_k(predictions, golds, None)["mrr"] == pytest.approx(expected)


def test_the_divisor_is_the_smaller_of_targets_and_k_and_repetitions_count_once():
    assert ap([1, 2], [1, 2, 3, 4], k=2) == 1.0
    assert ap([1, 2, 9], [1, 2], k=3) == 1.0 > ap([1, 9, 2], [1, 2], k=3)
    assert ap([1, 9, 2], [1, 2], k=20) == pytest.approx((1 + 2 / 3) / 2)
    assert ap([1, 1, 2], [1, 2]) == pytest.approx((1 + 2 / 3) / 2)
    for place, value in ((19, 1 / 20), (20, 0.0)):  # hits beyond k do not count
        assert mrr_at_k([["x"] * place + ["y"]], [["y"]], 20) == {"mrr": value}


PAIRS = st.tuples(st.integers(0, 3), st.integers(0, 3))


@given(st.sets(PAIRS), st.sets(PAIRS, min_size=1))
def test_pair_f1_is_the_dice_overlap_of_two_sets(given_pairs, right):
    dice = 2 * len(given_pairs & right) / (len(given_pairs) + len(right))
    assert pair_f1(list(given_pairs) * 2, right)["f1"] == pytest.approx(dice)


@pytest.mark.parametrize(
    ("function", "given", "right", "message"),
    [
        (pair_f1, [(1, 2)], [], "no gold pairs"),
        (map_at_k, [[1]], [[]], "query 0 has no right candidate"),
        (mrr_at_k, [[1]], [[]], "query 0 has no right candidate"),
        (mrr_at_k, [[1]], [[1], [2]], "1 predictions for 2 queries"),
        (accuracy, [1], [1, 2], "1 predictions for 2 examples"),
        (accuracy, [], [], "no examples"),
        (accuracy, ["0", "1"], [0, 1], "different kinds"),
    ],
)
def test_what_cannot_be_compared_is_refused(function, given, right, message):
    with pytest.raises(BadRows, match=message):
        function(given, right)


def test_golds_that_tell_nothing_are_a_placeholder_and_those_that_differ_or_are_few_are_gold():
    same = ["O"] * 2, [["O", "O"], []], [[-100], [-1, -100]], [[""], ["", " "]], [[], []], [3] * 20
    for golds in same:
        assert f"every gold of {len(golds)} rows is" in placeholder(golds)
    few = [3] * 19, [["O", "B-PER"], ["O"]], [0, 1] * 10, [[], ["a"], ["b"]], [-1, 0] * 20
    assert {placeholder(golds) for golds in ([], *few)} == {""}
