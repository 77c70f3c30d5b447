"""What figures of similarity tables show: agreement, what variation is made of, and noise.

``helpers.plots.heatmap`` draws a matrix of a measure, and the agreement in its clustered order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from helpers.errors import BadRows, unknown
from helpers.similarity.arrays import Floats
from helpers.similarity.reliability import within

__all__ = [
    "agreement",
    "composition",
    "composition_figure",
    "null_figure",
    "order",
    "panels",
]

COMMON = 5  # dyads that a correlation of two measures needs


def agreement(table: pd.DataFrame, centred: bool = True, language: str = "en") -> pd.DataFrame:
    """Spearman correlations between measures over dyads.

    Args:
        table: what ``helpers.similarity.measure`` returned.
        centred: remove the effects of intermediate and target first. Without that, measures agree
            because they all follow the number of classes of the target.
        language: language of the target's rows.

    Returns:
        A square table over the measures that vary over at least 5 dyads; a pair with fewer common
        dyads is NaN.

    Raises:
        BadRows: fewer than two measures vary.
    """
    part = table[(table["language"] == language) & (table["target"] != "")]
    wide = part.pivot(index=["intermediate", "target"], columns="measure", values="value")
    wide = wide[list(dict.fromkeys(part["measure"]))]
    if centred:
        names = [list(wide.index.get_level_values(level)) for level in (0, 1)]
        wide = wide.apply(lambda column: within(column.to_numpy(), *names))
    varies = [n for n in wide if wide[n].nunique() > 1 and wide[n].count() >= COMMON]
    if len(varies) < 2:
        raise BadRows(
            f"{len(varies)} measures vary over {COMMON} dyads or more; at least two are needed. With one "
            "intermediate or one target nothing is left once their effects are removed."
        )
    return wide[varies].corr(method="spearman", min_periods=COMMON)


def order(correlations: pd.DataFrame) -> list[str]:
    """Order measures so that those that agree, in either direction, stand together.

    Args:
        correlations: what ``agreement`` returned.

    Returns:
        Names in the order of an average-linkage tree on 1 - |correlation|; unknown correlations
        count as 0.
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


def composition(
    table: pd.DataFrame, formats: Mapping[str, str], language: str = "en"
) -> pd.DataFrame:
    """Split the variation of each measure over dyads into tasks, formats and the pair itself.

    Args:
        table: what ``helpers.similarity.measure`` returned.
        formats: format of every task by name.
        language: language of the target's rows.

    Returns:
        One row per measure that varies, indexed by its name. ``tasks``, ``format`` and ``pair`` are
        shares of the variance that sum to 1: what the single tasks explain, what the format block
        (format of the intermediate x format of the target) explains of the rest, and what is left.
        ``format_of_rest`` is format / (format + pair), and ``chance`` what it would be on average
        for values without any structure; both are NaN where tasks explain everything.

    Raises:
        UnknownName: a task without a format.
    """
    part = table[(table["language"] == language) & (table["target"] != "")]
    found = {}
    for name, rows in part.dropna(subset=["value"]).groupby("measure", sort=False):
        values = rows["value"].to_numpy(float)
        total = ((values - values.mean()) ** 2).sum()
        if total <= 1e-12 * (values**2).sum():
            continue
        sides = rows["intermediate"].tolist(), rows["target"].tolist()
        rest = within(values, *sides)
        blocks = [(_format(formats, i), _format(formats, t)) for i, t in zip(*sides, strict=True)]
        block, of_block, of_rest = _explained(rest, blocks, sides)
        left = (rest**2).sum()
        found[name] = {
            "tasks": 1.0 - left / total,
            "format": block / total,
            "pair": (left - block) / total,
            "format_of_rest": block / left if left > 0 else np.nan,
            "chance": of_block / of_rest if of_rest and left > 0 else np.nan,
        }
    columns = ["tasks", "format", "pair", "format_of_rest", "chance"]
    return pd.DataFrame.from_dict(found, orient="index", columns=columns).rename_axis("measure")


def _format(formats: Mapping[str, str], task: str) -> str:
    if task not in formats:
        raise unknown("task with a format", task, formats)
    return formats[task]


def _explained(
    rest: Floats, blocks: list[tuple[str, str]], sides: tuple[list[str], list[str]]
) -> tuple[float, int, int]:
    """Sum of squares of blocks beyond both task effects, its degrees of freedom, and all of them."""
    dummies = [_dummies(names) for names in sides]
    tasks = np.concatenate(dummies, axis=1)
    both = np.concatenate([tasks, _dummies(blocks)], axis=1)
    ranks = [int(np.linalg.matrix_rank(design)) for design in (tasks, both)]
    fitted = both @ np.linalg.lstsq(both, rest, rcond=None)[0]
    return float((fitted**2).sum()), ranks[1] - ranks[0], len(rest) - ranks[0]


def _dummies(levels: Sequence[Any]) -> Floats:
    return np.stack([[float(x == level) for x in levels] for level in dict.fromkeys(levels)], 1)


def composition_figure(shares: pd.DataFrame) -> Any:
    """Draw what ``composition`` returned as one bar per measure.

    Args:
        shares: the table; drawn with the largest share of the pair first.

    Returns:
        The figure.
    """
    import matplotlib.pyplot as plt

    parts = {"tasks": "the single tasks", "format": "their formats", "pair": "the pair"}
    ordered = shares.sort_values("pair", ascending=False)
    figure, ax = plt.subplots(figsize=(7.5, 1.2 + 0.24 * len(ordered)))
    start = np.zeros(len(ordered))
    for column, text in parts.items():
        width = 100 * ordered[column].to_numpy(float)
        ax.barh(list(ordered.index), width, left=start, label=text, height=0.75)
        start += width
    ax.invert_yaxis()
    ax.set(xlabel="share of the variance over dyads, %", xlim=(0, 100))
    ax.tick_params(axis="y", labelsize=8)
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False)
    ax.grid(axis="y", visible=False)
    return figure


def panels(count: int, size: tuple[float, float] = (5.4, 2.9)) -> list[Any]:
    """Return axes for so many matrices, two in a row."""
    import matplotlib.pyplot as plt

    columns = min(count, 2)
    rows = -(-count // columns)
    shape = (size[0] * columns, size[1] * rows)
    _, axes = plt.subplots(rows, columns, figsize=shape, squeeze=False, layout="constrained")
    for ax in axes.flat[count:]:
        ax.set_visible(False)
    return list(axes.flat[:count])


def null_figure(nulls: pd.DataFrame, measures: list[str] | None = None, columns: int = 4) -> Any:
    """Draw what measures say of noise, against the number of classes.

    Args:
        nulls: what ``helpers.similarity.nulls.independence`` returned.
        measures: which measures; by default those that use labels.
        columns: panels in a row.

    Returns:
        The figure.
    """
    import matplotlib.pyplot as plt

    labelled = nulls[nulls["classes"] > 0]
    names = measures or list(dict.fromkeys(labelled["measure"]))
    rows = -(-len(names) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(2.2 * columns, 1.9 * rows), sharex=True, squeeze=False
    )
    for ax, name in zip(axes.flat, names, strict=False):
        part = labelled[labelled["measure"] == name].groupby("classes")["value"]
        middle, low, high = part.mean(), part.min(), part.max()
        ax.fill_between(middle.index, low, high, alpha=0.3)
        ax.plot(middle.index, middle, marker="o", markersize=3)
        ax.set(title=name, xscale="log")
        ax.set_xticks(list(middle.index), [str(c) for c in middle.index])
        ax.minorticks_off()
    for place, ax in enumerate(axes.flat):
        ax.set_visible(place < len(names))
        # The panel below may be a hidden one, which would hide the numbers too.
        ax.tick_params(labelbottom=place + columns >= len(names))
    figure.supxlabel("classes")
    return figure
