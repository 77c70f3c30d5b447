from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from helpers.errors import HelpfulError
from helpers.models.training import fine_tune, prepare
from tests.models import toys
from tests.models.toys import QUICK

SHUFFLED = replace(QUICK, shuffle_labels=True)


def labels(task, encoder, settings, seed=0):
    encoded = prepare(encoder, [task], settings, seed).train[task.name]
    if task.format == "pair":
        return encoded.per_sequence["label"]
    if task.format == "tagging":
        return encoded.per_token["tag"][encoded.per_token["word"] >= 0]
    right = np.flatnonzero(encoded.per_sequence["right"])
    return right - encoded.units[:-1]


@pytest.mark.parametrize("format_", ["pair", "choice", "tagging"])
def test_labels_keep_their_counts_and_lose_their_rows(format_, tiny):
    task = toys.task(format_)
    plain, shuffled, other = (
        labels(task, tiny, settings, seed)
        for settings, seed in ((QUICK, 0), (SHUFFLED, 0), (SHUFFLED, 1))
    )
    assert Counter(plain.tolist()) == Counter(shuffled.tolist())
    assert not np.array_equal(shuffled, other)
    # As many agree as chance would have it, within four standard deviations.
    shares = np.bincount(plain) / len(plain)
    chance = (shares**2).sum()
    spread = np.sqrt(chance * (1 - chance) / len(plain))
    assert abs((plain == shuffled).mean() - chance) < 4 * spread
    # The texts are those of the task, and development labels stay right.
    sets = [prepare(tiny, [task], settings, 0) for settings in (QUICK, SHUFFLED)]
    tokens = [prepared.train[task.name].tokens.tolist() for prepared in sets]
    rows = [list(prepared.dev[task.name][0]) for prepared in sets]
    assert tokens[0] == tokens[1] and rows[0] == rows[1]


def some_choices(language, split):
    made = []
    for number, row in enumerate(toys.rows("choice", language, split)):
        count = 2 + number % 2
        made.append(row | {"choices": row["choices"][:count], "label": number % count})
    return made


def test_a_label_never_points_beyond_the_choices_of_its_new_row(tiny):
    task = toys.task("choice", read=some_choices)
    encoded = prepare(tiny, [task], SHUFFLED, 0).train[task.name]
    right = np.add.reduceat(encoded.per_sequence["right"].astype(int), encoded.units[:-1])
    assert (right == 1).all() and set(np.diff(encoded.units)) == {2, 3}


def test_nothing_is_learnt_of_shuffled_labels(tiny):
    task = toys.task("pair")
    plain, shuffled = (
        fine_tune(tiny, [task], replace(settings, epochs=25), 0).outcome
        for settings in (QUICK, SHUFFLED)
    )
    assert plain.dev[task.name] > 0.8
    assert shuffled.dev[task.name] < 0.6 and shuffled.floor == plain.floor


@pytest.mark.parametrize("format_", ["span", "retrieval"])
def test_formats_without_labels_refuse(format_, tiny):
    with pytest.raises(HelpfulError, match="pair, choice and tagging"):
        prepare(tiny, [toys.task(format_)], SHUFFLED, 0)
