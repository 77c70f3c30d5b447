"""Figures of the benchmarks, and what each size of the study takes."""

import math

import pandas as pd
import pytest

from helpers import book, results

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
    monkeypatch.setattr(results, "DATA", tmp_path)
    return tmp_path


def test_the_newest_figure_of_a_kind_of_device(folder):
    assert results.speed(RATE, "cuda")["value"] == 200 and results.speed(RATE, "cpu")["ratio"] == 2


@pytest.mark.parametrize(("name", "kind"), [("grid", "cuda"), ("grid", "cpu"), ("nothing", "cuda")])
def test_what_is_absent_says_so(folder, name, kind):
    assert book.number(results.speed(name, kind)["value"]) == "not available"
