"""Readers of folders that a user owns: CCGbank, the Parallel Meaning Bank, translated rows."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from helpers.data import own_tables
from helpers.errors import BadRows, MissingData

Row = dict[str, Any]

# CCGbank's usual division by section of the Wall Street Journal.
SECTIONS = {"train": range(2, 22), "dev": range(0, 1), "test": range(23, 24)}
# The Parallel Meaning Bank's division: the last digit of the part's number.
PARTS = {"train": "23456789", "dev": "0", "test": "1"}
_LEAF = re.compile(r"\(<L (\S+) \S+ \S+ (\S+) \S+>\)")
_BRACKETS = {"-LRB-": "(", "-RRB-": ")", "-LCB-": "{", "-RCB-": "}", "-LSB-": "[", "-RSB-": "]"}


def ccgbank(root: Path, split: str) -> list[Row]:
    """Read tokens and categories from CCGbank's ``.auto`` files.

    Args:
        root: a folder that holds, at any depth, ``AUTO/<section>/wsj_*.auto``.
        split: ``"train"`` (sections 02-21), ``"dev"`` (00) or ``"test"`` (23).

    Returns:
        Rows ``{id, tokens, tags}``, one a sentence, in the order of the files.

    Raises:
        MissingData: no such files.
        BadRows: a derivation without words.
    """
    wanted = {f"{section:02d}" for section in SECTIONS[split]}
    files = sorted(f for f in root.rglob("*.auto") if f.parent.name in wanted)
    if not files:
        raise MissingData(
            f"no .auto files of sections {', '.join(sorted(wanted))} below {root}. CCGbank is sold "
            "by the LDC (LDC2005T13): set CCGBANK_ROOT to its data folder. Free alternatives: task "
            "'ccg-pmb' (Parallel Meaning Bank), or the stand-in 'xpos-ewt'."
        )
    return [row for file in files for row in _derivations(file)]


def _derivations(file: Path) -> Iterator[Row]:
    name = ""
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        if line.startswith("ID="):
            name = line.split()[0].removeprefix("ID=")
        elif line.strip():
            leaves = _LEAF.findall(line)
            if not leaves:
                raise BadRows(
                    f"{file}, line {number}: no leaf (<L category pos pos word category>) in "
                    f"{line[:60]!r}; is this a CCGbank .auto file?"
                )
            yield {
                "id": name or f"{file.stem}.{number}",
                "tokens": [_BRACKETS.get(word, word) for _, word in leaves],
                "tags": [category for category, _ in leaves],
            }


def pmb(root: Path, split: str) -> list[Row]:
    """Read tokens and categories from the gold documents of the Parallel Meaning Bank.

    Args:
        root: a release, unpacked: it holds ``data/en/gold/pXX/dYYYY/en.drs.xml``.
        split: ``"train"``, ``"dev"`` (parts that end in 0) or ``"test"`` (in 1).

    Raises:
        MissingData: no such files.
        BadRows: a file that is not XML, or has no tokens.
    """
    files = [
        file
        for file in sorted(root.glob("**/en/gold/p*/d*/en.drs.xml"))
        if file.parent.parent.name[-1] in PARTS[split]
    ]
    if not files:
        raise MissingData(
            f"no en/gold/pXX/dYYYY/en.drs.xml of split {split!r} below {root}. Download a release "
            "such as https://pmb.let.rug.nl/releases/pmb-4.0.0.zip, unpack it, and set PMB_ROOT "
            "to it."
        )
    return [_document(file) for file in files]


def _document(file: Path) -> Row:
    try:
        tree = ElementTree.parse(file)
    except ElementTree.ParseError as error:
        raise BadRows(f"{file} is not valid XML ({error}); unpack the release again") from error
    tokens, tags = [], []
    for tagged in tree.iter("tagtoken"):
        found = {tag.get("type", ""): (tag.text or "") for tag in tagged.iter("tag")}
        # The empty token stands for a pronoun that is not said.
        if found.get("tok", "ø") != "ø" and "cat" in found:
            tokens.append(found["tok"].replace("~", " "))
            tags.append(found["cat"])
    if not tokens:
        raise BadRows(f"{file} has no tokens with a category; unpack the release again")
    return {"id": f"{file.parent.parent.name}-{file.parent.name}", "tokens": tokens, "tags": tags}


def translations(root: Path, split: str) -> list[Row]:
    """Read machine-translated rows of one task, of every language in its folder.

    Args:
        root: a folder with ``<language>/<split>.jsonl``, one row a line, with the columns of the
            English set.
        split: ``"train"``.

    Raises:
        MissingData: no such files.
        BadRows: a line that is no JSON object.
    """
    files = sorted(root.glob(f"*/{split}.jsonl"))
    if not files:
        raise MissingData(
            f"no <language>/{split}.jsonl below {root}. Translate the English rows (same columns, "
            "one JSON object a line), put them there, and set TRANSFER_TRANSLATIONS to the folder "
            "above the task's. Only MNLI has published translations: task 'mnli-translated'."
        )
    return [row for file in files for row in own_tables.read(file)]


READERS = {"ccgbank": ccgbank, "pmb": pmb, "translations": translations}
