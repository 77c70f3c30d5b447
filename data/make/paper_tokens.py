"""Tokens that the ``paper`` profile trains on and reads, from stated row counts and measured lengths.

    TRANSFER_DATA_ROOT=/folder/in/hub/layout python -m data.make.paper_tokens

Row counts are those that the sources of the tasks state; lengths are means over the rows of the
folder, which may hold only a part of a data set. A set whose count is not stated is left out, and the
table ``data/paper_tokens.csv`` says so with a missing value.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from helpers import tasks
from helpers.errors import HelpfulError
from helpers.files import write_atomic
from helpers.study import profiles
from helpers.study.plan import survey
from helpers.study.plan import tokens as plan_tokens
from helpers.study.store import Store
from helpers.tasks import Task

TARGET = Path(__file__).resolve().parents[1] / "paper_tokens.csv"


def stated_rows(task: Task, language: str, split: str) -> float:
    """Return the rows that the sources of a task state; NaN where one of them states none."""
    total = 0.0
    for source in task.source.serving(language, split):
        # A count of a split alone is that of one language only where each has files of its own.
        own = task.languages == ("en",) or bool(source.configs) or "{" in source.config
        of_split = source.counts.get(split, math.nan) if own else math.nan
        total += source.counts.get(f"{language}/{split}", of_split)
    return total or math.nan


def each_row(store: Store, task: Task, wanted: list[tuple[str, str]], longest: int) -> float:
    """Return the mean tokens of a row, as a plan estimates them, of the first rows at hand."""
    for language, split in wanted:
        try:
            found = survey(store, task, language, split)
            return plan_tokens(task, found._replace(rows=1), 0, longest)
        except HelpfulError:
            continue
    return math.nan


def training(task: Task, stage: str, store: Store) -> dict[str, Any]:
    """Return rows and tokens of one epoch of a task in a stage."""
    settings = profiles.PAPER.settings(task, stage, "single")
    source = tasks.get(task.train_with) if task.train_with else task
    each = each_row(store, source, [("en", "train")], settings.max_length)
    rows = stated_rows(source, "en", "train")
    facts = {"task": task.name, "format": task.format, "stage": stage, "epochs": settings.epochs}
    return facts | {"rows": rows, "tokens": rows * each}


def testing(target: Task, store: Store) -> dict[str, Any]:
    """Return rows and tokens of a target's test sets in all its languages."""
    rows, lengths = [], []
    for language in target.languages:
        split = "test" if target.source.serving(language, "test") else "dev"
        rows.append(stated_rows(target, language, split))
        wanted = [(language, split), ("en", "dev")]
        lengths.append(each_row(store, target, wanted, target.max_length))
    # A language of which no row is at hand counts as the mean of the others.
    each = pd.Series(lengths).fillna(np.nanmean(lengths))
    facts = {"task": target.name, "format": target.format, "stage": "evaluation", "epochs": 1}
    return facts | {"rows": sum(rows), "tokens": float((each * rows).sum(skipna=False))}


if __name__ == "__main__":
    store, paper = Store(), profiles.PAPER
    rows = [training(tasks.get(name), "intermediate", store) for name in paper.intermediates]
    for target in map(tasks.get, paper.targets):
        if target.format != "retrieval":  # those train nothing and read little
            rows += [training(target, "target", store), testing(target, store)]
    table = pd.DataFrame(rows).astype({"epochs": int}).round({"rows": 0, "tokens": 0})
    write_atomic(TARGET, table.to_csv(index=False, float_format="%.0f").encode())
    print(table.to_string())
