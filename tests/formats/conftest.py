"""Encoders that the tests of the formats read with; never changed by a test."""

import pytest

from helpers import bundled, encoders
from helpers.errors import MissingData


@pytest.fixture(scope="package")
def tiny():
    return encoders.load("tiny")


@pytest.fixture(scope="package")
def real():
    """The bundled encoder, whose tokenizer knows the pieces of a hundred languages."""
    try:
        bundled.path()
    except MissingData as error:
        pytest.skip(str(error))
    return encoders.load("bundled", layers=1)


@pytest.fixture(params=["tiny", "real"])
def either(request):
    return request.getfixturevalue(request.param)
