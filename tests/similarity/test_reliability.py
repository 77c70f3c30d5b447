import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.errors import BadRows
from helpers.similarity import reliability


def grid(intermediates=9, targets=12):
    names = [(f"i{i}", f"t{t}") for i in range(intermediates) for t in range(targets)]
    return [n[0] for n in names], [n[1] for n in names]


class TestSpearmanBrown:
    def test_by_hand(self):
        assert reliability.spearman_brown(0.5) == pytest.approx(2 / 3)
        assert reliability.spearman_brown(1.0) == 1.0
        assert reliability.spearman_brown(-0.4) == -0.4

    def test_steps_two_halves_up_to_the_whole(self):
        # The variance of an error halves when rows double: truth 1, error e per half.
        random = np.random.default_rng(0)
        truth = random.normal(size=20000)
        a, b, c, d = (truth + random.normal(size=20000) for _ in range(4))
        halves = reliability.correlation(a, b)
        whole = reliability.correlation((a + b) / 2, (c + d) / 2)
        assert reliability.spearman_brown(halves) == pytest.approx(whole, abs=0.02)


class TestCorrelation:
    def test_leaves_out_unknown_values(self):
        a = [1.0, 2, 3, 4, 5, np.nan]
        b = [2.0, 4, 6, 8, 10, 0]
        assert reliability.correlation(a, b) == pytest.approx(1.0)

    def test_too_few_or_constant_values_give_no_number(self):
        assert np.isnan(reliability.correlation([1, 2, 3, 4], [1, 2, 3, 4]))
        assert np.isnan(reliability.correlation([1] * 9, list(range(9))))


class TestWithin:
    def test_is_double_centring_on_a_full_grid(self):
        random = np.random.default_rng(0)
        values = random.normal(size=(9, 12))
        centred = values - values.mean(0) - values.mean(1, keepdims=True) + values.mean()
        found = reliability.within(values.ravel(), *grid())
        np.testing.assert_allclose(found, centred.ravel(), atol=1e-10)

    @settings(max_examples=20, deadline=None)
    @given(st.integers(0, 1000))
    def test_effects_of_tasks_leave_nothing_even_with_gaps(self, seed):
        random = np.random.default_rng(seed)
        values = (random.normal(size=(9, 1)) + 10 * random.normal(size=(1, 12))).ravel()
        values[random.permutation(108)[:20]] = np.nan
        found = reliability.within(values, *grid())
        assert (np.isnan(found) == np.isnan(values)).all()
        assert np.nanmax(np.abs(found)) == 0.0

    def test_shows_that_reliability_may_be_all_between_targets(self):
        random = np.random.default_rng(0)
        target = np.tile(10 * random.normal(size=12), 9)
        a, b = (target + random.normal(size=108) for _ in range(2))
        names = grid()
        raw = reliability.correlation(a, b)
        inner = [reliability.within(v, *names) for v in (a, b)]
        assert raw > 0.9
        assert abs(reliability.correlation(*inner)) < 0.3

    def test_nothing_known(self):
        assert np.isnan(reliability.within([np.nan, np.nan], ["a", "b"], ["t", "t"])).all()


class TestDisattenuation:
    def test_recovers_the_slope_per_standard_deviation(self):
        random = np.random.default_rng(0)
        truth = random.normal(size=200_000)
        noisy = truth + random.normal(size=200_000)
        gain = 0.4 * truth + random.normal(size=200_000)
        slope = np.polyfit((noisy - noisy.mean()) / noisy.std(), gain, 1)[0]
        assert reliability.disattenuated(slope, 0.5) == pytest.approx(0.4, abs=0.02)

    @pytest.mark.parametrize("bad", [0.0, -0.2, 1.1, float("nan")])
    def test_a_measure_that_is_no_measure_has_no_corrected_slope(self, bad):
        with pytest.raises(BadRows):
            reliability.disattenuated(0.3, bad)


def test_summary_of_a_table():
    random = np.random.default_rng(0)
    names = grid()
    truth = random.normal(size=108)
    table = pd.DataFrame({"intermediate": names[0], "target": names[1], "language": "en"})
    noisy = lambda: truth + random.normal(size=108)  # noqa: E731
    table = table.assign(measure="m", value=noisy(), second=noisy(), half_a=noisy(), half_b=noisy())
    table["reason"] = ""
    found = reliability.summarise(table).iloc[0]
    half = np.corrcoef(table["half_a"], table["half_b"])[0, 1]
    assert found["reliability"] == pytest.approx(2 * half / (1 + half))
    assert found["seed_reliability"] == pytest.approx(
        np.corrcoef(table["value"], table["second"])[0, 1]
    )
    assert 0 < found["reliability_within"] < 1
    assert found["reliability_note"] == ""


def summary(**columns):
    names = grid(3, 4)
    table = pd.DataFrame({"intermediate": names[0], "target": names[1], "language": "en"})
    given = {"value": np.arange(12.0), "second": np.nan, "half_a": np.nan, "half_b": np.nan}
    return reliability.summarise(table.assign(measure="m", **{"reason": "", **given, **columns}))


@pytest.mark.parametrize(
    ("columns", "note"),
    [
        (
            {},
            "split half: nothing in it is sampled; two seeds: no dyad has a value of a second seed",
        ),
        ({"value": np.nan}, "no dyad has a value"),
        ({"reason": "half: too few rows"}, "split half: the halves are too small (see reason)"),
        ({"second": 1.0}, "two seeds: the values do not vary over the dyads"),
        ({"second": [1.0, 2, 4, 3] + 8 * [np.nan]}, "two seeds: 4 dyads have both values; 5 are"),
        ({"second": np.arange(12.0)}, "two seeds, within: nothing is left once task effects"),
    ],
)
def test_a_reliability_that_does_not_exist_says_why(columns, note):
    found = summary(**columns).iloc[0]
    assert note in found["reliability_note"]
    assert np.isnan(found["reliability"]) and np.isnan(found["reliability_within"])
