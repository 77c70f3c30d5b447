import pytest
import torch

from helpers.models import encoders


@pytest.fixture
def tiny():
    return encoders.load("tiny")


@pytest.fixture(autouse=True)
def same_chance():
    """Training seeds the global generator; leave it as it was."""
    with torch.random.fork_rng(devices=[]):
        yield
