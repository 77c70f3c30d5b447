"""What the measures have to go by: the arrays of one pair of tasks, drawn."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from helpers import tasks
from helpers.errors import BadRows
from helpers.similarity.arrays import Floats, principal
from helpers.similarity.catalogue import Undefined
from helpers.similarity.gather import Dyad, Gatherer, Options, Side

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from helpers.models.encoders import Encoder
    from helpers.similarity.checkpoints import Source

__all__ = ["pair_figure"]

# More classes than this have no legend: it would hide the points.
FEW = 6
Get = Callable[[str], Any]


def pair_figure(
    intermediate: str,
    target: str,
    encoder: Encoder,
    *,
    checkpoints: Source = None,
    rows: int = 200,
    folder: str | Path | None = None,
) -> Any:
    """Draw texts, pieces, labels and features of two tasks; what does not exist says why.

    Args:
        intermediate: its name.
        target: its name.
        encoder: the study's encoder before any tuning.
        checkpoints: as for ``helpers.similarity.measure``; without one of the intermediate the
            features are those of the plain encoder.
        rows: how many rows of each task are read.
        folder: where arrays are kept; by default with those of ``helpers.similarity.measure``.

    Returns:
        The figure, with four panels.
    """
    import matplotlib.pyplot as plt

    from helpers.similarity.measure import default_place

    place = Path(folder) if folder is not None else default_place()
    study = [tasks.get(intermediate), tasks.get(target)]
    given = Gatherer(
        encoder,
        study,
        checkpoints=checkpoints,
        options=Options.sized(rows),
        folder=place / "arrays",
    )
    dyad = Dyad(Side(intermediate, 0), Side(target, 0))
    names = {"intermediate": intermediate, "target": target}
    figure, axes = plt.subplots(2, 2, figsize=(8.4, 6.4), layout="constrained")
    for draw, ax in zip((_texts, _pieces, _labels, _features), axes.flat, strict=True):
        try:
            draw(ax, lambda need: given.get(need, dyad).values, names)
        except (Undefined, BadRows) as error:
            ax.text(0.5, 0.5, str(error), ha="center", va="center", wrap=True, fontsize=9)
            ax.set_axis_off()
    return figure


def _texts(ax: Axes, get: Get, names: dict[str, str]) -> None:
    """Embeddings of both tasks on their common principal axes."""
    ax.set_title("text: one point per row")
    both = [np.asarray(get(f"{side}.embeddings"), dtype=np.float64) for side in names]
    plane = principal(np.concatenate(both), 2)
    start = 0
    for (side, name), part in zip(names.items(), both, strict=True):
        points = plane[start : start + len(part)]
        ax.scatter(points[:, 0], points[:, 1], s=8, alpha=0.6, label=f"{name} ({side})")
        start += len(part)
    _axes(ax, "first principal axis", "second")
    ax.legend(fontsize=8)


def _pieces(ax: Axes, get: Get, names: dict[str, str]) -> None:
    """How often each piece occurs in either task, per thousand."""
    ax.set_title("pieces: one point per piece")
    shares = []
    for side in names:
        counts = get(f"{side}.counts").astype(np.float64)
        shares.append(1000.0 * counts / counts.sum())
    used = (shares[0] > 0) | (shares[1] > 0)
    least = min(share[share > 0].min() for share in shares) / 2
    first, second = (np.maximum(share[used], least) for share in shares)
    ax.scatter(first, second, s=5, alpha=0.4)
    ax.set(xscale="log", yscale="log")
    _axes(ax, f"per 1,000 pieces of {names['intermediate']}", f"of {names['target']}")


def _labels(ax: Axes, get: Get, names: dict[str, str]) -> None:
    """Share of each class in either task, the most frequent first."""
    ax.set_title("labels: one bar per class")
    width = 0.4
    for place, (side, name) in enumerate(names.items()):
        counts = np.sort(np.unique(get(f"{side}.labels"), return_counts=True)[1])[::-1]
        at = np.arange(len(counts)) + (place - 0.5) * width
        ax.bar(at, 100.0 * counts / counts.sum(), width, label=f"{name}, {len(counts)} classes")
    ax.set_xticks([])
    _axes(ax, "classes, most frequent first", "share, %")
    ax.legend(fontsize=8)


def _features(ax: Axes, get: Get, names: dict[str, str]) -> None:
    """Target's units under the intermediate's encoder, by label."""
    whose = f"after {names['intermediate']}"
    try:
        features = get("tuned.features")
    except Undefined:
        whose, features = "before any tuning", get("target.features")
    ax.set_title(f"features of {names['target']} {whose}")
    labels = get("target.labels")
    plane = _plane(np.asarray(features, dtype=np.float64))
    codes = np.unique(labels)
    few = len(codes) <= FEW
    for place, code in enumerate(codes):
        points = plane[labels == code]
        colour = None if few else _colour(place, len(codes))
        ax.scatter(points[:, 0], points[:, 1], s=8, alpha=0.6, color=colour, label=f"class {code}")
    _axes(ax, "first principal axis", "second")
    if few:
        ax.legend(fontsize=8)


def _colour(place: int, count: int) -> Any:
    """Return one of many colours, each used once."""
    import matplotlib as mpl

    return mpl.colormaps["turbo"](place / max(count - 1, 1))


def _plane(features: Floats) -> Floats:
    found = principal(features, 2)
    if found.shape[1] < 2:
        raise BadRows("the features vary along one direction only; there is no plane to draw.")
    return found


def _axes(ax: Axes, x: str, y: str) -> None:
    ax.set_xlabel(x, fontsize=9)
    ax.set_ylabel(y, fontsize=9)
    ax.tick_params(labelsize=8)
