"""Readers of what a user owns: tables in files; folders of supertags, translations and plain text."""

import csv
import json
import re
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet

from helpers.errors import BadRows, MissingData, unknown
from helpers.tasks import Row


def read(file: Path) -> list[Row]:
    """Read the rows of a table, strictly; its name, ending in one of ``READERS``, says its form."""
    # The ending alone says how values are separated.
    ending = file.suffix.lower()
    if ending not in READERS:
        error = unknown("kind of table", file.suffix or file.name, READERS)
        hint = "Others (CoNLL, XML, Excel) are read by a function: Source('rows', name, read=...)."
        raise type(error)(f"{error} {hint}")
    with _utf8(file):
        rows = list(READERS[ending](file))
    if not rows:
        lines = "one row a line, in .csv and .tsv below a line of column names"
        raise BadRows(f"{file} holds no rows: expected {lines}. Write it again, or leave it out.")
    return rows


@contextmanager
def _utf8(file: Path) -> Iterator[None]:
    try:
        yield
    except UnicodeDecodeError as error:
        fix = f"save it as UTF-8, such as by: iconv -f latin1 -t utf-8 {file.name}"
        text = f"{file}: not UTF-8 text ({error.reason} at byte {error.start}); {fix}"
        raise BadRows(text) from error


def _no_repeats(file: Path, what: str, names: list[str]) -> None:
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise BadRows(f"{file}: {what} names {twice[0]!r} twice; give each column its own name.")


def _parsed(file: Path, text: str, what: str) -> Any:
    """Parse JSON strictly: of two equal keys of an object the second would win in silence."""

    def unique(pairs: list[tuple[str, Any]]) -> Row:
        _no_repeats(file, f"an object in {what}", [key for key, _ in pairs])
        return dict(pairs)

    try:
        return json.loads(text, object_pairs_hook=unique)
    except BadRows:
        raise
    except (ValueError, RecursionError) as error:
        raise BadRows(f"{file}: {what} is no JSON ({error}); is it whole? {text[:80]!r}") from error


def _json(file: Path, by_line: bool) -> Iterator[Row]:
    """Yield the objects of a list or, one a line, of a file whose blank lines are passed over."""
    with file.open(encoding="utf-8-sig") as stream:
        lines = ((f"row {n}", line) for n, line in enumerate(stream) if line.strip())
        for what, text in lines if by_line else [("its content", stream.read())]:
            found = _parsed(file, text, what)
            rows = [found] if by_line else found
            if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
                expected = "a JSON object" if by_line else "a list of JSON objects, one a row"
                raise BadRows(f"{file}: {what} is {text[:80]!r}; expected {expected}")
            yield from rows


def _separated(file: Path, **form: Any) -> Iterator[Row]:
    """Yield the rows of a CSV or TSV file; pandas would fill a row up that lacks a value."""
    # Passages may be longer than the 128 KiB that the module allows by default.
    csv.field_size_limit(2**31 - 1)
    with file.open(encoding="utf-8-sig", newline="") as stream:
        lines = csv.reader(stream, strict=True, **form)
        begin = 1
        try:
            header = next(lines, [])
            _no_repeats(file, "its first line", header)
            begin = lines.line_num + 1
            for values in lines:
                if len(values) == len(header):
                    yield dict(zip(header, values, strict=True))
                elif values:
                    held = f"{len(values)} values, but the first line names {len(header)} columns"
                    quote = "a value with a separator or a line break needs quotes, in a .csv"
                    raise BadRows(f"{file}, line {lines.line_num}: {held} {header[:8]}; {quote}")
                begin = lines.line_num + 1
        except csv.Error as error:
            wrong = f"{file}, line {lines.line_num}: {error}; the row begins in line {begin}"
            quote = "A quote that opens a value must be closed; one inside it is written twice."
            raise BadRows(f"{wrong}. {quote}") from error


def _parquet(file: Path) -> list[Row]:
    try:
        with parquet.ParquetFile(file) as table:
            _no_repeats(file, "its schema", table.schema_arrow.names)
            return table.read().to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise BadRows(f"{file} is damaged or cut ({error}); write or copy it again") from error


READERS: dict[str, Callable[[Path], Iterator[Row] | list[Row]]] = {
    # In a TSV quotes are text like any other, because published sets are written so.
    ".csv": partial(_separated, delimiter=","),
    ".tsv": partial(_separated, delimiter="\t", quoting=csv.QUOTE_NONE),
    ".jsonl": partial(_json, by_line=True),
    ".json": partial(_json, by_line=False),
    ".parquet": _parquet,
}

# CCGbank's usual division by section of the Wall Street Journal.
_SECTIONS = {"train": [f"{n:02d}" for n in range(2, 22)], "dev": ["00"], "test": ["23"]}
# The Parallel Meaning Bank's division: the last digit of the part's number.
_PARTS = {"train": "23456789", "dev": "0", "test": "1"}
_LEAF = re.compile(r"\(<L (\S+) \S+ \S+ (\S+) \S+>\)")
_BRACKETS = {"-LRB-": "(", "-RRB-": ")", "-LCB-": "{", "-RCB-": "}", "-LSB-": "[", "-RSB-": "]"}


def ccgbank(root: Path, split: str) -> Iterator[Row]:
    """Read tokens and categories from CCGbank's ``AUTO/<section>/wsj_*.auto``, at any depth."""
    files = sorted(f for f in root.rglob("*.auto") if f.parent.name in _SECTIONS[split])
    if not files:
        raise MissingData(
            f"no .auto files of sections {', '.join(_SECTIONS[split])} below {root}. The LDC sells them "
            "(LDC2005T13): set CCGBANK_ROOT to its data folder, or take task 'ccg-pmb' or 'xpos-ewt'."
        )
    for file in files:
        name = ""
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
            # A line with the name of a derivation goes before the derivation itself.
            if line.startswith("ID="):
                name = line.split()[0].removeprefix("ID=")
            elif line.strip():
                leaves = _LEAF.findall(line)
                if not leaves:
                    leaf = f"no leaf (<L category pos pos word category>) in {line[:60]!r}"
                    raise BadRows(f"{file}, line {number}: {leaf}; is this a CCGbank .auto file?")
                tokens = [_BRACKETS.get(word, word) for _, word in leaves]
                tags = [category for category, _ in leaves]
                yield {"id": name or f"{file.stem}.{number}", "tokens": tokens, "tags": tags}


def pmb(root: Path, split: str) -> Iterator[Row]:
    """Read tokens and categories of an unpacked release: ``data/en/gold/pXX/dYYYY/en.drs.xml``."""
    files = sorted(root.glob(f"**/en/gold/p*[{_PARTS[split]}]/d*/en.drs.xml"))
    if not files:
        lacks = f"no en/gold/pXX/dYYYY/en.drs.xml of split {split!r} below {root}"
        release = "https://pmb.let.rug.nl/releases/pmb-4.0.0.zip"
        raise MissingData(f"{lacks}. Unpack a release such as {release} and set PMB_ROOT to it.")
    for file in files:
        words = []
        try:
            for tagged in ElementTree.parse(file).iter("tagtoken"):
                kinds = {tag.get("type", ""): (tag.text or "") for tag in tagged.iter("tag")}
                # The empty token stands for a pronoun that is not said.
                if kinds.get("tok", "ø") != "ø" and "cat" in kinds:
                    words.append((kinds["tok"].replace("~", " "), kinds["cat"]))
        except ElementTree.ParseError as error:
            raise BadRows(f"{file} is not valid XML ({error}); unpack the release again") from error
        if not words:
            raise BadRows(f"{file} has no tokens with a category; unpack the release again")
        tokens, tags = map(list, zip(*words, strict=True))
        yield {"id": "-".join(file.parts[-3:-1]), "tokens": tokens, "tags": tags}


def translations(root: Path, split: str) -> Iterator[Row]:
    """Read ``<language>/<split>.jsonl`` of every language there, with the English set's columns."""
    files = sorted(root.glob(f"*/{split}.jsonl"))
    if not files:
        raise MissingData(
            f"no <language>/{split}.jsonl below {root}. Put the translated English rows there (same "
            "columns, a JSON object a line) and set TRANSFER_TRANSLATIONS to the folder above."
        )
    for file in files:
        yield from read(file)


FOLDERS = {reader.__name__: reader for reader in (ccgbank, pmb, translations)}


def paragraphs(folder: Path, language: str) -> Iterator[str]:
    """Yield the lines of ``<language>.txt`` and of ``<language>/*.txt``."""
    files = [*folder.glob(f"{language}.txt"), *sorted(folder.glob(f"{language}/*.txt"))]
    if not files:
        expected = f"expected {language}.txt or {language}/*.txt"
        raise MissingData(f"no text in {language!r} below {folder}: {expected}")
    for file in files:
        with _utf8(file), file.open(encoding="utf-8") as lines:
            yield from lines
