from dataclasses import replace

import numpy as np
import pytest

from helpers import tasks
from helpers.models import training
from helpers.similarity.catalogue import NEEDS, Undefined
from helpers.similarity.checkpoints import Checkpoint
from helpers.similarity.gather import Dyad, Gatherer, Side
from helpers.similarity.representations import leading_axes
from helpers.similarity.views import Reader, encode, row_means

STUDY = "toy-same toy-choice toy-span toy-intents toy-slots toy-messages".split()


def gatherer(tiny, trained, options, folder, **facts):
    study = [tasks.get(name) for name in STUDY]
    facts.setdefault("parallel_task", tasks.get("toy-messages"))
    return Gatherer(tiny, study, checkpoints=trained, options=options, folder=folder, **facts)


@pytest.fixture
def gather(tiny, trained, options, tmp_path):
    return gatherer(tiny, trained, options, tmp_path)


def dyad(i="toy-same", t="toy-intents", seed=0, language="en"):
    return Dyad(Side(i, seed), Side(t, seed), language)


def test_every_need_is_given_or_undefined_with_a_reason(gather):
    reasons = {}
    for need in NEEDS:
        language = "qaa" if need.startswith("parallel") else "en"
        try:
            gather.get(need, dyad(language=language))
        except Undefined as error:
            reasons[need] = str(error)
    lacking = {"intermediate.sentences", "target.sentences", "study.sentence_centre"}
    lacking |= {"tuned.losses", "plain.losses", "early.score"}
    lacking |= {"parallel.tuned_losses", "parallel.plain_losses"}
    assert set(reasons) == lacking
    assert all(reasons.values())


def test_embeddings_are_means_over_tokens_then_rows(gather, tiny):
    parts = gather.get("target.embeddings", dyad())
    rows = gather.sample(Side("toy-intents", 0))
    encoded = encode(rows, tiny, gather.options.max_length)
    states = Reader(tiny).sequences(encoded)
    expected = row_means(states, encoded.example, len(rows.rows))
    np.testing.assert_allclose(parts.values, expected, atol=1e-6)
    assert (parts.passes, parts.count) == (90, 90)
    assert len(parts.get("a")) + len(parts.get("b")) == 90


def test_features_and_labels_describe_the_same_units(gather):
    for name in ("toy-intents", "toy-slots", "toy-span"):
        given = dyad(t=name) if name != "toy-span" else dyad(i=name)
        side = "target" if name != "toy-span" else "intermediate"
        labels = gather.get(f"{side}.labels", given)
        features = gather.get(f"{side}.features", given)
        assert len(labels.values) == len(features.values)
        for part in ("a", "b"):
            assert len(labels.get(part)) == len(features.get(part))
    tuned = gather.get("tuned.features", dyad(t="toy-slots"))
    labels = gather.get("target.labels", dyad(t="toy-slots"))
    assert len(tuned.values) == len(labels.values)


def test_the_plain_encoder_reads_a_task_of_texts_once(gather, monkeypatch):
    for name in ("toy-intents", "toy-choice"):
        given = dyad(i=name)
        embeddings = gather.get("intermediate.embeddings", given)
        monkeypatch.setattr(Reader, "states", None)
        features = gather.get("intermediate.features", given)
        monkeypatch.undo()
        first = features.rows == 0
        if name == "toy-intents":
            np.testing.assert_allclose(features.values[first][0], embeddings.values[0], atol=1e-6)


def test_shuffled_labels_are_the_same_labels_in_another_order(tiny, trained, options, tmp_path):
    plain = gatherer(tiny, trained, options, tmp_path)
    control = gatherer(tiny, trained, replace(options, shuffle_labels=True), tmp_path)
    first, second = (g.get("target.labels", dyad()).values for g in (plain, control))
    assert (first != second).any()
    assert sorted(first) == sorted(second)
    wanted = [g.wanted("target.labels", dyad()).key for g in (plain, control)]
    assert wanted[0] != wanted[1]


def test_tuned_features_are_those_of_the_intermediates_encoder(gather, trained, tiny):
    parts = gather.get("tuned.features", dyad())
    tuned = trained("toy-same", 0).load()
    expected = Reader(tuned.encoder).units(gather.view(Side("toy-intents", 0)))
    np.testing.assert_allclose(parts.values, expected, atol=1e-5)
    plain = gather.get("target.features", dyad()).values
    assert np.abs(parts.values - plain).max() > 1e-3


def test_probabilities_are_those_of_the_intermediates_head(gather):
    parts = gather.get("tuned.probabilities", dyad())
    assert parts.values.shape == (90, 2)
    np.testing.assert_allclose(parts.values.sum(axis=1), 1.0, atol=1e-5)


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
        ("target.labels", Dyad(Side("toy-same", 0), None), "needs a target"),
    ],
)
def test_what_does_not_exist_is_undefined(gather, need, given, reason):
    with pytest.raises(Undefined, match=reason):
        gather.get(need, given)


def test_a_checkpoint_without_head_has_no_probabilities(tiny, options, tmp_path):
    bare = Checkpoint("bare", lambda: training.Tuned(tiny))
    given = gatherer(tiny, {"toy-same": bare}, options, tmp_path)
    with pytest.raises(Undefined, match="kept without its head"):
        given.get("tuned.probabilities", dyad())
    # Its Fisher diagonal is still there: a head is fitted to the frozen states.
    assert given.get("intermediate.fisher", dyad()).entries == options.gradient_rows


def test_the_centre_is_the_mean_over_tasks_not_rows(gather):
    means = [
        gather.get("intermediate.embeddings", dyad(i=name)).values.mean(axis=0) for name in STUDY
    ]
    centre = gather.get("study.centre", dyad())
    np.testing.assert_allclose(centre.values, np.mean(means, axis=0), atol=1e-6)
    assert np.abs(centre.get("a") - centre.get("b")).max() > 0


def test_the_centre_needs_three_tasks(tiny, options, tmp_path):
    study = [tasks.get(name) for name in STUDY[:2]]
    few = Gatherer(tiny, study, options=options, folder=tmp_path)
    with pytest.raises(Undefined, match="centring needs three"):
        few.get("study.centre", dyad(t="toy-choice"))


def test_document_frequencies_count_texts_once(gather, tiny):
    parts = gather.get("study.texts_with", dyad())
    total = gather.get("study.texts", dyad())
    texts = [t for name in STUDY for t in gather.sample(Side(name, 0)).texts]
    assert total.values == len(texts) == sum(total.halves)
    piece = tiny.tokenizer("the", add_special_tokens=False)["input_ids"][0]
    expected = sum(
        piece in tiny.tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts
    )
    assert parts.values[piece] == expected
    np.testing.assert_array_equal(parts.values, parts.get("a") + parts.get("b"))


def test_counts_are_those_of_the_pieces(gather):
    pieces, counts = (gather.get(f"target.{name}", dyad()) for name in ("pieces", "counts"))
    np.testing.assert_array_equal(np.bincount(pieces.values, minlength=656), counts.values)
    assert counts.get("a").sum() == len(pieces.get("a"))


def test_common_sentences_are_the_same_for_all_encoders_and_seeds(gather):
    one = gather.get("common.intermediate", dyad())
    two = gather.get("common.intermediate", dyad(seed=1))
    assert one.count == two.count <= gather.options.common_rows
    np.testing.assert_array_equal(one.second, two.second)
    assert np.abs(one.values - two.values).max() > 1e-3


def test_common_axes_are_those_of_the_same_rows(gather):
    states, axes = (gather.get(f"common.target{end}", dyad()) for end in ("", "_axes"))
    assert axes.count == states.count and axes.passes == states.passes
    for part in ("all", "a", "b"):
        expected = leading_axes(states.get(part))
        kept = len(axes.get(part).share)
        assert 1 < kept <= 50
        np.testing.assert_allclose(axes.get(part).loadings, expected.loadings[:kept])


def test_parallel_text_is_read_by_both_encoders(gather):
    plain = gather.get("parallel.plain", dyad(language="qaa"))
    tuned = gather.get("parallel.tuned", dyad(language="qaa"))
    assert plain.values.shape == tuned.values.shape == (2, plain.count, 32)
    assert plain.get("a").shape[1] + plain.get("b").shape[1] == plain.count


def test_label_names_are_read_as_words(gather):
    from helpers.similarity.gather import _readable

    slots = replace(tasks.get("toy-slots"), labels=("O", "B-start_hours", "I-start_hours", "B-x"))
    assert _readable(slots) == ["o", "start hours", "x"]
    intents = replace(tasks.get("toy-intents"), labels=("HassTurnOn", "NOUN", "not_equivalent"))
    assert _readable(intents) == ["hass turn on", "noun", "not equivalent"]
    with pytest.raises(Undefined):
        _readable(replace(tasks.get("toy-intents"), labels=("0", "1")))


def test_a_language_head_gives_losses(tiny, trained, options, tmp_path):
    from helpers.formats.masked import PieceHead

    head = PieceHead(tiny.dimension, len(tiny.tokenizer))
    given = gatherer(tiny, trained, options, tmp_path, language_head=head)
    plain, tuned = (given.get(f"{which}.losses", dyad()) for which in ("plain", "tuned"))
    assert plain.count == tuned.count > 60
    # An untrained head spreads its probability over all 656 pieces.
    assert plain.values.mean() == pytest.approx(np.log(656), abs=0.5)
    assert np.abs(plain.values - tuned.values).max() > 0
    drift = given.get("parallel.tuned_losses", dyad(language="qaa"))
    assert drift.count > 20


def test_an_early_run_is_made_once_per_dyad(tiny, trained, options, tmp_path):
    calls = []

    def early(tuned, task, seed):
        calls.append((task.name, seed))
        return 0.5

    given = gatherer(tiny, trained, options, tmp_path, early=early)
    for _ in range(2):
        assert given.get("early.score", dyad()).values == 0.5
    assert calls == [("toy-intents", 0)]
    with pytest.raises(Undefined, match="nothing is trained"):
        given.get("early.score", dyad(t="toy-messages"))


def test_nothing_is_read_twice(tiny, trained, options, tmp_path, monkeypatch):
    first = gatherer(tiny, trained, options, tmp_path)
    for need in ("target.embeddings", "tuned.features", "intermediate.fisher"):
        first.get(need, dyad())
    monkeypatch.setattr(Reader, "states", None)
    second = gatherer(tiny, trained, options, tmp_path)
    monkeypatch.setattr(Checkpoint, "load", None, raising=False)
    for need in ("target.embeddings", "tuned.features", "intermediate.fisher"):
        found = second.get(need, dyad()).values
        assert found is not None


def test_other_rows_or_options_are_other_arrays(tiny, trained, options, few, tmp_path):
    keys = set()
    for given, seed in ((options, 0), (few, 0), (options, 1)):
        made = gatherer(tiny, trained, given, tmp_path)
        keys.add(made.wanted("target.embeddings", dyad(seed=seed)).key)
    assert len(keys) == 3


def test_only_two_checkpoints_are_held(gather):
    for name in ("toy-same", "toy-choice", "toy-intents"):
        gather.get("tuned.own", dyad(i=name))
    assert len(gather._tuned) == 2
