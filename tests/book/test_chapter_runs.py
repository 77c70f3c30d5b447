"""Chapters that are executed side by side before a build."""

import pytest
from jupyter_cache import get_cache

from helpers import book
from helpers.errors import HelpfulError
from helpers.files import cores
from helpers.pages import execute_missing
from tests.book.test_pages import CELL, HEADER

MEET = """
import pathlib, time
mine, other = pathlib.Path("{mine}"), pathlib.Path("{other}")
mine.touch()
deadline = time.monotonic() + 60
while not other.exists() and time.monotonic() < deadline:
    time.sleep(0.05)
assert other.exists(), "ran alone"
"""


def chapter(folder, name, code, prose=""):
    file = folder / f"{name}.md"
    file.write_text(f"{HEADER}{CELL}{code}\n```\n\n{prose}\n", "utf-8")
    return file


@pytest.mark.skipif(cores() < 2, reason="one core runs one chapter at a time")
def test_chapters_run_side_by_side(tmp_path):
    files = [
        chapter(tmp_path, "01_one", MEET.format(mine="a", other="b")),
        chapter(tmp_path, "02_two", MEET.format(mine="b", other="a")),
    ]
    assert execute_missing(files, tmp_path / "cache") == ["01_one", "02_two"]


def test_only_changed_code_is_executed_again(tmp_path):
    count = "with open('count', 'a') as file:\n    _ = file.write('x')"
    cache = tmp_path / "cache"
    file = chapter(tmp_path, "01_one", count)
    assert execute_missing([file], cache) == ["01_one"]
    assert execute_missing([chapter(tmp_path, "01_one", count, "More prose.")], cache) == []
    assert execute_missing([chapter(tmp_path, "01_one", f"{count}\n1 + 1")], cache) == ["01_one"]
    assert (tmp_path / "count").read_text() == "xx"


def test_a_failure_keeps_what_the_others_did(tmp_path, capsys):
    good, bad = chapter(tmp_path, "01_good", "40 + 2"), chapter(tmp_path, "02_bad", "1 / 0")
    cache = tmp_path / "cache"
    with pytest.raises(HelpfulError, match="02_bad.md: (.|\n)*ZeroDivisionError") as caught:
        execute_missing([good, bad], cache)
    assert "01_good" not in str(caught.value) and "\x1b" not in str(caught.value)
    assert "02_bad: failed after" in capsys.readouterr().out
    assert execute_missing([good], cache) == []
    with pytest.raises(HelpfulError, match="02_bad"):  # a failure is not remembered as done
        execute_missing([bad], cache)


def test_kernels_share_the_cores_and_know_that_a_book_is_built(tmp_path, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    code = f"""import os, pathlib
said = os.environ["{book.BUILDING}"], os.environ["OMP_NUM_THREADS"], os.environ.get("MPLBACKEND")
_ = pathlib.Path("said").write_text(repr(said))"""
    monkeypatch.setenv("MPLBACKEND", "pdf")
    execute_missing([chapter(tmp_path, "01_one", code)], tmp_path / "cache")
    alone = eval((tmp_path / "said").read_text())
    assert alone[:2] == ("1", str(cores())) and alone[2] != "pdf"


def test_a_build_takes_what_was_executed(built):
    records = get_cache(built / "_build" / "executed").list_cache_records()
    assert [record.uri.rpartition("/")[2] for record in records] == ["01_sample.md"]
