from functools import partial

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.stats.weightstats import DescrStatsW

from data.make import calibration as scenarios
from helpers import results, tasks
from helpers.errors import BadFit, BadRows
from helpers.stats import confirmatory, gains, multiverse, permutation, reml
from helpers.study.profiles import PROFILES
from tests.stats.tables import crossed, scores, world


def confirm(*tables, departs=(), **settings):
    return confirmatory.confirm(*tables, departs=departs, **settings)


def dyads(slope, seed=0, name="blocks half"):
    data = world(name, slope, seed).rename(columns={"similarity": "text_embedding"})
    return data.assign(encoder="e", identity_pair=np.arange(len(data)) % 45 == 0)


def language_table(data, change, seed=1):
    rng = np.random.default_rng(seed)
    distance = rng.normal(size=12)
    rows = data.loc[data.index.repeat(12)].reset_index(drop=True)
    rows["language"] = [f"l{k:02d}" for k in range(12)] * len(data)
    rows["syntactic"], rows["condition"] = np.tile(distance, len(data)), "single"
    rows["gain"] += change * rows["text_embedding"] * rows["syntactic"]
    rows["gain"] += 0.3 * rng.normal(size=len(rows))
    return rows


def by_hand(data, outcome="gain"):
    """The slope of the model, fitted to the standardised similarity without identity pairs."""
    used = data[~data["identity_pair"]]
    x = (used["text_embedding"] - used["text_embedding"].mean()) / used["text_embedding"].std()
    return reml.crossed_reml(used.assign(x=x), outcome, ["x"], confirmatory.RANDOM)["x"]


def test_an_effect_is_supported_three_ways():
    data = dyads(1.0)
    found = confirm(data, language_table(data, -0.5), n=499)
    assert found.table["verdict"].to_dict() == dict.fromkeys(["H1", "H2", "H3"], "supported")
    row = found.table.loc["H1"]
    assert row["dyads"] == (~data["identity_pair"]).sum()
    for name in ("estimate", "p"):
        assert row[name] == pytest.approx(by_hand(data)[name])
    blank = data.assign(x=data["text_embedding"], gain=data["gain"].where(~data["identity_pair"]))
    p = permutation.qap(blank, "gain", "x", "intermediate", "target", confirmatory.FORMATS, n=499).p
    assert row["p_permutation"] == pytest.approx(p)
    assert not found.equivalence["equivalent"].any()


def test_an_outcome_scaled_within_targets_is_tested_in_its_own_unit():
    data = dyads(0.8)
    number = data["target"].str[1:].astype(int)
    data["gain"] *= np.where(number % 2, 8.0, 1.0)  # points of some targets mean little
    data = gains.scale_within(data)
    found = confirm(data, language_table(data, -0.5), outcome="gain_within", n=199)
    expected = by_hand(data, "gain_within")["estimate"]
    assert found.table.loc["H1", "estimate"] == pytest.approx(expected)
    assert found.table.loc["H1", "p"] < confirm(data, n=199).table.loc["H1", "p"]
    assert found.equivalence.index.tolist() == ["standard deviations of the target's gains"]
    assert found.equivalence["bound"].item() == 0.1
    assert found.fits["H3"].design.y.std() == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("outcome", ["gain", "gain_within"])
def test_an_identity_pair_lends_its_similarity_to_the_permutation_of_slopes_too(outcome):
    data = dyads(1.0).assign(identity_pair=lambda d: np.arange(len(d)) % 9 == 0)
    data, rows = gains.scale_within(data), language_table(data, -0.03)
    by_pair = rows.groupby(confirmatory.TASKS)[["syntactic", "gain"]]
    slopes = by_pair.apply(lambda d: np.polyfit(d["syntactic"], d["gain"], 1)[0]).rename("slope")
    own = data.join(slopes, on=confirmatory.TASKS)
    if outcome == "gain_within":
        own["slope"] = gains.scale_within(own, "slope")["slope_within"]
    own["slope"] = own["slope"].mask(own["identity_pair"])
    names = ["slope", "text_embedding", *confirmatory.TASKS, confirmatory.FORMATS]
    p = permutation.qap(own, *names, n=199).p
    found = confirm(data, rows, outcome=outcome, n=199).table.loc["H3"]
    assert found["dyads"] == 80 and found["p_permutation"] == pytest.approx(p)


def test_the_sequence_stops_at_the_first_that_is_not_supported():
    data = dyads(0.0, seed=3)
    found = confirm(data, language_table(data, -0.5), n=199)
    later = "not tested: an earlier hypothesis was not supported"
    assert found.table["verdict"].tolist() == ["not supported", later, later]
    assert found.equivalence["bound"].to_dict() == {"points": 0.5}


def test_a_slope_of_the_other_sign_is_contradicted_and_too_few_tasks_leave_it_unsettled():
    found = confirm(dyads(-1.0), n=199)
    assert found.table.loc["H1", "verdict"].startswith("contradicted")
    rising = dyads(1.0)
    wrong = confirm(rising, language_table(rising, 0.8), n=199)
    assert wrong.table.loc["H3", "verdict"].startswith("contradicted")
    few = confirm(dyads(2.0, name="4 x 3"), n=199).table.loc["H1"]
    assert few["verdict"].startswith("unsettled: too few tasks") and few["p_smallest"] >= 0.05


def test_what_cannot_be_tested_is_said_and_a_failed_control_withholds_every_verdict():
    data = dyads(1.0)
    found = confirm(data.assign(same_format=1.0), n=99)
    assert list(found.table.index) == ["H1"]
    assert any("H2 was not tested" in note for note in found.notes)
    # nor does H3 take the place of an H2 that could not be tested
    stuck = confirm(data.assign(same_format=1.0), language_table(data, -0.5), n=99).table
    assert stuck.loc["H3", "verdict"].startswith("not tested: an earlier hypothesis")
    few = language_table(data, 0.0).query("language < 'l03'")
    assert any("H3 was not tested" in note for note in confirm(data, few, n=99).notes)
    random = data.assign(random=data["text_embedding"])
    controls = multiverse.controls(random, ["random"], ["text_embedding"])
    found = confirm(data, controls=controls, n=99)
    assert found.table["verdict"].str.startswith("withheld: the control random").all()


def test_refusals():
    for change, error, said in (
        (lambda d: d.drop(columns="text_embedding"), BadRows, "no similarity 'text_embedding'"),
        (lambda d: d.assign(encoder=["e", "f"] * 45), BadRows, "one encoder"),
        (lambda d: d.assign(text_embedding=1.0), BadFit, "does not vary"),
    ):
        with pytest.raises(error, match=said):
            confirm(change(dyads(1.0)))


def test_equivalence_is_two_one_sided_tests():
    rng = np.random.default_rng(0)
    data = crossed(8, 6, seed=1).assign(gain=0.1 + rng.normal(size=48))
    fit = reml.crossed_reml(data, "gain", [], [])
    found = confirmatory.equivalence(fit, "(intercept)", 0.5)
    p, _, _ = DescrStatsW(data["gain"]).ttost_mean(-0.5, 0.5)
    assert found["p"] == pytest.approx(p) and found["equivalent"] == (p < 0.05)
    # equivalent exactly if the 90 % interval lies within the bounds
    for bound in (0.05, 0.2, 0.5, 1.0):
        found = confirmatory.equivalence(fit, "(intercept)", bound)
        assert found["equivalent"] == (-bound < found["low"] and found["high"] < bound)


def language_rows(slope=0.5, change=0.0, seed=0):
    sizes = (12, 9, 15, 7, 10), 8
    return scenarios.language_rows(np.random.default_rng(seed), slope, change, *sizes)


def test_distance_slopes_are_least_squares_within_dyads():
    data = language_rows()
    found = confirmatory.distance_slopes(data, "gain", "distance", ["similarity"])
    by_pair = found.set_index(["intermediate", "target"])
    one = data.query("intermediate == 'i02' and target == 't03'")
    by_slope = stats.linregress(one["distance"], one["gain"]).slope
    row = by_pair.loc[("i02", "t03")]
    assert row[["slope", "languages"]].tolist() == pytest.approx([by_slope, 7])
    assert len(found) == 40
    few = data[data["language"] < "l15"]
    counts = few.groupby(["intermediate", "target"])["language"].nunique()
    assert len(confirmatory.distance_slopes(few, "gain", "distance")) == (counts >= 5).sum()
    with pytest.raises(BadFit, match="no dyad has 5 languages"):
        confirmatory.distance_slopes(data[data["language"] < "l04"], "gain", "distance")


def test_the_change_of_the_slope_with_distance_is_found():
    def change(data):
        formats = {"intermediate_format": "f", "target_format": "g", "condition": "single"}
        names = {"similarity": "text_embedding", "distance": "syntactic"}
        rows = data.assign(**formats).rename(columns=names)
        facts = rows.groupby([*confirmatory.TASKS, "text_embedding", "block", *formats])["gain"]
        return confirmatory._falling(rows, facts.mean().reset_index(), "gain", 9, 0)[0]["estimate"]

    estimates = [change(language_rows(0.5, 0.6, s)) for s in range(6)]
    assert np.mean(estimates) == pytest.approx(0.6, abs=0.12)
    # the covariate is standardised over languages, whatever its unit
    scaled = language_rows(0.5, 0.6, 0).assign(distance=lambda d: 100 * d["distance"] + 7)
    assert change(scaled) == pytest.approx(estimates[0], rel=1e-5)


MEASURED = pd.DataFrame({"measure": ["text_random", "text_shuffled", "early_score"]})


def departures(table, profile, similarity=None, controls=MEASURED):
    return confirmatory.departures(table, profile, similarity, controls)


def test_departures_of_seeds_and_dyads():
    table = scores()
    few = "2 of 2 trained baselines have fewer than 6 seeds (the fewest: 4)."
    assert departures(table, "own") == {"seeds of trained baselines": few}
    # another seed of a baseline that trains nothing would give the same score
    table["rows_trained"] = 0
    assert departures(table, "own") == {}
    table.loc[(table["intermediate"] == "a") & (table["seed"] > 0), "status"] = "collapsed"
    few = "2 of 4 dyads have fewer than 3 seeds (the fewest: 1)."
    assert [*departures(table, "demo").items()][1:] == [("seeds of dyads", few)]
    twice = pd.concat([table, table[table["status"] == "collapsed"].assign(seed=10_000)])
    assert "(the fewest: 2)" in departures(twice, "own")["seeds of dyads"]
    twice.loc[twice["seed"] == 1, "status"] = "done"  # one of three collapsed twice, and is over
    assert departures(twice, "own") == {}
    table.loc[table["intermediate"] == "a", "status"] = "failed: memory"
    assert departures(table, "own") == {"missing dyads": "2 of 4 dyads have no finished run."}
    table.loc[table["condition"] == "none", "status"] = "collapsed"
    lost = departures(table, "own")["targets without a baseline"]
    assert lost.startswith("x has no finished baseline (4 collapsed).")


def test_controls_that_were_not_measured_are_departures():
    every = ["random encoder", "shuffled labels", "early score"]
    for n in range(4):
        found = departures(scores(baseline_seeds=6), "own", None, MEASURED[:n])
        said = f"Controls were not measured: {', '.join(every[n:])}."
        assert found == ({"controls": said} if n < 3 else {})


def test_departures_of_languages_code_plan_and_text():
    table = scores(targets=("xnli", "tatoeba"), baseline_seeds=6)
    commits = ["5b8ff98d86a9+changes", "58d480e67035"]
    table = table.assign(commit=np.where(table["seed"] == 0, *commits))
    similarity = pd.DataFrame({"measure": "text_embedding", "n": [160, 160, 40, 40]})
    similarity = similarity.assign(value=0.5, language="en", intermediate=[*"abab"])
    similarity["target"] = ["xnli", "xnli", "tatoeba", "tatoeba"]
    found = departures(table, "own", similarity)
    exact = {
        "languages": "Not every language was scored: tatoeba in 2 of 36, xnli in 2 of 14.",
        "rows of text": "Similarity was measured on 160 rows a task, not 2,000.",
    }
    assert {name: found[name] for name in exact} == exact
    assert found["uncommitted code"].endswith("uncommitted code: 5b8ff98d86a9+changes.")
    assert "a61c192" in found["plan changed after the scores"]
    assert found["text of targets"].startswith("The similarity of tatoeba comes from English")
    # a language that one intermediate task lacks is left out of every dyad of its target
    gap = (table["intermediate"] == "a") & (table["target"] == "xnli") & (table["language"] == "de")
    assert "xnli in 1 of 14" in departures(table[~gap], "own")["languages"]
    clean = table.assign(commit="58d480e67035")
    full = similarity.assign(n=2000)
    assert [*departures(clean, "own", full)] == ["languages", "text of targets"]
    similarity["value"] = [0.5, np.nan, 0.5, 0.5]
    found = departures(clean, "own", similarity.iloc[:3].assign(n=2000))
    assert found["similarity"] == "2 of 4 dyads have no text_embedding."


def test_tasks_and_languages_of_the_plan_that_have_no_score_are_departures():
    chosen = PROFILES["pilot"]
    trained = gains.trained_targets(pd.DataFrame({"target": chosen.targets}))["target"]
    there = {
        name: {*tasks.get(name).languages} - {*chosen.absent.get(name, ())} for name in trained
    }
    parts = [
        scores(chosen.intermediates, [name], there[name], baseline_seeds=6) for name in trained
    ]
    table = pd.concat(parts, ignore_index=True)
    ask = partial(departures, profile="pilot")
    assert ask(table) == {}  # retrieval is an outcome of its own
    said = "Not every language was scored: xnli in 11 of 12."  # Thai and Urdu are not asked for
    assert ask(table.query("not (target == 'xnli' and language == 'sw')")) == {"languages": said}
    assert "xnli in 12 of 14" in departures(table, "own")["languages"]  # of no plan: in all
    dyads = len(chosen.intermediates) * len(trained)
    for lost in (table["intermediate"] == "siqa", table["target"] == "xnli"):
        few = dyads - len(table[~lost].query("intermediate != ''").groupby(confirmatory.TASKS))
        assert ask(table[~lost])["missing dyads"].startswith(f"{few} of {dyads} dyads")
    # baselines of a target that was given up in time are no departure; gains of it are one
    more = scores(chosen.intermediates, ["slots"], baseline_seeds=6)
    lost = more[more["condition"] == "none"].assign(status="collapsed")
    assert [[*ask(pd.concat([table, part]))] for part in (lost, more)] == [[], ["tasks"]]


def test_the_first_study_departs_and_its_verdicts_are_withheld():
    table, similarity = results.load("first"), results.similarities("first", added=False)
    found = confirmatory.departures(table, "first", similarity, pd.DataFrame({"measure": []}))
    assert {
        "seeds of dyads", "seeds of trained baselines", "languages", "rows of text", "controls",
        "text of targets", "plan changed after the scores", "uncommitted code",
        "targets without a baseline",
    } == set(found)  # fmt: skip
    assert "pawsx in 2 of 6" in found["languages"]
    found = confirm(dyads(1.0), departs={"seeds of dyads": "4 of 4 dyads have few."}, n=99)
    said = "withheld: the study departs from its specification (seeds of dyads)"
    assert set(found.table["verdict"]) == {said}
    assert found.table.loc["H1", "p"] < 0.05  # the numbers stand
    with pytest.raises(TypeError, match="departs"):  # nobody gets a verdict without looking
        confirmatory.confirm(dyads(1.0))
