"""Losses over unpadded batches against plain loops over a padded one."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from helpers import formats
from helpers.formats import IGNORE, Batch
from helpers.formats.labels import Masked
from helpers.models.network import Network
from helpers.tasks import Source, Task

WORDS = "the people find their way over many other words and he will call".split()


def text(chance, most=9):
    return " ".join(chance.choice(WORDS, int(chance.integers(1, most))))


def rows_of(format_, chance, count=7):
    for number in range(count):
        identity = {"id": str(number)}
        if format_ == "pair":
            second = text(chance) if number % 2 else ""
            yield identity | {"first": text(chance), "second": second, "label": number % 3}
        elif format_ == "choice":
            choices = [text(chance) for _ in range(2 + number % 3)]
            yield identity | {"context": text(chance), "choices": choices, "label": number % 2}
        elif format_ == "tagging":
            tokens = text(chance, 20).split()
            tags = [IGNORE if i == 2 else int(chance.integers(3)) for i in range(len(tokens))]
            yield identity | {"tokens": tokens, "tags": tags}
        elif format_ == "span":
            context = text(chance, 14)
            start = context.rindex(context.split()[-1])
            answers = {"text": [context[start:]], "start": [start]}
            if number % 3 == 2:
                answers = {"text": [], "start": []}
            yield identity | {"context": context, "question": "where", "answers": answers}
        elif format_ == "masked":
            yield identity | {"text": text(chance, 20)}
        else:
            gold = [f"c{number}"]
            yield {"id": f"q{number}", "side": "query", "text": text(chance), "gold": gold}
            yield {"id": gold[0], "side": "candidate", "text": text(chance), "gold": []}


class Case:
    """One format's encoded rows, its head, and the padded states of the model."""

    def __init__(self, name, encoder):
        self.format = Masked() if name == "masked" else formats.get(name)
        settings = {"pieces": len(encoder.tokenizer)}
        source = Source("rows", "made-up")
        self.task = Task(name, "target", "pair", source, labels=("a", "b", "c"), settings=settings)
        rows = list(rows_of(name, np.random.default_rng(5)))
        self.encoded = self.format.encode(self.task, rows, encoder, 16, True)
        torch.manual_seed(2)
        self.head = self.format.head(self.task, encoder.dimension, 0.0)
        with torch.no_grad():
            for parameter in self.head.parameters():
                # Scores of choices are so large that their powers overflow.
                parameter.add_(torch.randn_like(parameter) * (100 if name == "choice" else 0.3))
        self.network = Network(encoder.model, {name: self.head}, {name: self.format})
        # Whole units, not in their order: what a shuffled, sorted batch looks like.
        units = np.random.default_rng(1).permutation(len(self.encoded.units) - 1)[:5]
        first = self.encoded.units
        self.index = np.concatenate([np.arange(first[u], first[u + 1]) for u in units])
        self.hidden, self.mask = self._padded(encoder)

    def _padded(self, encoder):
        sequences = [self.encoded.tokens[self._range(i)].tolist() for i in self.index]
        width = max(map(len, sequences)) + 3
        ids = torch.full((len(sequences), width), encoder.tokenizer.pad_token_id)
        mask = torch.zeros_like(ids)
        for row, sequence in enumerate(sequences):
            ids[row, : len(sequence)] = torch.tensor(sequence)
            mask[row, : len(sequence)] = 1
        with torch.no_grad():
            return encoder.model(input_ids=ids, attention_mask=mask).last_hidden_state, mask.bool()

    def field(self, name, sequence):
        return self.encoded.per_token[name][self._range(sequence)]

    def _range(self, sequence):
        return slice(self.encoded.starts[sequence], self.encoded.starts[sequence + 1])

    def pooled(self, how):
        if how == "first":
            return self.hidden[:, 0]
        return torch.stack([h[m].mean(0) for h, m in zip(self.hidden, self.mask, strict=True)])

    def loss(self, pooling="mean"):
        return self.network(Batch.collate(self.encoded, self.index), self.task.name, pooling)


def pair_loss(case, pooling):
    scores = case.head(case.pooled(pooling))
    labels = case.encoded.per_sequence["label"][case.index]
    return -sum(functional.log_softmax(s, -1)[y] for s, y in zip(scores, labels, strict=True))


def choice_loss(case, pooling):
    scores = case.head(case.pooled(pooling))[:, 0]
    rows, total = case.encoded.example[case.index], 0
    for row in set(rows.tolist()):
        mine = torch.from_numpy(np.flatnonzero(rows == row))
        right = case.encoded.per_sequence["right"][case.index[mine]]
        total -= functional.log_softmax(scores[mine], -1)[int(np.flatnonzero(right)[0])]
    return total


def token_loss(case, pooling):
    field, total = case.format.field, 0
    for row, sequence in enumerate(case.index):
        for place, label in enumerate(case.field(field, sequence)):
            if label != IGNORE:
                total -= functional.log_softmax(case.head(case.hidden[row, place]), -1)[int(label)]
    return total


def span_loss(case, pooling):
    total = 0
    for row, sequence in enumerate(case.index):
        allowed = torch.from_numpy(np.flatnonzero(case.field("allowed", sequence)))
        for column, side in enumerate(("begin", "end")):
            scores = case.head(case.hidden[row])[allowed][:, column]
            right = int(case.encoded.per_sequence[side][sequence])
            place = int((allowed == right).nonzero()[0])
            total -= functional.log_softmax(scores, -1)[place] / 2
    return total


def retrieval_loss(case, pooling):
    vectors = functional.normalize(case.pooled(pooling), dim=-1)
    cosines = torch.stack([vectors[0::2] @ candidate for candidate in vectors[1::2]], 1)
    scores = functional.log_softmax(cosines * case.head.log_scale.exp(), -1)
    return -scores.diagonal().sum()


LOSSES = {
    "pair": pair_loss,
    "choice": choice_loss,
    "tagging": token_loss,
    "span": span_loss,
    "retrieval": retrieval_loss,
    "masked": token_loss,
}


@pytest.mark.parametrize("pooling", ["mean", "first"])
@pytest.mark.parametrize("name", LOSSES)
def test_loss_of_a_batch_and_its_gradients_equal_those_of_the_padded_one(name, pooling, tiny):
    case = Case(name, tiny)
    losses = case.loss(pooling), LOSSES[name](case, pooling)
    torch.testing.assert_close(*losses, rtol=1e-4, atol=0)
    found, expected = (torch.autograd.grad(loss, [*case.head.parameters()]) for loss in losses)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", LOSSES)
def test_weights_count_the_terms_and_those_of_parts_add_up(name, tiny):
    case = Case(name, tiny)
    weight = case.format.weight(case.encoded, case.index)
    if name in ("choice", "span", "retrieval"):  # five rows, windows or queries
        assert weight == 5
    else:  # a head that knows nothing loses the same in every term
        with torch.no_grad():
            case.head.out.weight.zero_()
            case.head.out.bias.zero_()
        assert case.loss().item() == pytest.approx(
            weight * math.log(case.head.out.out_features), rel=1e-5
        )
    first, middle, last = (int(case.encoded.units[i]) for i in (0, 2, -1))
    parts = [np.arange(first, middle), np.arange(middle, last)]
    whole = case.format.weight(case.encoded, np.arange(first, last))
    assert whole == sum(case.format.weight(case.encoded, part) for part in parts)


def test_a_head_starts_small_and_losses_and_scores_have_32_bits(tiny):
    torch.manual_seed(0)
    thirty = Task("x", "target", "pair", Source("rows", "x"), labels=tuple(map(str, range(30))))
    head = formats.get("pair").head(thirty, 400, 0.0)
    assert float(head.out.weight.detach().std()) == pytest.approx(0.02, rel=0.1)
    for name in LOSSES.keys() - {"retrieval"}:
        case = Case(name, tiny)
        batch = Batch.collate(case.encoded, case.index)
        with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
            assert case.network(batch, name, "mean").dtype == torch.float32, name
