import numpy as np
import pandas as pd
import pytest

from data.make import traps


def test_swapped_conjunctions_are_an_error_to_one_reading_only_and_one_is_official():
    gold, given = [["NOUN", "CCONJ", "VERB"]], [["NOUN", "SCONJ", "VERB"]]
    found = traps.pos_readings(given, gold)
    assert found["seqeval-1.2.2", "f1"] == 1.0
    assert found["seqeval-0.0.12", "f1"] == found["plain", "f1"] == pytest.approx(2 / 3)
    table = traps.table_of("pos_reading", iter([("en", 1, "a reader", found)]))
    assert table.loc[table["official"], "rule"].unique().tolist() == ["seqeval-0.0.12"]


LONGER = [
    ("he saw a red car there", "red", "en", "red car"),
    ("he saw red, and left", "red", "en", "red, and"),
    ("it was red.", "red", "en", "red."),
    ("it was red", "red", "en", "was red"),
    ("red", "red", "en", "red"),
    ("他在北京住", "北京", "zh", "北京住"),
    ("他在北京", "北京", "zh", "在北京"),
]


def test_an_answer_gets_one_more_word():
    for context, answer, language, expected in LONGER:
        assert traps.longer(context, answer, context.index(answer), language) == expected


def test_a_perfect_reader_loses_by_shifted_offsets_and_a_greedy_one_where_text_is_one_token():
    answers = [{"text": ["red"], "answer_start": [start]} for start in (2, 4)]
    found = traps.perfect_reader([{"context": "a red car", "answers": own} for own in answers])
    assert found["answer text", "exact_match"] == 1.0
    assert found["text at the offset", "exact_match"] == 0.5
    row = {"context": "他在北京住", "answers": {"text": ["北京"], "start": [2]}}
    found = traps.greedy_reader([row], "zh")
    assert found["SQuAD's rules", "f1"] == 0.0
    assert found["MLQA's rules", "f1"] == pytest.approx(0.8)


def retrieval(text_of_last="three"):
    rows = []
    for place, text in enumerate(["one", "two", text_of_last]):
        query = {"id": f"en-{place}", "side": "query", "text": f"q{place}", "gold": [f"x-{place}"]}
        rows += [query, {"id": f"x-{place}", "side": "candidate", "text": text, "gold": []}]
    return rows


def test_directions_differ_and_an_equal_sentence_counts_only_if_asked():
    vectors = np.array([[1, 0.1], [1, 0], [1, 0.2], [0.3, 1], [1, 0.3], [0.2, 1]], np.float32)
    found = traps.directions(retrieval(), vectors)  # one candidate attracts all queries
    assert found["English asks", "accuracy"] == pytest.approx(1 / 3)
    assert found["the foreign side asks", "accuracy"] == pytest.approx(2 / 3)
    found = traps.directions(retrieval("two"), np.eye(3, dtype=np.float32)[[0, 0, 1, 1, 1, 2]])
    assert found["English asks", "accuracy"] == pytest.approx(2 / 3)
    assert found["English asks, equal sentences accepted", "accuracy"] == 1.0
    # Mining among gold sentences leaves the others out.
    rows = retrieval()
    rows.append({"id": "en-9", "side": "query", "text": "lonely", "gold": []})
    vectors = np.eye(4, dtype=np.float32)[[0, 0, 1, 1, 2, 2, 3]] + 0.01
    gold = traps.gold_pairs(rows)
    assert gold == [(f"en-{i}", f"x-{i}") for i in range(3)]
    assert set(traps.mined(rows, vectors, gold[:2])["source"]) == {"en-0", "en-1"}


def test_a_second_measurement_replaces_the_first_and_leaves_other_traps(tmp_path):
    path = tmp_path / "traps.csv"
    for trap, value in (("one_more", 0.7), ("offsets", 0.5), ("offsets", 0.6)):
        scores = {("a rule", "f1"): value}
        traps.store(traps.table_of(trap, iter([("en", 1, "a reader", scores)])), path)
    table = pd.read_csv(path)
    values = dict(zip(table["trap"], table["value"], strict=True))
    assert values == {"offsets": 0.6, "one_more": 0.7}
    assert table["commit"].all() and table["utc"].all()
    assert not table["source"].str.contains("/work|/home|/tmp").any()


def test_the_committed_table_is_whole_and_says_where_it_is_from():
    table = pd.read_csv(traps.PATH)
    assert set(table["trap"]) == set(traps.TRAPS)
    assert table["value"].between(0, 1).all() and (table["n"] > 0).all()
    assert table[["source", "commit", "versions", "utc", "reader"]].notna().all(axis=None)
    assert not table["commit"].str.contains("changes").any()
    assert not table["source"].str.contains("/work|/home|/tmp").any()
    scored = table[table["trap"] != "xcopa_question"]
    groups = scored.groupby(["trap", "language", "reader", "metric"])["official"]
    assert (groups.sum() == 1).all()
