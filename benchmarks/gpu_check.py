"""Check on a CUDA machine that packed and padded states agree and that a run resumes exactly.

python -m benchmarks.gpu_check
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.workloads import Workload, prepared
from helpers.formats import Batch
from helpers.formats.encoded import sorted_batches
from helpers.models import devices, training
from helpers.models.network import Network
from helpers.models.settings import Settings

WORK = Workload(
    "check", "large-random", "generated-pair", Settings(train_rows=64, max_length=128, dev_rows=1)
)


def packed_against_padded() -> float:
    """Return the relative difference of packed bf16 states from padded fp32 ones."""
    ready = prepared(WORK)
    (encoded,) = ready.train.values()
    device = torch.device("cuda")
    found = {}
    for packed in (False, True):
        model: Any = replace(ready.pruned).model
        model = model.to(device).eval()
        network = Network(model, {}, {}, packed=packed)
        batch = Batch.collate(encoded, sorted_batches(encoded, 8192)[0], device)
        with torch.inference_mode(), devices.autocast("bf16" if packed else "fp32", device):
            found[packed] = network.states(batch).float()
    return float((found[True] - found[False]).norm() / found[False].norm())


def resumed_against_uninterrupted() -> float:
    """Return the largest difference of head weights between a resumed run and a straight one."""
    work = replace(WORK, settings=replace(WORK.settings, batch_tokens=512, pooling="first"))
    straight = training.train(prepared(work), work.settings, 0)
    with tempfile.TemporaryDirectory() as folder:
        state, steps = Path(folder), iter(range(100))
        try:
            training.train(
                prepared(work), work.settings, 0, checkpoint=state, stop=lambda: next(steps) >= 3
            )
        except training.Interrupted:
            pass
        resumed = training.train(prepared(work), work.settings, 0, checkpoint=state)
    pairs = zip(_head(straight), _head(resumed), strict=True)
    return max(float((a - b).abs().max()) for a, b in pairs)


def _head(tuned: training.Tuned) -> list[torch.Tensor]:
    return [weight for head in tuned.heads.values() for weight in head.state_dict().values()]


if __name__ == "__main__":
    print(f"packed bf16 against padded fp32: {packed_against_padded():.2e} of the norm")
    print(f"resumed against uninterrupted: {resumed_against_uninterrupted():.2e}")
