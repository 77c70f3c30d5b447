"""What can be asked of a run, and that runs keep their ids."""

from dataclasses import asdict, replace

import pytest

from helpers.errors import HelpfulError, UnknownName
from helpers.models import network
from helpers.models.settings import FIXED, Settings


@pytest.mark.parametrize(
    "wrong",
    [
        {"epochs": 0},
        {"epochs": float("nan")},
        {"learning_rate": -1},
        {"learning_rate": "1e-3"},
        {"head_rate": 0},
        {"batch_tokens": 256.5},
        {"train_rows": -1},
        {"dev_rows": True},
        {"clip": None},
        {"mlm_share": 1},
        {"warmup": 1.5},
        {"dropout": -0.1},
        {"max_length": 4},
        {"shuffle_labels": "no"},
        {"mlm_languages": "de"},
        {"pooling": 3},
    ],
)
def test_settings_that_cannot_be_meant_are_refused(wrong):
    (name,) = wrong
    with pytest.raises(HelpfulError, match=name):
        Settings(**wrong)


def test_settings_are_named_in_full():
    with pytest.raises(UnknownName, match="'learning_rate'"):
        Settings().override({"learningrate": 1})
    with pytest.raises(UnknownName, match="'mean'"):
        Settings(pooling="max")
    with pytest.raises(UnknownName, match="'bf16'"):
        Settings(precision="fp16")
    changed = Settings().override({"epochs": 7, "mlm_languages": ["de"]})
    assert changed.mlm_languages == ("de",)
    assert replace(changed, epochs=2.0, mlm_languages=()) == Settings()


def test_what_an_id_is_made_of_can_be_read_back():
    """Settings that are fixed now stay in what is hashed, so that stored runs keep their ids."""
    settings = Settings(epochs=3, mlm_languages=("de",))
    assert Settings().override(settings.facts()) == settings
    assert settings.facts().keys() == asdict(settings).keys() | FIXED.keys()
    with pytest.raises(UnknownName, match="'weight_decay'"):
        Settings().override({"weight_decay": 0.1})


@pytest.mark.parametrize(("multiplies", "chosen"), [(True, "bf16"), (False, "fp32")])
def test_auto_takes_bf16_where_the_device_multiplies_in_it(multiplies, chosen, monkeypatch):
    monkeypatch.setattr(network, "multiplies_bf16", lambda device: multiplies)
    device = network.best_device()
    asked = ("auto", "fp32", "bf16")
    found = [network.resolve_precision(precision, device) for precision in asked]
    assert found == [chosen, "fp32", "bf16"]
