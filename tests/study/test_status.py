"""What is done, failed and missing, on the command line and in a notebook."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers import study
from helpers.study import execution, status
from helpers.study.store import Store
from tests.engines import fake


@pytest.fixture(autouse=True)
def fake_worker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(execution, "default_worker", lambda: fake.work)
    monkeypatch.delenv("FAKE_TRACE", raising=False)


def test_status_of_an_empty_store(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert status.main(["--store", str(store.folder)]) == 0
    assert "no plan was started here yet" in capsys.readouterr().out


def test_status_counts_every_run_of_every_plan(
    store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = fake.make_plan()
    monkeypatch.setenv("FAKE_FAIL", "t1")
    study.run(plan, store=store, progress=False)
    larger = fake.make_plan(intermediates=3)
    larger.save(store.folder / "plans")
    table = status.status(store).set_index("runs")
    assert table.loc[len(plan), ["done", "failed", "missing"]].tolist() == [6, 4, 4]
    assert table.loc[len(larger), ["done", "failed", "missing"]].tolist() == [6, 4, 7]
    assert (table["minutes_left"] > 0).all()
    claim = store.claim(larger.runs["run"].iloc[-1])
    assert claim
    with claim:
        assert status.status(store).set_index("runs").loc[len(larger), "running"] == 1
    assert status.status(store, "other").empty
    assert status.main(["--store", str(store.folder), "--profile", "fake"]) == 0
    text = capsys.readouterr().out
    assert "failed: RuntimeError" in text and "logs" in text and plan.id in text


def test_a_damaged_plan_does_not_hide_the_others(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.make_plan().save(store.folder / "plans")
    (store.folder / "plans" / "00.parquet").write_bytes(b"x")
    assert len(status.status(store)) == 1
    assert "00.parquet is not a plan" in capsys.readouterr().err
