"""How far a measure can be trusted, what its variation is made of, and what it says of noise."""

from collections.abc import Callable, Collection, Sequence
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from helpers.errors import HelpfulError
from helpers.similarity import catalogue
from helpers.similarity.catalogue import AXES, Measure
from helpers.similarity.representations import Floats, leading_axes

# With fewer dyads than this a correlation over dyads is noise.
FEWEST_DYADS = 5


def spearman_brown(half: float) -> float:
    """Reliability on all rows from the correlation of two halves (Spearman 1910; Brown 1910)."""
    # A negative correlation stays as it is, since the formula would inflate it.
    return half if half < 0 else 2.0 * half / (1.0 + half)


def noise_ceiling(self_a: float, self_b: float) -> float:
    """Largest similarity that two tasks can show, from each one's to itself (Spearman 1904)."""
    return float(np.sqrt(np.maximum(self_a, 0.0) * np.maximum(self_b, 0.0)))


def agreement(a: ArrayLike, b: ArrayLike) -> tuple[float, str]:
    """Correlate two columns over the dyads where both values are known; NaN, and why, where it cannot be."""
    both = np.array([a, b], dtype=np.float64)
    both = both[:, np.isfinite(both).all(axis=0)]
    if (count := both.shape[1]) < FEWEST_DYADS:
        few = f"{count} dyads have both values; {FEWEST_DYADS} are needed"
        return np.nan, few if count else "no dyad has both values"
    if (np.ptp(both, axis=1) == 0).any():
        return np.nan, "the values do not vary over the dyads"
    return float(np.corrcoef(*both)[0, 1]), ""


def within(values: ArrayLike, intermediate: Sequence[str], target: Sequence[str]) -> Floats:
    """Values of dyads, NaN where unknown, after the effects of intermediate and target are removed."""
    # It is what a model with task effects uses, so its reliability is the one that limits the slope.
    array = np.asarray(values, dtype=np.float64)
    known, residual = np.isfinite(array), np.full(len(array), np.nan)
    if not known.any():
        return residual
    sides = (np.asarray(names, dtype=object)[known] for names in (intermediate, target))
    levels = [pd.factorize(pd.Series(side))[0] for side in sides]
    dummies = [np.eye(codes.max() + 1)[codes] for codes in levels]
    design = np.concatenate([np.ones((known.sum(), 1)), *dummies], axis=1)
    rest = array[known] - design @ np.linalg.lstsq(design, array[known], rcond=None)[0]
    # Rounding must not pass for variation where the two effects explain everything.
    residual[known] = np.where(np.abs(rest) > 1e-9 * np.abs(array[known]).max(), rest, 0.0)
    return residual


def summarise(table: pd.DataFrame) -> pd.DataFrame:
    """Reliabilities of each measure and language over dyads: halves and seeds, and within tasks."""
    rows = []
    for (measure, language), part in table.groupby(["measure", "language"], sort=False):
        names = part["intermediate"].tolist(), part["target"].tolist()
        found: dict[str, Any] = {"measure": measure, "language": language}
        small, notes = "half: " in str(set(part["reason"])), []
        halves = "the halves are too small (see reason)" if small else "nothing in it is sampled"
        seeds = "no dyad has a value of a second seed"
        for column, kind, a, b, missing in (
            ("reliability", "split half", "half_a", "half_b", halves),
            ("seed_reliability", "two seeds", "value", "second", seeds),
        ):
            # Once as they are, and once with the effects of tasks removed.
            whole, why = agreement(part[a], part[b])
            inner, nothing = agreement(within(part[a], *names), within(part[b], *names))
            step = spearman_brown if kind == "split half" else float
            found |= {column: step(whole), f"{column}_within": step(inner)}
            if not part[b].notna().any():
                notes.append(f"{kind}: {missing}")
            elif why:
                notes.append(f"{kind}: {why}")
            elif nothing:
                notes.append(f"{kind}, within: nothing is left once task effects are removed")
        known = part["value"].notna().any()
        found["reliability_note"] = "; ".join(notes) if known else "no dyad has a value"
        rows.append(found)
    return pd.DataFrame(rows)


# --- Noise: what stands in for an array where nothing is related ----------------------------------

# Pieces follow Zipf's law over a vocabulary of so many, so many to a text.
VOCABULARY, LENGTH = 5000, 20
_CHANCE = 1 / np.arange(1, VOCABULARY + 1) / (1 / np.arange(1, VOCABULARY + 1)).sum()
Random = np.random.Generator


def _pieces(random: Random, rows: int, *_: int) -> Any:
    return random.choice(VOCABULARY, LENGTH * rows, p=_CHANCE)


def _states(random: Random, rows: int, columns: int, *_: int) -> Any:
    return random.normal(size=(rows, columns))


def _layers(random: Random, *_: int) -> Any:
    return {f"layer.{place}": random.normal(size=(60, 60)) for place in range(12)}


# By the names of arrays, without the side of one that either task has.
_DRAWS: dict[str, Callable[[Random, int, int, int], Any]] = {
    "texts": lambda r, rows, *_: [
        " ".join(f"w{piece}" for piece in row) for row in _pieces(r, rows).reshape(rows, LENGTH)
    ],
    "pieces": _pieces,
    "counts": lambda r, rows, *_: np.bincount(_pieces(r, rows), minlength=VOCABULARY),
    "labels": lambda r, rows, columns, classes: r.permutation(np.arange(rows) % classes),
    "label_names": lambda r, rows, columns, classes: r.normal(size=(classes, columns)),
    # A probe of noise guesses among balanced classes.
    "knn_probe linear_probe": lambda r, rows, columns, classes: 1 / classes,
    "embeddings sentences features common.intermediate common.target": _states,
    "tuned.own tuned.features": _states,
    "common.intermediate_axes common.target_axes": lambda *of: leading_axes(_states(*of), AXES),
    "tuned.map": lambda r, rows, columns, _: r.normal(size=(columns + 1, columns)),
    "tuned.probabilities": lambda r, rows, *_: r.dirichlet(np.ones(5), rows),
    "tuned.losses plain.losses": lambda r, rows, *_: r.exponential(size=rows),
    "parallel.tuned_losses parallel.plain_losses": lambda r, rows, *_: r.exponential(size=rows),
    "parallel.tuned parallel.plain": lambda r, rows, columns, _: r.normal(size=(2, rows, columns)),
    "fisher": lambda r, *_: {"all": r.normal(size=50_000) ** 2},
    "probe_fisher": lambda r, *_: r.normal(size=50_000) ** 2,
    "gradient": lambda r, *_: (vector := r.normal(size=50_000)) / np.linalg.norm(vector),
    "weights": _layers,
    "plain.weights": lambda r, *_: {name: 0 * weight for name, weight in _layers(r).items()},
    # A centre drawn at random would be shared by both tasks and make them alike.
    "study.centre study.sentence_centre": lambda r, rows, columns, _: np.zeros(columns),
    "study.whitening": lambda r, rows, columns, _: np.eye(columns),
    "study.texts_with": lambda r, rows, *_: 2 * rows * (1 - (1 - _CHANCE) ** LENGTH),
    "study.texts": lambda r, rows, *_: 2 * rows,
}
NOISE = {name: draw for names, draw in _DRAWS.items() for name in names.split()}


def independence(
    measures: Collection[str | Measure] | None = None,
    classes: Collection[int] = (2, 4, 8, 16, 32),
    repeats: int = 10,
    rows: int = 2000,
    columns: int = 64,
) -> pd.DataFrame:
    """Values of measures on noise: arrays that are independent of each other and of labels.

    Args:
        measures: names or measures; by default all that need nothing but arrays.
        classes: numbers of classes of the labels, balanced.
        repeats: draws per number of classes.
        rows, columns: size of the arrays.

    Returns:
        One row per measure, number of classes and draw: ``measure``, ``family``, ``classes``,
        ``repeat``, ``value``. Measures that use no labels have one number of classes, 0. Refused are
        names that do not exist and measures of something other than arrays, such as a task's facts.
    """
    found = []
    for one in catalogue.chosen(measures):
        bare = [need.removeprefix("intermediate.").removeprefix("target.") for need in one.needs]
        without = [need for need, name in zip(one.needs, bare, strict=True) if name not in NOISE]
        if without:
            if measures is None:
                continue
            lacks = f"measure {one.name!r} needs {', '.join(without)}"
            raise HelpfulError(f"{lacks}, for which there is no noise; leave it out.")
        # What uses no labels has nothing to do with the number of classes.
        counts = classes if {"labels", "label_names"} & set(bare) else (0,)
        for count, repeat in product(counts, range(repeats)):
            random = np.random.default_rng([0, count, repeat])
            arrays = [NOISE[name](random, rows, columns, max(count, 2)) for name in bare]
            facts = {"measure": one.name, "family": one.family, "classes": count}
            found.append(facts | {"repeat": repeat, "value": float(one.function(*arrays))})
    return pd.DataFrame(found)
