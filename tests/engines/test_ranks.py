"""One run by two processes of torchrun: trained together, recorded once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import study
from helpers.study.store import Store


def test_two_processes_share_a_run_and_record_it_once(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TRANSFER_WORKER")
    plan = study.plan("tiny", ["toy-same"], ["toy-slots", "toy-messages"], store=store)
    path = plan.save(store.folder / "plans")
    runs = plan.runs.loc[plan.runs["intermediate"] == "toy-same", "run"].tolist()
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command += ["-m", "helpers.study.run", "--plan", str(path), "--store", str(store.folder), *runs]
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "GLOO_SOCKET_IFNAME": "lo",
    }
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500)
    if done.returncode and "RendezvousConnectionError" in done.stderr:
        pytest.skip("torchrun cannot start two processes here")
    assert done.returncode == 0, done.stderr[-3000:]
    assert store.runs() == set(runs)
    assert done.stdout.count(": done") == len(runs)
    scores = store.scores(runs)
    assert scores["value"].notna().all()
    alone = Store(tmp_path / "alone")
    expected = study.run(plan, store=alone, progress=False)
    both = scores.merge(expected, on=["run", "language"], suffixes=("", "_alone"))
    # Gradients are summed in another order, so a prediction or two may differ.
    assert (both["value"] - both["value_alone"]).abs().max() < 0.2
    slots = both[(both["target"] == "toy-slots") & (both["language"] == "en")]
    assert (slots["value"] > 0.9).all()
