import pandas as pd
import pytest

from data.make import similarity as command
from helpers.similarity import COLUMNS


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run the command in a store of its own, and read the table that it wrote."""
    monkeypatch.setenv("TRANSFER_STORE", str(tmp_path / "store"))
    monkeypatch.setattr(command, "OUTPUT", tmp_path / "out")

    def main(*arguments, name="tiny"):
        command.main([*arguments, "--seeds", "0"])
        return pd.read_csv(tmp_path / "out" / f"{name}.csv")

    return main


def test_writes_the_table_and_controls_under_a_name_of_their_own(run):
    table = run("tiny", "--measures", "text_embedding", "logme")
    assert list(table.columns) == list(COLUMNS) and len(table) == 2 * 2 * 3
    undefined = table[table["status"] == "undefined"]
    assert set(undefined["measure"]) == {"logme"} and len(undefined) == 6
    shuffled = run("tiny", "--measures", "label_names", "--shuffle-labels", name="tiny-shuffled")
    assert len(shuffled) == 6


def test_trains_and_runs_shortly_only_when_asked_to(run):
    measures = ("logme", "task_vector", "early_score")
    table = run("tiny", "--measures", *measures, "--train", "--early")
    done = table[table["status"] == "done"]
    assert set(done["target"]) == {"toy-intents", "toy-slots"} and len(done) == 2 * 2 * 3
    assert done.loc[done["measure"] == "early_score", "value"].between(0, 1).all()


def test_a_table_is_not_overwritten_by_one_without_values_or_of_no_profile(run, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "tiny.csv").write_text("kept")
    with pytest.raises(SystemExit, match="nothing was written: there is no encoder fine-tuned"):
        run("tiny", "--measures", "logme")
    assert (tmp_path / "out" / "tiny.csv").read_text() == "kept"
    with pytest.raises(SystemExit):
        run("huge")
    assert "invalid choice" in capsys.readouterr().err
