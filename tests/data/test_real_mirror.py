"""Every task on the real mirror, counted against its table of contents (skipped without it)."""

import pandas as pd
import pytest

from helpers import data, tasks
from helpers.errors import MissingData

KINDS = {n: {leaf.kind for leaf in tasks.get(n).source.flat()} for n in tasks.names()}


def contents(mirror):
    table = pd.read_csv(mirror / "CONTENTS.csv", keep_default_na=False)
    return table.set_index(["id", "config", "split"])["rows"]


def place(source, language, split):
    config = source.config_for(source.language or language)
    held = "(raw JSON)" if source.kind == "files" else source.splits[split]
    return source.id, config or "default", held


@pytest.mark.parametrize("name", [n for n, kinds in KINDS.items() if kinds & {"hub", "files"}])
def test_what_the_mirror_holds_loads_and_counts_as_its_contents_say(name, real_mirror):
    table, task, checked = contents(real_mirror), tasks.get(name), 0
    # The longer lists of XTREME-R read the same files as XTREME's, Tatoeba apart.
    base = name.removesuffix("-xr")
    before = tasks.get(base).languages if base not in (name, "tatoeba") else ()
    for language, split in data.at_hand(task):
        # TyDi QA is one mixed configuration, of which the mirror holds three languages.
        if language in before or (name == "tydiqa" and language not in ("en", "ko", "sw")):
            continue
        rows = data.rows(task, language, split)
        serving = task.source.serving(language, split)
        raw = sum(table[place(leaf, language, split)] for leaf in serving if not leaf.optional)
        if task.format != "retrieval" and name != "tydiqa":
            assert len(rows) + sum(rows.dropped.values()) == raw, (language, split)
        checked += 1
    if not checked:
        pytest.skip(f"the mirror holds nothing of {name}")


def test_mixed_tydiqa_adds_up_and_names_a_language_that_is_missing(real_mirror):
    sizes = [len(data.rows("tydiqa", code, "test")) for code in ("en", "ko", "sw")]
    assert sum(sizes) == contents(real_mirror)["google/xtreme", "tydiqa", "validation"]
    assert sizes == [440, 276, 499]
    with pytest.raises(MissingData, match="holds 1215 rows, none of them in 'ar'"):
        data.rows("tydiqa", "ar", "test")
    # What is left out is what is known.
    overlap = {"also in the evaluation rows of udpos": 298}
    assert data.rows("xpos-ewt", "en", "train").dropped == overlap
    # The guard against Ancient Greek drops no modern sentence.
    assert not data.rows("udpos", "el", "test").dropped


def test_retrieval_sets_have_their_published_sizes(real_mirror):
    table = contents(real_mirror)
    for language in ("de", "sw", "th"):
        config = tasks.get("tatoeba").source.config_for(language)
        rows = data.rows("tatoeba", language, "test")
        size = table["google/xtreme", config, "validation"]
        assert len(rows.side("query")) == len(rows.side("candidate")) == size
    corpora = [data.rows("bucc2018", "zh", split) for split in ("dev", "test")]
    assert sum(map(len, corpora)) == 2000
    gold = sum(len(row["gold"]) for rows in corpora for row in rows)
    assert gold == table["google/xtreme", "bucc18.zh", "validation"]
    queries = data.rows("lareqa", "de", "test").side("query")
    assert len(queries) == 491
    assert {len(row["gold"]) for row in queries} == {10}, "one right sentence a language"


@pytest.mark.parametrize(
    ("task", "split", "found"),
    [
        ("xquad", "test", "ar:4 de:0 en:5 es:5 hi:10 ru:5 th:0 tr:0 vi:0 zh:43"),
        ("xcopa", "test", "th:250 tr:51 sw:37 id:4 it:4 et:0 vi:0"),
        ("pawsx", "dev", "de:41 ko:21 en:0"),
    ],
)
def test_published_defects_are_met_and_mended(task, split, found, real_mirror):
    for code, count in (one.split(":") for one in found.split()):
        notes = data.rows(task, code, split).notes
        if task == "xquad":
            notes = {"shifted": notes.get("answer offset shifted: found again nearby", 0)}
        assert sum(notes.values()) == int(count), code
