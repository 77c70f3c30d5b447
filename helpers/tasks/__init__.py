"""Every task of the study, as facts, looked up by name."""

from __future__ import annotations

from helpers.tasks import demo, intermediate, translated, xtreme, xtreme_r
from helpers.tasks.registry import get, names, register
from helpers.tasks.relations import relation
from helpers.tasks.task import FORMATS, About, Source, Task

# Tasks that every process knows; others were registered by somebody's own code.
SHIPPED = frozenset(names())

__all__ = [
    "FORMATS",
    "SHIPPED",
    "About",
    "Source",
    "Task",
    "demo",
    "get",
    "intermediate",
    "names",
    "register",
    "relation",
    "translated",
    "xtreme",
    "xtreme_r",
]
