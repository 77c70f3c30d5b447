"""The five formats: how a task of each is encoded, learnt, predicted and decoded; what they share."""

import inspect
import unicodedata
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from statistics import mode
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from helpers import metrics
from helpers.errors import known
from helpers.tasks import Task

IGNORE = -100  # label of a token that carries no loss (PyTorch's ``ignore_index``)

Rows = Sequence[dict[str, Any]]
Arrays = dict[str, np.ndarray]
Outputs = dict[str, Tensor]


@dataclass
class Encoded:
    """Sequences of one task in one language, tokenised once."""

    tokens: np.ndarray  # piece ids of all sequences one after the other, (tokens,)
    starts: np.ndarray  # first token of each sequence, (sequences + 1,)
    example: np.ndarray  # row that each sequence belongs to, (sequences,), not decreasing
    per_sequence: dict[str, np.ndarray] = field(default_factory=dict)  # (sequences, ...)
    per_token: dict[str, np.ndarray] = field(default_factory=dict)  # (tokens, ...)
    rows: int = 0
    together: bool = False  # the sequences of a row share a batch (choices of one question)
    skipped: dict[str, int] = field(default_factory=dict)  # rows left out of training, by reason

    def __len__(self) -> int:
        return len(self.starts) - 1

    @cached_property
    def lengths(self) -> np.ndarray:
        """Length of each sequence in tokens, shape ``(sequences,)``."""
        return np.diff(self.starts)

    @classmethod
    def build(
        cls,
        sequences: Sequence[Sequence[int]],
        example: Sequence[int],
        *,
        per_sequence: dict[str, Any] | None = None,
        per_token: dict[str, Sequence[Any]] | None = None,
        **facts: Any,
    ) -> Self:
        """Flatten ragged sequences; ``per_token`` holds one list per sequence."""
        lengths = np.fromiter((len(s) for s in sequences), np.int64, len(sequences))

        def flat(parts: Sequence[Any], kind: type | None = None) -> np.ndarray:
            arrays = [np.asarray(part, kind) for part in parts]
            return np.concatenate(arrays) if arrays else np.zeros(0, kind or np.int64)

        return cls(
            tokens=flat(sequences, np.int32),
            starts=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
            example=np.asarray(example, np.int64),
            per_sequence={k: np.asarray(v) for k, v in (per_sequence or {}).items()},
            per_token={k: flat(v) for k, v in (per_token or {}).items()},
            **facts,
        )

    @cached_property
    def units(self) -> np.ndarray:
        """First sequence of each unit that must stay whole, shape ``(units + 1,)``."""
        if not self.together:
            return np.arange(len(self) + 1)
        return np.append(np.unique(self.example, return_index=True)[1], len(self))

    @cached_property
    def labelled_upto(self) -> np.ndarray:
        """Number of tokens with a label (a tag, a hidden piece) before each token."""
        labels = self.per_token["tag" if "tag" in self.per_token else "target"]
        return np.concatenate([[0], np.cumsum(labels != IGNORE)])

    @cached_property
    def longest(self) -> np.ndarray:
        """Length of the longest sequence of each unit, shape ``(units,)``."""
        return np.maximum.reduceat(self.lengths, self.units[:-1])


def join(parts: Sequence[Encoded]) -> Encoded:
    """Put several encoded sets one after the other (all languages of one target)."""
    tokens = np.cumsum([0, *(len(part.tokens) for part in parts)])
    rows = np.cumsum([0, *(part.rows for part in parts)])

    def fields(name: str) -> Arrays:
        every = [getattr(part, name) for part in parts]
        return {key: np.concatenate([one[key] for one in every]) for key in every[0]}

    return Encoded(
        tokens=np.concatenate([part.tokens for part in parts]),
        starts=np.concatenate([[0], *(p.starts[1:] + tokens[i] for i, p in enumerate(parts))]),
        example=np.concatenate([part.example + rows[i] for i, part in enumerate(parts)]),
        per_sequence=fields("per_sequence"),
        per_token=fields("per_token"),
        rows=int(rows[-1]),
        together=parts[0].together,
    )


# --- Batches --------------------------------------------------------------------------------------
def sorted_batches(encoded: Encoded, budget: int) -> list[np.ndarray]:
    """Cut all sequences, longest first, into batches of at most ``budget`` padded tokens."""
    return _cut(encoded, np.arange(len(encoded.units) - 1), budget)


def shuffled_batches(
    encoded: Encoded, budget: int, generator: np.random.Generator, packed: bool = False
) -> list[np.ndarray]:
    """Cut shuffled units into batches of at most ``budget`` tokens; in padded ones padding counts."""
    units = len(encoded.units) - 1
    order = generator.permutation(units)
    if packed:
        return _cut(encoded, order, budget, packed=True)
    # Sorted by length inside pools of some 50 batches, then the batches are shuffled again: the
    # order stays random while padding stays small.
    mean_tokens = max(1.0, len(encoded.tokens) / max(1, units))
    size = max(1, int(50 * budget / mean_tokens))
    pools = (order[begin : begin + size] for begin in range(0, units, size))
    batches = [batch for pool in pools for batch in _cut(encoded, pool, budget)]
    return [batches[i] for i in generator.permutation(len(batches))]


def split(encoded: Encoded, batch: np.ndarray, budget: int) -> list[np.ndarray]:
    """Split one batch into parts of at most ``budget`` padded tokens, units kept whole."""
    return _cut(encoded, np.unique(np.searchsorted(encoded.units, batch, "right") - 1), budget)


def _cut(encoded: Encoded, units: np.ndarray, budget: int, packed: bool = False) -> list[Any]:
    """Cut units into batches of tokens in the budget: packed as they come, or padded by length."""
    if not packed:
        units = units[np.argsort(-encoded.longest[units], kind="stable")]
    first = encoded.units
    sizes, tokens = np.diff(first)[units], np.diff(encoded.starts[first])[units]
    edges = np.concatenate([[0], np.cumsum(sizes)])
    upto = np.concatenate([[0], np.cumsum(tokens)]) if packed else edges
    sequences = np.repeat(first[units] - edges[:-1], sizes) + np.arange(edges[-1])
    batches, begin = [], 0
    while begin < len(units):
        room = budget if packed else budget // max(1, int(encoded.longest[units[begin]]))
        end = int(np.searchsorted(upto, upto[begin] + room, side="right")) - 1
        end = max(begin + 1, end)  # a unit that is larger than the budget has a batch of its own
        batch = sequences[edges[begin] : edges[end]]
        if not packed:  # on a CPU neighbours of one length share their products, choices too
            batch = batch[np.argsort(-encoded.lengths[batch], kind="stable")]
        batches.append(batch)
        begin = end
    return batches


def token_index(encoded: Encoded, batch: np.ndarray) -> np.ndarray:
    """Return the positions in ``encoded.tokens`` of a batch's sequences, in batch order."""
    begin, lengths = encoded.starts[batch], encoded.lengths[batch]
    shift = np.repeat(begin - np.concatenate([[0], np.cumsum(lengths)[:-1]]), lengths)
    return np.arange(int(lengths.sum())) + shift


@dataclass
class Batch:
    """Some sequences of one encoded set, unpadded, as tensors on a device."""

    ids: Tensor  # piece ids of all sequences, (tokens,)
    lengths: np.ndarray  # tokens per sequence, (sequences,), on the host
    starts: Tensor  # first token of each sequence, (sequences,)
    sequence: Tensor  # sequence that each token belongs to, (tokens,)
    row: Tensor  # row that each sequence belongs to, counted within the batch, (sequences,)
    rows: int  # rows in the batch
    fields: dict[str, Tensor]  # the encoded set's per-sequence and per-token arrays

    @classmethod
    def collate(cls, encoded: Encoded, index: np.ndarray, device: Any = "cpu") -> Self:
        """Gather sequences of an encoded set and move them to a device without blocking."""
        tokens = token_index(encoded, index)
        lengths = encoded.lengths[index]
        members, row = np.unique(encoded.example[index], return_inverse=True)

        def put(array: np.ndarray) -> Tensor:
            tensor = torch.from_numpy(np.ascontiguousarray(array))
            if str(device).startswith("cuda"):
                return tensor.pin_memory().to(device, non_blocking=True)
            return tensor

        fields = {name: put(array[index]) for name, array in encoded.per_sequence.items()}
        fields |= {name: put(array[tokens]) for name, array in encoded.per_token.items()}
        return cls(
            ids=put(encoded.tokens[tokens].astype(np.int64)),
            lengths=lengths,
            starts=put(np.cumsum(lengths) - lengths),
            sequence=put(np.repeat(np.arange(len(lengths)), lengths)),
            row=put(row),
            rows=len(members),
            fields=fields,
        )


def pool(hidden: Tensor, batch: Batch, how: str) -> Tensor:
    """Pool states of tokens into 32-bit floats of sequences: the mean of all, or the first."""
    if how == "first":
        return hidden[batch.starts].float()
    total = torch.zeros(len(batch.lengths), *hidden.shape[1:], device=hidden.device)
    total = total.index_add(0, batch.sequence, hidden.float())
    counts = torch.zeros(len(batch.lengths), device=hidden.device)
    counts = counts.index_add(0, batch.sequence, torch.ones_like(batch.sequence, dtype=torch.float))
    return total / counts.view(-1, *[1] * (total.ndim - 1))


# --- What a format is -----------------------------------------------------------------------------
class FormatBase(ABC):
    """How tasks of one format are encoded, learnt, predicted and decoded; here: one label each."""

    # ``loss`` gives a sum and ``weight`` the number of terms in it, so that a step's gradient does
    # not depend on how its batch is split over micro-batches.
    name: str
    field = "label"  # what is to be predicted, in the encoded set and among the outputs
    answer = "label"  # and in the rows
    scores = 0  # of the head; 0: one per label

    @abstractmethod
    def encode(self, task: Task, rows: Rows, encoder: Any, max_length: int, train: bool) -> Encoded:
        """Tokenise standard rows."""

    def head(self, task: Task, width: int, dropout: float) -> nn.Module:
        """Make the untrained head of a task: dropout and one linear layer."""
        out = nn.Linear(width, self.scores or len(task.labels))
        nn.init.normal_(out.weight, std=0.02)
        nn.init.zeros_(out.bias)
        return nn.Sequential(OrderedDict(dropout=nn.Dropout(dropout), out=out))

    def features(self, hidden: Tensor, batch: Batch, pooling: str) -> Tensor:
        """Return what the head reads: one vector per sequence."""
        return pool(hidden, batch, pooling)

    def loss(self, head: nn.Module, hidden: Tensor, batch: Batch, pooling: str) -> Tensor:
        """Return the summed loss of a batch, a scalar: here the cross-entropy of the labels."""
        scores, right = head(self.features(hidden, batch, pooling)), batch.fields[self.field]
        how: dict[str, Any] = {"ignore_index": IGNORE, "reduction": "sum"}
        return functional.cross_entropy(scores.float(), right, **how)

    def weight(self, encoded: Encoded, index: np.ndarray) -> float:
        """Return the number of terms in the loss of these sequences, known without the device."""
        if self.field not in encoded.per_token:  # one for each sequence, or for each whole row
            return float(len(np.unique(encoded.example[index])) if encoded.together else len(index))
        upto = encoded.labelled_upto
        return float((upto[encoded.starts[index + 1]] - upto[encoded.starts[index]]).sum())

    def predict(self, head: nn.Module, hidden: Tensor, batch: Batch, pooling: str) -> Outputs:
        """Return what decoding needs, reduced on the device; first dimension: sequences or tokens."""
        return {self.field: head(self.features(hidden, batch, pooling)).argmax(-1)}

    def decode(self, task: Task, rows: Rows, encoded: Encoded, outputs: Arrays) -> list[Any]:
        """Return one prediction per row, in row order: here the ids of labels."""
        return [int(label) for label in outputs[self.field]]

    def gold(self, task: Task, rows: Rows) -> list[Any]:
        """Return what the predictions are compared with, in row order."""
        return [row[self.answer] for row in rows]

    def constant(self, task: Task, rows: Rows) -> list[Any]:
        """Return the best predictions that do not read the input: the floor of a useful run."""
        gold = self.gold(task, rows)
        return [mode(gold)] * len(gold)


# --- Texts to pieces ----------------------------------------------------------------------------
class Template(NamedTuple):
    """Special tokens that one tokenizer puts before, between and after its inputs."""

    before: tuple[int, ...]
    between: tuple[int, ...]
    after: tuple[int, ...]

    @classmethod
    def of(cls, tokenizer: Any) -> Self:
        """Read the template off the tokenizer by encoding a pair of one-letter texts."""
        pair = tokenizer("a", "b", return_special_tokens_mask=True)
        ids, special = pair["input_ids"], np.asarray(pair["special_tokens_mask"], bool)
        content = np.flatnonzero(~special)
        gap = int(content[np.flatnonzero(np.diff(content) > 1)[0]])
        right = int(content[content > gap][0])
        parts = ids[: content[0]], ids[gap + 1 : right], ids[content[-1] + 1 :]
        return cls(*map(tuple, parts))

    def single(self, first: Sequence[int]) -> list[int]:
        """Return one input with its special tokens."""
        return [*self.before, *first, *self.after]

    def pair(self, first: Sequence[int], second: Sequence[int]) -> list[int]:
        """Return two inputs with their special tokens."""
        return [*self.before, *first, *self.between, *second, *self.after]


def piece_ids(tokenizer: Any, texts: Sequence[str], chunk: int = 10_000) -> list[list[int]]:
    """Return the piece ids of each text, without special tokens; equal texts are encoded once."""
    unique = list(dict.fromkeys(texts))
    known: dict[str, list[int]] = {}
    for begin in range(0, len(unique), chunk):
        part = unique[begin : begin + chunk]
        known.update(zip(part, _quietly(tokenizer, part)["input_ids"], strict=True))
    return [known[text] for text in texts]


def singles(encoder: Any, texts: Sequence[str], max_length: int) -> list[list[int]]:
    """Return the pieces of each text with its special tokens, cut at the end."""
    template = Template.of(encoder.tokenizer)
    room = max_length - len(template.single([]))
    return [template.single(ids[:room]) for ids in piece_ids(encoder.tokenizer, texts)]


def _quietly(tokenizer: Any, texts: list[str], **options: Any) -> Any:
    """Encode without special tokens and without a warning on long texts: they are cut later."""
    return tokenizer(texts, add_special_tokens=False, verbose=False, **options)


def pieces_with_offsets(tokenizer: Any, texts: Sequence[str]) -> list[tuple[Any, Any]]:
    """Return piece ids and character spans ``(pieces, 2)`` of each text, without white space."""
    # Tokenizers such as Gemma's and byte-level ones count the space before a word to its first piece.
    (probe,) = _quietly(tokenizer, ["one two"], return_offsets_mapping=True)["offset_mapping"]
    with_spaces = any("one two"[begin:end] != "one two"[begin:end].strip() for begin, end in probe)
    coded = _quietly(tokenizer, list(texts), return_offsets_mapping=True)
    found = []
    for text, ids, pairs in zip(texts, coded["input_ids"], coded["offset_mapping"], strict=True):
        offsets = np.array(pairs, np.int32).reshape(-1, 2)
        if with_spaces:
            inside = [text[begin:end] for begin, end in pairs]
            offsets[:, 0] += [len(piece) - len(piece.lstrip()) for piece in inside]
            offsets[:, 1] -= [len(piece) - len(piece.rstrip()) for piece in inside]
            offsets[:, 1] = offsets.max(1)  # a piece of spaces alone spans nothing
        found.append((np.asarray(ids, np.int32), _with_marks(text, offsets)))
    return found


def _with_marks(text: str, offsets: np.ndarray) -> np.ndarray:
    """Let a piece end after the marks that were composed with its last character."""
    if unicodedata.is_normalized("NFKC", text):
        return offsets
    # A normaliser that composes letter and accent aligns the result with the letter alone: marks
    # that no piece covers belong to the piece before them.
    borders = np.zeros(len(text) + 1, np.int64)
    np.add.at(borders, offsets[:, 0], 1)
    np.add.at(borders, offsets[:, 1], -1)
    for place in np.flatnonzero(borders.cumsum()[:-1] == 0).tolist():
        if unicodedata.category(text[place])[0] not in "CZ":
            offsets[offsets[:, 1] == place, 1] = place + 1
    return offsets


# The formats are built from the names above.
from helpers.formats.labels import Choice, Pair, Retrieval, Tagging  # noqa: E402
from helpers.formats.span import Span  # noqa: E402

_ALL: tuple[FormatBase, ...] = (Pair(), Choice(), Tagging(), Span(), Retrieval())
_FORMATS = {format_.name: format_ for format_ in _ALL}


def get(name: str) -> FormatBase:
    """Return a format by name."""
    return _FORMATS[known("format", name, _FORMATS)]


def task_scores(
    task: Task, rows: Sequence[dict[str, Any]], predictions: Sequence[Any], language: str = "en"
) -> dict[str, float]:
    """Score one prediction per row by a task's own metric; its main value comes first."""
    gold = get(task.format).gold(task, rows)
    if task.format == "tagging":
        # Words whose right tag is unknown to the label set are left out.
        both = (zip(*tags, strict=True) for tags in zip(predictions, gold, strict=True))
        known = [pairs for row in both if (pairs := [pair for pair in row if pair[1] != IGNORE])]
        predictions, gold = ([[pair[side] for pair in row] for row in known] for side in (0, 1))
    # A metric is told the label names where it takes them, and MLQA's, the only one, the language.
    metric = metrics.get(task.metric)
    labels = "labels" in inspect.signature(metric.function).parameters
    options: dict[str, Any] = {"labels": task.labels} if labels else {}
    options |= {"language": language} if task.metric == "mlqa" else {}
    values = metrics.score(task.metric, predictions, gold, **options)
    return {metric.main: values[metric.main]} | values
