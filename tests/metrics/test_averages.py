import pytest

from helpers.errors import BadRows, UnknownName
from helpers.metrics import overall, task_mean
from helpers.metrics.xtreme import BENCHMARKS, benchmark


def test_english_counts_in_the_mean_and_is_left_out_beside_it():
    assert task_mean({"en": 0.9, "de": 0.5, "fr": 0.1}) == {
        "all": pytest.approx(0.5),
        "without_english": pytest.approx(0.3),
    }
    assert task_mean({"en": 0.9}) == {"all": 0.9}
    assert task_mean({"de": 0.4}) == {"all": 0.4, "without_english": 0.4}
    with pytest.raises(BadRows):
        task_mean({})


def test_xtreme_is_the_mean_over_nine_tasks():
    scores = {name: (place + 1) / 10 for place, name in enumerate(BENCHMARKS["xtreme"].tasks)}
    result = overall(scores, "xtreme")
    assert result.value == result.tasks_mean == pytest.approx(0.5)
    assert result.statement == ""
    assert result.groups["classification"] == pytest.approx((scores["pawsx"] + scores["xnli"]) / 2)
    assert set(result.groups) == {"classification", "tagging", "qa", "retrieval"}


def test_a_missing_task_gives_its_complete_groups_and_a_statement():
    result = overall({"xnli": 0.5, "pawsx": 0.7}, "xtreme")
    assert result.value is None
    assert result.groups == {"classification": pytest.approx(0.6)}
    assert "udpos" in result.statement


def test_xtreme_r_has_no_official_mean_but_ours():
    result = overall(dict.fromkeys(BENCHMARKS["xtreme-r"].tasks, 0.5), "xtreme-r")
    assert result.value is None
    assert "LAReQA" in result.statement
    assert result.tasks_mean == 0.5
    assert result.groups["multi_choice"] == 0.5


def test_unknown_names_are_refused():
    with pytest.raises(UnknownName, match="'bucc2018'"):
        overall({"bucc": 0.5}, "xtreme")
    with pytest.raises(UnknownName):
        overall({"pawsx": 0.5}, "xtreme-r")
    with pytest.raises(UnknownName, match="'xtreme-r'"):
        benchmark("xtremer")


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        (
            "xtreme",
            "pawsx 7 xnli 15 panx 40 udpos 33 bucc2018 4 tatoeba 36 xquad 11 mlqa 7 tydiqa 9",
        ),
        (
            "xtreme-r",
            "xnli 15 panx 48 udpos 38 tatoeba 41 xcopa 11 lareqa 11 mewslix 11 xquad 12 mlqa 7 "
            "tydiqa 9",
        ),
    ],
)
def test_languages_are_as_many_as_the_papers_say_and_none_twice(name, counts):
    words = counts.split()
    tasks = benchmark(name).tasks
    assert {task: str(len(tasks[task].languages)) for task in tasks} == dict(
        zip(words[::2], words[1::2], strict=True)
    )
    assert all(len(set(task.languages)) == len(task.languages) for task in tasks.values())
