import numpy as np
import pytest

from helpers.similarity.shelf import Cache, Parts, Wanted


def wanted(make, *facts, keep=True):
    return Wanted("test", facts, make, keep)


class Counter:
    def __init__(self, parts):
        self.parts, self.calls = parts, 0

    def __call__(self):
        self.calls += 1
        return self.parts


ROWS = np.array([0, 0, 1, 2, 3, 3])
SECOND = np.array([False, True, True, False])


class TestParts:
    def test_all_entries_of_a_row_stay_in_one_half(self):
        parts = Parts(np.arange(6), ROWS, SECOND)
        assert parts.get("all").tolist() == [0, 1, 2, 3, 4, 5]
        assert parts.get("a").tolist() == [0, 1, 4, 5]
        assert parts.get("b").tolist() == [2, 3]
        assert parts.splits and parts.count == 6

    def test_lists_and_other_axes(self):
        assert Parts(list("abcd"), np.arange(4), SECOND).get("b") == ["b", "c"]
        pair = np.arange(8).reshape(2, 4)
        parts = Parts(pair, np.arange(4), SECOND, axis=1)
        assert parts.get("b").tolist() == [[1, 2], [5, 6]]

    def test_halves_of_their_own(self):
        parts = Parts("whole", halves=("first", "second"), entries=7)
        assert [parts.get(p) for p in ("all", "a", "b")] == ["whole", "first", "second"]
        assert parts.splits and parts.count == 7

    def test_what_cannot_be_split_is_the_same_in_each_half(self):
        parts = Parts({"w": np.ones(2)})
        assert parts.get("a") is parts.values
        assert not parts.splits and parts.count is None


class TestCache:
    CASES = (
        Parts(np.arange(6.0), ROWS, SECOND, passes=3, seconds=1.5, note="n"),
        Parts(np.arange(8).reshape(2, 4), np.arange(4), SECOND, axis=1),
        Parts({"a/b": np.ones(2), "c": np.zeros((2, 2))}, entries=4),
        Parts(np.ones(3), halves=(np.zeros(3), 2 * np.ones(3))),
        Parts({"x": np.ones(3)}, halves=({"x": np.zeros(3)}, {"x": 2 * np.ones(3)})),
    )

    @pytest.mark.parametrize("parts", CASES)
    def test_a_second_session_reads_what_the_first_made(self, tmp_path, parts):
        first, second = Counter(parts), Counter(parts)
        Cache(tmp_path).get(wanted(first, 1))
        found = Cache(tmp_path).get(wanted(second, 1))
        assert (first.calls, second.calls) == (1, 0)
        for part in ("all", "a", "b"):
            np.testing.assert_equal(found.get(part), parts.get(part))
        assert (found.passes, found.seconds, found.note) == (
            parts.passes,
            parts.seconds,
            parts.note,
        )
        assert (found.axis, found.entries, found.count) == (parts.axis, parts.entries, parts.count)

    def test_other_facts_are_another_array(self, tmp_path):
        cache, make = Cache(tmp_path), Counter(self.CASES[0])
        for facts in ((1,), (2,), (1,)):
            cache.get(wanted(make, *facts))
        assert make.calls == 2

    @pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 torn", None])
    def test_a_damaged_file_is_made_again(self, tmp_path, damage):
        make = Counter(self.CASES[0])
        first = wanted(make, 1)
        Cache(tmp_path).get(first)
        path = Cache(tmp_path).path(first.key)
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2] if damage is None else damage)
        np.testing.assert_equal(Cache(tmp_path).get(first).values, self.CASES[0].values)
        assert make.calls == 2

    def test_what_is_not_kept_leaves_no_file(self, tmp_path):
        make = Counter(self.CASES[0])
        Cache(tmp_path).get(wanted(make, 1, keep=False))
        assert not list(tmp_path.rglob("*.npz"))

    def test_memory_is_bounded_and_the_latest_stay(self, tmp_path):
        cache = Cache(tmp_path, megabytes=1.0)
        makes = [Counter(Parts(np.zeros(50_000))) for _ in range(5)]
        for place, make in enumerate(makes):
            cache.get(wanted(make, place, keep=False))
        assert len(cache._held) == 2
        cache.get(wanted(makes[4], 4, keep=False))
        cache.get(wanted(makes[0], 0, keep=False))
        assert (makes[4].calls, makes[0].calls) == (1, 2)
