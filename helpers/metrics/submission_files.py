"""XTREME's file forms: what a file of labels, tags, pairs, answers or ranked ids looks like."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from helpers.errors import BadRows
from helpers.metrics.xtreme import OfficialTask

XNLI_LABELS = ("contradiction", "entailment", "neutral")


def read(path: Path, kind: str, strict: bool) -> Any:
    """Read a file of predictions or labels as the official script does.

    Args:
        path: the file.
        kind: kind of its task, see :class:`helpers.metrics.xtreme.OfficialTask`.
        strict: refuse a byte order mark and an id that comes twice.

    Returns:
        Labels, sentences of tags, or pairs, in a list; or the content of a JSON file.

    Raises:
        BadRows: not text in UTF-8, not the form of its kind, or one of what ``strict`` refuses.
    """
    try:
        with path.open(encoding="utf-8") as stream:
            text = stream.read()
    except UnicodeDecodeError as error:
        raise BadRows(f"{path}: not UTF-8 text ({error.reason} at byte {error.start}).") from error
    if not text.strip():
        if _READERS[kind] is _read_json:
            raise BadRows(f"{path} is empty: expected a JSON object.")
        return []
    if strict and text.startswith("\ufeff"):
        raise BadRows(f"{path}: starts with a byte order mark, so its first line never matches.")
    content = _READERS[kind](text, path)
    if strict and isinstance(content, _Json) and content.repeated:
        raise BadRows(f"{path}: id {content.repeated!r} comes twice; only the last would count.")
    return content


def questions(articles: Any, path: Path) -> list[tuple[str, list[str]]]:
    """Return question ids and accepted answers of labels in SQuAD's form, in order.

    Args:
        articles: content of the file.
        path: the file, for the message.

    Raises:
        BadRows: the content has another form.
    """
    try:
        return [
            (question["id"], [answer["text"] for answer in question["answers"]])
            for article in articles
            for paragraph in article["paragraphs"]
            for question in paragraph["qas"]
        ]
    except (KeyError, TypeError) as error:
        raise BadRows(
            f"{path}: expected labels in SQuAD's form (data, paragraphs, qas, answers): {error!r}."
        ) from error


def predictions_text(task: OfficialTask, values: Any) -> str:
    """Return the text of a file of predictions; raises BadRows for what it cannot hold."""
    return _WRITERS[task.kind](task, values)


def labels_text(task: OfficialTask, values: Any) -> str:
    """Return the text of a file of labels; raises BadRows for what it cannot hold."""
    return (_squad_json if task.kind == "answers" else _WRITERS[task.kind])(task, values)


class _Json(dict[str, Any]):
    """A JSON object that knows an id it was given twice."""

    repeated = ""


def _read_lines(text: str, path: Path) -> list[str]:
    return [line.strip() for line in _lines(text)]


def _read_tags(text: str, path: Path) -> list[list[str]]:
    """Return tags by sentence; every blank line ends one, also an empty one."""
    sentences: list[list[str]] = []
    sentence: list[str] = []
    for line in _read_lines(text, path):
        if line:
            sentence.append(line)
        else:
            sentences.append(sentence)
            sentence = []
    return [*sentences, sentence] if sentence else sentences


def _read_pairs(text: str, path: Path) -> list[tuple[str, ...]]:
    return [tuple(line.split("\t")) for line in _read_lines(text, path)]


def _read_choices(text: str, path: Path) -> list[Any]:
    labels = []
    for number, line in enumerate(_lines(text), start=1):
        row = _parsed(line, f"{path}, line {number}")
        if not isinstance(row, dict) or "label" not in row:
            raise BadRows(f"{path}, line {number}: expected an object with a 'label'.")
        labels.append(row["label"])
    return labels


def _read_json(text: str, path: Path) -> Any:
    content = _parsed(text, str(path))
    if not isinstance(content, dict):
        raise BadRows(f"{path}: expected a JSON object, got {type(content).__name__}.")
    return content.get("data", content)


def _lines(text: str) -> list[str]:
    """Return lines as reading a file does: only line feeds end them."""
    lines = text.split("\n")
    return lines[:-1] if not lines[-1] else lines


def _parsed(text: str, where: str) -> Any:
    def keep(pairs: list[tuple[str, Any]]) -> _Json:
        content = _Json(pairs)
        if len(content) < len(pairs):
            names = [name for name, _ in pairs]
            content.repeated = next(name for name in names if names.count(name) > 1)
        return content

    try:
        return json.loads(text, object_pairs_hook=keep)
    except (ValueError, RecursionError) as error:
        raise BadRows(f"{where}: not JSON ({error}). Is the file whole?") from error


def _label_lines(task: OfficialTask, values: Sequence[Any]) -> str:
    labels = [str(value) for value in values]
    if task.name == "xnli" and not set(labels) <= set(XNLI_LABELS):
        raise BadRows(f"labels are {', '.join(XNLI_LABELS)}, got {labels[0]!r}.")
    return _joined(labels)


def _tag_lines(task: OfficialTask, values: Sequence[Sequence[str]]) -> str:
    if not values:
        raise BadRows("nothing to write.")
    return "\n".join(_joined(sentence) if len(sentence) else "" for sentence in values) + "\n"


def _pair_lines(task: OfficialTask, values: Iterable[tuple[str, str]]) -> str:
    lines = [f"{_bare(one)}\t{_bare(other)}" for one, other in values]
    # No pair above the threshold is a result, and the official script scores it 0.
    return "".join(f"{line}\n" for line in lines)


def _choice_lines(task: OfficialTask, values: Sequence[int]) -> str:
    rows = [json.dumps({"label": int(value)}) for value in values]
    return _joined(rows)


def _json_text(task: OfficialTask, values: Mapping[str, Any]) -> str:
    if not values:
        raise BadRows("nothing to write.")
    return json.dumps(dict(values), ensure_ascii=False, indent=1) + "\n"


def _squad_json(task: OfficialTask, values: Mapping[str, Sequence[str]]) -> str:
    questions = [
        {"id": name, "question": "", "answers": [{"text": t, "answer_start": 0} for t in texts]}
        for name, texts in values.items()
    ]
    article = {"title": "", "paragraphs": [{"context": "", "qas": questions}]}
    content = {"version": "1.1", "data": [article] if questions else []}
    return _json_text(task, content)


def _joined(lines: Sequence[str]) -> str:
    if not lines:
        raise BadRows("nothing to write.")
    return "".join(f"{_bare(line)}\n" for line in lines)


def _bare(value: str) -> str:
    """Refuse what would not be read back as one value."""
    text = str(value)
    if not text or text != text.strip() or "\n" in text or "\t" in text:
        raise BadRows(f"{text!r} cannot be written: empty, or with white space around or in it.")
    return text


_WRITERS: dict[str, Callable[[OfficialTask, Any], str]] = {
    "labels": _label_lines,
    "tags": _tag_lines,
    "pairs": _pair_lines,
    "answers": _json_text,
    "choices": _choice_lines,
    "entities": _json_text,
    "candidates": _json_text,
}

_READERS: dict[str, Callable[[str, Path], Any]] = {
    "labels": _read_lines,
    "tags": _read_tags,
    "pairs": _read_pairs,
    "answers": _read_json,
    "choices": _read_choices,
    "entities": _read_json,
    "candidates": _read_json,
}
