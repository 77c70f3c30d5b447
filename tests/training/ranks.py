"""Runs of ``test_two_processes.py``: one or several processes train, the first writes what came out.

python -m torch.distributed.run --nproc_per_node 2 -m tests.training.ranks FOLDER [NAME ...]
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path

from helpers.models import encoders
from helpers.models.training import Interrupted, Tuned, fine_tune
from tests.training import toys
from tests.training.toys import QUICK

SHORT = replace(QUICK, epochs=1, learning_rate=1e-3, batch_tokens=128, precision="fp32")
RUNS = {
    "pair": (["pair"], SHORT),
    "micro": (["choice"], replace(SHORT, micro_tokens=40)),
    # Each step trains one of the heads, and steps with a single row leave a process without one.
    "several": (["pair", "span", "tagging"], replace(SHORT, batch_tokens=48, epochs=0.5)),
    "collapsed": (["pair"], replace(SHORT, learning_rate=1e30, clip=0)),
    "resumed": (["pair"], replace(SHORT, epochs=6)),
}


def main(folder: Path, names: Iterable[str] = ()) -> None:
    for name in names or RUNS:
        formats, settings = RUNS[name]
        write(folder / name, one_run(name, [toys.task(f) for f in formats], settings, folder))


def one_run(name: str, tasks: list, settings, folder: Path) -> Tuned:
    tiny = encoders.load("tiny")
    if name != "resumed":
        return fine_tune(tiny, tasks, settings, 0)
    made = []
    rank = int(os.environ.get("RANK", 0))
    try:
        # Only one process is told to stop, and the others leave with it.
        fine_tune(
            tiny,
            tasks,
            settings,
            0,
            checkpoint=folder / "state",
            progress=lambda done, total: made.append(done),
            stop=lambda: rank == int(os.environ.get("WORLD_SIZE", 1)) - 1 and len(made) > 9,
        )
    except Interrupted:
        return fine_tune(tiny, tasks, settings, 0, checkpoint=folder / "state")
    raise AssertionError("the run was not interrupted")


def write(folder: Path, tuned: Tuned) -> None:
    if int(os.environ.get("RANK", 0)):
        return
    tuned.save_encoder(folder)
    (folder / "outcome.json").write_text(json.dumps(asdict(tuned.outcome)))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
