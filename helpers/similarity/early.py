"""A target's score after a short run: what a measure of similarity can reach at best, not one itself."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from helpers.models.settings import Settings
from helpers.similarity.catalogue import Undefined

if TYPE_CHECKING:
    from helpers.models.training import Tuned
    from helpers.tasks import Task

__all__ = ["Early"]


@dataclass(frozen=True)
class Early:
    """Trains an intermediate's encoder on a few rows of a target; pass it as ``early=``.

    Attributes:
        settings: settings of the short run; ``train_rows`` and ``epochs`` say how short.

    Source: the few-shot fine-tuning of Poth et al. 2021 (arXiv 2104.08247).
    """

    settings: Settings = Settings(epochs=1, train_rows=200, dev_rows=300, evaluations=1)

    @property
    def key(self) -> str:
        """Hash of what determines a score beside the encoder, the target and the seed."""
        return hashlib.sha256(
            json.dumps(asdict(self.settings), sort_keys=True).encode()
        ).hexdigest()

    def __call__(self, tuned: Tuned, task: Task, seed: int) -> float:
        """Return the English development score of a target after the short run.

        Args:
            tuned: the intermediate's encoder; left unchanged.
            task: the task that trains the target.
            seed: seed of the head and of the order of the rows.

        Returns:
            The score in the metric of the target, from 0 to 1.

        Raises:
            Undefined: the short run collapsed.
        """
        from helpers import data
        from helpers.models import training

        short = training.fine_tune(tuned.encoder, [data.with_labels(task)], self.settings, seed)
        if short.outcome.status != "done":
            raise Undefined(f"the short run on {task.name} {short.outcome.status}.")
        return float(short.outcome.dev[task.name])
