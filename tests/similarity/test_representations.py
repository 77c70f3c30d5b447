import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.cross_decomposition import CCA

from helpers.errors import BadRows
from helpers.similarity import features
from helpers.similarity.representations import (
    canonical_correlations,
    leading_axes,
    linear_cka,
    pwcca,
    rsa,
    svcca,
)
from tests.similarity.shared import rotation, wave

BOTH = [linear_cka, rsa, svcca, pwcca]


def noise(rows, columns, seed=0):
    return np.random.default_rng(seed).normal(size=(rows, columns))


class TestCka:
    def test_agrees_with_ckatorch(self):
        core = pytest.importorskip("ckatorch.core", reason="oracle of the test extra")
        torch = pytest.importorskip("torch")
        a, b = wave(40, 7, 0.7), wave(40, 5, 0.4)
        x, y = torch.tensor(a), torch.tensor(b)
        biased = core.cka_base(x, y, kernel="linear", unbiased=False)
        debiased = core.cka_base(x, y, kernel="linear", unbiased=True)
        batch = core.cka_batch(x[None], y[None])
        assert linear_cka(a, b, debiased=False) == pytest.approx(float(biased))
        assert linear_cka(a, b) == pytest.approx(float(debiased))
        assert linear_cka(a, b) == pytest.approx(float(batch))

    def test_equals_the_kernel_form(self):
        a, b = noise(30, 50), noise(30, 9, 1)

        def criterion(k, m):
            n = len(k)
            k, m = k - np.diag(np.diag(k)), m - np.diag(np.diag(m))
            ones = k.sum() * m.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * k.sum(0) @ m.sum(0)
            return ((k * m).sum() + ones) / (n * (n - 3))

        k, m = a @ a.T, b @ b.T  # not centred: the estimator removes the means by itself
        expected = criterion(k, m) / np.sqrt(criterion(k, k) * criterion(m, m))
        assert linear_cka(a, b) == pytest.approx(expected)

    def test_bias_of_independent_noise_is_gone(self):
        pairs = [(noise(50, 768, s), noise(50, 768, 100 + s)) for s in range(10)]
        assert np.mean([linear_cka(a, b, debiased=False) for a, b in pairs]) > 0.9
        values = [linear_cka(a, b) for a, b in pairs]
        assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(len(values)) + 0.005

    def test_survives_features_of_any_scale(self):
        a = noise(30, 4)
        for scale in (1e-200, 1e120):
            assert linear_cka(a * scale, a) == pytest.approx(1.0)


class TestRsa:
    def test_is_the_spearman_correlation_of_cosine_distances(self):
        a, b = noise(25, 6), noise(25, 9, 1)
        rows, columns = np.triu_indices(25, 1)

        def distances(z):
            unit = z / np.linalg.norm(z, axis=1, keepdims=True)
            return 1 - (unit @ unit.T)[rows, columns]

        expected = stats.spearmanr(distances(a), distances(b)).statistic
        assert rsa(a, b, centred=False) == pytest.approx(expected)

    def test_centring_undoes_a_common_direction(self):
        a, b = noise(40, 6), noise(40, 6, 1)
        shifted = a + 50.0
        assert rsa(shifted, b) == pytest.approx(rsa(a, b), abs=1e-9)

    def test_a_zero_row_is_refused(self):
        a = noise(10, 3)
        a[4] = 0
        with pytest.raises(BadRows, match="no direction"):
            rsa(a, a, centred=False)


class TestCca:
    def test_correlations_agree_with_scikit_learn(self):
        a, b = noise(200, 3), noise(200, 4, 1)
        b[:, :2] += a[:, :2]
        x, y = CCA(3, max_iter=5000, tol=1e-12).fit_transform(a, b)
        expected = [np.corrcoef(x[:, i], y[:, i])[0, 1] for i in range(3)]
        np.testing.assert_allclose(canonical_correlations(a, b)[0], expected, atol=1e-5)

    def test_pwcca_weights_are_projections_on_the_canonical_variates(self):
        a, b = noise(100, 3), noise(100, 4, 1)
        b[:, :2] += a[:, :2]
        centred = a - a.mean(axis=0)
        left = np.linalg.svd(centred, full_matrices=False)[0]
        right = np.linalg.svd(b - b.mean(axis=0), full_matrices=False)[0]
        turn, correlations, _ = np.linalg.svd(left.T @ right)
        weights = np.abs((left @ turn).T @ centred).sum(axis=1)
        expected = (weights * correlations).sum() / weights.sum()
        assert pwcca(a, b) == pytest.approx(expected)

    def test_pwcca_counts_directions_without_counterpart(self):
        a = noise(200, 4)
        assert pwcca(a[:, :2], a) == pytest.approx(1.0)
        assert pwcca(a, a[:, :2]) < 0.7

    @pytest.mark.parametrize("dimensions", [0, 5])
    def test_axes_that_were_cut_before_give_the_same(self, dimensions):
        a, b = noise(200, 30), noise(200, 20, 1)
        b += a[:, :20]
        cut = [leading_axes(values, dimensions) for values in (a, b)]
        for measure in (svcca, pwcca):
            expected = measure(a, b, dimensions=dimensions)
            assert measure(*cut, dimensions=dimensions) == pytest.approx(expected, rel=1e-10)
            assert measure(*cut) == pytest.approx(expected, rel=1e-10)
            assert measure(cut[0], b, dimensions=dimensions) == pytest.approx(expected, rel=1e-10)

    def test_axes_are_orthonormal_and_rebuild_the_representation(self):
        a = noise(50, 6) * [5.0, 4, 3, 2, 1, 0.1]
        axes = leading_axes(a)
        np.testing.assert_allclose(axes.scores.T @ axes.scores, np.eye(6), atol=1e-12)
        rebuilt, centred = axes.scores @ axes.loadings, a - a.mean(axis=0)
        np.testing.assert_allclose(rebuilt / rebuilt.std(), centred / centred.std(), atol=1e-12)
        assert (np.diff(axes.share) > 0).all() and axes.share[-1] == pytest.approx(1)

    def test_axes_of_other_rows_are_refused(self):
        with pytest.raises(BadRows, match="49 and 50 rows"):
            svcca(leading_axes(noise(49, 3)), leading_axes(noise(50, 3)))

    def test_svcca_drops_axes_of_little_variance(self):
        a = noise(300, 3)
        b = np.hstack([a, 1e-3 * noise(300, 5, 1)])
        other = np.hstack([a, 1e-3 * noise(300, 5, 2)])
        assert svcca(b, other) == pytest.approx(1.0, abs=1e-4)
        assert svcca(b, other, variance=1.0) < 0.8

    def test_independent_noise_scores_at_the_size_of_its_bias(self):
        a, b = noise(2000, 20), noise(2000, 20, 1)
        assert svcca(a, b, variance=1.0) < 1.2 * np.sqrt(40 / 2000)

    def test_too_few_rows_are_refused_not_scored_one(self):
        with pytest.raises(BadRows, match="would be 1 for any data"):
            pwcca(noise(20, 12), noise(20, 12, 1))
        assert pwcca(noise(20, 12), noise(20, 12, 1), dimensions=3) < 0.9


class TestInvariance:
    @pytest.mark.parametrize("measure", BOTH, ids=lambda m: m.__name__)
    def test_identity_rotation_scale_and_shift(self, measure):
        a = noise(120, 8)
        assert measure(a, a) == pytest.approx(1.0)
        assert measure(a, 3.0 * a @ rotation(8) + 2.0) == pytest.approx(1.0)

    @pytest.mark.parametrize("measure", BOTH, ids=lambda m: m.__name__)
    def test_common_row_order(self, measure):
        a, b = noise(90, 5), noise(90, 6, 1)
        order = np.random.default_rng(2).permutation(90)
        assert measure(a[order], b[order]) == pytest.approx(measure(a, b))

    @pytest.mark.parametrize("measure", [linear_cka, rsa, svcca], ids=lambda m: m.__name__)
    @settings(max_examples=15, deadline=None)
    @given(seed=st.integers(0, 10_000))
    def test_symmetry_and_upper_bound(self, measure, seed):
        a, b = noise(60, 4, seed), noise(60, 7, seed + 1)
        assert measure(a, b) == pytest.approx(measure(b, a))
        assert measure(a, b) <= 1.0


@pytest.mark.parametrize("measure", BOTH, ids=lambda m: m.__name__)
@pytest.mark.parametrize(
    "a, b",
    [
        (noise(20, 3), noise(19, 3)),
        (noise(3, 2), noise(3, 2)),
        (np.full((20, 3), np.nan), noise(20, 3)),
        (np.ones((20, 3)), noise(20, 3)),
        (noise(20, 3)[:, 0], noise(20, 3)),
    ],
    ids=["mismatch", "three rows", "nan", "constant", "one-dimensional"],
)
def test_bad_input_gives_no_number(measure, a, b):
    with pytest.raises(BadRows):
        measure(a, b)


def test_features_offers_them_too():
    assert features.linear_cka is linear_cka
    assert features.rsa is rsa and features.pwcca is pwcca and features.svcca is svcca
