"""What chapters read: scores and similarities, committed or live, speeds, and the facts of tasks."""

import contextlib
import functools
import html
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from helpers import book, data, study, tasks
from helpers.errors import BadFit, HelpfulError, MissingData
from helpers.study import profiles
from helpers.study.profiles import PROFILES
from helpers.study.store import Store, read_export
from helpers.tasks import Row, Task

DATA = Path(__file__).resolve().parent.parent / "data"
FOLDER, SIMILARITY = DATA / "results", DATA / "similarity"
# How a table is read in which "nan" and "None" are names, and only an empty cell is missing.
NAMES_STAY: dict[str, Any] = {"keep_default_na": False, "na_values": [""]}
# Rows a task is measured on; a profile that trains on fewer is measured on as few.
ROWS = 2000
# What a study has at hand: texts, formats, labels, and the encoders its intermediate stages left.
MEASURES = (
    "text_embedding", "text_embedding_raw", "text_embedding_whitened", "token_similarity", "tfidf",
    "vocabulary_overlap", "mmd", "same_inputs", "label_names", "label_entropy", "label_count",
    "leep", "logme", "h_score", "transrate", "linear_probe",
)  # fmt: skip


def load(profile: str, *, mode: str = "missing") -> pd.DataFrame:
    """Return the scores of a profile, one row per score: committed ones, else those of a live study.

    Args:
        profile: ``"tiny"``, ``"demo"``, ``"pilot"`` or ``"paper"``.
        mode: ``"stored"``, ``"missing"`` or ``"always"``, for a study that is run here; it shows its
            progress where no book is being built.
    """
    file = FOLDER / f"{profile}.parquet"
    if file.exists() and mode != "always":
        found = read_export(file)
        return found[found["stage"] == "target"].reset_index(drop=True)
    return study.run(study.plan(profile), mode, progress=not book.building())


def learnt(profile: str) -> pd.DataFrame:
    """Return the English development scores of a profile's intermediate stages, as `load` left them.

    Beside them stand ``floor``, the score of the best constant answer (missing where its data are), and
    ``above``: whether the score is clearly above it. Both are read where they are committed.
    """
    file, known = FOLDER / f"{profile}.parquet", FOLDER / f"{profile}-floors.csv"
    ran = () if file.exists() else study.plan(profile).runs["run"]
    found = read_export(file) if file.exists() else Store().scores(ran, stage="intermediate")
    # Stages of several tasks at once have a score for each, and no floor.
    own = (found["stage"] == "intermediate") & found["intermediate"].isin(tasks.names())
    found, floors = found[own].reset_index(drop=True), {}
    if known.exists():
        stated = pd.read_csv(known, index_col="intermediate", **NAMES_STAY)
        floors = stated["floor"].to_dict()
    else:
        from helpers import evaluation  # needs torch, which a page of stored results may lack

        each = found[["intermediate", "condition"]].drop_duplicates("intermediate")
        for name, condition in each.to_numpy():
            task = tasks.get(name)
            limit = profiles.get(profile).settings(task, "intermediate", condition).dev_rows
            with contextlib.suppress(MissingData):
                floors[name] = evaluation.floor(task, rows=limit or None)
    found = found.assign(floor=found["intermediate"].map(floors).astype(float))
    above = profiles.above(found["value"], found["floor"]).astype("boolean")
    return found.assign(above=above.where(found["floor"].notna()))


def similarities(
    profile: str, measures: Sequence[str] = MEASURES, *, mode: str = "missing", added: bool = True
) -> pd.DataFrame:
    """Return the similarity of the tasks of a profile, one row per dyad and measure, committed or measured.

    Args:
        profile, mode: as in `load`.
        measures: names of measures to take where there is no committed table.
        added: whether measures that a reader registered join it; they need the profile's data.
    """
    from helpers import similarity

    profiles.get(profile)  # or UnknownName, before anything is read
    own, file = similarity.added() if added else [], SIMILARITY / f"{profile}.csv"
    if not file.exists() or mode == "always":
        return _measured(profile, list(dict.fromkeys([*measures, *own])), mode=mode)
    table = similarity.read(file)
    # A measure of the reader's own replaces a committed one of its name.
    mine = [_measured(profile, own, mode=mode)] if own else []
    return pd.concat([table[~table["measure"].isin(own)], *mine], ignore_index=True)


def _measured(
    profile: str, measures: Sequence[str], targets: Sequence[str] = (), **asked: Any
) -> pd.DataFrame:
    """Measure the tasks of a profile with its encoder, from what is here and in the store."""
    from helpers import similarity
    from helpers.models import encoders
    from helpers.similarity.inputs import Options
    from helpers.similarity.readers import from_store

    chosen = PROFILES[profile]
    # As many rows everywhere in the book: what was read for one page is not read again.
    limits = (ROWS, chosen.intermediate.train_rows, chosen.target.train_rows)
    asked |= {"options": Options.sized(min(rows or ROWS for rows in limits))}
    encoder = encoders.load(chosen.encoder)
    sides = chosen.intermediates, targets or chosen.targets
    with contextlib.suppress(MissingData):  # no stage was tuned from it: measures then say so
        asked["checkpoints"] = from_store(encoder, chosen)
    return similarity.measure(sides, measures, encoder, progress=not book.building(), **asked)


def rank(target: str, profile: str, *, measure: str) -> pd.DataFrame:
    """Rank the intermediates of a profile for a target of your own, by the model of the profile's study.

    Args:
        target: name of a registered task; it needs English training rows, and no labels.
        profile: the study to learn from, whose data must be at hand; one that is not there is run, but
            not while a book is built.
        measure: similarity to predict from; one that needs no fine-tuned encoder.

    Returns:
        Best first: rank, intermediate, predicted (points of gain over languages other than English),
        low, high, helps (probability of a gain above zero), best (of being the best of them) and
        similarity. Without rows, and with a note, where the study is too small or not there.
    """
    from helpers.stats import confirmatory, gains, prediction

    chosen, own = profiles.get(profile), tasks.get(target).name
    columns = ["rank", "intermediate", "predicted", "low", "high", "helps", "best", "similarity"]
    try:
        scores, _ = gains.usable(load(profile, mode="stored" if book.building() else "missing"))
    except HelpfulError as error:
        if not book.building():
            raise
        return book.nothing(f"Nothing to learn from: {error}", columns)
    # All anew, since centring sees all tasks.
    beside = list(dict.fromkeys([*chosen.targets, own]))
    table = _measured(profile, [measure], beside, seeds=(0,))
    for row in table[table["status"] != "done"].itertuples():
        pair = f"{measure} of {row.intermediate} and {row.target}"
        raise HelpfulError(f"{pair} is {row.status}: {row.reason}")
    dyads = gains.dyads(gains.gains(scores), similarity=table)
    known = gains.exclude(dyads[dyads["target"] != own])
    values = known[measure]
    if len(values) < 2 or not values.std() > 0:
        return book.nothing(f"{measure!r} does not vary over {len(values)} dyads.", columns)
    raw = table[table["target"] == own].rename(columns={"value": measure})
    new = gains.add_formats(raw[["intermediate", "target", measure]])
    # Similarity is on one scale, that of the known dyads.
    for part in (new, known):
        part[measure] = (part[measure] - values.mean()) / values.std()
    try:
        found = prediction.predict_gain(new, known, "gain", [measure], confirmatory.RANDOM)
    except BadFit as error:
        return book.nothing(f"Nothing can be predicted: {error}", columns)
    return found.rename(columns={measure: "similarity"})[columns]


def speeds() -> pd.DataFrame:
    """Return the table of the benchmarks, one row per figure and device."""
    return pd.read_csv(DATA / "benchmarks.csv", **NAMES_STAY)


# --- Facts of tasks, and a card for each: what it asks, an example, its size, its licence, its traps
def groups() -> dict[str, list[str]]:
    """Return the tasks of the book by where they belong; generated test tasks are left out."""
    found = {g: tasks.names(group=g) for g in ("demo", "paper", "xtreme", "xtreme-r", "extra")}
    found["xtreme-r"] = [name for name in found["xtreme-r"] if name not in found["xtreme"]]
    return found


def summary(names: Iterable[str]) -> pd.DataFrame:
    """Return facts of the named tasks, one row each: role, format, how many languages, metric, chance,
    rows and licence.
    """
    columns = ["task", "role", "format", "languages", "metric", "chance", "rows", "licence"]
    rows = []
    for task in map(tasks.get, names):
        chance = f"{100 * task.chance:.0f} %" if task.chance else ""
        licence = _joined(source.licence for source in task.source.flat())
        facts = (task.name, task.role, task.format, len(task.languages), task.metric)
        rows.append([*facts, chance, size(task), licence])
    return pd.DataFrame(rows, columns=columns)


def size(task: Task) -> str:
    """Return the rows of a task by split, such as ``"dev 2,490; test 5,010"``; a range over languages."""
    found: dict[str, dict[tuple[str, str], int]] = {}
    for leaf in task.source.flat():
        for key, count in leaf.counts.items():
            language, _, split = key.rpartition("/")
            served = not language or not leaf.languages or language in leaf.languages
            if split in leaf.splits and served and count > 1:
                name = "candidates" if leaf.side == "candidate" else split
                place = (f"{leaf.id} {leaf.config} {leaf.splits[split]}", language)
                found.setdefault(name, {})[place] = count
    stated = {}
    for split, counts in found.items():
        low, high = min(counts.values()), max(counts.values())
        (_, language), *more = counts
        stated[split] = f"{low:,} to {high:,}" if low < high else f"{low:,}"
        if len(task.languages) == 1:
            stated[split] = f"{sum(counts.values()):,}"
        elif language and not more:
            stated[split] += f" ({language})"
    if not stated and all(leaf.kind == "package" for leaf in task.source.flat()):
        stated = _counted(task.name)
    splits = ("train", "dev", "test", "candidates")
    return "; ".join(f"{split} {stated[split]}" for split in splits if split in stated)


@functools.cache
def _counted(name: str) -> dict[str, str]:
    """Count the rows at hand of a task's first language; of a retrieval task, its queries."""
    task = tasks.get(name)
    where = f" ({task.languages[0]})" if len(task.languages) > 1 else ""
    splits = [split for language, split in data.at_hand(task) if language == task.languages[0]]
    rows = {split: data.rows(task, task.languages[0], split) for split in splits}
    return {
        split: f"{len(some.side('query') if task.format == 'retrieval' else some):,}{where}"
        for split, some in rows.items()
    }


def relations(intermediates: Iterable[str], targets: Iterable[str]) -> pd.DataFrame:
    """Return what the two tasks of every dyad have in common beforehand.

    Returns:
        One row per dyad: intermediate, target, their formats, the flags of ``helpers.tasks.relation``,
        and ``shares``: ``"rows"`` (an identity pair), ``"source"``, ``"format"`` or ``"nothing"``.
    """
    words = {"identity_pair": "rows", "same_source": "source", "same_format": "format"}
    dyads = []
    for first, then in itertools.product(intermediates, targets):
        flags, row = tasks.relation(first, then), {"intermediate": first, "target": then}
        row |= {f"{side}_format": tasks.get(name).format for side, name in row.items()}
        shares = next((word for flag, word in words.items() if flags[flag]), "nothing")
        dyads.append({**row, **flags, "shares": shares})
    return pd.DataFrame(dyads)


def cards(names: Iterable[str], languages: Sequence[str] = ("en", "de", "sw")) -> book.Page:
    """Return the cards of tasks, closed until opened; examples are in these languages if they can be."""
    return book.Page("".join(_card(tasks.get(name), languages) for name in names))


def _card(task: Task, languages: Sequence[str]) -> str:
    trainer = tasks.get(task.train_with) if task.train_with else task
    trained = any("train" in source.splits for source in trainer.source.flat())
    guessing = f"; guessing scores {100 * task.chance:.0f} %" if task.chance else ""
    leaves = task.source.flat()
    shown: Mapping[str, Row] = examples(task, languages)
    origin = "first rows of the data at hand"
    if not shown:
        shown, origin = task.about.examples, "written for this book, not from the data"
    lines = {
        "text": task.about.genre,
        "languages": ", ".join(task.languages),
        "score": f"{task.metric}{guessing}",
        "trained on": f"English rows of {trainer.name}" if trained else "nothing",
        "rows": size(task) or "not stated",
        "source": _joined(f"{s.id} at {s.revision[:8]}" if s.revision else s.id for s in leaves),
        "licence": _joined(source.licence or "not stated" for source in leaves),
    }
    body = "".join(f"<dt>{key}</dt><dd>{_safe(text)}</dd>" for key, text in lines.items())
    line = '<div class="example" lang="{0}" dir="auto"><b>{0}</b> {1}</div>'
    rows = "".join(line.format(_safe(code), _row(task, row)) for code, row in shown.items())
    body += f"<dt>example</dt><dd>{rows}<small>{origin}</small></dd>" if rows else ""
    traps = "".join(f"<li>{_safe(trap)}</li>" for trap in task.about.traps)
    body += f"<dt>traps</dt><dd><ul>{traps}</ul></dd>" if traps else ""
    many = f"{len(task.languages)} language{'s' * (len(task.languages) != 1)}"
    head = f"<b>{_safe(task.name)}</b> <span>{task.role}, {task.format}, {many}</span>"
    head = f"<summary>{head}<br>{_safe(task.about.question)}</summary>"
    return f'<details class="task">{head}<dl>{body}</dl></details>'


def examples(task: Task, languages: Sequence[str]) -> dict[str, Row]:
    """Return a first row per language where rows are at hand, at most three, preferred ones first."""
    splits = dict(data.at_hand(task))
    found: dict[str, data.Rows] = {}
    for code in dict.fromkeys((*languages, *splits)):
        if code in splits and len(found) < 3:
            with contextlib.suppress(MissingData):  # only reading shows what a partial mirror lacks
                found[code] = data.first_rows(task, code, splits[code])
    # Bitext also has English rows, told by their ids: the language itself is preferred.
    return {
        code: next((row for row in rows if row["id"].startswith(f"{code}-")), rows[0])
        for code, rows in found.items()
    }


def _row(task: Task, row: Mapping[str, Any]) -> str:
    """Return one row as a line of HTML, its fields in their order."""
    labels = functools.cache(lambda: data.with_labels(task).labels)

    def name(label: Any) -> str:  # an example may state it; an ignored tag has none
        if isinstance(label, str):
            return label
        return labels()[int(label)] if label >= 0 else "-"

    shown: dict[str, Callable[[Any], str]] = {
        "label": name,
        "tags": lambda tags: " ".join(map(name, tags)),
        "tokens": " ".join,
        "choices": " | ".join,
        "answers": lambda answers: (answers["text"] or ["(no answer)"])[0],
    }
    fields = {key: value for key, value in row.items() if key not in ("id", "gold") and value != ""}
    return " / ".join(_safe(shown.get(key, str)(value)) for key, value in fields.items())


def _safe(text: Any) -> str:
    """Return a text that cannot become markup, cut where it is long."""
    text = str(text)
    return html.escape(text if len(text) <= 220 else f"{text[:220]}…")


def _joined(texts: Iterable[str]) -> str:
    return "; ".join(dict.fromkeys(filter(None, texts)))
