from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.formats import Encoded
from helpers.models.settings import Settings
from helpers.models.training import rate, schedule

SIZES = {"large": 900, "middle": 90, "small": 10}


def encoded(rows, length=4):
    return Encoded.build([range(length)] * rows, range(rows), rows=rows)


SETS = {name: encoded(rows) for name, rows in SIZES.items()}


def test_steps_follow_the_sizes():
    steps = schedule(SETS, Settings(epochs=20, batch_tokens=16), 0)
    assert len(steps) == 20 * sum(-(-rows // 4) for rows in SIZES.values())
    counts = Counter(name for name, _ in steps)
    for name, share in {"large": 0.9, "middle": 0.09, "small": 0.01}.items():
        expected = share * len(steps)
        assert abs(counts[name] - expected) < 4 * np.sqrt(expected * (1 - share)) + 1


@given(st.integers(1, 60), st.integers(1, 5), st.integers(4, 40), st.integers(0, 9), st.booleans())
def test_one_task_is_passed_over_as_often_as_asked(rows, epochs, budget, seed, packed):
    settings = Settings(epochs=epochs, batch_tokens=budget)
    steps = schedule({"one": encoded(rows)}, settings, seed, packed=packed)
    counts = Counter(int(i) for _, batch in steps for i in batch)
    assert counts == {row: epochs for row in range(rows)}


def test_part_of_an_epoch():
    steps = schedule({"one": encoded(40)}, Settings(epochs=1.5, batch_tokens=16), 0)
    assert len(steps) == 15
    assert len({int(i) for _, batch in steps[:10] for i in batch}) == 40


def test_masked_text_takes_its_share_on_top_of_the_task():
    settings = Settings(epochs=10, batch_tokens=16, mlm_share=0.2)
    sets = {"middle": SETS["middle"], "mlm": encoded(30)}
    steps = schedule(sets, settings, 0)
    plain = schedule({"middle": SETS["middle"]}, settings, 0)
    assert len(steps) == int(np.ceil(len(plain) / 0.8))
    count = sum(name == "mlm" for name, _ in steps)
    assert abs(count - 0.2 * len(steps)) < 4 * np.sqrt(0.16 * len(steps))


def test_a_schedule_is_reproducible_and_differs_by_seed_and_epoch():
    settings = Settings(epochs=2, batch_tokens=16)
    one, same, other = (schedule(SETS, settings, seed) for seed in (5, 5, 6))
    assert [n for n, _ in one] == [n for n, _ in same] != [n for n, _ in other]
    assert all(np.array_equal(a, b) for (_, a), (_, b) in zip(one, same, strict=True))
    first, second = np.split(
        np.concatenate([batch for _, batch in schedule({"one": encoded(40)}, settings, 0)]), 2
    )
    assert sorted(first) == sorted(second) and not np.array_equal(first, second)


def test_adding_a_task_leaves_the_batches_of_the_others_alone():
    settings = Settings(epochs=3, batch_tokens=16)
    two = {name: SETS[name] for name in ("large", "middle")}

    def batches(sets):
        return [batch for name, batch in schedule(sets, settings, 0) if name == "middle"]

    for a, b in zip(batches(two), batches(SETS), strict=False):
        np.testing.assert_array_equal(a, b)


def test_the_rate_rises_and_falls_in_straight_lines():
    settings = Settings(learning_rate=2.0, warmup=0.1)
    rates = [rate(step, 100, settings) for step in range(100)]
    assert rates[:10] == pytest.approx([0.2 * (step + 1) for step in range(10)])
    assert max(rates) == rates[9] == rates[10] == 2.0
    assert np.diff(rates[10:]) == pytest.approx(-2 / 90)
    assert rates[-1] == pytest.approx(2 / 90)


@pytest.mark.parametrize("total", [1, 2, 3, 10])
@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.5, 0.99])
def test_rates_of_short_runs_are_positive(total, warmup):
    settings = Settings(learning_rate=1e-3, warmup=warmup)
    rates = [rate(step, total, settings) for step in range(total)]
    assert all(0 < value <= 1e-3 for value in rates)
