"""Tokenised rows that are kept on disk: the same sets, tokenised once, never out of date."""

import logging
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from helpers import formats
from helpers.evaluation import evaluate
from helpers.models import encoders, tokenised
from helpers.models.preparing import prepare
from helpers.models.training import fine_tune
from tests.training import toys
from tests.training.toys import QUICK

FORMATS = ("pair", "choice", "tagging", "span", "retrieval")


@pytest.fixture
def folder(tmp_path):
    with tokenised.kept_in(tmp_path / "tokenised"):
        yield tmp_path / "tokenised"


@pytest.fixture
def counted(monkeypatch):
    """Count how often rows are really tokenised."""
    calls = []
    for name in FORMATS:
        format_ = formats.get(name)
        real = type(format_).encode

        def encode(self, task, rows, *rest, real=real):
            calls.append(task.name)
            return real(self, task, rows, *rest)

        monkeypatch.setattr(type(format_), "encode", encode)
    return calls


def entries(folder):
    return sorted(path for path in folder.glob("[!.]*"))


def rows_of(task, split="train"):
    from helpers.data import rows

    return rows(task, "en", split)


def coded(task, encoder, longest=32, train=True, rows=None):
    rows = rows_of(task) if rows is None else rows
    return tokenised.encode(formats.get(task.format), task, rows, encoder, longest, train)


def same(one, other):
    for name in ("tokens", "starts", "example"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    for kind in ("per_sequence", "per_token"):
        mine, its = getattr(one, kind), getattr(other, kind)
        assert mine.keys() == its.keys()
        for name in mine:
            np.testing.assert_array_equal(mine[name], its[name])
            assert mine[name].dtype == its[name].dtype
    assert (one.rows, one.together) == (other.rows, other.together)
    assert dict(one.skipped) == dict(other.skipped)


@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.parametrize("train", [True, False])
def test_a_kept_set_is_the_set(format_, train, tiny, folder, counted):
    task = toys.task(format_)
    with tokenised.kept_in(None):
        plain = coded(task, tiny, train=train)
    for _ in range(2):
        found = coded(task, tiny, train=train)
        same(found, plain)
        assert isinstance(found.tokens, np.memmap) and not found.tokens.flags.writeable
    assert len(counted) == 2 and len(entries(folder)) == 1


def test_nothing_is_kept_unless_asked(tiny, tmp_path, monkeypatch, counted):
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        coded(toys.task("pair"), tiny)
    assert len(counted) == 2 and not list(tmp_path.iterdir())


def test_skipped_rows_are_remembered(tiny, folder):
    task = toys.task("span")
    rows = [row | {"answers": {"text": ["gone"], "start": [900]}} for row in rows_of(task)]
    for _ in range(2):
        assert sum(coded(task, tiny, rows=rows).skipped.values()) == len(rows)
    assert len(entries(folder)) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"longest": 16},
        {"train": False},
        {"rows": lambda rows: list(rows)[:-1]},
        {"rows": lambda rows: list(rows)[::-1]},
        {"rows": lambda rows: [row | {"label": 1 - row["label"] % 2} for row in rows]},
        {"task": lambda task: replace(task, labels=("a", "b", "d"))},
        {"encoder": lambda: encoders.load("bundled-random", layers=1)},
    ],
)
def test_whatever_decides_a_set_makes_another_one(change, tiny, folder):
    task = toys.task("pair")
    given = {"task": task, "encoder": tiny, "longest": 32, "train": True, "rows": rows_of(task)}
    other = dict(given)
    for name, value in change.items():
        other[name] = (
            value if not callable(value) else value(*([given[name]] * (name != "encoder")))
        )
    coded(**given)
    found = coded(**other)
    assert len(entries(folder)) == 2
    with tokenised.kept_in(None):
        same(found, coded(**other))


def test_where_rows_came_from_and_what_they_are_called_does_not(tiny, folder):
    task = toys.task("pair")
    for name in ("one", "another"):
        coded(replace(task, name=name), tiny, rows=rows_of(task))
    assert len(entries(folder)) == 1


@pytest.mark.parametrize("damage", ["cut", "flip", "drop", "sums", "empty"])
def test_a_damaged_set_is_named_and_made_again(damage, tiny, folder, counted, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("helpers.study.run"), "propagate", True)
    task = toys.task("tagging")
    whole = coded(task, tiny)
    expected = np.array(whole.tokens)
    (path,) = entries(folder)
    file = path / ("checksums.json" if damage == "sums" else "tokens.npy")
    content = bytearray(file.read_bytes())
    if damage == "flip":
        content[-3] ^= 1
    if damage == "drop":
        file.unlink()
    else:
        file.write_bytes(content[: {"cut": -5, "flip": None, "sums": -5, "empty": 0}[damage]])
    np.testing.assert_array_equal(coded(task, tiny).tokens, expected)
    assert str(path) in caplog.text and "made again" in caplog.text
    coded(task, tiny)
    assert len(counted) == 2 and entries(folder) == [path]
    assert not list(folder.glob(".*"))


def test_a_full_disk_only_costs_time(tiny, folder, monkeypatch, caplog):
    monkeypatch.setattr(logging.getLogger("helpers.study.run"), "propagate", True)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    task = toys.task("pair")
    with tokenised.kept_in(None):
        plain = coded(task, tiny)
    monkeypatch.setattr(np, "save", full)
    same(coded(task, tiny), plain)
    assert "not kept" in caplog.text and not list(folder.glob("*"))


def test_sets_of_somebody_else_can_be_read(tiny, folder, monkeypatch, counted):
    def forbidden(*_, **__):
        raise PermissionError(1, "Operation not permitted")

    task = toys.task("pair")
    coded(task, tiny)
    monkeypatch.setattr(os, "utime", forbidden)
    coded(task, tiny)
    assert len(counted) == 1 and len(entries(folder)) == 1


def test_the_sets_used_longest_ago_go_first(tiny, folder, monkeypatch):
    task = toys.task("pair")
    paths = []
    for longest in (16, 17, 18):
        coded(task, tiny, longest)
        (new,) = set(entries(folder)) - set(paths)
        os.utime(new, (longest, longest))
        paths.append(new)
    coded(task, tiny, 16)  # used now
    size = sum(file.stat().st_size for file in paths[0].iterdir())
    monkeypatch.setattr(tokenised, "LIMIT_BYTES", int(2.5 * size))
    coded(task, tiny, 19)
    assert paths[0].exists() and not paths[1].exists() and not paths[2].exists()
    assert len(entries(folder)) == 2 and not list(folder.glob(".*"))


def test_a_set_that_is_deleted_while_it_is_used_stays_readable(tiny, folder):
    task = toys.task("pair")
    found = coded(task, tiny)
    expected = np.array(found.tokens)
    tokenised._shrink(folder, 0)
    assert not entries(folder)
    np.testing.assert_array_equal(found.tokens, expected)


def test_several_that_keep_the_same_set_at_once_agree(tiny, folder):
    task = toys.task("span")
    rows = list(rows_of(task))

    def work(_):
        with tokenised.kept_in(folder):
            return coded(task, tiny, rows=rows)

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(work, range(8)))
    for one in found[1:]:
        same(one, found[0])
    assert len(entries(folder)) == 1 and not list(folder.glob(".*"))


@pytest.mark.parametrize("format_", FORMATS)
def test_training_and_evaluation_are_the_same_with_it(format_, tiny, tmp_path, counted):
    task = toys.task(format_)

    def scores():
        tuned = fine_tune(tiny, [task], replace(QUICK, epochs=1), 0)
        return tuned.outcome.loss, [row["value"] for row in evaluate(tuned, task, ["en"])]

    plain, calls = scores(), len(counted)
    with tokenised.kept_in(tmp_path):
        assert scores() == plain
        assert scores() == plain
    assert len(counted) == 2 * calls


def test_preparing_leaves_what_is_kept_alone(tiny, folder):
    task = toys.task("pair")
    for _ in range(2):
        ready = prepare(tiny, [task], QUICK, 0)
    (encoded,) = ready.train.values()
    np.testing.assert_array_equal(
        ready.pruned.kept[encoded.tokens], coded(ready.tasks[task.name], tiny).tokens
    )
