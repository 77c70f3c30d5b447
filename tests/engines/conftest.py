from __future__ import annotations

from pathlib import Path

import pytest

from helpers.study.store import Store
from tests.engines import fake


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture(autouse=True)
def fake_training(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Let this process and all it starts train in no time."""
    monkeypatch.setenv("TRANSFER_TASKS", "tests.engines.fake")
    monkeypatch.setenv("FAKE_TRACE", str(tmp_path / "trace"))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    for name in fake.STAND_INS:
        monkeypatch.setattr(fake.run, name, getattr(fake, name))
