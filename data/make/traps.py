"""How far published-style scores move when one rule of scoring is missed, measured on real rows.

Run: TRANSFER_DATA_ROOT=/folder/in/hub/layout python -m data.make.traps [name ...]

Every trap scores the same predictions twice: as the official code does, and as somebody who fell
into the trap would. The table ``data/results/traps.csv`` is what the book reads. Rows are those of
the folder, which may hold only a part of a data set: the differences are meant, not the levels.
"""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from helpers import data, evaluation, metrics, tasks
from helpers.data import sources
from helpers.files import provenance
from helpers.metrics import mining
from helpers.models import encoders
from helpers.models.settings import Settings
from helpers.models.training import Tuned, fine_tune
from helpers.tasks import Source

PATH = Path(__file__).resolve().parents[1] / "results" / "traps.csv"
COLUMNS = ("trap", "task", "language", "rule", "official", "metric", "value", "n", "reader")
OFFICIAL, READER_UD = "seqeval-0.0.12", "bundled encoder, 1,500 English sentences, 2 epochs"
SENTENCES = 200  # per language; enough for differences of whole points
LOWER = 3  # a weaker reader of the same size: a layer that is not yet aligned
TATOEBA = ("de", "fr", "ru", "zh", "sw", "ta", "te", "jv")
# MLQA's rules exist for these of XQuAD's languages.
SHARED = ("en", "es", "de", "ar", "hi", "vi", "zh")
UNSPACED = ("th", "zh")

Entry = dict[str, Any]


def entry(facts: Entry, rule: str, official: bool, metric: str, value: float) -> Entry:
    """Return one row of the table."""
    return facts | {"rule": rule, "official": official, "metric": metric, "value": float(value)}


def facts_of(trap: str, task: str, language: str, n: int, reader: str) -> Entry:
    return {"trap": trap, "task": task, "language": language, "n": n, "reader": reader}


def languages_of(task: str) -> list[str]:
    return [code for code, split in data.at_hand(task) if split == "test"]


@functools.cache
def _encoder() -> encoders.Encoder:
    return encoders.load("bundled")


@functools.cache
def _layer() -> int:
    """Return the layer chosen on messages, as the book does for tasks without development rows."""
    return evaluation.choose_layer(_encoder(), tasks.get("messages"))


def _vectors(task: tasks.Task, language: str, split: str, layer: int) -> np.ndarray:
    (part,) = evaluation.predict(Tuned(_encoder()), task, [language], split=split, layer=layer)
    return np.asarray(part.predictions)


def pos() -> list[Entry]:
    """UD POS in every language at hand: one model, three readings of its tags."""
    task = tasks.get("udpos")
    settings = Settings(epochs=2, learning_rate=3e-4, batch_tokens=512, train_rows=1500)
    tuned, rows = fine_tune(_encoder(), [task], settings, 0), []
    for part in evaluation.predict(tuned, task, languages_of("udpos"), rows=SENTENCES):
        gold, given = (
            [[task.labels[int(tag)] for tag in sentence] for sentence in side]
            for side in ([row["tags"] for row in part.rows], part.predictions)
        )
        facts = facts_of("pos_reading", task.name, part.language, len(gold), READER_UD)
        rows += pos_readings(given, gold, facts)
    return rows


def pos_readings(
    given: Sequence[Sequence[str]], gold: Sequence[Sequence[str]], facts: Entry
) -> list[Entry]:
    """Score the same tags in every way that has been called F1 or accuracy of parts of speech."""
    return [
        entry(
            facts, variant, variant == OFFICIAL, "f1", metrics.span_f1(given, gold, variant)["f1"]
        )
        for variant in metrics.VARIANTS
    ]


def bucc() -> list[Entry]:
    """BUCC: mined from whole corpora, against what is easier to get and easier to do."""
    task, rows = tasks.get("bucc2018"), []
    for language in languages_of(task.name):
        sides = {split: data.rows(task, language, split) for split in ("dev", "test")}
        gold = {split: gold_pairs(found) for split, found in sides.items()}
        for layer in (LOWER, _layer()):
            reader = f"bundled encoder, layer {layer}"
            facts = facts_of("bucc_pool", task.name, language, len(gold["test"]), reader)
            vectors = {split: _vectors(task, language, split, layer) for split in sides}
            for pool, whole in (("whole corpora", True), ("gold pairs only", False)):
                pairs = {
                    split: mined(sides[split], vectors[split], None if whole else gold[split])
                    for split in sides
                }
                for tuned_on in ("dev", "test"):
                    threshold = mining.tune_threshold(pairs[tuned_on], gold[tuned_on])
                    kept = mining.apply_threshold(pairs["test"], threshold)
                    value = metrics.pair_f1(kept, gold["test"])["f1"]
                    rule = f"{pool}, threshold tuned on {tuned_on}"
                    rows.append(entry(facts, rule, whole and tuned_on == "dev", "f1", value))
    return rows


def gold_pairs(rows: Iterable[Entry]) -> list[tuple[str, str]]:
    """Return the right pairs of ids."""
    return [(row["id"], other) for row in rows if row["side"] == "query" for other in row["gold"]]


def mined(
    rows: Iterable[Entry], vectors: np.ndarray, only: Iterable[tuple[str, str]] | None
) -> pd.DataFrame:
    """Mine pairs by margin; ``only``: from sentences that belong to one of these pairs."""
    wanted = {name for pair in only for name in pair} if only is not None else None
    parts: list[tuple[np.ndarray, list[str], list[str]]] = []
    for side in ("query", "candidate"):
        here = [
            (place, row["text"], row["id"])
            for place, row in enumerate(rows)
            if row["side"] == side and (wanted is None or row["id"] in wanted)
        ]
        parts.append(
            (vectors[[p for p, *_ in here]], [t for _, t, _ in here], [i for *_, i in here])
        )
    (one, texts, ids), (other, others, names) = parts
    return mining.mine_texts(one, other, texts, others, ids, names)


def tatoeba() -> list[Entry]:
    """Tatoeba: English asks, the foreign side asks, and equal sentences count as equal."""
    task, layer, rows = tasks.get("tatoeba"), _layer(), []
    for language in TATOEBA:
        facts = facts_of(
            "tatoeba_direction", task.name, language, 0, f"bundled encoder, layer {layer}"
        )
        found = list(data.rows(task, language, "test"))
        rows += directions(found, _vectors(task, language, "test", layer), facts)
    return rows


def directions(rows: Sequence[Entry], vectors: np.ndarray, facts: Entry) -> list[Entry]:
    """Return top-1 accuracy both ways, and with every equal right sentence accepted.

    The n-th query of the rows is answered by the n-th candidate; each row has a vector.
    """
    sides = [
        [place for place, row in enumerate(rows) if row["side"] == side]
        for side in ("query", "candidate")
    ]
    asked, answers = (vectors[side] for side in sides)
    texts = [rows[place]["text"] for place in sides[1]]
    found = mining.nearest(asked, answers, k=1).index[:, 0]
    back = mining.nearest(answers, asked, k=1).index[:, 0]
    hits = {
        "English asks": found == np.arange(len(found)),
        "English asks, equal sentences accepted": np.array(
            [texts[best] == texts[place] for place, best in enumerate(found)]
        ),
        "the foreign side asks": back == np.arange(len(back)),
    }
    return [
        entry(facts | {"n": len(asked)}, rule, rule == "English asks", "accuracy", right.mean())
        for rule, right in hits.items()
    ]


def offsets() -> list[Entry]:
    """XQuAD: a perfect reader, scored against answers cut out at the published offsets."""
    rows = []
    for language in languages_of("xquad"):
        (source,) = tasks.get("xquad").source.serving(language, "test")
        facts = facts_of("offsets", "xquad", language, 0, "perfect reader")
        rows += perfect_reader(list(sources.load(source, language, "test").rows), facts)
    return rows


def perfect_reader(raw: Sequence[Entry], facts: Entry) -> list[Entry]:
    """Score the published answer texts against themselves, and against the text at their offsets."""
    given = [row["answers"]["text"][0] for row in raw]
    starts = [row["answers"]["answer_start"][0] for row in raw]
    cut = [row["context"][s : s + len(t)] for row, s, t in zip(raw, starts, given, strict=True)]
    rows = []
    for rule, right in (("answer text", given), ("text at the offset", cut)):
        found = metrics.squad(given, [[text] for text in right])
        for metric in ("exact_match", "f1"):
            facts = facts | {"n": len(given)}
            rows.append(entry(facts, rule, rule == "answer text", metric, found[metric]))
    return rows


def one_more() -> list[Entry]:
    """XQuAD: a reader who takes one word too many, under two rules of comparing answers."""
    rows = []
    for language in languages_of("xquad"):
        found = data.rows("xquad", language, "test")
        facts = facts_of("one_more", "xquad", language, len(found), "right answer and one more")
        rows += greedy_reader(found, language, facts)
    return rows


def greedy_reader(rows: Iterable[Entry], language: str, facts: Entry) -> list[Entry]:
    """Score answers that are right but for one more word (character, where words are not spaced)."""
    golds = [row["answers"]["text"][:1] for row in rows]
    given = [
        longer(row["context"], row["answers"]["text"][0], row["answers"]["start"][0], language)
        for row in rows
    ]
    found = [entry(facts, "SQuAD's rules", True, "f1", metrics.squad(given, golds)["f1"])]
    if language in SHARED:
        value = metrics.mlqa(given, golds, language=language)["f1"]
        found.append(entry(facts, "MLQA's rules", False, "f1", value))
    return found


def longer(context: str, answer: str, start: int, language: str) -> str:
    """Return an answer with the word, or the character, that follows it; or the one before it."""
    end = start + len(answer)
    word = r"\s*\S" if language in UNSPACED else r"\S*\s+\S+|\S+"
    after = re.match(word, context[end:])
    if after and after[0].strip():
        return context[start : end + after.end()]
    before = re.search(r"\S\s*$" if language in UNSPACED else r"\S+\s*$", context[:start])
    return context[before.start() if before else start : end]


def xcopa() -> list[Entry]:
    """XCOPA: the share of rows whose published question contradicts the other languages."""
    rows = []
    for language in languages_of("xcopa"):
        found = data.rows("xcopa", language, "test")
        wrong = sum(count for note, count in found.notes.items() if "repaired" in note)
        facts = facts_of("xcopa_question", "xcopa", language, len(found), "none")
        share = wrong / len(found)
        rows.append(entry(facts, "published question", False, "wrong questions", share))
    return rows


TRAPS: dict[str, Callable[[], list[Entry]]] = {
    "pos_reading": pos,
    "bucc_pool": bucc,
    "tatoeba_direction": tatoeba,
    "offsets": offsets,
    "one_more": one_more,
    "xcopa_question": xcopa,
}


def store(rows: list[Entry], path: Path = PATH) -> pd.DataFrame:
    """Put rows into the table in place of older ones of the same traps, with their origin."""
    origin = provenance()
    fresh = pd.DataFrame(rows)[list(COLUMNS)]
    ids = {name: "; ".join(_ids(tasks.get(name).source)) for name in fresh["task"].unique()}
    fresh["source"] = "mirror of " + fresh["task"].map(ids)
    fresh = fresh.assign(commit=origin["commit"], versions=origin["versions"], utc=origin["utc"])
    if path.exists():
        old = pd.read_csv(path)
        fresh = pd.concat([old[~old["trap"].isin(fresh["trap"].unique())], fresh])
    order = {name: place for place, name in enumerate(TRAPS)}
    fresh = fresh.sort_values("trap", key=lambda column: column.map(order), kind="stable")
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh.to_csv(path, index=False, lineterminator="\n")
    return fresh


def _ids(source: Source) -> list[str]:
    return list(dict.fromkeys(leaf.id for leaf in source.flat()))


if __name__ == "__main__":
    for name in sys.argv[1:] or TRAPS:
        rows = TRAPS[name]()
        store(rows)
        shown = pd.DataFrame(rows).groupby(["rule", "metric"], sort=False)["value"]
        print(shown.agg(["mean", "size"]), "\n")
