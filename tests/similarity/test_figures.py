import matplotlib
import numpy as np
import pandas as pd
import pytest

from helpers.errors import BadRows
from helpers.similarity import figures, nulls

matplotlib.use("Agg")


@pytest.fixture
def table():
    random = np.random.default_rng(0)
    rows = []
    target = dict(zip([f"t{t}" for t in range(6)], 10 * random.normal(size=6), strict=True))
    for i in range(5):
        for t in target:
            truth = random.normal()
            values = {
                "a": truth,
                "b": truth + 0.1 * random.normal() + target[t],
                "c": -truth + 0.1 * random.normal(),
                "d": random.normal() + target[t],
                "flat": 1.0,
                "void": np.nan,
            }
            rows += [
                {"intermediate": f"i{i}", "target": t, "language": "en", "measure": m, "value": v}
                for m, v in values.items()
            ]
    return pd.DataFrame(rows)


@pytest.fixture(autouse=True)
def close():
    import matplotlib.pyplot as plt

    yield
    plt.close("all")


def test_agreement_removes_the_effects_of_targets(table):
    centred, raw = figures.agreement(table), figures.agreement(table, centred=False)
    assert centred.loc["a", "b"] > 0.9 and abs(centred.loc["b", "d"]) < 0.5
    assert raw.loc["b", "d"] > 0.8  # both only follow the target
    assert "flat" not in centred and "void" not in centred


def test_order_puts_those_that_agree_together(table):
    names = figures.order(figures.agreement(table))
    places = sorted(names.index(name) for name in "abc")
    assert places[2] - places[0] == 2


def test_agreement_needs_two_measures(table):
    with pytest.raises(BadRows, match="1 measures vary"):
        figures.agreement(table[table["measure"].isin(["a", "flat"])])


def test_null_figure_has_a_panel_per_measure():
    found = nulls.independence(
        ["leep", "logme", "cka"], classes=(2, 4), repeats=2, rows=60, columns=4
    )
    figure = figures.null_figure(found)
    assert [ax.get_title() for ax in figure.axes if ax.get_visible()] == ["leep", "logme"]
