"""On a CUDA machine packed and padded states agree, and a run resumes exactly."""

from dataclasses import replace

import pytest
import torch

from benchmarks.workloads import Workload, prepared
from helpers.formats import Batch, sorted_batches
from helpers.models import Settings, training
from helpers.models.network import Network

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")

SMALL = Settings(train_rows=64, max_length=128, dev_rows=1)
WORK = Workload("check", "large-random", "generated-pair", SMALL)


def test_packed_bf16_states_are_the_padded_ones():
    ready = prepared(WORK)
    (encoded,) = ready.train.values()
    device = torch.device("cuda")
    found = {}
    for packed in (False, True):
        model = replace(ready.pruned).model
        how = {"packed": packed, "precision": "bf16" if packed else "fp32"}
        network = Network(model, {}, {}, **how)
        batch = Batch.collate(encoded, sorted_batches(encoded, 8192)[0], device)
        with torch.inference_mode(), network.autocast():
            found[packed] = network.states(batch).float()
    # bf16 keeps eight bits of a number: twenty-four layers leave about a hundredth of the norm.
    assert float((found[True] - found[False]).norm() / found[False].norm()) < 0.02


def test_a_resumed_run_ends_as_an_uninterrupted_one(tmp_path):
    work = replace(WORK, settings=replace(WORK.settings, batch_tokens=512, pooling="first"))
    straight = training.Run(prepared(work), work.settings, 0).train()
    steps = iter(range(100))
    stop = lambda: next(steps) >= 3  # noqa: E731
    with pytest.raises(training.Interrupted):
        training.Run(prepared(work), work.settings, 0).train(tmp_path, stop=stop)
    resumed = training.Run(prepared(work), work.settings, 0).train(tmp_path)
    for (name, head), (_, other) in zip(straight.heads.items(), resumed.heads.items(), strict=True):
        for one, same in zip(head.parameters(), other.parameters(), strict=True):
            # Atomic additions of a GPU come in any order, so last digits may differ.
            torch.testing.assert_close(one, same, rtol=1e-4, atol=1e-5, msg=name)
