import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import similarity
from helpers.errors import HelpfulError, UnknownName
from helpers.similarity import reliability as measuring


def grid(intermediates=9, targets=12):
    names = [(f"i{i}", f"t{t}") for i in range(intermediates) for t in range(targets)]
    return [n[0] for n in names], [n[1] for n in names]


class TestWithin:
    def test_is_double_centring_and_shows_what_is_between_targets(self):
        random = np.random.default_rng(0)
        values = random.normal(size=(9, 12))
        centred = values - values.mean(0) - values.mean(1, keepdims=True) + values.mean()
        found = measuring.within(values.ravel(), *grid())
        np.testing.assert_allclose(found, centred.ravel(), atol=1e-10)
        target = np.tile(10 * random.normal(size=12), 9)
        a, b = (target + random.normal(size=108) for _ in range(2))
        inner = [measuring.within(v, *grid()) for v in (a, b)]
        assert measuring.agreement(a, b)[0] > 0.9 and abs(measuring.agreement(*inner)[0]) < 0.3

    @settings(max_examples=20, deadline=None)
    @given(st.integers(0, 1000))
    def test_effects_of_tasks_leave_nothing_even_with_gaps(self, seed):
        random = np.random.default_rng(seed)
        values = (random.normal(size=(9, 1)) + 10 * random.normal(size=(1, 12))).ravel()
        values[random.permutation(108)[:20]] = np.nan
        found = measuring.within(values, *grid())
        assert (np.isnan(found) == np.isnan(values)).all()
        assert np.nanmax(np.abs(found)) == 0.0


def test_summary_of_a_table():
    random = np.random.default_rng(0)
    truth = random.normal(size=108)
    names = ("value", "second", "half_a", "half_b")
    columns = {name: truth + random.normal(size=108) for name in names}
    found = summary((9, 12), **columns).iloc[0]
    half = np.corrcoef(columns["half_a"], columns["half_b"])[0, 1]
    seeds = np.corrcoef(columns["value"], columns["second"])[0, 1]
    assert found["reliability"] == pytest.approx(2 * half / (1 + half))
    assert found["seed_reliability"] == pytest.approx(seeds)
    assert 0 < found["reliability_within"] < 1 and found["reliability_note"] == ""


def summary(size, **columns):
    names = grid(*size)
    table = pd.DataFrame({"intermediate": names[0], "target": names[1], "language": "en"})
    given = {"value": range(len(table)), "second": np.nan, "half_a": np.nan, "half_b": np.nan}
    return measuring.summarise(table.assign(measure="m", **{"reason": "", **given, **columns}))


NOTES = "split half: nothing in it is sampled; two seeds: no dyad has a value of a second seed"


@pytest.mark.parametrize(
    ("columns", "note"),
    [
        ({}, NOTES),
        ({"value": np.nan}, "no dyad has a value"),
        ({"reason": "half: too few rows"}, "split half: the halves are too small (see reason)"),
        ({"second": 1.0}, "two seeds: the values do not vary over the dyads"),
        ({"second": [1.0, 2, 4, 3] + 8 * [np.nan]}, "two seeds: 4 dyads have both values; 5 are"),
        ({"second": np.arange(12.0)}, "two seeds, within: nothing is left once task effects"),
    ],
)
def test_a_reliability_that_does_not_exist_says_why(columns, note):
    found = summary((3, 4), **columns).iloc[0]
    assert note in found["reliability_note"]
    assert np.isnan(found["reliability"]) and np.isnan(found["reliability_within"])


def test_every_measure_of_arrays_has_noise_and_only_those_with_labels_follow_classes():
    found = similarity.independence(classes=(2,), repeats=1, rows=300, columns=20)
    # Facts of tasks have no noise, and a score is no measure of arrays.
    without = set(similarity.names()) - set(found["measure"])
    assert without == {"same_format", "same_inputs", "early_score"}
    found = similarity.independence(["cka", "leep"], classes=(2, 8), repeats=2, rows=200, columns=8)
    each = found.groupby("measure")["classes"].agg(sorted).to_dict()
    assert each == {"cka": [0, 0], "leep": [2, 2, 8, 8]}
    with pytest.raises(UnknownName):
        similarity.independence(["logmee"])
    with pytest.raises(HelpfulError, match="needs intermediate.facts"):
        similarity.independence(["same_format"])
    # A reader's measure has noise, too.
    needs, function = ("intermediate.texts", "target.texts"), lambda a, b: len(a[0]) - len(b[0])
    mine = similarity.Measure("mine", "custom", needs, function)
    found = similarity.independence([mine], classes=(2,), repeats=3, rows=50)
    assert len(found) == 3 and abs(found["value"].mean()) < 100


def test_what_is_centred_is_centred_on_zero():
    names = ["text_embedding", "cka", "rsa", "knn_probe", "gradient_cosine", "task_vector"]
    names += ["alignment_cka", "alignment_retrieval", "pseudo_perplexity", "mlm_drift", "mmd"]
    found = similarity.independence(names, classes=(4,), repeats=12, rows=300, columns=20)
    by_name = found.groupby("measure")["value"]
    z = by_name.mean() / (by_name.std() / np.sqrt(by_name.count()))
    assert (z.abs() < 4).all(), z
    # Noise is drawn anew, and again the same.
    first, again = (similarity.independence(["cka"], (2,), 2, 50, 4)["value"] for _ in range(2))
    assert first.tolist() == again.tolist() and first.nunique() == 2


def test_raw_scores_that_follow_the_number_of_classes_are_shown_to():
    names = ["logme", "transrate", "gbc", "leep"]
    found = similarity.independence(names, classes=(2, 8, 32), repeats=2, rows=600, columns=20)
    means = found.groupby(["measure", "classes"])["value"].mean().unstack()
    assert (means.diff(axis=1).iloc[:, 1:].loc[["logme", "transrate"]] > 0).all(axis=None)
    assert (means.diff(axis=1).iloc[:, 1:].loc[["gbc", "leep"]] < 0).all(axis=None)
    # Corpora of one source are nearly the same.
    found = similarity.independence(["tfidf", "token_similarity", "vocabulary_overlap"], repeats=2)
    means = found.groupby("measure")["value"].mean()
    assert means["tfidf"] > 0.98 and means["token_similarity"] > 0.9
    assert 0.3 < means["vocabulary_overlap"] < 0.95  # rare words occur in one sample only
