"""Figures of similarity, from the tables that helpers.similarity returns."""

import matplotlib
import numpy as np
import pandas as pd
import pytest

from helpers import plots, similarity

matplotlib.use("Agg")


@pytest.fixture(autouse=True)
def close():
    import matplotlib.pyplot as plt

    yield
    plt.close("all")


def test_order_puts_those_that_agree_together():
    random = np.random.default_rng(0)
    a, d = random.normal(size=(2, 40))
    table = pd.DataFrame({"a": a, "d": d, "b": a + 0.1 * d, "c": 0.1 * d - a})
    names = plots.order(table.corr())
    places = sorted(names.index(name) for name in "abc")
    assert places in ([0, 1, 2], [1, 2, 3])


def test_a_bar_per_measure_and_part():
    shares = pd.DataFrame({"tasks": 0.2, "format": 0.3, "pair": [0.1, 0.5]}, index=["m", "n"])
    ax = plots.composition(shares)
    assert len(ax.patches) == 3 * 2
    assert [label.get_text() for label in ax.get_yticklabels()] == ["m", "n"]


def test_noise_has_a_panel_per_measure_with_labels():
    found = similarity.independence(
        ["leep", "logme", "cka"], classes=(2, 4), repeats=2, rows=60, columns=4
    )
    grid = plots.noise(found)
    assert [ax.get_title() for ax in grid.axes.flat] == ["leep", "logme"]


def test_panels():
    assert len(plots.panels(3)) == 3


def test_a_pair_is_drawn_and_what_does_not_exist_says_why():
    texts = pd.DataFrame({"x": [0.0, 1], "y": [1.0, 0], "task": ["a", "b"]})
    pieces = pd.DataFrame({"intermediate": [500.0, 500], "target": [0.0, 1000]})
    labels = pd.DataFrame({"class": [0, 1], "share": [60.0, 40], "task": "a"})
    nothing = pd.DataFrame()
    nothing.attrs["note"] = "b is a retrieval task"
    axes = plots.pair({"texts": texts, "pieces": pieces, "labels": labels, "features": nothing})
    assert len(axes[0].collections[0].get_offsets()) == 2
    assert [bar.get_height() for bar in axes[2].patches][:2] == [60, 40]
    assert "retrieval task" in axes[3].texts[0].get_text()
