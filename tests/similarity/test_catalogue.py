import inspect
import subprocess
import sys
from dataclasses import replace
from functools import partial

import pytest

from helpers.errors import HelpfulError, UnknownName
from helpers.similarity import catalogue, features
from helpers.similarity.catalogue import Measure


@pytest.fixture
def mine():
    measure = Measure("mine", "custom", ("target.labels",), lambda labels: 1.0)
    return catalogue.register(measure)


def test_registered_measures_are_listed_and_found(mine):
    assert catalogue.get("mine") is mine and catalogue.names()[-1] == "mine"
    assert catalogue.names("custom") == ["mine"]
    assert catalogue.table()[-1]["needs"] == "target.labels"
    catalogue.register(mine, replace=True)
    known = replace(catalogue.get("logme"), source="mine")
    catalogue.register(known, replace=True)
    assert catalogue.added() == ["logme", "mine"]
    with pytest.raises(UnknownName, match="Did you mean 'logme'"):
        catalogue.get("logmee")


@pytest.mark.parametrize(
    "change, message",
    [
        ({"family": "texts"}, "family of measures 'texts'.*'text'"),
        ({"needs": ("target.label",)}, "array 'target.label'.*'target.labels'"),
        ({"needs": ("target.labels", "target.features")}, "cannot take 2 arrays"),
        ({"needs": "target.labels"}, "a tuple was expected"),
        ({"name": "logme"}, "exists; pass replace=True"),
        ({"name": "my measure/1"}, "names a column and a file"),
    ],
)
def test_a_measure_that_cannot_work_is_refused_at_once(mine, change, message):
    with pytest.raises(HelpfulError, match=message):
        catalogue.register(replace(mine, **({"name": "other"} | change)))


def test_key_follows_the_definition_and_is_the_same_in_every_process():
    first = Measure("m", "custom", ("target.labels",), lambda labels: 1.0)
    second = Measure("m", "custom", ("target.labels",), lambda labels: 2.0)
    assert first.key != second.key
    assert first.key != replace(first, needs=("intermediate.labels",)).key
    one, two = (partial(max, key) for key in (1, 2))
    assert replace(first, function=one).key != replace(first, function=two).key
    modules = "catalogue features reliability representations text".split()
    code = "import sys; " + "; ".join(f"import helpers.similarity.{name}" for name in modules)
    code += "; print([m for m in ('torch', 'transformers', 'datasets') if m in sys.modules])"
    code += "; measures = helpers.similarity.catalogue"
    code += "; print(*(measures.get(name).key for name in measures.names()))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy, keys = out.stdout.splitlines()
    assert heavy == "[]"  # the pure parts import none of them
    assert keys.split() == [catalogue.get(name).key for name in catalogue.names()]


PROMISED = """
text_embedding sentence_embedding token_similarity tfidf vocabulary_overlap pseudo_perplexity mmd
domain_error same_format same_inputs label_names label_entropy label_count leep nleep nce logme
h_score transrate gbc knn_probe linear_probe early_score cka rsa svcca pwcca task_embedding
task2vec task2vec_asymmetric gradient_cosine task_vector task_vector_layers esm_logme otdd
alignment_retrieval alignment_cka mlm_drift
"""


def test_the_catalogue_is_whole_and_every_function_names_its_source():
    assert set(PROMISED.split()) <= set(catalogue.names())
    found = [catalogue.get(name) for name in catalogue.names()]
    assert {measure.family for measure in found} | {"custom"} == set(catalogue.FAMILIES)
    assert all(catalogue.needs().values())
    assert {need for measure in found for need in measure.needs} <= set(catalogue.needs())
    assert all(measure.source for measure in found)
    own = [f for f in vars(features).values() if getattr(f, "__module__", "") == features.__name__]
    public = [f for f in own if f.__name__[0] != "_" and f is not features.probe_predictions]
    assert len(public) == 9
    assert all("Source: " in inspect.getdoc(function) for function in public)
