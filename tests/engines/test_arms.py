"""The loop that every engine is made of: what is done, what is redone, what is left alone."""

import shutil
from dataclasses import replace
from types import SimpleNamespace

import pandas as pd
import pytest

from helpers import study
from helpers.errors import BadPlan, HelpfulError, StoreFull
from helpers.study import engines
from helpers.study.__main__ import main, status
from helpers.study.store import SCORE_COLUMNS, Store, digest, missing
from tests.engines import fake
from tests.engines.fake import ended, run

COLUMNS = ["run", "language", "value", "status"]


def test_a_target_starts_from_its_own_intermediate_and_every_run_has_a_log(store):
    plan = fake.make_plan()
    scores = run(plan, store)
    assert list(scores.columns) == list(SCORE_COLUMNS)
    values = scores.set_index(["run", "language"])["value"]
    for row in plan.runs[plan.runs["stage"] == "target"].itertuples():
        origin = f"{row.parent}/{row.seed}" if row.parent else ""
        expected = fake.fraction(plan.job(row.run), row.seed, origin)
        assert values[(row.run, "de")] == values[(row.run, "fr")] == pytest.approx(expected)
    for name in plan.runs["run"]:
        text = store.log(name).read_text()
        assert plan.job(name).name in text and "done in" in text


def test_arms_share_nothing_and_hold_every_run_once(store):
    plan = fake.make_plan(intermediates=3, targets=2, seeds=2)
    assert sorted(sum(plan.arms.values(), [])) == sorted(plan.runs["run"])
    kinds = [len(runs) for runs in plan.arms.values()]
    assert kinds == [2] * 4 + [3] * 6  # four seeds of baselines, and six stages with two targets
    for arm, names in plan.arms.items():
        parents = {plan.job(name).spec["parent"] for name in names}
        assert parents <= {"", arm} and (arm in names) == (len(names) == 3)
    # The same arm of another plan is the same one, so that two drivers do not do it twice.
    assert set(fake.make_plan(intermediates=1).arms) < set(fake.make_plan(intermediates=2).arms)


def test_modes(store):
    plan, small = fake.make_plan(), fake.make_plan(intermediates=1)
    with pytest.raises(HelpfulError, match="no run of this plan.*python -m helpers.study"):
        run(plan, store, mode="stored")
    done = run(small, store)
    assert len(run(plan, store, mode="stored")) == len(done) and len(ended()) == len(small)
    run(plan, store)
    assert len(ended()) == len(plan)  # what two plans ask for is done once
    again = run(small, store, mode="always")
    assert len(ended()) == len(plan) + len(small)
    assert len(list(store.folder.glob("replaced/*/*.json"))) == len(small)
    pd.testing.assert_frame_equal(done[COLUMNS], again[COLUMNS])


def test_the_cost_counts_what_is_left(store):
    plan = fake.make_plan(trained_parameters=1e6)
    before = plan.cost(store).set_index(["stage", "condition"])
    assert before.loc[("total", ""), ["arms", "runs", "stored"]].tolist() == [4, 10, 0]
    for name in ("runs", "training_tokens", "test_tokens"):
        assert before[name].iloc[-1] == before[name].iloc[:-1].sum() > 0
    assert before.loc[("intermediate", "single"), "megabytes"] == pytest.approx(8, abs=0.1)
    assert "10 runs of profile 'fake'" in plan.sentence(store) and "4 arms:" in plan.sentence(store)
    run(fake.make_plan(intermediates=1), store)
    total = plan.cost(store).iloc[-1]
    assert (total["runs"], total["stored"], total["training_tokens"]) == (10, 7, 12_000)
    assert 0 <= total["minutes_left"] <= total["minutes"]
    assert "; 7 runs are stored, 0.1 minutes are left." in plan.sentence(store)
    assert "measured in 7 runs" in plan.sentence(store)
    shutil.rmtree(store.folder / "checkpoints")  # as elsewhere: the stage is to be trained again
    assert "; 6 runs are stored" in plan.sentence(store)


def test_the_same_failure_over_and_over_ends_the_plan_but_a_stage_fails_once(store, monkeypatch):
    monkeypatch.setenv("FAKE_FAIL", "i0")
    scores = run(fake.make_plan(targets=7), store)
    assert set(scores.loc[scores["intermediate"] == "i1", "status"]) == {"done"}
    lost = scores.loc[scores["intermediate"] == "i0", "status"]
    said = "its intermediate stage .* failed: RuntimeError"
    assert len(lost) == 7 and lost.str.contains(said).all()
    before = len(store.index())

    def broken(*_):
        raise ImportError("no module named torch")

    monkeypatch.setattr(fake.arm, "attempt", broken)
    with pytest.raises(HelpfulError, match="5 runs in a row.*no module named torch"):
        run(fake.make_plan(targets=16, intermediates=0), store)
    assert len(store.index()) == before + 5


@pytest.mark.parametrize("keep", [True, False])
def test_checkpoints_go_when_nothing_needs_them_unless_they_are_kept(store, keep, monkeypatch):
    plan = fake.make_plan(keep=keep)
    stages = set(plan.runs.loc[plan.runs["stage"] == "intermediate", "run"])
    monkeypatch.setenv("FAKE_FAIL", "t1")
    run(plan, store)
    assert store.checkpoints() == stages  # while one target has failed
    monkeypatch.delenv("FAKE_FAIL")
    run(plan, store)
    assert store.checkpoints() == (stages if keep else set())
    assert missing(plan, store, keep=keep) == []
    # A new target of a checkpoint that is gone needs its stage again.
    larger, before = fake.make_plan(targets=3, keep=keep), len(ended())
    assert (run(larger, store)["status"] == "done").all()
    assert len(ended()) - before == 4 + (0 if keep else 2)


def test_collapsed_runs_are_retried_once_and_both_attempts_stay(store, monkeypatch):
    monkeypatch.setenv("FAKE_COLLAPSE", "t0 t1!")
    plan = fake.make_plan()
    scores = run(plan, store)
    both = scores.groupby(["run", "target"])["seed"].agg(lambda seed: sorted(set(seed)))
    assert all(second == first + 10_000 for first, second in both)
    collapsed = scores[scores["target"] == "t0"]
    assert (collapsed["status"] == "collapsed").all() and collapsed["value"].notna().all()
    for record in store.records(set(collapsed["run"])):
        assert all("constant answer" in attempt.notes[0] for attempt in record.attempts)
    # A retry that succeeds is the result.
    second = (scores["target"] == "t1") & (scores["seed"] >= 10_000)
    assert (scores["status"] == second.map({True: "done", False: "collapsed"})).all()
    assert set(store.index().query("stage == 'target'")["status"]) == {"done", "collapsed"}
    assert missing(plan, store, keep=True) == []  # a second collapse is final


def test_a_full_disk_ends_the_plan_and_loses_nothing(store, monkeypatch):
    plan, real, written = fake.make_plan(), Store.write, []

    def full(self, record):
        if len(written) == 3:
            raise StoreFull(28, f"no room left to write {self.path(record.run)}")
        written.append(record.run)
        return real(self, record)

    with monkeypatch.context() as patch, pytest.raises(StoreFull, match="no room left"):
        patch.setattr(Store, "write", full)
        run(plan, store)
    assert store.runs() == set(written) and (run(plan, store)["status"] == "done").all()
    assert len(ended()) == len(plan) + 1


def test_a_disk_too_small_for_the_plan_is_refused_at_the_start(store, monkeypatch):
    plan = fake.make_plan(intermediates=4, trained_parameters=1e9)
    usage = SimpleNamespace(free=(4 * 4 + 5 * 4) * 1e9)  # four checkpoints, and the state of a run
    monkeypatch.setattr(study.shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(BadPlan, match="needs about .* MB.*or run it with keep=False"):
        run(plan, store)
    assert not fake.trace()
    assert len(run(plan, store, keep=False)) and not store.checkpoints()


def test_plans_with_fewer_languages_are_answered_by_wider_runs(store):
    plan = fake.make_plan()
    run(plan, store)
    rows, target = plan.runs.copy(), plan.runs["stage"] == "target"
    rows.loc[target, "evaluation"] = "only-de"
    rows.loc[target, "run"] = [digest(f"{core}|only-de") for core in rows.loc[target, "core"]]
    parts = dict(plan.parts) | {"only-de": {"de": "1"}}
    narrow = replace(plan, runs=rows, parts=parts, facts=plan.facts | {"languages": ["de"]})
    scores = run(narrow, store)
    assert len(ended()) == len(plan)
    assert set(scores["language"]) == {"de"} and len(scores) == target.sum()
    assert len(run(narrow, store, mode="always")) == len(scores)  # moves the wider ones aside
    assert len(ended()) == len(plan) + len(narrow)


def test_progress_says_runs_rate_and_time_left_or_nothing(store, capsys, monkeypatch):
    run(fake.make_plan(intermediates=0), store)
    assert capsys.readouterr() == ("", "")
    monkeypatch.setenv("FAKE_FAIL", "i1")
    study.run(fake.make_plan(), store=store)
    shown = capsys.readouterr().err
    assert "fake: 100%" in shown and "6/6" in shown and "3 failed" in shown and "runs/s" in shown
    # A log file gets at most a line a minute, however often an engine looks.
    progress = engines.Progress(plan := fake.make_plan(), list(plan.runs["run"]), store, True)
    capsys.readouterr()
    for _ in range(9):
        progress.look()
    assert capsys.readouterr().err == ""
    progress.bar.close()


def test_status_counts_every_run_of_every_plan(store, monkeypatch, capsys):
    monkeypatch.setenv("TRANSFER_STORE", str(store.folder))
    assert main(["--status"]) == 0
    assert "no plan was started here yet" in capsys.readouterr().out
    plan, larger = fake.make_plan(), fake.make_plan(intermediates=3)
    monkeypatch.setenv("FAKE_FAIL", "t1")
    run(plan, store)
    larger.save(store.plans)
    table = status(store).set_index("runs")
    assert table.loc[len(plan), ["done", "failed", "missing"]].tolist() == [6, 4, 4]
    assert table.loc[len(larger), ["done", "failed", "missing"]].tolist() == [6, 4, 7]
    assert (table["minutes_left"] > 0).all() and status(store, "other").empty
    (store.plans / "00.parquet").write_bytes(b"x")
    assert main(["--status", "--profile", "tiny"]) == 0
    out, err = capsys.readouterr()
    assert "failed: RuntimeError" in out and "logs" in out and plan.id not in out
    assert "00.parquet is not a plan" in err
