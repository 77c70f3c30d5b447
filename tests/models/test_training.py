import math
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers import tasks
from helpers.data import packages
from helpers.errors import BadRows, HelpfulError, MissingData, UnknownName
from helpers.evaluation import evaluate
from helpers.models import FIXED, Settings, encoders, network, training
from helpers.models.network import Network
from helpers.models.training import MLM, Interrupted, Run, fine_tune, prepare
from helpers.tasks import demo
from tests.models import toys
from tests.models.toys import QUICK, assert_equal, weights

PAIR = "learn-pair"
OUTPUT = "encoder.layer.1.output.dense.weight"
SHUFFLED = replace(QUICK, shuffle_labels=True)
MIXED = replace(QUICK, epochs=6, mlm_share=0.4, mlm_languages=("de", "fr"), mlm_rows=30)


def assert_close(one, other, atol=2e-5):
    """Compare weights, but not the bias of the keys: its gradient is zero, and Adam blows up noise."""
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        if not name.endswith("key.bias"):
            torch.testing.assert_close(tensor, other[name], atol=atol, rtol=1e-4, msg=name)


# Settings
WRONG = {
    **{"epochs": (0, float("nan")), "learning_rate": (-1, "1e-3"), "head_rate": (0,)},
    **{"batch_tokens": (256.5,), "train_rows": (-1,), "dev_rows": (True,), "clip": (None,)},
    **{"mlm_share": (1,), "warmup": (1.5,), "dropout": (-0.1,), "max_length": (4,)},
    **{"shuffle_labels": ("no",), "mlm_languages": ("de",), "pooling": (3,)},
}


@pytest.mark.parametrize(("name", "value"), [(n, v) for n, many in WRONG.items() for v in many])
def test_settings_that_cannot_be_meant_are_refused(name, value):
    with pytest.raises(HelpfulError, match=name):
        Settings(**{name: value})


def test_settings_are_named_in_full_and_keep_their_hash():
    """Settings that are fixed now stay in what is hashed, so that stored runs keep their ids."""
    for wrong, nearest in (("learningrate", "'learning_rate'"), ("weight_decay", "'weight_decay'")):
        with pytest.raises(UnknownName, match=nearest):
            Settings().override({wrong: 1})
    with pytest.raises(UnknownName, match="'mean'"):
        Settings(pooling="max")
    with pytest.raises(UnknownName, match="'bf16'"):
        Settings(precision="fp16")
    changed = Settings().override({"epochs": 7, "mlm_languages": ["de"]})
    assert changed == replace(Settings(), epochs=7, mlm_languages=("de",))
    assert Settings().override(changed.facts()) == changed
    assert changed.facts().keys() == asdict(changed).keys() | FIXED.keys()


# What is learnt, and what is left alone
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


def test_real_commands_are_learnt_by_the_real_encoder(packaged):
    if not packages.is_installed(demo.COMMANDS):
        pytest.skip(packages.pip_line(demo.COMMANDS))
    encoder, task = encoders.trim(encoders.load("bundled"), 3), tasks.get("intents")
    table = encoder.model.get_input_embeddings().weight
    before = table.detach()[:2000].clone()
    settings = Settings(epochs=2, head_rate=10, batch_tokens=48, train_rows=48, dev_rows=40)
    still, tuned = (
        fine_tune(encoder, [task], replace(settings, max_length=24, learning_rate=rate), 0)
        for rate in (1e-12, 3e-4)
    )
    assert tuned.outcome.status == "done" and tuned.outcome.rows == 48
    assert tuned.outcome.loss < 0.9 * still.outcome.loss
    shared = tuned.encoder.model.get_input_embeddings().weight
    assert torch.equal(shared[:2000], before) and shared.data_ptr() == table.data_ptr()
    found = evaluate(tuned, task, ["en", "de", "fr"], rows=8)
    assert all(entry["status"] == "done" and entry["n"] == 8 for entry in found)
    assert np.isfinite([entry["value"] for entry in found]).all()


def test_the_given_encoder_is_left_alone_and_counts_are_right(tiny):
    before, needs = weights(tiny), [p.requires_grad for p in tiny.model.parameters()]
    tuned = fine_tune(tiny, [toys.task("pair")], replace(QUICK, epochs=2), 0)
    assert_equal(weights(tiny), before)
    assert [p.requires_grad for p in tiny.model.parameters()] == needs
    assert not tiny.model.training and tiny.model.config.vocab_size == len(tiny.tokenizer)
    changed = weights(tuned.encoder)
    assert all(changed[name].shape == tensor.shape for name, tensor in before.items())
    assert tuned.encoder.kept is None
    texts = [row["first"] for row in toys.rows("pair", "en", "train")]
    tokens = sum(len(tiny.tokenizer(text)["input_ids"]) for text in texts)
    assert tuned.outcome.tokens == 2 * tokens and tuned.outcome.rows == 60
    outcome = tuned.outcome
    assert outcome.steps == 2 * math.ceil(60 / (256 // 8))
    assert (outcome.precision, outcome.seed) == ("fp32", 0)
    assert outcome.device.startswith(("cpu", "cuda"))
    assert outcome.peak_memory_mb > 10 and outcome.seconds > 0


@pytest.mark.parametrize("frozen", [True, False])
def test_word_embeddings_change_only_where_they_may(frozen, tiny):
    task = toys.task("pair")
    tuned = fine_tune(replace(tiny, freeze_embeddings=frozen), [task], replace(QUICK, epochs=2), 0)
    before, after = (e.model.get_input_embeddings().weight.detach() for e in (tiny, tuned.encoder))
    changed = set(torch.nonzero((before != after).any(1))[:, 0].tolist())
    texts = [row["first"] for row in toys.rows("pair", "en", "train")]
    used = {piece for text in texts for piece in tiny.tokenizer(text)["input_ids"]}
    assert changed == (set() if frozen else used)
    assert not torch.equal(weights(tiny)[OUTPUT], weights(tuned.encoder)[OUTPUT])


def test_pruning_changes_nothing_and_the_seed_fixes_everything(tiny):
    """The same run with every piece kept gives the same weights."""
    settings = replace(QUICK, epochs=1)
    small, whole = (prepare(tiny, [toys.task("tagging")], settings, 0) for _ in range(2))
    for encoded in (*whole.train.values(), *(coded for _, coded in whole.dev.values())):
        encoded.tokens = whole.pruned.kept[encoded.tokens]
    whole.pruned = tiny.prune(np.arange(len(tiny.tokenizer)))
    assert len(small.pruned.kept) < 40
    one, other = (Run(prepared, settings, 0).train() for prepared in (small, whole))
    assert_close(weights(one.encoder), weights(other.encoder))
    assert one.outcome.dev == other.outcome.dev
    settings = replace(settings, dropout=0.1)
    one, same, other = (fine_tune(tiny, [toys.task("pair")], settings, s) for s in (3, 3, 4))
    assert_equal(weights(one.encoder), weights(same.encoder))
    assert_equal(one.heads[PAIR].state_dict(), same.heads[PAIR].state_dict())
    assert one.outcome.loss == same.outcome.loss != other.outcome.loss


def test_several_tasks_share_an_encoder(tiny):
    three = [toys.task(format_) for format_ in ("pair", "choice", "tagging")]
    tuned = fine_tune(tiny, three, replace(QUICK, epochs=8), 0)
    assert set(tuned.heads) == set(tuned.tasks) == {task.name for task in three}
    for task in three:
        assert tuned.outcome.dev[task.name] > tuned.outcome.floor[task.name] + 0.1
        assert evaluate(tuned, task, ["en"])[0]["status"] == "done"
    assert tuned.outcome.rows == 3 * toys.SIZES["train"]


def test_a_target_is_trained_through_its_training_task(tiny):
    tasks.register(toys.task("pair", "train-elsewhere"), replace=True)
    target = toys.task("pair", "elsewhere", train_with="train-elsewhere")
    # Adam's first step is as long as the rate, whatever the gradient; heads learn at their own.
    settings = replace(QUICK, epochs=0.01, warmup=0, head_rate=5, learning_rate=1e-3, clip=0)
    tuned = fine_tune(tiny, [target], settings, 0)
    assert list(tuned.heads) == ["train-elsewhere"] and tuned.outcome.steps == 1
    assert evaluate(tuned, target, ["en"])[0]["task"] == "elsewhere"
    step = tuned.heads["train-elsewhere"].out.bias.detach().abs()  # it starts from 0
    assert step.numpy() == pytest.approx(5e-3, rel=1e-3)
    name = "encoder.layer.1.output.dense.bias"
    moved = (weights(tuned.encoder)[name] - weights(tiny)[name]).abs()
    assert float(moved.median()) == pytest.approx(1e-3, rel=1e-2)


# A step
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
    one, other = (replace(quick, epochs=1, gradient_checkpointing=asked) for asked in (False, True))
    found = (fine_tune(tiny, [toys.task("pair")], each, 0).encoder for each in (one, other))
    assert_close(*map(weights, found))


# Rows without anything to learn, shuffled labels, masked text
def changed(format_, **change):
    """A task whose rows are changed."""
    read = lambda language, split: [r | change for r in toys.rows(format_, language, split)]  # noqa: E731
    return toys.task(format_, read=read)


def test_a_task_without_anything_to_learn_is_an_error_and_rows_can_be_limited(tiny):
    with pytest.raises(BadRows, match="learn-span"):
        fine_tune(tiny, [changed("span", context="no")], QUICK, 0)
    with pytest.raises(BadRows, match="learn-retrieval.*has no gold"):
        fine_tune(tiny, [changed("retrieval", gold=[])], QUICK, 0)
    settings = replace(QUICK, epochs=1, train_rows=12, dev_rows=5)
    prepared = prepare(tiny, [toys.task("pair")], settings, 0)
    assert prepared.outcome.rows == len(prepared.train[PAIR]) == 12
    assert len(prepared.dev[PAIR][0]) == 5


def labels(task, encoder, settings, seed=0):
    encoded = prepare(encoder, [task], settings, seed).train[task.name]
    if task.format == "pair":
        return encoded.per_sequence["label"]
    if task.format == "tagging":
        return encoded.per_token["tag"][encoded.per_token["word"] >= 0]
    return np.flatnonzero(encoded.per_sequence["right"]) - encoded.units[:-1]


@pytest.mark.parametrize("format_", ["pair", "choice", "tagging"])
def test_shuffled_labels_keep_their_counts_and_lose_their_rows(format_, tiny):
    task, asked = toys.task(format_), ((QUICK, 0), (SHUFFLED, 0), (SHUFFLED, 1))
    plain, shuffled, other = (labels(task, tiny, *each) for each in asked)
    assert Counter(plain.tolist()) == Counter(shuffled.tolist())
    assert not np.array_equal(shuffled, other)
    # As many agree as chance would have it, within four standard deviations.
    shares = np.bincount(plain) / len(plain)
    chance = (shares**2).sum()
    spread = np.sqrt(chance * (1 - chance) / len(plain))
    assert abs((plain == shuffled).mean() - chance) < 4 * spread
    # The texts are those of the task, and development labels stay right.
    sets = [prepare(tiny, [task], settings, 0) for settings in (QUICK, SHUFFLED)]
    tokens = [prepared.train[task.name].tokens.tolist() for prepared in sets]
    rows = [list(prepared.dev[task.name][0]) for prepared in sets]
    assert tokens[0] == tokens[1] and rows[0] == rows[1]


def test_a_shuffled_label_never_points_beyond_the_choices_of_its_row(tiny):
    def some_choices(language, split):
        rows = toys.rows("choice", language, split)
        counts = [2 + number % 2 for number in range(len(rows))]
        return [
            row | {"choices": row["choices"][:n], "label": at % n}
            for at, (row, n) in enumerate(zip(rows, counts, strict=True))
        ]

    task = toys.task("choice", read=some_choices)
    encoded = prepare(tiny, [task], SHUFFLED, 0).train[task.name]
    right = np.add.reduceat(encoded.per_sequence["right"].astype(int), encoded.units[:-1])
    assert (right == 1).all() and set(np.diff(encoded.units)) == {2, 3}


def test_nothing_is_learnt_of_shuffled_labels(tiny):
    plain, shuffled = (
        fine_tune(tiny, [toys.task("pair")], replace(settings, epochs=25), 0).outcome
        for settings in (QUICK, SHUFFLED)
    )
    assert plain.dev[PAIR] > 0.8 and shuffled.dev[PAIR] < 0.6 and shuffled.floor == plain.floor
    for format_ in ("span", "retrieval"):
        with pytest.raises(HelpfulError, match="pair, choice and tagging"):
            prepare(tiny, [toys.task(format_)], SHUFFLED, 0)


@pytest.fixture
def texts(tmp_path, monkeypatch):
    for language, words in (("de", "other many people"), ("fr", "number which long way")):
        lines = [f"{words} {number} the first call" for number in range(50)]
        (tmp_path / f"{language}.txt").write_text("\n".join(lines))
    monkeypatch.setenv("TRANSFER_TEXT_ROOT", str(tmp_path))
    return tmp_path


def test_masked_text_is_mixed_in_and_its_head_is_trained(tiny, texts):
    prepared = prepare(tiny, [toys.task("pair")], MIXED, 0)
    assert prepared.train[MLM].rows == 60
    run = Run(prepared, MIXED, 0)
    mixed = torch.tensor([name == MLM for name, _ in run.steps])
    assert 0.15 < mixed.float().mean() < 0.7
    before = run.network.head(MLM).out.weight.detach().clone()
    assert before.shape[0] == len(run.small.kept)  # only pieces that the run knows
    run.train()
    assert float((run.network.head(MLM).out.weight.detach() - before).abs().max()) > 1e-3
    losses = run.losses[mixed]
    assert losses[-1] < losses[0]


def test_the_head_over_pieces_is_dropped_and_the_task_is_scored(tiny, texts):
    task = toys.task("pair")
    tuned = fine_tune(tiny, [task], MIXED, 0)
    assert list(tuned.heads) == list(tuned.tasks) == list(tuned.outcome.dev) == [PAIR]
    assert tuned.outcome.rows == toys.SIZES["train"]
    assert MLM in tuned.outcome.fingerprints and "folder" in tuned.outcome.sources[MLM]
    assert evaluate(tuned, task, ["en"])[0]["status"] == "done"
    plain = fine_tune(tiny, [task], replace(MIXED, mlm_share=0), 0)
    assert not torch.equal(weights(tuned.encoder)[OUTPUT], weights(plain.encoder)[OUTPUT])
    # Other text is another run.
    (texts / "de.txt").write_text("now the people know\n")
    other = prepare(tiny, [task], MIXED, 0).outcome.fingerprints
    assert other[MLM] != tuned.outcome.fingerprints[MLM]
    assert other[PAIR] == tuned.outcome.fingerprints[PAIR]
    with pytest.raises(BadRows, match="mlm_languages is empty"):
        prepare(tiny, [task], replace(MIXED, mlm_languages=()), 0)
    with pytest.raises(MissingData, match="'sw'"):
        prepare(tiny, [task], replace(MIXED, mlm_languages=("de", "sw")), 0)


# Memory that runs out, and losses that are no longer numbers

FULL = "[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried"


def full_above(monkeypatch, tokens, states=Network.states):
    """Let a forward pass run out of memory above so many padded tokens."""
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
    whole = fine_tune(tiny, [toys.task(format_)], settings, 0).outcome
    refused = full_above(monkeypatch, 100)
    halved = fine_tune(tiny, [toys.task(format_)], settings, 0).outcome
    assert refused
    budgets = (128,) if format_ == "choice" else (128, 64)  # three choices stay together
    said = "memory ran out: {} tokens per forward pass from here"
    assert halved.notes == [said.format(tokens) for tokens in budgets]
    assert halved.steps == whole.steps and halved.loss == pytest.approx(whole.loss, rel=1e-2)


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


def test_one_row_that_does_not_fit_is_an_error_and_others_are_not_taken_for_it(tiny, monkeypatch):
    full_above(monkeypatch, 3)
    with pytest.raises(HelpfulError, match="memory ran out.*max_length"):
        fine_tune(tiny, [toys.task("pair")], QUICK, 0)
    monkeypatch.setattr(Network, "states", lambda *_: torch.zeros(1) @ torch.zeros(2))
    with pytest.raises(RuntimeError, match="size"):
        fine_tune(tiny, [toys.task("pair")], QUICK, 0)
    # What a full memory looks like.
    cuda = ["CUDA error: out of memory", "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"]
    errors = [MemoryError(), torch.OutOfMemoryError("CUDA out of memory.")]
    assert all(map(network.out_of_memory, [*errors, *map(RuntimeError, [FULL, *cuda])]))
    others = [RuntimeError("CUDA error: device-side assert triggered"), ValueError(FULL)]
    assert not any(map(network.out_of_memory, others))


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
    if not (place := Path("/proc/self/statm")).exists():
        pytest.skip("the system does not say what a process takes")
    after = []
    for number in range(10):
        settings = replace(QUICK, epochs=1, batch_tokens=256 * (1 + number % 3))
        format_ = ("pair", "span", "choice")[number % 3]
        tuned = fine_tune(tiny, [toys.task(format_)], settings, number)
        evaluate(tuned, toys.task(format_), ["en"])
        after.append(int(place.read_text().split()[1]) * 4096 / 1e6)
    assert after[-1] < after[2] + 15
