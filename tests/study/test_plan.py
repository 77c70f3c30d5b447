import subprocess
import sys
from dataclasses import replace

import pandas as pd
import pytest

from helpers import data, study, tasks
from helpers.errors import BadPlan, BadRecord, UnknownName
from helpers.models import encoders
from helpers.study import profiles
from helpers.study import store as stores
from helpers.study.plan import load
from helpers.study.profiles import TINY
from helpers.tasks import Source, Task

plans = sys.modules["helpers.study.plan"]


def runs(store, **options):
    return study.plan("tiny", store=store, **options).runs


def test_shape_of_a_study(shared):
    table = runs(shared)
    counts = table.groupby(["stage", "condition", "target"]).size().to_dict()
    plain = {"toy-intents": 2, "toy-slots": 2, "toy-messages": 1}
    expected = {("target", "none", name): count for name, count in plain.items()}
    expected |= {("target", "single", name): 2 for name in plain}
    assert counts == expected | {("intermediate", "single", ""): 2}
    assert table["run"].is_unique
    assert set(table.loc[table["condition"] == "none", "intermediate"]) == {""}
    # Retrieval without training is one run.
    table = runs(shared, seeds=3, conditions=("none", "single", "more_target"))
    messages = table[table["target"] == "toy-messages"]
    assert messages["condition"].value_counts().to_dict() == {"single": 6, "none": 1}
    assert (messages["train_tokens"] == 0).all() and (messages["test_tokens"] > 0).all()


def test_every_run_comes_after_what_it_starts_from(shared):
    table = runs(shared, seeds=3, conditions=("none", "single", "multitask", "mlm", "shuffled"))
    table = table.reset_index()
    both = table.merge(table, left_on="parent", right_on="run", suffixes=("", "_parent"))
    assert len(both) == (table["parent"] != "").sum() > 0
    assert (both["index_parent"] < both["index"]).all()
    for name in ("seed", "condition", "intermediate"):
        assert (both[name] == both[f"{name}_parent"]).all()


def test_baselines_have_twice_as_many_seeds_and_grow_without_redoing_any(shared):
    def baseline(seeds):
        table = runs(shared, seeds=seeds)
        chosen = (table["condition"] == "none") & (table["target"] == "toy-intents")
        return table.loc[chosen, "seed"].tolist()

    assert baseline(1) == [0, 1] and baseline(3) == [0, 1, 2, 3, 4, 5]
    assert baseline([5, 2]) == [5, 2, 0, 1]
    assert set(runs(shared, seeds=1)["run"]) <= set(runs(shared, seeds=3)["run"])


def test_conditions_change_what_they_say(shared):
    names = ("none", "single", "multitask", "mlm", "more_target", "shuffled")
    plan = study.plan("tiny", store=shared, conditions=names)

    def settings(condition, stage, task):
        column = "intermediate" if stage == "intermediate" else "target"
        asked = {"condition": condition, "stage": stage, column: task}
        chosen = plan.runs[(plan.runs[list(asked)] == pd.Series(asked)).all(axis=1)]
        return dict(plan.job(chosen["run"].iloc[0]).spec["settings"])

    names = ("single", "shuffled", "mlm")
    single, shuffled, mlm = (settings(name, "intermediate", "toy-same") for name in names)
    assert shuffled == single | {"shuffle_labels": True}
    assert mlm["mlm_share"] == 0.2 and not single["mlm_share"]
    names = ("none", "more_target", "single")
    plain, more, after = (settings(name, "target", "toy-intents") for name in names)
    assert more == plain | {"epochs": 2 * plain["epochs"]} and after == plain
    stages = plan.runs[plan.runs["stage"] == "intermediate"]
    both = stages[stages["condition"] == "multitask"]
    assert both["intermediate"].tolist() == ["toy-same+toy-choice"]
    assert set(plan.job(both["run"].iloc[0]).spec["data"]["tasks"]) == {"toy-same", "toy-choice"}


def test_ids_are_the_same_every_time_and_for_every_plan(shared):
    table = runs(shared)
    pd.testing.assert_frame_equal(table, runs(shared))
    fewer = runs(shared, targets=["toy-slots"], intermediates=["toy-choice"])
    assert set(fewer["run"]) < set(table["run"])
    assert study.plan("tiny", store=shared).id == study.plan("tiny", store=shared).id
    # Fewer languages are another run of the same core.
    part = runs(shared, languages=["qaa"])
    columns = ["stage", "condition", "intermediate", "target", "seed"]
    both = table.merge(part, on=columns, suffixes=("", "_part"))
    assert len(both) == len(table) == len(part)
    assert (both["core"] == both["core_part"]).all()
    assert ((both["run"] == both["run_part"]) == (both["stage"] == "intermediate")).all()


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"target": replace(TINY.target, epochs=9)}, "intermediate"),
        ({"target": replace(TINY.target, train_rows=9)}, "intermediate"),
        ({"test_rows": {"pair": 3, "tagging": 3, "retrieval": 3}}, "intermediate"),
        ({"intermediate": replace(TINY.intermediate, learning_rate=1e-9)}, "none"),
        ({"code": 99}, "none"),
        ({"encoder": "another"}, "nothing"),
        ({"target": replace(TINY.target, checkpoint_seconds=64)}, "all"),
        ({"target": replace(TINY.target, gradient_checkpointing=True)}, "all"),
    ],
)
def test_ids_change_with_what_determines_a_result_only(shared, change, same, monkeypatch):
    names = {"targets": ["toy-intents", "toy-slots"], "store": shared}
    before = study.plan("tiny", **names).runs
    if "code" in change:
        monkeypatch.setitem(plans.CODE, "intermediate", change["code"])
    if "encoder" in change:
        _, facts = plans._describe("tiny")
        monkeypatch.setattr(plans, "_describe", lambda name: ({"sha256": "another"}, facts))
    fields = {n: v for n, v in change.items() if n not in ("code", "encoder")}
    plan = study.plan(replace(TINY, **fields), **names)
    kept = {
        "nothing": before["run"] == "",
        "none": before["condition"] == "none",
        "intermediate": before["stage"] == "intermediate",
        "all": before["run"] != "",
    }[same]
    assert set(before["run"]) & set(plan.runs["run"]) == set(before.loc[kept, "run"])
    if same == "all":
        target = plan.runs.loc[plan.runs["target"] == "toy-slots", "run"].iloc[0]
        spec = plan.job(target).spec["settings"]
        assert {**spec, "mlm_languages": ()} == change["target"].facts()


def test_a_saved_plan_reads_back(shared, store):
    plan = study.plan("tiny", store=shared)
    path = plan.save(store.folder)
    again = load(path)
    pd.testing.assert_frame_equal(again.runs, plan.runs)
    assert again.id == plan.id and again.facts == plan.facts
    assert all(again.job(run) == plan.job(run) for run in plan.runs["run"])
    with pytest.raises(UnknownName, match="not part of plan"):
        plan.job("nonsense")
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(BadRecord, match="is not a plan"):
        load(path)
    with pytest.raises(UnknownName, match="unknown mode 'mising'. Did you mean 'missing'"):
        study.run(plan, mode="mising", store=shared)
    with pytest.raises(UnknownName, match="unknown engine 'slrm'. Did you mean 'slurm'"):
        study.run(plan, engine="slrm", store=shared)


def test_a_cost_says_where_it_is_from_and_its_tokens_are_near_the_true_ones(shared, store):
    plan = study.plan("tiny", store=shared)
    assert repr(plan).startswith("13 runs") and "<table" in plan._repr_html_()
    assert "not measured" in plan.sentence(store)
    more = study.plan("tiny", store=shared, seeds=2).cost(store)["minutes"]
    assert more.iloc[-1] > plan.cost(store)["minutes"].iloc[-1] > 0
    plan = study.plan("tiny", store=shared, intermediates=[], targets=["intents"])
    rows = data.rows("intents", "en", "train", TINY.target.train_rows)
    ids = encoders._bundled_tokenizer()([row["first"] for row in rows])["input_ids"]
    estimate = plan.runs["train_tokens"].iloc[0] / TINY.target.epochs
    assert 0.6 < estimate / sum(map(len, ids)) < 1.7


SEVERAL = ["3 problems", "Did you mean 'toy-same'", "'nix'", "'toy-intents' has the role 'target'"]
LOST = ["lost-a", "lost-b", "no-such-encoder", "nobody/nothing"]


@pytest.mark.parametrize(
    ("options", "kind", "texts"),
    [
        ({"profile": "tinny"}, UnknownName, ["unknown profile 'tinny'. Did you mean 'tiny'"]),
        ({"conditions": ["singel"]}, UnknownName, ["condition 'singel'. Did you mean 'single'"]),
        ({"languages": ["en", "xx"]}, UnknownName, ["unknown language 'xx'"]),
        *[({"seeds": seeds}, BadPlan, ["seeds must be"]) for seeds in (0, [], [1, 1], [-1])],
        ({"languages": ["en"]}, BadPlan, ["'toy-messages' has none of the languages asked for"]),
        ({"conditions": ["translated"]}, BadPlan, ["needs a task 'toy-same-translated'"]),
        # All at once, whatever it is.
        ({"intermediates": ["toy-sam", "toy-intents"], "targets": ["nix"]}, BadPlan, SEVERAL),
        ({"intermediates": LOST[:2], "encoder": LOST[2]}, BadPlan, LOST),
    ],
)
def test_what_stands_in_the_way_is_named(shared, options, kind, texts, monkeypatch, tmp_path):
    monkeypatch.setenv("TRANSFER_DATA_ROOT", str(tmp_path))
    source = Source("hub", "nobody/nothing", config="x", splits={"train": "train", "dev": "dev"})
    for name in ("lost-a", "lost-b"):
        tasks.register(Task(name, "intermediate", "pair", source, labels=("a", "b")))
    with pytest.raises(kind) as caught:
        study.plan(**{"profile": "tiny", "store": shared} | options)
    assert all(text in str(caught.value) for text in texts), caught.value


def test_profiles_are_complete():
    for profile in profiles.PROFILES.values():
        known = set(tasks.names())
        assert set(profile.intermediates) <= known and set(profile.targets) <= known, profile.name
        for condition in profiles.CONDITIONS:
            for name in profile.intermediates:
                profile.settings(tasks.get(name), "intermediate", condition)
            for name in profile.targets:
                profile.settings(tasks.get(name), "target", condition)


def test_what_is_known_of_rows_and_encoders_is_forgotten_when_it_may_be_wrong(store, monkeypatch):
    asked = []

    def counted(name, real):
        return lambda *parts: asked.append(name) or real(*parts)

    for name in ("_look", "_describe"):
        monkeypatch.setattr(plans, name, counted(name, getattr(plans, name)))
    first = study.plan("tiny", encoder="bundled", store=store)
    assert asked.count("_describe") == 1 and (reads := asked.count("_look")) > 10
    again = study.plan("tiny", encoder="bundled", store=store)
    assert again.facts == first.facts and list(again.runs["run"]) == list(first.runs["run"])
    assert len(asked) == reads + 1 and first.facts["device"] in ("cpu", "cuda")
    monkeypatch.setattr(stores, "code_stamp", lambda: "changed")
    study.plan("tiny", encoder="bundled", store=store)
    assert len(asked) == 2 * (reads + 1)
    for file in (store.folder / "known").iterdir():
        file.write_bytes(b"{")
    study.plan("tiny", encoder="bundled", store=store)
    assert len(asked) == 3 * (reads + 1)


def test_importing_and_planning_load_none_of_the_libraries_of_training(store, package_data):
    asked = {"intermediates": ["boolq-val"], "targets": ["intents", "slots", "messages"]}
    study.plan("demo", store=store, **asked)  # reads the data and the encoder once
    code = (
        "import sys\n"
        "import helpers.study.plan\n"
        "from helpers import study\n"
        "from helpers.study.store import Store\n"
        "heavy = ('torch', 'transformers', 'datasets')\n"
        "print(*(name for name in heavy if name in sys.modules), 'imported')\n"
        f"study.plan('demo', store=Store(sys.argv[1]), **{asked}).cost(Store(sys.argv[1]))\n"
        "print(*(name for name in heavy if name in sys.modules), 'planned')\n"
    )
    command = [sys.executable, "-c", code, str(store.folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["imported", "planned"]
