import re

import pytest

from helpers import data, results, tasks
from helpers.tasks import FIELDS, Source, Task

NAMES = [name for names in results.groups().values() for name in names]


def test_every_task_has_a_card_but_made_up_ones_and_twins_of_others():
    others = ("", "tiny", "translated", "on-dev")
    assert set(NAMES) == {n for n in tasks.names() if tasks.get(n).group not in others}
    # Relations name the strongest thing that is shared.
    table = results.relations(["mnli", "qqp", "ccg"], ["xnli", "pawsx", "udpos", "tatoeba"])
    shares = table.set_index(["intermediate", "target"])["shares"]
    assert shares["mnli", "xnli"] == "rows" and shares["qqp", "pawsx"] == "source"
    assert shares["qqp", "xnli"] == "format" and shares["ccg", "tatoeba"] == "nothing"
    assert len(table) == 12


@pytest.mark.parametrize("name", NAMES)
def test_every_task_has_a_written_example_that_fits_it(name):
    task = tasks.get(name)
    rows = task.about.examples
    assert rows and len(rows) <= 3
    for language, row in rows.items():
        assert {"id", *row} == set(FIELDS[task.format])
        assert task.format != "pair" or row["label"] in task.labels
        if task.format == "choice":
            assert 0 <= row["label"] < len(row["choices"]) == len(task.labels)
        if task.format == "tagging":
            assert len(row["tokens"]) == len(row["tags"])
            assert not task.labels or set(row["tags"]) <= set(task.labels)
        # English asks in the retrieval tasks whose own languages do not hold it.
        assert language in task.languages or task.format == "retrieval"


def test_written_examples_and_real_rows_are_named_so(monkeypatch):
    text = results.cards(["toy-slots"], languages=("en", "qaa")).source
    assert "first rows of the data at hand" in text and "B-colour" in text
    assert "written for" not in text
    monkeypatch.setattr(data, "at_hand", lambda task: [])
    text = results.cards(["xnli"]).source
    assert "written for this book, not from the data" in text
    assert text.count('class="example"') == 3 and "entailment" in text


def test_a_language_that_a_partial_mirror_lacks_gives_its_place_to_the_next():
    rows = [{"id": c, "first": c, "second": "", "label": 0} for c in ("fi", "fr", "sw")]
    source = Source("rows", "mixed", splits={"test": "test"}, read=lambda *_: rows)
    facts = {"labels": ("x",), "languages": ("de", "fi", "fr", "sw")}
    told = lambda row, language: row | {"_language": row["id"]}  # noqa: E731
    task = Task("gaps", "target", "pair", source, adapt=told, **facts)
    assert list(results.examples(task, ("de", "sw"))) == ["sw", "fi", "fr"]


def test_text_of_a_row_cannot_become_markup():
    row = {"id": "0", "first": "<script>x</script>", "second": "", "label": 0}
    source = Source("rows", "s", splits={"train": "train"}, read=lambda language, split: [row] * 3)
    shown = results._row(Task("a<b", "intermediate", "pair", source, labels=("&no",)), row)
    assert "<script>" not in shown and "&lt;script&gt;" in shown and "&amp;no" in shown


SIZES = {
    "mnli": "train 392,702; dev 9,815",
    "anli_plus": f"train {162865 + 392702 + 550152:,}; dev {3200 + 9815 + 10000:,}",
    "xnli": "dev 2,490; test 5,010",
    "panx": "train 20,000; dev 100 to 10,000; test 100 to 10,000",
    "udpos": "test 456 (el)",
    "bucc2018": "",
}


def test_sizes_are_the_published_ones_and_rows_of_packages_are_counted():
    found = {name: results.size(tasks.get(name)).replace(" (en)", "") for name in SIZES}
    assert found == SIZES
    pytest.importorskip("home_assistant_intents")
    counted = r"train 1,\d+ \(en\); dev \d+ \(en\); test \d+ \(en\)"
    assert re.fullmatch(counted, results.size(tasks.get("intents")))
    table = results.summary(["intents", "mnli"])
    assert list(table["task"]) == ["intents", "mnli"] and table["rows"].all()
