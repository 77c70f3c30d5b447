"""Encoders that the tests of the formats read with; never changed by a test."""

from types import SimpleNamespace

import pytest

from helpers.errors import MissingData
from helpers.models import bundled, encoders


@pytest.fixture(scope="package")
def tiny():
    return encoders.load("tiny")


@pytest.fixture(scope="package")
def real():
    """The bundled encoder's tokenizer, which knows the pieces of a hundred languages."""
    try:
        bundled.path()
    except MissingData as error:
        pytest.skip(str(error))
    return SimpleNamespace(tokenizer=encoders._bundled_tokenizer())


@pytest.fixture(params=["tiny", "real"])
def either(request):
    return request.getfixturevalue(request.param)
