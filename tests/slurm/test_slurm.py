"""The grid on a real SLURM of two nodes: a node dies, the driver dies, a job fails once.

``make test-slurm`` installs and starts the cluster; elsewhere these tests are skipped by name.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import pandas as pd
import psutil
import pytest

from helpers import study
from helpers.study.store import Store, missing
from tests.engines import fake
from tests.engines.fake import ended, wait_for

CLUSTER = os.environ.get("TRANSFER_TEST_SLURM", "")
COLUMNS = ["run", "language", "seed", "value", "status"]
SHAPE = {"intermediates": 4, "targets": 2}
pytestmark = [
    pytest.mark.skipif(not CLUSTER, reason="SLURM is not started here: make test-slurm"),
    pytest.mark.timeout(1500),
]


@pytest.fixture
def folder(monkeypatch):
    """A folder that both nodes and this process see."""
    path = Path(CLUSTER) / f"test-{time.time_ns()}"
    path.mkdir()
    fake.install(monkeypatch, path)
    return path


@pytest.fixture
def expected(folder):
    scores = study.run(fake.make_plan(**SHAPE), store=Store(folder / "one"), progress=False)
    (folder / "trace").unlink()
    return scores[COLUMNS]


DRIVER = (
    "import sys\n"
    "from helpers.study.store import Store\n"
    "from tests.slurm.test_slurm import on_slurm\n"
    "on_slurm(Store(sys.argv[1]))\n"
)


def on_slurm(store):
    extra = ["--seconds-between-status-checks", "3", "--latency-wait", "5"]
    options = {"store": store, "engine": "slurm", "progress": False, "extra": extra}
    return study.run(fake.make_plan(**SHAPE), **options)[COLUMNS]


@contextmanager
def driver(store):
    process = subprocess.Popen([sys.executable, "-c", DRIVER, str(store.folder)])
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def check(store, scores, expected, repeated=0):
    """Nothing is lost, nothing is doubled, and the scores are those of one process."""
    plan = fake.make_plan(**SHAPE)
    assert missing(plan, store, keep=True) == []
    pd.testing.assert_frame_equal(scores, expected)
    assert set(store.index()["run"]) == set(plan.runs["run"])
    assert set(ended()) == set(plan.runs["run"])
    assert len(ended()) <= len(plan) + repeated


def test_the_scores_are_those_of_one_process_though_a_job_fails_once(folder, expected, monkeypatch):
    monkeypatch.setenv("FAKE_FAIL_ONCE", str(folder / "failed-once"))
    store = Store(folder / "store")
    check(store, on_slurm(store), expected)
    assert (folder / "failed-once").exists()


def test_the_driver_is_killed_and_started_again(folder, expected, monkeypatch):
    monkeypatch.setenv("FAKE_STEP", "0.3")
    store = Store(folder / "store")
    with driver(store):
        wait_for(lambda: len(ended()) >= 2, 400)
    # Jobs of the first driver go on; those of the second wait for what they hold.
    check(store, on_slurm(store), expected)


def test_a_node_dies_with_its_job(folder, expected, monkeypatch):
    cluster = Path(CLUSTER)
    if shutil.which("slurmd") is None or not (cluster / "slurmd-n2.pid").exists():
        pytest.skip("this cluster is not ours to damage")
    monkeypatch.setenv("FAKE_STEP", "0.4")
    store = Store(folder / "store")
    with driver(store) as process:
        wait_for(lambda: len({entry[3] for entry in fake.trace()}) >= 2, 400)
        assert kill_node(cluster), "no step was running on the node"
        time.sleep(15)  # SLURM notices, and puts the job back into the queue
        subprocess.run(["slurmd", "-N", "n2"], check=True)
        assert process.wait(400) == 0
    scores = study.stored(fake.make_plan(**SHAPE), store)[COLUMNS]
    check(store, scores, expected, repeated=1)


def kill_node(cluster):
    """Kill everything that belongs to node n2, as a power cut would; return how much that was."""
    daemon = int((cluster / "slurmd-n2.pid").read_text())
    steps = [
        each
        for each in psutil.process_iter(["name", "environ"])
        if "'SLURMD_NODENAME': 'n2'" in (own := str(each.info["environ"]))
        or ("slurmstepd" in each.info["name"] and "n2" in own)
    ]
    os.kill(daemon, signal.SIGKILL)
    for each in steps:
        with suppress(psutil.NoSuchProcess):
            each.kill()
    return len(steps)
