import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from helpers.errors import BadRows, HelpfulError, UnknownName
from helpers.metrics import neighbours
from helpers.metrics.neighbours import nearest, nearest_both


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    """Tiles that do not divide the data, so that every border is crossed."""
    monkeypatch.setattr(neighbours, "TILE", 37)
    monkeypatch.setattr(neighbours, "STRETCH", 4)


def brute(x, y, k, normalise=True):
    """All similarities in 64 bits, sorted by value, then by row number."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if normalise:
        x, y = (v / np.maximum(np.linalg.norm(v, axis=1, keepdims=True), 1e-300) for v in (x, y))
    full = x @ y.T
    index = np.argsort(-full, axis=1, kind="stable")[:, :k]
    return index, np.take_along_axis(full, index, axis=1)


def vectors(seed, rows, width=16):
    return np.random.default_rng(seed).standard_normal((rows, width)).astype(np.float32)


@pytest.mark.parametrize("k", [1, 4, 20])
@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (5, 200), (37, 37), (74, 75), (150, 112)])
@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_neighbours_equal_brute_force_both_ways(rows, columns, k, similarity):
    x, y = vectors(1, rows), vectors(2, columns)
    forward, backward = nearest_both(x, y, k, similarity)
    for found, one, other in ((forward, x, y), (backward, y, x)):
        index, values = brute(one, other, k, similarity == "cosine")
        np.testing.assert_array_equal(found.index, index)
        np.testing.assert_allclose(found.similarity, values, atol=1e-12)
    alone = nearest(x, y, k, similarity)
    np.testing.assert_array_equal(alone.index, forward.index)
    np.testing.assert_array_equal(alone.similarity, forward.similarity)


@given(
    st.integers(1, 60),
    st.integers(1, 90),
    st.integers(1, 6),
    st.integers(0, 2**31),
    st.sampled_from([np.float16, np.float32, np.float64]),
)
def test_equal_similarities_rank_by_row_number(rows, columns, k, seed, kind):
    # Few distinct small integers: many exact ties, and products that 32 bits hold exactly.
    chance = np.random.default_rng(seed)
    x = chance.integers(-2, 3, (rows, 3)).astype(kind)
    y = chance.integers(-2, 3, (columns, 3)).astype(kind)
    for found, one, other in zip(nearest_both(x, y, k, "dot"), (x, y), (y, x), strict=True):
        index, values = brute(one, other, k, normalise=False)
        np.testing.assert_array_equal(found.index, index)
        np.testing.assert_array_equal(found.similarity, values)


@pytest.mark.parametrize("way", [1, -1])
def test_candidates_that_get_better_or_worse_steadily_are_found(way):
    angle = np.linspace(0, math.pi / 2, 150)[::way]
    x, y = np.array([[1.0, 0.0]]), np.stack([np.cos(angle), np.sin(angle)], axis=1)
    assert nearest(x, y, 3).index[0].tolist() == ([0, 1, 2] if way == 1 else [149, 148, 147])


def test_tile_size_does_not_change_the_result(monkeypatch):
    x, y = vectors(3, 90), vectors(4, 130)
    found = nearest(x, y, 5)
    monkeypatch.setattr(neighbours, "TILE", 2048)
    monkeypatch.setattr(neighbours, "STRETCH", 32)
    again = nearest(x, y, 5)
    np.testing.assert_array_equal(found.index, again.index)
    np.testing.assert_array_equal(found.similarity, again.similarity)


@given(
    arrays(np.float32, (3, 20), elements=st.floats(-(2.0**100), 2.0**100, width=32)),
    st.integers(0, 1000),
)
def test_keys_order_by_value_then_by_falling_column(values, column):
    keys = neighbours._keys(torch.from_numpy(values), column)
    order = torch.argsort(keys, dim=1, descending=True).numpy()
    plus = values + np.float32(0.0)  # Minus zero is below zero as a key and equal to it as a value.
    expected = np.lexsort((np.broadcast_to(np.arange(20), (3, 20)), np.signbit(values), -plus))
    np.testing.assert_array_equal(order, expected)
    np.testing.assert_array_equal(neighbours._value(keys).numpy(), values)
    assert (neighbours._column(keys).numpy() == column + np.arange(20)).all()


def test_torch_tensors_and_memory_maps_are_vectors_too(tmp_path):
    x, y = vectors(5, 40), vectors(6, 90)
    expected = nearest(x, y, 3)
    np.save(tmp_path / "y.npy", y)
    mapped = np.load(tmp_path / "y.npy", mmap_mode="r")
    for queries, candidates in (
        (torch.from_numpy(x).requires_grad_(), torch.from_numpy(y)),
        (x, mapped),
        (np.asfortranarray(x), mapped),
    ):
        found = nearest(queries, candidates, 3)
        np.testing.assert_array_equal(found.index, expected.index)
        np.testing.assert_allclose(found.similarity, expected.similarity, atol=1e-12)
    both = nearest_both(x, mapped, 3)[0]
    np.testing.assert_array_equal(both.index, expected.index)


def test_inputs_are_left_as_they_are():
    x, y = vectors(7, 40), vectors(8, 40)
    before = x.copy(), y.copy()
    nearest_both(x, y)
    np.testing.assert_array_equal(x, before[0])
    np.testing.assert_array_equal(y, before[1])


@pytest.mark.parametrize("precision", ["highest", "medium"])
def test_the_precision_of_products_is_put_back(precision):
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        nearest(vectors(9, 3), vectors(10, 3))
        assert torch.get_float32_matmul_precision() == precision
    finally:
        torch.set_float32_matmul_precision(before)


def test_a_vector_of_zeros_has_cosine_zero():
    found = nearest(np.zeros((1, 4), np.float32), vectors(11, 3, 4), 3)
    assert found.index.tolist() == [[0, 1, 2]]
    assert found.similarity.tolist() == [[0.0, 0.0, 0.0]]


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


def test_bad_options_are_refused():
    x = np.ones((2, 3))
    with pytest.raises(UnknownName, match="Valid: cosine"):
        nearest(x, x, similarity="euclid")
    with pytest.raises(HelpfulError, match="at least 1"):
        nearest(x, x, k=0)


def test_a_choice_of_rows_is_searched_without_being_copied():
    class Counted(np.ndarray):
        most = 0

        def __getitem__(self, index):
            found = np.asarray(self)[index]
            Counted.most = max(Counted.most, len(found))
            return found

    vectors = np.random.default_rng(0).standard_normal((6000, 8)).astype(np.float32)
    places = np.arange(0, 6000, 2)[::-1]
    chosen = neighbours.Taken(vectors.view(Counted), places)
    assert len(chosen) == 3000 and chosen.shape == (3000, 8)
    found = nearest(vectors[:5], chosen, k=3)
    assert Counted.most <= neighbours.TILE
    expected = nearest(vectors[:5], vectors[places], k=3)
    np.testing.assert_array_equal(found.index, expected.index)
    np.testing.assert_array_equal(np.asarray(chosen), vectors[places])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_finds_the_same_neighbours(monkeypatch):
    monkeypatch.setattr(neighbours, "GPU_TILE", 500)
    x, y = vectors(12, 3000, 64), vectors(13, 2500, 64)
    for here, there in zip(nearest_both(x, y), nearest_both(x, y, device="cuda"), strict=True):
        np.testing.assert_array_equal(here.index, there.index)
        np.testing.assert_array_equal(here.similarity, there.similarity)
