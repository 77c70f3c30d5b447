"""What the documents say exists, exists."""

import re
from pathlib import Path

import pytest
import yaml

from helpers import tasks
from helpers.pages import ROOT
from helpers.tasks import FIELDS, FORMATS, METRICS

DOCUMENTS = ("README.md", "CONTRIBUTING.md")
BIBLIOGRAPHY = (ROOT / "book" / "references.bib").read_text("utf-8")


def test_every_citation_of_a_task_is_in_the_bibliography():
    keys = set(re.findall(r"^@\w+\{([^,]+),", BIBLIOGRAPHY, re.MULTILINE))
    named = {tasks.get(name).about.citation for name in tasks.names()} - {""}
    assert named <= keys


def test_keys_of_the_bibliography_are_unique():
    keys = re.findall(r"^@\w+\{([^,]+),", BIBLIOGRAPHY, re.MULTILINE)
    assert len(keys) == len(set(keys))


@pytest.mark.parametrize("document", DOCUMENTS)
def test_make_targets_that_are_named_exist(document):
    known = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    named = set(re.findall(r"(?:`|^)make ([a-z-]+)", (ROOT / document).read_text("utf-8"), re.M))
    assert named and named <= known


@pytest.mark.parametrize("document", DOCUMENTS)
def test_files_that_are_named_exist(document):
    text = (ROOT / document).read_text("utf-8")
    linked = re.findall(r"\]\((?!https?:|#|mailto:)([^)#]+)", text)
    assert [name for name in linked if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_documents_say_where_they_are_one_way(document):
    url = yaml.safe_load((ROOT / "_config.yml").read_text("utf-8"))["repository"]["url"]
    named = set(
        re.findall(r"https://github\.com/[\w.-]+/transfer-book", (ROOT / document).read_text())
    )
    assert named <= {url}


def test_citation_file_agrees_with_the_project():
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    config = yaml.safe_load((ROOT / "_config.yml").read_text("utf-8"))
    assert citation["version"] == project["version"]
    assert citation["repository-code"] == config["repository"]["url"]
    assert citation["authors"] == [{"name": config["author"]}]


def _blocks(document, heading):
    part = (ROOT / document).read_text("utf-8").partition(f"\n## {heading}\n")[2]
    return re.findall(r"```python\n(.*?)```", part.partition("\n## ")[0], re.DOTALL)


def test_adding_a_task_works_as_it_is_described(tmp_path, monkeypatch):
    monkeypatch.setattr(tasks, "_TASKS", dict(tasks._TASKS))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRANSFER_STORE", str(tmp_path / "store"))
    Path("my_data").mkdir()
    for name in ("en-train", "en-dev", "en-test", "de-test"):
        lines = [f"parcel {n},{'refund' if n % 3 else 'delivery'}" for n in range(30)]
        Path(f"my_data/{name}.csv").write_text("\n".join(["text,kind", *lines]), "utf-8")
    task, adapt = _blocks("CONTRIBUTING.md", "Add a task")
    here = {}
    exec(task.replace('"demo"', '"tiny"'), here)
    assert set(here["scores"]["status"]) == {"done"}
    assert set(here["scores"]["language"]) == {"en", "de"}
    exec(adapt, here)
    assert here["words"]({"sentence": "a b", "tags": "O O"}, "en")["tags"] == ["O", "O"]


@pytest.mark.parametrize("format_", FORMATS)
def test_the_table_of_formats_names_their_fields_and_default_metric(format_):
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    row = re.search(rf"^\| `{format_}` \|.*$", text, re.MULTILINE)[0]
    assert {f"`{name}`" in row for name in FIELDS[format_] if name != "id"} == {True}
    assert row.split("|")[-2].strip().startswith(f"`{METRICS[format_][0]}`")
