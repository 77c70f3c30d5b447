"""What figures of similarity tables show: which measures agree, and what they say of noise.

``helpers.plots.heatmap`` draws a matrix of a measure, and the agreement in its clustered order.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from helpers.errors import BadRows
from helpers.similarity.reliability import within

__all__ = ["agreement", "null_figure", "order"]


def agreement(table: pd.DataFrame, centred: bool = True, language: str = "en") -> pd.DataFrame:
    """Spearman correlations between measures over dyads.

    Args:
        table: what ``helpers.similarity.measure`` returned.
        centred: remove the effects of intermediate and target first. Without that, measures agree
            because they all follow the number of classes of the target.
        language: language of the target's rows.

    Returns:
        A square table over the measures that vary; a pair with fewer than 5 common dyads is NaN.

    Raises:
        BadRows: fewer than two measures vary.
    """
    part = table[(table["language"] == language) & (table["target"] != "")]
    wide = part.pivot(index=["intermediate", "target"], columns="measure", values="value")
    wide = wide[list(dict.fromkeys(part["measure"]))]
    if centred:
        names = [list(wide.index.get_level_values(level)) for level in (0, 1)]
        wide = wide.apply(lambda column: within(column.to_numpy(), *names))
    varies = [name for name in wide if wide[name].nunique() > 1]
    if len(varies) < 2:
        raise BadRows(
            f"{len(varies)} measures vary over the dyads; at least two are needed. With one "
            "intermediate or one target nothing is left once their effects are removed."
        )
    return wide[varies].corr(method="spearman", min_periods=5)


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
    for ax in axes.flat[len(names) :]:
        ax.set_visible(False)
    figure.supxlabel("classes")
    return figure
