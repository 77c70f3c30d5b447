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
NODES = "gain ~ similarity + C(intermediate) + C(target)"


def qap(data, *formats, measure="similarity", **options):
    return permutation.qap(data, "gain", measure, *TASKS, *formats, **options)


def min_p(data, measures, n=99):
    return permutation.min_p(data, "gain", measures, *TASKS, n=n)


def test_slope_is_that_of_a_regression_with_dummies():
    data = crossed(7, 6, seed=1)
    plain = smf.ols(NODES, data).fit()
    assert qap(data, n=99).estimate == pytest.approx(plain.params["similarity"])
    t = min_p(data, ["similarity"]).loc["similarity", "t"]
    assert t == pytest.approx(plain.tvalues["similarity"])
    given = qap(data, n=99, given=["same_format"])
    by_hand = smf.ols(f"{NODES} + same_format", data).fit()
    assert given.estimate == pytest.approx(by_hand.params["similarity"])


def test_missing_cells_are_left_out_of_the_regression():
    data = crossed(7, 6, seed=1)
    holes = data.drop(index=[0, 8, 20])
    found = qap(holes, n=99)
    assert found.estimate == pytest.approx(smf.ols(NODES, holes).fit().params["similarity"])
    # a pair without an outcome still lends its similarity to the relabelled tables
    blank = data.assign(gain=data["gain"].where(~data.index.isin([0, 8, 20])))
    lent = qap(blank, n=99)
    assert lent.estimate == pytest.approx(found.estimate)
    assert not np.allclose(lent.null, found.null)


def brute_force(data):
    """Every relabelling, by plain matrices and least squares."""
    y, x = (data.pivot(index=TASKS[0], columns=TASKS[1], values=v) for v in ("gain", "similarity"))
    y, x = y.to_numpy(), x.to_numpy()
    i, j = (a.ravel() for a in np.indices(y.shape))
    d = np.hstack([np.ones((y.size, 1)), np.eye(y.shape[0])[i], np.eye(y.shape[1])[j]])
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


def test_small_tables_are_enumerated():
    data = crossed(4, 3, seed=2)
    found, every = qap(data, n=9999), brute_force(data)
    assert len(found.null) == 24 * 6
    assert np.sort(found.null) == pytest.approx(np.sort(every[:, 0]))
    p = np.mean(np.abs(every[:, 1]) >= abs(every[0, 1]) * (1 - 1e-9))  # the observed is the first
    assert found.p == pytest.approx(p)
    assert found.p >= found.smallest == 1 / len(found.null)


def test_targets_of_equal_similarity_double_the_smallest_p():
    data = crossed(4, 3, seed=2)
    twin = data[data["target"] == 0].set_index("intermediate")["similarity"]
    same = data["similarity"].where(data["target"] != 1, data["intermediate"].map(twin))
    assert qap(data.assign(similarity=same)).smallest == pytest.approx(2 / (24 * 6))
    # random relabellings can find none as far out as the observed table, which counts
    data = crossed(9, 8, seed=3)
    assert qap(data, n=199).smallest == 1 / 200
    strong = data.assign(gain=50 * data["similarity"] + data["gain"])
    found, again = (qap(strong, n=199) for _ in range(2))
    assert found.p == pytest.approx(1 / 200) and np.array_equal(found.null, again.null)


def test_relabelling_stays_within_groups():
    table = permutation.grid(crossed(9, 8, seed=1), "gain", ["similarity"], *TASKS, FORMATS)
    orders = permutation.random_orders(table, 50, 0)
    rows, columns = orders[:, :9], orders[:, 9:]
    assert np.array_equal(np.sort(rows, 1), np.tile(np.arange(9), (50, 1)))
    assert (table.row_groups[rows] == table.row_groups).all()
    assert (table.column_groups[columns] == table.column_groups).all()
    assert len(np.unique(rows, axis=0)) > 10
    # three groups of two rows, two groups of two columns: a product of factorials
    assert len(qap(crossed(6, 4, seed=1), FORMATS).null) == 2**3 * 2**2


def test_min_p_is_no_smaller_than_p_and_respects_correlation():
    data, rng = crossed(9, 8, seed=4), np.random.default_rng(1)
    data["copy"] = data["similarity"] + 1e-6 * rng.normal(size=len(data))
    others = [f"m{k}" for k in range(6)]
    for name in others:
        data[name] = rng.normal(size=len(data))
    given = ([], ["copy"], others)
    alone, pair, many = (min_p(data, ["similarity", *more], n=499) for more in given)
    assert alone["p"].iloc[0] == alone["p_min_p"].iloc[0]
    # a copy costs nothing, unrelated measures do
    assert pair.loc["similarity", "p_min_p"] == pytest.approx(alone["p"].iloc[0], abs=0.005)
    assert many.loc["similarity", "p_min_p"] > many.loc["similarity", "p"]
    assert (many["p_min_p"] >= many["p"]).all()


def test_min_p_judges_each_measure_by_its_own_null():
    """A measure of few cells has a wide null; it takes no power from the others."""
    rng = np.random.default_rng(0)
    data = crossed(9, 8, seed=4).assign(narrow=lambda d: d["similarity"] ** 2)
    data["few"] = np.where(data["target"] < 2, rng.normal(size=72), np.nan)
    data["part"] = np.where(data["target"] < 5, rng.normal(size=72), np.nan)
    table = min_p(data, ["narrow", "part", "few"], n=499)
    assert table["cells"].tolist() == [72, 45, 18]
    assert np.isnan(table.loc["few", "p_min_p"]) and table["p"].notna().all()
    pair = table.drop("few")
    # two measures that share no cells' noise: about twice the smaller p
    assert (pair["p_min_p"] >= pair["p"]).all()
    assert pair["p_min_p"].min() == pytest.approx(1 - (1 - pair["p"].min()) ** 2, abs=0.06)
    # A measure without a value is skipped and shown.
    data = crossed(6, 5, seed=4).assign(empty=np.nan)
    table = min_p(data, ["empty", "similarity"])
    assert table.loc["empty", "cells"] == 0 and np.isnan(table.loc["empty", "p"])
    pd.testing.assert_frame_equal(table.tail(1), min_p(data, ["similarity"]))


DATA = crossed(6, 5, seed=1).assign(flat=1.0, empty=np.nan, size=lambda d: d["intermediate"] * 2.0)
WRONG = DATA.assign(intermediate_format=[f"f{k}" for k in range(30)])
REFUSED = {
    "appears more than once": lambda: qap(pd.concat([DATA, DATA.head(1)])),
    "'similarity'": lambda: qap(DATA, measure="similarit"),
    "at least 1": lambda: qap(DATA, n=0),
    "no measure": lambda: min_p(DATA, []),
    "more than one value": lambda: qap(WRONG, FORMATS),
    "cannot carry": lambda: qap(DATA[DATA["target"] < 1]),
    "'empty' has no value": lambda: qap(DATA, measure="empty"),
    "'empty' has no val": lambda: min_p(DATA, ["empty"]),
    "'flat' does not vary once rows, columns": lambda: qap(DATA, measure="flat"),
    "'size' does not vary once rows, columns": lambda: qap(DATA, measure="size"),
    "unchanged": lambda: qap(DATA, FORMATS, measure="same_format"),
    "nothing of the outcome": lambda: qap(DATA.assign(gain=DATA["size"])),
}


@pytest.mark.parametrize("said", REFUSED)
def test_bad_input_is_a_sentence(said):
    with pytest.raises((BadFit, UnknownName), match=said):
        REFUSED[said]()


def test_type_one_error_on_a_null_with_node_effects():
    rng = np.random.default_rng(0)
    p = []
    i, t = (a.ravel() for a in np.indices((8, 7)))
    for _ in range(120):
        data = pd.DataFrame({"intermediate": i, "target": t})
        for name in ("similarity", "gain"):
            data[name] = rng.normal(size=8)[i] + rng.normal(size=7)[t] + rng.normal(size=56)
        p.append(qap(data, n=99).p)
    assert 0.0 <= np.mean(np.array(p) <= 0.05) <= 0.11  # 5 % with a binomial error of 2 points
    assert 0.4 < np.mean(p) < 0.6
