"""Which scores count, where a study departs from its specification, how far seeds move a gain."""

import numpy as np
import pandas as pd
import pytest

from data.make import calibration as scenarios
from data.make import relabelled
from helpers import results
from helpers.errors import BadFit
from helpers.stats import calibration, gains, prediction, scope
from tests.stats import tables

NAME = "text_embedding"


def dyads(name="blocks half", slope=0.5, seed=0):
    """A simulated dyad table with one identity pair."""
    s = scenarios.SCENARIOS[name]
    data = scenarios.table(s, *scenarios.draw(s, slope, np.random.default_rng(seed)))
    data = data.rename(columns={"similarity": NAME})
    return data.assign(encoder="e", identity_pair=np.arange(len(data)) == 3)


def test_a_single_run_borrows_the_spread_of_its_target():
    one, own = tables.scores(seeds=1, baseline_seeds=3), tables.scores(seeds=3, baseline_seeds=3)
    table = pd.concat([one[one["target"] == "x"], own[own["target"] == "y"]])
    found = gains.intervals(table).set_index(["intermediate", "target"])
    assert found["spread"].to_list().count("own runs") == 2
    row = found.loc[("a", "x")]
    base = table[(table["target"] == "x") & (table["condition"] == "none")]
    base = 100 * base[base["language"] != "en"].groupby("seed")["value"].mean()
    half = 4.302653 * base.std(ddof=1) * np.sqrt(1 + 1 / 3)  # t with 2 degrees of freedom
    assert row["spread"] == "other runs of the target"
    assert row["high"] - row["gain"] == pytest.approx(half, rel=1e-5)
    assert row["gain"] - row["low"] == pytest.approx(half, rel=1e-5)
    assert row["clear"] == (abs(row["gain"]) > half)


def test_one_run_in_all_arms_has_no_interval():
    found = gains.intervals(tables.scores(seeds=1, baseline_seeds=1))
    assert set(found["spread"]) == {"unknown"}
    assert found["low"].isna().all() and not found["clear"].any()


def test_a_baseline_that_trains_nothing_adds_no_noise():
    table = tables.scores(targets=("x",), seeds=1, baseline_seeds=3).assign(rows_trained=10)
    extra = table[table["intermediate"] == "a"].assign(seed=1, run="again")
    extra["value"] += 0.05
    table = pd.concat([table, extra])
    noisy = gains.intervals(table).set_index("intermediate")
    table.loc[table["condition"] == "none", "rows_trained"] = 0
    sure = gains.intervals(table).set_index("intermediate")
    assert (sure["high"] - sure["low"]).loc["b"] < (noisy["high"] - noisy["low"]).loc["b"]


def test_noise_of_a_shared_baseline_is_not_noise_of_a_dyad():
    table = tables.scores(("a", "b"), ("x",), seeds=4, baseline_seeds=3)
    table.loc[table["condition"] == "none", "value"] = 0.5  # the baseline never moves
    found = gains.intervals(table).set_index("intermediate")
    arm = table[(table["condition"] == "single") & (table["language"] != "en")]
    runs = 100 * arm.groupby(["intermediate", "seed"])["value"].mean()
    squares = runs.groupby("intermediate").var(ddof=1) * 3
    expected = np.sqrt(squares.sum() / (3 + 3 + 2) / 4)  # pooled over both arms and the baseline
    assert found["own_noise"].to_list() == pytest.approx([expected, expected])


def test_targets_without_a_baseline_are_left_out_and_named():
    table = tables.scores()
    lost = (table["target"] == "x") & (table["condition"] == "none")
    table.loc[lost, "status"] = "collapsed"
    rest, notes = scope.usable(table)
    assert set(rest["target"]) == {"y"}
    assert notes == ["x has no finished baseline (4 collapsed)."]
    gains.gains(rest)
    assert len(scope.usable(table, collapsed=True)[0]) == len(table)
    few = ["1 of 1 trained baselines have fewer than 6 seeds (the fewest: 4)."]
    assert scope.departures(table, "pilot") == notes + few
    assert scope.departures(table.assign(rows_trained=0), "pilot") == notes
    table = table.assign(rows_trained=0)
    table.loc[(table["intermediate"] == "a") & (table["seed"] > 0), "status"] = "collapsed"
    said = scope.departures(table, "demo")
    assert "illustrative" in said[0]
    assert said[-1] == "1 of 2 dyads have fewer than 3 seeds (the fewest: 1)."
    table.loc[table["intermediate"] == "a", "status"] = "failed: memory"
    assert scope.departures(table, "pilot")[-1] == "1 of 2 dyads have no finished run."


@pytest.mark.parametrize(
    ("kinds", "said"),
    [([], ["negative", "positive"]), (["negative"], ["positive"]), (["negative", "positive"], [])],
)
def test_controls_that_were_not_measured_are_departures(kinds, said):
    table = tables.scores(baseline_seeds=6)
    controls = pd.DataFrame({"kind": kinds})
    notes = scope.departures(table, "pilot", controls=controls)
    assert notes == [f"No {kind} control was measured." for kind in said]


def test_standing_says_what_a_study_can_prove():
    table = tables.scores(baseline_seeds=6)
    assert scope.standing(table, "pilot") == "These are 4 dyads, run as the specification asks."
    assert "illustration, not evidence" in scope.standing(table, "demo")
    few = table[(table["seed"] == 0) | (table["condition"] == "none")]
    assert "fall short of the specification: 4 of 4" in scope.standing(few, "pilot")
    similarity = pd.DataFrame({"measure": [NAME, "tfidf"], "n": [160, 5000]})
    said = scope.standing(table, "pilot", similarity)
    assert said.endswith("Similarity was measured on 160 rows a task, not 2,000.")


def test_measures_that_say_the_same_are_one_group():
    data = dyads(slope=1.0)
    rng = np.random.default_rng(2)
    data["twin"] = 3 * data[NAME] + 0.01 * rng.normal(size=90)
    data["other"], data["partial"] = rng.normal(size=(2, 90))
    data.loc[7, "partial"] = np.nan
    data["size"] = data["target"].map({t: k for k, t in enumerate(data["target"].unique())})
    found = prediction.overlap(gains.exclude(data), [NAME, "twin", "other", "partial", "size"])
    assert found["group"].dropna().to_dict() == {NAME: 1, "twin": 1, "other": 2}
    assert found.loc[NAME, "vif"] > 100 and found.loc["other", "vif"] < 2
    used = scope.analysed(data)
    assert len(used) == 89  # without the identity pair
    parts = {c: used.groupby(level=0)[c].first() for c in ("gain", NAME)}
    design = pd.get_dummies(used[["intermediate", "target"]].astype(str)).to_numpy(float)
    rest = {c: x - design @ np.linalg.lstsq(design, x, rcond=None)[0] for c, x in parts.items()}
    r = np.corrcoef(rest["gain"], rest[NAME])[0, 1]
    assert found.loc[NAME, "r2"] == pytest.approx(r**2)
    assert np.isnan(found.loc["twin", "unique"])  # the first of the group stands for it
    assert found.loc["partial", "note"] == "undefined for 1 of 89 dyads"
    assert "belong to single tasks" in found.loc["size", "note"]
    with pytest.raises(BadFit, match="fewer than two"):
        prediction.overlap(gains.exclude(data), [NAME, "size"])


def test_stored_counts_of_a_study_belong_to_its_results_and_can_be_repeated():
    for file in sorted(results.FOLDER.glob("*-relabelled.csv")):
        profile = file.stem.removesuffix("-relabelled")
        whole, counts = relabelled.prepared(profile), pd.read_csv(file)
        stale = f"it belongs to other gains; python -m data.make.relabelled {profile}"
        assert set(counts["gains"]) == {relabelled.fingerprint(whole)}, f"{file}: {stale}"
        few = counts[counts["size"] == counts["size"].min()].reset_index(drop=True)
        again = calibration.permuted_tables(whole, NAME, int(few["size"].iloc[0]))
        pd.testing.assert_frame_equal(few[again.columns], again, check_dtype=False)
