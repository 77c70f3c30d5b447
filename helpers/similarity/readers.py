"""What arrays are made of: sampled rows, their labelled units, encoders and what they say of them.

A *unit* is what carries a label: a text (pair), a context with one of its choices (choice: right or
not), a word (tagging), or a piece of a passage (span: inside the answer or not). A tagging or span
task so has more units than rows; all units of a row stay in the same half.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array
from torch import Tensor, nn

from helpers import data, formats, tasks
from helpers.errors import BadRows, MissingData, UnknownName
from helpers.files import load_tensors
from helpers.formats import Batch, Encoded, pool
from helpers.formats.encoded import sorted_batches, token_index
from helpers.models import encoders, training
from helpers.models.encoders import Encoder
from helpers.models.network import (
    Network,
    autocast,
    best_device,
    forward_tokens,
    resolve_precision,
    suits,
)
from helpers.models.settings import Settings
from helpers.models.training import Tuned
from helpers.similarity.catalogue import Undefined
from helpers.similarity.gradients import parameters
from helpers.similarity.representations import Integers
from helpers.tasks import Row, Source, Task

Single = NDArray[np.float32]

# Classes below one unit in so many are left out: each half of a sample must still hold a few of
# every class. At least 4 and at most 12 units are asked for.
RARE = 100
# A row of a tagging or span task gives several units, so fewer rows are read for as many units.
UNITS_PER_ROW = 4


# Rows.


@dataclass(frozen=True)
class Sample:
    """Rows of one task in one language, drawn by a seed.

    ``task`` has its label names; of a target it is the task that trains it.
    """

    task: Task
    language: str
    rows: list[Row] = field(repr=False)
    seed: int

    @cached_property
    def key(self) -> str:
        """Hash of the rows, and of the facts that decide how they are encoded."""
        facts = (self.task.format, self.task.labels, self.task.max_length, self.seed)
        digest = hashlib.sha256(repr(facts).encode())
        for row in self.rows:
            digest.update(repr(sorted(row.items())).encode())
        return digest.hexdigest()

    @cached_property
    def texts(self) -> list[str]:
        """One text per row; a context is written once, however many choices follow it."""
        return [row_text(row) for row in self.rows]

    @cached_property
    def half(self) -> NDArray[np.bool_]:
        """Whether each row is in the second of two disjoint halves."""
        return halves(len(self.rows), self.seed)


def halves(rows: int, seed: int) -> NDArray[np.bool_]:
    """Split rows at random into two halves; True for those of the second."""
    second = np.zeros(rows, dtype=bool)
    second[np.random.default_rng([seed, 2]).permutation(rows)[: rows // 2]] = True
    return second


def row_text(row: Row) -> str:
    """Return everything a row says, as one text."""
    if "tokens" in row:
        return " ".join(row["tokens"])
    parts = [row.get(name, "") for name in ("first", "second", "text", "question", "context")]
    return " ".join([part for part in parts if part] + list(row.get("choices", ())))


def sample(task: Task, rows: int, seed: int, language: str = "en") -> Sample:
    """Draw at most so many rows of a task.

    In English these are training rows: a target's are those of the task that trains it, and where
    nothing trains it (bitext) the English side of its sentences. In another language they are
    development rows of the target itself, so that no test row is looked at.

    Raises:
        Undefined: the task has no such rows.
        MissingData: the rows exist but are not here.
    """
    if language != "en":
        return _drawn(data.with_labels(task), language, "dev", rows, seed)
    trainer = tasks.get(task.train_with) if task.train_with else task
    if "en" in trainer.languages and trainer.source.serving("en", "train"):
        return _drawn(data.with_labels(trainer), "en", "train", rows, seed)
    if task.format != "retrieval":
        raise Undefined(f"{task.name} has no English training rows.")
    # The English side of a bitext, over its languages until there are enough sentences.
    texts: dict[str, Row] = {}
    for other in task.languages:
        for row in _bitext(task, other):
            if row["id"].startswith("en-"):
                texts.setdefault(row["text"], row)
        if len(texts) >= rows:
            break
    if not texts:
        raise Undefined(f"{task.name} has no English sentences that are here.")
    order = np.random.default_rng([seed, 1]).permutation(len(texts))[:rows]
    found = list(texts.values())
    return Sample(task, "en", [found[place] for place in sorted(order)], seed)


def _drawn(task: Task, language: str, split: str, rows: int, seed: int) -> Sample:
    try:
        found = data.rows(task, language, split, rows, seed)
    except UnknownName as error:
        raise Undefined(f"{task.name} has no {split} rows in {language!r}: {error}") from error
    labels = tuple(found.labels) or task.labels
    chosen = list(found)[:rows]  # of retrieval, a limit counts queries alone
    return Sample(replace(task, labels=labels), language, chosen, seed)


def _bitext(task: Task, language: str) -> Sequence[Row]:
    """Rows of a bitext task in one language, of its development split where there is one."""
    splits = [split for split in ("dev", "test") if task.source.serving(language, split)]
    try:
        return list(data.rows(task, language, splits[0])) if splits else []
    except MissingData:
        return []


def parallel(task: Task, language: str, rows: int, seed: int) -> tuple[list[str], list[str]]:
    """Draw at most so many sentences of a bitext in English, and their translations.

    Raises:
        Undefined: the task is no bitext, or has no pairs in the language.
    """
    pairs: list[tuple[Row, Row]] = []
    if task.format == "retrieval" and language in task.languages:
        found = {row["id"]: row for row in _bitext(task, language)}
        for row in found.values():
            if row["side"] == "query" and row["gold"] and row["gold"][0] in found:
                pair = row, found[row["gold"][0]]
                # Which side is English differs between tasks: queries in some, candidates in others.
                pair = pair if row["id"].startswith("en-") else pair[::-1]
                pairs += [pair] if pair[0]["id"].startswith("en-") else []
    if not pairs:
        raise Undefined(f"{task.name} has no sentence pairs of English and {language!r} here.")
    order = sorted(np.random.default_rng([seed, 3]).permutation(len(pairs))[:rows])
    english, other = ([pairs[place][side]["text"] for place in order] for side in (0, 1))
    return english, other


# Units.


@dataclass(frozen=True)
class View:
    """The labelled units of a sample, encoded.

    Attributes:
        encoded: the sequences, in the encoder's own ids.
        by_token: whether units are tokens rather than sequences.
        units: position of each unit among the sequences or the tokens.
        labels: label of each unit.
        rows: row of the sample that each unit belongs to.
        dropped: how many classes were too rare.
    """

    encoded: Encoded
    by_token: bool
    units: Integers
    labels: Integers
    rows: Integers
    dropped: int


def encode(sample: Sample, encoder: Encoder, max_length: int, answers: bool = False) -> Encoded:
    """Tokenise a sample as its format does; ``example`` says which row each sequence belongs to.

    ``answers`` marks those of span rows; rows without a findable answer are then left out.
    """
    task = sample.task
    longest = min(max_length, task.max_length, encoder.max_length)
    encoded = formats.get(task.format).encode(task, sample.rows, encoder, longest, answers)
    encoded.tokens = encoder.remap(encoded.tokens).astype(np.int32)
    return encoded


def label_view(sample: Sample, encoder: Encoder, max_length: int, units: int) -> View:
    """Encode at most so many labelled units of a sample, drawn by its seed; no rare classes.

    Raises:
        Undefined: the format has no labels.
        BadRows: fewer than two classes are left.
    """
    kind = sample.task.format
    if kind == "retrieval":
        raise Undefined(f"{sample.task.name} is a retrieval task: its texts have no labels.")
    encoded = encode(sample, encoder, max_length, answers=kind == "span")
    by_token = kind in ("tagging", "span")
    if by_token:
        # Fewer rows, evenly spaced over the sample.
        present = np.unique(encoded.example)
        kept_rows = min(len(present), max(units // UNITS_PER_ROW, 1))
        places = np.linspace(0, len(present) - 1, kept_rows).round().astype(int)
        encoded = take(encoded, np.flatnonzero(np.isin(encoded.example, present[places])))
    if kind == "pair":
        marks = encoded.per_sequence["label"].astype(np.int64)
    elif kind == "choice":
        marks = encoded.per_sequence["right"].astype(np.int64)
    elif kind == "tagging":
        marks = encoded.per_token["tag"].astype(np.int64)
    else:
        marks = _answer_labels(encoded, sample.seed)
    drawn = subset(np.flatnonzero(marks >= 0), units, sample.seed)
    kept, dropped = label_counts(marks[drawn], int(np.clip(len(drawn) // RARE, 4, 12)))
    chosen = drawn[kept]
    rows = np.repeat(encoded.example, encoded.lengths) if by_token else encoded.example
    return View(encoded, by_token, chosen, marks[chosen], rows[chosen], dropped)


def _answer_labels(encoded: Encoded, seed: int) -> Integers:
    """1 inside the answer, 0 on as many other pieces of the passage, -1 elsewhere."""
    labels = np.full(len(encoded.tokens), -1, dtype=np.int64)
    random = np.random.default_rng([seed, 5])
    marks = zip(encoded.per_sequence["begin"], encoded.per_sequence["end"], strict=True)
    for place, (begin, end) in enumerate(marks):
        start, stop = encoded.starts[place], encoded.starts[place + 1]
        if begin == 0:  # the place of "no answer in this window"
            continue
        inside = np.arange(start + begin, start + end + 1)
        passage = start + np.flatnonzero(encoded.per_token["allowed"][start:stop])
        outside = np.setdiff1d(passage[passage > start], inside)
        labels[inside] = 1
        labels[random.permutation(outside)[: len(inside)]] = 0
    return labels


def take(encoded: Encoded, sequences: NDArray[np.int64]) -> Encoded:
    """Return some sequences of an encoded set; they keep the numbers of their rows."""
    tokens = token_index(encoded, sequences)
    return Encoded(
        tokens=encoded.tokens[tokens],
        starts=np.concatenate([[0], np.cumsum(encoded.lengths[sequences])]).astype(np.int64),
        example=encoded.example[sequences],
        per_sequence={name: values[sequences] for name, values in encoded.per_sequence.items()},
        per_token={name: values[tokens] for name, values in encoded.per_token.items()},
        rows=encoded.rows,
        together=encoded.together,
    )


def label_counts(labels: ArrayLike, fewest: int) -> tuple[Integers, int]:
    """Positions of the labels of classes with so many units, and how many classes had fewer."""
    array = np.asarray(labels, dtype=np.int64)
    values, counts = np.unique(array[array >= 0], return_counts=True)
    kept = values[counts >= fewest]
    if len(kept) < 2:
        raise BadRows(
            f"only {len(kept)} of {len(values)} classes have {fewest} or more labelled units; at "
            "least two are needed. Sample more rows."
        )
    return np.flatnonzero(np.isin(array, kept)).astype(np.int64), len(values) - len(kept)


def subset(positions: Integers, size: int, seed: int) -> Integers:
    """At most ``size`` of some positions, drawn by a seed, in their order."""
    if len(positions) <= size:
        return positions
    chosen = np.random.default_rng([seed, 4]).permutation(len(positions))[:size]
    return positions[np.sort(chosen)]


# States.


class Reader:
    """Reads encoded texts with one encoder: without gradients, and packed where it can be."""

    def __init__(
        self, encoder: Encoder, budget: int | None = None, precision: str = "fp32"
    ) -> None:
        """Put an encoder on the best device; ``budget`` is padded tokens per forward pass."""
        self.device = best_device()
        self.encoder, self.precision = encoder, resolve_precision(precision, self.device)
        self.budget = budget or forward_tokens(self.device)
        self.model: nn.Module = encoder.model.to(self.device).eval()  # type: ignore[arg-type]

    def states(self, encoded: Encoded) -> Iterator[tuple[np.ndarray, Batch, Tensor]]:
        """Yield the sequences of each batch, the batch, and its token states."""
        packed = suits(self.model, self.device, self.precision)
        network = Network(self.model, {}, {}, packed=packed).eval()
        try:
            with torch.inference_mode():
                for index in sorted_batches(encoded, self.budget):
                    batch = Batch.collate(encoded, index, self.device)
                    with autocast(self.precision, self.device):
                        hidden = network.states(batch)
                    yield index, batch, hidden.float()
        finally:
            network.unpack()  # others take gradients through the same model, padded

    def sequences(self, encoded: Encoded, pooling: str = "mean") -> Single:
        """Return one pooled state per sequence, shape (sequences, D)."""
        result = np.empty((len(encoded), self.encoder.dimension), np.float32)
        for index, batch, hidden in self.states(encoded):
            result[index] = pool(hidden, batch, pooling).cpu().numpy()
        return result

    def units(self, view: View, pooling: str = "mean") -> Single:
        """Return the state of each unit of a view, shape (units, D)."""
        if not view.by_token:
            return self.sequences(view.encoded, pooling)[view.units]
        place = np.full(len(view.encoded.tokens), -1, dtype=np.int64)
        place[view.units] = np.arange(len(view.units))
        result = np.empty((len(view.units), self.encoder.dimension), np.float32)
        for index, _, hidden in self.states(view.encoded):
            targets = place[token_index(view.encoded, index)]
            wanted = np.flatnonzero(targets >= 0)
            chosen = hidden[torch.from_numpy(wanted).to(hidden.device)]
            result[targets[wanted]] = chosen.cpu().numpy()
        return result

    def texts(self, texts: list[str], max_length: int) -> Single:
        """Return the mean state of each text, shape (texts, D)."""
        rows = [{"id": str(i), "side": "query", "text": t, "gold": []} for i, t in enumerate(texts)]
        return self.sequences(encode(Sample(TEXTS, "", rows, 0), self.encoder, max_length))

    def losses(self, texts: list[str], max_length: int, head: nn.Module) -> tuple[Single, Integers]:
        """Masked-language loss of each text that has a hidden piece, and which texts those are."""
        from helpers.formats.labels import Masked
        from helpers.models.network import outputs

        rows = [{"id": str(place), "text": line} for place, line in enumerate(texts)]
        encoded = Masked().encode(TEXTS, rows, self.encoder, max_length, False)
        encoded.tokens = self.encoder.remap(encoded.tokens).astype(np.int32)
        heads = {TEXTS.name: head.to(self.device)}
        network = Network(self.model, heads, {TEXTS.name: Masked()}).eval()
        raw = outputs(
            network,
            TEXTS.name,
            encoded,
            budget=self.budget,
            device=self.device,
            precision=self.precision,
        )
        hidden = np.add.reduceat(encoded.per_token["target"] >= 0, encoded.starts[:-1])
        loss = -np.asarray(Masked().decode(TEXTS, rows, encoded, raw))
        kept = np.flatnonzero(hidden > 0)
        return loss[kept], kept


TEXTS = Task("texts", "target", "retrieval", Source("rows", "texts"), max_length=512)


def row_means(states: Single, rows: Integers, count: int) -> Single:
    """Return the mean over the sequences of each of ``count`` rows, shape (count, D)."""
    place = np.arange(len(states))
    belongs = csr_array((np.ones(len(states)), (rows, place)), shape=(count, len(states)))
    total = belongs @ states  # np.add.at takes fifteen times as long
    counts = np.bincount(rows, minlength=count)
    return (total / np.maximum(counts, 1)[:, None]).astype(np.float32)


def language_head(encoder: Encoder) -> nn.Module:
    """Load the masked-language head that an encoder was published with; fine-tuning drops it.

    Args:
        encoder: loaded from a folder in ``transformers`` layout or from the hub, not pruned.

    Returns:
        A module from hidden states (tokens, D) to scores (tokens, vocabulary).

    Raises:
        MissingData: the encoder comes without such a head, as the bundled ones do.
    """
    from transformers import AutoModelForMaskedLM

    if Path(encoder.name).is_dir():
        folder = Path(encoder.name)
    elif encoder.name in encoders.HUB or encoder.name.count("/") == 1:
        identifier = encoders.HUB.get(encoder.name, (encoder.name,))[0]
        folder = encoders.snapshot(identifier, encoder.revision, weights=True)
    else:
        raise MissingData(
            f"encoder {encoder.name!r} is built without a masked-language head. Measures of masked "
            "language need a hub encoder, such as 'xlm-roberta-base', or a folder with its files."
        )
    model, report = AutoModelForMaskedLM.from_pretrained(
        folder,
        local_files_only=True,
        trust_remote_code=False,
        use_safetensors=True,
        dtype=torch.float32,
        output_loading_info=True,
    )
    heads = {n: m for n, m in model.named_children() if n != model.base_model_prefix}
    missing = [key for key in report["missing_keys"] if key.split(".")[0] in heads]
    if len(heads) != 1 or missing:
        raise MissingData(
            f"encoder {encoder.name!r} was stored without its masked-language head "
            f"({', '.join(sorted(missing)[:3])} ...). Use the checkpoint of its pretraining."
        )
    return next(iter(heads.values())).eval().requires_grad_(False)


# Tuned encoders.


@dataclass(frozen=True)
class Checkpoint:
    """A tuned encoder loaded when needed; ``key`` changes whenever its weights do."""

    key: str
    load: Callable[[], Tuned]


Checkpoints = (
    Callable[[str, int], Checkpoint | Tuned | None] | Mapping[Any, Checkpoint | Tuned] | None
)


def resolve(source: Checkpoints, task: str, seed: int) -> Checkpoint:
    """Return the checkpoint of a task and a seed.

    ``source`` is a mapping from (task, seed), or from task alone for the first seed, or a function
    of both. Raises ``Undefined`` where there is none.
    """
    found: Checkpoint | Tuned | None = None
    if callable(source):
        found = source(task, seed)
    elif source is not None:
        found = source.get((task, seed))
        if found is None and seed == 0:
            found = source.get(task)
    if found is None:
        raise Undefined(f"there is no encoder fine-tuned on {task} with seed {seed}.")
    if isinstance(found, Checkpoint):
        return found
    tuned = found
    return Checkpoint(fingerprint(tuned), lambda: tuned)


def fingerprint(tuned: Tuned) -> str:
    """Return a hash of the weights of a tuned encoder and its heads, frozen tables left out."""
    digest = hashlib.sha256(tuned.encoder.sha256.encode())
    state: list[tuple[str, Any]] = list(parameters(tuned.encoder).items())
    if not tuned.encoder.freeze_embeddings:
        state.append(("embeddings", tuned.encoder.model.get_input_embeddings().weight))
    for name in sorted(tuned.heads):
        state += [(f"{name}/{key}", value) for key, value in tuned.heads[name].state_dict().items()]
    for name, value in state:
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(value.detach().cpu().numpy()).tobytes())
    return digest.hexdigest()


def from_store(encoder: Encoder, folder: str | Path | None = None) -> dict[Any, Checkpoint]:
    """Return the intermediate stages that a store of runs holds for an encoder.

    Args:
        encoder: the plain encoder that they were tuned from.
        folder: the store; by default that of the project.

    Returns:
        A mapping from (task, seed) to checkpoint, of runs of condition ``single`` that are done; of
        several runs of one task and seed, the latest.

    Raises:
        MissingData: the store has none.
    """
    from helpers.study.store import Store

    store = Store(folder)
    runs = store.scores(stage="intermediate").sort_values("utc")
    wanted = (runs["encoder"] == encoder.name) & (runs["condition"] == "single")
    runs = runs[wanted & (runs["status"] == "done")]
    found: dict[Any, Checkpoint] = {}
    for run, task, seed in zip(runs["run"], runs["intermediate"], runs["seed"], strict=True):
        path = store.checkpoint(run)
        if path is not None:
            found[task, int(seed)] = Checkpoint(run, partial(_stored, encoder, path, task))
    if not found:
        raise MissingData(
            f"{store} has no finished intermediate stage of encoder {encoder.name!r}. Run a plan "
            "with its intermediates first: helpers.study.run(plan)."
        )
    return found


def _stored(encoder: Encoder, folder: Path, task: str) -> Tuned:
    """Load the encoder of a finished run, and its head where it was kept."""
    known = data.with_labels(tasks.get(task))
    tuned = training.load_encoder(encoder, folder)
    path = folder / "heads.safetensors"
    if not path.exists():
        return Tuned(tuned, {}, {known.name: known})
    tensors, facts = load_tensors(path)
    prefix = f"{known.name}/"
    own = {n[len(prefix) :]: t for n, t in tensors.items() if n.startswith(prefix)}
    head = formats.get(known.format).head(known, encoder.dimension, 0.0)
    head.load_state_dict(own)
    settings = Settings(pooling=facts["pooling"])
    return Tuned(tuned, {known.name: head}, {known.name: known}, settings)


@dataclass(frozen=True)
class Trained:
    """Fine-tunes on demand and keeps what it made: pass it where checkpoints are asked for.

    Nothing trains unless this is given: a chapter that only reads stored values never does.

    Attributes:
        encoder: the plain encoder.
        settings: settings of every run, or a function from the task that is trained on.
        folder: where encoders and heads are kept.
    """

    encoder: Encoder
    settings: Settings | Callable[[Task], Settings]
    folder: Path

    def __call__(self, task: str, seed: int) -> Checkpoint | None:
        """Return the checkpoint of a task and a seed; retrieval tasks without training have none."""
        facts = tasks.get(task)
        trainer = tasks.get(facts.train_with) if facts.train_with else facts
        if not trainer.source.serving("en", "train") or "en" not in trainer.languages:
            return None
        settings = self.settings(trainer) if callable(self.settings) else self.settings
        asked = (trainer.name, self.encoder.sha256, asdict(settings), seed)
        key = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
        return Checkpoint(key, lambda: self._load(trainer.name, settings, seed, key))

    def _load(self, task: str, settings: Settings, seed: int, key: str) -> Tuned:
        place = Path(self.folder) / key[:2] / key
        if (place / "heads.safetensors").exists():
            return _stored(self.encoder, place, task)
        known = data.with_labels(tasks.get(task))
        tuned = training.fine_tune(self.encoder, [known], settings, seed)
        if tuned.outcome.status != "done":
            raise Undefined(f"fine-tuning on {task} with seed {seed} {tuned.outcome.status}.")
        tuned.save_encoder(place)
        return tuned


@dataclass(frozen=True)
class Early:
    """Trains an intermediate's encoder on a few rows of a target; pass it as ``early=``.

    The score is what a measure of similarity can reach at best, not one itself. ``train_rows`` and
    ``epochs`` of the settings say how short the run is.

    Source: the few-shot fine-tuning of Poth et al. 2021 (arXiv 2104.08247).
    """

    settings: Settings = Settings(epochs=1, train_rows=200, dev_rows=300, evaluations=1)

    def __call__(self, tuned: Tuned, task: Task, seed: int) -> float:
        """Return the English development score, 0 to 1, of the task that trains a target."""
        short = training.fine_tune(tuned.encoder, [data.with_labels(task)], self.settings, seed)
        if short.outcome.status != "done":
            raise Undefined(f"the short run on {task.name} {short.outcome.status}.")
        return float(short.outcome.dev[task.name])
