"""Tables of the results chapters: right where the dyads carry them, a sentence where not."""

import numpy as np
import pandas as pd
import pytest

from helpers import book, findings, results
from helpers.errors import BadFit, MissingData
from helpers.stats import calibration, confirmatory, gains, noise, reml, scenarios
from tests.stats import tables
from tests.stats.test_external import stand_in

NAME = "text_embedding"


def dyads(name="blocks half", slope=0.5, seed=0):
    """A simulated dyad table with one identity pair."""
    s = scenarios.SCENARIOS[name]
    data = scenarios.table(s, *scenarios.draw(s, slope, np.random.default_rng(seed)))
    data = data.rename(columns={"similarity": NAME})
    return data.assign(encoder="e", identity_pair=np.arange(len(data)) == 3)


def language_table(data):
    rows = data.loc[data.index.repeat(4)].reset_index(drop=True)
    rows["language"] = ["en", "de", "fr", "sw"] * len(data)
    rows["gain"] += np.random.default_rng(1).normal(0, 0.1, len(rows))
    return rows.assign(condition="single")[
        ["intermediate", "target", "language", "condition", "gain"]
    ]


def too_few(*_):
    raise BadFit("3 rows cannot carry it.")


def test_what_cannot_be_fitted_is_an_empty_table_with_a_sentence():
    table = findings.tried(too_few, 1)
    assert table.empty and findings.note(table) == "3 rows cannot carry it."
    assert np.isnan(findings.at(table, "H1", "estimate"))
    found = findings.tried(lambda: pd.Series({"a": 1.0}))
    assert findings.at(found, 0, "a") == 1.0 and findings.note(found, "fine") == "fine"


def test_mistakes_of_the_caller_are_not_hidden():
    with pytest.raises(KeyError):
        findings.tried(lambda: {}["a"])


def scores():
    table = tables.scores(seeds=1, baseline_seeds=3)
    own = tables.scores(seeds=3, baseline_seeds=3)
    return pd.concat([table[table["target"] == "x"], own[own["target"] == "y"]])


def test_a_single_run_borrows_the_spread_of_its_target():
    table = scores()
    found = findings.intervals(table).set_index(["intermediate", "target"])
    assert found["spread"].to_list().count("own runs") == 2
    row = found.loc[("a", "x")]
    base = table[(table["target"] == "x") & (table["condition"] == "none")]
    base = 100 * base[base["language"] != "en"].groupby("seed")["value"].mean()
    half = 4.302653 * base.std(ddof=1) * np.sqrt(1 + 1 / 3)  # t with 2 degrees of freedom
    assert row["spread"] == "other runs of the target"
    assert row["high"] - row["gain"] == pytest.approx(half, rel=1e-5)
    assert row["gain"] - row["low"] == pytest.approx(half, rel=1e-5)
    assert row["clear"] == (abs(row["gain"]) > half)
    plain = noise.bootstrap(table).set_index(["intermediate", "target"]).loc[("a", "y")]
    assert found.loc[("a", "y"), ["low", "high"]].tolist() == plain[["low", "high"]].tolist()


def test_targets_without_a_baseline_are_left_out_and_named():
    table = tables.scores()
    lost = (table["target"] == "x") & (table["condition"] == "none")
    table.loc[lost, "status"] = "collapsed"
    rest, notes = findings.usable(table)
    assert set(rest["target"]) == {"y"}
    assert notes == ["x has no finished baseline (4 collapsed)."]
    gains.gains(rest)
    assert len(findings.usable(table, collapsed=True)[0]) == len(table)
    few = ["1 of 1 trained baselines have fewer than 6 seeds (the fewest: 4)."]
    assert findings.departures(table, "pilot") == notes + few
    assert findings.departures(table.assign(rows_trained=0), "pilot") == notes
    none = findings.controls(dyads())
    said = findings.departures(table, "pilot", controls=none)
    assert said[-2:] == ["No negative control was measured.", "No positive control was measured."]
    negative = pd.DataFrame({"kind": ["negative"]})
    said = findings.departures(table, "pilot", controls=negative)
    assert said[-1] == "No positive control was measured." and "negative" not in said[-2]
    table = table.assign(rows_trained=0)
    table.loc[(table["intermediate"] == "a") & (table["seed"] > 0), "status"] = "collapsed"
    said = findings.departures(table, "demo")
    assert "illustrative" in said[0]
    assert said[-1] == "1 of 2 dyads have fewer than 3 seeds (the fewest: 1)."
    table.loc[table["intermediate"] == "a", "status"] = "failed: memory"
    assert findings.departures(table, "pilot")[-1] == "1 of 2 dyads have no finished run."


def test_one_run_in_all_arms_has_no_interval():
    found = findings.intervals(tables.scores(seeds=1, baseline_seeds=1))
    assert set(found["spread"]) == {"unknown"}
    assert found["low"].isna().all() and not found["clear"].any()


def test_a_baseline_that_trains_nothing_adds_no_noise():
    table = tables.scores(targets=("x",), seeds=1, baseline_seeds=3).assign(rows_trained=10)
    extra = table[table["intermediate"] == "a"].assign(seed=1, run="again")
    extra["value"] += 0.05
    table = pd.concat([table, extra])
    noisy = findings.intervals(table).set_index("intermediate")
    table.loc[table["condition"] == "none", "rows_trained"] = 0
    sure = findings.intervals(table).set_index("intermediate")
    assert (sure["high"] - sure["low"]).loc["b"] < (noisy["high"] - noisy["low"]).loc["b"]


def test_standing_says_what_a_study_can_prove():
    table = tables.scores(baseline_seeds=6)
    assert findings.standing(table, "pilot") == "These are 4 dyads, run as the specification asks."
    assert "illustration, not evidence" in findings.standing(table, "demo")
    few = table[(table["seed"] == 0) | (table["condition"] == "none")]
    assert "fall short of the specification: 4 of 4" in findings.standing(few, "pilot")
    similarity = pd.DataFrame({"measure": [NAME, "tfidf"], "n": [160, 5000]})
    said = findings.standing(table, "pilot", similarity)
    assert said.endswith("Similarity was measured on 160 rows a task, not 2,000.")


def test_runs_and_baselines_leave_english_out():
    table = tables.scores(targets=("x",))
    found = findings.runs(table)
    assert found["arm"].value_counts().to_dict() == {"with an intermediate": 6, "without": 4}
    other = table[(table["language"] != "en") & (table["condition"] == "none")]
    mean = found.loc[found["arm"] == "without", "score"].mean()
    assert mean == pytest.approx(100 * other["value"].mean())
    rows = gains.gains(table)
    row = findings.baselines(rows).iloc[0]
    assert row["baseline"] == pytest.approx(mean) and row["languages"] == 2
    each = rows[rows["language"] != "en"].groupby("intermediate")["gain"].mean()
    assert row["gain_sd"] == pytest.approx(each.std()) and row["seeds"] == 4


def test_english_stands_beside_the_others():
    rows = gains.gains(tables.scores())
    found = findings.english(rows).set_index(["intermediate", "target"])
    part = rows[(rows["intermediate"] == "a") & (rows["target"] == "y")]
    assert found.loc[("a", "y"), "english"] == pytest.approx(part[part["english"]]["gain"].mean())
    assert found.loc[("a", "y"), "others"] == pytest.approx(part[~part["english"]]["gain"].mean())
    assert "No target" in findings.note(findings.english(rows[~rows["english"]]))


def test_published_scores_stand_beside_and_apart():
    table = pd.DataFrame(
        {"target": ["xnli", "xnli", "mine"], "gain": [1.0, 3.0, 9.0], "baseline": [0.6, 0.6, 0.5]}
    )
    found = findings.published(table)
    xnli = found[found["target"] == "xnli"]
    assert set(xnli["difference"].dropna().round(1)) == {0.8, 1.2}  # two sources, both kept
    assert xnli["mean_here"].eq(2.0).all() and xnli["best_here"].eq(3.0).all()
    base = xnli.set_index("encoder").loc["XLM-R Base"]
    assert base["without"] == 75.0 and np.isnan(base["with_best"]) and base["without_here"] == 60
    assert set(found.loc[found["target"] == "tatoeba", "without"]) == {75.2}
    assert not found["target"].str.contains("avg|category").any()
    assert "mine" not in set(found["target"]) and found["source"].notna().all()
    assert found.loc[found["target"] == "panx", "best_here"].isna().all()


def test_grids_keep_the_order_of_appearance():
    table = pd.DataFrame({"intermediate": list("bab"), "target": list("yyx"), "v": [1.0, 2.0, 3.0]})
    wide = findings.grid(table, "v")
    assert list(wide.index) == ["b", "a"] and list(wide.columns) == ["y", "x"]
    assert np.isnan(wide.loc["a", "x"])


def test_shares_add_up_and_show_what_noise_takes():
    data = gains.exclude(dyads())
    spread = data[["intermediate", "target"]].assign(own_noise=np.nan)
    spread.loc[[0, 1], "own_noise"] = [0.3, 0.4]
    elsewhere = pd.DataFrame({"intermediate": ["i00"], "target": ["t99"], "own_noise": [9.0]})
    found = findings.shares(data, pd.concat([spread, elsewhere]))
    assert found["share"].iloc[:-1].sum() == pytest.approx(1)
    assert findings.at(found, "of that, seed noise", "variance") == pytest.approx(0.125)


def test_noise_of_a_shared_baseline_is_not_noise_of_a_dyad():
    table = tables.scores(("a", "b"), ("x",), seeds=4, baseline_seeds=3)
    table.loc[table["condition"] == "none", "value"] = 0.5  # the baseline never moves
    found = findings.intervals(table).set_index("intermediate")
    arm = table[(table["condition"] == "single") & (table["language"] != "en")]
    runs = 100 * arm.groupby(["intermediate", "seed"])["value"].mean()
    squares = runs.groupby("intermediate").var(ddof=1) * 3
    expected = np.sqrt(squares.sum() / (3 + 3 + 2) / 4)  # pooled over both arms and the baseline
    assert found["own_noise"].to_list() == pytest.approx([expected, expected])


def test_the_specified_method_is_the_confirmatory_one():
    data = dyads()
    found = findings.methods(data, language_table(data), n=199)
    row = confirmatory.confirm(data, n=199).table.loc["H1"]
    assert findings.at(found, findings.SPECIFIED, "estimate") == pytest.approx(row["estimate"])
    assert findings.at(found, findings.SPECIFIED, "p") == pytest.approx(row["p"])
    within = "permutation within formats"
    assert findings.at(found, within, "p") == pytest.approx(row["p_permutation"])
    assert found.loc["OLS on language rows", "rows"] == 3 * 89
    assert found["specified"].to_list() == ["yes"] * 2 + ["no"] * 4 and (found["note"] == "").all()


@pytest.mark.parametrize(("slope", "verdict"), [(2.0, ": supported."), (0.0, ": not supported.")])
def test_the_answer_says_what_was_found(slope, verdict):
    found = findings.confirmed(dyads(slope=slope), n=199)
    text, row = findings.answer(found.table), found.table.loc["H1"]
    assert verdict in text
    assert f"Over {row['dyads']} pairs" in text
    assert f"{book.number(row['estimate'], 2, sign=True)} points" in text
    assert f"p {findings.p_value(row['p_permutation'])} by permutation" in text


def test_an_untested_question_is_said_to_be_untested():
    text = findings.answer(findings.confirmed(dyads("4 x 3").head(6)).table)
    assert text.startswith("The question could not be tested. ") and "cannot carry" in text


def test_rows_as_replicates_shrink_the_interval():
    data = dyads(slope=0.0)
    found = findings.methods(data, language_table(data), n=99)
    width = found["high"] - found["low"]
    assert width["OLS on language rows"] < 0.7 * width["OLS on dyads"]


def test_six_dyads_give_sentences_not_numbers():
    data = dyads("4 x 3").head(6)
    found = findings.confirmed(data)
    assert found.table.empty and "cannot carry" in found.notes[0]
    methods = findings.methods(data, language_table(data), n=99)
    assert "cannot carry" in methods.loc[findings.SPECIFIED, "note"]
    assert np.isnan(findings.at(methods, findings.SPECIFIED, "p"))
    slopes = findings.slopes({"as specified": data})
    assert np.isnan(findings.at(slopes, "as specified", "estimate"))
    unseen = findings.unseen_table(findings.unseen(data, ["target"]))
    assert "at least 3" in unseen.loc["target", "note"] or unseen.loc["target", "note"]


def test_null_slopes_hold_the_observed_one_and_its_p():
    null = findings.null_slopes(dyads(slope=2.0), within=False, n=199)
    assert len(null) == 199 and null.attrs["p"] == pytest.approx(1 / 200)
    assert null.abs().max() < null.attrs["estimate"]
    alone = dyads().drop_duplicates("intermediate_format")
    none = findings.null_slopes(alone, within=True, n=99)
    assert none.empty and none.attrs["note"]


def test_centred_columns_have_no_task_means():
    found = findings.centred(dyads())
    for task in ("intermediate", "target"):
        means = found.groupby(task)[["gain_dyad", f"{NAME}_dyad"]].mean()
        assert np.abs(means.to_numpy()).max() < 1e-9
    assert len(found) == 89  # without the identity pair


def test_parts_of_a_similarity_have_their_own_slopes():
    data = dyads("confounded", slope=0.0, seed=5)
    found = findings.parts(data)
    assert list(found.index) == ["of the dyad itself", "of the intermediate", "of the target"]
    assert found.loc["of the intermediate", "estimate"] > 0.5  # the confounder sits there
    assert abs(findings.at(found, "of the dyad itself", "estimate")) < 0.35


SIMILARITY = pd.DataFrame(
    {
        "intermediate": list("abc") * 3,
        "target": list("xxxyyyzzz"),
        NAME: np.sin(np.arange(9.0)),
    }
)
STAGES = pd.DataFrame(
    {
        "condition": "single",
        "intermediate": ["a", "b", "c"],
        "status": ["done", "done", "collapsed"],
        "rows_trained": [10, 30, 20],
    }
)


@pytest.fixture
def formats(monkeypatch):
    known = dict(zip("abcxyz", ("pair", "pair", "span", "pair", "span", "tagging"), strict=True))
    monkeypatch.setattr(gains, "_format", lambda task, formats: known[task])


def test_variants_that_change_nothing_are_not_shown(formats):
    table = tables.scores(("a", "b", "c"), ("x", "y", "z"))
    found = findings.variants(table, SIMILARITY, STAGES)
    names = ["as specified", "with English", "without intermediates that were not learnt"]
    assert list(found) == names
    assert len(found["without intermediates that were not learnt"]) == 6
    assert findings.unlearnt(STAGES) == ["c"]
    slopes = findings.slopes(found)
    assert slopes.loc["as specified", "dyads"] == 9
    base = found["as specified"]
    x = (base[NAME] - base[NAME].mean()) / base[NAME].std()
    fit = reml.crossed_reml(base.assign(x=x), "gain", ["x"], confirmatory.RANDOM)
    assert findings.at(slopes, "as specified", "estimate") == pytest.approx(fit["x"]["estimate"])


def test_choices_are_compared_with_and_without_predictions():
    data = findings.kept(dyads(slope=2.0, name="independent"))
    sizes = findings.rows_trained(STAGES)
    assert sizes.to_dict() == {"a": 10, "b": 30, "c": 20}
    found = findings.unseen(data, ["target"])
    table = findings.choices(data, found["target"], sizes)
    assert findings.at(table, "similarity", "regret@1") < findings.at(table, "random", "regret@1")
    assert table.index[0] == "best possible"
    without = findings.choices(data, "why not", sizes)
    assert "similarity" not in without.index
    assert findings.at(without, "random", "regret@1") == pytest.approx(
        findings.at(table, "random", "regret@1")
    )
    with pytest.raises(BadFit, match="to choose from"):
        findings.choices(data.drop_duplicates("target"), "why not", sizes)


def test_predictions_are_summed_up_per_unit():
    data = findings.kept(dyads(slope=1.0))
    table = findings.unseen_table(findings.unseen(data, ["intermediate", "encoder"]))
    assert table.loc["intermediate", "rows"] == 89 and table.loc["intermediate", "note"] == ""
    assert "at least 3" in table.loc["encoder", "note"]
    assert len(findings.predicted(findings.unseen(data, ["target"])["target"])) == 89
    none = findings.unseen(findings.nothing("too few."), ["target"])
    assert none == {"target": "too few."}
    assert findings.note(findings.predicted(none["target"])) == "too few."
    empty = findings.tried(findings.choices, findings.nothing("too few."), "why", pd.Series())
    assert findings.note(empty) == "too few."


def many(baseline_seeds=4):
    return tables.scores(tuple("abc"), tuple("xyz"), seeds=2, baseline_seeds=baseline_seeds)


def test_headroom_comes_from_baseline_runs_that_are_not_subtracted(formats):
    table = many()
    found = findings.headroom(table, SIMILARITY)
    assert list(found.index) == [
        "headroom alone",
        "similarity alone",
        "headroom beside the other",
        "similarity beside the other",
    ]
    base = table[(table["condition"] == "none") & (table["language"] != "en")]
    mean = base.groupby([base["seed"] % 2, "target"])["value"].mean() * 100
    arms = table[(table["condition"] == "single") & (table["language"] != "en")]
    data = arms.groupby(["intermediate", "target"], as_index=False)["value"].mean()
    data["gain"] = 100 * data["value"] - data["target"].map(mean[0])
    data["headroom"] = (100 - data["target"].map(mean[1])) / 10
    data = gains.add_formats(data)
    fit = reml.crossed_reml(data, "gain", ["headroom"], confirmatory.RANDOM)["headroom"]
    assert findings.at(found, "headroom alone", "estimate") == pytest.approx(fit["estimate"])
    assert findings.at(found, "headroom alone", "p") == pytest.approx(fit["p"])
    few = findings.tried(findings.headroom, many(baseline_seeds=1), SIMILARITY)
    assert few.empty and "two baseline seeds" in findings.note(few)


def test_measures_that_say_the_same_are_one_group():
    data = dyads(slope=1.0)
    rng = np.random.default_rng(2)
    data["twin"] = 3 * data[NAME] + 0.01 * rng.normal(size=90)
    data["other"], data["partial"] = rng.normal(size=(2, 90))
    data.loc[7, "partial"] = np.nan
    data["size"] = data["target"].map({t: k for k, t in enumerate(data["target"].unique())})
    assert findings.measures(data)[0] == NAME
    found = findings.overlap(data, [NAME, "twin", "other", "partial", "size"])
    assert found["group"].dropna().to_dict() == {NAME: 1, "twin": 1, "other": 2}
    assert found.loc[NAME, "vif"] > 100 and found.loc["other", "vif"] < 2
    centred = findings.centred(data)[["gain_dyad", f"{NAME}_dyad"]]
    assert findings.at(found, NAME, "r2") == pytest.approx(centred.corr().iloc[0, 1] ** 2)
    assert np.isnan(findings.at(found, "twin", "unique"))  # the first of the group stands for it
    assert found.loc["partial", "note"] == "undefined for 1 of 89 dyads"
    assert "belong to single tasks" in found.loc["size", "note"]
    with pytest.raises(BadFit, match="fewer than two"):
        findings.overlap(data, [NAME, "size"])


def test_controls_are_not_among_the_measures():
    data = dyads().assign(early_score=1.0, logme_shuffled=1.0, tfidf=1.0)
    assert findings.measures(data) == [NAME, "tfidf"]


def drifting(data):
    """Gains in other languages per target, and drift that carries all of similarity's effect."""
    rng = np.random.default_rng(4)
    languages = [f"l{k}" for k in range(20)]
    pairs = data[["intermediate", "target"]]
    own = pd.DataFrame(
        rng.normal(size=(9, 20)), index=sorted(pairs["intermediate"].unique()), columns=languages
    )
    rows = pairs.merge(
        pd.DataFrame(
            [(t, c) for t in pairs["target"].unique() for c in rng.choice(languages, 3, False)],
            columns=["target", "language"],
        )
    )
    rows["drift"] = [
        own.loc[i, c] for i, c in zip(rows["intermediate"], rows["language"], strict=True)
    ]
    mean = rows.groupby(["intermediate", "target"], as_index=False)["drift"].mean()
    table = data.drop(columns=NAME).merge(mean)
    table[NAME] = table.pop("drift") + 0.2 * rng.normal(size=90)
    rows["gain"] = rows["drift"] + 0.3 * rng.normal(size=len(rows))
    table["gain"] = rows.groupby(["intermediate", "target"])["gain"].mean().to_numpy()
    drift = own.stack().rename("value").rename_axis(["intermediate", "language"]).reset_index()
    drift = drift.assign(target="", measure=findings.MEDIATOR, status="done")
    return table, rows.drop(columns="drift").assign(condition="single"), drift


def test_drift_carries_its_part_of_the_slope():
    table, rows, drift = drifting(dyads().sort_values(["intermediate", "target"]))
    found = findings.mediated(table, rows, drift)
    assert found["dyads"].eq(89).all()
    assert found.loc["through drift", "low"] > 0.3
    assert abs(findings.at(found, "direct", "estimate")) < 0.2
    whole = findings.at(found, "through drift", "estimate") + findings.at(
        found, "direct", "estimate"
    )
    assert findings.at(found, "total", "estimate") == pytest.approx(whole, abs=0.05)
    none = findings.tried(findings.mediated, table, rows, drift.head(0))
    assert none.empty and "was not measured" in findings.note(none)
    same = rows.assign(language=np.resize(["l1", "l2", "l3"], len(rows)))
    with pytest.raises(BadFit, match="belongs to the intermediate alone"):
        findings.mediated(table, same, drift)


def test_slopes_of_languages_are_pulled_together():
    data = dyads(slope=1.0, name="independent")
    rows = language_table(data).merge(data[["intermediate", "target", NAME]])
    rows["syntactic"] = rows["language"].map({"en": 0.0, "de": 0.1, "fr": 0.2, "sw": 0.9})
    same = findings.language_slopes(data, rows.drop(columns=NAME))
    assert same["slope"].std() < 0.02
    rows.loc[rows["language"] == "sw", "gain"] -= 3 * rows[NAME]  # far, and reversed
    found = findings.language_slopes(data, rows.drop(columns=NAME))
    assert found.index[0] == "sw" and set(found.index) == {"de", "fr", "sw"}
    assert found.loc["sw", "slope"] < -1 < 0.5 < found.loc["de", "slope"]
    assert found.loc["sw", "syntactic"] == 0.9 and found["targets"].eq(10).all()
    none = findings.language_slopes(data.head(6), rows)
    assert none.empty and "slope" in none and "cannot carry" in findings.note(none)


def test_families_of_languages_are_left_out_in_turn():
    data = dyads(slope=1.0)
    rows = language_table(data).assign(family=lambda t: t["language"].replace("en", "de"))
    found = findings.unseen_families(findings.kept(data), rows)
    assert found.scores["units"] == 3 and found.scores["rows"] == 3 * 89
    assert found.scores["spearman"] > 0.9  # a dyad is known from its other languages
    two = rows.assign(family=rows["family"].replace("fr", "de"))
    assert "at least 3" in findings.unseen_families(findings.kept(data), two)
    assert findings.unseen_families(findings.nothing("too few."), rows) == "too few."


def test_the_curve_marks_what_was_fixed_beforehand():
    data = dyads(slope=1.0).assign(other=np.arange(90.0) ** 0.5 % 1)
    data["gain_logit"] = data["gain"] / 10
    table, joint = findings.curve({"all": gains.exclude(data)}, [NAME, "other"], n=49)
    assert table["primary"].sum() == 1 and table["r"].is_monotonic_increasing
    assert (table["low"] <= table["high"]).all()
    assert findings.at(joint, 0, "specifications") == len(table)
    none, empty = findings.curve({"all": gains.exclude(data).head(3)}, [NAME], n=9)
    assert none.empty and empty.empty and findings.note(none)


def test_controls_are_tested_where_they_were_measured():
    data = dyads(slope=1.0)
    assert findings.note(findings.controls(data)) == "No control was measured."
    random = np.random.default_rng(0).normal(size=90)
    data = data.assign(text_embedding_random=random, early_score=data[NAME])
    found = findings.controls(data).set_index("measure")
    long = data[["intermediate", "target"]].assign(
        measure="tfidf_random", value=random, language="en"
    )
    apart = findings.controls(data.drop(columns="text_embedding_random"), long)
    assert set(apart["measure"]) == {"tfidf_random", "early_score"}
    assert found["kind"].to_dict() == {
        "text_embedding_random": "negative",
        "early_score": "positive",
    }
    assert found["passed"].all()


def test_numbers_and_texts_of_a_table_that_is_not_there():
    table = pd.DataFrame({"verdict": ["supported"]}, index=["H1"])
    assert findings.said(table, "H1", "verdict") == "supported"
    assert findings.said(findings.nothing("why"), "H1", "verdict") == "not tested"
    shown = [findings.p_value(p) for p in (0.0002, 0.0213, float("nan"))]
    assert shown == ["< 0.001", "= 0.021", "not available"]


def test_influence_names_what_was_left_out():
    data = gains.exclude(dyads("20 x 10, half")).query("target_format != 'f1'")
    found = findings.influence(data)
    assert found["left_out"].iloc[0] == "nothing" and found["unit"].iloc[0] == "none"
    assert len(found) == 1 + data["intermediate"].nunique() + data["target"].nunique()
    low, high = findings.ends(found, "estimate")
    assert low <= found["estimate"].iloc[0] <= high
    assert np.isnan(findings.ends(findings.nothing("why"), "estimate")).all()


def test_stored_calibration_is_read_or_said_to_be_missing(tmp_path):
    counts = dict.fromkeys(calibration._COUNTED, 0.0) | {"replicates": 50, "rejected": 5}
    counts |= {"intervals": 50, "covered": 45}
    row = {"scenario": "blocks", "slope": 0.0, "method": calibration.FINAL, "batch": 0} | counts
    pd.DataFrame([row]).to_csv(tmp_path / "dyads.csv", index=False)
    found = findings.calibrated("dyads", tmp_path)
    assert findings.at(found, 0, "rejected") == 0.1 and findings.at(found, 0, "coverage") == 0.9
    assert findings.rate(found, "blocks", calibration.FINAL) == 0.1
    assert findings.rate(found, "blocks", calibration.FINAL, "coverage") == 0.9
    assert np.isnan(findings.rate(found, "blocks", calibration.FINAL, slope=0.4))
    assert np.isnan(findings.rate(findings.nothing("none"), "blocks", calibration.FINAL))
    assert "--study languages" in findings.note(findings.calibrated("languages", tmp_path))


def test_relabelled_similarity_rarely_predicts():
    found = findings.relabelled(dyads(slope=0.0), replicates=40).set_index("method")
    assert found.loc[calibration.FINAL, "replicates"] == 40
    assert found.loc[calibration.FINAL, "rejected"] < 0.2
    with pytest.raises(BadFit, match="no method can be fitted to 4 dyads"):
        findings.relabelled(dyads("4 x 3").head(4), replicates=3)


def test_counts_of_relabelled_tables_are_stored_with_the_gains_they_belong_to(tmp_path):
    data, file = dyads(slope=0.0), tmp_path / "counts.csv"
    findings.store_relabelled(data, file, sizes=(12, 4))
    found = findings.relabelled(data, replicates=3, stored=file)
    pd.testing.assert_frame_equal(found, findings.relabelled(data, replicates=12))
    other = data.assign(gain=data["gain"] + data["target"].eq("t00"))
    assert findings.relabelled(other, replicates=3, stored=file)["replicates"].max() == 3
    assert findings.relabelled(data, replicates=3, stored="")["replicates"].max() == 3


def test_stored_counts_of_a_study_belong_to_its_results_and_can_be_repeated():
    for file in sorted(results.FOLDER.glob("*-relabelled.csv")):
        profile = file.stem.removesuffix("-relabelled")
        scores = findings.usable(results.load(profile))[0]
        table = gains.dyads(gains.gains(scores), similarity=results.similarities(profile))
        whole = confirmatory.prepared(table, NAME)
        counts = pd.read_csv(file)
        stale = f"make {file} again with findings.store_relabelled: it belongs to other gains"
        assert set(counts["gains"]) == {findings.fingerprint(whole)}, stale
        few = counts[counts["size"] == counts["size"].min()].reset_index(drop=True)
        again = calibration.permuted_tables(whole, NAME, int(few["size"].iloc[0]))
        pd.testing.assert_frame_equal(few[again.columns], again, check_dtype=False)


def test_a_study_is_compared_with_the_design_of_its_size():
    names = {name: findings.nearest_design(dyads(name)) for name in findings.DESIGNS}
    assert all(name == found for name, found in names.items())
    assert findings.DESIGNS["blocks half"] == "9 x 10"
    rates = pd.DataFrame({"scenario": ["7 x 3", "blocks half"]})
    assert findings.sizes(rates, "blocks half").to_list() == ["7 x 3", "9 x 10 (this study)"]
    ten = dyads().query("intermediate != 'i00'")
    assert findings.nearest_design(ten) == "blocks half"


def test_a_baseline_on_both_sides_makes_a_slope_of_its_noise():
    found = findings.headroom_mistake()
    # slope of -b on truth + b: minus the noise's share of the variance
    assert found.loc["the same run", "slope"] == pytest.approx(-0.2, abs=0.01)
    assert found.loc["the same run", "rejected"] > 0.12
    assert abs(found.loc["other seeds", "slope"]) < 0.01
    assert found.loc["other seeds", "rejected"] == pytest.approx(0.05, abs=0.02)


def test_a_table_of_others_is_analysed_from_a_copy_of_it(tmp_path, monkeypatch):
    none = findings.tried(findings.recycled, "")
    assert none.empty and "IBM/model-recycling" in findings.note(none)
    with pytest.raises(MissingData):
        findings.recycled(str(tmp_path / "no.csv"))
    wide = stand_in(same=2.0, models=60, incomplete=0)
    wide.to_csv(tmp_path / "table.csv")
    found = findings.recycled(str(tmp_path / "table.csv"), n=99)
    assert "OLS on rows" in found.index and "permutation of families" in found.index


def test_a_reversed_ranking_looks_good_in_raw_scores_only():
    rows = pd.DataFrame({"target": ["x"] * 4 + ["y"] * 4, "score": [0.5, 0.55, 0.6, 0.65] * 2})
    found = findings.reversed_ndcg(rows)
    assert found["raw"] > 0.9 and found["above worst"] < 0.8
