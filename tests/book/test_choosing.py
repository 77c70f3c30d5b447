import numpy as np
import pandas as pd
import pytest

from helpers import book, results, tasks
from helpers.errors import HelpfulError, UnknownName
from helpers.similarity import COLUMNS
from helpers.stats import gains, prediction, reml
from helpers.stats.confirmatory import PRIMARY, RANDOM
from helpers.study import profiles
from tests.stats import tables

INTERMEDIATES, TARGETS = profiles.DEMO.intermediates, profiles.DEMO.targets


def rank(target="own", profile="demo", measure=PRIMARY):
    return results.rank(target, profile, measure=measure)


@pytest.fixture
def own():
    rows = [{"id": str(i), "first": f"text {i}", "second": "", "label": i % 2} for i in range(6)]
    source = tasks.Source("rows", "own", read=lambda language, split: rows)
    return tasks.register(tasks.Task("own", "target", "pair", source, labels=("a", "b")))


@pytest.fixture
def study(monkeypatch, own):
    scores = tables.scores(INTERMEDIATES, TARGETS, seed=3).assign(rows_trained=9)
    monkeypatch.setattr(results, "load", lambda *_, **__: scores)
    values = np.random.default_rng(0).normal(3.0, 2.0, (4, 4))
    rows = [
        dict.fromkeys(COLUMNS, np.nan)
        | {"intermediate": i, "target": t, "language": "en", "measure": PRIMARY}
        | {"value": values[a, b], "status": "done", "reason": ""}
        for a, i in enumerate(INTERMEDIATES)
        for b, t in enumerate([*TARGETS, "own"])
    ]
    table = pd.DataFrame(rows)
    monkeypatch.setattr(results, "_measured", lambda *_, **__: table)
    return scores, table


def test_the_ranking_is_the_model_of_the_study(study):
    scores, table = study
    found = rank()
    assert list(found["rank"]) == [1, 2, 3, 4] and found["predicted"].is_monotonic_decreasing
    dyads = gains.dyads(gains.gains(scores), similarity=table)
    mean, sd = dyads[PRIMARY].mean(), dyads[PRIMARY].std()
    known = dyads.assign(x=(dyads[PRIMARY] - mean) / sd)
    fit = reml.crossed_reml(known, "gain", ["x"], RANDOM)
    mine = table[table["target"] == "own"]
    new = gains.add_formats(mine[["intermediate", "target"]])
    new = new.assign(x=((mine["value"] - mean) / sd).to_numpy())
    expected = prediction.forecast(fit, new, ["x"])[0].set_index(new["intermediate"])
    got = found.set_index("intermediate")
    np.testing.assert_allclose(got["predicted"], expected["predicted"].reindex(got.index))
    np.testing.assert_allclose(got["high"], expected["high"].reindex(got.index))
    assert found["best"].sum() == pytest.approx(1)


def test_a_target_of_the_study_is_predicted_without_its_own_gains(study, monkeypatch):
    scores, _ = study
    before = rank("intents")
    changed = scores.copy()
    changed.loc[changed["target"] == "intents", "value"] *= 0.5
    monkeypatch.setattr(results, "load", lambda *_, **__: changed)
    pd.testing.assert_frame_equal(rank("intents"), before)


def test_a_study_too_small_says_so(study, monkeypatch):
    scores, table = study
    few = scores[scores["target"] == "intents"]
    monkeypatch.setattr(results, "load", lambda *_, **__: few)
    found = rank()
    assert found.empty and found.attrs["note"].startswith("Nothing can be predicted: 4 rows")
    monkeypatch.setattr(results, "_measured", lambda *_, **__: table.assign(value=1.0))
    assert "does not vary over 4 dyads" in rank().attrs["note"]


def test_refusals_and_a_live_measurement(own, monkeypatch, tmp_path):
    monkeypatch.setenv("TRANSFER_STORE", str(tmp_path))
    for target, profile in (("nobody's", "tiny"), ("own", "tinny")):
        with pytest.raises(UnknownName):
            rank(target, profile)
    with pytest.MonkeyPatch.context() as patch:  # without a stored study a book runs nothing
        patch.setenv(book.BUILDING, "1")
        found = rank(profile="tiny")
    assert found.empty and "no run of this plan" in found.attrs["note"]
    table = results._measured("tiny", [PRIMARY], ["own"], seeds=(0,))  # live, from rows in memory
    assert table["value"].between(-1, 1).all() and len(table) == 2
    tiny = profiles.get("tiny")
    scores = tables.scores(tiny.intermediates, tiny.targets).assign(rows_trained=9)
    monkeypatch.setattr(results, "load", lambda *_, **__: scores)
    lacking = "logme of toy-same and toy-.* is undefined: there is no enc"
    with pytest.raises(HelpfulError, match=lacking):
        rank("own", "tiny", "logme")
