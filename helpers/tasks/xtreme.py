"""The target tasks of XTREME and of XTREME-R, from the hub or a mirror of it.

Another copy is read where ``google/xtreme`` is damaged: the traps in data/tasks.yaml say which and why.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from helpers.errors import BadRows
from helpers.tasks import About, Row, Source, Task, register, shipped
from helpers.tasks.intermediate import COPA, NLI, REVISIONS, SQUAD1, TRAIN_DEV, hub

UPOS = "ADJ ADP ADV AUX CCONJ DET INTJ NOUN NUM PART PRON PROPN PUNCT SCONJ SYM VERB X"
NER = "O B-PER I-PER B-ORG I-ORG B-LOC I-LOC"

PAWSX_LANGUAGES = tuple("en de es fr ja ko zh".split())
UDPOS_LANGUAGES = tuple(
    "en af ar bg de el es et eu fa fi fr he hi hu id it ja kk ko mr nl pt ru ta te th tl tr ur vi "
    "yo zh".split()
)
PANX_LANGUAGES = tuple(
    "en af ar bg bn de el es et eu fa fi fr he hi hu id it ja jv ka kk ko ml mr ms my nl pt ru sw "
    "ta te th tl tr ur vi yo zh".split()
)
XQUAD_LANGUAGES = tuple("en ar de el es hi ru th tr vi zh".split())
TYDIQA_PREFIXES = dict(
    pair.split(":")
    for pair in "english:en arabic:ar bengali:bn finnish:fi indonesian:id korean:ko russian:ru "
    "swahili:sw telugu:te".split()
)
# Language code to the three-letter code of Tatoeba's files.
TATOEBA_CODES = dict(
    pair.split(":")
    for pair in "af:afr ar:ara bn:ben bg:bul zh:cmn de:deu el:ell et:est eu:eus fi:fin fr:fra "
    "he:heb hi:hin hu:hun id:ind it:ita jv:jav ja:jpn ka:kat kk:kaz ko:kor ml:mal mr:mar nl:nld "
    "fa:pes pt:por ru:rus es:spa sw:swh ta:tam te:tel tl:tgl th:tha tr:tur ur:urd vi:vie".split()
)

# Sentence ends for SQuAD passages, whose hub copy has no sentence breaks.
_SENTENCE_END = re.compile(r"(?<=[.!?])[\"')\]]*\s+(?=[\"'(\[]*[A-Z0-9])")
# Letters of polytonic Greek: the mark of Ancient Greek treebanks mixed into a Greek set.
_POLYTONIC = re.compile(r"[\u1f00-\u1fff]")


def placeholder(row: Row, language: str) -> Row:
    """Note PAWS-X pairs without a translation ("NS" or empty); they stay, as in published scores."""
    if {row["sentence1"].strip(), row["sentence2"].strip()} & {"NS", ""}:
        return row | {"_note": "sentence without translation ('NS' or empty) kept"}
    return row


def modern(row: Row, language: str) -> Row:
    """Leave Ancient Greek sentences out of Greek."""
    tokens = row.get("tokens") or row.get("words") or ()
    if language == "el" and any(_POLYTONIC.search(token) for token in tokens):
        return row | {"_dropped": "polytonic letters: a sentence of an Ancient Greek treebank"}
    return row


def tydiqa(row: Row, language: str) -> Row:
    """Tell the language of a row of the mixed TyDi QA set by the name that its id begins with."""
    return row | {"_language": TYDIQA_PREFIXES[row["id"].split("-", 1)[0]]}


def _query(name: str, text: str, *gold: str) -> Row:
    return {"id": name, "side": "query", "text": text, "gold": list(gold)}


def _candidate(name: str, text: str) -> Row:
    return {"id": name, "side": "candidate", "text": text, "gold": []}


def bitext(row: Row, language: str) -> list[Row]:
    """Make the English sentence a query and its translation a candidate (both copies of Tatoeba)."""
    hub = "source_sentence" in row
    columns = ("source_sentence", "target_sentence") if hub else ("sentence1", "sentence2")
    # In google/xtreme every sentence ends with a line break.
    foreign, english = (row[column].strip() for column in columns)
    name = f"{language}-{row['_number']}"
    return [_query(f"en-{row['_number']}", english, name), _candidate(name, foreign)]


def half(key: str) -> str:
    """Divide by the hash of a key, once and for all: ``"dev"`` or ``"test"``."""
    return "dev" if hashlib.sha256(key.encode()).digest()[0] < 128 else "test"


def bucc(row: Row, language: str) -> list[Row]:
    """Divide BUCC's two corpora into halves, as the hub lacks its small development corpora."""
    foreign, english = row["sentence1"], row["sentence2"]
    gold: dict[int, list[str]] = {}
    # Pairs stay together: a sentence of several takes all of them into the half of its first.
    group, owner = list(range(len(foreign))), dict[int, int]()
    for one, other in row["gold"]:
        if not (1 <= one <= len(foreign) and 1 <= other <= len(english)):
            sizes = f"up to {len(foreign)} foreign and {len(english)} English sentences"
            cause = "this copy counts from 0, swaps the sides or is cut: use another one"
            pair = f"gold pair ({one}, {other}); pairs count from 1, {sizes}"
            raise BadRows(f"BUCC, {language!r}: {pair}; {cause}.")
        i, j = one - 1, other - 1
        gold.setdefault(i, []).append(f"en-{other}")
        old, first = group[i], group[owner.setdefault(j, i)]
        if old != first:
            group = [first if number == old else number for number in group]
    rows: list[Row] = []
    for i, text in enumerate(foreign):
        query = _query(f"{language}-{i + 1}", text.strip(), *gold.get(i, ()))
        rows.append(query | {"_split": half(f"{language}-{group[i]}")})
    for j, text in enumerate(english):
        key = f"{language}-{group[owner[j]]}" if j in owner else f"en-{j}"
        rows.append(_candidate(f"en-{j + 1}", text.strip()) | {"_split": half(key)})
    return rows


def answer_sentences(row: Row, language: str) -> list[Row]:
    """Make questions queries, and sentences with their paragraph candidates (LAReQA)."""
    if "qas" not in row:  # a SQuAD question and the sentence of its answer; no breaks are stated
        context, answers, name = row["context"], row["answers"], row["id"]
        if not answers["text"]:
            return [row | {"_dropped": "no answer"}]
        breaks = [0, *(match.end() for match in _SENTENCE_END.finditer(context)), len(context)]
        for begin, end in zip(breaks, breaks[1:], strict=False):
            if begin <= answers["answer_start"][0] < end:
                text = " ".join(f"{context[begin:end]} {context}".split())
                query = _query(f"q-{name}", row["question"], f"c-{name}")
                return [query, _candidate(f"c-{name}", text)]
        return [row | {"_dropped": "answer outside its passage"}]
    context, asked = row["context"], row["qas"]
    rows = [_query(f"{language}-{qa['id']}", qa["question"], qa["id"]) for qa in asked]
    for number, (start, end) in enumerate(row["sentence_breaks"]):
        starts = ((qa["id"], answer["answer_start"]) for qa in asked for answer in qa["answers"])
        answered = list(dict.fromkeys(name for name, place in starts if start <= place < end))
        # As in XTREME-R a candidate is a sentence and its context, line breaks removed; it answers
        # questions in whatever language they are asked.
        text = " ".join(f"{context[start:end]} {context}".split())
        candidate = _candidate(f"{language}-{row['_number']}-{number}", text)
        rows.append(candidate | {"_answers": answered})
    return rows


def entities(row: Row, language: str) -> list[Row]:
    """Make Mewsli-X mentions queries and entity descriptions candidates; training pairs give both."""
    # Pairs are told apart by their row: one entity is mentioned in many of them.
    number = row["_number"]
    if "description" in row:
        return [_candidate(str(row["entity_id"]), row["description"])]
    gold = f"c-{number}" if "entity" in row else str(row["entity_id"])
    query = _query(f"{language}-{number}", row["mention"], gold)
    return [query, _candidate(gold, row["entity"])] if "entity" in row else [query]


_target = partial(shipped, role="target", group="xtreme")
_new = partial(shipped, role="target", group="xtreme-r")
_both = partial(shipped, role="target", group="xtreme,xtreme-r")
_ALL = {"train": "train", "dev": "validation", "test": "test"}
_HELD = {"dev": "validation", "test": "test"}
_TEST = {"test": "test"}
_VALIDATION = {"test": "validation"}


def zero_shot(source: Source, languages: tuple[str, ...], splits: Mapping[str, str]) -> Source:
    """Offer all splits of a source in English, and some of them elsewhere: no training rows."""
    rest = tuple(code for code in languages if code != "en")
    others = replace(source, languages=rest, splits=splits)
    return replace(source, parts=(replace(source, languages=("en",)), others))


_XNLI = hub("facebook/xnli", "{language}", _HELD, "not stated on the hub")
_FACTS: dict[str, Any] = NLI | {"languages": "en ar bg de el es fr hi ru sw th tr ur vi zh"}
_both("xnli", "pair", _XNLI, train_with="mnli", origin="mnli", **_FACTS)

_ID, _FREE = "google-research-datasets/paws-x", "free use with attribution"
_PAWSX = hub(_ID, "{language}", _ALL, _FREE)
_FACTS = {"labels": "0 1", "languages": PAWSX_LANGUAGES, "origin": "paws"}
_FACTS |= {"columns": {"first": "sentence1", "second": "sentence2"}, "adapt": placeholder}
PAWSX = _target("pawsx", "pair", zero_shot(_PAWSX, PAWSX_LANGUAGES, _HELD), **_FACTS)

# The modern Greek treebank alone; with Ancient Greek mixed in there are 2,809 rows.
_TREEBANKS = "UD 2.7, a licence per treebank"
_UDPOS = hub("izhx/xtreme-r-udpos", "{language}", _ALL, _TREEBANKS)
_FACTS = {"labels": UPOS, "languages": UDPOS_LANGUAGES, "adapt": modern, "metric": "span_f1"}
_FACTS["columns"] = {"tokens": "tokens|words", "tags": "pos_tags|upos|labels|tags"}
# Checkpoints are chosen on English only, so no other language offers development rows.
_SOURCE = zero_shot(_UDPOS, UDPOS_LANGUAGES, _TEST)
UDPOS = _target("udpos", "tagging", _SOURCE, origin="ud-ewt ud", **_FACTS)

_PANX = hub("google/xtreme", "PAN-X.{language}", _ALL, "not stated")
_FACTS = {"labels": NER, "languages": PANX_LANGUAGES, "metric": "span_f1", "origin": "wikiann"}
_SOURCE = zero_shot(_PANX, PANX_LANGUAGES, _HELD)
PANX = _target("panx", "tagging", _SOURCE, columns={"tags": "ner_tags"}, **_FACTS)

_XQUAD = hub("google/xquad", "xquad.{language}", _VALIDATION, "CC BY-SA 4.0")
_FACTS = {"languages": XQUAD_LANGUAGES, "train_with": "squad1", "origin": "squad"}
XQUAD = _target("xquad", "span", _XQUAD, **_FACTS)

_MLQA = hub("google/xtreme", "MLQA.{language}.{language}", _HELD, "CC BY-SA 3.0")
_FACTS = {"languages": "en ar de es hi vi zh", "train_with": "squad1", "metric": "mlqa"}
MLQA = _both("mlqa", "span", _MLQA, **_FACTS)

# English dev is English test, as in XTREME; no other language is looked at before the end.
_SPLITS, _LANGUAGES = _ALL | _VALIDATION, tuple(TYDIQA_PREFIXES.values())
_TYDIQA = hub("google/xtreme", "tydiqa", _SPLITS, "Apache-2.0")
_TYDIQA = zero_shot(_TYDIQA, _LANGUAGES, _VALIDATION)
_both("tydiqa", "span", _TYDIQA, languages=_LANGUAGES, adapt=tydiqa)

_BUCC = hub("mteb/BUCC", "{language}-en", {"dev": "test"} | _TEST, "not stated")
_FACTS = {"languages": "de fr ru zh", "adapt": bucc, "metric": "pair_f1", "max_length": 512}
_target("bucc2018", "retrieval", _BUCC, **_FACTS)

_CONFIGS = {code: f"tatoeba.{name}" for code, name in TATOEBA_CODES.items()}
_SOURCE = replace(hub("google/xtreme", "", _VALIDATION, "CC BY 2.0"), configs=_CONFIGS)
_FACTS = {"languages": tuple(sorted(TATOEBA_CODES)), "adapt": bitext, "max_length": 512}
TATOEBA = _target("tatoeba", "retrieval", _SOURCE, origin="tatoeba", **_FACTS)

# Targets that are evaluated on their development rows, and named so.
for _task in (PAWSX, PANX, MLQA):
    _WHOLE = ((one, one.splits["dev"]) for one in (_task.source, *_task.source.parts))
    _SOURCE, *_PARTS = (replace(one, splits={**one.splits, "test": dev}) for one, dev in _WHOLE)
    _SOURCE = replace(_SOURCE, parts=tuple(_PARTS), counts={})
    _TRAP = "Scored on the published development rows: not comparable with test scores."
    _ABOUT = replace(_task.about, traps=(*_task.about.traps, _TRAP), examples={})
    _FACTS = {"name": f"{_task.name}-dev", "group": "on-dev", "about": _ABOUT}
    register(replace(_task, source=_SOURCE, **_FACTS))


# What XTREME-R adds: three tasks and longer language lists.
def _longer(task: Task, languages: tuple[str, ...], **facts: Any) -> Task:
    facts |= {"languages": languages, "group": "xtreme-r", "about": About()}
    return register(replace(task, name=f"{task.name}-xr", **facts))


_XCOPA = hub("cambridgeltl/xcopa", "{language}", _HELD, "CC BY 4.0")
_XCOPA = replace(_XCOPA, borrow={"question": "et"})
_FACTS = COPA | {"languages": "et ht id it qu sw ta th tr vi zh"}
_new("xcopa", "choice", _XCOPA, train_with="copa", origin="copa", **_FACTS)
_LANGUAGES = (*UDPOS_LANGUAGES, *"lt pl ro uk wo".split())
_longer(UDPOS, _LANGUAGES, source=zero_shot(_UDPOS, _LANGUAGES, _TEST), train_with="udpos")
_WIKIANN = hub("unimelb-nlp/wikiann", "{language}", _HELD, "not stated")
_WIKIANN = replace(_WIKIANN, languages=tuple("az gu lt pa pl qu ro uk".split()))
_NAME, _BOTH = "google/xtreme PAN-X + unimelb-nlp/wikiann", (*PANX.source.parts, _WIKIANN)
_SOURCE = Source("hub", _NAME, licence="not stated", parts=_BOTH)
_LANGUAGES = (*PANX_LANGUAGES, *_WIKIANN.languages)
PANX_XR = _longer(PANX, _LANGUAGES, source=_SOURCE, train_with="panx")
_longer(XQUAD, (*XQUAD_LANGUAGES, "ro"))
_CODES = TATOEBA_CODES | {"az": "aze", "lt": "lit", "pl": "pol", "ro": "ron", "uk": "ukr"}
_COPY = hub("mteb/tatoeba-bitext-mining", "", _TEST, "CC BY 2.0")
_CONFIGS = {code: f"{name}-eng" for code, name in _CODES.items()}
_longer(TATOEBA, tuple(sorted(_CODES)), source=replace(_COPY, configs=_CONFIGS))

_ID = "google-research-datasets/lareqa"
_LAREQA = hub(_ID, "xquad-r/{language}.json", _TEST, "CC BY-SA 4.0")
_URL = f"https://raw.githubusercontent.com/{_ID}/{REVISIONS[_ID]}/"
_LAREQA = replace(_LAREQA, kind="files", url=_URL)
# The pool holds the sentences of all languages; a partial mirror may lack some of them.
_SIDE = replace(_LAREQA, side="candidate", optional=True)
_POOL = tuple(replace(_SIDE, language=code) for code in XQUAD_LANGUAGES)
_SQUAD_PAIRS = replace(SQUAD1.source, languages=("en",))
_SOURCE = replace(_LAREQA, parts=(replace(_LAREQA, side="query"), *_POOL, _SQUAD_PAIRS))
_FACTS = {"languages": XQUAD_LANGUAGES, "adapt": answer_sentences, "metric": "map@20"}
_FACTS |= {"max_length": 256, "origin": "squad", "holds": "squad1"}
_new("lareqa", "retrieval", _SOURCE, **_FACTS)

_ID, _APACHE = "izhx/mewsli-x", "Apache-2.0"
_MENTIONED = hub(_ID, "{language}", _TEST, _APACHE)
_ENTITIES = hub(_ID, "candidate_entities", _TEST, _APACHE)
# One pool for all: standardised once, not once per language asked for.
_ENTITIES = replace(_ENTITIES, side="candidate", language="en")
_PAIRS = hub(_ID, "wikipedia_pairs", TRAIN_DEV, _APACHE)
_MEWSLI = (replace(_MENTIONED, side="query"), _ENTITIES, replace(_PAIRS, languages=("en",)))
_MENTIONED = replace(_MENTIONED, parts=_MEWSLI)
_FACTS = {"languages": "ar de en es fa ja pl ro ta tr uk", "adapt": entities, "max_length": 64}
_new("mewslix", "retrieval", _MENTIONED, metric="mrr@20", **_FACTS)
