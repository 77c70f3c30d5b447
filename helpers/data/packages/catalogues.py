"""Messages and their translations from Django's gettext catalogues, as sentence pairs."""

from __future__ import annotations

import gettext
import hashlib
import re
import struct
from functools import lru_cache
from pathlib import Path
from typing import Any

from helpers.data.packages.installed import folder, pip_line
from helpers.errors import BadRows, MissingData

Row = dict[str, Any]

# Messages must be translated in all of these, so that every language has the same pool.
POOL = tuple("ar az bg de el es et fa fi fr he hu id it ja ko ms nl pl ru tr zh".split())
MIN_WORDS = 4
_DEV_SHARE = 1 / 3
_LOCALES = {"zh": "zh_Hans"}
# Placeholders, markup, escapes, line breaks and addresses are copied, not translated.
_MARKED = re.compile(r"[%{}<>&\n\\]|https?:")


def read(requirement: str, config: str, language: str, split: str) -> list[Row]:
    """Return the pairs of one split in one language.

    Args:
        requirement: ``"django==5.2.19"``.
        config: unused; there is one set.
        language: code as XTREME writes it.
        split: ``"dev"`` (a third of the messages) or ``"test"``; no message is in both.

    Returns:
        Rows ``{id, english, translation, same}``; ``same`` lists the ids of messages whose
        translation is spelled alike and therefore right as well.
    """
    pool = [m for m in common(requirement) if _in_dev(m) == (split == "dev")]
    pairs = messages(requirement, language)
    missing = [message for message in pool if message not in pairs]
    if missing:
        raise BadRows(
            f"Django's catalogue of {language!r} lacks {len(missing)} messages of the common "
            f"pool, first {missing[0]!r}; languages with all: {', '.join(POOL)}"
        )
    alike: dict[str, list[str]] = {}
    for message in pool:
        alike.setdefault(pairs[message].casefold(), []).append(_id(message))
    return [
        {
            "id": _id(message),
            "english": message,
            "translation": pairs[message],
            "same": alike[pairs[message].casefold()],
        }
        for message in pool
    ]


@lru_cache(maxsize=4)
def common(requirement: str) -> tuple[str, ...]:
    """Return the messages that are translated in every language of the pool, sorted."""
    return tuple(sorted(set.intersection(*(set(messages(requirement, code)) for code in POOL))))


@lru_cache(maxsize=64)
def messages(requirement: str, language: str) -> dict[str, str]:
    """Return English message -> translation, cleaned.

    Kept are messages of at least four words without placeholder, markup or line break, whose
    translation is not a copy of the English. Of two messages that differ only in context, the
    first catalogue's translation is kept.
    """
    pairs: dict[str, str] = {}
    for path in _catalogues(requirement, language):
        for key, translation in _entries(path, requirement).items():
            if not isinstance(key, str) or not isinstance(translation, str):
                continue
            english, translation = key.split("\x04")[-1].strip(), translation.strip()
            if _clean(english, translation):
                pairs.setdefault(english, translation)
    return pairs


def _clean(english: str, translation: str) -> bool:
    return (
        len(english.split()) >= MIN_WORDS
        and bool(translation)
        and translation != english
        and not _MARKED.search(english + translation)
    )


def _catalogues(requirement: str, language: str) -> list[Path]:
    root = folder("django", requirement)
    locale = _LOCALES.get(language, language)
    files = sorted(root.glob(f"**/locale/{locale}/LC_MESSAGES/*.mo"))
    if not files:
        raise MissingData(
            f"{requirement} has no catalogues for {language!r} below {root}; run: "
            f"{pip_line(requirement)} --force-reinstall"
        )
    return files


def _entries(path: Path, requirement: str) -> dict[Any, Any]:
    try:
        with path.open("rb") as file:
            # gettext offers single look-ups only; the parsed table is its one listing.
            return dict(gettext.GNUTranslations(file)._catalog)  # type: ignore[attr-defined]
    except (OSError, UnicodeDecodeError, struct.error) as error:
        raise BadRows(
            f"{path} is damaged ({error}); run: {pip_line(requirement)} --force-reinstall"
        ) from error


def _in_dev(message: str) -> bool:
    return int(hashlib.sha256(message.encode()).hexdigest()[:8], 16) / 16**8 < _DEV_SHARE


def _id(message: str) -> str:
    return hashlib.sha256(message.encode()).hexdigest()[:12]
