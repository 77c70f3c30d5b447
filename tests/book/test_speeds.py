"""Figures of the benchmarks, and what each size of the study takes."""

import math

import pandas as pd
import pytest

from helpers import book, results
from helpers.study.profiles import PAPER
from helpers.study.store import Store
from tests.engines import fake

RATE = "train_pair_vs_tuned_trainer"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    rows = [
        (RATE, 100.0, 4.0, "cuda A", "2026-01-01"),
        (RATE, 200.0, 5.0, "cuda B", "2026-02-01"),
        (RATE, 7.0, 2.0, "cpu C", "2026-03-01"),
        ("grid", math.nan, math.nan, "cuda", "2026-03-01"),
    ]
    names = ["name", "value", "ratio", "device", "date"]
    pd.DataFrame(rows, columns=names).to_csv(tmp_path / "benchmarks.csv", index=False)
    tokens = [
        ("i", "intermediate", 2, 10, 1000.0),
        ("t", "target", 3, 10, 100.0),
        ("t", "evaluation", 1, 10, 300.0),
        ("u", "target", 3, None, None),
    ]
    names = ["task", "stage", "epochs", "rows", "tokens"]
    pd.DataFrame(tokens, columns=names).to_csv(tmp_path / "paper_tokens.csv", index=False)
    monkeypatch.setattr(results, "DATA", tmp_path)
    return tmp_path


def test_the_newest_figure_of_a_kind_of_device(folder):
    assert results.speed(RATE, "cuda")["value"] == 200 and results.speed(RATE, "cpu")["ratio"] == 2


@pytest.mark.parametrize(("name", "kind"), [("grid", "cuda"), ("grid", "cpu"), ("nothing", "cuda")])
def test_what_is_absent_says_so(folder, name, kind):
    assert book.number(results.speed(name, kind)["value"]) == "not available"


def largest(store):
    return results.hours(fake.make_plan(parameters=1e6), store).iloc[-1]


def test_the_largest_size_is_computed_from_the_rate(folder):
    row = largest(Store(folder / "store"))
    each = PAPER.seeds * (len(PAPER.intermediates) + 2)
    tokens = PAPER.seeds * 2 * 1000 + each * (3 * 100 + 300 / 3)
    assert row["device hours"] == pytest.approx(tokens / 200 / 3600)
    assert row[["study", "runs", "hardware"]].tolist() == [
        "paper",
        PAPER.seeds + 2 * each,
        "cuda B",
    ]
    assert row["known how"].startswith("computed") and row["known how"].endswith("without u")


def test_without_a_rate_there_are_no_hours(folder):
    table = results.speeds()
    table[table["device"].str.startswith("cpu")].to_csv(folder / "benchmarks.csv", index=False)
    assert math.isnan(largest(Store(folder / "store"))["device hours"])


def test_a_study_here_is_measured_once_it_is_done(folder, monkeypatch):
    from helpers import study
    from helpers.study import execution

    monkeypatch.setattr(execution, "default_worker", lambda: fake.work)
    plan, store = fake.make_plan(parameters=1e6), Store(folder / "store")
    first = results.hours(plan, store).iloc[0]
    assert first["known how"].startswith("computed from a rate") and first["device hours"] > 0
    study.run(plan, store=store, progress=False)
    first = results.hours(plan, store).iloc[0]
    assert (first["runs"], first["known how"]) == (len(plan), "measured here")
    assert first["hardware"] == "cpu fake"
