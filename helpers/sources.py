"""Raw rows of a source: a mirror folder, the hub, an installed package, or a function."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa

from helpers import packages
from helpers.errors import BadRows, HelpfulError, MissingData, unknown
from helpers.tasks.task import Row, Source

ROOT_VARIABLE = "TRANSFER_DATA_ROOT"


@dataclass(frozen=True)
class Raw:
    """Raw rows of one source, language and split.

    Attributes:
        rows: a sequence of dicts, or a memory-mapped ``datasets.Dataset``.
        origin: where they were found: ``"mirror /path"``, ``"hub id@revision"``, ...
        class_names: label names the source states, by column.
    """

    rows: Any
    origin: str
    class_names: Mapping[str, Sequence[str]] = field(default_factory=dict)


def root() -> Path | None:
    """Return the mirror folder that ``TRANSFER_DATA_ROOT`` names, if any.

    Raises:
        MissingData: the variable names something that is not a folder.
    """
    value = os.environ.get(ROOT_VARIABLE, "")
    if not value:
        return None
    path = Path(value).expanduser().resolve()
    if not path.is_dir():
        raise MissingData(f"{ROOT_VARIABLE}={value!r} is not a folder; unset it to use the hub")
    return path


def load(source: Source, language: str, split: str) -> Raw:
    """Load the raw rows of one source.

    Args:
        source: a source without parts.
        language: code of the language asked for.
        split: our split name, one of ``source.splits``.

    Raises:
        MissingData: the data are neither there nor reachable.
        BadRows: a file is damaged or not what the source says.
    """
    language = source.language or language
    name = source.splits[split]
    raw = _LOADERS[source.kind](source, language, name)
    if source.divide:
        raw = Raw(_divided(raw.rows, source, split), raw.origin, raw.class_names)
    return raw


def three_ways(source: Source) -> str:
    """Return what to do where a data set is not at hand."""
    revision = f" --revision {source.revision}" if source.revision else ""
    return (
        f"Three ways to get {source.id}: "
        f"(1) on a machine with network, unset HF_HUB_OFFLINE and {ROOT_VARIABLE} and run again; "
        f"(2) download it elsewhere with `hf download {source.id} --repo-type dataset{revision} "
        f"--local-dir ROOT/{source.id}`, copy ROOT here and set {ROOT_VARIABLE}=ROOT; "
        f"(3) set {ROOT_VARIABLE} to any folder that holds it in hub layout, "
        "or work with the embedded tasks: helpers.tasks.names(group='embedded')."
    )


def _package(source: Source, language: str, split: str) -> Raw:
    if source.read is not None:
        return Raw(source.read(language, split), f"package {source.id}")
    rows = packages.read(source.id, source.config_for(language), language, split)
    if isinstance(rows, pa.Table):
        return Raw(rows.to_pylist(), f"package {source.id}", packages.olmo.class_names(rows))
    return Raw(rows, f"package {source.id}")


def _function(source: Source, language: str, split: str) -> Raw:
    if source.read is None:
        raise HelpfulError(f"source {source.id!r} of kind 'rows' needs read=function")
    return Raw(source.read(language, split), f"rows {source.id}")


def _hub(source: Source, language: str, split: str) -> Raw:
    folder = root()
    config = source.config_for(language) or None
    if folder is None:
        _guard_working_folder(source)
        where, origin = source.id, f"hub {source.id}@{source.revision or 'main'}"
        options = {"revision": source.revision} if source.revision else {}
    else:
        path = folder / source.id
        if not path.is_dir():
            raise MissingData(f"{path} is not there ({ROOT_VARIABLE} is set). {three_ways(source)}")
        where, origin, options = str(path), f"mirror {path}", {}
    with _explained(source, origin, config, split), _quiet():
        data = datasets.load_dataset(where, config, split=split, **options)
    return Raw(data, origin, class_names(data.features))


def _guard_working_folder(source: Source) -> None:
    """`datasets` opens a folder named like the id in place of the hub; never do that unasked."""
    if Path(source.id).exists():
        raise MissingData(
            f"folder {Path(source.id).resolve()} would be read in place of the hub's {source.id}; "
            f"rename it, or set {ROOT_VARIABLE}={Path.cwd()} if you mean it"
        )


@contextmanager
def _explained(source: Source, origin: str, config: str | None, split: str) -> Iterator[None]:
    """Turn the errors of `datasets` into ones that say what to do next."""
    what = f"{source.id}, configuration {config!r}, split {split!r}"
    try:
        yield
    except (ConnectionError, datasets.exceptions.DatasetNotFoundError) as error:
        raise MissingData(
            f"cannot reach {what} on the hub ({error}). {three_ways(source)}"
        ) from error
    except ValueError as error:
        raise MissingData(
            f"{origin} has no {what}: {_first_line(error)}. {three_ways(source)}"
        ) from error
    except RuntimeError as error:
        raise MissingData(
            f"{what} cannot be loaded: {_first_line(error)}. If it says that scripts are no longer "
            f"supported, another revision is needed. {three_ways(source)}"
        ) from error
    except (OSError, pa.ArrowException, datasets.exceptions.DatasetGenerationError) as error:
        raise BadRows(
            f"{what} of {origin} is damaged: {_first_line(error.__cause__ or error)}; "
            "fetch the file again"
        ) from error


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [repr(error)])[0]


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep `datasets`' own progress bars out of chapters."""
    shown = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            datasets.enable_progress_bars()


def class_names(features: datasets.Features) -> dict[str, Sequence[str]]:
    """Return the label names of every ClassLabel column, nested in lists or not."""
    found: dict[str, Sequence[str]] = {}
    for name, feature in features.items():
        while hasattr(feature, "feature"):
            feature = feature.feature
        if isinstance(feature, datasets.ClassLabel):
            found[name] = feature.names
    return found


def _divided(rows: Sequence[Row], source: Source, split: str) -> list[Row]:
    """Keep one side of a published split that is divided into our train and dev by content."""
    groups = _groups(rows, source.divide)
    kept = []
    for row, group in zip(rows, groups, strict=True):
        key = json.dumps([str(rows[group][column]) for column in source.divide])
        share = int(hashlib.sha256(key.encode()).hexdigest()[:8], 16) / 16**8
        if (share < DEV_SHARE) == (split == "dev"):
            kept.append(row)
    return kept


DEV_SHARE = 0.2


def _groups(rows: Sequence[Row], columns: Sequence[str]) -> list[int]:
    """Give each row the first row that it is linked to by an equal value of any column."""
    parent = list(range(len(rows)))

    def find(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for column in columns:
        first: dict[str, int] = {}
        for i, row in enumerate(rows):
            a, b = find(i), find(first.setdefault(str(row[column]), i))
            parent[max(a, b)] = min(a, b)
    return [find(i) for i in range(len(rows))]


_LOADERS = {"hub": _hub, "package": _package, "rows": _function}
__all__ = ["Raw", "class_names", "load", "root", "three_ways", "unknown"]
