"""What intermediate stages learnt: their scores beside the floor that the collapse rule uses."""

import pytest

from helpers import data, evaluation, results, study, tasks
from helpers.errors import MissingData
from helpers.study.store import Store


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("store")
        patch.setenv("TRANSFER_STORE", str(folder))
        study.run(study.plan("tiny", targets=["toy-messages"]), progress=False)
        yield Store(folder)


def test_floor_is_the_share_of_the_commonest_label():
    task = tasks.get("toy-same")
    labels = [row["label"] for row in data.rows(task, "en", "dev")]
    share = max(labels.count(label) for label in set(labels)) / len(labels)
    assert evaluation.floor(task) == pytest.approx(share)


def test_every_intermediate_has_a_score_and_the_floor_of_its_record(store):
    table = results.learnt("tiny")
    assert set(table["intermediate"]) == {"toy-same", "toy-choice"}
    assert (table["stage"] == "intermediate").all() and table["value"].between(0, 1).all()
    for row in table.itertuples():
        notes = next(iter(store.records([row.run]))).attempts[-1].notes
        low = [note for note in notes if "is not above" in note]
        assert bool(low) == (not row.above)
        assert all(f"{row.floor:.3f} (constant" in note for note in low)


def test_committed_scores_and_floors_are_read_and_missing_data_are_no_floor(
    store, tmp_path, monkeypatch
):
    monkeypatch.setattr(results, "FOLDER", tmp_path)
    store.export(tmp_path / "tiny.parquet")
    assert set(results.load("tiny")["stage"]) == {"target"} and len(results.learnt("tiny")) == 2
    (tmp_path / "tiny.parquet").unlink()
    found, file = results.stages("tiny"), tmp_path / "tiny-floors.csv"
    live = results.floors("tiny", found)
    assert live["floor"].notna().all() and len(live) == 2
    live.assign(floor=0.25).to_csv(file, index=False)
    assert set(results.floors("tiny", found)["floor"]) == {0.25}
    file.unlink()

    def absent(*args, **options):
        raise MissingData("not here")

    monkeypatch.setattr(evaluation, "floor", absent)
    table = results.learnt("tiny")
    assert table["floor"].isna().all() and table["above"].isna().all()
