import json
import math
import os
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers import files
from helpers.errors import BadRecord, HelpfulError, StoreFull
from helpers.models import Outcome
from helpers.study import store as stores
from helpers.study.store import SCORE_COLUMNS, Record, Store, read_export, record_of, summary_of


def score(language, metric, value, **more):
    return {"language": language, "split": "test", "metric": metric, "value": value, "n": 8} | more


def make_record(run="ab12", status="done", **changes):
    scores = [score("de", "f1", 0.25, status="done"), score("de", "em", 0.125)]
    scores.append(score("fr", "f1", 0.5))
    counts = {"steps": 7, "rows": 10, "tokens": 900, "seconds": 1.5, "peak_memory_mb": 300.0}
    counts |= {"sources": {"t": "package x==1"}}
    facts = {
        **{"run": run, "core": "c0", "stage": "target", "encoder": "tiny", "condition": "single"},
        **{"intermediate": "i", "target": "t", "work": 1000.0},
        "spec": {"evaluation": {"de": "hash-de", "fr": "hash-fr"}},
        "attempts": [Outcome(status, 3, scores, {"t": 0.5}, device="cpu x", notes=["n"], **counts)],
        "provenance": {"commit": "c", "versions": "v", "utc": "2026-01-01T00:00:00Z"},
    }
    return Record(**(facts | changes))


# Records
def test_a_record_reads_back_as_it_was_written_and_is_json():
    record = make_record()
    again = record_of(record.to_bytes(), "x")
    assert again.to_bytes() == record.to_bytes() and again.scores() == record.scores()
    assert set(content := json.loads(record.to_bytes())) == {"checksum", "summary", "record"}
    assert content["summary"]["status"] == "done"
    # Not a number and infinity, which JSON does not know, come back as not a number.
    attempt = Outcome("done", 0, [score("de", "f1", math.nan)], {"t": math.inf})
    content = make_record(attempts=[attempt]).to_bytes()
    assert math.isnan(record_of(content, "x").scores()[0]["value"])
    json.loads(content, parse_constant=lambda name: pytest.fail(name))


def test_records_of_earlier_versions_are_read_and_of_unknown_ones_refused(monkeypatch):
    record, fields = make_record(), asdict(make_record())
    monkeypatch.setattr(stores, "asdict", lambda record: fields)
    fields["sources"] = {"de": "package x==1"}
    for name in ("floor", "kept_step", "loss", "fingerprints"):
        del fields["attempts"][0][name]
    assert record_of(record.to_bytes(), "x").scores() == record.scores()
    fields["attempts"][0]["colour"] = "red"
    with pytest.raises(BadRecord, match="x was written by another version"):
        record_of(record.to_bytes(), "x")


@given(st.data())
def test_every_changed_byte_and_every_cut_is_noticed(data):
    content = bytearray(make_record().to_bytes())
    cut = bytes(content[: data.draw(st.integers(0, len(content) - 1))])
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    for damaged in (cut, bytes(content)):
        for read in (summary_of, record_of):
            with pytest.raises(BadRecord, match="record-x"):
                read(damaged, "record-x")


def test_score_rows_are_main_metrics_with_the_status_of_the_score_or_its_attempt():
    rows = make_record().scores()
    assert all(set(row) == set(SCORE_COLUMNS) for row in rows)
    assert rows[0]["data_hash"] == "hash-de" and rows[0]["data_source"] == "package x==1"
    assert [(row["language"], row["metric"]) for row in rows] == [("de", "f1"), ("fr", "f1")]
    (good,) = make_record().attempts
    record = make_record(attempts=[Outcome("collapsed", 1, good.scores), good])
    assert record.status == "done"
    statuses = [(row["seed"], row["status"]) for row in record.scores()]
    assert statuses == [(1, "collapsed")] * 2 + [(3, "done")] * 2
    (row,) = make_record(attempts=[Outcome("failed: no", 2)]).scores()
    assert row["status"] == "failed: no" and math.isnan(row["value"]) and row["language"] == ""
    for own in ("not applicable", "failed: BadRows: hidden"):
        attempt = Outcome("done", 0, [score("de", "f1", None, status=own), score("fr", "f1", 0.5)])
        assert [row["status"] for row in make_record(attempts=[attempt]).scores()] == [own, "done"]


# The folder
def names(count):
    return [f"{number:02x}{number:014x}" for number in range(count)]


def test_scores_are_one_tidy_table_and_a_summary_counts_them(store):
    assert not list(store.records(["ab"])) and store.status("ab") == "" and store.runs() == set()
    assert store.index().empty and store.checkpoints() == set() and not store.held("arm")
    assert list(store.scores().columns) == list(SCORE_COLUMNS)
    assert store.summary()["runs"].tolist() == [0]
    assert not store.folder.exists()  # looking makes nothing
    for run in names(3):
        store.write(make_record(run))
    store.write(make_record("ff", "failed: y", stage="intermediate"))
    assert len(store.scores()) == 3 * 2
    assert set(store.scores(stage="intermediate")["run"]) == {"ff"}
    assert set(store.scores(names(1))["run"]) == set(names(1))
    table = store.summary().set_index("status")
    assert table["runs"].to_dict() == {"done": 3, "failed": 1, "kept": 0}
    assert table.loc["done", "seconds"] == 4.5


def test_the_index_sees_what_others_write_change_and_delete(store):
    other = Store(store.folder)
    store.write(make_record("aa"))
    assert set(other.index()["run"]) == {"aa"}
    store.write(make_record("bb"))
    store.write(make_record("aa", "failed: x"))
    assert dict(other.index()[["run", "status"]].to_numpy()) == {"aa": "failed: x", "bb": "done"}
    assert other.runs() == {"bb"}
    store.path("bb").unlink()
    assert set(other.index()["run"]) == {"aa"}


def test_the_index_file_is_only_a_copy_and_no_record_is_read_twice(store, monkeypatch):
    for run in names(150):
        store.write(make_record(run))
    assert len(store.index()) == 150
    with monkeypatch.context() as patch:
        patch.setattr(stores, "summary_of", lambda *_: pytest.fail("read again"))
        assert len(store.index()) == len(Store(store.folder).index()) == 150
    copy = store.folder / "index.parquet"
    copy.write_bytes(b"not parquet")
    assert len(Store(store.folder).index()) == 150
    copy.unlink()
    store.path(names(1)[0]).unlink()
    assert len(Store(store.folder).index()) == 149


@pytest.mark.parametrize("damage", ["flip", "cut", "empty"])
def test_a_damaged_record_is_rejected_by_path_and_never_counted(store, damage):
    store.write(make_record("aa"))
    path = store.write(make_record("bb"))
    content = path.read_bytes()
    flipped = content[:-30] + bytes([content[-30] ^ 1]) + content[-29:]
    path.write_bytes({"flip": flipped, "cut": content[:-5], "empty": b""}[damage])
    with pytest.warns(UserWarning, match=str(path)):
        assert set(store.index()["run"]) == {"aa"}
    assert store.status("bb") == "" and not list(store.records(["bb"]))
    assert list(store.rejected) == ["bb"] and "rejected" in set(store.summary()["status"])
    assert set(store.scores()["run"]) == {"aa"}
    store.write(make_record("bb"))
    assert set(store.index()["run"]) == {"aa", "bb"} and not store.rejected


def test_unfinished_files_of_a_killed_writer_do_not_count_and_are_swept(store):
    path = store.write(make_record("aa"))
    (path.parent / ".aa.json.x7").write_bytes(b"{half")
    (store.folder / "checkpoints" / ".cc.0.tmp").mkdir(parents=True)
    assert set(store.index()["run"]) == {"aa"} and store.checkpoints() == set()
    with store.lock("dd") as mine:
        assert mine and Store(store.folder).sweep() == 0  # somebody may be writing
    assert store.sweep() == 0  # somebody may be about to begin
    for entry in (path.parent / ".aa.json.x7", store.folder / "checkpoints" / ".cc.0.tmp"):
        os.utime(entry, (0, 0))
    assert store.sweep() == 2
    assert not list(path.parent.glob(".*"))


def test_a_really_full_disk_loses_nothing_that_was_finished(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        store, written = Store(disk / "store"), []
        with pytest.raises(StoreFull, match="untouched"):
            for run in names(256):
                store.write(make_record(run))
                written.append(run)
        assert 10 < len(written) < 256 and store.runs() == set(written)
        with pytest.raises(StoreFull):
            store.save_checkpoint("cc", lambda at: files.write_atomic(at / "w", b"0" * 10**6))
        assert store.checkpoints() == set() and len(store.scores()) == 2 * len(written)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_checkpoints_appear_whole_or_not_at_all(store):
    def broken(folder):
        (folder / "half").write_text("x")
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        store.save_checkpoint("aa", broken)
    assert store.checkpoint("aa") is None
    store.save_checkpoint("aa", lambda folder: (folder / "w").write_text("1"))
    with pytest.raises(RuntimeError):
        store.save_checkpoint("aa", broken)
    folder = store.checkpoint("aa")
    assert folder and (folder / "w").read_text() == "1"
    store.save_checkpoint("aa", lambda folder: (folder / "w").write_text("2"))
    assert (folder / "w").read_text() == "2"
    assert [entry.name for entry in folder.parent.iterdir()] == ["aa"]
    store.drop_checkpoint("aa")
    store.drop_checkpoint("aa")
    assert store.checkpoints() == set()


def test_export_has_a_twin_and_reads_back_unless_it_is_damaged(store, tmp_path):
    for run in names(4):
        store.write(make_record(run))
    path = store.export(tmp_path / "out" / "scores")
    assert path.suffix == ".parquet"
    table = read_export(path)
    pd.testing.assert_frame_equal(table, store.scores(stage=""))
    twin = pd.read_csv(path.with_suffix(".csv"), keep_default_na=False)
    assert list(twin.columns) == list(SCORE_COLUMNS)
    assert twin["value"].tolist() == table["value"].tolist()
    first = path.read_bytes()
    assert store.export(path).read_bytes() == first  # the same table is the same file
    pd.DataFrame({"run": ["a"]}).to_parquet(path)
    with pytest.raises(BadRecord, match="lacks the columns stage"):
        read_export(path)
    for damaged in (b"", b"PAR1", first[:2000], first[: len(first) // 2]):
        path.write_bytes(damaged)
        with pytest.raises(BadRecord, match="scores.parquet is damaged.*git checkout"):
            read_export(path)


_WRITER = """
import sys
from helpers.study.store import Store
from tests.store.test_store import make_record
store = Store(sys.argv[1])
while True:
    for number in range(20):
        store.write(make_record(f"{number:04x}"))
"""


def test_a_reader_never_sees_half_a_record_of_a_writer_that_is_killed(store):
    for _ in range(2):
        writer = subprocess.Popen([sys.executable, "-c", _WRITER, str(store.folder)])
        deadline = time.monotonic() + 200
        while len(store.index()) < 20 and time.monotonic() < deadline:
            time.sleep(0.01)
        for _ in range(20):
            assert len(store.scores()) == 40
        writer.kill()
        writer.wait()
        assert not store.rejected and len(Store(store.folder).index()) == 20


_HOLD = """
import sys, time
from helpers.study.store import Store
with Store(sys.argv[1]).lock("arm") as mine:
    print(mine, flush=True)
    time.sleep(60)
"""


def test_an_arm_has_one_holder_and_a_killed_one_is_replaced_at_once(store):
    command = [sys.executable, "-c", _HOLD, str(store.folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout and process.stdout.readline().strip() == "True"
            with store.lock("arm") as mine, store.lock("another") as other:
                assert not mine and other and store.held("arm")
        finally:
            process.kill()
    with store.lock("arm") as mine:
        assert mine


def test_a_store_that_cannot_be_written_can_be_read_and_says_so(store, monkeypatch):
    store.write(make_record("aa"))
    (store.folder / "locks").write_text("a file where a folder should be")
    with pytest.raises(HelpfulError, match="cannot be written.*TRANSFER_STORE"):
        with store.lock("arm"):
            pass
    assert set(Store(store.folder).scores()["run"]) == {"aa"}
    monkeypatch.setenv("TRANSFER_STORE", "/somewhere")
    assert Store().folder == Path("/somewhere")
    monkeypatch.delenv("TRANSFER_STORE")
    assert Store().folder.parts[-2:] == ("data", "store")
