import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from helpers.formats import Template, piece_ids, pieces_with_offsets
from tests.formats.conftest import TEXTS


def test_template_puts_two_separators_between_two_inputs(either):
    tokenizer = either.tokenizer
    begin, end = tokenizer.convert_tokens_to_ids(["<s>", "</s>"])
    template = Template.of(tokenizer)
    assert template == Template((begin,), (end, end), (end,))
    one, other = "the door", "red lamp, twice"
    first, second = piece_ids(tokenizer, [one, other])
    assert template.single(first) == tokenizer(one)["input_ids"]
    assert template.pair(first, second) == tokenizer(one, other)["input_ids"]


def test_template_of_a_tokenizer_with_one_separator():
    words = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "a": 4, "b": 5}
    core = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    names = {f"{name}_token": f"[{name.upper()}]" for name in ("cls", "sep", "unk", "pad")}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, **names)
    template = Template.of(tokenizer)
    assert template == Template((2,), (3,), (3,))
    assert template.pair([4, 4], [5]) == tokenizer("a a", "b")["input_ids"]


def test_equal_texts_get_equal_pieces_and_chunks_do_not_matter(tiny):
    texts = ["red", "blue", "red", "", "green door", "blue"]
    whole = piece_ids(tiny.tokenizer, texts)
    assert whole == piece_ids(tiny.tokenizer, texts, chunk=2)
    assert whole[0] == whole[2] and whole[3] == []
    special = set(tiny.tokenizer.all_special_ids)
    assert not special & {piece for text in whole for piece in text}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_offsets_cover_a_text_without_white_space_alone_and_among_others(either, text):
    (ids, offsets), *_ = pieces_with_offsets(either.tokenizer, [text])
    assert offsets.shape == (len(ids), 2)
    covered = np.zeros(len(text), bool)
    for begin, end in offsets:
        assert 0 <= begin <= end <= len(text)
        assert text[begin:end] == text[begin:end].strip()
        covered[begin:end] = True
    uncovered = "".join(c for c, inside in zip(text, covered, strict=True) if not inside)
    assert not uncovered.strip()
    assert (np.diff(offsets[:, 0]) >= 0).all() and (np.diff(offsets[:, 1]) >= 0).all()
    empty, *_, again = pieces_with_offsets(either.tokenizer, ["", *TEXTS.values(), text])
    assert empty[1].shape == (0, 2)
    for one, other in zip((ids, offsets), again, strict=True):
        np.testing.assert_array_equal(one, other)
