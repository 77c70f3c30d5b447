"""What each measure says of pure noise: arrays that are independent of each other and of labels.

A raw score is no evidence of similarity before one knows what it gives where there is none, and how
that depends on the number of classes, rows and dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from helpers.errors import HelpfulError
from helpers.similarity import catalogue
from helpers.similarity.catalogue import AXES, Measure
from helpers.similarity.representations import leading_axes

__all__ = ["NOISE", "Shape", "independence"]


@dataclass(frozen=True)
class Shape:
    """Size of the noise: rows, columns of features, classes of labels."""

    rows: int = 2000
    columns: int = 64
    classes: int = 4


Draw = Callable[[np.random.Generator, Shape], Any]


def _features(random: np.random.Generator, shape: Shape) -> Any:
    return random.normal(size=(shape.rows, shape.columns))


def _labels(random: np.random.Generator, shape: Shape) -> Any:
    return random.permutation(np.arange(shape.rows) % shape.classes)


def _probabilities(random: np.random.Generator, shape: Shape) -> Any:
    return random.dirichlet(np.ones(5), shape.rows)


def _nothing(random: np.random.Generator, shape: Shape) -> Any:
    # A centre drawn at random would be shared by both tasks and make them alike.
    return np.zeros(shape.columns)


# Pieces of noise follow Zipf's law over a vocabulary of so many, so many to a text.
VOCABULARY, LENGTH = 5000, 20


def _frequencies() -> Any:
    chance = 1 / np.arange(1, VOCABULARY + 1)
    return chance / chance.sum()


def _pieces(random: np.random.Generator, shape: Shape) -> Any:
    return random.choice(VOCABULARY, LENGTH * shape.rows, p=_frequencies())


def _counts(random: np.random.Generator, shape: Shape) -> Any:
    return np.bincount(_pieces(random, shape), minlength=VOCABULARY)


def _texts(random: np.random.Generator, shape: Shape) -> Any:
    rows = _pieces(random, shape).reshape(shape.rows, LENGTH)
    return [" ".join(f"w{piece}" for piece in row) for row in rows]


def _texts_with(random: np.random.Generator, shape: Shape) -> Any:
    return 2 * shape.rows * (1 - (1 - _frequencies()) ** LENGTH)


def _losses(random: np.random.Generator, shape: Shape) -> Any:
    return random.exponential(size=shape.rows)


def _squares(random: np.random.Generator, shape: Shape) -> Any:
    return random.normal(size=50_000) ** 2


def _direction(random: np.random.Generator, shape: Shape) -> Any:
    vector = random.normal(size=50_000)
    return vector / np.linalg.norm(vector)


def _parameters(random: np.random.Generator, shape: Shape) -> Any:
    return {f"layer.{place}": random.normal(size=(60, 60)) for place in range(12)}


def _axes(random: np.random.Generator, shape: Shape) -> Any:
    return leading_axes(_features(random, shape), AXES)


def _pairs(random: np.random.Generator, shape: Shape) -> Any:
    return random.normal(size=(2, shape.rows, shape.columns))


_TASK: Mapping[str, Draw] = {
    "texts": _texts,
    "pieces": _pieces,
    "counts": _counts,
    "embeddings": _features,
    "sentences": _features,
    "features": _features,
    "labels": _labels,
    # A probe of noise guesses among balanced classes.
    "knn_probe": lambda random, shape: 1 / shape.classes,
    "linear_probe": lambda random, shape: 1 / shape.classes,
    "label_names": lambda random, shape: random.normal(size=(shape.classes, shape.columns)),
    "fisher": lambda random, shape: {"all": _squares(random, shape)},
    "probe_fisher": _squares,
    "gradient": _direction,
    "weights": _parameters,
}
# How noise is drawn for each array; measures that need any other have no null here.
NOISE: Mapping[str, Draw] = {
    **{f"{side}.{k}": v for side in ("intermediate", "target") for k, v in _TASK.items()},
    "tuned.features": _features,
    "tuned.own": _features,
    "tuned.map": lambda random, shape: random.normal(size=(shape.columns + 1, shape.columns)),
    "tuned.probabilities": _probabilities,
    "plain.weights": lambda random, shape: {
        n: 0 * w for n, w in _parameters(random, shape).items()
    },
    "common.intermediate": _features,
    "common.target": _features,
    "common.intermediate_axes": _axes,
    "common.target_axes": _axes,
    "study.centre": _nothing,
    "study.sentence_centre": _nothing,
    "study.whitening": lambda random, shape: np.eye(shape.columns),
    "study.texts_with": _texts_with,
    "study.texts": lambda random, shape: 2 * shape.rows,
    "tuned.losses": _losses,
    "plain.losses": _losses,
    "parallel.tuned": _pairs,
    "parallel.plain": _pairs,
    "parallel.tuned_losses": _losses,
    "parallel.plain_losses": _losses,
}


def independence(
    measures: Collection[str | Measure] | None = None,
    classes: Collection[int] = (2, 4, 8, 16, 32),
    repeats: int = 10,
    rows: int = 2000,
    columns: int = 64,
    seed: int = 0,
) -> pd.DataFrame:
    """Values of measures on independent noise, at several numbers of classes.

    Args:
        measures: names or measures; by default all that need nothing but arrays.
        classes: numbers of classes of the labels, balanced.
        repeats: draws per number of classes.
        rows: rows of the arrays.
        columns: columns of the features.
        seed: seed of the draws.

    Returns:
        One row per measure, number of classes and draw: ``measure``, ``family``, ``classes``,
        ``repeat``, ``value``. Measures that use no labels have one number of classes, 0.

    Raises:
        UnknownName: a measure that does not exist.
        HelpfulError: a measure that needs something other than arrays, such as a task's facts.
    """
    found = []
    for measure in _with_noise(measures):
        labelled = any(need.endswith((".labels", ".label_names")) for need in measure.needs)
        for count in classes if labelled else (0,):
            for repeat in range(repeats):
                random = np.random.default_rng([seed, count, repeat])
                shape = Shape(rows, columns, max(count, 2))
                arrays = [NOISE[need](random, shape) for need in measure.needs]
                found.append(
                    {"measure": measure.name, "family": measure.family, "classes": count}
                    | {"repeat": repeat, "value": float(measure.function(*arrays))}
                )
    return pd.DataFrame(found)


def _with_noise(measures: Collection[str | Measure] | None) -> list[Measure]:
    wanted = catalogue.names() if measures is None else measures
    chosen = [catalogue.get(m) if isinstance(m, str) else m for m in wanted]
    if measures is None:
        return [m for m in chosen if set(m.needs) <= set(NOISE)]
    for measure in chosen:
        lacking = sorted(set(measure.needs) - set(NOISE))
        if lacking:
            raise HelpfulError(
                f"measure {measure.name!r} needs {', '.join(lacking)}, for which there is no noise."
            )
    return chosen
