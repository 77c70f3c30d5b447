import numpy as np
import pytest

from helpers.errors import UnknownName
from helpers.metrics.mining import in_first_half
from helpers.retrieving import retrieval_scores
from tests.training import toys


def planted(count, width=16, noise=0.0, seed=0, shift=0.0, growth=1):
    """Queries and candidates whose right pairs point the same way, in mixed order."""
    chance = np.random.default_rng(seed)
    base = chance.standard_normal((count, width))
    other = base + noise * chance.standard_normal((count, width)) + shift
    rows, vectors = [], []
    for number in chance.permutation(count):
        rows.append({"id": f"q{number}", "side": "query", "gold": [f"c{number}"]})
        rows.append({"id": f"c{number}", "side": "candidate", "gold": []})
        vectors += [base[number], other[number] * (1 + growth * number)]  # lengths must not matter
    for number, row in enumerate(rows):
        row["text"] = f"text {number}"
    order = chance.permutation(len(rows))
    return [rows[i] for i in order], np.array(vectors, np.float32)[order]


def scores(metric, rows, vectors, space="raw"):
    return retrieval_scores(toys.task("retrieval", metric=metric), rows, vectors, space)


@pytest.mark.parametrize("metric", ["accuracy", "map@20", "mrr@20", "map", "pair_f1"])
def test_planted_pairs_are_found(metric):
    rows, vectors = planted(60, noise=0.05)
    values = scores(metric, rows, vectors)
    assert next(iter(values.values())) == pytest.approx(1.0)


def test_accuracy_counts_queries_whose_nearest_is_right():
    vectors = np.array([[1, 0], [0, 1], [1, 1], [0.9, 0.1], [0.1, 0.9]], np.float32)
    rows = [
        {"id": "q0", "side": "query", "gold": ["c0"]},
        {"id": "q1", "side": "query", "gold": ["c0", "c1"]},
        {"id": "q2", "side": "query", "gold": ["c9"]},
        {"id": "c0", "side": "candidate", "gold": []},
        {"id": "c1", "side": "candidate", "gold": []},
    ]
    for row in rows:
        row["text"] = row["id"]
    assert scores("accuracy", rows, vectors) == {"accuracy": pytest.approx(2 / 3)}


def test_ranks_of_several_right_candidates():
    """Hand-computed: right candidates at ranks 1 and 3, and at rank 2."""
    angles = {"q0": 0, "c0": 5, "c1": 10, "c2": 20, "q1": 90, "c3": 85, "c4": 80}
    gold = {"q0": ["c0", "c2"], "q1": ["c4"]}
    rows = [
        {"id": name, "side": "query" if name[0] == "q" else "candidate", "text": name}
        | {"gold": gold.get(name, [])}
        for name in angles
    ]
    radians = np.radians(list(angles.values()))
    vectors = np.stack([np.cos(radians), np.sin(radians)], 1).astype(np.float32)
    first = (1 + 2 / 3) / 2
    assert scores("map@20", rows, vectors)["map"] == pytest.approx((first + 1 / 2) / 2)
    assert scores("mrr@20", rows, vectors)["mrr"] == pytest.approx((1 + 1 / 2) / 2)
    assert scores("map@1", rows, vectors)["map"] == pytest.approx((1 + 0) / 2)


def test_a_shift_of_one_side_is_undone_by_centring():
    rows, vectors = planted(80, noise=1.0, shift=20.0, growth=0)
    raw, centred, shifted_back = (
        scores("accuracy", rows, v, space)["accuracy"]
        for v, space in (
            (vectors, "raw"),
            (vectors, "centre"),
            (planted(80, noise=1.0, growth=0)[1], "centre"),
        )
    )
    assert centred > raw and centred == shifted_back


def test_one_wide_direction_is_undone_by_whitening():
    chance = np.random.default_rng(0)
    rows, vectors = planted(80, noise=0.0)
    vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors[:, 0] += 20 * chance.standard_normal(len(vectors))
    raw, white = (
        scores("accuracy", rows, vectors, space)["accuracy"] for space in ("raw", "whiten")
    )
    assert white > raw + 0.2


def test_unknown_spaces_are_named():
    rows, vectors = planted(4)
    with pytest.raises(UnknownName, match="raw"):
        scores("accuracy", rows, vectors, "white")


def test_mined_pairs_are_scored_on_the_half_that_did_not_tune():
    rows, vectors = planted(80, noise=0.05)
    # Queries of the tuned half are all right, a third of the others have no counterpart.
    wrong = [r for r in rows if r["side"] == "query" and not in_first_half(r["id"])]
    lonely = {row["id"] for row in wrong[: len(wrong) // 3]}
    kept = [i for i, row in enumerate(rows) if f"q{row['id'][1:]}" not in lonely]
    rows = [rows[i] for i in kept]
    values = scores("pair_f1", rows, vectors[kept])
    assert values["f1"] == pytest.approx(1.0) and values["best_threshold_f1"] == pytest.approx(1.0)
    for row in rows:  # wrong gold outside the tuned half shows in the score
        if row["side"] == "query" and not in_first_half(row["id"]):
            row["gold"] = ["c-none"]
    assert scores("pair_f1", rows, vectors[kept])["f1"] == 0.0
