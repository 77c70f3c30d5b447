"""Figures from tables, drawn with seaborn. Each function draws one table and returns its axes.

Tasks and languages have one name, order and colour in the whole book: those of ``data/display.csv`` and
``data/languages.csv``. Colour never stands alone: groups differ by marker, too, and values that matter
are written out. A table without rows is drawn as the sentence in its ``attrs["note"]``.
``helpers.book.begin`` sets the style.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes

from helpers.book import COLOURS, number

DATA = Path(__file__).resolve().parent.parent / "data"
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
DIVERGING, SEQUENTIAL = "PuOr_r", "Blues"  # both are told apart by readers with any colour vision
GREY = "0.6"
TASKS = ("intermediate", "target", "task", "left_out")  # columns whose values have a display name


@lru_cache(maxsize=1)
def display() -> pd.DataFrame:
    """Return name, colour and marker of tasks, formats and languages, in the order of figures."""
    own = pd.read_csv(DATA / "display.csv", index_col="key", keep_default_na=False)
    spoken = pd.read_csv(DATA / "languages.csv", index_col="language", keep_default_na=False)
    spoken = pd.DataFrame({"name": spoken["name"] + " (" + spoken.index + ")"})
    return pd.concat([own, spoken[~spoken.index.isin(own.index)]]).fillna("")


def named(key: Any) -> str:
    """Return what readers call a task or language: ``"Italian (it)"``; other texts stay."""
    return str(display()["name"].get(key, key))


def _read(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table with tasks and languages as readers know them."""
    columns = [name for name in (*TASKS, "language") if name in table]
    return table.assign(**{name: table[name].map(named) for name in columns})


def _order(keys: Any) -> list[Any]:
    """Return keys in the order of the display table; unknown ones stay behind as they came."""
    return [
        *(key for key in display().index if key in set(keys)),
        *(k for k in keys if k not in display().index),
    ]


def style(table: pd.DataFrame, group: str) -> dict[str, Any]:
    """Return what tells groups apart in a seaborn plot: ``sns.lineplot(table, ..., **style(table, "x"))``.

    Looks are those of ``data/display.csv`` where it knows the groups, one after another elsewhere.
    """
    if not group:
        return {"color": COLOURS[0]}
    # Readers' names, not keys: several keys may be one data set.
    known = display().drop_duplicates("name").set_index("name")
    there = list(dict.fromkeys(table[group]))
    order = [name for name in known.index if name in there]
    order += [name for name in there if name not in order]
    fixed = known.reindex(order)[["colour", "marker"]].fillna("").to_numpy()
    looks = [
        (colour or COLOURS[k % len(COLOURS)], marker or MARKERS[k % len(MARKERS)])
        for k, (colour, marker) in enumerate(fixed)
    ]
    palette, markers = (dict(zip(order, side, strict=True)) for side in zip(*looks, strict=True))
    return {"hue": group, "style": group, "hue_order": order, "style_order": order} | {
        "palette": palette, "markers": markers
    }  # fmt: skip


def _sized(width: float, height: float, ax: Axes | None = None) -> Axes:
    return ax or plt.subplots(figsize=(min(width, 11.0), max(height, 1.8)))[1]


def _finish(ax: Axes, group: str, **labels: str) -> Axes:
    """Label the axes; a legend stands beside them, where it hides nothing."""
    ax.set(**labels)
    if group:
        place: dict[str, Any] = {"loc": "center left", "bbox_to_anchor": (1.0, 0.5)}
        ax.legend(title=group.replace("_", " "), fontsize=8, title_fontsize=8, **place)
    return ax


def nothing(empty: Any, ax: Axes | None = None) -> Axes:
    """Draw the sentence that says why there is nothing to draw: a table's ``attrs["note"]``."""
    ax = _sized(7.0, 1.8, ax)
    note = getattr(empty, "attrs", {}).get("note", "")
    text = textwrap.fill(f"Nothing to draw. {note}".strip(), 80)
    ax.text(0.5, 0.5, text, ha="center", va="center", fontsize=9, transform=ax.transAxes)
    ax.set_axis_off()
    return ax


def heatmap(
    table: pd.DataFrame,
    *,
    label: str,
    centre: float | None = 0.0,
    digits: int | None = 1,
    muted: pd.DataFrame | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw a table as coloured cells with their values; a missing one is a dash without colour.

    Args:
        table: numbers with row and column names; ``label`` says what they are, with their unit.
        centre: value in the middle of a diverging scale; ``None`` for a scale from low to high.
        digits: digits after the point; ``None`` for a large table: small cells without values.
        muted: truth values of the table's shape; these cells get no colour and grey numbers.
    """
    if table.empty:
        return nothing(table, ax)
    table = table.loc[_order(table.index), _order(table.columns)]
    values = table.to_numpy(float)
    plain = ~np.isfinite(values)
    if muted is not None:
        plain |= muted.loc[table.index, table.columns].to_numpy(bool)
    names = {"yticklabels": [*map(named, table.index)], "xticklabels": [*map(named, table.columns)]}
    # Values are written by hand, since seaborn knows no real minus sign and no dash.
    written: Any = False
    if digits is not None:
        written = [[number(v, digits) if np.isfinite(v) else "–" for v in row] for row in values]
        written = np.array(written)
    ax = _sized(
        1.6 + (0.3 if digits is None else 0.75) * table.shape[1], 0.9 + 0.36 * len(table), ax
    )
    ax.set_facecolor("0.94")
    # A scale around a centre reaches as far on both sides: no sign is drawn stronger.
    known = values[~plain]
    reach = float(np.abs(known - (centre or 0)).max(initial=0)) or 1.0
    limits = {} if centre is None else {"vmin": centre - reach, "vmax": centre + reach}
    bar: dict[str, Any] = {
        "cmap": SEQUENTIAL if centre is None else DIVERGING,
        "cbar_kws": {"label": label},
    }
    bar["cbar"] = bool(known.size)  # where nothing has a colour, there is no scale of colours
    share = {"annot": written, "fmt": "", "ax": ax} | names
    sns.heatmap(pd.DataFrame(values), mask=plain, **bar, **limits, **share)
    if digits is not None and plain.any():
        grey = {
            "annot_kws": {"color": "0.35"},
            "cbar": False,
            "cmap": ["0.94"],
            "vmin": 0,
            "vmax": 1,
        }
        sns.heatmap(np.zeros_like(values), mask=~plain, **grey, **share)
    turned = {"rotation": 90} if digits is None else {"rotation": 30, "ha": "right"}
    ax.set_xticks(ax.get_xticks(), names["xticklabels"], **turned)
    ax.tick_params(axis="y", rotation=0)
    return ax


def forest(
    table: pd.DataFrame,
    *,
    value: str,
    low: str,
    high: str,
    name: str,
    xlabel: str,
    group: str = "",
    reference: float | None = 0.0,
    ax: Axes | None = None,
) -> Axes:
    """Draw estimates with their intervals, one row per name, the first on top.

    Args:
        table: one row per estimate; those of one name in different groups share a row.
        value, low, high, name, group: its columns; the last sets colour and marker.
        reference: where to draw a line to compare with; ``None``: none.
    """
    if table.empty:
        return nothing(table, ax)
    table = _read(table)
    place, names = pd.factorize(table[name])
    if table.duplicated([name, group] if group else name).any():  # which is which could not be seen
        place, names = np.arange(len(table)), pd.Index(table[name])
    # Groups of one name lie side by side in its row.
    heights = place.astype(float)
    if len(names) < len(table):
        kinds, groups = pd.factorize(table[group])
        heights += 0.4 * ((kinds + 0.5) / len(groups) - 0.5)
    ax = _sized(7.0, 0.9 + 0.28 * len(names), ax)
    if reference is not None:
        ax.axvline(reference, color=GREY, zorder=0)
    look = style(table, group)
    colours = table[group].map(look["palette"]) if group else COLOURS[0]
    ax.hlines(heights, table[low], table[high], color=colours, linewidth=1.5)
    rows = table.assign(height=heights)
    sns.scatterplot(rows, x=value, y="height", ax=ax, s=45, legend=bool(group), **look)
    ax.set_yticks(range(len(names)), [str(text) for text in names])
    ax.set_ylim(len(names) - 0.5, -0.5)
    return _finish(ax, group, xlabel=xlabel, ylabel="")


def scatter(
    table: pd.DataFrame,
    *,
    x: str,
    y: str,
    xlabel: str,
    ylabel: str,
    group: str = "",
    name: str = "",
    line: pd.DataFrame | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw one point per row, with a line to compare with where there is one.

    Args:
        table: one row per point.
        x, y, group, name: its columns: coordinates, what sets the colour, a text beside each point.
        line: columns ``x`` and ``y`` of the line.
    """
    if table.empty:
        return nothing(table, ax)
    table, ax = _read(table), _sized(7.0, 4.4, ax)
    sns.scatterplot(table, x=x, y=y, alpha=0.8, legend=bool(group), ax=ax, **style(table, group))
    for row in table[[x, y, name]].itertuples(index=False) if name else ():
        text = str(row[2]).split(" (")[0]
        ax.annotate(text, row[:2], xytext=(4, 3), textcoords="offset points", fontsize=8)
    if line is not None:
        ax.plot(line["x"], line["y"], color="black", linewidth=1.2, zorder=0)
    return _finish(ax, group, xlabel=xlabel, ylabel=ylabel)


def dots(
    table: pd.DataFrame,
    *,
    category: str,
    value: str,
    xlabel: str,
    group: str = "",
    ax: Axes | None = None,
) -> Axes:
    """Draw values per category, such as scores per language, sorted by their mean.

    Args:
        table: one row per value.
        category, value, group: its columns: the figure's rows, what is drawn, what sets the colour.
    """
    if table.empty:
        return nothing(table, ax)
    table = _read(table)
    order = list(table.groupby(category)[value].mean().sort_values(ascending=False).index)
    ax = _sized(7.0, 0.9 + 0.2 * len(order), ax)
    rows = table.assign(place=table[category].map(order.index))
    sns.scatterplot(
        rows, x=value, y="place", alpha=0.8, ax=ax, legend=bool(group), **style(rows, group)
    )
    ax.set_yticks(range(len(order)), [str(text) for text in order])
    ax.set_ylim(len(order) - 0.5, -0.5)
    return _finish(ax, group, xlabel=xlabel, ylabel="")


def specifications(table: pd.DataFrame, choices: Sequence[str], *, ylabel: str) -> Axes:
    """Draw a specification curve: sorted estimates above, the choices behind each below.

    Args:
        table: one row per specification: ``r``, ``low`` and ``high`` of what relabelling gives, and
            ``primary``, true for the one fixed beforehand.
        choices: columns that say what was chosen; each of their values becomes a row below.
    """
    if table.empty:
        return nothing(table)
    table = table.sort_values("r", ignore_index=True)
    options = [(column, option) for column in choices for option in table[column].unique()]
    heights = [2.2, 0.22 * len(options) + 0.2]
    size = (8.0, sum(heights) + 0.6)
    _, (upper, lower) = plt.subplots(2, 1, sharex=True, figsize=size, height_ratios=heights)
    upper.vlines(table.index, table["low"], table["high"], color="0.8", linewidth=1)
    upper.plot(table.index, table["r"], ".", color=COLOURS[0], markersize=4)
    upper.axhline(0.0, color=GREY)
    upper.set_ylabel(ylabel)
    fixed = table[table["primary"]]
    if len(fixed):
        upper.plot(fixed.index, fixed["r"], "D", color=COLOURS[5], label="fixed beforehand")
        upper.legend()
    # A tick below each estimate for every choice that it rests on.
    for place, (column, option) in enumerate(options):
        on = table.index[table[column] == option]
        lower.plot(on, np.full(len(on), place), "|", color="black", markersize=5)
    lower.set_yticks(range(len(options)), [f"{column}: {named(o)}" for column, o in options])
    lower.set_ylim(len(options) - 0.5, -0.5)
    lower.set_xlabel("specification, sorted by its estimate")
    lower.tick_params(labelsize=8)
    return upper
