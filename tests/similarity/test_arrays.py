from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from helpers import tasks
from helpers.formats.labels import Masked
from helpers.models import Settings, training
from helpers.similarity import inputs
from helpers.similarity.catalogue import Undefined
from helpers.similarity.inputs import ARRAYS, Dyad, Parts, Side
from helpers.similarity.readers import Checkpoint, Reader, early, encode, readable_labels, row_means
from helpers.similarity.representations import leading_axes
from tests.similarity.conftest import STUDY


def dyad(i="toy-same", t="toy-intents", seed=0, language="en"):
    return Dyad(Side(i, seed), Side(t, seed), language)


def test_every_need_is_given_or_undefined_with_a_reason(gather):
    reasons = {}
    for need in ARRAYS:
        language = "qaa" if need.startswith("parallel") else "en"
        try:
            gather.get(need, dyad(language=language))
        except Undefined as error:
            reasons[need] = str(error)
    lacking = {"intermediate.sentences", "target.sentences", "study.sentence_centre"}
    lacking |= {"tuned.losses", "plain.losses", "early.score"}
    lacking |= {"parallel.tuned_losses", "parallel.plain_losses"}
    assert set(reasons) == lacking and all(reasons.values())


def test_embeddings_are_means_over_tokens_then_rows(gather, tiny):
    parts = gather.get("target.embeddings", dyad())
    rows = gather.sample(Dyad(Side("toy-intents", 0)))
    encoded = encode(rows, tiny, gather.options.max_length)
    expected = row_means(Reader(tiny).sequences(encoded), encoded.example, len(rows.rows))
    np.testing.assert_allclose(parts.values, expected, atol=1e-6)
    assert len(parts.get("a")) + len(parts.get("b")) == parts.count == 90


@pytest.mark.parametrize("name", ["toy-intents", "toy-slots", "toy-span"])
def test_features_and_labels_describe_the_same_units(gather, name):
    both = dyad(i=name, t="toy-slots")
    for features, labels in (
        ("intermediate.features", "intermediate.labels"),
        ("tuned.features", "target.labels"),
    ):
        for part in ("all", "a", "b"):
            counts = [len(gather.get(need, both).get(part)) for need in (features, labels)]
            assert counts[0] == counts[1] > 0


def test_rows_are_read_in_the_language_of_the_dyad(gather, tiny):
    foreign = gather.view(Dyad(Side("toy-intents", 0), None, "qaa"))
    found = gather.get("target.features", dyad(language="qaa"))
    np.testing.assert_allclose(found.values, Reader(tiny).units(foreign), atol=1e-5)
    texts = gather.get("target.texts", dyad(language="qaa")).values
    pieces = sum(len(tiny.tokenizer.tokenize(text)) for text in texts)
    assert gather.get("target.counts", dyad(language="qaa")).values.sum() == pieces


def test_other_rows_seeds_or_options_are_other_arrays(make, options):
    asked = ((options, 0), (replace(options, rows=40, gradient_rows=6), 0), (options, 1))
    keys = {make(given).key("target.embeddings", dyad(seed=seed)) for given, seed in asked}
    assert len(keys) == 3
    # Shuffled labels are the same labels in another order.
    plain, control = make(), make(replace(options, shuffle_labels=True))
    first, second = (g.get("target.labels", dyad()).values for g in (plain, control))
    assert (first != second).any() and sorted(first) == sorted(second)
    assert plain.key("target.labels", dyad()) != control.key("target.labels", dyad())


def test_tuned_features_are_those_of_the_intermediates_encoder(gather, trained, tiny):
    parts = gather.get("tuned.features", dyad())
    tuned = trained("toy-same", 0).load()
    expected = Reader(tuned.encoder).units(gather.view(Dyad(Side("toy-intents", 0))))
    np.testing.assert_allclose(parts.values, expected, atol=1e-5)
    plain = gather.get("target.features", dyad()).values
    assert np.abs(parts.values - plain).max() > 1e-3
    soft = gather.get("tuned.probabilities", dyad()).values
    assert soft.shape == (90, 2)
    np.testing.assert_allclose(soft.sum(axis=1), 1.0, atol=1e-5)
    for name in ("toy-choice", "toy-intents"):  # the last two encoders are held
        gather.get("tuned.own", dyad(i=name))
    assert len(gather._tuned) == 2


@pytest.mark.parametrize(
    "need, given, reason",
    [
        ("target.labels", dyad(t="toy-messages"), "retrieval"),
        ("target.fisher", dyad(t="toy-messages"), "retrieval"),
        ("target.weights", dyad(t="toy-messages"), "no encoder fine-tuned on toy-messages"),
        ("tuned.probabilities", dyad(i="toy-choice"), "no class probabilities"),
        ("tuned.probabilities", dyad(t="toy-slots"), "no class probabilities"),
        ("target.label_names", dyad(t="toy-messages"), "no label names"),
        ("intermediate.label_names", dyad(i="toy-choice"), "places of choices"),
        ("target.labels", dyad(language="de"), "no dev rows in 'de'"),
        ("parallel.plain", dyad(language="de"), "no sentence pairs"),
        ("target.labels", Dyad(Side("toy-same", 0)), "needs a target"),
    ],
)
def test_what_does_not_exist_is_undefined(gather, need, given, reason):
    with pytest.raises(Undefined, match=reason):
        gather.get(need, given)


def test_a_checkpoint_without_head_has_no_probabilities(make, tiny, options):
    bare = Checkpoint("bare", lambda: training.Tuned(tiny))
    given = make(checkpoints={("toy-same", 0): bare})
    with pytest.raises(Undefined, match="kept without its head"):
        given.get("tuned.probabilities", dyad())
    # Its Fisher diagonal is still there: a head is fitted to the frozen states.
    assert given.get("intermediate.fisher", dyad()).entries == options.gradient_rows


def test_the_centre_is_the_mean_over_tasks_not_rows(gather):
    each = [gather.get("intermediate.embeddings", dyad(i=name)).values for name in STUDY]
    means = [states.mean(axis=0) for states in each]
    centre = gather.get("study.centre", dyad())
    np.testing.assert_allclose(centre.values, np.mean(means, axis=0), atol=1e-6)
    assert np.abs(centre.get("a") - centre.get("b")).max() > 0
    for name in ("toy-same", "toy-span", "toy-slots", "toy-messages"):
        del gather.tasks[name]
    with pytest.raises(Undefined, match="centring needs three"):
        gather.get("study.centre", dyad(i="toy-choice"))


def test_document_frequencies_count_texts_once(gather, tiny):
    parts = gather.get("study.texts_with", dyad())
    total = gather.get("study.texts", dyad())
    texts = [t for name in STUDY for t in gather.sample(Dyad(Side(name, 0))).texts]
    assert total.values == len(texts) == sum(total.halves)
    (piece, *_), *ids = tiny.tokenizer(["the", *texts], add_special_tokens=False)["input_ids"]
    assert parts.values[piece] == sum(piece in pieces for pieces in ids)
    np.testing.assert_array_equal(parts.values, parts.get("a") + parts.get("b"))
    pieces, counts = (gather.get(f"target.{name}", dyad()) for name in ("pieces", "counts"))
    np.testing.assert_array_equal(np.bincount(pieces.values, minlength=656), counts.values)
    assert counts.get("a").sum() == len(pieces.get("a"))


def test_common_and_parallel_sentences_are_the_same_whatever_encoder_or_seed(gather):
    one, two = (gather.get("common.intermediate", dyad(seed=seed)) for seed in (0, 1))
    assert one.count == two.count <= gather.options.sentences
    np.testing.assert_array_equal(one.second, two.second)
    assert np.abs(one.values - two.values).max() > 1e-3
    states, axes = (gather.get(f"common.target{end}", dyad()) for end in ("", "_axes"))
    assert axes.count == states.count
    for part in ("all", "a", "b"):
        expected = leading_axes(states.get(part))
        kept = len(axes.get(part).share)
        assert 1 < kept <= 50
        np.testing.assert_allclose(axes.get(part).loadings, expected.loadings[:kept])
    plain, tuned = (gather.get(f"parallel.{n}", dyad(language="qaa")) for n in ("plain", "tuned"))
    assert plain.values.shape == tuned.values.shape == (2, plain.count, 32)
    assert plain.get("a").shape[1] + plain.get("b").shape[1] == plain.count


def test_segments_are_the_texts_of_one_decision_and_label_names_are_words(gather):
    found = [gather.get("intermediate.segments", dyad(i=name)).values for name in STUDY]
    assert found == [2, 2, 2, 1, 1, 1]
    slots = replace(tasks.get("toy-slots"), labels=("O", "B-start_hours", "I-start_hours", "B-x"))
    assert readable_labels(slots) == ["o", "start hours", "x"]
    intents = replace(tasks.get("toy-intents"), labels=("HassTurnOn", "NOUN", "not_equivalent"))
    assert readable_labels(intents) == ["hass turn on", "noun", "not equivalent"]
    with pytest.raises(Undefined):
        readable_labels(replace(tasks.get("toy-intents"), labels=("0", "1")))


def test_a_language_head_gives_losses(make, tiny, tmp_path):
    task = replace(tasks.get("toy-slots"), settings={"pieces": len(tiny.tokenizer)})
    given = make(language_head=Masked().head(task, tiny.dimension, 0.0))
    plain, tuned = (given.get(f"{which}.losses", dyad()) for which in ("plain", "tuned"))
    assert plain.count == tuned.count > 60
    # An untrained head spreads its probability over all 656 pieces.
    assert plain.values.mean() == pytest.approx(np.log(656), abs=0.5)
    assert np.abs(plain.values - tuned.values).max() > 0
    drift = given.get("parallel.tuned_losses", dyad(language="qaa"))
    assert drift.count > 20
    # Scoring hidden pieces leaves the encoder as it was: what is read next has no dropout.
    states = [make(folder=tmp_path / name).get("target.states", dyad()).values for name in "ab"]
    np.testing.assert_array_equal(*states)


def test_an_early_run_is_made_once_per_dyad_and_task_that_is_learnt(make):
    calls = []

    def half(tuned, task, seed):
        calls.append((task.name, seed))
        return 0.5

    given = make(early=half)
    for _ in range(2):
        assert given.get("early.score", dyad()).values == 0.5
    assert calls == [("toy-intents", 0)]
    with pytest.raises(Undefined, match="nothing is trained"):
        given.get("early.score", dyad(t="toy-messages"))
    more = replace(tasks.get("toy-intents"), name="toy-more", train_with="toy-intents")
    given.tasks["toy-more"] = more
    assert given.key("early.score", dyad(t="toy-more")) == given.key("early.score", dyad())
    runs = [{"toy-intents": Settings(train_rows=rows)} for rows in (20, 40)]
    made = [make(early=partial(early, settings=run)) for run in runs]
    assert len({g.key("early.score", dyad()) for g in made}) == 2


def test_nothing_is_read_twice(make, monkeypatch):
    needs = ("target.embeddings", "tuned.features", "intermediate.fisher", "study.centre")
    made = {need: make().get(need, dyad()) for need in needs}
    monkeypatch.setattr(Reader, "read", None)
    monkeypatch.setattr(Checkpoint, "load", None, raising=False)
    second = make()
    for need, parts in made.items():
        found = second.get(need, dyad())
        assert (found.count, found.note) == (parts.count, parts.note)
        for part in ("all", "a", "b"):
            np.testing.assert_equal(found.get(part), parts.get(part))


@pytest.mark.parametrize("damage", [b"", b"\x80\x04torn", None])
def test_a_damaged_file_is_made_again(make, tmp_path, damage):
    expected = make().get("target.states", dyad())
    (path,) = tmp_path.rglob("output.pkl")
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2] if damage is None else damage)
    np.testing.assert_array_equal(make().get("target.states", dyad()).values, expected.values)
    assert path.read_bytes() != damage


def test_memory_is_bounded_and_the_latest_stay(gather, monkeypatch):
    size = gather.get("target.states", dyad()).values.nbytes
    monkeypatch.setattr(inputs, "HELD", 2.5 * size)
    for name in ("toy-same", "toy-choice", "toy-slots"):
        gather.get("intermediate.embeddings", dyad(i=name))
    held = [found for found in gather._memo.values() if isinstance(found, Parts)]
    assert sum(parts.size for parts in held) <= 2.5 * size
    assert held[-1] is gather.get("intermediate.embeddings", dyad(i="toy-slots"))


def test_cost_counts_what_is_still_to_be_read(gather, monkeypatch):
    wanted = {(need, dyad()) for need in ("target.embeddings", "target.features", "study.texts")}
    assert gather.cost(wanted) == 90  # one reading serves embeddings and features
    embeddings = gather.get("target.embeddings", dyad()).values
    monkeypatch.setattr(Reader, "read", None)
    features = gather.get("target.features", dyad())
    np.testing.assert_allclose(features.values[features.rows == 0][0], embeddings[0], atol=1e-6)
    assert gather.cost(wanted) == 0
    assert gather.cost({("target.gradient", dyad())}) == 15 * 12
    assert gather.cost({("parallel.plain", dyad(language="qaa"))}) == 2 * 60
    # Two encoders read 60 sentences each, and words of 90 // 4 rows are enough for 90 units.
    read = {("common.intermediate", dyad()), ("common.target", dyad())}
    read |= {("tuned.features", dyad(t=name)) for name in ("toy-slots", "toy-messages")}
    assert gather.cost(read) == 2 * 60 + 90 // 4


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_reading_in_either_precision(make, options, precision):
    # bf16 keeps 8 bits of a number; states differ by about one in 200 of their length.
    plain, other = (make(replace(options, precision=p)) for p in ("fp32", precision))
    for need in ("target.embeddings", "tuned.features", "tuned.probabilities"):
        expected, found = (g.get(need, dyad()).values for g in (plain, other))
        assert found.dtype == np.float32
        gap = np.linalg.norm(found - expected) / np.linalg.norm(expected)
        assert gap == 0 if precision == "fp32" else 0 < gap < 0.02
    keys = {g.key("target.embeddings", dyad()) for g in (plain, other)}
    assert len(keys) == (1 if precision == "fp32" else 2)


ROWS = np.array([0, 0, 1, 2, 3, 3])
SECOND = np.array([False, True, True, False])
PAIRS, PLAIN = np.arange(8).reshape(2, 4), np.ones(2)


@pytest.mark.parametrize(
    "parts, a, b, count",
    [
        # All entries of a row stay in one half, along any axis.
        (Parts(np.arange(6), ROWS, SECOND), [0, 1, 4, 5], [2, 3], 6),
        (Parts(list("abcd"), np.arange(4), SECOND), ["a", "d"], ["b", "c"], 4),
        (Parts(PAIRS, np.arange(4), SECOND, axis=1), [[0, 3], [4, 7]], [[1, 2], [5, 6]], 4),
        # Some have halves of their own, and what cannot be split is the same in each.
        (Parts("whole", halves=("first", "second"), entries=7), "first", "second", 7),
        (Parts(PLAIN), [1, 1], [1, 1], None),
    ],
)
def test_halves(parts, a, b, count):
    assert np.array_equal(parts.get("a"), a) and np.array_equal(parts.get("b"), b)
    assert parts.get("all") is parts.values
    assert parts.count == count and parts.splits == (parts.values is not PLAIN)
