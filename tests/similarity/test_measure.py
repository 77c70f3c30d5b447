import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from helpers import similarity, tasks
from helpers.errors import BadRecord, BadRows, HelpfulError, MissingData, UnknownName
from helpers.models import encoders
from helpers.similarity import COLUMNS, features, to_csv
from helpers.similarity.inputs import Dyad, Inputs, Side
from helpers.similarity.readers import Checkpoint
from helpers.tasks import Source

STUDY = ["toy-same", "toy-choice", "toy-intents", "toy-slots", "toy-messages"]
CHEAP = ["text_embedding", "token_similarity", "tfidf", "same_format", "label_entropy", "logme"]


@pytest.fixture
def call(tiny, trained, options, tmp_path):
    def measured(measures=CHEAP, study=STUDY, **facts):
        facts = {
            "checkpoints": trained,
            "options": options,
            "folder": tmp_path,
            "progress": False,
        } | facts
        return similarity.measure(study, measures, tiny, **facts)

    return measured


def one(table, measure, i="toy-same", t="toy-intents", language="en"):
    chosen = table[
        (table["measure"] == measure)
        & (table["intermediate"] == i)
        & (table["target"] == t)
        & (table["language"] == language)
    ]
    assert len(chosen) == 1
    return chosen.iloc[0]


@pytest.fixture
def custom():
    def add(function, needs=("intermediate.texts", "target.texts"), name="mine"):
        measure = similarity.Measure(name, "custom", needs, function)
        return similarity.register(measure, replace=True)

    return add


@pytest.fixture
def gather(tiny, trained, options, tmp_path):
    study, arrays = [tasks.get(name) for name in STUDY], tmp_path / "arrays"
    return Inputs(tiny, study, options, arrays, checkpoints=trained)


class TestTable:
    def test_one_row_per_dyad_and_measure(self, call):
        table = call()
        assert list(table.columns) == list(COLUMNS)
        assert len(table) == 2 * 3 * len(CHEAP)
        assert list(dict.fromkeys(table["measure"])) == CHEAP
        assert set(table["status"]) == {"done", "undefined"}
        done = table["status"] == "done"
        assert table.loc[done, "value"].notna().all() and table.loc[~done, "value"].isna().all()
        row = one(table, "logme")
        assert row["n"] == 90 and row["passes"] == 90
        assert row["seconds"] > 0 and row["gather_seconds"] > 0
        assert row["encoder"] == "tiny" and row["seed"] == 0
        row = one(table, "logme", t="toy-messages")
        assert row["status"] == "undefined" and "retrieval" in row["reason"]
        assert row[["value", "half_a", "half_b", "second"]].isna().all()

    def test_values_are_those_of_the_functions(self, call, gather):
        table = call()
        dyad = Dyad(Side("toy-same", 0), Side("toy-intents", 0))
        states, labels = (gather.get(n, dyad).values for n in ("tuned.features", "target.labels"))
        assert one(table, "logme")["value"] == pytest.approx(features.logme(states, labels))
        means = [
            gather.get("intermediate.embeddings", Dyad(Side(n, 0))).values.mean(axis=0)
            for n in STUDY
        ]
        centred = np.array(means) - np.mean(means, axis=0)
        unit = centred / np.linalg.norm(centred, axis=1, keepdims=True)
        for i, t in ((0, 2), (1, 4)):
            value = one(table, "text_embedding", STUDY[i], STUDY[t])["value"]
            assert value == pytest.approx(unit[i] @ unit[t], abs=1e-6)

    def test_probes_are_compared_with_the_plain_encoder(self, call, gather):
        row = one(call(["knn_probe"], seeds=(0,)), "knn_probe")
        dyad = Dyad(Side("toy-same", 0), Side("toy-intents", 0))
        for part, column in (("all", "value"), ("a", "half_a"), ("b", "half_b")):
            tuned, plain, labels = (
                gather.get(need, dyad).get(part)
                for need in ("tuned.features", "target.features", "target.labels")
            )
            expected = features.knn_probe(tuned, labels) - features.knn_probe(plain, labels)
            assert row[column] == pytest.approx(expected)

    def test_without_checkpoints_what_needs_them_is_undefined(self, call):
        table = call(checkpoints=None)
        row = one(table, "logme")
        assert row["status"] == "undefined"
        assert row["reason"] == "there is no encoder fine-tuned on toy-same with seed 0."
        assert one(table, "text_embedding")["status"] == "done"

    def test_halves_and_seeds(self, call, tiny, options, tmp_path):
        table = call(["token_similarity", "same_format"])
        row = one(table, "token_similarity")
        assert row["half_a"] != row["half_b"] and row["second"] != row["value"]
        # What has no sample has no halves.
        assert np.isnan(one(table, "same_format")["half_a"])
        other = call(["token_similarity"], seeds=(1,))
        assert one(other, "token_similarity")["value"] == row["second"]
        assert np.isnan(one(other, "token_similarity")["second"])

    def test_ceilings_come_from_two_seeds_of_one_task(self, call):
        table = call(["task_vector", "token_similarity"])
        assert 0 <= one(table, "task_vector")["ceiling"] <= 1
        assert np.isnan(one(table, "token_similarity")["ceiling"])
        assert np.isnan(one(table, "task_vector", t="toy-messages")["ceiling"])

    def test_other_languages_add_label_measures_only(self, call):
        table = call(["logme", "text_embedding", "alignment_cka"], languages=("en", "qaa"))
        assert set(table.loc[table["language"] == "qaa", "measure"]) == {"logme", "alignment_cka"}
        drift = table[table["measure"] == "alignment_cka"]
        assert set(drift["target"]) == {""} and set(drift["status"]) == {"undefined"}
        drift = call(
            ["alignment_cka", "alignment_retrieval"], languages=("qaa",), parallel="toy-messages"
        )
        assert set(drift["status"]) == {"done"} and len(drift) == 4

    def test_a_random_encoder_can_be_measured_for_a_control(self, call, options, tmp_path):
        given = {"options": options, "folder": tmp_path, "progress": False}
        control = similarity.measure(
            STUDY, ["text_embedding"], encoders.load("tiny", seed=7), **given
        )
        assert (control["value"] - call(["text_embedding"])["value"]).abs().max() > 1e-4


class TestBadInput:
    @pytest.mark.parametrize(
        "facts, error",
        [
            ({"study": ["toy-same", "toy-intent"]}, UnknownName),
            ({"measures": ["logmee"]}, UnknownName),
            ({"mode": "sometimes"}, UnknownName),
            ({"study": ["toy-same", "toy-choice"]}, HelpfulError),
            ({"study": (["toy-same"], [])}, HelpfulError),
            ({"parallel": "toy-mess"}, UnknownName),
        ],
    )
    def test_is_refused_before_any_work(self, call, facts, error):
        with pytest.raises(error):
            call(**facts)

    def test_data_that_are_not_here_are_undefined(self, call):
        def absent(language, split):
            raise MissingData("put the file there")

        source = Source("rows", "gone", read=absent)
        gone = replace(tasks.get("toy-same"), name="toy-gone", source=source)
        table = call(["token_similarity"], [gone, *STUDY])
        row = one(table, "token_similarity", i="toy-gone")
        assert row["status"] == "undefined" and "put the file there" in row["reason"]
        assert one(table, "token_similarity")["status"] == "done"

    def test_a_damaged_checkpoint_fails_alone(self, call, trained):
        def load():
            raise BadRecord("cannot be read")

        def source(task, seed):
            return Checkpoint("bad", load) if task == "toy-same" else trained(task, seed)

        table = call(["logme", "token_similarity"], checkpoints=source, seeds=(0,))
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
        first, before = call([measure]), len(calls)
        pd.testing.assert_frame_equal(first, call([measure]))
        assert len(calls) == before
        call([measure], mode="always")
        assert len(calls) > before

    def test_stored_mode_computes_nothing_and_says_what_is_missing(self, call):
        table = call(["token_similarity"], mode="stored")
        assert set(table["status"]) == {"missing"} and table["value"].isna().all()
        call(["token_similarity"], seeds=(0,))
        table = call(["token_similarity"], mode="stored")
        assert set(table["status"]) == {"done"} and table["second"].isna().all()

    def test_what_a_function_calls_undefined_is_kept_with_its_reason(self, call, custom):
        calls = []

        def picky(a, b):
            calls.append(1)
            raise BadRows("too few texts")

        measure = custom(picky)
        call([measure], seeds=(0,))
        before = len(calls)
        table = call([measure], seeds=(0,), mode="stored")
        assert len(calls) == before
        assert set(table["status"]) == {"undefined"} and set(table["reason"]) == {"too few texts"}
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

    def test_new_code_of_a_measure_is_computed_anew(self, call, custom):
        first = call([custom(lambda a, b: 1.0)])
        second = call([custom(lambda a, b: 2.0)])
        assert set(first["value"]) == {1.0} and set(second["value"]) == {2.0}

    def test_another_checkpoint_is_another_value(self, call, trained):
        first = call(["logme"], seeds=(0,))
        swapped = lambda task, seed: trained(task, 1)  # noqa: E731
        second = call(["logme"], seeds=(0,), checkpoints=swapped)
        assert one(first, "logme")["record"] != one(second, "logme")["record"]
        assert one(first, "logme")["value"] != one(second, "logme")["value"]


class TestOwnMeasures:
    def test_one_that_was_never_registered_is_checked_too(self, call):
        with pytest.raises(UnknownName, match="array 'target.lables'.*'target.labels'"):
            call([similarity.Measure("mine", "custom", ("target.lables",), len)])

    def test_in_one_cell(self, call, custom):
        custom(lambda a, b: -abs(np.mean([len(t) for t in a]) - np.mean([len(t) for t in b])))
        table = call([*CHEAP, "mine"])
        row = one(table, "mine")
        assert row["status"] == "done" and row["family"] == "custom" and row["value"] < 0
        assert row["half_a"] != row["half_b"]

    def test_an_error_of_its_own_is_recorded_and_not_stored(self, call, custom):
        def wrong(a, b):
            raise ZeroDivisionError("nothing there")

        table = call([custom(wrong), "token_similarity"])
        row = one(table, "mine")
        assert row["status"] == "failed: ZeroDivisionError: nothing there"
        assert np.isnan(row["value"])
        assert one(table, "token_similarity")["status"] == "done"
        assert one(call([custom(lambda a, b: 1.0)]), "mine")["status"] == "done"

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

    def test_more_rows_are_read_while_halves_disagree(self, call, custom, monkeypatch, capsys):
        monkeypatch.setattr(similarity, "STEPS", (20, 40, 80))
        noisy = custom(lambda a, b: float(zlib.crc32(repr((a, b)).encode()) % 1000), name="noisy")
        steady = custom(lambda a, b: np.mean([len(t) for t in a]) - np.mean([len(t) for t in b]))
        table = call([noisy, "same_format", steady], options=None, progress=True)
        assert table["measure"].drop_duplicates().tolist() == ["noisy", "same_format", "mine"]
        assert table.groupby("measure")["n"].max()["noisy"] == 80
        assert "reading 80 rows a task: not reliable yet: noisy" in capsys.readouterr().err
        again = call([noisy, "same_format", steady], options=None, mode="stored")
        pd.testing.assert_frame_equal(table, again)

    def test_no_more_is_read_where_nothing_could_tell(self, call, monkeypatch):
        monkeypatch.setattr(similarity, "STEPS", (20, 40))
        study = ["toy-same", "toy-intents", "toy-slots"]  # two dyads have no correlation
        table = call(["token_similarity"], study, options=None)
        assert table["reliability_note"].str.contains("2 dyads have both values").all()


class TestExport:
    def test_matrix(self, call):
        table = call()
        wide = similarity.matrix(table, "logme")
        assert wide.index.tolist() == ["toy-same", "toy-choice"]
        assert wide.columns.tolist() == ["toy-intents", "toy-slots", "toy-messages"]
        assert wide.loc["toy-same", "toy-intents"] == one(table, "logme")["value"]
        assert wide["toy-messages"].isna().all()
        with pytest.raises(UnknownName, match="measure in this table"):
            similarity.matrix(table, "gbc")

    def test_files(self, call, tmp_path):
        table = call(["logme", "alignment_cka"], languages=("en", "qaa"), parallel="toy-messages")
        files = similarity.export(table, tmp_path / "out")
        assert {path.name for path in files} == {
            "table.parquet", "logme.csv", "logme.qaa.csv", "alignment_cka.csv",
        }  # fmt: skip
        wide = pd.read_csv(tmp_path / "out" / "logme.csv", index_col=0)
        assert wide.loc["toy-same", "toy-intents"] == pytest.approx(one(table, "logme")["value"])
        drift = pd.read_csv(tmp_path / "out" / "alignment_cka.csv", index_col=0)
        assert drift.columns.tolist() == ["qaa"]
        pd.testing.assert_frame_equal(similarity.read(tmp_path / "out"), table)
        unknown = table.assign(value=table["value"].where(table["measure"] != "logme"))
        names = {path.name for path in similarity.export(unknown, tmp_path / "none")}
        assert names == {"table.parquet", "alignment_cka.csv"}

    def test_reading_what_is_no_table(self, tmp_path):
        with pytest.raises(BadRecord, match="is not there"):
            similarity.read(tmp_path)
        pd.DataFrame({"measure": ["x"]}).to_parquet(tmp_path / "table.parquet")
        with pytest.raises(BadRecord, match="lacks the columns"):
            similarity.read(tmp_path)

    def test_words_that_pandas_takes_for_missing_stay_names(self, call, tmp_path):
        table = call(["token_similarity"], seeds=(0,)).head(3)
        table["language"] = ["nan", "en", "no"]
        table["intermediate"], table["target"] = ["null", "NA", "x"], ["None", "", "n/a"]
        found = similarity.read(to_csv(table, tmp_path / "own.csv"))
        names = ["intermediate", "target", "language", "reason"]
        pd.testing.assert_frame_equal(found[names], table[names])
        assert np.isnan(found["second"]).all()

    @pytest.mark.parametrize("name", ["demo.csv", "pilot.csv", "demo", "pilot"])
    def test_committed_tables_are_read_and_cut_ones_refused(self, tmp_path, name):
        committed = Path(__file__).parents[2] / "data" / "similarity" / name
        assert similarity.read(committed)["value"].notna().sum() > 100
        whole = committed / "table.parquet" if committed.is_dir() else committed
        cut = tmp_path / whole.name
        cut.write_bytes(whole.read_bytes()[:-100])
        with pytest.raises(BadRecord, match="cut off.*git checkout"):
            similarity.read(cut)
