"""Turn one raw row of any source into the standard rows of its task's format, with checks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from helpers.errors import BadRows, HelpfulError
from helpers.tasks import FIELDS, Row, Task

IGNORED = -100
BLANK = "blank text kept in "
# How far from its stated start an answer is searched for; published shifts are the few
# characters of stripped white space.
_SEARCH = 200
_OPTIONAL = {"second": "", "id": None}
# Fields that should not be blank; a choice may lack a context.
_TEXTS: Mapping[str, tuple[str, ...]] = {
    "pair": ("first", "second"),
    "choice": (),
    "tagging": (),
    "span": ("context", "question"),
    "retrieval": ("text",),
}


@dataclass
class Outcome:
    """What one raw row became: standard rows, reasons of rows left out, notes of what was mended."""

    rows: list[Row] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class _Drop(Exception):
    """The row has no usable label or answer; its text is the reason."""


@dataclass(frozen=True)
class Standard:
    """Standardises the rows of one task, language and split.

    Attributes:
        task: the task.
        language: language asked for.
        split: our split.
        origin: where the rows come from, for error messages.
        class_names: label names the source itself states, by column.
        labels: label names in the order of their ids.
        side: keep only rows of this side of a retrieval task.
        prefix: put before row numbers where the source has no ids.
    """

    task: Task
    language: str
    split: str
    origin: str
    class_names: Mapping[str, Sequence[str]]
    labels: tuple[str, ...]
    side: str = ""
    prefix: str = ""

    def __call__(self, raw: Row, number: int) -> Outcome:
        """Standardise the raw row at a position of its source."""
        outcome = Outcome()
        make = getattr(self, f"_{self.task.format}")
        for row in self._adapt(raw, number, outcome):
            try:
                values = {name: self._value(row, name, number) for name in FIELDS[self.task.format]}
                name = f"{self.prefix}{number}" if values["id"] is None else str(values["id"])
                made = make(values | {"id": self._text(name, "id", number)}, number, outcome)
            except _Drop as reason:
                outcome.dropped.append(str(reason))
                continue
            if not self.side or made["side"] == self.side:
                # Which questions a candidate answers is resolved when all rows are read.
                kept = {"_answers": row["_answers"]} if "_answers" in row else {}
                outcome.rows.append(made | kept)
                for name in _TEXTS[self.task.format]:
                    if (not made[name] or made[name].isspace()) and "_note" not in row:
                        outcome.notes.append(f"{BLANK}{name!r}")
        return outcome

    def _adapt(self, raw: Row, number: int, outcome: Outcome) -> Iterable[Row]:
        """Give the rows that the task's ``adapt`` makes of a raw row; count what it leaves out."""
        adapted: Any = raw
        if self.task.adapt is not None:
            try:
                adapted = self.task.adapt(raw | {"_number": number}, self.language)
            except HelpfulError:
                raise
            except (KeyError, TypeError, IndexError, AttributeError, ValueError) as error:
                raise self.bad(number, f"adapt failed with {error!r}", _one_of(raw)) from error
        if adapted is None:
            outcome.dropped.append("left out by the task's adapt")
            return
        for row in adapted if isinstance(adapted, list) else [adapted]:
            if not isinstance(row, dict):
                found = f"{'adapt gave ' if self.task.adapt else ''}{row!r}"
                raise self.bad(number, found, "a row, a list of rows or None")
            # Mixed sets hold rows of other languages and splits: they are no losses.
            other = row.get("_language", self.language) != self.language
            if other or row.get("_split", self.split) != self.split:
                continue
            if "_dropped" in row:
                outcome.dropped.append(row["_dropped"])
                continue
            if "_note" in row:
                outcome.notes.append(row["_note"])
            yield row

    def _value(self, row: Row, name: str, number: int) -> Any:
        column = self.task.columns.get(name, name)
        if "," in column:
            return [self._column(row, part.strip(), name, number) for part in column.split(",")]
        return self._column(row, column, name, number)

    def _column(self, row: Row, column: str, name: str, number: int) -> Any:
        optional = name in _OPTIONAL and name not in self.task.columns
        for option in column.split("|"):
            # A table gives a row without the value a null, a dictionary may just lack it.
            if option in row and not (optional and row[option] is None):
                return row[option]
        if name in row and self.task.adapt is not None:
            return row[name]
        if optional:
            return _OPTIONAL[name]
        if name == "gold" and row.get("side") == "candidate":
            return []
        hint = ""
        if self.origin.lower().endswith((".csv", ".tsv")):
            hint = ". The first line of the file must name its columns"
            if self.task.format == "tagging":
                hint = (
                    ". A file with one word a line and blank lines between sentences (CoNLL) is read "
                    "by a function of yours: Source('rows', name, read=function(language, split))"
                )
        raise self.bad(number, f"no column {column!r} (for {name!r})", _one_of(row) + hint)

    def _pair(self, row: Row, number: int, outcome: Outcome) -> Row:
        for name in ("first", "second"):
            row[name] = self._text(row[name], name, number)
        return row | {"label": self._label(row["label"], number, len(self.labels))}

    def _choice(self, row: Row, number: int, outcome: Outcome) -> Row:
        row["context"] = self._text(row["context"], "context", number)
        choices = self._texts(row["choices"], "choices", number)
        if len(choices) < 2:
            raise self.bad(number, f"{len(choices)} choices in 'choices'", "at least 2")
        label = self._label(row["label"], number, min(len(choices), len(self.labels)))
        return row | {"choices": choices, "label": label}

    def _tagging(self, row: Row, number: int, outcome: Outcome) -> Row:
        tokens = self._texts(row["tokens"], "tokens", number)
        if not tokens:
            raise _Drop("no tokens")
        tags = self._list(row["tags"], "tags", number)
        if len(tokens) != len(tags):
            raise self.bad(number, f"{len(tokens)} tokens but {len(tags)} tags", "as many")
        tags = [self._tag(tag, number, outcome) for tag in tags]
        return row | {"tokens": tokens, "tags": tags}

    def _span(self, row: Row, number: int, outcome: Outcome) -> Row:
        for name in ("context", "question"):
            row[name] = self._text(row[name], name, number)
        texts, starts = self._answers(row["answers"], number)
        # Only SQuAD 2.0 asks questions without an answer; elsewhere the answer is missing.
        if not texts and self.task.metric != "squad2":
            raise _Drop("no answer")
        found, lost = [], []
        for text, start in zip(texts, starts, strict=True):
            place, note = find(row["context"], text, int(start))
            if place is not None:
                found.append((text, place))
                outcome.notes += [note] if note else []
            elif text.strip():
                lost.append((text, -1))
        if texts and not found:
            raise _Drop("answer not in context" if lost else "answer is blank")
        # The official scripts compare texts only and take the best of all answers, in the passage
        # or not: an answer without a place stays, behind those that training can point to.
        if lost:
            outcome.notes.append("answer not in context: kept for scoring beside one that is")
        answers = found + lost
        return row | {
            "answers": {"text": [t for t, _ in answers], "start": [s for _, s in answers]}
        }

    def _answers(self, given: Any, number: int) -> tuple[list[str], list[Any]]:
        """Return texts and starts of answers, in the hub's form or as SQuAD's own files have them."""
        if isinstance(given, list) and all(isinstance(answer, Mapping) for answer in given):
            names = ("text", "answer_start")
            given = {name: [answer.get(name) for answer in given] for name in names}
        if not isinstance(given, Mapping) or "text" not in given:
            raise self.bad(number, f"answers {given!r}", "{'text': [...], 'answer_start': [...]}")
        texts = self._texts(given["text"], "answers", number)
        starts = self._list(given.get("answer_start", given.get("start")), "answers", number)
        if len(starts) != len(texts) or not all(isinstance(s, int | np.integer) for s in starts):
            raise self.bad(number, f"answers {given!r}", "a start, in characters, for each text")
        return texts, starts

    def _retrieval(self, row: Row, number: int, outcome: Outcome) -> Row:
        if row["side"] not in ("query", "candidate"):
            raise self.bad(number, f"side {row['side']!r}", "'query' or 'candidate'")
        text = self._text(row["text"], "text", number)
        gold = row["gold"]
        if gold is None and row["side"] == "candidate":
            gold = []
        gold = [self._text(str(name), "gold", number) for name in self._list(gold, "gold", number)]
        return row | {"text": text, "gold": gold}

    def _text(self, value: Any, name: str, number: int) -> str:
        if not isinstance(value, str):
            raise self.bad(number, f"{name!r} is {value!r}", "text")
        if not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError as error:
                around = value[max(0, error.start - 20) : error.start + 20]
                raise self.bad(
                    number,
                    f"{name!r} holds half of a character (a lone surrogate) in {around!r}",
                    "whole characters, which UTF-8 can write; the text was cut inside one",
                ) from error
        return value

    def _texts(self, values: Any, name: str, number: int) -> list[str]:
        found = self._list(values, name, number)
        try:
            # Most lists are sound: they are looked at together, and one by one only where not.
            "".join(found).encode()
        except (TypeError, UnicodeEncodeError):
            return [self._text(value, name, number) for value in found]
        return found

    def _list(self, values: Any, name: str, number: int) -> list[Any]:
        """Refuse text where a list belongs: its characters would be taken for the elements."""
        if not isinstance(values, list | tuple | np.ndarray):
            raise self.bad(number, f"{name!r} is {values!r}", "a list; let adapt split text")
        return list(values)

    def _label(self, value: Any, number: int, size: int) -> int:
        column = self.task.columns.get("label", "label")
        value = self._named(value, column)
        if value is None or (isinstance(value, str) and not value.strip()):
            raise _Drop("no label")
        if isinstance(value, str):
            value = self._text(value.strip(), column, number)
            if value not in self.labels[:size]:
                expected = f"one of {', '.join(self.labels[:size])}"
                raise self.bad(number, f"label {value!r} in column {column!r}", expected)
            return self.labels.index(value)
        if not isinstance(value, int | np.integer):
            raise self.bad(number, f"label {value!r} in column {column!r}", "a class id or name")
        if value < 0:
            raise _Drop(f"label {int(value)}")
        if value >= size:
            raise self.bad(number, f"label {int(value)} in column {column!r}", f"0 to {size - 1}")
        return int(value)

    def _named(self, value: Any, column: str) -> Any:
        """Give a class id the name that the source states, so that order cannot matter."""
        names = self.class_names.get(column, ())
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < len(names):
            return value
        # Names such as "0" and "1" carry no meaning beyond the id itself.
        return value if all(name.isdigit() for name in names) else names[value]

    def _tag(self, value: Any, number: int, outcome: Outcome) -> int:
        column = self.task.columns.get("tags", "tags")
        for option in column.split("|"):
            value = self._named(value, option)
        if isinstance(value, str):
            if self._text(value, column, number) in self.labels:
                return self.labels.index(value)
            if not self.task.labels:
                outcome.notes.append("tag not in the training rows: ignored")
                return IGNORED
            expected = f"one of {', '.join(self.labels)}"
            raise self.bad(number, f"tag {value!r} in column {column!r}", expected)
        if not isinstance(value, int | np.integer) or not (
            -1 <= value < len(self.labels) or value == IGNORED
        ):
            expected = f"0 to {len(self.labels) - 1}"
            raise self.bad(number, f"tag {value} in column {column!r}", expected)
        return int(value) if value >= 0 else IGNORED

    def bad(self, number: int, found: str, expected: str) -> BadRows:
        """Build the error for a row that does not fit the facts of its task."""
        return BadRows(
            f"task {self.task.name!r}, language {self.language!r}, split {self.split!r}: "
            f"row {number} of {self.origin}: {found}; expected {expected}. "
            "Check the task's columns, labels and adapt, or the file."
        )


def _one_of(row: Any) -> str:
    names = sorted(str(name) for name in row if str(name)[:1] != "_")
    return f"one of the columns {', '.join(names)}"


def find(context: str, text: str, start: int) -> tuple[int | None, str]:
    """Return where an answer really starts, and a note where that is not the stated place.

    Starts are meant in characters, but some tools count bytes (TyDi QA's own files) or UTF-16 units
    (JavaScript): where the answer stands exactly there, it is taken; else the place nearest to the
    stated one.
    """
    if not text.strip():
        return None, ""
    if start >= 0 and context.startswith(text, start):
        return start, ""
    if start >= 0 and not context.isascii():
        for code, size, unit in (("utf-8", 1, "bytes"), ("utf-16-le", 2, "UTF-16 units")):
            before = context.encode(code)[: size * start]
            place = len(before.decode(code, "ignore"))
            if context.startswith(text, place) and context[:place].encode(code) == before:
                return place, f"answer offset counts {unit}: taken in characters"
    note = "answer offset shifted: found again nearby"
    low, places = max(0, start - _SEARCH), []
    place = context.find(text, low)
    while place != -1 and place <= start + _SEARCH:
        places.append(place)
        place = context.find(text, place + 1)
    if places:
        return min(places, key=lambda p: abs(p - start)), note
    place = context.find(text)
    return (None, "") if place == -1 else (place, note)
