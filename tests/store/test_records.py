"""A record that reads back is the record that was written; anything else is refused."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.errors import BadRecord
from helpers.study.records import SCORE_COLUMNS, Attempt, Record, from_bytes, summary_of, to_bytes


def make_record(run: str = "ab12", status: str = "done", **changes: object) -> Record:
    scores = [
        {
            "language": "de",
            "split": "test",
            "metric": "f1",
            "value": 0.25,
            "n": 8,
            "status": "done",
        },
        {"language": "de", "split": "test", "metric": "em", "value": 0.125, "n": 8},
        {"language": "fr", "split": "test", "metric": "f1", "value": 0.5, "n": 8},
    ]
    attempt = Attempt(
        status, 3, scores, {"t": 0.5}, 7, 10, 900, 1.5, 300.0, "cpu x", "fp32", ("n",)
    )
    facts = {
        "run": run,
        "core": "c0",
        "stage": "target",
        "encoder": "tiny",
        "condition": "single",
        "intermediate": "i",
        "target": "t",
        "spec": {"evaluation": {"de": "hash-de", "fr": "hash-fr"}},
        "sources": {"de": "package x==1"},
        "attempts": [attempt],
        "provenance": {"commit": "c", "versions": "v", "utc": "2026-01-01T00:00:00Z"},
        "work": 1000.0,
    }
    return Record(**(facts | changes))  # type: ignore[arg-type]


def test_round_trip() -> None:
    record = make_record()
    again = from_bytes(to_bytes(record), "x")
    assert to_bytes(again) == to_bytes(record)
    assert again.scores() == record.scores()
    assert again.attempts[0].dev == {"t": 0.5}


def test_the_file_is_json_that_others_can_read() -> None:
    content = json.loads(to_bytes(make_record()))
    assert set(content) == {"checksum", "summary", "record"}
    assert content["summary"]["status"] == "done"


@given(st.data())
def test_every_changed_byte_is_noticed(data: st.DataObject) -> None:
    content = bytearray(to_bytes(make_record()))
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(BadRecord, match="record-x"):
        summary_of(bytes(content), "record-x")
    with pytest.raises(BadRecord):
        from_bytes(bytes(content), "record-x")


@given(st.floats(0, 0.9999))
def test_every_cut_is_noticed(share: float) -> None:
    content = to_bytes(make_record())
    with pytest.raises(BadRecord):
        summary_of(content[: int(share * len(content))], "x")


def test_not_a_number_survives_as_valid_json() -> None:
    scores = [{"language": "de", "split": "test", "metric": "f1", "value": math.nan, "n": 0}]
    record = make_record(attempts=[Attempt("done", 0, scores, {"t": math.inf})])
    again = from_bytes(to_bytes(record), "x")
    assert math.isnan(again.scores()[0]["value"])
    json.loads(to_bytes(record), parse_constant=lambda name: pytest.fail(name))


def test_score_rows_have_the_columns_of_the_table() -> None:
    rows = make_record().scores()
    assert all(set(row) == set(SCORE_COLUMNS) for row in rows)
    assert rows[0]["data_hash"] == "hash-de" and rows[0]["data_source"] == "package x==1"


def test_main_metric_only() -> None:
    rows = make_record().scores(every_metric=False)
    assert [(row["language"], row["metric"]) for row in rows] == [("de", "f1"), ("fr", "f1")]


def test_a_collapsed_attempt_marks_its_scores_and_its_retry_keeps_its_own() -> None:
    good = make_record().attempts[0]
    bad = Attempt("collapsed", 1, good.scores)
    record = make_record(attempts=[bad, good])
    assert record.status == "done"
    statuses = [(row["seed"], row["status"]) for row in record.scores(every_metric=False)]
    assert statuses == [(1, "collapsed")] * 2 + [(3, "done")] * 2


def test_a_failed_attempt_is_one_row_without_a_value() -> None:
    (row,) = make_record(attempts=[Attempt("failed: no", 2)]).scores()
    assert row["status"] == "failed: no" and math.isnan(row["value"]) and row["language"] == ""


def test_a_language_that_does_not_apply_says_so() -> None:
    scores = [
        {
            "language": "de",
            "split": "test",
            "metric": "f1",
            "value": None,
            "n": 0,
            "status": "not applicable",
        }
    ]
    (row,) = make_record(attempts=[Attempt("done", 0, scores)]).scores()
    assert row["status"] == "not applicable"
