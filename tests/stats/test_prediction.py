import numpy as np
import pandas as pd
import pytest
from scipy import stats

from data.make import calibration as scenarios
from helpers.errors import BadFit, UnknownName
from helpers.stats import prediction
from helpers.stats.reml import crossed_reml
from tests.stats.tables import crossed

TWO = ["intermediate", "target"]


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
    fit = crossed_reml(train, "gain", ["similarity"], TWO)
    found = prediction.forecast(fit, new, ["similarity"])
    x_new = np.column_stack([np.ones(len(new)), new["similarity"]])
    mean, error = dense_forecast(fit, train, new, x_new)
    assert found.mean == pytest.approx(mean)
    assert found.covariance == pytest.approx(error)


def test_forecast_without_random_effects_is_the_textbook_interval():
    data = crossed(8, 6, seed=2)
    fit = crossed_reml(data, "gain", ["similarity"], [])
    new = pd.DataFrame({"similarity": [0.0, 2.0]})
    table = prediction.forecast(fit, new, ["similarity"]).table()
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


def test_leave_out_never_sees_the_unit():
    data = crossed(7, 6, seed=3)
    first = prediction.leave_out(data, "gain", ["similarity"], TWO, "target")
    changed = data.copy()
    changed.loc[changed["target"] == 2, "gain"] += 100
    second = prediction.leave_out(changed, "gain", ["similarity"], TWO, "target")
    here = (data["target"] == 2).to_numpy()
    columns = ["predicted", "low", "high", "baseline"]
    pd.testing.assert_frame_equal(first.table.loc[here, columns], second.table.loc[here, columns])
    by_hand = crossed_reml(data[~here], "gain", ["similarity"], TWO)
    expected = prediction.forecast(by_hand, data[here], ["similarity"]).mean
    assert first.table.loc[here, "predicted"].to_numpy() == pytest.approx(expected)


def test_position_not_label_says_which_row_is_which():
    data = crossed(7, 6, seed=3)
    parts = [data[:20].reset_index(drop=True), data[20:].reset_index(drop=True)]
    found, again = (
        prediction.leave_out(d, "gain", ["similarity"], TWO, "intermediate")
        for d in (data, pd.concat(parts))
    )
    pd.testing.assert_frame_equal(found.table, again.table)


def test_leave_out_scores():
    rng = np.random.default_rng(0)
    s = scenarios.SCENARIOS["independent"]
    strong = scenarios.table(s, *scenarios.draw(s, 2.0, rng))
    none = scenarios.table(s, *scenarios.draw(s, 0.0, rng))
    for unit in ("intermediate", "target_format", "intermediate_format"):
        good = prediction.leave_out(strong, "gain", ["similarity"], TWO, unit).scores
        bad = prediction.leave_out(none, "gain", ["similarity"], TWO, unit).scores
        assert good["r2"] > 0.5 > 0.1 > bad["r2"]
        assert good["spearman"] > 0.6
        assert good["rows"] == 90
    table = prediction.leave_out(strong, "gain", ["similarity"], TWO, "target").table
    error = ((table["observed"] - table["predicted"]) ** 2).sum()
    plain = ((table["observed"] - table["baseline"]) ** 2).sum()
    again = prediction.leave_out(strong, "gain", ["similarity"], TWO, "target").scores
    assert again["r2"] == pytest.approx(1 - error / plain)


def test_intervals_of_unseen_targets_cover():
    rng = np.random.default_rng(1)
    s = scenarios.SCENARIOS["independent"]
    inside = []
    for _ in range(5):
        data = scenarios.table(s, *scenarios.draw(s, 0.5, rng))
        inside.append(
            prediction.leave_out(data, "gain", ["similarity"], TWO, "target").scores["coverage"]
        )
    assert 0.89 <= np.mean(inside) <= 0.99


def test_leave_out_a_language_family():
    rng = np.random.default_rng(2)
    rows = scenarios.language_rows(rng, 1.0, 0.0, (8, 6, 9, 7), 6)
    rows["family"] = rows["language"].map(lambda name: "f" + str(int(name[1:]) % 4))
    effects = ["intermediate", "target", "intermediate:target", "language", "target:language"]
    found = prediction.leave_out(rows, "gain", ["similarity"], effects, "family")
    assert found.scores["units"] == 4
    assert found.scores["rows"] == len(rows)
    # dyads were seen in other languages, so their level is known with or without similarity
    assert abs(found.scores["r2"]) < 0.1
    assert 0.85 <= found.scores["coverage"] <= 1


def test_weighted_fits_predict_by_their_weights():
    data = crossed(8, 6, seed=2)
    fit = crossed_reml(data, "gain", ["similarity"], TWO, "w")
    v = np.diag(fit.variances["residual"] / data["w"].to_numpy())
    kernel = {n: data[n].to_numpy()[:, None] == data[n].to_numpy() for n in TWO}
    v = v + sum(fit.variances[n] * kernel[n] for n in TWO)
    rest = data["gain"].to_numpy() - fit.design.x @ fit.peak.state.beta
    part = sum(fit.variances[n] * kernel[n] for n in TWO)
    expected = fit.design.x @ fit.peak.state.beta + part @ np.linalg.solve(v, rest)
    assert prediction.forecast(fit, data, ["similarity"]).mean == pytest.approx(expected)


def test_leave_out_refusals():
    data = crossed(7, 6, seed=3)
    with pytest.raises(BadFit, match="needs at least 3"):
        prediction.leave_out(data, "gain", ["similarity"], TWO, "target_format")
    with pytest.raises(UnknownName):
        prediction.leave_out(data, "gain", ["similarity"], TWO, "family")
    small = crossed(3, 3, seed=3)
    with pytest.raises(BadFit, match="without target 0 the rest does not carry the model"):
        prediction.leave_out(small, "gain", ["similarity", "same_format"], TWO, "target")


def test_expected_best_counts_ties():
    observed = np.array([1.0, 5.0, 3.0, 4.0])
    assert prediction.expected_best(observed, np.array([4, 3, 2, 1]), 1) == 1.0
    assert prediction.expected_best(observed, np.array([4, 3, 2, 1]), 2) == 5.0
    assert prediction.expected_best(observed, np.zeros(4), 1) == pytest.approx(observed.mean())
    # best of a random pair out of 1, 3, 4, 5
    pairs = [3, 4, 5, 4, 5, 5]
    assert prediction.expected_best(observed, np.zeros(4), 2) == pytest.approx(np.mean(pairs))
    assert prediction.expected_best(observed, np.array([1, 0, 0, 0]), 2) == pytest.approx(4.0)
    assert prediction.expected_best(observed, np.zeros(4), 9) == 5.0


def test_predict_gain_ranks_with_intervals():
    rng = np.random.default_rng(5)
    s = scenarios.SCENARIOS["independent"]
    data = scenarios.table(s, *scenarios.draw(s, 1.5, rng))
    new = data[data["target"] == "t00"].assign(target="new", similarity=np.linspace(-2, 2, 9))
    found = prediction.predict_gain(new, data, "gain", ["similarity"], TWO)
    assert found["rank"].tolist() == list(range(1, 10))
    assert found["predicted"].is_monotonic_decreasing
    assert found["best"].sum() == pytest.approx(1.0)
    assert (found["low"] < found["predicted"]).all()
    best = found.loc[found["best"].idxmax(), "predicted"]
    assert best == found["predicted"].iloc[0]
    assert ((found["helps"] > 0.5) == (found["predicted"] > 0)).all()
    # a target never seen is less certain than one that was
    seen = prediction.predict_gain(new.assign(target="t00"), data, "gain", ["similarity"], TWO)
    assert seen["se"].mean() < found["se"].mean()


def test_influence_leaves_out_each_task():
    data = crossed(6, 5, seed=1)
    found = prediction.influence(data, "gain", ["similarity"], TWO, "similarity")
    assert len(found) == 1 + 6 + 5
    without = found[(found["unit"] == "target") & (found["left_out"] == "3")].iloc[0]
    by_hand = crossed_reml(data[data["target"] != 3], "gain", ["similarity"], TWO)
    assert without["estimate"] == pytest.approx(by_hand["similarity"]["estimate"])
    small = crossed(3, 2, seed=1)
    with pytest.raises(BadFit, match="without intermediate 0"):
        prediction.influence(small, "gain", ["similarity"], ["target"], "similarity")


def test_regret_and_strategies():
    table = pd.DataFrame(
        {
            "target": ["x", "x", "x", "y", "y", "y"],
            "intermediate": ["a", "b", "c"] * 2,
            "observed": [1.0, 4.0, 2.0, 0.0, 3.0, 5.0],
            "predicted": [0.0, 1.0, 2.0, 0.0, 1.0, 2.0],
        }
    )
    found = prediction.strategies(table, {"similarity": "predicted"})
    assert found.loc["similarity"].tolist() == [1.0, 0.0, 3.5]
    # the other target's best: c for x (loses 2), b for y (loses 2)
    assert found.loc["best constant choice", "regret@1"] == 2.0
    assert found.loc["random", "regret@1"] == pytest.approx(np.mean([4 - 7 / 3, 5 - 8 / 3]))
    assert found.loc["best possible", "regret@1"] == 0
    assert found.loc["best possible", "gain"] == 4.5
    with pytest.raises(BadFit, match="no usable value"):
        prediction.strategies(table.assign(predicted=np.nan), {"similarity": "predicted"})


def test_ndcg_of_raw_scores_praises_a_reversed_ranking():
    accuracy = [0.80, 0.75, 0.70, 0.65]
    right, wrong = [4, 3, 2, 1], [1, 2, 3, 4]
    assert prediction.ndcg(accuracy, right) == prediction.ndcg(accuracy, right, False) == 1.0
    assert prediction.ndcg(accuracy, wrong, above_worst=False) > 0.9
    discount = 1 / np.log2(np.arange(4) + 2)
    worst, best = np.array([0, 0.05, 0.10, 0.15]), np.array([0.15, 0.10, 0.05, 0])
    assert prediction.ndcg(accuracy, wrong) == pytest.approx(worst @ discount / (best @ discount))
    assert prediction.ndcg([1, 1, 1], [1, 2, 3]) == 1.0
    tied = [prediction.ndcg(a, [0, 0], False) for a in ([1.0, 0.0], [0.0, 1.0])]
    assert tied[0] == pytest.approx(tied[1])
