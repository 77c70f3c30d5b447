import pytest

from helpers.study.store import Store
from tests.engines import fake


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


@pytest.fixture(autouse=True)
def fake_training(monkeypatch, tmp_path):
    fake.install(monkeypatch, tmp_path)
