import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from helpers import tasks
from helpers.errors import BadRows
from helpers.evaluation import evaluate
from helpers.models.training import Run, fine_tune, prepare
from tests.models import toys
from tests.models.toys import QUICK, assert_equal, weights


def assert_close(one, other, atol=2e-5):
    """Compare weights, but not the bias of the keys: its gradient is zero, and Adam blows up noise."""
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        if not name.endswith("key.bias"):
            torch.testing.assert_close(tensor, other[name], atol=atol, rtol=1e-4, msg=name)


@pytest.mark.parametrize("format_", toys.MAKERS)
def test_each_format_is_learnt(format_, tiny, quick):
    task = toys.task(format_)
    still = fine_tune(tiny, [task], replace(quick, learning_rate=1e-12, epochs=1), 0)
    tuned = fine_tune(tiny, [task], replace(quick, epochs=12), 0)
    outcome = tuned.outcome
    assert (outcome.status, outcome.precision) == ("done", quick.precision)
    assert outcome.loss < 0.7 * still.outcome.loss
    assert outcome.sources == {task.name: f"rows {task.name}"}
    if format_ == "retrieval":
        assert not outcome.dev
    else:
        assert outcome.dev[task.name] > outcome.floor[task.name] + 0.2
        # What is given back is what was scored.
        (main, *_) = evaluate(tuned, task, ["en"], split="dev")
        assert main["value"] == pytest.approx(outcome.dev[task.name], abs=1e-9)


def test_the_given_encoder_is_left_alone(tiny):
    before, needs = weights(tiny), [p.requires_grad for p in tiny.model.parameters()]
    tuned = fine_tune(tiny, [toys.task("pair")], replace(QUICK, epochs=1), 0)
    assert_equal(weights(tiny), before)
    assert [p.requires_grad for p in tiny.model.parameters()] == needs
    assert not tiny.model.training and tiny.model.config.vocab_size == len(tiny.tokenizer)
    changed = weights(tuned.encoder)
    assert all(changed[name].shape == tensor.shape for name, tensor in before.items())
    assert tuned.encoder.kept is None


@pytest.mark.parametrize("frozen", [True, False])
def test_word_embeddings_change_only_where_they_may(frozen, tiny):
    task = toys.task("pair")
    tuned = fine_tune(replace(tiny, freeze_embeddings=frozen), [task], replace(QUICK, epochs=2), 0)
    before, after = (e.model.get_input_embeddings().weight.detach() for e in (tiny, tuned.encoder))
    changed = set(torch.nonzero((before != after).any(1))[:, 0].tolist())
    texts = [row["first"] for row in toys.rows("pair", "en", "train")]
    used = {piece for text in texts for piece in tiny.tokenizer(text)["input_ids"]}
    assert changed == (set() if frozen else used)
    other = weights(tiny), weights(tuned.encoder)
    assert not torch.equal(*(w["encoder.layer.1.output.dense.weight"] for w in other))


def test_pruning_changes_nothing(tiny):
    """The same run with every piece kept gives the same weights."""
    task = toys.task("tagging")
    settings = replace(QUICK, epochs=1)
    small = prepare(tiny, [task], settings, 0)
    whole = prepare(tiny, [task], settings, 0)
    for encoded in (*whole.train.values(), *(coded for _, coded in whole.dev.values())):
        encoded.tokens = whole.pruned.kept[encoded.tokens]
    whole.pruned = tiny.prune(np.arange(len(tiny.tokenizer)))
    assert len(small.pruned.kept) < 40
    one, other = (Run(prepared, settings, 0).train() for prepared in (small, whole))
    assert_close(weights(one.encoder), weights(other.encoder))
    assert one.outcome.dev == other.outcome.dev


def test_the_seed_fixes_everything_and_matters(tiny):
    settings = replace(QUICK, epochs=1, dropout=0.1)
    one, same, other = (fine_tune(tiny, [toys.task("pair")], settings, s) for s in (3, 3, 4))
    assert_equal(weights(one.encoder), weights(same.encoder))
    assert_equal(one.heads["learn-pair"].state_dict(), same.heads["learn-pair"].state_dict())
    assert one.outcome.loss == same.outcome.loss != other.outcome.loss


@pytest.mark.parametrize("format_", ["pair", "choice", "tagging", "span"])
def test_a_step_has_the_same_gradient_however_it_is_split(format_, tiny, quick):
    found, losses = [], []
    for micro in (256, 40, 1):
        run = Run(prepare(tiny, [toys.task(format_)], quick, 0), quick, 0)
        run.micro = micro
        losses.append(float(run._gradients(*run.steps[0])))
        found.append({name: parameter.grad for name, parameter in run.trained.items()})
    # bf16 keeps 8 bits, and sums of other parts round elsewhere.
    fine = quick.precision == "fp32"
    for other, loss in zip(found[1:], losses[1:], strict=True):
        assert loss == pytest.approx(losses[0], rel=1e-5 if fine else 2**-8)
        for name, gradient in found[0].items():
            spread = 1e-6 if fine else 0.05 * float(gradient.abs().max()) + 1e-3
            torch.testing.assert_close(gradient, other[name], atol=spread, rtol=1e-3)


def test_recomputing_activations_changes_nothing(tiny, quick):
    found = [
        fine_tune(
            tiny,
            [toys.task("pair")],
            replace(quick, epochs=1, gradient_checkpointing=often),
            0,
        )
        for often in (False, True)
    ]
    assert_close(*(weights(tuned.encoder) for tuned in found))


def test_the_heads_learn_at_their_own_rate(tiny):
    """Adam's first step is as long as the rate, whatever the gradient."""
    settings = replace(QUICK, epochs=0.01, warmup=0, head_rate=5, learning_rate=1e-3, clip=0)
    tuned = fine_tune(tiny, [toys.task("pair")], settings, 0)
    assert tuned.outcome.steps == 1
    step = (tuned.heads["learn-pair"].out.bias.detach()).abs()  # it starts from 0
    assert step.numpy() == pytest.approx(5e-3, rel=1e-3)
    name = "encoder.layer.1.output.dense.bias"
    moved = (weights(tuned.encoder)[name] - weights(tiny)[name]).abs()
    assert float(moved.median()) == pytest.approx(1e-3, rel=1e-2)


def test_the_best_state_on_english_development_rows_is_kept(tiny):
    """At a rate this high the score goes up and down."""
    seen = []
    settings = replace(QUICK, epochs=4, learning_rate=0.05, clip=0, evaluations=8)
    tuned = fine_tune(tiny, [toys.task("pair")], settings, 1, progress=lambda *x: seen.append(x))
    outcome = tuned.outcome
    assert seen == [(i + 1, outcome.steps) for i in range(outcome.steps)]
    assert outcome.kept_step in {round(outcome.steps * k / 8) for k in range(1, 9)}
    (main, *_) = evaluate(tuned, toys.task("pair"), ["en"], split="dev")
    assert main["value"] == pytest.approx(outcome.dev["learn-pair"], abs=1e-9)
    last = fine_tune(tiny, [toys.task("pair")], replace(settings, evaluations=1), 1)
    assert outcome.dev["learn-pair"] >= last.outcome.dev["learn-pair"]


def test_several_tasks_share_an_encoder(tiny):
    three = [toys.task(format_) for format_ in ("pair", "choice", "tagging")]
    tuned = fine_tune(tiny, three, replace(QUICK, epochs=8), 0)
    assert set(tuned.heads) == set(tuned.tasks) == {task.name for task in three}
    for task in three:
        assert tuned.outcome.dev[task.name] > tuned.outcome.floor[task.name] + 0.1
        assert evaluate(tuned, task, ["en"])[0]["status"] == "done"
    assert tuned.outcome.rows == 3 * toys.SIZES["train"]


def test_a_target_is_trained_through_its_training_task(tiny):
    base = toys.task("pair", "train-elsewhere")
    tasks.register(base, replace=True)
    target = toys.task("pair", "elsewhere", train_with="train-elsewhere")
    tuned = fine_tune(tiny, [target], replace(QUICK, epochs=1), 0)
    assert list(tuned.heads) == ["train-elsewhere"]
    assert evaluate(tuned, target, ["en"])[0]["task"] == "elsewhere"


def test_counts_of_an_outcome(tiny):
    task = toys.task("pair")
    settings = replace(QUICK, epochs=2)
    outcome = fine_tune(tiny, [task], settings, 0).outcome
    texts = [row["first"] for row in toys.rows("pair", "en", "train")]
    tokens = sum(len(tiny.tokenizer(text)["input_ids"]) for text in texts)
    assert outcome.tokens == 2 * tokens and outcome.rows == 60
    assert outcome.steps == 2 * math.ceil(60 / (256 // 8))
    assert (
        outcome.precision == "fp32"
        and outcome.seed == 0
        and outcome.device.startswith(("cpu", "cuda"))
    )
    assert outcome.peak_memory_mb > 10 and outcome.seconds > 0


def test_limits_of_rows(tiny):
    settings = replace(QUICK, epochs=1, train_rows=12, dev_rows=5)
    prepared = prepare(tiny, [toys.task("pair")], settings, 0)
    assert prepared.outcome.rows == len(prepared.train["learn-pair"]) == 12
    assert len(prepared.dev["learn-pair"][0]) == 5


def without_answer(language, split):
    return [row | {"context": "no"} for row in toys.rows("span", language, split)]


def without_gold(language, split):
    return [row | {"gold": []} for row in toys.rows("retrieval", language, split)]


def test_a_task_without_anything_to_learn_is_an_error_and_no_endless_run(tiny):
    with pytest.raises(BadRows, match="learn-span"):
        fine_tune(tiny, [toys.task("span", read=without_answer)], QUICK, 0)
    with pytest.raises(BadRows, match="learn-retrieval.*has no gold"):
        fine_tune(tiny, [toys.task("retrieval", read=without_gold)], QUICK, 0)


def test_every_task_of_the_tiny_profile_can_be_trained_and_scored(tiny):
    names = tasks.names(group="tiny")
    assert {tasks.get(name).format for name in names} == {*toys.MAKERS}
    for name in names:
        task = tasks.get(name)
        if task.format == "retrieval":
            continue  # its candidates in English would be the queries themselves
        settings = replace(QUICK, epochs=0.1, train_rows=16, dev_rows=8)
        outcome = fine_tune(tiny, [task], settings, 0).outcome
        assert outcome.status == "done" and 0 <= outcome.dev[name] <= 1
