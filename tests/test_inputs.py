"""Inputs that real users met: each is read right or refused. A new input is one row more.

A row is ``name: (function of an empty folder, right value)``; where an input must be refused, the
right value is ``refused(...)`` with what the message says. A section has its makers above its rows.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from helpers import data, tasks
from helpers.errors import HelpfulError
from helpers.metrics.mining import mine_texts
from helpers.metrics.submissions import score_submission
from helpers.tasks import Source, Task


class Refusal(tuple[str, ...]):
    """What the message of an error must say."""


def refused(*says: str) -> Refusal:
    """Stand for the right answer to an input that has none."""
    return Refusal(says)


Case = tuple[Callable[[Path], Any], Any]


# Submissions: the files of one language, the others perfect.
def submission(task: str, gold: str, given: str, benchmark: str = "xtreme") -> Callable[..., float]:
    """Score one task whose first language is as given; the value of that language, 0 to 1."""
    from tests.submissions.test_submissions import one_task

    def score(folder: Path) -> float:
        frame = score_submission(*one_task(folder, task, gold, given, benchmark), benchmark)
        language = frame.loc[frame["level"] == "language", "language"].iloc[0]
        return float(frame.loc[frame["language"] == language, "value"].iloc[0])

    return score


SUBMISSIONS: dict[str, Case] = {
    "xnli as written": (submission("xnli", "neutral\n", "neutral\n"), 1.0),
    "xnli ids": (submission("xnli", "neutral\n", "1\n"), refused("label '1'", "entailment")),
}


# Mining
def mined(texts: str, ids: str) -> Callable[..., int]:
    """Mine the same texts on both sides; the number of pairs."""
    vectors = np.eye(len(texts)) + 0.5

    def count(folder: Path) -> int:
        return len(mine_texts(vectors, vectors, list(texts), list(texts), list(ids), list(ids)))

    return count


MINING: dict[str, Case] = {"four texts": (mined("abcd", "1234"), 4)}


# Rows: what a task of the user's own reads, from a file or a function.
def rows(format_: str, **facts: Any) -> Callable[[Any], Any]:
    """Return a reader of rows (a list: a function's; a text: a file's, named by its first line)."""
    defaults = {"pair": ("no", "yes"), "choice": ("0", "1"), "tagging": ("O", "B-X", "I-X")}
    facts = {"labels": defaults.get(format_, ()), "languages": ("en", "he", "zh")} | facts
    language, show = facts.pop("language", "en"), facts.pop("show", list)

    def made(given: Any) -> Callable[..., Any]:
        def read(folder: Path) -> Any:
            source = Source("rows", "mine", read=lambda *_: given)
            if isinstance(given, bytes):
                name, _, content = given.partition(b"\n")
                (folder / name.decode()).write_bytes(content)
                source = Source("tables", str(folder), config=name.decode())
            task: Any = Task("own", "intermediate", format_, source, **facts)  # type: ignore[arg-type]
            return show(data.rows(task, language))

        return read

    return made


def jsonl(given: list[dict[str, Any]]) -> bytes:
    return b"x.jsonl\n" + "\n".join(map(json.dumps, given)).encode()


def changed(count: int, place: int, change: dict[str, Any] | None) -> list[dict[str, Any]]:
    """Return many pair rows, one of them changed; a value of ``...`` leaves its column out."""
    many = [{"id": f"m{i}", "first": "a", "second": "b", "label": "yes"} for i in range(count)]
    many[0]["label"] = "no"
    row = many[place] | (change or {})
    many[place] = {name: value for name, value in row.items() if value is not ...}
    return many


def seconds(found: Any) -> tuple[int, int, str]:
    """Show the number of rows, of those without a second text, and the id of the last."""
    return len(found), sum(not row["second"] for row in found), found[-1]["id"]


def kept(found: Any) -> tuple[int, dict[str, int], dict[str, int]]:
    return len(found), found.dropped, found.notes


def parquet(names: list[str], cut: int | None = None) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table([["a", "b"]] * len(names), names), file)
    return b"x.parquet\n" + file.getvalue()[:cut]


def answered(context: str, *answers: tuple[str, int], metric: str = "squad") -> list[Any]:
    given = {"text": [text for text, _ in answers], "answer_start": [at for _, at in answers]}
    return [{"id": "1", "context": context, "question": "?", "answers": given}]


PAIR, TAGS, SPAN = rows("pair"), rows("tagging"), rows("span", show=lambda f: f[0]["answers"])
PAIR_ROW = {"first": "a", "second": "b", "label": "yes"}
SIZES = {"few": 200, "a block and one": 20_001}
TABLES: dict[str, Case] = {
    f"{size}: {name}": (rows("pair", show=seconds)(wrap(changed(count, 108, change))), right)
    for size, count in SIZES.items()
    for wrap in (list, jsonl)
    for name, change, right in (
        (f"all columns, {wrap.__name__}", None, (count, 0, f"m{count - 1}")),
        (f"one row without second, {wrap.__name__}", {"second": ...}, (count, 1, f"m{count - 1}")),
        (f"a column more, {wrap.__name__}", {"more": 5}, (count, 0, f"m{count - 1}")),
        (f"no label, {wrap.__name__}", {"label": ...}, refused("row 108", "no column 'label'")),
        (f"a number, {wrap.__name__}", {"first": 5}, refused("row 108", "'first' is 5")),
        (f"a null, {wrap.__name__}", {"first": None}, refused("row 108", "'first' is None")),
        (f"half an emoji, {wrap.__name__}", {"first": "a\ud83d"}, refused("row 108", "surrogate")),
        (
            f"half in an id, {wrap.__name__}",
            {"id": "\udc00"},
            refused("row 108", "'id' holds half"),
        ),
        (f"half in a label, {wrap.__name__}", {"label": "\ud83d"}, refused("row 108", "surrogate")),
    )
} | {
    "first row without second, above a block": (
        rows("pair", show=seconds)(changed(20_001, 0, {"second": ...})),
        (20_001, 1, "m20000"),
    ),
    "half an emoji in a token": (
        TAGS([{"tokens": ["a", "\udc00"], "tags": [0, 1]}]),
        refused("row 0", "'tokens' holds half"),
    ),
    "labels read off, half an emoji": (
        rows("pair", labels=())([{"first": "a", "label": "\ud83d"}] * 2),
        refused("row 0", "surrogate"),
    ),
    "header twice, csv": (PAIR(b"x.csv\nfirst,label,first\na,yes,b\n"), refused("'first' twice")),
    "header twice, tsv": (PAIR(b"x.tsv\nlabel\tlabel\na\tyes\n"), refused("'label' twice")),
    "key twice, jsonl": (
        PAIR(b'x.jsonl\n{"first": "a", "label": "yes", "first": "b"}'),
        refused("an object in row 0", "'first' twice"),
    ),
    "key twice inside, json": (
        SPAN(b'x.json\n[{"answers": {"text": ["a"], "text": []}}]'),
        refused("x.json", "'text' twice"),
    ),
    "column twice, parquet": (PAIR(parquet(["first", "first"])), refused("its schema", "twice")),
    "cut parquet": (PAIR(parquet(["first"], cut=60)), refused("damaged or cut", "copy it again")),
    "no rows": (PAIR(b"empty.csv\nfirst,label\n"), refused("empty.csv holds no rows", "a line of")),
    "nothing": (PAIR(b"empty.jsonl\n"), refused("holds no rows", "one row a line")),
    "latin-1": (PAIR("x.csv\nfirst,label\né,yes\n".encode("latin-1")), refused("iconv", "UTF-8")),
    "a quote left open": (
        PAIR(b'x.csv\nfirst,label\n"a,yes\nb,yes\n'),
        refused("the row begins in line 2", "must be closed"),
    ),
    "no header": (PAIR(b"x.csv\na,yes\nb,no\n"), refused("The first line of the file must name")),
    "capital ending": (rows("pair", show=len)(b"x.CSV\nfirst,label\na,yes\n"), 1),
    "conllu": (TAGS(b"x.conllu\n1\tAnna\n"), refused("kind of table", "read by a function")),
    "words a line": (TAGS(b"x.tsv\nAnna\tB-PER\nsaw\tO\n"), refused("CoNLL", "Source('rows'")),
    "language iw": (rows("pair", language="iw")([PAIR_ROW]), refused("'iw'. Did you mean 'he'?")),
    "language zh-CN": (rows("pair", language="zh-CN")([PAIR_ROW]), refused("Did you mean 'zh'?")),
    "blank texts only": (PAIR([PAIR_ROW | {"first": " "}] * 3), refused("blank in all 3 rows")),
    "some blank texts": (
        rows("pair", show=kept)([PAIR_ROW, PAIR_ROW | {"first": "   ", "second": ""}]),
        (2, {}, {"blank text kept in 'first'": 1, "blank text kept in 'second'": 1}),
    ),
    "single texts": (rows("pair", show=kept)([{"first": "a", "label": 1}] * 2), (2, {}, {})),
}


# Placeholder gold
def retrieved(**change: Any) -> Callable[..., int]:
    """Read two queries and two candidates, some facts of the rows changed by their id."""
    pool = {
        name: {"id": name, "side": "query", "text": "t", "gold": [f"c{name[1]}"]}
        for name in "q1 q2".split()
    }
    pool |= {name: {"id": name, "side": "candidate", "text": "t"} for name in "c1 c2".split()}
    given = [row | change.get(name, {}) for name, row in pool.items()]
    return rows("retrieval", show=len)([row for row in given if not row.get("gone")])


def tagged(tag: Any, count: int) -> Callable[..., int]:
    return rows("tagging", show=len)([{"tokens": ["a", "b"], "tags": [tag, tag]}] * count)


def bucc(*gold: list[int]) -> Callable[..., int]:
    row = {"sentence1": ["a", "b"] * 20, "sentence2": ["c", "d"] * 20, "gold": list(gold)}
    adapt = tasks.get("bucc2018").adapt
    return rows("retrieval", adapt=adapt, metric="pair_f1", show=len)([row])


UNANSWERED = rows("span", metric="squad2", show=len)
GOLD: dict[str, Case] = {
    "labels all the same": (rows("pair", show=len)([PAIR_ROW] * 40), refused("all 40 labels are")),
    "ten labels the same": (rows("pair", show=len)([PAIR_ROW] * 10), 10),
    "labels -1": (PAIR([PAIR_ROW | {"label": -1}] * 3), refused("label -1", "Hidden")),
    "tags O": (tagged("O", 40), refused("all 40 sentences hold no other tag than 'O'")),
    "few tags O": (tagged("O", 3), 3),
    "tags -1": (tagged(-1, 2), refused("every tag is -1 or -100")),
    "tags -100": (tagged(-100, 40), refused("every tag is -1 or -100")),
    "answers empty": (SPAN(answered("a b") * 3), refused("no answer", "Hidden")),
    "answers blank": (SPAN(answered("a b", ("", 0)) * 3), refused("answer is blank")),
    "squad2 without answers": (
        UNANSWERED(answered("a b") * 30),
        refused("questions have no answer"),
    ),
    "squad2 with one": (UNANSWERED([*(answered("a b") * 30), *answered("a b", ("a", 0))]), 31),
    "retrieval": (retrieved(), 4),
    "gold of other spelling": (
        retrieved(q1={"gold": ["C1"]}),
        refused("'C1' of query 'q1'", "'c1'"),
    ),
    "two candidates of one id": (
        retrieved(c2={"id": "c1"}),
        refused("two rows are candidate 'c1'"),
    ),
    "two queries of one id": (retrieved(q2={"id": "q1"}), refused("two rows are query 'q1'")),
    "query without gold": (retrieved(q2={"gold": []}), refused("query 'q2' has no gold")),
    "no candidates": (retrieved(c1={"gone": 1}, c2={"gone": 1}), refused("no row is a candidate")),
    "no queries": (retrieved(q1={"gone": 1}, q2={"gone": 1}), refused("no row is a query")),
    "bucc from 0": (bucc([0, 0], [1, 1]), refused("pair (0, 0)", "count from 1")),
    "bucc too far": (bucc([1, 41]), refused("pair (1, 41)", "up to 40 foreign")),
}


# Answers: starts that count something else than characters, and answers of which some are lost.
RIVER = "Река Волга впадает в Каспийское море. Длина реки 3530 км, река 3530 м глубиной."
CLOWNS = "🤡🤡🤡 one two one two"
ANSWERS: dict[str, Case] = {
    "characters": (SPAN(answered(RIVER, ("3530", 49))), {"text": ["3530"], "start": [49]}),
    "bytes": (SPAN(answered(RIVER, ("3530", 89))), {"text": ["3530"], "start": [49]}),
    "UTF-16 units": (SPAN(answered(CLOWNS, ("two", 19))), {"text": ["two"], "start": [16]}),
    "stripped": (SPAN(answered("one two one", ("one", 10))), {"text": ["one"], "start": [8]}),
    "one of two lost": (
        SPAN(answered("a b", ("x", 0), ("b", 2))),
        {"text": ["b", "x"], "start": [2, -1]},
    ),
    "all lost": (SPAN(answered("a b", ("x", 0))), refused("answer not in context")),
}


# Configurations whose names YAML reads as no text
def configured(name: str, language: str) -> Callable[..., Any]:
    def read(folder: Path) -> Any:
        path = folder / "me" / "set"
        path.mkdir(parents=True)
        (path / "x.csv").write_text("first,label\na,no\nb,yes\n")
        header = "".join(
            f"- config_name: {code}\n  data_files:\n  - split: train\n    path: x.csv\n"
            for code in ("en", name)
        )
        (path / "README.md").write_text(f"---\nconfigs:\n{header}---\n")
        source = Source("hub", "me/set", config="{language}")
        task = Task(
            "own", "target", "pair", source, labels=("no", "yes"), languages=("en", language)
        )
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TRANSFER_DATA_ROOT", str(folder))
            patch.setattr("datasets.config.HF_DATASETS_CACHE", folder / "cache")
            here = data.at_hand(task)
            return here, len(data.rows(task, language)), len(data.rows(task, "en"))

    return read


CONFIGURATIONS: dict[str, Case] = {
    f"configuration {name}": (
        configured(name, language),
        ([("en", "train"), (language, "train")], 2, 2),
    )
    for name, language in {
        "no": "no",
        "'no'": "no",
        "on": "on",
        "2018": "2018",
        "2018-01-01": "2018-01-01",
        "1.50": "1.50",
        "null": "null",
    }.items()
}

CASES: dict[str, Case] = {
    **SUBMISSIONS,
    **MINING,
    **TABLES,
    **GOLD,
    **ANSWERS,
    **CONFIGURATIONS,
}


@pytest.mark.parametrize("name", CASES)
def test_each_input_is_read_right_or_refused(name: str, tmp_path: Path) -> None:
    make, right = CASES[name]
    if not isinstance(right, Refusal):
        assert make(tmp_path) == right
        return
    with pytest.raises(HelpfulError) as caught:
        make(tmp_path)
    for part in right:
        assert part in str(caught.value)
