"""Row adapters that several tasks share: what a source's columns alone cannot say.

Each takes a raw row and the language asked for, and returns rows as ``Task.adapt`` documents.
"""

from __future__ import annotations

import hashlib
import re

from helpers.errors import BadRows
from helpers.tasks import Row

TYDIQA_PREFIXES = {
    "english": "en",
    "arabic": "ar",
    "bengali": "bn",
    "finnish": "fi",
    "indonesian": "id",
    "korean": "ko",
    "russian": "ru",
    "swahili": "sw",
    "telugu": "te",
}
# Sentence ends for SQuAD passages, whose hub copy has no sentence breaks.
_SENTENCE_END = re.compile(r"(?<=[.!?])[\"')\]]*\s+(?=[\"'(\[]*[A-Z0-9])")
# Letters of polytonic Greek: the mark of Ancient Greek treebanks mixed into a Greek set.
_POLYTONIC = re.compile(r"[\u1f00-\u1fff]")


def hellaswag(row: Row, language: str) -> Row:
    """Give a HellaSwag row its context and full endings (``ctx_b`` + ending), as jiant does."""
    endings = [f"{row['ctx_b']} {ending}".strip() for ending in row["endings"]]
    return row | {"context": row["ctx_a"], "choices": endings}


def question_context(row: Row, language: str) -> Row:
    """Join context and question, as jiant does for SocialIQA and CosmosQA."""
    return row | {"prompt": f"{row['context']} {row['question']}"}


def commonsense(row: Row, language: str) -> Row:
    """Take the answer texts out of CommonsenseQA's ``choices`` structure."""
    return row | {"options": list(row["choices"]["text"])}


def copa(row: Row, language: str) -> Row:
    """Ask COPA's question as XTREME-R does: premise, then "What was the cause?" or "effect"."""
    adapted = row | {"prompt": f"{row['premise']} What was the {row['question']}?"}
    # It is wrong in some languages of XCOPA: there the source lends it from Estonian.
    if row.get("question_published", row["question"]) != row["question"]:
        adapted["_note"] = "question repaired from the Estonian rows"
    return adapted


def placeholder(row: Row, language: str) -> Row:
    """Note PAWS-X pairs without a translation ("NS" or empty); they stay, as in published scores."""
    if {row["sentence1"].strip(), row["sentence2"].strip()} & {"NS", ""}:
        return row | {"_note": "sentence without translation ('NS' or empty) kept"}
    return row


def modern(row: Row, language: str) -> Row:
    """Leave Ancient Greek sentences out of Greek."""
    tokens = row["tokens"] if "tokens" in row else row.get("words", ())
    if language == "el" and any(_POLYTONIC.search(token) for token in tokens):
        return row | {"_dropped": "polytonic letters: a sentence of an Ancient Greek treebank"}
    return row


def tydiqa(row: Row, language: str) -> Row:
    """Tell the language of a row of the mixed TyDi QA set by the name that its id begins with."""
    return row | {"_language": TYDIQA_PREFIXES[row["id"].split("-", 1)[0]]}


def bitext(row: Row, language: str) -> list[Row]:
    """Make the English sentence a query and its translation a candidate (both copies of Tatoeba)."""
    columns = ("source_sentence", "target_sentence")
    if columns[0] not in row:
        columns = ("sentence1", "sentence2")
    # In google/xtreme every sentence ends with a line break.
    foreign, english = (row[column].strip() for column in columns)
    number = row["_number"]
    return [
        {"id": f"en-{number}", "side": "query", "text": english, "gold": [f"{language}-{number}"]},
        _candidate(f"{language}-{number}", foreign),
    ]


def half(key: str) -> str:
    """Divide by the hash of a key, once and for all: ``"dev"`` or ``"test"``."""
    return "dev" if hashlib.sha256(key.encode()).digest()[0] < 128 else "test"


def bucc(row: Row, language: str) -> list[Row]:
    """Divide BUCC's two corpora (one row of ``mteb/BUCC``) into halves, gold pairs together.

    The hub lacks BUCC's small development corpora.
    """
    foreign, english = row["sentence1"], row["sentence2"]
    gold: dict[int, list[int]] = {}
    # A sentence of several pairs takes all of them into the half of its first one.
    group, owner = list(range(len(foreign))), dict[int, int]()
    for one, other in row["gold"]:
        if not (1 <= one <= len(foreign) and 1 <= other <= len(english)):
            raise BadRows(
                f"BUCC, {language!r}: gold pair ({one}, {other}); pairs count from 1, up to "
                f"{len(foreign)} foreign and {len(english)} English sentences. This copy counts "
                "from 0, swaps the sides or is cut: use another one."
            )
        i, j = one - 1, other - 1
        gold.setdefault(i, []).append(j)
        old, first = group[i], group[owner.setdefault(j, i)]
        if old != first:
            group = [first if number == old else number for number in group]
    rows: list[Row] = []
    for i, text in enumerate(foreign):
        query = {"id": f"{language}-{i + 1}", "side": "query", "text": text.strip()}
        right = [f"en-{j + 1}" for j in gold.get(i, [])]
        rows.append(query | {"gold": right, "_split": half(f"{language}-{group[i]}")})
    for j, text in enumerate(english):
        key = f"{language}-{group[owner[j]]}" if j in owner else f"en-{j}"
        rows.append(_candidate(f"en-{j + 1}", text.strip()) | {"_split": half(key)})
    return rows


def answer_sentences(row: Row, language: str) -> list[Row]:
    """Make questions queries, and sentences with their paragraph candidates (LAReQA).

    As in XTREME-R a candidate is a sentence and its context, line breaks removed. ``_answers`` names
    the questions it answers, in whatever language they are asked. A SQuAD row, used for training,
    states no sentence breaks: they are inferred, and only the sentence with the answer is kept.
    """
    if "qas" not in row:
        return _training_pair(row, language)
    context = row["context"]
    rows: list[Row] = []
    for qa in row["qas"]:
        query = {"id": f"{language}-{qa['id']}", "side": "query", "text": qa["question"]}
        rows.append(query | {"gold": [qa["id"]]})
    for number, (start, end) in enumerate(row["sentence_breaks"]):
        answered = [
            qa["id"]
            for qa in row["qas"]
            if any(start <= answer["answer_start"] < end for answer in qa["answers"])
        ]
        name, text = f"{language}-{row['_number']}-{number}", f"{context[start:end]} {context}"
        rows.append(_candidate(name, _one_line(text)) | {"_answers": answered})
    return rows


def _training_pair(row: Row, language: str) -> list[Row]:
    context, answers = row["context"], row["answers"]
    if not answers["text"]:
        return [row | {"_dropped": "no answer"}]
    breaks = [0, *(match.end() for match in _SENTENCE_END.finditer(context)), len(context)]
    start = answers["answer_start"][0]
    sentence = next(
        (context[a:b] for a, b in zip(breaks, breaks[1:], strict=False) if a <= start < b), ""
    )
    if not sentence:
        return [row | {"_dropped": "answer outside its passage"}]
    name = row["id"]
    return [
        {"id": f"q-{name}", "side": "query", "text": row["question"], "gold": [f"c-{name}"]},
        _candidate(f"c-{name}", _one_line(f"{sentence} {context}")),
    ]


def _one_line(text: str) -> str:
    return " ".join(text.split())


def entities(row: Row, language: str) -> list[Row] | Row:
    """Make Mewsli-X mentions queries and entity descriptions candidates.

    Training pairs (``mention``, ``entity``) give one of each, told apart by their row: one entity
    is mentioned in many of them.
    """
    number = row["_number"]
    if "description" in row:
        return _candidate(str(row["entity_id"]), row["description"])
    gold = f"c-{number}" if "entity" in row else str(row["entity_id"])
    query = {"id": f"{language}-{number}", "side": "query", "text": row["mention"], "gold": [gold]}
    return [query, _candidate(gold, row["entity"])] if "entity" in row else query


def _candidate(name: str, text: str) -> Row:
    return {"id": name, "side": "candidate", "text": text, "gold": []}
