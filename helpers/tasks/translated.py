"""Machine-translated twins of the intermediate tasks (condition ``translated``).

A twin ``<name>-translated`` trains on translated rows and is judged on the task's English
development rows. Its training rows are asked for as ``"en"`` like those of any intermediate; what
they are written in is the point of it.
"""

from __future__ import annotations

from dataclasses import replace

from helpers.errors import HelpfulError
from helpers.tasks import registry
from helpers.tasks.intermediate import MNLI, XNLI_REVISION
from helpers.tasks.task import About, Source, Task

XNLI_LANGUAGES = tuple("ar bg de el es fr hi ru sw th tr ur vi zh".split())
LANGUAGES = ("de", "ru", "sw")
FOLDER = "TRANSFER_TRANSLATIONS"


def mnli(languages: tuple[str, ...] = LANGUAGES) -> Task:
    """Return MNLI in other languages: the translated training rows that ``facebook/xnli`` holds.

    Args:
        languages: any of ``XNLI_LANGUAGES``; their rows are mixed.
    """
    parts = tuple(
        Source(
            kind="hub",
            id="facebook/xnli",
            config="{language}",
            language=language,
            splits={"train": "train"},
            revision=XNLI_REVISION,
            counts={"train": 392702},
            licence="not stated on the hub",
        )
        for language in languages
    )
    return _twin(MNLI, parts, f"MNLI machine-translated into {', '.join(languages)}")


def from_folder(task: Task | str) -> Task:
    """Return a task whose training rows are read from a folder of translations.

    Args:
        task: a task or its name. Rows are read from
            ``$TRANSFER_TRANSLATIONS/<name>/<language>/train.jsonl``, every language there, one
            JSON object a line with the columns of the English set.
    """
    task = registry.get(task) if isinstance(task, str) else task
    part = Source(
        kind="folder",
        id=FOLDER,
        config=f"translations/{task.name}",
        splits={"train": "train"},
        licence="that of the user's folder",
    )
    return _twin(task, (part,), f"{task.name} machine-translated by the user")


def _twin(task: Task, train: tuple[Source, ...], genre: str) -> Task:
    if task.role != "intermediate":
        raise HelpfulError(f"task {task.name!r} is a target; only intermediate tasks have twins")
    english = tuple(
        replace(leaf, splits={s: name for s, name in leaf.splits.items() if s != "train"})
        for leaf in task.source.flat()
    )
    source = replace(task.source, parts=(*train, *english))
    about = About(
        question=task.about.question,
        genre=genre,
        citation=task.about.citation,
        traps=(*task.about.traps, "Training text is machine-translated; development is English."),
    )
    holds = task.holds or (task.name,)
    return replace(
        task,
        name=f"{task.name}-translated",
        source=source,
        about=about,
        group="translated",
        holds=holds,
    )


registry.register(mnli())
for _name in ("anli_plus", "qqp", "squad1", "squad2", "hellaswag", "cosmosqa", "commonsenseqa"):
    registry.register(from_folder(_name))
