"""The grid through Snakemake: batches, and the real thing on this machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from helpers import study
from helpers.errors import BadPlan
from helpers.study.engines import workflow
from helpers.study.engines.workflow import batches
from helpers.study.resuming import missing
from helpers.study.store import Store
from tests.engines import fake

COLUMNS = ["run", "language", "seed", "value", "status"]
snakemake = pytest.mark.skipif(bool(workflow.problems()), reason="Snakemake is not installed")


def made(minutes: float, each: float, **shape: int) -> tuple[object, list[workflow.Batch]]:
    plan = fake.make_plan(**shape)
    runs = list(plan.runs["run"])
    return plan, batches(plan, runs, minutes, [each] * len(runs))


def test_a_batch_is_a_stage_with_all_that_starts_from_it() -> None:
    plan, found = made(30, 1, intermediates=3, targets=4)
    assert [len(batch.runs) for batch in found] == [8, 5, 5, 5]
    assert all(not batch.needs for batch in found)
    assert sum((batch.runs for batch in found), ()) == tuple(plan.runs["run"])


def test_long_runs_are_jobs_of_their_own_and_wait_for_what_they_need() -> None:
    plan, found = made(30, 45, intermediates=2, targets=2)
    assert all(len(batch.runs) == 1 for batch in found)
    holder = {batch.runs[0]: batch.id for batch in found}
    for batch in found:
        parent = plan.parents[batch.runs[0]]
        assert batch.needs == ((holder[parent],) if parent else ())


def test_batches_are_cut_at_the_limit_and_every_run_is_in_one() -> None:
    plan, found = made(30, 8, intermediates=1, targets=9)
    assert max(len(batch.runs) for batch in found) == 3
    runs = [run for batch in found for run in batch.runs]
    assert sorted(runs) == sorted(plan.runs["run"]) and len(set(runs)) == len(runs)
    order = [batch.id for batch in found]
    for place, batch in enumerate(found):
        assert all(need in order[:place] for need in batch.needs)


def test_targets_whose_stage_is_done_already_need_nothing() -> None:
    plan = fake.make_plan(intermediates=1, targets=2)
    targets = [run for run in plan.runs["run"] if plan.parents[run]]
    (batch,) = batches(plan, targets, 30, [1, 1])
    assert batch.runs == tuple(targets) and batch.needs == ()


def test_time_limits_leave_room() -> None:
    assert made(30, 1, intermediates=0, targets=1)[1][0].runtime == 20
    assert made(30, 25, intermediates=0, targets=1)[1][0].runtime == 75


def test_what_is_missing_is_named_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch, store: Store
) -> None:
    monkeypatch.setattr(workflow.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(workflow.shutil, "which", lambda name: None)
    with pytest.raises(BadPlan) as caught:
        study.run(fake.make_plan(), engine="slurm", store=store)
    for text in ("3 problems", "Snakemake is not installed", "SLURM executor", "sbatch"):
        assert text in str(caught.value)
    assert not fake.trace()


def ended() -> list[str]:
    return [entry[1] for entry in fake.trace() if entry[0] == "end"]


@snakemake
def test_snakemake_gives_the_scores_of_one_process_though_a_job_fails_once(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = fake.make_plan(intermediates=2)
    expected = study.run(plan, store=Store(tmp_path / "reference"), progress=False)
    Path(os.environ["FAKE_TRACE"]).unlink()
    monkeypatch.setenv("FAKE_FAIL_ONCE", str(tmp_path / "failed-once"))
    scores = study.run(plan, store=store, engine="snakemake", workers=2, progress=False)
    pd.testing.assert_frame_equal(scores[COLUMNS], expected[COLUMNS])
    assert sorted(ended()) == sorted(plan.runs["run"])
    # A second call has nothing to start, and damage is mended by the one job it concerns.
    store.path(plan.runs["run"].iloc[-1]).write_bytes(b"{")
    with pytest.warns(UserWarning, match="fails its checksum"):
        again = study.run(plan, store=store, engine="snakemake", workers=2, progress=False)
    pd.testing.assert_frame_equal(again[COLUMNS], expected[COLUMNS])
    assert len(ended()) == len(plan) + 1


@snakemake
def test_a_killed_driver_is_simply_started_again(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_STEP", "0.1")
    plan = fake.make_plan(intermediates=3, targets=2)
    code = (
        "import sys; from helpers import study; from helpers.study.store import Store\n"
        "from tests.engines import fake\n"
        "study.run(fake.make_plan(intermediates=3, targets=2), engine='snakemake', workers=1,"
        " store=Store(sys.argv[1]), progress=False)\n"
    )
    driver = subprocess.Popen([sys.executable, "-c", code, str(store.folder)])
    deadline = time.monotonic() + 90
    while len(ended()) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    # The jobs it had started may still be at work, as on a cluster; claims keep them apart.
    monkeypatch.setenv("FAKE_STEP", "0")
    scores = study.run(plan, store=store, engine="snakemake", workers=1, progress=False)
    assert missing(plan, store, keep=True) == []
    assert (scores["status"] == "done").all()
    assert sorted(ended()) == sorted(plan.runs["run"])
