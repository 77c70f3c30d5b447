import pytest

from helpers.models import encoders
from tests.training.conftest import same_chance  # noqa: F401


@pytest.fixture(scope="package")
def tiny():
    return encoders.load("tiny")
