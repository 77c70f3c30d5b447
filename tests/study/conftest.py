from __future__ import annotations

from pathlib import Path

import pytest

from helpers.study.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store whose surveys are made once; nothing is run in it."""
    return Store(tmp_path_factory.mktemp("shared"))


@pytest.fixture(autouse=True)
def text_without_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRANSFER_TEXT_ROOT", "django")
