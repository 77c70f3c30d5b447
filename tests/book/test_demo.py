"""Statistics of the results chapters on the live profile: its similarities, and scores in its shape."""

import matplotlib
import pytest

from helpers import book, pages, results
from helpers.study.profiles import DEMO
from tests.stats import tables


@pytest.fixture
def chapter(monkeypatch):
    """Run the cells of a chapter in this process."""
    matplotlib.use("agg")
    scores = tables.scores(DEMO.intermediates, DEMO.targets, seeds=3, baseline_seeds=6)
    more = {"rows_trained": 100, "utc": "2026-01-01T00:00:00Z"}
    stages = tables.scores(DEMO.intermediates, ("x",), seeds=3).assign(stage="intermediate")
    monkeypatch.setattr(results, "load", lambda *_, **__: scores.assign(**more))
    monkeypatch.setattr(results, "stages", lambda *_: stages.assign(rows_trained=100))
    monkeypatch.setattr(results, "rank", lambda *_, **__: book.nothing("not here."))
    monkeypatch.setattr(book, "provenance", lambda *_, **__: None)
    monkeypatch.setenv(book.BUILDING, "1")
    monkeypatch.chdir(pages.ROOT / "book")
    said = {}
    monkeypatch.setattr(book, "_paste", said.__setitem__)

    def run(name, parameters):
        monkeypatch.setenv(book.PARAMETERS, parameters)
        here = {}
        for cell in pages.notebook(pages.find(name)).cells:
            if cell.cell_type == "code" and "git clone" not in cell.source:
                with matplotlib.rc_context():
                    exec(compile(cell.source, name, "exec"), here)
                    matplotlib.pyplot.close("all")
        return said

    return run


FEW = "profile=demo permutations=99 universes=29 relabelled=5"


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("04", ["mean-gain", "mean-interval", "noise-sd"]),
        ("06", ["slope", "p", "p-permutation", "naive-p", "median-r", "answer", "groups"]),
        ("07", ["regret-similarity", "regret-constant", "coverage"]),
        ("08", ["final-worst", "headroom-alone", "own-rate", "detectable"]),
    ],
)
def test_a_chapter_holds_for_the_live_profile(chapter, name, known):
    said = chapter(name, FEW)
    assert {key: said[key] for key in known if "not available" in str(said[key])} == {}
