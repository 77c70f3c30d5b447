import numpy as np
import pytest

from helpers.errors import BadRows
from helpers.similarity import weights
from helpers.similarity.features import logme
from tests.similarity.shared import blobs

RANDOM = np.random.default_rng(0)
BASE = {"layer.0": RANDOM.normal(size=(4, 3)), "layer.1": RANDOM.normal(size=5)}


def moved(**steps):
    return {name: value + steps.get(name.replace(".", "_"), 0.0) for name, value in BASE.items()}


class TestTaskVectors:
    def test_is_the_cosine_of_the_concatenated_differences(self):
        a = {name: value + RANDOM.normal(size=value.shape) for name, value in BASE.items()}
        b = {name: value + RANDOM.normal(size=value.shape) for name, value in BASE.items()}
        u, v = (np.concatenate([(t[n] - BASE[n]).ravel() for n in BASE]) for t in (a, b))
        expected = u @ v / np.linalg.norm(u) / np.linalg.norm(v)
        assert weights.task_vector_cosine(BASE, a, b) == pytest.approx(expected)

    def test_direction_not_length_counts(self):
        a, b, c = moved(layer_0=1.0), moved(layer_0=5.0), moved(layer_0=-2.0)
        assert weights.task_vector_cosine(BASE, a, b) == pytest.approx(1.0)
        assert weights.task_vector_cosine(BASE, a, c) == pytest.approx(-1.0)

    def test_by_layer_leaves_out_what_did_not_move(self):
        a, b = moved(layer_0=1.0), moved(layer_0=-1.0, layer_1=3.0)
        assert weights.task_vector_cosines(BASE, a, b) == {"layer.0": pytest.approx(-1.0)}

    def test_single_precision_weights_are_subtracted_in_double(self):
        base = {"w": np.full(1000, 1.0, np.float32)}
        a = {"w": base["w"] + np.float32(1e-6)}
        assert weights.task_vector_cosine(base, a, a) == pytest.approx(1.0)

    @pytest.mark.parametrize(
        "b, message",
        [
            (BASE, "is zero"),
            ({"layer.0": BASE["layer.0"]}, "differ in their components"),
            (BASE | {"layer.1": np.ones(6)}, "shapes"),
            (BASE | {"layer.1": np.full(5, np.nan)}, "NaN"),
        ],
    )
    def test_bad_input(self, b, message):
        with pytest.raises(BadRows, match=message):
            weights.task_vector_cosine(BASE, moved(layer_0=1.0), b)

    def test_frozen_encoders_have_no_layers_to_compare(self):
        with pytest.raises(BadRows, match="frozen"):
            weights.task_vector_cosines(BASE, BASE, BASE)


class TestTaskEmbedding:
    def logistic(self, rows=400, columns=6, seed=0):
        """Per-example gradients of a logistic regression, one component per half of the weights."""
        random = np.random.default_rng(seed)
        x, w = random.normal(size=(rows, columns)), random.normal(size=columns)
        y = random.random(rows) < 1 / (1 + np.exp(-x @ w))
        residual = (1 / (1 + np.exp(-x @ w)) - y)[:, None] * x
        return x, w, [{"low": g[:3], "high": g[3:]} for g in residual]

    def test_is_the_mean_of_squares_not_the_square_of_the_mean(self):
        _, _, gradients = self.logistic()
        stacked = np.array([np.concatenate([g["low"], g["high"]]) for g in gradients])
        fisher = weights.task_embedding(gradients)
        ours = np.concatenate([fisher["low"], fisher["high"]])
        np.testing.assert_allclose(ours, (stacked**2).mean(axis=0))
        assert (ours > 5 * stacked.mean(axis=0) ** 2).all()

    def test_approaches_the_fisher_information_of_a_true_model(self):
        x, w, gradients = self.logistic(rows=20000)
        p = 1 / (1 + np.exp(-x @ w))
        information = ((p * (1 - p))[:, None] * x**2).mean(axis=0)
        fisher = weights.task_embedding(gradients)
        np.testing.assert_allclose(np.concatenate(list(fisher.values())), information, rtol=0.06)

    def test_does_not_depend_on_the_order_of_examples(self):
        _, _, gradients = self.logistic()
        forward, backward = (
            weights.task_embedding(gradients),
            weights.task_embedding(gradients[::-1]),
        )
        for name in forward:
            np.testing.assert_allclose(forward[name], backward[name])

    def test_cosine_is_the_mean_over_components(self):
        a, b = {"x": [1.0, 0.0], "y": [1.0, 1.0]}, {"x": [0.0, 2.0], "y": [3.0, 3.0]}
        assert weights.component_cosines(a, b) == {"x": 0.0, "y": pytest.approx(1.0)}
        assert weights.task_embedding_cosine(a, b) == pytest.approx(0.5)

    def test_components_without_gradient_are_left_out(self):
        a, b = {"x": [1.0, 1.0], "frozen": [0.0]}, {"x": [1.0, 1.0], "frozen": [1.0]}
        assert weights.task_embedding_cosine(a, b) == pytest.approx(1.0)

    def test_bad_input(self):
        with pytest.raises(BadRows, match="no gradients"):
            weights.task_embedding([])
        with pytest.raises(BadRows, match="NaN"):
            weights.task_embedding([{"x": [np.nan]}])
        with pytest.raises(BadRows, match="example 2"):
            weights.task_embedding([{"x": [1.0]}, {"y": [1.0]}])
        with pytest.raises(BadRows, match="components"):
            weights.task_embedding_cosine({"x": [1.0]}, {"y": [1.0]})
        with pytest.raises(BadRows, match="no component"):
            weights.task_embedding_cosine({"x": [0.0]}, {"x": [1.0]})


class TestTask2Vec:
    def test_by_hand(self):
        # Shares (1/4, 2/3) and (3/4, 1/3): cosine of those two vectors.
        u, v = np.array([1 / 4, 2 / 3]), np.array([3 / 4, 1 / 3])
        expected = 1 - u @ v / np.linalg.norm(u) / np.linalg.norm(v)
        assert weights.task2vec_distance([1.0, 4.0], [3.0, 2.0]) == pytest.approx(expected)

    def test_equal_tasks_and_disjoint_tasks(self):
        f = np.abs(RANDOM.normal(size=30))
        assert weights.task2vec_distance(f, f) == pytest.approx(0.0, abs=1e-12)
        assert weights.task2vec_distance([1.0, 0.0], [0.0, 1.0]) == pytest.approx(1.0)

    def test_symmetry_and_common_scale(self):
        a, b = np.abs(RANDOM.normal(size=(2, 30)))
        assert weights.task2vec_distance(a, b) == pytest.approx(weights.task2vec_distance(b, a))
        scaled = weights.task2vec_distance(7 * a, 7 * b)
        assert scaled == pytest.approx(weights.task2vec_distance(a, b))

    def test_asymmetric_form_subtracts_the_distance_to_the_trivial_task(self):
        a, b, trivial = np.abs(RANDOM.normal(size=(3, 30)))
        forth = weights.task2vec_distance(a, b, trivial, alpha=0.5)
        back = weights.task2vec_distance(b, a, trivial, alpha=0.5)
        plain = weights.task2vec_distance(a, b)
        assert forth == pytest.approx(plain - 0.5 * weights.task2vec_distance(a, trivial))
        assert back == pytest.approx(plain - 0.5 * weights.task2vec_distance(b, trivial))

    @pytest.mark.parametrize("bad", [[1.0], [1.0, -1.0], [np.nan, 1.0]])
    def test_bad_input(self, bad):
        with pytest.raises(BadRows):
            weights.task2vec_distance([1.0, 1.0], bad)
        with pytest.raises(BadRows, match="zero"):
            weights.task2vec_distance([0.0, 0.0], [0.0, 0.0])


class TestGradientCosine:
    def test_averages_over_pairs_of_heads(self):
        a = np.array([[1.0, 0.0], [0.0, 3.0]])
        b = np.array([[2.0, 0.0], [1.0, 1.0]])
        root = 1 / np.sqrt(2)
        assert weights.gradient_cosine(a, b) == pytest.approx((1 + root + 0 + root) / 4)

    def test_bad_input(self):
        with pytest.raises(BadRows, match="zero"):
            weights.gradient_cosine(np.zeros((2, 3)), np.ones((2, 3)))
        with pytest.raises(BadRows):
            weights.gradient_cosine(np.ones((2, 3)), np.ones((2, 4)))


class TestEsm:
    def test_a_map_that_exists_is_found(self):
        plain, _ = blobs(300, 8, seed=1)
        turn = RANDOM.normal(size=(8, 5))
        target, labels = blobs(200, 8, distance=2.0, seed=2)
        expected = logme(target @ turn + 1.0, labels)
        value = weights.esm_logme(plain, plain @ turn + 1.0, target, labels, ridge=1e-9)
        assert value == pytest.approx(expected, abs=1e-5)

    def test_the_map_is_least_squares_with_an_intercept(self):
        plain = RANDOM.normal(size=(50, 3))
        tuned = plain @ RANDOM.normal(size=(3, 2)) + 5.0 + 0.1 * RANDOM.normal(size=(50, 2))
        expected = np.linalg.lstsq(np.hstack([plain, np.ones((50, 1))]), tuned, rcond=None)[0]
        found = weights.embedding_map(plain, tuned, ridge=0.0)
        np.testing.assert_allclose(found, expected, atol=1e-10)
        np.testing.assert_allclose(
            weights.mapped(plain, found), np.hstack([plain, np.ones((50, 1))]) @ expected
        )

    def test_an_identity_map_gives_plain_logme(self):
        plain, _ = blobs(300, 8, seed=1)
        target, labels = blobs(200, 8, seed=2)
        value = weights.esm_logme(plain, plain, target, labels, ridge=1e-9)
        assert value == pytest.approx(logme(target, labels), abs=1e-5)

    def test_bad_input(self):
        plain, labels = blobs(60, 8)
        with pytest.raises(BadRows):
            weights.esm_logme(plain, plain[:-1], plain, labels)
        with pytest.raises(BadRows):
            weights.esm_logme(plain, plain, plain[:, :4], labels)


def test_noise_ceiling():
    assert weights.noise_ceiling(0.81, 0.49) == pytest.approx(0.63)
    assert weights.noise_ceiling(-0.1, 0.49) == 0.0


def test_nothing_to_compare_is_refused():
    with pytest.raises(BadRows, match="no components"):
        weights.task_vector_cosine({}, {}, {})
    with pytest.raises(BadRows, match="the same"):
        weights.embedding_map(np.ones((6, 2)), np.arange(12.0).reshape(6, 2))
