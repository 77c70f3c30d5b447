from dataclasses import replace

import numpy as np
import pytest
import torch

from helpers import tasks
from helpers.errors import BadRows
from helpers.similarity.catalogue import Undefined
from helpers.similarity.samples import Sample, sample
from helpers.similarity.views import Reader, encode, label_view, row_means, take


def drawn(name, rows=40, seed=0):
    return sample(tasks.get(name), rows, seed)


class TestLabelView:
    def test_pair_units_are_rows(self, tiny):
        rows = drawn("toy-intents")
        view = label_view(rows, tiny, 32, 500)
        assert not view.by_token
        assert view.labels.tolist() == [rows.rows[r]["label"] for r in view.rows]

    def test_choice_units_are_right_or_wrong(self, tiny):
        rows = drawn("toy-choice")
        view = label_view(rows, tiny, 32, 500)
        assert len(view.units) == 3 * 40 and view.labels.sum() == 40
        for row in range(40):
            marks = view.labels[view.rows == row]
            assert marks.tolist() == [int(k == rows.rows[row]["label"]) for k in range(3)]

    def test_tagging_units_are_words(self, tiny):
        rows = drawn("toy-slots")
        view = label_view(rows, tiny, 32, 4 * 40)
        assert view.by_token
        words = view.encoded.per_token["word"][view.units]
        tags = [rows.rows[row]["tags"][word] for row, word in zip(view.rows, words, strict=True)]
        assert view.labels.tolist() == tags
        assert len(view.units) > 100 and len(set(view.rows)) == 40

    def test_span_units_are_pieces_of_answers_and_as_many_others(self, tiny):
        rows = drawn("toy-span", 90)
        view = label_view(rows, tiny, 64, 4 * 90)
        assert view.by_token
        assert (view.labels == 1).sum() > 40
        assert (view.labels == 1).sum() == pytest.approx((view.labels == 0).sum(), rel=0.25)
        # The marked pieces spell the answer.
        row = int(view.rows[0])
        inside = view.units[(view.rows == row) & (view.labels == 1)]
        whole = "".join(tiny.tokenizer.convert_ids_to_tokens(view.encoded.tokens[inside].tolist()))
        assert set(whole.replace("▁", "")) <= set(rows.rows[row]["answers"]["text"][0])

    def test_units_are_drawn_by_seed_and_bounded(self, tiny):
        rows = drawn("toy-choice", 90)
        first = label_view(rows, tiny, 32, 50)
        assert len(first.units) == 50
        assert (first.units == label_view(rows, tiny, 32, 50).units).all()
        other = label_view(replace(rows, seed=5), tiny, 32, 50)
        assert (first.units != other.units).any()

    def test_rare_classes_are_left_out_and_counted(self, tiny):
        rows = drawn("toy-intents", 90)
        odd = [
            row | {"label": 3 if place == 0 else row["label"] % 3}
            for place, row in enumerate(rows.rows)
        ]
        view = label_view(Sample(rows.task, "en", odd, 0, ""), tiny, 32, 500)
        assert view.dropped == 1 and 3 not in view.labels and 0 not in view.rows

    def test_no_labels(self, tiny):
        with pytest.raises(Undefined, match="retrieval"):
            label_view(drawn("toy-messages"), tiny, 32, 50)
        rows = drawn("toy-intents")
        same = Sample(rows.task, "en", [row | {"label": 0} for row in rows.rows], 0, "")
        with pytest.raises(BadRows):
            label_view(same, tiny, 32, 50)


class TestReader:
    def states(self, encoder, ids):
        with torch.no_grad():
            return encoder.model(input_ids=torch.tensor([ids.tolist()])).last_hidden_state[0]

    @pytest.mark.parametrize("budget", [64, 4096])
    def test_sequences_equal_one_at_a_time(self, tiny, budget):
        encoded = encode(drawn("toy-same", 12), tiny, 32)
        found = Reader(tiny, budget).sequences(encoded)
        for place in range(len(encoded)):
            ids = encoded.tokens[encoded.starts[place] : encoded.starts[place + 1]]
            expected = self.states(tiny, ids).mean(dim=0).numpy()
            np.testing.assert_allclose(found[place], expected, atol=1e-5)

    def test_row_of_a_choice_is_the_mean_over_its_choices(self, tiny):
        encoded = encode(drawn("toy-choice", 6), tiny, 32)
        each = Reader(tiny).sequences(encoded)
        rows = row_means(each, encoded.example, 6)
        np.testing.assert_allclose(rows[2], each[encoded.example == 2].mean(axis=0), atol=1e-6)

    def test_units_of_tokens_are_states_at_their_places(self, tiny):
        view = label_view(drawn("toy-slots"), tiny, 32, 100)
        found = Reader(tiny, 200).units(view)
        for place in (0, len(view.units) // 2, len(view.units) - 1):
            token = view.units[place]
            sequence = int(np.searchsorted(view.encoded.starts, token, side="right")) - 1
            start, end = view.encoded.starts[sequence : sequence + 2]
            states = self.states(tiny, view.encoded.tokens[start:end])
            np.testing.assert_allclose(found[place], states[token - start].numpy(), atol=1e-5)

    def test_texts(self, tiny):
        reader = Reader(tiny)
        found = reader.texts(["open the door", "stop"], 32)
        alone = reader.texts(["stop"], 32)
        np.testing.assert_allclose(found[1], alone[0], atol=1e-6)

    def test_a_pruned_encoder_reads_the_same(self, tiny):
        rows = drawn("toy-same", 10)
        pruned = tiny.prune(encode(rows, tiny, 32).tokens)
        whole = Reader(tiny).sequences(encode(rows, tiny, 32))
        np.testing.assert_allclose(
            Reader(pruned).sequences(encode(rows, pruned, 32)), whole, atol=1e-6
        )


def test_take_keeps_row_numbers_and_tokens(tiny):
    encoded = encode(drawn("toy-slots", 10), tiny, 32)
    part = take(encoded, np.array([3, 7]))
    assert part.example.tolist() == [3, 7]
    for new, old in ((0, 3), (1, 7)):
        a, b = part.starts[new : new + 2]
        c, d = encoded.starts[old : old + 2]
        assert part.tokens[a:b].tolist() == encoded.tokens[c:d].tolist()
        assert part.per_token["tag"][a:b].tolist() == encoded.per_token["tag"][c:d].tolist()
