"""The target tasks of XTREME and of XTREME-R, from the hub or a mirror of it.

Where the hub's ``google/xtreme`` copy is damaged, another copy is read; the traps in data/tasks.yaml
say which and why.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from helpers.tasks import About, Source, Task, adapt, register, shipped
from helpers.tasks.intermediate import COPA, NLI, REVISIONS, SQUAD1, TRAIN_DEV, hub

UPOS = tuple(
    "ADJ ADP ADV AUX CCONJ DET INTJ NOUN NUM PART PRON PROPN PUNCT SCONJ SYM VERB X".split()
)
NER = ("O", "B-PER", "I-PER", "B-ORG", "I-ORG", "B-LOC", "I-LOC")

XNLI_LANGUAGES = tuple("en ar bg de el es fr hi ru sw th tr ur vi zh".split())
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
MLQA_LANGUAGES = tuple("en ar de es hi vi zh".split())
BUCC_LANGUAGES = ("de", "fr", "ru", "zh")
XCOPA_LANGUAGES = tuple("et ht id it qu sw ta th tr vi zh".split())
MEWSLIX_LANGUAGES = tuple("ar de en es fa ja pl ro ta tr uk".split())
TYDIQA_LANGUAGES = tuple(adapt.TYDIQA_PREFIXES.values())
# Language code to the three-letter code of Tatoeba's files.
TATOEBA_CODES = {
    code: name
    for code, name in (
        pair.split(":")
        for pair in "af:afr ar:ara bn:ben bg:bul zh:cmn de:deu el:ell et:est eu:eus fi:fin fr:fra "
        "he:heb hi:hin hu:hun id:ind it:ita jv:jav ja:jpn ka:kat kk:kaz ko:kor ml:mal mr:mar nl:nld "
        "fa:pes pt:por ru:rus es:spa sw:swh ta:tam te:tel tl:tgl th:tha tr:tur ur:urd vi:vie".split()
    )
}

# Published sizes of PAN-X: train, and validation = test; then those of WikiANN's other languages.
_PANX_SIZES = {
    (20000, 10000): "ar bg de el en es fa fi fr he hu id it ja ko nl pt ru th tr vi zh",
    (15000, 10000): "et",
    (10000, 10000): "eu ka",
    (20000, 1000): "ms ur",
    (15000, 1000): "ta",
    (10000, 1000): "bn ml tl",
    (5000, 1000): "af hi mr",
    (1000, 1000): "kk sw te",
    (100, 100): "jv my yo",
}
_WIKIANN_SIZES = {
    (10000, 1000): "az",
    (100, 100): "gu pa qu",
    (10000, 10000): "lt",
    (20000, 10000): "pl ro uk",
}
_WIKIANN_LANGUAGES = tuple("az gu lt pa pl qu ro uk".split())
_TATOEBA_COUNTS = {"jv": 205, "ka": 746, "kk": 575, "ml": 687, "sw": 390, "ta": 307, "te": 234}
_TATOEBA_COUNTS |= {"th": 548}
_TATOEBA = {f"{code}/test": _TATOEBA_COUNTS.get(code, 1000) for code in TATOEBA_CODES}
_MLQA_DEV = {"ar": 517, "de": 512, "en": 1148, "es": 500, "hi": 507, "vi": 511, "zh": 504}
_MLQA_TEST = {"ar": 5335, "de": 4517, "en": 11590, "es": 5253, "hi": 4918, "vi": 5495, "zh": 5137}
_MLQA = {f"{code}/dev": n for code, n in _MLQA_DEV.items()}
_MLQA |= {f"{code}/test": n for code, n in _MLQA_TEST.items()}
_MENTIONS = {"ar": 1501, "de": 1551, "en": 1490, "es": 1552, "fa": 458, "ja": 1519, "pl": 1562}
_MENTIONS |= {"ro": 672, "ta": 1567, "tr": 1215, "uk": 1537}

_task = partial(shipped, role="target")
_ALL = {"train": "train", "dev": "validation", "test": "test"}
_HELD = {"dev": "validation", "test": "test"}
_TEST = {"test": "test"}
_VALIDATION = {"test": "validation"}
_BOTH = {"dev": "test", "test": "test"}


def _zero_shot(source: Source, languages: tuple[str, ...], splits: Mapping[str, str]) -> Source:
    """Offer all splits of a source in English, and some of them elsewhere: no training rows."""
    rest = tuple(code for code in languages if code != "en")
    others = replace(source, languages=rest, splits=splits)
    return replace(source, parts=(replace(source, languages=("en",)), others))


def _panx_counts(sizes: Mapping[tuple[int, int], str]) -> dict[str, int]:
    """Return expected rows keyed ``language/split`` from train and evaluation sizes."""
    counts: dict[str, int] = {}
    for (train, held), codes in sizes.items():
        for code in codes.split():
            counts |= {f"{code}/train": train, f"{code}/dev": held, f"{code}/test": held}
    return counts


_task(
    "xnli",
    format="pair",
    group="xtreme,xtreme-r",
    source=hub("facebook/xnli", "{language}", _HELD, "not stated on the hub", dev=2490, test=5010),
    columns={"first": "premise", "second": "hypothesis"},
    labels=NLI,
    languages=XNLI_LANGUAGES,
    train_with="mnli",
    origin=("mnli",),
)

_PAWSX = hub(
    "google-research-datasets/paws-x",
    "{language}",
    _ALL,
    "free use with attribution",
    train=49401,
    dev=2000,
    test=2000,
)
_task(
    "pawsx",
    format="pair",
    group="xtreme",
    source=_zero_shot(_PAWSX, PAWSX_LANGUAGES, _HELD),
    columns={"first": "sentence1", "second": "sentence2"},
    labels=("0", "1"),
    languages=PAWSX_LANGUAGES,
    adapt=adapt.placeholder,
    origin=("paws",),
)

_TREEBANKS = "UD 2.7, a licence per treebank"
# The modern Greek treebank alone; with Ancient Greek mixed in there are 2,809 rows.
_UDPOS = hub("izhx/xtreme-r-udpos", "{language}", _ALL, _TREEBANKS, **{"el/test": 456})
# Checkpoints are chosen on English only, so no other language offers development rows.
UDPOS = _task(
    "udpos",
    format="tagging",
    group="xtreme",
    source=_zero_shot(_UDPOS, UDPOS_LANGUAGES, _TEST),
    columns={"tokens": "tokens|words", "tags": "pos_tags|upos|labels|tags"},
    labels=UPOS,
    languages=UDPOS_LANGUAGES,
    adapt=adapt.modern,
    metric="span_f1",
    origin=("ud-ewt", "ud"),
)

_SIZES = _panx_counts(_PANX_SIZES)
_PANX = hub("google/xtreme", "PAN-X.{language}", _ALL, "not stated", **_SIZES)
PANX = _task(
    "panx",
    format="tagging",
    group="xtreme",
    source=_zero_shot(_PANX, PANX_LANGUAGES, _HELD),
    columns={"tags": "ner_tags"},
    labels=NER,
    languages=PANX_LANGUAGES,
    metric="span_f1",
    origin=("wikiann",),
)

XQUAD = _task(
    "xquad",
    format="span",
    group="xtreme",
    source=hub("google/xquad", "xquad.{language}", _VALIDATION, "CC BY-SA 4.0", test=1190),
    languages=XQUAD_LANGUAGES,
    train_with="squad1",
    max_length=384,
    origin=("squad",),
)

MLQA = _task(
    "mlqa",
    format="span",
    group="xtreme,xtreme-r",
    source=hub("google/xtreme", "MLQA.{language}.{language}", _HELD, "CC BY-SA 3.0", **_MLQA),
    languages=MLQA_LANGUAGES,
    train_with="squad1",
    metric="mlqa",
    max_length=384,
)

_TYDIQA = hub(
    "google/xtreme",
    "tydiqa",
    _ALL | _VALIDATION,
    "Apache-2.0",
    train=49881,
    dev=5077,
    test=5077,
)
_task(
    "tydiqa",
    format="span",
    group="xtreme,xtreme-r",
    # English dev is English test, as in XTREME; no other language is looked at before the end.
    source=_zero_shot(_TYDIQA, TYDIQA_LANGUAGES, _VALIDATION),
    languages=TYDIQA_LANGUAGES,
    adapt=adapt.tydiqa,
    max_length=384,
)

_task(
    "bucc2018",
    format="retrieval",
    group="xtreme",
    source=hub("mteb/BUCC", "{language}-en", _BOTH, "not stated", dev=1, test=1),
    languages=BUCC_LANGUAGES,
    adapt=adapt.bucc,
    metric="pair_f1",
    max_length=512,
)

TATOEBA = _task(
    "tatoeba",
    format="retrieval",
    group="xtreme",
    source=replace(
        hub("google/xtreme", "", _VALIDATION, "CC BY 2.0", **_TATOEBA),
        configs={code: f"tatoeba.{name}" for code, name in TATOEBA_CODES.items()},
    ),
    languages=tuple(sorted(TATOEBA_CODES)),
    adapt=adapt.bitext,
    max_length=512,
    origin=("tatoeba",),
)


def _on_dev(task: Task) -> Task:
    """Register a target that is evaluated on its development rows, where test is not at hand.

    Its name says so, because the scores are not those of the test split; nothing is trained or
    chosen on a language other than English all the same.
    """
    source = task.source
    parts = tuple(replace(p, splits={**p.splits, "test": p.splits["dev"]}) for p in source.parts)
    splits = {**source.splits, "test": source.splits["dev"]}
    source = replace(source, parts=parts, splits=splits, counts={})
    trap = "Scored on the published development rows: not comparable with test scores."
    about = replace(task.about, traps=(*task.about.traps, trap), examples={})
    name = f"{task.name}-dev"
    return register(replace(task, name=name, source=source, about=about, group="on-dev"))


_on_dev(PANX)
_on_dev(MLQA)


# What XTREME-R adds: three tasks and longer language lists.
def _longer(task: Task, languages: tuple[str, ...], **facts: Any) -> Task:
    name = f"{task.name}-xr"
    facts |= {"languages": languages, "group": "xtreme-r", "about": About()}
    return register(replace(task, name=name, **facts))


_task(
    "xcopa",
    format="choice",
    group="xtreme-r",
    source=replace(
        hub("cambridgeltl/xcopa", "{language}", _HELD, "CC BY 4.0", dev=100, test=500),
        borrow={"question": "et"},
    ),
    columns=COPA.columns,
    labels=COPA.labels,
    languages=XCOPA_LANGUAGES,
    train_with="copa",
    adapt=adapt.copa,
    origin=("copa",),
)
_UDPOS_XR = (*UDPOS_LANGUAGES, *"lt pl ro uk wo".split())
_longer(UDPOS, _UDPOS_XR, source=_zero_shot(_UDPOS, _UDPOS_XR, _TEST), train_with="udpos")
_SIZES = _panx_counts(_WIKIANN_SIZES)
_WIKIANN = hub("unimelb-nlp/wikiann", "{language}", _HELD, "not stated", **_SIZES)
PANX_XR = _longer(
    PANX,
    (*PANX_LANGUAGES, *_WIKIANN_LANGUAGES),
    source=Source(
        "hub",
        "google/xtreme PAN-X + unimelb-nlp/wikiann",
        licence="not stated",
        parts=(*PANX.source.parts, replace(_WIKIANN, languages=_WIKIANN_LANGUAGES)),
    ),
    train_with="panx",
)
_longer(XQUAD, (*XQUAD_LANGUAGES, "ro"))
_TATOEBA_XR = TATOEBA_CODES | {"az": "aze", "lt": "lit", "pl": "pol", "ro": "ron", "uk": "ukr"}
_longer(
    TATOEBA,
    tuple(sorted(_TATOEBA_XR)),
    source=replace(
        hub("mteb/tatoeba-bitext-mining", "", _TEST, "CC BY 2.0"),
        configs={code: f"{name}-eng" for code, name in _TATOEBA_XR.items()},
    ),
)

_LAREQA_ID = "google-research-datasets/lareqa"
_LAREQA = replace(
    hub(_LAREQA_ID, "xquad-r/{language}.json", _TEST, "CC BY-SA 4.0"),
    kind="files",
    url=f"https://raw.githubusercontent.com/{_LAREQA_ID}/{REVISIONS[_LAREQA_ID]}/",
)
# The pool holds the sentences of all languages; a partial mirror may lack some of them.
_POOL = tuple(
    replace(_LAREQA, side="candidate", language=code, optional=True) for code in XQUAD_LANGUAGES
)
_SQUAD_PAIRS = replace(SQUAD1.source, languages=("en",))
_task(
    "lareqa",
    format="retrieval",
    group="xtreme-r",
    source=replace(_LAREQA, parts=(replace(_LAREQA, side="query"), *_POOL, _SQUAD_PAIRS)),
    languages=XQUAD_LANGUAGES,
    adapt=adapt.answer_sentences,
    metric="map@20",
    max_length=256,
    origin=("squad",),
    holds=("squad1",),
)

_APACHE = "Apache-2.0"
_BY_LANGUAGE = {f"{code}/test": count for code, count in _MENTIONS.items()}
_MENTIONED = hub("izhx/mewsli-x", "{language}", _TEST, _APACHE, **_BY_LANGUAGE)
_ENTITIES = hub("izhx/mewsli-x", "candidate_entities", _TEST, _APACHE, test=1003893)
_PAIRS = hub("izhx/mewsli-x", "wikipedia_pairs", TRAIN_DEV, _APACHE, train=167719, dev=14051)
_task(
    "mewslix",
    format="retrieval",
    group="xtreme-r",
    source=replace(
        _MENTIONED,
        parts=(
            replace(_MENTIONED, side="query"),
            # One pool for all: standardised once, not once per language asked for.
            replace(_ENTITIES, side="candidate", language="en"),
            replace(_PAIRS, languages=("en",)),
        ),
    ),
    languages=MEWSLIX_LANGUAGES,
    adapt=adapt.entities,
    metric="mrr@20",
    max_length=64,
)
