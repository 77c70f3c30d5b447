"""A card per task: what it asks, an example, its size, its licence, its traps. From facts alone."""

from __future__ import annotations

import functools
import html
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from helpers import data, tasks
from helpers.book import Page
from helpers.tasks import Row, Task

_ROWS = ("train", "dev", "test", "candidates")
_EXAMPLES = 3
_EXAMPLE_LENGTH = 220


def groups() -> dict[str, list[str]]:
    """Return the tasks of the book by where they belong; generated test tasks are left out."""
    found = {g: tasks.names(group=g) for g in ("demo", "paper", "xtreme", "xtreme-r", "extra")}
    found["xtreme-r"] = [name for name in found["xtreme-r"] if name not in found["xtreme"]]
    return found


def summary(names: Iterable[str]) -> pd.DataFrame:
    """Return one row of facts per task.

    Args:
        names: names of tasks.

    Returns:
        Columns task, role, format, languages (how many), metric, chance (percent), rows and licence.
    """
    return pd.DataFrame(
        {
            "task": task.name,
            "role": task.role,
            "format": task.format,
            "languages": len(task.languages),
            "metric": task.metric,
            "chance": f"{100 * task.chance:.0f} %" if task.chance else "",
            "rows": size(task),
            "licence": "; ".join(dict.fromkeys(s.licence for s in task.source.flat() if s.licence)),
        }
        for task in map(tasks.get, names)
    )


def size(task: Task) -> str:
    """Return the rows of a task by split, such as ``"dev 2,490; test 5,010"``.

    Published counts are added up over the sources of an English task; those of a task in many
    languages are per language, as a range where they differ. Where none is stated and the rows are
    in an installed package, they are counted.
    """
    found: dict[str, dict[tuple[str, str], int]] = defaultdict(dict)
    for leaf in task.source.flat():
        for key, count in leaf.counts.items():
            language, _, split = key.rpartition("/")
            served = not language or not leaf.languages or language in leaf.languages
            if split in leaf.splits and served and count > 1:
                name = "candidates" if leaf.side == "candidate" else split
                found[name][f"{leaf.id} {leaf.config} {leaf.splits[split]}", language] = count
    stated = {split: _range(task, counts) for split, counts in found.items()}
    if not stated and all(leaf.kind == "package" for leaf in task.source.flat()):
        stated = _counted(task.name)
    return "; ".join(f"{split} {stated[split]}" for split in _ROWS if split in stated)


def _range(task: Task, counts: Mapping[tuple[str, str], int]) -> str:
    if len(task.languages) == 1:
        return f"{sum(counts.values()):,}"
    low, high = min(counts.values()), max(counts.values())
    if len(counts) == 1:
        ((_, language),) = counts
        return f"{low:,} ({language})" if language else f"{low:,}"
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


@functools.cache
def _counted(name: str) -> dict[str, str]:
    """Count the rows at hand of a task's first language; of a retrieval task, its queries."""
    task = tasks.get(name)
    where = f" ({task.languages[0]})" if len(task.languages) > 1 else ""
    counts = {}
    for language, split in data.at_hand(task):
        if language == task.languages[0]:
            rows = data.rows(task, language, split)
            count = len(rows.side("query") if task.format == "retrieval" else rows)
            counts[split] = f"{count:,}{where}"
    return counts


def relations(intermediates: Iterable[str], targets: Iterable[str]) -> pd.DataFrame:
    """Return what the two tasks of every dyad have in common beforehand.

    Args:
        intermediates: names of intermediate tasks.
        targets: names of target tasks.

    Returns:
        One row per dyad: intermediate, target, their formats, the flags of
        ``helpers.tasks.relation``, and ``shares``, the strongest of them in a word:
        ``"rows"`` (an identity pair), ``"source"``, ``"format"`` or ``"nothing"``.
    """
    words = {"identity_pair": "rows", "same_source": "source", "same_format": "format"}
    dyads, then = [], list(targets)
    for first, second in ((first, second) for first in intermediates for second in then):
        flags = tasks.relation(first, second)
        formats = {
            "intermediate_format": tasks.get(first).format,
            "target_format": tasks.get(second).format,
        }
        shares = next((word for flag, word in words.items() if flags[flag]), "nothing")
        pair = {"intermediate": first, "target": second}
        dyads.append({**pair, **formats, **flags, "shares": shares})
    return pd.DataFrame(dyads)


def card(name: str, languages: Sequence[str] = ("en", "de", "sw")) -> Page:
    """Return a task's card, closed until a reader opens it.

    Args:
        name: name of the task.
        languages: languages whose first rows are preferred as examples.
    """
    task = tasks.get(name)
    trainer = tasks.get(task.train_with) if task.train_with else task
    trained = any("train" in source.splits for source in trainer.source.flat())
    guessing = f"; guessing scores {100 * task.chance:.0f} %" if task.chance else ""
    leaves = task.source.flat()
    pinned = (f"{s.id} at {s.revision[:8]}" if s.revision else s.id for s in leaves)
    lines = {
        "text": task.about.genre,
        "languages": ", ".join(task.languages),
        "score": f"{task.metric}{guessing}",
        "trained on": f"English rows of {trainer.name}" if trained else "nothing",
        "rows": size(task) or "not stated",
        "source": "; ".join(dict.fromkeys(pinned)),
        "licence": "; ".join(dict.fromkeys(s.licence or "not stated" for s in leaves)),
    }
    body = "".join(f"<dt>{key}</dt><dd>{_safe(text)}</dd>" for key, text in lines.items())
    body += _examples(task, languages)
    if task.about.traps:
        traps = "".join(f"<li>{_safe(trap)}</li>" for trap in task.about.traps)
        body += f"<dt>traps</dt><dd><ul>{traps}</ul></dd>"
    many = f"{len(task.languages)} language{'s' * (len(task.languages) != 1)}"
    head = f"<b>{_safe(name)}</b> <span>{task.role}, {task.format}, {many}</span>"
    head = f"<summary>{head}<br>{_safe(task.about.question)}</summary>"
    return Page(f'<details class="task">{head}<dl>{body}</dl></details>')


def cards(names: Iterable[str], languages: Sequence[str] = ("en", "de", "sw")) -> Page:
    """Return the cards of several tasks, one below the other."""
    return Page("".join(card(name, languages).source for name in names))


def examples(task: Task, languages: Sequence[str]) -> dict[str, Row]:
    """Return a first row per language where rows are at hand, at most three, preferred ones first."""
    splits = dict(data.at_hand(task))
    order = [code for code in dict.fromkeys((*languages, *splits)) if code in splits]
    found = {code: data.first_rows(task, code, splits[code]) for code in order[:_EXAMPLES]}
    # Bitext also has English rows, told by their ids: the language itself is preferred.
    return {
        code: next((row for row in rows if row["id"].startswith(f"{code}-")), rows[0])
        for code, rows in found.items()
    }


def _examples(task: Task, languages: Sequence[str]) -> str:
    shown: Mapping[str, Row] = examples(task, languages)
    origin = "first rows of the data at hand"
    if not shown:
        shown, origin = task.about.examples, "written for this book, not from the data"
    rows = "".join(
        f'<div class="example" lang="{_safe(code)}" dir="auto"><b>{_safe(code)}</b> '
        f"{_row(task, row)}</div>"
        for code, row in shown.items()
    )
    return f"<dt>example</dt><dd>{rows}<small>{origin}</small></dd>" if shown else ""


def _row(task: Task, row: Mapping[str, Any]) -> str:
    """Return one row as a line of HTML."""
    if "tokens" in row:
        pairs = list(zip(row["tokens"], row["tags"], strict=True))[:30]
        return " ".join(f"{_safe(word)}<sub>{_name(task, tag)}</sub>" for word, tag in pairs)
    if "choices" in row:
        options = [
            f"<b>{_cut(text)}</b>" if place == int(row["label"]) else _cut(text)
            for place, text in enumerate(row["choices"])
        ]
        return f"{_cut(row['context'])} [{' | '.join(options)}]"
    if "question" in row:
        answer = row["answers"]["text"][0] if row["answers"]["text"] else "(no answer)"
        return f"{_cut(row['context'])} <i>{_cut(row['question'])}</i> <b>{_cut(answer)}</b>"
    if "side" in row:
        return f"({_safe(row['side'])}) {_cut(row['text'])}"
    second = f" / {_cut(row['second'])}" if row["second"] else ""
    return f"{_cut(row['first'])}{second} <b>{_name(task, row['label'])}</b>"


def _name(task: Task, label: Any) -> str:
    """Return the name of a label, which an example may state; an ignored tag has none."""
    known = label if isinstance(label, str) else data.with_labels(task).labels[int(label)]
    return _safe(known if isinstance(label, str) or label >= 0 else "")


def _cut(text: str) -> str:
    return _safe(text if len(text) <= _EXAMPLE_LENGTH else f"{text[:_EXAMPLE_LENGTH]}…")


def _safe(text: Any) -> str:
    return html.escape(str(text))
