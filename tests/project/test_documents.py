import ast
import importlib.util
import pkgutil
import re
import shlex
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

from helpers import book, files, pages, study, tasks
from helpers.pages import ROOT
from helpers.study.__main__ import parser as study_parser
from helpers.tasks import FIELDS, FORMATS, METRICS

DOCUMENTS = ("README.md", "CONTRIBUTING.md")


@pytest.mark.parametrize("document", DOCUMENTS)
def test_what_a_document_names_exists(document):
    text = (ROOT / document).read_text("utf-8")
    known = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    named = set(re.findall(r"(?:`|^)make ([a-z-]+)", text, re.M))
    assert named and named <= known
    linked = re.findall(r"\]\((?!https?:|#|mailto:)([^)#]+)", text)
    assert [name for name in linked if not (ROOT / name).exists()] == []
    assert set(re.findall(r"https://github\.com/[\w.-]+/transfer-book", text)) <= {files.address()}


def test_documents_show_commands_and_names_of_the_code_that_can_be_imported():
    shown = {" ".join(command.split()[:2]) for command in COMMANDS}
    assert {"make chapter", "make study", "make status", "python -m"} <= shown
    files = [
        *(ROOT / name for name in DOCUMENTS),
        *ROOT.glob("data/*/*.md"),
        *ROOT.glob("book/*.md"),
    ]
    text = "\n".join(file.read_text("utf-8") for file in files)
    named = set(re.findall(r"\bhelpers(?:\.\w+)+", text))
    assert len(named) > 10 and all(map(pkgutil.resolve_name, named))


def test_the_citation_file_agrees_with_the_project_and_tasks_with_the_bibliography():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    config = yaml.safe_load((ROOT / "_config.yml").read_text("utf-8"))
    assert citation["version"] == project["version"]
    assert citation.get("repository-code", "") == config["repository"]["url"]
    assert citation["authors"] == [{"name": config["author"]}]
    text = (ROOT / "book" / "references.bib").read_text("utf-8")
    keys = re.findall(r"^@\w+\{([^,]+),", text, re.MULTILINE)
    named = {tasks.get(name).about.citation for name in tasks.names()} - {""}
    assert named <= set(keys) and len(keys) == len(set(keys))


def _blocks(document, heading):
    part = (ROOT / document).read_text("utf-8").partition(f"\n## {heading}\n")[2]
    return re.findall(r"```python\n(.*?)```", part.partition("\n## ")[0], re.DOTALL)


def test_adding_a_task_works_as_it_is_described(tmp_path, monkeypatch):
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
    assert set(here["scores"]["language"]) == set(here["gained"]["language"]) == {"en", "de"}
    exec(adapt, here)
    assert here["words"]({"sentence": "a b", "tags": "O O"}, "en")["tags"] == ["O", "O"]


@pytest.mark.parametrize("format_", FORMATS)
def test_the_table_of_formats_names_their_fields_and_default_metric(format_):
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    row = re.search(rf"^\| `{format_}` \|.*$", text, re.MULTILINE)[0]
    assert {f"`{name}`" in row for name in FIELDS[format_] if name != "id"} == {True}
    assert row.split("|")[-2].strip().startswith(f"`{METRICS[format_][0]}`")


PLACES = [ROOT / name for name in (*DOCUMENTS, "Makefile", "helpers/pages.py", "helpers/book.py")]
PLACES += sorted((ROOT / "book").glob("*.md"))
SAID = re.compile(r"(?:^|`|: |&& )((?:make|python -m helpers)\b[^`#\n&]*)", re.MULTILINE)
COMMANDS = sorted(
    {
        command.strip()
        for file in PLACES
        for command in SAID.findall(file.read_text("utf-8"))
        if re.match(r"make (chapter|study|status)\b.*=|python -m", command) and "..." not in command
    }
)


def spelt_out(command):
    """What the shell would start, without the program's own name."""
    if command.startswith("make"):
        dry = f"{command} --dry-run --no-print-directory READY=/dev/null"
        done = subprocess.run(dry, shell=True, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        command = done.stdout.splitlines()[-1]  # what comes before sets the environment up
    _, _, module, *arguments = shlex.split(command, comments=True)
    return module, [word for word in arguments if not re.fullmatch(r"\[.*\]|<.*>", word)]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_does_what_the_documents_say(command, monkeypatch, capsys):
    def parameters_alone(made, folder, environment):
        """Stand in for a kernel: run the cell that reads the settings from outside."""
        monkeypatch.setenv(book.PARAMETERS, environment[book.PARAMETERS])
        (cell,) = [c for c in made.cells if "parameters" in c.metadata.get("tags", [])]
        exec(cell.source, {"book": book})
        return ""

    module, arguments = spelt_out(command)
    if module == "helpers.pages":
        for name in ("pair", "build"):
            monkeypatch.setattr(pages, name, lambda **_: [])
        monkeypatch.setattr(pages, "execute", parameters_alone)
        assert pages.main(arguments) == 0, capsys.readouterr().err
    elif module == "helpers.study":
        options = study_parser().parse_args(arguments)
        assert options.engine in study.engines.ENGINES
        # The larger profiles need data that are not everywhere; a smaller one stands in.
        stand_in = options.profile if options.profile in ("tiny", "demo") else "tiny"
        assert len(study.plan(stand_in, seeds=options.seeds))
    else:
        assert importlib.util.find_spec(module)


def test_the_study_of_the_front_page_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("TRANSFER_STORE", str(tmp_path))
    (snippet,) = _blocks("README.md", "Three ways to use it")
    here = {}
    exec(snippet.replace('"demo", seeds=3', '"tiny", seeds=1'), here)
    assert set(here["scores"]["status"]) <= {"done", "collapsed"} and len(here["scores"])


def test_imports_point_down_the_list_of_the_document():
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8").partition("**Imports**")[2]
    lines = re.search(r"```\n(.*?)```", text, re.DOTALL)[1].splitlines()
    place = {name: at for at, line in enumerate(lines) for name in line.split(", ")}
    up = []
    for file in sorted((ROOT / "helpers").rglob("*.py")):
        own = file.relative_to(ROOT / "helpers").parts[0].removesuffix(".py")
        nodes = ast.walk(ast.parse(file.read_text("utf-8"))) if own != "__init__" else ()
        found = [n for n in nodes if isinstance(n, ast.ImportFrom) and n.module]
        named = {name.name for n in found if n.module == "helpers" for name in n.names}
        named |= {n.module.split(".")[1] for n in found if n.module.startswith("helpers.")}
        up += [f"{file.name}: {name}" for name in named if place[name] < place[own]]
    assert up == []
