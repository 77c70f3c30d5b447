"""Every task of the study, as facts, looked up by name."""

from __future__ import annotations

from helpers.tasks import embedded, intermediate, translated, xtreme, xtreme_r
from helpers.tasks.registry import get, names, register
from helpers.tasks.relations import relation
from helpers.tasks.task import FORMATS, About, Source, Task

__all__ = [
    "FORMATS",
    "About",
    "Source",
    "Task",
    "embedded",
    "get",
    "intermediate",
    "names",
    "register",
    "relation",
    "translated",
    "xtreme",
    "xtreme_r",
]
