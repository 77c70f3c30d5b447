"""Figures show what their tables say, name tasks and languages, and can be read without colour."""

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from helpers import book, plots, tasks

matplotlib.use("agg")


@pytest.fixture(autouse=True)
def style():
    with matplotlib.rc_context():
        book.begin()
        yield
        plt.close("all")


def written(ax):
    return [text.get_text() for text in ax.texts]


def rows(ax):
    return [text.get_text() for text in ax.get_yticklabels()]


def test_every_task_and_format_has_a_name_and_a_target_a_look_of_its_own():
    table, known = plots.display(), tasks.names()
    untold = {name.removesuffix("-translated") for name in known} - set(table.index)
    assert not {name for name in untold if tasks.get(name).group != "tiny"}
    targets = [name for name in known if tasks.get(name).role == "target" and name in table.index]
    assert table.loc[targets, "colour"].all()
    # Two targets look alike only where they are one data set, or stand in different profiles.
    for _, alike in table.loc[targets].groupby(["colour", "marker"]):
        alone = {name.split("-")[0] for name in alike.index} - {"intents", "slots", "messages"}
        assert len(alone) <= 1
    assert plots.named("it") == "Italian (it)" and plots.named("xnli") == "XNLI"
    assert plots.named("nobody's") == "nobody's"


def test_a_task_keeps_its_colour_in_whatever_company():
    names = ["Tatoeba", "mine", "XNLI", "NER (PAN-X)"]
    many = plots.style(pd.DataFrame({"target": names}), "target")
    one = plots.style(pd.DataFrame({"target": names[:1]}), "target")
    assert many["palette"]["Tatoeba"] == one["palette"]["Tatoeba"]
    assert many["hue_order"] == ["XNLI", "NER (PAN-X)", "Tatoeba", "mine"]
    more = pd.DataFrame({"g": [f"g{i}" for i in range(12)]})
    assert len(plots.style(more, "g")["palette"]) == 12  # more groups than colours do not fail


def test_heatmap_names_tasks_in_order_writes_every_value_and_marks_missing_ones():
    values = [[1.26, -2.0], [np.nan, 0.04]]
    table = pd.DataFrame(values, index=["squad2", "mnli"], columns=["tatoeba", "xnli"])
    ax = plots.heatmap(table, label="gain, points")
    assert rows(ax) == ["MNLI", "SQuAD 2.0"]
    assert [text.get_text() for text in ax.get_xticklabels()] == ["XNLI", "Tatoeba"]
    assert sorted(filter(None, written(ax))) == ["0.0", "1.3", "–", "−2.0"]
    assert ax.collections[0].get_clim() == (-2.0, 2.0)  # no sign is drawn stronger


def test_heatmap_of_many_cells_writes_no_values():
    table = pd.DataFrame(np.eye(20))
    small, large = (plots.heatmap(table, label="x", digits=d) for d in (None, 1))
    assert not any(written(small)) and len(written(large)) == 400
    widths = [ax.figure.get_size_inches()[0] for ax in (small, large)]
    assert widths[0] < widths[1]
    plots.heatmap(pd.DataFrame([[np.nan]]), label="x")


def test_an_empty_table_is_drawn_as_its_note():
    empty = book.nothing("too few rows.")
    drawn = [
        plots.dots(empty, category="a", value="b", xlabel="x"),
        plots.heatmap(empty, label="x"),
    ]
    assert all(written(ax) == ["Nothing to draw. too few rows."] for ax in drawn)
    assert written(plots.nothing([])) == ["Nothing to draw."]


def test_dots_are_sorted_by_mean_and_named_and_groups_differ_without_colour():
    table = pd.DataFrame({"language": ["it", "xx"] * 2 + ["de"] * 2, "score": [1, 5, 1, 5, 9, 8]})
    ax = plots.dots(table, category="language", value="score", xlabel="score")
    assert rows(ax) == ["German (de)", "xx", "Italian (it)"] and ax.get_legend() is None
    both = table.assign(arm=["a", "b"] * 3)
    ax = plots.dots(both, category="language", value="score", group="arm", xlabel="score")
    assert len({len(path.vertices) for path in ax.collections[0].get_paths()}) == 2
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["a", "b"]
