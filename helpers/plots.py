"""Figures from tables. Each function draws one table into one set of axes and returns them.

Colour never stands alone: groups differ by marker, too, and values that matter are written out.
A table without rows is drawn as the sentence in its ``attrs["note"]`` (see ``helpers.findings``).
``helpers.book.begin`` sets the style.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes

from helpers.book import COLOURS, number

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
DIVERGING, SEQUENTIAL = "PuOr_r", "Blues"  # both are told apart by readers with any colour vision
GREY = "0.6"

_SLANTED: dict[str, Any] = {"rotation": 30, "ha": "right"}


def heatmap(
    table: pd.DataFrame,
    *,
    label: str,
    centre: float | None = 0.0,
    digits: int | None = 1,
    muted: pd.DataFrame | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw a table as coloured cells with their values; missing cells are hatched.

    Args:
        table: numbers with row and column names.
        label: what the numbers are, with their unit.
        centre: value in the middle of a diverging scale; ``None`` for a scale from low to high.
        digits: digits after the point of the written values; ``None`` for a large table: small
            cells without values.
        muted: truth values of the table's shape; these cells get no colour and grey numbers.
        ax: where to draw; by default a new figure that fits the table.
    """
    if table.empty:
        return nothing(table, ax)
    # Cells that hold no values can be narrow, and then names need to stand.
    width, turned = (0.3, {"rotation": 90}) if digits is None else (0.75, _SLANTED)
    ax = ax or _sized(1.6 + width * table.shape[1], 0.9 + 0.36 * table.shape[0])
    values = table.to_numpy(float)
    low, high = _limits(values, centre)
    name = SEQUENTIAL if centre is None else DIVERGING
    plain = np.zeros(values.shape, bool) if muted is None else muted.to_numpy(bool)
    ax.set_facecolor("0.94")
    image = ax.imshow(
        np.where(plain, np.nan, values), cmap=name, vmin=low, vmax=high, aspect="auto"
    )
    ax.figure.colorbar(image, ax=ax, label=label, shrink=0.9)
    if digits is not None:
        _write_values(image, values, digits, plain)
    ax.set_xticks(range(table.shape[1]), table.columns, **turned)
    ax.set_yticks(range(table.shape[0]), table.index)
    ax.grid(False)
    return ax


def _write_values(image: Any, values: np.ndarray, digits: int, plain: np.ndarray) -> None:
    """Write each value on its cell, in a colour that can be read there."""
    for (row, column), value in np.ndenumerate(values):
        known = np.isfinite(value)
        dark = known and not plain[row, column] and _is_dark(image.cmap(image.norm(value)))
        text = number(value, digits) if known else "–"
        colour = "0.35" if plain[row, column] else "white" if dark else "black"
        image.axes.text(column, row, text, ha="center", va="center", color=colour)


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

    Estimates of the same name in different groups share a row, one below the other.

    Args:
        table: one row per estimate.
        value, low, high: columns with the estimate and the ends of its interval.
        name: column that names a row.
        xlabel: what the estimate is, with its unit.
        group: column that sets colour and marker.
        reference: where to draw a line to compare with; ``None``: none.
        ax: where to draw; by default a new figure that fits the rows.
    """
    if table.empty:
        return nothing(table, ax)
    places, names = _rows(table, name, group)
    ax = ax or _sized(7.0, 0.9 + 0.28 * len(names))
    if reference is not None:
        ax.axvline(reference, color=GREY, zorder=0)
    for colour, marker, text, chosen in _groups(table, group):
        rows = table[chosen]
        points = rows[value].to_numpy(float)
        reach = np.abs(rows[[low, high]].to_numpy(float).T - points)
        ax.errorbar(
            points, places[chosen], xerr=reach, fmt=marker, color=colour, label=text, capsize=2
        )
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.set_xlabel(xlabel)
    return _legend(ax, group, beside=True)


def _rows(table: pd.DataFrame, name: str, group: str) -> tuple[np.ndarray, list[str]]:
    """Return the height of each row of a table, and the names at the heights 0, 1, ..."""
    if not group or table.duplicated([name, group]).any():
        return np.arange(len(table), dtype=float), [str(text) for text in table[name]]
    places, names = pd.factorize(table[name])
    if len(names) == len(table):
        return places.astype(float), [str(text) for text in names]
    kinds, groups = pd.factorize(table[group])
    return places + 0.4 * ((kinds + 0.5) / len(groups) - 0.5), [str(text) for text in names]


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
    """Draw one point per row, with a fitted line and its band where there is one.

    Args:
        table: one row per point.
        x, y: columns of the coordinates.
        xlabel, ylabel: what they are, with their units.
        group: column that sets colour and marker.
        name: column with a text to write beside each point.
        line: columns ``x`` and ``y``, and ``low`` and ``high`` for a band.
        ax: where to draw.
    """
    if table.empty:
        return nothing(table, ax)
    ax = ax or _sized(7.0, 4.4)
    for colour, marker, text, chosen in _groups(table, group):
        rows = table[chosen]
        ax.plot(rows[x], rows[y], marker, color=colour, label=text, alpha=0.8, linestyle="none")
    if name:
        for row in table[[x, y, name]].itertuples(index=False):
            ax.annotate(row[2], row[:2], xytext=(4, 3), textcoords="offset points", fontsize=8)
    if line is not None:
        ax.plot(line["x"], line["y"], color="black", linewidth=1.2, zorder=0)
        if {"low", "high"} <= set(line.columns):
            ax.fill_between(line["x"], line["low"], line["high"], color="0.85", zorder=-1)
    ax.set_xlabel(xlabel)
    ax.set_ylabel(ylabel)
    return _legend(ax, group)


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
        category: column whose values become rows of the figure.
        value: column of the values.
        xlabel: what the values are, with their unit.
        group: column that sets colour and marker, such as the target.
        ax: where to draw.
    """
    if table.empty:
        return nothing(table, ax)
    order = table.groupby(category)[value].mean().sort_values(ascending=False).index
    ax = ax or _sized(7.0, 0.9 + 0.2 * len(order))
    places = {name: place for place, name in enumerate(order)}
    for colour, marker, text, chosen in _groups(table, group):
        rows = table[chosen]
        at = rows[category].map(places)
        ax.plot(rows[value], at, marker, color=colour, label=text, linestyle="none", alpha=0.8)
    ax.set_yticks(range(len(order)), order)
    ax.set_ylim(len(order) - 0.5, -0.5)
    ax.set_xlabel(xlabel)
    return _legend(ax, group)


def lines(
    table: pd.DataFrame,
    *,
    x: str,
    y: str,
    xlabel: str,
    ylabel: str,
    group: str = "",
    low: str = "",
    high: str = "",
    ax: Axes | None = None,
) -> Axes:
    """Draw a line per group, with a band where its ends are given.

    Args:
        table: one row per point of a line.
        x, y: columns of the coordinates.
        xlabel, ylabel: what they are, with their units.
        group: column that sets colour and marker.
        low, high: columns with the ends of the band.
        ax: where to draw.
    """
    if table.empty:
        return nothing(table, ax)
    ax = ax or _sized(7.0, 3.8)
    for colour, marker, text, chosen in _groups(table, group):
        rows = table[chosen].sort_values(x)
        ax.plot(rows[x], rows[y], f"-{marker}", color=colour, label=text, markersize=4)
        if low and high:
            ax.fill_between(rows[x], rows[low], rows[high], color=colour, alpha=0.15, linewidth=0)
    ax.set_xlabel(xlabel)
    ax.set_ylabel(ylabel)
    return _legend(ax, group)


def null(values: Sequence[float], observed: float, *, xlabel: str, ax: Axes | None = None) -> Axes:
    """Draw what a statistic would be by chance, and what it was.

    Args:
        values: the statistic in each permutation or simulation.
        observed: the statistic of the data.
        xlabel: what the statistic is.
        ax: where to draw.
    """
    if not len(values):
        return nothing(values, ax)
    ax = ax or _sized(7.0, 3.0)
    ax.hist(np.asarray(values, float), bins=50, color="0.75", edgecolor="white", linewidth=0.3)
    ax.axvline(observed, color=COLOURS[5], linewidth=2)
    ax.annotate(
        f"observed {number(observed, 2)}",
        (observed, 1.0),
        xycoords=("data", "axes fraction"),
        xytext=(4, -12),
        textcoords="offset points",
        color=COLOURS[5],
    )
    ax.set_xlabel(xlabel)
    ax.set_ylabel("permutations")
    return ax


def specifications(
    table: pd.DataFrame,
    choices: Sequence[str],
    *,
    value: str,
    low: str,
    high: str,
    ylabel: str,
    primary: str = "",
) -> Axes:
    """Draw a specification curve: sorted estimates above, the choices behind each below.

    Args:
        table: one row per specification.
        choices: columns that say what was chosen; each of their values becomes a row below.
        value, low, high: columns with the estimate and the ends of its interval.
        ylabel: what the estimate is, with its unit.
        primary: column that is true for the specification fixed beforehand.

    Returns:
        The upper axes.
    """
    if table.empty:
        return nothing(table)
    table = table.sort_values(value, ignore_index=True)
    options = [(column, option) for column in choices for option in table[column].unique()]
    heights = [2.2, 0.22 * len(options) + 0.2]
    figure, (upper, lower) = plt.subplots(
        2, 1, sharex=True, figsize=(8.0, sum(heights) + 0.6), height_ratios=heights
    )
    at = np.arange(len(table))
    points = table[value].to_numpy(float)
    chosen = table[primary].to_numpy(bool) if primary else np.zeros(len(table), bool)
    upper.vlines(at, table[low], table[high], color="0.8", linewidth=1)
    upper.plot(at, points, ".", color=COLOURS[0], markersize=4)
    upper.plot(at[chosen], points[chosen], "D", color=COLOURS[5], label="fixed beforehand")
    upper.axhline(0.0, color=GREY)
    upper.set_ylabel(ylabel)
    if chosen.any():
        upper.legend()
    for place, (column, option) in enumerate(options):
        on = table[column].to_numpy() == option
        lower.plot(at[on], np.full(int(on.sum()), place), "|", color="black", markersize=5)
    lower.set_yticks(range(len(options)), [f"{column}: {option}" for column, option in options])
    lower.set_ylim(len(options) - 0.5, -0.5)
    lower.set_xlabel("specification, sorted by its estimate")
    lower.tick_params(labelsize=8)
    return upper


def languages(
    table: pd.DataFrame, *, group: str = "family", value: str = "", most: int = 7
) -> Axes:
    """Draw languages where they are spoken, by coordinates alone: no borders.

    Args:
        table: columns ``language``, ``latitude``, ``longitude`` and the group.
        group: column that sets colour and marker; its rarest values share the last one.
        value: column that sets the size of a point, smallest where it is missing; empty: all alike.
        most: groups that are told apart.
    """
    ax = _sized(8.0, 4.2)
    common = table[group].value_counts().index[:most]
    shown = table.assign(**{group: table[group].where(table[group].isin(common), "other")})
    sizes = _sizes(shown[value].to_numpy(float)) if value else np.full(len(shown), 40.0)
    for colour, marker, text, chosen in _groups(shown, group):
        rows = shown[chosen]
        ax.scatter(
            rows["longitude"],
            rows["latitude"],
            s=sizes[chosen],
            c=colour,
            marker=marker,
            label=text,
        )
    for row in shown[["longitude", "latitude", "language"]].itertuples(index=False):
        ax.annotate(row[2], row[:2], xytext=(4, 3), textcoords="offset points", fontsize=7)
    ax.set_xlabel("longitude, degrees east")
    ax.set_ylabel("latitude, degrees north")
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8)
    return ax


def nothing(empty: Any, ax: Axes | None = None) -> Axes:
    """Draw the sentence that says why there is nothing to draw.

    Args:
        empty: a table or column without rows; its ``attrs["note"]`` is the sentence.
        ax: where to draw.
    """
    ax = ax or _sized(7.0, 1.8)
    note = getattr(empty, "attrs", {}).get("note", "")
    text = textwrap.fill(f"Nothing to draw. {note}".strip(), 80)
    ax.text(0.5, 0.5, text, ha="center", va="center", fontsize=9, transform=ax.transAxes)
    ax.set_axis_off()
    return ax


def _sizes(values: np.ndarray) -> np.ndarray:
    """Scale values to areas of points; unknown ones get the smallest."""
    low, high = np.nanmin(values), np.nanmax(values)
    return 15 + 135 * np.nan_to_num((values - low) / max(high - low, 1e-9))


def _sized(width: float, height: float) -> Axes:
    return plt.subplots(figsize=(min(width, 11.0), max(height, 1.8)))[1]


def _groups(table: pd.DataFrame, group: str) -> list[tuple[str, str, str | None, np.ndarray]]:
    """Return colour, marker, name and rows of each group, in order of first appearance."""
    if not group:
        return [(COLOURS[0], MARKERS[0], None, np.ones(len(table), bool))]
    return [
        (
            COLOURS[i % len(COLOURS)],
            MARKERS[i % len(MARKERS)],
            str(text),
            (table[group] == text).to_numpy(),
        )
        for i, text in enumerate(table[group].unique())
    ]


def _legend(ax: Axes, group: str, beside: bool = False) -> Axes:
    """Add a legend, beside the axes where anything inside them could hide an interval."""
    if group:
        place: dict[str, Any] = (
            {"loc": "center left", "bbox_to_anchor": (1.0, 0.5)} if beside else {}
        )
        ax.legend(title=group.replace("_", " "), fontsize=8, title_fontsize=8, **place)
    return ax


def _limits(values: np.ndarray, centre: float | None) -> tuple[float, float]:
    known = values[np.isfinite(values)]
    if not known.size:
        return 0.0, 1.0
    if centre is None:
        return float(known.min()), float(known.max())
    reach = float(np.abs(known - centre).max()) or 1.0
    return centre - reach, centre + reach


def _is_dark(colour: Any) -> bool:
    """Return whether white text reads better on a colour (relative luminance, ITU-R BT.709)."""
    red, green, blue = colour[:3]
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue < 0.5


# Similarity: what measures go by, what they are made of, and what they say of noise.


def order(correlations: pd.DataFrame) -> list[str]:
    """Order measures so that those that agree, in either direction, stand together.

    Args:
        correlations: a square table of them; unknown ones count as 0.

    Returns:
        Names in the order of an average-linkage tree on 1 - |correlation|.
    """
    from scipy.cluster import hierarchy
    from scipy.spatial.distance import squareform

    if len(correlations) < 3:
        return list(correlations.columns)
    distance = 1.0 - correlations.abs().fillna(0.0).to_numpy()
    distance = np.clip((distance + distance.T) / 2, 0.0, None)
    np.fill_diagonal(distance, 0.0)
    tree = hierarchy.linkage(squareform(distance, checks=False), "average", optimal_ordering=True)
    return [correlations.columns[place] for place in hierarchy.leaves_list(tree)]


def panels(count: int, size: tuple[float, float] = (5.4, 2.9)) -> list[Axes]:
    """Return axes for so many matrices, two in a row."""
    import matplotlib.pyplot as plt

    columns = min(count, 2)
    rows = -(-count // columns)
    shape = (size[0] * columns, size[1] * rows)
    _, axes = plt.subplots(rows, columns, figsize=shape, squeeze=False, layout="constrained")
    for ax in axes.flat[count:]:
        ax.set_visible(False)
    return list(axes.flat[:count])


def composition(shares: pd.DataFrame) -> Axes:
    """Draw what ``helpers.similarity.measure.composition`` returned, a bar per measure.

    Args:
        shares: the table; drawn with the largest share of the pair first.
    """
    parts = {"tasks": "the single tasks", "format": "their formats", "pair": "the pair"}
    drawn = 100 * shares.sort_values("pair")[list(parts)].rename(columns=parts)
    ax: Axes = drawn.plot.barh(stacked=True, width=0.75, figsize=(7.5, 1.2 + 0.24 * len(drawn)))
    ax.set(xlabel="share of the variance over dyads, %", ylabel="", xlim=(0, 100))
    ax.tick_params(axis="y", labelsize=8)
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False)
    ax.grid(axis="y", visible=False)
    return ax


def noise(nulls: pd.DataFrame, columns: int = 4) -> Any:
    """Draw what measures that use labels say of noise, against the number of classes.

    Args:
        nulls: what ``helpers.similarity.independence`` returned.
        columns: panels in a row.

    Returns:
        The grid of panels, with the mean and the range of the draws.
    """
    labelled = nulls[nulls["classes"] > 0]
    grid = sns.relplot(
        labelled, x="classes", y="value", col="measure", kind="line", marker="o",
        errorbar=lambda values: (values.min(), values.max()), col_wrap=columns,
        height=1.9, aspect=1.15, facet_kws={"sharey": False},
    )  # fmt: skip
    grid.set(xscale="log", ylabel="", xlabel="classes").set_titles("{col_name}")
    counts = sorted(labelled["classes"].unique())
    for ax in grid.axes.flat:
        ax.set_xticks(counts, [str(count) for count in counts])
        ax.minorticks_off()
    return grid


def pair(tables: Mapping[str, pd.DataFrame]) -> list[Axes]:
    """Draw what ``helpers.similarity.pair`` returned; an empty table says why it is empty.

    Args:
        tables: ``texts``, ``pieces``, ``labels`` and ``features`` of one pair of tasks.

    Returns:
        Four panels.
    """
    import matplotlib.pyplot as plt

    _, grid = plt.subplots(2, 2, figsize=(8.4, 6.4), layout="constrained")
    axes = dict(zip(("texts", "pieces", "labels", "features"), grid.flat, strict=True))
    for name, ax in axes.items():
        if not len(tables[name]):
            nothing(tables[name], ax)
    plane = {"x": "x", "y": "y", "s": 10, "alpha": 0.6, "linewidth": 0}
    if len(tables["texts"]):
        sns.scatterplot(tables["texts"], hue="task", ax=axes["texts"], **plane)
        axes["texts"].set(title="text: one point per row")
    if len(tables["pieces"]):
        shares = tables["pieces"]
        # Pieces of one task only lie on the lower or left edge.
        shown = shares.clip(lower=shares[shares > 0].min().min() / 2)
        sns.scatterplot(
            shown, x="intermediate", y="target", s=6, alpha=0.4, linewidth=0, ax=axes["pieces"]
        )
        axes["pieces"].set(
            title="pieces: one point per piece, per 1,000", xscale="log", yscale="log"
        )
    if len(tables["labels"]):
        sns.barplot(tables["labels"], x="class", y="share", hue="task", ax=axes["labels"])
        axes["labels"].set(title="labels: one bar per class, %", xticks=[], ylabel="share")
    if len(tables["features"]):
        found = tables["features"]
        few = found["label"].nunique() <= 6  # more have no legend: it would hide the points
        sns.scatterplot(
            found, hue="label", palette="tab10" if few else "turbo", ax=axes["features"],
            legend="full" if few else False, **plane,
        )  # fmt: skip
        axes["features"].set(title=f"features of the target {found.attrs['after']}")
    for name in ("texts", "features"):
        axes[name].set(xlabel="first principal axis", ylabel="second")
    return list(grid.flat)
