from dataclasses import replace

import numpy as np
import pytest
import torch

from helpers import tasks
from helpers.formats import Batch
from helpers.similarity import arrays, catalogue
from helpers.similarity import representations as rep
from helpers.similarity.features import logme
from helpers.similarity.readers import encode, parameters, sample
from tests.similarity.shared import blobs

LEARNT = ["toy-same", "toy-choice", "toy-slots", "toy-span"]


def probe(encoder, name, rows=8, seed=0):
    drawn = sample(tasks.get(name), rows, seed)
    return arrays.Probe(drawn, encoder, encode(drawn, encoder, 32, answers=True))


def one_by_one(given, head):
    """Gradient of each row's loss, rows of any format, by plain backward passes."""
    network = given.network(head)
    named = parameters(given.encoder)
    found = {}
    for row in np.unique(given.encoded.example):
        index = np.flatnonzero(given.encoded.example == row)
        given.encoder.model.zero_grad()
        batch = Batch.collate(given.encoded, index)
        given.format.loss(head, network.states(batch), batch, "mean").backward()
        grown = {name: p.grad for name, p in named.items() if p.grad is not None}
        found[int(row)] = {name: grad.clone().numpy().ravel() for name, grad in grown.items()}
    given.encoder.model.zero_grad()
    return found


QUERY, BIAS = "encoder.layer.0.attention.self.query.weight", "encoder.layer.1.output.dense.bias"


@pytest.mark.parametrize("name", LEARNT)
class TestFisher:
    def test_is_the_mean_of_squared_gradients_of_rows(self, tiny, name):
        given = probe(tiny, name)
        head = arrays.fit_head(given, 0, steps=5)
        found, each = arrays.fisher(given, head), one_by_one(given, head)
        second = [row for row in each if given.sample.half[row]]
        chosen = {"all": list(each), "a": [row for row in each if row not in second], "b": second}
        for part, rows in chosen.items():
            for component in (QUERY, BIAS):
                squares = np.mean([each[row][component] ** 2 for row in rows], axis=0)
                np.testing.assert_allclose(found[part][component], squares, rtol=1e-4, atol=1e-12)

    def test_drawn_labels_come_from_the_model(self, tiny, name):
        given = probe(tiny, name)
        head = arrays.fit_head(given, 0, steps=5)
        first, again, other = (
            arrays.fisher(redrawn, head, of_filters=True)["all"]
            for redrawn in (replace(given, sample=replace(given.sample, seed=n)) for n in (1, 1, 2))
        )
        np.testing.assert_array_equal(first[QUERY], again[QUERY])
        assert np.abs(first[QUERY] - other[QUERY]).max() > 0
        assert len(first[QUERY]) == tiny.dimension  # one number per output


def drawn(encoder, name, rows, times=1, spoil=lambda head: head):
    given = probe(encoder, name, rows)
    head = spoil(given.format.head(given.sample.task, encoder.dimension, 0.0))
    batch, generator = Batch.collate(given.encoded, np.arange(rows)), torch.Generator()
    hidden = given.network(head).states(batch).detach()
    generator.manual_seed(0)
    for _ in range(times):
        arrays.draw_labels(given, head, hidden, batch, generator)
        yield batch


def test_drawn_labels_follow_the_probabilities_and_drawn_places_are_allowed(tiny):
    def three_to_one(head):
        with torch.no_grad():
            head.out.weight.zero_()
            head.out.bias.copy_(torch.tensor([0.0, np.log(3.0)]))
        return head

    batches = drawn(tiny, "toy-same", 2, 500, three_to_one)
    labels = [label for batch in batches for label in batch.fields["label"].tolist()]
    assert np.mean(labels) == pytest.approx(0.75, abs=0.05)
    (batch,) = drawn(tiny, "toy-span", 6)
    for name in ("begin", "end"):
        assert batch.fields["allowed"][batch.starts + batch.fields[name]].all()


@pytest.mark.parametrize("name", LEARNT)
def test_a_fitted_head_beats_a_fresh_one_and_follows_its_seed(tiny, name):
    given = probe(tiny, name, 40)
    asked = (0, 0), (0, 80), (0, 80), (1, 80)
    heads = [arrays.fit_head(given, seed, steps=steps) for seed, steps in asked]
    _, first, again, other = (next(head.parameters()) for head in heads)
    assert (first == again).all() and (first - other).abs().max() > 1e-3
    with torch.no_grad():
        batch = Batch.collate(given.encoded, np.arange(len(given.encoded)))
        hidden = given.network(heads[0]).states(batch)
        losses = [float(given.format.loss(head, hidden, batch, "mean")) for head in heads]
    assert losses[1] < 0.95 * losses[0]


def test_inner_product_of_mean_gradients_is_the_mean_cosine_over_heads(tiny):
    each, found = [], []
    size = {name: p.numel() for name, p in parameters(tiny).items()}
    for given in (probe(tiny, "toy-same"), probe(tiny, "toy-choice")):
        heads = [arrays.fit_head(given, seed, steps=5) for seed in (0, 1)]
        units = []
        for head in heads:
            rows = one_by_one(given, head).values()
            sums = [sum(row.get(n, np.zeros(count)) for row in rows) for n, count in size.items()]
            units.append(np.concatenate(sums) / np.linalg.norm(np.concatenate(sums)))
        each.append(units)
        found.append(arrays.mean_gradient(given, heads))
        for part in ("all", "a", "b"):
            assert 0 < np.linalg.norm(found[-1][part]) <= 1 + 1e-5
    expected = np.mean([u @ v for u in each[0] for v in each[1]])
    assert found[0]["all"] @ found[1]["all"] == pytest.approx(expected, abs=1e-4)


def test_nothing_is_changed_and_word_embeddings_are_left_out(tiny):
    kinds = {name.split(".")[1] for name in parameters(tiny) if name.startswith("embeddings.")}
    assert "position_embeddings" in kinds and "word_embeddings" not in kinds
    before = {name: p.detach().clone() for name, p in tiny.model.named_parameters()}
    given = probe(tiny, "toy-same")
    head = arrays.fit_head(given, 0, steps=3)
    arrays.fisher(given, head)
    arrays.mean_gradient(given, [head])
    for name, p in tiny.model.named_parameters():
        assert p.grad is None or not p.grad.any()
        torch.testing.assert_close(p, before[name])


RANDOM = np.random.default_rng(0)
BASE = {"layer.0": RANDOM.normal(size=(4, 3)), "layer.1": RANDOM.normal(size=5)}


def test_a_task_vector_is_compared_as_one_vector():
    a, b = ({n: v + RANDOM.normal(size=v.shape) for n, v in BASE.items()} for _ in range(2))
    u, v = (np.concatenate([(t[n] - BASE[n]).ravel() for n in BASE]) for t in (a, b))
    expected = u @ v / np.linalg.norm(u) / np.linalg.norm(v)
    assert rep.task_vector_cosine(BASE, a, b) == pytest.approx(expected)
    # Asymmetric Task2Vec subtracts the distance to the trivial task.
    a, b, trivial = np.abs(RANDOM.normal(size=(3, 30)))
    plain = rep.task2vec_distance(a, b)
    for first, second in ((a, b), (b, a)):
        found = rep.task2vec_distance(first, second, trivial, alpha=0.5)
        assert found == pytest.approx(plain - 0.5 * rep.task2vec_distance(first, trivial))


class TestEsm:
    @pytest.mark.parametrize("turn, shift", [(np.eye(8), 0.0), (RANDOM.normal(size=(8, 5)), 1.0)])
    def test_a_map_that_exists_is_found(self, turn, shift):
        plain, _ = blobs(300, 8, seed=1)
        target, labels = blobs(200, 8, distance=2.0, seed=2)
        map_ = rep.embedding_map(plain, plain @ turn + shift, ridge=1e-9)
        value = catalogue.get("esm_logme").function(map_, target, labels)
        assert value == pytest.approx(logme(target @ turn + shift, labels), abs=1e-5)

    def test_the_map_is_least_squares_with_an_intercept(self):
        plain = RANDOM.normal(size=(50, 3))
        tuned = plain @ RANDOM.normal(size=(3, 2)) + 5.0 + 0.1 * RANDOM.normal(size=(50, 2))
        inputs = np.hstack([plain, np.ones((50, 1))])
        expected = np.linalg.lstsq(inputs, tuned, rcond=None)[0]
        found = rep.embedding_map(plain, tuned, ridge=0.0)
        np.testing.assert_allclose(found, expected, atol=1e-10)
        np.testing.assert_allclose(rep.mapped(plain, found), inputs @ expected)
