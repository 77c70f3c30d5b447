"""Memory that runs out, and losses that are no longer numbers."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from helpers.errors import HelpfulError
from helpers.evaluation import evaluate
from helpers.models import network, training
from helpers.models.network import Network
from helpers.models.training import Interrupted, fine_tune
from tests.models import toys
from tests.models.toys import QUICK, assert_equal, weights

FULL = "[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried"


def full_above(monkeypatch, tokens):
    """Let a forward pass run out of memory above so many padded tokens."""
    states = Network.states
    refused = []

    def limited(self, batch, layer=None):
        size = int(batch.lengths.max()) * len(batch.lengths)
        if size > tokens:
            refused.append(size)
            raise RuntimeError(FULL)
        return states(self, batch, layer)

    monkeypatch.setattr(Network, "states", limited)
    return refused


@pytest.mark.parametrize("format_", ["pair", "choice", "span"])
def test_a_full_memory_halves_the_tokens_and_changes_nothing_else(format_, tiny, monkeypatch):
    settings = replace(QUICK, epochs=1)
    whole = fine_tune(tiny, [toys.task(format_)], settings, 0)
    refused = full_above(monkeypatch, 100)
    halved = fine_tune(tiny, [toys.task(format_)], settings, 0)
    assert refused
    budgets = (128,) if format_ == "choice" else (128, 64)  # three choices stay together
    assert halved.outcome.notes == [
        f"memory ran out: {tokens} tokens per forward pass from here" for tokens in budgets
    ]
    assert halved.outcome.steps == whole.outcome.steps
    assert halved.outcome.loss == pytest.approx(whole.outcome.loss, rel=1e-2)


def test_a_halved_budget_outlives_an_interruption(tiny, monkeypatch, tmp_path):
    refused = full_above(monkeypatch, 100)
    run = {"encoder": tiny, "tasks": [toys.task("pair")], "settings": QUICK, "seed": 0}
    with pytest.raises(Interrupted):
        fine_tune(**run, checkpoint=tmp_path, stop=lambda: True)
    before = len(refused)
    outcome = fine_tune(**run, checkpoint=tmp_path).outcome
    assert len(outcome.notes) == 2
    # No further step had to fail; only batches of predictions may be larger than the limit.
    assert all(size > 100 for size in refused[before:])
    assert outcome.status == "done"


def test_a_single_row_that_does_not_fit_is_an_error(tiny, monkeypatch):
    full_above(monkeypatch, 3)
    with pytest.raises(HelpfulError, match="memory ran out.*max_length"):
        fine_tune(tiny, [toys.task("pair")], QUICK, 0)


def test_other_errors_are_not_taken_for_a_full_memory(tiny, monkeypatch):
    def broken(self, batch, layer=None):
        raise RuntimeError("shape mismatch")

    monkeypatch.setattr(Network, "states", broken)
    with pytest.raises(RuntimeError, match="shape mismatch"):
        fine_tune(tiny, [toys.task("pair")], QUICK, 0)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory."),
        RuntimeError(FULL),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
)
def test_what_a_full_memory_looks_like(error):
    assert network.out_of_memory(error)
    assert not network.out_of_memory(RuntimeError("CUDA error: device-side assert triggered"))
    assert not network.out_of_memory(ValueError(FULL))


@pytest.mark.parametrize("format_", ["pair", "span", "tagging"])
@pytest.mark.parametrize("evaluations", [1, 4])
def test_a_run_whose_loss_is_no_number_collapses(format_, evaluations, tiny):
    task = toys.task(format_)
    settings = replace(QUICK, learning_rate=1e30, clip=0, evaluations=evaluations)
    tuned = fine_tune(tiny, [task], settings, 0)
    assert tuned.outcome.status == "collapsed" and not tuned.heads
    assert "no longer a number" in tuned.outcome.notes[-1]
    assert_equal(weights(tiny), weights(tuned.encoder))
    with pytest.raises(HelpfulError, match="collapsed"):
        evaluate(tuned, task, ["en"])


def test_weights_that_break_in_the_last_step_are_noticed(tiny, monkeypatch):
    """The loss of a step is that of the weights before it."""
    step = training.Run._step

    def broken(self, place):
        step(self, place)
        if place == len(self.steps) - 1:
            with torch.no_grad():
                next(iter(self.trained.values())).fill_(float("nan"))

    monkeypatch.setattr(training.Run, "_step", broken)
    outcome = fine_tune(tiny, [toys.task("span")], replace(QUICK, epochs=1), 0).outcome
    assert outcome.status == "collapsed"
    assert outcome.notes == [f"a weight was no longer a number after step {outcome.steps}"]


def test_a_long_run_does_not_grow(tiny):
    """Ten runs of other shapes leave what three have taken; the C library would keep every peak."""

    def resident():
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6

    if not Path("/proc/self/statm").exists():
        pytest.skip("the system does not say what a process takes")
    after = []
    for place in range(10):
        settings = replace(QUICK, epochs=1, batch_tokens=256 * (1 + place % 3))
        format_ = ("pair", "span", "choice")[place % 3]
        tuned = fine_tune(tiny, [toys.task(format_)], settings, place)
        evaluate(tuned, toys.task(format_), ["en"])
        after.append(resident())
    assert after[-1] < after[2] + 15
