import pandas as pd
import pytest

from data.make import similarity as command
from helpers.similarity import COLUMNS, to_csv


def run(tmp_path, *arguments):
    places = ("--output", str(tmp_path / "out"), "--folder", str(tmp_path / "kept"))
    return command.main([*arguments, *places])


def test_writes_the_table_and_its_matrices(tmp_path, monkeypatch):
    monkeypatch.setenv("TRANSFER_STORE", str(tmp_path / "store"))
    assert run(tmp_path, "tiny", "--measures", "text_embedding", "logme", "--seeds", "0") == 0
    table = pd.read_csv(tmp_path / "out" / "tiny.csv")
    assert list(table.columns) == list(COLUMNS) and len(table) == 2 * 2 * 3
    assert (tmp_path / "out" / "tiny" / "text_embedding.csv").exists()
    undefined = table[table["status"] == "undefined"]
    assert set(undefined["measure"]) == {"logme"} and len(undefined) == 6


def test_trains_what_is_missing_only_when_asked_to(tmp_path, monkeypatch):
    monkeypatch.setenv("TRANSFER_STORE", str(tmp_path / "store"))
    options = ("tiny", "--measures", "logme", "task_vector", "--seeds", "0", "--train")
    assert run(tmp_path, *options) == 0
    table = pd.read_csv(tmp_path / "out" / "tiny.csv")
    done = table[table["status"] == "done"]
    assert set(done["target"]) == {"toy-intents", "toy-slots"} and len(done) == 2 * 2 * 2


def test_a_table_is_not_overwritten_by_one_without_values(tmp_path, monkeypatch):
    monkeypatch.setenv("TRANSFER_STORE", str(tmp_path / "store"))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "tiny.csv").write_text("kept")
    with pytest.raises(SystemExit, match="nothing was written: there is no encoder fine-tuned"):
        run(tmp_path, "tiny", "--measures", "logme", "--seeds", "0")
    assert (tmp_path / "out" / "tiny.csv").read_text() == "kept"


def test_a_short_run_per_dyad_is_made_when_asked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("TRANSFER_STORE", str(tmp_path / "store"))
    run(tmp_path, "tiny", "--measures", "early_score", "--seeds", "0", "--train", "--early")
    table = pd.read_csv(tmp_path / "out" / "tiny.csv")
    done = table[table["status"] == "done"]
    assert set(done["target"]) == {"toy-intents", "toy-slots"}
    assert done["value"].between(0, 1).all()


def test_controls_have_names_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setenv("TRANSFER_STORE", str(tmp_path / "store"))
    run(tmp_path, "tiny", "--measures", "label_names", "--seeds", "0", "--shuffle-labels")
    assert (tmp_path / "out" / "tiny-shuffled.csv").exists()


def test_unknown_profile(tmp_path, capsys):
    with pytest.raises(SystemExit):
        run(tmp_path, "huge")
    assert "invalid choice" in capsys.readouterr().err


def test_csv_reads_back(tmp_path):
    table = pd.DataFrame({"a": ["x", ""], "b": [1.5, float("nan")]})
    path = to_csv(table, tmp_path / "t.csv")
    assert path.read_text() == "a,b\nx,1.5\n,\n"
