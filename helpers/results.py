"""The tables that chapters read: scores and similarities, committed or live, and measured speeds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from helpers import book, study, tasks
from helpers.errors import BadFit, BadRecord, HelpfulError, MissingData, unknown
from helpers.study import profiles
from helpers.study.profiles import PROFILES
from helpers.study.store import Store, read_export

if TYPE_CHECKING:
    from helpers.models.encoders import Encoder

DATA = Path(__file__).resolve().parent.parent / "data"
FOLDER, SIMILARITY = DATA / "results", DATA / "similarity"
# Rows a task is measured on; a profile that trains on fewer is measured on as few.
ROWS = 2000
# What a study has at hand: texts, formats, labels, and the encoders its intermediate stages left.
MEASURES = (
    "text_embedding", "text_embedding_raw", "text_embedding_whitened", "token_similarity", "tfidf",
    "vocabulary_overlap", "mmd", "same_inputs", "label_names", "label_entropy", "label_count",
    "leep", "logme", "h_score", "transrate", "linear_probe",
)  # fmt: skip


def read_csv(file: Path, texts: Sequence[str] = ()) -> pd.DataFrame:
    """Read a committed table: only an empty cell is missing; "nan" and "None" are names."""
    types = dict.fromkeys(texts, str)
    table = pd.read_csv(file, dtype=types, keep_default_na=False, na_values=[""])
    return table.fillna({name: "" for name in texts if name in table})


def load(profile: str, *, mode: str = "missing", progress: bool = True) -> pd.DataFrame:
    """Return the scores of a profile, one row per score: committed ones, else those of a live study.

    Args:
        profile: ``"tiny"``, ``"demo"``, ``"pilot"`` or ``"paper"``.
        mode: ``"stored"``, ``"missing"`` or ``"always"``, for a study that is run here.
        progress: whether it shows its progress.
    """
    file = FOLDER / f"{profile}.parquet"
    if file.exists() and mode != "always":
        found = _export(file)
        return found[found["stage"] == "target"].reset_index(drop=True)
    return study.run(study.plan(profile), mode, progress=progress)


def _export(file: Path) -> pd.DataFrame:
    """Read committed scores; a file that is cut or damaged is named with what to do."""
    try:
        return read_export(file)
    except (OSError, ValueError) as error:  # pyarrow's errors derive from both
        raise BadRecord(
            f"{file} cannot be read ({str(error).splitlines()[0]}). Restore the committed file with: "
            f"git checkout {file.parent.parent.name}/{file.parent.name}"
        ) from None


def stages(profile: str) -> pd.DataFrame:
    """Return the English development scores of a profile's intermediate stages, as `load` left them."""
    file = FOLDER / f"{profile}.parquet"
    if file.exists():
        found = _export(file)
    else:
        found = Store().scores(study.plan(profile).runs["run"], stage="intermediate")
    # Stages of several tasks at once have a score for each, and no floor.
    own = (found["stage"] == "intermediate") & found["intermediate"].isin(tasks.names())
    return found[own].reset_index(drop=True)


def learnt(profile: str) -> pd.DataFrame:
    """Return `stages` with ``floor``, the best constant answer's score, and ``above``: clearly above it."""
    found = stages(profile)
    known = floors(profile, found).set_index("intermediate")["floor"]
    found = found.assign(floor=found["intermediate"].map(known).astype(float))
    above = (found["value"] > found["floor"] + profiles.MARGIN).astype("boolean")
    return found.assign(above=above.where(found["floor"].notna()))


def floors(profile: str, found: pd.DataFrame) -> pd.DataFrame:
    """Return intermediate, metric and floor: committed ones, else computed for the stages ``found``."""
    from helpers import evaluation

    file = FOLDER / f"{profile}-floors.csv"
    if file.exists():
        return read_csv(file)
    rows = []
    for name, condition in found[["intermediate", "condition"]].drop_duplicates().to_numpy():
        task = tasks.get(name)
        limit = profiles.get(profile).settings(task, "intermediate", condition).dev_rows
        try:
            value = evaluation.floor(task, rows=limit or None)
        except MissingData:
            value = math.nan
        rows.append({"intermediate": name, "metric": task.metric, "floor": value})
    columns = ["intermediate", "metric", "floor"]
    return pd.DataFrame(rows, columns=columns).drop_duplicates("intermediate")


def similarities(
    profile: str,
    measures: Sequence[str] = MEASURES,
    *,
    mode: str = "missing",
    added: bool = True,
    progress: bool = True,
) -> pd.DataFrame:
    """Return the similarity of the tasks of a profile, one row per dyad and measure.

    A table committed as ``data/similarity/<profile>.csv`` is read; otherwise they are measured here.

    Args:
        profile, mode, progress: as in `load`.
        measures: names of measures to take where there is no committed table.
        added: whether measures that a reader registered join it; they need the profile's data.
    """
    if profile not in PROFILES:
        raise unknown("profile", profile, PROFILES)
    from helpers import similarity

    own = similarity.added() if added else []
    file = SIMILARITY / f"{profile}.csv"
    if not file.exists() or mode == "always":
        return _measured(profile, dict.fromkeys([*measures, *own]), mode, progress)
    table = similarity.read(file)
    if not own:
        return table
    # A measure of the reader's own replaces a committed one of its name.
    kept = table[~table["measure"].isin(own)]
    return pd.concat([kept, _measured(profile, own, mode, progress)], ignore_index=True)


def sampled_rows(profile: str) -> int:
    """Return how many rows of a task its similarities are measured on where nothing is committed."""
    size = PROFILES[profile]
    return min(
        rows or ROWS for rows in (ROWS, size.intermediate.train_rows, size.target.train_rows)
    )


def _measured(profile: str, measures: Iterable[str], mode: str, progress: bool) -> pd.DataFrame:
    """Measure the tasks of a profile with its encoder, from what is here and in the store."""
    from helpers import similarity
    from helpers.models import encoders
    from helpers.similarity.inputs import Options

    chosen = PROFILES[profile]
    encoder = encoders.load(chosen.encoder)
    return similarity.measure(
        (chosen.intermediates, chosen.targets),
        list(measures),
        encoder,
        checkpoints=checkpoints(encoder),
        options=Options.sized(sampled_rows(profile)),
        mode=mode,  # type: ignore[arg-type]
        progress=progress,
    )


def controls(profile: str) -> pd.DataFrame:
    """Return committed similarities that serve as controls (``..._random``, ``..._shuffled``, ``early_score``)."""
    from helpers import similarity

    if profile not in PROFILES:
        raise unknown("profile", profile, PROFILES)
    file = SIMILARITY / f"{profile}-controls.csv"
    return similarity.read(file) if file.exists() else pd.DataFrame()


def checkpoints(encoder: Encoder) -> Any:
    """Return the stages in the store that were tuned from an encoder, or None: measures then say so."""
    from helpers.similarity.readers import from_store

    try:
        return from_store(encoder)
    except MissingData:
        return None


def rank(
    target: str, profile: str, *, measure: str, mode: str = "missing", progress: bool = True
) -> pd.DataFrame:
    """Rank the intermediates of a profile for a target of your own, by the model of the profile's study.

    Args:
        target: name of a registered task; it needs English training rows, and no labels.
        profile, mode, progress: the study to learn from, as in `load`; its data must be at hand.
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
        scores, _ = gains.usable(load(profile, mode=mode, progress=progress))
    except HelpfulError as error:
        if mode != "stored":
            raise
        return book.nothing(f"Nothing to learn from: {error}", columns)
    table = _beside(chosen, list(dict.fromkeys([*chosen.targets, own])), measure)
    dyads = gains.dyads(gains.gains(scores), similarity=table)
    known = gains.exclude(dyads[dyads["target"] != own])
    values = known[measure]
    if len(values) < 2 or not values.std() > 0:
        return book.nothing(f"{measure!r} does not vary over {len(values)} dyads.", columns)
    raw = table[table["target"] == own].rename(columns={"value": measure})
    new = gains.add_formats(raw[["intermediate", "target", measure]])
    # Similarity is on one scale, that of the known dyads.
    new, known = (
        part.assign(**{measure: (part[measure] - values.mean()) / values.std()})
        for part in (new, known)
    )
    try:
        found = prediction.predict_gain(new, known, "gain", [measure], confirmatory.RANDOM)
    except BadFit as error:
        return book.nothing(f"Nothing can be predicted: {error}", columns)
    return found.rename(columns={measure: "similarity"})[columns]


def _beside(profile: profiles.Profile, targets: list[str], measure: str) -> pd.DataFrame:
    """Measure the intermediates of a profile beside targets, all of them anew: centring sees all."""
    from helpers import similarity
    from helpers.similarity.inputs import Options

    # As many rows as elsewhere in the book: what was read there is not read again.
    options = Options.sized(sampled_rows(profile.name))
    sides = (list(profile.intermediates), targets)
    table = similarity.measure(
        sides, [measure], profile.encoder, seeds=(0,), options=options, progress=False
    )
    for row in table[table["status"] != "done"].itertuples():
        pair = f"{measure} of {row.intermediate} and {row.target}"
        raise HelpfulError(f"{pair} is {row.status}: {row.reason}")
    return table


def speeds() -> pd.DataFrame:
    """Return the table of the benchmarks, one row per figure and device."""
    return read_csv(DATA / "benchmarks.csv")


def speed(name: str, kind: str) -> pd.Series:
    """Return the newest row of one figure on a "cpu" or "cuda" device; missing values if none."""
    table = speeds()
    mine = (table["name"] == name) & (table["device"].str.split().str[0] == kind)
    found = table[mine].dropna(subset=["value"]).sort_values("date", kind="stable")
    return found.iloc[-1] if len(found) else pd.Series(math.nan, index=table.columns)
