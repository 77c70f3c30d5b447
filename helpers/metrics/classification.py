"""Scores of labels: accuracy and macro F1."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from helpers.metrics.check import same_kind, same_length


def accuracy(predictions: Sequence[Any], golds: Sequence[Any]) -> dict[str, float]:
    """Return the share of right labels; also Tatoeba's score, with row numbers as labels.

    Args:
        predictions: predicted labels, ids or names.
        golds: right labels, of the same kind.

    Returns:
        ``accuracy``, from 0 to 1.

    Raises:
        BadRows: different lengths, nothing to score, or ids compared with names.

    Source:
        XTREME (Hu et al., 2020), tasks XNLI, PAWS-X and Tatoeba; XTREME-R, task XCOPA.
    """
    same_length(predictions, golds)
    same_kind(predictions, golds)
    hits = sum(given == right for given, right in zip(predictions, golds, strict=True))
    return {"accuracy": float(hits) / len(golds)}


def macro_f1(predictions: Sequence[Any], golds: Sequence[Any]) -> dict[str, float]:
    """Return F1 averaged over the labels that occur, each label counting the same.

    Args:
        predictions: predicted labels, ids or names.
        golds: right labels, of the same kind.

    Returns:
        ``macro_f1`` and ``accuracy``, from 0 to 1. A label that occurs on one side only counts as 0.

    Raises:
        BadRows: different lengths, nothing to score, or ids compared with names.
    """
    result = accuracy(predictions, golds)
    both = np.concatenate([np.asarray(golds), np.asarray(predictions)])
    labels, code = np.unique(both, return_inverse=True)
    right, given = code[: len(golds)], code[len(golds) :]
    hits = np.bincount(right[right == given], minlength=len(labels))
    seen = np.bincount(right, minlength=len(labels)) + np.bincount(given, minlength=len(labels))
    return {"macro_f1": float(np.mean(2 * hits / seen))} | result
