"""The scores and similarities that chapters read: committed ones, else a live study."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from helpers import study
from helpers.errors import BadRecord, MissingData, unknown
from helpers.study.profiles import PROFILES
from helpers.study.store import Store, read_export

if TYPE_CHECKING:
    from helpers.models.encoders import Encoder

FOLDER = Path(__file__).resolve().parent.parent / "data" / "results"
SIMILARITY = FOLDER.parent / "similarity"
# Rows a task is measured on; a profile that trains on fewer is measured on as few.
ROWS = 2000
# What a study has at hand: texts, formats, labels, and the encoders its intermediate stages left.
MEASURES = (
    "text_embedding", "text_embedding_raw", "text_embedding_whitened", "token_similarity", "tfidf",
    "vocabulary_overlap", "mmd", "same_inputs", "label_names", "label_entropy", "label_count",
    "leep", "logme", "h_score", "transrate", "linear_probe",
)  # fmt: skip


def committed(folder: Path = FOLDER) -> list[str]:
    """Return the profiles whose scores lie in the repository."""
    return [name for name in PROFILES if (folder / f"{name}.parquet").exists()]


def load(
    profile: str, *, seeds: int | None = None, mode: str = "missing", progress: bool = True
) -> pd.DataFrame:
    """Return the scores of a profile, one row per score.

    Args:
        profile: ``"tiny"``, ``"demo"``, ``"pilot"`` or ``"paper"``. Scores that are committed
            under ``data/results`` are read; otherwise the study of that profile is run here, as
            far as ``mode`` says.
        seeds: seeds of a live study; ``None``: as the profile says.
        mode: ``"stored"``, ``"missing"`` or ``"always"``, for a live study.
        progress: whether a live study shows its progress.

    Returns:
        The columns of ``helpers.study.store.SCORE_COLUMNS``; failed and collapsed runs among them.

    Raises:
        UnknownName: no such profile or mode.
        BadPlan: a live study that cannot start; the error names all that is missing.
    """
    file = FOLDER / f"{profile}.parquet"
    if file.exists() and mode != "always":
        found = _export(file)
        return found[found["stage"] == "target"].reset_index(drop=True)
    return study.run(study.plan(profile, seeds=seeds), mode, progress=progress)


def _export(file: Path) -> pd.DataFrame:
    """Read committed scores; a file that is cut or damaged is named with what to do."""
    try:
        return read_export(file)
    except (OSError, ValueError) as error:  # pyarrow's errors derive from both
        raise BadRecord(
            f"{file} cannot be read ({str(error).splitlines()[0]}). Restore the committed file with: "
            f"git checkout {file.parent.parent.name}/{file.parent.name}"
        ) from None


def stages(profile: str, *, seeds: int | None = None) -> pd.DataFrame:
    """Return the English development scores of the intermediate stages of a profile.

    Args:
        profile: as in `load`, which must have been called (a live study is not run here).
        seeds: as in `load`.

    Returns:
        One row per intermediate stage with one task, with the columns of
        ``helpers.study.store.SCORE_COLUMNS``; failed and collapsed ones among them.

    Raises:
        UnknownName: no such profile.
    """
    from helpers import tasks

    file = FOLDER / f"{profile}.parquet"
    if file.exists():
        found = _export(file)
    else:
        runs = study.plan(profile, seeds=seeds).runs["run"]
        found = Store().scores(runs, stage="intermediate")
    own = (found["stage"] == "intermediate") & found["intermediate"].isin(tasks.names())
    return found[own].reset_index(drop=True)


def learnt(profile: str, *, seeds: int | None = None) -> pd.DataFrame:
    """Return what the intermediate stages of a profile learnt of their own tasks.

    Args:
        profile: as in `load`, which must have been called (a live study is not run here).
        seeds: as in `load`.

    Returns:
        What `stages` returns, with ``floor``, the score of the best constant answer on the same
        rows, and ``above``, whether the score is above the floor plus the margin of the rule for
        collapsed runs.

    Raises:
        UnknownName: no such profile.
    """
    from helpers.study.profiles import MARGIN

    found = stages(profile, seeds=seeds)
    known = floors(profile, found).set_index("intermediate")["floor"]
    found = found.assign(floor=found["intermediate"].map(known).astype(float))
    above = (found["value"] > found["floor"] + MARGIN).astype("boolean")
    return found.assign(above=above.where(found["floor"].notna()))


def floors(profile: str, found: pd.DataFrame, folder: Path = FOLDER) -> pd.DataFrame:
    """Return the score of the best constant answer on each intermediate's development rows.

    Args:
        profile: where ``<folder>/<profile>-floors.csv`` is committed, it is read; a profile whose
            scores are committed needs no data then. Write it with ``to_csv(index=False)``.
        found: intermediate stages, as `stages` returns them.
        folder: where committed results are.

    Returns:
        Columns intermediate, metric, floor; NaN where the rows are not at hand.
    """
    from helpers import evaluation, tasks
    from helpers.study.profiles import get

    file = folder / f"{profile}-floors.csv"
    if file.exists():
        return pd.read_csv(file, keep_default_na=False, na_values=[""])
    rows = []
    for name, condition in found[["intermediate", "condition"]].drop_duplicates().to_numpy():
        task = tasks.get(name)
        limit = get(profile).settings(task, "intermediate", condition).dev_rows
        try:
            value = evaluation.floor(task, rows=limit or None)
        except MissingData:
            value = float("nan")
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
    folder: Path = SIMILARITY,
) -> pd.DataFrame:
    """Return the similarity of the tasks of a profile, one row per dyad and measure.

    Args:
        profile: as in `load`. A table that is committed as ``<folder>/<profile>.csv`` is read, with
            whatever measures it holds; otherwise they are measured here, with the profile's encoder
            and the intermediate stages that the store holds, and kept value by value.
        measures: names of measures to take where there is no committed table.
        mode: ``"stored"`` computes nothing, ``"missing"`` what is not stored; ``"always"`` computes
            all, without reading a committed table.
        added: whether measures that a reader registered join the table. They are measured here, from
            the data of the profile; without them a committed table needs no data.
        progress: whether to count values while they are measured.
        folder: where committed tables are; ``data/make/similarity.py`` writes one.

    Returns:
        The columns of ``helpers.similarity.COLUMNS``. A value that does not exist, such as one that
        needs labels of a task without any, is NaN with its reason.

    Raises:
        UnknownName: no such profile, measure or mode.
        BadRecord: a committed table that lacks columns.
        BadPlan: data or the encoder of the profile are missing.
    """
    if profile not in PROFILES:
        raise unknown("profile", profile, PROFILES)
    from helpers import similarity

    own = similarity.added() if added else []
    file = folder / f"{profile}.csv"
    if not file.exists() or mode == "always":
        return _measured(profile, dict.fromkeys([*measures, *own]), mode, progress)
    table = _read(file)
    if not own:
        return table
    kept = table[~table["measure"].isin(own)]
    mine = _measured(profile, own, mode, progress)
    return pd.concat([kept, mine], ignore_index=True)


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


def controls(profile: str, folder: Path = SIMILARITY) -> pd.DataFrame:
    """Return similarities of a profile that serve as controls; no rows where none are committed.

    Args:
        profile: as in `load`.
        folder: where ``<profile>-controls.csv`` is, with the columns of `similarities` and measures
            named ``..._random`` (from a random encoder), ``..._shuffled`` (from shuffled labels) or
            ``early_score``.

    Raises:
        UnknownName: no such profile.
        BadRecord: a committed table that lacks columns.
    """
    if profile not in PROFILES:
        raise unknown("profile", profile, PROFILES)
    file = folder / f"{profile}-controls.csv"
    return _read(file) if file.exists() else pd.DataFrame()


def _read(file: Path) -> pd.DataFrame:
    """Read a committed table; names such as "nan" stay texts."""
    from helpers import similarity

    return similarity.read(file)


def checkpoints(encoder: Encoder) -> Any:
    """Return the intermediate stages in the store, or nothing: measures then say what they lack.

    Args:
        encoder: the plain encoder that they were tuned from.
    """
    from helpers.similarity.readers import from_store

    try:
        return from_store(encoder)
    except MissingData:
        return None
