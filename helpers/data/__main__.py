"""Load the first rows of every task from the real hub and print a table.

Run with ``python -m helpers.data [TASK ...]``. Needs network; without it, it says so and stops with
status 0, because an unreachable hub says nothing about the tasks.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import pandas as pd

from helpers import tasks
from helpers.data import SPLITS, first_rows, sources
from helpers.errors import HelpfulError


def check(names: Sequence[str] = (), rows: int = 3) -> pd.DataFrame:
    """Load first rows of every task that comes from the hub, one language and split at a time.

    Args:
        names: tasks to check; by default all whose rows lie on the hub.
        rows: rows to load of each.

    Returns:
        One line per task, language and split: ``task, language, split, rows, status, first``.
    """
    lines = []
    for task in map(tasks.get, names or tasks.names()):
        if all(leaf.kind not in ("hub", "files") for leaf in task.source.flat()):
            continue
        for language in task.languages:
            for split in (s for s in SPLITS if task.source.serving(language, s)):
                line: dict[str, object] = {"task": task.name, "language": language, "split": split}
                try:
                    found = first_rows(task, language, split, rows)
                    line |= {"rows": len(found), "status": "ok", "first": str(found[0])[:80]}
                except HelpfulError as error:
                    line |= {"rows": 0, "status": f"failed: {error}", "first": ""}
                lines.append(line)
    return pd.DataFrame(lines)


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
