"""Unlabelled text of a language, for masked language modelling and text similarity."""

from __future__ import annotations

import csv
import hashlib
import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from helpers.data import packages, sources
from helpers.errors import BadRows, MissingData
from helpers.tasks import Source
from helpers.tasks.demo import DJANGO

TEXT_VARIABLE = "TRANSFER_TEXT_ROOT"
WIKIPEDIA = Source(
    "hub",
    "wikimedia/wikipedia",
    "20231101.{language}",
    revision="b04c8d1ceb2f5cd4588862100d08de323dccfbaa",
    licence="CC BY-SA 3.0 and GFDL",
)
# Shorter lines of an article are headings and list items.
_MIN_CHARACTERS = 40
_DEFAULT_LINES = 10_000


class Texts(tuple[str, ...]):
    """Paragraphs of one language, and where they were read."""

    language: str
    source: str

    @property
    def fingerprint(self) -> str:
        """Return the sha256 of the paragraphs."""
        return hashlib.sha256("\n".join(self).encode()).hexdigest()


def texts(language: str, limit: int | None = None, folder: str | Path | None = None) -> Texts:
    """Read paragraphs of a language.

    Args:
        language: code of the language.
        limit: at most this many paragraphs, from the beginning; by default 10,000.
        folder: where to read; by default what ``TRANSFER_TEXT_ROOT`` names, else Wikipedia at a
            pinned snapshot, from the mirror or the hub. A folder holds ``<language>.txt``,
            ``<language>/*.txt`` (one paragraph a line) or ``<language>.tsv`` (column ``text``).
            ``"django"`` stands for the messages of Django's catalogues, which need no download.

    Returns:
        Paragraphs without repetition, in the order of their source.

    Raises:
        MissingData: no text in that language, or the hub is not reachable.
        BadRows: a file that is not UTF-8, or a TSV file without a column ``text``.
    """
    where = str(folder or os.environ.get(TEXT_VARIABLE, ""))
    limit = limit or _DEFAULT_LINES
    if where == "django":
        pairs = packages.messages(DJANGO, "de" if language == "en" else language)
        origin, lines = f"package {DJANGO}", iter(pairs if language == "en" else pairs.values())
    elif where:
        path = Path(where).expanduser()
        origin, lines = f"folder {path}", _from_folder(path, language)
    else:
        origin, lines = _wikipedia(language, limit)
    found = Texts(islice(dict.fromkeys(line.strip() for line in lines if line.strip()), limit))
    if not found:
        raise MissingData(f"no text in {language!r} in {origin}")
    found.language, found.source = language, origin
    return found


def _from_folder(folder: Path, language: str) -> Iterator[str]:
    files = [folder / f"{language}.txt", *sorted((folder / language).glob("*.txt"))]
    files = [file for file in files if file.is_file()]
    files = files or [file for file in [folder / f"{language}.tsv"] if file.is_file()]
    if not files:
        raise MissingData(
            f"no text in {language!r} below {folder}: expected {language}.txt, {language}/*.txt "
            f"or {language}.tsv"
        )
    for file in files:
        try:
            with file.open(
                encoding="utf-8", newline=None if file.suffix == ".txt" else ""
            ) as lines:
                yield from lines if file.suffix == ".txt" else _column(file, lines)
        except UnicodeDecodeError as error:
            raise BadRows(f"{file}: not UTF-8 text ({error}); save it as UTF-8") from error


def _column(file: Path, lines: Iterator[str]) -> Iterator[str]:
    reader = csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
    if "text" not in (reader.fieldnames or ()):
        raise BadRows(f"{file}: no column 'text'; columns are {reader.fieldnames}")
    for row in reader:
        yield row["text"] or ""


def _wikipedia(language: str, limit: int) -> tuple[str, Iterator[str]]:
    """Read articles from the beginning of the snapshot until there are enough paragraphs."""
    articles = max(16, limit // 8)
    while True:
        try:
            raw = sources.load(WIKIPEDIA, language, "train", first=articles)
        except MissingData as error:
            raise MissingData(
                f"{error} Or set {TEXT_VARIABLE} to a folder with {language}.txt, or to 'django' "
                "for the messages of an installed package."
            ) from error
        lines = [line for row in raw.rows for line in row["text"].splitlines()]
        lines = [line for line in lines if len(line) >= _MIN_CHARACTERS]
        if len(lines) >= limit or len(raw.rows) < articles:
            return raw.origin, iter(lines)
        articles *= 4
