"""Small tasks in memory, one per format, each learnt by a tiny encoder in a few dozen steps.

Every word is one piece of the tiny vocabulary, so that sentences stay short.
"""

import zlib

import numpy as np
import torch

from helpers.models import Settings
from helpers.tasks import Source, Task

FILLERS = "the of and to in is that it was for on are".split()
KEYS = "people words time".split()
SIZES = {"train": 60, "dev": 24, "test": 16}
FAST = {"epochs": 6, "learning_rate": 5e-3, "head_rate": 2, "batch_tokens": 256}
QUICK = Settings(**FAST, max_length=32, precision="fp32")


def pair(chance, number):
    key = number % 3
    words = [*chance.choice(FILLERS, 5), KEYS[key]]
    return {"first": " ".join(chance.permutation(words)), "second": "", "label": key}


def choice(chance, number):
    label = number % 3
    choices = [" ".join(chance.choice(FILLERS, 3)) for _ in range(3)]
    choices[label] = choices[label] + " " + KEYS[0]
    return {"context": " ".join(chance.choice(FILLERS, 3)), "choices": choices, "label": label}


def tagging(chance, number):
    tokens = chance.choice([*FILLERS, *KEYS[:2]], 6).tolist()
    return {"tokens": tokens, "tags": [1 if t == KEYS[0] else 3 * (t == KEYS[1]) for t in tokens]}


def span(chance, number):
    words = [*chance.choice(FILLERS, 6), KEYS[0]]
    context = " ".join(chance.permutation(words))
    answers = {"text": [KEYS[0]], "start": [context.index(KEYS[0])]}
    return {"context": context, "question": "who", "answers": answers}


def retrieval(chance, number):
    text = " ".join(chance.choice([*FILLERS, *KEYS], 4))
    return [
        {"id": f"q{number}", "side": "query", "text": text, "gold": [f"c{number}"]},
        {"id": f"c{number}", "side": "candidate", "text": "now " + text, "gold": []},
    ]


MAKERS = {maker.__name__: maker for maker in (pair, choice, tagging, span, retrieval)}
LABELS = {"pair": ("a", "b", "c"), "choice": ("0", "1", "2")}
LABELS["tagging"] = ("O", "B-a", "I-a", "B-b", "I-b")
METRICS = {"tagging": "span_f1", "span": "squad"}


def rows(format_, language, split, count=0):
    """Rows that depend on their arguments alone."""
    chance = np.random.default_rng(zlib.crc32(f"{format_} {language} {split}".encode()))
    made = []
    for number in range(count or SIZES[split]):
        row = MAKERS[format_](chance, number)
        made += row if isinstance(row, list) else [{"id": str(number)} | row]
    return made


def task(format_, name="", read=None, **facts):
    name = name or f"learn-{format_}"
    read = read or (lambda language, split: rows(format_, language, split))
    settings = {"labels": LABELS.get(format_, ()), "metric": METRICS.get(format_, "accuracy")}
    settings["max_length"] = 32
    return Task(
        name=name,
        role="target",
        format=format_,
        source=Source("rows", name, splits={s: s for s in SIZES}, read=read),
        **(settings | facts),
    )


def weights(encoder):
    return {name: tensor.clone() for name, tensor in encoder.model.state_dict().items()}


def assert_equal(one, other):
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name
