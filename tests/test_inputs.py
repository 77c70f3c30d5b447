"""Inputs that real users met: each is read right or refused. A new input is one row more.

A row is ``name: (function of an empty folder, right value)``; where an input must be refused, the
right value is ``refused(...)`` with what the message says. A section has its makers above its rows.
"""

import io
import json
import re

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset

from helpers import data, pages, tasks
from helpers.errors import HelpfulError
from helpers.metrics.mining import mine_texts
from helpers.metrics.submissions import rules, score_submission, write_labels, write_submission
from helpers.tasks import Source, Task
from tests.book.conftest import make_project
from tests.metrics.test_submissions import MEWSLI, SQUAD, XCOPA, one_task, squad_labels


class refused(tuple):
    """Stand for the right answer to an input that has none: what the error must say."""

    def __new__(cls, *says):
        return super().__new__(cls, says)


# Submissions: the first language as given, the others perfect; the value of that language.
def submission(name, gold, given):
    """Score the task that a name begins with; "XX" stands for the language."""
    task = name.split()[0]
    benchmark = "xtreme-r" if task in ("xcopa", "mewslix", "lareqa") else "xtreme"

    def score(folder):
        frame = score_submission(*one_task(folder, task, gold, given, benchmark), benchmark)
        language = frame.loc[frame["level"] == "language", "language"].iloc[0]
        return float(frame.loc[frame["language"] == language, "value"].iloc[0])

    return score


def respelled(name, write):
    """Score a task's labels themselves, each of them written in another way."""
    gold, write = LABELS[name.split()[0]], write.format if isinstance(write, str) else write
    lines = [write(one) if one else one for one in gold.split("\n")[:-1]]
    return submission(name, gold, "".join(f"{line}\n" for line in lines))


def turned(sign):
    return lambda one: sign.join(one.split(sign)[::-1])


def following(one):
    return str(int(one) + 1)


LABELS = {
    "panx": "B-PER\nI-PER\nO\n\nO\nB-LOC\n\n",
    "udpos": "NOUN\nVERB\n\nPRON\nX\n_\n\n",
    "xnli": "neutral\nentailment\nneutral\ncontradiction\n",
    "pawsx": "1\n0\n0\n1\n",
    "tatoeba": "2\n0\n1\n3\n",
    "bucc2018": "XX-1\ten-1\nXX-2\ten-2\n",
}
PANX, TOKEN = LABELS["panx"], "Anna\tB-PER\n\n"
TWENTY, OFF = ("".join(f"{i}\n" for i in numbers) for numbers in (range(20), [*range(1, 11)] * 2))
TWICE = XCOPA.replace("1", '1, "label": 0')
LAREQA = '{"a": ["c1", "c2"], "b": ["c3"]}'
HIDDEN = squad_labels(("a", [""]), ("b", ["", " "]))
ALL_ONE = squad_labels(*((str(i), ["x"]) for i in range(20)))

# How each label is written.
RESPELLED = {
    **{f"{task} as it should be": ("{}", 1.0) for task in LABELS},
    "panx with the token": ("Anna\t{}", refused("line 1: 'Anna\\tB-PER'", "B-LOC")),
    "panx token, space, tag": ("Anna {}", refused("line 1: 'Anna B-PER'")),
    "panx tag and confidence": ("{}\t0.9", refused("line 1: 'B-PER\\t0.9'")),
    "panx ids": (lambda tag: str("OBI".index(tag[0])), refused("line 1: '1'")),
    "panx LABEL_1": (lambda tag: f"LABEL_{len(tag)}", refused("line 1: 'LABEL_5'")),
    "panx in lower case": (str.lower, refused("line 1: 'b-per'")),
    "panx with an underscore": (lambda tag: tag.replace("-", "_"), refused("line 1: 'B_PER'")),
    "panx letter last": (turned("-"), refused("line 1: 'PER-B'")),
    "panx with the language": ("en:{}", refused("line 1: 'en:B-PER'")),
    "panx of another set": (lambda tag: tag.replace("LOC", "MISC"), refused("line 6: 'B-MISC'")),
    "panx parts of speech": (lambda tag: "NOUN", refused("line 1: 'NOUN'")),
    "udpos with the token": ("ein\t{}", refused("line 1")),
    "udpos ids": (lambda tag: str(len(tag)), refused("line 1: '4'")),
    "udpos tags of a treebank": (lambda tag: "NN", refused("line 1: 'NN'")),
    "xnli ids": (lambda label: str(len(label)), refused("line 1: '7'", "entailment")),
    "xnli capitals": (str.title, refused("line 1: 'Neutral'")),
    "pawsx as 1.0": ("{}.0", refused("line 1: '1.0'", "expected 0, 1")),
    "pawsx as LABEL_1": ("LABEL_{}", refused("line 1: 'LABEL_1'")),
    "pawsx in quotes": ('"{}"', refused("line 1")),
    "pawsx after an id": ("7,{}", refused("line 1: '7,1'")),
    "pawsx as truth": (lambda one: str(one == "1"), refused("line 1: 'True'")),
    "pawsx counted from 1": (following, refused("line 1: '2'")),
    "tatoeba as 2.0": ("{}.0", refused("line 1: '2.0'")),
    "tatoeba counted from 1": (following, refused("line 4: '4'", "from 0 to 3")),
    "tatoeba negative": ("-{}", refused("line 1: '-2'")),
    "tatoeba sentences": ("We sang {}.", refused("line 1: 'We sang 2.'")),
    "bucc2018 English first": (turned("\t"), refused("line 1: ('en-1', 'de-1')")),
    "bucc2018 numbers": (lambda pair: re.sub("[a-zX]+-", "", pair), refused("line 1: ('1', '1')")),
    "bucc2018 with the score": ("{}\t1.2", refused("line 1: ('de-1', 'en-1', '1.2')")),
    "bucc2018 comma": (lambda pair: pair.replace("\t", ","), refused("line 1: ('de-1,en-1',)")),
    "bucc2018 other language": (lambda pair: pair.replace("XX", "fr"), refused("line 1: ('fr-1'")),
}
# The labels, and what is given.
GIVEN = {
    "panx token beside labels": (TOKEN, "B-PER\n\n", refused("labels", "line 1: 'Anna\\tB-PER'")),
    "panx tokens on both sides": (TOKEN, TOKEN, refused("line 1")),
    "panx ids on both sides": ("1\n2\n\n", "1\n2\n\n", refused("line 1: '1'")),
    "panx one wrong line": (PANX, PANX[:-7] + "b-loc\n\n", refused("line 6: 'b-loc'")),
    "panx all O": ("O\nO\n\nO\n\n", "O\nO\n\nO\n\n", refused("every gold of 3 rows is 'O'")),
    "udpos hidden": ("_\n" * 4, "X\n" * 4, refused("is '_'")),
    "xnli all one": ("neutral\n" * 20, "neutral\n" * 20, refused("gold of 20 rows is 'neutral'")),
    "xnli few and one": ("neutral\n" * 9, "neutral\n" * 9, 1.0),
    "pawsx hidden": ("-1\n-1\n", "1\n0\n", refused("labels", "line 1: '-1'")),
    "tatoeba from 1, half right": (TWENTY, OFF, refused("count from 0 (10 of 20")),
    "tatoeba some of the rows": ("41\n7\n", "41\n8\n", 0.5),
    "tatoeba all 0": ("0\n" * 20, "0\n" * 20, refused("every gold of 20 rows is '0'")),
    "bucc2018 without a pair": (LABELS["bucc2018"], "", 0.0),
    "xcopa": (XCOPA, XCOPA, 1.0),
    "xcopa as 0.0": (XCOPA, XCOPA.replace("0", "0.0"), refused("line 1: 0.0")),
    "xcopa as truth": (XCOPA, XCOPA.replace("1", "true"), refused("line 2: True")),
    "xcopa from 1": (XCOPA, XCOPA.replace("1", "2"), refused("line 2: 2", "from 0 to 1")),
    "xcopa label twice": (XCOPA, TWICE, refused("line 2", "'label' comes twice")),
    "mewslix": (MEWSLI, MEWSLI, 1.0),
    "mewslix numbers": (MEWSLI, MEWSLI.replace("Q", ""), refused("id 'a': ['1']")),
    "mewslix addresses": (MEWSLI, MEWSLI.replace("Q", "wiki/Q"), refused("['wiki/Q1']")),
    "mewslix hidden": ('{"a": [], "b": []}', MEWSLI, refused("id 'a': []")),
    "lareqa": (LAREQA, LAREQA, 1.0),
    "lareqa capitals": (LAREQA, LAREQA.replace("c", "C"), refused("'C1'", "'c1'")),
    "xquad": (SQUAD, '{"a": "x", "b": "y"}', 1.0),
    "xquad hidden": (HIDDEN, '{"a": "x", "b": "y"}', refused("id 'a': ['']", "not blank")),
    "xquad hidden, nothing said": (HIDDEN, '{"a": "", "b": ""}', refused("not blank")),
    "xquad all one": (ALL_ONE, '{"1": "x"}', refused("every gold of 20 rows is 'x'")),
    "xquad number ids": (SQUAD.replace('"a"', "1"), '{"1": "x"}', refused("id 1 is not text")),
    "xquad BOM": ("\ufeff" + SQUAD, '{"a": "x"}', refused("labels", "byte order mark")),
}
SUBMISSIONS = {
    **{name: (respelled(name, write), right) for name, (write, right) in RESPELLED.items()},
    **{name: (submission(name, *texts), right) for name, (*texts, right) in GIVEN.items()},
}


def written(name, values):
    """Write one language of the task that a name begins with; the text of the file."""
    task = name.split()[0]
    benchmark = "xtreme-r" if task in ("xcopa", "mewslix") else "xtreme"

    def write(folder):
        official = rules(benchmark).tasks[task]
        language = official.languages[0]
        write_submission({task: {language: values}}, folder, benchmark, partial=True)
        return (folder / task / f"test-{language}.{official.suffix}").read_text(encoding="utf-8")

    return write


def read_back(ids):
    """Write answers and labels under the same ids and score one by the other."""

    def score(folder):
        write_labels({"tydiqa": {"en": {one: ["x"] for one in ids}}}, folder / "labels")
        write_submission({"tydiqa": {"en": dict.fromkeys(ids, "x")}}, folder / "said", partial=True)
        return float(score_submission(folder / "said", folder / "labels", strict=False)["value"][0])

    return score


# What a user hands over.
VALUES = {
    "pawsx numbers": ([1, np.int64(0), "1"], "1\n0\n1\n"),
    "pawsx floats": ([1.0, 0.0], refused("pawsx en: line 1: '1.0'; expected 0, 1")),
    "pawsx truths": ([True, np.bool_(False)], refused("line 1: 'True'")),
    "pawsx one text": ("0101", refused("got str; expected a list")),
    "pawsx by row": ({0: "1"}, refused("got dict; expected a list")),
    "xnli names": (np.array(["neutral"]), "neutral\n"),
    "xnli numbers": ([0, 1], refused("line 1: '0'; expected entailment")),
    "tatoeba rows": (np.array([1, 0]), "1\n0\n"),
    "tatoeba rows from 1": ([2, 1], refused("line 1: '2'", "from 0 to 1")),
    "panx tags": ([["B-PER", "O"], ["O"]], "B-PER\nO\n\nO\n\n"),
    "panx numbers": ([[1, 0]], refused("panx en: line 1: 1; expected")),
    "panx with tokens": ([["Anna\tB-PER", "O"]], refused("line 1: 'Anna\\tB-PER'")),
    "panx letter last": ([["PER-B", "PER-I"]], refused("line 1: 'PER-B'")),
    "udpos tags of a treebank": ([["NN"]], refused("line 1: 'NN'; expected a tag")),
    "udpos in lower case": ([["noun"]], refused("line 1: 'noun'")),
    "udpos no tag": ([["NOUN", ""]], refused("line 2: ''; expected ADJ")),
    "udpos nothing at all": (None, refused("got NoneType; expected a list")),
    "panx text for tags": (["O", "O"], refused("row 1 is 'O'; expected tags")),
    "bucc2018 pairs": ([("de-1", "en-2")], "de-1\ten-2\n"),
    "bucc2018 swapped": ([("en-2", "de-1")], refused("line 1: ('en-2', 'de-1')")),
    "bucc2018 numbers": ([(1, 2)], refused("line 1: (1, 2)")),
    "bucc2018 a space": ([("de 1\n", "en-1")], refused("line 1: ('de 1\\n', 'en-1')")),
    "bucc2018 lines": (["de-1\ten-2"], refused("expected two ids in a list")),
    "bucc2018 nothing": ([], ""),
    "xcopa ranks": (np.array([1, 0]), '{"label": 1}\n{"label": 0}\n'),
    "xcopa floats": ([0.7], refused("line 1: 0.7")),
    "xcopa truths": ([True], refused("line 1: True")),
    "xcopa from 1": ([2, 1], refused("line 1: 2")),
    "xquad half a pair": ({"a": "x\ud83d"}, refused("xquad en: ", "surrogates not allowed")),
    "xquad no text": ({"a": None}, refused("id 'a': None")),
    "xquad no mapping": (["x"], refused("got list; expected a mapping")),
    "mewslix numbers": ({"a": [1]}, refused("id 'a': [1]")),
}
WRITTEN = {
    **{name: (written(name, values), right) for name, (values, right) in VALUES.items()},
    "ids that are numbers": (read_back([1, np.int64(2)]), 1.0),
    "ids that meet": (read_back([1, "1"]), refused("id '1'; expected ids that are text")),
    "ids of another kind": (read_back([1.0]), refused("id 1.0")),
}


# Mining
def mined(source, target, ids):
    """Mine one letter per text, equal letters being translations; the pairs."""
    vectors = np.eye(26) + 0.5

    def pairs(folder):
        x, y = (vectors[[ord(letter) - 97 for letter in texts]] for texts in (source, target))
        found = mine_texts(x, y, list(source), list(target), ids, range(len(target)))
        return sorted(zip(found["source"], found["target"], strict=True))

    return pairs


MINING = {
    "each text once": (mined("abc", "cab", [7, 8, 9]), [(7, 1), (8, 2), (9, 0)]),
    "one id for two texts": (mined("abc", "abc", [7, 8, 7]), refused("source id 7", "'a'", "'c'")),
    "one id for one text twice": (mined("aba", "abc", [7, 8, 7]), refused("source id 7")),
    "no texts": (mined("", "abc", []), refused("no source texts")),
    "no candidates": (mined("abc", "", [7, 8, 9]), refused("no target texts")),
}


# Rows: what a task of the user's own reads, from a file or a function.
def rows(format_, **facts):
    """Return a reader of rows (a list: a function's; a text: a file's, named by its first line)."""
    defaults = {"pair": ("no", "yes"), "choice": ("0", "1"), "tagging": ("O", "B-X", "I-X")}
    facts = {"labels": defaults.get(format_, ()), "languages": ("en", "he", "zh")} | facts
    language, show = facts.pop("language", "en"), facts.pop("show", list)

    def made(given):
        def read(folder):
            source = Source("rows", "mine", read=lambda *_: given)
            if isinstance(given, bytes):
                name, _, content = given.partition(b"\n")
                (folder / name.decode()).write_bytes(content)
                source = Source("tables", str(folder), config=name.decode())
            task = Task("own", "intermediate", format_, source, **facts)
            return show(data.rows(task, language))

        return read

    return made


def jsonl(given):
    return b"x.jsonl\n" + "\n".join(map(json.dumps, given)).encode()


def changed(count, place, change):
    """Return many pair rows, one of them changed; a value of ``...`` leaves its column out."""
    many = [{"id": f"m{i}", "first": "a", "second": "b", "label": "yes"} for i in range(count)]
    many[0]["label"] = "no"
    row = many[place] | (change or {})
    many[place] = {name: value for name, value in row.items() if value is not ...}
    return many


def seconds(found):
    """Show the number of rows, of those without a second text, and the id of the last."""
    return len(found), sum(not row["second"] for row in found), found[-1]["id"]


def kept(found):
    return len(found), found.dropped, found.notes


def parquet(names, cut=None):
    file = io.BytesIO()
    pq.write_table(pa.table([["a", "b"]] * len(names), names), file)
    return b"x.parquet\n" + file.getvalue()[:cut]


def answers_of(given, context="a b"):
    return [{"id": "1", "context": context, "question": "?", "answers": given}]


def answered(context, *answers):
    given = {"text": [text for text, _ in answers], "answer_start": [at for _, at in answers]}
    return answers_of(given, context)


PAIR, TAGS, SPAN = rows("pair"), rows("tagging"), rows("span", show=lambda f: f[0]["answers"])
SECONDS, COUNTED, KEPT = (rows("pair", show=show) for show in (seconds, len, kept))
PAIR_ROW = {"first": "a", "second": "b", "label": "yes"}
TAGGED = {"tokens": ["a", "b"], "tags": [0, 1]}
OPTIONS = {"context": "x", "a": "y", "b": "z", "label": "1"}
UNSTATED, MISNAMED = rows("pair", labels=()), rows("pair", columns={"first": "premise"})
FAILING = rows("pair", adapt=lambda row, language: {"first": row["premise"]})
TEXT = rows("pair", adapt=lambda row, language: "text")
CHOICE = rows("choice", columns={"choices": "a, b"})
DATASET = Dataset.from_list([PAIR_ROW | {"label": 1}] * 3)


def pair(**change):
    return PAIR([PAIR_ROW | change])


def words(**change):
    return TAGS([TAGGED | change])


def spans(answers):
    return SPAN(answers_of(answers))


SIZES = {"few": 200, "a block and one": 20_001}
TABLES = {
    f"{size}: {name}": (SECONDS(wrap(changed(count, 108, change))), right)
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
        (f"half an id, {wrap.__name__}", {"id": "\udc00"}, refused("row 108", "'id' holds half")),
        (f"half in a label, {wrap.__name__}", {"label": "\ud83d"}, refused("row 108", "surrogate")),
    )
} | {
    "no second first": (SECONDS(changed(20_001, 0, {"second": ...})), (20_001, 1, "m20000")),
    "half a token": (words(tokens=["\udc00", ""]), refused("row 0", "'tokens' holds half")),
    "labels read off": (UNSTATED([PAIR_ROW | {"label": "\ud83d"}]), refused("row 0", "surrogate")),
    "header twice, csv": (PAIR(b"x.csv\nfirst,label,first\na,yes,b\n"), refused("'first' twice")),
    "header twice, tsv": (PAIR(b"x.tsv\nlabel\tlabel\na\tyes\n"), refused("'label' twice")),
    "key twice": (PAIR(b'x.jsonl\n{"a": 1, "a": 2}'), refused("an object in row 0", "'a' twice")),
    "key twice inside": (SPAN(b'x.json\n[{"a": {"b": 1, "b": 2}}]'), refused("x.json", "'b' twi")),
    "column twice, parquet": (PAIR(parquet(["first", "first"])), refused("its schema", "twice")),
    "cut parquet": (PAIR(parquet(["first"], cut=60)), refused("damaged or cut", "copy it again")),
    "no rows": (PAIR(b"empty.csv\nfirst,label\n"), refused("empty.csv holds no rows", "a line of")),
    "nothing": (PAIR(b"empty.jsonl\n"), refused("holds no rows", "one row a line")),
    "latin-1": (PAIR("x.csv\nfirst,label\né,yes\n".encode("latin-1")), refused("iconv", "UTF-8")),
    "quote left open": (PAIR(b'x.csv\na,b\n"1,2\n'), refused("begins in line 2", "must be closed")),
    "no header": (PAIR(b"x.csv\na,yes\nb,no\n"), refused("The first line of the file must name")),
    "capital ending": (COUNTED(b"x.CSV\nfirst,label\na,yes\n"), 1),
    "conllu": (TAGS(b"x.conllu\n1\tAnna\n"), refused("kind of table", "read by a function")),
    "words a line": (TAGS(b"x.tsv\nAnna\tB-PER\nsaw\tO\n"), refused("CoNLL", "Source('rows'")),
    "language iw": (rows("pair", language="iw")([PAIR_ROW]), refused("'iw'. Did you mean 'he'?")),
    "language zh-CN": (rows("pair", language="zh-CN")([PAIR_ROW]), refused("Did you mean 'zh'?")),
    "function gives a generator": (COUNTED(iter([PAIR_ROW])), 1),
    "function gives a data set": (COUNTED(DATASET), 3),
    "function gives a frame": (PAIR(pd.DataFrame([PAIR_ROW])), refused("DataFrame", "'records'")),
    "function gives nothing": (PAIR(None), refused("NoneType", "a list of dictionaries")),
    "function gives texts": (PAIR(["a", "b"]), refused("row 0", "'a'; expected a row")),
    "blank texts only": (PAIR([PAIR_ROW | {"first": " "}] * 3), refused("blank in all 3 rows")),
    "some blank texts": (
        KEPT([PAIR_ROW, PAIR_ROW | {"first": "   ", "second": ""}]),
        (2, {}, {"blank text kept in 'first'": 1, "blank text kept in 'second'": 1}),
    ),
    "single texts": (KEPT([{"first": "a", "label": 1}] * 2), (2, {}, {})),
    "no row of a function": (PAIR([]), refused("no usable row; left out: nothing, it is empty")),
    "column misnamed": (MISNAMED([PAIR_ROW]), refused("row 0 of rows mine: no column 'premise'")),
    "label unknown": (pair(label="maybe"), refused("'maybe' in column 'label'", "no, yes")),
    "label 7": (pair(label=7), refused("label 7 in column 'label'", "0 to 1")),
    "label nan": (pair(label=float("nan")), refused("row 0", "label nan")),
    "choice 2": (CHOICE([OPTIONS | {"label": "2"}]), refused("label '2' in", "one of 0, 1")),
    "choice null": (CHOICE([OPTIONS | {"b": None}]), refused("'choices' is None; expected text")),
    "tags too few": (words(tags=[0]), refused("2 tokens but 1 tags")),
    "tokens in a text": (words(tokens="a b"), refused("'tokens' is 'a b'; expected a list")),
    "tags in a text": (words(tags="O O"), refused("'tags' is 'O O'; expected a list")),
    "adapt fails": (FAILING([PAIR_ROW]), refused("row 0", "adapt failed with KeyError('premise')")),
    "adapt gives a text": (TEXT([PAIR_ROW]), refused("adapt gave 'text'", "a list of rows or")),
    "a value missing": (PAIR(b"x.csv\na,b\n1,2\n3\n"), refused("line 3: 1 values", "2 columns")),
    "text behind a quote": (PAIR(b'x.csv\na,b\n"1" 2,3\n'), refused("x.csv, line 2")),
    "jsonl cut": (PAIR(b'x.jsonl\n{"text": "a"}\n{"text": "b'), refused("row 1 is no JSON")),
    "jsonl of lists": (PAIR(b"x.jsonl\n[1]\n"), refused("expected a JSON object")),
    "json of an object": (PAIR(b'x.json\n{"data": []}'), refused("a list of JSON objects")),
    "json cut": (PAIR(b"x.json\n[1, "), refused("is no JSON")),
}


# Placeholder gold
def retrieved(**change):
    """Read two queries and two candidates, some facts of the rows changed by their id."""
    pool = [{"id": f"q{n}", "side": "query", "text": "t", "gold": [f"c{n}"]} for n in (1, 2)]
    pool += [{"id": f"c{n}", "side": "candidate", "text": "t"} for n in (1, 2)]
    given = [row | change.get(row["id"], {}) for row in pool]
    return rows("retrieval", show=len)([row for row in given if not row.get("gone")])


def tagged(tag, count):
    return rows("tagging", show=len)([{"tokens": ["a", "b"], "tags": [tag, tag]}] * count)


def bucc(*gold):
    row = {"sentence1": ["a", "b"] * 20, "sentence2": ["c", "d"] * 20, "gold": list(gold)}
    adapt = tasks.get("bucc2018").adapt
    return rows("retrieval", adapt=adapt, metric="pair_f1", show=len)([row])


UNANSWERED = rows("span", metric="squad2", show=len)
GOLD = {
    "labels all the same": (COUNTED([PAIR_ROW] * 40), refused("every gold of 40 rows is 'yes'")),
    "ten labels the same": (COUNTED([PAIR_ROW] * 10), 10),
    "labels -1": (PAIR([PAIR_ROW | {"label": -1}] * 3), refused("label -1", "Hidden")),
    "tags O": (tagged("O", 40), refused("every gold of 40 rows is 'O'")),
    "few tags O": (tagged("O", 3), 3),
    "tags -1": (tagged(-1, 2), refused("every tag is -1 or -100")),
    "tags -100": (tagged(-100, 40), refused("every tag is -1 or -100")),
    "answers empty": (SPAN(answered("a b") * 3), refused("no answer", "Hidden")),
    "answers blank": (SPAN(answered("a b", ("", 0)) * 3), refused("answer is blank")),
    "squad2 unanswered": (UNANSWERED(answered("a b") * 30), refused("30 rows is 'no answer'")),
    "squad2 with one": (UNANSWERED([*(answered("a b") * 30), *answered("a b", ("a", 0))]), 31),
    "retrieval": (retrieved(), 4),
    "gold misspelt": (retrieved(q1={"gold": ["C1"]}), refused("'C1' of query 'q1'", "'c1'")),
    "one candidate twice": (retrieved(c2={"id": "c1"}), refused("two rows are candidate 'c1'")),
    "two queries of one id": (retrieved(q2={"id": "q1"}), refused("two rows are query 'q1'")),
    "gold in a text": (retrieved(q1={"gold": "c1"}), refused("'gold' is 'c1'; expected a list")),
    "another side": (retrieved(q1={"side": "question"}), refused("'query' or 'candidate'")),
    "query without gold": (retrieved(q2={"gold": []}), refused("query 'q2' has no gold")),
    "no candidates": (retrieved(c1={"gone": 1}, c2={"gone": 1}), refused("no row is a candidate")),
    "no queries": (retrieved(q1={"gone": 1}, q2={"gone": 1}), refused("no row is a query")),
    "bucc from 0": (bucc([0, 0], [1, 1]), refused("pair (0, 0)", "count from 1")),
    "bucc too far": (bucc([1, 41]), refused("pair (1, 41)", "up to 40 foreign")),
}

# Answers: starts that count something else than characters, and answers of which some are lost.
RIVER = "Река Волга впадает в Каспийское море. Длина реки 3530 км, река 3530 м глубиной."
CLOWNS = "🤡🤡🤡 one two one two"
ANSWERS = {
    "characters": (SPAN(answered(RIVER, ("3530", 49))), {"text": ["3530"], "start": [49]}),
    "bytes": (SPAN(answered(RIVER, ("3530", 89))), {"text": ["3530"], "start": [49]}),
    "UTF-16 units": (SPAN(answered(CLOWNS, ("two", 19))), {"text": ["two"], "start": [16]}),
    "stripped": (SPAN(answered("one two one", ("one", 10))), {"text": ["one"], "start": [8]}),
    "one lost": (SPAN(answered("a b", ("x", 0), ("b", 2))), {"text": ["b", "x"], "start": [2, -1]}),
    "a text": (spans("b"), refused("answers 'b'; expected {'text'")),
    "not in a list": (spans({"text": "b", "answer_start": 2}), refused("'answers' is 'b'")),
    "no start": (spans({"text": ["b"]}), refused("'answers' is None; expected a list")),
    "no start in SQuAD's form": (spans([{"text": "b"}]), refused("a start, in char")),
    "all lost": (SPAN(answered("a b", ("x", 0))), refused("answer not in context")),
}


# Configurations whose names YAML reads as no text
def configured(name, language):
    def read(folder):
        path = folder / "me" / "set"
        path.mkdir(parents=True)
        (path / "x.csv").write_text("first,label\na,no\nb,yes\n")
        held = "\n  data_files:\n  - split: train\n    path: x.csv\n"
        header = "".join(f"- config_name: {code}{held}" for code in ("en", name))
        (path / "README.md").write_text(f"---\nconfigs:\n{header}---\n")
        source = Source("hub", "me/set", config="{language}")
        facts = {"labels": ("no", "yes"), "languages": ("en", language)}
        task = Task("own", "target", "pair", source, **facts)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TRANSFER_DATA_ROOT", str(folder))
            patch.setattr("datasets.config.HF_DATASETS_CACHE", folder / "cache")
            here = data.at_hand(task)
            return here, len(data.rows(task, language)), len(data.rows(task, "en"))

    return read


CONFIGURATIONS = {
    f"configuration {name}": (configured(name, code), ([("en", "train"), (code, "train")], 2, 2))
    for name in ("no", "'no'", "on", "2018", "2018-01-01", "1.50", "null")
    for code in [name.strip("'")]
}


# Chapters and their notebooks
def paired(chapter=("", ""), notebook=("", "")):
    """Pair the example chapter, edit one or both sides, and pair again; the files written then."""

    def pair(folder):
        pages_of = make_project(folder / "project") / "book"
        (twin,) = pages.pair(pages_of)
        for file, (old, new) in ((twin.with_suffix(".md"), chapter), (twin, notebook)):
            file.write_text(file.read_text("utf-8").replace(old, new, 1), "utf-8")
        return len(pages.pair(pages_of))

    return pair


MARKED = "<<<<<<< HEAD\nHas a\n=======\nDoes a\n>>>>>>> other"
NONE, HAS, HAD = ("", ""), ("Does a", "Has a"), ("Does a", "Had a")
CHAPTERS = {
    "both edited": (paired(HAS, HAD), refused("both changed", "md:myst", "delete 01_sample.ipynb")),
    "a chapter with a BOM": (paired(("---", "\ufeff---")), refused("01_sample.md", "BOM")),
    "a conflict in a chapter": (paired(("Does a", MARKED)), refused("01_sample.md, line", "git")),
    "marked notebook": (paired(NONE, ("{", "<<<<<<< H\n{")), refused("01_sample.ipynb, line 1")),
    "no notebook": (paired(NONE, ("{", "{{")), refused("not a notebook", "Delete it")),
}

CASES = {
    **CHAPTERS,
    **{f"submission, {name}": case for name, case in SUBMISSIONS.items()},
    **{f"written, {name}": case for name, case in WRITTEN.items()},
    **{f"mining, {name}": case for name, case in MINING.items()},
    **TABLES,
    **GOLD,
    **ANSWERS,
    **CONFIGURATIONS,
}


@pytest.mark.parametrize("name", CASES)
def test_each_input_is_read_right_or_refused(name, tmp_path):
    make, right = CASES[name]
    if not isinstance(right, refused):
        assert make(tmp_path) == right
        return
    with pytest.raises(HelpfulError) as caught:
        make(tmp_path)
    for part in right:
        assert part in str(caught.value)
