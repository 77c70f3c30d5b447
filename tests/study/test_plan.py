"""What a plan contains, what its ids depend on, and what it says when it cannot be made."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from helpers import study, tasks
from helpers.errors import BadPlan, BadRecord, UnknownName
from helpers.models.settings import Settings
from helpers.study import known, profiles
from helpers.study.plan import Plan
from helpers.study.profiles import TINY
from helpers.study.store import Store
from helpers.tasks import Source, Task

plans = sys.modules["helpers.study.plan"]


def runs(store: Store, **options: object) -> pd.DataFrame:
    return study.plan("tiny", store=store, **options).runs


def test_shape_of_a_study(shared: Store) -> None:
    table = runs(shared)
    counts = table.groupby(["stage", "condition", "target"]).size().to_dict()
    assert counts == {
        ("intermediate", "single", ""): 2,
        ("target", "none", "toy-intents"): 2,
        ("target", "none", "toy-slots"): 2,
        ("target", "none", "toy-messages"): 1,
        ("target", "single", "toy-intents"): 2,
        ("target", "single", "toy-slots"): 2,
        ("target", "single", "toy-messages"): 2,
    }
    assert table["run"].is_unique
    assert set(table.loc[table["condition"] == "none", "intermediate"]) == {""}


def test_every_run_comes_after_what_it_starts_from(shared: Store) -> None:
    table = runs(shared, seeds=3, conditions=("none", "single", "multitask", "mlm", "shuffled"))
    place = dict(zip(table["run"], table.index, strict=True))
    for row in table.itertuples():
        assert not row.parent or place[row.parent] < row.Index
        if row.parent:
            parent = table.loc[place[row.parent]]
            assert (parent.seed, parent.condition, parent.intermediate) == (
                row.seed,
                row.condition,
                row.intermediate,
            )


def test_baselines_have_twice_as_many_seeds_and_grow_without_redoing_any(shared: Store) -> None:
    def baseline(seeds: object) -> pd.DataFrame:
        table = runs(shared, seeds=seeds)
        return table[(table["condition"] == "none") & (table["target"] == "toy-intents")]

    assert baseline(1)["seed"].tolist() == [0, 1]
    assert baseline(3)["seed"].tolist() == [0, 1, 2, 3, 4, 5]
    assert baseline([5, 2])["seed"].tolist() == [5, 2, 0, 1]
    assert set(runs(shared, seeds=1)["run"]) <= set(runs(shared, seeds=3)["run"])


def test_retrieval_without_training_is_one_run(shared: Store) -> None:
    table = runs(shared, seeds=3, conditions=("none", "single", "more_target"))
    messages = table[table["target"] == "toy-messages"]
    assert messages["condition"].value_counts().to_dict() == {"single": 6, "none": 1}
    assert (messages["train_tokens"] == 0).all() and (messages["test_tokens"] > 0).all()


def test_conditions_change_what_they_say(shared: Store) -> None:
    names = ("none", "single", "multitask", "mlm", "more_target", "shuffled")
    plan = study.plan("tiny", store=shared, conditions=names)
    table = plan.runs

    def settings(condition: str, stage: str, task: str) -> list[dict[str, object]]:
        column = "intermediate" if stage == "intermediate" else "target"
        chosen = table[
            (table["condition"] == condition) & (table["stage"] == stage) & (table[column] == task)
        ]
        return [dict(plan.job(run).spec["settings"]) for run in chosen["run"]]

    (single,) = settings("single", "intermediate", "toy-same")
    (shuffled,) = settings("shuffled", "intermediate", "toy-same")
    (mlm,) = settings("mlm", "intermediate", "toy-same")
    assert shuffled == single | {"shuffle_labels": True}
    assert mlm["mlm_share"] == 0.2 and not single["mlm_share"]
    plain = settings("none", "target", "toy-intents")[0]
    more = settings("more_target", "target", "toy-intents")[0]
    assert more == plain | {"epochs": 2 * plain["epochs"]}
    assert settings("single", "target", "toy-intents")[0] == plain
    both = table[(table["condition"] == "multitask") & (table["stage"] == "intermediate")]
    assert both["intermediate"].tolist() == ["toy-same+toy-choice"]
    assert set(plan.job(both["run"].iloc[0]).spec["data"]["tasks"]) == {"toy-same", "toy-choice"}


def test_ids_are_the_same_every_time_and_for_every_plan(shared: Store) -> None:
    table = runs(shared)
    pd.testing.assert_frame_equal(table, runs(shared))
    fewer = runs(shared, targets=["toy-slots"], intermediates=["toy-choice"])
    assert set(fewer["run"]) < set(table["run"])
    assert study.plan("tiny", store=shared).id == study.plan("tiny", store=shared).id


@pytest.mark.parametrize(
    "change",
    [
        {"target": replace(TINY.target, epochs=9)},
        {"target": replace(TINY.target, train_rows=9)},
        {"test_rows": {"pair": 3, "tagging": 3, "retrieval": 3}},
    ],
)
def test_ids_change_with_what_determines_a_result(shared: Store, change: dict) -> None:
    other = replace(TINY, **change)
    assert set(runs(shared)["run"]).isdisjoint(
        _targets(study.plan(other, store=shared, targets=["toy-intents", "toy-slots"]))
    )


def _targets(plan: Plan) -> set[str]:
    return set(plan.runs.loc[plan.runs["stage"] == "target", "run"])


@pytest.mark.parametrize(
    "change",
    [
        {"intermediate": replace(TINY.intermediate, learning_rate=1e-9)},
        {"encoder": "tiny-2"},
        {"code": True},
    ],
)
def test_targets_change_with_their_intermediate_stage(
    shared: Store, change: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = runs(shared)
    if "code" in change:
        monkeypatch.setitem(plans.CODE, "intermediate", 99)
        after = runs(shared)
    elif "encoder" in change:
        _, facts = known._describe("tiny", "")
        monkeypatch.setattr(known, "_describe", lambda *asked: ({"sha256": "another"}, facts))
        after = runs(shared)
    else:
        after = study.plan(replace(TINY, **change), store=shared).runs
    single = before["condition"] == "single"
    assert set(before.loc[single, "run"]).isdisjoint(after["run"])
    same_baselines = set(before.loc[~single, "run"]) == set(after.loc[~single, "run"])
    assert same_baselines == ("encoder" not in change)


@pytest.mark.parametrize("name", ["checkpoint_seconds", "gradient_checkpointing"])
def test_ids_do_not_change_with_how_a_result_is_reached(shared: Store, name: str) -> None:
    assert hasattr(Settings(), name)
    value = True if name == "gradient_checkpointing" else 64
    other = replace(TINY, target=replace(TINY.target, **{name: value}))
    made = study.plan(other, store=shared)
    assert set(made.runs["run"]) == set(runs(shared)["run"])
    target = made.runs.loc[made.runs["target"] == "toy-slots", "run"].iloc[0]
    assert made.job(target).spec["settings"][name] == value


def test_ids_change_with_the_rows(shared: Store) -> None:
    def rows(first: str):
        def read(language: str, split: str):
            return [
                {"id": f"{split}{i}", "first": first * (i + 1), "second": "", "label": i % 2}
                for i in range(4)
            ]

        return read

    def made(first: str) -> set[str]:
        source = Source("rows", "mine", splits={s: s for s in ("train", "dev", "test")})
        task = Task("mine", "target", "pair", replace(source, read=rows(first)), labels=("a", "b"))
        tasks.register(task, replace=True)
        return set(study.plan("tiny", targets=["mine"], intermediates=[], store=shared).runs["run"])

    assert made("x") == made("x")  # a task of a notebook is surveyed anew every time
    assert made("x").isdisjoint(made("y"))


def test_fewer_languages_are_another_run_of_the_same_core(shared: Store) -> None:
    whole, part = runs(shared), runs(shared, languages=["qaa"])
    columns = ["stage", "condition", "intermediate", "target", "seed"]
    both = whole.merge(part, on=columns, suffixes=("", "_part"))
    assert len(both) == len(whole) == len(part)
    assert (both["core"] == both["core_part"]).all()
    target = both["stage"] == "target"
    assert (both.loc[target, "run"] != both.loc[target, "run_part"]).all()
    assert (both.loc[~target, "run"] == both.loc[~target, "run_part"]).all()


def test_a_saved_plan_reads_back(shared: Store, store: Store) -> None:
    plan = study.plan("tiny", store=shared)
    path = plan.save(store.folder)
    again = plans.load(path)
    pd.testing.assert_frame_equal(again.runs, plan.runs)
    assert again.id == plan.id
    assert all(again.job(run) == plan.job(run) for run in plan.runs["run"])
    assert plans.find(store.folder, list(plan.arms)[:1]).id == plan.id
    with pytest.raises(UnknownName, match="not part of plan"):
        plan.job("nonsense")
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(BadRecord, match="is not a plan"):
        plans.load(path)


def test_cost_adds_up_and_says_where_it_is_from(shared: Store, store: Store) -> None:
    plan = study.plan("tiny", store=shared)
    cost = plan.cost(store)
    parts, total = cost.iloc[:-1], cost.iloc[-1]
    assert total["runs"] == len(plan) == parts["runs"].sum()
    assert total["training_tokens"] == parts["training_tokens"].sum() > 0
    assert total["minutes"] > 0 and total["megabytes"] > 0
    assert total["arms"] == len(plan.arms) == 4
    assert "not measured" in plan.sentence(store) and "<table" in plan._repr_html_()
    more = study.plan("tiny", store=shared, seeds=2).cost(store)
    assert more.iloc[-1]["minutes"] > total["minutes"] and repr(plan).startswith("13 runs")


def test_estimated_tokens_are_near_the_true_ones(shared: Store) -> None:
    from helpers import data
    from helpers.models import encoders

    plan = study.plan("tiny", store=shared, intermediates=[], targets=["intents"])
    tokenizer = encoders.load("bundled").tokenizer
    rows = data.rows("intents", "en", "train", TINY.target.train_rows)
    true = sum(len(ids) for ids in tokenizer([row["first"] for row in rows])["input_ids"])
    estimate = plan.runs["train_tokens"].iloc[0] / TINY.target.epochs
    assert 0.6 < estimate / true < 1.7


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"profile": "tinny"}, "unknown profile 'tinny'. Did you mean 'tiny'"),
        ({"conditions": ["singel"]}, "unknown condition 'singel'. Did you mean 'single'"),
        ({"languages": ["en", "xx"]}, "unknown language 'xx'"),
    ],
)
def test_unknown_names_list_the_valid_ones(shared: Store, options: dict, text: str) -> None:
    with pytest.raises(UnknownName, match=text.replace("(", r"\(").replace("?", r"\?")):
        study.plan(options.pop("profile", "tiny"), store=shared, **options)


def test_all_unknown_tasks_are_named_at_once(shared: Store) -> None:
    with pytest.raises(BadPlan) as caught:
        study.plan("tiny", ["toy-sam", "toy-intents"], ["nix"], store=shared)
    text = str(caught.value)
    assert "3 problems" in text and "Did you mean 'toy-same'" in text
    assert "'toy-intents' is a target, not an intermediate" in text and "'nix'" in text


def test_all_missing_data_and_the_encoder_are_named_at_once(
    shared: Store, monkeypatch: pytest.MonkeyPatch, tmp_path
) -> None:
    monkeypatch.setenv("TRANSFER_DATA_ROOT", str(tmp_path))
    source = Source("hub", "nobody/nothing", config="x", splits={"train": "train", "dev": "dev"})
    for name in ("lost-a", "lost-b"):
        tasks.register(Task(name, "intermediate", "pair", source, labels=("a", "b")))
    with pytest.raises(BadPlan) as caught:
        study.plan("tiny", ["lost-a", "lost-b"], encoder="no-such-encoder", store=shared)
    text = str(caught.value)
    assert all(part in text for part in ("lost-a", "lost-b", "no-such-encoder", "nobody/nothing"))


def test_translated_says_what_it_lacks(shared: Store) -> None:
    with pytest.raises(BadPlan, match="needs a task 'toy-same-translated'"):
        study.plan("tiny", conditions=["translated"], store=shared)


@pytest.mark.parametrize("seeds", [0, [], [1, 1], [-1]])
def test_bad_seeds(shared: Store, seeds: object) -> None:
    with pytest.raises(BadPlan, match="seeds must be"):
        study.plan("tiny", seeds=seeds, store=shared)


def test_a_target_without_any_of_the_languages(shared: Store) -> None:
    with pytest.raises(BadPlan, match="'toy-messages' has none of the languages asked for"):
        study.plan("tiny", languages=["en"], store=shared)


def test_unknown_modes_and_engines(shared: Store) -> None:
    plan = study.plan("tiny", store=shared)
    with pytest.raises(UnknownName, match="unknown mode 'mising'. Did you mean 'missing'"):
        study.run(plan, mode="mising", store=shared)
    with pytest.raises(UnknownName, match="unknown engine 'slrm'. Did you mean 'slurm'"):
        study.run(plan, engine="slrm", store=shared)


def test_profiles_are_complete() -> None:
    for profile in profiles.PROFILES.values():
        known = set(tasks.names())
        assert set(profile.intermediates) <= known, profile.name
        assert set(profile.targets) <= known, profile.name
        for condition in profiles.CONDITIONS:
            for stage, names in (
                ("intermediate", profile.intermediates),
                ("target", profile.targets),
            ):
                for name in names:
                    profile.settings(tasks.get(name), stage, condition)


def test_what_is_known_of_rows_and_encoders_is_remembered_and_forgotten_when_it_may_be_wrong(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def counted(name: str) -> Any:
        real = getattr(known, name)

        def look(*parts: Any) -> Any:
            asked.append(name)
            return real(*parts)

        look.__module__, look.__qualname__ = real.__module__, name
        return look

    for name in ("_look", "_describe"):
        monkeypatch.setattr(known, name, counted(name))
    first = study.plan("tiny", encoder="bundled", store=store)
    assert asked.count("_describe") == 1 and (reads := asked.count("_look")) > 10
    again = study.plan("tiny", encoder="bundled", store=store)
    assert again.facts == first.facts and list(again.runs["run"]) == list(first.runs["run"])
    assert len(asked) == reads + 1 and first.facts["device"] in ("cpu", "cuda")
    monkeypatch.setattr(known, "_code", lambda: "changed")
    study.plan("tiny", encoder="bundled", store=store)
    assert len(asked) == 2 * (reads + 1)
    for file in (store.folder / "known").rglob("output.pkl"):
        file.write_bytes(b"half")
    study.plan("tiny", encoder="bundled", store=store)
    assert len(asked) == 3 * (reads + 1)


def test_a_plan_of_the_demo_study_needs_no_torch(
    store: Store, package_data: None, tmp_path: Path
) -> None:
    code = (
        "import sys, time\n"
        "from helpers import study\n"
        "from helpers.study.store import Store\n"
        "print('torch' in sys.modules)\n"
        "began = time.process_time()\n"
        "plan = study.plan('demo', store=Store(sys.argv[1]))\n"
        "plan.cost(Store(sys.argv[1]))\n"
        "print('torch' in sys.modules, time.process_time() - began)\n"
    )
    command = [sys.executable, "-c", code, str(store.folder)]
    # The first reads the data and loads the encoder once. Not in this process: joblib writes a function's
    # code into the first store that a process uses only, and a later process trusts no store without.
    subprocess.run(command, capture_output=True, check=True)
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    imported, planned, seconds = done.stdout.split()
    assert imported == planned == "False" and float(seconds) < 1.5


def test_a_script_and_a_module_of_one_name(store: Store) -> None:
    """The functions keep their names though modules have them too, whatever is imported first."""
    code = (
        "import helpers.study.run, helpers.study.plan; from helpers import study as s; print(s.run)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("<function run")
