"""Folders of predictions in XTREME's file layout: scored by the official rules, and written.

A folder holds ``<task>/test-<language>.<tsv|json|jsonl>``. The official script is forgiving: a
question without a prediction scores 0, an unknown id is passed over, tags of one sentence run into
the next, a line with the sentences beside the label matches nothing. Here all but the first are
errors that say what is wrong, unless ``strict=False`` asks for the official figure all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from helpers.errors import BadRows, MissingData, unknown
from helpers.files import write_atomic
from helpers.metrics import accuracy, map_at_k, mlqa, mrr_at_k, overall, pair_f1, span_f1, squad
from helpers.metrics.averages import task_mean
from helpers.metrics.submission_files import (
    XNLI_LABELS,
    labels_text,
    predictions_text,
    questions,
    read,
)
from helpers.metrics.xtreme import BENCHMARKS, Benchmark, OfficialTask
from helpers.metrics.xtreme import benchmark as rules

COLUMNS = (
    "benchmark",
    "level",
    "task",
    "language",
    "metric",
    "value",
    "percent",
    "n",
    "missing",
    "extra",
    "official",
)
OFFICIAL_VARIANT = "seqeval-0.0.12"
OWN_METRIC = "token_accuracy"
CUT = 20  # Of ranked entities and candidates.


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
        strict: refuse what the official script scores in silence: empty files, unknown ids,
            repeated ids, sentences of other lengths, lines of another form. With ``strict=False``
            they get the official figure, and languages without a file (an error to the official
            script too) are left out of the mean. A question without a prediction scores 0 and is
            counted in ``missing`` either way.
        variant: how tags are read, see :mod:`helpers.metrics.tagging`.

    Returns:
        One row per figure. ``level`` is ``language``, ``task`` (means over languages; the main
        figure of a task is called ``metric``), ``group`` or ``overall``; ``language`` of a mean is
        ``all`` or ``without_english``. ``value`` is from 0 to 1, ``percent`` is the official
        figure. ``official`` is false for figures that the official script does not give.
        ``attrs["notes"]`` lists what was passed over, ``attrs["statement"]`` says why there is no
        official mean over all tasks.

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
    tasks, notes = _tasks_of(facts, given, right)
    scores = [_score_task(task, given, right, strict, variant) for task in tasks]
    whole = overall({score.task.name: score.main()["all"] for score in scores}, benchmark)
    exact = {score.task.name for score in scores if score.official}
    rows = [row for score in scores for row in score.rows()]
    for group, value in whole.groups.items():
        rows.append(_row("group", group, "all", "metric", value, exact >= {*facts.groups[group]}))
    if whole.tasks_mean is not None:
        official = whole.value is not None and exact >= facts.tasks.keys()
        rows.append(_row("overall", "all", "all", "metric", whole.tasks_mean, official))
    frame = pd.DataFrame(rows, columns=list(COLUMNS)).assign(benchmark=benchmark)
    frame["percent"] = 100 * frame["value"]
    frame = frame.astype({"n": "Int64", "missing": "Int64", "extra": "Int64"})
    notes += [note for score in scores for note in score.left_out]
    frame.attrs = {"notes": notes, "statement": whole.statement}
    return frame


def write_submission(
    predictions: Mapping[str, Mapping[str, Any]],
    folder: str | Path,
    benchmark: str = "xtreme",
    *,
    partial: bool = False,
) -> Path:
    """Write predictions as the official script reads them.

    Args:
        predictions: by task and language. XNLI, PAWS-X and Tatoeba: one label per row; POS and NER:
            tags per sentence; BUCC: pairs of ids; XQuAD, MLQA and TyDiQA: answer by question id;
            XCOPA: 0 or 1 per row; Mewsli-X and LAReQA: ranked ids by query id.
        folder: where to write; made if needed.
        benchmark: ``"xtreme"`` or ``"xtreme-r"``.
        partial: allow tasks without some of their languages, which the official script refuses.

    Returns:
        The folder.

    Raises:
        BadRows: nothing to write, or a value that the layout cannot hold.
        MissingData: a language of a task is missing and ``partial`` is false.
        UnknownName: no such benchmark, task or language.
    """
    for task, by_language in _checked(predictions, benchmark, partial):
        for language, values in by_language.items():
            _write(Path(folder), task, language, values, predictions_text)
    return Path(folder)


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
        BadRows: nothing to write, or a value that the layout cannot hold.
        UnknownName: no such benchmark, task or language.
    """
    for task, by_language in _checked(golds, benchmark, partial=True):
        for language, values in by_language.items():
            _write(Path(folder), task, language, values, labels_text)
    return Path(folder)


def tatoeba_order(english: Sequence[str]) -> list[int]:
    """Return the order in which XTREME's Tatoeba files list a language's English sentences.

    They are sorted by text, so that the answers are not simply 0, 1, 2. The label of a sentence is
    its place before sorting, which is the row of its translation.

    Args:
        english: the English sentences, in the order of their translations.

    Returns:
        Place before sorting of each sentence of the sorted list; these are the labels.
    """
    stripped = [sentence.strip() for sentence in english]
    return sorted(range(len(stripped)), key=lambda place: stripped[place])


@dataclass(frozen=True)
class _Scored:
    """Figures of one language: values by metric, examples, and ids on one side only."""

    values: dict[str, float]
    n: int
    missing: int = 0
    extra: int = 0


@dataclass(frozen=True)
class _TaskScore:
    """Figures of one task by language, and notes on languages that were left out."""

    task: OfficialTask
    languages: dict[str, _Scored]
    left_out: list[str]
    official_rules: bool

    @property
    def official(self) -> bool:
        """Say whether the means are those of the official script."""
        return self.official_rules and not self.left_out

    def main(self) -> dict[str, float]:
        """Return the means of the main figure; for questions that of exact match and F1."""
        first = next(iter(self.languages.values())).values
        keys = ("exact_match", "f1") if self.task.kind == "answers" else (next(iter(first)),)
        means = [self._mean(key) for key in keys]
        return {part: sum(mean[part] for mean in means) / len(means) for part in means[0]}

    def _mean(self, metric: str) -> dict[str, float]:
        return task_mean({name: one.values[metric] for name, one in self.languages.items()})

    def rows(self) -> list[dict[str, Any]]:
        """Return the rows of the languages, then those of the means."""
        name, rows = self.task.name, []
        for language, scored in self.languages.items():
            for metric, value in scored.values.items():
                official = self.official_rules and metric != OWN_METRIC
                row = _row("language", name, language, metric, value, official)
                counts = {"n": scored.n, "missing": scored.missing, "extra": scored.extra}
                rows.append(row | counts)
        metrics = next(iter(self.languages.values())).values
        means = {metric: self._mean(metric) for metric in metrics} | {"metric": self.main()}
        for metric, mean in means.items():
            for part, value in mean.items():
                official = self.official and part == "all" and metric != OWN_METRIC
                rows.append(_row("task", name, part, metric, value, official))
        return rows


def _row(
    level: str, task: str, language: str, metric: str, value: float, official: bool
) -> dict[str, Any]:
    facts = {"level": level, "task": task, "language": language, "metric": metric}
    return facts | {"value": value, "official": official}


def _tasks_of(facts: Benchmark, given: Path, right: Path) -> tuple[list[OfficialTask], list[str]]:
    """Return the tasks that both folders hold, and notes on the others."""
    for folder in (given, right):
        if not folder.is_dir():
            raise MissingData(f"no folder {folder}: expected <task>/test-<language> files in it.")
    inside = [{p.name for p in f.iterdir() if p.is_dir()} for f in (given, right)]
    tasks = [task for name, task in facts.tasks.items() if name in inside[0] & inside[1]]
    if not tasks:
        raise MissingData(
            f"no task of {facts.name} is in both {given} ({', '.join(sorted(inside[0])) or 'empty'}) "
            f"and {right} ({', '.join(sorted(inside[1])) or 'empty'}). Tasks: {', '.join(facts.tasks)}."
        )
    notes = []
    known = {name for one in BENCHMARKS.values() for name in one.tasks}
    for name in sorted(inside[0] - {task.name for task in tasks}):
        if name not in known:
            notes.append(str(unknown(f"task folder of {facts.name}", name, facts.tasks)))
        elif name in facts.tasks:
            notes.append(f"{name}: predictions without a folder of labels were passed over.")
        else:
            notes.append(f"{name}: not a task of {facts.name}; passed over.")
    return tasks, notes


def _path(folder: Path, task: OfficialTask, language: str) -> Path:
    return folder / task.name / f"test-{language}.{task.suffix}"


def _write(
    folder: Path, task: OfficialTask, language: str, values: Any, text: Callable[..., str]
) -> None:
    try:
        content = text(task, values).encode()
    except BadRows as error:
        raise BadRows(f"{task.name} {language}: {error}") from error
    write_atomic(_path(folder, task, language), content)


def _score_task(
    task: OfficialTask, given: Path, right: Path, strict: bool, variant: str
) -> _TaskScore:
    pairs = {lang: (_path(given, task, lang), _path(right, task, lang)) for lang in task.languages}
    absent = [path for both in pairs.values() for path in both if not path.is_file()]
    present = {lang: both for lang, both in pairs.items() if not set(both) & set(absent)}
    if absent and (strict or not present):
        names = ", ".join(str(path) for path in absent[:3]) + (" ..." if len(absent) > 3 else "")
        raise MissingData(
            f"{task.name}: {len(absent)} files of {len(task.languages)} languages are missing: "
            f"{names}. Add them, or pass strict=False to average over the languages that are there."
        )
    notes = [f"{task.name}: {path} is missing; its language was left out." for path in absent]
    rules = task.kind != "candidates" and (task.kind != "tags" or variant == OFFICIAL_VARIANT)
    scored = {
        lang: _Files(task, lang, *both, strict=strict, variant=variant).score()
        for lang, both in present.items()
    }
    return _TaskScore(task, scored, notes, rules)


@dataclass(frozen=True)
class _Files:
    """The two files of one language of a task."""

    task: OfficialTask
    language: str
    given: Path
    right: Path
    strict: bool
    variant: str

    def score(self) -> _Scored:
        """Score the predictions by the rules of the task."""
        by_kind: dict[str, Callable[[], _Scored]] = {
            "labels": self._labels,
            "choices": self._labels,
            "tags": self._tags,
            "pairs": self._pairs,
            "answers": self._answers,
            "entities": self._ranked,
            "candidates": self._ranked,
        }
        try:
            return by_kind[self.task.kind]()
        except BadRows as error:
            named = str(self.given) in str(error) or str(self.right) in str(error)
            where = "" if named else f"{self.given}: "
            raise BadRows(f"{self.task.name} {self.language}: {where}{error}") from error

    def _labels(self) -> _Scored:
        given, right = self._read()
        self._refuse_other_lengths(given, right, "rows")
        if self.strict and any("\t" in str(label) for label in given):
            raise BadRows(f"{self.given}: a line holds more than a label. Write the label alone.")
        strange = sorted(set(given) - {*XNLI_LABELS, *right}) if self.task.name == "xnli" else []
        if self.strict and strange:
            raise BadRows(
                f"{self.given}: label {strange[0]!r}; expected {', '.join(XNLI_LABELS)}. Is the "
                "file whole?"
            )
        hits = sum(one == other for one, other in zip(given, right, strict=True))
        # Strict scoring also refuses label ids beside label names, which never match.
        value = accuracy(given, right)["accuracy"] if self.strict else hits / len(right)
        return _Scored({"accuracy": value}, len(right))

    def _tags(self) -> _Scored:
        given, right = self._read()
        self._refuse_other_lengths(given, right, "sentences")
        values = span_f1(given, right, self.variant, ragged=not self.strict)
        return _Scored(values, len(right))

    def _pairs(self) -> _Scored:
        given, right = self._read()
        for path, pairs in ((self.given, given), (self.right, right)):
            wrong = [number for number, pair in enumerate(pairs, start=1) if len(pair) != 2]
            if wrong and self.strict:
                raise BadRows(f"{path}, line {wrong[0]}: expected two ids with a tab between them.")
        return _Scored(pair_f1(given, right), len(set(right)))

    def _answers(self) -> _Scored:
        given, articles = self._read()
        self._refuse_other_forms(self.given, given)
        asked = questions(articles, self.right)
        self._refuse_unknown(given, {name for name, _ in asked})
        # Numbered, because a question that the labels hold twice counts twice.
        answers = {str(i): given[name] for i, (name, _) in enumerate(asked) if name in given}
        golds = {str(i): texts for i, (_, texts) in enumerate(asked)}
        if not all(isinstance(answer, str) for answer in answers.values()):
            raise BadRows(f"{self.given}: an answer is not text. Expected question id: answer.")
        if self.task.metric == "mlqa":
            values = mlqa(answers, golds, self.language, unanswered="zero")
        else:
            values = squad(answers, golds, unanswered="zero")
        extra = len(given.keys() - {name for name, _ in asked})
        values = {key: values[key] for key in ("exact_match", "f1")}
        return _Scored(values, len(golds), len(golds) - len(answers), extra)

    def _ranked(self) -> _Scored:
        given, right = self._read()
        for path, lists in ((self.given, given), (self.right, right)):
            self._refuse_other_forms(path, lists)
            if not all(isinstance(ids, list) for ids in lists.values()):
                raise BadRows(f"{path}: expected a list of ids for each query id.")
            if not all(isinstance(one, str) for ids in lists.values() for one in ids):
                raise BadRows(f"{path}: an id is not text. Expected query id: list of ids.")
        self._refuse_unknown(given, right.keys())
        if not all(right.values()):
            raise BadRows(f"{self.right}: a query has no right id.")
        ranked = [given.get(name, []) for name in right]
        if self.task.kind == "entities":
            # The file holds one entity in a list; the official script reads the first alone.
            value = mrr_at_k(ranked, [[ids[0].strip()] for ids in right.values()], CUT)["mrr"]
        else:
            value = map_at_k(ranked, list(right.values()), CUT)["map"]
        missing, extra = len(right.keys() - given.keys()), len(given.keys() - right.keys())
        return _Scored({f"map@{CUT}": value}, len(right), missing, extra)

    def _read(self) -> tuple[Any, Any]:
        """Return the contents of both files; nothing can be scored without labels."""
        kind = self.task.kind
        contents = tuple(read(path, kind, self.strict) for path in (self.given, self.right))
        scored_empty = kind in ("pairs", "answers", "entities", "candidates") and not self.strict
        for path, content in zip((self.given, self.right), contents, strict=True):
            if not content and not (scored_empty and path == self.given):
                raise BadRows(f"{path} is empty: expected one line or entry per example.")
        return contents[0], contents[1]

    def _refuse_other_lengths(self, given: Sequence[Any], right: Sequence[Any], what: str) -> None:
        if len(given) != len(right):
            raise BadRows(
                f"{self.given}: {len(given)} {what}, but {self.right} has {len(right)}. Expected one "
                "prediction per example, in the order of the labels, without blank lines between."
            )

    def _refuse_other_forms(self, path: Path, content: Any) -> None:
        if not isinstance(content, Mapping):
            raise BadRows(f"{path}: expected a JSON object with an entry for each id.")

    def _refuse_unknown(self, given: Mapping[str, Any], right: Iterable[str]) -> None:
        extra = given.keys() - set(right)
        if extra and self.strict:
            names = ", ".join(sorted(map(repr, extra))[:3])
            raise BadRows(
                f"{self.given}: {len(extra)} ids are not in {self.right}, such as {names}."
            )


def _checked(
    values: Mapping[str, Mapping[str, Any]], benchmark: str, partial: bool
) -> list[tuple[OfficialTask, Mapping[str, Any]]]:
    facts = rules(benchmark)
    if not values:
        raise BadRows("nothing to write: give values by task and language.")
    checked = []
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
        checked.append((task, by_language))
    return checked
