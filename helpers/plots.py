"""Figures from tables, drawn with seaborn. Each function draws one table and returns its axes.

Tasks and languages have one name, order and colour in the whole book: those of ``data/display.csv`` and
``data/languages.csv``. Colour never stands alone: groups differ by marker, too, and values that matter
are written out. A table without rows is drawn as the sentence in its ``attrs["note"]``.
``helpers.book.begin`` sets the style.
"""

from __future__ import annotations

import textwrap
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
    known = display().index
    return [*(k for k in known if k in set(keys)), *(k for k in keys if k not in known)]


def style(table: pd.DataFrame, group: str) -> dict[str, Any]:
    """Return what tells groups apart in a seaborn plot: ``sns.lineplot(table, ..., **style(table, "x"))``.

    Looks are those of ``data/display.csv`` where it knows the groups, one after another elsewhere.
    """
    if not group:
        return {"color": COLOURS[0]}
    # Readers' names, not keys: several keys may be one data set.
    known = display().drop_duplicates("name").set_index("name")
    there = list(dict.fromkeys(table[group]))
    order = [*(n for n in known.index if n in there), *(n for n in there if n not in known.index)]
    fixed = known.reindex(order)[["colour", "marker"]].fillna("").to_numpy()
    looks = [
        (colour or COLOURS[k % len(COLOURS)], marker or MARKERS[k % len(MARKERS)])
        for k, (colour, marker) in enumerate(fixed)
    ]
    palette, markers = (dict(zip(order, side, strict=True)) for side in zip(*looks, strict=True))
    groups = {"hue": group, "style": group, "hue_order": order, "style_order": order}
    return groups | {"palette": palette, "markers": markers}


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
    ax: Axes | None = None,
) -> Axes:
    """Draw a table as coloured cells with their values; a missing one is a dash without colour.

    Args:
        table: numbers with row and column names; ``label`` says what they are, with their unit.
        centre: value in the middle of a diverging scale; ``None`` for a scale from low to high.
        digits: digits after the point; ``None`` for a large table: small cells without values.
    """
    if table.empty:
        return nothing(table, ax)
    table = table.loc[_order(table.index), _order(table.columns)]
    values, small = table.to_numpy(float), digits is None
    ax = _sized(1.6 + (0.3 if small else 0.75) * table.shape[1], 0.9 + 0.36 * len(table), ax)
    ax.set_facecolor("0.94")
    # A scale around a centre reaches as far on both sides: no sign is drawn stronger.
    known = values[np.isfinite(values)]
    reach = float(np.abs(known - (centre or 0)).max(initial=0)) or 1.0
    limits = {} if centre is None else {"vmin": centre - reach, "vmax": centre + reach}
    colours = {"cmap": SEQUENTIAL if centre is None else DIVERGING, "cbar": bool(known.size)}
    # Values are written by hand, since seaborn knows no real minus sign and no dash.
    written = not small and np.array([[number(v, digits or 0) for v in row] for row in values])
    names = {"yticklabels": [*map(named, table.index)], "xticklabels": [*map(named, table.columns)]}
    sns.heatmap(
        pd.DataFrame(values), annot=written, fmt="", ax=ax, **colours, **limits, **names,
        cbar_kws={"label": label},
    )  # fmt: skip
    for row, column in [] if small else np.argwhere(~np.isfinite(values)):
        ax.text(column + 0.5, row + 0.5, "–", color="0.35", ha="center", va="center")
    turned = {"rotation": 90} if small else {"rotation": 30, "ha": "right"}
    ax.set_xticks(ax.get_xticks(), names["xticklabels"], **turned)
    ax.tick_params(axis="y", rotation=0)
    return ax


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
    look = style(rows, group)
    sns.scatterplot(rows, x=value, y="place", alpha=0.8, ax=ax, legend=bool(group), **look)
    ax.set_yticks(range(len(order)), [str(text) for text in order])
    ax.set_ylim(len(order) - 0.5, -0.5)
    return _finish(ax, group, xlabel=xlabel, ylabel="")
