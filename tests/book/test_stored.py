"""The chapters of the stored study say what happened; other data break the sentence that is wrong."""

import matplotlib
import pandas as pd
import pytest

from helpers import book, pages


@pytest.fixture
def chapter(monkeypatch):
    """Run the cells of a chapter in this process."""
    matplotlib.use("agg")
    monkeypatch.setenv(book.BUILDING, "1")
    monkeypatch.delenv(book.PARAMETERS, raising=False)
    monkeypatch.chdir(pages.ROOT / "book")

    def run(name):
        here = {}
        for cell in pages.notebook(pages.find(name)).cells:
            if cell.cell_type == "code" and "git clone" not in cell.source:
                with matplotlib.rc_context():
                    exec(compile(cell.source, name, "exec"), here)
                    matplotlib.pyplot.close("all")

    return run


@pytest.mark.parametrize(
    ("rows", "change", "sentence"),
    [
        ("target == 'tatoeba' and condition == 'single'", 0.1, "Tatoeba loses 30 to 63 points"),
        ("target == 'xnli' and condition == 'none'", 0.02, r"without Tatoeba \+0.6"),
    ],
)
def test_changed_scores_break_the_sentence_they_contradict(
    chapter, monkeypatch, rows, change, sentence
):
    scores = pd.read_parquet(pages.ROOT / "data" / "results" / "pilot.parquet")
    scores.loc[scores.query(rows).index, "value"] += change
    monkeypatch.setattr(pd, "read_parquet", lambda *_, **__: scores.copy())
    with pytest.raises(AssertionError, match=sentence):
        chapter("04")
