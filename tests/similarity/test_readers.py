from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForMaskedLM, BertModel

from helpers import tasks
from helpers.errors import BadRows, MissingData
from helpers.models import Outcome, Settings, encoders, network, training
from helpers.similarity import readers as r
from helpers.similarity.catalogue import Undefined
from helpers.study import profiles
from helpers.study import store as stores
from helpers.tasks import Source, Task


@pytest.mark.parametrize("rows", [0, 1, 2, 7, 100])
def test_halves_are_drawn_by_seed_and_of_one_size(rows):
    second = r.halves(rows, 0)
    assert len(second) == rows and second.sum() == rows // 2
    assert (r.halves(rows, 0) == second).all()
    assert rows < 100 or (r.halves(rows, 2) != second).any()


def test_a_row_is_one_text():
    rows = [
        {"first": "a b", "second": "", "label": 1},
        {"first": "a", "second": "b", "label": 1},
        {"context": "c", "choices": ["x", "y"], "label": 0},
        {"tokens": ["a", "b"], "tags": [0, 1]},
        {"context": "c", "question": "q", "answers": {}},
        {"side": "query", "text": "t", "gold": []},
    ]
    texts = ["a b", "a b", "c x y", "a b", "q c", "t"]
    assert r.Sample(tasks.get("toy-same"), rows, 0).texts == texts


def drawn(name, rows=40, seed=0, language="en"):
    return r.sample(tasks.get(name), rows, seed, language)


class TestSample:
    def test_english_training_rows_of_the_task_that_trains(self):
        first = drawn("toy-same", 20)
        assert len(first.rows) == 20 and first.task.labels == ("different", "same")
        assert first.key == drawn("toy-same", 20).key
        assert len({first.key, drawn("toy-same", 20, 1).key, drawn("toy-same", 19).key}) == 3
        trained = replace(tasks.get("toy-intents"), train_with="toy-same", name="trained-by")
        assert r.sample(trained, 20, 0).task.name == "toy-same"

    def test_another_language_gives_development_rows_and_bitext_its_english_side(self):
        assert len(drawn("toy-intents", 500, 0, "qaa").rows) == 32
        few, whole = (drawn("toy-messages", rows) for rows in (10, 500))
        assert len(few.rows) == 10 and all(row["id"].startswith("en-") for row in few.rows)
        assert len(set(whole.texts)) == len(whole.texts)
        with pytest.raises(Undefined, match="toy-intents has no dev rows in 'xx'"):
            drawn("toy-intents", 10, 0, "xx")
        nothing = Task("n", "target", "pair", Source("rows", "n", splits={"test": "test"}))
        with pytest.raises(Undefined, match="no English training rows"):
            r.sample(nothing, 10, 0)
        # Subsets keep their order.
        chosen = r.subset(np.arange(10, 40), 8, 0)
        assert len(chosen) == 8 and (np.diff(chosen) > 0).all()
        assert r.subset(np.arange(5), 8, 0).tolist() == [0, 1, 2, 3, 4]


class TestParallel:
    def test_pairs_translate_each_other(self):
        task = tasks.get("toy-messages")
        english, other = r.parallel(task, "qaa", 10, 0)
        assert len(english) == len(other) == 10
        # qaa writes every letter as the next one.
        for first, second in zip(english, other, strict=True):
            shifted = "".join(chr(ord(c) - 1) if c != " " else c for c in second)
            assert shifted.replace("`", "z") == first
        assert (english, other) == r.parallel(task, "qaa", 10, 0)
        for name, language in (("toy-intents", "qaa"), ("toy-messages", "de")):
            with pytest.raises(Undefined):
                r.parallel(tasks.get(name), language, 5, 0)

    def test_english_is_found_on_either_side(self, monkeypatch):
        rows = [
            {"id": "de-1", "side": "query", "text": "eins", "gold": ["en-1"]},
            {"id": "en-1", "side": "candidate", "text": "one", "gold": []},
        ]
        monkeypatch.setattr(r, "_bitext", lambda task, language: rows)
        task = replace(tasks.get("toy-messages"), languages=("de",))
        assert r.parallel(task, "de", 5, 0) == (["one"], ["eins"])


class TestLabelView:
    def test_units_are_rows_choices_or_words(self, tiny):
        rows = drawn("toy-intents")
        view = r.label_view(rows, tiny, 32, 500)
        assert not view.by_token
        assert view.labels.tolist() == [rows.rows[at]["label"] for at in view.rows]
        # A choice is right or wrong.
        rows = drawn("toy-choice")
        view = r.label_view(rows, tiny, 32, 500)
        assert len(view.units) == 3 * 40
        right = [[int(k == row["label"]) for k in range(3)] for row in rows.rows]
        assert [view.labels[view.rows == row].tolist() for row in range(40)] == right
        rows = drawn("toy-slots")
        view = r.label_view(rows, tiny, 32, 4 * 40)
        words = view.encoded.per_token["word"][view.units]
        tags = [rows.rows[row]["tags"][word] for row, word in zip(view.rows, words, strict=True)]
        assert view.by_token and view.labels.tolist() == tags
        assert len(view.units) > 100 and len(set(view.rows)) == 40

    def test_span_units_are_pieces_of_answers_and_as_many_others(self, tiny):
        rows = drawn("toy-span", 90)
        view = r.label_view(rows, tiny, 64, 4 * 90)
        assert view.by_token and (view.labels == 1).sum() > 40
        assert (view.labels == 1).sum() == pytest.approx((view.labels == 0).sum(), rel=0.25)
        # The marked pieces spell the answer.
        row = int(view.rows[0])
        inside = view.units[(view.rows == row) & (view.labels == 1)]
        whole = "".join(tiny.tokenizer.convert_ids_to_tokens(view.encoded.tokens[inside].tolist()))
        assert set(whole.replace("▁", "")) <= set(rows.rows[row]["answers"]["text"][0])

    def test_units_are_drawn_by_seed_and_bounded(self, tiny):
        rows = drawn("toy-choice", 90)
        given = (rows, rows, replace(rows, seed=5))
        first, again, other = (r.label_view(each, tiny, 32, 50).units for each in given)
        assert len(first) == 50 and (first == again).all() and (first != other).any()

    def test_rare_classes_are_left_out_and_counted_and_no_labels_are_refused(self, tiny):
        rows = drawn("toy-intents", 90)
        labels = [3, *(row["label"] % 3 for row in rows.rows[1:])]
        odd = [row | {"label": label} for row, label in zip(rows.rows, labels, strict=True)]
        view = r.label_view(r.Sample(rows.task, odd, 0), tiny, 32, 500)
        assert view.dropped == 1 and 3 not in view.labels and 0 not in view.rows
        with pytest.raises(Undefined, match="retrieval"):
            r.label_view(drawn("toy-messages"), tiny, 32, 50)
        same = r.Sample(rows.task, [row | {"label": 0} for row in rows.rows], 0)
        with pytest.raises(BadRows, match="only 1 of 1 classes have 4 or more"):
            r.label_view(same, tiny, 32, 50)


class TestReader:
    def states(self, encoder, ids):
        with torch.no_grad():
            return encoder.model(input_ids=torch.tensor([ids.tolist()])).last_hidden_state[0]

    @pytest.mark.parametrize("budget", [64, 4096])
    def test_sequences_equal_one_at_a_time(self, tiny, budget, monkeypatch):
        monkeypatch.setattr(network, "forward_tokens", lambda device: budget)
        encoded = r.encode(drawn("toy-same", 12), tiny, 32)
        found = r.Reader(tiny).sequences(encoded)
        for place in range(len(encoded)):
            ids = encoded.tokens[encoded.starts[place] : encoded.starts[place + 1]]
            expected = self.states(tiny, ids).mean(dim=0).numpy()
            np.testing.assert_allclose(found[place], expected, atol=1e-5)

    def test_rows_are_means_texts_are_read_as_alone_and_pruning_changes_nothing(self, tiny):
        encoded = r.encode(drawn("toy-choice", 6), tiny, 32)
        each = r.Reader(tiny).sequences(encoded)
        rows = r.row_means(each, encoded.example, 6)
        np.testing.assert_allclose(rows[2], each[encoded.example == 2].mean(axis=0), atol=1e-6)
        found, alone = (r.Reader(tiny).texts(t, 32) for t in (["open the door", "stop"], ["stop"]))
        np.testing.assert_allclose(found[1], alone[0], atol=1e-6)
        rows = drawn("toy-same", 10)
        pruned = tiny.prune(r.encode(rows, tiny, 32).tokens)
        whole, small = (r.Reader(e).sequences(r.encode(rows, e, 32)) for e in (tiny, pruned))
        np.testing.assert_allclose(small, whole, atol=1e-6)

    def test_units_of_tokens_are_states_at_their_places(self, tiny):
        view = r.label_view(drawn("toy-slots"), tiny, 32, 100)
        found = r.Reader(tiny).units(view)
        for place in (0, len(view.units) // 2, len(view.units) - 1):
            token = view.units[place]
            sequence = int(np.searchsorted(view.encoded.starts, token, side="right")) - 1
            start, end = view.encoded.starts[sequence : sequence + 2]
            states = self.states(tiny, view.encoded.tokens[start:end])
            np.testing.assert_allclose(found[place], states[token - start].numpy(), atol=1e-5)


def test_resolve_takes_mappings_and_functions_and_what_is_missing_is_undefined(tiny):
    tuned = training.Tuned(tiny)
    given = r.Checkpoint("run-7", lambda: tuned)
    assert r.resolve({("a", 1): given}, "a", 1) is given
    assert r.resolve(lambda task, seed: given if task == "a" else None, "a", 3) is given
    wrapped = r.resolve({("a", 0): tuned}, "a", 0)
    assert wrapped.load() is tuned and wrapped.key == r.fingerprint(tuned)
    for source in (None, {}, {("a", 1): "seed 1"}, lambda task, seed: None):
        with pytest.raises(Undefined, match="no encoder fine-tuned on a with seed 0"):
            r.resolve(source, "a", 0)


def test_fingerprint_follows_encoder_and_heads(tiny):
    head = torch.nn.Linear(2, 2)

    def printed(encoder=tiny, **heads):
        return r.fingerprint(training.Tuned(encoder, heads))

    first, with_head = printed(), printed(a=head)
    assert first == printed() != with_head
    moved = tiny.prune(range(len(tiny.tokenizer)))
    with torch.no_grad():
        head.weight[0, 0] += 1
        next(iter(moved.model.encoder.parameters())).add_(1e-3)
    assert printed(a=head) != with_head and printed(moved) != first


class TestTrained:
    def test_trains_once_and_reads_back_encoder_and_head(self, trained, tmp_path, monkeypatch):
        first = trained("toy-same", 0).load()
        monkeypatch.setattr(training, "fine_tune", None)  # a second training would fail
        again = r.Trained(trained.encoder, trained.settings, trained.folder)("toy-same", 0).load()
        assert r.fingerprint(first) == r.fingerprint(again)
        assert again.settings.pooling == trained.settings.pooling
        collapsed = training.Tuned(trained.encoder, outcome=Outcome(status="collapsed"))
        monkeypatch.setattr(training, "fine_tune", lambda *a, **k: collapsed)
        with pytest.raises(Undefined, match="toy-same with seed 0 collapsed"):
            r.Trained(trained.encoder, trained.settings, tmp_path)("toy-same", 0).load()

    def test_keys_follow_the_task_that_trains_seed_and_settings(self, trained):
        other = r.Trained(trained.encoder, training.Settings(), trained.folder)
        keys = {trained("toy-same", 0).key, trained("toy-same", 1).key, other("toy-same", 0).key}
        assert len({*keys, trained("toy-choice", 0).key}) == 4
        facts = {"name": "toy-other", "train_with": "toy-same"}
        target = replace(tasks.get("toy-intents"), labels=tasks.get("toy-same").labels, **facts)
        tasks.register(target, replace=True)
        assert trained("toy-other", 0).key == trained("toy-same", 0).key
        assert trained("toy-messages", 0) is None  # nothing trains a bitext task


def test_a_store_gives_what_the_stages_of_a_profile_left(trained, tmp_path):
    profile, place = profiles.get("tiny"), stores.Store(tmp_path)
    with pytest.raises(MissingData, match="Run a plan"):  # it is empty
        r.from_store(trained.encoder, profile, tmp_path)
    own = profile.settings(tasks.get("toy-same"), "intermediate", "single").facts()
    rows = [
        ("r1", "tiny", "single", 0, own, "done"),
        ("r2", "tiny", "single", 0, own, "done"),  # later
        ("r3", "tiny", "single", 1, own, "done"),
        ("r4", "tiny", "single", 2, own, "collapsed"),  # what its targets started from
        ("r5", "tiny", "single", 0, own | {"train_rows": 7}, "done"),  # of another profile
        ("r6", "tiny", "multitask", 0, own, "done"),
        ("r7", "other", "single", 0, own, "done"),
        ("r8", "tiny", "single", 3, own, "collapsed"),  # with no number for a loss
    ]
    tuned = trained("toy-same", 0).load()
    for run, encoder, condition, seed, settings, status in rows:
        facts = (run, run, "intermediate", encoder, condition, "toy-same", "")
        spec, tries = {"seed": seed, "settings": settings}, [Outcome("collapsed"), Outcome(status)]
        place.write(stores.Record(*facts, spec, tries, {"utc": run}))
        empty = (lambda at: (at / "no-encoder.txt").touch()) if run == "r8" else tuned.save_encoder
        place.save_checkpoint(run, empty)
    found = r.from_store(trained.encoder, profile, tmp_path)
    assert {seed: at.key for (_, seed), at in found.items()} == {0: "r2", 1: "r3", 2: "r4"}
    assert r.fingerprint(found["toy-same", 1].load()) == r.fingerprint(tuned)


def test_scores_are_those_of_the_whole_model(tiny, tmp_path):
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = BertConfig(vocab_size=len(tiny.tokenizer), intermediate_size=16, **sizes)

    def saved(kind):
        kind(config).save_pretrained(tmp_path)
        tiny.tokenizer.save_pretrained(tmp_path)
        return encoders.load(str(tmp_path))

    encoder = saved(BertForMaskedLM)
    head = r.language_head(encoder)
    ids = torch.tensor([[0, 7, 9, 2]])
    whole = BertForMaskedLM.from_pretrained(encoder.name).eval()
    with torch.no_grad():
        hidden = encoder.model(input_ids=ids).last_hidden_state[0]
        torch.testing.assert_close(head(hidden), whole(input_ids=ids).logits[0])
    assert not any(p.requires_grad for p in head.parameters())
    with pytest.raises(MissingData, match="stored without its masked-language head"):
        r.language_head(saved(BertModel))
    with pytest.raises(MissingData, match="'tiny' is built without"):
        r.language_head(tiny)


SHORT = Settings(epochs=2, learning_rate=1e-2, batch_tokens=256, train_rows=40, dev_rows=30)


def test_an_early_score_is_the_score_of_a_run_that_starts_from_the_intermediate(tiny, trained):
    tuned = trained("toy-same", 0).load()
    task = tasks.get("toy-intents")
    before = tuned.encoder.model.state_dict()["embeddings.word_embeddings.weight"].clone()
    value = r.early(tuned, task, 3, {task.name: SHORT})
    expected = training.fine_tune(tuned.encoder, [task], SHORT, 3).outcome.dev["toy-intents"]
    assert value == expected and 0 < value <= 1
    after = tuned.encoder.model.state_dict()["embeddings.word_embeddings.weight"]
    assert (before == after).all()
