"""Show finished runs in TensorBoard, for those who watch a study there.

Off unless ``TRANSFER_TENSORBOARD`` names a folder; the package ``tensorboard`` must be installed
then. The records in the store are the truth; this is only a view of them.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

from helpers.study.records import Record

VARIABLE = "TRANSFER_TENSORBOARD"
log = logging.getLogger("helpers.study.run")


def track(record: Record) -> None:
    """Write the scores of a run, if asked to; a failure to do so never fails the run.

    Args:
        record: a finished run.
    """
    folder = os.environ.get(VARIABLE)
    if not folder:
        return
    try:
        _write(record, Path(folder))
    except Exception as error:  # whatever the view does, the run is done
        log.warning("not shown in TensorBoard: %s", error)


def _write(record: Record, folder: Path) -> None:
    from torch.utils.tensorboard import SummaryWriter

    via = record.intermediate or record.condition
    name = f"{record.target or record.stage} via {via}"
    last = record.attempts[-1]
    with SummaryWriter(str(folder / name / f"seed {last.seed} {record.run}")) as writer:
        for task, value in last.dev.items():
            writer.add_scalar(f"dev/{task}", value, last.steps)
        for row in record.scores(every_metric=False):
            if row["status"] == "done" and row["language"]:
                writer.add_scalar(f"{row['metric']}/{row['language']}", row["value"], last.steps)
        writer.add_scalar("cost/seconds", last.seconds, last.steps)
        writer.add_scalar("cost/tokens", last.tokens, last.steps)
        writer.add_text("record", f"{record.status}; {'; '.join(last.notes)}")
