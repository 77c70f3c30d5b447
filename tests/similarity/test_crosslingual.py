import numpy as np
import pytest

from helpers.errors import BadRows
from helpers.similarity.crosslingual import alignment_drift, retrieval_accuracy
from helpers.similarity.representations import linear_cka
from tests.similarity.shared import rotation


def noise(rows, columns, seed=0):
    return np.random.default_rng(seed).normal(size=(rows, columns))


class TestRetrieval:
    def test_by_hand(self):
        english = np.eye(4)
        other = np.eye(4)[[0, 1, 3, 2]]
        assert retrieval_accuracy(english, other) == 0.5

    def test_directions_are_averaged(self):
        english = np.array([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [-1.0, 0.0]])
        other = np.array([[1.0, 0.05], [1.0, 0.09], [0.0, 1.0], [-1.0, 0.0]])
        forth = [
            np.argmax(e @ (other / np.linalg.norm(other, axis=1, keepdims=True)).T) for e in english
        ]
        back = [
            np.argmax(o @ (english / np.linalg.norm(english, axis=1, keepdims=True)).T)
            for o in other
        ]
        expected = np.mean(
            [f == i for i, f in enumerate(forth)] + [b == i for i, b in enumerate(back)]
        )
        assert retrieval_accuracy(english, other) == pytest.approx(expected)

    def test_length_does_not_matter_and_chunks_do_not_either(self):
        english = noise(1500, 8)
        other = english + 0.5 * noise(1500, 8, 1)
        scaled = other * np.random.default_rng(2).uniform(0.1, 10, (1500, 1))
        value = retrieval_accuracy(english, other)
        assert 0.2 < value < 1.0
        assert retrieval_accuracy(english, scaled) == pytest.approx(value)

    def test_a_repeated_sentence_counts_as_found(self):
        twice = np.repeat(np.eye(3), 2, axis=0)
        assert retrieval_accuracy(twice, twice) == 1.0

    def test_chance(self):
        values = [retrieval_accuracy(noise(50, 20, s), noise(50, 20, 100 + s)) for s in range(20)]
        assert np.mean(values) == pytest.approx(1 / 50, abs=0.02)

    def test_bad_input(self):
        with pytest.raises(BadRows):
            retrieval_accuracy(noise(9, 3), noise(9, 4))
        with pytest.raises(BadRows):
            retrieval_accuracy(np.zeros((9, 3)), noise(9, 3))


class TestDrift:
    def test_a_rotation_of_one_language_hurts_retrieval_but_not_cka(self):
        english = noise(200, 10)
        plain = english, english + 0.01 * noise(200, 10, 1)
        tuned = plain[0], plain[1] @ rotation(10)
        assert alignment_drift(tuned, plain, retrieval_accuracy) < -0.5
        assert alignment_drift(tuned, plain, linear_cka) == pytest.approx(0.0, abs=1e-9)

    def test_no_change_is_no_drift(self):
        pair = noise(50, 4), noise(50, 4, 1)
        assert alignment_drift(pair, pair) == 0.0

    def test_other_sentences_are_refused(self):
        pair = noise(50, 4), noise(50, 4, 1)
        other = noise(49, 4), noise(49, 4, 1)
        with pytest.raises(BadRows, match="different sentences"):
            alignment_drift(other, pair)
