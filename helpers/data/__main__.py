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
    """Load first rows of tasks (all on the hub), a line for each language and split."""
    lines = []
    for task in map(tasks.get, names or tasks.names()):
        on_hub = any(leaf.kind in ("hub", "files") for leaf in task.source.flat())
        served = [(code, split) for code in task.languages for split in SPLITS if on_hub]
        for language, split in served:
            if task.source.serving(language, split):
                try:
                    found = first_rows(task, language, split, rows)
                    outcome = (len(found), "ok", str(found[0])[:80])
                except HelpfulError as error:
                    outcome = (0, f"failed: {error}", "")
                lines.append((task.name, language, split, *outcome))
    return pd.DataFrame(lines, columns=["task", "language", "split", "rows", "status", "first"])


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
