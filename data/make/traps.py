"""How far published-style scores move when one rule of scoring is missed, measured on real rows.

Run: TRANSFER_DATA_ROOT=/folder/in/hub/layout python -m data.make.traps [name ...]

Every trap scores the same predictions twice: as the official code does, and as somebody who fell
into the trap would. The table ``data/results/traps.csv`` is what the book reads. Rows are those of
the folder, which may hold only a part of a data set: the differences are meant, not the levels.
"""

import functools
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from helpers import data, evaluation, metrics, tasks
from helpers.data import sources
from helpers.files import provenance, write_atomic
from helpers.metrics import mining
from helpers.models import Settings, encoders
from helpers.models.training import Tuned, fine_tune

PATH = Path(__file__).resolve().parents[1] / "results" / "traps.csv"
COLUMNS = ["trap", "task", "language", "rule", "official", "metric", "value", "n", "reader"]
READER_UD = "bundled encoder, 1,500 English sentences, 2 epochs"
SENTENCES = 200  # per language; enough for differences of whole points
LOWER = 3  # a weaker reader of the same size: a layer that is not yet aligned
TATOEBA = ("de", "fr", "ru", "zh", "sw", "ta", "te", "jv")
# MLQA's rules exist for these of XQuAD's languages.
SHARED = ("en", "es", "de", "ar", "hi", "vi", "zh")
UNSPACED = ("th", "zh")

Row = dict[str, Any]
Scores = dict[tuple[str, str], float]  # value by rule and metric
Measured = Iterator[tuple[str, int, str, Scores]]  # language, number of rows, reader, scores

# The layer is chosen on messages, as the book does for tasks without development rows.
_encoder = functools.cache(lambda: encoders.load("bundled"))
_layer = functools.cache(lambda: evaluation.choose_layer(_encoder(), tasks.get("messages")))


@functools.cache
def _tagger(name: str) -> Tuned:
    settings = Settings(epochs=2, learning_rate=3e-4, batch_tokens=512, train_rows=1500)
    return fine_tune(_encoder(), [tasks.get(name)], settings, 0)


def _vectors(name: str, language: str, split: str, layer: int) -> np.ndarray:
    how: dict[str, Any] = {"split": split, "layer": layer}
    (part,) = evaluation.predict(Tuned(_encoder()), tasks.get(name), [language], **how)
    return np.asarray(part.predictions)


def pos(name: str, language: str) -> Measured:
    """UD POS in every language at hand: one model, three readings of its tags."""
    task = tasks.get(name)
    (part,) = evaluation.predict(_tagger(name), task, [language], rows=SENTENCES)
    sides = [row["tags"] for row in part.rows], part.predictions
    gold, given = ([[task.labels[int(t)] for t in one] for one in side] for side in sides)
    yield language, len(gold), READER_UD, pos_readings(given, gold)


def pos_readings(given: Sequence[Sequence[str]], gold: Sequence[Sequence[str]]) -> Scores:
    """Score the same tags in every way that has been called F1 or accuracy of parts of speech."""
    return {(v, "f1"): metrics.span_f1(given, gold, v)["f1"] for v in metrics.VARIANTS}


def bucc(name: str, language: str) -> Measured:
    """BUCC: mined from whole corpora, against what is easier to get and easier to do."""
    sides = {split: data.rows(name, language, split) for split in ("dev", "test")}
    gold = {split: gold_pairs(found) for split, found in sides.items()}
    for layer in (LOWER, _layer()):
        vectors = {split: _vectors(name, language, split, layer) for split in sides}
        scores: Scores = {}
        for pool, only in (("whole corpora", {}), ("gold pairs only", gold)):
            pairs = {s: mined(sides[s], vectors[s], only.get(s)) for s in sides}
            for tuned_on in ("dev", "test"):
                threshold = mining.tune_threshold(pairs[tuned_on], gold[tuned_on]).value
                kept = mining.apply_threshold(pairs["test"], threshold)
                rule = f"{pool}, threshold tuned on {tuned_on}"
                scores[rule, "f1"] = metrics.pair_f1(kept, gold["test"])["f1"]
        yield language, len(gold["test"]), f"bundled encoder, layer {layer}", scores


def gold_pairs(rows: Iterable[Row]) -> list[tuple[str, str]]:
    return [(row["id"], other) for row in rows if row["side"] == "query" for other in row["gold"]]


def mined(
    rows: Iterable[Row], vectors: np.ndarray, only: Iterable[tuple[str, str]] | None
) -> pd.DataFrame:
    """Mine pairs by margin; ``only``: from sentences that belong to one of these pairs."""
    table = pd.DataFrame(list(rows))
    if only is not None:
        table = table[table["id"].isin({name for pair in only for name in pair})]
    sides = [table[table["side"] == side] for side in ("query", "candidate")]
    columns = [list(side[column]) for column in ("text", "id") for side in sides]
    return mining.mine_texts(*(vectors[side.index.to_numpy()] for side in sides), *columns)


def tatoeba(name: str, language: str) -> Measured:
    """Tatoeba: English asks, the foreign side asks, and equal sentences count as equal."""
    if language in TATOEBA:
        found = data.rows(name, language, "test")
        scores = directions(found, _vectors(name, language, "test", _layer()))
        yield language, len(found.side("query")), f"bundled encoder, layer {_layer()}", scores


def directions(rows: Iterable[Row], vectors: np.ndarray) -> Scores:
    """Return top-1 accuracy both ways, and with every equal right sentence accepted.

    The n-th query of the rows is answered by the n-th candidate; each row has a vector.
    """
    table = pd.DataFrame(list(rows))
    is_query = (table["side"] == "query").to_numpy()
    asked, answers = vectors[is_query], vectors[~is_query]
    texts, places = table["text"].to_numpy()[~is_query], np.arange(len(asked))
    found = mining.nearest(asked, answers).index[:, 0]
    back = mining.nearest(answers, asked).index[:, 0]
    hits = {
        "English asks": found == places,
        "English asks, equal sentences accepted": texts[found] == texts[places],
        "the foreign side asks": back == places,
    }
    return {(rule, "accuracy"): right.mean() for rule, right in hits.items()}


def offsets(name: str, language: str) -> Measured:
    """XQuAD: a perfect reader, scored against answers cut out at the published offsets."""
    (source,) = tasks.get(name).source.serving(language, "test")
    raw = list(sources.load(source, language, "test").rows)
    yield language, len(raw), "perfect reader", perfect_reader(raw)


def perfect_reader(raw: Sequence[Row]) -> Scores:
    """Score the published answer texts against themselves, and against the text at their offsets."""
    given = [row["answers"]["text"][0] for row in raw]
    starts = [row["answers"]["answer_start"][0] for row in raw]
    cut = [row["context"][s : s + len(t)] for row, s, t in zip(raw, starts, given, strict=True)]
    scores: Scores = {}
    for rule, right in (("answer text", given), ("text at the offset", cut)):
        found = metrics.squad(given, [[text] for text in right])
        scores |= {(rule, metric): found[metric] for metric in ("exact_match", "f1")}
    return scores


def one_more(name: str, language: str) -> Measured:
    """XQuAD: a reader who takes one word too many, under two rules of comparing answers."""
    found = data.rows(name, language, "test")
    yield language, len(found), "right answer and one more", greedy_reader(found, language)


def greedy_reader(rows: Iterable[Row], language: str) -> Scores:
    """Score answers that are right but for one more word (character, where words are not spaced)."""
    golds = [row["answers"]["text"][:1] for row in rows]
    starts = [row["answers"]["start"][0] for row in rows]
    asked = zip(rows, golds, starts, strict=True)
    given = [longer(row["context"], right[0], start, language) for row, right, start in asked]
    found = {("SQuAD's rules", "f1"): metrics.squad(given, golds)["f1"]}
    if language in SHARED:
        found["MLQA's rules", "f1"] = metrics.mlqa(given, golds, language=language)["f1"]
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


def xcopa(name: str, language: str) -> Measured:
    """XCOPA: the share of rows whose published question contradicts the other languages."""
    found = data.rows(name, language, "test")
    wrong = sum(count for note, count in found.notes.items() if "repaired" in note) / len(found)
    yield language, len(found), "none", {("published question", "wrong questions"): wrong}


# Task, what is measured, and the rule of the official code.
TRAPS: dict[str, tuple[str, Callable[[str, str], Measured], str]] = {
    "pos_reading": ("udpos", pos, "seqeval-0.0.12"),
    "bucc_pool": ("bucc2018", bucc, "whole corpora, threshold tuned on dev"),
    "tatoeba_direction": ("tatoeba", tatoeba, "English asks"),
    "offsets": ("xquad", offsets, "answer text"),
    "one_more": ("xquad", one_more, "SQuAD's rules"),
    "xcopa_question": ("xcopa", xcopa, ""),
}


def table_of(trap: str, measured: Measured) -> pd.DataFrame:
    """Return the rows of a trap: one per language, reader, rule and metric."""
    task, _, official = TRAPS[trap]
    rows = [
        [trap, task, language, rule, rule == official, metric, float(value), n, reader]
        for language, n, reader, scores in measured
        for (rule, metric), value in scores.items()
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def store(fresh: pd.DataFrame, path: Path = PATH) -> None:
    """Put rows into the table in place of older ones of the same traps, with their origin."""
    sources_of = {name: tasks.get(name).source.flat() for name in fresh["task"].unique()}
    ids = {name: "; ".join(dict.fromkeys(s.id for s in some)) for name, some in sources_of.items()}
    fresh = fresh.assign(source="mirror of " + fresh["task"].map(ids), **provenance())
    if path.exists():
        old = pd.read_csv(path)
        fresh = pd.concat([old[~old["trap"].isin(fresh["trap"].unique())], fresh])
    fresh = fresh.sort_values("trap", key=lambda trap: trap.map(list(TRAPS).index), kind="stable")
    write_atomic(path, fresh.to_csv(index=False).encode())


if __name__ == "__main__":
    for trap in sys.argv[1:] or TRAPS:
        task, measure, _ = TRAPS[trap]
        here = [language for language, split in data.at_hand(tasks.get(task)) if split == "test"]
        table = table_of(trap, (row for language in here for row in measure(task, language)))
        store(table)
        print(table.groupby(["rule", "metric"], sort=False)["value"].agg(["mean", "size"]), "\n")
