"""Encoders that the tests of the formats read with; never changed by a test."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from helpers.data import packages
from helpers.models import BUNDLED, encoders

# Texts of many scripts: answers within passages, whole texts, and sentences as lists of words.
SCRIPTS = json.loads((Path(__file__).parent / "scripts.json").read_text(encoding="utf-8"))
PASSAGES, TEXTS, SENTENCES = SCRIPTS.values()


@pytest.fixture(scope="package")
def tiny():
    return encoders.load("tiny")


@pytest.fixture(scope="package")
def real():
    """The bundled encoder's tokenizer, which knows the pieces of a hundred languages."""
    if not packages.is_installed(BUNDLED):
        pytest.skip(packages.pip_line(BUNDLED))
    return SimpleNamespace(tokenizer=encoders._bundled_tokenizer())


@pytest.fixture(params=["tiny", "real"])
def either(request):
    return request.getfixturevalue(request.param)
