"""A few seconds with the bundled encoder and real commands."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from helpers import tasks
from helpers.data import packages
from helpers.evaluation import evaluate
from helpers.formats import Batch
from helpers.models import encoders
from helpers.models.network import Network
from helpers.models.settings import BUNDLED, Settings
from helpers.models.training import fine_tune, prepare
from helpers.tasks import demo

SETTINGS = Settings(
    epochs=1,
    learning_rate=3e-4,
    head_rate=10,
    batch_tokens=48,
    train_rows=48,
    dev_rows=40,
    max_length=24,
)


@pytest.fixture(scope="module")
def encoder():
    for requirement in (BUNDLED, demo.COMMANDS):
        if not packages.is_installed(requirement):
            pytest.skip(packages.pip_line(requirement))
    return encoders.load("bundled", layers=3)


def loss(tuned, task):
    """Mean loss of the training rows under a tuned encoder and its head."""
    prepared = prepare(tuned.encoder, [task], SETTINGS, 0)
    encoded, format_ = prepared.train[task.name], prepared.formats[task.name]
    network = Network(prepared.pruned.model, tuned.heads, {task.name: format_}).eval()
    with torch.no_grad():
        batch = Batch.collate(encoded, np.arange(len(encoded)))
        return float(network(batch, task.name, SETTINGS.pooling)) / len(encoded)


def test_one_epoch_on_real_commands_lowers_the_loss(encoder):
    task = tasks.get("intents")
    table = encoder.model.get_input_embeddings().weight
    before = table.detach()[:2000].clone()
    still, tuned = (
        fine_tune(encoder, [task], replace(SETTINGS, learning_rate=rate), 0)
        for rate in (1e-12, 3e-4)
    )
    assert tuned.outcome.status == "done" and tuned.outcome.rows == 48
    assert loss(tuned, task) < 0.9 * loss(still, task)
    shared = tuned.encoder.model.get_input_embeddings().weight
    assert torch.equal(shared[:2000], before) and shared.data_ptr() == table.data_ptr()
    found = evaluate(tuned, task, ["en", "de", "fr"], rows=8)
    assert all(entry["status"] == "done" and entry["n"] == 8 for entry in found)
    assert np.isfinite([entry["value"] for entry in found]).all()
