from dataclasses import replace

import pandas as pd
import pytest

from helpers import results, similarity
from helpers.errors import UnknownName

MEASURES = ("token_similarity", "label_count")


@pytest.fixture
def measured(tmp_path, monkeypatch):
    monkeypatch.setenv("TRANSFER_STORE", str(tmp_path / "store"))
    monkeypatch.setattr(results, "SIMILARITY", tmp_path)
    return results.similarities("tiny", MEASURES)


def test_what_was_measured_is_not_measured_again_nor_where_a_table_is_committed(measured, tmp_path):
    assert list(measured.columns) == list(similarity.COLUMNS)
    assert len(measured) == 2 * 3 * len(MEASURES)  # over the dyads of a profile
    assert set(measured["status"]) == {"done", "undefined"}  # retrieval has no labels to count
    again = results.similarities("tiny", MEASURES, mode="stored")
    pd.testing.assert_frame_equal(again, measured)
    table = results.similarities("tiny", ["logme"])
    assert table["reason"].str.contains("no encoder fine-tuned on toy-same").any()
    assert table["value"].isna().all()
    marked = measured.assign(value=0.25)
    marked.to_csv(tmp_path / "tiny.csv", index=False)
    read = results.similarities("tiny")
    pd.testing.assert_frame_equal(read, marked, check_dtype=False)
    anew = results.similarities("tiny", MEASURES, mode="always")
    assert not anew["value"].eq(0.25).any()
    with pytest.raises(UnknownName, match="unknown profile 'tinny'"):
        results.similarities("tinny")


def lengths(first, second):
    return -abs(sum(map(len, first)) / len(first) - sum(map(len, second)) / len(second))


def test_a_readers_measure_joins_a_committed_table(measured, tmp_path, monkeypatch):
    needs = ("intermediate.texts", "target.texts")
    similarity.register(similarity.Measure("mine", "custom", needs, lengths))
    live = results.similarities("tiny", MEASURES)
    assert set(live["measure"]) == {*MEASURES, "mine"}
    measured.to_csv(tmp_path / "tiny.csv", index=False)
    table = results.similarities("tiny")
    assert len(table) == len(measured) + 6
    own = table[table["measure"] == "mine"]
    assert set(own["status"]) == {"done"} and own["reliability"].notna().all()
    monkeypatch.setattr(results, "_measured", None)  # without it, no data are needed
    table = results.similarities("tiny", added=False)
    assert set(table["measure"]) == set(MEASURES)


def test_a_built_in_measure_that_a_reader_replaced_is_not_read(measured, tmp_path):
    measured.to_csv(tmp_path / "tiny.csv", index=False)
    known = similarity.catalogue.get("token_similarity")
    similarity.register(replace(known, function=lambda a, b: 0.125), replace=True)
    table = results.similarities("tiny")
    values = table.loc[table["measure"] == known.name, "value"]
    assert len(values) == 6 and set(values) == {0.125}
    similarity.register(known, replace=True)
    assert similarity.added() == []


def test_committed_controls_are_named_as_such_and_cover_the_dyads_of_their_profile():
    for file in sorted(results.SIMILARITY.glob("*-controls.csv")):
        table = similarity.read(file)
        assert table["measure"].str.endswith(("_random", "_shuffled", "early_score")).all()
        known = results.similarities(file.stem.removesuffix("-controls"), mode="stored")
        pairs = [set(t.groupby(["intermediate", "target"]).groups) for t in (table, known)]
        assert pairs[0] == pairs[1]
