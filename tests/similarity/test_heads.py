import pytest
import torch
from transformers import BertConfig, BertForMaskedLM, BertModel

from helpers.errors import MissingData
from helpers.models import encoders
from helpers.similarity.heads import language_head


@pytest.fixture
def saved(tiny, tmp_path):
    config = BertConfig(
        vocab_size=len(tiny.tokenizer),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
    )

    def write(kind):
        kind(config).save_pretrained(tmp_path)
        tiny.tokenizer.save_pretrained(tmp_path)
        return encoders.load(str(tmp_path))

    return write


def test_scores_are_those_of_the_whole_model(saved):
    encoder = saved(BertForMaskedLM)
    head = language_head(encoder)
    ids = torch.tensor([[0, 7, 9, 2]])
    whole = BertForMaskedLM.from_pretrained(encoder.name).eval()
    with torch.no_grad():
        hidden = encoder.model(input_ids=ids).last_hidden_state[0]
        torch.testing.assert_close(head(hidden), whole(input_ids=ids).logits[0])
    assert not any(p.requires_grad for p in head.parameters())


def test_an_encoder_without_its_head_says_so(saved, tiny):
    with pytest.raises(MissingData, match="stored without its masked-language head"):
        language_head(saved(BertModel))
    with pytest.raises(MissingData, match="'tiny' is built without"):
        language_head(tiny)
