import pytest

from helpers.study.store import Store


@pytest.fixture(scope="session")
def shared(tmp_path_factory):
    """A store whose surveys are made once; nothing is run in it."""
    return Store(tmp_path_factory.mktemp("shared"))


@pytest.fixture(autouse=True)
def text_without_the_hub(monkeypatch):
    monkeypatch.setenv("TRANSFER_TEXT_ROOT", "django")
