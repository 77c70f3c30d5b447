from dataclasses import replace

import numpy as np
import pytest

from helpers import tasks
from helpers.errors import BadRows
from helpers.similarity.catalogue import Undefined
from helpers.similarity.samples import halves, label_counts, parallel, row_text, sample, subset
from helpers.tasks import Source, Task


class TestHalves:
    @pytest.mark.parametrize("rows", [0, 1, 2, 7, 100])
    def test_sizes_differ_by_at_most_one(self, rows):
        second = halves(rows, 0)
        assert len(second) == rows
        assert second.sum() == rows // 2

    def test_seed_decides(self):
        assert (halves(50, 1) == halves(50, 1)).all()
        assert (halves(50, 1) != halves(50, 2)).any()


@pytest.mark.parametrize(
    "row, text",
    [
        ({"first": "a b", "second": "", "label": 1}, "a b"),
        ({"first": "a", "second": "b", "label": 1}, "a b"),
        ({"context": "c", "choices": ["x", "y"], "label": 0}, "c x y"),
        ({"tokens": ["a", "b"], "tags": [0, 1]}, "a b"),
        ({"context": "c", "question": "q", "answers": {}}, "q c"),
        ({"side": "query", "text": "t", "gold": []}, "t"),
    ],
)
def test_row_text(row, text):
    assert row_text(row) == text


class TestSample:
    def test_english_training_rows(self):
        drawn = sample(tasks.get("toy-same"), 20, 0)
        assert (drawn.language, len(drawn.rows)) == ("en", 20)
        assert drawn.task.labels == ("different", "same")
        assert drawn.key == sample(tasks.get("toy-same"), 20, 0).key
        assert drawn.key != sample(tasks.get("toy-same"), 20, 1).key
        assert drawn.key != sample(tasks.get("toy-same"), 19, 0).key

    def test_a_target_gives_the_rows_that_train_it(self):
        trained = replace(tasks.get("toy-intents"), train_with="toy-same", name="trained-by")
        assert sample(trained, 20, 0).task.name == "toy-same"

    def test_another_language_gives_development_rows(self):
        drawn = sample(tasks.get("toy-intents"), 500, 0, "qaa")
        assert (drawn.language, len(drawn.rows)) == ("qaa", 32)

    def test_bitext_gives_its_english_side_without_repeats(self):
        drawn = sample(tasks.get("toy-messages"), 10, 0)
        assert len(drawn.rows) == 10
        assert all(row["id"].startswith("en-") for row in drawn.rows)
        whole = sample(tasks.get("toy-messages"), 500, 0)
        assert len(set(whole.texts)) == len(whole.texts)

    def test_no_rows_is_undefined_with_the_reason(self):
        with pytest.raises(Undefined, match="toy-intents has no dev rows in 'xx'"):
            sample(tasks.get("toy-intents"), 10, 0, "xx")
        nothing = Task("n", "target", "pair", Source("rows", "n", splits={"test": "test"}))
        with pytest.raises(Undefined, match="no English training rows"):
            sample(nothing, 10, 0)


class TestParallel:
    def test_pairs_translate_each_other(self):
        english, other, digest = parallel(tasks.get("toy-messages"), "qaa", 10, 0)
        assert len(english) == len(other) == 10
        # qaa writes every letter as the next one.
        for first, second in zip(english, other, strict=True):
            shifted = "".join(chr(ord(c) - 1) if c != " " else c for c in second)
            assert shifted.replace("`", "z") == first
        assert digest == parallel(tasks.get("toy-messages"), "qaa", 10, 0)[2]
        assert digest != parallel(tasks.get("toy-messages"), "qab", 10, 0)[2]

    def test_english_is_found_on_either_side(self, monkeypatch):
        from helpers.similarity import samples

        rows = [
            {"id": "de-1", "side": "query", "text": "eins", "gold": ["en-1"]},
            {"id": "en-1", "side": "candidate", "text": "one", "gold": []},
        ]
        monkeypatch.setattr(samples, "_bitext", lambda task, language: rows)
        task = replace(tasks.get("toy-messages"), languages=("de",))
        assert parallel(task, "de", 5, 0)[:2] == (["one"], ["eins"])

    def test_undefined(self):
        with pytest.raises(Undefined):
            parallel(tasks.get("toy-intents"), "qaa", 5, 0)
        with pytest.raises(Undefined):
            parallel(tasks.get("toy-messages"), "de", 5, 0)


def test_rare_and_unknown_labels_are_left_out():
    labels = [0, 0, 0, 1, -1, 2, 2, 2]
    places, dropped = label_counts(labels, 3)
    assert places.tolist() == [0, 1, 2, 5, 6, 7]
    assert dropped == 1
    with pytest.raises(BadRows, match="only 0 of 3 classes"):
        label_counts(labels, 4)


def test_subset_keeps_order():
    chosen = subset(np.arange(10, 40), 8, 0)
    assert len(chosen) == 8 and (np.diff(chosen) > 0).all()
    assert subset(np.arange(5), 8, 0).tolist() == [0, 1, 2, 3, 4]
