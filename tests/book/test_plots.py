"""Figures show what their tables say, name tasks and languages, and can be read without colour."""

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from helpers import book, plots, tasks

matplotlib.use("agg")
NAMES = {"value": "value", "low": "low", "high": "high", "name": "name", "xlabel": "x"}


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


def rows(ax):
    return [text.get_text() for text in ax.get_yticklabels()]


def test_every_task_and_format_has_a_name_and_a_target_a_look_of_its_own():
    table, known = plots.display(), tasks.names()
    untold = {name.removesuffix("-translated") for name in known} - set(table.index)
    assert not {name for name in untold if tasks.get(name).group != "tiny"}
    targets = [name for name in known if tasks.get(name).role == "target" and name in table.index]
    looks = table.loc[targets].groupby(["colour", "marker"])
    assert table.loc[targets, "colour"].all()
    # Two targets look alike only where they are one data set, or stand in different profiles.
    for _, alike in looks:
        alone = {name.split("-")[0] for name in alike.index} - {"intents", "slots", "messages"}
        assert len(alone) <= 1
    assert plots.named("it") == "Italian (it)" and plots.named("xnli") == "XNLI"
    assert plots.named("nobody's") == "nobody's"


def test_a_task_keeps_its_colour_in_whatever_company():
    many = plots.style(
        pd.DataFrame({"target": ["Tatoeba", "mine", "XNLI", "NER (PAN-X)"]}), "target"
    )
    one = plots.style(pd.DataFrame({"target": ["Tatoeba"]}), "target")
    assert many["palette"]["Tatoeba"] == one["palette"]["Tatoeba"]
    assert many["hue_order"] == ["XNLI", "NER (PAN-X)", "Tatoeba", "mine"]
    more = pd.DataFrame({"g": [f"g{i}" for i in range(12)]})
    assert len(plots.style(more, "g")["palette"]) == 12  # more groups than colours do not fail


def test_heatmap_writes_every_value_and_marks_missing_ones():
    table = pd.DataFrame([[1.26, -2.0], [np.nan, 0.04]], index=["i", "j"], columns=["t", "u"])
    ax = plots.heatmap(table, label="gain, points")
    assert sorted(filter(None, written(ax))) == ["0.0", "1.3", "–", "−2.0"] and rows(ax) == [
        "i",
        "j",
    ]
    assert ax.collections[0].get_clim() == (-2.0, 2.0)  # no sign is drawn stronger


def test_heatmap_names_tasks_in_the_order_of_the_book():
    table = pd.DataFrame(
        [[1.0, 2.0], [3.0, 4.0]], index=["squad2", "mnli"], columns=["tatoeba", "xnli"]
    )
    ax = plots.heatmap(table, label="x", muted=table == 4.0)
    assert rows(ax) == ["MNLI", "SQuAD 2.0"]
    assert [text.get_text() for text in ax.get_xticklabels()] == ["XNLI", "Tatoeba"]
    assert written(ax)[0] == "3.0" and ax.texts[-1].get_text() == "4.0"  # the muted one, in grey
    assert ax.texts[-1].get_color() == "0.35"
    assert (
        np.ma.getmaskarray(ax.collections[0].get_array()).ravel().tolist() == [True] + [False] * 3
    )


def test_heatmap_of_many_cells_writes_no_values():
    table = pd.DataFrame(np.eye(20))
    small, large = (plots.heatmap(table, label="x", digits=d) for d in (None, 1))
    assert not small.texts and len(large.texts) == 400
    widths = [ax.figure.get_size_inches()[0] for ax in (small, large)]
    assert widths[0] < widths[1]
    plots.heatmap(pd.DataFrame([[np.nan]]), label="x")


def test_an_empty_table_is_drawn_as_its_note():
    empty = book.nothing("too few rows.")
    drawn = [
        plots.forest(empty, **NAMES),
        plots.scatter(empty, x="x", y="y", xlabel="x", ylabel="y"),
        plots.dots(empty, category="a", value="b", xlabel="x"),
        plots.heatmap(empty, label="x"),
        plots.specifications(empty, [], ylabel="y"),
    ]
    assert all(written(ax) == ["Nothing to draw. too few rows."] for ax in drawn)
    assert written(plots.nothing([])) == ["Nothing to draw."]


def test_forest_keeps_the_order_and_draws_the_intervals():
    ax = plots.forest(estimates(), **NAMES, group="group")
    assert rows(ax) == list("abcd") and ax.yaxis_inverted() and legend(ax) == ["x", "y"]
    intervals = ax.collections[0].get_segments()
    np.testing.assert_allclose(intervals[0][:, 0], [-0.1, 0.5])
    markers = {len(path.vertices) for path in ax.collections[1].get_paths()}
    assert len(markers) == 2  # groups differ without colour


def test_groups_of_one_name_share_a_row():
    table = pd.concat([estimates().assign(group="x"), estimates().assign(group="y")])
    ax = plots.forest(table, **NAMES, group="group")
    assert rows(ax) == list("abcd")
    heights = [segment[0, 1] for segment in ax.collections[0].get_segments()]
    assert heights[0] == pytest.approx(-0.1) and heights[4] == pytest.approx(0.1)
    twice = pd.concat([table, table])  # which is which could not be seen in one row
    assert len(rows(plots.forest(twice, **NAMES, group="group"))) == 16


def test_scatter_has_names_and_a_line():
    line = pd.DataFrame({"x": [0, 1], "y": [0, 1]})
    labels = {"xlabel": "s", "ylabel": "g", "name": "name", "group": "group"}
    ax = plots.scatter(estimates(), x="value", y="low", line=line, **labels)
    assert written(ax) == list("abcd") and legend(ax) == ["x", "y"]
    assert ax.lines[-1].get_xdata().tolist() == [0, 1] and ax.get_xlabel() == "s"


def test_dots_are_sorted_by_mean_and_named():
    table = pd.DataFrame({"language": ["it", "xx"] * 2 + ["de"] * 2, "score": [1, 5, 1, 5, 9, 8]})
    ax = plots.dots(table, category="language", value="score", xlabel="score")
    assert rows(ax) == ["German (de)", "xx", "Italian (it)"]
    assert ax.get_legend() is None


def test_specifications_mark_the_one_fixed_beforehand():
    table = estimates().rename(columns={"value": "r"})
    table = table.assign(scale=["raw", "logit"] * 2, primary=[False, False, True, False])
    ax = plots.specifications(table, ["scale"], ylabel="slope")
    assert legend(ax) == ["fixed beforehand"]
    marked = next(line for line in ax.lines if line.get_marker() == "D")
    assert marked.get_ydata().tolist() == [0.3]
    assert rows(ax.figure.axes[1]) == ["scale: logit", "scale: raw"]
