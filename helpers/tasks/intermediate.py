"""The English intermediate tasks of the study, from the hub or a mirror of it, and their twins.

Row counts and revisions are the hub's own. A twin ``<name>-translated`` trains on machine-translated rows,
asked for as ``"en"``, and is judged on the task's English development rows.
"""

import csv
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from helpers.tasks import Row, Source, Task, get, register, shipped

TRAIN_DEV = {"train": "train", "dev": "validation"}
_DATA = Path(__file__).parents[2] / "data"
# The commit at which each data set of the hub is read, and the rows of its configurations.
_PINS = csv.reader((_DATA / "revisions.csv").read_text("utf-8").splitlines())
REVISIONS = dict(_PINS)
_ROWS = [*csv.DictReader((_DATA / "sizes.csv").read_text("utf-8").splitlines())]
_paper = partial(shipped, role="intermediate", group="paper")
_extra = partial(shipped, role="intermediate", group="extra")


def hub(id: str, config: str, splits: Mapping[str, str], licence: str) -> Source:
    """Return a data set of the hub at its pinned commit, with its rows by split, or by language."""
    counts = {}
    for row in (row for row in _ROWS if (row["id"], row["config"]) == (id, config)):
        for split in (split for split in splits if row[split]):
            counts[f"{row['language']}/{split}".removeprefix("/")] = int(row[split])
    at = REVISIONS.get(id, "")
    return Source("hub", id, config, splits=splits, revision=at, counts=counts, licence=licence)


# What columns alone cannot say: each takes a raw row and the language asked for (``Task.adapt``).
def full_endings(row: Row, language: str) -> Row:
    """Give a HellaSwag row its context and full endings (``ctx_b`` + ending), as jiant does."""
    endings = [f"{row['ctx_b']} {ending}".strip() for ending in row["endings"]]
    return row | {"context": row["ctx_a"], "choices": endings}


def question_context(row: Row, language: str) -> Row:
    """Join context and question, as jiant does for SocialIQA and CosmosQA."""
    return row | {"prompt": f"{row['context']} {row['question']}"}


def answer_texts(row: Row, language: str) -> Row:
    """Take the answer texts out of CommonsenseQA's ``choices`` structure."""
    return row | {"options": list(row["choices"]["text"])}


def copa_question(row: Row, language: str) -> Row:
    """Ask COPA's question as XTREME-R does: premise, then "What was the cause?" or "effect"."""
    adapted = row | {"prompt": f"{row['premise']} What was the {row['question']}?"}
    # It is wrong in some languages of XCOPA: there the source lends it from Estonian.
    if row.get("question_published", row["question"]) != row["question"]:
        adapted["_note"] = "question repaired from the Estonian rows"
    return adapted


# Columns, labels and adapters of sets that several tasks read.
NLI: dict[str, Any] = {"columns": {"first": "premise", "second": "hypothesis"}}
NLI |= {"labels": ("entailment", "neutral", "contradiction")}
COMMONSENSE: dict[str, Any] = {"labels": "A B C D E", "adapt": answer_texts}
COMMONSENSE["columns"] = {"context": "question", "choices": "options", "label": "answerKey"}
SOCIAL: dict[str, Any] = {"labels": "1 2 3", "adapt": question_context}
SOCIAL["columns"] = {"context": "prompt", "choices": "answerA,answerB,answerC"}
COPA: dict[str, Any] = {"labels": "choice1 choice2", "adapt": copa_question}
COPA["columns"] = {"id": "idx", "context": "prompt", "choices": "choice1,choice2"}

_MATCHED = {"train": "train", "dev": "validation_matched"}
_OANC = "OANC, CC BY 3.0, CC BY-SA 3.0, MIT (by genre)"
_MNLI = hub("nyu-mll/glue", "mnli", _MATCHED, _OANC)
_SA = "CC BY-SA 4.0"
_SNLI = hub("stanfordnlp/snli", "plain_text", TRAIN_DEV, _SA)
_ANLI = hub("facebook/anli", "plain_text", {}, "CC BY-NC 4.0 (non-commercial)")
_PARTS = [_SNLI, _MNLI]
for _n, _size, _held in ((1, 16946, 1000), (2, 45460, 1000), (3, 100459, 1200)):
    _SPLITS, _SIZES = {s: f"{s}_r{_n}" for s in TRAIN_DEV}, {"train": _size, "dev": _held}
    # A partial mirror may hold the first round only; what is missing is noted in the rows.
    _PARTS.append(replace(_ANLI, splits=_SPLITS, counts=_SIZES, optional=_n > 1))
_NONCOMMERCIAL = "CC BY-NC 4.0 for the ANLI part (non-commercial)"
_MIXED = Source("hub", "SNLI + MNLI + ANLI", parts=(*_PARTS,), licence=_NONCOMMERCIAL)
_paper("anli_plus", "pair", _MIXED, origin="snli mnli anli", holds="snli mnli anli", **NLI)
MNLI = _paper("mnli", "pair", _MNLI, **NLI)

_QUORA = "Quora's terms, no redistribution"
_QQP = hub("nyu-mll/glue", "qqp", TRAIN_DEV, _QUORA)
_COLUMNS = {"first": "question1", "second": "question2"}
_LABELS = "not_duplicate duplicate"
# PAWS was made from Quora questions and from Wikipedia; PAWS-X translates the latter part.
_paper("qqp", "pair", _QQP, columns=_COLUMNS, labels=_LABELS, origin="quora paws")

_SQUAD = hub("rajpurkar/squad", "plain_text", TRAIN_DEV, _SA)
SQUAD1 = _paper("squad1", "span", _SQUAD, origin="squad")
_SQUAD2 = hub("rajpurkar/squad_v2", "squad_v2", TRAIN_DEV, _SA)
_paper("squad2", "span", _SQUAD2, metric="squad2", origin="squad", holds="squad2 squad1")

_HELLASWAG = hub("Rowan/hellaswag", "", TRAIN_DEV, "MIT")
_COLUMNS = {"id": "ind"}
_paper("hellaswag", "choice", _HELLASWAG, columns=_COLUMNS, labels="0 1 2 3", adapt=full_endings)

_OWN = {"train": "train", "dev": "dev", "test": "test"}
_CCG = Source("folder", "CCGBANK_ROOT", "ccgbank", splits=_OWN, licence="LDC user agreement")
_paper("ccg", "tagging", _CCG, max_length=256, origin="wsj")
_PMB = replace(_CCG, id="PMB_ROOT", config="pmb", licence="not stated in the release's index")
_extra("ccg-pmb", "tagging", _PMB, origin="tatoeba pmb")
_HOW = (
    "It stands in for CCG supertagging: plan with 'ccg' (needs CCGBANK_ROOT) or 'ccg-pmb' (PMB_ROOT), or "
    "make it from UniversalDependencies/UD_English-EWT on GitHub (commit 15d613d8): words and XPOS as "
    "columns tokens and tags, configuration xpos, en_ewt-ud-dev as split train, -test as validation"
)
_EWT = replace(hub("extra/ud-english-ewt", "xpos", TRAIN_DEV, _SA), unpublished=_HOW)
_extra("xpos-ewt", "tagging", _EWT, exclude="udpos", origin="ud-ewt")

_COSMOS = hub("Samsoup/cosmos_qa", "", TRAIN_DEV, "CC BY 4.0")
_COLUMNS = {"context": "prompt", "choices": "answer0,answer1,answer2,answer3"}
_FACTS: dict[str, Any] = {"columns": _COLUMNS, "labels": "0 1 2 3", "max_length": 256}
_paper("cosmosqa", "choice", _COSMOS, adapt=question_context, **_FACTS)
_COMMONSENSE = hub("tau/commonsense_qa", "", TRAIN_DEV, "MIT")
_paper("commonsenseqa", "choice", _COMMONSENSE, origin="conceptnet", **COMMONSENSE)
_UNSTATED = "not stated on the hub"
_SIQA = hub("lighteval/siqa", "", TRAIN_DEV, _UNSTATED)
_extra("siqa", "choice", _SIQA, **SOCIAL)
_COPA = hub("aps/super_glue", "copa", TRAIN_DEV, _UNSTATED)
# The training set of XCOPA, here so that it can be trained on.
_extra("copa", "choice", _COPA, **COPA)


def translated(task: Task, train: tuple[Source, ...], by: str) -> Task:
    """Register the twin of an intermediate: translated training rows, English development rows."""
    english = tuple(
        replace(leaf, splits={s: name for s, name in leaf.splits.items() if s != "train"})
        for leaf in task.source.flat()
    )
    trap = "Training text is machine-translated; development is English."
    genre, traps = f"{task.name} machine-translated {by}", (*task.about.traps, trap)
    about = replace(task.about, genre=genre, traps=traps, examples={})
    own, source = (task.name,), replace(task.source, parts=(*train, *english))
    names = {"name": f"{task.name}-translated", "group": "translated", "about": about}
    facts: dict[str, Any] = names | {"origin": task.origin or own, "holds": task.holds or own}
    return register(replace(task, source=source, **facts))


_XNLI = hub("facebook/xnli", "{language}", {"train": "train"}, _UNSTATED)
_MIX = tuple(replace(_XNLI, language=language) for language in ("de", "ru", "sw"))
translated(MNLI, _MIX, "into de, ru, sw")
# Of other tasks the user has the translations: <name>/<language>/train.jsonl in a folder.
_MADE = Source("folder", "TRANSFER_TRANSLATIONS", licence="that of the user's folder")
for _name in ("anli_plus", "qqp", "squad1", "squad2", "hellaswag", "cosmosqa", "commonsenseqa"):
    translated(get(_name), (replace(_MADE, config=f"translations/{_name}"),), "by the user")
