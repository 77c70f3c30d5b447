"""Inputs that real users met: each is read right or refused. A new input is one row more.

A row is ``name: (function of an empty folder, right value)``; where an input must be refused, the
right value is ``refused(...)`` with what the message says. A section has its makers above its rows.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.errors import HelpfulError
from helpers.metrics.mining import mine_texts
from helpers.metrics.submissions import score_submission


class Refusal(tuple[str, ...]):
    """What the message of an error must say."""


def refused(*says: str) -> Refusal:
    """Stand for the right answer to an input that has none."""
    return Refusal(says)


Case = tuple[Callable[[Path], Any], Any]


# Submissions: the files of one language, the others perfect.
def submission(task: str, gold: str, given: str, benchmark: str = "xtreme") -> Callable[..., float]:
    """Score one task whose first language is as given; the value of that language, 0 to 1."""
    from tests.submissions.test_submissions import one_task

    def score(folder: Path) -> float:
        frame = score_submission(*one_task(folder, task, gold, given, benchmark), benchmark)
        language = frame.loc[frame["level"] == "language", "language"].iloc[0]
        return float(frame.loc[frame["language"] == language, "value"].iloc[0])

    return score


SUBMISSIONS: dict[str, Case] = {
    "xnli as written": (submission("xnli", "neutral\n", "neutral\n"), 1.0),
    "xnli ids": (submission("xnli", "neutral\n", "1\n"), refused("label '1'", "entailment")),
}


# Mining
def mined(texts: str, ids: str) -> Callable[..., int]:
    """Mine the same texts on both sides; the number of pairs."""
    vectors = np.eye(len(texts)) + 0.5

    def count(folder: Path) -> int:
        return len(mine_texts(vectors, vectors, list(texts), list(texts), list(ids), list(ids)))

    return count


MINING: dict[str, Case] = {"four texts": (mined("abcd", "1234"), 4)}

CASES: dict[str, Case] = {
    **SUBMISSIONS,
    **MINING,
}


@pytest.mark.parametrize("name", CASES)
def test_each_input_is_read_right_or_refused(name: str, tmp_path: Path) -> None:
    make, right = CASES[name]
    if not isinstance(right, Refusal):
        assert make(tmp_path) == right
        return
    with pytest.raises(HelpfulError) as caught:
        make(tmp_path)
    for part in right:
        assert part in str(caught.value)
