"""The benchmarks at a size that takes seconds: they run, and write the rows they promise."""

import math
from dataclasses import replace

import pandas as pd
import pytest

from benchmarks import __main__ as suite
from benchmarks import (
    metrics_speed,
    mining_speed,
    plans_speed,
    spans_speed,
    table,
    tatoeba_speed,
    training_speed,
)
from benchmarks.table import Measurement, not_measured
from benchmarks.workloads import Workload
from helpers import tasks
from helpers.models import encoders
from helpers.models.settings import Settings

# Names that other pages rely on.
PROMISED = {
    "train_pair_vs_stock_trainer",
    "train_pair_vs_tuned_trainer",
    "train_tagging_vs_stock_trainer",
    "train_span_vs_stock_trainer",
    "train_matmul_share_of_peak",
    "evaluate_span_vs_reference_loop",
    "mining_100k_vs_bare_matmul",
    "grid_vs_cells_from_scratch",
    "plan_100k_runs_seconds",
}
COLUMNS = "name value unit reference reference_value ratio device threads rows date".split()


def names(rows):
    return sorted(row.name for row in rows)


def test_every_promised_row_has_a_benchmark():
    rows = [row for job in suite.JOBS.values() for row in job.rows]
    assert set(rows) >= PROMISED and len(rows) == len(set(rows))


def test_a_row_names_its_benchmark():
    asked = ["train_span_vs_stock_trainer", "plans", "train_matmul_share_of_peak_span"]
    assert suite.chosen(asked) == ["span", "plans"]
    assert {*suite.chosen([]), *suite.LONG} == set(suite.JOBS)
    assert suite.chosen(["similarity"]) == ["similarity"]
    with pytest.raises(SystemExit, match="unknown: trian; there are the benchmarks pair"):
        suite.chosen(["trian"])


def stored(path):
    found = pd.read_csv(path)
    return {
        (name, device): value for name, device, value in found[["name", "device", "value"]].values
    }


def test_a_new_figure_replaces_the_old_one_of_its_device_alone(tmp_path):
    path = tmp_path / "benchmarks.csv"
    table.store([Measurement("a", 1, "s", device="cuda X"), Measurement("b", 1, "s")], path)
    found = table.store([Measurement("a", 2, "s"), Measurement("b", 3, "s")], path)
    here = table.machine()
    assert stored(path) == {("a", "cuda X"): 1, ("a", here): 2, ("b", here): 3}
    assert list(found.columns)[: len(COLUMNS)] == COLUMNS


def test_what_was_not_measured_never_hides_a_figure(tmp_path):
    path = tmp_path / "benchmarks.csv"
    absent = not_measured("a", "s", "cuda", "no GPU")
    table.store([Measurement("a", 1, "s", device="cpu X"), absent], path)
    found = table.store([absent], path)  # once is enough
    assert len(found) == 2 and found["note"].str.startswith("not measured").sum() == 1
    table.store([Measurement("a", 4, "s", device="cuda X")], path)
    table.store([absent], path)
    assert stored(path) == {("a", "cpu X"): 1, ("a", "cuda X"): 4}


@pytest.mark.parametrize("arm", ["ours", "tuned", "stock"])
@pytest.mark.parametrize("task", ["toy-intents", "toy-slots"])
def test_the_arms_of_training(arm, task):
    work = Workload("tiny", "tiny", task, Settings(epochs=1, train_rows=24, max_length=32))
    found = training_speed.run_arm(arm, work, 0)
    for name in ("train", "evaluate", "peak", "peak_memory_mb"):
        assert math.isfinite(found[name]) and found[name] > 0
    assert 0 <= found["dev"] <= 1 and 0 < found["share_of_peak"] < 1


def test_the_rows_of_training():
    arm = {"train": 2.0, "evaluate": 4.0, "share_of_peak": 0.5, "peak": 6.0, "rows": 6}
    arm |= {"peak_memory_mb": 5.0}
    arms = {name: arm | {"dev": 0.5, "device": "cpu"} for name in training_speed.ARMS}
    rows = [row for name in training_speed.CPU for row in training_speed.measurements(name, arms)]
    promised = [row for name in training_speed.CPU for row in suite.JOBS[name].rows]
    assert names(rows) == sorted(promised)
    assert {row.ratio for row in rows} == {1.0, 0.5}


def test_where_the_time_goes_adds_up():
    work = Workload("pair", "tiny", "toy-intents", Settings(epochs=1, train_rows=24, max_length=32))
    found = [training_speed.profile(replace(work, name=name)) for name in training_speed.CPU]
    assert names(row for rows in found for row in rows) == sorted(suite.JOBS["profile"].rows)
    for rows in found:
        shares = [row.value for row in rows if "_time_in_" in row.name]
        assert sum(shares) == pytest.approx(1)
        assert all(row.value > 0 for row in rows)


def test_memory_is_measured_on_a_gpu_only(monkeypatch):
    monkeypatch.setattr(training_speed.torch.cuda, "is_available", lambda: False)
    row = training_speed.memory()
    assert (row.name,) == suite.JOBS["memory"].rows
    assert math.isnan(row.value) and row.note.startswith("not measured")


def test_spans():
    rows = spans_speed.measurements(30)
    assert names(rows) == sorted(suite.JOBS["spans"].rows)
    assert all(row.ratio > 0 for row in rows)


def test_mining(monkeypatch):
    for part in mining_speed.PARTS.values():
        part(2000)
    facts = {"wall": 1.0, "cpu": 2.0, "memory": 3.0, "threads": 1}
    monkeypatch.setattr(mining_speed, "run", lambda part, rows: facts)
    assert names(mining_speed.measurements(100_000, 2000)) == sorted(suite.JOBS["mining"].rows)


def test_plans(tmp_path):
    rows = plans_speed.measure(tmp_path, 200)
    assert names(rows) == sorted(suite.JOBS["plans"].rows)


def test_tatoeba_is_measured_with_its_products():
    rows = tatoeba_speed.measure(encoders.load("tiny"), tasks.get("messages"), ["de", "fr"])
    assert names(rows) == sorted(suite.JOBS["tatoeba"].rows)
    middle, last = rows
    assert "hidden state 1 of 2" in middle.note and "hidden state 2 of 2" in last.note
    assert last.rows == middle.rows > 0 and 0 < last.ratio < 1
    # A second layer costs as much as the first; the peak differs a little from run to run.
    assert 1 < last.reference_value / middle.reference_value < 4


def test_tatoeba_without_its_rows_is_not_measured(monkeypatch, tmp_path):
    monkeypatch.setenv("TRANSFER_DATA_ROOT", str(tmp_path))
    rows = tatoeba_speed.measure(encoders.load("tiny"), tasks.get("tatoeba"), ["af"])
    assert all(math.isnan(row.value) and row.note.startswith("not measured") for row in rows)
    assert names(rows) == sorted(suite.JOBS["tatoeba"].rows)


def test_xtreme_reads_fixed_layers_of_two_depths():
    assert [tatoeba_speed.xtreme_layer(depth) for depth in (12, 24, 2)] == [8, 14, 1]


def test_metrics():
    assert names(metrics_speed.measurements(40, 20)) == sorted(suite.JOBS["metrics"].rows)
