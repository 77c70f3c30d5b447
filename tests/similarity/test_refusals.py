"""Arrays of which no measure must make a number: function, arguments, and what the refusal says."""

import numpy as np
import pytest

from helpers.errors import BadRows
from helpers.similarity import features as f
from helpers.similarity import representations as r
from helpers.similarity import text as t
from tests.similarity.shared import blobs

RANDOM = np.random.default_rng(0)
X, Y = blobs(60)
A, B = RANDOM.normal(size=(2, 20, 3))
MIDDLE = np.vstack([A[1:], A[1:].mean(axis=0)])  # its last row is where the centre is
NAN = np.where(np.arange(60).reshape(20, 3) == 7, np.nan, A)
SOFT, SPOT = RANDOM.dirichlet(np.ones(3), 60), np.arange(180).reshape(60, 3) == 13
W = {"layer.0": RANDOM.normal(size=(4, 3)), "layer.1": RANDOM.normal(size=5)}
MOVED = W | {"layer.0": W["layer.0"] + 1}
LABELLED = [f.logme, f.h_score, f.nleep, f.transrate, f.gbc, f.knn_probe, f.linear_probe]
PAIRED = [r.linear_cka, r.rsa, r.svcca, r.pwcca]
UNLABELLED = [], [0.0, np.nan, 1.0, 1.0], [0.2, 0.1, 0.4, 0.3], [[0, 1], [1, 0]]
UNCUT = [], [-1, 2], [0.5, 1.0], [[1, 2]]

REFUSED = [
    *((m, (np.where(X > X.max() - 1e-9, np.nan, X), Y), "NaN or infinite") for m in LABELLED),
    *((m, (np.where(X > X.max() - 1e-9, np.inf, X), Y), "NaN or infinite") for m in LABELLED),
    *((m, (X, np.zeros(60, int)), "at least two classes") for m in LABELLED),
    *((m, (X, np.arange(60)), "more rows than classes") for m in LABELLED),
    *((m, (X[:-1], Y), "one label per row") for m in LABELLED),
    *((m, (X[:0], Y[:0]), "0 rows; at least 2") for m in LABELLED),
    *((m, (X[:, 0], Y), "expected .rows, columns") for m in LABELLED),
    *((m, (np.ones_like(X), Y), "every row of the features is the same") for m in LABELLED),
    *((m, (X, np.where(Y == 0, np.nan, Y)), "not whole numbers") for m in LABELLED),
    *((m, (X, Y + 0.5), "not whole numbers") for m in LABELLED),
    *((m, (X, np.where(np.arange(60) < 5, -100, Y)), "5 of 60 labels are -100") for m in LABELLED),
    (f.linear_probe, (np.eye(12), [0] * 11 + [1]), "Sample more rows or leave rare classes out"),
    (f.gbc, (X, np.arange(60) == 3), "class True has 1 rows"),
    (f.nleep, (X[:14], Y[:14]), "14 rows for 15 clusters"),
    (f.knn_probe, (X, Y, 60), "60 neighbours from 60 rows"),
    *((f.leep, (np.where(SPOT, bad, SOFT), Y), ".") for bad in (-0.1, 0.5, np.nan)),
    *((f.nce, (bad, [0, 0, 1, 1]), "source labels") for bad in UNLABELLED),
    *((m, (A, B[:19]), "20 and 19 rows") for m in PAIRED),
    *((m, (A[:3], B[:3]), "3 rows; at least 4") for m in PAIRED),
    *((m, (NAN, B), "NaN or infinite") for m in PAIRED),
    *((m, (np.ones((20, 3)), B), ".") for m in PAIRED),
    *((m, (A[:, 0], B), "expected .rows, columns") for m in PAIRED),
    (r.rsa, (MIDDLE, B), "no direction"),
    (r.svcca, (r.leading_axes(A), r.leading_axes(B[:19])), "20 and 19 rows"),
    (r.pwcca, (RANDOM.normal(size=(20, 12)), RANDOM.normal(size=(20, 12))), "1 for any data"),
    (r.retrieval_accuracy, (A, B[:, :2]), "expected one"),
    (r.retrieval_accuracy, (0 * A, B), "no direction"),
    (r.alignment_drift, ((A, B), (A[:9], B[:9])), "different sentences"),
    (r.transport_cost, (np.full((3, 3), np.nan),), "NaN or infinite"),
    (r.otdd, (X, Y, X[:, :5], Y), "12 and 5 columns"),
    (r.otdd, (X, np.zeros(60), X, Y), "at least two classes"),
    (r.cosine, ([1.0, 2.0], [1.0]), "lengths 2 and 1"),
    (r.cosine, ([0.0, 0.0], [1.0, 2.0]), "no direction"),
    *((r.scalar, (bad,), "expected a finite number") for bad in (np.nan, np.inf)),
    *((t.js_divergence, (bad, [1, 1]), ".") for bad in ([1, 1, 1], [-1, 2], [0, 0], [np.nan, 1])),
    *((t.token_similarity, ([1, 2, 3], bad), ".") for bad in UNCUT),
    *((t.vocabulary_overlap, ([1, 2, 3], bad), ".") for bad in UNCUT),
    *((t.piece_counts, (bad, 10), ".") for bad in UNCUT),
    (t.piece_counts, ([3, 10], 10), "outside a vocabulary of 10"),
    (t.tfidf_cosine, ([0, 0], [1, 1], [1, 1], 2), "is the text empty"),
    (t.tfidf_cosine, ([1, 1], [1, 1], [1, 5], 2), "5 of 2 texts"),
    (t.tfidf_cosine, ([1, 1], [1, 1], [1, 1, 1], 2), "same vocabulary"),
    (t.mmd, (A, B[:, :2]), "3 and 2 columns"),
    (t.mmd, (np.ones((5, 2)), np.ones((5, 2))), "same embedding"),
    (t.domain_classifier_error, (np.eye(4), np.eye(5)), "4 and 5 columns"),
    (t.pseudo_perplexity_change, ([1.0], [1.0, 2.0]), "use the same texts"),
    (t.whitening, (A,), "a square array"),
    (t.whitening, (-np.eye(3),), "not positive definite"),
    (t.label_entropy_similarity, ([0, 1, 0], [1, 1, 1]), "two classes"),
    (t.label_count_similarity, ([0, 1, 0], [1, 1, 1]), "two classes"),
    (t.label_name_cosine, (np.eye(3), np.zeros((2, 3))), "no direction"),
    (t.label_name_cosine, (np.eye(3), np.eye(4)), "3 and 4 columns"),
    (r.task_vector_cosine, (W, MOVED, W), "is zero"),
    (r.task_vector_cosine, (W, MOVED, {"layer.0": W["layer.0"]}), "differ in their components"),
    (r.task_vector_cosine, (W, MOVED, W | {"layer.1": np.ones(6)}), "shapes"),
    (r.task_vector_cosine, (W, MOVED, W | {"layer.1": np.full(5, np.nan)}), "NaN"),
    (r.task_vector_cosine, ({}, {}, {}), "no components"),
    (r.task_vector_cosines, (W, W, W), "frozen"),
    (r.task_embedding_cosine, ({"x": [1.0]}, {"y": [1.0]}), "components"),
    (r.task_embedding_cosine, ({"x": [0.0]}, {"x": [1.0]}), "no component"),
    *((r.task2vec_distance, ([1.0, 1.0], bad), ".") for bad in ([1.0], [1.0, -1.0], [np.nan, 1.0])),
    (r.task2vec_distance, ([0.0, 0.0], [0.0, 0.0]), "zero"),
    (r.embedding_map, (X, X[:-1]), "60 plain and 59 tuned rows"),
    (r.embedding_map, (np.ones((6, 2)), np.arange(12.0).reshape(6, 2)), "the same"),
    (r.mapped, (X, np.ones((5, 4))), "from 4 dimensions cannot take 12"),
]


@pytest.mark.parametrize("function, arguments, message", REFUSED)
def test_no_number_comes_of_it(function, arguments, message):
    with pytest.raises(BadRows, match=message):
        function(*arguments)
