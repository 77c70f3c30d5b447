"""The state with the best English development score is the one that is given back."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from helpers.files import load_tensors
from helpers.formats import Batch
from helpers.models import training
from helpers.models.training import Interrupted, Run, fine_tune, prepare
from tests.models import toys
from tests.models.toys import QUICK

SETTINGS = replace(QUICK, epochs=6, evaluations=4)  # 12 steps, scored after 3, 6, 9 and 12
NAME = "learn-pair"


def evaluations(monkeypatch, scores):
    """Let evaluations find these scores in turn; each also asks for that of the constant answer."""
    values = iter([value for score in scores for value in (score, 0.1)])
    monkeypatch.setattr(training.formats, "task_scores", lambda *_: {"accuracy": next(values)})


def state_after(steps, encoder, folder):
    left = iter(range(steps - 1))
    with pytest.raises(Interrupted):
        fine_tune(
            encoder,
            [toys.task("pair")],
            SETTINGS,
            0,
            checkpoint=folder,
            stop=lambda: next(left, None) is None,
        )
    return load_tensors(folder / "state.safetensors")[0]


@pytest.mark.parametrize(
    ("scores", "kept"),
    [((0.2, 0.9, 0.5, 0.4), 6), ((0.9, 0.2, 0.2, 0.2), 3), ((0.5, 0.5, 0.5, 0.1), 9)],
)
def test_the_state_of_the_best_score_comes_back(scores, kept, tiny, monkeypatch, tmp_path):
    evaluations(monkeypatch, scores)
    expected = state_after(kept, tiny, tmp_path)
    evaluations(monkeypatch, scores)
    tuned = fine_tune(tiny, [toys.task("pair")], SETTINGS, 0)
    assert (tuned.outcome.kept_step, tuned.outcome.steps) == (kept, 12)
    assert tuned.outcome.dev == {NAME: max(scores)} and tuned.outcome.floor == {NAME: 0.1}
    for part, tensor in tuned.heads[NAME].state_dict().items():
        assert torch.equal(tensor, expected[f"now/heads.{NAME}.{part}"])
    part = "encoder.layer.1.output.dense.weight"
    assert torch.equal(tuned.encoder.model.state_dict()[part], expected[f"now/model.{part}"])


@pytest.mark.parametrize("steps", [4, 7, 11])
def test_the_best_state_outlives_an_interruption(steps, tiny, monkeypatch, tmp_path):
    scores = (0.2, 0.9, 0.5, 0.4)
    evaluations(monkeypatch, scores)
    straight = fine_tune(tiny, [toys.task("pair")], SETTINGS, 0)
    evaluations(monkeypatch, scores)
    state_after(steps, tiny, tmp_path)
    resumed = fine_tune(tiny, [toys.task("pair")], SETTINGS, 0, checkpoint=tmp_path)
    assert resumed.outcome.kept_step == straight.outcome.kept_step == 6
    assert resumed.outcome.dev == straight.outcome.dev
    for part, tensor in straight.heads[NAME].state_dict().items():
        assert torch.equal(tensor, resumed.heads[NAME].state_dict()[part])


def test_of_equal_scores_the_last_counts(tiny, monkeypatch):
    evaluations(monkeypatch, (0.5, 0.5, 0.5, 0.5))
    tuned = fine_tune(tiny, [toys.task("pair")], SETTINGS, 0)
    assert tuned.outcome.kept_step == 12


def test_of_several_tasks_the_mean_counts(tiny, monkeypatch):
    tasks = [toys.task("pair"), toys.task("pair", "other")]
    values = iter([0.9, 0.1, 0.1, 0.1, 0.6, 0.1, 0.6, 0.1])
    monkeypatch.setattr(training.formats, "task_scores", lambda *_: {"accuracy": next(values)})
    tuned = fine_tune(tiny, tasks, replace(SETTINGS, evaluations=2), 0)
    assert tuned.outcome.dev == {NAME: 0.6, "other": 0.6}
    assert tuned.outcome.kept_step == tuned.outcome.steps


def test_a_step_follows_the_mean_loss_of_its_rows(tiny):
    run = Run(prepare(tiny, [toys.task("pair")], QUICK, 0), QUICK, 0)
    _, index = run.steps[0]
    loss = float(run._gradients(NAME, index))
    found = {name: parameter.grad.clone() for name, parameter in run.trained.items()}
    run.optimizer.zero_grad()
    batch = Batch.collate(run.prepared.train[NAME], index)
    hidden = run.network.states(batch)
    first = batch.starts.tolist()
    pooled = torch.stack(
        [hidden[a : a + n].mean(0) for a, n in zip(first, batch.lengths, strict=True)]
    )
    labels = torch.from_numpy(run.prepared.train[NAME].per_sequence["label"][index])
    mean = functional.cross_entropy(run.network.head(NAME).out(pooled), labels)
    mean.backward()
    assert loss == pytest.approx(float(mean.detach()), rel=1e-5)
    for name, parameter in run.trained.items():
        torch.testing.assert_close(found[name], parameter.grad, atol=1e-6, rtol=1e-3)
