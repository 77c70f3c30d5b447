"""What may change in the arrays of a measure without changing its value, over the whole catalogue."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.similarity import catalogue
from helpers.similarity import features as f
from helpers.similarity import representations as r
from helpers.similarity import text as t
from tests.similarity.shared import blobs, rotation

X, Y = blobs()
Z, V = blobs(seed=1)
A, B = np.random.default_rng(2).normal(size=(2, 120, 12))
B = B + A @ rotation(12, 3)
TURN, ORDER = rotation(12), np.random.default_rng(5).permutation(240)
OTHER = ORDER[ORDER < 120]
SOFT = np.random.default_rng(3).dirichlet(np.ones(5), 240)
LABELLED = ("logme", "h_score", "nleep", "transrate", "gbc", "knn_probe", "linear_probe")
ALIKE = ("cka", "rsa", "svcca", "pwcca")


def get(name):
    """The measure as the catalogue has it, on features (or two representations) alone."""
    measure = catalogue.get(name)
    if measure.needs[-1].endswith("_probe"):
        return lambda x, y: measure.function(x, y, 0.0)
    if measure.needs[0].endswith("_axes"):
        return lambda a, b: measure.function(*(r.leading_axes(v, catalogue.AXES) for v in (a, b)))
    return measure.function


CASES = [
    *((name, (X, Y), (X @ TURN, Y)) for name in LABELLED),
    *((name, (X, Y), (s * X, Y)) for name in ("logme", "h_score", "gbc", "knn_probe", "linear_probe")
      for s in (1e-3, 1e3)),
    *((name, (X, Y), (X[ORDER], Y[ORDER])) for name in ("logme", "h_score", "transrate", "gbc", "knn_probe")),
    *((name, (X, Y), (X, np.array(["zebra", "ant", "cow"])[Y])) for name in LABELLED[:2] + LABELLED[3:6]),
    *((name, (X, Y), (np.repeat(X, 2, axis=0), np.repeat(Y, 2))) for name in ("transrate", "gbc")),
    ("leep", (SOFT, Y), (np.repeat(SOFT, 2, axis=0), np.repeat(Y, 2))),
    ("leep", (SOFT, Y), (SOFT[ORDER][:, [2, 0, 1, 4, 3]], Y[ORDER])),
    ("nce", (SOFT, Y), (SOFT[:, [2, 0, 1, 4, 3]], (Y + 1) % 3)),
    *((name, (A, B), (A, 3.0 * B @ TURN + 2.0)) for name in ALIKE),
    *((name, (A, B), (A[OTHER], B[OTHER])) for name in ALIKE),
    *((name, (A, B), (B, A)) for name in ("cka", "rsa", "svcca", "mmd")),
    ("mmd", (X, Z), (100.0 * X @ TURN + 1e4, 100.0 * Z @ TURN + 1e4)),
    ("domain_error", (X, Z), (X @ TURN, Z @ TURN)),
    ("otdd", (X, Y, Z, V), (X @ TURN, Y, Z @ TURN, V)),
    ("otdd", (X, Y, Z, V), (X, 2 - Y, Z, 2 - V)),
    ("task2vec", (A[0] ** 2, A[1] ** 2), (7 * A[1] ** 2, 7 * A[0] ** 2)),
    ("task_vector", ({"w": A}, {"w": A + 1}, {"w": B}), ({"w": A}, {"w": A + 5}, {"w": B})),
]  # fmt: skip


@pytest.mark.parametrize("name, arrays, changed", CASES)
def test_value_stays(name, arrays, changed):
    measure = get(name)
    assert measure(*changed) == pytest.approx(measure(*arrays), abs=5e-6)


@pytest.mark.parametrize("name", ALIKE)
def test_a_representation_is_like_itself_turned_scaled_and_shifted(name):
    assert get(name)(A, 3.0 * A @ TURN + 2.0) == pytest.approx(1.0)


def test_scale_of_distances_is_that_of_the_features():
    expected = 10 * r.otdd(X, Y, Z, V)
    assert r.otdd(10 * X @ TURN, Y, 10 * Z @ TURN, V) == pytest.approx(expected)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 6), st.integers(1, 9))
def test_values_stay_in_their_range(seed, classes, columns):
    x, labels = blobs(80, max(columns, classes), classes, distance=1.0, seed=seed)
    assert 0 <= f.h_score(x, labels) <= classes - 1 and f.nleep(x, labels) <= 1e-12
    assert -classes * (classes - 1) <= f.gbc(x, labels) <= 0
    assert 0 <= f.knn_probe(x, labels) <= 1 and f.transrate(x, labels) > -1e-9
    a, b = np.random.default_rng(seed).normal(size=(2, 60, 7))
    for measure in (r.linear_cka, r.rsa, r.svcca):
        assert measure(a, b[:, :4]) == pytest.approx(measure(b[:, :4], a))
        assert measure(a, b) <= 1.0
    pieces = np.random.default_rng(seed).integers(0, 50, size=(2, 90))
    assert 0 <= t.token_similarity(*pieces) <= 1 and 0 <= t.vocabulary_overlap(*pieces) <= 1
