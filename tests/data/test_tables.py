import json
from dataclasses import replace

import datasets
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from helpers import data, tasks
from helpers.data import tables
from helpers.errors import BadRows, HelpfulError, MissingData, UnknownName
from helpers.tasks import FORMATS, Source, Task

SPLITS = {"train": "train", "dev": "valid", "test": "test"}
QUESTION = {"context": "It was built in 1932.", "question": "When?"}
# Format: one raw row, facts of a task that reads it, and the standard row it becomes.
FORMS = {
    "pair": (
        {"text": "où est ma commande", "kind": "delivery"},
        {"columns": {"first": "text", "label": "kind"}, "labels": ("refund", "delivery")},
        {"first": "où est ma commande", "second": "", "label": 1},
    ),
    "choice": (
        {"premise": "Es regnet.", "a": "nass", "b": "trocken", "label": "1"},
        {"columns": {"context": "premise", "choices": "a, b"}, "labels": ("0", "1")},
        {"context": "Es regnet.", "choices": ["nass", "trocken"], "label": 1},
    ),
    "tagging": (
        {"words": ["a", "red", "door"], "tags": ["O", "B-colour", "O"]},
        {"columns": {"tokens": "words"}, "labels": ("O", "B-colour", "I-colour")},
        {"tokens": ["a", "red", "door"], "tags": [0, 1, 0]},
    ),
    "span": (
        QUESTION | {"answers": [{"text": "1932", "answer_start": 14}]},
        {},
        QUESTION | {"answers": {"text": ["1932"], "start": [16]}},
    ),
    "retrieval": (
        {"id": "q1", "side": "query", "text": "hello", "gold": ["c1"]},
        {},
        {"id": "q1", "side": "query", "text": "hello", "gold": ["c1"]},
    ),
}


def own(folder, format="pair", config="{language}/{split}.jsonl"):
    source = Source("tables", str(folder), config=config, splits=SPLITS)
    return Task("own", "target", format, source, languages=("en", "de"), **FORMS[format][1])


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("format_", FORMATS)
def test_every_format_comes_from_a_file(tmp_path, format_):
    # Only a set with both sides is a retrieval set; candidates need no gold.
    more = [{"id": "c1", "side": "candidate", "text": "bonjour"}] * (format_ == "retrieval")
    raw, _, standard = FORMS[format_]
    lines = [json.dumps(row, ensure_ascii=False) for row in (raw, *more)]
    write(tmp_path / "de" / "valid.jsonl", "\n\n".join(lines) + "\n\n")
    task = own(tmp_path, format_)
    found = data.rows(task, "de", "dev")
    standard = {"id": "de-dev-0"} | standard
    assert list(found) == [standard, *(row | {"gold": []} for row in more)]
    assert found.source == f"file {tmp_path / 'de' / 'valid.jsonl'}"
    assert data.at_hand(task) == [("de", "dev")]
    assert list(data.first_rows(task, "de", "dev")) == list(found)


@pytest.mark.parametrize("ending", sorted(tables.READERS))
def test_every_kind_of_table_gives_the_same_rows(tmp_path, ending):
    rows = [{"text": f'say "{n}", twice\u2028please', "kind": "refund"} for n in ("one", "two")]
    texts = {
        ".json": json.dumps(rows),
        ".jsonl": "\n".join(json.dumps(row, ensure_ascii=False) for row in rows),
        ".tsv": "text\tkind\r\n" + "".join(f"{r['text']}\trefund\r\n" for r in rows),
        ".csv": "\ufefftext,kind\n"
        + "".join('"' + r["text"].replace('"', '""') + '",refund\n' for r in rows),
    }
    path = tmp_path / f"en-train{ending}"
    if ending == ".parquet":
        parquet.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_bytes(texts[ending].encode())
    task = own(tmp_path, config="{language}-{split}" + ending)
    assert [row["first"] for row in data.rows(task)] == [row["text"] for row in rows]
    assert tables.read(path) == rows


def test_one_file_may_hold_all_languages_if_adapt_tells_them(tmp_path):
    write(tmp_path / "train-en.csv", "text,kind,code\na,refund,en\nb,delivery,de\n")
    with pytest.raises(MissingData, match=r"valid-de\.csv is not there; .* holds train-en\.csv"):
        data.rows(own(tmp_path, config="{split}-{language}.csv"), "de", "dev")
    task = replace(own(tmp_path, config="{split}-en.csv"), name="mixed")
    with pytest.raises(HelpfulError, match="gives the same rows in each of en, de"):
        tasks.register(task)
    told = replace(task, adapt=lambda row, language: row | {"_language": row["code"]})
    assert [row["first"] for row in data.rows(told, "en")] == ["a"]


@pytest.mark.parametrize(
    ("values", "expected"),
    [(["b", "a", "b "], ("b", "a")), ([2, 0, 2, -1], ("0", "1", "2")), ([True, False], ("0", "1"))],
)
def test_labels_that_are_not_stated_are_read_off(values, expected):
    task = labelled([{"first": "x", "label": value} for value in values])
    assert data.with_labels(task).labels == expected


def labelled(rows, format="pair"):
    return Task("own", "intermediate", format, Source("rows", "mine", read=lambda *_: rows))


def test_labels_that_cannot_be_read_off_must_be_stated_and_others_follow_the_rows():
    choices = [{"context": "x", "choices": ["y", "z"], "label": value} for value in "BA"]
    for format_, rows in (("choice", choices), ("pair", [{"first": "x", "kind": "a"}])):
        with pytest.raises(BadRows, match=r"states no labels.* state labels=\(...\)"):
            data.rows(labelled(rows, format_))
    rows = [{"first": "x", "label": "a"}]
    for label in "ab":
        rows[0]["label"] = label
        assert data.with_labels(labelled(rows)).labels == (label,)
    with pytest.raises(UnknownName, match=r"divide=\(column,\)"):  # a split without rows
        data.rows(labelled([]), "en", "dev")


def test_a_hub_folder_without_a_header_is_seen_by_its_file_names(tmp_path, data_cache, monkeypatch):
    write(tmp_path / "me" / "set" / "train.csv", "first,label\nx,a\ny,b\n")
    monkeypatch.setenv("TRANSFER_DATA_ROOT", str(tmp_path))
    task = Task("own", "intermediate", "pair", Source("hub", "me/set"), labels=("a", "b"))
    assert data.at_hand(task) == [("en", "train")]
    assert [row["label"] for row in data.rows(task)] == [0, 1]
    assert datasets.is_progress_bar_enabled()  # a reader's own data sets keep their bars
    for header, message in (("[: b", "no YAML|damaged"), ("[a, b]", "needs configs, a list of")):
        write(tmp_path / "me" / "set" / "README.md", f"---\nconfigs: {header}\n---\n")
        with pytest.raises(BadRows, match=message):
            data.at_hand(task)
