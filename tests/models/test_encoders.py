"""Loading from every kind of source, shortening, and losing nothing by pruning."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertModel, XLMRobertaConfig, XLMRobertaModel

from helpers.errors import BadEncoder, MissingData, UnknownName
from helpers.models import encoders
from tests.hub import HEAD

SIZES = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2}
SIZES |= {"intermediate_size": 32, "max_position_embeddings": 130, "type_vocab_size": 1}
TEXTS = ["A first sentence.", "Ein zweiter, längerer Satz!", "第三句话", "وجملة رابعة طويلة قليلا"]


def hidden(encoder, texts=TEXTS):
    batch = encoder.tokenizer(texts, padding=True, return_tensors="np")
    ids = torch.from_numpy(encoder.remap(batch["input_ids"]))
    with torch.inference_mode():
        return encoder.model(
            input_ids=ids, attention_mask=torch.from_numpy(batch["attention_mask"])
        ).last_hidden_state


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


def test_bundled_encoder_is_complete(full):
    assert (full.dimension, full.layers, full.max_length) == (384, 12, 512)
    assert full.freeze_embeddings
    assert full.model.embeddings.word_embeddings.weight.shape == (250_037, 384)
    assert all(p.dtype == torch.float32 and not p.is_meta for p in full.model.parameters())
    assert sum(p.numel() for p in full.model.parameters()) > 117_000_000
    assert not full.model.training and all(p.requires_grad for p in full.model.parameters())


def test_pruning_the_bundled_encoder_changes_no_bit(full):
    pruned = full.prune(ids_of(full))
    assert torch.equal(hidden(full), hidden(pruned))
    assert pruned.model.embeddings.word_embeddings.weight.shape[0] == len(pruned.kept) < 60
    assert pruned.sha256 == full.sha256


def test_a_pruned_copy_shares_no_weights(tiny):
    before = hidden(tiny)
    pruned = tiny.prune(ids_of(tiny))
    with torch.no_grad():
        for parameter in pruned.model.parameters():
            parameter.add_(1.0)
    assert torch.equal(hidden(tiny), before)


@pytest.mark.parametrize("name", ["tiny", "roberta"])
def test_pruning_is_lossless_for_other_encoders(name, roberta_folder):
    encoder = encoders.load("tiny" if name == "tiny" else str(roberta_folder))
    once = encoder.prune(ids_of(encoder))
    twice = once.prune(ids_of(encoder, TEXTS[:2]))
    assert torch.equal(hidden(encoder), hidden(once))
    batch = encoder.tokenizer(TEXTS[:2], padding=True, return_tensors="np")
    assert len(twice.kept) < len(once.kept)
    assert np.array_equal(once.kept[once.remap(batch["input_ids"])], batch["input_ids"])
    assert torch.equal(hidden(encoder, TEXTS[:2]), hidden(twice, TEXTS[:2]))


def test_pruning_follows_a_padding_id_that_moves():
    """An XLM-R counts positions from its padding row, wherever pruning puts it."""
    from transformers import PreTrainedTokenizerFast

    pieces = ["<s>", "</s>", "\u2581", "<unk>", "a", "b", "c", "<pad>", "d", "e", "f", "<mask>"]
    tokenizer = encoders.rebuild_tokenizer([(piece, 0.0) for piece in pieces])
    assert isinstance(tokenizer, PreTrainedTokenizerFast) and tokenizer.pad_token_id == 7
    torch.manual_seed(0)
    config = XLMRobertaConfig(vocab_size=len(pieces), pad_token_id=7, **SIZES)
    encoder = encoders.Encoder("x", XLMRobertaModel(config).eval(), tokenizer, "", "", False, "")
    pruned = encoder.prune(ids_of(encoder, ["a d", "d"]))
    assert len(pruned.kept) < len(pieces)
    assert torch.equal(hidden(encoder, ["a d", "d"]), hidden(pruned, ["a d", "d"]))


def test_a_dropped_id_is_an_error_not_a_wrong_row(tiny):
    pruned = tiny.prune(ids_of(tiny, ["abc"]))
    with pytest.raises(BadEncoder, match="Prune with the ids of every text"):
        pruned.remap(ids_of(tiny, ["xyz"]))
    with pytest.raises(BadEncoder):
        pruned.remap(np.array([-1]))
    with pytest.raises(BadEncoder):
        pruned.remap(np.array([10**6]))


def test_remap_keeps_shape_and_takes_nothing(tiny):
    pruned = tiny.prune(ids_of(tiny))
    assert pruned.remap(np.zeros((0, 3), np.int32)).shape == (0, 3)
    assert pruned.remap(np.full((2, 3, 4), tiny.tokenizer.pad_token_id)).shape == (2, 3, 4)


def test_frozen_embeddings_stay_frozen_when_pruned(tiny):
    tiny.model.get_input_embeddings().weight.requires_grad_(False)
    assert not tiny.prune([5]).model.get_input_embeddings().weight.requires_grad


def test_random_encoders_depend_on_the_seed_alone():
    first, again, other = (encoders.load("tiny", seed=s) for s in (1, 1, 2))
    assert torch.equal(hidden(first), hidden(again)) and first.sha256 == again.sha256
    assert not torch.equal(hidden(first), hidden(other)) and first.sha256 != other.sha256


def test_loading_leaves_the_global_generator_alone():
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    encoders.load("tiny", seed=3)
    assert torch.equal(torch.rand(3), expected)


def test_first_layers_give_the_hidden_states_of_the_full_encoder(full):
    batch = full.tokenizer(TEXTS, padding=True, return_tensors="pt")
    pruned = full.prune(batch["input_ids"].numpy())
    batch["input_ids"] = torch.from_numpy(pruned.remap(batch["input_ids"].numpy()))
    with torch.inference_mode():
        states = pruned.model(**batch, output_hidden_states=True).hidden_states
    short = encoders.trim(pruned, 3)
    assert short.layers == 3
    with torch.inference_mode():
        assert torch.equal(short.model(**batch).last_hidden_state, states[3])


@pytest.mark.parametrize("layers", [0, 3, -1])
def test_layers_out_of_range_are_refused(layers):
    with pytest.raises(BadEncoder, match=f"layers={layers} does not fit 'tiny': it has 2"):
        encoders.load("tiny", layers=layers)


def test_a_folder_gives_the_same_encoder_as_transformers(roberta_folder):
    encoder = encoders.load(str(roberta_folder))
    assert encoder.max_length == 128  # two places of the table come before the first position
    reference = XLMRobertaModel.from_pretrained(roberta_folder, attn_implementation="eager").eval()
    batch = encoder.tokenizer(TEXTS, padding=True, return_tensors="pt")
    with torch.inference_mode():
        torch.testing.assert_close(reference(**batch).last_hidden_state, hidden(encoder))
    assert len(encoder.sha256) == 64 and not encoder.freeze_embeddings


def test_tokenizer_survives_a_folder(roberta_folder):
    loaded = encoders.load(str(roberta_folder)).tokenizer
    assert loaded(TEXTS)["input_ids"] == encoders._tiny_tokenizer()(TEXTS)["input_ids"]


def test_folder_without_config_or_with_unsafe_weights(tmp_path, roberta_folder):
    with pytest.raises(BadEncoder, match="holds no config.json"):
        encoders.load(str(tmp_path))
    (tmp_path / "config.json").write_text((roberta_folder / "config.json").read_text())
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(BadEncoder, match=r"no \.safetensors file"):
        encoders.load(str(tmp_path))


@pytest.fixture
def tiny_folder(tmp_path, tiny):
    tiny.model.save_pretrained(tmp_path)
    tiny.tokenizer.save_pretrained(tmp_path)
    return tmp_path


def test_folder_whose_weights_lack_tensors(tiny_folder):
    weights = load_file(tiny_folder / "model.safetensors")
    weights.pop("encoder.layer.1.output.dense.weight")
    save_file(weights, tiny_folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BadEncoder, match=r"lacks 1 tensors.*layer\.1\.output"):
        encoders.load(str(tiny_folder))


def test_folder_with_a_damaged_weights_file(tiny_folder):
    weights = tiny_folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(BadEncoder, match="not an encoder that transformers can load"):
        encoders.load(str(tiny_folder))


def test_a_repository_that_needs_its_own_code_is_refused(tiny_folder):
    config = json.loads((tiny_folder / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Own", "AutoModel": "own.Own"}}
    (tiny_folder / "config.json").write_text(json.dumps(config))
    (tiny_folder / "own.py").write_text("raise SystemExit('foreign code ran')")
    with pytest.raises(BadEncoder):
        encoders.load(str(tiny_folder))


def test_unknown_names_list_the_nearest():
    with pytest.raises(UnknownName, match="Did you mean 'xlm-roberta-base'"):
        encoders.load("xlm-roberta-bas")
    with pytest.raises(UnknownName, match="Valid: bundled"):
        encoders.load("./no/such/folder")


@pytest.fixture()
def on_hub(hub, roberta_folder):
    """The hub of ``tests.hub``, with one small XLM-R under several names."""
    for name in ("FacebookAI/xlm-roberta-base", "me/tiny", encoders.MINILM):
        shutil.copytree(roberta_folder, hub.models / name)
    (hub.models / encoders.MINILM / "tokenizer.json").unlink()
    return hub


def test_known_hub_encoders_are_fetched_at_their_pin(on_hub):
    encoder = encoders.load("xlm-roberta-base")
    assert encoder.name == "xlm-roberta-base" and encoder.dimension == 16
    assert encoder.revision == "e73636d4f797dec63c3081bb6ed5c7b0bb3f2089"
    assert any(f"/resolve/{encoder.revision}/model.safetensors" in r for r in on_hub.requests)


def test_minilm_borrows_the_tokenizer_of_xlm_r(on_hub):
    assert encoders.load(encoders.MINILM).tokenizer("one two")["input_ids"]
    fetched = [r for r in on_hub.requests if "FacebookAI" in r and "/resolve/" in r]
    assert fetched and not any("safetensors" in request for request in fetched)


@pytest.mark.parametrize("name", ["xlm-roberta-base", "me/tiny"])
def test_what_was_fetched_once_needs_no_hub(on_hub, name):
    first = encoders.load(name)
    assert name != "me/tiny" or first.revision == HEAD
    for answer in ((403, "GatedRepo"), (401, "RepoNotFound"), (404, "RepoNotFound")):
        on_hub.answers[""] = answer
        assert encoders.load(name).revision == first.revision
    on_hub.stop()
    again = encoders.load(name)
    assert (again.revision, again.sha256) == (first.revision, first.sha256)


def test_a_cache_that_holds_only_a_part_does_not_pass_for_the_whole(on_hub):
    encoders.snapshot(*encoders.HUB["xlm-roberta-base"], weights=False)
    on_hub.stop()
    with pytest.raises(MissingData, match="not whole in the local cache"):
        encoders.load("xlm-roberta-base")


@pytest.mark.parametrize(
    ("answer", "error", "said"),
    [
        ((404, "RepoNotFound"), UnknownName, "unknown encoder on the hub 'me/tiny@main'"),
        ((401, "RepoNotFound"), MissingData, "private or gated.*check the name.*hf auth login"),
        ((403, "GatedRepo"), MissingData, "accept its terms at https://huggingface.co/me/tiny"),
        ((403, ""), MissingData, "answers 403"),
        ((500, ""), MissingData, "Server Error.*connect and try again"),
    ],
)
def test_the_hub_is_quoted_when_it_says_no(on_hub, answer, error, said):
    on_hub.answers["me/tiny"] = answer
    with pytest.raises(error, match=said):
        encoders.load("me/tiny")


def test_unreachable_hub_names_the_three_ways():
    with pytest.raises(MissingData) as caught:
        encoders.load("nobody-at-all/no-such-encoder")
    for way in ("Connect", "(1) connect", "(2) on a connected", "--local-dir", "'bundled'"):
        assert way in str(caught.value)


def test_control_has_the_architecture_and_tokenizer_of_the_bundled_encoder(full):
    control = encoders.load("bundled-random", seed=1)
    assert isinstance(control.model, BertModel)
    assert control.tokenizer is full.tokenizer
    same = {"hidden_size", "num_hidden_layers", "intermediate_size", "max_position_embeddings"}
    for key in same:
        assert getattr(control.model.config, key) == getattr(full.model.config, key)
    assert control.freeze_embeddings and "random" in control.note
