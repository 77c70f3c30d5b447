"""What a training run reads: rows loaded, tokenised, and the encoder cut down to their pieces."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from helpers import formats, tasks
from helpers.errors import BadRows, HelpfulError
from helpers.formats import Encoded, FormatBase
from helpers.formats.masked import Masked
from helpers.models import tokenised
from helpers.models.encoders import Encoder
from helpers.models.settings import Settings
from helpers.tasks import Source, Task

MLM = "mlm"


@dataclass
class Prepared:
    """Training and development sets of one run.

    Attributes:
        encoder: the encoder that training starts from.
        tasks: the tasks by name, with their label sets filled in.
        formats: the format of each.
        train: tokenised training rows per task.
        dev: English development rows per task, plain and tokenised.
        rows: training rows in all.
        sources: per task, where its rows came from.
        fingerprints: per task, SHA-256 of its training rows.
        notes: rows that were skipped, and why.
    """

    encoder: Encoder
    tasks: dict[str, Task] = field(default_factory=dict)
    formats: dict[str, FormatBase] = field(default_factory=dict)
    train: dict[str, Encoded] = field(default_factory=dict)
    dev: dict[str, tuple[Any, Encoded]] = field(default_factory=dict)
    rows: int = 0
    sources: dict[str, str] = field(default_factory=dict)
    fingerprints: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    _pruned: Encoder | None = None
    _spent: bool = False

    @property
    def pruned(self) -> Encoder:
        """A copy of the encoder with only the pieces that this run reads; training changes it."""
        return self.encoder if self._pruned is None else self._pruned

    def spend(self) -> Encoder:
        """Return the encoder that is to be trained, which will change it.

        Raises:
            HelpfulError: it was trained already, so a second run would not start from the base.
        """
        if self._spent:
            raise HelpfulError(
                "these sets have trained their encoder already; call prepare() for another run."
            )
        self._spent = True
        return self.pruned

    def prune(self) -> None:
        """Cut the encoder down, and number the sets' pieces as the cut encoder does."""
        everything = [*self.train.values(), *(encoded for _, encoded in self.dev.values())]
        pieces = [np.unique(encoded.tokens) for encoded in everything]
        pieces += [np.unique(e.per_token["target"]) for e in everything if "target" in e.per_token]
        used = np.unique(np.concatenate(pieces))
        small = self.encoder.prune(used[used >= 0])
        for encoded in everything:
            encoded.tokens = small.remap(encoded.tokens).astype(np.int32)
            if "target" in encoded.per_token:
                target = np.array(encoded.per_token["target"])  # a kept set is read-only
                target[target >= 0] = small.remap(target[target >= 0])
                encoded.per_token["target"] = target
        self._pruned = small


def training_task(task: Task) -> Task:
    """Return the task whose English rows train a target (the target itself by default)."""
    return tasks.get(task.train_with) if task.train_with else task


def prepare(encoder: Encoder, tasks: Sequence[Task], settings: Settings, seed: int) -> Prepared:
    """Load and tokenise the English rows of some tasks.

    Args:
        encoder: the encoder to start from; left unchanged.
        tasks: training tasks.
        settings: row limits, lengths, controls.
        seed: fixes the permutation of the shuffled-label control, nothing else.

    Raises:
        BadRows: a task without usable training rows, or text without languages.
    """
    prepared = Prepared(encoder)
    for task in tasks:
        _add_task(prepared, task, settings, seed)
    if settings.mlm_share:
        _add_text(prepared, settings)
    prepared.prune()
    return prepared


def _add_task(prepared: Prepared, task: Task, settings: Settings, seed: int) -> None:
    from helpers.data import rows as load_rows

    train = load_rows(task, "en", "train", settings.train_rows or None)
    dev = load_rows(task, "en", "dev", settings.dev_rows or None)
    if not len(train):
        raise BadRows(f"task {task.name!r} has no usable English training rows.")
    task = replace(task, labels=tuple(train.labels) or task.labels)
    rows = _shuffled_labels(list(train), task, seed) if settings.shuffle_labels else train
    format_ = formats.get(task.format)
    longest = min(task.max_length, settings.max_length, prepared.encoder.max_length)
    encoded = tokenised.encode(format_, task, rows, prepared.encoder, longest, True)
    if not len(encoded):
        raise BadRows(
            f"task {task.name!r}: none of its {len(train)} English training rows can be learnt from "
            f"as a {task.format} row; left out: {dict(encoded.skipped) or 'queries without answer'}."
        )
    prepared.tasks[task.name], prepared.formats[task.name] = task, format_
    prepared.train[task.name] = encoded
    if len(dev) and task.format != "retrieval":
        coded = tokenised.encode(format_, task, dev, prepared.encoder, longest, False)
        prepared.dev[task.name] = (dev, coded)
    prepared.sources[task.name] = train.source
    prepared.fingerprints[task.name] = train.fingerprint
    prepared.rows += len(train)
    for reason, count in encoded.skipped.items():
        prepared.notes.append(f"{task.name}: {count} training rows skipped, {reason}")


def _add_text(prepared: Prepared, settings: Settings) -> None:
    from helpers.data import texts as load_texts

    found = [load_texts(language, settings.mlm_rows or None) for language in settings.mlm_languages]
    if not found:
        raise BadRows("masked language modelling was asked for, but mlm_languages is empty.")
    text = [
        {"id": f"{part.language}-{place}", "text": line}
        for part in found
        for place, line in enumerate(part)
    ]
    prepared.sources[MLM] = "; ".join(dict.fromkeys(part.source for part in found))
    prints = "".join(part.fingerprint for part in found)
    prepared.fingerprints[MLM] = hashlib.sha256(prints.encode()).hexdigest()
    task = Task(MLM, "intermediate", "retrieval", Source("rows", MLM))
    longest = min(settings.max_length, prepared.encoder.max_length)
    prepared.tasks[MLM], prepared.formats[MLM] = task, Masked()
    prepared.train[MLM] = tokenised.encode(Masked(), task, text, prepared.encoder, longest, True)


def _shuffled_labels(rows: list[dict[str, Any]], task: Task, seed: int) -> list[dict[str, Any]]:
    """Return the rows with their answers permuted: same text, same label counts, no relation."""
    generator = np.random.default_rng([seed, 7])
    order = generator.permutation(len(rows))
    if task.format == "choice":
        # A rank means nothing where there are fewer choices, so rows of a kind exchange theirs.
        kinds = np.array([len(row["choices"]) for row in rows])
        order[np.argsort(kinds, kind="stable")] = order[np.argsort(kinds[order], kind="stable")]
    if task.format in ("pair", "choice"):
        return [row | {"label": rows[j]["label"]} for row, j in zip(rows, order, strict=True)]
    if task.format == "tagging":
        tags = iter([tag for j in order for tag in rows[j]["tags"]])
        return [row | {"tags": [next(tags) for _ in row["tags"]]} for row in rows]
    raise HelpfulError(
        f"shuffled labels are defined for pair, choice and tagging tasks, not for {task.format!r} "
        f"({task.name})."
    )
