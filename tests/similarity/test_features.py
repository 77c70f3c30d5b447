import itertools

import numpy as np
import pytest
from scipy import optimize, stats
from sklearn.covariance import ledoit_wolf
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import LeaveOneOut, cross_val_score
from sklearn.neighbors import KNeighborsClassifier

from helpers.similarity import features as f
from helpers.similarity.representations import canonical_correlations
from tests.similarity.shared import blobs


class TestLogME:
    def evidence(self, x, y, alpha, beta):
        """Log evidence as the density of y under its marginal Gaussian, another route entirely."""
        covariance = np.eye(len(y)) / beta + x @ x.T / alpha
        return stats.multivariate_normal(np.zeros(len(y)), covariance).logpdf(y) / len(y)

    @pytest.mark.parametrize("rows, columns, scale", [(60, 5, 1), (30, 40, 1), (240, 12, 1e3)])
    def test_equals_the_maximum_of_the_marginal_likelihood(self, rows, columns, scale):
        # At 1,000 times the features the authors' floor, an absolute number, gives .09 less.
        x, labels = blobs(rows, columns, classes=3)
        best = []
        for label in range(3):
            y = (labels == label).astype(float)
            fun = lambda p, y=y: -self.evidence(scale * x, y, *np.exp(p))  # noqa: E731
            start = [2 * np.log(scale), 0.0]
            best.append(-optimize.minimize(fun, start, method="Nelder-Mead").fun)
        assert f.logme(scale * x, labels) == pytest.approx(np.mean(best), abs=2e-4)

    def test_more_signal_gives_more_evidence_and_more_classes_too(self):
        values = [f.logme(*blobs(distance=d)) for d in (0.0, 0.7, 1.5, 3.0)]
        assert values == sorted(values)
        random = np.random.default_rng(0)
        assert np.isfinite(f.logme(random.normal(size=(20, 300)), np.arange(20) % 4))
        assert np.isfinite(f.logme(np.eye(3)[np.arange(30) % 3], np.arange(30) % 3))
        # Of noise it rises with the number of classes.
        x = np.random.default_rng(3).normal(size=(600, 40))
        values = [f.logme(x, np.arange(600) % classes) for classes in (2, 3, 7, 17)]
        assert values == sorted(values)
        # A class indicator that nothing explains: log density of its best constant-free Gaussian.
        assert values[0] == pytest.approx(-0.5 * (np.log(2 * np.pi * 0.5) + 1), abs=0.03)


class TestHScore:
    def test_without_shrinkage_is_the_sum_of_squared_canonical_correlations(self):
        x, labels = blobs()
        correlations, _ = canonical_correlations(x, np.eye(3)[labels][:, :2])
        assert f.h_score(x, labels, shrinkage=False) == pytest.approx((correlations**2).sum())

    def test_shrinkage_is_that_of_ledoit_and_wolf(self):
        x, labels = blobs(40, 30)
        covariance, weight = ledoit_wolf(x)
        means = np.array([x[labels == c].mean(axis=0) for c in range(3)]) - x.mean(axis=0)
        shares = np.bincount(labels) / len(labels)
        between = (means * shares[:, None]).T @ means
        expected = np.trace(np.linalg.inv(covariance) @ ((1 - weight) * between))
        assert f.h_score(x, labels) == pytest.approx(expected)
        x = np.random.default_rng(1).normal(size=(100, 200))
        assert f.h_score(x, np.arange(100) % 3) < 0.2


def test_leep_of_hard_predictions_is_nce():
    random = np.random.default_rng(2)
    source, labels = random.integers(0, 4, 200), random.integers(0, 3, 200)
    assert f.leep(np.eye(4)[source], labels) == pytest.approx(f.nce(source, labels))


def test_the_mixture_of_nleep_agrees_with_scikit_learn():
    x, _ = blobs(600, 4, distance=2.5)
    points = x - x.mean(axis=0)
    ours = f._mixture(points, 3, np.random.default_rng(0))
    weights = ours.sum(axis=0)
    start = {"means_init": ours.T @ points / weights[:, None]}
    start |= {"weights_init": weights / weights.sum()}
    reference = GaussianMixture(3, covariance_type="diag", max_iter=200, tol=1e-4, **start)
    assert np.abs(ours - reference.fit(points).predict_proba(points)).mean() < 0.02


def test_transrate_is_the_log_volume_gained_by_the_classes():
    x, _ = blobs(60, 4)
    x, few = x - x.mean(axis=0), (np.arange(60) < 6).astype(int)

    def rate(z):
        return 0.5 * np.log(np.linalg.det(np.eye(4) + z.T @ z / (len(z) * 0.1)))

    # Classes count by their share of the rows.
    expected = rate(x) - 0.9 * rate(x[few == 0]) - 0.1 * rate(x[few == 1])
    assert f.transrate(x, few, distortion=0.1) == pytest.approx(expected)


def test_gbc_in_one_dimension_by_numerical_integration():
    labels = np.arange(90) % 3
    x = np.random.default_rng(0).normal(size=(90, 1)) + 2.0 * labels[:, None]
    grid = np.linspace(-30, 30, 20001)
    parts = [x[labels == label] for label in range(3)]
    density = [stats.norm(part.mean(), part.std()).pdf(grid) for part in parts]
    # The overlap of two Gaussians is the integral of the root of their product.
    pairs = itertools.permutations(density, 2)
    expected = -sum(np.trapezoid(np.sqrt(a * b), grid) for a, b in pairs)
    assert f.gbc(x, labels) == pytest.approx(expected, rel=1e-6)


class TestProbes:
    @pytest.mark.parametrize("k", [1, 4, 7])
    def test_knn_agrees_with_scikit_learn_where_no_votes_tie(self, k):
        x, labels = blobs(150, 6, classes=2, distance=1.0)
        rule = KNeighborsClassifier(k, weights="distance" if k == 4 else "uniform")
        right = cross_val_score(rule, x, labels, cv=LeaveOneOut()).mean()
        tolerance = 0.05 if k == 4 else 1e-12  # four votes tie; the two break ties differently
        assert f.knn_probe(x, labels, k) == pytest.approx(right, abs=tolerance)

    def test_ridge_fold_is_the_textbook_solution(self):
        x, labels = blobs(50, 4)
        x -= x.mean(axis=0)
        goals = np.eye(3)[labels]
        out = np.arange(50) < 10
        weights, intercept = f._ridge(x, goals, out, x.T @ x, x.T @ goals)
        train, aim = x[~out], goals[~out]
        centre = train - train.mean(axis=0)
        scores = {}
        for power in np.logspace(-5, 4, 19):
            penalty = np.linalg.eigvalsh(centre.T @ centre).mean() * power
            hat = centre @ np.linalg.solve(centre.T @ centre + penalty * np.eye(4), centre.T)
            left = (aim - aim.mean(axis=0)) - hat @ (aim - aim.mean(axis=0))
            scores[penalty] = (left**2).sum() / (40 - 1 - np.trace(hat)) ** 2
        best = min(scores, key=scores.get)
        expected = np.linalg.solve(centre.T @ centre + best * np.eye(4), centre.T @ aim)
        np.testing.assert_allclose(weights, expected, rtol=1e-8)
        np.testing.assert_allclose(intercept, aim.mean(axis=0) - train.mean(axis=0) @ expected)

    def test_linear_probe_on_noise_is_at_chance_not_below(self):
        draws = (np.random.default_rng(seed).normal(size=(200, 10)) for seed in range(20))
        # Leave-one-out predictions would fall far below one half here.
        mean = np.mean([f.linear_probe(x, np.arange(200) % 2) for x in draws])
        assert mean == pytest.approx(0.5, abs=3 * 0.035 / np.sqrt(20) + 0.01)
        # Where every row is its own direction, nothing can be learnt about the others.
        assert f.linear_probe(np.eye(60), np.arange(60) % 2) <= 0.7


@pytest.mark.parametrize("classes", [2, 4, 17])
def test_noise_scores_at_the_value_of_no_information(classes):
    x, labels = np.random.default_rng(3).normal(size=(3400, 20)), np.arange(3400) % classes
    soft = np.random.default_rng(0).dirichlet(np.ones(6), 3400)
    assert f.leep(soft, labels) == pytest.approx(-np.log(classes), abs=0.01)
    assert f.h_score(x, labels) < 0.02
    assert f.knn_probe(x, labels) == pytest.approx(1 / classes, abs=0.03)
    assert f.linear_probe(x, labels) == pytest.approx(1 / classes, abs=0.03)
