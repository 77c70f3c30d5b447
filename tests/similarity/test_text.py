import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon
from sklearn.feature_extraction.text import TfidfTransformer
from sklearn.metrics.pairwise import rbf_kernel

from helpers.errors import BadRows
from helpers.similarity import text
from tests.similarity.shared import rotation

weights = st.lists(st.floats(0, 100), min_size=4, max_size=4).filter(lambda w: sum(w) > 1e-6)


class TestJensenShannon:
    @settings(max_examples=50, deadline=None)
    @given(weights, weights)
    def test_agrees_with_scipy(self, p, q):
        expected = jensenshannon(p, q, base=2) ** 2
        assert text.js_divergence(p, q) == pytest.approx(expected, abs=1e-9)

    def test_bounds(self):
        assert text.js_divergence([1, 0], [0, 1]) == pytest.approx(1.0)
        assert text.js_divergence([1, 2, 3], [2, 4, 6]) == pytest.approx(0.0, abs=1e-15)

    @pytest.mark.parametrize(
        "p, q", [([1, 1], [1, 1, 1]), ([-1, 2], [1, 1]), ([0, 0], [1, 1]), ([np.nan, 1], [1, 1])]
    )
    def test_bad_input(self, p, q):
        with pytest.raises(BadRows):
            text.js_divergence(p, q)


class TestPieces:
    def test_identical_corpora_are_alike_and_disjoint_ones_are_not(self):
        a, b = np.arange(500) % 50, 100 + np.arange(500) % 50
        assert text.token_similarity(a, a) == pytest.approx(1.0)
        assert text.token_similarity(a, b, smoothing=0) == pytest.approx(0.0, abs=1e-12)
        assert text.vocabulary_overlap(a, a) == 1.0
        assert text.vocabulary_overlap(a, b) == 0.0

    def test_overlap_by_hand(self):
        assert text.vocabulary_overlap([1, 2, 3], [2, 3, 4]) == pytest.approx(2 / 4)

    def test_a_longer_sample_of_the_same_source_does_not_look_different(self):
        random = np.random.default_rng(0)
        chance = 1 / np.arange(1, 2001)
        draw = lambda n: random.choice(2000, n, p=chance / chance.sum())  # noqa: E731
        small, large, other = draw(2000), draw(40000), draw(2000)
        same = text.token_similarity(small, other)
        assert text.token_similarity(small, large) == pytest.approx(same, abs=0.02)
        counts = [text.piece_counts(x, 2000) for x in (small, large)]
        unmatched = 1 - text.js_divergence(*counts)
        matched = text.token_similarity(small, large, smoothing=0)
        assert abs(unmatched - matched) > 0.02  # the bias that matching removes

    def test_sizes_are_matched_without_replacement(self):
        a, b = text.matched(np.arange(10), np.arange(1000), seed=3)
        assert len(a) == len(b) == 10 and len(set(b)) == 10
        assert (text.matched(np.arange(10), np.arange(1000), seed=3)[1] == b).all()

    @pytest.mark.parametrize("bad", [[], [-1, 2], [0.5, 1.0], [[1, 2]]])
    def test_bad_pieces(self, bad):
        for measure in (text.token_similarity, text.vocabulary_overlap):
            with pytest.raises(BadRows):
                measure([1, 2, 3], bad)
        with pytest.raises(BadRows):
            text.piece_counts(bad, 10)

    def test_an_id_outside_the_vocabulary_is_refused(self):
        with pytest.raises(BadRows, match="outside a vocabulary of 10"):
            text.piece_counts([3, 10], 10)


class TestTfidf:
    def test_agrees_with_scikit_learn(self):
        random = np.random.default_rng(1)
        texts = random.poisson(0.4, size=(30, 20))
        transformer = TfidfTransformer(norm=None).fit(texts)
        a, b = texts[:12].sum(axis=0), texts[12:].sum(axis=0)
        # The weights are linear in counts, so a corpus is the sum of its texts.
        x, y = (transformer.transform(v[None]).toarray()[0] for v in (a, b))
        expected = x @ y / np.linalg.norm(x) / np.linalg.norm(y)
        frequency = (texts > 0).sum(axis=0)
        assert text.tfidf_cosine(a, b, frequency, 30) == pytest.approx(expected)

    def test_a_piece_in_every_text_counts_less_than_a_rare_one(self):
        common, rare = [10, 0, 1], [10, 1, 0]
        weighted = text.tfidf_cosine(common, rare, [20, 1, 1], 20)
        assert weighted < text.tfidf_cosine(common, rare, [20, 20, 20], 20)

    def test_bad_input(self):
        with pytest.raises(BadRows):
            text.tfidf_cosine([0, 0], [1, 1], [1, 1], 2)
        with pytest.raises(BadRows):
            text.tfidf_cosine([1, 1], [1, 1], [1, 5], 2)
        with pytest.raises(BadRows):
            text.tfidf_cosine([1, 1], [1, 1], [1, 1, 1], 2)


class TestCentredCosine:
    def test_centring_restores_contrast(self):
        random = np.random.default_rng(0)
        tasks = 30.0 + random.normal(size=(10, 64))
        off = ~np.eye(10, dtype=bool)
        unit = tasks / np.linalg.norm(tasks, axis=1, keepdims=True)
        assert (unit @ unit.T)[off].min() > 0.99
        centred = text.centred_cosine(tasks)
        assert centred[off].max() - centred[off].min() > 0.2
        np.testing.assert_allclose(centred, text.centred_cosine(tasks - 30.0), atol=1e-10)

    def test_is_the_cosine_of_deviations_from_the_mean(self):
        tasks = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]])
        centred = text.centred_cosine(tasks)
        assert centred[0, 1] == pytest.approx(0.0)
        assert centred[0, 2] == pytest.approx(-1 / np.sqrt(2))

    def test_whitening_removes_a_dominant_direction(self):
        random = np.random.default_rng(0)
        tasks = random.normal(size=(8, 5))
        stretch = np.diag([100.0, 1, 1, 1, 1])
        plain = text.centred_cosine(tasks, np.eye(5))
        stretched = text.centred_cosine(tasks @ stretch, stretch @ stretch)
        assert np.abs(text.centred_cosine(tasks @ stretch) - plain).max() > 0.5
        # Shrinkage holds the small directions back, so only roughly equal.
        assert np.corrcoef(stretched.ravel(), plain.ravel())[0, 1] > 0.4

    def test_bad_input(self):
        with pytest.raises(BadRows, match="at least 3"):
            text.centred_cosine(np.eye(2))
        with pytest.raises(BadRows, match="equals the mean"):
            text.centred_cosine([[1.0, 0], [-1, 0], [0, 0]])
        with pytest.raises(BadRows, match="covariance has shape"):
            text.centred_cosine(np.eye(4), np.eye(3))


class TestMmd:
    def test_agrees_with_the_definition(self):
        random = np.random.default_rng(0)
        a, b = random.normal(size=(20, 3)), random.normal(size=(15, 3)) + 0.5
        kernel = lambda x, y: rbf_kernel(x, y, gamma=1 / (2 * 1.3**2))  # noqa: E731
        within = [(kernel(x, x).sum() - len(x)) / len(x) / (len(x) - 1) for x in (a, b)]
        expected = sum(within) - 2 * kernel(a, b).mean()
        assert text.mmd(a, b, bandwidth=1.3) == pytest.approx(expected)

    @pytest.mark.parametrize("rows", [2, 3, 4, 7, 10])
    def test_default_bandwidth_is_the_median_over_pairs(self, rows):
        points = np.random.default_rng(rows).normal(size=(rows, 3))
        distance = ((points[:, None] - points[None]) ** 2).sum(axis=2)
        expected = np.median(distance[np.triu_indices(rows, 1)])
        assert text._median_of_pairs(distance) == pytest.approx(expected)

    def test_is_centred_on_zero_for_one_domain(self):
        values = []
        for seed in range(40):
            random = np.random.default_rng(seed)
            values.append(text.mmd(random.normal(size=(50, 10)), random.normal(size=(50, 10))))
        assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(40)

    def test_rotation_scale_and_shift(self):
        random = np.random.default_rng(0)
        a, b = random.normal(size=(30, 6)), random.normal(size=(30, 6)) + 1
        move = lambda x: 100.0 * x @ rotation(6) + 1e4  # noqa: E731
        assert text.mmd(move(a), move(b)) == pytest.approx(text.mmd(a, b), abs=1e-6)

    def test_bad_input(self):
        with pytest.raises(BadRows):
            text.mmd(np.ones((5, 2)), np.ones((5, 3)))
        with pytest.raises(BadRows, match="same embedding"):
            text.mmd(np.ones((5, 2)), np.ones((5, 2)))


class TestDomainClassifier:
    def test_one_domain_gives_one_half_and_two_give_zero(self):
        random = np.random.default_rng(0)
        a, b = random.normal(size=(300, 8)), random.normal(size=(300, 8))
        assert text.domain_classifier_error(a, b) == pytest.approx(0.5, abs=0.08)
        assert text.domain_classifier_error(a, b + 6) == 0.0

    def test_unequal_sizes_do_not_look_alike(self):
        random = np.random.default_rng(0)
        a, b = random.normal(size=(400, 8)), random.normal(size=(40, 8))
        # Always answering the larger domain is right in 91 % of texts, and still half wrong here.
        assert text.domain_classifier_error(a, b) == pytest.approx(0.5, abs=0.08)

    def test_bad_input(self):
        with pytest.raises(BadRows):
            text.domain_classifier_error(np.eye(4), np.eye(5))


def test_pseudo_perplexity_change():
    assert text.pseudo_perplexity_change([3.0, 5.0], [2.0, 2.0]) == pytest.approx(2.0)
    with pytest.raises(BadRows):
        text.pseudo_perplexity_change([1.0], [1.0, 2.0])
