import math

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers.errors import BadRows, HelpfulError
from helpers.metrics import mining, pair_f1
from helpers.metrics.mining import apply_threshold, mine, mine_texts, nearest, nearest_both


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    """Tiles that do not divide the data, so that every border is crossed."""
    monkeypatch.setattr(mining, "TILE", 37)
    monkeypatch.setattr(mining, "STRETCH", 4)


def brute(x, y, k):
    """All similarities in 64 bits, sorted by value, then by row number."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    x, y = (v / np.maximum(np.linalg.norm(v, axis=1, keepdims=True), 1e-300) for v in (x, y))
    full = x @ y.T
    index = np.argsort(-full, axis=1, kind="stable")[:, :k]
    return index, np.take_along_axis(full, index, axis=1)


def vectors(seed, rows, width=16):
    return np.random.default_rng(seed).standard_normal((rows, width)).astype(np.float32)


@pytest.mark.parametrize("k", [1, 4, 20])
@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (5, 200), (37, 37), (74, 75), (150, 112)])
def test_neighbours_equal_brute_force_both_ways(rows, columns, k, tmp_path):
    x, y = vectors(1, rows), vectors(2, columns)
    before = x.copy(), y.copy()
    forward, backward = nearest_both(x, y, k)
    for found, one, other in ((forward, x, y), (backward, y, x)):
        index, values = brute(one, other, k)
        np.testing.assert_array_equal(found.index, index)
        np.testing.assert_allclose(found.similarity, values, atol=1e-12)
    np.testing.assert_array_equal(nearest(x, y, k).similarity, forward.similarity)
    np.save(tmp_path / "y.npy", y)
    mapped = np.load(tmp_path / "y.npy", mmap_mode="r")  # memory maps are vectors too
    for queries, candidates in ((x, y), (x, mapped), (np.asfortranarray(x), mapped)):
        alone = nearest(queries, candidates, k)
        np.testing.assert_array_equal(alone.index, forward.index)
        np.testing.assert_allclose(alone.similarity, forward.similarity, atol=1e-12)
    np.testing.assert_array_equal(x, before[0])  # inputs are left as they are
    np.testing.assert_array_equal(y, before[1])


@given(
    *(st.integers(1, most) for most in (60, 90, 6)),
    st.integers(0, 2**31),
    st.sampled_from([np.float16, np.float32, np.float64]),
)
def test_equal_similarities_rank_by_row_number(rows, columns, k, seed, kind):
    # Few vectors of length 0, 1 or 2: many exact ties, and cosines that 32 bits hold exactly.
    axes = np.vstack([np.eye(4), 2 * np.eye(4), np.ones((1, 4)), np.zeros((1, 4))])
    chance = np.random.default_rng(seed)
    x, y = (
        (axes[chance.integers(0, 10, count)] * chance.choice([-1, 1], (count, 4))).astype(kind)
        for count in (rows, columns)
    )
    for found, one, other in zip(nearest_both(x, y, k), (x, y), (y, x), strict=True):
        index, values = brute(one, other, k)
        np.testing.assert_array_equal(found.index, index)
        np.testing.assert_array_equal(found.similarity, values)


@pytest.mark.parametrize("way", [1, -1])
def test_candidates_that_get_better_or_worse_steadily_are_found(way):
    angle = np.linspace(0, math.pi / 2, 150)[::way]
    x, y = np.array([[1.0, 0.0]]), np.stack([np.cos(angle), np.sin(angle)], axis=1)
    assert nearest(x, y, 3).index[0].tolist() == ([0, 1, 2] if way == 1 else [149, 148, 147])


INFINITE = np.ones((50, 3))
INFINITE[41, 2] = np.inf


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (np.ones((2, 3)), np.ones((2, 4)), "widths 3 and 4"),
        (np.ones((0, 3)), np.ones((2, 3)), "shape"),
        (np.ones(3), np.ones((2, 3)), "shape"),
        (np.ones((2, 3)), np.full((50, 3), np.nan), "vector 0 is not finite"),
        (INFINITE, np.ones((2, 3)), "vector 41 is not finite"),
    ],
)
def test_bad_vectors_are_refused(x, y, message):
    with pytest.raises(BadRows, match=message):
        nearest(x, y)


def test_fewer_than_one_neighbour_and_ratios_without_meaning_are_refused():
    x = np.ones((2, 3))
    with pytest.raises(HelpfulError, match="at least 1"):
        nearest(x, x, k=0)
    with pytest.raises(BadRows, match="2 vectors, 2 texts, 1 ids"):
        mine_texts(x, x, ["a", "a"], ["b", "c"], [1], [2, 3])
    x = np.array([[1.0, 0.0], [-1.0, 0.0]])
    with pytest.raises(HelpfulError, match="are they centred"):
        mine(x, -x + [[0, 0.1]], k=2)


def test_a_choice_of_rows_is_searched_without_being_copied():
    class Counted(np.ndarray):
        most = 0

        def __getitem__(self, index):
            found = np.asarray(self)[index]
            Counted.most = max(Counted.most, len(found))
            return found

    vectors = np.random.default_rng(0).standard_normal((6000, 8)).astype(np.float32)
    places = np.arange(0, 6000, 2)[::-1]
    chosen = mining.Taken(vectors.view(Counted), places)
    assert len(chosen) == 3000 and chosen.shape == (3000, 8)
    found = nearest(vectors[:5], chosen, k=3)
    assert Counted.most <= mining.TILE
    expected = nearest(vectors[:5], vectors[places], k=3)
    np.testing.assert_array_equal(found.index, expected.index)
    np.testing.assert_array_equal(np.asarray(chosen), vectors[places])


def positive(seed, rows, width=12, shared=1.0):
    """Vectors with a common direction, so that all cosines are positive as in an encoder."""
    return np.random.default_rng(seed).standard_normal((rows, width)) + shared


def slow_mine(x, y, k):
    """The published recipe, pair by pair."""
    x, y = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (x, y))
    cosine = x @ y.T
    of_x = np.sort(cosine, axis=1)[:, ::-1][:, :k].mean(axis=1)
    of_y = np.sort(cosine, axis=0)[::-1][:k].mean(axis=0)
    score = cosine / ((of_x[:, None] + of_y) / 2)
    best = []
    for i in range(len(x)):
        near = np.argsort(-cosine[i], kind="stable")[:k]
        best.append(max((score[i, j], -rank, i, j) for rank, j in enumerate(near)))
    for j in range(len(y)):
        near = np.argsort(-cosine[:, j], kind="stable")[:k]
        best.append(max((score[i, j], -rank, i, j) for rank, i in enumerate(near)))
    kept = {}
    for s, _, i, j in sorted(best, key=lambda pair: -pair[0]):
        if s > 0 and i not in kept and j not in {other for other, _ in kept.values()}:
            kept[i] = j, s
    return {(i, j): s for i, (j, s) in kept.items()}


@pytest.mark.parametrize(("rows", "columns", "k"), [(30, 41, 4), (3, 2, 4), (1, 1, 4), (25, 9, 1)])
def test_mining_equals_the_recipe_pair_by_pair(rows, columns, k):
    x, y = positive(1, rows), positive(2, columns)
    mined = mine(x, y, k)
    found = mined.set_index(["source", "target"])["score"].to_dict()
    expected = slow_mine(x, y, k)
    assert found.keys() == expected.keys()
    assert [found[pair] for pair in expected] == pytest.approx(list(expected.values()))
    assert mined["score"].is_monotonic_decreasing


def parallel(texts):
    """Vectors that depend on the text alone, ignoring white space at its ends."""
    names = sorted({text.strip().lower() for text in texts})
    space = dict(zip(names, positive(5, len(names)), strict=True))
    return np.array([space[text.strip().lower()] for text in texts])


def test_repeated_texts_are_dropped_and_merged_for_the_search():
    source, target = ["a", "b", "c", "a", "d "], ["A", "B", "C", "D", "D"]
    both = parallel([*source, *target])
    found = mine_texts(both[:5], both[5:], source, target, list("vwxyz"), list("VWXYZ"))
    assert set(zip(found["source"], found["target"], strict=True)) == {("w", "W"), ("x", "X")}
    # Merging keeps repetitions out of each other's neighbourhoods: scores are those of unique texts.
    names = list("abcd"), list("ABCD"), list("vwxz"), list("VWXY")
    once = mine_texts(both[[0, 1, 2, 4]], both[5:9], *names)
    scores = [table.set_index("source")["score"]["w"] for table in (found, once)]
    assert scores[0] == pytest.approx(scores[1])
    # A merged text keeps its last vector.
    x = np.array([[0.0, 1.0], [1.0, 0.1], [0.1, 1.0]])
    y = np.array([[1.0, 0.0], [0.1, 1.0]])
    mined = mine_texts(x, y, ["s", "s", "t"], ["A", "B"], [1, 2, 3], [4, 5])
    assert mined[["source", "target"]].to_numpy().tolist() == [[3, 5]]


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
    tuned = mining.tune_threshold(frame, gold)
    reached = pair_f1(apply_threshold(frame, tuned.value), gold)["f1"]
    tried = [pair_f1(apply_threshold(frame, cut), gold)["f1"] for cut in frame["score"]]
    if frame["score"].is_unique:
        assert reached == pytest.approx(max(tried))
        assert tuned.f1 == pytest.approx(reached)
    assert tuned.f1 >= max(tried) - 1e-12


def test_the_threshold_lies_midway_and_the_last_pair_may_be_the_best():
    frame = pd.DataFrame({"source": [1, 2, 3], "target": [1, 2, 3], "score": [1.4, 1.2, 1.0]})
    assert mining.tune_threshold(frame, [(1, 1)]).value == pytest.approx(1.3)
    all_right = mining.tune_threshold(frame, [(1, 1), (2, 2), (3, 3)])
    assert (all_right.value, all_right.f1) == (1.0, 1.0)
    assert len(apply_threshold(frame, all_right.value)) == 3
    assert mining.tune_threshold(frame.head(1), [(2, 2)]).value == 0.0
    assert mining.tune_threshold(frame.iloc[:0], [(2, 2)]).f1 == 0.0
    with pytest.raises(BadRows, match="no gold"):
        mining.tune_threshold(frame, [])


def test_halves_are_stable_and_about_equal():
    halves = [mining.in_first_half(f"de-{i:09d}") for i in range(2000)]
    assert halves[:8] == [mining.in_first_half(f"de-{i:09d}") for i in range(8)]
    assert 900 < sum(halves) < 1100


def test_translations_are_found_where_hubs_mislead_plain_cosine():
    # A hub that is close to every source beats the translations by cosine, but not by margin.
    shared, own = np.eye(6) + 0.8, np.eye(6)
    x = np.hstack([shared, 0 * own])
    y = np.vstack([np.hstack([shared, 1.57 * own]), np.hstack([np.ones(6), np.zeros(6)])])
    ratio = mine(x, y, k=3)
    assert sorted(ratio["source"]) == list(range(6))
    assert (ratio["target"] == ratio["source"]).all() and (ratio["score"] > 1).all()
    assert (nearest(x, y).index == 6).all()


@pytest.mark.parametrize("precision", ["highest", "medium"])
def test_the_precision_of_products_is_put_back(precision):
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        nearest(vectors(9, 3), vectors(10, 3))
        assert torch.get_float32_matmul_precision() == precision
    finally:
        torch.set_float32_matmul_precision(before)
