"""Folders of predictions in XTREME's file layout: scored by the official rules, and written.

A folder holds ``<task>/test-<language>.<tsv|json|jsonl>``. The official script is forgiving: a
question without a prediction scores 0, an unknown id is passed over, tags of one sentence run into
the next, and whatever is written in another form than the labels (ids for names, a token beside its
tag, rows counted from 1) matches nothing. Here all but the first are errors that name the first
such line, unless ``strict=False`` asks for the official figure all the same.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from helpers import tasks
from helpers.errors import BadRows, MissingData, unknown
from helpers.files import write_atomic
from helpers.metrics import ENOUGH, map_at_k, mlqa, mrr_at_k, pair_f1, placeholder, span_f1, squad

COLUMNS = (
    *("benchmark", "level", "task", "language", "metric", "value", "percent"),
    *("n", "missing", "extra", "official"),
)
OFFICIAL_VARIANT = "seqeval-0.0.12"
OWN_METRIC = "token_accuracy"
CUT = 20  # Of ranked entities and candidates.

# What a task's files hold, and their ending; targets of retrieval differ by their metric.
_FORMS = {
    "pair": ("labels", "tsv"),
    "tagging": ("tags", "tsv"),
    "choice": ("choices", "jsonl"),
    "span": ("answers", "json"),
    "accuracy": ("labels", "tsv"),
    "pair_f1": ("pairs", "tsv"),
    "map@20": ("candidates", "json"),
    "mrr@20": ("entities", "json"),
}
_KEYED = ("answers", "entities", "candidates")
# Words of a treebank that stand for several ("du") may be left without a tag.
_MORE_TAGS = {"udpos": ("_",)}


# --- What the official script expects -------------------------------------------------------------
@dataclass(frozen=True)
class OfficialTask:
    """One task as the official script reads it."""

    name: str  # of its folder
    kind: str  # what its files hold, see _FORMS
    suffix: str  # ending of its files
    metric: str  # in helpers.metrics
    languages: tuple[str, ...]
    labels: tuple[str, ...]  # all that a line may say; Tatoeba's are numbers of rows


@dataclass(frozen=True)
class Benchmark:
    """A benchmark's tasks by name, and the groups whose means the official script prints."""

    name: str
    tasks: dict[str, OfficialTask]
    groups: dict[str, tuple[str, ...]]
    no_overall: str = ""  # why that script gives no mean over all tasks


def _official(*names: str) -> dict[str, OfficialTask]:
    """Return the official form of registered tasks by the name of their folder."""
    found = {}
    for task in map(tasks.get, names):
        kind, suffix = _FORMS[task.metric if task.format == "retrieval" else task.format]
        name = task.name.removesuffix("-xr")
        labels = (*task.labels, *_MORE_TAGS.get(name, ()))
        found[name] = OfficialTask(name, kind, suffix, task.metric, task.languages, labels)
    return found


BENCHMARKS = {
    "xtreme": Benchmark(
        "xtreme",
        _official(
            *("pawsx", "xnli", "panx", "udpos", "bucc2018", "tatoeba", "xquad", "mlqa", "tydiqa")
        ),
        {
            "classification": ("pawsx", "xnli"),
            "tagging": ("udpos", "panx"),
            "qa": ("xquad", "mlqa", "tydiqa"),
            "retrieval": ("bucc2018", "tatoeba"),
        },
    ),
    "xtreme-r": Benchmark(
        "xtreme-r",
        _official(
            *("xnli", "panx-xr", "udpos-xr", "tatoeba-xr", "xcopa", "lareqa", "mewslix"),
            *("xquad-xr", "mlqa", "tydiqa"),
        ),
        {
            "classification": ("xnli", "xcopa"),
            "tagging": ("udpos", "panx"),
            "qa": ("xquad", "mlqa", "tydiqa"),
            "retrieval": ("tatoeba", "mewslix"),
            "multi_choice": ("xcopa",),
        },
        "XTREME-R's official script cannot give a mean over all tasks: it lists LAReQA, but has no "
        "languages, no reader and no metric for it; it also counts XCOPA in two groups.",
    ),
}


def rules(benchmark: str) -> Benchmark:
    """Return the tasks and groups of ``"xtreme"`` or ``"xtreme-r"``."""
    if benchmark not in BENCHMARKS:
        raise unknown("benchmark", benchmark, BENCHMARKS)
    return BENCHMARKS[benchmark]


# --- Means ----------------------------------------------------------------------------------------
def task_mean(by_language: Mapping[str, float]) -> dict[str, float]:
    """Return a task's mean over languages: ``all``, and ``without_english`` (zero-shot) if any."""
    if not by_language:
        raise BadRows("no language to average over.")
    others = [value for language, value in by_language.items() if language != "en"]
    result = {"all": sum(by_language.values()) / len(by_language)}
    return result | ({"without_english": sum(others) / len(others)} if others else {})


@dataclass(frozen=True)
class OverallScore:
    """Means over tasks."""

    value: float | None  # the benchmark's official mean over all tasks
    groups: dict[str, float]  # official mean per group of tasks that is complete
    tasks_mean: float | None  # over all tasks; of XTREME-R it is ours
    statement: str = ""  # why there is no official mean


def overall(by_task: Mapping[str, float], benchmark: str = "xtreme") -> OverallScore:
    """Return a benchmark's means over its groups and all tasks, from the main score per task."""
    facts = rules(benchmark)
    for task in by_task:
        if task not in facts.tasks:
            raise unknown(f"{benchmark} task", task, facts.tasks)
    groups = {
        group: sum(by_task[task] for task in members) / len(members)
        for group, members in facts.groups.items()
        if all(task in by_task for task in members)
    }
    missing = [task for task in facts.tasks if task not in by_task]
    mean = None if missing else sum(by_task.values()) / len(by_task)
    statement = facts.no_overall
    if missing and not statement:
        statement = f"no overall mean: {', '.join(missing)} have no score."
    return OverallScore(None if statement else mean, groups, mean, statement)


# --- Scoring --------------------------------------------------------------------------------------
def score_submission(
    predictions_dir: str | Path,
    labels_dir: str | Path,
    benchmark: str = "xtreme",
    *,
    strict: bool = True,
    variant: str = OFFICIAL_VARIANT,
) -> pd.DataFrame:
    """Score a folder of predictions against a folder of labels, as the official script does.

    Args:
        predictions_dir: ``<task>/test-<language>.<suffix>`` files with predictions.
        labels_dir: the same files with labels. Tasks that only one folder holds are passed over.
        benchmark: ``"xtreme"`` or ``"xtreme-r"``.
        strict: refuse what the official script scores in silence: empty files, unknown or repeated
            ids, sentences of other lengths, lines of another form than the labels have, placeholders
            for labels. Else they get the official figure, and languages without a file are left out
            of the mean. A question without a prediction scores 0 and counts as ``missing``.
        variant: how tags are read, see :mod:`helpers.metrics`.

    Returns:
        One row per figure. ``level`` is ``language``, ``task`` (means over languages; the main
        figure is called ``metric``), ``group`` or ``overall``; ``language`` of a mean is ``all`` or
        ``without_english``. ``value`` is from 0 to 1, ``percent`` the official figure; ``official``
        is false for figures that the official script does not give. ``attrs["notes"]`` lists what
        was passed over, ``attrs["statement"]`` says why there is no official mean.

    Raises:
        MissingData: a folder or a language's file is not there, or no task is in both folders.
        BadRows: a file is empty, malformed, or does not fit its labels.
        UnknownName: no such benchmark or variant.

    Source:
        XTREME's ``evaluate.py``, revision 838c13b. LAReQA, which it lists and cannot score, is
        scored by its mAP@20 from a layout of our own: ranked candidates by question id.
    """
    facts = rules(benchmark)
    given, right = Path(predictions_dir), Path(labels_dir)
    found, notes = _tasks_of(facts, given, right)
    rows: list[dict[str, Any]] = []
    mains: dict[str, float] = {}
    exact: set[str] = set()
    for task in found:
        pairs, absent = _files_of(task, given, right, strict)
        scored = {
            language: _score_language(task, language, *both, strict, variant)
            for language, both in pairs.items()
        }
        by_rule = task.kind != "candidates" and (task.kind != "tags" or variant == OFFICIAL_VARIANT)
        own, mains[task.name] = _rows_of(task, scored, by_rule, by_rule and not absent)
        rows += own
        notes += [f"{task.name}: {path} is missing; its language was left out." for path in absent]
        notes += [one.note for one in scored.values() if one.note]
        if by_rule and not absent:
            exact.add(task.name)
    whole = overall(mains, benchmark)
    for group, value in whole.groups.items():
        rows.append(_row("group", group, "all", "metric", value, exact >= {*facts.groups[group]}))
    if whole.tasks_mean is not None:
        official = whole.value is not None and exact >= facts.tasks.keys()
        rows.append(_row("overall", "all", "all", "metric", whole.tasks_mean, official))
    frame = pd.DataFrame(rows, columns=list(COLUMNS)).assign(benchmark=benchmark)
    frame["percent"] = 100 * frame["value"]
    frame = frame.astype({"n": "Int64", "missing": "Int64", "extra": "Int64"})
    frame.attrs = {"notes": notes, "statement": whole.statement}
    return frame


def _tasks_of(facts: Benchmark, given: Path, right: Path) -> tuple[list[OfficialTask], list[str]]:
    """Return the tasks that both folders hold, and notes on the others."""
    for folder in (given, right):
        if not folder.is_dir():
            raise MissingData(f"no folder {folder}: expected <task>/test-<language> files in it.")
    inside = [{p.name for p in f.iterdir() if p.is_dir()} for f in (given, right)]
    found = [task for name, task in facts.tasks.items() if name in inside[0] & inside[1]]
    if not found:
        raise MissingData(
            f"no task of {facts.name} is in both {given} ({', '.join(sorted(inside[0])) or 'empty'}) "
            f"and {right} ({', '.join(sorted(inside[1])) or 'empty'}). Tasks: {', '.join(facts.tasks)}."
        )
    notes = []
    known = {name for one in BENCHMARKS.values() for name in one.tasks}
    for name in sorted(inside[0] - {task.name for task in found}):
        if name not in known:
            notes.append(str(unknown(f"task folder of {facts.name}", name, facts.tasks)))
        elif name in facts.tasks:
            notes.append(f"{name}: predictions without a folder of labels were passed over.")
        else:
            notes.append(f"{name}: not a task of {facts.name}; passed over.")
    return found, notes


def _files_of(
    task: OfficialTask, given: Path, right: Path, strict: bool
) -> tuple[dict[str, tuple[Path, Path]], list[Path]]:
    """Return the two files of each language that has both, and the files that are missing."""
    pairs = {code: (_path(given, task, code), _path(right, task, code)) for code in task.languages}
    absent = [path for both in pairs.values() for path in both if not path.is_file()]
    present = {code: both for code, both in pairs.items() if not set(both) & set(absent)}
    if absent and (strict or not present):
        names = ", ".join(str(path) for path in absent[:3]) + (" ..." if len(absent) > 3 else "")
        raise MissingData(
            f"{task.name}: {len(absent)} files of {len(task.languages)} languages are missing: "
            f"{names}. Add them, or pass strict=False to average over the languages that are there."
        )
    return present, absent


def _path(folder: Path, task: OfficialTask, language: str) -> Path:
    return folder / task.name / f"test-{language}.{task.suffix}"


@dataclass(frozen=True)
class _Scored:
    """Figures of one language: values by metric, examples, and ids on one side only."""

    values: dict[str, float]
    n: int
    missing: int = 0
    extra: int = 0
    note: str = ""


def _rows_of(
    task: OfficialTask, scored: Mapping[str, _Scored], by_rule: bool, official: bool
) -> tuple[list[dict[str, Any]], float]:
    """Return the rows of a task's languages and means, and its main figure."""
    rows = []
    for language, one in scored.items():
        for metric, value in one.values.items():
            row = _row("language", task.name, language, metric, value, by_rule)
            rows.append(row | {"n": one.n, "missing": one.missing, "extra": one.extra})
    metrics = list(next(iter(scored.values())).values)
    means = {
        metric: task_mean({language: one.values[metric] for language, one in scored.items()})
        for metric in metrics
    }
    # The main figure of questions is the mean of both of theirs.
    mains = [means[metric] for metric in (metrics if task.kind == "answers" else metrics[:1])]
    means["metric"] = {part: sum(mean[part] for mean in mains) / len(mains) for part in mains[0]}
    rows += [
        _row("task", task.name, part, metric, value, official and part == "all")
        for metric, mean in means.items()
        for part, value in mean.items()
    ]
    return rows, means["metric"]["all"]


def _row(
    level: str, task: str, language: str, metric: str, value: float, official: bool
) -> dict[str, Any]:
    facts = {"level": level, "task": task, "language": language, "metric": metric, "value": value}
    return facts | {"official": official and metric != OWN_METRIC}


def _score_language(
    task: OfficialTask, language: str, given: Path, right: Path, strict: bool, variant: str
) -> _Scored:
    """Score one file of predictions by one file of labels."""
    try:
        said, gold = _read(task, given, strict), _read(task, right, strict, gold=True)
        if task.kind not in (*_KEYED, "pairs") and len(said) != len(gold):
            raise BadRows(
                f"{given}: {len(said)} {'sentences' if task.kind == 'tags' else 'rows'}, but {right} "
                f"has {len(gold)}. Expected one prediction per example, in the order of the labels, "
                "without blank lines between."
            )
        # Row numbers lie below the number of rows, or above where the labels are only some rows.
        places = task.kind == "labels" and not task.labels
        numbers = [int(one) for one in gold if one.isdecimal()] if places else []
        top = max(len(gold), 1 + max(numbers, default=0))
        for path, content, of_gold in ((given, said, False), (right, gold, True)):
            alphabet = _alphabet(task, language, gold, top, strict, of_gold)
            _check(task, content, f"{path}, ", alphabet, of_gold and strict)
        if strict:
            _compare(task, said, gold, given, right)
        return _figures(task, language, said, gold, strict, variant)
    except BadRows as error:
        named = str(given) in str(error) or str(right) in str(error)
        where = "" if named else f"{given}: "
        raise BadRows(f"{task.name} {language}: {where}{error}") from error


def _figures(
    task: OfficialTask, language: str, said: Any, gold: Any, strict: bool, variant: str
) -> _Scored:
    """Score predictions by the rules of the task."""
    if task.kind == "tags":
        return _Scored(span_f1(said, gold, variant, ragged=not strict), len(gold))
    if task.kind == "pairs":
        note = "" if said else f"{task.name} {language}: the file holds no pair, which scores 0."
        return _Scored(pair_f1(said, gold), len(set(gold)), note=note)
    if task.kind == "answers":
        # Numbered, because a question that the labels hold twice counts twice.
        answers = {str(i): said[name] for i, (name, _) in enumerate(gold) if name in said}
        golds = {str(i): texts for i, (_, texts) in enumerate(gold)}
        if task.metric == "mlqa":
            values = mlqa(answers, golds, language, unanswered="zero")
        else:
            values = squad(answers, golds, unanswered="zero")
        extra = len(said.keys() - {name for name, _ in gold})
        both = {key: values[key] for key in ("exact_match", "f1")}
        return _Scored(both, len(golds), len(golds) - len(answers), extra)
    if task.kind in _KEYED:
        ranked, wanted = [said.get(name, []) for name in gold], list(gold.values())
        if task.kind == "entities":
            # The file holds one entity in a list; the official script reads the first alone.
            value = mrr_at_k(ranked, [[ids[0].strip()] for ids in wanted], CUT)["mrr"]
        else:
            value = map_at_k(ranked, wanted, CUT)["map"]
        missing, extra = len(gold.keys() - said.keys()), len(said.keys() - gold.keys())
        return _Scored({f"map@{CUT}": value}, len(gold), missing, extra)
    hits = sum(one == other for one, other in zip(said, gold, strict=True))
    return _Scored({"accuracy": hits / len(gold)}, len(gold))


# --- One alphabet for predictions and labels ------------------------------------------------------
Alphabet = tuple[Callable[[Any], Any], str]


def _check(
    task: OfficialTask, content: Any, where: str, alphabet: Alphabet, gold: bool = False
) -> None:
    """Refuse values outside an alphabet, naming the first, and gold that is a placeholder."""
    fits, expected = alphabet
    for place, value in _values(task, content):
        if not fits(value):
            shown = repr(value) if len(repr(value)) < 80 else repr(value)[:80] + "..."
            kind = "id" if task.kind in _KEYED else "line"
            raise BadRows(f"{where}{kind} {place!r}: {shown}; expected {expected}.")
    if gold and task.kind != "pairs":
        why = placeholder(value for _, value in _values(task, content))
        if why:
            raise BadRows(f"{where}{why}")


def _alphabet(
    task: OfficialTask, language: str, labels: Any, rows: int, strict: bool, gold: bool
) -> Alphabet:
    """Return what one value beside these labels must be, as a test and in words.

    Without ``strict`` only what the rules cannot score at all is refused.
    """
    if not strict and task.kind not in _KEYED:
        return lambda value: True, ""
    if task.kind == "tags" and not any(tag in task.labels for one in labels for tag in one):
        # Files of the other task: right as long as both sides are.
        official = BENCHMARKS["xtreme"].tasks
        others = official["panx"].labels + official["udpos"].labels
        return others.__contains__, "a tag of panx or udpos, alone on a line"
    if task.labels and task.kind in ("labels", "tags"):
        return task.labels.__contains__, f"{', '.join(task.labels)}, alone on a line"
    if task.kind == "labels":
        number = re.compile("0|[1-9][0-9]*").fullmatch
        words = f"the number of a row, from 0 to {rows - 1}"
        return lambda value: number(value) and int(value) < rows, words
    if task.kind == "choices":
        top = len(task.labels) - 1
        return lambda value: type(value) is int and 0 <= value <= top, f"a number from 0 to {top}"
    if task.kind == "pairs":
        pair = re.compile(rf"{language}-\S+\ten-\S+").fullmatch
        words = f"two ids with a tab between them, '{language}-...' and 'en-...'"
        return lambda value: pair("\t".join(map(str, value))), words
    if task.kind == "answers" and not gold:
        return lambda value: isinstance(value, str), "the text of an answer"
    form, words = r"(?s).*", "a list of texts"
    if strict:
        form, words = {
            "answers": (r"(?s).*\S.*", "a list of accepted answers that are not blank"),
            "entities": (r"Q[0-9]+", "a list of entities: 'Q' and a number"),
            "candidates": (r"\S(.*\S)?", "a list of ids that are not blank"),
        }[task.kind]
    one = re.compile(form).fullmatch

    def fits(value: Any) -> bool:
        if not isinstance(value, list) or (gold and strict and not value):
            return False
        return all(isinstance(text, str) and one(text) for text in value)

    return fits, words


def _values(task: OfficialTask, content: Any) -> Iterator[tuple[Any, Any]]:
    """Yield each value of a file with its place in it: an id, or the number of a line."""
    if task.kind == "tags":
        line = 0
        for sentence in content:
            yield from enumerate(sentence, start=line + 1)
            line += len(sentence) + 1
    elif task.kind in _KEYED:
        yield from content.items() if isinstance(content, Mapping) else content
    else:
        yield from enumerate(content, start=1)


def _compare(task: OfficialTask, said: Any, gold: Any, given: Path, right: Path) -> None:
    """Refuse ids that the labels lack, and ids or rows that are counted in another way."""
    if task.kind in _KEYED:
        names = [name for name, _ in gold] if task.kind == "answers" else list(gold)
        odd = [name for name in names if not isinstance(name, str)]
        if odd:
            raise BadRows(f"{right}: id {odd[0]!r} is not text, so no prediction can match it.")
        extra = sorted(said.keys() - set(names))
        if extra:
            shown = ", ".join(map(repr, extra[:3]))
            raise BadRows(f"{given}: {len(extra)} ids are not in {right}, such as {shown}.")
    if task.kind == "candidates":
        ours, theirs = ({i for ids in side.values() for i in ids} for side in (said, gold))
        looks = [{re.sub("[0-9]+", "0", one) for one in side} for side in (ours, theirs)]
        if ours and not ours & theirs and (len(said) >= ENOUGH or not looks[0] & looks[1]):
            raise BadRows(
                f"{given}: no candidate, such as {min(ours)!r}, is right for any query; {right} has "
                f"{min(theirs)!r} and the like."
            )
    if task.kind == "labels" and not task.labels:
        hits = sum(one == other for one, other in zip(said, gold, strict=True))
        late = sum(int(one) == int(other) + 1 for one, other in zip(said, gold, strict=True))
        # Nothing points at the first row, and more are late by one than chance would give.
        if "0" not in said and late > 2 * hits + min(2 + len(gold) // 200, 6):
            raise BadRows(
                f"{given}, line 1: {said[0]!r}; expected rows that count from 0 ({late} of "
                f"{len(gold)} are right, but for being one more)."
            )


# --- Reading files --------------------------------------------------------------------------------
def _read(task: OfficialTask, path: Path, strict: bool, gold: bool = False) -> Any:
    """Read a file as the official script does: its lines or sentences in a list, or its JSON."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise BadRows(f"{path}: not UTF-8 text ({error.reason} at byte {error.start}).") from error
    if strict and text.startswith("\ufeff"):
        raise BadRows(
            f"{path}: starts with a byte order mark, which would be part of its first value. Save "
            "it as UTF-8 without one."
        )
    content = _content(task, text, path, strict, gold) if text.strip() else None
    # No mined pair is a result; without any answer the official script gives 0.
    zero = not gold and (task.kind == "pairs" or (content is not None and not strict))
    if not content and not (zero and task.kind in ("pairs", *_KEYED)):
        raise BadRows(f"{path} is empty: expected one line or entry per example.")
    return [] if content is None else content


def _content(task: OfficialTask, text: str, path: Path, strict: bool, gold: bool) -> Any:
    if task.kind in _KEYED:
        content = _parsed(text, str(path), strict)
        if isinstance(content, dict):
            content = content.get("data", content)
        if task.kind == "answers" and gold:
            return _questions(content, path)
        if not isinstance(content, dict):
            raise BadRows(f"{path}: expected a JSON object with an entry for each id.")
        return content
    # Only line feeds end a line, as for the official script.
    lines = [line.strip() for line in text.removesuffix("\n").split("\n")]
    if task.kind == "choices":
        return [_choice(line, f"{path}, line {n}", strict) for n, line in enumerate(lines, start=1)]
    if task.kind == "pairs":
        return [tuple(line.split("\t")) for line in lines]
    if task.kind != "tags":
        return lines
    # Every blank line ends a sentence, also an empty one.
    sentences: list[list[str]] = [[]]
    for line in lines:
        if line:
            sentences[-1].append(line)
        else:
            sentences.append([])
    return sentences if sentences[-1] else sentences[:-1]


def _choice(line: str, where: str, strict: bool) -> Any:
    row = _parsed(line, where, strict)
    if not isinstance(row, dict) or "label" not in row:
        raise BadRows(f"{where}: expected an object with a 'label'.")
    return row["label"]


def _parsed(text: str, where: str, strict: bool) -> Any:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        content = dict(pairs)
        if strict and len(content) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise BadRows(f"{where}: id {twice!r} comes twice; only the last would count.")
        return content

    try:
        return json.loads(text, object_pairs_hook=once)
    except BadRows:
        raise
    except (ValueError, RecursionError) as error:
        raise BadRows(f"{where}: not JSON ({error}). Is the file whole?") from error


def _questions(articles: Any, path: Path) -> list[tuple[Any, list[str]]]:
    """Return question ids and accepted answers of labels in SQuAD's form, in order."""
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


# --- Writing files --------------------------------------------------------------------------------
def write_submission(
    predictions: Mapping[str, Mapping[str, Any]],
    folder: str | Path,
    benchmark: str = "xtreme",
    *,
    partial: bool = False,
) -> Path:
    """Write predictions as the official script reads them.

    Args:
        predictions: by task and language. XNLI and PAWS-X: one label per row; Tatoeba: one row
            number, from 0; POS and NER: tags per sentence; BUCC: pairs of ids, the English one
            second; XQuAD, MLQA and TyDiQA: answer by question id; XCOPA: 0 or 1 per row; Mewsli-X
            and LAReQA: ranked ids by query id.
        folder: where to write; made if needed.
        benchmark: ``"xtreme"`` or ``"xtreme-r"``.
        partial: allow tasks without some of their languages, which the official script refuses.

    Returns:
        The folder.

    Raises:
        BadRows: nothing to write, or a value of another form than the task's labels have.
        MissingData: a language of a task is missing and ``partial`` is false.
        UnknownName: no such benchmark, task or language.
    """
    return _write(predictions, Path(folder), benchmark, partial, gold=False)


def write_labels(
    golds: Mapping[str, Mapping[str, Any]], folder: str | Path, benchmark: str = "xtreme"
) -> Path:
    """Write labels as the official script reads them, to score submissions against.

    Args:
        golds: by task and language, as for :func:`write_submission`, but: XQuAD, MLQA and TyDiQA:
            a list of accepted answers by question id; Mewsli-X and LAReQA: right ids by query id.
        folder: where to write; made if needed.
        benchmark: ``"xtreme"`` or ``"xtreme-r"``.

    Returns:
        The folder.

    Raises:
        BadRows: nothing to write, or a value of another form than the task's labels have.
        UnknownName: no such benchmark, task or language.
    """
    return _write(golds, Path(folder), benchmark, True, gold=True)


def _write(
    values: Mapping[str, Mapping[str, Any]],
    folder: Path,
    benchmark: str,
    partial: bool,
    gold: bool,
) -> Path:
    """Check all values, then write a file for each language of each task."""
    facts = rules(benchmark)
    if not values:
        raise BadRows("nothing to write: give values by task and language.")
    texts: dict[Path, bytes] = {}
    for name, by_language in values.items():
        if name not in facts.tasks:
            raise unknown(f"task of {benchmark}", name, facts.tasks)
        task = facts.tasks[name]
        for language in by_language:
            if language not in task.languages:
                raise unknown(f"language of {name}", language, task.languages)
        missing = [language for language in task.languages if language not in by_language]
        if missing and not partial:
            raise MissingData(
                f"{name}: no predictions for {', '.join(missing)}. The official script wants all "
                f"{len(task.languages)} languages; pass partial=True to write what there is."
            )
        for language, content in by_language.items():
            try:
                text = _text(task, language, content, gold)
                texts[_path(folder, task, language)] = text.encode()
            except (BadRows, UnicodeEncodeError) as error:
                raise BadRows(f"{name} {language}: {error}") from error
    for path, text_bytes in texts.items():
        write_atomic(path, text_bytes)
    return folder


def _text(task: OfficialTask, language: str, content: Any, gold: bool) -> str:
    """Return the text of a file; raises BadRows for what it cannot hold."""
    keyed = task.kind in _KEYED
    if (
        keyed != isinstance(content, Mapping)
        or not isinstance(content, Iterable)
        or isinstance(content, str | bytes)
    ):
        form = "a mapping from ids" if keyed else "a list, one value per row"
        raise BadRows(f"got {type(content).__name__}; expected {form}.")
    content = _plain(task, content)
    # No pair above the threshold is a result, and the official script scores it 0.
    if not content and (task.kind != "pairs" or gold):
        raise BadRows("nothing to write.")
    _check(task, content, "", _alphabet(task, language, content, len(content), True, gold), gold)
    if task.kind == "tags":
        return "\n".join("".join(f"{tag}\n" for tag in one) for one in content) + "\n"
    if task.kind == "pairs":
        return "".join(f"{one}\t{other}\n" for one, other in content)
    if task.kind == "choices":
        return "".join(json.dumps({"label": one}) + "\n" for one in content)
    if not keyed:
        return "".join(f"{one}\n" for one in content)
    if task.kind == "answers" and gold:
        questions = [
            {"id": name, "question": "", "answers": [{"text": t, "answer_start": 0} for t in texts]}
            for name, texts in content.items()
        ]
        article = {"title": "", "paragraphs": [{"context": "", "qas": questions}]}
        content = {"version": "1.1", "data": [article]}
    return json.dumps(content, ensure_ascii=False, indent=1) + "\n"


def _plain(task: OfficialTask, content: Any) -> Any:
    """Return values as their file will hold them: numbers of NumPy as Python's, ids as text."""
    if isinstance(content, Mapping):
        plain: dict[str, Any] = {}
        for name, value in content.items():
            known = str(name) if type(name) is int or isinstance(name, np.integer) else name
            if not isinstance(known, str) or not known.strip() or known in plain:
                raise BadRows(f"id {name!r}; expected ids that are text and differ.")
            plain[known] = list(value) if isinstance(value, tuple | np.ndarray) else value
        return plain
    rows = [value.item() if isinstance(value, np.generic) else value for value in content]
    if task.kind == "labels":
        # Whole numbers are written as such; the text of floats and booleans fits no label.
        return [value if isinstance(value, str) else repr(value) for value in rows]
    if task.kind == "choices":
        return rows
    for place, value in enumerate(rows, start=1):
        if isinstance(value, str) or not isinstance(value, Iterable):
            what = "tags" if task.kind == "tags" else "two ids"
            raise BadRows(f"row {place} is {value!r}; expected {what} in a list.")
    return [tuple(value) for value in rows]
