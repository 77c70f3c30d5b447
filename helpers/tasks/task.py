"""The facts of one task: what it asks, where its rows are, how it is scored."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Format = Literal["pair", "choice", "tagging", "span", "retrieval"]
Role = Literal["intermediate", "target"]
Row = dict[str, Any]
Adapt = Callable[[Row, str], Row | None]
Read = Callable[[str, str], Sequence[Row]]

FORMATS: tuple[Format, ...] = ("pair", "choice", "tagging", "span", "retrieval")


@dataclass(frozen=True)
class Source:
    """Where the rows of a task lie.

    Attributes:
        kind: ``"hub"`` (a data set in hub layout, from a mirror folder or the hub), ``"package"``
            (files inside an installed package) or ``"rows"`` (a function given by the user).
        id: hub id (``owner/name``) or pip requirement (``name==version``).
        config: configuration name; ``{language}`` is replaced by the language code.
        configs: configuration per language where the pattern is irregular (``af: udpos.Afrikaans``).
        splits: our split (``train``, ``dev``, ``test``) to the source's own split name.
        revision: pinned commit of a hub data set.
        read: for ``package`` and ``rows``: ``read(language, split)`` gives the raw rows.
        counts: expected rows, keyed ``"split"`` or ``"language/split"``; checked on the hub.
        licence: licence as stated by the publisher.
    """

    kind: Literal["hub", "package", "rows"]
    id: str
    config: str = ""
    configs: Mapping[str, str] = field(default_factory=dict)
    splits: Mapping[str, str] = field(default_factory=lambda: {"train": "train"})
    revision: str = ""
    read: Read | None = None
    counts: Mapping[str, int] = field(default_factory=dict)
    licence: str = ""

    def config_for(self, language: str) -> str:
        """Return the configuration that holds a language."""
        return self.configs.get(language, self.config.format(language=language))


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
        columns: our field (see ``helpers.data``) to the source's column; unnamed fields keep theirs.
        labels: label names in the order of their ids; empty for span and retrieval.
        languages: codes as XTREME writes them; ``("en",)`` for an intermediate.
        train_with: name of the task whose English rows train this target; empty: its own.
        adapt: ``adapt(row, language)`` where columns alone cannot say it; ``None`` drops the row.
        metric: name of the main score in ``helpers.metrics``.
        chance: score of guessing, from 0 to 1.
        max_length: longest input in sub-tokens.
        settings: training settings that differ from the profile's.
        about: what a reader wants to know.
        group: benchmark it belongs to (``xtreme``, ``xtreme-r``, ``embedded``); several by comma.
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
    metric: str = "accuracy"
    chance: float = 0.0
    max_length: int = 128
    settings: Mapping[str, Any] = field(default_factory=dict)
    about: About = About()
    group: str = ""
