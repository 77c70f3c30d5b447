import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from helpers import similarity, tasks
from helpers.errors import BadRecord, BadRows, HelpfulError, MissingData, UnknownName
from helpers.models import encoders
from helpers.similarity import COLUMNS, features
from helpers.similarity.inputs import Dyad, Side
from helpers.similarity.readers import Checkpoint
from helpers.tasks import Source

STUDY = ["toy-same", "toy-choice", "toy-intents", "toy-slots", "toy-messages"]
CHEAP = ["text_embedding", "token_similarity", "tfidf", "same_format", "label_entropy", "logme"]
DYAD = Dyad(Side("toy-same", 0), Side("toy-intents", 0))


@pytest.fixture
def call(tiny, trained, options, tmp_path):
    def measured(measures=CHEAP, study=STUDY, encoder=tiny, **facts):
        given = {"checkpoints": trained, "options": options, "folder": tmp_path}
        return similarity.measure(study, measures, encoder, **given | {"progress": False} | facts)

    return measured


def one(table, measure, i="toy-same", t="toy-intents", language="en"):
    names = ["measure", "intermediate", "target", "language"]
    return table.set_index(names, drop=False).loc[(measure, i, t, language)]


@pytest.fixture
def custom():
    def add(function, name="mine"):
        needs = ("intermediate.texts", "target.texts")
        measure = similarity.Measure(name, "custom", needs, function)
        return similarity.register(measure, replace=True)

    return add


def test_one_row_per_dyad_and_measure_with_the_values_of_the_functions(call, gather):
    table = call()
    assert list(table.columns) == list(COLUMNS) and len(table) == 2 * 3 * len(CHEAP)
    assert list(dict.fromkeys(table["measure"])) == CHEAP
    assert set(table["status"]) == {"done", "undefined"}
    assert (table["value"].notna() == (table["status"] == "done")).all()
    row, without = one(table, "logme"), one(table, "logme", t="toy-messages")
    assert row["n"] == 90 and row["seconds"] > 0 and row["gather_seconds"] > 0
    assert row["encoder"] == "tiny" and row["seed"] == 0
    assert without["status"] == "undefined" and "retrieval" in without["reason"]
    assert without[["value", "half_a", "half_b", "second"]].isna().all()
    states, labels = (gather.get(n, DYAD).values for n in ("tuned.features", "target.labels"))
    assert row["value"] == pytest.approx(features.logme(states, labels))
    each = [gather.get("intermediate.embeddings", Dyad(Side(n, 0))).values for n in STUDY]
    centred = np.array([states.mean(axis=0) for states in each])
    centred -= centred.mean(axis=0)
    unit = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    for i, t in ((0, 2), (1, 4)):
        value = one(table, "text_embedding", STUDY[i], STUDY[t])["value"]
        assert value == pytest.approx(unit[i] @ unit[t], abs=1e-6)
    wide = similarity.matrix(table, "logme")
    assert (wide.index.tolist(), wide.columns.tolist()) == (STUDY[:2], STUDY[2:])
    assert wide.loc["toy-same", "toy-intents"] == row["value"] and wide["toy-messages"].isna().all()
    with pytest.raises(UnknownName, match="measure in this table"):
        similarity.matrix(table, "gbc")


def test_probes_are_compared_with_the_plain_encoder(call, gather):
    row = one(call(["knn_probe"], seeds=(0,)), "knn_probe")
    needs = ("tuned.features", "target.features", "target.labels")
    for part, column in (("all", "value"), ("a", "half_a"), ("b", "half_b")):
        tuned, plain, labels = (gather.get(need, DYAD).get(part) for need in needs)
        expected = features.knn_probe(tuned, labels) - features.knn_probe(plain, labels)
        assert row[column] == pytest.approx(expected)


def test_without_checkpoints_what_needs_them_is_undefined(call):
    table = call(checkpoints=None)
    row = one(table, "logme")
    reason = "there is no encoder fine-tuned on toy-same with seed 0."
    assert (row["status"], row["reason"]) == ("undefined", reason)
    assert one(table, "text_embedding")["status"] == "done"
    # A random encoder can be measured for a control.
    control = call(["text_embedding"], encoder=encoders.load("tiny", seed=7), checkpoints=None)
    assert (control["value"] - call(["text_embedding"])["value"]).abs().max() > 1e-4


def test_halves_seeds_and_ceilings(call):
    table = call(["token_similarity", "same_format", "task_vector"])
    row = one(table, "token_similarity")
    assert row["half_a"] != row["half_b"] and row["second"] != row["value"]
    # What has no sample has no halves.
    assert np.isnan(one(table, "same_format")["half_a"])
    other = one(call(["token_similarity"], seeds=(1,)), "token_similarity")
    assert other["value"] == row["second"] and np.isnan(other["second"])
    # A ceiling comes from two seeds of one task.
    assert 0 <= one(table, "task_vector")["ceiling"] <= 1
    assert np.isnan(row["ceiling"])
    assert np.isnan(one(table, "task_vector", t="toy-messages")["ceiling"])


def test_other_languages_add_label_measures_only(call):
    table = call(["logme", "text_embedding", "alignment_cka"], languages=("en", "qaa"))
    assert set(table.loc[table["language"] == "qaa", "measure"]) == {"logme", "alignment_cka"}
    drift = table[table["measure"] == "alignment_cka"]
    assert set(drift["target"]) == {""} and set(drift["status"]) == {"undefined"}
    names = ["alignment_cka", "alignment_retrieval"]
    drift = call(names, languages=("qaa",), parallel="toy-messages")
    assert set(drift["status"]) == {"done"} and len(drift) == 4


@pytest.mark.parametrize(
    "facts, error",
    [
        ({"study": ["toy-same", "toy-intent"]}, UnknownName),
        ({"measures": ["logmee"]}, UnknownName),
        ({"mode": "sometimes"}, UnknownName),
        ({"study": ["toy-same", "toy-choice"]}, HelpfulError),
        ({"study": (["toy-same"], [])}, HelpfulError),
        ({"parallel": "toy-mess"}, UnknownName),
        # A measure that was never registered is checked too.
        ({"measures": [similarity.Measure("m", "custom", ("target.lables",), len)]}, UnknownName),
    ],
)
def test_what_is_asked_wrongly_is_refused_before_any_work(call, facts, error):
    with pytest.raises(error):
        call(**facts)


class TestBadInput:
    def test_data_that_are_not_here_and_damaged_checkpoints_fail_alone(self, call, trained):
        def absent(language, split):
            raise MissingData("put the file there")

        def damaged():
            raise BadRecord("cannot be read")

        source = Source("rows", "gone", read=absent)
        gone = replace(tasks.get("toy-same"), name="toy-gone", source=source)
        given = {(name, 0): trained(name, 0) for name in STUDY}
        given["toy-same", 0] = Checkpoint("bad", damaged)
        names = ["logme", "token_similarity"]
        table = call(names, [gone, *STUDY], checkpoints=given, seeds=(0,))
        row = one(table, "token_similarity", i="toy-gone")
        assert row["status"] == "undefined" and "put the file there" in row["reason"]
        assert one(table, "logme")["status"] == "failed: BadRecord: cannot be read"
        assert one(table, "logme", "toy-choice")["status"] == "done"
        assert one(table, "token_similarity")["status"] == "done"

    def test_one_class_is_undefined(self, call):
        row = {"first": "a text", "second": ""}
        rows = [row | {"id": str(i), "label": int(i == 7)} for i in range(40)]
        source = Source("rows", "flat", read=lambda language, split: rows)
        flat = replace(tasks.get("toy-intents"), name="toy-flat", source=source)
        table = call(["logme", "label_entropy"], ["toy-same", flat])
        assert set(table["status"]) == {"undefined"}
        assert table["reason"].str.contains("classes").all()


class TestStored:
    def test_a_second_call_computes_nothing(self, call, custom):
        calls = []
        measure = custom(lambda a, b: calls.append(1) or len(a) / len(b))
        table = call([measure], mode="stored")
        assert set(table["status"]) == {"missing"} and table["value"].isna().all() and not calls
        first, before = call([measure], seeds=(0,)), len(calls)
        again = call([measure], seeds=(0,), mode="stored")
        assert set(again["status"]) == {"done"} and again["second"].isna().all()
        pd.testing.assert_frame_equal(first, call([measure], seeds=(0,)))
        assert len(calls) == before
        call([measure], seeds=(0,), mode="always")
        assert len(calls) > before

    def test_what_a_function_calls_undefined_is_kept_with_its_reason(self, call, custom):
        calls = []

        def picky(a, b):
            calls.append(1)
            raise BadRows("too few texts")

        measure = custom(picky)
        call([measure], seeds=(0,))
        before, table = len(calls), call([measure], seeds=(0,), mode="stored")
        assert len(calls) == before and set(table["status"]) == {"undefined"}
        assert set(table["reason"]) == {"too few texts"}
        assert set(table["reliability_note"]) == {"no dyad has a value"}

    def test_an_interrupted_call_goes_on_where_it_was(self, call, custom, tmp_path):
        seen = []

        def fragile(a, b):
            if len(seen) == 8:
                raise KeyboardInterrupt
            seen.append(1)
            return float(len(seen))

        with pytest.raises(KeyboardInterrupt):
            call([custom(fragile)])
        kept = len((tmp_path / "values.jsonl").read_text().splitlines())
        assert 0 < kept < 12
        seen.append(1)  # no interruption any more
        before = len(seen)
        assert set(call([custom(fragile)])["status"]) == {"done"}
        assert len(seen) - before == 3 * (12 - kept)

    @pytest.mark.parametrize(
        "damage",
        [
            lambda line: "",
            lambda line: line[: len(line) // 2],
            lambda line: line.replace('"value": ', '"value": 1'),  # an edited one is not believed
        ],
    )
    def test_a_damaged_value_is_computed_again(self, call, tmp_path, damage):
        first = call(["token_similarity"])
        path = tmp_path / "values.jsonl"
        lines = path.read_text().splitlines()
        path.write_text("\n".join([*map(damage, lines[:6]), *lines[6:]]) + "\n")
        pd.testing.assert_series_equal(first["value"], call(["token_similarity"])["value"])

    def test_another_code_or_checkpoint_is_another_value(self, call, custom, trained):
        assert set(call([custom(lambda a, b: 1.0)])["value"]) == {1.0}
        assert set(call([custom(lambda a, b: 2.0)])["value"]) == {2.0}
        first = one(call(["logme"], seeds=(0,)), "logme")
        swapped = lambda task, seed: trained(task, 1)  # noqa: E731
        second = one(call(["logme"], seeds=(0,), checkpoints=swapped), "logme")
        assert first["record"] != second["record"] and first["value"] != second["value"]


class TestOwnMeasures:
    def test_an_error_of_its_own_is_recorded_and_not_stored(self, call, custom):
        def wrong(a, b):
            raise ZeroDivisionError("nothing there")

        table = call([custom(wrong), "token_similarity"])
        row = one(table, "mine")
        assert row["status"] == "failed: ZeroDivisionError: nothing there"
        assert np.isnan(row["value"])
        assert one(table, "token_similarity")["status"] == "done"
        custom(lambda a, b: -abs(np.mean([len(t) for t in a]) - np.mean([len(t) for t in b])))
        row = one(call([*CHEAP, "mine"]), "mine")  # in one cell
        assert row["status"] == "done" and row["family"] == "custom" and row["value"] < 0
        assert row["half_a"] != row["half_b"]

    def test_a_half_that_fails_leaves_the_whole(self, call, custom):
        def picky(a, b):
            if len(a) < 60:
                raise BadRows("too few texts")
            return 1.0

        row = one(call([custom(picky)]), "mine")
        assert row["status"] == "done" and row["value"] == 1.0
        assert np.isnan(row["half_a"]) and "too few texts" in row["reason"]


class TestReading:
    """How much is read where nobody says, and what is said of it."""

    def test_cost_is_said_before_and_nothing_where_nothing_is_to_do(self, call, capsys):
        call(["text_embedding"], progress=True)
        said = capsys.readouterr().err
        assert "12 values to compute (0 are known or undefined): 784 passes of a text" in said
        call(["text_embedding"], progress=True)
        assert capsys.readouterr().err == ""
        roles = ["toy-intents"], ["toy-same", "toy-slots"]
        table = call(["token_similarity"], roles, progress=True)
        assert "nothing is read with an encoder" in capsys.readouterr().err
        assert table["target"].tolist() == roles[1]

    def test_more_rows_are_read_if_that_could_tell(self, call, custom, monkeypatch, capsys):
        monkeypatch.setattr(similarity, "STEPS", (20, 40, 80))
        noisy = custom(lambda a, b: float(zlib.crc32(repr((a, b)).encode()) % 1000), name="noisy")
        steady = custom(lambda a, b: np.mean([len(t) for t in a]) - np.mean([len(t) for t in b]))
        table = call([noisy, "same_format", steady], options=None, progress=True)
        assert table["measure"].drop_duplicates().tolist() == ["noisy", "same_format", "mine"]
        assert table.groupby("measure")["n"].max()["noisy"] == 80
        assert "reading 80 rows a task: not reliable yet: noisy" in capsys.readouterr().err
        again = call([noisy, "same_format", steady], options=None, mode="stored")
        pd.testing.assert_frame_equal(table, again)
        monkeypatch.setattr(similarity, "STEPS", (20, 40))
        study = ["toy-same", "toy-intents", "toy-slots"]  # two dyads have no correlation
        table = call(["token_similarity"], study, options=None)
        assert table["reliability_note"].str.contains("2 dyads have both values").all()


class TestRead:
    def test_words_that_pandas_takes_for_missing_stay_names(self, call, tmp_path):
        table = call(["token_similarity"], seeds=(0,)).head(3)
        table["language"], table["measure"] = ["nan", "en", "no"], "NA"
        table["intermediate"], table["target"] = ["null", "NA", "x"], ["None", "", "n/a"]
        table.to_csv(tmp_path / "own.csv", index=False)
        found = similarity.read(tmp_path / "own.csv")
        names = ["intermediate", "target", "language", "measure", "reason"]
        pd.testing.assert_frame_equal(found[names], table[names])
        assert np.isnan(found["second"]).all()
        (tmp_path / "own.csv").write_text("measure\nx\n")
        for name, says in (("none.csv", "No such file"), ("own.csv", "lacks the columns")):
            with pytest.raises(BadRecord, match=f"is missing, .*{says}"):
                similarity.read(tmp_path / name)

    @pytest.mark.parametrize("name", ["demo.csv", "pilot.csv"])
    def test_committed_tables_are_read_and_cut_ones_refused(self, tmp_path, name):
        committed, cut = Path(__file__).parents[2] / "data" / "similarity" / name, tmp_path / name
        assert similarity.read(committed)["value"].notna().sum() > 100
        cut.write_bytes(committed.read_bytes()[:-100])
        with pytest.raises(BadRecord, match="cut off.*git checkout"):
            similarity.read(cut)
