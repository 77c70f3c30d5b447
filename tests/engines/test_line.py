"""The progress line: counts, rate, time left; silent in a book."""

from __future__ import annotations

import io
from itertools import pairwise

import pytest

from helpers.study.engines import line as lines
from helpers.study.engines.line import Line


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(lines.time, "monotonic", lambda: now[0])
    monkeypatch.delenv("TRANSFER_QUIET", raising=False)
    monkeypatch.delitem(lines.sys.modules, "ipykernel", raising=False)
    return now


def test_time_left_goes_by_work_not_by_number(clock: list[float]) -> None:
    line = Line({"a": 1.0, "b": 1.0, "c": 8.0}, label="small", stream=Terminal())
    clock[0] += 60
    line.finished("a", "done")
    assert line.text() == "small 1/3 runs | 1.0/min | 9:00 left"
    line.finished("a", "done")  # counts once
    line.finished("other plan", "done")
    clock[0] += 60
    line.finished("b", "failed: x")
    assert line.text("now c") == "small 2/3 runs | 1.0/min | 8:00 left | 1 failed | now c"
    clock[0] += 3600
    line.finished("c", "collapsed")
    assert "0:00 left | 1 failed | 1 collapsed" in line.text()
    assert line.waiting == set()


def test_a_terminal_shows_one_line_in_place(clock: list[float]) -> None:
    stream = Terminal()
    line = Line({"a": 1.0, "b": 1.0}, stream=stream)
    line.write("a very long name of a run")
    line.finished("a", "done")
    line.finished("b", "done")
    line.close()
    written = stream.getvalue()
    assert written.count("\n") == 1 and written.endswith("\n")
    last = written.split("\r")[-1]
    assert last.strip() == "2/2 runs in 0:00"
    shown = written.split("\r")[1:]
    assert all(len(after) >= len(before.rstrip()) for before, after in pairwise(shown))


def test_a_file_gets_a_line_a_minute(clock: list[float]) -> None:
    stream = io.StringIO()
    line = Line({str(n): 1.0 for n in range(100)}, stream=stream)
    for n in range(100):
        clock[0] += 3
        line.finished(str(n), "done")
    line.close()
    assert 4 <= stream.getvalue().count("\n") <= 6
    assert "\r" not in stream.getvalue()


@pytest.mark.parametrize(("value", "silent"), [("1", True), ("0", False), ("", False)])
def test_the_variable_silences(
    clock: list[float], monkeypatch: pytest.MonkeyPatch, value: str, silent: bool
) -> None:
    monkeypatch.setenv("TRANSFER_QUIET", value)
    stream = Terminal()
    line = Line({"a": 1.0}, stream=stream)
    line.finished("a", "done")
    line.close()
    assert (stream.getvalue() == "") == silent


def test_show_false_is_silent(clock: list[float]) -> None:
    stream = Terminal()
    line = Line({"a": 1.0}, show=False, stream=stream)
    line.finished("a", "done")
    line.close()
    assert stream.getvalue() == ""
