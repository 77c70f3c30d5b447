"""What every engine promises: each run once, the scores of one process, and nothing lost by a kill."""

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import pandas as pd
import psutil
import pytest

from helpers import study
from helpers.errors import BadPlan, HelpfulError
from helpers.study import engines
from helpers.study import store as stores
from helpers.study.__main__ import status
from helpers.study.store import Store, missing
from tests.engines import fake
from tests.engines.fake import wait_for

COLUMNS = ["run", "language", "seed", "value", "status"]
lacks = pytest.mark.skipif(bool(engines.problems("snakemake")), reason="Snakemake is not installed")
ENGINES = ["local", "processes", pytest.param("snakemake", marks=lacks)]

DRIVER = """
import sys
from helpers import study
from helpers.study.arm import register_tasks
from helpers.study.store import Store
register_tasks()
from tests.engines import fake
plan = fake.make_plan(intermediates=3, targets=2)
study.run(plan, engine=sys.argv[2], workers=2, store=Store(sys.argv[1]), progress=False)
"""


@pytest.fixture
def expected(tmp_path, monkeypatch):
    """The scores of an undisturbed run in this process, which leaves no trace."""

    def run(plan):
        with monkeypatch.context() as patch:
            patch.setenv("FAKE_TRACE", os.devnull)
            return study.run(plan, store=Store(tmp_path / "reference"), progress=False)[COLUMNS]

    return run


def start(store, engine):
    return subprocess.Popen([sys.executable, "-c", DRIVER, str(store.folder), engine])


def gone(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except FileNotFoundError:
        return True


@pytest.mark.parametrize("engine", ENGINES)
def test_every_run_is_done_once_as_in_one_process(engine, store, expected, monkeypatch, tmp_path):
    plan = fake.make_plan(intermediates=2, targets=2)
    options = {"engine": engine, "workers": 2, "progress": False}
    if engine == "processes":  # The first process could do all before the other has started.
        monkeypatch.setenv("FAKE_MEET", "2")
    if engine == "snakemake":  # A job that fails is started once more.
        monkeypatch.setenv("FAKE_FAIL_ONCE", str(tmp_path / "failed-once"))
    scores = study.run(plan, store=store, **options)
    for name in ("FAKE_MEET", "FAKE_FAIL_ONCE"):
        monkeypatch.delenv(name, raising=False)
    pd.testing.assert_frame_equal(scores[COLUMNS], expected(plan))
    assert sorted(fake.ended()) == sorted(plan.runs["run"])
    assert len({entry[3] for entry in fake.trace()}) == {"local": 1, "processes": 2}.get(engine, 5)
    # A second call has nothing to start, and damage is mended by the one arm it concerns.
    pd.testing.assert_frame_equal(study.run(plan, store=Store(store.folder), **options), scores)
    assert len(fake.ended()) == len(plan)
    store.path(plan.runs["run"].iloc[-1]).write_bytes(b"{")
    with pytest.warns(UserWarning, match="fails its checksum"):
        again = study.run(plan, store=store, **options)
    pd.testing.assert_frame_equal(again[COLUMNS], scores[COLUMNS])
    assert len(fake.ended()) == len(plan) + 1


@pytest.mark.parametrize("engine", ENGINES[:2])
def test_a_failed_run_is_recorded_and_tried_again_by_the_next_call(engine, store, monkeypatch):
    plan = fake.make_plan()
    options = {"store": store, "engine": engine, "workers": 2, "progress": False}
    monkeypatch.setenv("FAKE_FAIL", "t1")
    scores = study.run(plan, **options)
    failed = scores[scores["target"] == "t1"]
    assert failed["status"].str.startswith("failed: RuntimeError: asked to fail").all()
    assert failed["value"].isna().all()
    assert set(failed["run"]) == set(plan.runs.loc[plan.runs["target"] == "t1", "run"])
    assert (scores.loc[scores["target"] == "t0", "status"] == "done").all()
    assert len(fake.trace("begin")) == len(plan)
    monkeypatch.delenv("FAKE_FAIL")
    assert (study.run(plan, **options)["status"] == "done").all()
    # A record of another version is whole; only who reads all of it, as no worker does, refuses it.
    with monkeypatch.context() as patch:
        patch.setattr(stores, "asdict", lambda record: asdict(record) | {"colour": "red"})
        store.write(*store.records(plan.runs["run"][:1]))
    with pytest.warns(UserWarning, match="another version.*will be redone"):
        assert set(study.run(plan, **options)["run"]) == set(scores["run"])


@pytest.mark.parametrize("engine", ENGINES)
def test_a_killed_driver_takes_its_workers_along(engine, store, expected, monkeypatch):
    monkeypatch.setenv("FAKE_STEP", "0.1")
    driver = start(store, engine)
    wait_for(lambda: len(fake.ended()) >= 2)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    workers = {int(entry[3]) for entry in fake.trace()} - {driver.pid}
    wait_for(lambda: all(map(gone, workers)))
    began, plan = len(fake.ended()), fake.make_plan(intermediates=3, targets=2)
    assert 0 < len(missing(plan, store, keep=True)) < len(plan)
    monkeypatch.setenv("FAKE_STEP", "0")
    scores = study.run(plan, store=store, engine=engine, workers=2, progress=False)
    pd.testing.assert_frame_equal(scores[COLUMNS], expected(plan))
    # A kill between the end of the work and its record may repeat a run, and nothing else may.
    assert began < len(fake.ended()) <= len(plan) + 2


def test_two_drivers_that_are_killed_again_and_again_double_nothing(store, expected, monkeypatch):
    plan = fake.make_plan(intermediates=3, targets=2)
    known, chance, kills = expected(plan), random.Random(7), 0
    monkeypatch.setenv("FAKE_STEP", "0.05")
    while missing(plan, store, keep=True):
        before = len(fake.trace())
        pair = [start(store, "local") for _ in range(2)]
        for _ in range(3000):
            if len(fake.trace()) >= before + 2 or all(p.poll() is not None for p in pair):
                break
            time.sleep(0.02)
        time.sleep(chance.random())
        for process in pair:
            kills += process.poll() is None
            process.send_signal(signal.SIGKILL)
            process.wait()
        merged = store.scores()[COLUMNS].merge(known, how="left", indicator=True)
        assert (merged["_merge"] == "both").all(), "a score that differs or was counted twice"
    assert not store.rejected and kills >= 2
    pd.testing.assert_frame_equal(study.run(plan, store=store, progress=False)[COLUMNS], known)
    assert len(fake.ended()) <= len(plan) + kills


def command(store, plan, arm):
    line = [sys.executable, "-m", "helpers.study", "--plan", str(plan)]
    there = os.environ | {"TRANSFER_STORE": str(store.folder)}
    piped = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([*line, "--arms", arm], env=there, **piped)


def test_an_arm_is_a_command_that_stops_in_time_and_goes_on(store, monkeypatch):
    monkeypatch.setenv("FAKE_STEP", "0.5")
    plan = fake.make_plan(intermediates=1, targets=1)
    file = plan.save(store.plans)
    arm, (stage, target) = next(item for item in plan.arms.items() if len(item[1]) == 2)
    process = command(store, file, arm)
    wait_for(lambda: bool(fake.trace()))
    time.sleep(0.6)
    assert store.held(arm) and status(store)["running"].sum() == 1
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=20)
    assert process.returncode == 143 and said.startswith("stopped") and "Warning" not in said
    assert store.status(stage) == "" and not store.held(arm)
    state = store.progress(stage) / "0" / "state.json"
    assert '"done": ' in state.read_text()
    monkeypatch.setenv("FAKE_STEP", "0")
    for _ in range(2):  # the second time there is nothing to do
        process = command(store, file, arm)
        assert process.communicate(timeout=60)[0].count(": done") == (2 if _ == 0 else 0)
    # what the profile keeps stays, although the command does not speak of it
    assert store.runs() == {stage, target} == {*store.checkpoints(), target} and not state.exists()
    assert fake.ended() == [stage, target]
    lost = command(store, file, "0123456789abcdef")
    assert "unknown arm '01" in lost.communicate(timeout=60)[1] and lost.returncode == 2


def test_a_process_that_does_not_react_to_sigterm_is_ended_in_time():
    code = (
        "import signal, threading, time\n"
        "from helpers.study import arm\n"
        "arm.GRACE, start = 0.5, threading.Timer.start\n"
        # A second signal arrives while the first one starts the clock.
        "def interrupted(timer): signal.raise_signal(signal.SIGTERM); start(timer)\n"
        "threading.Timer.start = interrupted\n"
        "with arm.stopping():\n"
        "    print('ready', flush=True)\n"
        "    end = time.monotonic() + 60\n"
        "    while time.monotonic() < end: pass\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        assert process.wait(15) == 143


def workers():
    """Return the living workers of this process; multiprocessing's own list can lag behind."""
    children = psutil.Process().children()
    return [child for child in children if any("spawn_main" in part for part in child.cmdline())]


def test_a_worker_that_dies_or_is_killed_makes_nobody_wait_for_ever(store, monkeypatch):
    options = {"store": store, "engine": "processes", "workers": 2, "progress": False}
    said = "a worker process died.*use fewer workers"
    with monkeypatch.context() as patch, pytest.raises(HelpfulError, match=said):
        patch.setenv("FAKE_DIE", "1")
        patch.setenv("FAKE_TRACE", os.devnull)
        study.run(fake.make_plan(), **options)
    assert store.runs() == set()
    monkeypatch.setenv("FAKE_STEP", "0.3")
    plan, look = fake.make_plan(intermediates=1, targets=1), engines.Progress.look

    def kill_one(progress):
        look(progress)
        begun, over = ([entry[3] for entry in fake.trace(what)] for what in ("begin", "end"))
        busy = {pid for pid in begun if begun.count(pid) > over.count(pid)}
        idle = [each for each in multiprocessing.active_children() if str(each.pid) not in busy]
        if len(over) >= 2 and busy and idle:
            idle[0].kill()  # It holds the lock of the queue, at which it waits.

    monkeypatch.setattr(engines.Progress, "look", kill_one)
    with pytest.raises(HelpfulError, match="a worker process died"):
        study.run(plan, **options)
    assert not workers() and len(store.runs()) >= 2
    # Whatever it is that ends the driver ends its workers.
    monkeypatch.setattr(engines.Progress, "look", lambda progress: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        study.run(plan, **options)
    assert not workers()
    monkeypatch.setattr(engines.Progress, "look", look)
    assert set(study.run(plan, **options)["status"]) == {"done"}
    assert len(fake.ended()) <= len(plan) + 2


def test_what_is_missing_is_named_before_anything_starts(monkeypatch, store):
    monkeypatch.setattr(engines.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(engines.shutil, "which", lambda name: None)
    with pytest.raises(BadPlan) as caught:
        study.run(fake.make_plan(), engine="slurm", store=store)
    for text in ("3 problems", "Snakemake is not installed", "SLURM executor", "sbatch"):
        assert text in str(caught.value)
    assert not fake.trace()


def test_every_worker_has_a_device_or_one_thread(monkeypatch, tmp_path):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(engines, "DEVICES", tmp_path)
    assert engines.gpu_numbers() == []
    for name in ("nvidia0", "nvidia1", "nvidia10", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    assert engines.gpu_numbers() == ["0", "1", "10"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5")
    assert engines.gpu_numbers() == ["5"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert engines.gpu_numbers() == []
    code = (
        "import multiprocessing, os\n"
        "from helpers.study import engines\n"
        "devices = multiprocessing.get_context('spawn').SimpleQueue()\n"
        "for name in ('7', ''):\n"
        "    devices.put(name)\n"
        "    engines._begin(devices, os.getppid())\n"
        "    print(os.environ.get('CUDA_VISIBLE_DEVICES'), os.environ.get('OMP_NUM_THREADS'))\n"
    )
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines() == ["7 None", "7 1"], done.stderr
