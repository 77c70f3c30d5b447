"""The chapters as files: pair them with notebooks, run one, build the book.

    python -m helpers.pages pair            write the notebook beside every chapter
    python -m helpers.pages check           say which pairs differ; exit code 1 if any
    python -m helpers.pages run 03 seeds=2  run one chapter with other settings
    python -m helpers.pages build           build the book, strictly, where anything changed

A chapter is a MyST Markdown file with a jupytext header; it is the one that is edited, reviewed and
built. The notebook of the same name beside it has no outputs and serves JupyterLab, Colab, Binder and
GitHub.
"""

from __future__ import annotations

import argparse
import ast
import copy
import hashlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jupytext
import nbformat
import yaml

from helpers import book
from helpers.chapter_runs import execute, execute_missing
from helpers.errors import HelpfulError, unknown
from helpers.files import drop_folder, write_atomic

ROOT = Path(__file__).resolve().parent.parent
HEADER = re.compile(r"\A---\n(?:.*\n)*?jupytext:\n", re.MULTILINE)
# What a built page depends on, besides the environment: changed, and every page is built anew.
SHARED = ("_config.yml", "_toc.yml", "constraints.txt", "helpers", "data", "book/_static")
_GLUED = "application/papermill.record/"  # how a notebook keeps what is meant for its prose
FROM_OUTSIDE = (book.PARAMETERS, "TRANSFER_STORE", "TRANSFER_DATA_ROOT")


def chapters(folder: Path | None = None) -> list[Path]:
    """Return the chapters with code cells, in the order of their names."""
    folder = folder or ROOT / "book"
    return [file for file in sorted(folder.glob("*.md")) if HEADER.match(file.read_text("utf-8"))]


def find(name: str, folder: Path | None = None) -> Path:
    """Return the chapter whose name is, starts with or ends with ``name``.

    Raises:
        UnknownName: none or several; the error lists all chapters.
    """
    files = {file.stem: file for file in chapters(folder)}
    stem = Path(name).stem
    if stem in files:
        return files[stem]
    near = [s for s in files if stem and (s.startswith(stem) or s.endswith(stem))]
    if len(near) != 1:
        raise unknown("chapter", name, files)
    return files[near[0]]


def notebook(chapter: Path) -> nbformat.NotebookNode:
    """Return a chapter as a notebook without outputs, the same bytes for the same text.

    Cell ids come from the cells' content, since a text file holds none and random ones would change
    the committed notebook at every writing.
    """
    made = jupytext.read(chapter)
    for place, cell in enumerate(made.cells):
        content = f"{chapter.stem}/{place}/{cell.cell_type}/{cell.source}"
        cell["id"] = hashlib.sha256(content.encode()).hexdigest()[:12]
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    made.metadata["language_info"] = {"name": "python"}
    made.nbformat, made.nbformat_minor = 4, 5
    return made


def differing(folder: Path | None = None) -> list[str]:
    """Return what is wrong with the pairs: cell types, sources or tags that differ, or no notebook."""
    wrong = []
    for chapter in chapters(folder):
        twin = chapter.with_suffix(".ipynb")
        if not twin.is_file():
            wrong.append(f"{twin.name} is missing")
        elif _cells(notebook(chapter)) != _cells(nbformat.read(twin, as_version=4)):
            wrong.append(f"{chapter.name} and {twin.name} differ")
    return wrong


def pair(folder: Path | None = None) -> list[Path]:
    """Write the notebook beside every chapter where it differs; return those written.

    Raises:
        HelpfulError: a notebook is newer and differs: an edit there would be lost.
    """
    written = []
    for chapter in chapters(folder):
        twin = chapter.with_suffix(".ipynb")
        text = nbformat.writes(notebook(chapter), version=4) + "\n"
        if twin.is_file() and twin.read_text("utf-8") == text:
            continue
        if twin.is_file() and _edited_later(twin, chapter):
            raise HelpfulError(
                f"{twin.name} was edited after {chapter.name} and says something else. To keep the "
                f"notebook's version run: jupytext --to md:myst {twin}; to keep the chapter's, "
                f"delete {twin.name}. Then run this again."
            )
        write_atomic(twin, text.encode())
        written.append(twin)
    return written


def _edited_later(twin: Path, chapter: Path) -> bool:
    if twin.stat().st_mtime <= chapter.stat().st_mtime + 1:  # a checkout writes both at once
        return False
    return _cells(notebook(chapter)) != _cells(nbformat.read(twin, as_version=4))


def _cells(made: nbformat.NotebookNode) -> list[tuple[str, str, list[str]]]:
    return [
        (cell.cell_type, cell.source.strip(), cell.metadata.get("tags", [])) for cell in made.cells
    ]


def settings_of(chapter: Path) -> list[str]:
    """Return the names of a chapter's settings, read from its cell tagged ``parameters``."""
    for cell in notebook(chapter).cells:
        if "parameters" in cell.metadata.get("tags", []):
            calls = [
                node for node in ast.walk(ast.parse(cell.source)) if isinstance(node, ast.Call)
            ]
            return [keyword.arg for call in calls for keyword in call.keywords if keyword.arg]
    return []


def run(name: str, parameters: Sequence[str] = (), folder: Path | None = None) -> Path:
    """Run one chapter and keep what it shows.

    Args:
        name: the chapter, such as ``"03"`` or ``"03_gains"``.
        parameters: settings such as ``"seeds=2"``.
        folder: where the chapters are.

    Returns:
        The executed notebook in ``_build/chapters``; a page of the same name lies beside it.

    Raises:
        UnknownName: no such chapter or setting.
        HelpfulError: a cell failed; the text is its error.
    """
    chapter = find(name, folder)
    known = settings_of(chapter)
    for given in book.split_parameters(" ".join(parameters)):
        if given not in known:
            raise unknown(f"parameter of {chapter.stem}", given, known)
    made = notebook(chapter)
    failure = execute(made, chapter.parent, {book.PARAMETERS: " ".join(parameters)})
    target = _keep(made, ROOT / "_build" / "chapters" / chapter.stem)
    if failure:
        raise HelpfulError(f"{chapter.name} failed; what it did is in {target}\n{failure}")
    return target


def _keep(made: nbformat.NotebookNode, stem: Path) -> Path:
    from nbconvert import HTMLExporter

    stem.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(stem.with_suffix(".ipynb"), nbformat.writes(made).encode())
    page, _ = HTMLExporter().from_notebook_node(_told(made))
    write_atomic(stem.with_suffix(".html"), page.encode())
    return stem.with_suffix(".ipynb")


def _told(made: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Return a copy whose prose has the numbers that the cells gave it, as a built page does."""
    told, values = copy.deepcopy(made), {}
    for cell in told.cells:
        for output in cell.get("outputs", []):
            name = output.get("metadata", {}).get("scrapbook", {}).get("name")
            if name:
                values[name] = output.data.get(f"{_GLUED}text/plain", "")
        shown = [o for o in cell.get("outputs", []) if not any(map(_is_glued, o.get("data", {})))]
        if "outputs" in cell:
            cell.outputs = shown
    for cell in told.cells:
        if cell.cell_type == "markdown":
            cell.source = re.sub(
                r"\{glue:text\}`([^`]+)`", lambda m: values.get(m[1], m[0]), cell.source
            )
    return told


def _is_glued(kind: str) -> bool:
    return kind.startswith(_GLUED)


def build(root: Path | None = None, *, force: bool = False) -> Path:
    """Build the book strictly: a warning, a failing cell or a broken reference is an error.

    Every chapter is executed, from stored results, several at once. Nothing happens where neither
    text, code, data nor results changed since the last build; a change in a page alone builds that
    page, and executes it only where its code changed.

    Args:
        root: folder with ``_config.yml``.
        force: build every page in any case.

    Returns:
        The front page.

    Raises:
        HelpfulError: the build failed; its output says why.
    """
    root = root or ROOT
    front = root / "_build" / "html" / "index.html"
    stamp = root / "_build" / "html" / ".built-from.json"
    now = {"shared": _digest(root, SHARED), "text": _digest(root, ("book",))}
    before = json.loads(stamp.read_text("utf-8")) if stamp.is_file() and front.is_file() else {}
    if before == now and not force:
        return front
    everything = force or before.get("shared") != now["shared"]
    stamp.unlink(missing_ok=True)
    cache = root / "_build" / "executed"
    if everything:
        drop_folder(cache)
    listed = (root / "_toc.yml").read_text("utf-8")
    execute_missing([c for c in chapters(root / "book") if f"book/{c.stem}" in listed], cache)
    config = _write_config(root, cache)
    command = [sys.executable, "-c", "from jupyter_book.cli.main import main; main()", "build"]
    command += [str(root), "--config", str(config), "-W", "-n", "--keep-going", "-q"]
    done = subprocess.run(command + ["--all"] * everything, cwd=root)
    if done.returncode:
        raise HelpfulError("the book was not built; the warnings above say why.")
    write_atomic(stamp, json.dumps(now).encode())
    return front


def _digest(root: Path, places: Sequence[str]) -> str:
    """Return a checksum of all files under some places, and of the settings from outside."""
    total = hashlib.sha256(repr([os.environ.get(name, "") for name in FROM_OUTSIDE]).encode())
    for file in _files(root, places):
        total.update(f"{file.relative_to(root)}\0".encode())
        total.update(hashlib.sha256(file.read_bytes()).digest())
    return total.hexdigest()


def _files(root: Path, places: Sequence[str]) -> Iterator[Path]:
    """Give the files that matter to a page; of the results only the records do."""
    store = root / "data" / "store"
    for place in places:
        found = [root / place] if (root / place).is_file() else sorted((root / place).rglob("*"))
        for file in found:
            in_store = store in file.parents and "records" not in file.parts
            if file.is_file() and file.suffix not in {".pyc", ".ipynb"} and not in_store:
                yield file


def repository(root: Path | None = None) -> str:
    """Return the address that launch buttons point at: this clone's origin where it is on GitHub."""
    root = root or ROOT
    done = subprocess.run(
        ["git", "-C", str(root), "remote", "get-url", "origin"], capture_output=True, text=True
    )
    match = re.search(r"github\.com[:/]([\w.-]+/[\w.-]+?)(?:\.git)?/?$", done.stdout.strip())
    config: dict[str, Any] = yaml.safe_load((root / "_config.yml").read_text("utf-8"))
    return f"https://github.com/{match[1]}" if match else str(config["repository"]["url"])


def _write_config(root: Path, cache: Path) -> Path:
    """Write the configuration that is built: with this clone's address and the executed chapters."""
    config = yaml.safe_load((root / "_config.yml").read_text("utf-8"))
    config["execute"] |= {"execute_notebooks": "cache", "cache": str(cache)}
    config["repository"]["url"] = repository(root)
    file = root / "_build" / "_config.yml"
    file.parent.mkdir(exist_ok=True)
    write_atomic(file, yaml.safe_dump(config, allow_unicode=True, sort_keys=False).encode())
    return file


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line asks; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m helpers.pages", formatter_class=argparse.RawTextHelpFormatter
    )
    actions = parser.add_subparsers(dest="action", required=True)
    actions.add_parser("pair", help="write the notebook beside every chapter")
    actions.add_parser("check", help="say which pairs differ")
    runner = actions.add_parser("run", help="run one chapter")
    runner.add_argument("name", help="such as 03 or 03_gains")
    runner.add_argument("parameters", nargs="*", help="such as seeds=2 languages=de,fr")
    builder = actions.add_parser("build", help="build the book")
    builder.add_argument("--force", action="store_true", help="build every page in any case")
    options = parser.parse_args(arguments)
    start = time.perf_counter()
    try:
        return _do(options, start)
    except HelpfulError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; the pages that were there stay, and the same command goes on.")
        return 130


def _do(options: argparse.Namespace, start: float) -> int:
    if options.action == "check":
        wrong = differing()
        print("\n".join([*wrong, "Run: make pair"]) if wrong else "every pair agrees")
        return int(bool(wrong))
    if options.action == "pair":
        for file in pair():
            print(f"wrote {file.relative_to(ROOT)}")
        return 0
    if options.action == "run":
        shown = run(options.name, options.parameters).with_suffix(".html")
    else:
        shown = build(force=options.force)
    print(f"{shown}  ({book.duration(time.perf_counter() - start)})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
