"""Made-up tasks in a made-up language: every format, no data needed, for the ``tiny`` profile.

Sentences are drawn from forty English words; the other "languages" (``qaa`` and ``qab``, codes that
ISO 639 leaves to private use) spell the same words by shifting letters. Nothing here is evidence of
anything; it lets a whole study run in seconds.
"""

from __future__ import annotations

import zlib

import numpy as np

from helpers.tasks import About, Source, Task, register
from helpers.tasks.task import Format, Role, Row

LANGUAGES = ("en", "qaa", "qab")
VERBS = ("open", "close", "light", "stop")
COLOURS = ("red", "green", "blue", "white", "black")
THINGS = ("door", "lamp", "window", "clock", "radio", "gate")
PLACES = ("kitchen", "garden", "office", "cellar", "hall")
_SIZES = {"train": 96, "dev": 32, "test": 40}


def read_intents(language: str, split: str) -> list[Row]:
    """Return sentences labelled by their verb."""
    return [
        {"id": str(i), "first": _spell(text, language), "second": "", "label": VERBS.index(verb)}
        for i, (text, (verb, *_)) in enumerate(_sentences("intents", split))
    ]


def read_slots(language: str, split: str) -> list[Row]:
    """Return sentences whose colour and place words carry a tag."""
    return [
        {
            "id": str(i),
            "tokens": [_spell(word, language) for word in text.split()],
            "tags": [1 if w in COLOURS else 3 if w in PLACES else 0 for w in text.split()],
        }
        for i, (text, _) in enumerate(_sentences("slots", split))
    ]


def read_messages(language: str, split: str) -> list[Row]:
    """Return English queries and their respelt twins as candidates."""
    rows: list[Row] = []
    for i, text in enumerate(dict.fromkeys(text for text, _ in _sentences("messages", split))):
        rows.append({"id": f"en-{i}", "side": "query", "text": text, "gold": [f"{language}-{i}"]})
        twin = _spell(text, language)
        rows.append({"id": f"{language}-{i}", "side": "candidate", "text": twin, "gold": []})
    return rows


def read_same(language: str, split: str) -> list[Row]:
    """Return two sentences and whether they name the same thing."""
    rows: list[Row] = []
    sentences = _sentences("same", split)
    for i, ((first, left), (second, right)) in enumerate(
        zip(sentences, _sentences("other", split), strict=True)
    ):
        text = second.replace(right[2], left[2]) if i % 2 else second
        rows.append({"id": str(i), "first": first, "second": text, "label": int(left[2] in text)})
    return rows


def read_choice(language: str, split: str) -> list[Row]:
    """Return a sentence and three places, one of which it named."""
    rows: list[Row] = []
    for i, (text, (*_, place)) in enumerate(_sentences("choice", split)):
        others = [other for other in PLACES if other != place][:2]
        choices = [*others[: i % 3], place, *others[i % 3 :]]
        rows.append({"id": str(i), "context": text, "choices": choices, "label": i % 3})
    return rows


def read_span(language: str, split: str) -> list[Row]:
    """Return a sentence and the question which colour it names."""
    return [
        {
            "id": str(i),
            "context": text,
            "question": "which colour",
            "answers": {"text": [colour], "start": [text.index(colour)]},
        }
        for i, (text, (_, colour, *_)) in enumerate(_sentences("span", split))
    ]


def _sentences(name: str, split: str) -> list[tuple[str, tuple[str, str, str, str]]]:
    draw = np.random.default_rng(zlib.crc32(f"{name}/{split}".encode()))
    sentences = []
    for _ in range(_SIZES[split]):
        words = tuple(str(draw.choice(kind)) for kind in (VERBS, COLOURS, THINGS, PLACES))
        verb, colour, thing, place = words
        sentences.append((f"{verb} the {colour} {thing} in the {place}", words))
    return sentences  # type: ignore[return-value]


def _spell(text: str, language: str) -> str:
    shift = LANGUAGES.index(language)
    letters = "abcdefghijklmnopqrstuvwxyz"
    return text.translate(str.maketrans(letters, letters[shift:] + letters[:shift]))


def _source(name: str) -> Source:
    splits = {split: split for split in _SIZES}
    return Source("rows", name, splits=splits, read=globals()[f"read_{name}"], licence="MIT")


def _languages(role: Role, format: Format) -> tuple[str, ...]:
    """English is evaluated too, but where it is itself the query of a retrieval task."""
    if role == "intermediate":
        return ("en",)
    return LANGUAGES[1:] if format == "retrieval" else LANGUAGES


def _task(name: str, role: Role, format: Format, chance: float, **facts: object) -> Task:
    return register(
        Task(
            name=f"toy-{name}",
            role=role,
            format=format,
            source=_source(name),
            languages=_languages(role, format),
            chance=chance,
            max_length=32,
            about=About(question="None: made-up text, for tests.", genre="generated"),
            group="tiny",
            **facts,  # type: ignore[arg-type]
        )
    )


_task("same", "intermediate", "pair", 0.5, labels=("different", "same"))
_task("choice", "intermediate", "choice", 1 / 3, labels=("0", "1", "2"))
_task("span", "intermediate", "span", 0.0, metric="squad")
_task("intents", "target", "pair", 0.25, labels=VERBS)
_task(
    "slots",
    "target",
    "tagging",
    0.0,
    labels=("O", "B-colour", "I-colour", "B-place", "I-place"),
    metric="span_f1",
)
_task("messages", "target", "retrieval", 1 / _SIZES["test"])
