"""Folders of predictions in XTREME's file layout: scored by the official rules, and written.

A folder holds ``<task>/test-<language>.<tsv|json|jsonl>``. The official script is forgiving: a
question without a prediction scores 0, an unknown id is passed over, tags of one sentence run into
the next, and whatever is written in another form than the labels (ids for names, a token beside its
tag, rows counted from 1) matches nothing. Here all but the first are errors that name the first
such line, unless ``strict=False`` asks for the official figure all the same.
"""

import itertools
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from helpers import metrics, tasks
from helpers.errors import BadRows, MissingData, known, unknown
from helpers.files import write_atomic
from helpers.metrics import Scores

COLUMNS = "benchmark level task language metric value percent n missing extra official".split()

# What a task's files hold, and their ending; targets of retrieval differ by their metric.
_KINDS = {
    "pair": ("labels", "tsv"),
    "tagging": ("tags", "tsv"),
    "choice": ("choices", "jsonl"),
    "span": ("answers", "json"),
    "accuracy": ("labels", "tsv"),
    "pair_f1": ("pairs", "tsv"),
    "map@20": ("candidates", "json"),
    "mrr@20": ("entities", "json"),
}
# What lists of texts by id must hold, and how it is said.
_LISTS = {
    "answers": (r"(?s).*\S.*", "a list of accepted answers that are not blank"),
    "entities": (r"Q[0-9]+", "a list of entities: 'Q' and a number"),
    "candidates": (r"\S(.*\S)?", "a list of ids that are not blank"),
}
# Words of a treebank that stand for several ("du") may be left without a tag.
_MORE_TAGS = {"udpos": ("_",)}


# --- What the official script expects -------------------------------------------------------------
@dataclass(frozen=True)
class OfficialTask:
    """One task as the official script reads it."""

    name: str  # of its folder
    kind: str  # what its files hold, see _KINDS
    suffix: str  # ending of its files
    metric: str  # in helpers.metrics
    languages: tuple[str, ...]
    labels: tuple[str, ...]  # all that a line may say; Tatoeba's are numbers of rows

    def path(self, folder: Path, language: str) -> Path:
        """Return where the file of a language lies."""
        return folder / self.name / f"test-{language}.{self.suffix}"


class Benchmark(NamedTuple):
    """A benchmark's tasks by name, and the groups whose means the official script prints."""

    tasks: dict[str, OfficialTask]
    groups: dict[str, tuple[str, ...]]
    no_overall: str = ""  # why that script gives no mean over all tasks


def _official(names: str) -> dict[str, OfficialTask]:
    """Return the official form of registered tasks by the name of their folder."""
    found = {}
    for task in map(tasks.get, names.split()):
        kind, suffix = _KINDS[task.metric if task.format == "retrieval" else task.format]
        name = task.name.removesuffix("-xr")
        labels = (*task.labels, *_MORE_TAGS.get(name, ()))
        found[name] = OfficialTask(name, kind, suffix, task.metric, task.languages, labels)
    return found


_SHARED = {"tagging": ("udpos", "panx"), "qa": ("xquad", "mlqa", "tydiqa")}
BENCHMARKS = {
    "xtreme": Benchmark(
        _official("pawsx xnli panx udpos bucc2018 tatoeba xquad mlqa tydiqa"),
        {"classification": ("pawsx", "xnli"), **_SHARED, "retrieval": ("bucc2018", "tatoeba")},
    ),
    "xtreme-r": Benchmark(
        _official("xnli panx-xr udpos-xr tatoeba-xr xcopa lareqa mewslix xquad-xr mlqa tydiqa"),
        {"classification": ("xnli", "xcopa"), **_SHARED}
        | {"retrieval": ("tatoeba", "mewslix"), "multi_choice": ("xcopa",)},
        "XTREME-R's official script cannot give a mean over all tasks: it lists LAReQA, but has no "
        "languages, no reader and no metric for it; it also counts XCOPA in two groups.",
    ),
}


def rules(benchmark: str) -> Benchmark:
    """Return the tasks and groups of ``"xtreme"`` or ``"xtreme-r"``."""
    return BENCHMARKS[known("benchmark", benchmark, BENCHMARKS)]


# --- Scoring --------------------------------------------------------------------------------------
def score_submission(
    predictions_dir: str | Path,
    labels_dir: str | Path,
    benchmark: str = "xtreme",
    *,
    strict: bool = True,
) -> pd.DataFrame:
    """Score a folder of predictions against a folder of labels, as the official script does.

    Args:
        predictions_dir: ``<task>/test-<language>.<suffix>`` files with predictions.
        labels_dir: the same files with labels. Tasks that only one folder holds are passed over.
        benchmark: ``"xtreme"`` or ``"xtreme-r"``.
        strict: refuse what the official script scores in silence: empty files, unknown or repeated
            ids, sentences of other lengths, lines of another form than the labels have, placeholders
            for labels. Else they get the official figure, and a mean lacks languages without a file.

    Returns:
        One row per figure. ``level`` is ``language``, ``task`` (means over languages; the main
        figure is called ``metric``), ``group`` or ``overall``; ``language`` of a mean is ``all`` or
        ``without_english``. ``value`` is from 0 to 1, ``percent`` the official figure, if it is
        ``official``; ``missing`` counts questions without a prediction, which score 0.
        ``attrs["notes"]`` says what was passed over, ``attrs["statement"]`` why there is no mean.

    Raises:
        MissingData: a folder or a language's file is not there, or no task is in both folders.
        BadRows: a file is empty, malformed, or does not fit its labels.
        UnknownName: no such benchmark.

    Source:
        XTREME's ``evaluate.py``, revision 838c13b. LAReQA, which it lists and cannot score, is
        scored by its mAP@20 from a layout of our own: ranked candidates by question id.
    """
    facts, given, right = rules(benchmark), Path(predictions_dir), Path(labels_dir)
    found, notes = _tasks_of(benchmark, given, right)
    rows: list[dict[str, Any]] = []

    def add(*where: str, value: float, official: bool, **counts: int) -> None:
        row = dict(zip(("level", "task", "language", "metric"), where, strict=True)) | counts
        official &= row["metric"] != "token_accuracy"
        rows.append(row | {"value": value, "percent": 100 * value, "official": official})

    # First each language of each task and the task's means, then groups and the whole.
    mains: dict[str, float] = {}
    exact: set[str] = set()
    for task in found:
        pairs, absent = _files_of(task, given, right, strict)
        notes += [f"{task.name}: {path} is missing; its language was left out." for path in absent]
        by_rule = task.kind != "candidates"  # LAReQA's files are not those of the official script
        values: dict[str, Scores] = {}
        for code, paths in pairs.items():
            values[code], counts, note = _language(task, code, *paths, strict)
            notes += filter(None, [note])
            for metric, value in values[code].items():
                add("language", task.name, code, metric, value=value, official=by_rule, **counts)
        # A mean is official if the script would give it: over all languages, English among them.
        official = by_rule and not absent
        exact |= {task.name} if official else set()
        means = _means(task, values)
        mains[task.name] = means["metric"]["all"]
        for metric, by_part in means.items():
            for part, value in by_part.items():
                whole = official and part == "all"
                add("task", task.name, part, metric, value=value, official=whole)
    groups = [("group", *group) for group in facts.groups.items()]
    for level, name, members in [*groups, ("overall", "all", tuple(facts.tasks))]:
        if mains.keys() >= set(members):
            official = exact >= set(members) and not (level == "overall" and facts.no_overall)
            value = sum(mains[task] for task in members) / len(members)
            add(level, name, "all", "metric", value=value, official=official)
    lacking, statement = [name for name in facts.tasks if name not in mains], facts.no_overall
    if lacking and not statement:
        statement = f"no overall mean: {', '.join(lacking)} have no score."
    frame = pd.DataFrame(rows, columns=COLUMNS).assign(benchmark=benchmark)
    frame = frame.astype(dict.fromkeys(["n", "missing", "extra"], "Int64"))
    frame.attrs = {"notes": notes, "statement": statement}
    return frame


def _means(task: OfficialTask, values: Mapping[str, Scores]) -> dict[str, Scores]:
    """Return a task's means over all languages and without English; the main one is ``metric``."""
    parts = {"all": list(values), "without_english": [code for code in values if code != "en"]}
    means: dict[str, Scores] = {metric: {} for metric in next(iter(values.values()))}
    for metric, (part, codes) in itertools.product(means, parts.items()):
        if codes:
            means[metric][part] = sum(values[code][metric] for code in codes) / len(codes)
    # The main figure of questions is the mean of both of theirs.
    mains = list(means.values())[: 2 if task.kind == "answers" else 1]
    return means | {"metric": {p: sum(mean[p] for mean in mains) / len(mains) for p in mains[0]}}


def _tasks_of(benchmark: str, given: Path, right: Path) -> tuple[list[OfficialTask], list[str]]:
    """Return the tasks that both folders hold, and notes on the others."""
    for folder in (given, right):
        if not folder.is_dir():
            raise MissingData(f"no folder {folder}: expected <task>/test-<language> files in it.")
    said, told = ({p.name for p in f.iterdir() if p.is_dir()} for f in (given, right))
    official = rules(benchmark).tasks
    found = [task for name, task in official.items() if name in said & told]
    if not found:
        text = f"no task of {benchmark} is in both {given} and {right}"
        raise MissingData(f"{text}: {sorted(said | told)}; expected {', '.join(official)}.")
    alone, odd = "predictions without a folder of labels", f"task folder of {benchmark}"
    notes = [
        f"{name}: passed over: {alone if name in official else unknown(odd, name, official)}"
        for name in sorted(said - {task.name for task in found})
    ]
    return found, notes


def _files_of(
    task: OfficialTask, given: Path, right: Path, strict: bool
) -> tuple[dict[str, tuple[Path, Path]], list[Path]]:
    """Return the two files of each language that has both, and the files that are missing."""
    pairs = {code: (task.path(given, code), task.path(right, code)) for code in task.languages}
    absent = [path for both in pairs.values() for path in both if not path.is_file()]
    present = {code: both for code, both in pairs.items() if not set(both) & set(absent)}
    if absent and (strict or not present):
        said = f"{len(absent)} files of {len(pairs)} languages are missing: {absent[0]}"
        advice = "Add them, or pass strict=False to average over the languages that are there."
        raise MissingData(f"{task.name}: {said}{' ...' * (len(absent) > 1)}. {advice}")
    return present, absent


def _language(
    task: OfficialTask, language: str, given: Path, right: Path, strict: bool
) -> tuple[dict[str, float], dict[str, int], str]:
    """Score a file: values by metric, numbers of examples and of ids on one side only, a note."""
    try:
        said, gold = _read(task, given, strict), _read(task, right, strict, gold=True)
        if task.kind not in (*_LISTS, "pairs"):
            metrics.same_length(said, gold, "sentences" if task.kind == "tags" else "rows")
        # Row numbers lie below the number of rows, or above where the labels are only some rows.
        numbers = [int(row) for row in gold if task.kind == "labels" and row.isdecimal()]
        rows = max(len(gold), 1 + max(numbers, default=0))
        for path, content, of_gold in ((given, said, False), (right, gold, True)):
            alphabet = _alphabet(task, language, gold, rows, strict, of_gold)
            _check(task, content, f"{path}, ", alphabet, of_gold and strict)
        if strict:
            _match(task, said, gold, given, right)
        counts, note = {"n": len(gold), "missing": 0, "extra": 0}, ""
        if task.kind in _LISTS:
            by_id, names = dict(said), [name for name, _ in gold]
            counts["missing"] = sum(name not in by_id for name in names)
            counts["extra"] = len(by_id.keys() - set(names))
            values = _score_by_id(task, language, by_id, gold)
        elif task.kind == "pairs":
            values, counts["n"] = metrics.pair_f1(said, gold), len(set(gold))
            empty = f"{task.name} {language}: the file holds no pair, which scores 0."
            note = "" if said else empty
        elif task.kind == "tags":
            values = metrics.span_f1(said, gold, ragged=not strict)
        else:
            hits = sum(one == other for one, other in zip(said, gold, strict=True))
            values = {"accuracy": hits / len(gold)}
        return values, counts, note
    except BadRows as error:
        where = "" if any(str(path) in str(error) for path in (given, right)) else f"{given}: "
        raise BadRows(f"{task.name} {language}: {where}{error}") from error


def _score_by_id(task: OfficialTask, language: str, said: Any, gold: list[Any]) -> Scores:
    """Score answers or rankings by id, from 0 to 1."""
    if task.kind == "answers":
        # Numbered, because a question that the labels hold twice counts twice.
        answers = {place: said[name] for place, (name, _) in enumerate(gold) if name in said}
        golds = {place: texts for place, (_, texts) in enumerate(gold)}
        options = {"language": language} if task.metric == "mlqa" else {}
        values = metrics.score(task.metric, answers, golds, unanswered="zero", **options)
        return {key: values[key] for key in ("exact_match", "f1")}
    # An entity stands alone in its list; the official script reads the first.
    wanted = [[ids[0].strip()] if task.kind == "entities" else ids for _, ids in gold]
    values = metrics.score(task.metric, [said.get(name, []) for name, _ in gold], wanted)
    return {"map@20": values[metrics.get(task.metric).main]}


# --- One alphabet for predictions and labels ------------------------------------------------------
Alphabet = tuple[Callable[[Any], Any], str]  # what one value must be, as a test and in words


def _check(task: OfficialTask, content: list[Any], where: str, one: Alphabet, gold: bool) -> None:
    """Refuse values outside an alphabet, naming the first, and gold that is a placeholder."""
    fits, expected = one
    # Each value with its place in the file: an id, or the number of a line.
    values, line = list[tuple[Any, Any]](), 1
    for row in content if task.kind == "tags" else [content]:
        values += row if task.kind in _LISTS else enumerate(row, start=line)
        line += len(row) + 1
    for place, value in values:
        if not fits(value):
            shown = repr(value) if len(repr(value)) < 80 else repr(value)[:80] + "..."
            kind = "id" if task.kind in _LISTS else "line"
            raise BadRows(f"{where}{kind} {place!r}: {shown}; expected {expected}.")
    if gold and task.kind != "pairs" and (why := metrics.placeholder(told for _, told in values)):
        raise BadRows(f"{where}{why}")


def _alphabet(
    task: OfficialTask, language: str, labels: Sequence[Any], rows: int, strict: bool, gold: bool
) -> Alphabet:
    """Return what one value must be beside these labels, for a file of so many rows."""
    if task.kind == "answers" and not gold:
        return (lambda value: isinstance(value, str)), "the text of an answer"
    if task.kind in _LISTS:
        form, words = _LISTS[task.kind] if strict else (r"(?s).*", "a list of texts")
        one, least = re.compile(form).fullmatch, int(gold and strict)

        def fits(value: Any) -> bool:
            texts = value if isinstance(value, list) and len(value) >= least else [None]
            return all(isinstance(text, str) and one(text) for text in texts)

        return fits, words
    if not strict:  # only what the rules cannot score at all is refused
        return (lambda value: True), ""
    if task.kind == "pairs":
        pair = re.compile(rf"{language}-\S+\ten-\S+").fullmatch
        words = f"two ids with a tab between them, '{language}-...' and 'en-...'"
        return (lambda value: pair("\t".join(map(str, value)))), words
    if task.kind == "choices":
        top = len(task.labels) - 1
        return (lambda value: type(value) is int and 0 <= value <= top), f"a number from 0 to {top}"
    if not task.labels:
        number = re.compile("0|[1-9][0-9]*").fullmatch
        words = f"the number of a row, from 0 to {rows - 1}"
        return (lambda value: number(value) and int(value) < rows), words
    if task.kind == "tags" and not any(tag in task.labels for tags in labels for tag in tags):
        # Files of the other task: right as long as both sides are.
        official = BENCHMARKS["xtreme"].tasks
        others = official["panx"].labels + official["udpos"].labels
        return others.__contains__, "a tag of panx or udpos, alone on a line"
    return task.labels.__contains__, f"{', '.join(task.labels)}, alone on a line"


def _match(task: OfficialTask, said: list[Any], gold: list[Any], given: Path, right: Path) -> None:
    """Refuse ids that the labels lack, and ids or rows that are counted in another way."""
    if task.kind in _LISTS:
        names = [name for name, _ in gold]
        if odd := [name for name in names if not isinstance(name, str)]:
            raise BadRows(f"{right}: id {odd[0]!r} is not text, so no prediction can match it.")
        if extra := sorted({name for name, _ in said} - set(names)):
            raise BadRows(f"{given}: {len(extra)} ids are not in {right}, such as {extra[0]!r}.")
    # Candidates none of which is right for any query were named in another way.
    if task.kind == "candidates":
        ours, theirs = ({one for _, ids in side for one in ids} for side in (said, gold))
        looks = [{re.sub("[0-9]+", "0", one) for one in side} for side in (ours, theirs)]
        if ours and not ours & theirs and (len(said) >= metrics.ENOUGH or not looks[0] & looks[1]):
            what = f"no candidate, such as {min(ours)!r}, is right for any query"
            raise BadRows(f"{given}: {what}; {right} has {min(theirs)!r} and the like.")
    if task.kind == "labels" and not task.labels:
        late = [int(one) - int(other) for one, other in zip(said, gold, strict=True)]
        # Nothing points at the first row, and more are late by one than chance would give.
        if "0" not in said and late.count(1) > 2 * late.count(0) + min(2 + len(gold) // 200, 6):
            off = f"{late.count(1)} of {len(gold)} are right, but for being one more"
            raise BadRows(f"{given}, line 1: {said[0]!r}; expected rows that count from 0 ({off}).")


# --- Reading files --------------------------------------------------------------------------------
def _read(task: OfficialTask, path: Path, strict: bool, gold: bool = False) -> list[Any]:
    """Read a file as the official script does: its lines or sentences, or pairs of id and value."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise BadRows(f"{path}: not UTF-8 text ({error.reason} at byte {error.start}).") from error
    if strict and text.startswith("\ufeff"):
        raise BadRows(f"{path}: starts with a byte order mark; save it as UTF-8 without one.")
    content: list[Any] = []
    # Only line feeds end a line, as for the official script.
    lines = [line.strip() for line in text.removesuffix("\n").split("\n")] if text.strip() else []
    if task.kind in _LISTS and lines:
        content = _by_id(_parsed(text, str(path), strict), path, gold and task.kind == "answers")
    elif task.kind == "choices":
        for number, line in enumerate(lines, start=1):
            row = _parsed(line, f"{path}, line {number}", strict)
            if not isinstance(row, dict) or "label" not in row:
                raise BadRows(f"{path}, line {number}: expected an object with a 'label'.")
            content.append(row["label"])
    elif task.kind == "tags":
        # Every blank line ends a sentence, also an empty one.
        ends = [-1, *(place for place, line in enumerate([*lines, ""]) if not line)]
        content = [lines[one + 1 : other] for one, other in itertools.pairwise(ends)]
        content = content if content[-1:] != [[]] else content[:-1]
    else:
        content = [tuple(line.split("\t")) for line in lines] if task.kind == "pairs" else lines
    # No mined pair is a result; without any answer the official script gives 0.
    nothing = task.kind == "pairs" or (task.kind in _LISTS and bool(lines) and not strict)
    if not content and (gold or not nothing):
        raise BadRows(f"{path} is empty: expected one line or entry per example.")
    return content


def _parsed(text: str, where: str, strict: bool) -> Any:
    """Parse JSON in which, if ``strict``, no id comes twice."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        (name, count), *_ = Counter(name for name, _ in pairs).most_common(1) or [("", 0)]
        if strict and count > 1:
            raise BadRows(f"{where}: id {name!r} comes twice; only the last would count.")
        return dict(pairs)

    try:
        return json.loads(text, object_pairs_hook=once)
    except BadRows:
        raise
    except (ValueError, RecursionError) as error:
        raise BadRows(f"{where}: not JSON ({error}). Is the file whole?") from error


def _by_id(content: Any, path: Path, squad_form: bool) -> list[tuple[Any, Any]]:
    """Return ids and values of parsed JSON; labels in SQuAD's form: ids and accepted answers."""
    content = content.get("data", content) if isinstance(content, dict) else content
    if not squad_form:
        if not isinstance(content, dict):
            raise BadRows(f"{path}: expected a JSON object with an entry for each id.")
        return list(content.items())
    try:
        return [
            (question["id"], [answer["text"] for answer in question["answers"]])
            for article in content
            for paragraph in article["paragraphs"]
            for question in paragraph["qas"]
        ]
    except (KeyError, TypeError) as error:
        form = "SQuAD's form (data, paragraphs, qas, answers)"
        raise BadRows(f"{path}: expected labels in {form}: {error!r}.") from error


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
    """Write labels as :func:`write_submission` writes predictions; of a question all accepted answers."""
    return _write(golds, Path(folder), benchmark, True, gold=True)


def _write(values: Any, folder: Path, benchmark: str, partial: bool, gold: bool) -> Path:
    """Check all values, then write a file for each language of each task."""
    facts = rules(benchmark)
    if not values:
        raise BadRows("nothing to write: give values by task and language.")
    texts: dict[Path, bytes] = {}
    for name, by_language in values.items():
        task = facts.tasks[known(f"task of {benchmark}", name, facts.tasks)]
        for language in by_language:
            known(f"language of {name}", language, task.languages)
        missing = [language for language in task.languages if language not in by_language]
        if missing and not partial:
            wanted = f"all {len(task.languages)} are wanted; partial=True writes what there is"
            raise MissingData(f"{name}: no predictions for {', '.join(missing)}: {wanted}.")
        # All is checked before the first file is written.
        for language, given in by_language.items():
            try:
                content = _plain(task, given)
                # No pair above the threshold is a result, and the official script scores it 0.
                if not content and (task.kind != "pairs" or gold):
                    raise BadRows("nothing to write.")
                alphabet = _alphabet(task, language, content, len(content), True, gold)
                _check(task, content, "", alphabet, gold)
                texts[task.path(folder, language)] = _text(task, content, gold).encode()
            except (BadRows, UnicodeEncodeError) as error:
                raise BadRows(f"{name} {language}: {error}") from error
    for path, text in texts.items():
        write_atomic(path, text)
    return folder


def _plain(task: OfficialTask, given: Any) -> list[Any]:
    """Return values in the form that their file is read in, numbers of NumPy as Python's."""
    keyed = task.kind in _LISTS
    # Text is iterable too, and a list where ids are wanted has none.
    listed = isinstance(given, Iterable) and not isinstance(given, str | bytes)
    if keyed != isinstance(given, Mapping) or not listed:
        form = "a mapping from ids" if keyed else "a list, one value per row"
        raise BadRows(f"got {type(given).__name__}; expected {form}.")
    rows = [value.item() if isinstance(value, np.generic) else value for value in given]
    if keyed:
        names = [str(name) if type(name) is int else name for name in rows]
        for name, count in Counter(names).items():
            if not isinstance(name, str) or not name.strip() or count > 1:
                raise BadRows(f"id {name!r}; expected ids that are text and differ.")
        values = (list(v) if isinstance(v, tuple | np.ndarray) else v for v in given.values())
        return list(zip(names, values, strict=True))
    if task.kind == "labels":
        # Whole numbers are written as such; the text of floats and booleans fits no label.
        return [value if isinstance(value, str) else repr(value) for value in rows]
    for place, value in enumerate(rows if task.kind != "choices" else (), start=1):
        if isinstance(value, str) or not isinstance(value, Iterable):
            what = "tags" if task.kind == "tags" else "two ids"
            raise BadRows(f"row {place} is {value!r}; expected {what} in a list.")
    return rows if task.kind == "choices" else [tuple(value) for value in rows]


def _text(task: OfficialTask, content: list[Any], gold: bool) -> str:
    """Return the text of a file."""
    if task.kind in _LISTS:
        whole: dict[str, Any] = dict(content)
        if task.kind == "answers" and gold:
            qas = [{"id": name, "question": "", "answers": texts} for name, texts in content]
            for row in qas:
                row["answers"] = [{"text": text, "answer_start": 0} for text in row["answers"]]
            article = {"title": "", "paragraphs": [{"context": "", "qas": qas}]}
            whole = {"version": "1.1", "data": [article]}
        return json.dumps(whole, ensure_ascii=False, indent=1) + "\n"
    lines: dict[str, Callable[[Any], str]] = {
        "tags": lambda tags: "".join(f"{tag}\n" for tag in tags),
        "pairs": "\t".join,
        "choices": lambda label: json.dumps({"label": label}),
        "labels": str,
    }
    return "".join(f"{lines[task.kind](row)}\n" for row in content)
