"""Two processes that share every step against one that makes it alone."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from helpers.files import load_tensors
from tests.training import ranks

ROOT = Path(__file__).parents[2]


TORCHRUN = ("torch.distributed.run", "--standalone", "--nproc_per_node=2")
ACCELERATE = (
    "accelerate.commands.launch",
    *("--cpu", "--num_processes=2", "--num_machines=1", "--main_process_port=0"),
    *("--mixed_precision=no", "--dynamo_backend=no", "--num_cpu_threads_per_process=1"),
)


def launch(folder, launcher, *names):
    command = [sys.executable, "-m", *launcher, "-m", "tests.training.ranks", str(folder), *names]
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "ACCELERATE_USE_CPU": "true",
        "GLOO_SOCKET_IFNAME": "lo",
    }
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=500
    )
    return done


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    two = launch(folder / "two", TORCHRUN)
    if two.returncode:
        if "Traceback" not in two.stderr or "RendezvousConnectionError" in two.stderr:
            pytest.skip(f"torchrun cannot start two processes here: {two.stderr[-300:]}")
        raise AssertionError(two.stderr[-6000:])
    with torch.random.fork_rng(devices=[]):
        ranks.main(folder / "one")
    return folder / "one", folder / "two"


def outcome(folder, name):
    return json.loads((folder / name / "outcome.json").read_text())


@pytest.mark.parametrize("name", ranks.RUNS)
def test_two_processes_make_the_weights_of_one(both, name):
    (one, _), (two, _) = (load_tensors(folder / name / "encoder.safetensors") for folder in both)
    assert one.keys() == two.keys()
    still = ["key.bias"]  # the gradient is zero, and Adam blows up noise
    if ranks.RUNS[name][0] == ["choice"]:
        still.append("layer.1.output.LayerNorm.bias")  # moves the scores of all options alike
    for part, tensor in one.items():
        if part.endswith(tuple(still)):
            continue
        # Where a gradient is next to nothing its sign is chance: few weights, each by few steps.
        torch.testing.assert_close(two[part].mean(), tensor.mean(), atol=1e-4, rtol=1e-2)
        far = (two[part] - tensor).abs() > 1e-5 + 1e-3 * tensor.abs()
        assert far.float().mean() < 0.05, part


def test_accelerate_launches_what_torchrun_does(both, tmp_path):
    done = launch(tmp_path, ACCELERATE, "pair")
    assert done.returncode == 0, done.stderr[-6000:]
    expected, _ = load_tensors(both[1] / "pair" / "encoder.safetensors")
    found, _ = load_tensors(tmp_path / "pair" / "encoder.safetensors")
    assert found.keys() == expected.keys()
    for part, tensor in expected.items():
        torch.testing.assert_close(found[part], tensor, msg=part)


@pytest.mark.parametrize("name", ranks.RUNS)
def test_two_processes_tell_the_same_story(both, name):
    one, two = (outcome(folder, name) for folder in both)
    for fact in ("status", "steps", "tokens", "rows", "floor", "fingerprints", "notes"):
        assert one[fact] == two[fact], fact
    assert two["dev"] == pytest.approx(one["dev"], abs=0.05)
    if name != "collapsed":
        assert two["loss"] == pytest.approx(one["loss"], rel=1e-3)
    assert one["status"] == ("collapsed" if name == "collapsed" else "done")
