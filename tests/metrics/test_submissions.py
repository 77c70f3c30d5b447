import json
import os
import random
from pathlib import Path

import numpy as np
import pytest

from helpers.errors import BadRows, MissingData, UnknownName
from helpers.metrics import submissions
from helpers.metrics.submissions import BENCHMARKS, score_submission, write_labels, write_submission
from tests.golden.tables import drawn


def percent(frame, task, metric="metric", language="all"):
    rows = frame.query("task == @task and metric == @metric and language == @language")
    return rows["percent"].item()


def labels_and_predictions(name, seed=0):
    chance, tasks = random.Random(seed), BENCHMARKS[name].tasks
    both = {n: {code: drawn(t, code, chance) for code in t.languages} for n, t in tasks.items()}
    side = lambda at: {n: {c: pair[at] for c, pair in one.items()} for n, one in both.items()}  # noqa: E731
    return side(0), side(1)


def scored(folder, golds, predictions, name="xtreme"):
    right = write_labels(golds, folder / "labels", name)
    given = write_submission(predictions, folder / "predictions", name)
    return score_submission(given, right, name)


@pytest.fixture(params=["xtreme", "xtreme-r"])
def folders(request, tmp_path):
    golds, predictions = labels_and_predictions(request.param)
    write_labels(golds, tmp_path / "labels", request.param)
    write_submission(predictions, tmp_path / "predictions", request.param)
    return request.param, golds, predictions, tmp_path / "predictions", tmp_path / "labels"


@pytest.mark.parametrize("name", BENCHMARKS)
def test_the_labels_themselves_score_one_hundred(name, tmp_path):
    golds, _ = labels_and_predictions(name)
    best = dict(golds)
    for task in ("xquad", "mlqa", "tydiqa"):  # of the accepted answers the first
        first = golds[task].items()
        best[task] = {code: {q: a[0] for q, a in gold.items()} for code, gold in first}
    frame = scored(tmp_path, golds, best, name)
    assert frame["percent"].to_numpy() == pytest.approx(100.0)


def test_figures_equal_those_of_the_formulas_and_what_is_official_is_said(folders):
    name, golds, predictions, given, right = folders
    frame = score_submission(given, right, name)
    said = predictions["xnli"]
    hits = [np.equal(gold, said[code]).mean() for code, gold in golds["xnli"].items()]
    questions, figures = ["xquad", "mlqa", "tydiqa"], {"xnli": 100 * np.mean(hits)}
    for task in questions:
        figures[task] = np.mean([percent(frame, task, part) for part in ("exact_match", "f1")])
    for name_, members in (("qa", questions), ("all", BENCHMARKS[name].tasks)):
        figures[name_] = np.mean([percent(frame, task) for task in members])
    assert {task: percent(frame, task) for task in figures} == pytest.approx(figures, abs=1e-9)
    groups = frame[frame["level"] == "group"]
    assert list(groups["task"]) == list(BENCHMARKS[name].groups) and groups["official"].all()
    row = frame[frame["level"] == "overall"]
    assert len(row) == 1 and row["official"].item() is (name == "xtreme")
    assert frame.attrs["statement"] == BENCHMARKS[name].no_overall
    assert not frame[frame["language"] == "without_english"]["official"].any()
    assert not frame[frame["metric"] == "token_accuracy"]["official"].any()
    others = frame[~frame["official"] & (frame["level"] == "language")]["task"]
    assert set(others) <= {"lareqa", "udpos", "panx"}
    # Means without English leave it out; Tatoeba has none.
    others = frame.query("level == 'language' and task == 'xnli' and language != 'en'")["percent"]
    assert percent(frame, "xnli", "metric", "without_english") == pytest.approx(others.mean())
    whole = percent(frame, "tatoeba")
    assert percent(frame, "tatoeba", "metric", "without_english") == pytest.approx(whole)


# A part of XTREME's mock submission, written out; the figures are those of its own test.
MOCK = json.loads((Path(__file__).parent / "mock.json").read_text(encoding="utf-8"))


def test_mlqa_of_the_mock_submission(tmp_path):
    items = {language: dict(enumerate(pairs)) for language, pairs in MOCK["answers"].items()}
    golds = {code: {i: [gold] for i, (_, gold) in one.items()} for code, one in items.items()}
    given = {code: {i: said for i, (said, _) in one.items()} for code, one in items.items()}
    frame = scored(tmp_path, {"mlqa": golds}, {"mlqa": given})
    for metric in ("exact_match", "f1"):
        expected = pytest.approx(MOCK["figures"][f"mlqa {metric}"], abs=1e-9)
        assert percent(frame, "mlqa", metric) == expected
    # Without all tasks there is no overall mean, and no mean of a group that lacks one.
    assert "udpos" in frame.attrs["statement"]
    assert set(frame["level"]) == {"language", "task"}


@pytest.mark.skipif(
    "XTREME_MOCK_ROOT" not in os.environ, reason="needs XTREME's mock_test_data folder"
)
def test_the_whole_mock_submission():
    root = Path(os.environ["XTREME_MOCK_ROOT"])
    frame = score_submission(root / "predictions", root / "labels")
    for name, expected in MOCK["figures"].items():
        assert percent(frame, *name.split()) == pytest.approx(expected, abs=1e-9), name


def one_task(tmp_path, task, gold, given, benchmark="xtreme"):
    """Folders in which one language is as given and the others are right."""
    facts = BENCHMARKS[benchmark].tasks[task]
    for number, language in enumerate(facts.languages):
        said = gold_of(facts, gold) if number else given
        for folder, text in (("labels", gold), ("predictions", said)):
            path = tmp_path / folder / task / f"test-{language}.{facts.suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(text.replace("XX", language).encode())
    return tmp_path / "predictions", tmp_path / "labels"


def gold_of(facts, gold):
    if facts.kind != "answers":
        return gold
    articles = json.loads(gold.lstrip("\ufeff"))["data"]
    paragraphs = [p for article in articles for p in article.get("paragraphs", [])]
    found = [qa for paragraph in paragraphs for qa in paragraph["qas"] if qa["answers"]]
    return json.dumps({qa["id"]: qa["answers"][0]["text"] for qa in found})


def squad_labels(*questions):
    qas = [{"id": name, "answers": [{"text": text} for text in texts]} for name, texts in questions]
    return json.dumps({"data": [{"paragraphs": [{"context": "", "qas": qas}]}]})


SQUAD = squad_labels(("a", ["x"]), ("b", ["y"]))
MEWSLI, XCOPA = '{"a": ["Q1"], "b": ["Q2"]}', '{"label": 0}\n{"label": 1}\n'
XCOPA_TEXT, BUCC = '{"label": "0"}\n{"label": "1"}\n', "XX-1\ten-1\n"

# Task, labels, predictions, message; and the official figure of the first language, if it gives one.
TRAPS = {
    "empty labels": ("xnli", "neutral\n", "", "empty", None),
    "blank line at the end": ("pawsx", "0\n1\n", "0\n1\n\n", "3 predictions for 2 rows", None),
    "sentences too": ("pawsx", "0\n1\n", "0\ta\n1\ta\n", r"'0\\ta'; expected 0, 1, alone", 0.0),
    "byte order mark": ("pawsx", "0\n1\n", "\ufeff0\n1\n", "byte order mark", 50.0),
    "tags of another length": ("udpos", "X\n\nVERB\nNOUN\n", "X\n\nVERB\n", "2 tokens and 1", 80.0),
    "fewer sentences": ("udpos", "X\n\nX\n", "X\nX\n", "1 predictions for 2 sent", None),
    "empty gold pairs": ("bucc2018", "", "XX-1\ten-1\n", "empty", None),
    "one id": ("bucc2018", BUCC, BUCC + "XX-2\n", "line 2: .*expected two ids", 200 / 3),
    "empty answers": ("xquad", SQUAD, "{}", "empty", 0.0),
    "no answers file": ("xquad", SQUAD, "", "empty", None),
    "unknown id": ("xquad", SQUAD, '{"a": "x", "b": "y", "c": "z"}', "1 ids are not in", 100.0),
    "repeated id": ("xquad", SQUAD, '{"a": "x", "b": "n", "b": "y"}', "'b' comes twice", 100.0),
    "no text": ("xquad", SQUAD, '{"a": ["x"]}', r"'a': \['x'\]; expected the text", None),
    "no gold answers": ("xquad", squad_labels(("a", [])), '{"a": "x"}', "accepted answers", None),
    "labels of another form": ("xquad", '{"data": [{"a": 1}]}', '{"a": "x"}', "SQuAD's form", None),
    "ids and names": ("xcopa", XCOPA, XCOPA_TEXT, "line 1: '0'; expected a number from 0", 0.0),
    "no label": ("xcopa", XCOPA, '{"idx": 0}\n{"idx": 1}\n', "line 1: expected an object", None),
    "entity": ("mewslix", MEWSLI, '{"a": "Q1", "b": "Q2"}', "'Q1'; expected a list", None),
    "entities": ("mewslix", MEWSLI, '{"a": [1], "b": ["Q2"]}', r"\[1\]; expected a list", None),
    "answers of another form": ("xquad", SQUAD, '{"data": [1]}', "an entry for each id", None),
    "nested without end": ("xquad", SQUAD, "[" * 100_000, "not JSON", None),
    "number without end": ("xquad", SQUAD, "9" * 5000, "not JSON", None),
    "label cut off": ("xnli", "neutral\n" * 2, "neutral\nneutr", "line 2: 'neutr'; expec", 50.0),
    "unknown mention": ("mewslix", MEWSLI, '{"a": ["Q1"], "z": ["Q2"]}', "such as 'z'", 50.0),
}
MAIN = {"answers": "exact_match", "entities": "map@20", "tags": "f1", "pairs": "f1"}


@pytest.mark.parametrize("trap", TRAPS)
def test_traps_are_refused_or_get_the_official_figure(tmp_path, trap):
    task, gold, given, message, official = TRAPS[trap]
    name = "xtreme" if task in BENCHMARKS["xtreme"].tasks else "xtreme-r"
    folders = one_task(tmp_path, task, gold, given, name)
    facts = BENCHMARKS[name].tasks[task]
    with pytest.raises(BadRows, match=message) as caught:
        score_submission(*folders, name)
    language = facts.languages[0]
    assert f"{task} {language}: " in str(caught.value)
    assert f"test-{language}.{facts.suffix}" in str(caught.value)
    if official is None:
        with pytest.raises(BadRows):
            score_submission(*folders, name, strict=False)
        return
    frame = score_submission(*folders, name, strict=False)
    found = percent(frame, task, MAIN.get(facts.kind, "accuracy"), language)
    assert found == pytest.approx(official, abs=1e-9)


def row_of(frame, task, language):
    return frame.query("task == @task and language == @language").iloc[0]


def test_questions_without_a_prediction_score_zero_and_are_counted(tmp_path):
    frame = score_submission(*one_task(tmp_path, "xquad", SQUAD, '{"a": "x"}'))
    row = row_of(frame, "xquad", "en")
    assert (row["percent"], row["n"], row["missing"], row["extra"]) == (50.0, 2, 1, 0)
    folders = one_task(tmp_path / "r", "mewslix", MEWSLI, '{"a": ["Q0", "Q1"]}', "xtreme-r")
    row = row_of(score_submission(*folders, "xtreme-r"), "mewslix", "ar")
    assert (row["metric"], row["percent"], row["missing"]) == ("map@20", 25.0, 1)


def test_a_question_that_labels_hold_twice_counts_twice_and_line_ends_do_not_matter(tmp_path):
    gold = squad_labels(("a", ["x"]), ("a", ["x"]), ("b", ["y"]))
    frame = score_submission(*one_task(tmp_path, "xquad", gold, '{"a": "x", "b": "n"}'))
    assert percent(frame, "xquad", "exact_match", "en") == pytest.approx(200 / 3)
    frame = score_submission(*one_task(tmp_path / "ends", "pawsx", "0\n1\n", "0 \r\n1"))
    assert percent(frame, "pawsx", "accuracy", "en") == 100.0


def test_missing_languages_are_named_or_left_out(tmp_path):
    given, right = one_task(tmp_path, "pawsx", "0\n1\n", "0\n0\n")
    (given / "pawsx" / "test-ko.tsv").unlink()
    with pytest.raises(MissingData, match=r"pawsx: 1 files of 7 languages are missing: .*test-ko"):
        score_submission(given, right)
    frame = score_submission(given, right, strict=False)
    assert percent(frame, "pawsx") == pytest.approx((50 + 5 * 100) / 6)
    assert not frame.query("level == 'task' and language == 'all'")["official"].any()
    assert any("test-ko.tsv" in note for note in frame.attrs["notes"])
    for path in (given / "pawsx").iterdir():
        path.unlink()
    with pytest.raises(MissingData, match="7 files"):
        score_submission(given, right, strict=False)


def test_folders_that_are_no_tasks_are_noted_and_those_without_any_refused(tmp_path):
    given, right = one_task(tmp_path, "pawsx", "0\n1\n", "0\n1\n")
    for name in ("bucc", "mewslix", "xnli"):
        (given / name).mkdir()
    notes = score_submission(given, right).attrs["notes"]
    assert "unknown task folder of xtreme 'bucc'. Did you mean 'bucc2018'" in notes[0]
    assert notes[1].startswith("mewslix: passed over: unknown task folder of xtreme")
    assert notes[2] == "xnli: passed over: predictions without a folder of labels"
    with pytest.raises(MissingData, match="no folder"):
        score_submission(tmp_path / "nowhere", tmp_path)
    (tmp_path / "right" / "xnli").mkdir(parents=True)
    (tmp_path / "given" / "XNLI").mkdir(parents=True)
    with pytest.raises(MissingData, match=r"no task of xtreme is in both .*XNLI"):
        score_submission(tmp_path / "given", tmp_path / "right")
    for ask in (submissions.rules, lambda name: score_submission(tmp_path, tmp_path, name)):
        with pytest.raises(UnknownName, match="'xtreme-r'"):
            ask("xtremer")


NOT_WRITTEN = {
    "no rows": ({"pawsx": {"en": []}}, BadRows, "pawsx en: .*nothing to write"),
    "no answers": ({"xquad": {"ar": {}}}, BadRows, "xquad ar: .*nothing to write"),
    "a task": ({"bucc": {}}, UnknownName, "'bucc2018'"),
    "a language": ({"pawsx": {"it": ["1"]}}, UnknownName, "language of pawsx 'it'"),
    "nothing": ({}, BadRows, "nothing to write"),
}


@pytest.mark.parametrize("name", NOT_WRITTEN)
def test_what_the_layout_cannot_hold_is_not_written(tmp_path, name):
    values, error, message = NOT_WRITTEN[name]
    with pytest.raises(error, match=message):
        write_submission(values, tmp_path, partial=True)
    with pytest.raises(MissingData, match="pawsx: no predictions for en, es"):
        write_submission({"pawsx": {"de": ["1"]}}, tmp_path)
    assert not list(tmp_path.rglob("*.*"))


def test_empty_sentences_survive_writing_and_reading_and_no_mined_pair_is_a_result(tmp_path):
    languages = BENCHMARKS["xtreme"].tasks["udpos"].languages
    tags = {"udpos": dict.fromkeys(languages, [["X"], [], ["X", "VERB"], []])}
    frame = scored(tmp_path / "tags", tags, tags)
    assert percent(frame, "udpos", "f1", "af") == 100.0
    assert frame[frame["level"] == "language"]["n"].eq(4).all()
    folders = one_task(tmp_path, "bucc2018", "XX-1\ten-1\n", "")
    write_submission({"bucc2018": {"de": []}}, folders[0], partial=True)
    frame = score_submission(*folders)
    assert percent(frame, "bucc2018", "f1", "de") == 0.0
    assert frame.attrs["notes"] == ["bucc2018 de: the file holds no pair, which scores 0."]
