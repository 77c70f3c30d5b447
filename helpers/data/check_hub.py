"""Load the first rows of every task from the real hub and print a table.

Run with ``python -m helpers.data.check_hub [TASK ...]``. Needs network; without it, it says so and stops
with status 0, because an unreachable hub says nothing about the tasks.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import pandas as pd

from helpers import tasks
from helpers.data import first_rows, sources
from helpers.errors import HelpfulError
from helpers.tasks import Task


def check(names: Sequence[str] = (), rows: int = 3) -> pd.DataFrame:
    """Load first rows of every task that comes from the hub, one language and split at a time.

    Args:
        names: tasks to check; by default all whose rows lie on the hub.
        rows: rows to load of each.

    Returns:
        One line per task, language and split: ``task, language, split, rows, status, first``.
    """
    checked = [tasks.get(name) for name in names or tasks.names()]
    lines = [
        _line(task, language, split, rows)
        for task in checked
        if any(leaf.kind in ("hub", "files") for leaf in task.source.flat())
        for language in task.languages
        for split in ("train", "dev", "test")
        if task.source.serving(language, split)
    ]
    return pd.DataFrame(lines)


def _line(task: Task, language: str, split: str, rows: int) -> dict[str, object]:
    line: dict[str, object] = {"task": task.name, "language": language, "split": split}
    try:
        found = first_rows(task, language, split, rows)
    except HelpfulError as error:
        return line | {"rows": 0, "status": f"failed: {error}", "first": ""}
    return line | {"rows": len(found), "status": "ok", "first": str(found[0])[:80]}


def main(names: Sequence[str]) -> int:
    """Print the table; return the number of failures, at most 1."""
    if not sources.hub_reachable():
        print("skipped: the hub is not reachable from here, so nothing can be said of its data.")
        return 0
    os.environ.pop(sources.ROOT_VARIABLE, None)  # the hub itself is asked, not a mirror
    table = check(names)
    print(table.to_string(max_colwidth=100))
    failed = table[table["status"] != "ok"]
    print(f"{len(table) - len(failed)} of {len(table)} loaded")
    return int(len(failed) > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
