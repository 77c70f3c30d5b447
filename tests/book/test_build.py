import contextlib
import re

import nbformat
import pytest
from jupyter_cache import get_cache

from helpers import pages


def images(page):
    """The attributes of a page's pictures, among them the text for those who cannot see them."""
    return [dict(re.findall(r'([\w-]+)="([^"]*)"', tag)) for tag in re.findall("<img[^>]*>", page)]


def article(root, page="book/01_sample"):
    text = (root / "_build" / "html" / f"{page}.html").read_text("utf-8")
    return text, text[text.index("<article") : text.index("</article>")]


SHOWN = [
    r"the mean is [\d.]+ points",  # computed in the run
    r"sample.csv \(6 rows",  # three languages, two seeds from outside instead of three
    r'caption-number">Fig\. 1 </span>',
    r"The sampled <a[^>]*><span[^>]*>gain</span></a> of a few languages",
    r'class="provenance"',
]
LINKED = [
    "colab.research.google.com/github/me/my.book/blob/main/book/01_sample.ipynb",
    r"mybinder.org/v2/gh/me/my.book/main\?urlpath=lab/tree/book/01_sample.ipynb",
    r'href="\.\./_sources/book/01_sample\.(md|ipynb)"',
]


def test_the_page_shows_what_the_run_made_and_links_to_its_notebook(built):
    page, shown = article(built)
    assert [pattern for pattern in SHOWN if not re.search(pattern, shown)] == []
    assert [pattern for pattern in LINKED if not re.search(pattern, page)] == []
    assert "git clone" not in shown and "begin" in shown  # imports are shown
    (image,) = images(shown)
    assert shown.count("<figure") == 1
    assert image["alt"].startswith("Dot plot") and image["src"].endswith(".svg")


def test_hidden_folders_and_notebooks_are_not_pages_and_the_front_page_leads_on(built):
    html = built / "_build" / "html"
    made = {str(file.relative_to(html)) for file in html.rglob("*.html")}
    assert not [name for name in made if "stray" in name or "hidden" in name]
    assert {"book/01_sample.html", "book/glossary.html", "search.html"} <= made
    assert "book/01_sample.html" in (html / "index.html").read_text()
    for file in (built / "_build" / "jupyter_execute").rglob("*.ipynb"):
        for cell in nbformat.read(file, as_version=4).cells:
            for output in cell.get("outputs", []):
                assert output.get("name") != "stderr", output
    # The build took what was executed.
    records = get_cache(built / "_build" / "executed").list_cache_records()
    assert [record.uri.rpartition("/")[2] for record in records] == ["01_sample.md"]


@pytest.mark.parametrize(
    ("place", "everything"),
    [
        ("", None),
        ("data/store/logs/a.log", None),  # claims and logs of a running study
        ("book/01_sample.md", False),
        ("_config.yml", True),
        ("book/_static/book.css", True),
        ("data/results/scores.csv", True),
        ("data/store/records/ab/ab.json", True),
    ],
)
def test_what_changed_decides_what_is_built(built, monkeypatch, place, everything):
    monkeypatch.setenv("TRANSFER_PARAMETERS", "seeds=2 profile=tiny")
    called, real = [], pages.subprocess.run

    def build(command, **settings):
        if "build" in command:
            called.append(command)
            raise StopIteration
        return real(command, **settings)

    monkeypatch.setattr(pages.subprocess, "run", build)
    for name in ("execute_missing", "drop_folder"):
        monkeypatch.setattr(pages, name, lambda *_: None)
    stamp = built / "_build" / "html" / ".built-from.json"
    kept = {file: file.read_bytes() for file in (stamp, built / place) if file.is_file()}
    if place:
        (built / place).parent.mkdir(parents=True, exist_ok=True)
        (built / place).write_bytes(kept.get(built / place, b"") + b"\n# changed\n")
    with contextlib.suppress(StopIteration):
        pages.build(built)
    if place and built / place not in kept:
        (built / place).unlink()
    for file, content in kept.items():
        file.write_bytes(content)
    said = ["--all" in command for command in called]
    assert said == ([] if everything is None else [everything])
