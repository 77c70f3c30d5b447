"""A card per task: what it asks, an example, its size, its licence, its traps. From facts alone."""

from __future__ import annotations

import functools
import html
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from helpers import data, examples, tasks
from helpers.book import Page
from helpers.tasks import Task

_ROWS = ("train", "dev", "test", "candidates")
_EXAMPLE_LENGTH = 220


def groups() -> dict[str, list[str]]:
    """Return the tasks of the book by where they belong; generated test tasks are left out."""
    found: dict[str, list[str]] = {
        "demo": [],
        "paper": [],
        "xtreme": [],
        "xtreme-r": [],
        "extra": [],
    }
    for name in tasks.names():
        for group in tasks.get(name).group.split(","):
            if group in found:
                found[group].append(name)
    found["xtreme-r"] = [name for name in found["xtreme-r"] if name not in found["xtreme"]]
    return found


def summary(names: Iterable[str]) -> pd.DataFrame:
    """Return one row of facts per task.

    Args:
        names: names of tasks.

    Returns:
        Columns task, role, format, languages (how many), metric, chance (percent), rows and licence.
    """
    return pd.DataFrame([_summary(tasks.get(name)) for name in names])


def _summary(task: Task) -> dict[str, Any]:
    leaves = task.source.flat()
    return {
        "task": task.name,
        "role": task.role,
        "format": task.format,
        "languages": len(task.languages),
        "metric": task.metric,
        "chance": f"{100 * task.chance:.0f} %" if task.chance else "",
        "rows": size(task),
        "licence": "; ".join(dict.fromkeys(leaf.licence for leaf in leaves if leaf.licence)),
    }


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
    counts = {}
    for language, split in data.at_hand(task):
        if language == task.languages[0]:
            rows = data.rows(task, language, split)
            counts[split] = len(rows.side("query") if task.format == "retrieval" else rows)
    where = f" ({task.languages[0]})" if len(task.languages) > 1 else ""
    return {split: f"{count:,}{where}" for split, count in counts.items()}


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
    then = list(targets)
    return pd.DataFrame([_dyad(first, second) for first in intermediates for second in then])


def _dyad(intermediate: str, target: str) -> dict[str, Any]:
    flags = tasks.relation(intermediate, target)
    words = {"identity_pair": "rows", "same_source": "source", "same_format": "format"}
    strongest = next((word for flag, word in words.items() if flags[flag]), "nothing")
    return {
        "intermediate": intermediate,
        "target": target,
        "intermediate_format": tasks.get(intermediate).format,
        "target_format": tasks.get(target).format,
        **flags,
        "shares": strongest,
    }


def card(name: str, languages: Sequence[str] = ("en", "de", "sw")) -> Page:
    """Return a task's card, closed until a reader opens it.

    Args:
        name: name of the task.
        languages: languages whose first rows are preferred as examples.
    """
    task = tasks.get(name)
    facts = data.describe(task, languages)
    real = bool(facts["examples"])
    shown = facts["examples"] if real else examples.written(task)
    origin = (
        "first rows of the data at hand" if real else "written for this book, not from the data"
    )
    lines = {
        "text": facts["genre"],
        "languages": ", ".join(task.languages),
        "score": _score(task),
        "trained on": f"English rows of {facts['train_with']}" if _is_trained(task) else "nothing",
        "rows": size(task) or "not stated",
        "source": "; ".join(_source(source) for source in facts["sources"]),
        "licence": "; ".join(dict.fromkeys(s["licence"] or "not stated" for s in facts["sources"])),
    }
    body = "".join(f"<dt>{key}</dt><dd>{_safe(text)}</dd>" for key, text in lines.items())
    body += _examples(task, shown, origin) + _traps(facts["traps"])
    kind = f"{task.role}, {task.format}, {_many(len(task.languages), 'language')}"
    head = f"<b>{_safe(name)}</b> <span>{kind}</span><br>{_safe(facts['question'])}"
    head = f"<summary>{head}</summary>"
    return Page(f'<details class="task">{head}<dl>{body}</dl></details>')


def cards(names: Iterable[str], languages: Sequence[str] = ("en", "de", "sw")) -> Page:
    """Return the cards of several tasks, one below the other."""
    return Page("".join(card(name, languages).source for name in names))


def _is_trained(task: Task) -> bool:
    return task.role == "intermediate" or any("train" in s.splits for s in _training(task))


def _training(task: Task) -> Sequence[Any]:
    return (tasks.get(task.train_with) if task.train_with else task).source.flat()


def _score(task: Task) -> str:
    guessing = f"; guessing scores {100 * task.chance:.0f} %" if task.chance else ""
    return f"{task.metric}{guessing}"


def _source(source: Mapping[str, Any]) -> str:
    revision = str(source["revision"])
    pinned = "" if revision == "not pinned" else f" at {revision[:8]}"
    return f"{source['id']}{pinned}"


def _examples(task: Task, shown: Mapping[str, Any], origin: str) -> str:
    if not shown:
        return ""
    rows = "".join(
        f'<div class="example" lang="{_safe(code)}" dir="auto"><b>{_safe(code)}</b> '
        f"{_row(task, row)}</div>"
        for code, row in shown.items()
    )
    return f"<dt>example</dt><dd>{rows}<small>{_safe(origin)}</small></dd>"


def _traps(traps: Sequence[str]) -> str:
    if not traps:
        return ""
    return f"<dt>traps</dt><dd><ul>{''.join(f'<li>{_safe(trap)}</li>' for trap in traps)}</ul></dd>"


def _row(task: Task, row: Mapping[str, Any]) -> str:
    """Return one row as a line of HTML."""
    if "tokens" in row:
        tags = [_name(task, tag) for tag in row["tags"]]
        pairs = zip(row["tokens"], tags, strict=True)
        return " ".join(f"{_safe(word)}<sub>{_safe(tag)}</sub>" for word, tag in list(pairs)[:30])
    if "choices" in row:
        right = int(row["label"])
        options = [
            f"<b>{_cut(text)}</b>" if place == right else _cut(text)
            for place, text in enumerate(row["choices"])
        ]
        return f"{_cut(row['context'])} [{' | '.join(options)}]"
    if "question" in row:
        answer = row["answers"]["text"][0] if row["answers"]["text"] else "(no answer)"
        return f"{_cut(row['context'])} <i>{_cut(row['question'])}</i> <b>{_cut(answer)}</b>"
    if "side" in row:
        return f"({_safe(row['side'])}) {_cut(row['text'])}"
    second = f" / {_cut(row['second'])}" if row["second"] else ""
    return f"{_cut(row['first'])}{second} <b>{_safe(_name(task, row['label']))}</b>"


def _name(task: Task, label: Any) -> str:
    if isinstance(label, str):
        return label
    labels = data.with_labels(task).labels
    return labels[int(label)]


def _cut(text: str) -> str:
    return _safe(text if len(text) <= _EXAMPLE_LENGTH else f"{text[:_EXAMPLE_LENGTH]}…")


def _safe(text: Any) -> str:
    return html.escape(str(text))


def _many(count: int, thing: str) -> str:
    return f"{count} {thing}{'s' * (count != 1)}"
