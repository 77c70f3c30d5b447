import numpy as np
import pytest
import torch

from helpers import formats, tasks
from helpers.formats import Batch
from helpers.similarity import catalogue, gradients
from helpers.similarity.features import logme
from helpers.similarity.readers import encode, halves, sample
from tests.similarity.shared import blobs

LEARNT = ["toy-same", "toy-choice", "toy-slots", "toy-span"]


def probe(encoder, name, rows=8):
    drawn = sample(tasks.get(name), rows, 0)
    encoded = encode(drawn, encoder, 32, answers=True)
    return gradients.Probe(encoder, drawn.task, formats.get(drawn.task.format), encoded)


def one_by_one(given, head):
    """Gradient of each row's loss, rows of any format, by plain backward passes."""
    network = given.network(head)
    named = gradients.parameters(given.encoder)
    found = {}
    for row in np.unique(given.encoded.example):
        index = np.flatnonzero(given.encoded.example == row)
        given.encoder.model.zero_grad()
        batch = Batch.collate(given.encoded, index)
        given.format.loss(head, network.states(batch), batch, "mean").backward()
        found[int(row)] = {
            name: p.grad.clone().numpy().ravel() for name, p in named.items() if p.grad is not None
        }
    given.encoder.model.zero_grad()
    return found


@pytest.mark.parametrize("name", LEARNT)
class TestFisher:
    def test_is_the_mean_of_squared_gradients_of_rows(self, tiny, name):
        given = probe(tiny, name)
        head = gradients.fit_head(given, 0, steps=5)
        second = halves(8, 0)
        found, rows = gradients.fisher(given, head, second)
        each = one_by_one(given, head)
        assert rows == len(each)
        for part, chosen in (
            ("all", list(each)),
            ("a", [r for r in each if not second[r]]),
            ("b", [r for r in each if second[r]]),
        ):
            for component in (
                "encoder.layer.0.attention.self.query.weight",
                "encoder.layer.1.output.dense.bias",
            ):
                squares = np.mean([each[r][component] ** 2 for r in chosen], axis=0)
                np.testing.assert_allclose(found[part][component], squares, rtol=1e-4, atol=1e-12)

    def test_drawn_labels_come_from_the_model(self, tiny, name):
        given = probe(tiny, name)
        head = gradients.fit_head(given, 0, steps=5)
        second = halves(8, 0)
        first, _ = gradients.fisher(given, head, second, sampled=True, by_filter=True, seed=1)
        again, _ = gradients.fisher(given, head, second, sampled=True, by_filter=True, seed=1)
        other, _ = gradients.fisher(given, head, second, sampled=True, by_filter=True, seed=2)
        component = "encoder.layer.0.attention.self.query.weight"
        np.testing.assert_array_equal(first["all"][component], again["all"][component])
        assert np.abs(first["all"][component] - other["all"][component]).max() > 0
        assert len(first["all"][component]) == tiny.dimension  # one number per output


def test_drawn_labels_follow_the_probabilities(tiny):
    given = probe(tiny, "toy-same", 2)
    head = given.format.head(given.task, tiny.dimension, 0.0)
    with torch.no_grad():
        head.out.weight.zero_()
        head.out.bias.copy_(torch.tensor([0.0, np.log(3.0)]))
    batch = Batch.collate(given.encoded, np.arange(2))
    hidden = given.network(head).states(batch).detach()
    generator = torch.Generator().manual_seed(0)
    drawn = []
    for _ in range(500):
        gradients._draw_labels(given, head, hidden, batch, generator)
        drawn += batch.fields["label"].tolist()
    assert np.mean(drawn) == pytest.approx(0.75, abs=0.05)


def test_drawn_places_are_allowed(tiny):
    given = probe(tiny, "toy-span", 6)
    head = given.format.head(given.task, tiny.dimension, 0.0)
    batch = Batch.collate(given.encoded, np.arange(6))
    hidden = given.network(head).states(batch).detach()
    gradients._draw_labels(given, head, hidden, batch, torch.Generator().manual_seed(0))
    starts = batch.starts
    for name in ("begin", "end"):
        assert batch.fields["allowed"][starts + batch.fields[name]].all()


@pytest.mark.parametrize("name", LEARNT)
def test_a_fitted_head_beats_a_fresh_one(tiny, name):
    given = probe(tiny, name, 40)
    heads = [gradients.fit_head(given, 0, steps=steps) for steps in (0, 80)]
    with torch.no_grad():
        batch = Batch.collate(given.encoded, np.arange(len(given.encoded)))
        hidden = given.network(heads[0]).states(batch)
        losses = [float(given.format.loss(head, hidden, batch, "mean")) for head in heads]
    assert losses[1] < 0.95 * losses[0]


def test_heads_of_other_seeds_differ(tiny):
    given = probe(tiny, "toy-same", 20)
    a, b = (gradients.fit_head(given, seed).out.weight for seed in (0, 1))
    assert (a - b).abs().max() > 1e-3
    again = gradients.fit_head(given, 0).out.weight
    torch.testing.assert_close(a, again)


class TestMeanGradient:
    def test_inner_product_is_the_mean_cosine_over_heads(self, tiny):
        first, second = probe(tiny, "toy-same"), probe(tiny, "toy-choice")
        half = halves(8, 0)
        units = {}
        for given in (first, second):
            heads = [gradients.fit_head(given, seed, steps=5) for seed in (0, 1)]
            each = []
            for head in heads:
                rows = one_by_one(given, head)
                names = list(gradients.parameters(tiny))
                size = {n: p.numel() for n, p in gradients.parameters(tiny).items()}
                total = np.concatenate(
                    [sum(r.get(n, np.zeros(size[n])) for r in rows.values()) for n in names]
                )
                each.append(total / np.linalg.norm(total))
            units[given.task.name] = each, gradients.mean_gradient(given, heads, half)
        (a, found_a), (b, found_b) = units.values()
        expected = np.mean([u @ v for u in a for v in b])
        assert found_a["all"] @ found_b["all"] == pytest.approx(expected, abs=1e-4)

    def test_no_vector_is_longer_than_one(self, tiny):
        given = probe(tiny, "toy-same")
        heads = [gradients.fit_head(given, seed, steps=5) for seed in range(3)]
        found = gradients.mean_gradient(given, heads, halves(8, 0))
        for part in ("all", "a", "b"):
            assert 0 < np.linalg.norm(found[part]) <= 1 + 1e-5


def test_word_embeddings_are_left_out(tiny):
    names = gradients.parameters(tiny)
    assert not any("word_embeddings" in name for name in names)
    assert any("position_embeddings" in name for name in names)


def test_nothing_is_changed(tiny):
    before = {name: p.detach().clone() for name, p in tiny.model.named_parameters()}
    given = probe(tiny, "toy-same")
    head = gradients.fit_head(given, 0, steps=3)
    gradients.fisher(given, head, halves(8, 0))
    gradients.mean_gradient(given, [head], halves(8, 0))
    for name, p in tiny.model.named_parameters():
        assert p.grad is None or not p.grad.any()
        torch.testing.assert_close(p, before[name])


RANDOM = np.random.default_rng(0)
BASE = {"layer.0": RANDOM.normal(size=(4, 3)), "layer.1": RANDOM.normal(size=5)}


def moved(**steps):
    return {name: value + steps.get(name.replace(".", "_"), 0.0) for name, value in BASE.items()}


class TestTaskVectors:
    def test_is_the_cosine_of_the_concatenated_differences(self):
        a = {name: value + RANDOM.normal(size=value.shape) for name, value in BASE.items()}
        b = {name: value + RANDOM.normal(size=value.shape) for name, value in BASE.items()}
        u, v = (np.concatenate([(t[n] - BASE[n]).ravel() for n in BASE]) for t in (a, b))
        expected = u @ v / np.linalg.norm(u) / np.linalg.norm(v)
        assert gradients.task_vector_cosine(BASE, a, b) == pytest.approx(expected)


class TestTask2Vec:
    def test_asymmetric_form_subtracts_the_distance_to_the_trivial_task(self):
        a, b, trivial = np.abs(RANDOM.normal(size=(3, 30)))
        forth = gradients.task2vec_distance(a, b, trivial, alpha=0.5)
        back = gradients.task2vec_distance(b, a, trivial, alpha=0.5)
        plain = gradients.task2vec_distance(a, b)
        assert forth == pytest.approx(plain - 0.5 * gradients.task2vec_distance(a, trivial))
        assert back == pytest.approx(plain - 0.5 * gradients.task2vec_distance(b, trivial))


def esm(plain, tuned, target, labels):
    map_ = gradients.embedding_map(plain, tuned, ridge=1e-9)
    return catalogue.get("esm_logme").function(map_, target, labels)


class TestEsm:
    def test_a_map_that_exists_is_found(self):
        plain, _ = blobs(300, 8, seed=1)
        turn = RANDOM.normal(size=(8, 5))
        target, labels = blobs(200, 8, distance=2.0, seed=2)
        expected = logme(target @ turn + 1.0, labels)
        value = esm(plain, plain @ turn + 1.0, target, labels)
        assert value == pytest.approx(expected, abs=1e-5)

    def test_the_map_is_least_squares_with_an_intercept(self):
        plain = RANDOM.normal(size=(50, 3))
        tuned = plain @ RANDOM.normal(size=(3, 2)) + 5.0 + 0.1 * RANDOM.normal(size=(50, 2))
        expected = np.linalg.lstsq(np.hstack([plain, np.ones((50, 1))]), tuned, rcond=None)[0]
        found = gradients.embedding_map(plain, tuned, ridge=0.0)
        np.testing.assert_allclose(found, expected, atol=1e-10)
        np.testing.assert_allclose(
            gradients.mapped(plain, found), np.hstack([plain, np.ones((50, 1))]) @ expected
        )

    def test_an_identity_map_gives_plain_logme(self):
        plain, _ = blobs(300, 8, seed=1)
        target, labels = blobs(200, 8, seed=2)
        value = esm(plain, plain, target, labels)
        assert value == pytest.approx(logme(target, labels), abs=1e-5)
