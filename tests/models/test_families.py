import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, processors, trainers
from tokenizers import pre_tokenizers as pre
from transformers import PreTrainedTokenizerFast

from helpers.errors import BadEncoder
from helpers.evaluation import evaluate
from helpers.formats import pieces_with_offsets
from helpers.models import encoders
from helpers.models.training import fine_tune
from tests.models import toys

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
SIZES |= {"intermediate_size": 64, "max_position_embeddings": 64}
CONFIGS = {
    "bert": transformers.BertConfig,
    "xlm-roberta": transformers.XLMRobertaConfig,
    "deberta-v2": transformers.DebertaV2Config,
    "modernbert": transformers.ModernBertConfig,
}

TOKENIZERS = ("byte-level", "byte-level without prefix", "gemma-like", "word pieces")


def tokenizer(kind):
    core, made = Tokenizer(models.BPE(unk_token="[UNK]")), trainers.BpeTrainer
    if "byte" in kind:  # as ModernBERT's or, without prefix, GPT's: a space opens a word
        prefix = "without" not in kind
        core.pre_tokenizer = pre.ByteLevel(add_prefix_space=prefix)
        core.decoder = decoders.ByteLevel()
    elif kind == "gemma-like":  # its normaliser writes spaces as a mark, so that offsets hold them
        core.normalizer = normalizers.Replace(" ", "\u2581")
        core.pre_tokenizer = pre.Split("\u2581", "merged_with_next")
    else:
        core.model, made = models.WordPiece(unk_token="[UNK]"), trainers.WordPieceTrainer
        core.pre_tokenizer = pre.BertPreTokenizer()
    alphabet = pre.ByteLevel.alphabet() if "byte" in kind else []
    special = ["[CLS]", "[SEP]", "[PAD]", "[UNK]"]
    trainer = made(vocab_size=400, special_tokens=special, initial_alphabet=alphabet)
    rows = [row for name in ("pair", "span") for row in toys.rows(name, "en", "train")]
    core.train_from_iterator([row.get("first") or row["context"] for row in rows], trainer)
    core.post_processor = processors.BertProcessing(("[SEP]", 1), ("[CLS]", 0))
    names = {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]", "unk_token": "[UNK]"}
    return PreTrainedTokenizerFast(tokenizer_object=core, model_max_length=64, **names)


def folder(path, config, made):
    torch.manual_seed(0)
    transformers.AutoModel.from_config(config).save_pretrained(path)
    made.save_pretrained(path)
    return str(path)


def built(path, family, kind="byte-level"):
    made = tokenizer(kind)
    special = {"pad_token_id": 2, "cls_token_id": 0, "sep_token_id": 1}
    special |= {"bos_token_id": 0, "eos_token_id": 1}
    return folder(path, CONFIGS[family](vocab_size=len(made), **SIZES, **special), made)


@pytest.mark.parametrize("family", CONFIGS)
@pytest.mark.parametrize("format_", ["pair", "tagging", "span"])
def test_encoders_of_every_family_learn(family, format_, tmp_path, quick):
    encoder = encoders.load(built(tmp_path, family))
    assert (encoder.layers, encoder.dimension) == (2, 32)
    task = toys.task(format_)
    tuned = fine_tune(encoder, [task], replace(quick, epochs=1), 0)
    assert tuned.outcome.status == "done" and tuned.outcome.loss > 0
    assert evaluate(tuned, task, ["en"])[0]["status"] == "done"


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_tokenizers_of_every_kind_serve_every_format(kind, tmp_path):
    encoder = encoders.load(built(tmp_path, "bert", kind))
    text = "the people  know,\n it is that"
    ((_, offsets),) = pieces_with_offsets(encoder.tokenizer, [text])
    spans = [text[begin:end] for begin, end in offsets]
    assert spans == [span.strip() for span in spans]
    covered = {place for begin, end in offsets for place in range(begin, end)}
    assert covered == {place for place, letter in enumerate(text) if not letter.isspace()}
    tuned = fine_tune(encoder, [toys.task("span")], replace(toys.QUICK, epochs=1), 0)
    assert evaluate(tuned, toys.task("span"), ["en"])[0]["status"] == "done"


def test_layers_of_other_families_are_compiled_and_not_shortened(tmp_path, monkeypatch, capfd):
    compiled = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, **how: compiled.append(type(self)))
    path = built(tmp_path, "modernbert")
    capfd.readouterr()
    encoder = encoders.load(path)
    # Neither a report on weights that are not needed nor a progress bar.
    assert capfd.readouterr() == ("", "")
    settings = replace(toys.QUICK, epochs=0.1, compile=True)
    fine_tune(encoder, [toys.task("pair")], settings, 0)
    assert len(compiled) == 2
    assert not encoders.can_trim(encoders.load(path))


def test_what_cannot_be_trained_is_refused_when_it_is_loaded(tmp_path):
    made = tokenizer("byte-level")
    sizes = {"d_model": 16, "d_ff": 16, "num_layers": 1, "num_heads": 2, "d_kv": 8}
    t5 = transformers.T5Config(vocab_size=len(made), **sizes)
    said = "is no encoder that can be trained .*input_ids.*text alone"
    with pytest.raises(BadEncoder, match=said):
        encoders.load(folder(tmp_path / "t5", t5, made))
    sizes = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 64}
    gpt = transformers.GPT2Config(vocab_size=len(made), **sizes)
    bare = PreTrainedTokenizerFast(tokenizer_object=made.backend_tokenizer)
    with pytest.raises(BadEncoder, match="no padding token"):
        encoders.load(folder(tmp_path / "gpt", gpt, bare))


def test_threads_wait_for_a_bounded_time_unless_the_user_says_otherwise():
    ask = "; print([os.environ.get(n) for n in ('GOMP_SPINCOUNT', 'OMP_WAIT_POLICY')])"
    kept = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    for modules, asked, expected in (
        ("helpers, torch", {"OMP_DISPLAY_ENV": "verbose"}, ["1000", None]),
        ("helpers", {"OMP_WAIT_POLICY": "ACTIVE"}, [None, "ACTIVE"]),
        ("helpers", {"GOMP_SPINCOUNT": "7"}, ["7", None]),
    ):
        run = [sys.executable, "-c", f"import os, {modules}{ask}"]
        found = subprocess.run(run, env=kept | asked, capture_output=True, text=True, check=True)
        assert found.stdout.strip() == str(expected)
        if "GOMP_" in found.stderr:  # what the library read when torch loaded it
            assert "GOMP_SPINCOUNT = '1000'" in found.stderr
