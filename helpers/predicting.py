"""Run a network over an encoded set once, longest sequences first, and bring back what decodes it."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from helpers import formats, metrics
from helpers.errors import HelpfulError
from helpers.formats import Batch, Encoded
from helpers.formats.encoded import IGNORE, sorted_batches, split, token_index
from helpers.models.network import Network, autocast, out_of_memory
from helpers.tasks import Task

# Batches whose outputs wait on a GPU, so that the host is not waited for after each.
_HELD = 64


def outputs(
    network: Network,
    name: str,
    encoded: Encoded,
    *,
    budget: int,
    device: torch.device,
    precision: str = "fp32",
    pooling: str = "mean",
    layer: int | Sequence[int] | None = None,
) -> dict[str, np.ndarray]:
    """Return a task's reduced outputs for every sequence or token.

    Args:
        network: the encoder and its heads.
        name: task whose head is used.
        encoded: what to predict; its token ids must already be the encoder's own rows.
        budget: padded tokens per forward pass; halved where memory runs out.
        device: where the network is.
        precision: ``"fp32"`` or ``"bf16"``.
        pooling: as in training.
        layer: hidden state to read, or several for retrieval; ``None``: the last.

    Returns:
        Arrays whose first dimension is the encoded set's sequences or tokens.
    """
    parts: list[tuple[np.ndarray, dict[str, torch.Tensor]]] = []
    result: dict[str, np.ndarray] = {}
    held = 1 if device.type == "cpu" else _HELD
    waiting = sorted_batches(encoded, budget)[::-1]
    was_training = network.training
    network.eval()
    while waiting:
        batch = waiting.pop()
        try:
            with autocast(precision, device):
                parts.append(
                    (
                        batch,
                        network.predict(
                            Batch.collate(encoded, batch, device), name, pooling, layer
                        ),
                    )
                )
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            waiting.extend(_halved(encoded, batch, error))
        if len(parts) >= held:
            _place(encoded, parts, result)
            parts.clear()
    network.train(was_training)
    _place(encoded, parts, result)
    return result


def _halved(encoded: Encoded, batch: np.ndarray, error: BaseException) -> list[np.ndarray]:
    size = int(encoded.lengths[batch].max()) * len(batch)
    halves = split(encoded, batch, size // 2)
    if len(halves) < 2:
        raise HelpfulError(
            f"memory ran out on a single row of {size} tokens; lower max_length or use a larger "
            "device."
        ) from error
    return halves


def _place(
    encoded: Encoded,
    parts: Sequence[tuple[np.ndarray, dict[str, torch.Tensor]]],
    result: dict[str, np.ndarray],
) -> None:
    """Put the outputs of some batches where their sequences or tokens are in the encoded set."""
    for batch, tensors in parts:
        for name, tensor in tensors.items():
            values = tensor.float() if tensor.dtype == torch.bfloat16 else tensor
            array = values.cpu().numpy()
            by_token = len(array) != len(batch)
            place = token_index(encoded, batch) if by_token else batch
            if name not in result:
                size = len(encoded.tokens) if by_token else len(encoded)
                result[name] = np.zeros((size, *array.shape[1:]), array.dtype)
            result[name][place] = array


def task_scores(
    task: Task, rows: Sequence[dict[str, Any]], predictions: Sequence[Any], language: str = "en"
) -> dict[str, float]:
    """Score one prediction per row by a task's own metric.

    Args:
        task: names the metric and the labels.
        rows: standard rows.
        predictions: what the format's ``decode`` gave.
        language: for metrics whose rules differ by language.

    Returns:
        Values by key, the metric's main value first, as ``{main: ..., other: ...}``.
    """
    gold = formats.get(task.format).gold(task, rows)
    if task.format == "tagging":
        predictions, gold = _known_words(predictions, gold)
    metric = metrics.get(task.metric)
    accepted = inspect.signature(metric.function).parameters
    offered: dict[str, Any] = {"labels": task.labels}
    if task.metric == "mlqa":  # the only rule that differs by language
        offered["language"] = language
    options = {name: value for name, value in offered.items() if name in accepted}
    values = metrics.score(task.metric, predictions, gold, **options)
    return {metric.main: values[metric.main]} | values


def _known_words(
    predictions: Sequence[Any], gold: Sequence[Any]
) -> tuple[list[list[int]], list[list[int]]]:
    """Leave out words whose right tag is unknown to the label set."""
    kept = [[place for place, tag in enumerate(tags) if tag != IGNORE] for tags in gold]
    both = zip(predictions, gold, kept, strict=True)
    pairs = [([p[i] for i in places], [g[i] for i in places]) for p, g, places in both if places]
    return [p for p, _ in pairs], [g for _, g in pairs]
