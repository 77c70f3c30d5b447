import numpy as np
import pytest

from helpers.errors import BadRows
from helpers.similarity import format as form
from helpers.tasks import Source, Task


def task(format):
    return Task("x", "target", format, Source("rows", "x"))


def test_same_format():
    assert form.same_format(task("pair"), task("pair")) == 1.0
    assert form.same_format(task("pair"), task("span")) == 0.0


@pytest.mark.parametrize(
    "format, two, count",
    [("pair", True, 2), ("pair", False, 1), ("choice", True, 2), ("span", True, 2)]
    + [("tagging", True, 1), ("retrieval", True, 1)],
)
def test_segments(format, two, count):
    assert form.segments(task(format), two) == count


def test_same_input_count():
    assert form.same_input_count(2, 2) == 1.0
    assert form.same_input_count(1, 2) == 0.0


def test_entropy_and_count():
    even, skewed = [0, 1, 2, 3] * 5, [0] * 15 + [1] * 5
    assert form.label_entropy(even) == pytest.approx(np.log(4))
    expected = -abs(np.log(4) + 0.75 * np.log(0.75) + 0.25 * np.log(0.25))
    assert form.label_entropy_similarity(even, skewed) == pytest.approx(expected)
    assert form.label_count_similarity(even, skewed) == pytest.approx(-np.log(2))
    assert form.label_count_similarity(even, even) == 0.0
    for measure in (form.label_entropy_similarity, form.label_count_similarity):
        with pytest.raises(BadRows):
            measure(even, [1, 1, 1])


def test_label_names():
    names = np.eye(3)
    assert form.label_name_cosine(names, names[::-1]) == pytest.approx(1.0)
    assert form.label_name_cosine(names[:1], names[1:]) == 0.0
    # One name of two is shared: the other finds nothing, the single one finds itself.
    assert form.label_name_cosine(names[:2], names[:1]) == pytest.approx((0.5 + 1.0) / 2)
    with pytest.raises(BadRows):
        form.label_name_cosine(names, np.zeros((2, 3)))
    with pytest.raises(BadRows):
        form.label_name_cosine(names, np.eye(4))
