"""A study with a task of the user's own, registered in the middle of a session."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers import study, tasks
from helpers.errors import BadPlan
from helpers.study.store import Store
from helpers.tasks import Source, Task


def table(path: Path, label: str = "yes") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [f"open the door {n},{label if n % 2 else 'no'}" for n in range(40)]
    path.write_text("\n".join(["first,label", *lines]), encoding="utf-8")


@pytest.mark.parametrize("kind", ["tables", "hub"])
def test_changed_rows_change_the_plan_within_a_session(
    kind: str, tmp_path: Path, store: Store, data_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRANSFER_DATA_ROOT", str(tmp_path))
    splits = {"train": "train", "dev": "train"}
    facts = {"splits": splits, "divide": ("first",)}
    sources = {
        "tables": Source("tables", str(tmp_path / "me/own"), config="{split}.csv", **facts),
        "hub": Source("hub", "me/own", **facts),
    }
    tasks.register(Task("own", "intermediate", "pair", sources[kind], labels=("no", "yes")))
    ids = []
    for label in ("yes", "yes", "no"):
        if not ids or label == "no":
            table(tmp_path / "me" / "own" / "train.csv", label)
        if label == "no":  # One label alone would be refused: let a single other one stay.
            path = tmp_path / "me" / "own" / "train.csv"
            path.write_text(path.read_text().replace("door 1,no", "door 1,yes"))
        plan = study.plan("tiny", ["own"], ["toy-intents"], store=store)
        ids.append(list(plan.runs["run"]))
    assert ids[0] == ids[1] and ids[0] != ids[2]


def test_a_task_from_a_file_runs_from_plan_to_scores(tmp_path: Path, store: Store) -> None:
    for split in ("train", "dev", "test"):
        for language in ("en", "de"):
            table(tmp_path / f"{language}-{split}.csv")
    source = Source(
        "tables",
        str(tmp_path),
        config="{language}-{split}.csv",
        splits={split: split for split in ("train", "dev", "test")},
    )
    tasks.register(Task("own", "target", "pair", source, languages=("en", "de"), chance=0.5))
    plan = study.plan("tiny", ["toy-same"], ["own"], store=store)
    scores = study.run(plan, progress=False, store=store)
    assert set(scores["status"]) == {"done"}
    assert set(scores["language"]) == {"en", "de"}


def test_a_task_of_this_session_is_not_sent_to_other_processes(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"first": f"door {n}", "label": n % 2} for n in range(40)]
    splits = {"train": "train", "dev": "dev"}
    source = Source("rows", "mine", splits=splits, read=lambda *_: rows)
    tasks.register(Task("own", "intermediate", "pair", source, labels=("no", "yes")))
    plan = study.plan("tiny", ["own", "toy-same"], ["toy-intents"], store=store)
    with pytest.raises(BadPlan, match="1 problem.*\n.*'own' is known to this session only"):
        study.run(plan, engine="processes", progress=False, store=store)
    assert not store.runs()
    monkeypatch.setenv("TRANSFER_TASKS", "my_tasks")
    assert study._only_here(plan, "processes") == []
