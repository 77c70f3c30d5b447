"""Rows through the real client, from a hub on loopback: served, cached, refused, and its table."""

import re
from dataclasses import replace

import pytest

from helpers import data, tasks
from helpers.data import sources
from helpers.errors import BadRows, MissingData


@pytest.fixture(autouse=True)
def asked_anew():
    sources.hub_reachable.cache_clear()
    sources._SERVED.clear()


def uncounted(name, **facts):
    """Return a task whose published sizes are not checked: the loopback hub holds a few rows."""
    task = tasks.get(name)
    parts = tuple(replace(part, counts={}) for part in task.source.parts)
    return replace(task, source=replace(task.source, counts={}, parts=parts, **facts))


@pytest.mark.parametrize("where", ["xnli de test", "squad2 en train", "tatoeba-xr de test"])
def test_rows_of_the_hub_are_those_of_a_mirror_of_it(hub, monkeypatch, where):
    name, *place = where.split()
    task = uncounted(name)
    found, first = data.rows(task, *place), data.first_rows(task, *place)
    assert found.source == f"hub {task.source.id}@{task.source.revision}"
    monkeypatch.setenv(sources.ROOT_VARIABLE, str(hub.datasets))
    assert list(data.rows(task, *place)) == list(found) and list(first) == list(found)[:3]


REFUSALS = {
    (403, "GatedRepo"): r"the hub refuses facebook/xnli \(403\): accept its terms at http.*hf auth",
    (401, "RepoNotFound"): r"no facebook/xnli for you \(401\): its name is wrong, or it is private",
    (404, "RevisionNotFound"): r"has no revision b8dd5d7af51114dbda02c0e3f6133f332186418e",
    (429, ""): r"asks to wait before it serves facebook/xnli \(429",
    (503, ""): r"the hub is out of order \(503\)",
    (0, ""): r"cannot reach facebook/xnli on the hub \(http://127.0.0.1:\d+ is silent\)",
}


@pytest.mark.parametrize("answer", REFUSALS)
def test_what_is_cached_is_read_and_what_is_not_says_why(hub, answer):
    task = uncounted("xnli")
    served = list(data.rows(task, "de", "test"))
    asked_before = len(hub.requests)
    sources.hub_reachable.cache_clear()
    sources._SERVED.clear()
    if answer[0]:
        hub.answers[""] = answer
    else:
        hub.stop()
    assert list(data.rows(task, "de", "test")) == served
    # Thai is in the set, but was never fetched: nothing may say that the set lacks it.
    with pytest.raises(MissingData, match=REFUSALS[answer]) as caught:
        data.rows(task, "th", "test")
    assert "no configuration" not in str(caught.value) and "Three ways" in str(caught.value)
    assert len(hub.requests) - asked_before <= 4, "no retries where the answer is known"
    other = uncounted("xnli", revision="0" * 40)
    with pytest.raises(MissingData, match="another revision only|has no revision 0000"):
        data.rows(other, "de", "test")


def test_an_unreachable_hub_lists_three_ways_at_once_and_what_it_lacks_is_named(hub):
    with pytest.raises(MissingData, match="has no configuration 'tr', split 'test'"):
        data.rows("xnli", "tr", "test")
    assert data.at_hand("xnli") == []
    with pytest.raises(BadRows, match=r"'en', split 'dev' has \d+ rows; published are 40430"):
        data.rows("qqp", "en", "dev")
    hub.stop()
    sources.hub_reachable.cache_clear()
    for asked, said in (
        (["anli_plus"], r"cannot reach stanfordnlp/snli.*Three ways"),
        (["lareqa", "de", "test"], r"not cached.*Three ways"),
        (["xpos-ewt"], r"No hub holds extra/ud-english-ewt.*'ccg-pmb'"),
    ):
        with pytest.raises(MissingData, match=said) as caught:
            data.rows(*asked)
    assert "hf download" not in str(caught.value)


def test_what_loads_from_the_hub_is_listed_and_skipped_by_name_without(hub, capsys):
    assert sources.main(["siqa"]) == 0
    assert "2 of 2 loaded" in capsys.readouterr().out
    assert sources.main(["xcopa", "tydiqa"]) == 1
    said = capsys.readouterr().out
    for place, outcome in (("xcopa\tth\ttest", "ok"), ("xcopa\tht\tdev", "failed: ")):
        assert f"{place}\t{outcome}" in said
    assert re.search(r"tydiqa\tsw\ttest\tfailed: .*answer is blank", said)
    hub.stop()
    sources.hub_reachable.cache_clear()
    assert sources.main(["xnli"]) == 0
    assert capsys.readouterr().out.startswith("skipped: the hub is not reachable")
