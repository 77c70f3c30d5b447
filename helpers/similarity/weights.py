"""Gradient and weight measures: which parameters two tasks use, and where tuning moves them.

Parameters come as mappings from a component's name (usually one tensor of the encoder) to an array.
Task heads are left out: their parameters mean different things in different tasks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import ArrayLike

from helpers.errors import BadRows
from helpers.similarity.arrays import Floats, matrix, vector
from helpers.similarity.arrays import cosine as _cosine
from helpers.similarity.features import logme

__all__ = [
    "component_cosines",
    "embedding_map",
    "esm_logme",
    "gradient_cosine",
    "mapped",
    "noise_ceiling",
    "task2vec_distance",
    "task_embedding",
    "task_embedding_cosine",
    "task_vector_cosine",
    "task_vector_cosines",
]

Parameters = Mapping[str, ArrayLike]


def task_vector_cosine(base: Parameters, a: Parameters, b: Parameters) -> float:
    """Cosine of two task vectors, each the tuned minus the plain parameters.

    Cost: O(parameters), one component in memory at a time. Its ceiling is the cosine of two seeds
    of the same task (``noise_ceiling``): report both.

    Args:
        base: parameters of the plain encoder.
        a: the same parameters after tuning on one task.
        b: the same parameters after tuning on the other.

    Returns:
        A value from -1 to 1.

    Raises:
        BadRows: different components or shapes, NaN, or a task that moved no parameter.

    Source: Ilharco et al. 2023 (arXiv 2212.04089).
    """
    products = np.sum(list(_vector_products(base, a, b).values()), axis=0)
    return _from_products(products, "task vectors")


def task_vector_cosines(base: Parameters, a: Parameters, b: Parameters) -> dict[str, float]:
    """Cosine of two task vectors in each component that both tasks moved.

    Cost: O(parameters), one component in memory at a time.

    Args:
        base: parameters of the plain encoder.
        a: the same parameters after tuning on one task.
        b: the same parameters after tuning on the other.

    Returns:
        Cosine by component; components that either task left alone are absent.

    Raises:
        BadRows: different components or shapes, NaN, or no component that both moved.

    Source: as ``task_vector_cosine``.
    """
    products = _vector_products(base, a, b)
    moved = {name: p for name, p in products.items() if p[1] > 0 and p[2] > 0}
    if not moved:
        raise BadRows("no component was moved by both tasks; were the encoders frozen?")
    return {name: _from_products(p, name) for name, p in moved.items()}


def _vector_products(base: Parameters, a: Parameters, b: Parameters) -> dict[str, Floats]:
    """Inner product and both squared norms of the task vectors, by component."""
    if not set(base) == set(a) == set(b):
        differing = sorted(set(base) ^ set(a) | set(base) ^ set(b))[:3]
        raise BadRows(f"the encoders differ in their components, for example {differing}.")
    if not base:
        raise BadRows("the encoders have no components; pass their parameters by name.")
    products = {}
    for name in base:
        start = np.asarray(base[name], dtype=np.float64)
        first, second = (_moved(start, tuned[name], name) for tuned in (a, b))
        products[name] = np.array([first @ second, first @ first, second @ second])
    return products


def _moved(start: Floats, tuned: ArrayLike, name: str) -> Floats:
    end = np.asarray(tuned, dtype=np.float64)
    if end.shape != start.shape:
        raise BadRows(f"component {name!r} has shapes {start.shape} and {end.shape}.")
    return vector((end - start).ravel(), f"task vector of {name!r}")


def _from_products(products: Floats, what: str) -> float:
    norm = np.sqrt(products[1]) * np.sqrt(products[2])
    if norm == 0.0:
        raise BadRows(f"one of the {what} is zero: tuning changed nothing, so it has no direction.")
    return float(np.clip(products[0] / norm, -1.0, 1.0))


def task_embedding(gradients: Iterable[Parameters]) -> dict[str, Floats]:
    """Diagonal of the empirical Fisher information, the mean square of per-example gradients.

    Cost: one backward pass per example, O(parameters) memory. Squaring the gradient of a batch
    instead, as published code does, makes the result depend on the batch size.

    Args:
        gradients: for each example, the gradient of the log likelihood of its label with respect
            to each component of the encoder.

    Returns:
        Mean squared gradient by component, each flattened.

    Raises:
        BadRows: no examples, NaN, or examples with different components.

    Source: Vu et al. 2020 (arXiv 2005.00770); Achille et al. 2019 (arXiv 1902.03545).
    """
    total: dict[str, Floats] = {}
    count = 0
    for count, example in enumerate(gradients, start=1):
        squares = {name: vector(np.ravel(g), name) ** 2 for name, g in example.items()}
        if count > 1 and set(squares) != set(total):
            raise BadRows(f"example {count} has gradients of other components than the first.")
        total = squares if count == 1 else {name: total[name] + squares[name] for name in total}
    if not total:
        raise BadRows("no gradients; sample at least one labelled row.")
    return {name: values / count for name, values in total.items()}


def component_cosines(a: Parameters, b: Parameters) -> dict[str, float]:
    """Cosine of two embeddings in each component where both are non-zero.

    Args:
        a: embedding by component, such as ``task_embedding`` gives.
        b: embedding of the other task with the same components.

    Returns:
        Cosine by component.

    Raises:
        BadRows: different components or shapes, NaN, or all components zero.
    """
    if set(a) != set(b):
        raise BadRows(f"embeddings differ in components: {sorted(set(a) ^ set(b))[:3]}.")
    pairs = {name: (np.ravel(a[name]), np.ravel(b[name])) for name in a}
    cosines = {
        name: _cosine(first, second, f"embeddings of {name!r}")
        for name, (first, second) in pairs.items()
        if np.any(first) and np.any(second)
    }
    if not cosines:
        raise BadRows("no component has a gradient in both tasks.")
    return cosines


def task_embedding_cosine(a: Parameters, b: Parameters) -> float:
    """Mean over components of the cosine of two task embeddings.

    Cost: O(parameters). Published work fuses ranks of components instead, which compares tasks
    only within one target; the mean cosine is on one scale for all dyads.

    Args:
        a: ``task_embedding`` of one task.
        b: ``task_embedding`` of the other.

    Returns:
        A value from 0 to 1.

    Raises:
        BadRows: different components or shapes, NaN, or all components zero.

    Source: Vu et al. 2020 (arXiv 2005.00770).
    """
    return float(np.mean(list(component_cosines(a, b).values())))


def task2vec_distance(
    fa: ArrayLike, fb: ArrayLike, trivial: ArrayLike | None = None, alpha: float = 0.0
) -> float:
    """Cosine distance of two Fisher diagonals of one probe network, normalised by their sum.

    Cost: O(parameters). The label count enters through the head fitted on each task.

    Args:
        fa: Fisher diagonal of the first task, shape (P,), entries >= 0.
        fb: Fisher diagonal of the second task, the same parameters.
        trivial: Fisher diagonal of the trivial task; with it the distance is asymmetric, less by
            ``alpha`` times the distance of the first task to the trivial one.
        alpha: weight of the complexity of the first task.

    Returns:
        A value from 0 to 1 where symmetric; smaller means more similar.

    Raises:
        BadRows: different lengths, NaN, negative entries, or no parameter in use.

    Source: Achille et al. 2019 (arXiv 1902.03545), symmetric and asymmetric distances.
    """
    first, second = _fisher(fa, "first task"), _fisher(fb, "second task")
    if first.shape != second.shape:
        raise BadRows(f"Fisher diagonals of {first.size} and {second.size} parameters.")
    total = first + second
    used = total > 0
    if not used.any():
        raise BadRows("both Fisher diagonals are zero; the probe network is not trained by a task.")
    shares = first[used] / total[used], second[used] / total[used]
    distance = 1.0 - _cosine(*shares, "normalised Fisher diagonals")
    if trivial is None:
        return distance
    return distance - alpha * task2vec_distance(first, trivial)


def _fisher(values: ArrayLike, name: str) -> Floats:
    array = vector(values, f"Fisher diagonal of the {name}")
    if array.min() < 0:
        raise BadRows(f"the Fisher diagonal of the {name} has negative entries; expected squares.")
    return array


def gradient_cosine(a: ArrayLike, b: ArrayLike) -> float:
    """Mean cosine of two tasks' mean gradients at the plain encoder, over pairs of heads.

    Cost: O(heads^2 parameters). A head must be fitted to the frozen features first: with random
    heads the sign of the gradient is that of the head.

    Args:
        a: mean gradient of the first task with each of several heads, shape (heads, P).
        b: mean gradient of the second task, shape (heads, P).

    Returns:
        A value from -1 to 1.

    Raises:
        BadRows: NaN, different parameters, or a zero gradient.

    Source: the gradient inner product of Pruthi et al. 2020 (arXiv 2002.08484), normalised.
    """
    first, second = matrix(a, "first gradients", rows=1), matrix(b, "second gradients", rows=1)
    if first.shape[1] != second.shape[1]:
        raise BadRows(f"gradients of {first.shape[1]} and {second.shape[1]} parameters.")
    units = []
    for gradients in (first, second):
        norms = np.linalg.norm(gradients, axis=1, keepdims=True)
        if norms.min() == 0:
            raise BadRows("a gradient is zero; the encoder is frozen or the head is constant.")
        units.append(gradients / norms)
    return float(np.clip((units[0] @ units[1].T).mean(), -1.0, 1.0))


def esm_logme(
    plain: ArrayLike, tuned: ArrayLike, target: ArrayLike, labels: ArrayLike, ridge: float = 1e-3
) -> float:
    """LogME of plain target features sent through a linear map that imitates the tuned encoder.

    Cost: one linear solve per intermediate; the tuned encoder never sees the target's rows.

    Args:
        plain: plain features of the intermediate's rows, shape (N, D).
        tuned: tuned features of the same rows, shape (N, D).
        target: plain features of the target's rows, shape (M, D).
        labels: M target labels.
        ridge: penalty of the map relative to the mean variance of a feature.

    Returns:
        A LogME in nats per row.

    Raises:
        BadRows: NaN, mismatched rows or columns, or unfit labels.

    Source: Schulte et al. 2024 (arXiv 2410.15148); the map is fitted in closed form.
    """
    return logme(mapped(target, embedding_map(plain, tuned, ridge)), labels)


def embedding_map(plain: ArrayLike, tuned: ArrayLike, ridge: float = 1e-3) -> Floats:
    """Linear map that imitates what tuning did to an encoder's states.

    Args:
        plain: plain features of some rows, shape (N, D).
        tuned: tuned features of the same rows, shape (N, E).
        ridge: penalty of the map relative to the mean variance of a feature.

    Returns:
        Weights and, in the last row, the intercept: shape (D + 1, E).

    Raises:
        BadRows: NaN, mismatched rows, or plain features that are all the same.

    Source: the embedding space map of Schulte et al. 2024 (arXiv 2410.15148), in closed form.
    """
    inputs, outputs = matrix(plain, "plain features"), matrix(tuned, "tuned features")
    if len(inputs) != len(outputs):
        raise BadRows(f"{len(inputs)} plain and {len(outputs)} tuned rows; use the same inputs.")
    centre, level = inputs.mean(axis=0), outputs.mean(axis=0)
    gram = (inputs - centre).T @ (inputs - centre)
    if not gram.any():
        raise BadRows(
            "every row of the plain features is the same; the encoder may have collapsed."
        )
    gram.flat[:: len(gram) + 1] += ridge * np.trace(gram) / len(gram)
    weights = np.linalg.solve(gram, (inputs - centre).T @ (outputs - level))
    return np.vstack([weights, level - centre @ weights])


def mapped(features: ArrayLike, map_: ArrayLike) -> Floats:
    """Apply what ``embedding_map`` returned to features of shape (M, D).

    Raises:
        BadRows: NaN, or a map for another number of dimensions.
    """
    points, weights = matrix(features, "features"), matrix(map_, "embedding map")
    if points.shape[1] != len(weights) - 1:
        raise BadRows(f"a map from {len(weights) - 1} dimensions cannot take {points.shape[1]}.")
    return points @ weights[:-1] + weights[-1]


def noise_ceiling(self_a: float, self_b: float) -> float:
    """Largest similarity that two tasks can show, given each task's similarity to itself.

    Args:
        self_a: similarity between two seeds of the first task.
        self_b: similarity between two seeds of the second task.

    Returns:
        Geometric mean of the two; 0 where either is not positive.

    Source: attenuation of a correlation by unreliability, Spearman 1904.
    """
    return float(np.sqrt(max(self_a, 0.0) * max(self_b, 0.0)))
