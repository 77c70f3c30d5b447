import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.formats import Encoded, join, shuffled_batches, sorted_batches, split

quick = settings(max_examples=40)
units = st.lists(st.lists(st.integers(1, 12), min_size=1, max_size=4), min_size=1, max_size=20)


def built(groups, together=True):
    """Sequences of given lengths, grouped into rows; no two tokens are alike."""
    lengths = [length for group in groups for length in group]
    example = np.repeat(np.arange(len(groups)), list(map(len, groups)))
    sequences = np.split(np.arange(sum(lengths)), np.cumsum(lengths)[:-1])
    places, doubles = {"place": range(len(sequences))}, {"double": [2 * one for one in sequences]}
    facts = {"rows": len(groups), "together": together}
    return Encoded.build(sequences, example, per_sequence=places, per_token=doubles, **facts)


def padded_size(encoded, batch):
    return int(encoded.lengths[batch].max()) * len(batch)


def one_unit(encoded, batch):
    return len(np.unique(np.searchsorted(encoded.units, batch, side="right"))) == 1


def assert_whole(encoded, batches, budget, size=padded_size):
    """Every sequence is there once, units stay together, and batches keep to the budget."""
    assert sorted(i for batch in batches for i in batch.tolist()) == list(range(len(encoded)))
    for batch in batches:
        assert size(encoded, batch) <= budget or one_unit(encoded, batch)
    home = {int(i): number for number, batch in enumerate(batches) for i in batch}
    for first, last in zip(encoded.units, encoded.units[1:], strict=False):
        assert len({home[i] for i in range(first, last)}) == 1


@quick
@given(units, st.booleans(), st.integers(1, 60))
def test_sorted_batches_hold_every_sequence_once_within_the_budget(groups, together, budget):
    encoded = built(groups, together)
    batches = sorted_batches(encoded, budget)
    assert_whole(encoded, batches, budget)
    # A unit is as long as its longest sequence; these fall.
    longest = [int(encoded.lengths[batch].max()) for batch in batches]
    assert longest == sorted(longest, reverse=True)


@quick
@given(units, st.booleans(), st.integers(1, 60), st.integers(0, 99), st.booleans())
def test_shuffled_batches_hold_every_sequence_once(groups, together, budget, seed, packed):
    encoded = built(groups, together)
    chances = (np.random.default_rng(seed) for _ in "ab")
    found, again = (shuffled_batches(encoded, budget, each, packed) for each in chances)
    tokens = lambda encoded, batch: int(encoded.lengths[batch].sum())  # noqa: E731
    assert_whole(encoded, found, budget, tokens if packed else padded_size)
    assert all(np.array_equal(a, b) for a, b in zip(found, again, strict=True))


def test_another_seed_shuffles_otherwise_and_packed_batches_are_as_full_as_they_can_be():
    encoded = built([[3]] * 200, together=False)
    first, second = (shuffled_batches(encoded, 30, np.random.default_rng(seed)) for seed in (0, 1))
    assert any(set(a) != set(b) for a, b in zip(first, second, strict=True))
    encoded = built([[length] for length in (5, 4, 3, 6, 2, 7, 1)], together=False)
    batches = shuffled_batches(encoded, 10, np.random.default_rng(3), packed=True)
    for this, following in zip(batches, batches[1:], strict=False):
        assert encoded.lengths[this].sum() + encoded.lengths[following[0]] > 10


@quick
@given(units, st.booleans(), st.integers(1, 60), st.integers(1, 60))
def test_split_cuts_a_batch_without_losing_a_sequence(groups, together, budget, smaller):
    encoded = built(groups, together)
    for batch in sorted_batches(encoded, budget):
        parts = split(encoded, batch, smaller)
        assert sorted(np.concatenate(parts).tolist()) == sorted(batch.tolist())
        for part in parts:
            assert padded_size(encoded, part) <= smaller or one_unit(encoded, part)
        if together:
            rows = [set(encoded.example[part]) for part in parts]
            assert sum(map(len, rows)) == len(set().union(*rows))


@quick
@given(st.lists(units, min_size=1, max_size=4), st.booleans())
def test_joined_sets_keep_sequences_rows_and_fields(parts, together):
    sets = [built(groups, together) for groups in parts]
    whole = join(sets)
    assert whole.rows == sum(map(len, parts)) and whole.together == together
    assert len(whole) == sum(map(len, sets)) and whole.starts[-1] == len(whole.tokens)
    place, row = 0, 0
    for one in sets:
        here = slice(place, place + len(one))
        np.testing.assert_array_equal(whole.lengths[here], one.lengths)
        np.testing.assert_array_equal(whole.example[here], one.example + row)
        np.testing.assert_array_equal(whole.per_sequence["place"][here], one.per_sequence["place"])
        place, row = place + len(one), row + one.rows
    doubles = np.concatenate([one.per_token["double"] for one in sets])
    np.testing.assert_array_equal(whole.per_token["double"], doubles)
    assert len(whole.units) - 1 == sum(len(one.units) - 1 for one in sets)


def test_a_row_that_was_skipped_leaves_no_unit_behind_and_an_empty_set_can_be_cut():
    encoded = Encoded.build([[1], [2], [3]], [0, 0, 2], rows=3, together=True)
    assert encoded.units.tolist() == [0, 2, 3]
    assert join([encoded, encoded]).units.tolist() == [0, 2, 3, 5, 6]
    empty = Encoded.build([], [], per_token={"tag": []}, rows=0)
    assert len(empty) == 0 and sorted_batches(empty, 10) == []
    assert shuffled_batches(empty, 10, np.random.default_rng(0)) == []
