import numpy as np
import pytest
import torch
import transformers
from transformers import BertConfig, BertModel, XLMRobertaConfig, XLMRobertaModel

from helpers.formats import Batch, Encoded
from helpers.models import network as networks
from helpers.models.network import Network, packed_attention, suits

SIZES = {"vocab_size": 60, "hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 3}
SIZES |= {"intermediate_size": 40, "max_position_embeddings": 40}
SIZES |= {"attention_probs_dropout_prob": 0.0}
KINDS = {"bert": (BertConfig, BertModel, 0), "xlm-roberta": (XLMRobertaConfig, XLMRobertaModel, 1)}


def model(kind, attention="eager"):
    config, maker, pad = KINDS[kind]
    torch.manual_seed(4)
    settings = config(**SIZES, pad_token_id=pad, attn_implementation=attention)
    made = maker(settings, add_pooling_layer=False).eval()
    with torch.no_grad():  # larger than a fresh model's, so that every part tells
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return made


@pytest.fixture
def batch():
    chance = np.random.default_rng(0)
    sequences = [chance.integers(4, 60, size) for size in (5, 12, 1, 7, 12)]
    return Batch.collate(Encoded.build(sequences, range(5), rows=5), np.array([3, 0, 2, 4, 1]))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_packed_states_and_gradients_equal_padded_ones(kind, precision, batch):
    found = {}
    # bf16 keeps 8 bits, and three layers round at other places: a few units of the last.
    fine = precision == "fp32"
    near, far = ((1e-5, 1e-4), (1e-4, 1e-3)) if fine else ((0.05, 0.05), (0.5, 0.1))
    for packed in (False, True):
        network = Network(model(kind), {}, {}, precision=precision, packed=packed)
        with network.autocast():
            states = network.states(batch)
        (states * torch.linspace(-1, 1, states.numel()).view_as(states)).sum().backward()
        named = network.model.named_parameters()
        grown = {name: part.grad for name, part in named if part.grad is not None}
        found[packed] = states.detach(), grown
    torch.testing.assert_close(found[True][0], found[False][0], atol=near[0], rtol=near[1])
    assert found[True][1].keys() == found[False][1].keys()
    for name, gradient in found[False][1].items():
        torch.testing.assert_close(found[True][1][name], gradient, atol=far[0], rtol=far[1])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("packed", [False, True])
def test_states_of_every_layer_are_those_of_each_sequence_alone(kind, packed, batch):
    network, alone = Network(model(kind), {}, {}, packed=packed), model(kind)
    begin = batch.starts.tolist()
    with torch.no_grad():
        torch.testing.assert_close(network.states(batch), network.states(batch, 3))
        several = network.states(batch, [0, 1, 2, 3])
        for place, length in enumerate(batch.lengths.tolist()):
            own = slice(begin[place], begin[place] + length)
            known = alone(input_ids=batch.ids[None, own], output_hidden_states=True).hidden_states
            for layer, expected in enumerate(known):
                for states in (network.states(batch, layer), several[:, layer]):
                    torch.testing.assert_close(states[own], expected[0], atol=1e-5, rtol=1e-4)


def test_packed_attention_refuses_dropout_and_missing_borders():
    states = torch.zeros(1, 2, 3, 4)
    for dropout, said in ((0.1, "attention_probs_dropout_prob"), (0.0, "sequence borders")):
        with pytest.raises(ValueError, match=said):
            packed_attention(None, states, states, states, None, dropout=dropout)
    packed = Network(model("bert"), {}, {}, packed=True).model
    with pytest.raises((ValueError, TypeError)):
        packed(input_ids=torch.tensor([[5, 6]]))


@pytest.mark.parametrize("lengths", [(3, 3, 1, 7), (100, 2, 100, 130)])
def test_attention_by_length_is_that_of_each_sequence_alone(lengths):
    chance = torch.Generator().manual_seed(0)
    total = sum(lengths)
    query, key, value = (torch.randn(1, 2, total, 4, generator=chance) for _ in range(3))
    borders = torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)
    places = {"cu_seq_lens_q": borders, "max_length_q": 200}
    found, _ = packed_attention(None, query, key, value, None, scaling=0.3, **places)
    cuts = zip(borders.tolist()[:-1], borders.tolist()[1:], strict=True)
    for begin, end in cuts:
        q, k, v = (states[0, :, begin:end] for states in (query, key, value))
        alone = torch.softmax(q @ k.transpose(1, 2) * 0.3, -1) @ v
        torch.testing.assert_close(found[0, begin:end], alone.transpose(0, 1), atol=1e-5, rtol=1e-4)


def test_only_encoders_that_can_be_packed_are_and_task_names_may_hold_dots():
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    for kind in KINDS:
        assert suits(model(kind), cpu, "fp32") and suits(model(kind), gpu, "bf16")
        assert not suits(model(kind), gpu, "fp32")
    other = transformers.DebertaV2Model(transformers.DebertaV2Config(**SIZES))
    assert not suits(other, cpu, "fp32")
    head = torch.nn.Linear(2, 2)
    assert Network(model("bert"), {"squad2.0": head}, {}).head("squad2.0") is head


@pytest.mark.parametrize("kind", KINDS)
def test_an_unpacked_encoder_is_an_ordinary_one_again(kind, batch):
    made, fresh = model(kind), model(kind)
    network = Network(made, {}, {}, packed=True)
    with torch.no_grad():
        packed = network.states(batch)
        network.unpack()
        assert {type(module) for module in made.modules()} == {type(m) for m in fresh.modules()}
        ids = batch.ids[None, : batch.lengths[0]]
        states = [each(input_ids=ids).last_hidden_state for each in (made, fresh)]
        torch.testing.assert_close(*states)
        torch.testing.assert_close(network.states(batch), packed, atol=1e-5, rtol=1e-4)
        again = Network(made, {}, {}, packed=True)
        torch.testing.assert_close(again.states(batch), packed)


def test_auto_takes_bf16_where_the_device_multiplies_in_it(monkeypatch):
    asked, device = ("auto", "fp32", "bf16"), networks.best_device()
    says = "cuda.is_bf16_supported", "cpu._is_avx512_bf16_supported", "cpu._is_amx_tile_supported"
    for chosen in ("bf16", "fp32"):
        for name in says:
            monkeypatch.setattr(f"torch.{name}", lambda chosen=chosen: chosen == "bf16")
        found = [networks.resolve_precision(precision, device) for precision in asked]
        assert found == [chosen, "fp32", "bf16"]


def test_one_product_for_query_key_and_value_gives_the_same_states(monkeypatch, batch):
    """A GPU takes it; any device can."""
    plain = Network(model("bert"), {}, {}, packed=True)
    monkeypatch.setattr(networks, "best_device", lambda: torch.device("cpu"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    joined = Network(model("bert"), {}, {}, packed=True)
    assert {type(m).__name__ for m in joined.model.modules()} >= {"PackedBertSelfAttention"}
    with torch.no_grad():
        torch.testing.assert_close(joined.states(batch), plain.states(batch), atol=1e-5, rtol=1e-4)
    joined.unpack()
    assert {type(m) for m in joined.model.modules()} == {type(m) for m in plain.model.modules()}
