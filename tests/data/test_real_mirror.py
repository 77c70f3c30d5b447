"""Every task on the real mirror, counted against its table of contents (skipped without it)."""

from __future__ import annotations

import csv
from collections import defaultdict
from pathlib import Path

import pytest

from helpers import data, tasks
from helpers.errors import MissingData
from helpers.tasks import Source

HUB_TASKS = [
    name
    for name in tasks.names()
    if any(leaf.kind in ("hub", "files") for leaf in tasks.get(name).source.flat())
]


def contents(mirror: Path) -> dict[tuple[str, str, str], int]:
    with (mirror / "CONTENTS.csv").open(newline="") as file:
        return {(r["id"], r["config"], r["split"]): int(r["rows"]) for r in csv.DictReader(file)}


def expected(source: Source, language: str, split: str, table: dict) -> int | None:  # type: ignore[type-arg]
    language = source.language or language
    config = source.config_for(language)
    if source.kind == "files":
        return table.get((source.id, config, "(raw JSON)"))
    return table.get((source.id, config or "default", source.splits[split]))


@pytest.mark.parametrize("name", HUB_TASKS)
def test_what_the_mirror_holds_loads_and_counts_as_its_contents_say(
    name: str, real_mirror: Path
) -> None:
    table, task = contents(real_mirror), tasks.get(name)
    checked = 0
    for language, split in data.at_hand(task):
        if _checked_before(name, language):
            continue
        if name == "tydiqa" and language not in ("en", "ko", "sw"):
            continue  # one mixed configuration, of which the mirror holds three languages
        rows = data.rows(task, language, split)
        parts = [
            expected(leaf, language, split, table)
            for leaf in task.source.serving(language, split)
            if not leaf.optional
        ]
        assert None not in parts, (language, split)
        raw = sum(part or 0 for part in parts)
        if task.format != "retrieval" and name != "tydiqa":
            lost = sum(rows.dropped.values())
            assert rows.total + lost == raw, (language, split)
        checked += 1
    if not checked:
        pytest.skip(f"the mirror holds nothing of {name}")


def _checked_before(name: str, language: str) -> bool:
    """The longer lists of XTREME-R read the same files as XTREME's, Tatoeba apart."""
    base = name.removesuffix("-xr")
    return base not in (name, "tatoeba") and language in tasks.get(base).languages


def test_a_language_that_a_mixed_set_lacks_is_missing_not_bad(real_mirror: Path) -> None:
    with pytest.raises(MissingData, match="holds 1215 rows, none of them in 'ar'"):
        data.rows("tydiqa", "ar", "test")


def test_mixed_tydiqa_adds_up(real_mirror: Path) -> None:
    table = contents(real_mirror)
    sizes = [len(data.rows("tydiqa", code, "test")) for code in ("en", "ko", "sw")]
    assert sum(sizes) == table[("google/xtreme", "tydiqa", "validation")]
    assert sizes == [440, 276, 499]


def test_retrieval_sets_have_their_published_sizes(real_mirror: Path) -> None:
    table = contents(real_mirror)
    for language in ("de", "sw", "th"):
        config = tasks.get("tatoeba").source.config_for(language)
        rows = data.rows("tatoeba", language, "test")
        size = table[("google/xtreme", config, "validation")]
        assert len(rows.side("query")) == len(rows.side("candidate")) == size
    corpora = [data.rows("bucc2018", "zh", split) for split in ("dev", "test")]
    assert sum(map(len, corpora)) == 2000
    gold = sum(len(row["gold"]) for rows in corpora for row in rows)
    assert gold == table[("google/xtreme", "bucc18.zh", "validation")]
    queries = data.rows("lareqa", "de", "test").side("query")
    assert len(queries) == 491
    assert {len(row["gold"]) for row in queries} == {10}, "one right sentence a language"


def test_published_defects_are_met_and_mended(real_mirror: Path) -> None:
    shifted = "answer offset shifted: found again nearby"
    found = defaultdict(int)
    for code in ("ar", "de", "en", "es", "hi", "ru", "th", "tr", "vi", "zh"):
        found[code] = data.rows("xquad", code, "test").notes.get(shifted, 0)
    assert found == {
        "ar": 4, "de": 0, "en": 5, "es": 5, "hi": 10, "ru": 5, "th": 0, "tr": 0, "vi": 0, "zh": 43,
    }  # fmt: skip
    questions = {
        code: sum(data.rows("xcopa", code, "test").notes.values())
        for code in ("th", "tr", "sw", "id", "it", "et", "vi")
    }
    assert questions == {"th": 250, "tr": 51, "sw": 37, "id": 4, "it": 4, "et": 0, "vi": 0}
    placeholders = {
        code: sum(data.rows("pawsx", code, "dev").notes.values()) for code in ("de", "ko", "en")
    }
    assert placeholders == {"de": 41, "ko": 21, "en": 0}
    overlap = data.rows("xpos-ewt", "en", "train").dropped
    assert overlap == {"also in the evaluation rows of udpos": 298}


def test_ancient_greek_guard_drops_no_modern_sentence(real_mirror: Path) -> None:
    assert not data.rows("udpos", "el", "test").dropped


def test_answers_stand_where_they_are_said_to(real_mirror: Path) -> None:
    for name, language, split in (
        ("squad1", "en", "train"),
        ("squad2", "en", "dev"),
        ("xquad", "zh", "test"),
        ("mlqa", "vi", "dev"),
        ("tydiqa", "ko", "test"),
    ):
        for row in data.rows(name, language, split):
            answers = row["answers"]
            for text, start in zip(answers["text"], answers["start"], strict=True):
                assert row["context"][start : start + len(text)] == text
