from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.formats import Encoded
from helpers.models import Settings
from helpers.models.training import rate, schedule

SETS = {"large": 900, "middle": 90, "small": 10}


def encoded(rows, length=4):
    return Encoded.build([range(length)] * rows, range(rows), rows=rows)


def scheduled(sizes, seed=0, **settings):
    sets = {name: encoded(rows) for name, rows in sizes.items()}
    return schedule(sets, Settings(batch_tokens=16, **settings), seed)


def test_steps_follow_the_sizes_and_masked_text_takes_its_share_on_top():
    plain = scheduled(SETS, epochs=20)
    mixed = scheduled({"middle": 90, "mlm": 30}, epochs=100, mlm_share=0.2)
    each = sum(-(-rows // 4) for rows in SETS.values())
    assert len(plain) == 20 * each and len(mixed) == int(np.ceil(100 * 23 / 0.8))
    whole = {"large": 0.9, "middle": 0.09, "small": 0.01}
    for steps, shares in ((plain, whole), (mixed, {"mlm": 0.2})):
        counted = Counter(name for name, _ in steps)
        for name, share in shares.items():
            expected = share * len(steps)
            assert abs(counted[name] - expected) < 4 * np.sqrt(expected * (1 - share)) + 1


@given(st.integers(1, 60), st.integers(1, 5), st.integers(4, 40), st.integers(0, 9), st.booleans())
def test_one_task_is_passed_over_as_often_as_asked(rows, epochs, budget, seed, packed):
    settings = Settings(epochs=epochs, batch_tokens=budget)
    steps = schedule({"one": encoded(rows)}, settings, seed, packed=packed)
    counts = Counter(int(i) for _, batch in steps for i in batch)
    assert counts == {row: epochs for row in range(rows)}


def test_a_schedule_is_reproducible_and_differs_by_seed_and_epoch():
    one, same, other = (scheduled(SETS, seed, epochs=2) for seed in (5, 5, 6))
    assert [n for n, _ in one] == [n for n, _ in same] != [n for n, _ in other]
    assert all(np.array_equal(a, b) for (_, a), (_, b) in zip(one, same, strict=True))
    alone = scheduled({"one": 40}, epochs=2.5)
    assert len(alone) == 25
    first, second, half = np.split(np.concatenate([batch for _, batch in alone]), [40, 80])
    assert sorted(first) == sorted(second) and not np.array_equal(first, second)
    assert len(set(half)) == 20


def test_adding_a_task_leaves_the_batches_of_the_others_alone():
    few, many = (
        [batch for name, batch in scheduled(sizes, epochs=3) if name == "middle"]
        for sizes in ({"large": 900, "middle": 90}, SETS)
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
