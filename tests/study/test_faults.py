import os
import re
import shutil
import signal
import stat
import subprocess
import sys
from dataclasses import replace

import pandas as pd
import pytest

from helpers import study, tasks
from helpers.errors import BadPlan, HelpfulError
from helpers.models import network
from helpers.study.__main__ import main
from helpers.study.engines import problems
from helpers.study.profiles import PROFILES, TINY
from helpers.study.store import Store
from helpers.tasks import Source, Task
from tests.engines import fake
from tests.engines.fake import run


def write(folder, *names, swapped=False):
    rows = [f"text number {n} is here,{'ab'[(n + swapped) % 2]}" for n in range(40)]
    for name in names:
        (folder / f"{name}.csv").write_text("\n".join(["text,kind", *rows]), encoding="utf-8")


@pytest.fixture
def own(tmp_path):
    """A target in files of its own, beside the generated ones."""
    write(tmp_path, "en-train", "en-dev", "en-test", "de-test")
    splits = {split: split for split in ("train", "dev", "test")}
    source = Source("tables", str(tmp_path), config="{language}-{split}.csv", splits=splits)
    columns = {"first": "text", "label": "kind"}
    facts = {"languages": ("en", "de"), "chance": 0.5, "columns": columns, "labels": ("a", "b")}
    tasks.register(Task("own", "target", "pair", source, **facts))
    return tmp_path


@pytest.mark.parametrize("changed", ["en-train", "en-dev", "de-test"])
def test_rows_that_changed_since_the_plan_are_never_scored_under_its_ids(own, store, changed):
    options = {"targets": ["own", "toy-messages"], "conditions": ["none"], "store": store}
    plan = study.plan("tiny", **options)
    write(own, changed, swapped=True)
    language, split = changed.split("-")
    scores = run(plan, store)
    failed = scores[scores["target"] == "own"]
    assert failed["value"].isna().all()
    assert not any(each.attempts[0].steps for each in store.records(failed["run"]))
    text = f"rows changed since the plan was made: 'own' ({language}, {split})"
    assert all(text in why and "plan again" in why for why in failed["status"])
    assert set(scores.loc[scores["target"] == "toy-messages", "status"]) == {"done"}
    # The new rows are another run; the old ones, put back, are the old run and are done now.
    again = study.plan("tiny", **options)
    assert not set(again.runs.loc[again.runs["target"] == "own", "run"]) & set(failed["run"])
    assert set(run(again, store)["status"]) == {"done"}
    write(own, changed)
    assert set(run(plan, store)["status"]) == {"done"}


@pytest.mark.parametrize("kind", ["tables", "hub", "rows"])
def test_changed_rows_change_the_plan(kind, tmp_path, store, data_cache, monkeypatch):
    monkeypatch.setenv("TRANSFER_DATA_ROOT", str(tmp_path))
    facts = {"splits": {"train": "train", "dev": "train"}, "divide": ("first",)}
    ids, path = [], tmp_path / "me" / "own" / "train.csv"
    sources = {
        "tables": Source("tables", str(path.parent), config="{split}.csv", **facts),
        "hub": Source("hub", "me/own", **facts),
        # A task of a notebook is surveyed anew every time.
        "rows": Source(
            "rows", "mine", read=lambda *_: pd.read_csv(path).to_dict("records"), **facts
        ),
    }
    tasks.register(Task("own", "intermediate", "pair", sources[kind], labels=("no", "yes")))
    path.parent.mkdir(parents=True)
    lines = [f"open the door {n},{'yes' if n % 2 else 'no'}" for n in range(40)]
    path.write_text("\n".join(["first,label", *lines]), encoding="utf-8")
    for change in (False, False, True):
        if change:
            path.write_text(path.read_text().replace("door 1,yes", "door 1,no"))
        ids.append(list(study.plan("tiny", ["own"], ["toy-intents"], store=store).runs["run"]))
    assert ids[0] == ids[1] and ids[0] != ids[2]


def test_a_task_of_this_session_is_not_sent_to_other_processes(tmp_path, store, monkeypatch):
    rows = [{"first": f"door {n}", "label": n % 2} for n in range(40)]
    splits = {"train": "train", "dev": "dev"}
    source = Source("rows", "mine", splits=splits, read=lambda *_: rows)
    tasks.register(Task("own", "intermediate", "pair", source, labels=("no", "yes")))
    plan = study.plan("tiny", ["own", "toy-same"], ["toy-intents"], store=store)
    with pytest.raises(BadPlan, match="1 problem.*\n.*'own' is known to this session only"):
        run(plan, store, engine="processes")
    assert not store.runs()
    monkeypatch.setenv("TRANSFER_TASKS", "my_tasks")
    assert not [*study._hindrances(plan, [], "processes", store, keep=True, dirty=False)]


def test_text_that_changed_since_the_plan_is_not_trained_on(store, tmp_path, monkeypatch):
    monkeypatch.setenv("TRANSFER_TEXT_ROOT", str(tmp_path))
    (tmp_path / "de.txt").write_text("ein Satz\nund noch einer\n", encoding="utf-8")
    plan = study.plan("tiny", ["toy-same"], ["toy-messages"], ["mlm"], store=store)
    (tmp_path / "de.txt").write_text("ein anderer Satz\n", encoding="utf-8")
    (why,) = run(plan, store)["status"]
    assert "its intermediate stage" in why and "changed since the plan was made: text (de)" in why


def test_targets_of_a_stage_whose_loss_was_no_number_show_no_gain(store):
    hot = replace(TINY, intermediate=replace(TINY.intermediate, learning_rate=1e30, clip=0.0))
    plan = study.plan(hot, ["toy-same"], ["toy-intents", "toy-messages"], store=store)
    scores = run(plan, store)
    after = scores[scores["condition"] == "single"]
    assert set(after["status"]) == {"collapsed"} and after["value"].isna().all()
    assert set(scores.loc[scores["condition"] == "none", "status"]) == {"done"}
    for record in store.records(after["run"]):
        (note,) = record.attempts[0].notes
        assert "the loss was no longer a number, so there is no encoder" in note
    before = [record.attempts for record in store.records(plan.runs["run"])]
    run(plan, Store(store.folder))
    again = [record.attempts for record in store.records(plan.runs["run"])]
    assert str(again) == str(before)  # nothing is tried again


def test_scores_that_are_meant_to_be_committed_come_from_a_commit(store, monkeypatch):
    options = {"targets": ["toy-messages"], "conditions": ["none"], "store": store}
    plan = study.plan(replace(TINY, stored=True), **options)
    assert PROFILES["pilot"].stored and PROFILES["paper"].stored
    for code in ("0123456789ab+changes", "unknown"):  # the second is what there is without git
        monkeypatch.setattr(study, "commit", lambda code=code: code)
        with pytest.raises(BadPlan, match=f"{re.escape(code)}.*commit first.*--dirty"):
            run(plan, store)
    assert not store.runs() and len(run(plan, store, dirty=True))
    # where nothing is trained, too, settings force a precision and a record says which it was
    monkeypatch.setattr(
        network, "resolve_precision", lambda asked, _: asked.replace("auto", "bf16")
    )
    forced = replace(TINY, target=TINY.target.override({"precision": "fp32"}))
    for profile, precision in (("tiny", "bf16"), (forced, "fp32")):
        run(small := study.plan(profile, **options, seeds=2), store, mode="always")
        assert [r.attempts[0].precision for r in store.records(small.runs["run"])] == [precision]
    shutil.rmtree(store.folder)
    store.folder.write_text("a file in its place")
    with pytest.raises(HelpfulError, match="TRANSFER_STORE"):
        run(plan, store, dirty=True)


def test_data_that_are_not_at_hand_and_misspelt_modules_are_named(
    store, monkeypatch, tmp_path, capsys
):
    monkeypatch.setenv("TRANSFER_DATA_ROOT", str(tmp_path))
    with pytest.raises(BadPlan) as caught:
        study.plan("paper", encoder="tiny", store=store)
    text = str(caught.value)
    assert len(text.splitlines()) <= 20 and len(text) < 6000
    assert "facebook/xnli" in text and "and 1" in text and "more" in text
    monkeypatch.setenv("TRANSFER_TASKS", "no_such_module")
    assert main(["--profile", "tiny"]) == 2
    assert "TRANSFER_TASKS names module 'no_such_module'" in capsys.readouterr().err


@pytest.mark.skipif(bool(problems("snakemake")), reason="Snakemake is not installed")
def test_what_slurm_says_of_a_job_it_refuses_reaches_the_user(store, tmp_path, monkeypatch):
    refused = "Requested node configuration is not available"
    for name, script in {
        "sbatch": f"echo 'sbatch: error: Batch job submission failed: {refused}' >&2; exit 1",
        "scontrol": "echo AccountingStorageType = accounting_storage/none",
        **dict.fromkeys(("squeue", "sinfo", "sacct", "sacctmgr", "sshare"), "exit 0"),
    }.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755 | stat.S_IEXEC)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    plan = study.plan("tiny", ["toy-same"], ["toy-messages"], conditions=["none"], store=store)
    soon = ["--slurm-init-seconds-before-status-checks", "1"]
    with pytest.raises(HelpfulError, match=refused):
        run(plan, store, engine="slurm", extra=soon)
    (log,) = store.folder.glob("workflow/*/snakemake.log")
    assert refused in log.read_text()


@pytest.mark.parametrize("engine", ["local", "processes"])
def test_a_signal_to_all_keeps_the_state_and_ends_in_one_line(store, tmp_path, engine, monkeypatch):
    fake.install(monkeypatch, tmp_path)
    monkeypatch.setenv("FAKE_STEP", "0.5")
    monkeypatch.setenv("TRANSFER_STORE", str(store.folder))
    command = [sys.executable, "-m", "helpers.study", "--profile", "tiny", "--engine", engine]
    # Ctrl-C in one process; `timeout` and schedulers send SIGTERM to the workers as well.
    number = signal.SIGTERM if engine == "processes" else signal.SIGINT
    how = {"stderr": subprocess.PIPE, "text": True, "start_new_session": True}
    with subprocess.Popen(command, **how) as process:
        fake.wait_for(lambda: bool(fake.trace()), 300)
        os.killpg(process.pid, number)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + number, said
    assert "Traceback" not in said and said.strip().splitlines()[-1].startswith("stopped")
    assert list(store.folder.glob("progress/*/*/state.json"))
