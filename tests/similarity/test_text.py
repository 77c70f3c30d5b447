import json
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon
from sklearn.feature_extraction.text import TfidfTransformer
from sklearn.metrics.pairwise import rbf_kernel

from helpers import tasks
from helpers.errors import MissingData
from helpers.similarity import text

weights = st.lists(st.floats(0, 100), min_size=4, max_size=4).filter(lambda w: sum(w) > 1e-6)


@settings(max_examples=50, deadline=None)
@given(weights, weights)
def test_js_divergence_agrees_with_scipy(p, q):
    expected = jensenshannon(p, q, base=2) ** 2
    assert text.js_divergence(p, q) == pytest.approx(expected, abs=1e-9)


def test_a_longer_sample_of_the_same_source_does_not_look_different():
    random = np.random.default_rng(0)
    chance = 1 / np.arange(1, 2001)
    draw = lambda n: random.choice(2000, n, p=chance / chance.sum())  # noqa: E731
    small, large, other = draw(2000), draw(40000), draw(2000)
    same = text.token_similarity(small, other)
    assert text.token_similarity(small, large) == pytest.approx(same, abs=0.02)
    counts = [text.piece_counts(x, 2000) for x in (small, large)]
    unmatched = 1 - text.js_divergence(*counts)
    assert abs(unmatched - text.token_similarity(small, large)) > 0.02  # what matching removes
    a, b = text.matched(np.arange(10), np.arange(1000))
    assert len(a) == len(b) == 10 and len(set(b)) == 10
    assert (text.matched(np.arange(10), np.arange(1000))[1] == b).all()


def test_tfidf_agrees_with_scikit_learn():
    texts = np.random.default_rng(1).poisson(0.4, size=(30, 20))
    transformer = TfidfTransformer(norm=None).fit(texts)
    a, b = texts[:12].sum(axis=0), texts[12:].sum(axis=0)
    # The weights are linear in counts, so a corpus is the sum of its texts.
    x, y = (transformer.transform(v[None]).toarray()[0] for v in (a, b))
    expected = x @ y / np.linalg.norm(x) / np.linalg.norm(y)
    frequency = (texts > 0).sum(axis=0)
    assert text.tfidf_cosine(a, b, frequency, 30) == pytest.approx(expected)
    # A piece in every text counts less than a rare one.
    common, rare = [10, 0, 1], [10, 1, 0]
    weighted = text.tfidf_cosine(common, rare, [20, 1, 1], 20)
    assert weighted < text.tfidf_cosine(common, rare, [20, 20, 20], 20)


class TestMmd:
    @pytest.mark.parametrize("rows", [2, 3, 4, 7, 10])
    def test_agrees_with_the_definition_and_the_median_over_pairs(self, rows):
        a, b = np.random.default_rng(rows).normal(size=(2, rows, 3)) + [[[0.0]], [[0.5]]]
        b = np.concatenate([b, b[:1] + 1])
        points = np.concatenate([a, b])
        distance = ((points[:, None] - points[None]) ** 2).sum(axis=2)
        square = np.median(distance[np.triu_indices(len(points), 1)])
        kernel = lambda x, y: rbf_kernel(x, y, gamma=1 / (2 * square))  # noqa: E731
        within = [(kernel(x, x).sum() - len(x)) / len(x) / (len(x) - 1) for x in (a, b)]
        assert text.mmd(a, b) == pytest.approx(sum(within) - 2 * kernel(a, b).mean())


@pytest.mark.parametrize("rows, shift, error", [(300, 0, 0.5), (300, 6, 0.0), (40, 0, 0.5)])
def test_the_domain_classifier_errs_by_half_within_one_domain(rows, shift, error):
    # Always answering the larger domain would be right in 88 % of texts, and is still half wrong.
    random = np.random.default_rng(0)
    a, b = random.normal(size=(300, 8)), random.normal(size=(rows, 8)) + shift
    assert text.domain_classifier_error(a, b) == pytest.approx(error, abs=0.08)


XTREME_R = sorted({c for name in tasks.names(group="xtreme-r") for c in tasks.get(name).languages})


class TestLanguages:
    def test_every_language_is_there_and_columns_are_complete_but_for_the_documented_gaps(self):
        facts = text.languages()
        assert list(facts.index) == XTREME_R
        gaps = {name: set(facts.index[facts[name].isna()]) for name in facts.columns}
        assert gaps.pop("xlmr_gib") == {"ht", "qu", "wo", "yo"}
        assert gaps.pop("genetic") == {"eu", "qu"}
        assert gaps.pop("inventory_observed") == {"et", "ht", "kk"}
        assert len(gaps.pop("phonological_observed")) >= 12
        assert all(not missing for missing in gaps.values()), gaps

    def test_flags_and_distances_follow_from_the_values(self):
        facts = text.languages()
        assert (facts["in_xlmr"] == facts["xlmr_gib"].notna()).all()
        assert (facts["same_script"] == (facts["script"] == "Latn")).all()
        assert (facts["same_family"] == (facts["family"] == "Indo-European")).all()
        for kind in ("syntactic", "phonological", "inventory"):
            assert facts[f"{kind}_imputed"].between(0, 1).all()
            assert (facts[f"{kind}_observed"].isna() == (facts[f"{kind}_shared"] < 10)).all()
        # English is at distance zero, and nothing is nearer.
        for column in ("syntactic", "phonological", "inventory", "genetic", "geographic_km"):
            assert facts.loc["en", column] == 0 == facts[column].min()
        # Known facts
        assert facts.loc[["de", "nl", "af", "en"], "branch"].eq("Germanic").all()
        assert facts.loc[["fr", "es", "ro", "ht"], "branch"].eq("Romance").all()
        assert facts.index[facts["isolate"] == 1].tolist() == ["eu"]
        assert facts.loc["nl", "geographic_km"] == pytest.approx(421, abs=2)
        # Neighbours of English by syntax, and the far end of the scale.
        assert facts["syntactic"].nsmallest(3).index.tolist() == ["en", "nl", "de"]
        assert facts["syntactic"].idxmax() == "my"

    def test_scripts_are_those_of_the_language_names(self, tmp_path):
        file = Path(__file__).parent / "scripts.json"
        letters, own_names = json.loads(file.read_text("utf-8")).values()
        scripts = text.languages()["script"]
        for language, name in own_names.items():
            words = {unicodedata.name(c).split()[0] for c in name if c.isalpha()}
            assert words == {letters[scripts[language]]}, language
        latin = set(scripts.index[scripts == "Latn"])
        assert latin | set(own_names) == set(XTREME_R)
        with pytest.raises(MissingData, match=r"languages\.csv"):
            text.languages(tmp_path / "languages.csv")
