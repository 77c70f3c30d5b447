"""What every chapter must have. Each rule takes a chapter's cells and gives a list of complaints.

CONTRIBUTING.md explains the rules to people; keep the two in step.
"""

import ast
import re
import statistics

MAX_CODE_CELLS = 36
MAX_CELL_LINES = 25  # the longest cell; most are far shorter:
MAX_NINETIETH, MAX_MEDIAN = 20, 12
MAX_LINE = 88  # what a page shows without scrolling
MAX_WORDS = 3000
HEADINGS = ("What we found", "References", "Where these numbers come from")
CONVENTIONS = {5.0, 80.0, 95.0}  # levels, power and coverage in percent, which no data decide
DRAWS = re.compile(
    r"\bplots\.(heatmap|dots|nothing)\(|\bplt\.(subplots|figure|plot)\(|\bsns\.\w+plot\(|\.plot[.(]"
)
YEARS = range(1900, 2101)
HIDING = ("remove-cell", "remove-input", "hide-input", "hide-cell")


class Chapter:
    """A chapter's cells, and its prose without what is not prose."""

    def __init__(self, text, name="chapter"):
        import jupytext

        self.name, self.text = name, text
        self.cells = jupytext.reads(text, fmt="md:myst").cells
        self.code = [cell for cell in self.cells if cell.cell_type == "code"]
        self.words = "\n\n".join(c.source for c in self.cells if c.cell_type == "markdown")
        self.body, _, self.end = self.words.partition("\n## References\n")
        self.headings = re.findall(r"^(#+) (.+)$", _without_fences(self.words), re.MULTILINE)

    @classmethod
    def of(cls, file):
        return cls(file.read_text("utf-8"), file.stem)


def tags(cell):
    return cell.metadata.get("tags", [])


def hidden(cell):
    return any(tag in tags(cell) for tag in HIDING)


def top(chapter):
    """Title, takeaways that link, and what the reader needs and gets."""
    wrong = []
    if sum(1 for mark, _ in chapter.headings if mark == "#") != 1:
        wrong.append("needs exactly one title (#)")
    elif chapter.headings[0][1].split()[0].lower() in {"the", "a", "an", "introduction"}:
        wrong.append("the title starts with a verb: 'Measure ...', 'Compare ...'")
    box = re.search(r"^## Key takeaways\n((?:\n|- .*\n|  .*\n)+)", chapter.words, re.M)
    bullets = re.findall(r"^- ((?:.+\n?(?:  .+\n?)*))", box[1], re.MULTILINE) if box else []
    if not bullets:
        wrong.append("needs a section '## Key takeaways' with bullets")
    if any("](#" not in bullet for bullet in bullets):
        wrong.append("every takeaway links to where it is shown ([words](#heading-or-figure))")
    for part in ("You need\n: ", "You get\n: "):
        if part not in chapter.words:
            wrong.append(f"needs a definition list entry {part.split(chr(10))[0]!r}")
    return wrong


def cells(chapter):
    """Imports in plain sight, at most one parameters cell, short cells, provenance last."""
    wrong = []
    tagged = [cell for cell in chapter.code if "parameters" in tags(cell)]
    if len(tagged) > 1 or any("book.parameters(" not in cell.source for cell in tagged):
        wrong.append("needs at most one cell tagged 'parameters', with book.parameters(...)")
    setup = [cell for cell in chapter.code if "book.begin(" in cell.source]
    if len(setup) != 1 or hidden(setup[0]):
        wrong.append("needs one visible set-up cell that imports and calls book.begin()")
    if not chapter.code or "book.provenance(" not in chapter.code[-1].source:
        wrong.append("the last code cell shows book.provenance(...)")
    shown = [cell for cell in chapter.code if not hidden(cell)]
    if any("building(" in cell.source for cell in shown):
        wrong.append("a visible cell asks whether a book is built; let the helper ask")
    solutions = [cell for cell in chapter.code if cell.source.startswith("# Solution")]
    folded = [cell for cell in solutions if "hide-cell" in tags(cell)]
    if ("##", "Exercises") in chapter.headings and not len(solutions) == len(folded) >= 2:
        wrong.append("needs two exercises with solutions in cells tagged 'hide-cell'")
    return wrong + lengths(chapter)


def lengths(chapter):
    wrong = []
    lines = [len(cell.source.splitlines()) for cell in chapter.code]
    if len(lines) > MAX_CODE_CELLS:
        wrong.append(f"{len(lines)} code cells; at most {MAX_CODE_CELLS}")
    if max(lines, default=0) > MAX_CELL_LINES:
        wrong.append(f"a cell has {max(lines)} lines; at most {MAX_CELL_LINES}")
    shown = [n for cell, n in zip(chapter.code, lines, strict=True) if not hidden(cell)]
    if len(shown) > 1:
        ninetieth = statistics.quantiles(shown, n=10, method="inclusive")[-1]
        if ninetieth > MAX_NINETIETH or statistics.median(shown) > MAX_MEDIAN:
            wrong.append(
                f"cells are long: median {statistics.median(shown):g} (at most {MAX_MEDIAN}), "
                f"nine in ten within {ninetieth:g} lines (at most {MAX_NINETIETH})"
            )
    wide = [line for cell in chapter.code for line in cell.source.splitlines()]
    wide = [line for line in wide if len(line) > MAX_LINE]
    said = f"a line of code is wider than {MAX_LINE}: "
    return wrong + [said + line.strip()[:40] for line in wide]


def figures(chapter):
    """A cell that draws has a name, a caption and a text for those who cannot see it."""
    wrong = []
    for cell in chapter.code:
        facts = cell.metadata.get("mystnb", {})
        figure, image = facts.get("figure", {}), facts.get("image", {})
        first = cell.source.splitlines()[0] if cell.source else ""
        if not figure and not image:
            if DRAWS.search(cell.source) and "remove-cell" not in tags(cell):
                wrong.append(f"a cell draws without mystnb figure and image facts: {first[:50]}")
            continue
        said = {f"figure.{name}": figure.get(name) for name in ("name", "caption")}
        said["image.alt"] = image.get("alt")
        lacking = [name for name, value in said.items() if not str(value or "").strip()]
        if lacking:
            wrong.append(f"a figure lacks {', '.join(lacking)}: {first[:50]}")
        elif f"](#{figure['name']})" not in chapter.words:
            wrong.append(f"no sentence reads the figure: [the figure](#{figure['name']})")
        # what a last line returns would be printed, as a second figure of the same name
        final = cell.source.rstrip().splitlines()[-1]
        if re.match(r"(ax|axes|fig|plt|sns)\b[^=]*\(", final) and not final.endswith(";"):
            wrong.append(f"the last line of a figure ends with a semicolon: {final[:50]}")
    return wrong


def ending(chapter):
    """The closing sections, in order, and the way on."""
    titles = [title for mark, title in chapter.headings if mark == "##"]
    wrong = [f"needs a section '## {name}'" for name in HEADINGS if name not in titles]
    places = [titles.index(name) for name in HEADINGS if name in titles]
    if places != sorted(places):
        wrong.append(f"the closing sections stand in the order {', '.join(HEADINGS)}")
    if not re.search(r"^\*\*Next:\*\* .*\]\([\w-]+\.(?:md|ipynb)\)", chapter.words, re.MULTILINE):
        wrong.append("needs a line '**Next:** [title](chapter.ipynb)'")
    return wrong


def asserted(chapter):
    said = [cell.source for cell in chapter.code if re.search(r"^\s*assert ", cell.source, re.M)]
    return {abs(float(n.replace(",", ""))) for s in said for n in re.findall(r"\d[\d,]*\.?\d*", s)}


def typed_numbers(chapter, known=None):
    """Numbers in prose that no cell asserts; years, conventions and parts of names are fine.

    A paragraph after a comment line that starts with ``<!-- typed:`` and says why is left alone.
    """
    wrong, known = [], CONVENTIONS | (asserted(chapter) if known is None else known)
    for paragraph in re.split(r"\n\s*\n", _without_fences(chapter.body)):
        if paragraph.lstrip().startswith(("#", "<!-- typed:", "(")) or "\n<!-- typed:" in paragraph:
            continue
        for match in re.finditer(r"(?<![\w.\-])-?\d[\d.,]*(?:\s?%)?(?![\w\-])", _plain(paragraph)):
            number = float(match[0].strip("%").rstrip(" .,").replace(",", ""))
            if number in YEARS or abs(number) in known:
                continue
            around = _plain(paragraph)[max(0, match.start() - 25) : match.end() + 15]
            wrong.append(f"a number that no cell asserts: '...{' '.join(around.split())}...'")
    return wrong


def plain_links(chapter):
    """Nothing in the prose that only a build understands: Lab shows it, too. Links on the page lead on."""
    raw = re.findall(r"\{[a-z][\w:-]*\}`[^`]*`|^\([\w-]+\)=$|^% .*$", chapter.words, re.MULTILINE)
    said = "is raw text in JupyterLab; write a Markdown link or words"
    wrong = [f"{text[:50]} {said}" for text in raw]
    titles = (re.sub(r"[^\w -]", "", title.lower()) for _, title in chapter.headings)
    slugs = {title.replace(" ", "-") for title in titles}
    drawn = {c.metadata.get("mystnb", {}).get("figure", {}).get("name") for c in chapter.code}
    targets = set(re.findall(r"\]\(#([^)]+)\)", chapter.words)) - slugs - drawn
    return wrong + [f"no heading or figure #{name}" for name in sorted(targets)]


def cited(chapter):
    """Every work that is cited is listed under References, and the other way round."""
    listed = re.findall(r"^- ([^,]+), .*?\((\d{4})\)\. \*", chapter.end, re.MULTILINE)
    named = re.findall(
        r"\[([^][]+?)(?: et al\.| and [^],(]+)?,? \(?(\d{4})\)?\]\(#references\)", chapter.body
    )
    wrong = sorted(set(listed) ^ set(named))
    return [f"{who} ({year}) is cited or listed, not both" for who, year in wrong]


def prose(chapter):
    """No left-overs, and not too long to read."""
    wrong = [
        f"left-over {match[0]!r}"
        for match in re.finditer(r"\b(TODO|FIXME|XXX)\b|/home/\w+|/work/\w+", chapter.text)
    ]
    count = len(_plain(_without_fences(chapter.body)).split())
    return wrong + ([f"{count:,} words; at most {MAX_WORDS:,}"] if count > MAX_WORDS else [])


RULES = (top, cells, figures, ending, typed_numbers, plain_links, cited, prose)


def complaints(chapter):
    for cell in chapter.code:
        if not cell.source.lstrip().startswith("%"):
            ast.parse(re.sub(r"^(\s*)[%!].*$", r"\1pass", cell.source, flags=re.MULTILINE))
    return [f"{chapter.name}: {text}" for rule in RULES for text in rule(chapter)]


def _without_fences(text):
    """Leave out directives and code blocks, but keep what admonitions say."""
    boxes = r"^(`{3,}|:{3,})\{(?:admonition|tip|note|warning|important)\}.*?\n"
    text = re.sub(boxes, "", text, flags=re.M)
    text = re.sub(r"^(`{3,})\{?[\w:\-]+\}?.*?^\1\s*$", "", text, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"^\$\$.*?^\$\$", "", text, flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"^(`{3,}|:{3,})\s*$|^:class:.*$", "", text, flags=re.MULTILINE)


def _plain(text):
    """Leave out roles, code, mathematics and the targets of links."""
    text = re.sub(r"\{[\w:+\-]+\}`[^`]*`", " ", text)
    text = re.sub(r"`[^`]*`", " ", text)
    text = re.sub(r"\$[^$\n]*\$", " ", text)
    text = re.sub(r"\]\([^)]*\)|https?://\S+|^%.*$", " ", text, flags=re.MULTILINE)
    return re.sub(r"^\s*\d+\. |Exercise \d+", "", text, flags=re.MULTILINE)
