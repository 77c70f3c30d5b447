import numpy as np
import pytest
from statsmodels.stats.weightstats import DescrStatsW

from helpers.errors import BadFit
from helpers.stats import effects
from helpers.stats.reml import crossed_reml
from tests.stats.tables import crossed

TWO = ["intermediate", "target"]


def test_equivalence_is_two_one_sided_tests():
    rng = np.random.default_rng(0)
    data = crossed(8, 6, seed=1).assign(gain=0.1 + rng.normal(size=48))
    fit = crossed_reml(data, "gain", [], [])
    found = effects.equivalence(fit, "(intercept)", 0.5)
    p, _, _ = DescrStatsW(data["gain"]).ttost_mean(-0.5, 0.5)
    assert found["p"] == pytest.approx(p)
    assert found["equivalent"] == (p < 0.05)
    # equivalent exactly if the 90 % interval lies within the bounds
    for bound in (0.05, 0.2, 0.5, 1.0):
        found = effects.equivalence(fit, "(intercept)", bound)
        assert found["equivalent"] == (-bound < found["low"] and found["high"] < bound)
    with pytest.raises(BadFit, match="above zero"):
        effects.equivalence(fit, "(intercept)", 0)


def test_effect_sizes():
    data = crossed(8, 6, seed=1)
    found = effects.effect_sizes(data, "gain", "similarity", TWO)
    fit = crossed_reml(data, "gain", ["similarity"], TWO)
    assert found["slope"] == pytest.approx(
        fit["similarity"]["estimate"] * data["similarity"].std(), rel=1e-4
    )
    plain = crossed_reml(data, "gain", [], TWO)
    assert found["in_dyad_sd"] == pytest.approx(
        found["slope"] / np.sqrt(plain.variances["residual"]), rel=1e-4
    )
    assert found["partial_r"] ** 2 == pytest.approx(
        fit["similarity"]["t"] ** 2 / (fit["similarity"]["t"] ** 2 + fit["similarity"]["df"]),
        rel=1e-3,
    )


def test_within_and_between_adds_up_and_is_free_of_task_means():
    data = crossed(7, 6, seed=2).drop(index=[3, 17])
    found = effects.within_and_between(data, "similarity")
    for task in TWO:
        assert found.groupby(task)["similarity_dyad"].mean().abs().max() < 1e-9
    fixed = crossed_reml(found, "gain", ["similarity_dyad"], TWO)["similarity_dyad"]["estimate"]
    import statsmodels.formula.api as smf

    by_hand = smf.ols("gain ~ similarity + C(intermediate) + C(target)", data).fit()
    assert fixed == pytest.approx(by_hand.params["similarity"], rel=0.02)


def test_variance_shares_sum_to_one():
    found = effects.variance_shares(crossed(8, 6, seed=4), "gain", TWO)
    assert found["share"].sum() == pytest.approx(1)
    assert (found["low"] <= found["variance"]).all()
    assert (found["variance"] <= found["high"]).all()


def test_mediation_multiplies_its_paths():
    data = crossed(10, 9, seed=5)
    rng = np.random.default_rng(55)
    data["drift"] = 0.9 * data["similarity"] + 0.5 * rng.normal(size=90)
    data["gain"] = 1.1 * data["drift"] + 0.2 * data["similarity"] + 0.5 * rng.normal(size=90)
    found = effects.mediation(data, "similarity", "drift", "gain", TWO)
    paths = found["estimate"]
    product = paths["predictor to mediator"] * paths["mediator to outcome"]
    assert paths["through the mediator"] == pytest.approx(product)
    assert found.loc["through the mediator", "low"] > 0
    # with no random spread the total slope is the sum of both ways
    assert paths["total"] == pytest.approx(product + paths["direct"], abs=0.1)
