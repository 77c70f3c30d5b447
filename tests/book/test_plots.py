"""Figures show what their tables say, and can be read without colour."""

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from helpers import book, plots

matplotlib.use("agg")


@pytest.fixture(autouse=True)
def style():
    with matplotlib.rc_context():
        book.begin()
        yield
        plt.close("all")


def estimates():
    table = pd.DataFrame(
        {"name": list("abcd"), "value": [0.1, -0.5, 0.3, 0.2], "group": list("xyxy")}
    )
    return table.assign(low=table.value - 0.2, high=table.value + 0.4)


def written(ax):
    return [text.get_text() for text in ax.texts]


def legend(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def test_heatmap_writes_every_value_and_marks_missing_ones():
    table = pd.DataFrame([[1.26, -2.0], [np.nan, 0.04]], index=["i", "j"], columns=["t", "u"])
    ax = plots.heatmap(table, label="gain, points")
    assert written(ax) == ["1.3", "−2.0", "–", "0.0"]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["i", "j"]
    image = ax.images[0]
    assert (image.norm.vmin, image.norm.vmax) == (-2.0, 2.0)  # no sign is drawn stronger


def test_heatmap_of_many_cells_writes_no_values():
    table = pd.DataFrame(np.eye(20))
    small, written = (plots.heatmap(table, label="x", digits=d) for d in (None, 1))
    assert not small.texts and len(written.texts) == 400
    widths = [ax.figure.get_size_inches()[0] for ax in (small, written)]
    assert widths[0] < widths[1]


def test_heatmap_text_can_be_read_on_its_cell():
    table = pd.DataFrame(np.linspace(-1, 1, 9).reshape(3, 3))
    ax = plots.heatmap(table, label="x")
    image = ax.images[0]
    for text, value in zip(ax.texts, table.to_numpy().ravel(), strict=True):
        r, g, b, _ = image.cmap(image.norm(value))
        light = 0.2126 * r + 0.7152 * g + 0.0722 * b
        assert (text.get_color() == "white") == (light < 0.5)


def test_heatmap_mutes_cells_that_say_nothing():
    table = pd.DataFrame([[1.0, -2.0]], columns=["t", "u"])
    ax = plots.heatmap(table, label="x", muted=table < 0)
    assert written(ax) == ["1.0", "−2.0"]
    assert np.ma.getmaskarray(ax.images[0].get_array()).tolist() == [[False, True]]
    assert ax.texts[1].get_color() == "0.35"


def test_an_empty_table_is_drawn_as_its_note():
    empty = pd.DataFrame()
    empty.attrs["note"] = "too few rows."
    names = {"value": "value", "low": "low", "high": "high"}
    drawn = [
        plots.forest(empty, **names, name="name", xlabel="x"),
        plots.scatter(empty, x="x", y="y", xlabel="x", ylabel="y"),
        plots.dots(empty, category="a", value="b", xlabel="x"),
        plots.lines(empty, x="x", y="y", xlabel="x", ylabel="y"),
        plots.heatmap(empty, label="x"),
        plots.specifications(empty, [], **names, ylabel="y"),
    ]
    assert all(written(ax) == ["Nothing to draw. too few rows."] for ax in drawn)
    assert written(plots.null([], 0.0, xlabel="x")) == ["Nothing to draw."]


def test_heatmap_without_any_value():
    plots.heatmap(pd.DataFrame([[np.nan]]), label="x")


def test_forest_keeps_the_order_and_draws_the_intervals():
    table = estimates()
    ax = plots.forest(
        table, value="value", low="low", high="high", name="name", xlabel="gain", group="group"
    )
    assert [t.get_text() for t in ax.get_yticklabels()] == list("abcd")
    assert ax.yaxis_inverted() and legend(ax) == ["x", "y"]
    first = ax.collections[0].get_segments()[0]
    np.testing.assert_allclose(first[:, 0], [-0.1, 0.5])
    markers = {line.get_marker() for line in ax.lines if line.get_marker() in plots.MARKERS}
    assert len(markers) == 2  # groups differ without colour


def test_groups_of_one_name_share_a_row():
    table = pd.concat([estimates().assign(group="x"), estimates().assign(group="y")])
    names = {"value": "value", "low": "low", "high": "high", "name": "name"}
    ax = plots.forest(table, **names, xlabel="gain", group="group")
    assert [t.get_text() for t in ax.get_yticklabels()] == list("abcd")
    heights = [c.get_segments()[0][0, 1] for c in ax.collections]
    assert heights[0] == pytest.approx(-0.1) and heights[1] == pytest.approx(0.1)
    twice = pd.concat([table, table])  # which is which could not be seen in one row
    ax = plots.forest(twice, **names, xlabel="gain", group="group")
    assert len(ax.get_yticklabels()) == 16


def test_scatter_has_names_line_and_band():
    line = pd.DataFrame({"x": [0, 1], "y": [0, 1], "low": [-1, 0], "high": [1, 2]})
    ax = plots.scatter(
        estimates(),
        x="value",
        y="low",
        xlabel="s",
        ylabel="g",
        name="name",
        group="group",
        line=line,
    )
    assert written(ax) == list("abcd")
    assert len(ax.lines) == 3 and len(ax.collections) == 1


def test_dots_are_sorted_by_mean():
    table = pd.DataFrame({"language": list("ababcc"), "score": [0.1, 0.5, 0.1, 0.5, 0.9, 0.8]})
    ax = plots.dots(table, category="language", value="score", xlabel="score")
    assert [t.get_text() for t in ax.get_yticklabels()] == ["c", "b", "a"]
    assert ax.get_legend() is None


def test_lines_run_from_left_to_right():
    table = pd.DataFrame({"x": [2, 0, 1], "y": [5, 3, 4], "low": [4, 2, 3], "high": [6, 4, 5]})
    ax = plots.lines(table, x="x", y="y", xlabel="layer", ylabel="score", low="low", high="high")
    assert ax.lines[0].get_xdata().tolist() == [0, 1, 2] and len(ax.collections) == 1


def test_null_says_what_was_observed():
    assert written(plots.null(np.arange(100), 12.346, xlabel="t")) == ["observed 12.35"]


def test_specifications_mark_the_one_fixed_beforehand():
    table = estimates().assign(scale=["raw", "logit"] * 2, fixed=[False, False, True, False])
    ax = plots.specifications(
        table, ["scale"], value="value", low="low", high="high", ylabel="slope", primary="fixed"
    )
    assert legend(ax) == ["fixed beforehand"]
    marked = next(line for line in ax.lines if line.get_marker() == "D")
    assert marked.get_ydata().tolist() == [0.3]
    lower = ax.figure.axes[1]
    assert [t.get_text() for t in lower.get_yticklabels()] == ["scale: logit", "scale: raw"]


def test_languages_are_all_drawn_even_without_a_size():
    table = pd.DataFrame(
        {
            "language": list("abc"),
            "latitude": [0.0, 10.0, 20.0],
            "longitude": [-70.0, 0.0, 100.0],
            "family": ["F", "G", "G"],
            "size": [np.nan, 1.0, 5.0],
        }
    )
    ax = plots.languages(table, value="size", most=1)
    assert sum(len(part.get_offsets()) for part in ax.collections) == 3
    sizes = np.concatenate([part.get_sizes() for part in ax.collections])
    assert (sizes > 0).all() and legend(ax) == ["other", "G"]


def test_more_groups_than_markers_do_not_fail():
    table = pd.DataFrame({"x": range(12), "y": range(12), "g": [f"g{i}" for i in range(12)]})
    assert len(legend(plots.scatter(table, x="x", y="y", xlabel="x", ylabel="y", group="g"))) == 12
