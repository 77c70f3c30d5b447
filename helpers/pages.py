"""The chapters as files: pair them with notebooks, run one, build the book.

    python -m helpers.pages pair                   write the notebook beside every chapter
    python -m helpers.pages run 06 permutations=999 run one chapter with other settings
    python -m helpers.pages build                  build the book, strictly, where anything changed

A chapter is a MyST Markdown file with a jupytext header; it is the one that is edited, reviewed and
built. The notebook beside it serves JupyterLab, Colab, Binder and GitHub. ``_config.yml`` names this file
as a Sphinx extension, too, which adds to the theme: formulas without a script, links between chapters,
launch buttons that are true.
"""

import argparse
import ast
import asyncio
import hashlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jupytext
import nbclient
import nbformat
import yaml
from docutils import nodes
from jupyter_cache import get_cache
from jupyter_cache.base import CacheBundleIn
from jupytext.config import load_jupytext_config
from latex2mathml.converter import convert
from myst_nb.core.read import myst_nb_reader_plugin

from helpers import book
from helpers.errors import HelpfulError, known, unknown
from helpers.files import address, cores, drop_folder, write_atomic

ROOT = Path(__file__).resolve().parent.parent
HEADER = re.compile(r"\A---\n(?:.*\n)*?jupytext:\n", re.MULTILINE)
FETCH = re.compile(r"(!git clone -q --depth 1 ).+")
CONFLICT = re.compile(r"^(<<<<<<<|>>>>>>>) ", re.MULTILINE)
# What a built page depends on, besides the environment: changed, and every page is built anew.
SHARED = ("_config.yml", "_toc.yml", "constraints.txt", "helpers", "data", "book/_static")
FROM_OUTSIDE = (book.PARAMETERS, "TRANSFER_STORE", "TRANSFER_DATA_ROOT")
_AT_ONCE = 4  # more chapters at once would want more memory than a laptop has
_THREADS = "OMP_NUM_THREADS"


def chapters(folder: Path | None = None) -> list[Path]:
    """Return the chapters with code cells, in the order of their names."""
    files = sorted((folder or ROOT / "book").glob("*.md"))
    return [file for file in files if HEADER.match(_text(file))]


def find(name: str, folder: Path | None = None) -> Path:
    """Return the chapter whose name is, starts with or ends with ``name``."""
    files, stem = {file.stem: file for file in chapters(folder)}, Path(name).stem
    near = [s for s in files if stem and (s.startswith(stem) or s.endswith(stem))]
    if stem not in files and len(near) != 1:
        raise unknown("chapter", name, files)
    return files.get(stem) or files[near[0]]


def notebook(chapter: Path) -> nbformat.NotebookNode:
    """Return a chapter as a notebook without outputs, the same bytes for the same text."""
    made = jupytext.reads(_text(chapter), fmt="md:myst")
    # A text file holds no cell ids, and random ones would change the notebook at every writing.
    for place, cell in enumerate(made.cells):
        content = f"{chapter.stem}/{place}/{cell.cell_type}/{cell.source}"
        cell["id"] = hashlib.sha256(content.encode()).hexdigest()[:12]
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    made.metadata["language_info"] = {"name": "python"}
    made.metadata["jupytext"].pop("text_representation", None)  # as JupyterLab saves it
    made.metadata["transfer-book"] = {"paired": _cells(made)}
    made.nbformat, made.nbformat_minor = 4, 5
    return made


def pair(folder: Path | None = None, *, clear: bool = False) -> list[Path]:
    """Write the notebook beside every chapter where it differs; return those written.

    A notebook keeps the checksum of the text that both had when they last agreed: whether it was edited
    since does not depend on a clock. One that was edited is refused where its chapter says something else.
    ``clear`` takes out the outputs that a session left, as a commit needs it.
    """
    written = []
    for chapter in chapters(folder):
        # As JupyterLab would save it, so that saving changes nothing; Colab fetches the project from the
        # address that the configuration names.
        there = _text(chapter)
        text = FETCH.sub(rf"\1{address() or 'ADDRESS'} transfer-book", there)
        settings = load_jupytext_config(str(chapter))
        text = jupytext.writes(jupytext.reads(text, fmt="md:myst"), fmt="md:myst", config=settings)
        if text != there:
            write_atomic(chapter, text.encode())
        twin, made = chapter.with_suffix(".ipynb"), notebook(chapter)
        common = made.metadata["transfer-book"]
        try:
            mine = nbformat.reads(_text(twin), as_version=4) if twin.is_file() else made
        except nbformat.reader.NotJSONError:
            fix = "Delete it and run: make pair"
            raise HelpfulError(f"{twin.name} is not a notebook. {fix}") from None
        before = mine.metadata.get("transfer-book", {})
        if _cells(mine) == common["paired"]:
            # Outputs that somebody saved are theirs; they go only where the text changed.
            if any(cell.get("outputs") for cell in mine.cells) and not clear:
                if before == common:
                    continue
                mine.metadata["transfer-book"], made = common, mine
        elif _cells(mine) != before.get("paired"):
            edited = "both" if common != before else f"{twin.name} alone"
            raise HelpfulError(
                f"{twin.name} and {chapter.name} differ, and since they last agreed {edited} changed. To keep "
                f"the notebook's version: jupytext --to md:myst {twin}; the chapter's: delete {twin.name}."
            )
        content = (nbformat.writes(made, version=4) + "\n").encode()
        if not twin.is_file() or twin.read_bytes() != content:
            write_atomic(twin, content)
            written.append(twin)
    return written


def _text(file: Path) -> str:
    """Return a file's text; what hides a chapter's header or is no text of anybody is refused."""
    text = file.read_text("utf-8")
    if text.startswith("\ufeff"):
        said = f"{file.name} begins with a byte order mark (BOM), which hides its header"
        raise HelpfulError(f"{said}. Save it as UTF-8 without one and run this again.")
    if mark := CONFLICT.search(text):
        line = text.count("\n", 0, mark.start()) + 1
        fix = "Resolve it, or delete a notebook: its chapter writes it again."
        raise HelpfulError(f"{file.name}, line {line}: a conflict mark of git. {fix}")
    return text


def _cells(made: nbformat.NotebookNode) -> str:
    """Return a checksum of what a chapter and its notebook have in common."""
    common = [(c.cell_type, c.source.strip(), list(c.metadata.get("tags", []))) for c in made.cells]
    return hashlib.sha256(json.dumps(common).encode()).hexdigest()[:16]


def run(name: str, parameters: Sequence[str] = (), folder: Path | None = None) -> Path:
    """Run one chapter; return the executed notebook in ``_build/chapters``, a page of that name beside it."""
    from nbconvert import HTMLExporter

    chapter = find(name, folder)
    made, asked = notebook(chapter), " ".join(parameters)
    # A misspelt setting is refused before anything runs: they are the arguments of one cell's call.
    cells = [c.source for c in made.cells if "parameters" in c.metadata.get("tags", [])]
    calls = [n for cell in cells for n in ast.walk(ast.parse(cell)) if isinstance(n, ast.Call)]
    settings = [keyword.arg for call in calls for keyword in call.keywords if keyword.arg]
    for given in book.split_parameters(asked):
        known(f"parameter of {chapter.stem}", given, settings)
    failure = execute(made, chapter.parent, {book.PARAMETERS: asked})
    # A page that failed takes no good one's place, and each says which settings ran.
    target = ROOT / "_build" / "chapters" / f"{chapter.stem}{'-failed' * bool(failure)}.ipynb"
    ran = f"*Run with {asked or 'the settings of the chapter'}.*"
    made.cells.insert(0, nbformat.v4.new_markdown_cell(ran, id="settings"))
    write_atomic(target, nbformat.writes(made).encode())
    # What is glued for another page shows nothing here, and the exporter would warn of it.
    for cell in (cell for cell in made.cells if "outputs" in cell):
        cell.outputs = [o for o in cell.outputs if "papermill" not in "".join(o.get("data", ""))]
    page, _ = HTMLExporter().from_notebook_node(made)
    write_atomic(target.with_suffix(".html"), page.encode())
    if failure:
        raise HelpfulError(f"{chapter.name} failed; what it did is in {target}\n{failure}")
    return target


def execute(made: nbformat.NotebookNode, folder: Path, environment: Mapping[str, str]) -> str:
    """Execute a notebook in place, in its folder; return the error of the cell that failed, or "" ."""
    # With timing recorded, a cell would no longer be what the cache knows.
    how: dict[str, Any] = {"timeout": None, "kernel_name": "python3", "record_timing": False}
    how |= {"extra_arguments": ["--IPKernelApp.log_level=40"]}
    client = nbclient.NotebookClient(made, resources={"metadata": {"path": folder}}, **how)
    # Kernels choose the backend of figures themselves.
    mine = {name: value for name, value in os.environ.items() if name != "MPLBACKEND"}
    try:
        # A loop of its own, closed at the end, also in a thread.
        asyncio.run(client.async_execute(env={**mine, **environment}))
    except nbclient.exceptions.CellExecutionError as error:
        return re.sub("\x1b\\[[0-9;]*m", "", str(error))
    return ""


def execute_missing(files: Sequence[Path], folder: Path) -> list[str]:
    """Execute every chapter that a cache of myst-nb does not know by its code, several at once; name them."""
    # jupyter-cache's own parallel executor knows no bound on processes and no environment per kernel.
    # The cache knows a chapter by its code cells: other prose alone executes nothing.
    cache, missing = get_cache(folder), {}
    for file in files:
        made = myst_nb_reader_plugin(str(file))
        try:
            cache.match_cache_notebook(made)
        except KeyError:
            missing[file] = made
    # Each chapter has its share of the processor.
    workers = max(1, min(_AT_ONCE, cores(), len(missing)))
    threads = os.environ.get(_THREADS) or str(max(1, cores() // workers))

    def work(file: Path) -> tuple[str, float]:
        began = time.monotonic()
        failure = execute(missing[file], file.parent, {book.BUILDING: "1", _THREADS: threads})
        seconds = time.monotonic() - began
        print(f"{file.stem}: {'failed after ' * bool(failure)}{book.duration(seconds)}", flush=True)
        return failure, seconds

    failures = []
    with ThreadPoolExecutor(workers) as pool:
        for file, (failure, seconds) in zip(missing, pool.map(work, missing), strict=True):
            if failure:
                failures.append(f"{file.name}: {failure}")
                continue
            bundle = CacheBundleIn(missing[file], str(file), data={"execution_seconds": seconds})
            cache.cache_notebook_bundle(bundle, overwrite=True)
    if failures:
        raise HelpfulError("\n\n".join(["the book was not built:", *failures]))
    return [file.stem for file in missing]


def build(root: Path | None = None) -> Path:
    """Build the book strictly: a warning, a failing cell or a broken reference is an error.

    Every chapter is executed, from stored results. Nothing happens where neither text, code, data nor
    results changed; a change in a page alone builds that page, and executes it where its code changed.
    """
    root = root or ROOT
    front, stamp = (root / "_build" / "html" / name for name in ("index.html", ".built-from.json"))
    now = {"shared": _digest(root, SHARED), "text": _digest(root, ("book",))}
    before = json.loads(stamp.read_text("utf-8")) if stamp.is_file() and front.is_file() else {}
    if before == now:
        return front
    # Where anything but a page changed, no page that was executed before can be trusted.
    everything = before.get("shared") != now["shared"]
    stamp.unlink(missing_ok=True)
    cache = root / "_build" / "executed"
    if everything:
        drop_folder(cache)
    listed = (root / "_toc.yml").read_text("utf-8")
    execute_missing([c for c in chapters(root / "book") if f"book/{c.stem}" in listed], cache)
    # The configuration that is built takes the executed chapters.
    config = yaml.safe_load((root / "_config.yml").read_text("utf-8"))
    config["execute"] |= {"execute_notebooks": "cache", "cache": str(cache)}
    file = root / "_build" / "_config.yml"
    write_atomic(file, yaml.safe_dump(config, allow_unicode=True, sort_keys=False).encode())
    command = [sys.executable, "-c", "from jupyter_book.cli.main import main; main()", "build"]
    command += [str(root), "--config", str(file), "-W", "-n", "--keep-going", "-q"]
    if subprocess.run(command + ["--all"] * everything, cwd=root).returncode:
        raise HelpfulError("the book was not built; the warnings above say why.")
    write_atomic(stamp, json.dumps(now).encode())
    return front


def _digest(root: Path, places: Sequence[str]) -> str:
    """Return a checksum of all that matters to a page under some places, and of outside settings."""
    total = hashlib.sha256(repr([os.environ.get(name, "") for name in FROM_OUTSIDE]).encode())
    store = root / "data" / "store"
    for place in places:
        found = [root / place] if (root / place).is_file() else sorted((root / place).rglob("*"))
        for file in found:
            # Of the results only the records say something.
            passing = store in file.parents and "records" not in file.parts
            if file.is_file() and file.suffix not in {".pyc", ".ipynb"} and not passing:
                total.update(f"{file.relative_to(root)}\0".encode())
                total.update(hashlib.sha256(file.read_bytes()).digest())
    return total.hexdigest()


# --- The Sphinx extension -------------------------------------------------------------------------
def setup(app: Any) -> dict[str, Any]:
    """Tell Sphinx what this extension does."""
    app.add_config_value("runs_on_binder", [], "html")
    app.add_config_value("has_address", False, "html")
    app.add_html_math_renderer("mathml", (_formula, None), (_formula, None))
    app.connect("source-read", _chapters_as_pages)
    app.connect("config-inited", _no_links_without_an_address, priority=900)
    app.connect("html-page-context", _launch_where_it_runs, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _chapters_as_pages(app: Any, page: str, source: list[str]) -> None:
    """Take links between chapters, which lead JupyterLab and GitHub to notebooks, to their pages."""
    source[0] = re.sub(r"\]\((\w+)\.ipynb\b", r"](\1.md", source[0])


def _formula(writer: Any, node: nodes.math | nodes.math_block) -> None:
    """Write a formula as MathML, which browsers draw offline and screen readers read."""
    block = isinstance(node, nodes.math_block)
    formula = convert(node.astext(), display="block" if block else "inline")
    writer.body.append(f'<div class="math">{formula}</div>' if block else formula)
    raise nodes.SkipNode


def _no_links_without_an_address(app: Any, config: Any) -> None:
    """Leave out every button that would lead to a repository that is nowhere."""
    options = config.html_theme_options
    config.has_address = bool(options.get("repository_url"))
    if not config.has_address:
        # The theme offers the notebook as a file only where it can work out links, which go below.
        options["repository_url"] = "https://github.com/none/none"
    options |= dict.fromkeys(("use_repository_button", "use_issues_button"), config.has_address)


def _launch_where_it_runs(app: Any, page: str, template: str, context: Any, tree: Any) -> None:
    """Offer Binder, which has no torch, on the pages that run there."""
    # Jupyter Book names the scripts of Thebe, which no page uses, twice: an error in every console.
    files = context.get("script_files", [])
    context["script_files"] = [f for f in files if "thebe" not in str(f).lower()]
    groups = context.get("header_buttons", [])
    for group in [group for group in groups if group.get("label") == "launch-buttons"]:
        if not app.config.has_address:
            groups.remove(group)
        elif page not in app.config.runs_on_binder:
            group["buttons"] = [one for one in group["buttons"] if one["text"] != "Binder"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line asks; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m helpers.pages")
    actions = parser.add_subparsers(dest="action", required=True)
    pairer = actions.add_parser("pair", help="write the notebook beside every chapter")
    pairer.add_argument("--clear", action="store_true", help="take out outputs of a session")
    runner = actions.add_parser("run", help="run one chapter")
    runner.add_argument("name", help="such as 06 or 06_test_the_question")
    runner.add_argument("parameters", nargs="*", help="such as permutations=999")
    actions.add_parser("build", help="build the book")
    options, start = parser.parse_args(arguments), time.perf_counter()
    try:
        if options.action == "pair":
            shown = [f"wrote {file.relative_to(ROOT)}" for file in pair(clear=options.clear)]
        elif options.action == "run":
            shown = [str(run(options.name, options.parameters).with_suffix(".html"))]
        else:
            shown = [str(build())]
        print(*shown, f"({book.duration(time.perf_counter() - start)})", sep="\n")
        return 0
    except HelpfulError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; the pages that were there stay, and the same command goes on.")
        return 130


if __name__ == "__main__":
    sys.exit(main())
