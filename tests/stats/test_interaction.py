import numpy as np
import pandas as pd
import pytest
from scipy import stats

from helpers.errors import BadFit
from helpers.stats import design, interaction, prediction, reml, scenarios

RANDOM = ["intermediate", "target", "block"]


def rows(slope=0.5, change=0.0, seed=0):
    return scenarios.language_rows(
        np.random.default_rng(seed), slope, change, (12, 9, 15, 7, 10), 8
    )


def test_distance_slopes_are_least_squares_within_dyads():
    data = rows()
    found = interaction.distance_slopes(data, "gain", "distance", ["similarity"])
    one = data[(data["intermediate"] == "i02") & (data["target"] == "t03")]
    by_hand = stats.linregress(one["distance"], one["gain"]).slope
    here = found[(found["intermediate"] == "i02") & (found["target"] == "t03")].iloc[0]
    assert here["slope"] == pytest.approx(by_hand)
    assert here["languages"] == 7
    assert len(found) == 40
    few = interaction.distance_slopes(data, "gain", "distance", least=10)
    assert set(few["target"]) == {"t00", "t02", "t04"}
    with pytest.raises(BadFit, match="no dyad has 50 languages"):
        interaction.distance_slopes(data, "gain", "distance", least=50)


def test_a_shared_baseline_does_not_move_differences_between_dyads():
    data = rows()
    noise = dict.fromkeys(zip(data["target"], data["language"], strict=True))
    rng = np.random.default_rng(1)
    noise = {cell: rng.normal() for cell in noise}
    moved = data.assign(
        gain=[
            g - noise[cell]
            for g, cell in zip(
                data["gain"], zip(data["target"], data["language"], strict=True), strict=True
            )
        ]
    )
    a, b = (interaction.distance_slopes(d, "gain", "distance") for d in (data, moved))
    shift = (a["slope"] - b["slope"]).groupby(a["target"]).std()
    assert shift.max() < 1e-9


def test_by_distance_finds_the_change_of_slope():
    found = [
        interaction.by_distance(rows(0.5, 0.6, s), "similarity", "distance", RANDOM)["similarity"]
        for s in range(6)
    ]
    estimates = [f["estimate"] for f in found]
    assert np.mean(estimates) == pytest.approx(0.6, abs=0.12)
    # the covariate is standardised over languages, whatever its unit
    scaled = rows(0.5, 0.6, 0).assign(distance=lambda d: 100 * d["distance"] + 7)
    again = interaction.by_distance(scaled, "similarity", "distance", RANDOM)["similarity"]
    assert again["estimate"] == pytest.approx(estimates[0], rel=1e-6)


def test_by_language_pools_towards_the_common_slope():
    data = rows(0.5, 0.0, 3)
    found = interaction.by_language(data, "similarity")
    assert set(found.index) == set(data["language"])
    assert found["slope"].is_monotonic_increasing
    raw = {
        name: stats.linregress(g["similarity"], g["gain"]).slope
        for name, g in data.groupby("language")
        if len(g) >= 5
    }
    assert found["slope"].std() < pd.Series(raw).std()


def test_errors_of_language_slopes_are_those_of_the_forecasts():
    data = rows(0.5, 0.0, 4)
    rng = np.random.default_rng(4)
    own = {name: 0.8 * rng.normal() for name in data["language"].unique()}
    data["gain"] += data["language"].map(own) * data["similarity"]
    found = interaction.by_language(data, "similarity")
    scaled = design.standardise(data, ["similarity"])
    effects = [*RANDOM, "intermediate:target", "language", "target:language", "similarity|language"]
    fit = reml.crossed_reml(scaled, "gain", ["similarity"], effects)
    two = scaled.head(1).loc[[0, 0]].assign(similarity=[1.0, 0.0])
    covariance = prediction.forecast(fit, two, ["similarity"]).covariance
    one = np.array([1.0, -1.0])
    variance = one @ covariance @ one - 2 * fit.variances["residual"]
    assert found.loc[two["language"].iloc[0], "se"] == pytest.approx(np.sqrt(variance))


def test_a_missing_distance_is_refused():
    data = rows()
    data.loc[data["language"] == data["language"].iloc[0], "distance"] = np.nan
    with pytest.raises(BadFit, match="'distance'"):
        interaction.by_distance(data, "similarity", "distance", RANDOM)
