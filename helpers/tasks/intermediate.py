"""The English intermediate tasks of the study, from the hub or a mirror of it, and their twins.

Row counts and pinned revisions were read from the hub's own metadata; they are checked on the hub.
A twin ``<name>-translated`` (condition ``translated``) trains on machine-translated rows and is
judged on the task's English development rows; what it trains on is asked for as ``"en"``.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from helpers.errors import HelpfulError
from helpers.tasks import Source, Task, adapt, get, register, shipped

NLI = ("entailment", "neutral", "contradiction")
XNLI_REVISION = "b8dd5d7af51114dbda02c0e3f6133f332186418e"
_GLUE = "bcdcba79d07bc864c1c254ccfcedcce55bcc9a8c"
_DEV = {"train": "train", "dev": "validation"}
_NLI_COLUMNS = {"first": "premise", "second": "hypothesis"}
_paper = partial(shipped, role="intermediate", group="paper")
_extra = partial(shipped, role="intermediate", group="extra")


def _hub(id: str, config: str, revision: str, train: int, dev: int, licence: str) -> Source:
    """Return a hub set whose validation rows are dev; its test labels are hidden."""
    counts = {"train": train, "dev": dev}
    return Source("hub", id, config, splits=_DEV, revision=revision, counts=counts, licence=licence)


def _anli(round: int, train: int, dev: int) -> Source:
    revision, licence = "8e4813d81f46d313dac7892e1c28076917cfcdf9", "CC BY-NC 4.0 (non-commercial)"
    source = _hub("facebook/anli", "plain_text", revision, train, dev, licence)
    splits = {"train": f"train_r{round}", "dev": f"dev_r{round}"}
    # A partial mirror may hold the first round only; what is missing is noted in the rows.
    return replace(source, splits=splits, optional=round > 1)


_OANC = "OANC, CC BY 3.0, CC BY-SA 3.0, MIT (by genre)"
_MNLI = replace(
    _hub("nyu-mll/glue", "mnli", _GLUE, 392702, 9815, _OANC),
    splits={"train": "train", "dev": "validation_matched"},
)
_SNLI = Source(
    "hub",
    "stanfordnlp/snli",
    "plain_text",
    splits=_DEV,
    revision="cdb5c3d5eed6ead6e5a341c8e56e669bb666725b",
    counts={"train": 550152, "dev": 10000},
    licence="CC BY-SA 4.0",
)
_ROUNDS = (_anli(1, 16946, 1000), _anli(2, 45460, 1000), _anli(3, 100459, 1200))
_paper(
    "anli_plus",
    format="pair",
    source=Source(
        "hub",
        "SNLI + MNLI + ANLI",
        parts=(_SNLI, _MNLI, *_ROUNDS),
        licence="CC BY-NC 4.0 for the ANLI part (non-commercial)",
    ),
    columns=_NLI_COLUMNS,
    labels=NLI,
    origin=("snli", "mnli", "anli"),
    holds=("snli", "mnli", "anli"),
)
MNLI = _paper("mnli", format="pair", source=_MNLI, columns=_NLI_COLUMNS, labels=NLI)
_paper(
    "qqp",
    format="pair",
    source=_hub("nyu-mll/glue", "qqp", _GLUE, 363846, 40430, "Quora's terms, no redistribution"),
    columns={"first": "question1", "second": "question2"},
    labels=("not_duplicate", "duplicate"),
    # PAWS was made from Quora questions and from Wikipedia; PAWS-X translates the latter part.
    origin=("quora", "paws"),
)
_SQUAD = replace(
    _SNLI,
    id="rajpurkar/squad",
    revision="7b6d24c440a36b6815f21b70d25016731768db1f",
    counts={"train": 87599, "dev": 10570},
)
SQUAD1 = _paper("squad1", format="span", source=_SQUAD, max_length=384, origin=("squad",))
_SQUAD2 = replace(
    _SQUAD,
    id="rajpurkar/squad_v2",
    config="squad_v2",
    revision="3ffb306f725f7d2ce8394bc1873b24868140c412",
    counts={"train": 130319, "dev": 11873},
)
_paper(
    "squad2",
    format="span",
    source=_SQUAD2,
    metric="squad2",
    max_length=384,
    origin=("squad",),
    holds=("squad2", "squad1"),
)
_paper(
    "hellaswag",
    format="choice",
    source=_hub(
        "Rowan/hellaswag", "", "218ec52e09a7e7462a5400043bb9a69a41d06b76", 39905, 10042, "MIT"
    ),
    columns={"id": "ind"},
    labels=("0", "1", "2", "3"),
    adapt=adapt.hellaswag,
)
_CCG = Source(
    "folder",
    "CCGBANK_ROOT",
    "ccgbank",
    splits={"train": "train", "dev": "dev", "test": "test"},
    licence="LDC user agreement",
)
_paper("ccg", format="tagging", source=_CCG, max_length=256, origin=("wsj",))
_PMB = replace(_CCG, id="PMB_ROOT", config="pmb", licence="not stated in the release's index")
_extra("ccg-pmb", format="tagging", source=_PMB, origin=("tatoeba", "pmb"))
_extra(
    "xpos-ewt",
    format="tagging",
    source=Source(
        "hub",
        "extra/ud-english-ewt",
        "xpos",
        splits=_DEV,
        licence="CC BY-SA 4.0",
        unpublished=(
            "It stands in for CCG supertagging: plan with 'ccg' (needs CCGBANK_ROOT) or the free "
            "'ccg-pmb' (PMB_ROOT) in its place, or make it from UniversalDependencies/"
            "UD_English-EWT on GitHub (commit 15d613d8): words and XPOS as columns tokens and tags "
            "of configuration xpos, en_ewt-ud-dev as split train and -test as split validation"
        ),
    ),
    exclude=("udpos",),
    origin=("ud-ewt",),
)
_COSMOS = ("Samsoup/cosmos_qa", "", "5511553160809abc4f9c11d12421ec0a9681ee75")
_paper(
    "cosmosqa",
    format="choice",
    source=_hub(*_COSMOS, 25262, 2985, "CC BY 4.0"),
    columns={"context": "prompt", "choices": "answer0,answer1,answer2,answer3"},
    labels=("0", "1", "2", "3"),
    adapt=adapt.question_context,
    max_length=256,
)
_COMMONSENSE = ("tau/commonsense_qa", "", "94630fe30dad47192a8546eb75f094926d47e155")
_paper(
    "commonsenseqa",
    format="choice",
    source=_hub(*_COMMONSENSE, 9741, 1221, "MIT"),
    columns={"context": "question", "choices": "options", "label": "answerKey"},
    labels=("A", "B", "C", "D", "E"),
    adapt=adapt.commonsense,
    origin=("conceptnet",),
)
_SIQA = ("lighteval/siqa", "", "54c6a1f8cb6daf4f5abf24a601852612fb35eb25")
_extra(
    "siqa",
    format="choice",
    source=_hub(*_SIQA, 33410, 1954, "not stated on the hub"),
    columns={"context": "prompt", "choices": "answerA,answerB,answerC"},
    labels=("1", "2", "3"),
    adapt=adapt.question_context,
)
# The training set of XCOPA, here so that it can be trained on.
_COPA = ("aps/super_glue", "copa", "3de24cf8022e94f4ee4b9d55a6f539891524d646")
COPA = _extra(
    "copa",
    format="choice",
    source=_hub(*_COPA, 400, 100, "not stated on the hub"),
    columns={"id": "idx", "context": "prompt", "choices": "choice1,choice2"},
    labels=("choice1", "choice2"),
    adapt=adapt.copa,
)


def translated_mnli(languages: tuple[str, ...] = ("de", "ru", "sw")) -> Task:
    """Return MNLI in other languages: the translated training rows of ``facebook/xnli``, mixed."""
    whole = Source(
        "hub",
        "facebook/xnli",
        "{language}",
        revision=XNLI_REVISION,
        counts={"train": 392702},
        licence="not stated on the hub",
    )
    parts = tuple(replace(whole, language=language) for language in languages)
    return _twin(MNLI, parts, f"MNLI machine-translated into {', '.join(languages)}")


def translated_by_user(task: Task | str) -> Task:
    """Return a task whose training rows are translations in a folder of the user's.

    They are read from ``$TRANSFER_TRANSLATIONS/<name>/<language>/train.jsonl``, every language
    there, one JSON object a line with the columns of the English set.
    """
    task = get(task) if isinstance(task, str) else task
    config, licence = f"translations/{task.name}", "that of the user's folder"
    folder = Source("folder", "TRANSFER_TRANSLATIONS", config, licence=licence)
    return _twin(task, (folder,), f"{task.name} machine-translated by the user")


def _twin(task: Task, train: tuple[Source, ...], genre: str) -> Task:
    if task.role != "intermediate":
        raise HelpfulError(f"task {task.name!r} is a target; only intermediate tasks have twins")
    english = tuple(
        replace(leaf, splits={s: name for s, name in leaf.splits.items() if s != "train"})
        for leaf in task.source.flat()
    )
    trap = "Training text is machine-translated; development is English."
    return replace(
        task,
        name=f"{task.name}-translated",
        source=replace(task.source, parts=(*train, *english)),
        about=replace(task.about, genre=genre, traps=(*task.about.traps, trap), examples={}),
        group="translated",
        origin=task.origin or (task.name,),
        holds=task.holds or (task.name,),
    )


register(translated_mnli())
for _name in ("anli_plus", "qqp", "squad1", "squad2", "hellaswag", "cosmosqa", "commonsenseqa"):
    register(translated_by_user(_name))
