import numpy as np
import pytest

from helpers.errors import BadFit, BadRows
from helpers.stats import confirmatory, multiverse, permutation, reml, scenarios


def dyads(slope, seed=0, name="blocks half"):
    rng = np.random.default_rng(seed)
    s = scenarios.SCENARIOS[name]
    data = scenarios.table(s, *scenarios.draw(s, slope, rng))
    data = data.rename(columns={"similarity": "text_embedding"})
    return data.assign(encoder="e", identity_pair=np.arange(len(data)) % 45 == 0)


def language_table(data, change, seed=1):
    rng = np.random.default_rng(seed)
    distance = rng.normal(size=12)
    rows = data.loc[data.index.repeat(12)].reset_index(drop=True)
    rows["language"] = [f"l{k:02d}" for k in range(12)] * len(data)
    rows["syntactic"] = np.tile(distance, len(data))
    rows["gain"] += change * rows["text_embedding"] * rows["syntactic"]
    rows["gain"] += 0.3 * rng.normal(size=len(rows))
    return rows


def test_an_effect_is_supported_three_ways():
    data = dyads(1.0)
    found = confirmatory.confirm(data, language_table(data, -0.5), n=499)
    assert list(found.table.index) == ["H1", "H2", "H3"]
    assert found.table["verdict"].tolist() == ["supported"] * 3
    row = found.table.loc["H1"]
    used = data[~data["identity_pair"]]
    assert row["dyads"] == len(used)
    x = (used["text_embedding"] - used["text_embedding"].mean()) / used["text_embedding"].std()
    fit = reml.crossed_reml(used.assign(x=x), "gain", ["x"], confirmatory.RANDOM)
    assert row["estimate"] == pytest.approx(fit["x"]["estimate"])
    assert row["p"] == pytest.approx(fit["x"]["p"])
    blank = data.assign(x=data["text_embedding"], gain=data["gain"].where(~data["identity_pair"]))
    p = permutation.qap(blank, "gain", "x", "intermediate", "target", confirmatory.FORMATS, n=499).p
    assert row["p_permutation"] == pytest.approx(p)
    assert not found.equivalence["equivalent"].any()


def test_the_sequence_stops_at_the_first_that_is_not_supported():
    data = dyads(0.0, seed=3)
    found = confirmatory.confirm(data, language_table(data, -0.5), n=199)
    assert found.table.loc["H1", "verdict"] == "not supported"
    assert set(found.table["verdict"].iloc[1:]) == {
        "not tested: an earlier hypothesis was not supported"
    }
    assert list(found.equivalence.index) == ["points", "dyad SD"]


def test_a_slope_of_the_other_sign_is_contradicted():
    found = confirmatory.confirm(dyads(-1.0), n=199)
    assert found.table.loc["H1", "verdict"].startswith("contradicted")
    rising = dyads(1.0)
    wrong = confirmatory.confirm(rising, language_table(rising, 0.8), n=199)
    assert wrong.table.loc["H3", "verdict"].startswith("contradicted")


def test_too_few_tasks_leave_it_unsettled():
    found = confirmatory.confirm(dyads(2.0, name="4 x 3"), n=199)
    assert found.table.loc["H1", "verdict"].startswith("unsettled: too few tasks")
    assert found.table.loc["H1", "p_smallest"] >= 0.05


def test_what_cannot_be_tested_is_said():
    data = dyads(1.0).assign(same_format=1.0)
    found = confirmatory.confirm(data, n=99)
    assert list(found.table.index) == ["H1"]
    assert any("H2 was not tested" in note for note in found.notes)
    few = language_table(dyads(1.0), 0.0)
    few = few[few["language"] < "l03"]
    found = confirmatory.confirm(dyads(1.0), few, n=99)
    assert any("H3 was not tested" in note for note in found.notes)


def test_a_failed_control_withholds_every_verdict():
    controls = multiverse.controls(
        dyads(1.0).assign(random=lambda d: d["text_embedding"]), ["random"], ["text_embedding"]
    )
    found = confirmatory.confirm(dyads(1.0), controls=controls, n=99)
    assert found.table["verdict"].str.startswith("withheld: the control random").all()


def test_refusals():
    with pytest.raises(BadRows, match="no similarity 'semb'"):
        confirmatory.confirm(dyads(1.0), measure="semb")
    with pytest.raises(BadRows, match="one encoder"):
        two = dyads(1.0)
        confirmatory.confirm(two.assign(encoder=["e", "f"] * 45))
    with pytest.raises(BadFit, match="does not vary"):
        confirmatory.confirm(dyads(1.0).assign(text_embedding=1.0))
