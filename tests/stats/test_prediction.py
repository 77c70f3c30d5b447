import numpy as np
import pandas as pd
import pytest
from scipy import stats

from data.make import calibration as scenarios
from helpers.errors import BadFit, UnknownName
from helpers.stats import prediction
from helpers.stats.reml import crossed_reml
from tests.stats.tables import crossed, world

TWO = ["intermediate", "target"]


def fitted(data, *effects):
    return crossed_reml(data, "gain", ["similarity"], *effects)


def leave_out(data, unit, effects=TWO):
    return prediction.leave_out(data, "gain", ["similarity"], effects, unit)


def dense_forecast(fit, data, new, x_new):
    """Conditional normal distribution, written out."""
    v = fit.variances["residual"] * np.eye(len(data))
    cross = np.zeros((len(new), len(data)))
    own = fit.variances["residual"] * np.eye(len(new))
    for name in TWO:
        old, fresh = data[name].to_numpy(), new[name].to_numpy()
        v += fit.variances[name] * (old[:, None] == old)
        cross += fit.variances[name] * (fresh[:, None] == old)
        own += fit.variances[name] * (fresh[:, None] == fresh)
    x = fit.design.x
    inverse = np.linalg.inv(v)
    beta = np.linalg.solve(x.T @ inverse @ x, x.T @ inverse @ data["gain"].to_numpy())
    mean = x_new @ beta + cross @ inverse @ (data["gain"].to_numpy() - x @ beta)
    left = x_new - cross @ inverse @ x
    error = own - cross @ inverse @ cross.T
    return mean, error + left @ np.linalg.inv(x.T @ inverse @ x) @ left.T


def test_forecast_is_the_conditional_normal_distribution():
    data = crossed(8, 6, seed=2)
    train, new = data[data["target"] != 5], data[data["target"] == 5]
    fit = fitted(train, TWO)
    found, covariance = prediction.forecast(fit, new, ["similarity"])
    x_new = np.column_stack([np.ones(len(new)), new["similarity"]])
    mean, error = dense_forecast(fit, train, new, x_new)
    assert found["predicted"].to_numpy() == pytest.approx(mean)
    assert covariance == pytest.approx(error)


def test_forecast_without_random_effects_is_the_textbook_interval():
    data = crossed(8, 6, seed=2)
    fit = fitted(data, [])
    new = pd.DataFrame({"similarity": [0.0, 2.0]})
    table, _ = prediction.forecast(fit, new, ["similarity"])
    x = data["similarity"]
    s2 = float(((data["gain"] - fit.design.x @ fit.peak.state.beta) ** 2).sum() / 46)
    spread = s2 * (1 + 1 / 48 + (2.0 - x.mean()) ** 2 / ((x - x.mean()) ** 2).sum())
    assert table.loc[1, "se"] == pytest.approx(np.sqrt(spread))
    assert table["df"].tolist() == pytest.approx([46, 46], rel=1e-3)
    half = stats.t.ppf(0.975, 46) * np.sqrt(spread)
    assert table.loc[1, "high"] - table.loc[1, "predicted"] == pytest.approx(half, rel=1e-4)


def test_forecast_refuses_what_it_has_not_seen():
    data = crossed(8, 6, seed=2)
    fit = crossed_reml(data, "gain", ["similarity", "target_format"], ["intermediate"])
    new = data.head(2).assign(target_format="g9")
    with pytest.raises(BadFit, match="'g9', which the fit has not seen"):
        prediction.forecast(fit, new, ["similarity", "target_format"])
    with pytest.raises(UnknownName):
        prediction.forecast(fit, new.drop(columns="similarity"), ["similarity", "target_format"])
    with pytest.raises(BadFit, match="cannot build"):
        prediction.forecast(fit, data.head(2), ["similarity"])


def test_leave_out_never_sees_the_unit_and_goes_by_position_not_by_label():
    data = crossed(7, 6, seed=3)
    first = leave_out(data, "target")
    changed = data.assign(gain=data["gain"] + 100 * (data["target"] == 2))
    second = leave_out(changed, "target")
    here = (data["target"] == 2).to_numpy()
    columns = ["predicted", "low", "high", "baseline"]
    pd.testing.assert_frame_equal(first.table.loc[here, columns], second.table.loc[here, columns])
    expected, _ = prediction.forecast(fitted(data[~here], TWO), data[here], ["similarity"])
    pd.testing.assert_series_equal(first.table.loc[here, "predicted"], expected["predicted"])
    parts = [data[:20].reset_index(drop=True), data[20:].reset_index(drop=True)]
    found, again = (leave_out(d, "intermediate") for d in (data, pd.concat(parts)))
    pd.testing.assert_frame_equal(found.table, again.table)


def test_leave_out_scores_and_intervals_of_unseen_targets_cover():
    rng = np.random.default_rng(0)
    strong, none = world("independent", 2.0, rng), world("independent", 0.0, rng)
    for unit in ("intermediate", "target_format", "intermediate_format"):
        good, bad = (leave_out(data, unit).scores for data in (strong, none))
        assert good["r2"] > 0.5 > 0.1 > bad["r2"]
        assert good["spearman"] > 0.6 and good["rows"] == 90
    found = leave_out(strong, "target")
    errors = [
        ((found.table["observed"] - found.table[name]) ** 2).sum()
        for name in ("predicted", "baseline")
    ]
    assert found.scores["r2"] == pytest.approx(1 - errors[0] / errors[1])
    rng = np.random.default_rng(1)
    inside = [
        leave_out(world("independent", 0.5, rng), "target").scores["coverage"] for _ in range(5)
    ]
    assert 0.89 <= np.mean(inside) <= 0.99


def test_leave_out_a_language_family():
    rows = scenarios.language_rows(np.random.default_rng(2), 1.0, 0.0, (8, 6, 9, 7), 6)
    rows["family"] = rows["language"].map(lambda name: "f" + str(int(name[1:]) % 4))
    effects = [*TWO, "intermediate:target", "language", "target:language"]
    scores = leave_out(rows, "family", effects).scores
    assert (scores["units"], scores["rows"]) == (4, len(rows))
    # dyads were seen in other languages, so their level is known with or without similarity
    assert abs(scores["r2"]) < 0.1 and 0.85 <= scores["coverage"] <= 1


def test_weighted_fits_predict_by_their_weights():
    data = crossed(8, 6, seed=2)
    fit = fitted(data, TWO, "w")
    kernel = {n: data[n].to_numpy()[:, None] == data[n].to_numpy() for n in TWO}
    part = sum(fit.variances[n] * kernel[n] for n in TWO)
    v = np.diag(fit.variances["residual"] / data["w"].to_numpy()) + part
    fixed = fit.design.x @ fit.peak.state.beta
    expected = fixed + part @ np.linalg.solve(v, data["gain"].to_numpy() - fixed)
    found, _ = prediction.forecast(fit, data, ["similarity"])
    assert found["predicted"].to_numpy() == pytest.approx(expected)


def test_leave_out_refusals():
    data = crossed(7, 6, seed=3)
    with pytest.raises(BadFit, match="needs at least 3"):
        leave_out(data, "target_format")
    with pytest.raises(UnknownName):
        leave_out(data, "family")
    small = crossed(3, 3, seed=3)
    with pytest.raises(BadFit, match="without target 0 the rest does not carry the model"):
        prediction.leave_out(small, "gain", ["similarity", "same_format"], TWO, "target")
    with pytest.raises(BadFit, match="without intermediate 0"):
        few = small.query("target < 2")
        prediction.influence(few, "gain", ["similarity"], ["target"], "similarity")


@pytest.mark.parametrize(
    ("predicted", "count", "best"),
    [
        ([4, 3, 2, 1], 1, 1.0),
        ([4, 3, 2, 1], 2, 5.0),
        ([0, 0, 0, 0], 1, np.mean([1, 3, 4, 5])),
        ([0, 0, 0, 0], 2, np.mean([3, 4, 5, 4, 5, 5])),  # best of a random pair out of 1, 3, 4, 5
        ([1, 0, 0, 0], 2, 4.0),
        ([0, 0, 0, 0], 9, 5.0),
    ],
)
def test_expected_best_counts_ties(predicted, count, best):
    found = prediction.expected_best(np.array([1.0, 5.0, 3.0, 4.0]), np.array(predicted), count)
    assert found == pytest.approx(best)


def test_predict_gain_ranks_with_intervals():
    data = world("independent", 1.5, np.random.default_rng(5))
    new = data[data["target"] == "t00"].assign(target="new", similarity=np.linspace(-2, 2, 9))
    found = prediction.predict_gain(new, data, "gain", ["similarity"], TWO)
    assert found["rank"].tolist() == list(range(1, 10))
    assert found["predicted"].is_monotonic_decreasing and found["best"].idxmax() == found.index[0]
    assert found["best"].sum() == pytest.approx(1.0)
    assert (found["low"] < found["predicted"]).all()
    assert ((found["helps"] > 0.5) == (found["predicted"] > 0)).all()
    # a target never seen is less certain than one that was
    seen = prediction.predict_gain(new.assign(target="t00"), data, "gain", ["similarity"], TWO)
    assert seen["se"].mean() < found["se"].mean()


def test_influence_leaves_out_each_task():
    data = crossed(6, 5, seed=1)
    found = prediction.influence(data, "gain", ["similarity"], TWO, "similarity")
    assert len(found) == 1 + 6 + 5
    without = found.set_index(["unit", "left_out"]).loc[("target", "3"), "estimate"]
    by_hand = fitted(data[data["target"] != 3], TWO)
    assert without == pytest.approx(by_hand["similarity"]["estimate"])


def test_regret_and_strategies():
    table = pd.DataFrame({"target": list("xxxyyy"), "intermediate": list("abcabc")})
    table["observed"], table["predicted"] = [1.0, 4.0, 2.0, 0.0, 3.0, 5.0], [0.0, 1.0, 2.0] * 2
    found = prediction.strategies(table, {"similarity": "predicted"})
    assert found.loc["similarity"].tolist() == [1.0, 0.0, 3.5]
    # the other target's best: c for x (loses 2), b for y (loses 2)
    assert found.loc["best constant choice", "regret@1"] == 2.0
    assert found.loc["random", "regret@1"] == pytest.approx(np.mean([4 - 7 / 3, 5 - 8 / 3]))
    assert found.loc["best possible", ["regret@1", "gain"]].tolist() == [0, 4.5]
    with pytest.raises(BadFit, match="no usable value"):
        prediction.strategies(table.assign(predicted=np.nan), {"similarity": "predicted"})


def test_ndcg_of_raw_scores_praises_a_reversed_ranking():
    accuracy = [0.80, 0.75, 0.70, 0.65]
    right, wrong = [4, 3, 2, 1], [1, 2, 3, 4]
    for above_worst in (True, False):
        assert prediction.ndcg(accuracy, right, above_worst) == pytest.approx(1, abs=1e-12)
    assert prediction.ndcg(accuracy, wrong, above_worst=False) > 0.9
    discount = 1 / np.log2(np.arange(4) + 2)
    worst, best = np.array([0, 0.05, 0.10, 0.15]), np.array([0.15, 0.10, 0.05, 0])
    assert prediction.ndcg(accuracy, wrong) == pytest.approx(worst @ discount / (best @ discount))
    assert prediction.ndcg([1, 1, 1], [1, 2, 3]) == 1.0
    tied = [prediction.ndcg(a, [0, 0], False) for a in ([1.0, 0.0], [0.0, 1.0])]
    assert tied[0] == pytest.approx(tied[1])
