import numpy as np
import pandas as pd
import pytest
from statsmodels.stats.outliers_influence import variance_inflation_factor

from helpers.errors import BadFit
from helpers.stats import collinearity
from helpers.stats.design import double_centre
from tests.stats.tables import crossed


def measures(seed=0):
    data = crossed(8, 7, seed=seed)
    rng = np.random.default_rng(seed)
    data["m1"] = rng.normal(size=56)
    data["m2"] = data["m1"] + 0.3 * rng.normal(size=56)
    data["m3"] = rng.normal(size=56)
    return data


def test_parts_are_double_centred():
    data = measures()
    found = collinearity.dyadic_parts(data, ["m1", "m3"])
    by_hand = double_centre(data["m1"].to_numpy().reshape(8, 7)).ravel()
    assert found["m1"].to_numpy() == pytest.approx(by_hand / by_hand.std(ddof=1))


def test_vif_equals_that_of_the_double_centred_columns():
    data = measures()
    found = collinearity.vif(data, ["m1", "m2", "m3"])
    parts = np.column_stack(
        [double_centre(data[m].to_numpy().reshape(8, 7)).ravel() for m in ("m1", "m2", "m3")]
    )
    by_hand = [variance_inflation_factor(parts, k) for k in range(3)]
    assert found.to_numpy() == pytest.approx(by_hand)
    assert found["m1"] > 5 > found["m3"]
    twice = collinearity.vif(data.assign(m4=3 * data["m3"]), ["m3", "m4"])
    assert np.isinf(twice).all()


def test_target_effects_do_not_make_measures_alike():
    data = measures()
    for name in ("m1", "m3"):  # on pure noise many scores follow the number of classes
        data[name] += 10 * data["target"]
    assert data[["m1", "m3"]].corr().iloc[0, 1] > 0.9
    assert collinearity.vif(data, ["m1", "m3"]).max() < 1.5


def test_clusters():
    found = collinearity.clusters(measures(), ["m1", "m2", "m3"])
    assert found["m1"] == found["m2"] != found["m3"]
    with pytest.raises(BadFit, match="at least two"):
        collinearity.clusters(measures(), ["m1"])


def test_commonality_of_two_measures_is_the_textbook_split():
    data = measures().assign(gain=lambda d: d["m1"] + d["m2"] + d["gain"])
    found = collinearity.commonality(data, "gain", ["m1", "m2"])
    parts = collinearity.dyadic_parts(data, ["gain", "m1", "m2"])
    y = parts["gain"]

    def r2(*names):
        x = parts[list(names)].to_numpy()
        rest = y - x @ np.linalg.lstsq(x, y, rcond=None)[0]
        return 1 - (rest @ rest) / (y @ y)

    assert found.loc["m1", "part"] == pytest.approx(r2("m1", "m2") - r2("m2"))
    assert found.loc["m1 + m2", "part"] == pytest.approx(r2("m1") + r2("m2") - r2("m1", "m2"))
    assert found["part"].sum() == pytest.approx(r2("m1", "m2"))


def test_commonality_parts_of_three_measures_sum_to_r2():
    data = measures(3)
    found = collinearity.commonality(data, "gain", ["m1", "m2", "m3"])
    assert len(found) == 7
    assert found["part"].sum() == pytest.approx(found.loc["m1 + m2 + m3", "r2"])
    with pytest.raises(BadFit, match="1 to 8"):
        collinearity.commonality(data, "gain", [])


def test_refusals():
    data = measures().assign(size=lambda d: d["intermediate"] * 1.0)
    with pytest.raises(BadFit, match="'size' belong to single tasks"):
        collinearity.vif(data, ["m1", "size"])
    few = pd.DataFrame({"intermediate": [0, 0, 1, 1], "target": [0, 1, 0, 1], "m": [1.0, 2, 3, 5]})
    with pytest.raises(BadFit, match="too few"):
        collinearity.dyadic_parts(few, ["m"])
