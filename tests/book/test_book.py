import base64
import re

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib import pyplot as plt

from helpers import book, files
from helpers.errors import HelpfulError, UnknownName
from helpers.study.store import SCORE_COLUMNS


@pytest.fixture(autouse=True)
def plain(monkeypatch):
    monkeypatch.delenv(book.PARAMETERS, raising=False)
    monkeypatch.delenv(book.BUILDING, raising=False)


def test_settings_keep_their_defaults_or_take_their_type_from_them(monkeypatch):
    defaults = {"seeds": 2, "rate": 0.1, "languages": ("de",), "fast": True}
    defaults |= {"encoder": "bundled", "limit": None, "mode": "stored"}
    settings = book.parameters(**defaults)
    assert vars(settings) == defaults
    with pytest.raises(AttributeError, match="no parameter 'seed'; there are seeds, rate"):
        settings.seed  # noqa: B018
    outside = "seeds=3 rate=1e-4 languages=sw,th fast=no encoder='a b' limit=7"
    monkeypatch.setenv(book.PARAMETERS, outside)
    changed = {"seeds": 3, "rate": 1e-4, "languages": ("sw", "th"), "fast": False}
    changed |= {"encoder": "a b", "limit": "7", "mode": "stored"}
    assert vars(book.parameters(**defaults)) == changed


@pytest.mark.parametrize(
    ("text", "error", "expected"),
    [
        ("seed=3", UnknownName, "Did you mean 'seeds'"),
        ("seeds=three", HelpfulError, "cannot be read as int"),
        ("fast=perhaps", HelpfulError, "cannot be read as bool"),
        ("seeds", HelpfulError, "written as"),
        ("=3", HelpfulError, "written as"),
    ],
)
def test_wrong_settings_are_named(monkeypatch, text, error, expected):
    monkeypatch.setenv(book.PARAMETERS, text)
    with pytest.raises(error, match=re.escape(expected)):
        book.parameters(seeds=2, fast=True)
    # While the book is built, settings are meant for the chapters that have them.
    monkeypatch.setenv(book.PARAMETERS, "profile=tiny seeds=1")
    monkeypatch.setenv(book.BUILDING, "1")
    assert vars(book.parameters(seeds=2)) == {"seeds": 1}


def test_numbers_are_written_for_readers():
    numbers = ((-0.5, 1), (-0.0001, 1), (1234567.8, 0), (1.25, 2))
    shown = [book.number(value, digits) for value, digits in numbers]
    assert shown == ["−0.5", "0.0", "1,234,568", "1.25"]
    shown = [book.duration(seconds) for seconds in (4, 89, 90, 5399, 5400)]
    assert shown == ["4 s", "89 s", "2 min", "90 min", "1.5 h"]


@given(st.floats(-1e6, 1e6), st.integers(0, 4))
def test_a_written_number_reads_back_as_itself(value, digits):
    text = book.number(value, digits).replace(book.MINUS, "-").replace(",", "")
    assert abs(float(text) - value) <= 0.5 * 10**-digits + 1e-9


def test_tables_show_some_rows_and_save_all():
    frame = pd.DataFrame({"x": range(50), "y": [0.123456] * 50, "z": ["<b>你"] * 50})
    shown = book.table(frame, "all.csv", rows=5).source
    assert shown.count("<tr>") == 5 and "The first 5 of 50 rows" in shown
    assert ">0.12<" in shown and "&lt;b&gt;" in shown and "50 rows" in shown
    saved = base64.b64decode(re.search(r"base64,([^\"]+)\"", shown)[1]).decode()
    assert saved == "x,y,z\n" + "".join(f"{n},0.123456,<b>你\n" for n in range(50))
    assert "download" not in book.table(frame).source
    empty = book.nothing("6 rows cannot carry <it>.", ["x"])
    assert book.table(empty, "a.csv").source == "<p>6 rows cannot carry &lt;it&gt;.</p>"
    assert list(empty.columns) == ["x"]


def test_folded_parts_unfold_without_a_script_and_pictures_have_a_text(monkeypatch):
    shown = book.folded({"a < b": book.Page("<p>1</p>"), "c": book.Page("<p>2</p>")}).source
    assert shown.count("<details") == 2 and "<script" not in shown
    assert "<summary>a &lt; b</summary><p>1</p>" in shown
    drawn = book.picture(plt.figure(), 'a "dot"')._repr_html_()
    plt.close("all")
    assert 'alt="a &quot;dot&quot;"' in drawn and "data:image/svg+xml;base64," in drawn
    # A figure goes to another page; Colab has none.
    kept, figure = {}, book.Page("<p>1</p>")
    monkeypatch.setattr("myst_nb.glue", lambda name, value, display: kept.update({name: value}))
    book.glue("hero", figure)
    assert kept == {"hero": figure}
    monkeypatch.delattr("myst_nb.glue")
    book.glue("other", figure)
    assert list(kept) == ["hero"]


def test_provenance_says_where_numbers_come_from():
    row = dict.fromkeys(SCORE_COLUMNS, "")
    row |= {"run": "a", "encoder": "bundled", "value": 0.5, "seconds": 100.0, "seed": 0}
    row |= {"peak_memory_mb": 1500.0, "utc": "2026-01-02T03:04:05Z", "status": "done"}
    row |= {"data_source": "package x==1", "data_hash": "ab" * 32, "commit": "c0ffee"}
    row["target"] = "t"
    other = row | {"run": "b", "seed": 1, "seconds": 50.0, "status": "collapsed"}
    shown = book.provenance(pd.DataFrame([row, row | {"language": "de"}, other])).source
    for part in ("bundled", "3 of 2 runs; 2 done, 1 with another status", "0, 1", "c0ffee"):
        assert part in shown
    assert "150 s" not in shown and ">2 min<" in shown  # each run counts once: 100 s + 50 s
    assert "package x==1; 1 sets of rows, sha256" in shown and "1.5 GB" in shown
    assert "data-sources.csv" in shown and "2026-01-02T03:04:05Z" in shown
    row = {"intermediate": "i", "target": "t", "measure": "m", "encoder": "bundled"}
    row |= {"status": "done", "seconds": 2.0}
    table = pd.DataFrame([row, row | {"target": "u"}, row | {"status": "undefined"}])
    shown = book.provenance(similarities=table).source
    assert "2 values of 1 measures on 2 dyads; 1 with another status" in shown
    assert "4 s beyond reading with the encoder" in shown
    assert "versions" in book.provenance().source


def test_commits_of_a_file_are_listed_in_order_with_links(monkeypatch):
    found = files.history("book/specification.md")
    assert [when for _, when, _ in found] == sorted(when for _, when, _ in found)
    assert files.history("no/such/file") == []
    two = [("a" * 40, "2026-01-02T03:04:05Z", "First <b>"), ("b" * 40, "2026-02-03T00:00:00Z", "x")]
    monkeypatch.setattr(book.origin, "history", lambda file: two)
    monkeypatch.setattr(book.origin, "address", lambda: "")
    shown = book.commits("book/specification.md").source
    assert shown.index("a" * 10) < shown.index("b" * 10)
    assert "href" not in shown and "First &lt;b&gt;" in shown  # no address, no link
    monkeypatch.setattr(book.origin, "address", lambda: "https://github.com/me/my.book")
    shown = book.commits("book/specification.md").source
    assert f"https://github.com/me/my.book/commit/{'a' * 40}" in shown
    monkeypatch.setattr(book.origin, "history", lambda file: [])
    assert "not at hand" in book.commits("book/specification.md").source
