r"""The template language of ``home-assistant-intents``: parse a template, draw sentences from it.

``(a|b)`` one of, ``[a]`` or nothing, ``(a;b)`` in any order, ``<rule>`` a named template,
``{list}`` or ``{list:slot}`` a slot; everything else is text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from random import Random
from typing import Literal

from helpers.errors import BadRows

Kind = Literal["text", "all", "any", "order", "rule", "slot"]
_MAX_DEPTH = 12
_TOKEN = re.compile(r"\{[^{}]*\}|<[^<>]*>|[()\[\]|;]|[^(){}\[\]<>|;]+")


@dataclass(frozen=True)
class Node:
    """One piece of a template: text, or a way to put smaller pieces together."""

    kind: Kind
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
    """Parse a template.

    Raises:
        BadRows: brackets do not match.
    """
    tokens = _TOKEN.findall(template)
    if "".join(tokens) != template:
        raise BadRows(f"template {template!r}: a brace or angle bracket does not match")
    node, position = _choice(tokens, 0, "", template)
    if position != len(tokens):
        raise BadRows(f"template {template!r}: {tokens[position]!r} closes nothing")
    return node


def _choice(tokens: list[str], position: int, close: str, template: str) -> tuple[Node, int]:
    options: list[Node] = []
    parts: list[Node] = []
    separators = set()
    while position < len(tokens) and tokens[position] not in (")", "]"):
        token = tokens[position]
        position += 1
        if token in ("|", ";"):
            separators.add(token)
            options.append(Node("all", parts=tuple(parts)))
            parts = []
        elif token in ("(", "["):
            inner, position = _choice(tokens, position, ")" if token == "(" else "]", template)
            parts.append(inner if token == "(" else Node("any", parts=(inner, Node("all"))))
        else:
            parts.append(_leaf(token))
    if close:
        if position == len(tokens) or tokens[position] != close:
            raise BadRows(f"template {template!r}: a {close!r} is missing")
        position += 1
    if len(separators) > 1:
        raise BadRows(f"template {template!r}: '|' and ';' in one group")
    options.append(Node("all", parts=tuple(parts)))
    if len(options) == 1:
        return options[0], position
    return Node("order" if ";" in separators else "any", parts=tuple(options)), position


def _leaf(token: str) -> Node:
    if token[0] == "<":
        return Node("rule", token[1:-1])
    if token[0] == "{":
        return Node("slot", token[1:-1])
    return Node("text", token)


@dataclass
class Sampler:
    """Draws sentences of one language.

    Attributes:
        rules: named templates.
        words: ``words(list_name, slot, random)`` gives a template that fills a slot; it raises
            ``Unusable`` where there is none.
    """

    rules: Mapping[str, str]
    words: Callable[[str, str, Random], str]
    _trail: list[str] = field(default_factory=list)

    def draw(self, template: str, random: Random) -> list[Piece]:
        """Draw one sentence as pieces; neighbours of one slot are joined.

        Raises:
            Unusable: the draw met a slot or rule without words.
        """
        self._trail.clear()
        return _join(self._draw(parse(template), random))

    def _draw(self, node: Node, random: Random) -> list[Piece]:
        if node.kind == "text":
            return [Piece(node.text)]
        if node.kind == "any":
            return self._draw(node.parts[int(random.random() * len(node.parts))], random)
        if node.kind == "rule":
            return self._rule(node.text, random)
        if node.kind == "slot":
            name, _, slot = node.text.partition(":")
            value = self.words(name, slot or name, random)
            text = "".join(piece.text for piece in self._draw(parse(value), random))
            return [Piece(text, slot or name)]
        parts = list(node.parts)
        pieces: list[Piece] = []
        while parts:
            first = int(random.random() * len(parts)) if node.kind == "order" else 0
            pieces += self._draw(parts.pop(first), random)
            if node.kind == "order" and parts:
                pieces.append(Piece(" "))
        return pieces

    def _rule(self, name: str, random: Random) -> list[Piece]:
        if name not in self.rules or len(self._trail) >= _MAX_DEPTH:
            raise Unusable(f"<{name}>")
        self._trail.append(name)
        pieces = self._draw(parse(self.rules[name]), random)
        self._trail.pop()
        return pieces


def _join(pieces: list[Piece]) -> list[Piece]:
    joined: list[Piece] = []
    for piece in pieces:
        if joined and joined[-1].slot == piece.slot == "":
            joined[-1] = Piece(joined[-1].text + piece.text)
        elif piece.text:
            joined.append(piece)
    return joined
