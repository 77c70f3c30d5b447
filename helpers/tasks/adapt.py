"""Row adapters that several tasks share: what a source's columns alone cannot say.

Each takes a raw row and the language asked for, and returns rows as ``Task.adapt`` documents.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from helpers.tasks.task import Row

# Sentence ends for SQuAD passages, whose hub copy has no sentence breaks.
_SENTENCE_END = re.compile(r"(?<=[.!?])[\"')\]]*\s+(?=[\"'(\[]*[A-Z0-9])")
# Letters of polytonic Greek: the mark of Ancient Greek treebanks mixed into a Greek set.
_POLYTONIC = re.compile(r"[\u1f00-\u1fff]")


def hellaswag(row: Row, language: str) -> Row:
    """Give a HellaSwag row its context (``ctx_a``) and full endings (``ctx_b`` + ending).

    Source: jiant's HellaSwag task.
    """
    endings = [f"{row['ctx_b']} {ending}".strip() for ending in row["endings"]]
    return row | {"context": row["ctx_a"], "choices": endings}


def question_context(row: Row, language: str) -> Row:
    """Join context and question, as jiant does for SocialIQA and CosmosQA."""
    return row | {"prompt": f"{row['context']} {row['question']}"}


def commonsense(row: Row, language: str) -> Row:
    """Take the answer texts out of CommonsenseQA's ``choices`` structure."""
    return row | {"options": list(row["choices"]["text"])}


def copa(row: Row, language: str) -> Row:
    """Ask COPA's question as XTREME-R does: premise, then "What was the cause?" or "effect".

    ``question`` is wrong in some languages of XCOPA; where the source lends it from Estonian
    (``question_published`` is then what the row itself says), the loan is noted.
    """
    adapted = row | {"prompt": f"{row['premise']} What was the {row['question']}?"}
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


def by_id_prefix(names: Mapping[str, str]) -> Callable[[Row, str], Row]:
    """Return an adapter that keeps the language named at the start of each id.

    Args:
        names: prefix of the id to language code, such as ``{"english": "en"}``.

    Raises:
        KeyError: an id starts with no known language (raised by the adapter).
    """

    def adapt(row: Row, language: str) -> Row:
        return row | {"_language": names[row["id"].split("-", 1)[0]]}

    return adapt


def bitext(row: Row, language: str) -> list[Row]:
    """Make the English sentence a query and its translation a candidate (Tatoeba).

    ``google/xtreme`` names the columns ``source_sentence`` (foreign) and ``target_sentence``
    and ends every sentence with a line break; ``mteb/tatoeba-bitext-mining`` has ``sentence1``
    and ``sentence2``.
    """
    columns = ("source_sentence", "target_sentence")
    if columns[0] not in row:
        columns = ("sentence1", "sentence2")
    foreign, english = (row[column].strip() for column in columns)
    number = row["_number"]
    return [
        {"id": f"en-{number}", "side": "query", "text": english, "gold": [f"{language}-{number}"]},
        {"id": f"{language}-{number}", "side": "candidate", "text": foreign, "gold": []},
    ]


def corpora(half: Callable[[str], str]) -> Callable[[Row, str], list[Row]]:
    """Return an adapter for ``mteb/BUCC``: one row with two corpora and 1-based gold pairs.

    Args:
        half: gives ``"dev"`` or ``"test"`` for a key; the corpora are divided by it, gold pairs
            together, because the hub lacks BUCC's small development corpora.
    """

    def adapt(row: Row, language: str) -> list[Row]:
        gold: dict[int, list[int]] = {}
        owner: dict[int, int] = {}
        for foreign, english in row["gold"]:
            gold.setdefault(foreign - 1, []).append(english - 1)
            owner.setdefault(english - 1, foreign - 1)
        rows = [
            {
                "id": f"{language}-{i + 1}",
                "side": "query",
                "text": text.strip(),
                "gold": [f"en-{j + 1}" for j in gold.get(i, [])],
                "_split": half(f"{language}-{i}"),
            }
            for i, text in enumerate(row["sentence1"])
        ]
        for j, text in enumerate(row["sentence2"]):
            key = f"{language}-{owner[j]}" if j in owner else f"en-{j}"
            candidate = {"id": f"en-{j + 1}", "side": "candidate", "text": text.strip()}
            rows.append(candidate | {"gold": [], "_split": half(key)})
        return rows

    return adapt


def answer_sentences(row: Row, language: str) -> list[Row]:
    """Make questions queries, and sentences with their paragraph candidates (LAReQA).

    A paragraph of XQuAD-R states its sentence breaks; in a SQuAD row, used for training, they
    are inferred and only the sentence with the answer is kept. ``_answers`` of a candidate names
    the questions it answers, in whatever language they are asked.

    Source: XTREME-R's LAReQA set-up: candidate = sentence and context, line breaks removed.
    """
    if "qas" not in row:
        return _training_pair(row, language)
    context = row["context"]
    rows: list[Row] = [
        {
            "id": f"{language}-{qa['id']}",
            "side": "query",
            "text": qa["question"],
            "gold": [qa["id"]],
        }
        for qa in row["qas"]
    ]
    for number, (start, end) in enumerate(row["sentence_breaks"]):
        answered = [
            qa["id"]
            for qa in row["qas"]
            if any(start <= answer["answer_start"] < end for answer in qa["answers"])
        ]
        rows.append(
            {
                "id": f"{language}-{row['_number']}-{number}",
                "side": "candidate",
                "text": _one_line(f"{context[start:end]} {context}"),
                "gold": [],
                "_answers": answered,
            }
        )
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
        {
            "id": f"c-{name}",
            "side": "candidate",
            "text": _one_line(f"{sentence} {context}"),
            "gold": [],
        },
    ]


def _one_line(text: str) -> str:
    return " ".join(text.split())


def entities(row: Row, language: str) -> list[Row] | Row:
    """Make Mewsli-X mentions queries and entity descriptions candidates.

    Training pairs (``mention``, ``entity``) give one of each.
    """
    number = row["_number"]
    if "description" in row:
        return {
            "id": str(row["entity_id"]),
            "side": "candidate",
            "text": row["description"],
            "gold": [],
        }
    gold = str(row.get("entity_id", f"c-{number}"))
    query = {
        "id": f"{language}-{number}",
        "side": "query",
        "text": row["mention"],
        "gold": [gold],
    }
    if "entity" not in row:
        return query
    return [query, {"id": gold, "side": "candidate", "text": row["entity"], "gold": []}]
