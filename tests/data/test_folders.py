import json

import pytest

from helpers import data
from helpers.data import TEXT_VARIABLE
from helpers.errors import BadRows, MissingData
from tests.fixtures.generate import ccgbank, meaning_bank


def test_ccgbank_sections_and_brackets(tmp_path, monkeypatch):
    ccgbank(tmp_path)
    monkeypatch.setenv("CCGBANK_ROOT", str(tmp_path))
    train, dev, test = (data.rows("ccg", "en", split) for split in ("train", "dev", "test"))
    assert train[0]["tokens"] == ["Kim", "sleeps", "("]
    assert [train.labels[tag] for tag in train[0]["tags"]] == ["NP", "S[dcl]\\NP", "-LRB-"]
    assert train[0]["id"] == "wsj_0201.1"
    assert [rows[0]["tokens"][1] for rows in (dev, test)] == ["naps", "dozes"]
    assert dev[0]["tags"][1] == -100, "a category unknown to train is ignored"
    assert dev.notes == {"tag not in the training rows: ignored": 1}
    assert data.with_labels("ccg").labels == train.labels
    next(tmp_path.glob("AUTO/02/*.auto")).write_text("ID=x\n(<T S[dcl] 0 2> nothing)\n")
    with pytest.raises(BadRows, match=r"wsj_0201.auto, line 2: no leaf"):
        data.rows("ccg")


def test_meaning_bank_parts_and_silent_tokens(tmp_path, monkeypatch):
    meaning_bank(tmp_path)
    monkeypatch.setenv("PMB_ROOT", str(tmp_path))
    rows = {split: data.rows("ccg-pmb", "en", split) for split in ("train", "dev", "test")}
    assert [rows[split][0]["id"] for split in rows] == ["p02-d0004", "p00-d0004", "p01-d0004"]
    assert rows["train"][0]["tokens"] == ["New York", "sleeps"]
    next(tmp_path.glob("data/en/gold/p02/*/en.drs.xml")).write_text("<xdrs>")
    with pytest.raises(BadRows, match="is not valid XML"):
        data.rows("ccg-pmb")


@pytest.mark.parametrize(
    ("variable", "task", "hint"),
    [
        ("CCGBANK_ROOT", "ccg", "LDC2005T13.*CCGBANK_ROOT"),
        ("PMB_ROOT", "ccg-pmb", "pmb-4.0.0.zip.*PMB_ROOT"),
        ("TRANSFER_TRANSLATIONS", "hellaswag-translated", "hellaswag.*set TRANSFER_TRANSLATIONS"),
    ],
)
def test_absent_folders_say_how_to_get_them(variable, task, hint, monkeypatch):
    monkeypatch.delenv(variable, raising=False)
    with pytest.raises(MissingData, match=hint):
        data.rows(task)


def test_translations_of_any_intermediate_come_from_a_folder(mirror, tmp_path, monkeypatch):
    folder = tmp_path / "qqp" / "de"
    folder.mkdir(parents=True)
    row = {"question1": "Wer?", "question2": "Was?", "label": 1, "idx": 0}
    lines = [json.dumps(row), json.dumps(row | {"label": "not_duplicate"})]
    (folder / "train.jsonl").write_text("\n".join(lines) + "\n")
    monkeypatch.setenv("TRANSFER_TRANSLATIONS", str(tmp_path))
    rows = data.rows("qqp-translated", "en", "train")
    assert [(r["first"], r["label"]) for r in rows] == [("Wer?", 1), ("Wer?", 0)]
    english = data.rows("qqp", "en", "dev")
    assert list(data.rows("qqp-translated", "en", "dev")) == list(english)
    (folder / "train.jsonl").write_text(lines[0] + "\n{broken\n")
    with pytest.raises(BadRows, match="train.jsonl: row 1 is no JSON"):
        data.rows("qqp-translated", "en", "train")


def test_text_comes_from_a_folder_of_lines(tmp_path, monkeypatch):
    (tmp_path / "de").mkdir()
    files = {"sw.txt": "moja\n\nmbili\nmoja\n", "de/b.txt": "zwei", "de/a.txt": "eins\n"}
    for name, text in files.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    monkeypatch.setenv(TEXT_VARIABLE, str(tmp_path))
    assert data.texts("sw") == ("moja", "mbili")
    assert data.texts("de") == ("eins", "zwei")
    assert len(data.texts("sw", limit=1)) == 1
    assert data.texts("sw").fingerprint != data.texts("de").fingerprint
    with pytest.raises(MissingData, match="expected ja.txt"):
        data.texts("ja")


def test_wikipedia_paragraphs_leave_out_headings_and_repeats(mirror, monkeypatch):
    monkeypatch.delenv(TEXT_VARIABLE, raising=False)
    found = data.texts("sw")
    assert found.source == "mirror wikimedia/wikipedia"
    assert "Historia" not in found and len(found) == len(set(found)) == 4
    assert len(data.texts("sw", limit=2)) == 2
    with pytest.raises(MissingData, match="TEXT_ROOT.*django"):
        data.texts("qu")


def test_text_of_an_installed_package(package_data, monkeypatch):
    monkeypatch.setenv(TEXT_VARIABLE, "django")
    assert len(data.texts("ja", 50)) == 50
    assert all(line.isascii() for line in data.texts("en", 20))
