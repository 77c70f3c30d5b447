from dataclasses import replace

import numpy as np
import pytest
import torch

from helpers.errors import BadRecord
from helpers.evaluation import evaluate
from helpers.files import load_tensors, save_tensors
from helpers.models import encoders
from helpers.models.training import Tuned, fine_tune, load_encoder
from tests.models import toys
from tests.models.toys import QUICK, assert_equal, weights


@pytest.fixture(scope="module", params=[True, False], ids=["frozen", "trained"])
def tuned(request):
    base = replace(encoders.load("tiny"), freeze_embeddings=request.param)
    with torch.random.fork_rng(devices=[]):
        settings = replace(QUICK, epochs=2)
        return base, fine_tune(base, [toys.task("pair")], settings, 0), request.param


def test_a_saved_encoder_comes_back_whole(tuned, tmp_path):
    base, result, frozen = tuned
    before = weights(base)
    result.save_encoder(tmp_path)
    found = load_encoder(base, tmp_path)
    assert_equal(weights(found), weights(result.encoder))
    assert_equal(weights(base), before)
    names = load_tensors(tmp_path / "encoder.safetensors")[0]
    assert ("embeddings.word_embeddings.weight" in names) != frozen
    assert (found.kept, found.name, found.sha256) == (None, base.name, base.sha256)


def test_a_loaded_encoder_predicts_and_trains_like_the_one_in_memory(tuned, tmp_path):
    base, result, _ = tuned
    result.save_encoder(tmp_path)
    found = load_encoder(base, tmp_path)
    again = Tuned(found, result.heads, result.tasks, result.settings)
    assert evaluate(again, toys.task("pair")) == evaluate(result, toys.task("pair"))
    settings = replace(QUICK, epochs=1)
    one, other = (
        fine_tune(encoder, [toys.task("choice")], settings, 0)
        for encoder in (found, result.encoder)
    )
    assert_equal(weights(one.encoder), weights(other.encoder))
    assert one.outcome.dev == other.outcome.dev


def test_heads_are_saved_beside_the_encoder(tuned, tmp_path):
    _, result, _ = tuned
    result.save_encoder(tmp_path)
    heads, facts = load_tensors(tmp_path / "heads.safetensors")
    assert facts == {"pooling": "mean"}
    assert torch.equal(heads["learn-pair/out.weight"], result.heads["learn-pair"].out.weight)


def test_an_encoder_is_loaded_onto_its_own_base_only(tuned, tmp_path):
    base, result, _ = tuned
    result.save_encoder(tmp_path)
    with pytest.raises(BadRecord, match="trained from encoder 'tiny' with other weights"):
        load_encoder(encoders.load("tiny", seed=1), tmp_path)
    with pytest.raises(BadRecord, match="do not fit the 1 layers"):
        load_encoder(encoders.load("tiny", layers=1), tmp_path)


def test_tensors_that_do_not_fit_are_refused(tuned, tmp_path):
    base, result, _ = tuned
    result.save_encoder(tmp_path)
    path = tmp_path / "encoder.safetensors"
    state, facts = load_tensors(path)
    name, table = "encoder.layer.0.output.dense.weight", "embeddings.word_embeddings.weight"
    for wrong in (
        {n: tensor for n, tensor in state.items() if n != name},
        state | {name: state[name][:, :3]},
        state | {table: torch.zeros(7, base.dimension)},
    ):
        save_tensors(path, wrong, facts)
        with pytest.raises(BadRecord, match="do not fit"):
            load_encoder(base, tmp_path)


@pytest.mark.parametrize("place", [0.01, 0.5, 0.999])
def test_a_flipped_bit_is_found(tuned, tmp_path, place):
    base, result, _ = tuned
    result.save_encoder(tmp_path)
    path = tmp_path / "encoder.safetensors"
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 1
    path.write_bytes(content)
    with pytest.raises(BadRecord, match="encoder.safetensors does not match its checksum"):
        load_encoder(base, tmp_path)


def test_a_missing_checkpoint_is_named(tuned, tmp_path):
    with pytest.raises(BadRecord, match="encoder.safetensors or its checksum is missing"):
        load_encoder(tuned[0], tmp_path)


def test_unused_pieces_keep_their_vectors_through_two_stages(tuned):
    base, result, frozen = tuned
    thawed = replace(result.encoder, freeze_embeddings=False)
    second = fine_tune(thawed, [toys.task("choice")], replace(QUICK, epochs=1), 0)
    first, last = (e.model.get_input_embeddings().weight.detach() for e in (base, second.encoder))
    texts = [row["first"] for row in toys.rows("pair", "en", "train")]
    for row in toys.rows("choice", "en", "train"):
        texts += [row["context"], *row["choices"]]
    used = np.unique([piece for text in texts for piece in base.tokenizer(text)["input_ids"]])
    unused = np.setdiff1d(np.arange(len(first)), used)
    assert len(unused) > 500 and torch.equal(first[unused], last[unused])
