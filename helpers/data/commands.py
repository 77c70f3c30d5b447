"""Sentences with intent and slots, drawn from the templates of ``home-assistant-intents``.

English templates are divided into train, dev and test before a sentence is drawn, and a dev or
test sentence that equals a training sentence up to its slot fillers is dropped. Other languages
are for evaluation only. The draw is seeded by a constant: one fixed data set per package version.

The package's template language: ``(a|b)`` one of, ``[a]`` or nothing, ``(a;b)`` in any order,
``<rule>`` a named template, ``{list}`` or ``{list:slot}`` a slot; everything else is text. Rooms,
devices and shopping items are left to its users: data/command_words.csv holds short lists written
for this project, in the base form, the form in which the assistant matches names.
"""

from __future__ import annotations

import csv
import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache
from pathlib import Path
from random import Random
from typing import Any, Literal

from helpers.data.packages import damaged, folder, pip_line
from helpers.errors import BadRows, MissingData
from helpers.tasks import Row

WORDS = Path(__file__).resolve().parents[2] / "data" / "command_words.csv"
SEED = 13
SENTENCES = {"train": 60, "dev": 12, "test": 12}
_SHARES = (0.6, 0.8)
_TRIES = 20
_MIN_TEMPLATES = 5
_MAX_DEPTH = 12
# Templates longer than this come from rules that accept almost anything; people do not say them.
_MAX_TOKENS = 25
# The package's file name where it differs from the language code of XTREME.
_FILES = {"zh": "zh-CN"}
_CHARACTER_TOKENS = {"zh", "th"}
_WORD = re.compile(r"[^\s,;!?%°]+|[,;!?%°]")
_CHARACTER = re.compile(r"[A-Za-z0-9.]+|\S")
_SIGN = re.compile(r"\{[^{}]*\}|<[^<>]*>|[()\[\]|;]|[^(){}\[\]<>|;]+")
# Slots whose words are those of a list of data/command_words.csv.
_FREE = {
    "area": "area",
    "floor": "floor",
    "shopping_list_item": "item",
    "todo_list_item": "item",
    "timer_name": "item",
}
# Which of the words "device" a template may name, by the kind of device it asks for.
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
    """Return rows ``{id, text, intent}`` of config "intents", or ``{id, tokens, slots}`` of "slots".

    Only English has the splits ``"train"`` and ``"dev"``.
    """
    if language != "en" and split != "test":
        raise BadRows(f"commands in {language!r} are for evaluation only: split {split!r} is 'en'")
    rows: list[Row] = []
    for sentence in draw(requirement, language)[split]:
        name = {"id": f"{language}-{split}-{_digest(sentence.text)[:12]}"}
        if config == "intents":
            rows.append(name | {"text": sentence.text, "intent": sentence.intent})
        else:
            rows.append(name | {"tokens": list(sentence.tokens), "slots": list(sentence.slots)})
    return rows


@lru_cache(maxsize=64)
def draw(requirement: str, language: str) -> dict[str, tuple[Sentence, ...]]:
    """Draw every sentence of a language: split -> sentences, in a fixed order."""
    by_split: dict[str, list[Sentence]] = defaultdict(list)
    for intent, pool in templates(requirement, language).items():
        order = sorted(pool)
        for split, part in (_divided(order) if language == "en" else {"test": order}).items():
            random = Random(f"{SEED}:{language}:{intent}:{split}")
            wanted = [(template, pool[template]) for template in part]
            found: dict[str, Sentence] = {}
            for _ in range(SENTENCES[split] * _TRIES if wanted else 0):
                if len(found) == SENTENCES[split]:
                    break
                template, domains = wanted[int(random.random() * len(wanted))]
                try:
                    pieces = _sampler(requirement, language, domains).draw(template, random)
                except Unusable:
                    continue
                sentence = _sentence(language, intent, template, pieces)
                if _has_words(pieces) and len(sentence.tokens) <= _MAX_TOKENS:
                    found.setdefault(sentence.text.casefold(), sentence)
            by_split[split] += found.values()
    return _without_leaks(requirement, language, by_split)


def _divided(templates: list[str]) -> dict[str, list[str]]:
    """Divide templates by the hash of their text, each split getting at least one."""
    order = sorted(templates, key=_digest)
    if len(order) < _MIN_TEMPLATES:
        return {}
    first, second = (max(1, round(share * len(order))) for share in _SHARES)
    return {"train": order[:first], "dev": order[first:second], "test": order[second:]}


def _without_leaks(
    requirement: str, language: str, by_split: Mapping[str, list[Sentence]]
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


def templates(requirement: str, language: str) -> dict[str, dict[str, tuple[str, ...]]]:
    """Return intent -> template -> kinds of device, for the templates that can be drawn from."""
    pools: dict[str, dict[str, tuple[str, ...]]] = {}
    for intent, facts in _load(requirement, language)["intents"].items():
        pools[intent] = {}
        for block in facts["data"]:
            domains = block.get("requires_context", {}).get("domain", ())
            domains = (domains,) if isinstance(domains, str) else tuple(domains)
            for template in block["sentences"]:
                if _drawable(_sampler(requirement, language, domains), template):
                    pools[intent][template] = domains
    return pools


def _drawable(sampler: Sampler, template: str) -> bool:
    """Say whether some of twenty draws is a sentence."""
    random = Random(f"{SEED}:{template}")
    for _ in range(_TRIES):
        try:
            if _has_words(sampler.draw(template, random)):
                return True
        except Unusable:
            continue
    return False


def _has_words(pieces: Iterable[Piece]) -> bool:
    """A template of nothing but slots says nothing about its intent."""
    return any(c.isalpha() for piece in pieces if not piece.slot for c in piece.text)


@lru_cache(maxsize=64)
def _load(requirement: str, language: str) -> dict[str, Any]:
    path = folder(requirement) / "data" / f"{_FILES.get(language, language)}.json"
    if not path.is_file():
        raise MissingData(
            f"{requirement} has no sentences in {language!r} ({path}); run: "
            f"{pip_line(requirement)} --force-reinstall"
        )
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise damaged(path, requirement, error) from error


@cache
def words() -> dict[str, dict[str, list[str]]]:
    """Return language -> kind (area, floor, device, door, item) -> words of our own."""
    with WORDS.open(encoding="utf-8", newline="") as file:
        return {
            row.pop("language"): {kind: listed.split("|") for kind, listed in row.items()}
            for row in csv.DictReader(file)
        }


def _sampler(requirement: str, language: str, domains: tuple[str, ...]) -> Sampler:
    data = _load(requirement, language)
    lists = data.get("lists", {})

    def fill(name: str, random: Random) -> str:
        options = _options(lists.get(name), name, language, domains)
        return options[int(random.random() * len(options))]

    return Sampler(data["expansion_rules"], fill)


def _options(
    values: dict[str, Any] | None, name: str, language: str, domains: tuple[str, ...]
) -> Sequence[str]:
    """Return what may fill a slot: the package's values or numbers, else words of our own."""
    if values and "values" in values:
        return [v["in"] if isinstance(v, dict) else v for v in values["values"]]
    if values and "range" in values:
        numbers = values["range"]
        # A timer accepts 100 hours and a lamp 0 percent; people say smaller and larger numbers.
        top = min(numbers["to"], 59) if name.startswith("timer") else numbers["to"]
        return [str(n) for n in range(max(1, numbers["from"]), top + 1, numbers.get("step", 1))]
    own = words().get(language, {})
    if own and name in _FREE:
        return own[_FREE[name]]
    if not own or name != "name":
        raise Unusable(f"{{{name}}}")
    if domains and set(domains) <= _DOORS:
        return own["door"]
    allowed = {i for domain in domains for i in _DEVICES.get(domain, ())}
    if domains and not allowed:
        raise Unusable("{name}")
    return [own["device"][i] for i in sorted(allowed or range(len(own["device"])))]


def _sentence(language: str, intent: str, template: str, pieces: Sequence[Piece]) -> Sentence:
    """Spell a sentence and cut it into tokens, each with the slot that it lies in."""
    text, owner = "", []
    for number, piece in enumerate(pieces):
        for character in piece.text:
            if character.isspace():
                character = " "
                if not text or text[-1] == " ":
                    continue
            text += character
            owner.append(number if piece.slot else -1)
    text = text.rstrip(" ")
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


def _digest(text: str) -> str:
    return hashlib.sha256(f"{SEED}:{text}".encode()).hexdigest()


@dataclass(frozen=True)
class Node:
    """One piece of a template: text, or a way to put smaller pieces together."""

    kind: Literal["text", "all", "any", "order", "rule", "slot"]
    text: str = ""
    parts: tuple[Node, ...] = ()


@dataclass(frozen=True)
class Piece:
    """A stretch of a drawn sentence and the slot that it fills (empty: none)."""

    text: str
    slot: str = ""


class Unusable(Exception):
    """A draw met a slot or a rule for which there are no words."""


@cache
def parse(template: str) -> Node:
    """Parse a template; BadRows where brackets do not match."""
    signs = _SIGN.findall(template)
    if "".join(signs) != template:
        raise BadRows(f"template {template!r}: a brace or angle bracket does not match")
    node, position = _choice(signs, 0, "", template)
    if position != len(signs):
        raise BadRows(f"template {template!r}: {signs[position]!r} closes nothing")
    return node


def _choice(signs: list[str], position: int, close: str, template: str) -> tuple[Node, int]:
    """Parse up to a closing bracket; return the node and the position behind it."""
    options: list[Node] = []
    parts: list[Node] = []
    separators = set()
    while position < len(signs) and signs[position] not in (")", "]"):
        sign = signs[position]
        position += 1
        if sign in ("|", ";"):
            separators.add(sign)
            options.append(Node("all", parts=tuple(parts)))
            parts = []
        elif sign in ("(", "["):
            inner, position = _choice(signs, position, ")" if sign == "(" else "]", template)
            parts.append(inner if sign == "(" else Node("any", parts=(inner, Node("all"))))
        elif sign[0] in "<{":
            parts.append(Node("rule" if sign[0] == "<" else "slot", sign[1:-1]))
        else:
            parts.append(Node("text", sign))
    if close:
        if position == len(signs) or signs[position] != close:
            raise BadRows(f"template {template!r}: a {close!r} is missing")
        position += 1
    if len(separators) > 1:
        raise BadRows(f"template {template!r}: '|' and ';' in one group")
    options.append(Node("all", parts=tuple(parts)))
    if len(options) == 1:
        return options[0], position
    return Node("order" if ";" in separators else "any", parts=tuple(options)), position


@dataclass
class Sampler:
    """Draws sentences of one language.

    Attributes:
        rules: named templates.
        fill: ``fill(list_name, random)`` gives a template that fills a slot; it raises
            ``Unusable`` where there is none.
    """

    rules: Mapping[str, str]
    fill: Callable[[str, Random], str]
    _trail: list[str] = field(default_factory=list)

    def draw(self, template: str, random: Random) -> list[Piece]:
        """Draw one sentence as pieces, neighbours outside of slots joined; may raise Unusable."""
        self._trail.clear()
        joined: list[Piece] = []
        for piece in self._draw(parse(template), random):
            if joined and joined[-1].slot == piece.slot == "":
                joined[-1] = Piece(joined[-1].text + piece.text)
            elif piece.text:
                joined.append(piece)
        return joined

    def _draw(self, node: Node, random: Random) -> list[Piece]:
        if node.kind == "text":
            return [Piece(node.text)]
        if node.kind == "any":
            return self._draw(node.parts[int(random.random() * len(node.parts))], random)
        if node.kind == "rule":
            if node.text not in self.rules or len(self._trail) >= _MAX_DEPTH:
                raise Unusable(f"<{node.text}>")
            self._trail.append(node.text)
            pieces = self._draw(parse(self.rules[node.text]), random)
            self._trail.pop()
            return pieces
        if node.kind == "slot":
            name, _, slot = node.text.partition(":")
            drawn = self._draw(parse(self.fill(name, random)), random)
            return [Piece("".join(piece.text for piece in drawn), slot or name)]
        parts, pieces = list(node.parts), []
        while parts:
            first = int(random.random() * len(parts)) if node.kind == "order" else 0
            pieces += self._draw(parts.pop(first), random)
            if node.kind == "order" and parts:
                pieces.append(Piece(" "))
        return pieces
