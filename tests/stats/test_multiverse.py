import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from statsmodels.stats.multitest import multipletests

from helpers.errors import BadFit, UnknownName
from helpers.stats import gains, multiverse, permutation
from helpers.stats.reml import crossed_reml
from tests.stats.tables import world

TASKS = ("intermediate", "target")


def dyads(slope=0.0, seed=0):
    """A table like that of the study, with two scales, three measures and two identity pairs."""
    rng = np.random.default_rng(seed)
    data = world("blocks", slope, rng)
    data["gain_z"] = data["gain"] / 2 + 0.1 * rng.normal(size=len(data))
    data["near"] = data["similarity"] + 0.5 * rng.normal(size=len(data))
    data["other"] = rng.normal(size=len(data))
    return data.assign(identity_pair=data.index.isin([0, 11]))


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
    # The band covers its own permutations.
    band = run(dyads(), n=199).band
    assert (band["low"] <= band["middle"]).all() and (band["middle"] <= band["high"]).all()
    assert band["middle"].is_monotonic_increasing


def test_gains_scaled_within_targets_are_one_more_scale():
    plain, within = run(dyads()).table, run(gains.scale_within(dyads())).table
    alike = within[within["scale"] != "gain_within"].drop(columns="p_bh").reset_index(drop=True)
    pd.testing.assert_frame_equal(alike, plain.drop(columns="p_bh"))
    assert (within["scale"] == "gain_within").sum() == 3 * 4  # measures, removals


@pytest.mark.filterwarnings("ignore:The design matrix is rank-deficient")
def test_r_is_the_partial_correlation():
    data = dyads(0.4)
    table = run(data).table
    assert set(table["subset"]) == {"all"}
    found = table.set_index(["scale", "measure", "removed"])["r"]
    target, both = " + C(target)", " + C(target) + C(intermediate)"
    terms = {"none": "", "target": target, "both": both, "both and block": both + " + C(block)"}
    for removed, effects in terms.items():
        fit = smf.ols("gain ~ similarity" + effects, data).fit()
        t = fit.tvalues["similarity"]
        r = t / np.sqrt(t**2 + fit.df_resid)
        assert found["gain", "similarity", removed] == pytest.approx(r)


def test_joint_test_sees_an_effect_and_not_its_absence():
    strong = run(dyads(1.0).drop(columns="gain_z"), ["similarity", "near"], n=199)
    assert strong.joint["p_median"] == pytest.approx(1 / 200)
    assert strong.joint["share_positive"] == 1
    p = np.array([quick(dyads(0.0, seed))["p_median"] for seed in range(40)])
    assert (p < 0.05).mean() <= 0.15 and 0.3 < p.mean() < 0.7
    # Labels that cross formats break the blocks, so the null is too narrow.
    one = {"intermediate_format": "f", "target_format": "f"}
    free = [quick(dyads(0.0, seed).assign(**one))["p_median"] for seed in range(40)]
    assert np.mean(np.array(free) < 0.05) > 2 * (p < 0.05).mean()


def test_specifications_that_do_not_exist_are_noted():
    data = dyads().assign(gain_logit=np.nan)
    data.loc[data["target"] > "t00", "other"] = np.nan  # defined for one target only
    found = run(data.drop(columns="gain_z"))
    said = " ".join(found.notes)
    for part in ("gain_logit is not defined", "gain_error is not defined", "other"):
        assert part in said
    assert len(found.table) < 12
    with pytest.raises(BadFit, match="no specification"):
        run(data.drop(columns=["gain", "gain_z"]))
    data = dyads().assign(empty=np.nan)
    found = run(data, ["empty", "similarity", "same_format"])
    assert set(found.table["measure"]) == {"similarity"}
    assert "empty is not defined for any dyad." in found.notes
    assert "fixed by the formats" in " ".join(found.notes)
    row = multiverse.all_measures(data, ["empty", "similarity"], n=99).loc["empty"]
    assert row["dyads"] == 0 and "no value" in row["note"]
    for ask in (run, multiverse.all_measures):
        with pytest.raises(UnknownName, match="unknown measure 'nera'. Did you mean 'near'"):
            ask(dyads(), ["nera"], n=9)


def test_subsets():
    data = dyads()
    data.loc[data["target"] > "t07", "target_format"] = "retrieval"
    again = data.assign(gain=data["gain"] + 1)
    found = multiverse.subsets_of(data, again)
    assert list(found) == ["all", "with identity pairs", "without retrieval", "with collapsed runs"]
    # runs that are not there, or change no gain, are no subset of their own
    assert "with half-converged runs" in multiverse.subsets_of(data, None, again)
    assert list(multiverse.subsets_of(data, data, data)) == list(found)[:3]
    assert len(found["all"]) == 88 and len(found["without retrieval"]) == 70
    assert "retrieval" not in set(found["without retrieval"]["target_format"])


def test_all_measures_table():
    data = dyads(0.8).assign(flat=1.0)
    data.loc[data["target"] == "t03", "near"] = np.nan
    names = ["similarity", "near", "other"]
    noise = {"similarity": 0.64}
    found = multiverse.all_measures(data, [*names, "flat"], reliability=noise, n=199)
    assert found.loc["near", "dyads"] == 81
    assert "constant" in found.loc["flat", "note"] and np.isnan(found.loc["flat", "p"])
    scaled = data.assign(similarity=data["similarity"] / data["similarity"].std())
    fit = crossed_reml(scaled, "gain", ["similarity"], multiverse.RANDOM)
    row = found.loc["similarity"]
    assert row["slope"] == pytest.approx(fit["similarity"]["estimate"], rel=1e-4)
    assert row["slope_disattenuated"] == pytest.approx(row["slope"] / 0.8)
    known = found["p"].dropna()
    adjusted = multipletests(known, method="fdr_bh")[1]
    assert found.loc[known.index, "p_bh"].to_numpy() == pytest.approx(adjusted)
    few = data.assign(few=data["other"].where(data["target"] < "t02"))  # in 18 dyads
    again = multiverse.all_measures(few, [*names, "few"], n=199)
    assert again.loc["few", "dyads"] < 20 and np.isfinite(again.loc["few", "p"])
    assert np.isnan(again.loc["few", "p_bh"]) and np.isnan(again.loc["few", "p_min_p"])
    assert again.loc[names, "p_bh"].to_numpy() == pytest.approx(adjusted)
    by_max = permutation.min_p(data, "gain", names, *TASKS, multiverse.FORMATS, n=199)
    assert found.loc[names, "p_min_p"].to_numpy() == pytest.approx(by_max["p_min_p"].to_numpy())


def test_controls():
    data = dyads(0.8)
    found = multiverse.controls(data, ["other"], ["similarity"]).set_index("measure")
    assert found["passed"].to_dict() == {"other": True, "similarity": True}
    assert not multiverse.controls(data, ["similarity"], ["other"])["passed"].any()
    backwards = data.assign(similarity=-data["similarity"])
    assert not multiverse.controls(backwards, [], ["similarity"])["passed"].any()


def test_a_positive_control_is_sought_within_targets_where_gains_are():
    data = gains.scale_within(dyads(0.8))
    # How well a target is learnt says nothing of its gains, and is most of an early score.
    level = data["target"].str[1:].astype(float)
    early = data.assign(early=data["similarity"] + 20 * level)
    found = [multiverse.controls(early, [], ["early"], what) for what in ("gain", "gain_within")]
    assert [table["passed"].item() for table in found] == [False, True]
    assert (
        multiverse.all_measures(data, ["similarity"], outcome="gain_within", n=99)["p"]
        .lt(0.05)
        .all()
    )
