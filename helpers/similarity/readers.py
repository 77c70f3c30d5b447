"""What arrays are made of: sampled rows, their labelled units, encoders and what they say of them.

A *unit* is what carries a label: a text (pair), a context with one of its choices (choice: right or
not), a word (tagging), or a piece of a passage (span: inside the answer or not). A tagging or span
task so has more units than rows; all units of a row stay in the same half.
"""

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array
from torch import nn

from helpers import data, formats, tasks
from helpers.errors import BadRows, MissingData, UnknownName
from helpers.files import load_tensors
from helpers.formats import Encoded, FormatBase
from helpers.formats.labels import Masked, Retrieval
from helpers.models import Settings, encoders, training
from helpers.models.encoders import Encoder
from helpers.models.network import Network
from helpers.models.training import Tuned
from helpers.similarity.catalogue import Undefined, evenly
from helpers.similarity.representations import Integers
from helpers.study.profiles import Profile
from helpers.tasks import Row, Source, Task

Single = NDArray[np.float32]

# Classes below one unit in so many are left out: each half of a sample must still hold a few of
# every class. At least 4 and at most 12 units are asked for.
RARE = 100
# A row of a tagging or span task gives several units, so fewer rows are read for as many units.
UNITS_PER_ROW = 4


@dataclass(frozen=True)
class Sample:
    """Rows of one task in one language, drawn by a seed; the task has its label names."""

    task: Task  # of a target the task that trains it
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
        """All that a row says as one text; a context is written once, however many choices follow it."""
        names, lists = ("first", "second", "text", "question", "context"), ("tokens", "choices")
        parts = [[row[name] for name in names if row.get(name)] for row in self.rows]
        more = [[word for name in lists for word in row.get(name, ())] for row in self.rows]
        return [" ".join(one + other) for one, other in zip(parts, more, strict=True)]

    @cached_property
    def half(self) -> NDArray[np.bool_]:
        """Whether each row is in the second of two disjoint halves."""
        return halves(len(self.rows), self.seed)


def halves(rows: int, seed: int) -> NDArray[np.bool_]:
    """Split rows at random into two halves; True for those of the second."""
    second = np.zeros(rows, dtype=bool)
    second[np.random.default_rng([seed, 2]).permutation(rows)[: rows // 2]] = True
    return second


def sample(task: Task, rows: int, seed: int, language: str = "en") -> Sample:
    """Draw at most so many rows of a task; Undefined or MissingData where there are none."""
    # In English these are training rows, a target's those of the task that trains it. In another
    # language they are development rows of the target itself: no test row is looked at.
    trainer, split = training.training_task(task), "train"
    if language != "en":
        trainer, split = task, "dev"
    elif "en" not in trainer.languages or not trainer.source.serving("en", "train"):
        return _english_side(task, rows, seed)
    trainer = data.with_labels(trainer)
    try:
        found = data.rows(trainer, language, split, rows, seed)
    except UnknownName as error:
        raise Undefined(f"{task.name} has no {split} rows in {language!r}: {error}") from error
    trainer = replace(trainer, labels=tuple(found.labels) or trainer.labels)
    return Sample(trainer, list(found)[:rows], seed)  # a limit counts queries alone


def _english_side(task: Task, rows: int, seed: int) -> Sample:
    """Draw English sentences of a bitext, which nothing trains, until there are enough."""
    texts: dict[str, Row] = {}
    for other in task.languages if task.format == "retrieval" else ():
        for row in _bitext(task, other):
            if row["id"].startswith("en-"):
                texts.setdefault(row["text"], row)
        if len(texts) >= rows:
            break
    if not texts:
        raise Undefined(f"{task.name} has no English training rows or sentences that are here.")
    order = sorted(np.random.default_rng([seed, 1]).permutation(len(texts))[:rows])
    return Sample(task, [list(texts.values())[place] for place in order], seed)


def _bitext(task: Task, language: str) -> Sequence[Row]:
    """Rows of a bitext task in one language, of its development split where there is one."""
    splits = [split for split in ("dev", "test") if task.source.serving(language, split)]
    try:
        return list(data.rows(task, language, splits[0])) if splits else []
    except MissingData:
        return []


def parallel(task: Task, language: str, rows: int, seed: int) -> tuple[list[str], list[str]]:
    """Draw at most so many sentences of a bitext in English, and their translations."""
    known = task.format == "retrieval" and language in task.languages
    found = {row["id"]: row for row in _bitext(task, language)} if known else {}
    # Which side is English differs between tasks: queries in some, candidates in others.
    queries = [row for row in found.values() if row["side"] == "query" and row["gold"]]
    both = [(row, found[row["gold"][0]]) for row in queries if row["gold"][0] in found]
    pairs = [pair[:: 1 if pair[0]["id"].startswith("en-") else -1] for pair in both]
    pairs = [pair for pair in pairs if pair[0]["id"].startswith("en-")]
    if not pairs:
        raise Undefined(f"{task.name} has no sentence pairs of English and {language!r} here.")
    order = sorted(np.random.default_rng([seed, 3]).permutation(len(pairs))[:rows])
    english, other = ([pairs[place][side]["text"] for place in order] for side in (0, 1))
    return english, other


@dataclass(frozen=True)
class View:
    """The labelled units of a sample, encoded."""

    encoded: Encoded  # the sequences, in the encoder's own ids
    by_token: bool  # whether units are tokens rather than sequences
    units: Integers  # position of each unit among the sequences or the tokens
    labels: Integers  # of each unit
    rows: Integers  # of the sample that each unit belongs to
    dropped: int  # classes that were too rare


def encode(
    sample: Sample, encoder: Encoder, max_length: int, answers: bool = False, choose: Any = None
) -> Encoded:
    """Tokenise a sample as its format does; ``example`` says which row each sequence belongs to."""
    # ``answers`` marks those of span rows and leaves out rows without a findable one; of the rows that
    # are left ``choose`` may take some. The shortest of three limits holds.
    task, rows = sample.task, sample.rows
    longest = min(max_length, task.max_length, encoder.max_length)
    make = partial(formats.get(task.format).encode, encoder=encoder, max_length=longest)
    encoded = make(task, rows, train=answers)
    if choose is not None:
        # Which rows can be encoded is known only now.
        chosen = choose(np.unique(encoded.example))
        encoded = make(task, [rows[row] for row in chosen], train=answers)
        encoded.example = chosen[encoded.example]
    encoded.tokens = encoder.remap(encoded.tokens).astype(np.int32)
    return encoded


# Where each format keeps the labels of its units.
_MARKS = {"pair": "label", "choice": "right", "tagging": "tag"}


def label_view(sample: Sample, encoder: Encoder, max_length: int, units: int) -> View:
    """Encode at most so many labelled units of a sample, drawn by its seed; no rare classes."""
    kind = sample.task.format
    if kind == "retrieval":
        raise Undefined(f"{sample.task.name} is a retrieval task: its texts have no labels.")
    by_token = kind in ("tagging", "span")
    most = max(units // UNITS_PER_ROW, 1)
    fewer = (lambda rows: rows[evenly(len(rows), most)]) if by_token else None
    encoded = encode(sample, encoder, max_length, kind == "span", fewer)
    if kind == "span":
        marks = _answer_labels(encoded, sample.seed)
    else:
        marks = (encoded.per_token if by_token else encoded.per_sequence)[_MARKS[kind]]
        marks = marks.astype(np.int64)
    # Of the units that have a label so many, and of those no class that a half may lack.
    drawn = subset(np.flatnonzero(marks >= 0), units, sample.seed)
    classes, counts = np.unique(marks[drawn], return_counts=True)
    fewest = int(np.clip(len(drawn) // RARE, 4, 12))
    kept = classes[counts >= fewest]
    if len(kept) < 2:
        said = f"{len(kept)} of {len(classes)} classes have {fewest} or more labelled units"
        raise BadRows(f"only {said}; at least two are needed. Sample more rows.")
    chosen = drawn[np.isin(marks[drawn], kept)]
    rows = np.repeat(encoded.example, encoded.lengths) if by_token else encoded.example
    dropped = len(classes) - len(kept)
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


def subset(positions: Integers, size: int, seed: int) -> Integers:
    """At most ``size`` of some positions, drawn by a seed, in their order."""
    if len(positions) <= size:
        return positions
    chosen = np.random.default_rng([seed, 4]).permutation(len(positions))[:size]
    return positions[np.sort(chosen)]


def readable_labels(task: Task) -> list[str]:
    """Label names as words: ``B-start_hours`` and ``I-start_hours`` become ``start hours``."""
    if task.format == "choice":
        raise Undefined(f"the labels of {task.name} are places of choices, not names.")
    found = []
    for label in task.labels:
        bare = re.sub("^[BI]-", "", label)
        words = bare if bare.isupper() else re.sub("([A-Z])", r" \1", bare.replace("_", " "))
        found.append(" ".join(words.split()).lower())
    named = [name for name in dict.fromkeys(found) if any(c.isalpha() for c in name)]
    if len(named) < 2:
        raise Undefined(f"{task.name} has no label names.")
    return named


# States.

TEXTS = Task("texts", "target", "retrieval", Source("rows", "texts"), max_length=512)


class _Tokens(Retrieval):
    """Gives the state of each token, not of each text."""

    def predict(self, head: Any, hidden: Any, batch: Any, pooling: str) -> dict[str, Any]:
        return {"vector": hidden.float()}


@dataclass(frozen=True)
class Reader:
    """Reads encoded texts with one encoder: without gradients, and packed where it can be."""

    encoder: Encoder
    precision: str = "fp32"

    def read(
        self, encoded: Encoded, kind: FormatBase, head: nn.Module | None = None, **how: Any
    ) -> dict[str, NDArray[Any]]:
        """Return what a format makes of the states of all sequences."""
        # The head of a task whose states are read as they are does nothing.
        heads, kinds = {"read": head or nn.Identity()}, {"read": kind}
        joined = Network(self.encoder.model, heads, kinds, precision=self.precision, packed=None)
        try:
            return joined.outputs("read", encoded, **how)
        finally:
            joined.unpack()  # others take gradients through the same model, padded

    def sequences(self, encoded: Encoded) -> Single:
        """Return the mean state of each sequence, shape (sequences, D)."""
        return self.read(encoded, Retrieval(), pooling="mean")["vector"]

    def units(self, view: View, pooling: str = "mean") -> Single:
        """Return the state of each unit of a view, shape (units, D)."""
        kind = _Tokens() if view.by_token else Retrieval()
        return self.read(view.encoded, kind, pooling=pooling)["vector"][view.units]

    def texts(self, texts: list[str], max_length: int) -> Single:
        """Return the mean state of each text, shape (texts, D)."""
        rows = [{"id": str(i), "side": "query", "text": t, "gold": []} for i, t in enumerate(texts)]
        return self.sequences(encode(Sample(TEXTS, rows, 0), self.encoder, max_length))

    def losses(self, texts: list[str], max_length: int, head: nn.Module) -> tuple[Single, Integers]:
        """Masked-language loss of each text that has a hidden piece, and which texts those are."""
        rows = [{"id": str(place), "text": line} for place, line in enumerate(texts)]
        encoded = Masked().encode(TEXTS, rows, self.encoder, max_length, False)
        encoded.tokens = self.encoder.remap(encoded.tokens).astype(np.int32)
        raw = self.read(encoded, Masked(), head)
        # Short texts may have no hidden piece, and so no loss.
        hidden = np.add.reduceat(encoded.per_token["target"] >= 0, encoded.starts[:-1])
        loss = -np.asarray(Masked().decode(TEXTS, rows, encoded, raw))
        kept = np.flatnonzero(hidden > 0)
        return loss[kept], kept


def row_means(states: Single, rows: Integers, count: int) -> Single:
    """Return the mean over the sequences of each of ``count`` rows, shape (count, D)."""
    place = np.arange(len(states))
    belongs = csr_array((np.ones(len(states)), (rows, place)), shape=(count, len(states)))
    total = belongs @ states  # np.add.at takes fifteen times as long
    counts = np.bincount(rows, minlength=count)
    return (total / np.maximum(counts, 1)[:, None]).astype(np.float32)


def language_head(encoder: Encoder) -> nn.Module:
    """Load the head that an encoder was published with: from states (tokens, D) to (tokens, vocabulary)."""
    from transformers import AutoModelForMaskedLM

    folder = Path(encoder.name)
    if encoder.name in encoders.LOCAL:
        advice = "Take a hub encoder, such as 'xlm-roberta-base', or a folder with its files."
        raise MissingData(f"{encoder.name!r} is built without a masked-language head. {advice}")
    if not folder.is_dir():
        identifier = encoders.HUB.get(encoder.name, (encoder.name,))[0]
        folder = encoders.snapshot(identifier, encoder.revision)
    options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    options |= {"use_safetensors": True, "dtype": torch.float32, "output_loading_info": True}
    model, report = AutoModelForMaskedLM.from_pretrained(folder, **options)
    # The head is what stands beside the encoder, and all of it must have been stored.
    heads = {n: m for n, m in model.named_children() if n != model.base_model_prefix}
    missing = [key for key in report["missing_keys"] if key.split(".")[0] in heads]
    if len(heads) != 1 or missing:
        said = f"its masked-language head ({', '.join(sorted(missing)[:3])} ...)"
        raise MissingData(f"{encoder.name!r} was stored without {said}; take the pretrained one.")
    return next(iter(heads.values())).eval().requires_grad_(False)


# --- Tuned encoders -------------------------------------------------------------------------------
def parameters(encoder: Encoder) -> dict[str, nn.Parameter]:
    """Return the parameters of an encoder by name, word embeddings left out."""
    table = encoder.model.get_input_embeddings().weight
    return {name: p for name, p in encoder.model.named_parameters() if p is not table}


@dataclass(frozen=True)
class Checkpoint:
    """A tuned encoder loaded when needed; ``key`` changes whenever its weights do."""

    key: str
    load: Callable[[], Tuned]


# A function of a task and a seed, or a mapping from both.
Checkpoints = (
    Callable[[str, int], Checkpoint | Tuned | None] | Mapping[Any, Checkpoint | Tuned] | None
)


def resolve(source: Checkpoints, task: str, seed: int) -> Checkpoint:
    """Return the checkpoint of a task and a seed; Undefined where there is none."""
    found = source(task, seed) if callable(source) else (source or {}).get((task, seed))
    if found is None:
        raise Undefined(f"there is no encoder fine-tuned on {task} with seed {seed}.")
    return found if isinstance(found, Checkpoint) else Checkpoint(fingerprint(found), lambda: found)


def fingerprint(tuned: Tuned) -> str:
    """Return a hash of the weights of a tuned encoder and its heads, frozen tables left out."""
    digest = hashlib.sha256(tuned.encoder.sha256.encode())
    # Frozen embeddings are those of the plain encoder, whose hash comes first.
    encoder = tuned.encoder
    everything = dict(encoder.model.named_parameters())
    state: dict[str, Any] = parameters(encoder) if encoder.freeze_embeddings else everything
    for name in sorted(tuned.heads):
        state |= {f"{name}/{key}": v for key, v in tuned.heads[name].state_dict().items()}
    for name, value in state.items():
        digest.update(name.encode() + value.detach().cpu().numpy().tobytes())
    return digest.hexdigest()


def from_store(encoder: Encoder, profile: Profile, folder: Any = None) -> dict[Any, Checkpoint]:
    """Return what the stages ``single`` of a profile's study left, by (task, seed) the latest."""
    from helpers.study.store import Store

    store, found = Store(folder), dict[Any, Checkpoint]()
    # A repeated stage has its plan's seed; one that learnt nothing is still what targets start from.
    runs = (r for r in store.records(store.runs()) if r.condition == "single" and not r.target)
    for r in sorted(runs, key=lambda run: run.provenance["utc"]):
        place, task = store.checkpoint(r.run), r.intermediate
        if place and r.encoder == encoder.name and task in profile.intermediates:
            asked = profile.settings(tasks.get(task), "intermediate", "single").facts()
            left = (place / "heads.safetensors").exists()  # its loss may have been no number
            if left and r.spec["settings"] == json.loads(json.dumps(asked)):
                load = partial(_stored, encoder, place, task)
                found[task, int(r.spec["seed"])] = Checkpoint(r.run, load)
    if not found:
        said = f"{store.folder} has no finished intermediate stage of profile {profile.name!r}"
        raise MissingData(f"{said}. Run a plan with its intermediates first: study.run(plan).")
    return found


def _stored(encoder: Encoder, folder: Path, task: str) -> Tuned:
    """Load the encoder and the head of a finished run."""
    known = data.with_labels(tasks.get(task))
    tuned = training.load_encoder(encoder, folder)
    tensors, facts = load_tensors(folder / "heads.safetensors")
    head, own = formats.get(known.format).head(known, encoder.dimension, 0.0), f"{known.name}/"
    head.load_state_dict({n.removeprefix(own): t for n, t in tensors.items() if n.startswith(own)})
    settings = Settings(pooling=facts["pooling"])
    return Tuned(tuned, {known.name: head}, {known.name: known}, settings)


@dataclass(frozen=True)
class Trained:
    """Fine-tunes on demand and keeps what it made: pass it where checkpoints are asked for."""

    encoder: Encoder  # the plain one
    settings: Settings | Callable[[Task], Settings]  # of every run, or by the task that is learnt
    folder: Path  # where encoders and heads are kept

    def __call__(self, task: str, seed: int) -> Checkpoint | None:
        """Return the checkpoint of a task and a seed; retrieval tasks without training have none."""
        trainer = training.training_task(tasks.get(task))
        if not trainer.source.serving("en", "train") or "en" not in trainer.languages:
            return None
        settings = self.settings(trainer) if callable(self.settings) else self.settings
        asked = (trainer.name, self.encoder.sha256, asdict(settings), seed)
        key = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
        place = Path(self.folder) / key[:2] / key

        def load() -> Tuned:
            if not (place / "heads.safetensors").exists():
                what = f"fine-tuning on {trainer.name}"
                _tune(self.encoder, trainer, settings, seed, what).save_encoder(place)
            return _stored(self.encoder, place, trainer.name)

        return Checkpoint(key, load)


def _tune(encoder: Encoder, task: Task, settings: Settings, seed: int, what: str) -> Tuned:
    """Fine-tune an encoder; Undefined where nothing came of it."""
    tuned = training.fine_tune(encoder, [data.with_labels(task)], settings, seed)
    if tuned.outcome.status != "done":
        raise Undefined(f"{what} with seed {seed} {tuned.outcome.status}.")
    return tuned


def early(tuned: Tuned, task: Task, seed: int, settings: Mapping[str, Settings]) -> float:
    """Return the English development score, 0 to 1, of a short run on the task that trains a target."""
    # It is what a measure of similarity can reach at best (after Poth et al. 2021, 2104.08247).
    how = settings[task.name], seed, f"the short run on {task.name}"
    return float(_tune(tuned.encoder, task, *how).outcome.dev[task.name])
