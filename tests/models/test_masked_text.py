from dataclasses import replace

import pytest
import torch

from helpers.errors import BadRows, MissingData
from helpers.evaluation import evaluate
from helpers.models.training import MLM, Run, fine_tune, prepare
from tests.models import toys
from tests.models.toys import QUICK

MIXED = replace(QUICK, epochs=6, mlm_share=0.4, mlm_languages=("de", "fr"), mlm_rows=30)


@pytest.fixture(autouse=True)
def texts(tmp_path, monkeypatch):
    for language, words in (("de", "other many people"), ("fr", "number which long way")):
        lines = [f"{words} {number} the first call" for number in range(50)]
        (tmp_path / f"{language}.txt").write_text("\n".join(lines))
    monkeypatch.setenv("TRANSFER_TEXT_ROOT", str(tmp_path))
    return tmp_path


def test_text_is_mixed_in_and_its_head_is_trained(tiny):
    task = toys.task("pair")
    prepared = prepare(tiny, [task], MIXED, 0)
    assert prepared.train[MLM].rows == 60
    run = Run(prepared, MIXED, 0)
    count = sum(name == MLM for name, _ in run.steps)
    assert 0.15 < count / len(run.steps) < 0.7
    before = run.network.head(MLM).out.weight.detach().clone()
    assert before.shape[0] == len(run.small.kept)  # only pieces that the run knows
    run.train()
    moved = (run.network.head(MLM).out.weight.detach() - before).abs()
    assert float(moved.max()) > 1e-3
    losses = [
        float(loss) for (name, _), loss in zip(run.steps, run.losses, strict=True) if name == MLM
    ]
    assert losses[-1] < losses[0]


def test_the_head_over_pieces_is_dropped_and_the_task_is_scored(tiny):
    task = toys.task("pair")
    tuned = fine_tune(tiny, [task], MIXED, 0)
    assert list(tuned.heads) == list(tuned.tasks) == list(tuned.outcome.dev) == [task.name]
    assert tuned.outcome.rows == toys.SIZES["train"]
    assert MLM in tuned.outcome.fingerprints and "folder" in tuned.outcome.sources[MLM]
    assert evaluate(tuned, task, ["en"])[0]["status"] == "done"
    plain = fine_tune(tiny, [task], replace(MIXED, mlm_share=0), 0)
    name = "encoder.layer.0.output.dense.weight"
    states = (t.encoder.model.state_dict()[name] for t in (tuned, plain))
    assert not torch.equal(*states)


def test_other_text_is_another_run(tiny, texts):
    first = prepare(tiny, [toys.task("pair")], MIXED, 0).outcome.fingerprints
    (texts / "de.txt").write_text("now the people know\n")
    second = prepare(tiny, [toys.task("pair")], MIXED, 0).outcome.fingerprints
    assert first[MLM] != second[MLM] and first["learn-pair"] == second["learn-pair"]


def test_text_without_languages_or_files_is_an_error(tiny):
    with pytest.raises(BadRows, match="mlm_languages is empty"):
        prepare(tiny, [toys.task("pair")], replace(MIXED, mlm_languages=()), 0)
    with pytest.raises(MissingData, match="'sw'"):
        prepare(tiny, [toys.task("pair")], replace(MIXED, mlm_languages=("de", "sw")), 0)
