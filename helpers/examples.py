"""One row per task and language, written for this project: shown where no real row is at hand.

They say what a task looks like and nothing about its data. Tasks that ask the same share them.
"""

from __future__ import annotations

from collections.abc import Mapping

from helpers.tasks import Row, Task

Example = Mapping[str, Row]

# Tasks that look like another one.
_LIKE = {
    "udpos-xr": "udpos",
    "panx-xr": "panx",
    "xquad-xr": "xquad",
    "tatoeba-xr": "tatoeba",
    "hellaswag-val": "hellaswag",
    "commonsenseqa-val": "commonsenseqa",
    "socialiqa-val": "siqa",
    "ccg-pmb": "ccg",
}


def written(task: Task) -> Example:
    """Return written rows of a task by language, in the standard form; empty if there are none.

    Labels and tags are names, not ids. Of a translated intermediate, and of a task registered
    elsewhere, there is no example.
    """
    return _EXAMPLES.get(_LIKE.get(task.name, task.name), {})


def _pair(first: str, second: str, label: str) -> Row:
    return {"first": first, "second": second, "label": label}


def _choice(context: str, choices: tuple[str, ...], label: int) -> Row:
    return {"context": context, "choices": list(choices), "label": label}


def _tags(text: str) -> Row:
    """Read ``"word/TAG word/TAG"``."""
    parts = [word.split("/", 1) for word in text.split()]
    return {"tokens": [word for word, _ in parts], "tags": [tag for _, tag in parts]}


def _span(context: str, question: str, answer: str) -> Row:
    found = {"text": [answer], "start": [context.index(answer)]} if answer else None
    return {
        "context": context,
        "question": question,
        "answers": found or {"text": [], "start": []},
    }


def _side(side: str, text: str) -> Row:
    return {"side": side, "text": text, "gold": []}


_BRIDGE = "The bridge was opened in 1932 after eight years of work."
_BRIDGES = {
    "en": _span(_BRIDGE, "When was the bridge opened?", "1932"),
    "de": _span(
        "Die Brücke wurde 1932 nach acht Jahren Bauzeit eröffnet.",
        "Wann wurde die Brücke eröffnet?",
        "1932",
    ),
    "es": _span(
        "El puente se inauguró en 1932 tras ocho años de obras.",
        "¿Cuándo se inauguró el puente?",
        "1932",
    ),
}
_SENTENCES = {
    "en": _side("query", "The shop closes at six."),
    "de": _side("candidate", "Das Geschäft schließt um sechs."),
    "es": _side("candidate", "La tienda cierra a las seis."),
}
_NLI = _pair("A woman is repairing a bicycle.", "Someone works on a vehicle.", "entailment")

_EXAMPLES: dict[str, Example] = {
    "anli_plus": {"en": _NLI},
    "mnli": {"en": _pair("The train was late again.", "The train came on time.", "contradiction")},
    "qqp": {
        "en": _pair("How do I learn to swim?", "What is the way to learn swimming?", "duplicate")
    },
    "boolq-val": {"en": _pair("was the bridge built in one year", _BRIDGE, "no")},
    "mrpc-val": {
        "en": _pair(
            "The firm sold its last ship on Monday.",
            "On Monday the company sold the only ship it had left.",
            "equivalent",
        )
    },
    "rte-val": {"en": _pair(_BRIDGE, "There is a bridge.", "entailment")},
    "squad1": {"en": _BRIDGES["en"]},
    "squad2": {"en": _span(_BRIDGE, "Who paid for the bridge?", "")},
    "hellaswag": {
        "en": _choice(
            "A man fills a kettle with water. He",
            (
                "puts it on the stove.",
                "paints it with a brush.",
                "throws it to the dog.",
                "sings to it on stage.",
            ),
            0,
        )
    },
    "cosmosqa": {
        "en": _choice(
            "We left before dawn and still missed the boat. Why was the writer annoyed?",
            (
                "The early start had been for nothing.",
                "The boat was too fast.",
                "Dawn came too late.",
                "None of the above choices .",
            ),
            0,
        )
    },
    "commonsenseqa": {
        "en": _choice(
            "Where would you keep milk cold?",
            ("oven", "refrigerator", "bookshelf", "pocket", "garden"),
            1,
        )
    },
    "siqa": {
        "en": _choice(
            "Kim lent Lee an umbrella. How would Lee feel?",
            ("grateful", "hungry", "cheated"),
            0,
        )
    },
    "piqa-val": {
        "en": _choice(
            "To keep soup warm on the way,",
            ("pour it into a vacuum flask.", "pour it into a paper bag."),
            0,
        )
    },
    "copa": {
        "en": _choice(
            "The street was wet. What was the cause?", ("It had rained.", "It was noon."), 0
        )
    },
    "ccg": {"en": _tags("Ships/N sail/S\\NP south/(S\\NP)\\(S\\NP) ./.")},
    "xpos-ewt": {"en": _tags("Ships/NNS sail/VBP south/RB ./.")},
    "xnli": {
        "en": _NLI,
        "de": _pair("Eine Frau repariert ein Fahrrad.", "Niemand ist hier.", "contradiction"),
        "es": _pair("Una mujer repara una bicicleta.", "La bicicleta es nueva.", "neutral"),
    },
    "pawsx": {
        "en": _pair("The road leads from Ulm to Linz.", "The road leads from Linz to Ulm.", "0"),
        "de": _pair("Er kam im Mai aus Rom.", "Im Mai kam er aus Rom.", "1"),
        "es": _pair("Ana ganó a Eva en 2001.", "Eva ganó a Ana en 2001.", "0"),
    },
    "udpos": {
        "en": _tags("Ships/NOUN sail/VERB south/ADV ./PUNCT"),
        "de": _tags("Schiffe/NOUN fahren/VERB südwärts/ADV ./PUNCT"),
        "es": _tags("Los/DET barcos/NOUN navegan/VERB hoy/ADV ./PUNCT"),
    },
    "panx": {
        "en": _tags("Marie/B-PER Curie/I-PER moved/O to/O Paris/B-LOC"),
        "de": _tags("Marie/B-PER Curie/I-PER zog/O nach/O Paris/B-LOC"),
        "es": _tags("Marie/B-PER Curie/I-PER vivió/O en/O París/B-LOC"),
    },
    "xquad": _BRIDGES,
    "mlqa": _BRIDGES,
    "tydiqa": {"en": _BRIDGES["en"]},
    "bucc2018": {"en": _SENTENCES["en"], "de": _SENTENCES["de"]},
    "tatoeba": _SENTENCES,
    "messages": {
        "en": _side("query", "Enter a valid date."),
        "de": _side("candidate", "Bitte ein gültiges Datum eingeben."),
        "es": _side("candidate", "Introduzca una fecha válida."),
    },
    "xcopa": {
        "it": _choice(
            "La strada era bagnata. What was the cause?",
            ("Aveva piovuto.", "Era mezzogiorno."),
            0,
        )
    },
    "lareqa": {
        "en": _side("query", "When was the bridge opened?"),
        "de": _side("candidate", "Die Brücke wurde 1932 nach acht Jahren Bauzeit eröffnet. …"),
    },
    "mewslix": {
        "en": _side("candidate", "Paris is the capital of France."),
        "de": _side("query", "Das Treffen fand in { Paris } statt."),
    },
    "intents": {
        "en": _pair("turn on the lamp in the hall", "", "HassTurnOn"),
        "de": _pair("schalte die Lampe im Flur ein", "", "HassTurnOn"),
        "es": _pair("enciende la lámpara del pasillo", "", "HassTurnOn"),
    },
    "slots": {
        "en": _tags("turn/O on/O the/O lamp/B-name in/O the/O hall/B-area"),
        "de": _tags("schalte/O die/O Lampe/B-name im/O Flur/B-area ein/O"),
        "es": _tags("enciende/O la/O lámpara/B-name del/O pasillo/B-area"),
    },
}
