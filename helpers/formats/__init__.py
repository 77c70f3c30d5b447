"""The five formats: how a task of each is encoded, learnt, predicted and decoded."""

from __future__ import annotations

from helpers.errors import unknown
from helpers.formats.base import Batch, FormatBase, pool
from helpers.formats.choice import Choice
from helpers.formats.encoded import Encoded
from helpers.formats.pair import Pair
from helpers.formats.retrieval import Retrieval
from helpers.formats.span import Span
from helpers.formats.tagging import Tagging

__all__ = ["Batch", "Encoded", "FormatBase", "get", "pool"]

_FORMATS: dict[str, FormatBase] = {
    format_.name: format_ for format_ in (Pair(), Choice(), Tagging(), Span(), Retrieval())
}


def get(name: str) -> FormatBase:
    """Return a format by name.

    Raises:
        UnknownName: no such format.
    """
    if name not in _FORMATS:
        raise unknown("format", name, _FORMATS)
    return _FORMATS[name]
