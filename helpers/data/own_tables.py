"""Readers of single tables that a user owns: CSV, TSV, JSON, JSON lines, Parquet."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet

from helpers.errors import BadRows, unknown

Row = dict[str, Any]


def read(file: Path, first: int | None = None) -> list[Row]:
    """Read the rows of a table; its name says which form it has.

    In a ``.csv`` a value may stand in quotes; in a ``.tsv`` quotes are text like any other, because
    published sets are written so. Values of both are text: labels must be names.

    Args:
        file: a file whose name ends in one of ``READERS``.
        first: only this many rows from the beginning.

    Returns:
        Rows with the table's columns.

    Raises:
        UnknownName: another ending.
        BadRows: not text in UTF-8, not of the form that the name says, or no rows; the text gives
            the line.
    """
    if file.suffix not in READERS:
        raise unknown("kind of table", file.suffix or file.name, READERS)
    try:
        rows = list(islice(READERS[file.suffix](file), first))
    except UnicodeDecodeError as error:
        raise BadRows(f"{file}: not UTF-8 text ({error.reason} at byte {error.start})") from error
    if not rows:
        raise BadRows(f"{file} holds no rows")
    return rows


def json_lines(file: Path) -> Iterator[Row]:
    """Yield the objects of a file with one JSON object a line; blank lines are passed over."""
    with file.open(encoding="utf-8-sig") as stream:
        for number, line in enumerate(stream):
            if line.strip():
                yield _object(file, number, line)


def _object(file: Path, number: int, line: str) -> Row:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise BadRows(f"{file}: row {number} is no JSON ({error}): {line[:80]!r}") from error
    if not isinstance(row, dict):
        raise BadRows(f"{file}: row {number} is {line[:80]!r}; expected a JSON object")
    return row


def _json(file: Path) -> Iterator[Row]:
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise BadRows(f"{file} is no JSON ({error}); is it whole?") from error
    if not isinstance(content, list) or not all(isinstance(row, dict) for row in content):
        raise BadRows(f"{file}: expected a list of JSON objects, one a row, with equal keys")
    yield from content


def _separated(file: Path, options: dict[str, Any]) -> Iterator[Row]:
    # Passages may be longer than the 128 KiB that the module allows by default.
    csv.field_size_limit(2**31 - 1)
    with file.open(encoding="utf-8-sig", newline="") as stream:
        lines = csv.reader(stream, strict=True, **options)
        try:
            header = next(lines, [])
            for values in lines:
                if len(values) == len(header):
                    yield dict(zip(header, values, strict=True))
                elif values:
                    raise BadRows(
                        f"{file}, line {lines.line_num}: {len(values)} values, but the first line "
                        f"names {len(header)} columns ({', '.join(header[:8])}). A value that holds "
                        "a separator, a quote or a line break must stand in quotes, in a .csv."
                    )
        except csv.Error as error:
            raise BadRows(f"{file}, line {lines.line_num}: {error}") from error


def _csv(file: Path) -> Iterator[Row]:
    return _separated(file, {"delimiter": ","})


def _tsv(file: Path) -> Iterator[Row]:
    return _separated(file, {"delimiter": "\t", "quoting": csv.QUOTE_NONE})


def _parquet(file: Path) -> Iterator[Row]:
    try:
        with parquet.ParquetFile(file) as table:
            for batch in table.iter_batches():
                yield from batch.to_pylist()
    except pa.ArrowException as error:
        raise BadRows(f"{file} is damaged ({error})") from error


READERS: dict[str, Callable[[Path], Iterator[Row]]] = {
    ".csv": _csv,
    ".tsv": _tsv,
    ".jsonl": json_lines,
    ".json": _json,
    ".parquet": _parquet,
}
