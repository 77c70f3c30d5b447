"""Turn one raw row of any source into the standard rows of its task's format, with checks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from helpers.errors import BadRows, HelpfulError
from helpers.tasks import FIELDS, Row, Task

IGNORED = -100
# How far from its stated start an answer is searched for; published shifts are the few
# characters of stripped white space.
_SEARCH = 200
_OPTIONAL = {"second": "", "id": None}


@dataclass
class Outcome:
    """What one raw row became.

    Attributes:
        rows: standard rows, possibly none.
        dropped: reasons, one per row left out.
        notes: what was mended or met, one per case.
    """

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
        for adapted in self._adapt(raw, number, outcome):
            try:
                row = self._standard(adapted, number, outcome)
            except _Drop as reason:
                outcome.dropped.append(str(reason))
                continue
            if not self.side or row["side"] == self.side:
                outcome.rows.append(row)
        return outcome

    def _adapt(self, raw: Row, number: int, outcome: Outcome) -> Iterable[Row]:
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
                raise self.bad(number, f"adapt gave {row!r}", "a row, a list of rows or None")
            if row.get("_language", self.language) != self.language:
                continue
            if row.get("_split", self.split) != self.split:
                continue
            if "_dropped" in row:
                outcome.dropped.append(row["_dropped"])
                continue
            if "_note" in row:
                outcome.notes.append(row["_note"])
            yield row

    def _standard(self, row: Row, number: int, outcome: Outcome) -> Row:
        values = {name: self._value(row, name, number) for name in FIELDS[self.task.format]}
        values["id"] = str(values["id"] if values["id"] is not None else f"{self.prefix}{number}")
        made = getattr(self, f"_{self.task.format}")(values, number, outcome)
        return made | {"_answers": row["_answers"]} if "_answers" in row else made

    def _value(self, row: Row, name: str, number: int) -> Any:
        column = self.task.columns.get(name, name)
        if "," in column:
            return [self._column(row, part.strip(), name, number) for part in column.split(",")]
        return self._column(row, column, name, number)

    def _column(self, row: Row, column: str, name: str, number: int) -> Any:
        for option in column.split("|"):
            if option in row:
                return row[option]
        if name in row and self.task.adapt is not None:
            return row[name]
        if name in _OPTIONAL and name not in self.task.columns:
            return _OPTIONAL[name]
        raise self.bad(number, f"no column {column!r} (for {name!r})", _one_of(row))

    def _pair(self, row: Row, number: int, outcome: Outcome) -> Row:
        for name in ("first", "second"):
            row[name] = self._text(row[name], name, number)
        return row | {"label": self._label(row["label"], number, len(self.labels))}

    def _choice(self, row: Row, number: int, outcome: Outcome) -> Row:
        row["context"] = self._text(row["context"], "context", number)
        choices = self._texts(row["choices"], "choices", number)
        if len(choices) < 2:
            raise self.bad(number, f"{len(choices)} choices in 'choices'", "at least 2")
        return row | {
            "choices": choices,
            "label": self._label(row["label"], number, min(len(choices), len(self.labels))),
        }

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
        found: dict[str, list[Any]] = {"text": [], "start": []}
        for text, start in zip(texts, starts, strict=True):
            place = _find(row["context"], text, int(start))
            if place is None:
                raise _Drop("answer is blank" if not text.strip() else "answer not in context")
            if place != start:
                outcome.notes.append("answer offset shifted: found again nearby")
            found["text"].append(text)
            found["start"].append(place)
        return row | {"answers": found}

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
        gold = self._list(row["gold"], "gold", number)
        return row | {"text": text, "gold": [str(name) for name in gold]}

    def _text(self, value: Any, name: str, number: int) -> str:
        if not isinstance(value, str):
            raise self.bad(number, f"{name!r} is {value!r}", "text")
        return value

    def _texts(self, values: Any, name: str, number: int) -> list[str]:
        return [self._text(value, name, number) for value in self._list(values, name, number)]

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
            value = value.strip()
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
            if value in self.labels:
                return self.labels.index(value)
            if not self.task.labels:
                outcome.notes.append("tag not in the training rows: ignored")
                return IGNORED
            raise self.bad(
                number, f"tag {value!r} in column {column!r}", f"one of {', '.join(self.labels)}"
            )
        if not isinstance(value, int | np.integer) or (
            not -1 <= value < len(self.labels) and value != IGNORED
        ):
            raise self.bad(
                number, f"tag {value} in column {column!r}", f"0 to {len(self.labels) - 1}"
            )
        return int(value) if int(value) >= 0 else IGNORED

    def bad(self, number: int, found: str, expected: str) -> BadRows:
        """Build the error for a row that does not fit the facts of its task."""
        return BadRows(
            f"task {self.task.name!r}, language {self.language!r}, split {self.split!r}: "
            f"row {number} of {self.origin}: {found}; expected {expected}. "
            "Check the task's columns, labels and adapt, or the file."
        )


def _one_of(row: Row) -> str:
    return f"one of the columns {', '.join(sorted(name for name in row if name[0] != '_'))}"


def _find(context: str, text: str, start: int) -> int | None:
    """Return where an answer really starts: as stated, else the place nearest to it."""
    if not text.strip():
        return None
    if context.startswith(text, start) and start >= 0:
        return start
    low = max(0, start - _SEARCH)
    places = []
    place = context.find(text, low)
    while place != -1 and place <= start + _SEARCH:
        places.append(place)
        place = context.find(text, place + 1)
    if not places:
        place = context.find(text)
        return None if place == -1 else place
    return min(places, key=lambda p: abs(p - start))
