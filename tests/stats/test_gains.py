import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from helpers.errors import BadRows, UnknownName
from helpers.stats import gains as g
from tests.stats.tables import register, scores


def part(table, **where):
    for column, value in where.items():
        table = table[table[column] == value]
    return table


def test_a_gain_is_a_score_less_the_mean_baseline():
    table = scores()
    found = g.gains(table)
    assert len(found) == 2 * 2 * 3 * 3
    place = {"target": "y", "language": "fr"}
    (row,) = part(found, intermediate="b", seed=2, **place).to_dict("records")
    score = part(table, intermediate="b", seed=2, **place)["value"].mean()
    base = part(table, condition="none", **place)["value"].mean()
    expected = {"score": score, "baseline": base, "gain": 100 * (score - base)}
    expected |= {"gain_error": (score - base) / (1 - base), "baseline_seeds": 4}
    assert {name: row[name] for name in expected} == pytest.approx(expected)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 4), st.integers(1, 5), st.integers(0, 99))
def test_mean_gain_is_the_difference_of_means_on_every_linear_scale(seeds, baselines, seed):
    table = scores(seeds=seeds, baseline_seeds=baselines, seed=seed)
    register("x", chance=0.2)
    found = part(g.gains(table), intermediate="a", target="x")
    with_a = part(table, intermediate="a", target="x")["value"]
    base = part(table, condition="none", target="x")["value"]
    assert found["gain"].mean() == pytest.approx(100 * (with_a.mean() - base.mean()))

    def logit(values):
        p = ((values - 0.2) / 0.8).clip(0.5 / 200, 1 - 0.5 / 200)
        return np.log(p / (1 - p)).mean()

    assert found["gain_logit"].mean() == pytest.approx(logit(with_a) - logit(base))


def test_reference_gains_on_all_scales():
    """80 to 85 and 40 to 50: the order depends on the scale."""
    table = scores(("a",), ("x", "y"), ("de",), seeds=1, baseline_seeds=2).assign(n=1000)
    plain = table["condition"] == "none"
    base, top = {"x": 0.80, "y": 0.40}, {"x": 0.85, "y": 0.50}
    values = np.where(plain, table["target"].map(base), table["target"].map(top))
    noise = np.where(plain, np.where(table["seed"] == 0, 0.01, -0.01), 0)
    found = g.gains(table.assign(value=values + noise)).set_index("target")
    assert found["gain"].to_dict() == pytest.approx({"x": 5, "y": 10})
    assert found["gain_error"].to_dict() == pytest.approx({"x": 0.25, "y": 1 / 6})
    assert found["gain_logit"].to_dict() == pytest.approx({"x": 0.348, "y": 0.405}, abs=2e-3)
    # the baseline seeds are one point above and below their mean
    assert found["baseline_sd"].to_dict() == pytest.approx({"x": np.sqrt(2), "y": np.sqrt(2)})
    assert found["gain_z"].to_dict() == pytest.approx({"x": 5 / np.sqrt(2), "y": 10 / np.sqrt(2)})


def test_scores_at_the_ends_keep_their_logit_finite_and_have_no_relative_error():
    table = scores(("a",), ("x",), ("de",), seeds=1, baseline_seeds=2)
    ends = table.assign(value=np.where(table["condition"] == "none", 0.0, 1.0))
    row = g.gains(ends).iloc[0]
    assert row["gain_logit"] == pytest.approx(2 * np.log((1 - 0.5 / 200) / (0.5 / 200)))
    assert np.isnan(row["gain_z"])  # equal baseline seeds say nothing about noise
    row = g.gains(table.assign(value=1.0)).iloc[0]  # a perfect baseline
    assert np.isnan(row["gain_error"]) and row["gain"] == 0


def test_headroom_comes_from_other_baseline_seeds():
    table, place = scores(baseline_seeds=4), {"target": "x", "language": "de"}
    row = part(g.gains(table, headroom=True), **place).iloc[0]
    base = part(table, condition="none", **place).set_index("seed")["value"]
    assert row["baseline"] == pytest.approx(base[[0, 2]].mean())
    assert row["headroom"] == pytest.approx(100 * (1 - base[[1, 3]].mean()))
    with pytest.raises(BadRows, match="two baseline seeds"):
        g.gains(scores(baseline_seeds=1), headroom=True)


def test_flags_come_from_the_task_facts_and_identity_pairs_can_be_left_out():
    pairs = [("mnli", "xnli"), ("squad1", "xquad"), ("qqp", "pawsx"), ("mnli", "panx"), ("a", "x")]
    table = g.add_flags(pd.DataFrame(pairs, columns=["intermediate", "target"]))
    assert table["identity_pair"].tolist() == [True, True, False, False, False]
    assert table["same_source"].tolist()[2:] == [True, False, False]
    assert g.exclude(table)["target"].tolist() == ["pawsx", "panx", "x"]


def test_only_finished_target_runs_of_one_split_count():
    table = scores()
    changes = [
        {"split": "dev", "value": 0.0},
        {"status": "failed: out of memory", "value": np.nan, "seed": 9},
        {"status": "collapsed", "value": 0.1, "seed": 8},
        {"stage": "intermediate", "target": "", "seed": 7},
    ]
    extra = pd.DataFrame([{**table.iloc[0], **change} for change in changes])
    whole = pd.concat([table, extra], ignore_index=True)
    assert g.gains(whole)["baseline_seeds"].max() == 4
    assert g.gains(whole, collapsed=True)["baseline_seeds"].max() == 5


def test_main_metric():
    table = scores()
    both = pd.concat([table, table.assign(metric="macro_f1", value=0.5)])
    said = r"\['accuracy', 'macro_f1'\], not 'token_accuracy': register"
    with pytest.raises(BadRows, match=said):
        g.gains(both)
    register("y", metric="macro_f1")
    found = g.gains(both).groupby("target")["gain"].apply(lambda gain: gain.abs().max())
    assert found["y"] == 0 < found["x"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.drop(columns="value"), "lacks value"),
        (lambda t: t.assign(split="dev"), r"split 'test' .*splits: \['dev'\]"),
        (lambda t: t.assign(value=t["value"] * 100), "outside 0 to 1"),
        (lambda t: pd.concat([t, t.head(1)]), "two scores"),
        (lambda t: t[t["condition"] == "none"], "only baselines"),
        (
            lambda t: t.query("condition != 'none' or language != 'fr' or target != 'x'"),
            "1 cells have scores but no baseline.*x fr",
        ),
    ],
)
def test_bad_scores_are_refused(change, said):
    with pytest.raises(BadRows, match=said):
        g.gains(change(scores()))


def test_dyads_average_seeds_then_languages():
    table = scores()
    found = g.gains(table)
    dyads = g.dyads(found).set_index(["intermediate", "target"])
    assert len(dyads) == 4
    row = dyads.loc[("a", "x")]
    others = part(found, intermediate="a", target="x").query("language != 'en'")
    assert row["gain"] == pytest.approx(others.groupby("language")["gain"].mean().mean())
    assert row[["seeds", "languages", "block", "same_format"]].tolist() == [3, 2, "pair x pair", 1]
    assert g.dyads(found, english=True)["languages"].tolist() == [3] * 4
    # Languages weigh the same whatever the number of their seeds.
    gone = (table["run"] == "single-a-x-2") & (table["language"] == "fr")
    found = g.gains(table[~gone])
    others = part(found, intermediate="a", target="x").query("language != 'en'")
    expected = others.groupby("language")["gain"].mean().mean()
    assert g.dyads(found).iloc[0]["gain"] == pytest.approx(expected)
    # Those count that all intermediates have.
    table = scores(languages=("de", "fr", "es"))
    gone = part(table, intermediate="a", target="x", language="es").index
    dyads = g.dyads(g.gains(table.drop(gone))).set_index(["intermediate", "target"])
    assert dyads.loc[("b", "x"), ["languages", "languages_left_out"]].tolist() == [2, 1]
    assert dyads.loc[("b", "y"), "languages_left_out"] == 0


def test_similarity_joins_wide_or_long():
    found = g.gains(scores())
    wide = pd.DataFrame({"intermediate": list("aab"), "target": list("xyx")})
    wide["cosine"] = [0.1, 0.2, 0.3]
    long = wide.rename(columns={"cosine": "value"}).assign(measure="cosine")
    first = g.dyads(found, similarity=wide)
    pd.testing.assert_frame_equal(first, g.dyads(found, similarity=long))
    assert first["cosine"].isna().sum() == 1  # nothing is imputed
    assert g.measures_of(first) == ["cosine"]
    others = [
        long.assign(language="en"),
        long.assign(language="de", value=9.0),  # a measure on another language's rows
        long.assign(language="en", target="", measure="drift"),  # of an intermediate alone
    ]
    pd.testing.assert_frame_equal(first, g.dyads(found, similarity=pd.concat(others)))
    for table, error, said in (
        (pd.concat([wide, wide]), BadRows, "twice"),
        (wide.tail(1).assign(target="z"), BadRows, "check task names"),
        (wide.drop(columns="target"), UnknownName, "target"),
    ):
        with pytest.raises(error, match=said):
            g.dyads(found, similarity=table)
    with pytest.raises(BadRows, match="condition 'mlm'"):
        g.dyads(found, condition="mlm")
    with pytest.raises(BadRows, match="format of 'stranger' is not known"):
        g.dyads(found.assign(intermediate="stranger"))


MANY = tuple(f"t{k:03d}" for k in range(160))  # targets as independent replicates


def simulated(rng, seeds=3, baselines=6, sd=0.02, targets=("x", "y")):
    """Runs whose seed noise is shared by their languages; true gains are 3 and 5 points."""
    table = scores(("a", "b"), targets, ("de", "fr", "es"), seeds, baselines)
    true = table["intermediate"].map({"": 0.5, "a": 0.53, "b": 0.55}).to_numpy()
    runs = table["run"].unique()
    shared = table["run"].map(dict(zip(runs, sd * rng.normal(size=runs.size), strict=True)))
    own = 0.005 * rng.normal(size=len(table))
    return table.assign(value=true + shared + own)


def test_intervals_are_welchs_and_cover():
    table = simulated(np.random.default_rng(1))
    row = g.intervals(table).set_index(["intermediate", "target"]).loc["a", "x"]
    runs = 100 * table[table["target"] == "x"].groupby(["intermediate", "seed"])["value"].mean()
    theirs = stats.ttest_ind(runs["a"], runs[""], equal_var=False)
    assert row["gain"] == pytest.approx(runs["a"].mean() - runs[""].mean())
    assert row["gain"] / row["se"] == pytest.approx(theirs.statistic)
    assert row["df"] == pytest.approx(theirs.df)
    ends = theirs.confidence_interval()
    assert [row["low"], row["high"]] == pytest.approx([ends.low, ends.high])
    assert (row["seeds"], row["baseline_seeds"], row["languages"]) == (3, 6, 3)
    squares = sum((len(r) - 1) * r.var(ddof=1) for _, r in runs.groupby(level=0))
    assert row["own_noise"] == pytest.approx(np.sqrt(squares / 9 / 3))
    found = g.intervals(simulated(np.random.default_rng(2), targets=MANY))
    truth = found["intermediate"].map({"a": 3.0, "b": 5.0})
    assert 0.90 <= truth.between(found["low"], found["high"]).mean() <= 0.99
    table = simulated(np.random.default_rng(6))
    with pytest.raises(BadRows, match="differ in their languages"):
        g.intervals(table.drop(index=table.index[table["run"] == "single-a-x-0"][0]))
    with pytest.raises(BadRows, match="no language is there"):
        g.intervals(table[table["condition"] == "none"])


def test_a_baseline_that_trains_nothing_has_no_noise():
    table = simulated(np.random.default_rng(0), baselines=1)
    table["rows_trained"] = np.where(table["condition"] == "none", 0, 100)
    row = g.intervals(table).set_index(["intermediate", "target"]).loc["a", "x"]
    means = 100 * part(table, intermediate="a", target="x").groupby("seed")["value"].mean()
    assert row[["se", "df"]].tolist() == pytest.approx([means.std(ddof=1) / np.sqrt(3), 2])
    # without noise one baseline may stand on both sides
    split = g.gains(table, headroom=True)
    assert split["headroom"].to_numpy() == pytest.approx(100 * (1 - split["baseline"]).to_numpy())


def test_a_single_run_borrows_the_spread_of_its_target():
    one, own = scores(seeds=1, baseline_seeds=3), scores(seeds=3, baseline_seeds=3)
    table = pd.concat([part(one, target="x"), part(own, target="y")])
    found = g.intervals(table).set_index(["intermediate", "target"])
    row = found.loc[("a", "x")]
    base = part(table, target="x", condition="none").query("language != 'en'")
    base = 100 * base.groupby("seed")["value"].mean()
    half = 4.302653 * base.std(ddof=1) * np.sqrt(1 + 1 / 3)  # t with 2 degrees of freedom
    ends = [row["gain"] - half, row["gain"] + half]
    assert row[["low", "high"]].tolist() == pytest.approx(ends, rel=1e-5)
    assert row["clear"] == (abs(row["gain"]) > half)
    alone = g.intervals(scores(seeds=1, baseline_seeds=1))  # one run in all arms
    assert alone["low"].isna().all() and not alone["clear"].any()


def test_targets_without_a_baseline_are_left_out_and_named():
    table = scores()
    table.loc[part(table, target="x", condition="none").index, "status"] = "collapsed"
    rest, notes = g.usable(table)
    assert set(rest["target"]) == {"y"}
    assert notes == ["x has no finished baseline (4 collapsed)."]
    g.gains(rest)
    assert len(g.usable(table, collapsed=True)[0]) == len(table)


def test_reliability_is_the_share_of_gains_that_is_not_noise():
    spread = pd.DataFrame({"target": list("xxxyyy"), "gain": [0.0, 1, 2, 0, 4, 8], "seeds": 4})
    spread["own_noise"] = [0.5] * 3 + [np.nan] * 3
    found = g.reliability(spread)
    assert found.loc["x"].tolist() == [3, 1.0, 1.0, 0.75]
    assert found["gain_sd"]["y"] == 4 and found.loc["y", ["seed_sd", "reliability"]].isna().all()
    # gains that are nothing but seeds: noise of 2 points over 3 runs
    table = simulated(np.random.default_rng(3), targets=MANY[:40])
    table["value"] -= table["intermediate"].map({"": 0.0, "a": 0.03, "b": 0.05})
    found = g.reliability(g.intervals(table))
    assert found["gain_sd"].pow(2).mean() == pytest.approx(4 / 3, rel=0.5)


def test_half_converged_runs_leave_in_both_arms_and_are_counted():
    register("x", chance=0.5)
    table = scores(baseline_seeds=6)
    english = (table["language"] == "en") & (table["target"] == "x")
    # baselines at .80, guessing at .50: below .725 a run has half converged
    table.loc[english, "value"] = 0.80
    half = "none--x-5 single-a-x-1 single-b-x-0 single-b-x-1 single-b-x-2".split()
    table.loc[english & table["run"].isin(half), "value"] = 0.72
    table.loc[english & (table["run"] == "single-a-x-2"), "value"] = 0.73
    table.loc[table["target"] == "y", "value"] = 0.6
    rest, found = g.converged(table)
    # one seed of a leaves; all of b stay, since not one of them learnt
    assert set(table["run"]) - set(rest["run"]) == {"none--x-5", "single-a-x-1"}
    found = found.set_index("target")
    assert found.loc["x", ["median", "least"]].tolist() == pytest.approx([0.8, 0.725])
    assert found.loc["x", ["runs", "half_converged", "left_out"]].tolist() == [12, 5, 2]
    assert found.loc["y", "half_converged"] == 0
    gained = part(g.gains(rest), target="x")
    assert part(gained, intermediate="a")["seed"].unique().tolist() == [0, 2]
    assert gained["baseline_seeds"].unique().tolist() == [5]
    # Retrieval neither converges nor is a trained target.
    register("x", "retrieval")
    table = scores(targets=("x", "y"))
    table.loc[(table["target"] == "x") & (table["seed"] == 1), "value"] = 0.0
    rest, found = g.converged(table.assign(value=table["value"].where(table["target"] == "x", 0.6)))
    assert len(rest) == len(table) and found["target"].tolist() == ["y"]
    assert set(g.trained_targets(table)["target"]) == {"y"}
    alone, found = g.converged(part(table, target="x"))  # nothing is trained
    assert len(alone) == len(part(table, target="x")) and found.empty


def test_gains_are_scaled_within_their_target_without_identity_pairs():
    table = pd.DataFrame({"encoder": "e", "target": list("xxxxyyy"), "identity_pair": False})
    table["gain"] = [1.0, 2, 3, 90, 10, 20, 30]
    table.loc[3, "identity_pair"] = True
    found = g.scale_within(table)["gain_within"]
    assert found.drop(index=3).tolist() == [-1, 0, 1, -1, 0, 1]
    assert found[3] == 88  # the same scale, and no part of it
    # points of one target times a constant: nothing changes
    table["gain"] = table["gain"].where(table["target"] == "x", 7 * table["gain"] - 3)
    pd.testing.assert_series_equal(g.scale_within(table)["gain_within"], found)
    flat = g.scale_within(table.assign(gain=1.0))
    assert flat["gain_within"].isna().all()
    assert "gain_within" not in g.measures_of(flat.assign(m=1.0))
