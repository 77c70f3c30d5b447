from dataclasses import replace

import numpy as np
import pytest
import torch

from helpers import formats, predicting
from helpers.errors import HelpfulError
from helpers.formats.encoded import IGNORE
from helpers.models.network import Network
from helpers.predicting import outputs, task_scores
from tests.training import toys

CPU = torch.device("cpu")
FULL = "DefaultCPUAllocator: can't allocate memory"


def network(encoder, task):
    format_ = formats.get(task.format)
    torch.manual_seed(1)
    head = format_.head(task, encoder.dimension, 0.0)
    return Network(encoder.model, {task.name: head}, {task.name: format_})


def uneven(row, place):
    """Make rows of different lengths, so that batches hold them in another order."""
    more = place * 7 % 5
    if "tokens" in row:
        return row | {"tokens": row["tokens"][more:], "tags": row["tags"][more:]}
    name = next(n for n in ("context", "first", "text") if n in row)
    return row | {name: row[name] + " now" * more}


def encoded(encoder, task, split="train"):
    rows = [uneven(row, place) for place, row in enumerate(toys.rows(task.format, "en", split))]
    return formats.get(task.format).encode(task, rows, encoder, 32, False)


def run(encoder, task, budget):
    return outputs(
        network(encoder, task), task.name, encoded(encoder, task), budget=budget, device=CPU
    )


def assert_alike(one, other):
    assert one.keys() == other.keys()
    for name, values in one.items():
        np.testing.assert_allclose(values, other[name], atol=1e-5)


@pytest.mark.parametrize("format_", toys.MAKERS)
def test_outputs_come_back_in_order_whatever_the_batches(format_, tiny):
    task = toys.task(format_)
    one_by_one, few, all_at_once = (run(tiny, task, budget) for budget in (1, 100, 10**6))
    assert_alike(one_by_one, few)
    assert_alike(one_by_one, all_at_once)
    whole = encoded(tiny, task)
    for values in one_by_one.values():
        assert len(values) in (len(whole), len(whole.tokens))


def test_outputs_held_back_for_a_gpu_are_put_in_place_too(tiny, monkeypatch):
    task = toys.task("tagging")
    expected = run(tiny, task, 60)
    held = torch.device("meta")  # anything that is not the processor
    monkeypatch.setattr(predicting, "_HELD", 3)
    monkeypatch.setattr(
        predicting.Batch,
        "collate",
        lambda e, i, device, collate=formats.Batch.collate: collate(e, i),
    )
    monkeypatch.setattr(predicting, "autocast", lambda precision, device: torch.no_grad())
    found = outputs(network(tiny, task), task.name, encoded(tiny, task), budget=60, device=held)
    assert_alike(found, expected)


@pytest.mark.parametrize("format_", ["choice", "span"])
def test_a_full_memory_halves_the_batch_and_changes_nothing(format_, tiny, monkeypatch):
    task = toys.task(format_)
    expected = run(tiny, task, 10**6)
    states, sizes = Network.states, []

    def limited(self, batch, layer=None):
        size = int(batch.lengths.max()) * len(batch.lengths)
        sizes.append(size)
        if size > 200:
            raise RuntimeError(FULL)
        return states(self, batch, layer)

    monkeypatch.setattr(Network, "states", limited)
    assert_alike(run(tiny, task, 10**6), expected)
    assert max(sizes) > 200 and min(sizes) <= 200


def test_one_full_memory_is_survived(tiny, monkeypatch):
    task = toys.task("pair")
    expected = run(tiny, task, 500)
    predict, failures = Network.predict, [MemoryError()]

    def once(self, *arguments):
        if failures:
            raise failures.pop()
        return predict(self, *arguments)

    monkeypatch.setattr(Network, "predict", once)
    assert_alike(run(tiny, task, 500), expected)


def test_a_single_row_that_does_not_fit_is_an_error(tiny, monkeypatch):
    def never(self, batch, layer=None):
        raise RuntimeError(FULL)

    monkeypatch.setattr(Network, "states", never)
    with pytest.raises(HelpfulError, match="memory ran out on a single row of .* tokens"):
        run(tiny, toys.task("pair"), 500)


def test_training_mode_is_put_back(tiny):
    task = toys.task("pair")
    made = network(tiny, task).train()
    outputs(made, task.name, encoded(tiny, task), budget=500, device=CPU)
    assert made.training
    made.eval()
    outputs(made, task.name, encoded(tiny, task), budget=500, device=CPU)
    assert not made.training


def test_half_precision_outputs_are_plain_arrays(tiny):
    task = toys.task("retrieval")
    arguments = {"budget": 500, "device": CPU}
    made = network(tiny, task), task.name, encoded(tiny, task)
    full = outputs(*made, **arguments)["vector"]
    half = outputs(*made, **arguments, precision="bf16")["vector"]
    assert half.dtype == np.float32
    np.testing.assert_allclose(half, full, atol=0.1)


def test_scores_put_the_main_metric_first_and_leave_unknown_tags_out():
    task = toys.task("tagging")
    rows = [
        {"tokens": ["a", "b", "c"], "tags": [1, IGNORE, 0]},
        {"tokens": ["d"], "tags": [IGNORE]},
    ]
    scores = task_scores(task, rows, [[1, 3, 0], [2]])
    assert next(iter(scores)) == "f1" and scores["f1"] == 1.0
    assert task_scores(replace(task, metric="token_accuracy"), rows, [[1, 3, 1], [2]]) == {
        "token_accuracy": 0.5
    }
