"""The scores and similarities that chapters read: committed ones, else a live study."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from helpers import study
from helpers.profiles import PROFILES
from helpers.store import read_export

FOLDER = Path(__file__).resolve().parent.parent / "data" / "results"


def committed(folder: Path = FOLDER) -> list[str]:
    """Return the profiles whose scores lie in the repository."""
    return [name for name in PROFILES if (folder / f"{name}.parquet").exists()]


def load(
    profile: str, *, seeds: int | None = None, mode: str = "missing", progress: bool = True
) -> pd.DataFrame:
    """Return the scores of a profile, one row per score.

    Args:
        profile: ``"tiny"``, ``"embedded"``, ``"small"`` or ``"paper"``. Scores that are committed
            under ``data/results`` are read; otherwise the study of that profile is run here, as
            far as ``mode`` says.
        seeds: seeds of a live study; ``None``: as the profile says.
        mode: ``"stored"``, ``"missing"`` or ``"always"``, for a live study.
        progress: whether a live study shows its progress.

    Returns:
        The columns of ``helpers.store.SCORE_COLUMNS``; failed and collapsed runs among them.

    Raises:
        UnknownName: no such profile or mode.
        BadPlan: a live study that cannot start; the error names all that is missing.
    """
    file = FOLDER / f"{profile}.parquet"
    if file.exists() and mode != "always":
        return read_export(file)
    return study.run(study.plan(profile, seeds=seeds), mode, progress=progress)
