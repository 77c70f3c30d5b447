import itertools

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf

from helpers.errors import BadFit, UnknownName
from helpers.stats import permutation
from tests.stats.tables import crossed

TASKS = ("intermediate", "target")
FORMATS = ("intermediate_format", "target_format")


def test_slope_is_that_of_a_regression_with_dummies():
    data = crossed(7, 6, seed=1)
    found = permutation.qap(data, "gain", "similarity", *TASKS, n=99)
    by_hand = smf.ols("gain ~ similarity + C(intermediate) + C(target)", data).fit()
    assert found.estimate == pytest.approx(by_hand.params["similarity"])
    given = permutation.qap(data, "gain", "similarity", *TASKS, n=99, given=["same_format"])
    by_hand = smf.ols("gain ~ similarity + same_format + C(intermediate) + C(target)", data).fit()
    assert given.estimate == pytest.approx(by_hand.params["similarity"])
    table = permutation.min_p(data, "gain", ["similarity"], *TASKS, n=99)
    assert table.loc["similarity", "t"] == pytest.approx(
        smf.ols("gain ~ similarity + C(intermediate) + C(target)", data).fit().tvalues["similarity"]
    )


def test_missing_cells_are_left_out_of_the_regression():
    data = crossed(7, 6, seed=1)
    holes = data.drop(index=[0, 8, 20])
    found = permutation.qap(holes, "gain", "similarity", *TASKS, n=99)
    by_hand = smf.ols("gain ~ similarity + C(intermediate) + C(target)", holes).fit()
    assert found.estimate == pytest.approx(by_hand.params["similarity"])
    # a pair without an outcome still lends its similarity to the relabelled tables
    blank = data.assign(gain=data["gain"].where(~data.index.isin([0, 8, 20])))
    lent = permutation.qap(blank, "gain", "similarity", *TASKS, n=99)
    assert lent.estimate == pytest.approx(found.estimate)
    assert not np.allclose(lent.null, found.null)


def brute_force(data, effects):
    """Every relabelling, by plain matrices and least squares."""
    y = data.pivot(index=TASKS[0], columns=TASKS[1], values="gain").to_numpy()
    x = data.pivot(index=TASKS[0], columns=TASKS[1], values="similarity").to_numpy()
    i, j = (a.ravel() for a in np.indices(y.shape))
    parts = [np.ones((y.size, 1))]
    if "rows" in effects:
        parts.append(np.eye(y.shape[0])[i])
    if "columns" in effects:
        parts.append(np.eye(y.shape[1])[j])
    d = np.hstack(parts)
    hat = d @ np.linalg.pinv(d)
    rest = (x.ravel() - hat @ x.ravel()).reshape(x.shape)
    out = []
    for p in itertools.permutations(range(y.shape[0])):
        for q in itertools.permutations(range(y.shape[1])):
            z = rest[np.ix_(p, q)].ravel()
            z = z - hat @ z
            b = z @ y.ravel() / (z @ z)
            e = y.ravel() - hat @ y.ravel() - b * z
            out.append((b, b / np.sqrt(e @ e / (z @ z))))
    return np.array(out)


@pytest.mark.parametrize("effects", [("rows", "columns"), ("columns",), ()])
def test_small_tables_are_enumerated(effects):
    data = crossed(4, 3, seed=2)
    found = permutation.qap(data, "gain", "similarity", *TASKS, n=9999, effects=effects)
    every = brute_force(data, effects)
    assert len(found.null) == 24 * 6
    assert np.sort(found.null) == pytest.approx(np.sort(every[:, 0]))
    observed = every[0, 1]
    p = np.mean(np.abs(every[:, 1]) >= abs(observed) * (1 - 1e-9))
    assert found.p == pytest.approx(p)
    assert found.p >= found.smallest == 1 / len(found.null)


def test_targets_of_equal_similarity_double_the_smallest_p():
    data = crossed(4, 3, seed=2)
    twin = data[data["target"] == 0].set_index("intermediate")["similarity"]
    same = data["similarity"].where(data["target"] != 1, data["intermediate"].map(twin))
    found = permutation.qap(data.assign(similarity=same), "gain", "similarity", *TASKS)
    assert found.smallest == pytest.approx(2 / (24 * 6))
    # random relabellings can find none as far out as the observed table
    few = permutation.qap(crossed(9, 8, seed=3), "gain", "similarity", *TASKS, n=199)
    assert few.smallest == 1 / 200


def test_random_p_values_count_the_observed_table():
    data = crossed(9, 8, seed=3).assign(gain=lambda d: 50 * d["similarity"] + d["gain"])
    found = permutation.qap(data, "gain", "similarity", *TASKS, n=199)
    assert found.p == pytest.approx(1 / 200)
    again = permutation.qap(data, "gain", "similarity", *TASKS, n=199)
    assert np.array_equal(found.null, again.null)


def test_relabelling_stays_within_groups():
    table = permutation.grid(crossed(9, 8, seed=1), "gain", ["similarity"], *TASKS, FORMATS)
    orders = permutation.random_orders(table, 50, 0)
    rows, columns = orders[:, :9], orders[:, 9:]
    assert np.array_equal(np.sort(rows, 1), np.tile(np.arange(9), (50, 1)))
    assert (table.row_groups[rows] == table.row_groups).all()
    assert (table.column_groups[columns] == table.column_groups).all()
    assert len(np.unique(rows, axis=0)) > 10


def test_enumeration_within_groups_counts_products_of_factorials():
    data = crossed(6, 4, seed=1)  # three groups of two rows, two groups of two columns
    found = permutation.qap(data, "gain", "similarity", *TASKS, FORMATS)
    assert len(found.null) == 2**3 * 2**2


def test_block_effects_are_removed():
    data = crossed(9, 8, seed=3)
    effects = ("rows", "columns", "blocks")
    found = permutation.qap(data, "gain", "similarity", *TASKS, FORMATS, n=99, effects=effects)
    dummies = [pd.get_dummies(data[c].astype(str)) for c in (*TASKS, "block")]
    x = np.hstack([data[["similarity"]], *dummies]).astype(float)  # of less than full rank
    by_hand = np.linalg.lstsq(x, data["gain"].to_numpy(), rcond=None)[0]
    assert found.estimate == pytest.approx(by_hand[0])


def test_min_p_is_no_smaller_than_p_and_respects_correlation():
    data = crossed(9, 8, seed=4)
    rng = np.random.default_rng(1)
    data["copy"] = data["similarity"] + 1e-6 * rng.normal(size=len(data))
    for k in range(6):
        data[f"m{k}"] = rng.normal(size=len(data))
    alone = permutation.min_p(data, "gain", ["similarity"], *TASKS, n=499)
    pair = permutation.min_p(data, "gain", ["similarity", "copy"], *TASKS, n=499)
    many = permutation.min_p(
        data, "gain", ["similarity", *[f"m{k}" for k in range(6)]], *TASKS, n=499
    )
    assert alone["p"].iloc[0] == alone["p_min_p"].iloc[0]
    # a copy costs nothing, unrelated measures do
    assert pair.loc["similarity", "p_min_p"] == pytest.approx(alone["p"].iloc[0], abs=0.005)
    assert many.loc["similarity", "p_min_p"] > many.loc["similarity", "p"]
    assert (many["p_min_p"] >= many["p"]).all()


def test_min_p_leaves_undefined_cells_to_the_measure_that_lacks_them():
    data = crossed(9, 8, seed=4).assign(partial=lambda d: d["similarity"] ** 2)
    data.loc[data["target"] == 7, "partial"] = np.nan
    table = permutation.min_p(data, "gain", ["similarity", "partial"], *TASKS, n=99)
    assert table["cells"].to_dict() == {"similarity": 72, "partial": 63}


def test_min_p_judges_each_measure_by_its_own_null():
    """A measure of few cells has a wide null; it takes no power from the others."""
    rng = np.random.default_rng(0)
    data = crossed(9, 8, seed=4).assign(narrow=lambda d: d["similarity"] ** 2)
    data["few"] = np.where(data["target"] < 2, rng.normal(size=72), np.nan)
    data["part"] = np.where(data["target"] < 5, rng.normal(size=72), np.nan)
    table = permutation.min_p(data, "gain", ["narrow", "part", "few"], *TASKS, n=499)
    assert table["cells"].tolist() == [72, 45, 18]
    assert np.isnan(table.loc["few", "p_min_p"]) and table["p"].notna().all()
    pair = table.drop("few")
    # two measures that share no cells' noise: about twice the smaller p
    assert (pair["p_min_p"] >= pair["p"]).all()
    assert pair["p_min_p"].min() == pytest.approx(1 - (1 - pair["p"].min()) ** 2, abs=0.06)


def test_a_measure_without_a_value_is_skipped_and_shown():
    data = crossed(6, 5, seed=4).assign(empty=np.nan)
    table = permutation.min_p(data, "gain", ["empty", "similarity"], *TASKS, n=99)
    assert table.loc["empty", "cells"] == 0
    assert np.isnan(table.loc["empty", "p"])
    alone = permutation.min_p(data, "gain", ["similarity"], *TASKS, n=99)
    pd.testing.assert_frame_equal(table.tail(1), alone)
    with pytest.raises(BadFit, match="'empty' has no value"):
        permutation.qap(data, "gain", "empty", *TASKS, n=99)
    with pytest.raises(BadFit, match="'empty' has no value"):
        permutation.min_p(data, "gain", ["empty"], *TASKS, n=99)


def test_type_one_error_on_a_null_with_node_effects():
    rng = np.random.default_rng(0)
    p = []
    for _ in range(120):
        i, t = (a.ravel() for a in np.indices((8, 7)))
        x = rng.normal(size=8)[i] + rng.normal(size=7)[t] + rng.normal(size=56)
        y = rng.normal(size=8)[i] + rng.normal(size=7)[t] + rng.normal(size=56)
        data = pd.DataFrame({"intermediate": i, "target": t, "x": x, "y": y})
        p.append(permutation.qap(data, "y", "x", *TASKS, n=99).p)
    p = np.array(p)
    assert 0.0 <= np.mean(p <= 0.05) <= 0.11  # 5 % with a binomial error of 2 points
    assert 0.4 < p.mean() < 0.6


def test_bad_input_is_a_sentence():
    data = crossed(6, 5, seed=1)
    with pytest.raises(BadFit, match="appears more than once"):
        permutation.qap(pd.concat([data, data.head(1)]), "gain", "similarity", *TASKS)
    with pytest.raises(UnknownName, match="'similarity'"):
        permutation.qap(data, "gain", "similarit", *TASKS)
    with pytest.raises(UnknownName, match="effect"):
        permutation.qap(data, "gain", "similarity", *TASKS, effects=["row"])
    with pytest.raises(BadFit, match="at least 1"):
        permutation.qap(data, "gain", "similarity", *TASKS, n=0)
    with pytest.raises(BadFit, match="no measure"):
        permutation.min_p(data, "gain", [], *TASKS)
    with pytest.raises(BadFit, match="more than one value"):
        wrong = data.assign(intermediate_format=[f"f{k}" for k in range(30)])
        permutation.qap(wrong, "gain", "similarity", *TASKS, FORMATS)
    with pytest.raises(BadFit, match="cannot carry"):
        permutation.qap(data[data["target"] < 1], "gain", "similarity", *TASKS)


def test_measures_that_cannot_be_tested_are_named():
    data = crossed(6, 5, seed=1).assign(flat=1.0)
    data["size"] = data["intermediate"] * 2.0
    for measure in ("flat", "size"):
        with pytest.raises(BadFit, match=f"'{measure}' does not vary once rows, columns"):
            permutation.qap(data, "gain", measure, *TASKS)
    with pytest.raises(BadFit, match="unchanged"):
        permutation.qap(data, "gain", "same_format", *TASKS, FORMATS)
    with pytest.raises(BadFit, match="nothing of the outcome"):
        permutation.qap(data.assign(gain=data["size"]), "gain", "similarity", *TASKS)
