import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.errors import BadFit, BadRows
from helpers.similarity.arrays import squared_distances
from helpers.similarity.transport import gaussian_distance, otdd, sinkhorn, transport_cost
from tests.similarity.shared import blobs, rotation, wave

A, B = wave(12, 3, 0.7), wave(12, 3, 0.4) + 0.3
COST = squared_distances(A, B)
RISING = np.arange(1, 13)


class TestAgainstPot:
    """Values of POT 0.9.7 on the same arrays; computed afresh where POT is installed."""

    def test_exact(self):
        assert transport_cost(COST) == pytest.approx(1.134554292865285)

    def test_exact_with_weights_and_unequal_sizes(self):
        assert transport_cost(COST[:, :9], RISING) == pytest.approx(1.6980477121834447)

    def test_sinkhorn(self):
        value = sinkhorn(COST, 0.5, iterations=20000, tolerance=1e-11)
        assert value == pytest.approx(1.3454107279845833)

    def test_gaussians(self):
        value = gaussian_distance(A.mean(0), A.T @ A / 12, B.mean(0), B.T @ B / 12)
        assert value == pytest.approx(0.8819862634030359)

    def test_live(self):
        ot = pytest.importorskip("ot", reason="POT is a 33 MB oracle; pip install pot to run this")
        cost = squared_distances(wave(30, 4, 0.3), wave(30, 4, 0.9))
        even = np.full(30, 1 / 30)
        assert transport_cost(cost) == pytest.approx(ot.emd2(even, even, cost))


class TestTransport:
    @settings(max_examples=20, deadline=None)
    @given(st.integers(0, 10_000), st.integers(2, 12))
    def test_one_dimension_is_sorting(self, seed, rows):
        a, b = np.random.default_rng(seed).normal(size=(2, rows, 1))
        expected = ((np.sort(a[:, 0]) - np.sort(b[:, 0])) ** 2).mean()
        assert transport_cost(squared_distances(a, b)) == pytest.approx(expected)

    def test_both_solvers_of_the_exact_problem_agree(self):
        even = np.full(12, 1 / 12)
        assert transport_cost(COST, even, even) == pytest.approx(transport_cost(COST))

    def test_sinkhorn_lies_above_and_approaches_the_exact_cost(self):
        exact = transport_cost(COST)
        values = [sinkhorn(COST, r, iterations=50000, tolerance=1e-7) for r in (3.0, 1.0, 0.4)]
        assert values == sorted(values, reverse=True)
        assert all(value > exact for value in values)

    def test_strong_regularisation_gives_the_independent_plan(self):
        assert sinkhorn(COST, 1e6) == pytest.approx(COST.mean(), rel=1e-4)

    def test_bad_input(self):
        with pytest.raises(BadRows):
            transport_cost(COST, [1.0, 2.0])
        with pytest.raises(BadRows):
            transport_cost(COST, -RISING)
        with pytest.raises(BadRows):
            transport_cost(np.full((3, 3), np.nan))
        with pytest.raises(BadRows):
            sinkhorn(COST, 0.0)
        with pytest.raises(BadFit, match="did not converge"):
            sinkhorn(COST, 1e-3, iterations=20)


class TestGaussians:
    def test_commuting_covariances_by_hand(self):
        value = gaussian_distance([0.0, 0], np.diag([4.0, 9]), [3.0, 4], np.diag([1.0, 16]))
        assert value == pytest.approx(25 + (2 - 1) ** 2 + (3 - 4) ** 2)

    def test_is_zero_for_itself_and_symmetric(self):
        spread_a, spread_b = np.cov(A.T), np.cov(B.T)
        assert gaussian_distance(A[0], spread_a, A[0], spread_a) == pytest.approx(0.0, abs=1e-12)
        forth = gaussian_distance(A[0], spread_a, B[0], spread_b)
        assert forth == pytest.approx(gaussian_distance(B[0], spread_b, A[0], spread_a))


class TestOtdd:
    def test_a_set_has_no_distance_to_itself(self):
        x, labels = blobs(60)
        order = np.random.default_rng(1).permutation(60)
        assert otdd(x, labels, x[order], labels[order]) == pytest.approx(0.0, abs=1e-6)

    def test_names_of_labels_do_not_matter(self):
        x, labels = blobs(60)
        y, groups = blobs(60, seed=1)
        expected = otdd(x, labels, y, groups)
        assert otdd(x, labels, y, 2 - groups) == pytest.approx(expected)

    def test_a_shift_costs_twice_its_length(self):
        # Rows move by the shift, and so do the classes they belong to.
        x, labels = blobs(80, distance=0.0)
        shift = np.full(12, 3.0)
        expected = np.sqrt(2 * (shift**2).sum())
        assert otdd(x, labels, x + shift, labels) == pytest.approx(expected, rel=0.02)

    def test_labels_matter_where_features_do_not(self):
        x, labels = blobs(90, distance=6.0)
        shuffled = np.random.default_rng(0).permutation(labels)
        assert otdd(x, labels, x, shuffled) > 1.0

    def test_rotation_and_scale(self):
        x, labels = blobs(60)
        y, groups = blobs(60, classes=4, seed=1)
        turn = 10 * rotation(12)
        expected = 10 * otdd(x, labels, y, groups)
        assert otdd(x @ turn, labels, y @ turn, groups) == pytest.approx(expected)

    def test_regularised_is_near_exact(self):
        x, labels = blobs(60)
        y, groups = blobs(60, classes=4, seed=1)
        exact = otdd(x, labels, y, groups)
        assert otdd(x, labels, y, groups, regularisation=0.05) == pytest.approx(exact, rel=0.1)

    def test_bad_input(self):
        x, labels = blobs(60)
        with pytest.raises(BadRows):
            otdd(x, labels, x[:, :5], labels)
        with pytest.raises(BadRows):
            otdd(x, np.zeros(60), x, labels)
