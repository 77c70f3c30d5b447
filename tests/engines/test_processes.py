"""Several processes on one store: every run once, whatever dies."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from helpers import study
from helpers.errors import HelpfulError
from helpers.study.engines import processes
from helpers.study.plans import Plan
from helpers.study.resuming import missing
from helpers.study.store import Store
from tests.engines import fake

COLUMNS = ["run", "language", "seed", "value", "status"]


def ended() -> list[str]:
    return [entry[1] for entry in fake.trace() if entry[0] == "end"]


def reference(plan: Plan, tmp_path: Path) -> pd.DataFrame:
    """The scores of an undisturbed run in this process."""
    trace = os.environ.pop("FAKE_TRACE")
    try:
        return study.run(plan, store=Store(tmp_path / "reference"), progress=False)[COLUMNS]
    finally:
        os.environ["FAKE_TRACE"] = trace


def start(plan: Plan, store: Store, *arguments: str) -> subprocess.Popen[bytes]:
    path = plan.save(store.folder / "plans")
    command = [sys.executable, "-m", "helpers.study.run", "--plan", str(path), "--store"]
    command += [str(store.folder), "--keep", *arguments]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def test_processes_give_the_scores_of_one_process_and_do_each_run_once(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = fake.make_plan(intermediates=3, targets=3)
    # Runs are so quick that the first process could do all before the others have started.
    monkeypatch.setenv("FAKE_MEET", "2")
    scores = study.run(plan, store=store, engine="processes", workers=3, progress=False)
    monkeypatch.delenv("FAKE_MEET")
    pd.testing.assert_frame_equal(scores[COLUMNS], reference(plan, tmp_path))
    assert sorted(ended()) == sorted(plan.runs["run"])
    assert len({entry[3] for entry in fake.trace()}) > 1
    assert not list((store.folder / "claims").glob("*.json"))


def test_failures_in_processes_are_tried_once_and_reported(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_FAIL", "t1")
    plan = fake.make_plan()
    scores = study.run(plan, store=store, engine="processes", workers=2, progress=False)
    assert scores.loc[scores["target"] == "t1", "status"].str.startswith("failed").all()
    assert (scores.loc[scores["target"] == "t0", "status"] == "done").all()
    begun = [entry[1] for entry in fake.trace() if entry[0] == "begin"]
    assert len(begun) == len(plan)


def test_a_worker_that_keeps_dying_is_given_up_with_its_log(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_DIE", "1")
    monkeypatch.setattr(processes, "RESTARTS", 1)
    with pytest.raises(HelpfulError, match=r"died 2 times.*worker-0\.log"):
        study.run(fake.make_plan(), store=store, engine="processes", workers=1, progress=False)
    assert store.runs() == set()


def test_an_error_that_would_only_repeat_ends_the_plan(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRANSFER_WORKER", "os:no_such_function")
    with pytest.raises(HelpfulError, match="gave up.*no_such_function"):
        plan = fake.make_plan(targets=6)
        study.run(plan, store=store, engine="processes", workers=1, progress=False)


def test_processes_on_one_store_that_are_killed_again_and_again_lose_nothing(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = fake.make_plan(intermediates=4, targets=3)
    expected = reference(plan, tmp_path)
    monkeypatch.setenv("FAKE_STEP", "0.02")
    chance, kills = random.Random(7), 0
    while missing(plan, store, keep=True):
        before = len(fake.trace())
        pair = [start(plan, store, "--missing", "--share", f"{n}/2") for n in range(2)]
        deadline = time.monotonic() + 60
        while len(fake.trace()) < before + 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(chance.random())
        for process in pair:
            kills += process.poll() is None
            process.send_signal(signal.SIGKILL)
            process.wait()
        assert not store.rejected
        known = store.scores()[COLUMNS]
        merged = known.merge(expected, how="left", indicator=True)
        assert (merged["_merge"] == "both").all(), "a score that differs or was counted twice"
    scores = study.run(plan, store=store, progress=False)
    pd.testing.assert_frame_equal(scores[COLUMNS], expected)
    assert kills >= 2
    # A kill between the end of the work and its record may repeat a run, and nothing else may.
    assert len(ended()) <= len(plan) + kills


def test_sigterm_writes_the_state_and_the_next_start_goes_on(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_STEP", "0.5")
    plan = fake.make_plan(intermediates=1, targets=1)
    run = plan.runs["run"][0]
    process = start(plan, store, run)
    deadline = time.monotonic() + 60
    while not fake.trace() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.6)
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 143
    assert time.monotonic() - began < 20
    assert store.status(run) == "" and not store.claimed(run)
    state = store.progress(run) / "0" / "state.json"
    assert '"done": ' in state.read_text()
    monkeypatch.setenv("FAKE_STEP", "0")
    assert start(plan, store, run).wait(60) == 0
    assert store.status(run) == "done" and not state.exists()


def test_a_process_that_does_not_react_to_sigterm_is_ended_in_time(tmp_path: Path) -> None:
    code = (
        "import time\n"
        "from helpers.study.engines import signals\n"
        "signals.GRACE = 0.5\n"
        "with signals.terminated():\n"
        "    print('ready', flush=True)\n"
        "    end = time.monotonic() + 60\n"
        "    while time.monotonic() < end: pass\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert process.stdout
    process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    assert process.wait(15) == 143
    process.stdout.close()


def test_a_target_alone_does_its_intermediate_first(store: Store) -> None:
    plan = fake.make_plan()
    target = plan.runs["run"].iloc[-1]
    assert start(plan, store, target).wait(60) == 0
    assert store.runs() == {target, plan.parents[target]}


def test_the_same_call_again_does_nothing(store: Store) -> None:
    plan = fake.make_plan()
    run = plan.runs["run"][0]
    for _ in range(2):
        assert start(plan, store, run).wait(60) == 0
    assert ended() == [run]


def test_a_run_is_found_without_naming_its_plan(store: Store) -> None:
    plan = fake.make_plan()
    plan.save(store.folder / "plans")
    fake.make_plan(seeds=2).save(store.folder / "plans")
    command = [sys.executable, "-m", "helpers.study.run", "--store", str(store.folder)]
    run = plan.runs["run"][0]
    assert subprocess.run([*command, run], capture_output=True).returncode == 0
    lost = subprocess.run([*command, "0123456789abcdef"], capture_output=True, text=True)
    assert lost.returncode == 2 and "no stored plan" in lost.stderr


def test_shares_of_cores_and_gpus(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(processes, "cores", lambda: 8)
    monkeypatch.setattr(processes, "DEVICES", tmp_path)
    assert processes.pinned(0, 4)["OMP_NUM_THREADS"] == "2"
    assert "CUDA_VISIBLE_DEVICES" not in processes.pinned(0, 4)
    for name in ("nvidia0", "nvidia1", "nvidia10", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    assert processes.gpu_numbers() == ["0", "1", "10"]
    assert processes.default_workers() == 3
    assert processes.pinned(4, 6)["CUDA_VISIBLE_DEVICES"] == "1"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5")
    assert processes.gpu_numbers() == ["5"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert processes.gpu_numbers() == []


def test_jobs_side_by_side_take_different_gpus(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from helpers.study.engines.pinning import pin

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(processes, "DEVICES", tmp_path)
    (tmp_path / "nvidia0").touch()
    (tmp_path / "nvidia1").touch()
    code = (
        "import sys, time; from pathlib import Path\n"
        "from helpers.study.engines import pinning, processes\n"
        "processes.DEVICES = Path(sys.argv[1])\n"
        "with pinning.pin(Path(sys.argv[1]) / 'claims', True) as number:\n"
        "    print(number, flush=True); time.sleep(60)\n"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert other.stdout and other.stdout.readline().strip() == "0"
        with pin(tmp_path / "claims", True) as number:
            assert number == "1" == os.environ["CUDA_VISIBLE_DEVICES"]
        assert "CUDA_VISIBLE_DEVICES" not in os.environ
    finally:
        other.kill()
        other.wait()
        assert other.stdout
        other.stdout.close()
    with pin(tmp_path / "claims", True) as number:
        assert number == "0"  # the holder was killed
    with pin(tmp_path / "claims", False) as number:
        assert number == ""
