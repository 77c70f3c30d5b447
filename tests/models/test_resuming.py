from dataclasses import replace

import numpy as np
import pytest
import torch

from helpers.errors import BadRecord
from helpers.evaluation import evaluate
from helpers.files import load_tensors, save_tensors
from helpers.models import encoders, network, training
from helpers.models.training import Interrupted, Tuned, fine_tune, load_encoder
from tests.models import toys
from tests.models.toys import QUICK, assert_equal, weights

# Dropout and several evaluations, so that chance and the best state have to be taken up too.
SETTINGS = replace(QUICK, epochs=5, dropout=0.1, evaluations=3)
TWELVE = replace(QUICK, epochs=6, evaluations=4)  # 12 steps, scored after 3, 6, 9 and 12
STATE, SAVED = "state.safetensors", "encoder.safetensors"
PAIR, OUTPUT = "learn-pair", "encoder.layer.1.output.dense.weight"


def interrupted(encoder, tasks, folder, steps, settings=SETTINGS):
    """Stop a run after so many steps of this call; return the state that was written."""
    left = iter(range(steps - 1))
    stop = lambda: next(left, None) is None  # noqa: E731
    with pytest.raises(Interrupted, match=f"after {steps} of"):
        fine_tune(encoder, tasks, settings, 0, checkpoint=folder, stop=stop)
    return load_tensors(folder / STATE)


def assert_same_run(one, other):
    assert_equal(weights(one.encoder), weights(other.encoder))
    for name, head in one.heads.items():
        assert_equal(head.state_dict(), other.heads[name].state_dict())
    for fact in ("status", "dev", "floor", "steps", "kept_step", "tokens", "rows", "loss"):
        assert getattr(one.outcome, fact) == getattr(other.outcome, fact), fact


@pytest.fixture(scope="module")
def tasks():
    return [toys.task("pair"), toys.task("tagging")]


@pytest.fixture(scope="module")
def straight(tasks):
    with torch.random.fork_rng(devices=[]):
        return fine_tune(encoders.load("tiny"), tasks, SETTINGS, 0)


@pytest.mark.parametrize("steps", [1, 2, 6, 9])
def test_an_interrupted_run_ends_like_an_uninterrupted_one(steps, tiny, tasks, straight, tmp_path):
    """After one step the other task's head has no moments yet; later there is a best state."""
    assert straight.outcome.steps > 10
    state, facts = interrupted(tiny, tasks, tmp_path, steps)
    # The clock goes on where that of the first part stopped, and how often states are written
    # does not make another run.
    save_tensors(tmp_path / STATE, state, facts | {"seconds": 1000.0})
    torch.manual_seed(99)  # another process would not have this run's chance either
    made, rarely = [], replace(SETTINGS, checkpoint_seconds=1e6)
    look = lambda done, _: made.append(done)  # noqa: E731
    resumed = fine_tune(tiny, tasks, rarely, 0, checkpoint=tmp_path, progress=look)
    assert made == list(range(steps + 1, straight.outcome.steps + 1))
    assert_same_run(straight, resumed)
    assert resumed.outcome.notes == straight.outcome.notes
    assert 1000 < resumed.outcome.seconds < 1500


def test_a_run_may_be_interrupted_many_times(tiny, tasks, straight, tmp_path):
    for place in range(1, straight.outcome.steps):
        with pytest.raises(Interrupted, match=f"after {place} of"):
            fine_tune(tiny, tasks, SETTINGS, 0, checkpoint=tmp_path, stop=lambda: True)
    assert_same_run(straight, fine_tune(tiny, tasks, SETTINGS, 0, checkpoint=tmp_path))


def test_states_are_written_as_often_as_asked(tiny, tasks, tmp_path):
    written, settings = [], replace(SETTINGS, epochs=1, checkpoint_seconds=0)
    look = lambda done, total: written.append((tmp_path / STATE).exists())  # noqa: E731
    fine_tune(tiny, tasks, settings, 0, checkpoint=tmp_path, progress=look)
    assert written == [False, *[True] * (len(written) - 1)]  # after step 1, seen by step 2
    with pytest.raises(Interrupted, match="after 1 of"):  # without a folder nothing is written
        fine_tune(tiny, tasks, SETTINGS, 0, stop=lambda: True)


@pytest.mark.parametrize("name", [STATE, f"{STATE}.sha256"])
def test_a_damaged_state_is_left_aside_with_a_note(name, tiny, tasks, straight, tmp_path):
    interrupted(tiny, tasks, tmp_path, 3)
    content = bytearray((tmp_path / name).read_bytes())
    content[len(content) // 2] ^= 132
    (tmp_path / name).write_bytes(content)
    again = fine_tune(tiny, tasks, SETTINGS, 0, checkpoint=tmp_path)
    assert_same_run(straight, again)
    (note,) = again.outcome.notes
    assert note.startswith("started again: ") and STATE in note


@pytest.mark.parametrize("other", ["rows", "seed", "settings", "precision", "encoder"])
def test_a_state_of_another_run_is_left_aside_with_a_note(other, tiny, tmp_path, monkeypatch):
    pair = toys.task("pair")
    settings = replace(SETTINGS, epochs=2)
    interrupted(tiny, [pair], tmp_path, 2, settings)
    read = lambda language, split: toys.rows("pair", language + " too", split)  # noqa: E731
    run = {"encoder": tiny, "tasks": [pair], "settings": settings, "seed": 0}
    run |= {
        "rows": {"tasks": [toys.task("pair", read=read)]},
        "seed": {"seed": 1},
        "settings": {"settings": replace(settings, learning_rate=1e-3)},
        "precision": {},
        "encoder": {"encoder": encoders.load("tiny", seed=1)},
    }[other]
    if other == "precision":  # the second part is on another processor
        monkeypatch.setattr(network, "resolve_precision", lambda *_: "bf16")
    fresh, found = fine_tune(**run), fine_tune(**run, checkpoint=tmp_path)
    assert_same_run(fresh, found)
    note = "started again: the written state is of other data, settings or weights"
    assert found.outcome.notes == [note]


# The state with the best English development score is the one that is given back
def evaluations(monkeypatch, scores):
    """Let evaluations find these scores in turn; each also asks for that of the constant answer."""
    values = iter([value for score in scores for value in (score, 0.1)])
    monkeypatch.setattr(training.formats, "task_scores", lambda *_: {"accuracy": next(values)})


@pytest.mark.parametrize(
    ("scores", "kept"),
    [
        ((0.2, 0.9, 0.5, 0.4), 6),
        ((0.9, 0.2, 0.2, 0.2), 3),
        ((0.5, 0.5, 0.5, 0.1), 9),
        ((0.5, 0.5, 0.5, 0.5), 12),  # of equal scores the last counts
    ],
)
def test_the_state_of_the_best_score_comes_back(scores, kept, tiny, monkeypatch, tmp_path):
    evaluations(monkeypatch, scores)
    tuned = fine_tune(tiny, [toys.task("pair")], TWELVE, 0)
    assert (tuned.outcome.kept_step, tuned.outcome.steps) == (kept, 12)
    assert tuned.outcome.dev == {PAIR: max(scores)} and tuned.outcome.floor == {PAIR: 0.1}
    if kept < 12:
        evaluations(monkeypatch, scores)
        expected, _ = interrupted(tiny, [toys.task("pair")], tmp_path, kept, TWELVE)
        for part, tensor in tuned.heads[PAIR].state_dict().items():
            assert torch.equal(tensor, expected[f"now/heads.{PAIR}.{part}"])
        assert torch.equal(weights(tuned.encoder)[OUTPUT], expected[f"now/model.{OUTPUT}"])
        # Later states keep the best one for whoever goes on.
        run = {"encoder": tiny, "tasks": [toys.task("pair")], "settings": TWELVE, "seed": 0}
        with pytest.raises(Interrupted):
            fine_tune(**run, checkpoint=tmp_path, stop=lambda: True)
        assert_same_run(tuned, fine_tune(**run, checkpoint=tmp_path))


def test_of_several_tasks_the_mean_counts(tiny, monkeypatch):
    evaluations(monkeypatch, (0.9, 0.1, 0.6, 0.6))
    pairs = [toys.task("pair"), toys.task("pair", "other")]
    outcome = fine_tune(tiny, pairs, replace(TWELVE, evaluations=2), 0).outcome
    assert outcome.dev == {PAIR: 0.6, "other": 0.6} and outcome.kept_step == outcome.steps


# Saved encoders
@pytest.fixture(scope="module", params=[True, False], ids=["frozen", "trained"])
def tuned(request):
    base = replace(encoders.load("tiny"), freeze_embeddings=request.param)
    with torch.random.fork_rng(devices=[]):
        settings = replace(QUICK, epochs=2)
        return base, fine_tune(base, [toys.task("pair")], settings, 0), request.param


@pytest.fixture
def saved(tuned, tmp_path):
    tuned[1].save_encoder(tmp_path)
    return tmp_path


def test_a_saved_encoder_comes_back_whole(tuned, saved):
    base, result, frozen = tuned
    before = weights(base)
    found = load_encoder(base, saved)
    assert_equal(weights(found), weights(result.encoder))
    assert_equal(weights(base), before)
    assert ("embeddings.word_embeddings.weight" in load_tensors(saved / SAVED)[0]) != frozen
    assert (found.kept, found.name, found.sha256) == (None, base.name, base.sha256)
    heads, facts = load_tensors(saved / "heads.safetensors")
    assert facts == {"pooling": "mean"}
    assert torch.equal(heads[f"{PAIR}/out.weight"], result.heads[PAIR].out.weight)
    # It predicts and trains like the one in memory.
    again = Tuned(found, result.heads, result.tasks, result.settings)
    assert evaluate(again, toys.task("pair")) == evaluate(result, toys.task("pair"))
    settings, choice = replace(QUICK, epochs=1), [toys.task("choice")]
    assert_same_run(*(fine_tune(e, choice, settings, 0) for e in (found, result.encoder)))


def test_an_encoder_is_loaded_onto_its_own_base_only(tuned, saved):
    base, _, _ = tuned
    with pytest.raises(BadRecord, match="trained from encoder 'tiny' with other weights"):
        load_encoder(encoders.load("tiny", seed=1), saved)
    with pytest.raises(BadRecord, match="do not fit the 1 layers"):
        load_encoder(encoders.trim(encoders.load("tiny"), 1), saved)
    state, facts = load_tensors(saved / SAVED)
    table = "embeddings.word_embeddings.weight"
    for wrong in (
        {n: tensor for n, tensor in state.items() if n != OUTPUT},
        state | {OUTPUT: state[OUTPUT][:, :3]},
        state | {table: torch.zeros(7, base.dimension)},
    ):
        save_tensors(saved / SAVED, wrong, facts)
        with pytest.raises(BadRecord, match="do not fit"):
            load_encoder(base, saved)


def test_unused_pieces_keep_their_vectors_through_two_stages(tuned):
    base, result, _ = tuned
    thawed = replace(result.encoder, freeze_embeddings=False)
    second = fine_tune(thawed, [toys.task("choice")], replace(QUICK, epochs=1), 0)
    first, last = (e.model.get_input_embeddings().weight.detach() for e in (base, second.encoder))
    texts = [row["first"] for row in toys.rows("pair", "en", "train")]
    for row in toys.rows("choice", "en", "train"):
        texts += [row["context"], *row["choices"]]
    used = np.unique([piece for text in texts for piece in base.tokenizer(text)["input_ids"]])
    unused = np.setdiff1d(np.arange(len(first)), used)
    assert len(unused) > 500 and torch.equal(first[unused], last[unused])
