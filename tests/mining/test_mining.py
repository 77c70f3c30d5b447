import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.errors import BadRows, HelpfulError, UnknownName
from helpers.metrics import pair_f1
from helpers.metrics.mining import (
    apply_threshold,
    fit_space,
    in_first_half,
    mine,
    mine_texts,
    tune_threshold,
)


def vectors(seed, rows, width=12, shared=1.0):
    """Vectors with a common direction, so that all cosines are positive as in an encoder."""
    return np.random.default_rng(seed).standard_normal((rows, width)) + shared


def slow_mine(x, y, k, margin, retrieval):
    """The published recipe, pair by pair."""
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    y = y / np.linalg.norm(y, axis=1, keepdims=True)
    cosine = x @ y.T
    of_x = np.sort(cosine, axis=1)[:, ::-1][:, :k].mean(axis=1)
    of_y = np.sort(cosine, axis=0)[::-1][:k].mean(axis=0)
    formula = {
        "ratio": lambda a, b: a / b,
        "distance": lambda a, b: a - b,
        "absolute": lambda a, b: a,
    }[margin]

    def score(i, j):
        return formula(cosine[i, j], (of_x[i] + of_y[j]) / 2)

    forward, backward = [], []
    for i in range(len(x)):
        near = np.argsort(-cosine[i], kind="stable")[:k]
        forward.append(max((score(i, j), -rank, i, j) for rank, j in enumerate(near)))
    for j in range(len(y)):
        near = np.argsort(-cosine[:, j], kind="stable")[:k]
        backward.append(max((score(i, j), -rank, i, j) for rank, i in enumerate(near)))
    forward, backward = ([(i, j, s) for s, _, i, j in way] for way in (forward, backward))
    if retrieval == "forward":
        return set(forward)
    if retrieval == "backward":
        return set(backward)
    if retrieval == "intersect":
        chosen = {(i, j) for i, j, _ in backward}
        return {(i, j, s) for i, j, s in forward if (i, j) in chosen}
    kept, taken_x, taken_y = set(), set(), set()
    for i, j, s in sorted(forward + backward, key=lambda pair: -pair[2]):
        if i not in taken_x and j not in taken_y:
            kept.add((i, j, s))
            taken_x.add(i)
            taken_y.add(j)
    return kept


@pytest.mark.parametrize("retrieval", ["max", "forward", "backward", "intersect"])
@pytest.mark.parametrize("margin", ["ratio", "distance", "absolute"])
@pytest.mark.parametrize(("rows", "columns", "k"), [(30, 41, 4), (3, 2, 4), (1, 1, 4), (25, 9, 1)])
def test_mining_equals_the_recipe_pair_by_pair(rows, columns, k, margin, retrieval):
    x, y = vectors(1, rows), vectors(2, columns)
    mined = mine(x, y, k, margin, retrieval, minimum=-np.inf)
    found = {(i, j): s for i, j, s in zip(mined.source, mined.target, mined.score, strict=True)}
    expected = {(i, j): s for i, j, s in slow_mine(x, y, k, margin, retrieval)}
    assert found.keys() == expected.keys()
    assert [found[pair] for pair in expected] == pytest.approx(list(expected.values()))
    assert (np.diff(mined.score) <= 0).all()


def test_translations_are_found_where_hubs_mislead_plain_cosine():
    # A hub that is close to every source beats the translations by cosine, but not by margin.
    shared, own = np.eye(6) + 0.8, np.eye(6)
    x = np.hstack([shared, 0 * own])
    y = np.vstack([np.hstack([shared, 1.57 * own]), np.hstack([np.ones(6), np.zeros(6)])])
    plain = mine(x, y, k=3, margin="absolute", retrieval="forward")
    ratio = mine(x, y, k=3, retrieval="forward")
    assert (ratio.target[np.argsort(ratio.source)] == np.arange(6)).all()
    assert (ratio.score > 1).all()
    assert (plain.target == 6).all()


def test_each_text_is_used_once_and_low_scores_are_left_out():
    mined = mine(vectors(3, 50), vectors(4, 70))
    assert len(set(mined.source)) == len(mined.source)
    assert len(set(mined.target)) == len(mined.target)
    above = mine(vectors(3, 50), vectors(4, 70), minimum=1.0)
    assert (above.score > 1.0).all()
    assert len(above.source) == (mined.score > 1.0).sum()


def test_a_ratio_without_meaning_is_refused():
    x = np.array([[1.0, 0.0], [-1.0, 0.0]])
    with pytest.raises(HelpfulError, match="margin='distance'"):
        mine(x, -x + [[0, 0.1]], k=2)
    assert len(mine(x, -x + [[0, 0.1]], k=2, margin="distance").source)


def test_unknown_margins_and_retrievals_are_refused():
    with pytest.raises(UnknownName, match="ratio"):
        mine(vectors(1, 3), vectors(2, 3), margin="quotient")
    with pytest.raises(UnknownName, match="max"):
        mine(vectors(1, 3), vectors(2, 3), retrieval="both")
    with pytest.raises(UnknownName, match="drop"):
        mine_texts(vectors(1, 1), vectors(2, 1), ["a"], ["b"], [1], [2], duplicates="keep")
    with pytest.raises(BadRows, match="1 vectors, 2 texts, 1 ids"):
        mine_texts(vectors(1, 1), vectors(2, 1), ["a", "a"], ["b"], [1], [2])


def parallel(texts):
    """Vectors that depend on the text alone, ignoring white space at its ends."""
    names = sorted({text.strip().lower() for text in texts})
    space = dict(zip(names, vectors(5, len(names)), strict=True))
    return np.array([space[text.strip().lower()] for text in texts])


def test_repeated_texts_are_dropped_or_expanded_and_merged_for_the_search():
    source, target = ["a", "b", "c", "a", "d "], ["A", "B", "C", "D", "D"]
    both = parallel([*source, *target])
    sides = both[:5], both[5:], source, target, list("vwxyz"), list("VWXYZ")
    dropped = mine_texts(*sides)
    assert set(zip(dropped["source"], dropped["target"], strict=True)) == {("w", "W"), ("x", "X")}
    expanded = mine_texts(*sides, duplicates="expand")
    assert set(zip(expanded["source"], expanded["target"], strict=True)) == {
        ("w", "W"),
        ("x", "X"),
        ("v", "V"),
        ("y", "V"),
        ("z", "Y"),
        ("z", "Z"),
    }
    # Merging keeps repetitions out of each other's neighbourhoods: scores are those of unique texts.
    once = mine_texts(
        both[[0, 1, 2, 4]], both[5:9], list("abcd"), list("ABCD"), list("vwxz"), list("VWXY")
    )
    score = once.set_index("source")["score"]
    assert expanded.set_index(["source", "target"])["score"]["w", "W"] == pytest.approx(score["w"])


def test_texts_that_differ_in_white_space_around_them_are_repetitions():
    source = ["a", "a ", "b"]
    mined = mine_texts(
        parallel(source), parallel(["A", "B"]), source, ["A", "B"], [1, 2, 3], [11, 12]
    )
    assert mined["source"].tolist() == [3]


def test_a_merged_text_keeps_its_last_vector():
    x = np.array([[0.0, 1.0], [1.0, 0.1]])
    y = np.array([[1.0, 0.0], [0.1, 1.0]])
    mined = mine_texts(x, y, ["same", "same"], ["A", "B"], [1, 2], [3, 4], duplicates="expand", k=1)
    assert set(mined["target"]) == {3}


@st.composite
def scored_pairs(draw):
    n = draw(st.integers(1, 12))
    scores = draw(st.lists(st.integers(1, 9), min_size=n, max_size=n))
    right = draw(st.lists(st.booleans(), min_size=n, max_size=n))
    more = draw(st.integers(0, 3))
    frame = pd.DataFrame({"source": range(n), "target": range(n), "score": np.array(scores) / 4})
    gold = [(i, i) for i in range(n) if right[i]] + [(-i - 1, 0) for i in range(more)]
    return frame, gold or [(-1, 0)]


@given(scored_pairs())
def test_the_tuned_threshold_is_at_least_as_good_as_any_other(case):
    frame, gold = case
    tuned = tune_threshold(frame, gold)
    reached = pair_f1(apply_threshold(frame, tuned), gold)["f1"]
    tried = [pair_f1(apply_threshold(frame, cut), gold)["f1"] for cut in frame["score"]]
    if frame["score"].is_unique:
        assert reached == pytest.approx(max(tried))
        assert tuned.f1 == pytest.approx(reached)
    assert tuned.f1 >= max(tried) - 1e-12


def test_the_threshold_lies_midway_and_the_last_pair_may_be_the_best():
    frame = pd.DataFrame({"source": [1, 2, 3], "target": [1, 2, 3], "score": [1.4, 1.2, 1.0]})
    assert tune_threshold(frame, [(1, 1)]).value == pytest.approx(1.3)
    all_right = tune_threshold(frame, [(1, 1), (2, 2), (3, 3)])
    assert all_right.value == 1.0
    assert all_right.f1 == 1.0
    assert len(apply_threshold(frame, all_right)) == 3


def test_a_threshold_without_hits_or_gold():
    frame = pd.DataFrame({"source": [1], "target": [1], "score": [1.4]})
    assert tune_threshold(frame, [(2, 2)]).value == 0.0
    assert tune_threshold(frame.iloc[:0], [(2, 2)]).f1 == 0.0
    with pytest.raises(BadRows, match="no gold"):
        tune_threshold(frame, [])


def test_halves_are_stable_and_about_equal():
    halves = [in_first_half(f"de-{i:09d}") for i in range(2000)]
    assert halves == [in_first_half(f"de-{i:09d}") for i in range(2000)]
    assert 900 < sum(halves) < 1100


def test_centring_removes_what_all_vectors_share():
    values = vectors(6, 200, shared=5.0)
    centred = fit_space(values).apply(values)
    assert np.abs(centred.mean(axis=0)).max() < 1e-5
    assert centred.dtype == np.float32


def test_whitening_makes_all_directions_equally_wide():
    values = vectors(7, 9000, 6) @ np.diag([9, 1, 1, 0.5, 0.2, 0.1]) + 3
    white = fit_space(values, "whiten").apply(values)
    np.testing.assert_allclose(np.cov(white.T, bias=True), np.eye(6), atol=1e-3)
    # The map is the symmetric one, so vectors stay as near to themselves as whitening allows.
    matrix = fit_space(values, "whiten").matrix
    np.testing.assert_allclose(matrix, matrix.T, atol=1e-9)


def test_whitening_does_not_blow_up_directions_without_variance():
    values = np.hstack([vectors(8, 50, 2), np.full((50, 1), 4.0)])
    white = fit_space(values, "whiten").apply(values)
    assert np.isfinite(white).all()
    assert np.abs(white[:, 2]).max() < 1e-3


def test_spaces_refuse_what_they_cannot_fit():
    with pytest.raises(UnknownName, match="whiten"):
        fit_space(vectors(1, 3), "zca")
    with pytest.raises(BadRows, match="finite vectors"):
        fit_space(np.full((3, 2), np.nan))
    with pytest.raises(BadRows, match="all vectors are equal"):
        fit_space(np.ones((3, 2)), "whiten")
