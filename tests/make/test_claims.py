import numpy as np
import pandas as pd
import pytest

from data.make import calibration, claims
from helpers import results
from tests.stats.tables import scores

INTERMEDIATES = ("squad1", "mnli", "hellaswag", "qqp")


def study(gained=0.0, retrieval=0.0, condition="", seed=0):
    """Scores of four targets whose gains are as given, in points, with little noise."""
    targets = ("xnli", "tydiqa", "udpos", "tatoeba")
    table = scores(INTERMEDIATES, targets, ("en", "de", "fr"), seed=seed)
    noise = np.random.default_rng(seed).normal(0, 0.002, len(table))
    apart = np.where(table["target"] == "tatoeba", retrieval, gained)
    gain = np.where(table["condition"] == "none", 0, apart) / 100
    table = table.assign(value=0.5 + noise + gain)
    if condition:
        last = table[table["intermediate"] == "qqp"]
        more = last.assign(condition=condition, intermediate="", value=last["value"] - 0.1)
        table = pd.concat([table, more], ignore_index=True)
    return claims.claims(table).set_index("claim")


def test_true_gains_agree_losses_disagree_and_absent_conditions_are_not_tested():
    found = study(gained=5.0, retrieval=8.0)
    agree = ["1 squad1", "1 mnli", "1 hellaswag", "3", "4 tydiqa", "5"]
    assert found.loc[agree, "outcome"].unique().tolist() == ["agrees"]
    assert found.loc["4 xnli", "outcome"] == "disagrees"  # it gains
    assert found.loc["3", "ours"] == pytest.approx(3, abs=0.5)
    assert set(found.loc[["2", "6 mlm", "6 translated"], "outcome"]) == {"not tested"}
    assert set(found.loc[["7", "8", "9", "10"], "outcome"]) == {"a fact"}

    # A study without the targets of a claim does not test it.
    found = claims.claims(scores(INTERMEDIATES, ("udpos", "intents"))).set_index("claim")
    assert set(found.loc[["3", "4 tydiqa", "4 xnli"], "outcome"]) == {"not tested"}
    assert found.loc["1 mnli", "outcome"] != "not tested"
    lost = study(gained=-4.0, retrieval=-30.0)
    assert set(lost.loc[["1 mnli", "3", "4 tydiqa"], "outcome"]) <= {"disagrees", "cannot tell"}
    assert lost.loc["3", "outcome"] == "disagrees"
    assert study()["outcome"]["1 squad1"] == "cannot tell"


@pytest.mark.parametrize(("condition", "claim"), [("multitask", "2"), ("mlm", "6 mlm")])
def test_other_conditions_are_compared_with_the_best_single_task(condition, claim):
    row = study(gained=5.0, retrieval=5.0, condition=condition).loc[claim]
    assert row["ours"] == pytest.approx(-10 if claim == "2" else 10, abs=0.5)
    assert row["outcome"] == ("disagrees" if claim == "2" else "agrees")


def test_baselines_that_all_intermediates_share_widen_an_interval():
    sample = pd.Series([1.0, 1.1, 0.9, 1.0], pd.Index(list("abcd"), name="intermediate"))
    alone = claims._judged(sample)
    shared = claims._judged(sample, pd.DataFrame({"variance": [4.0], "df": [1]}))
    assert alone["outcome"] == "agrees" and shared["outcome"] == "cannot tell"
    # one run against another: t with one degree of freedom
    assert shared["high"] - 1 == pytest.approx(12.706 * 2, rel=0.01)


def test_half_converged_runs_leave_and_the_best_task_is_judged_by_another_seed():
    targets = ("xnli", "udpos", "panx-dev", "tatoeba")
    table = scores(INTERMEDIATES, targets, ("en", "de", "fr"))
    table["value"] = np.where(table["target"] == "tatoeba", 0.3, 0.7)
    table.loc[(table["target"] == "tatoeba") & (table["condition"] == "none"), "value"] = 0.6
    # No task is better than another: the best of four, by the same seeds, would gain two points.
    draw, means = np.random.default_rng(1), []
    for _ in range(8):
        noise = draw.normal(0, 0.03, len(table))
        found = claims.claims(table.assign(value=table["value"] + noise)).set_index("claim")
        means.append(found.loc["5, trained", "ours"])
    assert abs(np.mean(means)) < 0.7
    assert found.loc["5, trained", "n"] == 3 and found.loc["5", "n"] == 4
    assert found.loc["1 squad1", "ours"] < found.loc["1 squad1, trained", "ours"] - 5
    stuck = (table["run"] == "none--udpos-3") | (table["run"] == "single-mnli-udpos-0")
    table["value"] = table["value"].mask(stuck, 0.35) + draw.normal(0, 1e-4, len(table))
    found = claims.claims(table).set_index("claim")
    assert found.loc[["1 mnli, trained", "5, trained"], "ours"].abs().max() < 0.05


def test_a_baseline_that_is_alone_and_a_third_retrieval_target_do_not_make_a_claim():
    table = scores(INTERMEDIATES, ("xnli", "udpos", "tatoeba", "bucc2018", "lareqa"))
    noise = np.random.default_rng(0).normal(0, 0.002, len(table))
    gain = table["target"].map({"tatoeba": 0.1, "bucc2018": 0.1, "lareqa": -0.4, "xnli": -0.1})
    table["value"] = 0.5 + noise + gain.fillna(0).where(table["condition"] != "none", 0)
    found = claims.claims(table).set_index("claim")
    assert found.loc["3", "outcome"] == found.loc["4 xnli", "outcome"] == "agrees"
    assert found.loc["3", "ours"] == pytest.approx(13.75, abs=0.3)  # MNLI has no XNLI
    lost = (table["target"] == "xnli") & (table["condition"] == "none") & (table["seed"] > 0)
    found = claims.claims(table.assign(status=table["status"].mask(lost, "collapsed")))
    assert found.set_index("claim").loc[["3", "4 xnli"], "outcome"].tolist() == ["cannot tell"] * 2


def test_the_stored_tables_are_those_of_the_stored_scores_and_of_an_outside_review():
    stored = pd.read_csv(claims.OUTPUT, dtype={"claim": str})
    found = claims.claims(results.load("pilot"))
    pd.testing.assert_frame_equal(stored, found, check_dtype=False, rtol=1e-3)
    table = pd.read_csv(calibration.RECYCLED).set_index(["which", "method"])
    # an outside review computed these with statsmodels and lme4
    assert table.loc[("all", "OLS on rows"), "estimate"] == pytest.approx(-0.015, abs=5e-4)
    mixed = table.loc[("all", "REML, model, target and block")]
    assert mixed[["estimate", "se"]].tolist() == pytest.approx([0.315, 0.408], abs=5e-4)
    assert table.loc[("without collapsed rows", "OLS on rows"), "estimate"].round(2) == 1.28
