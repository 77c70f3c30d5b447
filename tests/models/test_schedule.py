"""Which task and rows every step takes, and at which rate."""

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.formats import Encoded
from helpers.models import Settings
from helpers.models.training import rate, schedule

SIZES = {"large": 900, "middle": 90, "small": 10}


def encoded(rows, length=4):
    return Encoded.build([range(length)] * rows, range(rows), rows=rows)


SETS = {name: encoded(rows) for name, rows in SIZES.items()}


def counted(steps):
    return Counter(name for name, _ in steps)


def test_steps_follow_the_sizes_and_masked_text_takes_its_share_on_top():
    plain = schedule(SETS, Settings(epochs=20, batch_tokens=16), 0)
    mixed = schedule(
        {"middle": SETS["middle"], "mlm": encoded(30)},
        Settings(epochs=100, batch_tokens=16, mlm_share=0.2),
        0,
    )
    each = sum(-(-rows // 4) for rows in SIZES.values())
    assert len(plain) == 20 * each and len(mixed) == int(np.ceil(100 * 23 / 0.8))
    for steps, shares in (
        (plain, {"large": 0.9, "middle": 0.09, "small": 0.01}),
        (mixed, {"mlm": 0.2}),
    ):
        for name, share in shares.items():
            expected = share * len(steps)
            assert abs(counted(steps)[name] - expected) < 4 * np.sqrt(expected * (1 - share)) + 1


@given(st.integers(1, 60), st.integers(1, 5), st.integers(4, 40), st.integers(0, 9), st.booleans())
def test_one_task_is_passed_over_as_often_as_asked(rows, epochs, budget, seed, packed):
    settings = Settings(epochs=epochs, batch_tokens=budget)
    steps = schedule({"one": encoded(rows)}, settings, seed, packed=packed)
    counts = Counter(int(i) for _, batch in steps for i in batch)
    assert counts == {row: epochs for row in range(rows)}


def test_a_schedule_is_reproducible_and_differs_by_seed_and_epoch():
    settings = Settings(epochs=2, batch_tokens=16)
    one, same, other = (schedule(SETS, settings, seed) for seed in (5, 5, 6))
    assert [n for n, _ in one] == [n for n, _ in same] != [n for n, _ in other]
    assert all(np.array_equal(a, b) for (_, a), (_, b) in zip(one, same, strict=True))
    alone = schedule({"one": encoded(40)}, Settings(epochs=2.5, batch_tokens=16), 0)
    assert len(alone) == 25
    first, second, half = np.split(np.concatenate([batch for _, batch in alone]), [40, 80])
    assert sorted(first) == sorted(second) and not np.array_equal(first, second)
    assert len(set(half)) == 20


def test_adding_a_task_leaves_the_batches_of_the_others_alone():
    two = {name: SETS[name] for name in ("large", "middle")}
    few, many = (
        [
            b
            for name, b in schedule(sets, Settings(epochs=3, batch_tokens=16), 0)
            if name == "middle"
        ]
        for sets in (two, SETS)
    )
    assert few and many
    for a, b in zip(few, many, strict=False):
        np.testing.assert_array_equal(a, b)


def test_the_rate_rises_and_falls_in_straight_lines():
    settings = Settings(learning_rate=2.0, warmup=0.1)
    rates = [rate(step, 100, settings) for step in range(100)]
    assert rates[:10] == pytest.approx([0.2 * (step + 1) for step in range(10)])
    assert max(rates) == rates[9] == rates[10] == 2.0
    assert [b - a for a, b in pairwise(rates[10:])] == pytest.approx([-2 / 90] * 89)
    assert rates[-1] == pytest.approx(2 / 90)
    for total in (1, 2, 3, 10):
        for warmup in (0.0, 0.1, 0.5, 0.99):
            short = Settings(learning_rate=1e-3, warmup=warmup)
            assert all(0 < rate(step, total, short) <= 1e-3 for step in range(total))
