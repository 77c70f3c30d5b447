import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from helpers import tasks
from helpers.errors import BadRows, UnknownName
from helpers.stats import gains as g
from tests.stats.tables import scores


def register(name, form="pair", **facts):
    source = tasks.Source("rows", name, read=lambda language, split: [])
    tasks.register(tasks.Task(name, "target", form, source, **facts), replace=True)


def mean(table, **where):
    for column, value in where.items():
        table = table[table[column] == value]
    return table["value"].mean()


def test_a_gain_is_a_score_less_the_mean_baseline():
    table = scores()
    found = g.gains(table)
    assert len(found) == 2 * 2 * 3 * 3
    row = found[(found["intermediate"] == "b") & (found["target"] == "y") & (found["seed"] == 2)]
    row = row[row["language"] == "fr"].iloc[0]
    score = mean(table, intermediate="b", target="y", seed=2, language="fr")
    base = mean(table, condition="none", target="y", language="fr")
    assert row["score"] == pytest.approx(score)
    assert row["baseline"] == pytest.approx(base)
    assert row["gain"] == pytest.approx(100 * (score - base))
    assert row["gain_error"] == pytest.approx((score - base) / (1 - base))
    assert row["baseline_seeds"] == 4


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 4), st.integers(1, 5), st.integers(0, 99))
def test_mean_gain_is_the_difference_of_means_on_every_linear_scale(seeds, baselines, seed):
    table = scores(seeds=seeds, baseline_seeds=baselines, seed=seed)
    register("x", chance=0.2)
    found = g.gains(table)
    part = found[(found["intermediate"] == "a") & (found["target"] == "x")]
    with_a = table[(table["intermediate"] == "a") & (table["target"] == "x")]
    base = table[(table["condition"] == "none") & (table["target"] == "x")]
    assert part["gain"].mean() == pytest.approx(
        100 * (with_a["value"].mean() - base["value"].mean())
    )

    def logit(values):
        p = ((values - 0.2) / 0.8).clip(0.5 / 200, 1 - 0.5 / 200)
        return np.log(p / (1 - p)).mean()

    assert part["gain_logit"].mean() == pytest.approx(logit(with_a["value"]) - logit(base["value"]))


def test_reference_gains_on_all_scales():
    """80 to 85 and 40 to 50: the order depends on the scale."""
    table = scores(("a",), ("x", "y"), ("de",), seeds=1, baseline_seeds=2)
    table["n"] = 1000
    base, top = {"x": 0.80, "y": 0.40}, {"x": 0.85, "y": 0.50}
    values = np.where(
        table["condition"] == "none", table["target"].map(base), table["target"].map(top)
    )
    noise = np.where(table["condition"] == "none", np.where(table["seed"] == 0, 0.01, -0.01), 0)
    found = g.gains(table.assign(value=values + noise)).set_index("target")
    assert found["gain"].to_dict() == pytest.approx({"x": 5, "y": 10})
    assert found["gain_error"].to_dict() == pytest.approx({"x": 0.25, "y": 1 / 6})
    assert found["gain_logit"].to_dict() == pytest.approx({"x": 0.348, "y": 0.405}, abs=2e-3)
    # the baseline seeds are one point above and below their mean
    assert found["baseline_sd"].to_dict() == pytest.approx({"x": np.sqrt(2), "y": np.sqrt(2)})
    assert found["gain_z"].to_dict() == pytest.approx({"x": 5 / np.sqrt(2), "y": 10 / np.sqrt(2)})


def test_scores_at_the_ends_keep_their_logit_finite():
    table = scores(("a",), ("x",), ("de",), seeds=1, baseline_seeds=2)
    table.loc[table["condition"] == "none", "value"] = [0.0, 0.0]
    table.loc[table["condition"] == "single", "value"] = 1.0
    row = g.gains(table).iloc[0]
    edge = np.log((1 - 0.5 / 200) / (0.5 / 200))
    assert row["gain_logit"] == pytest.approx(2 * edge)
    assert np.isnan(row["gain_z"])  # equal baseline seeds say nothing about noise


def test_a_perfect_baseline_has_no_relative_error():
    table = scores(("a",), ("x",), ("de",), seeds=1, baseline_seeds=1)
    table["value"] = 1.0
    row = g.gains(table).iloc[0]
    assert np.isnan(row["gain_error"])
    assert row["gain"] == 0


def test_headroom_comes_from_other_baseline_seeds():
    table = scores(baseline_seeds=4)
    found = g.gains(table, headroom=True)
    row = found[(found["target"] == "x") & (found["language"] == "de")].iloc[0]
    base = table[(table["condition"] == "none") & (table["target"] == "x")]
    base = base[base["language"] == "de"].set_index("seed")["value"]
    assert row["baseline"] == pytest.approx(base[[0, 2]].mean())
    assert row["headroom"] == pytest.approx(100 * (1 - base[[1, 3]].mean()))
    with pytest.raises(BadRows, match="two baseline seeds"):
        g.gains(scores(baseline_seeds=1), headroom=True)


def test_flags_come_from_the_task_facts():
    pairs = [("mnli", "xnli"), ("squad1", "xquad"), ("qqp", "pawsx"), ("mnli", "panx"), ("a", "x")]
    table = g.add_flags(pd.DataFrame(pairs, columns=["intermediate", "target"]))
    assert table["identity_pair"].tolist() == [True, True, False, False, False]
    assert table["same_source"].tolist()[2:] == [True, False, False]


def test_only_finished_target_runs_of_one_split_count():
    table = scores()
    extra = pd.DataFrame(
        [
            {**table.iloc[0], "split": "dev", "value": 0.0},
            {**table.iloc[0], "status": "failed: out of memory", "value": np.nan, "seed": 9},
            {**table.iloc[0], "status": "collapsed", "value": 0.1, "seed": 8},
            {**table.iloc[0], "stage": "intermediate", "target": "", "seed": 7},
        ]
    )
    found = g.gains(pd.concat([table, extra], ignore_index=True))
    assert found["baseline_seeds"].max() == 4
    everything = g.gains(pd.concat([table, extra], ignore_index=True), collapsed=True)
    assert everything["baseline_seeds"].max() == 5


def test_main_metric():
    table = scores()
    both = pd.concat([table, table.assign(metric="macro_f1", value=0.5)])
    with pytest.raises(
        BadRows, match=r"\['accuracy', 'macro_f1'\], not 'token_accuracy': register"
    ):
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
    dyads = g.dyads(found)
    assert len(dyads) == 4
    row = dyads[(dyads["intermediate"] == "a") & (dyads["target"] == "x")].iloc[0]
    part = found[(found["intermediate"] == "a") & (found["target"] == "x")]
    part = part[part["language"] != "en"]
    assert row["gain"] == pytest.approx(part.groupby("language")["gain"].mean().mean())
    assert (row["seeds"], row["languages"]) == (3, 2)
    assert row["block"] == "pair x pair"
    assert row["same_format"] == 1


def test_dyads_use_the_languages_that_all_intermediates_have():
    table = scores(languages=("de", "fr", "es"))
    gone = (table["intermediate"] == "a") & (table["target"] == "x") & (table["language"] == "es")
    dyads = g.dyads(g.gains(table[~gone])).set_index(["intermediate", "target"])
    assert dyads.loc[("b", "x"), "languages"] == 2
    assert dyads.loc[("b", "x"), "languages_left_out"] == 1
    assert dyads.loc[("b", "y"), "languages_left_out"] == 0


def test_dyads_with_unequal_seeds_still_weigh_languages_equally():
    table = scores(languages=("de", "fr"))
    gone = (table["run"] == "single-a-x-2") & (table["language"] == "fr")
    found = g.gains(table[~gone])
    row = g.dyads(found).iloc[0]
    part = found[(found["intermediate"] == "a") & (found["target"] == "x")]
    assert row["gain"] == pytest.approx(part.groupby("language")["gain"].mean().mean())


def test_similarity_joins_wide_or_long():
    found = g.gains(scores())
    wide = pd.DataFrame(
        {"intermediate": ["a", "a", "b"], "target": ["x", "y", "x"], "cosine": [0.1, 0.2, 0.3]}
    )
    long = wide.rename(columns={"cosine": "value"}).assign(measure="cosine")
    first = g.dyads(found, similarity=wide)
    second = g.dyads(found, similarity=long)
    pd.testing.assert_frame_equal(first, second)
    assert first["cosine"].isna().sum() == 1  # nothing is imputed
    assert g.measures_of(first) == ["cosine"]
    per_language = pd.concat(
        [
            long.assign(language="en"),
            long.assign(language="de", value=9.0),  # a measure on another language's rows
            long.assign(language="en", target="", measure="drift"),  # of an intermediate alone
        ]
    )
    third = g.dyads(found, similarity=per_language)
    pd.testing.assert_frame_equal(first, third)
    with pytest.raises(BadRows, match="twice"):
        g.dyads(found, similarity=pd.concat([wide, wide]))
    with pytest.raises(BadRows, match="check task names"):
        g.dyads(found, similarity=wide.tail(1).assign(target="z"))
    with pytest.raises(UnknownName):
        g.dyads(found, similarity=wide.drop(columns="target"))


def test_dyads_refuse_what_is_not_there():
    found = g.gains(scores())
    with pytest.raises(BadRows, match="condition 'mlm'"):
        g.dyads(found, condition="mlm")
    with pytest.raises(BadRows, match="format of 'stranger' is not known"):
        g.dyads(found.assign(intermediate="stranger"))


def test_exclude_leaves_identity_pairs_out():
    table = pd.DataFrame({"target": ["xnli", "tatoeba"], "identity_pair": [True, False]})
    assert g.exclude(table)["target"].tolist() == ["tatoeba"]


MANY = tuple(f"t{k:03d}" for k in range(160))  # targets as independent replicates


def simulated(rng, seeds=3, baselines=6, sd=0.02, targets=("x", "y")):
    """Runs whose seed noise is shared by their languages; true gains are 3 and 5 points."""
    table = scores(("a", "b"), targets, ("de", "fr", "es"), seeds, baselines)
    true = table["intermediate"].map({"": 0.5, "a": 0.53, "b": 0.55}).to_numpy()
    runs = table["run"].unique()
    shared = table["run"].map(dict(zip(runs, sd * rng.normal(size=runs.size), strict=True)))
    own = 0.005 * rng.normal(size=len(table))
    return table.assign(value=true + shared + own)


def test_intervals_are_welchs():
    table = simulated(np.random.default_rng(1))
    row = g.intervals(table).set_index(["intermediate", "target"]).loc["a", "x"]
    runs = 100 * table[table["target"] == "x"].groupby(["intermediate", "seed"])["value"].mean()
    theirs = stats.ttest_ind(runs["a"], runs[""], equal_var=False)
    assert row["gain"] == pytest.approx(runs["a"].mean() - runs[""].mean())
    assert row["gain"] / row["se"] == pytest.approx(theirs.statistic)
    assert row["df"] == pytest.approx(theirs.df)
    ends = theirs.confidence_interval()
    assert [row["low"], row["high"]] == pytest.approx([ends.low, ends.high])
    assert row["spread"] == "own runs"
    assert (row["seeds"], row["baseline_seeds"], row["languages"]) == (3, 6, 3)
    squares = sum((len(r) - 1) * r.var(ddof=1) for _, r in runs.groupby(level=0))
    assert row["own_noise"] == pytest.approx(np.sqrt(squares / 9 / 3))


def test_intervals_cover():
    found = g.intervals(simulated(np.random.default_rng(2), targets=MANY))
    truth = found["intermediate"].map({"a": 3.0, "b": 5.0})
    assert 0.90 <= truth.between(found["low"], found["high"]).mean() <= 0.99


def test_a_baseline_that_trains_nothing_has_no_noise():
    table = simulated(np.random.default_rng(0), baselines=1)
    table["rows_trained"] = np.where(table["condition"] == "none", 0, 100)
    row = g.intervals(table).set_index(["intermediate", "target"]).loc["a", "x"]
    runs = table[(table["intermediate"] == "a") & (table["target"] == "x")]
    means = 100 * runs.groupby("seed")["value"].mean()
    assert row["se"] == pytest.approx(means.std(ddof=1) / np.sqrt(3))
    assert row["df"] == pytest.approx(2)
    # without noise one baseline may stand on both sides
    split = g.gains(table, headroom=True)
    assert split["headroom"].to_numpy() == pytest.approx(100 * (1 - split["baseline"]).to_numpy())


def test_intervals_refuse_seeds_that_lack_a_language():
    table = simulated(np.random.default_rng(6))
    with pytest.raises(BadRows, match="differ in their languages"):
        g.intervals(table.drop(index=table.index[table["run"] == "single-a-x-0"][0]))
    with pytest.raises(BadRows, match="no language is there"):
        g.intervals(table[table["condition"] == "none"])


def test_a_single_run_borrows_the_spread_of_its_target():
    one, own = scores(seeds=1, baseline_seeds=3), scores(seeds=3, baseline_seeds=3)
    table = pd.concat([one[one["target"] == "x"], own[own["target"] == "y"]])
    found = g.intervals(table).set_index(["intermediate", "target"])
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
    found = g.intervals(scores(seeds=1, baseline_seeds=1))
    assert set(found["spread"]) == {"unknown"}
    assert found["low"].isna().all() and not found["clear"].any()


def test_targets_without_a_baseline_are_left_out_and_named():
    table = scores()
    lost = (table["target"] == "x") & (table["condition"] == "none")
    table.loc[lost, "status"] = "collapsed"
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
    rng = np.random.default_rng(3)
    table = simulated(rng, targets=MANY[:40])
    table["value"] -= table["intermediate"].map({"": 0.0, "a": 0.03, "b": 0.05})
    assert g.reliability(g.intervals(table))["gain_sd"].pow(2).mean() == pytest.approx(
        4 / 3, rel=0.5
    )


def test_half_converged_runs_leave_in_both_arms_and_are_counted():
    register("x", chance=0.5)
    table = scores(targets=("x", "y"), baseline_seeds=6)
    english = (table["language"] == "en") & (table["target"] == "x")
    # baselines at .80, guessing at .50: below .725 a run has half converged
    table.loc[english, "value"] = 0.80
    for run in ("none--x-5", "single-a-x-1", "single-b-x-0", "single-b-x-1", "single-b-x-2"):
        table.loc[english & (table["run"] == run), "value"] = 0.72
    table.loc[english & (table["run"] == "single-a-x-2"), "value"] = 0.73
    table.loc[table["target"] == "y", "value"] = 0.6
    rest, found = g.converged(table)
    # one seed of a leaves; all of b stay, since not one of them learnt
    assert set(table["run"]) - set(rest["run"]) == {"none--x-5", "single-a-x-1"}
    row = found.set_index("target").loc["x"]
    assert row["median"] == pytest.approx(0.8) and row["least"] == pytest.approx(0.725)
    assert row[["runs", "half_converged", "left_out"]].tolist() == [12, 5, 2]
    assert found.set_index("target").loc["y", "half_converged"] == 0
    gained = g.gains(rest)
    assert gained.query("target == 'x' and intermediate == 'a'")["seed"].unique().tolist() == [0, 2]
    assert gained.query("target == 'x'")["baseline_seeds"].unique().tolist() == [5]


def test_retrieval_neither_converges_nor_is_a_trained_target():
    register("x", "retrieval")
    table = scores(targets=("x", "y"))
    table.loc[(table["target"] == "x") & (table["seed"] == 1), "value"] = 0.0
    rest, found = g.converged(table.assign(value=table["value"].where(table["target"] == "x", 0.6)))
    assert len(rest) == len(table) and found["target"].tolist() == ["y"]
    assert set(g.trained_targets(table)["target"]) == {"y"}


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
