import subprocess
import sys

import pytest

from helpers import metrics
from helpers.errors import BadRows, HelpfulError, UnknownName
from helpers.metrics import registry


@pytest.fixture
def own_metric(monkeypatch):
    monkeypatch.setattr(registry, "_METRICS", dict(registry._METRICS))


def test_a_metric_added_in_a_cell_is_scored_by_name(own_metric):
    metrics.register("length", lambda predictions, golds, scale=1: {"length": scale * len(golds)})
    assert metrics.score("length", "ab", "ab", scale=2) == {"length": 4.0}
    assert metrics.names()[-1] == "length"
    with pytest.raises(HelpfulError, match="replace=True"):
        metrics.register("length", max)
    metrics.register("length", lambda predictions, golds: {"other": 1}, "other", replace=True)
    assert metrics.main("length") == "other"


def test_a_cut_off_is_part_of_the_name():
    ranked, golds = [["x", "y"]], [["y"]]
    assert metrics.score("mrr@1", ranked, golds) == {"mrr": 0.0}
    assert metrics.score("mrr@2", ranked, golds) == {"mrr": 0.5}
    assert metrics.main("map@20") == "map"


@pytest.mark.parametrize("name", ["map@0", "map@x", "accuracy@3"])
def test_a_meaningless_cut_off_is_refused(name):
    with pytest.raises(HelpfulError, match="cut-off"):
        metrics.score(name, [[1]], [[1]])


def test_unknown_metrics_and_options_name_the_valid_ones():
    with pytest.raises(UnknownName, match="'span_f1'"):
        metrics.score("spanf1", [["O"]], [["O"]])
    with pytest.raises(UnknownName, match="'variant'"):
        metrics.score("span_f1", [["O"]], [["O"]], varient="plain")


def test_a_metric_without_its_main_value_is_refused(own_metric):
    metrics.register("broken", lambda predictions, golds: {"broken": float("nan")})
    with pytest.raises(HelpfulError, match="finite 'broken'"):
        metrics.score("broken", [1], [1])
    with pytest.raises(HelpfulError, match="leave it out"):
        metrics.register("map@5", max)


@pytest.mark.parametrize(
    ("name", "predictions", "golds", "options"),
    [
        ("accuracy", [1, 0], [1, 0], {}),
        ("macro_f1", [1, 0], [1, 0], {}),
        ("span_f1", [["B-PER"]], [["B-PER"]], {}),
        ("token_accuracy", [["X"]], [["X"]], {}),
        ("squad", ["x"], [["x"]], {}),
        ("squad2", [""], [[]], {}),
        ("mlqa", ["x"], [["x"]], {"language": "de"}),
        ("pair_f1", [("a", "b")], [("a", "b")], {}),
        ("map@20", [["a"]], [["a"]], {}),
        ("mrr", [["a"]], [["a"]], {}),
    ],
)
def test_every_metric_gives_one_for_a_perfect_prediction(name, predictions, golds, options):
    assert metrics.score(name, predictions, golds, **options)[metrics.main(name)] == 1.0


def test_every_metric_refuses_an_empty_set():
    for name in metrics.names():
        options = {"language": "en"} if name == "mlqa" else {}
        with pytest.raises(BadRows):
            metrics.score(name, [], [], **options)


def test_scoring_needs_neither_torch_nor_transformers():
    code = (
        "import sys, helpers.metrics, helpers.metrics.submissions;"
        "bad = {'torch', 'transformers', 'datasets'} & set(sys.modules); assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
