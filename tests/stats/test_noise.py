import numpy as np
import pandas as pd
import pytest

from helpers.errors import BadRows, UnknownName
from helpers.stats import gains, noise
from tests.stats.tables import scores

FORMATS = {"a": "pair", "b": "pair", "x": "pair", "y": "pair"}
MANY = tuple(f"t{k:03d}" for k in range(160))  # targets as independent replicates


def simulated(rng, seeds=3, baselines=6, sd=0.02, targets=("x", "y")):
    """Runs whose seed noise is shared by their languages; true gains are 3 and 5 points."""
    table = scores(("a", "b"), targets, ("de", "fr", "es"), seeds, baselines)
    true = table["intermediate"].map({"": 0.5, "a": 0.53, "b": 0.55}).to_numpy()
    runs = table["run"].unique()
    shared = table["run"].map(dict(zip(runs, sd * rng.normal(size=runs.size), strict=True)))
    own = 0.005 * rng.normal(size=len(table))
    return table.assign(value=true + shared + own)


def test_bootstrap_standard_error_is_that_of_a_difference_of_means():
    table = simulated(np.random.default_rng(1))
    found = noise.bootstrap(table, draws=20000)
    row = found[(found["intermediate"] == "a") & (found["target"] == "x")].iloc[0]
    wide = table[table["target"] == "x"].groupby(["intermediate", "seed"])["value"].mean() * 100
    parts = [wide["a"].var(ddof=1) / 3, wide[""].var(ddof=1) / 6]
    assert row["se"] == pytest.approx(np.sqrt(sum(parts)), rel=0.03)
    assert row["df"] == pytest.approx(sum(parts) ** 2 / (parts[0] ** 2 / 2 + parts[1] ** 2 / 5))
    assert row["gain"] == pytest.approx(wide["a"].mean() - wide[""].mean())
    dyads = gains.dyads(gains.gains(table), formats=FORMATS)
    same = dyads.merge(found, on=["intermediate", "target"])
    assert same["gain_x"].to_numpy() == pytest.approx(same["gain_y"].to_numpy())


def test_bootstrap_intervals_cover():
    found = noise.bootstrap(simulated(np.random.default_rng(2), targets=MANY), draws=300)
    truth = found["intermediate"].map({"a": 3.0, "b": 5.0})
    assert 0.90 <= truth.between(found["low"], found["high"]).mean() <= 0.99


def test_resampling_languages_widens_where_languages_differ():
    rng = np.random.default_rng(3)
    table = simulated(rng, sd=0.002)
    bump = table["language"].map({"de": 0.0, "fr": 0.1, "es": -0.1}) * (
        table["condition"] == "single"
    )
    table["value"] += bump
    narrow = noise.bootstrap(table)
    wide = noise.bootstrap(table, over="seeds and languages")
    assert (wide["se"] > 5 * narrow["se"]).all()
    # the spread of three language gains of -10, 0, 10 points over sqrt(3)
    assert wide["se"].mean() == pytest.approx(10 / np.sqrt(3), rel=0.1)


def test_one_seed_has_no_interval():
    found = noise.bootstrap(simulated(np.random.default_rng(0), seeds=1))
    assert found[["se", "low", "high"]].isna().all(axis=None)
    assert found["gain"].notna().all()


def test_a_baseline_that_trains_nothing_has_no_noise():
    table = simulated(np.random.default_rng(0), baselines=1)
    table["rows_trained"] = np.where(table["condition"] == "none", 0, 100)
    found = noise.bootstrap(table, draws=20000)
    row = found[(found["intermediate"] == "a") & (found["target"] == "x")].iloc[0]
    runs = table[(table["intermediate"] == "a") & (table["target"] == "x")]
    means = 100 * runs.groupby("seed")["value"].mean()
    assert row["se"] == pytest.approx(means.std(ddof=1) / np.sqrt(3), rel=0.03)
    assert row["df"] == pytest.approx(2)
    dyads = gains.dyads(gains.gains(table), formats=FORMATS)
    covariance = noise.sampling_covariance(table, dyads)
    assert np.array_equal(covariance, np.diag(np.diag(covariance)))
    # without noise one baseline may stand on both sides
    split = gains.gains(table, headroom=True)
    assert split["headroom"].to_numpy() == pytest.approx(100 * (1 - split["baseline"]).to_numpy())


def test_sampling_covariance_shares_the_baseline():
    table = simulated(np.random.default_rng(4))
    dyads = gains.dyads(gains.gains(table), formats=FORMATS)
    found = noise.sampling_covariance(table, dyads)
    runs = 100 * table.groupby(["target", "intermediate", "seed"])["value"].mean()
    x = dyads.index[dyads["target"] == "x"]
    y = dyads.index[dyads["target"] == "y"]
    shared = runs["x"][""].var(ddof=1) / 6
    assert found[x[0], x[1]] == pytest.approx(shared)
    assert found[x[0], y[0]] == 0
    own = (runs["x"]["a"].var(ddof=1) + runs["x"]["b"].var(ddof=1)) / 2 / 3
    assert found[x[0], x[0]] == pytest.approx(shared + own)


def test_gains_of_one_target_correlate_one_half_with_equal_seeds():
    table = simulated(np.random.default_rng(5), baselines=3, targets=MANY)
    formats = FORMATS | dict.fromkeys(MANY, "pair")
    dyads = gains.dyads(gains.gains(table), formats=formats)
    wide = dyads.pivot(index="target", columns="intermediate", values="gain")
    assert np.corrcoef(wide.to_numpy().T)[0, 1] == pytest.approx(0.5, abs=0.15)


def test_refusals():
    table = simulated(np.random.default_rng(6))
    dyads = gains.dyads(gains.gains(table), formats=FORMATS)
    with pytest.raises(UnknownName):
        noise.bootstrap(table, over="rows")
    with pytest.raises(BadRows, match="differ in their languages"):
        noise.bootstrap(table.drop(index=table.index[table["run"] == "single-a-x-0"][0]))
    with pytest.raises(BadRows, match="no finished score of condition"):
        noise.bootstrap(table, condition="mlm")
    with pytest.raises(BadRows, match="one seed per arm"):
        one = simulated(np.random.default_rng(6), seeds=1)
        noise.sampling_covariance(one, dyads)
    with pytest.raises(BadRows, match="one encoder"):
        both = pd.concat([dyads, dyads.assign(encoder="other")])
        noise.sampling_covariance(table, both)
