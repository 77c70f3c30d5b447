"""The five formats: how a task of each is encoded, learnt, predicted and decoded."""

from __future__ import annotations

from helpers.errors import unknown
from helpers.formats.base import Batch, FormatBase, pool
from helpers.formats.encoded import Encoded
from helpers.formats.labels import Choice, Pair, Retrieval, Tagging
from helpers.formats.span import Span

__all__ = ["Batch", "Encoded", "FormatBase", "get", "pool"]

_FORMATS: dict[str, FormatBase] = {
    format_.name: format_ for format_ in (Pair(), Choice(), Tagging(), Span(), Retrieval())
}


def get(name: str) -> FormatBase:
    """Return a format by name."""
    if name not in _FORMATS:
        raise unknown("format", name, _FORMATS)
    return _FORMATS[name]
