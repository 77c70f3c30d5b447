import pandas as pd
import pytest

from data.make import similarity as command
from helpers.similarity import COLUMNS
from helpers.stats.confirmatory import CONTROLS


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run the command in a store of its own, and read the table that it wrote."""
    monkeypatch.setenv("TRANSFER_STORE", str(tmp_path / "store"))
    monkeypatch.setattr(command, "OUTPUT", tmp_path / "out")

    def main(*arguments, name="tiny"):
        command.main([*arguments, "--seeds", "0"])
        return pd.read_csv(tmp_path / "out" / f"{name}.csv")

    return main


def test_writes_the_table_and_says_what_it_lacks(run, capsys):
    table = run("tiny", "--measures", "text_embedding", "logme")
    assert list(table.columns) == list(COLUMNS) and len(table) == 2 * 2 * 3
    undefined = table[table["status"] == "undefined"]
    assert set(undefined["measure"]) == {"logme"} and len(undefined) == 6
    assert "no finished intermediate stage of profile 'tiny'" in capsys.readouterr().out


def test_trains_when_asked_to_and_writes_controls_under_names_of_their_own(run):
    table = run("tiny", "--measures", "logme", "task_vector", "--train")
    done = table[table["status"] == "done"]
    assert set(done["target"]) == {"toy-intents", "toy-slots"} and len(done) == 2 * 2 * 2
    controls = run("tiny", "--controls", "tiny", "--train", name="tiny-controls")
    done = controls[controls["status"] == "done"].groupby("measure")["value"]
    counted = {"text_embedding_random": 6, "early_score": 4, "logme_shuffled": 4}
    assert done.size().to_dict() == counted and 0 < done.max()["early_score"] <= 1
    assert all(any(sign in name for name in counted) for sign in CONTROLS.values())


def test_a_table_is_not_overwritten_by_one_without_values(run, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "tiny.csv").write_text("kept")
    with pytest.raises(SystemExit, match="nothing was written: there is no encoder fine-tuned"):
        run("tiny", "--measures", "logme")
    assert (tmp_path / "out" / "tiny.csv").read_text() == "kept"
