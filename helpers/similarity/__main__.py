"""Measure the similarities of a profile and write them where chapters read them.

    python -m helpers.similarity demo                 # what needs no training, and what is stored
    python -m helpers.similarity demo --train         # fine-tunes what a measure lacks
    python -m helpers.similarity pilot --families text format
    python -m helpers.similarity demo --encoder bundled-random --families text   # a control

Writes ``data/similarity/<name>.csv`` and one matrix per measure in ``data/similarity/<name>/``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from helpers import tasks
from helpers.errors import MissingData
from helpers.similarity import catalogue
from helpers.similarity.measure import export, measure, to_csv
from helpers.study import profiles

if TYPE_CHECKING:
    from helpers.models.encoders import Encoder
    from helpers.models.settings import Settings
    from helpers.study.profiles import Profile
    from helpers.tasks import Task

OUTPUT = Path(__file__).parents[2] / "data" / "similarity"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; see the module's text."""
    options = _parser().parse_args(arguments)
    profile = profiles.get(options.profile)
    table = measured(profile, options)
    if not (table["status"] == "done").any():
        # A committed table must not give way to one that says nothing.
        raise SystemExit(
            f"nothing could be measured, and nothing was written: {_first_reason(table)}"
        )
    name = options.name or _name(profile, options)
    export(table, options.output / name)
    to_csv(table, options.output / f"{name}.csv")
    counts = table["status"].value_counts().to_dict()
    print(f"{options.output / name}.csv: {counts}")
    return 0


def _first_reason(table: pd.DataFrame) -> str:
    return next((str(reason) for reason in table["reason"] if reason), "no measure was asked for")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m helpers.similarity", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("profile", choices=list(profiles.PROFILES))
    parser.add_argument("--families", nargs="+", choices=catalogue.FAMILIES, default=())
    parser.add_argument("--measures", nargs="+", default=())
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--languages", nargs="+", default=["en"])
    parser.add_argument("--encoder", default="", help="instead of the profile's own")
    parser.add_argument("--train", action="store_true", help="fine-tune what is not in the store")
    parser.add_argument("--early", action="store_true", help="a short run per dyad; a ceiling")
    parser.add_argument("--sentence-encoder", default="", help="for sentence_embedding")
    parser.add_argument("--shuffle-labels", action="store_true", help="control")
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--name", default="", help="of the files; by default the profile's")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    parser.add_argument("--folder", type=Path, default=None, help="where values are kept")
    return parser


def _name(profile: Profile, options: argparse.Namespace) -> str:
    parts = [profile.name, options.encoder, "shuffled" if options.shuffle_labels else ""]
    return "-".join(part for part in parts if part)


def measured(profile: Profile, options: argparse.Namespace) -> pd.DataFrame:
    """Return the table of a profile, as the options ask."""
    from helpers.models import encoders
    from helpers.similarity.early import Early
    from helpers.similarity.gather import Options

    encoder = encoders.load(options.encoder or profile.encoder)
    chosen = [name for family in options.families for name in catalogue.names(family)]
    chosen += [name for name in options.measures if name not in chosen]
    return measure(
        (profile.intermediates, profile.targets),
        chosen or None,
        encoder,
        checkpoints=_checkpoints(profile, encoder, options),
        languages=options.languages,
        seeds=options.seeds,
        parallel=_bitext(profile),
        sentence_encoder=options.sentence_encoder or None,
        language_head=_language_head(encoder),
        early=Early() if options.early else None,
        options=Options.sized(options.rows, options.shuffle_labels),
        folder=options.folder,
        progress=_count,
    )


def _checkpoints(profile: Profile, encoder: Encoder, options: argparse.Namespace) -> Any:
    """Return what the store of runs holds, and where asked for what is trained now."""
    from helpers.similarity.checkpoints import Trained, first_of, from_store
    from helpers.study.store import default_folder

    try:
        stored: Any = from_store(encoder)
    except MissingData:
        stored = None
    if not options.train:
        return stored
    folder = options.folder or default_folder() / "similarity"
    return first_of(stored, Trained(encoder, _Settings(profile), folder / "checkpoints"))


def _language_head(encoder: Encoder) -> Any:
    """Return the encoder's masked-language head, or nothing: measures then say what they lack."""
    from helpers.similarity.heads import language_head

    try:
        return language_head(encoder)
    except MissingData:
        return None


class _Settings:
    """Settings of a profile for the task that is trained on, as in its runs."""

    def __init__(self, profile: Profile) -> None:
        self.profile = profile

    def __call__(self, task: Task) -> Settings:
        if task.name in self.profile.intermediates:
            return self.profile.settings(task, "intermediate", "single")
        return self.profile.settings(task, "target", "none")


def _bitext(profile: Profile) -> str | None:
    """Return the first target of a profile that pairs English sentences with translations."""
    for name in profile.targets:
        task = tasks.get(name)
        if task.format == "retrieval" and "en" not in task.languages:
            return name
    return None


def _count(done: int, total: int) -> None:
    if sys.stderr.isatty():
        end = "\n" if done == total else ""
        print(f"\r{done:,} of {total:,} values", end=end, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
