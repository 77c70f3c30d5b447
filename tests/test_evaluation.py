import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from helpers import evaluation, formats, metrics, tasks
from helpers.errors import BadRows, HelpfulError, MissingData, UnknownName
from helpers.evaluation import evaluate, layer_scores, predict, retrieval_scores
from helpers.formats import IGNORE, task_scores
from helpers.metrics.mining import in_first_half
from helpers.models import encoders
from helpers.models import network as networks
from helpers.models.network import Network
from helpers.models.training import Tuned, fine_tune
from tests.models import toys
from tests.models.conftest import same_chance  # noqa: F401
from tests.models.toys import QUICK

LANGUAGES = ("en", "de", "fr", "sw")


@pytest.fixture(scope="module")
def tiny():
    return encoders.load("tiny")


def task(format_, missing=(), change=list, **facts):
    """A target in four languages, some missing; a change is made to its German rows."""

    def read(language, split):
        if language in missing:
            raise MissingData(f"no rows in {language!r}; fetch them")
        # Each language has another number of rows, of other lengths.
        count = toys.SIZES[split] - 3 * LANGUAGES.index(language)
        found = toys.rows(format_, language, split, count)
        return change(found) if language == "de" else found

    return toys.task(format_, read=read, languages=LANGUAGES, **facts)


@pytest.fixture(scope="module")
def tuned(tiny):
    with torch.random.fork_rng(devices=[]):
        every = [task(format_) for format_ in toys.MAKERS]
        return fine_tune(tiny, every, replace(QUICK, epochs=3), 0)


@pytest.mark.parametrize("format_", toys.MAKERS)
def test_all_languages_at_once_equal_one_after_the_other(format_, tuned):
    target = task(format_)
    together = evaluate(tuned, target)
    alone = [entry for language in LANGUAGES for entry in evaluate(tuned, target, [language])]
    assert together == alone
    main = metrics.get(target.metric).main
    for language in LANGUAGES:
        mine = [entry for entry in together if entry["language"] == language]
        assert mine[0]["metric"] == main and {entry["metric"] for entry in mine} & {main}
        assert all(0 <= e["value"] <= 1 and e["status"] == "done" for e in mine)
        assert mine[0]["n"] == toys.SIZES["test"] - 3 * LANGUAGES.index(language)
        assert len(mine[0]["data_hash"]) == 64 and mine[0]["data_source"].startswith("rows")
        assert mine[0]["task"] == target.name and mine[0]["split"] == "test"


@pytest.mark.parametrize("format_", ["pair", "retrieval"])
def test_a_language_without_data_fails_and_the_others_are_scored(format_, tuned):
    part, gone = evaluate(tuned, task(format_)), task(format_, missing=("de",))
    *kept, lost = evaluate(tuned, gone)
    assert kept == [entry for entry in part if entry["language"] != "de"]
    assert lost["language"] == "de" and lost["status"] == "failed: no rows in 'de'; fetch them"
    assert math.isnan(lost["value"]) and lost["n"] == 0 and lost["metric"] == gone.metric
    assert [part.language for part in predict(tuned, gone)] == ["en", "fr", "sw"]


def every(name, value):
    return lambda rows: [row | {name: value} for row in rows]


BAD = {
    "labels of another set": ("pair", every("label", 7)),
    "labels hidden": ("pair", every("label", -1)),
    "tags hidden": ("tagging", lambda rows: [r | {"tags": [-1] * len(r["tags"])} for r in rows]),
    "answers hidden": ("span", every("answers", {"text": [], "start": []})),
    "half a pair of surrogates": ("pair", every("first", "x\udc00")),
    "no rows": ("choice", lambda rows: []),
    "gold that is no candidate": ("retrieval", every("gold", ["?"])),
    "no candidates": ("retrieval", lambda rows: [row for row in rows if row["side"] == "query"]),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_rows_of_one_language_fail_alone_and_say_so(name, tuned):
    format_, change = BAD[name]
    found = evaluate(tuned, task(format_, change=change))
    assert found[:-1] == [one for one in evaluate(tuned, task(format_)) if one["language"] != "de"]
    lost = found[-1]
    assert lost["language"] == "de" and math.isnan(lost["value"]) and lost["n"] == 0
    assert lost["status"].startswith("failed: ") and "language 'de'" in lost["status"]


@pytest.mark.parametrize("stage", ["encode", "decode", "score"])
def test_what_cannot_be_encoded_decoded_or_scored_fails_alone_too(stage, tuned, monkeypatch):
    target, whole = task("pair"), evaluate(tuned, task("pair"))
    place = evaluation if stage == "score" else formats.get("pair")
    name = "task_scores" if stage == "score" else stage
    real, calls = getattr(place, name), []

    def sometimes(*arguments):
        calls.append(arguments)
        if len(calls) == 2:  # the second language is German
            raise BadRows("a row that cannot be")
        return real(*arguments)

    monkeypatch.setattr(place, name, sometimes)
    found = evaluate(tuned, target)
    assert found[:-1] == [entry for entry in whole if entry["language"] != "de"]
    assert found[-1]["language"] == "de" and "a row that cannot be" in found[-1]["status"]


def test_no_language_at_all_and_what_is_refused(tuned, tiny):
    assert evaluate(tuned, task("pair"), []) == [] == predict(tuned, task("pair"), [])
    lost = evaluate(tuned, task("pair", missing=LANGUAGES))
    assert [entry["language"] for entry in lost] == list(LANGUAGES)
    tasks.register(task("pair"), replace=True)
    given, stranger = {"name": "other", "train_with": "learn-pair"}, task("pair", name="stranger")
    same = "give both the same labels in the same order"
    for asked, said in (
        ((tuned, task("pair"), ["en", "ed"]), r"'ed'.*'de'.*de, en, fr, sw"),
        ((tuned, stranger), "no head for target 'stranger'.*learn-pair"),
        ((Tuned(tiny), stranger), "has heads for nothing"),
        ((tuned, task("pair", labels=("c", "b", "a"), **given)), same),
        ((tuned, task("pair", labels=("a", "b", "d"), **given)), same),
    ):
        with pytest.raises(HelpfulError, match=said):
            evaluate(*asked)


def test_rows_are_limited_to_the_same_ones_and_those_of_development_can_be_scored(tuned):
    target = task("pair")
    (one,), (same,) = (predict(tuned, target, ["en"], rows=6) for _ in "ab")
    assert [r["id"] for r in one.rows] == [r["id"] for r in same.rows]
    assert len(one.predictions) == 6
    (found,) = predict(tuned, target, ["en"])
    every = {r["id"]: p for r, p in zip(found.rows, found.predictions, strict=True)}
    assert one.predictions == [every[row["id"]] for row in one.rows]
    (entry,) = evaluate(tuned, target, ["en"], split="dev")
    assert entry["split"] == "dev" and entry["n"] == toys.SIZES["dev"]
    assert entry["value"] == pytest.approx(tuned.outcome.dev["learn-pair"])
    with pytest.raises(UnknownName, match="'test'"):
        evaluate(tuned, target, ["en"], split="tests")
    # The floor is what a run reports.
    for format_ in ("pair", "choice", "tagging", "span"):
        assert evaluation.floor(task(format_)) == tuned.outcome.floor[f"learn-{format_}"]


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


def test_texts_that_languages_share_are_read_once_without_training_too(tuned, monkeypatch, tiny):
    shared = toys.rows("retrieval", "en", "test", 10)

    def same_candidates(language, split):
        mine = toys.rows("retrieval", language, split, 10)
        queries = [row for row in mine if row["side"] == "query"]
        return [*queries, *[row for row in shared if row["side"] == "candidate"]]

    target = toys.task("retrieval", read=same_candidates, languages=LANGUAGES)
    seen, states = [], Network.states

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
    plain = evaluate(Tuned(tiny), task("retrieval"))
    assert [entry["status"] for entry in plain] == ["done"] * 4
    assert min(entry["value"] for entry in plain) > 0.5  # queries and candidates share words
    one, other = (predict(t, task("retrieval"), ["en"])[0] for t in (Tuned(tiny), tuned))
    assert not np.allclose(one.predictions, other.predictions, atol=0.1)


def test_one_pass_scores_every_layer_and_the_best_is_chosen(tiny, monkeypatch):
    target, plain = task("retrieval"), Tuned(tiny)
    none, one, two, top = (
        [part.predictions for part in predict(plain, target, ["en"], layer=layer)]
        for layer in (0, 1, 2, None)
    )
    assert not np.allclose(none, one) and not np.allclose(one, two)
    np.testing.assert_allclose(two, top, atol=1e-6)
    values = {
        layer: evaluate(plain, target, ["fr"], split="dev", layer=layer)[0]["value"]
        for layer in (1, 2)
    }
    found = layer_scores(tiny, target, "fr")
    assert found == pytest.approx(values) and list(found) == [1, 2]
    with pytest.raises(MissingData, match="no layer can be chosen for 'learn-retrieval'.*fetch"):
        evaluation.choose_layer(tiny, task("retrieval", missing=("de",)))
    for scores, best in (({1: 0.7, 2: 0.5}, 1), ({1: 0.7, 2: 0.7}, 2)):  # of equals the highest
        monkeypatch.setattr(evaluation, "layer_scores", lambda *_, scores=scores: scores)
        assert evaluation.choose_layer(tiny, target) == best


def test_layers_above_the_one_that_is_read_are_not_computed(tiny, monkeypatch):
    depths, states = [], Network.states

    def counted(self, batch, layer=None):
        depths.append((self.model.config.num_hidden_layers, layer))
        return states(self, batch, layer)

    monkeypatch.setattr(Network, "states", counted)
    evaluate(Tuned(tiny), task("retrieval"), ["fr"], layer=1)
    assert set(depths) == {(1, None)}
    assert tiny.model.config.num_hidden_layers == 2


@pytest.fixture
def longest(monkeypatch):
    seen = []

    def outputs(network, name, encoded, real=Network.outputs, **options):
        seen.append(int(encoded.lengths.max()))
        return real(network, name, encoded, **options)

    monkeypatch.setattr(Network, "outputs", outputs)
    return seen


@pytest.mark.parametrize(("settings", "longest_of_task"), [(12, 32), (32, 12)])
def test_rows_are_cut_as_they_were_in_training(settings, longest_of_task, tiny, longest):
    """An encoder is not asked about places in a text that it never saw in training."""
    words = " ".join(toys.FILLERS * 2)

    def read(language, split):
        return [row | {"second": words} for row in toys.rows("pair", language, split)]

    target = toys.task("pair", read=read, max_length=longest_of_task)
    tuned = fine_tune(tiny, [target], replace(QUICK, epochs=1, max_length=settings), 0)
    found = evaluate(tuned, target, split="dev", rows=tuned.settings.dev_rows)
    assert set(longest) == {12}
    assert found[0]["value"] == tuned.outcome.dev[target.name]


def test_retrieval_without_training_reads_as_much_as_its_task_says(tiny, longest):
    texts = [" ".join(["people"] * 40) + end for end in ("", " now")]
    facts = [("q", "query", texts[0], ["c"]), ("c", "candidate", texts[1], [])]
    rows = [dict(zip(("id", "side", "text", "gold"), fact, strict=True)) for fact in facts]
    target = toys.task("retrieval", read=lambda language, split: rows, max_length=64)
    evaluate(Tuned(tiny, settings=replace(QUICK, max_length=16)), target)
    assert longest == [43]


FULL = "DefaultCPUAllocator: can't allocate memory"


def network(encoder, task, precision="fp32"):
    format_ = formats.get(task.format)
    torch.manual_seed(1)
    head = format_.head(task, encoder.dimension, 0.0)
    return Network(encoder.model, {task.name: head}, {task.name: format_}, precision=precision)


def uneven(row, place):
    """Make rows of different lengths, so that batches hold them in another order."""
    more = place * 7 % 5
    if "tokens" in row:
        return row | {"tokens": row["tokens"][more:], "tags": row["tags"][more:]}
    name = next(n for n in ("context", "first", "text") if n in row)
    return row | {name: row[name] + " now" * more}


def encoded(encoder, task):
    rows = [uneven(row, place) for place, row in enumerate(toys.rows(task.format, "en", "train"))]
    return formats.get(task.format).encode(task, rows, encoder, 32, False)


def run(encoder, task, budget, precision="fp32"):
    made = network(encoder, task, precision).train(budget == 500)
    found = made.outputs(task.name, encoded(encoder, task), budget=budget)
    assert made.training is (budget == 500)  # the mode is put back
    return found


def assert_alike(one, other, atol=1e-5):
    assert one.keys() == other.keys()
    for name, values in one.items():
        np.testing.assert_allclose(values, other[name], atol=atol)


@pytest.mark.parametrize("format_", toys.MAKERS)
def test_outputs_come_back_in_order_whatever_the_batches_and_the_precision(format_, tiny):
    task, whole = toys.task(format_), encoded(tiny, toys.task(format_))
    one_by_one, few, all_at_once = (run(tiny, task, budget) for budget in (1, 500, 10**6))
    assert_alike(one_by_one, few)
    assert_alike(one_by_one, all_at_once)
    assert all(len(values) in (len(whole), len(whole.tokens)) for values in few.values())
    if format_ == "retrieval":
        half = run(tiny, task, 500, "bf16")
        assert_alike(half, few, atol=0.1)
        assert half["vector"].dtype == np.float32


def test_outputs_held_back_for_a_gpu_are_put_in_place_too(tiny, monkeypatch):
    task = toys.task("tagging")
    expected, made = run(tiny, task, 60), network(tiny, task)
    made.device = torch.device("meta")  # anything that is not the processor
    monkeypatch.setattr(networks, "_HELD", 3)
    collate = formats.Batch.collate
    monkeypatch.setattr(formats.Batch, "collate", lambda e, i, device: collate(e, i))
    monkeypatch.setattr(Network, "autocast", lambda self: torch.no_grad())
    assert_alike(made.outputs(task.name, encoded(tiny, task), budget=60), expected)


@pytest.mark.parametrize("format_", ["choice", "span"])
@pytest.mark.parametrize("error", [RuntimeError(FULL), MemoryError()])
def test_a_full_memory_halves_the_batch_and_changes_nothing(format_, error, tiny, monkeypatch):
    task = toys.task(format_)
    expected = run(tiny, task, 10**6)
    room, sizes = [200], []

    def limited(self, batch, layer=None, states=Network.states):
        sizes.append(int(batch.lengths.max()) * len(batch.lengths))
        if sizes[-1] > room[0]:
            raise error
        return states(self, batch, layer)

    monkeypatch.setattr(Network, "states", limited)
    assert_alike(run(tiny, task, 10**6), expected)
    assert max(sizes) > 200 and min(sizes) <= 200
    room[0] = 0  # no row fits
    with pytest.raises(HelpfulError, match="memory ran out on a single row of .* tokens"):
        run(tiny, task, 500)


def planted(count, noise=0.0):
    """Queries and candidates whose right pairs point the same way, in mixed order."""
    chance = np.random.default_rng(0)
    base = chance.standard_normal((count, 16))
    other = base + noise * chance.standard_normal((count, 16))
    other *= 1 + np.arange(count)[:, None]  # lengths must not matter
    rows = named({f"q{i}": [f"c{i}"] for i in range(count)} | {f"c{i}": [] for i in range(count)})
    order = chance.permutation(2 * count)
    return [rows[i] for i in order], np.vstack([base, other]).astype(np.float32)[order]


def named(gold):
    """Queries (q...) and candidates by id, whose text is their id."""
    sides = {"q": "query", "c": "candidate"}
    return [{"id": n, "side": sides[n[0]], "text": n, "gold": right} for n, right in gold.items()]


def scores(metric, rows, vectors):
    return retrieval_scores(toys.task("retrieval", metric=metric), rows, vectors)


@pytest.mark.parametrize("metric", ["accuracy", "map@20", "mrr@20", "map", "pair_f1"])
def test_planted_pairs_are_found(metric):
    values = scores(metric, *planted(60, noise=0.05))
    assert next(iter(values.values())) == pytest.approx(1.0)


def test_accuracy_and_ranks_of_several_right_candidates():
    vectors = np.array([[1, 0], [0, 1], [1, 1], [0.9, 0.1], [0.1, 0.9]], np.float32)
    rows = named({"q0": ["c0"], "q1": ["c0", "c1"], "q2": ["c9"], "c0": [], "c1": []})
    assert scores("accuracy", rows, vectors) == {"accuracy": pytest.approx(2 / 3)}
    angles = {"q0": 0, "c0": 5, "c1": 10, "c2": 20, "q1": 90, "c3": 85, "c4": 80}
    rows = named(dict.fromkeys(angles, []) | {"q0": ["c0", "c2"], "q1": ["c4"]})
    radians = np.radians(list(angles.values()))
    vectors = np.stack([np.cos(radians), np.sin(radians)], 1).astype(np.float32)
    first = (1 + 2 / 3) / 2
    assert scores("map@20", rows, vectors)["map"] == pytest.approx((first + 1 / 2) / 2)
    assert scores("mrr@20", rows, vectors)["mrr"] == pytest.approx((1 + 1 / 2) / 2)
    assert scores("map@1", rows, vectors)["map"] == pytest.approx((1 + 0) / 2)
    # The main metric comes first, and unknown tags are left out.
    task = toys.task("tagging")
    rows = [{"tokens": list("abc"), "tags": [1, IGNORE, 0]}, {"tokens": ["d"], "tags": [IGNORE]}]
    found = task_scores(task, rows, [[1, 3, 0], [2]])
    assert next(iter(found)) == "f1" and found["f1"] == 1.0
    found = task_scores(replace(task, metric="token_accuracy"), rows, [[1, 3, 1], [2]])
    assert found == {"token_accuracy": 0.5}


def test_mined_pairs_are_scored_on_the_half_that_did_not_tune():
    rows, vectors = planted(80, noise=0.05)
    # Queries of the tuned half are all right, a third of the others have no counterpart.
    wrong = [r for r in rows if r["side"] == "query" and not in_first_half(r["id"])]
    lonely = {row["id"] for row in wrong[: len(wrong) // 3]}
    kept = [i for i, row in enumerate(rows) if f"q{row['id'][1:]}" not in lonely]
    rows = [rows[i] for i in kept]
    values = scores("pair_f1", rows, vectors[kept])
    assert values["f1"] == pytest.approx(1.0) and values["best_threshold_f1"] == pytest.approx(1.0)
    for row in rows:  # wrong gold outside the tuned half shows in the score
        if row["side"] == "query" and not in_first_half(row["id"]):
            row["gold"] = ["c-none"]
    assert scores("pair_f1", rows, vectors[kept])["f1"] == 0.0


@pytest.mark.parametrize("side", ["query", "candidate"])
@pytest.mark.parametrize("metric", ["accuracy", "map@20", "pair_f1"])
def test_a_side_without_texts_is_named(metric, side):
    rows, vectors = planted(3)
    kept = [place for place, row in enumerate(rows) if row["side"] != side]
    said = f"no {'queries' if side == 'query' else 'candidates'} among 3"
    with pytest.raises(BadRows, match=said):
        scores(metric, [rows[place] for place in kept], vectors[kept])
