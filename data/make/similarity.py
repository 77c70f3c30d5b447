"""Measure the similarities of a profile and write them where chapters read them; run once.

    python -m data.make.similarity demo             # what needs no training, and what is stored
    python -m data.make.similarity demo --train     # fine-tunes what a measure lacks
    python -m data.make.similarity pilot --families text format
    python -m data.make.similarity demo --controls bundled-random

Writes ``data/similarity/<name>.csv``. The controls are those of the specification: the primary measure
by an encoder of random weights, LogME of shuffled labels, and the score of a short run per dyad.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from helpers import similarity, tasks
from helpers.errors import MissingData
from helpers.files import write_atomic
from helpers.models import encoders
from helpers.similarity import readers
from helpers.similarity.inputs import Options
from helpers.stats.confirmatory import PRIMARY
from helpers.study import profiles
from helpers.study.store import default_folder

OUTPUT = Path(__file__).parents[1] / "similarity"


def _asked(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return what the command line asks for."""
    parser = argparse.ArgumentParser("python -m data.make.similarity")
    parser.add_argument("profile", choices=list(profiles.PROFILES))
    parser.add_argument("--families", nargs="+", choices=similarity.FAMILIES, default=())
    parser.add_argument("--measures", nargs="+", default=())
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--languages", nargs="+", default=["en"])
    parser.add_argument("--train", action="store_true", help="fine-tune what is not in the store")
    parser.add_argument("--sentence-encoder", help="for sentence_embedding")
    parser.add_argument("--controls", metavar="ENCODER", help="with this one of random weights")
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--name", default="", help="of the file; by default the profile's")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; see the module's text."""
    asked = _asked(arguments)
    profile = profiles.get(asked.profile)
    encoder, options = encoders.load(profile.encoder), Options.sized(asked.rows)
    chosen = [name for family in asked.families for name in similarity.names(family)]
    chosen += [name for name in asked.measures if name not in chosen]

    def settings(task: tasks.Task) -> Any:
        """As in the profile's own runs."""
        stage = "intermediate" if task.name in profile.intermediates else "target"
        return profile.settings(task, stage, "single")

    # What may be missing: measures then say that they lack it.
    given: dict[str, Any] = {"languages": asked.languages, "seeds": asked.seeds}
    looks: dict[str, Any] = {"checkpoints": partial(readers.from_store, encoder, profile)}
    looks["language_head"] = partial(readers.language_head, encoder)
    for name, look in looks.items():
        try:
            given[name] = look()
        except MissingData as error:
            print(error)
    if asked.train:
        stored, place = given.get("checkpoints", {}), default_folder() / "similarity/checkpoints"
        trained = readers.Trained(encoder, settings, place)
        given["checkpoints"] = lambda task, seed: stored.get((task, seed)) or trained(task, seed)
    # The first target that pairs English sentences with translations.
    targets = list(map(tasks.get, profile.targets))
    bitexts = [t.name for t in targets if t.format == "retrieval" and "en" not in t.languages]
    given |= {"parallel": next(iter(bitexts), None), "sentence_encoder": asked.sentence_encoder}
    # The short run is a third of what a target learns in the study, at its own settings.
    short = {t.train_with or t.name: profile.settings(t, "target", "single") for t in targets}
    short = {name: replace(own, epochs=own.epochs / 3) for name, own in short.items()}
    given["early"] = partial(readers.early, settings=short) if asked.controls else None
    every = [name for name in similarity.names() if name != "early_score"]
    parts: list[tuple[Any, ...]] = [(chosen or every, encoder, options, "")]
    if asked.controls:
        shuffled = replace(options, shuffle_labels=True)
        parts = [([PRIMARY], asked.controls, options, "_random")]
        parts += [(["logme"], encoder, shuffled, "_shuffled")]
        parts += [(["early_score"], encoder, options, "")]
    found, sides = list[pd.DataFrame](), (profile.intermediates, profile.targets)
    for measures, reader, options, sign in parts:
        part = similarity.measure(sides, measures, reader, options=options, **given)
        found.append(part.assign(measure=part["measure"] + sign))
    table = pd.concat(found, ignore_index=True)
    if not (table["status"] == "done").any():
        # A committed table must not give way to one that says nothing.
        why = next(filter(None, table["reason"].astype(str)), "no measure was asked for")
        raise SystemExit(f"nothing could be measured, and nothing was written: {why}")
    file = OUTPUT / f"{asked.name or asked.profile + '-controls' * bool(asked.controls)}.csv"
    write_atomic(file, table.to_csv(index=False, float_format="%.8g").encode())
    print(f"{file}: {table['status'].value_counts().to_dict()}")


if __name__ == "__main__":
    main()
