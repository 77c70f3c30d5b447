from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.study import execution
from helpers.study.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture(autouse=True)
def fake_worker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Let this process and all it starts use the quick worker."""
    monkeypatch.setenv("TRANSFER_WORKER", "tests.engines.fake:work")
    monkeypatch.setenv("FAKE_TRACE", str(tmp_path / "trace"))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    cached = execution.default_worker
    cached.cache_clear()
    yield
    cached.cache_clear()  # so that later tests get the real one
