import json
import os
import shutil

import numpy as np
import pytest
import torch
from huggingface_hub import snapshot_download
from safetensors.torch import load_file, save_file
from transformers import BertModel, XLMRobertaConfig, XLMRobertaModel

from helpers.errors import BadEncoder, MissingData, UnknownName
from helpers.models import encoders
from tests.hub import HEAD
from tests.models.toys import assert_equal, weights

SIZES = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2}
SIZES |= {"intermediate_size": 32, "max_position_embeddings": 130, "type_vocab_size": 1}
TEXTS = ["A first sentence.", "Ein zweiter, längerer Satz!", "第三句话", "وجملة رابعة طويلة قليلا"]
WEIGHTS = "model.safetensors"


def hidden(encoder, texts=TEXTS, **options):
    batch = encoder.tokenizer(texts, padding=True, return_tensors="pt")
    batch["input_ids"] = torch.from_numpy(encoder.remap(batch["input_ids"].numpy()))
    with torch.inference_mode():
        found = encoder.model(**batch, **options)
    return found.hidden_states if options else found.last_hidden_state


def ids_of(encoder, texts=TEXTS):
    return np.concatenate([np.array(i) for i in encoder.tokenizer(texts)["input_ids"]])


@pytest.fixture(scope="module")
def roberta_folder(tmp_path_factory):
    """A small random XLM-R: its position ids are counted from the padding id."""
    tokenizer = encoders._tiny_tokenizer()
    torch.manual_seed(0)
    config = XLMRobertaConfig(vocab_size=len(tokenizer), pad_token_id=1, **SIZES)
    folder = tmp_path_factory.mktemp("hub") / "xlmr"
    XLMRobertaModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_the_bundled_encoder_is_complete_and_so_is_its_control(full):
    assert (full.dimension, full.layers, full.max_length) == (384, 12, 512)
    assert full.table.weight.shape == (250_037, 384)
    assert all(p.dtype == torch.float32 and not p.is_meta for p in full.model.parameters())
    assert not full.model.training and all(p.requires_grad for p in full.model.parameters())
    control = encoders.load("bundled-random", seed=1)
    assert isinstance(control.model, BertModel) and control.tokenizer is full.tokenizer
    for name in ("hidden_size", "num_hidden_layers", "intermediate_size", "layer_norm_eps"):
        assert getattr(control.model.config, name) == getattr(full.model.config, name)
    assert control.freeze_embeddings and full.freeze_embeddings and "random" in control.note


def test_pruning_and_first_layers_change_no_bit_of_the_bundled_encoder(full):
    pruned = full.prune(ids_of(full))
    assert torch.equal(hidden(full), hidden(pruned))
    assert pruned.model.embeddings.word_embeddings.weight.shape[0] == len(pruned.kept) < 60
    assert pruned.sha256 == full.sha256
    expected = hidden(pruned, output_hidden_states=True)[3]
    short = encoders.trim(pruned, 3)
    assert short.layers == 3 and torch.equal(hidden(short), expected)


def test_a_pruned_copy_shares_no_weights_and_stays_frozen(tiny):
    tiny.model.get_input_embeddings().weight.requires_grad_(False)
    before, pruned = hidden(tiny), tiny.prune(ids_of(tiny))
    assert not pruned.model.get_input_embeddings().weight.requires_grad
    with torch.no_grad():
        for parameter in pruned.model.parameters():
            parameter.add_(1.0)
    assert torch.equal(hidden(tiny), before)
    # A dropped id is an error, not a wrong row.
    pruned = tiny.prune(ids_of(tiny, ["abc"]))
    for lost in (ids_of(tiny, ["xyz"]), np.array([-1]), np.array([10**6])):
        with pytest.raises(BadEncoder, match="Prune with the ids of every text"):
            pruned.remap(lost)
    assert pruned.remap(np.zeros((0, 3), np.int32)).shape == (0, 3)
    assert pruned.remap(np.full((2, 3, 4), tiny.tokenizer.pad_token_id)).shape == (2, 3, 4)
    for layers in (0, 3, -1):
        with pytest.raises(BadEncoder, match=f"layer {layers} of 'tiny': expected 1 to 2"):
            encoders.trim(tiny, layers)


@pytest.mark.parametrize("name", ["tiny", "roberta"])
def test_pruning_is_lossless_for_other_encoders(name, roberta_folder):
    encoder = encoders.load("tiny" if name == "tiny" else str(roberta_folder))
    once = encoder.prune(ids_of(encoder))
    twice = once.prune(ids_of(encoder, TEXTS[:2]))
    assert torch.equal(hidden(encoder), hidden(once))
    ids = ids_of(encoder, TEXTS[:2])
    assert len(twice.kept) < len(once.kept)
    assert np.array_equal(once.kept[once.remap(ids)], ids)
    assert torch.equal(hidden(encoder, TEXTS[:2]), hidden(twice, TEXTS[:2]))


def test_pruning_follows_a_padding_id_that_moves():
    """An XLM-R counts positions from its padding row, wherever pruning puts it."""
    pieces = ["<s>", "</s>", "\u2581", "<unk>", "a", "b", "c", "<pad>", "d", "e", "f", "<mask>"]
    tokenizer = encoders.rebuild_tokenizer([(piece, 0.0) for piece in pieces])
    assert tokenizer.pad_token_id == 7
    torch.manual_seed(0)
    model = XLMRobertaModel(XLMRobertaConfig(vocab_size=len(pieces), pad_token_id=7, **SIZES))
    encoder = encoders.Encoder("x", model.eval(), tokenizer, "", "", False, "")
    pruned = encoder.prune(ids_of(encoder, ["a d", "d"]))
    assert len(pruned.kept) < len(pieces)
    assert torch.equal(hidden(encoder, ["a d", "d"]), hidden(pruned, ["a d", "d"]))


def test_random_encoders_depend_on_the_seed_alone():
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    first, again, other = (encoders.load("tiny", seed=s) for s in (1, 1, 2))
    assert torch.equal(torch.rand(3), expected)  # the global generator was left alone
    assert_equal(weights(first), weights(again))
    assert first.sha256 == again.sha256 != other.sha256
    assert not torch.equal(hidden(first), hidden(other))


def test_a_folder_gives_the_same_encoder_as_transformers(roberta_folder):
    encoder = encoders.load(str(roberta_folder))
    assert encoder.max_length == 128  # two places of the table come before the first position
    reference = XLMRobertaModel.from_pretrained(roberta_folder, attn_implementation="eager").eval()
    batch = encoder.tokenizer(TEXTS, padding=True, return_tensors="pt")
    with torch.inference_mode():
        torch.testing.assert_close(reference(**batch).last_hidden_state, hidden(encoder))
    assert len(encoder.sha256) == 64 and not encoder.freeze_embeddings
    own = encoders._tiny_tokenizer()(TEXTS, padding=True, return_tensors="pt")
    assert batch["input_ids"].equal(own["input_ids"])


def lack_a_tensor(folder):
    found = load_file(folder / "model.safetensors")
    found.pop("encoder.layer.1.output.dense.weight")
    save_file(found, folder / "model.safetensors", metadata={"format": "pt"})


def need_own_code(folder):
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Own", "AutoModel": "own.Own"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text("raise SystemExit('foreign code ran')")


PICKLED = r"holds no \*\.safetensors.*convert them on a machine you trust"


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda folder: (folder / "config.json").unlink(), "holds no config.json"),
        (lambda folder: (folder / WEIGHTS).rename(folder / "pytorch_model.bin"), PICKLED),
        (lack_a_tensor, r"lacks 1 tensors.*layer\.1\.output"),
        (lambda folder: os.truncate(folder / WEIGHTS, 1000), "is no encoder that can be trained"),
        (need_own_code, "is no encoder that can be trained"),
    ],
)
def test_a_spoilt_folder_is_refused(spoil, said, tiny, tmp_path):
    tiny.model.save_pretrained(tmp_path)
    tiny.tokenizer.save_pretrained(tmp_path)
    encoders.load(str(tmp_path))
    spoil(tmp_path)
    with pytest.raises(BadEncoder, match=said):
        encoders.load(str(tmp_path))


def test_unknown_names_list_the_nearest_and_an_unreachable_hub_the_three_ways():
    with pytest.raises(UnknownName, match="Did you mean 'xlm-roberta-base'"):
        encoders.load("xlm-roberta-bas")
    with pytest.raises(UnknownName, match="Valid: bundled"):
        encoders.load("./no/such/folder")
    with pytest.raises(MissingData) as caught:
        encoders.load("nobody-at-all/no-such-encoder")
    for way in ("Connect", "(1) connect", "(2) on a connected", "--local-dir", "'bundled'"):
        assert way in str(caught.value)


@pytest.fixture()
def on_hub(hub, roberta_folder):
    """The hub of ``tests.hub``, with one small XLM-R under two names."""
    for name in ("FacebookAI/xlm-roberta-base", "me/tiny"):
        shutil.copytree(roberta_folder, hub.models / name)
    return hub


@pytest.mark.parametrize("name", ["xlm-roberta-base", "me/tiny"])
def test_what_was_fetched_once_needs_no_hub(on_hub, name):
    first = encoders.load(name)
    pinned = "e73636d4f797dec63c3081bb6ed5c7b0bb3f2089" if name == "xlm-roberta-base" else HEAD
    assert (first.name, first.revision, first.dimension) == (name, pinned, 16)
    assert any(f"/resolve/{pinned}/model.safetensors" in said for said in on_hub.requests)
    for answer in ((403, "GatedRepo"), (401, "RepoNotFound"), (404, "RepoNotFound")):
        on_hub.answers[""] = answer
        assert encoders.load(name).revision == first.revision
    on_hub.stop()
    again = encoders.load(name)
    assert (again.revision, again.sha256) == (first.revision, first.sha256)


def test_a_cache_that_holds_only_a_part_does_not_pass_for_the_whole(on_hub):
    identifier, revision = encoders.HUB["xlm-roberta-base"]
    snapshot_download(identifier, revision=revision, allow_patterns="*.json")
    on_hub.stop()
    with pytest.raises(MissingData, match="not whole in the local cache"):
        encoders.load("xlm-roberta-base")


@pytest.mark.parametrize(
    ("answer", "error", "said"),
    [
        ((404, "RepoNotFound"), UnknownName, "unknown encoder on the hub 'me/tiny@main'"),
        ((401, "RepoNotFound"), MissingData, "its name is wrong, or it is private.*hf auth login"),
        ((403, "GatedRepo"), MissingData, "accept its terms at http.*/me/tiny and log in"),
        ((403, ""), MissingData, r"refuses me/tiny \(403\)"),
        ((500, ""), MissingData, r"out of order \(500\).*connect and try again"),
    ],
)
def test_the_hub_is_quoted_when_it_says_no(on_hub, answer, error, said):
    on_hub.answers["me/tiny"] = answer
    with pytest.raises(error, match=said):
        encoders.load("me/tiny")
