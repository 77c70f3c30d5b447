from dataclasses import replace

import pytest
import torch

from helpers.files import load_tensors, save_tensors
from helpers.models import encoders
from helpers.models.settings import Settings
from helpers.models.training import Interrupted, fine_tune
from tests.models import toys
from tests.models.toys import QUICK, assert_equal, weights

# Dropout and several evaluations, so that chance and the best state have to be taken up too.
SETTINGS = replace(QUICK, epochs=5, dropout=0.1, evaluations=3)
STATE = "state.safetensors"


def stop_after(steps):
    """Say stop once so many steps of this call are made."""
    left = iter(range(steps - 1))
    return lambda: next(left, None) is None


def interrupted(encoder, tasks, folder, steps, settings=SETTINGS, seed=0):
    with pytest.raises(Interrupted, match=f"after {steps} of"):
        fine_tune(encoder, tasks, settings, seed, checkpoint=folder, stop=stop_after(steps))
    assert (folder / STATE).exists()


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
    interrupted(tiny, tasks, tmp_path, steps)
    torch.manual_seed(99)  # another process would not have this run's chance either
    made = []
    resumed = fine_tune(
        tiny, tasks, SETTINGS, 0, checkpoint=tmp_path, progress=lambda done, _: made.append(done)
    )
    assert made[0] == steps + 1
    assert_same_run(straight, resumed)
    assert resumed.outcome.notes == straight.outcome.notes


def test_a_run_may_be_interrupted_many_times(tiny, tasks, straight, tmp_path):
    for place in range(1, straight.outcome.steps):
        with pytest.raises(Interrupted, match=f"after {place} of"):
            fine_tune(tiny, tasks, SETTINGS, 0, checkpoint=tmp_path, stop=lambda: True)
    assert_same_run(straight, fine_tune(tiny, tasks, SETTINGS, 0, checkpoint=tmp_path))


def test_states_are_written_as_often_as_asked(tiny, tasks, tmp_path):
    written = []

    def look(done, total):
        written.append((tmp_path / STATE).exists())

    settings = replace(SETTINGS, epochs=1, checkpoint_seconds=0)
    fine_tune(tiny, tasks, settings, 0, checkpoint=tmp_path, progress=look)
    assert written == [False, *[True] * (len(written) - 1)]  # after step 1, seen by step 2


def test_without_a_folder_nothing_is_written_and_stopping_still_works(tiny, tasks):
    with pytest.raises(Interrupted, match="after 1 of"):
        fine_tune(tiny, tasks, SETTINGS, 0, stop=lambda: True)


DAMAGES = {
    "flipped": (
        STATE,
        lambda content: content[:2000] + bytes([content[2000] ^ 4]) + content[2001:],
    ),
    "truncated": (STATE, lambda content: content[:1000]),
    "no checksum": (f"{STATE}.sha256", lambda content: b""),
    "damaged checksum": (f"{STATE}.sha256", lambda content: b"\xff" + content[1:]),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_state_is_left_aside_with_a_note(damage, tiny, tasks, straight, tmp_path):
    interrupted(tiny, tasks, tmp_path, 3)
    name, change = DAMAGES[damage]
    path = tmp_path / name
    path.write_bytes(change(path.read_bytes()))
    again = fine_tune(tiny, tasks, SETTINGS, 0, checkpoint=tmp_path)
    assert_same_run(straight, again)
    (note,) = again.outcome.notes
    assert note.startswith("started again: ") and STATE in note


def other_rows(language, split):
    return toys.rows("pair", language + " too", split)


@pytest.mark.parametrize("other", ["rows", "seed", "settings", "encoder"])
def test_a_state_of_another_run_is_left_aside_with_a_note(other, tiny, tmp_path):
    pair = toys.task("pair")
    settings = replace(SETTINGS, epochs=2)
    interrupted(tiny, [pair], tmp_path, 2, settings)
    run = {"encoder": tiny, "tasks": [pair], "settings": settings, "seed": 0}
    run |= {
        "rows": {"tasks": [toys.task("pair", read=other_rows)]},
        "seed": {"seed": 1},
        "settings": {"settings": replace(settings, learning_rate=1e-3)},
        "encoder": {"encoder": encoders.load("tiny", seed=1)},
    }[other]
    fresh = fine_tune(**run)
    found = fine_tune(**run, checkpoint=tmp_path)
    assert_same_run(fresh, found)
    assert found.outcome.notes == [
        "started again: the written state is of other data, settings or weights"
    ]


def test_how_often_states_are_written_does_not_make_another_run(tiny, tasks, straight, tmp_path):
    interrupted(tiny, tasks, tmp_path, 3)
    settings = replace(SETTINGS, checkpoint_seconds=1e6)
    found = fine_tune(tiny, tasks, settings, 0, checkpoint=tmp_path)
    assert not found.outcome.notes
    assert_same_run(straight, found)


def test_seconds_of_the_parts_add_up(tiny, tmp_path, monkeypatch):
    """The clock of a resumed run starts where that of the first part stopped."""
    interrupted(tiny, [toys.task("pair")], tmp_path, 3, Settings(**vars(SETTINGS)))
    state, facts = load_tensors(tmp_path / STATE)
    save_tensors(tmp_path / STATE, state, facts | {"seconds": 1000.0})
    found = fine_tune(tiny, [toys.task("pair")], SETTINGS, 0, checkpoint=tmp_path)
    assert not found.outcome.notes and 1000 < found.outcome.seconds < 1500
