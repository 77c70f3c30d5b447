"""What every metric demands of its input: as many predictions as golds, and at least one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from helpers.errors import BadRows


def same_length(predictions: Sequence[Any], golds: Sequence[Any], what: str = "examples") -> None:
    """Refuse predictions and golds that cannot be compared one by one.

    Args:
        predictions: what was predicted.
        golds: what is right, in the same order.
        what: name of one element, for the message.

    Raises:
        BadRows: the lengths differ, or there is nothing to score.
    """
    if len(predictions) != len(golds):
        raise BadRows(
            f"{len(predictions)} predictions for {len(golds)} {what}: give one prediction per gold, "
            "in the same order."
        )
    if not len(golds):
        raise BadRows(f"no {what} to score: an empty set has no score.")


def same_kind(predictions: Sequence[Any], golds: Sequence[Any]) -> None:
    """Refuse label ids compared with label names: they never match, and the score would be 0.

    Raises:
        BadRows: one side holds text and the other does not.
    """
    texts = [{isinstance(label, str) for label in side} for side in (predictions, golds)]
    if len(texts[0] | texts[1]) > 1:
        raise BadRows(
            f"labels of different kinds: predictions such as {predictions[0]!r}, golds such as "
            f"{golds[0]!r}. Use label names on both sides or label ids on both sides."
        )
