"""The benchmarks at a size that takes seconds: they run, and write the rows they promise."""

import importlib
import math
import os
import re
import subprocess
from dataclasses import replace

import pandas as pd
import pytest

from benchmarks import __main__ as suite
from benchmarks import harness, scoring, similarity, stats, studies, training
from benchmarks.harness import measured
from benchmarks.workloads import CPU, Workload, prepared
from helpers.errors import MissingData
from helpers.models import Settings

# Names that other pages rely on.
PROMISED = """
train_pair_vs_stock_trainer train_pair_vs_tuned_trainer train_tagging_vs_stock_trainer
train_span_vs_stock_trainer train_matmul_share_of_peak evaluate_span_vs_reference_loop
mining_100k_vs_bare_matmul grid_vs_cells_from_scratch plan_100k_runs_seconds
"""
COLUMNS = "name value unit reference reference_value ratio device threads rows date".split()
ARM = {"train": 2.0, "evaluate": 4.0, "share_of_peak": 0.5, "peak": 6.0, "rows": 6}
ARM |= {"peak_memory_mb": 5.0, "dev": 0.5}
SMALL = Settings(epochs=1, train_rows=24, max_length=32)


def names(rows):
    return sorted(row["name"] for row in rows)


def promised(job):
    there = pd.read_csv(harness.COMMITTED)["name"].unique()
    return sorted(name for name in there if re.fullmatch(suite.JOBS[job][1], name))


def test_every_promised_and_every_stored_row_has_a_benchmark_that_it_names():
    rows = [row for job in suite.JOBS for row in promised(job)]
    assert set(rows) >= {*PROMISED.split(), *pd.read_csv(harness.COMMITTED)["name"]}
    assert len(rows) == len(set(rows))
    for module, function in (call.split(".") for call, _ in suite.JOBS.values()):
        assert callable(getattr(importlib.import_module(f"benchmarks.{module}"), function))
    asked = ["train_span_vs_stock_trainer", "plans", "train_matmul_share_of_peak_span"]
    assert suite.chosen(asked) == ["span", "plans"]
    assert {*suite.chosen([]), *suite.LONG} == set(suite.JOBS)
    assert suite.chosen(["similarity"]) == ["similarity"]
    with pytest.raises(SystemExit, match="unknown: trian; there are the benchmarks pair"):
        suite.chosen(["trian"])


@pytest.mark.parametrize("arm", ["stock", "tuned"])
def test_a_trainer_learns_what_it_is_compared_on_and_is_scored_row_by_row(arm):
    how = {"epochs": 5, "learning_rate": 1e-2, "train_rows": 64, "dev_rows": 32}
    work = Workload("tiny", "tiny", "toy-slots", Settings(**how, batch_tokens=256, max_length=32))
    assert training.trainer(arm, prepared(work), work, 0)["dev"] > 0.9


def stored(rows, path):
    harness.store(rows, path)
    found = pd.read_csv(path)
    assert list(found.columns)[: len(COLUMNS)] == COLUMNS
    return dict(zip(zip(found["name"], found["device"], strict=True), found["value"], strict=True))


def test_a_new_figure_replaces_the_old_one_of_its_device_or_none_of_its_kind(tmp_path):
    path, here = tmp_path / "benchmarks.csv", harness.machine()
    absent = measured("a", math.nan, "s", device="cuda X", note="not measured")
    both = [measured("a", 1, "s"), measured("b", 1, "s")]
    assert len(stored([*both, absent], path)) == 3
    both = [measured("a", 2, "s"), measured("a", 4, "s", device="cuda Y")]
    assert stored(both, path) == {("a", here): 2, ("a", "cuda Y"): 4, ("b", here): 1}
    assert stored([absent], path) == {("a", here): 2, ("a", "cuda Y"): 4, ("b", here): 1}
    # Sides take turns, and a rate is better the higher.
    said, clock = [], iter(range(100))
    sides = {"a": lambda: said.append("a") or 1, "b": lambda: said.append("b") or 2}
    seconds, results = harness.turns(sides, 2, lambda: next(clock))
    assert said == ["a", "b", "a", "b"] and results == {"a": 1, "b": 2}
    assert seconds == {"a": [1, 1], "b": [1, 1]}
    ratios = [measured("x", 2.0, unit, "other", 4.0)["ratio"] for unit in ("s", "tokens/s")]
    assert ratios == [2.0, 0.5]


def test_a_fresh_process_answers_or_says_why_and_a_neighbour_works_until_left(monkeypatch, capfd):
    assert harness.apart("harness.machine") == harness.machine()
    with pytest.raises(subprocess.CalledProcessError):
        harness.apart("__main__.chosen", ["nothing"])
    assert "unknown: nothing" in capfd.readouterr().err
    started, popen = [], harness.subprocess.Popen
    kept = lambda *given: started.append(popen(*given)) or started[-1]  # noqa: E731
    monkeypatch.setattr(harness.subprocess, "Popen", kept)
    with harness.neighbour():
        (process,) = started
        assert process.poll() is None
    assert process.returncode == -9 if os.name == "posix" else process.returncode


@pytest.fixture(autouse=True)
def small_peak(monkeypatch):
    """Products of 4,096 rows take minutes where bf16 is only emulated."""
    monkeypatch.setattr(training, "matmul_peak", lambda device, precision: 1e14)


@pytest.mark.parametrize("arm", training.ARMS)
@pytest.mark.parametrize("task", ["toy-intents", "toy-slots"])
def test_the_arms_of_training(arm, task):
    found = training.run_arm(arm, Workload("tiny", "tiny", task, SMALL), 0)
    for name in ("train", "evaluate", "peak", "peak_memory_mb"):
        assert math.isfinite(found[name]) and found[name] > 0
    assert 0 <= found["dev"] <= 1 and 0 < found["share_of_peak"] < 1


def test_the_rows_of_training(monkeypatch):
    monkeypatch.setattr(training, "apart", lambda call, arm, workload, seed: ARM)
    rows = [row for name in CPU for row in training.compare(name)]
    assert names(rows) == sorted(row for name in CPU for row in promised(name))
    assert {row["ratio"] for row in rows} == {1.0, 0.5} and {row["rows"] for row in rows} == {6}
    (row,) = training.beside()
    assert [row["name"]] == promised("neighbour") and row["ratio"] == 1.0


def test_where_the_time_goes_adds_up():
    work = Workload("pair", "tiny", "toy-intents", SMALL)
    found = [training.profiles([replace(work, name=name)]) for name in CPU]
    assert names(row for rows in found for row in rows) == promised("profile")
    for rows in found:
        shares = [row["value"] for row in rows if "_time_in_" in row["name"]]
        assert sum(shares) == pytest.approx(1) and min(row["value"] for row in rows) > 0


@pytest.mark.parametrize(
    ("job", "measure"),
    [
        ("spans", lambda: scoring.spans(30)),
        ("metrics", lambda: scoring.metrics_of_rows(40, 20)),
        ("plans", lambda: studies.plans(200)),
        ("permutation", lambda: stats.relabelling(1)),
    ],
)
def test_a_small_one_writes_its_rows(job, measure):
    rows = measure()
    assert names(rows) == promised(job)
    assert all(row["value"] > 0 and not row["ratio"] <= 0 for row in rows)


def test_logme_agrees_with_its_authors_and_fixed_layers_are_those_of_two_depths(monkeypatch):
    assert [row["rows"] for row in similarity.logme(2000, 1)] == [2000, 2000, 2000, 500]
    assert [scoring.xtreme_layer(depth) for depth in (12, 24, 2)] == [8, 14, 1]
    # Mining
    for part in (scoring.bare_products, scoring.mined, scoring.pool):
        part(2000)
    facts = {"wall": 1.0, "cpu": 2.0, "memory": 3.0, "threads": 1}
    monkeypatch.setattr(scoring, "apart", lambda part, rows: facts)
    assert names(scoring.mining(100_000, 2000)) == promised("mining")


def test_tatoeba_is_measured_with_its_products_if_its_rows_are_there(monkeypatch, tmp_path):
    rows = scoring.tatoeba("tiny", "messages", ["de", "fr"])
    assert names(rows) == promised("tatoeba")
    middle, last = rows
    assert "hidden state 1 of 2" in middle["note"] and "hidden state 2 of 2" in last["note"]
    assert last["rows"] == middle["rows"] > 0 and 0 < last["ratio"] < 1
    # A second layer costs as much as the first; the peak differs a little from run to run.
    assert 1 < last["reference_value"] / middle["reference_value"] < 4
    monkeypatch.setenv("TRANSFER_DATA_ROOT", str(tmp_path))
    with pytest.raises(MissingData, match="tatoeba"):
        scoring.tatoeba("tiny", "tatoeba", ["af"])
