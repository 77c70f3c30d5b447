import matplotlib
import numpy as np
import pandas as pd
import pytest

from helpers.errors import BadRows, UnknownName
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


def test_agreement_leaves_out_what_is_known_of_few_dyads(table):
    rows = table.index[table["measure"] == "c"]
    table.loc[rows[4:], "value"] = np.nan
    assert "c" not in figures.agreement(table, centred=False)
    table.loc[rows[4], "value"] = 0.5
    assert "c" in figures.agreement(table, centred=False)


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
    narrow = figures.null_figure(found.assign(measure=found["measure"] + "2"), columns=1)
    assert [ax.xaxis.get_tick_params()["labelbottom"] for ax in narrow.axes] == [False, True]
    names = ["leep", "logme", "leep"]
    uneven = figures.null_figure(found, names, columns=2).axes
    assert [ax.xaxis.get_tick_params()["labelbottom"] for ax in uneven[:3]] == [False, True, True]


def grid(values):
    """A table of one measure per entry of ``values``, each a function of two numbers."""
    return pd.DataFrame(
        [
            {"intermediate": f"i{i}", "target": f"t{t}", "language": "en", "measure": m, "value": f(i, t)}
            for m, f in values.items()
            for i in range(6)
            for t in range(8)
        ]
    )  # fmt: skip


FORMATS = {f"i{i}": "pair" if i < 3 else "choice" for i in range(6)}
FORMATS |= {f"t{t}": "pair" if t % 2 else "span" for t in range(8)}


def test_composition_by_hand():
    block = lambda i, t: 1.0 if (i < 3) == bool(t % 2) else -1.0  # noqa: E731
    made = grid({
        "tasks": lambda i, t: i + 10.0 * t,
        "format": lambda i, t: block(i, t),
        "both": lambda i, t: (i % 2 - 0.5) * 2 + block(i, t),
        "flat": lambda i, t: 3.0,
    })  # fmt: skip
    shares = figures.composition(made, FORMATS)
    assert list(shares.index) == ["tasks", "format", "both"]
    np.testing.assert_allclose(
        shares.loc["tasks", ["tasks", "format", "pair"]], [1, 0, 0], atol=1e-9
    )
    np.testing.assert_allclose(
        shares.loc["format", ["tasks", "format", "pair"]], [0, 1, 0], atol=1e-9
    )
    np.testing.assert_allclose(
        shares.loc["both", ["tasks", "format", "pair"]], [0.5, 0.5, 0], atol=1e-9
    )
    assert shares.loc["both", "format_of_rest"] == pytest.approx(1)
    assert np.isnan(shares.loc["tasks", "format_of_rest"])
    # One contrast of two formats by two, of (6 - 1) (8 - 1) in all.
    assert shares.loc["both", "chance"] == pytest.approx(1 / 35)


def test_composition_of_noise_is_as_chance_says():
    random = np.random.default_rng(0)
    made = grid({f"m{k}": lambda i, t: random.normal() for k in range(60)})
    shares = figures.composition(made, FORMATS)
    assert shares["format_of_rest"].mean() == pytest.approx(shares["chance"].mean(), abs=0.02)
    np.testing.assert_allclose(shares[["tasks", "format", "pair"]].sum(axis=1), 1)


def test_composition_needs_the_format_of_every_task(table):
    with pytest.raises(UnknownName, match="task with a format 'i0'"):
        figures.composition(table, {})


def test_composition_figure_has_a_bar_per_measure_and_part(table):
    formats = dict.fromkeys([f"i{i}" for i in range(5)], "pair")
    formats |= {f"t{t}": "pair" if t < 3 else "span" for t in range(6)}
    figure = figures.composition_figure(figures.composition(table, formats))
    assert len(figure.axes[0].patches) == 3 * 4
    assert len(figures.panels(3)) == 3
