"""Rows and encoders that the training and evaluation benchmarks work on."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from helpers import formats, tasks
from helpers.formats import Encoded
from helpers.models import Settings, encoders
from helpers.models.encoders import Encoder
from helpers.models.training import Prepared, prepare
from helpers.tasks import Source, Task

THINGS = "ball book box cup door fish hat key lamp map pen ring ship shoe stone table tree wheel"
COLOURS = "black blue brown green grey orange pink red white yellow"
PLACES = "attic barn cellar church garden harbour hotel kitchen library market museum school"


@dataclass(frozen=True)
class Workload:
    """What one benchmark trains on."""

    name: str
    encoder: str  # or "large-random": XLM-R Large's shape with random weights
    task: str  # a registered task, or "generated-pair", "generated-tagging", "generated-span"
    settings: Settings


# Steps so small, and heads so fast, that the English dev score is no lower than stock Trainer's: a rate
# bought with too few steps to learn the task would say nothing.
_SMALL = Settings(epochs=3, train_rows=320, learning_rate=3e-4)
_SPANS = {"epochs": 2, "train_rows": 96, "dev_rows": 64, "batch_tokens": 800, "max_length": 384}
CPU = {
    name: Workload(name, "bundled", task, _SMALL.override(settings))
    for name, task, settings in (
        ("pair", "intents", {"batch_tokens": 512}),
        ("tagging", "slots", {"batch_tokens": 256, "head_rate": 30}),
        ("span", "generated-span", _SPANS | {"head_rate": 10}),
    )
}
_LARGE = {"epochs": 1, "learning_rate": 1e-5, "pooling": "first", "max_length": 256}
_LARGE |= {"dev_rows": 1, "compile": True, "batch_tokens": 32_768, "train_rows": 20_000}
_PASSAGES = {"train_rows": 10_000, "max_length": 384}
GPU = {
    name: Workload(name, "large-random", f"generated-{name}", Settings().override(_LARGE | more))
    for name, more in (("pair", {}), ("tagging", {}), ("span", _PASSAGES))
}


def random_encoder(name: str, family: str, width: int, layers: int, **more: Any) -> Encoder:
    """Return an encoder of some shape, with random weights and the tiny tokenizer, for timing only."""
    import transformers

    tiny, note = encoders.load("tiny"), "random weights: for timing only."
    shape = {"hidden_size": width, "num_hidden_layers": layers, "vocab_size": len(tiny.tokenizer)}
    config = getattr(transformers, f"{family}Config")(**shape | more)
    torch.manual_seed(0)
    model = getattr(transformers, f"{family}Model")(config, add_pooling_layer=False).eval()
    return replace(tiny, name=name, model=model, sha256=name, note=note)


def large_random() -> Encoder:
    """Return an encoder of XLM-R Large's shape that needs no download."""
    more: dict[str, Any] = {"vocab_size": 250_002, "num_attention_heads": 16}
    more |= {"intermediate_size": 4096, "max_position_embeddings": 514, "type_vocab_size": 1}
    return random_encoder("large-random", "XLMRoberta", 1024, 24, layer_norm_eps=1e-5, **more)


def prepared(work: Workload, seed: int = 0) -> Prepared:
    """Return the workload's tokenised rows and its encoder, cut down to their pieces."""
    large = work.encoder == "large-random"
    encoder = large_random() if large else encoders.load(work.encoder)
    if not work.task.startswith("generated"):
        return prepare(encoder, [tasks.get(work.task)], work.settings, seed)
    ready = Prepared(encoder)
    if large:
        _add_random_ids(ready, work)
    else:
        task, train, dev = generated_spans(work.settings.train_rows, work.settings.dev_rows)
        ready.add(task, formats.get(task.format), train, dev, work.settings.max_length)
    ready.outcome.rows = work.settings.train_rows
    ready.prune()
    return ready


def generated_spans(train_rows: int, dev_rows: int) -> tuple[Task, list[Any], list[Any]]:
    """Return passages of simple sentences and questions that one of them answers."""
    facts: dict[str, Any] = {"metric": "squad", "max_length": 384}
    task = Task("generated-span", "target", "span", Source("rows", "generated"), **facts)
    generator, known, rows = np.random.default_rng(3), PLACES.split(), []
    things = [f"{c} {t}" for c in COLOURS.split() for t in THINGS.split()]
    for number in range(train_rows + dev_rows):
        count = int(generator.integers(4, 24))
        chosen = [things[i] for i in generator.choice(len(things), count, replace=False)]
        places = [known[i] for i in generator.integers(0, len(known), count)]
        passage, starts = "", []
        for thing, place in zip(chosen, places, strict=True):
            passage += f"The {thing} is kept in the "
            starts.append(len(passage))
            passage += f"{place}. "
        asked = int(generator.integers(0, count))
        answers = {"text": [places[asked]], "start": [starts[asked]]}
        row = {"id": str(number), "context": passage, "answers": answers}
        rows.append(row | {"question": f"Where is the {chosen[asked]} kept?"})
    return task, rows[:train_rows], rows[train_rows:]


def _add_random_ids(ready: Prepared, work: Workload) -> None:
    """Add random sequences with lengths spread like a corpus's: for timing only."""
    kind: Any = work.task.removeprefix("generated-")
    generator = np.random.default_rng(5)
    longest, rows = work.settings.max_length, work.settings.train_rows
    lengths = np.clip(generator.lognormal(np.log(longest / 4), 0.6, rows), 8, longest).astype(int)
    # English training text uses a few ten thousand of XLM-R's pieces.
    pieces = generator.choice(np.arange(5, 250_000), 30_000, replace=False)
    sequences = [generator.choice(pieces, length) for length in lengths]
    labels = tuple(str(i) for i in range(17 if kind == "tagging" else 3))
    # What each format has of sequences, and of tokens.
    begin = np.array([generator.integers(1, n) for n in lengths])
    parts: Any
    metric, parts = {
        "pair": ("accuracy", {"per_sequence": {"label": begin % len(labels)}}),
        "tagging": ("token_accuracy", {"per_token": {"tag": [ids % 17 for ids in sequences]}}),
        "span": (
            "squad",
            {
                "per_sequence": {"begin": begin, "end": begin},
                "per_token": {"allowed": [np.ones(n, bool) for n in lengths]},
            },
        ),
    }[kind]
    source = Source("rows", "generated")
    task = Task(work.task, "target", kind, source, labels=labels, metric=metric)
    ready.tasks[task.name], ready.formats[task.name] = task, formats.get(kind)
    ready.train[task.name] = Encoded.build(sequences, range(rows), rows=rows, **parts)
