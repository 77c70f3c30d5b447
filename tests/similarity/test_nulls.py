import numpy as np
import pytest

from helpers.errors import HelpfulError, UnknownName
from helpers.similarity import catalogue, nulls


def test_every_measure_of_arrays_has_a_null():
    given = {m.name for m in nulls._with_noise(None)}
    without = set(catalogue.names()) - given
    # Facts of tasks have no noise, and a score is no measure of arrays.
    assert without == {"same_format", "same_inputs", "early_score"}


def test_measures_without_labels_do_not_follow_classes():
    found = nulls.independence(["cka", "leep"], classes=(2, 8), repeats=2, rows=200, columns=8)
    assert set(found.loc[found["measure"] == "cka", "classes"]) == {0}
    assert set(found.loc[found["measure"] == "leep", "classes"]) == {2, 8}
    assert len(found) == 2 + 4


def test_what_is_centred_is_centred_on_zero():
    names = ["text_embedding", "cka", "rsa", "knn_probe", "gradient_cosine", "task_vector"]
    names += ["alignment_cka", "alignment_retrieval", "pseudo_perplexity", "mlm_drift"]
    found = nulls.independence(names, classes=(4,), repeats=12, rows=300, columns=20)
    by_name = found.groupby("measure")["value"]
    z = by_name.mean() / (by_name.std() / np.sqrt(by_name.count()))
    assert (z.abs() < 4).all(), z


def test_raw_scores_that_follow_the_number_of_classes_are_shown_to():
    names = ["logme", "transrate", "gbc", "leep"]
    found = nulls.independence(names, classes=(2, 8, 32), repeats=2, rows=600, columns=20)
    means = found.groupby(["measure", "classes"])["value"].mean().unstack()
    assert (means.diff(axis=1).iloc[:, 1:].loc[["logme", "transrate"]] > 0).all(axis=None)
    assert (means.diff(axis=1).iloc[:, 1:].loc[["gbc", "leep"]] < 0).all(axis=None)


def test_same_seed_same_noise():
    first = nulls.independence(["cka"], repeats=2, rows=50, columns=4)
    again = nulls.independence(["cka"], repeats=2, rows=50, columns=4)
    assert first["value"].tolist() == again["value"].tolist()
    assert first["value"].nunique() == 2


def test_a_readers_measure_has_a_null_too():
    mine = catalogue.Measure(
        "mine", "custom", ("tuned.features", "target.labels"), lambda x, y: x.mean()
    )
    found = nulls.independence([mine], classes=(2,), repeats=3, rows=50)
    assert abs(found["value"].mean()) < 0.1


def test_corpora_of_one_source_are_nearly_the_same():
    found = nulls.independence(["tfidf", "token_similarity", "vocabulary_overlap"], repeats=2)
    means = found.groupby("measure")["value"].mean()
    assert means["tfidf"] > 0.98 and means["token_similarity"] > 0.9
    assert 0.3 < means["vocabulary_overlap"] < 0.95  # rare words occur in one sample only
    mine = catalogue.Measure(
        "mine", "custom", ("intermediate.texts", "target.texts"), lambda a, b: len(a[0]) - len(b[0])
    )
    assert len(nulls.independence([mine], repeats=2, rows=30)) == 2


def test_bad_input():
    with pytest.raises(UnknownName):
        nulls.independence(["logmee"])
    with pytest.raises(HelpfulError, match="needs intermediate.facts"):
        nulls.independence(["same_format"])
