import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.spatial import distance
from sklearn.cross_decomposition import CCA

from helpers.similarity import features
from helpers.similarity import representations as r
from tests.similarity.shared import blobs, rotation, wave


def noise(rows, columns, seed=0):
    return np.random.default_rng(seed).normal(size=(rows, columns))


class TestCka:
    def test_agrees_with_ckatorch(self):
        core = pytest.importorskip("ckatorch.core", reason="oracle of the test extra")
        torch = pytest.importorskip("torch")
        a, b = wave(40, 7, 0.7), wave(40, 5, 0.4)
        x, y = torch.tensor(a), torch.tensor(b)
        debiased = core.cka_base(x, y, kernel="linear", unbiased=True)
        batch = core.cka_batch(x[None], y[None])
        assert r.linear_cka(a, b) == pytest.approx(float(debiased))
        assert r.linear_cka(a, b) == pytest.approx(float(batch))

    def test_bias_of_independent_noise_is_gone(self):
        values = [r.linear_cka(noise(50, 768, s), noise(50, 768, 100 + s)) for s in range(10)]
        assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(len(values)) + 0.005

        a = noise(30, 4)
        for scale in (1e-200, 1e120):  # it survives features of any scale
            assert r.linear_cka(a * scale, a) == pytest.approx(1.0)


def test_rsa_is_the_spearman_correlation_of_cosine_distances():
    a, b = noise(25, 6), noise(25, 9, 1)
    each = [distance.pdist(x - x.mean(axis=0), "cosine") for x in (a, b)]
    assert r.rsa(a, b) == pytest.approx(stats.spearmanr(*each).statistic)


class TestCca:
    def test_correlations_agree_with_scikit_learn(self):
        a, b = noise(200, 3), noise(200, 4, 1)
        b[:, :2] += a[:, :2]
        x, y = CCA(3, max_iter=5000, tol=1e-12).fit_transform(a, b)
        expected = [np.corrcoef(x[:, i], y[:, i])[0, 1] for i in range(3)]
        np.testing.assert_allclose(r.canonical_correlations(a, b)[0], expected, atol=1e-5)

    def test_pwcca_weights_are_projections_on_the_canonical_variates(self):
        a, b = noise(100, 3), noise(100, 4, 1)
        assert r.pwcca(a[:, :2], a) == pytest.approx(1.0)
        assert r.pwcca(noise(200, 4), noise(200, 4)[:, :2]) < 0.7  # directions without counterpart
        b[:, :2] += a[:, :2]
        centred = a - a.mean(axis=0)
        left, right = (np.linalg.svd(x - x.mean(axis=0), full_matrices=False)[0] for x in (a, b))
        turn, correlations, _ = np.linalg.svd(left.T @ right)
        weights = np.abs((left @ turn).T @ centred).sum(axis=1)
        assert r.pwcca(a, b) == pytest.approx((weights * correlations).sum() / weights.sum())

    def test_axes_that_were_cut_before_give_the_same(self):
        a, b = noise(200, 30), noise(200, 20, 1)
        b += a[:, :20]
        cut = [r.leading_axes(values) for values in (a, b)]
        for measure in (r.svcca, r.pwcca):
            expected = measure(a, b)
            for pair in (cut, (cut[0], b)):
                assert measure(*pair) == pytest.approx(expected, rel=1e-10)
        few = r.leading_axes(a, 5)
        assert few.scores.shape == (200, 5) and few.loadings.shape == (5, 30)

    def test_svcca_drops_axes_of_little_variance(self):
        a = noise(300, 3)
        b = np.hstack([a, 1e-3 * noise(300, 5, 1)])
        other = np.hstack([a, 1e-3 * noise(300, 5, 2)])
        assert r.svcca(b, other) == pytest.approx(1.0, abs=1e-4)
        assert r.svcca(b, other, variance=1.0) < 0.8
        # Independent noise scores at the size of its bias.
        one, another = noise(2000, 20), noise(2000, 20, 1)
        assert r.svcca(one, another, variance=1.0) < 1.2 * np.sqrt(40 / 2000)


def test_features_offers_them_too():
    for measure in (r.linear_cka, r.rsa, r.pwcca, r.svcca):
        assert getattr(features, measure.__name__) is measure


def test_directions_of_retrieval_are_averaged_and_length_does_not_matter():
    english, other = noise(300, 8), noise(300, 8) + 0.5 * noise(300, 8, 1)
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (english, other)]
    places = np.arange(300)
    expected = [(np.argmax(a @ b.T, axis=1) == places).mean() for a, b in (unit, unit[::-1])]
    assert expected[0] != expected[1]
    assert r.retrieval_accuracy(english, other) == pytest.approx(np.mean(expected))
    scaled = other * np.random.default_rng(2).uniform(0.1, 10, (300, 1))
    assert r.retrieval_accuracy(english, scaled) == pytest.approx(np.mean(expected))
    # Noise is found by chance.
    values = [r.retrieval_accuracy(noise(50, 20, s), noise(50, 20, 100 + s)) for s in range(20)]
    assert np.mean(values) == pytest.approx(1 / 50, abs=0.02)


def test_a_rotation_of_one_language_hurts_retrieval_but_not_cka():
    english = noise(200, 10)
    plain = english, english + 0.01 * noise(200, 10, 1)
    tuned = plain[0], plain[1] @ rotation(10)
    assert r.alignment_drift(tuned, plain, r.retrieval_accuracy) < -0.5
    assert r.alignment_drift(tuned, plain, r.linear_cka) == pytest.approx(0.0, abs=1e-9)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 12))
def test_transport_in_one_dimension_is_sorting(seed, rows):
    a, b = np.random.default_rng(seed).normal(size=(2, rows, 1))
    expected = ((np.sort(a[:, 0]) - np.sort(b[:, 0])) ** 2).mean()
    assert r.transport_cost(r.squared_distances(a, b)) == pytest.approx(expected)


def test_in_otdd_a_shift_costs_twice_its_length_and_labels_matter_where_features_do_not():
    # Rows move by the shift, and so do the classes they belong to.
    x, labels = blobs(80, distance=0.0)
    shift = np.full(12, 3.0)
    expected = np.sqrt(2 * (shift**2).sum())
    assert r.otdd(x, labels, x + shift, labels) == pytest.approx(expected, rel=0.02)
    x, labels = blobs(90, distance=6.0)
    shuffled = np.random.default_rng(0).permutation(labels)
    assert r.otdd(x, labels, x, shuffled) > 1.0
