"""Measure the similarities of a profile and write them where chapters read them; run once.

    python data/make/similarity.py demo                 # what needs no training, and what is stored
    python data/make/similarity.py demo --train         # fine-tunes what a measure lacks
    python data/make/similarity.py pilot --families text format
    python data/make/similarity.py demo --encoder bundled-random --families text   # a control

Writes ``data/similarity/<name>.csv``.
"""

import argparse
import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from helpers import similarity, tasks
from helpers.errors import MissingData
from helpers.files import write_atomic
from helpers.models import encoders
from helpers.similarity import readers
from helpers.similarity.inputs import Options
from helpers.study import profiles
from helpers.study.store import default_folder

OUTPUT = Path(__file__).parents[1] / "similarity"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; see the module's text."""
    parser = argparse.ArgumentParser("python data/make/similarity.py")
    parser.add_argument("profile", choices=list(profiles.PROFILES))
    parser.add_argument("--families", nargs="+", choices=similarity.FAMILIES, default=())
    parser.add_argument("--measures", nargs="+", default=())
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--languages", nargs="+", default=["en"])
    parser.add_argument("--encoder", default="", help="instead of the profile's own")
    parser.add_argument("--train", action="store_true", help="fine-tune what is not in the store")
    parser.add_argument("--early", action="store_true", help="a short run per dyad; a ceiling")
    parser.add_argument("--sentence-encoder", help="for sentence_embedding")
    parser.add_argument("--shuffle-labels", action="store_true", help="control")
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--name", default="", help="of the files; by default the profile's")
    asked = parser.parse_args(arguments)
    profile = profiles.get(asked.profile)
    encoder = encoders.load(asked.encoder or profile.encoder)
    chosen = [name for family in asked.families for name in similarity.names(family)]
    chosen += [name for name in asked.measures if name not in chosen]

    def settings(task: tasks.Task) -> Any:
        """As in the profile's own runs."""
        if task.name in profile.intermediates:
            return profile.settings(task, "intermediate", "single")
        return profile.settings(task, "target", "none")

    # What may be missing: measures then say what they lack.
    given: dict[str, Any] = {}
    with contextlib.suppress(MissingData):
        given["checkpoints"] = readers.from_store(encoder)
    with contextlib.suppress(MissingData):
        given["language_head"] = readers.language_head(encoder)
    if asked.train:
        stored, place = given.get("checkpoints", {}), default_folder() / "similarity/checkpoints"
        trained = readers.Trained(encoder, settings, place)
        given["checkpoints"] = lambda task, seed: stored.get((task, seed)) or trained(task, seed)
    # The first target that pairs English sentences with translations.
    retrieval = [t for t in map(tasks.get, profile.targets) if t.format == "retrieval"]
    bitexts = [task.name for task in retrieval if "en" not in task.languages]
    table = similarity.measure(
        (profile.intermediates, profile.targets),
        chosen or None,
        encoder,
        parallel=bitexts[0] if bitexts else None,
        languages=asked.languages,
        seeds=asked.seeds,
        options=Options.sized(asked.rows, asked.shuffle_labels),
        sentence_encoder=asked.sentence_encoder,
        early=readers.early if asked.early else None,
        **given,
    )
    if not (table["status"] == "done").any():
        # A committed table must not give way to one that says nothing.
        why = next(filter(None, table["reason"].astype(str)), "no measure was asked for")
        raise SystemExit(f"nothing could be measured, and nothing was written: {why}")
    parts = [asked.profile, asked.encoder, "shuffled" * asked.shuffle_labels]
    file = OUTPUT / f"{asked.name or '-'.join(filter(None, parts))}.csv"
    write_atomic(file, table.to_csv(index=False, float_format="%.8g").encode())
    print(f"{file}: {table['status'].value_counts().to_dict()}")


if __name__ == "__main__":
    main()
