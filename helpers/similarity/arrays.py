"""Checks and small linear algebra that the similarity measures share."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from helpers.errors import BadRows

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


def matrix(values: ArrayLike, name: str = "features", rows: int = 2) -> Floats:
    """Return values as a finite two-dimensional float array.

    Args:
        values: array of shape (rows, columns).
        name: what the array is called in an error.
        rows: fewest rows allowed.

    Returns:
        The values as float64, shape (rows, columns).

    Raises:
        BadRows: not two-dimensional, too few rows, no columns, or a NaN or infinite entry.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 2 or array.shape[1] == 0:
        raise BadRows(f"{name} has shape {array.shape}; expected (rows, columns) with columns > 0.")
    if len(array) < rows:
        raise BadRows(f"{name} has {len(array)} rows; at least {rows} are needed. Sample more.")
    _check_finite(array, name)
    return array


def vector(values: ArrayLike, name: str) -> Floats:
    """Return values as a finite, non-empty one-dimensional float array.

    Raises:
        BadRows: not one-dimensional, empty, or a NaN or infinite entry.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or array.size == 0:
        raise BadRows(f"{name} has shape {array.shape}; expected a non-empty vector.")
    _check_finite(array, name)
    return array


def _check_finite(array: Floats, name: str) -> None:
    bad = array.size - int(np.isfinite(array).sum())
    if bad:
        raise BadRows(
            f"{name} has {bad} NaN or infinite entries of {array.size}; a measure of them would be "
            "meaningless. Check the encoder's output, for example for overflow in half precision."
        )


def paired(a: ArrayLike, b: ArrayLike, rows: int = 4) -> tuple[Floats, Floats]:
    """Return two finite arrays that describe the same rows.

    Raises:
        BadRows: either array is unfit, or they have different numbers of rows.
    """
    first, second = matrix(a, "first array", rows), matrix(b, "second array", rows)
    if len(first) != len(second):
        raise BadRows(
            f"the arrays have {len(first)} and {len(second)} rows; both must describe the same "
            "inputs in the same order."
        )
    return first, second


def whole(labels: ArrayLike, name: str = "labels") -> NDArray[Any]:
    """Return labels as an array of class ids or names.

    Raises:
        BadRows: not one label per row, or numbers that are not whole (NaN among them).
    """
    array = np.asarray(labels)
    if array.ndim != 1 or array.size == 0:
        raise BadRows(f"{name} have shape {array.shape}; expected one label per row.")
    if array.dtype.kind == "f" and not np.array_equal(array, np.round(array)):
        raise BadRows(f"{name} are not whole numbers (or are NaN); expected class ids or names.")
    return array


def classes(labels: ArrayLike, rows: int, smallest: int = 1) -> tuple[Integers, Integers]:
    """Return labels as codes 0..C-1 with the size of each class.

    Args:
        labels: one integer, string or boolean per row.
        rows: how many rows the labels must describe.
        smallest: fewest rows that each class must have.

    Returns:
        Codes of shape (rows,) and class sizes of shape (C,).

    Raises:
        BadRows: wrong count, labels that are not classes, one class only, fewer rows than would
            let classes repeat, or a class smaller than ``smallest``.
    """
    array = whole(labels)
    if len(array) != rows:
        raise BadRows(
            f"labels have shape {array.shape} for {rows} rows; expected one label per row."
        )
    if array.dtype.kind in "if" and (array == -100).any():
        raise BadRows(
            f"{int((array == -100).sum())} of {rows} labels are -100, the mark of what has no label; "
            "leave those rows out of features and labels."
        )
    values, codes, counts = np.unique(array, return_inverse=True, return_counts=True)
    if len(values) < 2:
        raise BadRows(
            f"all {rows} labels are {values.tolist()[0]!r}; at least two classes are needed."
        )
    if rows <= len(values):
        raise BadRows(f"{rows} rows for {len(values)} classes; more rows than classes are needed.")
    if counts.min() < smallest:
        rare = values.tolist()[counts.argmin()]
        raise BadRows(
            f"class {rare!r} has {counts.min()} rows; this measure needs {smallest} in each class. "
            "Sample more rows or leave rare classes out."
        )
    return codes.astype(np.int64), counts.astype(np.int64)


def labelled(
    features: ArrayLike, labels: ArrayLike, smallest: int = 1
) -> tuple[Floats, Integers, Integers]:
    """Return checked features, class codes and class sizes; see ``matrix`` and ``classes``."""
    array = matrix(features)
    codes, counts = classes(labels, len(array), smallest)
    if not np.ptp(array, axis=0).any():
        raise BadRows("every row of the features is the same; the encoder may have collapsed.")
    return array, codes, counts


def one_hot(codes: Integers, count: int) -> Floats:
    """Return indicator columns, shape (rows, count)."""
    return np.eye(count)[codes]


def class_means(features: Floats, codes: Integers, counts: Integers) -> Floats:
    """Return the mean of the features in each class, shape (classes, columns)."""
    return one_hot(codes, len(counts)).T @ features / counts[:, None]


def eigen(gram: Floats, largest_side: int) -> tuple[Floats, Floats]:
    """Return the eigenvalues of a Gram matrix that are not rounding noise, and their vectors.

    Args:
        gram: symmetric positive semi-definite array of shape (k, k).
        largest_side: longer side of the array the Gram matrix was made of.

    Returns:
        Eigenvalues of shape (r,) in ascending order and eigenvectors of shape (k, r).
    """
    values, vectors = np.linalg.eigh(gram)
    keep = values > max(values[-1], 0.0) * largest_side * np.finfo(np.float64).eps
    return values[keep], vectors[:, keep]


def principal(features: Floats, dimensions: int) -> Floats:
    """Return the centred features on their leading principal axes.

    Args:
        features: array of shape (rows, columns).
        dimensions: how many axes to keep at most; fewer are kept where the rank is lower.

    Returns:
        Scores of shape (rows, kept), the axis of largest variance first.
    """
    centred = features - features.mean(axis=0)
    rows, columns = centred.shape
    if rows >= columns:
        _, axes = eigen(centred.T @ centred, rows)
        return centred @ axes[:, ::-1][:, :dimensions]
    values, sides = eigen(centred @ centred.T, columns)
    return (sides * np.sqrt(values))[:, ::-1][:, :dimensions]


def cosine(a: ArrayLike, b: ArrayLike, what: str = "vectors") -> float:
    """Return the cosine of two vectors.

    Raises:
        BadRows: different lengths, NaN, or a vector of length zero.
    """
    first, second = vector(a, what), vector(b, what)
    if first.shape != second.shape:
        raise BadRows(f"{what} have lengths {first.size} and {second.size}; expected the same.")
    norm = float(np.linalg.norm(first) * np.linalg.norm(second))
    if norm == 0.0:
        raise BadRows(f"one of the {what} is zero, so it has no direction; nothing to compare.")
    return float(np.clip(first @ second / norm, -1.0, 1.0))


def squared_distances(a: Floats, b: Floats) -> Floats:
    """Return squared Euclidean distances, shape (rows of a, rows of b)."""
    distance = a @ b.T
    distance *= -2.0
    distance += (a**2).sum(axis=1)[:, None]
    distance += (b**2).sum(axis=1)
    return np.maximum(distance, 0.0, out=distance)


def generator(seed: int | np.random.Generator) -> np.random.Generator:
    """Return a random generator for a seed, or the generator itself."""
    return np.random.default_rng(seed)


def scalar(value: Any) -> float:
    """Return a measure's value as a finite float.

    Raises:
        BadRows: the value is not one finite number, so it must not be stored.
    """
    number = float(np.asarray(value, dtype=np.float64).reshape(()))
    if not np.isfinite(number):
        raise BadRows(f"the measure gave {number}; expected a finite number for fit arrays.")
    return number
