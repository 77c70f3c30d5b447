"""Task similarity: measures as functions of plain arrays, and their table over tasks.

    from helpers import similarity
    table = similarity.measure(["mrpc-val", "boolq-val", "intents"], ["text_embedding"])

A reader adds a measure in one cell::

    similarity.register(similarity.Measure(
        "length", "custom", ("intermediate.texts", "target.texts"),
        lambda a, b: -abs(mean(map(len, a)) - mean(map(len, b)))))
"""

from __future__ import annotations

from helpers.similarity.catalogue import (
    FAMILIES,
    Measure,
    Undefined,
    added,
    get,
    names,
    needs,
    register,
    table,
    unregister,
)
from helpers.similarity.measure import COLUMNS, export, matrix, measure, pair, read
from helpers.similarity.reliability import agreement, composition, independence

__all__ = [
    "COLUMNS",
    "FAMILIES",
    "Measure",
    "Undefined",
    "added",
    "agreement",
    "composition",
    "export",
    "get",
    "independence",
    "matrix",
    "measure",
    "names",
    "needs",
    "pair",
    "read",
    "register",
    "table",
    "unregister",
]
