"""Sentences with intent and slots, drawn from the templates of ``home-assistant-intents``.

English templates are divided into train, dev and test before a sentence is drawn, and a dev or
test sentence that equals a training sentence up to its slot fillers is dropped. Other languages
are for evaluation only. The draw is seeded by a constant: one fixed data set per package version.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from random import Random
from typing import Any

from helpers.data.packages.fillers import FILLERS
from helpers.data.packages.installed import folder, pip_line
from helpers.data.packages.templates import Piece, Sampler, Unusable
from helpers.errors import BadRows, MissingData

Row = dict[str, Any]

SEED = 13
SENTENCES = {"train": 60, "dev": 12, "test": 12}
_SHARES = (0.6, 0.8)
_TRIES = 20
_MIN_TEMPLATES = 5
# Templates longer than this come from rules that accept almost anything; people do not say them.
_MAX_TOKENS = 25
# The package's file name where it differs from the language code of XTREME.
_FILES = {"zh": "zh-CN"}
_CHARACTER_TOKENS = {"zh", "th"}
_WORD = re.compile(r"[^\s,;!?%°]+|[,;!?%°]")
_CHARACTER = re.compile(r"[A-Za-z0-9.]+|\S")
_FREE = {
    "area": "area",
    "floor": "floor",
    "shopping_list_item": "item",
    "todo_list_item": "item",
    "timer_name": "item",
}
# Which of the fillers "device" a template may name, by the kind of device it asks for.
_DEVICES: dict[str, Sequence[int]] = {
    "light": (0,),
    "switch": (0, 1, 2, 3, 4),
    "input_boolean": (0, 1, 2, 3, 4),
    "fan": (2,),
    "media_player": (1, 3),
    "climate": (4,),
}
_DOORS = {"cover", "lock", "valve"}


@dataclass(frozen=True)
class Sentence:
    """One drawn sentence.

    Attributes:
        intent: name of the intent, as the package writes it.
        text: the sentence.
        tokens: its words (characters in Chinese and Thai).
        slots: per token, the slot it lies in with a ``B-`` or ``I-`` before it, or ``"O"``.
        shape: the sentence with its slots in place of their fillers, for the leak check.
        template: the template it was drawn from.
    """

    intent: str
    text: str
    tokens: tuple[str, ...]
    slots: tuple[str, ...]
    shape: str
    template: str


def read(requirement: str, config: str, language: str, split: str) -> list[Row]:
    """Return rows for intent classification or slot tagging.

    Args:
        requirement: ``"home-assistant-intents==2026.10.27"``.
        config: ``"intents"`` or ``"slots"``.
        language: code as XTREME writes it.
        split: ``"train"``, ``"dev"`` or ``"test"``; only English has the first two.

    Returns:
        Rows ``{id, text, intent}`` or ``{id, tokens, slots}``.
    """
    if language != "en" and split != "test":
        raise BadRows(f"commands in {language!r} are for evaluation only: split {split!r} is 'en'")
    sentences = draw(requirement, language)[split]
    rows = []
    for sentence in sentences:
        row: Row = {"id": f"{language}-{split}-{_digest(sentence.text)[:12]}"}
        if config == "intents":
            row |= {"text": sentence.text, "intent": sentence.intent}
        else:
            row |= {"tokens": list(sentence.tokens), "slots": list(sentence.slots)}
        rows.append(row)
    return rows


@lru_cache(maxsize=64)
def draw(requirement: str, language: str) -> dict[str, tuple[Sentence, ...]]:
    """Draw every sentence of a language: split -> sentences, in a fixed order."""
    pools = templates(requirement, language)
    by_split: dict[str, list[Sentence]] = defaultdict(list)
    for intent, pool in pools.items():
        parts = _divide(sorted(pool)) if language == "en" else {"test": sorted(pool)}
        for split, part in parts.items():
            random = Random(f"{SEED}:{language}:{intent}:{split}")
            wanted = [_Draw(template, pool[template]) for template in part]
            by_split[split] += _draw_some(requirement, language, intent, wanted, split, random)
    return _without_leaks(requirement, language, by_split)


def templates(requirement: str, language: str) -> dict[str, dict[str, tuple[str, ...]]]:
    """Return intent -> template -> kinds of device, for the templates that can be drawn from."""
    pools: dict[str, dict[str, tuple[str, ...]]] = {}
    for intent, facts in _load(requirement, language)["intents"].items():
        pool: dict[str, tuple[str, ...]] = {}
        for block in facts["data"]:
            domains = block.get("requires_context", {}).get("domain", ())
            domains = (domains,) if isinstance(domains, str) else tuple(domains)
            for template in block["sentences"]:
                if _drawable(requirement, language, template, domains):
                    pool[template] = domains
        pools[intent] = pool
    return pools


@lru_cache(maxsize=64)
def _load(requirement: str, language: str) -> dict[str, Any]:
    root = folder("home_assistant_intents", requirement) / "data"
    path = root / f"{_FILES.get(language, language)}.json"
    if not path.is_file():
        raise MissingData(
            f"{requirement} has no sentences in {language!r} ({path}); run: "
            f"{pip_line(requirement)} --force-reinstall"
        )
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BadRows(
            f"{path} is damaged ({error}); run: {pip_line(requirement)} --force-reinstall"
        ) from error


@dataclass(frozen=True)
class _Draw:
    template: str
    domains: tuple[str, ...]


def _sampler(requirement: str, language: str, domains: tuple[str, ...]) -> Sampler:
    data = _load(requirement, language)
    lists = data.get("lists", {})

    def words(name: str, slot: str, random: Random) -> str:
        options = _options(lists.get(name), name, language, domains)
        return options[int(random.random() * len(options))]

    return Sampler(data["expansion_rules"], words)


def _options(
    values: dict[str, Any] | None, name: str, language: str, domains: tuple[str, ...]
) -> Sequence[str]:
    if values and "values" in values:
        return [v["in"] if isinstance(v, dict) else v for v in values["values"]]
    if values and "range" in values:
        numbers = values["range"]
        # A timer accepts 100 hours and a lamp 0 percent; people say smaller and larger numbers.
        top = min(numbers["to"], 59) if name.startswith("timer") else numbers["to"]
        return [str(n) for n in range(max(1, numbers["from"]), top + 1, numbers.get("step", 1))]
    if name == "name":
        return _names(language, domains)
    if name in _FREE and language in FILLERS:
        return FILLERS[language][_FREE[name]]
    raise Unusable(f"{{{name}}}")


def _names(language: str, domains: tuple[str, ...]) -> Sequence[str]:
    if language not in FILLERS:
        raise Unusable("{name}")
    words = FILLERS[language]
    if domains and set(domains) <= _DOORS:
        return words["door"]
    allowed = {i for domain in domains for i in _DEVICES.get(domain, ())}
    if domains and not allowed:
        raise Unusable("{name}")
    return [words["device"][i] for i in sorted(allowed or range(len(words["device"])))]


def _drawable(requirement: str, language: str, template: str, domains: tuple[str, ...]) -> bool:
    sampler = _sampler(requirement, language, domains)
    random = Random(f"{SEED}:{template}")
    for _ in range(_TRIES):
        try:
            pieces = sampler.draw(template, random)
        except Unusable:
            continue
        if _has_words(pieces):
            return True
    return False


def _has_words(pieces: Iterable[Piece]) -> bool:
    """A template of nothing but slots says nothing about its intent."""
    return any(c.isalpha() for piece in pieces if not piece.slot for c in piece.text)


def _divide(pool: list[str]) -> dict[str, list[str]]:
    """Divide templates by the hash of their text, each split getting at least one."""
    order = sorted(pool, key=_digest)
    if len(order) < _MIN_TEMPLATES:
        return {}
    first, second = (max(1, round(share * len(order))) for share in _SHARES)
    return {"train": order[:first], "dev": order[first:second], "test": order[second:]}


def _draw_some(
    requirement: str,
    language: str,
    intent: str,
    wanted: Sequence[_Draw],
    split: str,
    random: Random,
) -> list[Sentence]:
    found: dict[str, Sentence] = {}
    for _ in range(SENTENCES[split] * _TRIES if wanted else 0):
        if len(found) == SENTENCES[split]:
            break
        draw = wanted[int(random.random() * len(wanted))]
        try:
            pieces = _sampler(requirement, language, draw.domains).draw(draw.template, random)
        except Unusable:
            continue
        sentence = _sentence(language, intent, draw.template, pieces)
        if _has_words(pieces) and len(sentence.tokens) <= _MAX_TOKENS:
            found.setdefault(sentence.text.casefold(), sentence)
    return list(found.values())


def _sentence(language: str, intent: str, template: str, pieces: Sequence[Piece]) -> Sentence:
    text, owner = _spell(pieces)
    pattern = _CHARACTER if language in _CHARACTER_TOKENS else _WORD
    tokens, tags, last = [], [], -1
    for match in pattern.finditer(text):
        inside = [i for i in owner[match.start() : match.end()] if i >= 0]
        current = inside[0] if inside else -1
        slot = pieces[current].slot if current >= 0 else ""
        tokens.append(match.group())
        tags.append(f"{'I' if current == last else 'B'}-{slot}" if slot else "O")
        last = current
    shape = "".join(f"{{{p.slot}}}" if p.slot else p.text for p in pieces)
    shape = " ".join(shape.casefold().split())
    return Sentence(intent, text, tuple(tokens), tuple(tags), shape, template)


def _spell(pieces: Sequence[Piece]) -> tuple[str, list[int]]:
    """Join pieces, collapse white space; give per character the piece whose slot it fills, or -1."""
    text, owner = "", []
    for number, piece in enumerate(pieces):
        for character in piece.text:
            if character.isspace():
                character = " "
                if not text or text[-1] == " ":
                    continue
            text += character
            owner.append(number if piece.slot else -1)
    stripped = text.rstrip(" ")
    return stripped, owner[: len(stripped)]


def _without_leaks(
    requirement: str, language: str, by_split: dict[str, list[Sentence]]
) -> dict[str, tuple[Sentence, ...]]:
    """Drop sentences of two intents, and dev or test sentences seen in an earlier split."""
    intents = defaultdict(set)
    for sentence in (s for part in by_split.values() for s in part):
        intents[sentence.text.casefold()].add(sentence.intent)
    seen: set[str] = set()
    if language != "en":
        seen = {s.shape for s in draw(requirement, "en")["train"]}
    kept = {}
    for split in ("train", "dev", "test"):
        part = [
            s
            for s in by_split.get(split, [])
            if len(intents[s.text.casefold()]) == 1 and s.shape not in seen
        ]
        seen |= {s.shape for s in part}
        kept[split] = tuple(part)
    return kept


def _digest(text: str) -> str:
    return hashlib.sha256(f"{SEED}:{text}".encode()).hexdigest()
