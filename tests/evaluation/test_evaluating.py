import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from helpers import evaluation, metrics, tasks
from helpers.errors import HelpfulError, MissingData, UnknownName
from helpers.evaluation import choose_layer, evaluate, floor, layer_scores, predict
from helpers.models import encoders
from helpers.models.network import Network
from helpers.models.training import Tuned, fine_tune
from tests.training import toys
from tests.training.toys import QUICK

LANGUAGES = ("en", "de", "fr", "sw")


def read(format_, missing=()):
    def rows(language, split):
        if language in missing:
            raise MissingData(f"no rows in {language!r}; fetch them")
        # Each language has another number of rows, of other lengths.
        count = toys.SIZES[split] - 3 * LANGUAGES.index(language)
        return toys.rows(format_, language, split, count)

    return rows


def task(format_, missing=(), **facts):
    return toys.task(format_, read=read(format_, missing), languages=LANGUAGES, **facts)


@pytest.fixture(scope="module")
def tuned(tiny):
    """One encoder with a head for every format."""
    with torch.random.fork_rng(devices=[]):
        every = [task(format_) for format_ in toys.MAKERS]
        return fine_tune(tiny, every, replace(QUICK, epochs=3), 0)


@pytest.mark.parametrize("format_", toys.MAKERS)
def test_all_languages_at_once_equal_one_after_the_other(format_, tuned):
    target = task(format_)
    together = evaluate(tuned, target)
    alone = [entry for language in LANGUAGES for entry in evaluate(tuned, target, [language])]
    assert together == alone
    main = metrics.main(target.metric)
    for language in LANGUAGES:
        mine = [entry for entry in together if entry["language"] == language]
        assert mine[0]["metric"] == main and {entry["metric"] for entry in mine} & {main}
        assert all(0 <= e["value"] <= 1 and e["status"] == "done" for e in mine)
        assert mine[0]["n"] == toys.SIZES["test"] - 3 * LANGUAGES.index(language)
        assert len(mine[0]["data_hash"]) == 64 and mine[0]["data_source"].startswith("rows")
        assert mine[0]["task"] == target.name and mine[0]["split"] == "test"


@pytest.mark.parametrize("format_", ["pair", "retrieval"])
def test_a_language_without_data_fails_and_the_others_are_scored(format_, tuned):
    whole = evaluate(tuned, task(format_))
    part = evaluate(tuned, task(format_, missing=("de",)))
    assert part[:-1] == [entry for entry in whole if entry["language"] != "de"]
    lost = part[-1]
    assert lost["language"] == "de" and lost["status"] == "failed: no rows in 'de'; fetch them"
    assert math.isnan(lost["value"]) and lost["n"] == 0
    assert lost["metric"] == task(format_).metric
    assert [p.language for p in predict(tuned, task(format_, missing=("de",)))] == [
        "en",
        "fr",
        "sw",
    ]


def test_no_language_at_all(tuned):
    assert evaluate(tuned, task("pair"), []) == [] == predict(tuned, task("pair"), [])
    lost = evaluate(tuned, task("pair", missing=LANGUAGES))
    assert [entry["language"] for entry in lost] == list(LANGUAGES)


def test_an_unknown_language_is_named_with_those_there_are(tuned):
    with pytest.raises(UnknownName, match=r"'ed'.*'de'.*de, en, fr, sw"):
        evaluate(tuned, task("pair"), ["en", "ed"])


def test_an_encoder_without_the_head_is_refused(tuned, tiny):
    stranger = task("pair", name="stranger")
    with pytest.raises(HelpfulError, match="no head for target 'stranger'.*learn-pair"):
        evaluate(tuned, stranger)
    with pytest.raises(HelpfulError, match="has heads for nothing"):
        evaluate(Tuned(tiny), stranger)


def test_other_labels_than_those_of_training_are_refused(tuned):
    for labels in (("c", "b", "a"), ("a", "b", "d")):
        tasks.register(task("pair"), replace=True)
        target = task("pair", name="other-labels", labels=labels, train_with="learn-pair")
        with pytest.raises(HelpfulError, match="give both the same labels in the same order"):
            evaluate(tuned, target)


def test_rows_are_limited_and_drawn_by_seed(tuned):
    target = task("pair")
    one, same, other = (predict(tuned, target, ["en"], rows=6, seed=s)[0] for s in (1, 1, 2))
    assert [r["id"] for r in one.rows] == [r["id"] for r in same.rows]
    assert [r["id"] for r in one.rows] != [r["id"] for r in other.rows]
    assert len(one.predictions) == 6
    every = {r["id"]: p for r, p in zip(*_whole(tuned, target), strict=True)}
    assert one.predictions == [every[row["id"]] for row in one.rows]


def _whole(tuned, target):
    (found,) = predict(tuned, target, ["en"])
    return found.rows, found.predictions


def test_development_rows_can_be_scored(tuned):
    target = task("pair")
    (entry,) = evaluate(tuned, target, ["en"], split="dev")
    assert entry["split"] == "dev" and entry["n"] == toys.SIZES["dev"]
    assert entry["value"] == pytest.approx(tuned.outcome.dev["learn-pair"])
    with pytest.raises(UnknownName, match="'test'"):
        evaluate(tuned, target, ["en"], split="tests")


def test_the_floor_is_what_a_run_reports(tuned):
    for format_ in ("pair", "choice", "tagging", "span"):
        assert floor(task(format_)) == tuned.outcome.floor[f"learn-{format_}"]


def test_a_target_without_answers_is_decoded_by_its_own_rule(tuned):
    """Trained on questions that all have answers, a SQuAD 2.0 target may still say there is none."""
    tasks.register(task("span"), replace=True)
    target = task("span", name="with-null", metric="squad2", train_with="learn-span")
    (plain,) = predict(tuned, task("span"), ["en"])
    assert all(plain.predictions)

    class Silent(torch.nn.Module):
        """Prefers the first token over all others."""

        def forward(self, hidden):
            scores = torch.zeros(len(hidden), 2)
            return scores.index_fill(0, (hidden == hidden[0]).all(1).nonzero()[:, 0], 9.0)

    quiet = replace(tuned, heads={"learn-span": Silent()})
    (one,) = predict(quiet, target, ["en"], rows=1)
    assert one.predictions == [""]
    assert predict(quiet, task("span"), ["en"], rows=1)[0].predictions != [""]


def test_texts_that_languages_share_are_read_once(tuned, monkeypatch):
    shared = toys.rows("retrieval", "en", "test", 10)

    def same_candidates(language, split):
        mine = toys.rows("retrieval", language, split, 10)
        queries = [row for row in mine if row["side"] == "query"]
        return [*queries, *[row for row in shared if row["side"] == "candidate"]]

    target = toys.task("retrieval", read=same_candidates, languages=LANGUAGES)
    seen = []
    states = Network.states

    def counted(self, batch, layer=None):
        seen.append(len(batch.lengths))
        return states(self, batch, layer)

    monkeypatch.setattr(Network, "states", counted)
    together = predict(tuned, target)
    texts = {row["text"] for language in LANGUAGES for row in same_candidates(language, "test")}
    assert sum(seen) == len(texts) < 4 * 20
    for part in together:
        (alone,) = predict(tuned, target, [part.language])
        np.testing.assert_allclose(part.predictions, alone.predictions, atol=1e-5)


def test_retrieval_needs_no_training_but_uses_it(tuned, tiny):
    plain = evaluate(Tuned(tiny), task("retrieval"))
    assert [entry["status"] for entry in plain] == ["done"] * 4
    assert min(entry["value"] for entry in plain) > 0.5  # queries and candidates share words
    one, other = (predict(t, task("retrieval"), ["en"])[0] for t in (Tuned(tiny), tuned))
    assert not np.allclose(one.predictions, other.predictions, atol=0.1)


def test_the_geometry_of_retrieval_can_be_switched(tuned):
    values = {
        space: [entry["value"] for entry in evaluate(tuned, task("retrieval"), space=space)]
        for space in ("raw", "centre", "whiten")
    }
    assert len({tuple(v) for v in values.values()}) > 1
    with pytest.raises(UnknownName, match="'centre'.*raw"):
        evaluate(tuned, task("retrieval"), space="center")


def test_layers_change_what_retrieval_reads(tiny):
    values = [
        [p.predictions for p in predict(Tuned(tiny), task("retrieval"), ["en"], layer=layer)]
        for layer in (0, 1, 2, None)
    ]
    assert not np.allclose(values[0], values[1]) and not np.allclose(values[1], values[2])
    np.testing.assert_allclose(values[2], values[3], atol=1e-6)


def test_the_best_layer_is_chosen_and_of_equals_the_highest(monkeypatch):
    encoder = encoders.load("tiny")
    scores = {1: 0.7, 2: 0.5}

    def scored(encoder, task, language, *, split="dev", device):
        assert (language, split) == ("de", "dev")
        return scores

    monkeypatch.setattr(evaluation, "layer_scores", scored)
    assert choose_layer(encoder, task("retrieval")) == 1
    scores[2] = 0.7
    assert choose_layer(encoder, task("retrieval")) == 2


def test_one_pass_scores_every_layer_as_a_pass_for_each_does(tiny):
    values = {
        layer: evaluate(Tuned(tiny), task("retrieval"), ["fr"], split="dev", layer=layer)[0][
            "value"
        ]
        for layer in (2, 0, 1)
    }
    found = layer_scores(tiny, task("retrieval"), "fr", layers=[2, 0, 1])
    assert found == pytest.approx(values) and list(found) == [2, 0, 1]
    assert list(layer_scores(tiny, task("retrieval"), "fr")) == [1, 2]
    chosen = choose_layer(tiny, task("retrieval"), "fr")
    assert values[chosen] == max(values[1], values[2])


def test_layers_above_the_one_that_is_read_are_not_computed(tiny, monkeypatch):
    depths, states = [], Network.states

    def counted(self, batch, layer=None):
        depths.append((self.model.config.num_hidden_layers, layer))
        return states(self, batch, layer)

    monkeypatch.setattr(Network, "states", counted)
    evaluate(Tuned(tiny), task("retrieval"), ["fr"], layer=1)
    assert set(depths) == {(1, None)}
    assert tiny.model.config.num_hidden_layers == 2


def test_no_layer_is_chosen_without_development_rows(tiny):
    with pytest.raises(MissingData, match="no layer can be chosen for 'learn-retrieval'.*fetch"):
        choose_layer(tiny, task("retrieval", missing=("de",)))


@pytest.fixture
def longest(monkeypatch):
    """Longest sequence of every set that is evaluated."""
    seen = []
    real = evaluation.outputs

    def outputs(network, name, encoded, **options):
        seen.append(int(encoded.lengths.max()))
        return real(network, name, encoded, **options)

    monkeypatch.setattr(evaluation, "outputs", outputs)
    return seen


@pytest.mark.parametrize("shorter", ["settings", "task"])
def test_rows_are_cut_as_they_were_in_training(shorter, tiny, longest):
    """An encoder is not asked about places in a text that it never saw in training."""
    limit = {"settings": 12, "task": 32}[shorter]
    target = toys.task("pair", read=long_pairs, max_length=44 - limit)
    tuned = fine_tune(tiny, [target], replace(QUICK, epochs=1, max_length=limit), 0)
    found = evaluate(tuned, target, split="dev", rows=tuned.settings.dev_rows)
    assert longest == [12]
    assert found[0]["value"] == tuned.outcome.dev[target.name]


def long_pairs(language, split):
    words = " ".join(toys.FILLERS * 2)
    return [row | {"second": words} for row in toys.rows("pair", language, split)]


def test_retrieval_without_training_reads_as_much_as_its_task_says(tiny, longest):
    text = " ".join(["people"] * 40)
    rows = [
        {"id": "q", "side": "query", "text": text, "gold": ["c"]},
        {"id": "c", "side": "candidate", "text": text + " now", "gold": []},
    ]
    target = toys.task("retrieval", read=lambda language, split: rows, max_length=64)
    evaluate(Tuned(tiny, settings=replace(QUICK, max_length=16)), target)
    assert longest == [43]
