"""Turn raw rows of any source into the standard rows of their task's format, with checks."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from helpers.errors import BadRows, HelpfulError
from helpers.tasks import FIELDS, Row, Task

Count = Counter[str]
IGNORED = -100
BLANK = "blank text kept in "
_OPTIONAL = {"second": "", "id": None}
# Texts that should not be blank; a choice may lack a context.
_FULL = {"pair": ("first", "second"), "span": ("context", "question"), "retrieval": ("text",)}
_PLAIN = {"id", *(name for names in _FULL.values() for name in names)}


class _Drop(Exception):
    """The row has no usable label or answer; its text is the reason."""


class _Misfit(Exception):
    """A value does not fit the facts of the task: what was found, and what was expected."""


def decoded(rows: Any) -> Iterator[Row]:
    """Iterate over a list, or over a memory-mapped set in batches."""
    if isinstance(rows, list):
        yield from rows
    else:
        for batch in rows.with_format("arrow").iter(10_000):
            yield from batch.to_pylist()


@dataclass
class Standard:
    """Standardises the raw rows of one source of a task, in a language and split."""

    task: Task
    labels: tuple[str, ...]
    raw: Any  # ``sources.Raw``
    language: str
    split: str
    side: str  # of a retrieval task; empty: both
    prefix: str  # of row numbers, where the source has no ids

    @cached_property
    def columns(self) -> dict[str, list[list[str]]]:
        """Return by field the columns that it is made of, each by the names that it may have."""
        stated = {name: self.task.columns.get(name, name) for name in FIELDS[self.task.format]}
        return {n: [one.strip().split("|") for one in t.split(",")] for n, t in stated.items()}

    def rows(self, dropped: Count, notes: Count) -> Iterator[Row]:
        """Give the rows that raw ones become; count reasons of those left out, and what was met."""
        for number, raw in enumerate(decoded(self.raw.rows)):
            try:
                for row in self._adapted(raw, number):
                    try:
                        if "_dropped" in row:
                            raise _Drop(row["_dropped"])
                        notes.update([row["_note"]] if "_note" in row else ())
                        made = self._made(row, number, notes)
                    except _Drop as reason:
                        dropped[str(reason)] += 1
                        continue
                    if self.side in ("", made.get("side")):
                        for name in _FULL.get(self.task.format, ()):
                            if (not made[name] or made[name].isspace()) and "_note" not in row:
                                notes[f"{BLANK}{name!r}"] += 1
                        # Which questions a candidate answers is resolved when all rows are read.
                        yield made | ({"_answers": row["_answers"]} if "_answers" in row else {})
            except _Misfit as misfit:
                found, expected = misfit.args
                raise BadRows(
                    f"task {self.task.name!r}, language {self.language!r}, split {self.split!r}: "
                    f"row {number} of {self.raw.origin}: {found}; expected {expected}. "
                    "Check the task's columns, labels and adapt, or the file."
                ) from misfit

    def _adapted(self, raw: Row, number: int) -> Iterator[Row]:
        """Give the rows that the task's ``adapt`` makes of a raw row."""
        adapted: Any = raw
        if self.task.adapt is not None:
            try:
                adapted = self.task.adapt(raw | {"_number": number}, self.language)
            except HelpfulError:
                raise
            except (KeyError, TypeError, IndexError, AttributeError, ValueError) as error:
                raise _Misfit(f"adapt failed with {error!r}", _one_of(raw)) from error
        if adapted is None:
            adapted = {"_dropped": "left out by the task's adapt"}
        for row in adapted if isinstance(adapted, list) else [adapted]:
            if not isinstance(row, dict):
                found = f"{'adapt gave ' if self.task.adapt else ''}{row!r}"
                raise _Misfit(found, "a row, a list of rows or None")
            # Mixed sets hold rows of other languages and splits: they are no losses.
            other = row.get("_language", self.language) != self.language
            if not other and row.get("_split", self.split) == self.split:
                yield row

    def _made(self, row: Row, number: int, notes: Count) -> Row:
        made: Row = {}
        for name, parts in self.columns.items():
            values = [self._column(row, options, name) for options in parts]
            value = values[0] if len(values) == 1 else values
            if name == "id":
                value = f"{self.prefix}{number}" if value is None else str(value)
            made[name] = self._checked(name, value, made, notes)
        return made

    def _column(self, row: Row, options: list[str], name: str) -> Any:
        optional = name in _OPTIONAL and name not in self.task.columns
        for option in options:
            # A table gives a row without the value a null, a dictionary may just lack it.
            if option in row and not (optional and row[option] is None):
                return row[option]
        if name in row and self.task.adapt is not None:
            return row[name]
        if optional:
            return _OPTIONAL[name]
        if name == "gold" and row.get("side") == "candidate":
            return []
        expected = _one_of(row)
        if self.raw.origin.lower().endswith((".csv", ".tsv")):
            expected += ". The first line of the file must name its columns; a word a line (CoNLL)"
            expected += " is read by Source('rows', name, read=function(language, split))"
        raise _Misfit(f"no column {'|'.join(options)!r} (for {name!r})", expected)

    def _checked(self, name: str, value: Any, made: Row, notes: Count) -> Any:
        """Return the value of a field, given those of the fields before it."""
        if name in _PLAIN:
            return _text(value, name)
        # What carries the answer.
        if name == "label":
            return self._class(value, name, len(made.get("choices", self.labels)), notes)
        if name == "answers":
            return self._answers(value, made["context"], notes)
        if name == "side" and value not in ("query", "candidate"):
            raise _Misfit(f"side {value!r}", "'query' or 'candidate'")
        if name == "side":
            return value
        if name == "gold":
            given = [] if value is None and made["side"] == "candidate" else value
            return [_text(str(one), name) for one in _list(given, name)]
        if name == "tags":
            tags, tokens = _list(value, name), made["tokens"]
            if len(tags) != len(tokens):
                raise _Misfit(f"{len(tokens)} tokens but {len(tags)} tags", "as many")
            return [self._class(tag, name, len(self.labels), notes) for tag in tags]
        # Lists of texts: choices and tokens.
        texts = _texts(value, name)
        if name == "choices" and len(texts) < 2:
            raise _Misfit(f"{len(texts)} choices in 'choices'", "at least 2")
        if not texts:
            raise _Drop("no tokens")
        return texts

    def _class(self, value: Any, name: str, size: int, notes: Count) -> int:
        """Return the id of a label or of a tag, among the first ``size`` labels."""
        labels, alone, expected = self.labels[:size], name == "label", "a class id or name"
        # An id has the name that the source states, so that order cannot matter; names such as "0"
        # and "1" carry no meaning beyond the id itself.
        for option in self.columns[name][0]:
            names = self.raw.class_names.get(option, ())
            if type(value) is int and 0 <= value < len(names) and not all(map(str.isdigit, names)):
                value = names[value]
        if alone and (value is None or (isinstance(value, str) and not value.strip())):
            raise _Drop("no label")
        # By its name, or else by its number.
        if isinstance(value, str):
            value = _text(value.strip() if alone else value, name)
            if value in labels:
                return labels.index(value)
            if not alone and not self.task.labels:
                notes["tag not in the training rows: ignored"] += 1
                return IGNORED
            expected = f"one of {', '.join(labels)}"
        elif isinstance(value, int | np.integer):
            if 0 <= value < len(labels):
                return int(value)
            if alone and value < 0:
                raise _Drop(f"label {value}")
            if value in (-1, IGNORED):
                return IGNORED
            expected = f"0 to {len(labels) - 1}"
        column = "|".join(self.columns[name][0])
        raise _Misfit(f"{name.removesuffix('s')} {value!r} in column {column!r}", expected)

    def _answers(self, given: Any, context: str, notes: Count) -> Row:
        """Return answers with the places where they are, those without one last."""
        if isinstance(given, list) and all(isinstance(answer, Mapping) for answer in given):
            # SQuAD's own files have a list of answers, the hub's copies an answer of lists.
            names = ("text", "answer_start")
            given = {name: [answer.get(name) for answer in given] for name in names}
        if not isinstance(given, Mapping) or "text" not in given:
            raise _Misfit(f"answers {given!r}", "{'text': [...], 'answer_start': [...]}")
        texts = _texts(given["text"], "answers")
        starts = _list(given.get("answer_start", given.get("start")), "answers")
        if len(starts) != len(texts) or not all(isinstance(s, int | np.integer) for s in starts):
            raise _Misfit(f"answers {given!r}", "a start, in characters, for each text")
        # Only SQuAD 2.0 asks questions without an answer; elsewhere the answer is missing.
        if not texts and self.task.metric != "squad2":
            raise _Drop("no answer")
        found, lost = [], []
        for text, start in zip(texts, starts, strict=True):
            place, note = find(context, text, int(start))
            notes.update([note] if note else ())
            if place is not None:
                found.append((text, place))
            elif text.strip():
                lost.append((text, -1))
        if texts and not found:
            raise _Drop("answer not in context" if lost else "answer is blank")
        # The official scripts compare texts only and take the best of all answers, in the passage
        # or not: an answer without a place stays, behind those that training can point to.
        if lost:
            notes["answer not in context: kept for scoring beside one that is"] += 1
        answers = found + lost
        return {"text": [text for text, _ in answers], "start": [start for _, start in answers]}


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise _Misfit(f"{name!r} is {value!r}", "text")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            around = value[max(0, error.start - 20) : error.start + 20]
            found = f"{name!r} holds half of a character (a lone surrogate) in {around!r}"
            raise _Misfit(found, "whole characters; the text was cut inside one") from error
    return value


def _texts(values: Any, name: str) -> list[str]:
    found = _list(values, name)
    try:
        # Most lists are sound: they are looked at together, and one by one only where not.
        "".join(found).encode()
    except (TypeError, UnicodeEncodeError):
        return [_text(value, name) for value in found]
    return found


def _list(values: Any, name: str) -> list[Any]:
    """Refuse text where a list belongs: its characters would be taken for the elements."""
    if not isinstance(values, list | tuple | np.ndarray):
        raise _Misfit(f"{name!r} is {values!r}", "a list; let adapt split text")
    return list(values)


def _one_of(row: Any) -> str:
    names = sorted(str(name) for name in row if str(name)[:1] != "_")
    return f"one of the columns {', '.join(names)}"


def find(context: str, text: str, start: int) -> tuple[int | None, str]:
    """Return where an answer really starts, and a note where that is not the stated place."""
    if not text.strip():
        return None, ""
    if start >= 0 and context.startswith(text, start):
        return start, ""
    # Some tools count bytes (TyDi QA's own files) or UTF-16 units (JavaScript), not characters.
    if start >= 0 and not context.isascii():
        for code, size, unit in (("utf-8", 1, "bytes"), ("utf-16-le", 2, "UTF-16 units")):
            before = context.encode(code)[: size * start]
            place = len(before.decode(code, "ignore"))
            if context.startswith(text, place) and context[:place].encode(code) == before:
                return place, f"answer offset counts {unit}: taken in characters"
    begin = max(0, start)
    both = (context.rfind(text, 0, begin + len(text)), context.find(text, begin))
    near = [place for place in both if place >= 0]
    if not near:
        return None, ""
    return min(near, key=lambda p: abs(p - start)), "answer offset shifted: found again nearby"
