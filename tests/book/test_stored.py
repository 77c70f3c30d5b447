import json
import re

import numpy as np
import pandas as pd
import pytest

from helpers import book, pages, plots
from helpers.stats import gains

STORED = pages.ROOT / "data" / "results" / "pilot.parquet"


@pytest.fixture
def chapter(monkeypatch):
    """Run the cells of a chapter that draw nothing in this process."""
    monkeypatch.setenv(book.BUILDING, "1")
    monkeypatch.delenv(book.PARAMETERS, raising=False)
    monkeypatch.chdir(pages.ROOT / "book")

    def run(name):
        here = {}
        for cell in pages.notebook(pages.find(name)).cells:
            skipped = "git clone" in cell.source or "mystnb" in cell.metadata
            if cell.cell_type == "code" and not skipped:
                exec(compile(cell.source, name, "exec"), here)

    return run


CHANGES = [
    ("target == 'tatoeba' and intermediate == 'xpos-ewt'", 0.1, "Tatoeba loses 1 to 47 points"),
    ("target == 'xnli' and condition == 'none'", 0.03, "Of 64 pairs 13"),
    ("intermediate == 'squad2' and target == 'tydiqa'", -0.02, "27 are clear, 4 gains"),
]


@pytest.mark.parametrize(("rows", "change", "sentence"), CHANGES)
def test_changed_scores_break_their_sentence(chapter, monkeypatch, rows, change, sentence):
    scores = pd.read_parquet(STORED)
    scores.loc[scores.query(rows).index, "value"] += change
    monkeypatch.setattr(pd, "read_parquet", lambda *_, **__: scores.copy())
    with pytest.raises(AssertionError, match=sentence):
        chapter("04")


def test_what_a_reader_can_look_up_is_what_the_gains_say():
    scores = pd.read_parquet(STORED)
    usable, _ = gains.usable(scores[scores["stage"] == "target"])
    kept, _ = gains.converged(usable)
    dyads = gains.dyads(gains.gains(kept))
    shown = plots.explorer(kept, dyads).source
    assert len(shown) < 100_000 and "http" not in shown
    data = json.loads(re.search(r'application/json">(.*?)</script>', shown, re.DOTALL)[1])
    assert len(data["pairs"]) == len(dyads) == len(data["first"]) * len(data["then"])
    for dyad in dyads.itertuples():
        pair = data["pairs"][f"{dyad.intermediate} {dyad.target}"]
        plain = data["plain"][dyad.target]
        each = {k: np.mean(v) - np.mean(plain[k]) for k, v in pair["scores"].items() if k != "en"}
        assert np.mean(list(each.values())) == pytest.approx(dyad.gain, abs=0.02)
        assert pair["gain"] == pytest.approx(dyad.gain, abs=1e-3)
        assert set(each) <= set(data["names"])
