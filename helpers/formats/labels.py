"""Formats with a label, a piece or a vector to predict: pair, choice, tagging, retrieval, masked."""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from helpers import formats, metrics
from helpers.formats import IGNORE, Arrays, Batch, Encoded, FormatBase, Outputs, Rows, Template
from helpers.tasks import Task

MASKED_SHARE = 0.15
_AT_ONCE = 10_000


class Pair(FormatBase):
    """Classify a text or a pair of texts (inference, paraphrase, intent) from its pooled states."""

    name = "pair"

    def encode(self, task: Task, rows: Rows, encoder: Any, max_length: int, train: bool) -> Encoded:
        """Encode ``first`` and ``second``, the longer one cut first; no second text: one input."""
        # Special tokens stand around one text, and between and around two.
        template = Template.of(encoder.tokenizer)
        alone = max_length - len(template.single([]))
        both = max_length - len(template.pair([], []))
        first = formats.piece_ids(encoder.tokenizer, [row["first"] for row in rows])
        second = formats.piece_ids(encoder.tokenizer, [row.get("second") or "" for row in rows])
        sequences = []
        for a, b in zip(first, second, strict=True):
            # The first keeps half of the room, or what the second leaves of it.
            room = both if b else alone
            a = a[: max(room // 2, room - len(b))]
            sequences.append(template.pair(a, b[: room - len(a)]) if b else template.single(a))
        label = {"label": np.array([row["label"] for row in rows], np.int64)}
        return Encoded.build(sequences, range(len(rows)), per_sequence=label, rows=len(rows))


class Choice(FormatBase):
    """Score every (context, choice) pair and compare the scores within a row."""

    name = "choice"
    scores = 1

    def encode(self, task: Task, rows: Rows, encoder: Any, max_length: int, train: bool) -> Encoded:
        """Encode each choice after its context, whose beginning is cut when both are too long."""
        template = Template.of(encoder.tokenizer)
        longest = max_length - len(template.pair([], []))
        contexts = formats.piece_ids(encoder.tokenizer, [row["context"] for row in rows])
        options = [one for row in rows for one in row["choices"]]
        choices = formats.piece_ids(encoder.tokenizer, options)
        # A sequence per choice; the row that each belongs to, and whether it is the right one.
        number = [place for place, row in enumerate(rows) for _ in row["choices"]]
        right = [rank == row["label"] for row in rows for rank in range(len(row["choices"]))]
        sequences = []
        for place, ids in zip(number, choices, strict=True):
            choice, context = ids[:longest], contexts[place]
            over = max(0, len(context) + len(choice) - longest)
            sequences.append(template.pair(context[over:], choice))
        facts: dict[str, Any] = {"rows": len(rows), "together": True}
        return Encoded.build(sequences, number, per_sequence={"right": right}, **facts)

    def loss(self, head: nn.Module, hidden: Tensor, batch: Batch, pooling: str) -> Tensor:
        """Return the summed negative log probability of the right choices."""
        scores = self.predict(head, hidden, batch, pooling)["score"]
        right = (scores * batch.fields["right"]).sum()
        # The largest score of a row is taken out of log-sum-exp, so that no power overflows.
        top = torch.full((batch.rows,), -torch.inf, device=scores.device)
        top = top.scatter_reduce(0, batch.row, scores.detach(), "amax")
        total = torch.zeros(batch.rows, device=scores.device)
        total = total.index_add(0, batch.row, (scores - top[batch.row]).exp())
        return (total.log() + top).sum() - right

    def predict(self, head: nn.Module, hidden: Tensor, batch: Batch, pooling: str) -> Outputs:
        """Return the score of each choice."""
        return {"score": head(formats.pool(hidden, batch, pooling)).float().squeeze(-1)}

    def decode(self, task: Task, rows: Rows, encoded: Encoded, outputs: Arrays) -> list[Any]:
        """Return the rank of the best choice of each row."""
        return [int(part.argmax()) for part in np.split(outputs["score"], encoded.units[1:-1])]


class Tagging(FormatBase):
    """Label the first piece of every word; long sentences are split at words and joined again."""

    name = "tagging"
    field = "tag"
    answer = "tags"

    def encode(self, task: Task, rows: Rows, encoder: Any, max_length: int, train: bool) -> Encoded:
        """Encode words, splitting a sentence where its pieces exceed ``max_length``."""
        tokenizer = encoder.tokenizer
        template = Template.of(tokenizer)
        room = max_length - len(template.single([]))
        # One by one, as in XTREME's preprocessing: a word's pieces do not depend on its neighbours.
        words = iter(formats.piece_ids(tokenizer, [word for row in rows for word in row["tokens"]]))
        sequences, example, tags, places = [], [], [], []
        for number, row in enumerate(rows):
            pieces = [next(words)[:room] or [tokenizer.unk_token_id] for _ in row["tokens"]]
            labels = row.get("tags") or [IGNORE] * len(pieces)
            for begin, end in _chunks([len(p) for p in pieces], room):
                body = [i for piece in pieces[begin:end] for i in piece]
                sequences.append(template.single(body))
                example.append(number)
                # Each token gets its word's tag and place, or marks that say it is no word's first.
                sizes = np.array([len(piece) for piece in pieces[begin:end]])
                first = len(template.before) + np.cumsum(sizes) - sizes
                tag, place = np.full((2, len(sequences[-1])), [[IGNORE], [-1]])
                tag[first], place[first] = labels[begin:end], range(begin, end)
                tags.append(tag)
                places.append(place)
        marks: dict[str, Any] = {"tag": tags, "word": places}
        return Encoded.build(sequences, example, per_token=marks, rows=len(rows))

    def features(self, hidden: Tensor, batch: Batch, pooling: str) -> Tensor:
        """Return the state of each token."""
        return hidden

    def decode(self, task: Task, rows: Rows, encoded: Encoded, outputs: Arrays) -> list[Any]:
        """Return one label id per word of each row."""
        # First pieces come in the order of words, however a sentence was split.
        words = outputs["tag"][encoded.per_token["word"] >= 0] if rows else np.zeros(0)
        ends = np.cumsum([len(row["tokens"]) for row in rows])
        return [part.tolist() for part in np.split(words, ends)[:-1]]

    def constant(self, task: Task, rows: Rows) -> list[Any]:
        """Return for every word the one label, of those that occur, that scores best."""
        gold, main = self.gold(task, rows), metrics.get(task.metric).main
        seen = sorted({tag for tags in gold for tag in tags} - {IGNORE})
        every = ([[tag] * len(tags) for tags in gold] for tag in seen or [0])
        return max(every, key=lambda one: formats.task_scores(task, rows, one)[main])


def _chunks(sizes: Sequence[int], room: int) -> list[tuple[int, int]]:
    """Cut words of given sizes into runs that fit in ``room`` pieces; no word is lost."""
    chunks, begin, used = [], 0, 0
    for place, size in enumerate(sizes):
        if used + size > room:
            chunks.append((begin, place))
            begin, used = place, 0
        used += size
    return [*chunks, (begin, len(sizes))] if len(sizes) > begin else chunks


class Retrieval(FormatBase):
    """Embed queries and candidates with one encoder; pairs train it with in-batch negatives."""

    name = "retrieval"

    def encode(self, task: Task, rows: Rows, encoder: Any, max_length: int, train: bool) -> Encoded:
        """Encode texts; in training, each query is followed by its first right candidate."""
        groups: Iterator[tuple[dict[str, Any], ...]] = ((row,) for row in rows)
        # A query that has no right candidate here teaches nothing.
        if train:
            known = {row["id"]: row for row in rows if row["side"] == "candidate"}
            asked = (row for row in rows if row["side"] == "query" and row["gold"])
            groups = ((row, known[row["gold"][0]]) for row in asked if row["gold"][0] in known)

        def encoded(part: Sequence[tuple[dict[str, Any], ...]]) -> Encoded:
            texts = [row["text"] for group in part for row in group]
            number = [number for number, group in enumerate(part) for _ in group]
            sequences = formats.singles(encoder, texts, max_length)
            return Encoded.build(sequences, number, rows=len(part), together=train)

        # A few at a time: pieces as Python numbers take ten times the memory of an array.
        parts = [encoded(some) for some in iter(lambda: list(islice(groups, _AT_ONCE)), [])]
        return formats.join(parts or [encoded([])])

    def head(self, task: Task, width: int, dropout: float) -> nn.Module:
        """Return a head that only holds the scale of the cosines, learnt from 1/20."""
        return nn.ParameterDict({"log_scale": torch.tensor(3.0)})

    def loss(self, head: nn.Module, hidden: Tensor, batch: Batch, pooling: str) -> Tensor:
        """Return the summed cross-entropy of each query against the batch's candidates."""
        # Unlike other losses it depends on how a step is split: fewer candidates are told apart.
        vectors = functional.normalize(formats.pool(hidden, batch, pooling), dim=-1)
        pairs = vectors.view(-1, 2, vectors.shape[-1])
        scale = cast(nn.ParameterDict, head)["log_scale"].exp().clamp(max=100.0)
        scores = pairs[:, 0] @ pairs[:, 1].T * scale
        right = torch.arange(len(scores), device=scores.device)
        return functional.cross_entropy(scores, right, reduction="sum")

    def predict(self, head: nn.Module, hidden: Tensor, batch: Batch, pooling: str) -> Outputs:
        """Return one vector per text."""
        return {"vector": formats.pool(hidden, batch, pooling)}

    def decode(self, task: Task, rows: Rows, encoded: Encoded, outputs: Arrays) -> list[Any]:
        """Return one vector per row: an array of shape ``(rows, width)``."""
        return cast(list[Any], outputs["vector"])


class Masked(FormatBase):
    """Predict hidden pieces over the vocabulary of the run's own text (Devlin et al., 2019)."""

    name = "masked"
    field = "target"

    def encode(self, task: Task, rows: Rows, encoder: Any, max_length: int, train: bool) -> Encoded:
        """Cut paragraphs at ``max_length`` and hide 15 % of the pieces, the same whenever asked."""
        sequences = formats.singles(encoder, [row["text"] for row in rows], max_length)
        # The same pieces whenever asked: the seed is the length of the text.
        encoded = Encoded.build(sequences, range(len(rows)), rows=len(rows))
        generator = np.random.default_rng([len(encoded.tokens), 15])
        special = np.isin(encoded.tokens, encoder.tokenizer.all_special_ids)
        chosen = (generator.random(len(encoded.tokens)) < MASKED_SHARE) & ~special
        encoded.per_token["target"] = np.where(chosen, encoded.tokens, IGNORE).astype(np.int64)
        # Of these, 80 % are masked, 10 % replaced, 10 % left as they are.
        fate = generator.random(len(encoded.tokens))
        mask = encoder.tokenizer.mask_token_id
        tokens = np.where(chosen & (fate < 0.8), mask, encoded.tokens)
        strangers = generator.permutation(encoded.tokens[~special])
        swapped = np.flatnonzero(chosen & (fate >= 0.8) & (fate < 0.9))
        tokens[swapped] = strangers[: len(swapped)]
        encoded.tokens = tokens.astype(np.int32)
        return encoded

    def head(self, task: Task, width: int, dropout: float) -> nn.Module:
        """Return BERT's transform, then scores over ``task.settings["pieces"]`` pieces."""
        transform = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.LayerNorm(width))
        pieces = nn.Linear(width, int(task.settings["pieces"]))
        return nn.Sequential(OrderedDict(transform=transform, out=pieces))

    def loss(self, head: nn.Module, hidden: Tensor, batch: Batch, pooling: str) -> Tensor:
        """Return the summed cross-entropy of the hidden pieces."""
        target = batch.fields["target"]
        chosen = target != IGNORE
        scores = head(hidden[chosen]).float()
        return functional.cross_entropy(scores, target[chosen], reduction="sum")

    def predict(self, head: nn.Module, hidden: Tensor, batch: Batch, pooling: str) -> Outputs:
        """Return each hidden piece's log probability, 0 elsewhere."""
        target = batch.fields["target"]
        chosen = target != IGNORE  # scores of all tokens over the vocabulary would be gigabytes
        scores = head(hidden[chosen]).float().log_softmax(-1)
        picked = scores.new_zeros(len(target))
        picked[chosen] = scores.gather(-1, target[chosen][:, None])[:, 0]
        return {"logprob": picked}

    def decode(self, task: Task, rows: Rows, encoded: Encoded, outputs: Arrays) -> list[Any]:
        """Return the mean log probability of each row's hidden pieces."""
        hidden = encoded.per_token["target"] != IGNORE
        total = np.add.reduceat(outputs["logprob"], encoded.starts[:-1])
        return (total / np.maximum(np.add.reduceat(hidden, encoded.starts[:-1]), 1)).tolist()
