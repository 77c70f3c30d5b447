import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace

import pandas as pd
import pytest

from helpers import data, evaluation, results, study, tasks
from helpers.errors import MissingData
from helpers.models import training
from helpers.study.__main__ import main
from helpers.study.arm import Stopped, do
from helpers.study.profiles import TINY
from helpers.study.store import Store, missing

COLUMNS = ["run", "language", "metric", "seed", "value", "n", "status"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    store = Store(tmp_path_factory.mktemp("undisturbed"))
    return store, study.run(study.plan("tiny", store=store), store=store, progress=False)


def same(found, expected):
    pd.testing.assert_frame_equal(found[COLUMNS], expected[COLUMNS], atol=1e-6)


@pytest.fixture
def plan(undisturbed):
    return study.plan("tiny", store=undisturbed[0])


def test_the_tiny_study_learns_its_task(undisturbed):
    store, scores = undisturbed
    assert (scores["status"] == "done").all()
    english = scores[scores["language"] == "en"].groupby("target")["value"].mean()
    assert english["toy-slots"] > 0.9 and english["toy-intents"] > 0.3
    assert set(scores["language"]) == {"en", "qaa", "qab"}
    assert (scores["rows_trained"] > 0).equals(scores["target"] != "toy-messages")
    assert scores["data_hash"].str.len().eq(64).all() and scores["device"].str.len().gt(2).all()
    stages = store.scores(stage="intermediate")
    assert set(stages["split"]) == {"dev"} and set(stages["language"]) == {"en"}
    assert len(store.checkpoints()) == 2
    # A checkpoint matters.
    slots = scores[(scores["target"] == "toy-slots") & (scores["seed"] == 0)]
    by_start = slots.groupby("intermediate")["value"].agg(list)
    assert by_start[""] != by_start["toy-choice"] != by_start["toy-same"]


def test_targets_that_train_on_the_same_rows_share_one_fine_tuning(undisturbed, store, monkeypatch):
    twin = replace(tasks.get("toy-intents"), name="toy-twin", train_with="toy-intents")
    tasks.register(twin, replace=True)
    made, real = [], training.fine_tune
    counted = lambda *args, **more: made.append(args[1][0].name) or real(*args, **more)  # noqa: E731
    monkeypatch.setattr(training, "fine_tune", counted)
    alone = study.plan("tiny", targets=["toy-intents"], store=store)
    both = study.plan("tiny", targets=["toy-intents", "toy-twin"], store=store)
    assert len(both) > len(alone)
    assert both.runs["train_tokens"].sum() == alone.runs["train_tokens"].sum()
    scores = study.run(both, store=store, progress=False)
    assert made.count("toy-intents") == len(both.runs.query("target == 'toy-twin'"))
    first, second = (part.reset_index() for _, part in scores.groupby("target"))
    kept = ["intermediate", "seed", "language", "value", "n"]
    pd.testing.assert_frame_equal(first[kept], second[kept])
    expected = undisturbed[1].query("target == 'toy-intents'").reset_index()
    pd.testing.assert_frame_equal(first[kept], expected[kept], atol=1e-6)


def test_processes_give_the_same_scores(undisturbed, plan, store):
    found = study.run(plan, store=store, engine="processes", workers=2, progress=False)
    same(found, undisturbed[1])


def test_killed_and_resumed_gives_the_same_scores(undisturbed, plan, store):
    command = [sys.executable, "-m", "helpers.study", "--keep", "yes", "--plan"]
    command.append(str(plan.save(store.plans)))
    there = os.environ | {"TRANSFER_STORE": str(store.folder)}
    process = subprocess.Popen(command, env=there, stdout=subprocess.DEVNULL)
    while len(store.runs()) < 3 and process.poll() is None:
        time.sleep(0.2)
    process.send_signal(signal.SIGKILL)
    process.wait()
    left = missing(plan, store, keep=True)
    assert 0 < len(left) < len(plan)
    same(study.run(plan, store=store, progress=False), undisturbed[1])


def test_an_interrupted_run_goes_on_from_its_state(undisturbed, plan, store):
    first = plan.runs.iloc[0]
    assert first["target"] == "toy-intents" and first["condition"] == "none"
    told = []

    def steps():
        return [int(now.split()[-1].split("/")[0]) for now in told if ": step " in now]

    def tell(run, status, now):
        told.extend([now] * (run == first["run"]))

    asked = {"keep": True, "tell": tell}
    with pytest.raises(Stopped):
        do(plan, plan.arm_of[first["run"]], store, stop=lambda: len(steps()) >= 10, **asked)
    assert store.status(first["run"]) == "" and steps()[-1] == 10
    assert list(store.progress(first["run"]).rglob("*.safetensors"))
    assert do(plan, plan.arm_of[first["run"]], store, stop=lambda: False, **asked)
    assert steps() == list(range(1, steps()[-1] + 1)) and len(steps()) > 20
    assert not store.progress(first["run"]).exists()
    expected = undisturbed[1]
    expected = expected[expected["run"].isin(store.runs())].reset_index(drop=True)
    same(store.scores(), expected)


def test_a_flipped_checkpoint_is_made_again(undisturbed, plan, store):
    part = study.plan("tiny", targets=["toy-messages"], store=undisturbed[0])
    study.run(part, store=store, progress=False)
    weights = next((store.folder / "checkpoints").glob("*/encoder.safetensors"))
    content = bytearray(weights.read_bytes())
    content[-100] ^= 1
    weights.write_bytes(content)
    same(study.run(plan, store=store, progress=False), undisturbed[1])


def test_a_loss_that_is_no_number_is_recorded_and_retried(store):
    hot = replace(TINY.target, learning_rate=1e30, clip=0.0, epochs=3)
    profile = replace(TINY, target=hot, judged=("target",), targets=("toy-intents",))
    plan = study.plan(profile, intermediates=[], conditions=["none"], store=store)
    scores = study.run(plan, store=store, progress=False)
    assert (scores["status"] == "collapsed").all()
    tried = [each.seed for record in store.records(plan.runs["run"]) for each in record.attempts]
    assert sorted(tried) == [0, 1, 10_000, 10_001]
    assert missing(plan, store, keep=True) == []


def test_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TRANSFER_STORE", str(tmp_path / "store"))
    options = ["--profile", "tiny", "--intermediates", "toy-same", "--targets", "toy-messages"]
    assert main(options) == 0
    text = capsys.readouterr().err
    assert "3 runs of profile 'tiny'" in text and "2 evaluated runs, 4 scores" in text
    assert main(options) == 0
    assert "; 3 runs are stored, 0.0 minutes are left." in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*options, "--engine", "spark"])
    assert "invalid choice: 'spark' (choose from" in capsys.readouterr().err
    assert main(["--arms", "0123456789abcdef"]) == 2
    assert "--arms needs --plan" in capsys.readouterr().err
    assert main([*options, "--mode", "stored"]) == 0
    assert main(["--profile", "tiny", "--targets", "nix", "--engine", "local"]) == 2
    assert "unknown task 'nix'" in capsys.readouterr().err


@pytest.fixture
def learnt(undisturbed, monkeypatch):
    monkeypatch.setenv("TRANSFER_STORE", str(undisturbed[0].folder))
    return undisturbed[0]


def test_every_intermediate_has_a_score_and_the_floor_of_its_record(learnt):
    task = tasks.get("toy-same")
    labels = Counter(row["label"] for row in data.rows(task, "en", "dev"))
    share = max(labels.values()) / labels.total()  # of the commonest label
    assert evaluation.floor(task) == pytest.approx(share)
    table = results.learnt("tiny")
    assert set(table["intermediate"]) == {"toy-same", "toy-choice"}
    assert (table["stage"] == "intermediate").all() and table["value"].between(0, 1).all()
    for row in table.itertuples():
        notes = next(iter(learnt.records([row.run]))).attempts[-1].notes
        low = [note for note in notes if "is not above" in note]
        assert bool(low) == (not row.above)
        assert all(f"{row.floor:.3f} (constant" in note for note in low)


def test_committed_floors_are_read_and_missing_data_are_none(learnt, tmp_path, monkeypatch):
    monkeypatch.setattr(results, "FOLDER", tmp_path)
    learnt.export(tmp_path / "tiny.parquet")
    assert set(results.load("tiny")["stage"]) == {"target"} and len(results.learnt("tiny")) == 2
    (tmp_path / "tiny.parquet").unlink()
    live, file = results.learnt("tiny"), tmp_path / "tiny-floors.csv"
    assert live["floor"].notna().all() and len(live) == 2
    live[["intermediate", "metric"]].assign(floor=0.25).to_csv(file, index=False)
    assert set(results.learnt("tiny")["floor"]) == {0.25}
    file.unlink()

    def absent(*args, **options):
        raise MissingData("not here")

    monkeypatch.setattr(evaluation, "floor", absent)
    table = results.learnt("tiny")
    assert table["floor"].isna().all() and table["above"].isna().all()
