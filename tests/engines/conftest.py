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
    fake.install(monkeypatch, tmp_path)
