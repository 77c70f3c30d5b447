import numpy as np
import pytest
import statsmodels.formula.api as smf
from statsmodels.stats.multitest import multipletests

from data.make import calibration as scenarios
from helpers.errors import BadFit, UnknownName
from helpers.stats import multiverse, permutation
from helpers.stats.reml import crossed_reml

TASKS = ("intermediate", "target")


def dyads(slope=0.0, seed=0, name="blocks"):
    """A table like that of the study, with two scales, three measures and two identity pairs."""
    rng = np.random.default_rng(seed)
    s = scenarios.SCENARIOS[name]
    data = scenarios.table(s, *scenarios.draw(s, slope, rng))
    data["gain_z"] = data["gain"] / 2 + 0.1 * rng.normal(size=len(data))
    data["near"] = data["similarity"] + 0.5 * rng.normal(size=len(data))
    data["other"] = rng.normal(size=len(data))
    data["identity_pair"] = False
    data.loc[[0, 11], "identity_pair"] = True
    return data


def run(data, measures=("similarity", "near", "other"), n=99):
    return multiverse.run({"all": data}, measures, n=n)


def quick(data):
    return run(data.drop(columns="gain_z"), ["similarity"]).joint


def test_every_specification_is_there_once():
    measures = ["similarity", "near", "other"]
    found = multiverse.run(multiverse.subsets_of(dyads()), measures, n=99)
    assert len(found.table) == 2 * 3 * 2 * 4  # scales, measures, subsets, removals
    assert not found.table.duplicated(["scale", "measure", "subset", "removed"]).any()
    assert found.table["r"].is_monotonic_increasing
    assert found.joint["specifications"] == len(found.table) == len(found.band)
    assert found.joint["median"] == pytest.approx(found.table["r"].median())
    assert found.joint["share_positive"] == pytest.approx((found.table["r"] > 0).mean())


def test_r_is_the_partial_correlation():
    data = dyads(0.4)
    table = run(data).table
    assert set(table["subset"]) == {"all"}
    found = table.set_index(["scale", "measure", "removed"])["r"]
    formulas = {
        "none": "",
        "target": " + C(target)",
        "both": " + C(target) + C(intermediate)",
    }
    for removed, effects in formulas.items():
        fit = smf.ols("gain ~ similarity" + effects, data).fit()
        t = fit.tvalues["similarity"]
        r = t / np.sqrt(t**2 + fit.df_resid)
        assert found["gain", "similarity", removed] == pytest.approx(r)


def test_joint_test_sees_an_effect_and_not_its_absence():
    strong = run(dyads(1.0).drop(columns="gain_z"), ["similarity", "near"], n=199)
    assert strong.joint["p_median"] == pytest.approx(1 / 200)
    assert strong.joint["share_positive"] == 1
    p = [quick(dyads(0.0, seed))["p_median"] for seed in range(40)]
    assert np.mean(np.array(p) < 0.05) <= 0.15
    assert 0.3 < np.mean(p) < 0.7


def test_free_relabelling_is_fooled_by_formats():
    """Labels that cross formats break the blocks, so the null is too narrow."""
    one = {"intermediate_format": "f", "target_format": "f"}
    free = [quick(dyads(0.0, seed).assign(**one))["p_median"] for seed in range(40)]
    inside = [quick(dyads(0.0, seed))["p_median"] for seed in range(40)]
    assert np.mean(np.array(free) < 0.05) > 2 * np.mean(np.array(inside) < 0.05)


def test_band_covers_its_own_permutations():
    found = run(dyads(), n=199)
    assert (found.band["low"] <= found.band["middle"]).all()
    assert (found.band["middle"] <= found.band["high"]).all()
    assert found.band["middle"].is_monotonic_increasing


def test_specifications_that_do_not_exist_are_noted():
    data = dyads().assign(gain_logit=np.nan)
    data.loc[data["target"] > "t00", "other"] = np.nan  # defined for one target only
    found = run(data.drop(columns="gain_z"))
    said = " ".join(found.notes)
    assert "gain_logit is not defined" in said
    assert "gain_error is not defined" in said
    assert "other" in said
    assert len(found.table) < 12
    with pytest.raises(BadFit, match="no specification"):
        run(data.drop(columns=["gain", "gain_z"]))


def test_a_measure_without_a_value_is_skipped_and_noted():
    data = dyads().assign(empty=np.nan)
    found = run(data, ["empty", "similarity"])
    assert set(found.table["measure"]) == {"similarity"}
    assert "empty is not defined for any dyad." in found.notes
    table = multiverse.all_measures(data, ["empty", "similarity"], n=99)
    assert table.loc["empty", "dyads"] == 0
    assert "no value" in table.loc["empty", "note"]


def test_measures_fixed_by_formats_are_left_out():
    found = run(dyads(), ["similarity", "same_format"])
    assert set(found.table["measure"]) == {"similarity"}
    assert "fixed by the formats" in " ".join(found.notes)


def test_subsets():
    data = dyads()
    data.loc[data["target"] > "t07", "target_format"] = "retrieval"
    again = data.assign(gain=data["gain"] + 1)
    found = multiverse.subsets_of(data, again)
    assert list(found) == ["all", "with identity pairs", "without retrieval", "with collapsed runs"]
    assert len(found["all"]) == 88
    assert len(found["without retrieval"]) == 70
    assert "retrieval" not in set(found["without retrieval"]["target_format"])


def test_all_measures_table():
    data = dyads(0.8)
    data.loc[data["target"] == "t03", "near"] = np.nan
    data["flat"] = 1.0
    found = multiverse.all_measures(
        data, ["similarity", "near", "other", "flat"], reliability={"similarity": 0.64}, n=199
    )
    assert found.loc["near", "dyads"] == 81
    assert "constant" in found.loc["flat", "note"]
    assert np.isnan(found.loc["flat", "p"])
    scaled = data.assign(similarity=data["similarity"] / data["similarity"].std())
    fit = crossed_reml(scaled, "gain", ["similarity"], multiverse.RANDOM)
    row = found.loc["similarity"]
    assert row["slope"] == pytest.approx(fit["similarity"]["estimate"], rel=1e-4)
    assert row["slope_disattenuated"] == pytest.approx(row["slope"] / 0.8)
    known = found["p"].dropna()
    assert found.loc[known.index, "p_bh"].to_numpy() == pytest.approx(
        multipletests(known, method="fdr_bh")[1]
    )
    names = ["similarity", "near", "other"]
    formats = multiverse.FORMATS
    by_max = permutation.min_p(data, "gain", names, *TASKS, formats, n=199)
    assert found.loc[names, "p_min_p"].to_numpy() == pytest.approx(by_max["p_min_p"].to_numpy())


def test_controls():
    data = dyads(0.8)
    found = multiverse.controls(data, ["other"], ["similarity"]).set_index("measure")
    assert found["passed"].to_dict() == {"other": True, "similarity": True}
    swapped = multiverse.controls(data, ["similarity"], ["other"])
    assert not swapped["passed"].any()
    backwards = data.assign(similarity=-data["similarity"])
    assert not multiverse.controls(backwards, [], ["similarity"])["passed"].any()


def test_a_measure_that_is_not_there_is_named():
    for ask in (run, multiverse.all_measures):
        with pytest.raises(UnknownName, match="unknown measure 'nera'. Did you mean 'near'"):
            ask(dyads(), ["nera"], n=9)
