"""The English intermediate tasks of the study, from the hub or a mirror of it.

Row counts and pinned revisions were read from the hub's own metadata; they are checked on the hub.
"""

from __future__ import annotations

from helpers.tasks import adapt
from helpers.tasks.registry import register
from helpers.tasks.task import About, Source, Task

NLI = ("entailment", "neutral", "contradiction")
XNLI_REVISION = "b8dd5d7af51114dbda02c0e3f6133f332186418e"
GLUE = "bcdcba79d07bc864c1c254ccfcedcce55bcc9a8c"
SQUAD_GENRE = "Wikipedia passages, crowd questions"
_HIDDEN = "Test labels are hidden (-1 or empty): there is no test split here."

_MNLI = Source(
    kind="hub",
    id="nyu-mll/glue",
    config="mnli",
    splits={"train": "train", "dev": "validation_matched"},
    revision=GLUE,
    counts={"train": 392702, "dev": 9815},
    licence="OANC, CC BY 3.0, CC BY-SA 3.0, MIT (by genre)",
)
_SNLI = Source(
    kind="hub",
    id="stanfordnlp/snli",
    config="plain_text",
    splits={"train": "train", "dev": "validation"},
    revision="cdb5c3d5eed6ead6e5a341c8e56e669bb666725b",
    counts={"train": 550152, "dev": 10000},
    licence="CC BY-SA 4.0",
)


def _anli(round: int, train: int, dev: int) -> Source:
    return Source(
        kind="hub",
        id="facebook/anli",
        config="plain_text",
        splits={"train": f"train_r{round}", "dev": f"dev_r{round}"},
        revision="8e4813d81f46d313dac7892e1c28076917cfcdf9",
        counts={"train": train, "dev": dev},
        licence="CC BY-NC 4.0 (non-commercial)",
        # A partial mirror may hold the first round only; what is missing is noted in the rows.
        optional=round > 1,
    )


_NLI_COLUMNS = {"first": "premise", "second": "hypothesis"}

ANLI_PLUS = register(
    Task(
        name="anli_plus",
        role="intermediate",
        format="pair",
        source=Source(
            kind="hub",
            id="SNLI + MNLI + ANLI",
            parts=(
                _SNLI,
                _MNLI,
                _anli(1, 16946, 1000),
                _anli(2, 45460, 1000),
                _anli(3, 100459, 1200),
            ),
            licence="CC BY-NC 4.0 for the ANLI part (non-commercial)",
        ),
        columns=_NLI_COLUMNS,
        labels=NLI,
        metric="accuracy",
        chance=1 / 3,
        about=About(
            question="Does the premise entail, contradict or say nothing of the hypothesis?",
            genre="captions, ten mixed genres, and adversarial pairs over Wikipedia",
            citation="nie2020adversarial",
            traps=(
                "ANLI+ is SNLI, MNLI and the three ANLI rounds together; rows are read in that "
                "order and drawn in proportion to size.",
                "SNLI rows without annotator agreement have label -1 in every split: dropped and "
                "counted.",
                "XTREME's own code orders the labels differently: names decide, never ids.",
            ),
        ),
        group="paper",
        origin=("snli", "mnli", "anli"),
        holds=("snli", "mnli", "anli"),
    )
)

MNLI = register(
    Task(
        name="mnli",
        role="intermediate",
        format="pair",
        source=_MNLI,
        columns=_NLI_COLUMNS,
        labels=NLI,
        chance=1 / 3,
        about=About(
            question="Does the premise entail, contradict or say nothing of the hypothesis?",
            genre="ten genres of written and spoken English",
            citation="williams2018mnli",
            traps=(_HIDDEN,),
        ),
        group="paper",
        origin=("mnli",),
        holds=("mnli",),
    )
)

QQP = register(
    Task(
        name="qqp",
        role="intermediate",
        format="pair",
        source=Source(
            kind="hub",
            id="nyu-mll/glue",
            config="qqp",
            splits={"train": "train", "dev": "validation"},
            revision=GLUE,
            counts={"train": 363846, "dev": 40430},
            licence="Quora's terms, no redistribution",
        ),
        columns={"first": "question1", "second": "question2"},
        labels=("not_duplicate", "duplicate"),
        chance=0.5,
        about=About(
            question="Do two questions ask the same?",
            genre="questions on Quora",
            citation="wang2019glue",
            traps=(_HIDDEN,),
        ),
        group="paper",
        # PAWS was made from Quora questions and from Wikipedia; PAWS-X translates the latter part.
        origin=("quora", "paws"),
        holds=("qqp",),
    )
)

SQUAD1 = register(
    Task(
        name="squad1",
        role="intermediate",
        format="span",
        source=Source(
            kind="hub",
            id="rajpurkar/squad",
            config="plain_text",
            splits={"train": "train", "dev": "validation"},
            revision="7b6d24c440a36b6815f21b70d25016731768db1f",
            counts={"train": 87599, "dev": 10570},
            licence="CC BY-SA 4.0",
        ),
        metric="squad",
        max_length=384,
        about=About(
            question="Which stretch of the passage answers the question?",
            genre=SQUAD_GENRE,
            citation="rajpurkar2016squad",
            traps=(
                "The copy inside google/xtreme strips passages and shifts offsets: not used.",
                "Validation questions have three or more answers, training questions one.",
            ),
        ),
        group="paper",
        origin=("squad",),
        holds=("squad1",),
    )
)

SQUAD2 = register(
    Task(
        name="squad2",
        role="intermediate",
        format="span",
        source=Source(
            kind="hub",
            id="rajpurkar/squad_v2",
            config="squad_v2",
            splits={"train": "train", "dev": "validation"},
            revision="3ffb306f725f7d2ce8394bc1873b24868140c412",
            counts={"train": 130319, "dev": 11873},
            licence="CC BY-SA 4.0",
        ),
        metric="squad2",
        max_length=384,
        about=About(
            question="Which stretch of the passage answers the question, if any?",
            genre=SQUAD_GENRE,
            citation="rajpurkar2018squad2",
            traps=(
                "Unanswerable questions have empty answer lists; there is no is_impossible column.",
                "Its answerable training questions are those of SQuAD 1.1: a dyad with a target "
                "that trains on SQuAD 1.1 is an identity pair.",
            ),
        ),
        group="paper",
        origin=("squad",),
        holds=("squad2", "squad1"),
    )
)

HELLASWAG = register(
    Task(
        name="hellaswag",
        role="intermediate",
        format="choice",
        source=Source(
            kind="hub",
            id="Rowan/hellaswag",
            splits={"train": "train", "dev": "validation"},
            revision="218ec52e09a7e7462a5400043bb9a69a41d06b76",
            counts={"train": 39905, "dev": 10042},
            licence="MIT",
        ),
        columns={"id": "ind"},
        labels=("0", "1", "2", "3"),
        adapt=adapt.hellaswag,
        chance=0.25,
        about=About(
            question="Which of four endings continues the situation?",
            genre="video captions and WikiHow",
            citation="zellers2019hellaswag",
            traps=(
                _HIDDEN,
                "ctx_b opens the ending, not the context; WikiHow rows have none.",
                "Labels are text.",
            ),
        ),
        group="paper",
        origin=("hellaswag",),
        holds=("hellaswag",),
    )
)

CCG_TRAPS = (
    "CCGbank needs a licence of the LDC (LDC2005T13) and is on no hub: read from a folder you own.",
    "The label set is read off the training rows; tags that occur only in dev or test are ignored "
    "and counted.",
)

CCG = register(
    Task(
        name="ccg",
        role="intermediate",
        format="tagging",
        source=Source(
            kind="folder",
            id="CCGBANK_ROOT",
            config="ccgbank",
            splits={"train": "train", "dev": "dev", "test": "test"},
            licence="LDC user agreement",
        ),
        metric="token_accuracy",
        max_length=256,
        about=About(
            question="Which CCG category does each word have?",
            genre="Wall Street Journal",
            citation="hockenmaier2007ccgbank",
            traps=CCG_TRAPS,
        ),
        group="paper",
        origin=("wsj",),
        holds=("ccgbank",),
    )
)

CCG_PMB = register(
    Task(
        name="ccg-pmb",
        role="intermediate",
        format="tagging",
        source=Source(
            kind="folder",
            id="PMB_ROOT",
            config="pmb",
            splits={"train": "train", "dev": "dev", "test": "test"},
            licence="not stated in the release's index",
        ),
        metric="token_accuracy",
        about=About(
            question="Which CCG category does each word have?",
            genre="short sentences, most from Tatoeba",
            citation="abzianidze2017pmb",
            traps=(
                "A free alternative to CCGbank with another inventory of categories and short "
                "sentences: its scores are not those of CCGbank.",
                *CCG_TRAPS[1:],
            ),
        ),
        group="extra",
        origin=("tatoeba", "pmb"),
        holds=("pmb",),
    )
)

XPOS_EWT = register(
    Task(
        name="xpos-ewt",
        role="intermediate",
        format="tagging",
        source=Source(
            kind="hub",
            id="extra/ud-english-ewt",
            config="xpos",
            splits={"train": "train", "dev": "validation"},
            licence="CC BY-SA 4.0",
        ),
        metric="token_accuracy",
        exclude=("udpos",),
        about=About(
            question="Which Penn Treebank tag does each word have?",
            genre="web text",
            citation="silveira2014ewt",
            traps=(
                "A stand-in for CCG supertagging where no CCG data is at hand; it is not CCG, and "
                "only the mirror holds it.",
                "Half of the English UD POS validation sentences stand in EWT dev, which is the "
                "training split here: training rows that occur in UD POS dev or test are removed "
                "and counted.",
            ),
        ),
        group="extra",
        origin=("ud-ewt",),
        holds=("ud-ewt",),
    )
)

COSMOSQA = register(
    Task(
        name="cosmosqa",
        role="intermediate",
        format="choice",
        source=Source(
            kind="hub",
            id="Samsoup/cosmos_qa",
            splits={"train": "train", "dev": "validation"},
            revision="5511553160809abc4f9c11d12421ec0a9681ee75",
            counts={"train": 25262, "dev": 2985},
            licence="CC BY 4.0",
        ),
        columns={"context": "prompt", "choices": "answer0,answer1,answer2,answer3"},
        labels=("0", "1", "2", "3"),
        adapt=adapt.question_context,
        chance=0.25,
        max_length=256,
        about=About(
            question="Which of four answers does the story suggest?",
            genre="personal blogs",
            citation="huang2019cosmosqa",
            traps=(
                _HIDDEN,
                "allenai/cosmos_qa is still a script repository and does not load: a plain copy "
                "is used.",
                'One option is often "None of the above choices .".',
            ),
        ),
        group="paper",
        origin=("cosmosqa",),
        holds=("cosmosqa",),
    )
)

COMMONSENSEQA = register(
    Task(
        name="commonsenseqa",
        role="intermediate",
        format="choice",
        source=Source(
            kind="hub",
            id="tau/commonsense_qa",
            splits={"train": "train", "dev": "validation"},
            revision="94630fe30dad47192a8546eb75f094926d47e155",
            counts={"train": 9741, "dev": 1221},
            licence="MIT",
        ),
        columns={"context": "question", "choices": "options", "label": "answerKey"},
        labels=("A", "B", "C", "D", "E"),
        adapt=adapt.commonsense,
        chance=0.2,
        about=About(
            question="Which of five answers does common sense give?",
            genre="crowd questions over ConceptNet",
            citation="talmor2019commonsenseqa",
            traps=(_HIDDEN,),
        ),
        group="paper",
        origin=("conceptnet",),
        holds=("commonsenseqa",),
    )
)

SIQA = register(
    Task(
        name="siqa",
        role="intermediate",
        format="choice",
        source=Source(
            kind="hub",
            id="lighteval/siqa",
            splits={"train": "train", "dev": "validation"},
            revision="54c6a1f8cb6daf4f5abf24a601852612fb35eb25",
            counts={"train": 33410, "dev": 1954},
            licence="not stated on the hub",
        ),
        columns={"context": "prompt", "choices": "answerA,answerB,answerC"},
        labels=("1", "2", "3"),
        adapt=adapt.question_context,
        chance=1 / 3,
        about=About(
            question="Which of three answers fits the social situation?",
            genre="crowd-written everyday situations",
            citation="sap2019socialiqa",
            traps=(
                "allenai/social_i_qa is a script repository and does not load: a plain copy is "
                "used.",
                'Labels are text and were "1\\n" in older copies: white space is cut.',
                "XTREME-R trains XCOPA on this set first; here XCOPA trains on COPA alone, and "
                "SocialIQA is an intermediate like any other.",
            ),
        ),
        group="extra",
        origin=("siqa",),
        holds=("siqa",),
    )
)
