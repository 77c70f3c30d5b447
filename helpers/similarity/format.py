"""Format measures: how alike two tasks are as forms, before any text is read.

These are the confounders that any other measure has to beat: tasks of one format often transfer
alike for reasons that have nothing to do with their content.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from helpers.errors import BadRows
from helpers.similarity.arrays import classes, matrix
from helpers.tasks import Task

__all__ = [
    "label_count_similarity",
    "label_entropy",
    "label_entropy_similarity",
    "label_name_cosine",
    "same_format",
    "same_input_count",
    "segments",
]


def same_format(a: Task, b: Task) -> float:
    """Whether two tasks have the same format, and so the same kind of output.

    Cost: none; two facts are compared.

    Args:
        a: the facts of the first task.
        b: the facts of the second task.

    Returns:
        1 where the formats are equal, else 0.

    Source: this project; the confounder that every other measure has to beat.
    """
    return float(a.format == b.format)


def segments(task: Task, two_texts: bool = True) -> int:
    """Number of texts that are encoded together for one decision.

    Args:
        task: the facts of the task.
        two_texts: for a pair task, whether its rows have a second text.

    Returns:
        1 or 2.
    """
    if task.format == "pair":
        return 1 + int(two_texts)
    return 2 if task.format in ("choice", "span") else 1


def same_input_count(a: int, b: int) -> float:
    """Whether two tasks encode the same number of texts together.

    Cost: none; two numbers are compared.

    Args:
        a: number of texts of the first task, from ``segments``.
        b: number of texts of the second task.

    Returns:
        1 where the numbers are equal, else 0.

    Source: this project.
    """
    return float(a == b)


def label_entropy(labels: ArrayLike) -> float:
    """Entropy of a label distribution.

    Cost: O(N).

    Args:
        labels: N labels.

    Returns:
        A value from above 0 to ln C, in nats.

    Raises:
        BadRows: one class only, or labels that are not classes.

    Source: Shannon 1948.
    """
    values = np.asarray(labels)
    _, counts = classes(values, len(values))
    share = counts / counts.sum()
    return float(-(share * np.log(share)).sum())


def label_entropy_similarity(a: ArrayLike, b: ArrayLike) -> float:
    """Minus the absolute difference of two label entropies.

    Cost: O(N).

    Args:
        a: N labels of the first task.
        b: M labels of the second task.

    Returns:
        A value up to 0, in nats.

    Raises:
        BadRows: one class only, or labels that are not classes.

    Source: this project.
    """
    return -abs(label_entropy(a) - label_entropy(b))


def label_count_similarity(a: ArrayLike, b: ArrayLike) -> float:
    """Minus the absolute difference of the logarithms of two class counts.

    Cost: O(N).

    Args:
        a: N labels of the first task.
        b: M labels of the second task.

    Returns:
        A value up to 0, in nats.

    Raises:
        BadRows: one class only, or labels that are not classes.

    Source: this project.
    """
    first, second = np.asarray(a), np.asarray(b)
    counts = [len(classes(values, len(values))[1]) for values in (first, second)]
    return -abs(float(np.log(counts[0] / counts[1])))


def label_name_cosine(a: ArrayLike, b: ArrayLike) -> float:
    """Mean cosine of each label name with its nearest name in the other task, both ways.

    Cost: one forward pass per label name.

    Args:
        a: embeddings of the label names of the first task, shape (C_a, D).
        b: embeddings of the label names of the second task, shape (C_b, D).

    Returns:
        A value from -1 to 1; 1 where both tasks have the same names.

    Raises:
        BadRows: NaN, different columns, or an embedding of length zero.

    Source: this project.
    """
    first, second = matrix(a, "label names", rows=1), matrix(b, "label names", rows=1)
    if first.shape[1] != second.shape[1]:
        raise BadRows(f"label embeddings have {first.shape[1]} and {second.shape[1]} columns.")
    norms = [np.linalg.norm(values, axis=1, keepdims=True) for values in (first, second)]
    if min(norm.min() for norm in norms) == 0:
        raise BadRows("the embedding of a label name is zero; it has no direction.")
    cosines = (first / norms[0]) @ (second / norms[1]).T
    nearest = cosines.max(axis=1).mean() + cosines.max(axis=0).mean()
    return float(np.clip(nearest / 2, -1.0, 1.0))
