"""The loop that every engine is made of: what is done, what is redone, what is left alone."""

from __future__ import annotations

import warnings
from dataclasses import replace

import pandas as pd
import pytest

from helpers import study
from helpers.errors import BadPlan, BadRecord, HelpfulError, StoreFull
from helpers.study import costs
from helpers.study.resuming import missing
from helpers.study.store import SCORE_COLUMNS, Store
from tests.engines import fake


def run(plan, store, **options):
    return study.run(plan, store=store, progress=False, **options)


def ends() -> list[str]:
    return [entry[1] for entry in fake.trace() if entry[0] == "end"]


def test_every_run_is_done_once_and_scored(store: Store) -> None:
    plan = fake.make_plan()
    scores = run(plan, store)
    assert sorted(ends()) == sorted(plan.runs["run"])
    assert list(scores.columns) == list(SCORE_COLUMNS)
    targets = plan.runs[plan.runs["stage"] == "target"]
    assert len(scores) == 2 * len(targets)  # two languages each
    assert set(scores["run"]) == set(targets["run"])
    assert (scores["status"] == "done").all()
    assert scores["value"].between(0.2, 1).all()


def test_a_target_starts_from_its_own_intermediate(store: Store) -> None:
    plan = fake.make_plan()
    scores = run(plan, store).set_index(["run", "language"])["value"]
    for row in plan.runs[plan.runs["stage"] == "target"].itertuples():
        origin = f"{row.parent}/{row.seed}" if row.parent else ""
        expected = fake.fraction(plan.job(row.run), row.seed, origin)
        assert scores[(row.run, "de")] == pytest.approx(expected)


def test_nothing_is_done_twice(store: Store) -> None:
    plan = fake.make_plan()
    first = run(plan, store)
    again = run(plan, Store(store.folder))
    pd.testing.assert_frame_equal(first, again)
    assert len(ends()) == len(plan)


def test_a_run_that_two_plans_ask_for_is_done_once(store: Store) -> None:
    run(fake.make_plan(intermediates=1), store)
    before = len(ends())
    larger = fake.make_plan(intermediates=2)
    run(larger, store)
    assert len(ends()) == len(larger) > before


def test_mode_stored_does_nothing(store: Store) -> None:
    plan = fake.make_plan()
    with pytest.raises(HelpfulError, match="no run of this plan.*python -m helpers.study"):
        run(plan, store, mode="stored")
    small = fake.make_plan(intermediates=1)
    done = run(small, store)
    assert len(run(plan, store, mode="stored")) == len(done) < 2 * len(plan)
    assert len(ends()) == len(small)


def test_mode_always_does_all_again_and_keeps_the_old_records(store: Store) -> None:
    plan = fake.make_plan()
    first = run(plan, store)
    second = run(plan, store, mode="always")
    assert len(ends()) == 2 * len(plan)
    assert len(list(store.folder.glob("replaced/*/*.json"))) == len(plan)
    columns = ["run", "language", "value", "status"]
    pd.testing.assert_frame_equal(first[columns], second[columns])


def test_a_failed_run_is_recorded_does_not_stop_the_plan_and_is_tried_again(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = fake.make_plan()
    monkeypatch.setenv("FAKE_FAIL", "t1")
    scores = run(plan, store)
    failed = scores[scores["target"] == "t1"]
    assert failed["status"].str.startswith("failed: RuntimeError: asked to fail").all()
    assert failed["value"].isna().all()
    assert set(failed["run"]) == set(plan.runs.loc[plan.runs["target"] == "t1", "run"])
    assert (scores.loc[scores["target"] == "t0", "status"] == "done").all()
    monkeypatch.delenv("FAKE_FAIL")
    assert (run(plan, store)["status"] == "done").all()


def test_targets_of_a_failed_intermediate_say_so(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_FAIL", "intermediate")
    scores = run(fake.make_plan(), store)
    lost = scores[scores["condition"] == "single"]
    assert lost["status"].str.contains("its intermediate stage .* failed: RuntimeError").all()
    assert (scores.loc[scores["condition"] == "none", "status"] == "done").all()


def test_the_same_failure_over_and_over_ends_the_plan(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = fake.make_plan(targets=9)

    def broken(*_: object, **__: object) -> None:
        raise ImportError("no module named torch")

    monkeypatch.setattr("helpers.study.execution.default_worker", lambda: broken)
    with pytest.raises(HelpfulError, match="5 runs in a row.*no module named torch"):
        run(plan, store)
    assert len(store.index()) == 5


def test_checkpoints_go_when_nothing_needs_them(store: Store) -> None:
    plan = fake.make_plan(keep=False)
    run(plan, store)
    assert store.checkpoints() == set()
    assert missing(plan, store, keep=False) == []


def test_checkpoints_stay_when_asked(store: Store) -> None:
    plan = fake.make_plan()
    run(plan, store)
    assert store.checkpoints() == set(plan.dependents)


def test_a_checkpoint_stays_while_one_target_has_failed(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = fake.make_plan(keep=False)
    monkeypatch.setenv("FAKE_FAIL", "t1")
    run(plan, store)
    assert store.checkpoints() == set(plan.dependents)


def test_a_new_target_of_a_retired_checkpoint_redoes_the_intermediate(store: Store) -> None:
    run(fake.make_plan(targets=1, keep=False), store)
    larger = fake.make_plan(targets=2, keep=False)
    again = missing(larger, store, keep=False)
    assert set(larger.dependents) <= set(again)
    assert (run(larger, store)["status"] == "done").all()


def test_a_damaged_checkpoint_is_redone(store: Store) -> None:
    plan = fake.make_plan(targets=1)
    run(plan, store)
    larger = fake.make_plan(targets=2)
    parent = next(iter(plan.dependents))
    (store.folder / "checkpoints" / parent / "encoder.bin").write_text("flipped")
    expected = run(larger, Store(store.folder.parent / "other"))
    found = _run_with_check(larger, store)
    columns = ["run", "language", "value", "status"]
    pd.testing.assert_frame_equal(found[columns], expected[columns])


def _run_with_check(plan, store: Store):
    """The real worker compares checksums when it loads; let the quick one do so too."""
    from helpers.study import execution

    def checked(job, start, state, **options):
        if start is not None and execution._damaged(start):
            raise BadRecord(f"{start} does not match its checksum")
        return fake.work(job, start, state, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("helpers.study.execution.default_worker", lambda: checked)
        return run(plan, store)


def test_a_flipped_record_is_named_and_redone(store: Store) -> None:
    plan = fake.make_plan()
    expected = run(plan, store)
    victim = store.path(plan.runs["run"][0])
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 4
    victim.write_bytes(content)
    with pytest.warns(UserWarning, match=victim.name):
        found = run(plan, Store(store.folder))
    columns = ["run", "language", "value", "status"]
    pd.testing.assert_frame_equal(found[columns], expected[columns])
    assert len(ends()) == len(plan) + 1


def test_a_record_that_flips_without_a_new_date_is_found_when_it_is_read(store: Store) -> None:
    plan = fake.make_plan()
    run(plan, store)
    victim = store.path(plan.runs["run"][0])
    import os

    facts = victim.stat()
    content = bytearray(victim.read_bytes())
    content[-20] ^= 1
    victim.write_bytes(content)
    os.utime(victim, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    with pytest.warns(UserWarning, match=victim.name):
        found = run(plan, store)  # the same Store, which believes it knows this file
    assert set(found["run"]) == set(plan.runs.loc[plan.runs["stage"] == "target", "run"])


def test_collapsed_runs_are_retried_once_and_both_attempts_stay(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_COLLAPSE", "t0")
    plan = fake.make_plan()
    scores = run(plan, store)
    collapsed = scores[scores["target"] == "t0"]
    assert (collapsed["status"] == "collapsed").all()
    assert collapsed["value"].notna().all()
    seeds = collapsed.groupby("run")["seed"].agg(lambda seed: sorted(set(seed)))
    assert all(second == first + 10_000 for first, second in seeds)
    outcomes = store.outcomes()
    assert outcomes.loc[outcomes["status"] == "collapsed", "notes"].str.contains("constant").all()
    assert (scores.loc[scores["target"] == "t1", "status"] == "done").all()
    assert missing(plan, store, keep=True) == []  # a second collapse is final


def test_a_retry_that_succeeds_is_the_result(store: Store) -> None:
    plan = fake.make_plan(intermediates=0, targets=1)

    def moody(job, start, state, *, seed, **options):
        work = fake.work(job, start, state, seed=seed, **options)
        return work if seed >= 10_000 else type(work)(work.attempt, {"t": 2.0})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("helpers.study.execution.default_worker", lambda: moody)
        scores = run(plan, store)
    by_attempt = scores.groupby("seed")["status"].first()
    assert by_attempt[0] == by_attempt[1] == "collapsed"
    assert by_attempt[10_000] == by_attempt[10_001] == "done"
    assert set(store.index()["status"]) == {"done"}


def test_a_full_disk_ends_the_plan_and_loses_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = fake.make_plan()
    real, written = Store.write, []

    def full(self, record):
        if len(written) == 3:
            raise StoreFull(28, f"no room left to write {self.path(record.run)}")
        written.append(record.run)
        return real(self, record)

    monkeypatch.setattr(Store, "write", full)
    with pytest.raises(StoreFull, match="no room left"):
        run(plan, store)
    assert store.runs() == set(written)
    monkeypatch.setattr(Store, "write", real)
    assert (run(plan, store)["status"] == "done").all()
    assert len(ends()) == len(plan) + 1


def test_a_disk_too_small_for_the_plan_is_refused_at_the_start(store: Store) -> None:
    plan = fake.make_plan(trained_parameters=1e15)
    with pytest.raises(ValueError, match="what is missing needs about .* MB"):
        run(plan, store)
    assert not fake.trace()


def test_not_keeping_checkpoints_helps_on_a_small_disk(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = fake.make_plan(intermediates=4, trained_parameters=1e9)
    whole = costs.peak_megabytes(plan, plan.runs["run"], keep=True)
    monkeypatch.setattr(study, "free_bytes", lambda folder: (whole - 1) * 1e6)
    with pytest.raises(BadPlan, match="or run it with keep=False"):
        run(plan, store)
    assert len(run(plan, store, keep=False)) and not store.checkpoints()


def test_plans_with_fewer_languages_are_answered_by_wider_runs(store: Store) -> None:
    plan = fake.make_plan()
    run(plan, store)
    narrow = fake.make_plan()
    part = next(key for key, value in narrow.parts.items() if set(value) == {"de", "fr"})
    from helpers.study.plans import digest

    builder_rows = narrow.runs.copy()
    parts = dict(narrow.parts) | {"only-de": {"de": narrow.parts[part]["de"]}}
    target = builder_rows["stage"] == "target"
    builder_rows.loc[target, "evaluation"] = "only-de"
    builder_rows.loc[target, "run"] = [
        digest(f"{core}|only-de") for core in builder_rows.loc[target, "core"]
    ]

    asked = replace(
        narrow, runs=builder_rows, parts=parts, facts=narrow.facts | {"languages": ["de"]}
    )
    before = len(ends())
    scores = run(asked, store)
    assert len(ends()) == before
    assert set(scores["language"]) == {"de"}
    assert len(scores) == target.sum()


def test_quiet_run_writes_nothing(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(fake.make_plan(), store)
    assert capsys.readouterr() == ("", "")


def test_every_run_has_a_log(store: Store) -> None:
    plan = fake.make_plan()
    run(plan, store)
    for name in plan.runs["run"]:
        text = store.log(name).read_text()
        assert plan.job(name).name in text and "done in" in text
