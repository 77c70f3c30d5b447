import pytest
import torch

from helpers import tasks
from helpers.errors import MissingData
from helpers.models import training
from helpers.similarity import checkpoints
from helpers.similarity.catalogue import Undefined
from helpers.similarity.checkpoints import Checkpoint, Trained, fingerprint, resolve


def test_resolve_takes_mappings_and_functions(tiny):
    tuned = training.Tuned(tiny)
    given = Checkpoint("run-7", lambda: tuned)
    assert resolve({("a", 1): given}, "a", 1) is given
    assert resolve({"a": given}, "a", 0) is given
    assert resolve(lambda task, seed: given if task == "a" else None, "a", 3) is given
    wrapped = resolve({"a": tuned}, "a", 0)
    assert wrapped.load() is tuned and wrapped.key == fingerprint(tuned)


@pytest.mark.parametrize("source", [None, {}, {("a", 0): None}, lambda task, seed: None])
def test_a_missing_checkpoint_is_undefined(source):
    with pytest.raises(Undefined, match="no encoder fine-tuned on a with seed 0"):
        resolve(source, "a", 0)


def test_a_second_seed_does_not_take_the_first(tiny):
    with pytest.raises(Undefined):
        resolve({"a": training.Tuned(tiny)}, "a", 1)


def test_fingerprint_follows_encoder_and_heads(tiny):
    first = fingerprint(training.Tuned(tiny))
    assert first == fingerprint(training.Tuned(tiny))
    head = torch.nn.Linear(2, 2)
    with_head = fingerprint(training.Tuned(tiny, {"a": head}))
    assert with_head != first
    with torch.no_grad():
        head.weight[0, 0] += 1
    assert fingerprint(training.Tuned(tiny, {"a": head})) != with_head
    moved = tiny.prune(range(len(tiny.tokenizer)))
    with torch.no_grad():
        next(iter(moved.model.encoder.parameters())).add_(1e-3)
    assert fingerprint(training.Tuned(moved)) != first


class TestTrained:
    def test_trains_once_and_reads_back_encoder_and_head(self, trained, monkeypatch):
        first = trained("toy-same", 0).load()
        monkeypatch.setattr(training, "fine_tune", None)  # a second training would fail
        again = Trained(trained.encoder, trained.settings, trained.folder)("toy-same", 0).load()
        for (name, a), (_, b) in zip(
            first.encoder.model.named_parameters(),
            again.encoder.model.named_parameters(),
            strict=True,
        ):
            torch.testing.assert_close(a.detach(), b.detach(), msg=name)
        torch.testing.assert_close(
            first.heads["toy-same"].state_dict(), again.heads["toy-same"].state_dict()
        )
        assert again.settings.pooling == trained.settings.pooling

    def test_keys_follow_task_seed_and_settings(self, trained):
        keys = {
            trained("toy-same", 0).key,
            trained("toy-same", 1).key,
            trained("toy-choice", 0).key,
            Trained(trained.encoder, training.Settings(), trained.folder)("toy-same", 0).key,
        }
        assert len(keys) == 4

    def test_a_target_shares_the_checkpoint_of_its_training_task(self, trained):
        from dataclasses import replace

        facts = {"name": "toy-other", "train_with": "toy-same"}
        target = replace(tasks.get("toy-intents"), labels=tasks.get("toy-same").labels, **facts)
        tasks.register(target, replace=True)
        assert trained("toy-other", 0).key == trained("toy-same", 0).key

    def test_nothing_trains_a_bitext_task(self, trained):
        assert trained("toy-messages", 0) is None

    def test_a_collapsed_run_is_undefined(self, trained, tmp_path, monkeypatch):
        collapsed = training.Tuned(trained.encoder, outcome=training.Outcome(status="collapsed"))
        monkeypatch.setattr(training, "fine_tune", lambda *a, **k: collapsed)
        given = Trained(trained.encoder, trained.settings, tmp_path)("toy-same", 0)
        with pytest.raises(Undefined, match="toy-same with seed 0 collapsed"):
            given.load()


class TestFromStore:
    def test_finds_the_latest_finished_run(self, trained, tmp_path, monkeypatch):
        import pandas as pd

        from helpers.study import store as stores

        tuned = trained("toy-same", 0).load()
        place = stores.Store(tmp_path)
        place.save_checkpoint("r1", tuned.save_encoder)
        place.save_checkpoint("r2", tuned.save_encoder)
        rows = [
            ("r1", "tiny", "single", "toy-same", 0, "done", "2026-01-01"),
            ("r2", "tiny", "single", "toy-same", 0, "done", "2026-01-02"),
            ("r3", "tiny", "single", "toy-same", 1, "done", "2026-01-02"),  # no checkpoint
            ("r1", "tiny", "multitask", "toy-choice", 0, "done", "2026-01-03"),
            ("r1", "other", "single", "toy-span", 0, "done", "2026-01-03"),
        ]
        names = ["run", "encoder", "condition", "intermediate", "seed", "status", "utc"]
        table = pd.DataFrame(rows, columns=names)
        monkeypatch.setattr(stores.Store, "scores", lambda self, stage: table)
        found = checkpoints.from_store(trained.encoder, tmp_path)
        assert {key: value.key for key, value in found.items()} == {("toy-same", 0): "r2"}
        loaded = found["toy-same", 0].load()
        assert fingerprint(loaded) == fingerprint(tuned)

    def test_an_empty_store_says_what_to_do(self, tiny, tmp_path):
        with pytest.raises(MissingData, match="Run a plan"):
            checkpoints.from_store(tiny, tmp_path)
