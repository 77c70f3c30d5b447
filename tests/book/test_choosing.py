"""A target of one's own is ranked from a study, by the model of the study."""

import numpy as np
import pandas as pd
import pytest

from helpers import choosing, findings, results, tasks
from helpers.errors import HelpfulError, UnknownName
from helpers.similarity import COLUMNS
from helpers.stats import gains, prediction, reml
from helpers.study import profiles
from tests.stats import tables

INTERMEDIATES = ("socialiqa-val", "boolq-val", "mrpc-val", "hellaswag-val")
TARGETS = ("intents", "slots", "messages")


@pytest.fixture
def own():
    rows = [{"id": str(i), "first": f"text {i}", "second": "", "label": i % 2} for i in range(6)]
    source = tasks.Source("rows", "own", read=lambda language, split: rows)
    task = tasks.Task("own", "target", "pair", source, labels=("a", "b"))
    yield tasks.register(task, replace=True)
    tasks._TASKS.pop("own")


@pytest.fixture
def study(monkeypatch, own):
    scores = tables.scores(INTERMEDIATES, TARGETS, seed=3).assign(rows_trained=9)
    monkeypatch.setattr(results, "load", lambda *_, **__: scores)
    values = np.random.default_rng(0).normal(3.0, 2.0, (4, 4))
    rows = [
        dict.fromkeys(COLUMNS, np.nan)
        | {"intermediate": i, "target": t, "language": "en", "measure": "text_embedding"}
        | {"value": values[a, b], "status": "done", "reason": ""}
        for a, i in enumerate(INTERMEDIATES)
        for b, t in enumerate([*TARGETS, "own"])
    ]
    table = pd.DataFrame(rows)
    monkeypatch.setattr(choosing, "_similarity", lambda *_: table)
    return scores, table


def test_the_ranking_is_the_model_of_the_study(study):
    scores, table = study
    found = choosing.rank("own", "demo")
    assert list(found.columns) == list(choosing.COLUMNS)
    assert list(found["rank"]) == [1, 2, 3, 4] and found["predicted"].is_monotonic_decreasing
    dyads = gains.dyads(gains.gains(scores), similarity=table)
    x = dyads["text_embedding"]
    fit = reml.crossed_reml(
        dyads.assign(x=(x - x.mean()) / x.std()), "gain", ["x"], choosing.RANDOM
    )
    mine = table[table["target"] == "own"]
    new = gains.add_formats(mine[["intermediate", "target"]]).assign(
        x=((mine["value"] - x.mean()) / x.std()).to_numpy()
    )
    expected = prediction.forecast(fit, new, ["x"]).table().set_index(new["intermediate"])
    got = found.set_index("intermediate")
    np.testing.assert_allclose(got["predicted"], expected["predicted"].reindex(got.index))
    np.testing.assert_allclose(got["high"], expected["high"].reindex(got.index))
    assert found["best"].sum() == pytest.approx(1)


def test_a_target_of_the_study_is_predicted_without_its_own_gains(study, monkeypatch):
    scores, _ = study
    before = choosing.rank("intents", "demo")
    changed = scores.copy()
    changed.loc[changed["target"] == "intents", "value"] *= 0.5
    monkeypatch.setattr(results, "load", lambda *_, **__: changed)
    pd.testing.assert_frame_equal(choosing.rank("intents", "demo"), before)


def test_advice_is_the_first_row_in_words_or_why_there_is_none(study):
    found = choosing.rank("own", "demo")
    said = choosing.advice(found)
    assert said.startswith(f"The first of the list is {found['intermediate'].iloc[0]}, with")
    assert f"a probability of {100 * found['best'].iloc[0]:.0f} %" in said
    assert choosing.advice(findings.nothing("Too few.")) == "Too few."


def test_a_study_too_small_says_so(study, monkeypatch):
    scores, _ = study
    few = scores[scores["target"] == "intents"]
    monkeypatch.setattr(results, "load", lambda *_, **__: few)
    found = choosing.rank("own", "demo")
    assert found.empty and found.attrs["note"].startswith("Nothing can be predicted: 4 rows")


def test_without_a_stored_study_nothing_is_run(own, monkeypatch, tmp_path):
    monkeypatch.setenv("TRANSFER_STORE", str(tmp_path))
    found = choosing.rank("own", "tiny", mode="stored", progress=False)
    assert found.empty and "no run of this plan" in found.attrs["note"]


def test_refusals(own):
    with pytest.raises(UnknownName):
        choosing.rank("nobody's", "tiny")
    with pytest.raises(UnknownName):
        choosing.rank("own", "tinny")


def test_a_similarity_that_does_not_exist_is_explained(own, monkeypatch, tmp_path):
    monkeypatch.setenv("TRANSFER_STORE", str(tmp_path))
    with pytest.raises(HelpfulError, match="logme of toy-same and own is undefined: only 0 of 2"):
        choosing._similarity(profiles.get("tiny"), ["own"], "logme")


def test_live_from_rows_in_memory(own, monkeypatch, tmp_path):
    monkeypatch.setenv("TRANSFER_STORE", str(tmp_path))
    table = choosing._similarity(profiles.get("tiny"), ["own"], "text_embedding")
    assert table["value"].between(-1, 1).all() and len(table) == 2
