"""Values known by hand, from bounds or from other people's tests: function, arguments, value."""

import numpy as np
import pytest
from scipy import stats
from scipy.spatial import distance
from sklearn.datasets import load_iris

from helpers import tasks
from helpers.similarity import catalogue
from helpers.similarity import features as f
from helpers.similarity import reliability as rel
from helpers.similarity import representations as r
from helpers.similarity import text as t
from tests.similarity.shared import blobs, wave

X, Y = load_iris(return_X_y=True)
THREE, SKEWED = np.arange(60) % 3, np.repeat([0, 1, 2], [50, 30, 20])
NOTHING = -stats.entropy([0.5, 0.3, 0.2])
SOFT, TWO = np.random.default_rng(0).dirichlet(np.ones(3), 90), np.arange(90) % 2
SAME = np.concatenate([blobs(60, 3, distance=0.0)[0]] * 3)
LINE, TIES = np.array([[0.0], [0.8], [2.0], [10.0], [11.0], [12.5]]), np.array([0, 0, 1, 1, 1, 0])
FIFTY, OTHERS = np.arange(500) % 50, 100 + np.arange(500) % 50
EVEN, UNEVEN = [0, 1, 2, 3] * 5, [0] * 15 + [1] * 5
EYE, TWICE = np.eye(4), np.repeat(np.eye(3), 2, axis=0)
A, B = wave(12, 3, 0.7), wave(12, 3, 0.4) + 0.3
COST = r.squared_distances(A, B)
GAUSSIANS = [0.0, 0], np.diag([4.0, 9]), [3.0, 4], np.diag([1.0, 16])
FAR, NOISE = blobs(distance=40.0), np.random.default_rng(1).normal(size=(100, 200))
BASE = {"one": np.ones((4, 3)), "two": np.ones(5)}
UP, FAST, DOWN = ({**BASE, "one": BASE["one"] + step} for step in (1.0, 5.0, -2.0))
BOTH = {"one": BASE["one"] - 1, "two": BASE["two"] + 3}
SINGLE = {"w": np.ones(9, np.float32)}
NUDGED = {"w": SINGLE["w"] + np.float32(1e-6)}
SHARES = np.array([1 / 4, 2 / 3]), np.array([3 / 4, 1 / 3])
E, OF = {"x": [1.0, 0.0], "y": [1.0, 1.0]}, {"x": [0.0, 2.0], "y": [3.0, 3.0]}

SAME_FORMAT = catalogue.get("same_format").function

VALUES = [
    # Published: tests of transformer-ranker (MIT), in single precision; it divides H by N - 1.
    (f.logme, (X, Y), pytest.approx(-0.16006022, abs=1e-6)),
    (f.h_score, (X, Y), pytest.approx(1.177842480406727 * 149 / 150, abs=1e-6)),
    *((f.knn_probe, (X, Y, k), v) for k, v in ((1, 0.96), (3, 0.96), (5, 29 / 30), (13, 29 / 30))),
    # A head that knows the label, one that says nothing, one with a class that never occurs.
    (f.leep, (np.eye(5)[THREE], THREE), 0.0),
    (f.nce, (THREE + 7, THREE), 0.0),
    (f.leep, (np.full((100, 4), 0.25), SKEWED), NOTHING),
    (f.nce, (np.zeros(100), SKEWED), NOTHING),
    (f.leep, (np.hstack([SOFT, np.zeros((90, 1))]), TWO), f.leep(SOFT, TWO)),
    # Source 0 holds labels (a, a, b), source 1 holds (b): -3/4 H(1/3).
    (f.nce, ([0, 0, 0, 1], ["a", "a", "b", "b"]), -0.75 * stats.entropy([2 / 3, 1 / 3])),
    (f.nleep, blobs(distance=12.0), pytest.approx(0.0, abs=0.01)),
    (f.gbc, (SAME, np.repeat([0, 1, 2], 60)), -6.0),
    (f.gbc, FAR, pytest.approx(0.0, abs=1e-6)),
    (f.h_score, (NOISE, np.arange(100) % 3, False), 2.0),
    # Rows 0, 1, 3 and 4 see one vote each way, the nearer one right; rows 2 and 5 see two wrong.
    (f.knn_probe, (LINE, TIES, 2), 4 / 6),
    (f.linear_probe, blobs(distance=12.0), 1.0),
    (t.js_divergence, ([1, 0], [0, 1]), 1.0),
    (t.js_divergence, ([1, 2, 3], [2, 4, 6]), pytest.approx(0.0, abs=1e-15)),
    (t.token_similarity, (FIFTY, FIFTY), 1.0),
    # Each piece is counted once more: 11 to 1 on either side.
    (t.token_similarity, (FIFTY, OTHERS), stats.entropy([11 / 12, 1 / 12], base=2)),
    (t.vocabulary_overlap, (FIFTY, FIFTY), 1.0),
    (t.vocabulary_overlap, (FIFTY, OTHERS), 0.0),
    (t.vocabulary_overlap, ([1, 2, 3], [2, 3, 4]), 2 / 4),
    (t.pseudo_perplexity_change, ([3.0, 5.0], [2.0, 2.0]), 2.0),
    (SAME_FORMAT, (tasks.get("mnli"), tasks.get("qqp")), 1.0),
    (SAME_FORMAT, (tasks.get("mnli"), tasks.get("squad1")), 0.0),
    (catalogue.get("same_inputs").function, (2, 2), 1.0),
    (catalogue.get("same_inputs").function, (1, 2), 0.0),
    (t.label_entropy_similarity, (EVEN, EVEN), 0.0),
    (t.label_entropy_similarity, (EVEN, UNEVEN), -abs(np.log(4) - stats.entropy([0.75, 0.25]))),
    (t.label_count_similarity, (EVEN, UNEVEN), -np.log(2)),
    (t.label_count_similarity, (EVEN, EVEN), 0.0),
    (t.label_name_cosine, (EYE, EYE[::-1]), 1.0),
    (t.label_name_cosine, (EYE[:1], EYE[1:]), 0.0),
    # One name of two is shared: the other finds nothing, the single one finds itself.
    (t.label_name_cosine, (EYE[:2], EYE[:1]), (0.5 + 1.0) / 2),
    (r.retrieval_accuracy, (EYE, EYE[[0, 1, 3, 2]]), 0.5),
    (r.retrieval_accuracy, (TWICE, TWICE), 1.0),
    (r.alignment_drift, ((A, B), (A, B)), 0.0),
    # POT 0.9.7 on the same arrays.
    (r.transport_cost, (COST,), 1.134554292865285),
    (r.gaussian_distance, (A.mean(0), A.T @ A / 12, B.mean(0), B.T @ B / 12), 0.8819862634030359),
    (r.gaussian_distance, GAUSSIANS, 25 + (2 - 1) ** 2 + (3 - 4) ** 2),
    (r.gaussian_distance, (A[0], np.cov(A.T)) * 2, pytest.approx(0.0, abs=1e-12)),
    (r.otdd, (X, Y, X[::-1], Y[::-1]), pytest.approx(0.0, abs=1e-6)),
    # The direction of a task vector counts, not its length; components left alone do not.
    (r.task_vector_cosine, (BASE, UP, FAST), 1.0),
    (r.task_vector_cosine, (BASE, UP, DOWN), -1.0),
    (r.task_vector_cosine, (SINGLE, NUDGED, NUDGED), 1.0),
    (r.task_vector_cosines, (BASE, UP, BOTH), {"one": -1.0}),
    (r.task_embedding_cosine, (E, OF), 0.5),
    (r.task_embedding_cosine, ({**E, "z": [0.0]}, {**E, "z": [1.0]}), 1.0),
    (r.task2vec_distance, ([1.0, 4.0], [3.0, 2.0]), distance.cosine(*SHARES)),
    (r.task2vec_distance, (COST[0], COST[0]), pytest.approx(0.0, abs=1e-12)),
    (r.task2vec_distance, ([1.0, 0.0], [0.0, 1.0]), 1.0),
    (rel.spearman_brown, (0.5,), 2 / 3),
    (rel.spearman_brown, (1.0,), 1.0),
    (rel.spearman_brown, (-0.4,), -0.4),
    (rel.noise_ceiling, (0.81, 0.49), 0.63),
    (rel.noise_ceiling, (-0.1, 0.49), 0.0),
    # Unknown values are left out.
    (lambda *of: rel.agreement(*of)[0], ([1.0, 2, 3, 4, 5, np.nan], [2.0, 4, 6, 8, 10, 0]), 1.0),
]


@pytest.mark.parametrize("function, arguments, value", VALUES)
def test_value(function, arguments, value):
    known = isinstance(value, type(pytest.approx(0.0)))
    assert function(*arguments) == (value if known else pytest.approx(value, nan_ok=True))
