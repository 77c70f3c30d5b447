import numpy as np
import pytest

from helpers import formats
from helpers.formats import IGNORE
from helpers.formats.labels import MASKED_SHARE, Masked
from helpers.tasks import Source, Task

RETRIEVAL = formats.get("retrieval")
TASK = Task("made-up", "target", "retrieval", Source("rows", "made-up"))
ROWS = [
    {"id": "c0", "side": "candidate", "text": "the red door", "gold": []},
    {"id": "q0", "side": "query", "text": "a door", "gold": ["c0", "c1"]},
    {"id": "q1", "side": "query", "text": "a lamp", "gold": ["c1"]},
    {"id": "c1", "side": "candidate", "text": "green lamp", "gold": []},
    {"id": "q2", "side": "query", "text": "nothing", "gold": []},
    {"id": "q3", "side": "query", "text": "elsewhere", "gold": ["c9"]},
]


def texts(encoded, encoder):
    parts = np.split(encoded.tokens, encoded.starts[1:-1])
    return [encoder.tokenizer.decode(part, skip_special_tokens=True) for part in parts]


def test_all_texts_are_embedded_in_row_order_and_the_temperature_starts_at_a_twentieth(tiny):
    encoded = RETRIEVAL.encode(TASK, ROWS, tiny, 32, False)
    assert texts(encoded, tiny) == [row["text"] for row in ROWS]
    assert not encoded.together and encoded.example.tolist() == list(range(6))
    vectors = np.arange(12.0).reshape(6, 2)
    assert RETRIEVAL.decode(TASK, ROWS, encoded, {"vector": vectors}) is vectors
    scale = RETRIEVAL.head(TASK, 4, 0.0)["log_scale"].detach().exp()
    assert float(scale) == pytest.approx(20, rel=0.01)


def test_training_pairs_a_query_with_its_first_right_candidate(tiny):
    encoded = RETRIEVAL.encode(TASK, ROWS, tiny, 32, True)
    assert texts(encoded, tiny) == ["a door", "the red door", "a lamp", "green lamp"]
    assert encoded.units.tolist() == [0, 2, 4] and encoded.rows == 2
    assert RETRIEVAL.weight(encoded, np.arange(4)) == 2
    # A long text is cut at its end.
    row = {"id": "q", "side": "query", "text": "the red door " * 40, "gold": []}
    encoded = RETRIEVAL.encode(TASK, [row], tiny, 12, False)
    whole = tiny.tokenizer(row["text"])["input_ids"]
    assert encoded.tokens.tolist() == [*whole[:11], whole[-1]]


SENTENCES = [f"the red door and the {i} green lamp so he opened it" for i in range(60)]


@pytest.fixture(scope="module")
def masked(tiny):
    rows = [{"id": str(i), "text": text} for i, text in enumerate(SENTENCES)]
    return Masked().encode(TASK, rows, tiny, 32, True)


def test_the_stated_share_of_pieces_is_hidden(masked, tiny):
    original = np.concatenate(tiny.tokenizer(SENTENCES)["input_ids"])
    target = masked.per_token["target"]
    special = np.isin(original, tiny.tokenizer.all_special_ids)
    chosen = target != IGNORE
    np.testing.assert_array_equal(target[chosen], original[chosen])
    np.testing.assert_array_equal(masked.tokens[~chosen], original[~chosen])
    assert not (chosen & special).any()
    count = (~special).sum()
    assert abs(chosen.sum() - MASKED_SHARE * count) < 4 * np.sqrt(0.15 * 0.85 * count)
    is_mask = masked.tokens[chosen] == tiny.tokenizer.mask_token_id
    assert 0.65 < is_mask.mean() < 0.92
    others = masked.tokens[chosen][~is_mask]
    assert not np.isin(others, tiny.tokenizer.all_special_ids).any()
    rows = [{"id": str(i), "text": text} for i, text in enumerate(SENTENCES)]
    again = Masked().encode(TASK, rows, tiny, 32, True)  # the same whenever asked
    np.testing.assert_array_equal(masked.tokens, again.tokens)
    np.testing.assert_array_equal(target, again.per_token["target"])


def test_mean_log_probability_of_each_row(masked):
    hidden = masked.per_token["target"] != IGNORE
    logprob = np.where(hidden, -np.arange(len(masked.tokens)), 0.0)
    found = Masked().decode(TASK, SENTENCES, masked, {"logprob": logprob})
    parts = (np.split(values, masked.starts[1:-1]) for values in (logprob, hidden))
    for value, all_, some in zip(found, *parts, strict=True):
        assert value == pytest.approx(all_[some].mean() if some.any() else 0.0)
