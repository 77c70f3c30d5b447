"""The book itself, built strictly from a study that really ran: tiny, but every step of the way."""

import os
import re
import shutil
import subprocess
import sys

import pytest
import yaml

from helpers import files, pages
from tests.book.test_build import images

pytestmark = pytest.mark.timeout(1200)  # all chapters run, beside other tests
LIGHT = "import sys; sys.path.insert(0, {!r}); from tests.project.light import refuse; refuse()"


def as_on_binder(real, light):
    """Execute the chapters that offer Binder with its packages alone, and name them."""
    config = yaml.safe_load((pages.ROOT / "_config.yml").read_text("utf-8"))["sphinx"]["config"]
    offer = {page: pages.ROOT / f"{page}.md" for page in config["runs_on_binder"]}
    read = lambda made: [cell.source for cell in made.cells]  # noqa: E731
    known = {page: read(pages.myst_nb_reader_plugin(str(file))) for page, file in offer.items()}

    def execute(made, *given):
        page = next((page for page, sources in known.items() if sources == read(made)), None)
        first = next(cell for cell in made.cells if cell.cell_type == "code")
        source = first.source
        if page:
            first.source = f"{LIGHT.format(str(pages.ROOT))}\n{source}"
        failure = real(made, *given)
        first.source = source
        light.discard(page)
        return failure

    light.update(offer)
    return execute


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The book, built in a copy of the project from a tiny study in a store of its own."""
    root = tmp_path_factory.mktemp("whole") / "book-project"
    root.mkdir()
    for name in ("_config.yml", "_toc.yml", "constraints.txt", "CITATION.cff"):
        shutil.copy(pages.ROOT / name, root)
    shutil.copytree(pages.ROOT / "book", root / "book")
    if (pages.ROOT / "data").is_dir():
        skip = shutil.ignore_patterns("store")
        shutil.copytree(pages.ROOT / "data", root / "data", ignore=skip)
    settings = {"TRANSFER_STORE": str(root / "store"), "TRANSFER_PARAMETERS": "profile=tiny"}
    command = [sys.executable, "-m", "helpers.study", "--profile", "tiny", "--seeds", "2"]
    done = subprocess.run(command, env=os.environ | settings, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, value)
        patch.setattr(pages, "execute", as_on_binder(pages.execute, light := set()))
        pages.build(root)
    assert not light, f"not executed as on Binder: {light}"
    return root / "_build" / "html"


def shown(whole):
    for file in sorted((whole / "book").glob("*.html")):
        text = file.read_text("utf-8")
        if "<article" in text:
            yield file.stem, text[text.index("<article") : text.rindex("</article>")]


def test_every_chapter_became_a_page_that_says_where_its_numbers_come_from(whole):
    made, chapters = dict(shown(whole)), {file.stem for file in pages.chapters()}
    assert chapters <= set(made)
    assert [name for name in chapters if 'class="provenance"' not in made[name]] == []
    for name, text in made.items():
        # Every picture is a captioned figure with a text.
        assert all(image.get("alt", "").strip() for image in images(text)), name
        drawn = [image for image in images(text) if image.get("class") != "hero"]
        assert len(drawn) == text.count("<figure") == text.count("caption-number"), name
        # Every number in prose was filled in, and no page shows an error.
        assert "{glue" not in text and "No key" not in text, name
        assert 'class="pasted-text"></span>' not in text, name
        assert not re.search(r"Traceback \(most recent|class=\"problematic\"", text), name
    assert not list((whole / "reports").glob("*.err.log"))


def test_pages_are_light_ask_nothing_of_the_network_and_link_to_pages_that_are_there(whole):
    """What a browser fetches by itself: scripts, styles, pictures; links are for readers."""
    outside = re.compile(r"url\(['\"]?https?:|@import ['\"]?https?:|\bsrc(?:set)?=\"https?:")
    for file in [*whole.glob("book/*.html"), *whole.glob("_static/**/*.css")]:
        text = file.read_text("utf-8")
        fetched = re.findall(r"<link[^>]*>", text)
        assert not outside.search(text) and not any('href="http' in tag for tag in fetched), file
        images = set(re.findall(r'src="(\.\./_images/[^"]+)"', text))
        size = file.stat().st_size + sum((file.parent / image).stat().st_size for image in images)
        assert size < 1_000_000, f"{file.name}: {size:,} bytes"
    for file in (whole / "book").glob("*.html"):
        text = file.read_text("utf-8")
        for target in re.findall(r'(?:href|src)="([^"#?:]+)(?:[#?][^"]*)?"', text):
            assert (file.parent / target).exists(), f"{file.name}: {target}"


def test_nothing_leads_to_a_repository_that_has_no_address(whole):
    leads = re.compile(r"mybinder|colab\.research|/commit/|/issues|none/none")
    for file in whole.glob("book/*.html") if not files.address() else ():
        assert not leads.search(file.read_text("utf-8")), file.name
