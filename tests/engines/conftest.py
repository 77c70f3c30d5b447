import pytest

from tests.engines import fake


@pytest.fixture(autouse=True)
def fake_training(monkeypatch, tmp_path):
    fake.install(monkeypatch, tmp_path)
