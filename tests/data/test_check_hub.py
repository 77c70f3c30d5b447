"""The hub check's table, on the generated mirror in the hub's place."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.data import check_hub, sources


def test_the_table_says_what_loads_and_what_does_not(mirror: Path) -> None:
    table = check_hub.check(["xnli", "xcopa", "tydiqa"])
    status = {(r.task, r.language, r.split): r.status for r in table.itertuples()}
    assert status["xnli", "de", "test"] == "ok"
    assert status["xcopa", "th", "test"] == "ok"
    assert status["xnli", "ar", "dev"].startswith("failed: ")
    assert "answer is blank" in status["tydiqa", "sw", "test"]
    assert set(table["rows"][table["status"] == "ok"]) <= {1, 2, 3}


def test_it_is_skipped_by_name_offline(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sources, "hub_reachable", lambda: False)
    assert check_hub.main(["xnli"]) == 0
    assert capsys.readouterr().out.startswith("skipped: the hub is not reachable")
