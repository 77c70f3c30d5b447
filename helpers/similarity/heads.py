"""The masked-language head that an encoder was published with; fine-tuning drops it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from helpers.errors import MissingData

if TYPE_CHECKING:
    from torch import nn

    from helpers.models.encoders import Encoder

__all__ = ["language_head"]


def language_head(encoder: Encoder) -> nn.Module:
    """Load the head that scores pieces, to be passed as ``language_head=``.

    Args:
        encoder: loaded from a folder in ``transformers`` layout or from the hub, not pruned.

    Returns:
        A module from hidden states (tokens, D) to scores (tokens, vocabulary).

    Raises:
        MissingData: the encoder comes without such a head, as the bundled ones do.
    """
    import torch
    from transformers import AutoModelForMaskedLM

    model, report = AutoModelForMaskedLM.from_pretrained(
        _folder(encoder),
        local_files_only=True,
        trust_remote_code=False,
        use_safetensors=True,
        dtype=torch.float32,
        output_loading_info=True,
    )
    heads = {n: m for n, m in model.named_children() if n != model.base_model_prefix}
    missing = [key for key in report["missing_keys"] if key.split(".")[0] in heads]
    if len(heads) != 1 or missing:
        raise MissingData(
            f"encoder {encoder.name!r} was stored without its masked-language head "
            f"({', '.join(sorted(missing)[:3])} ...). Use the checkpoint of its pretraining."
        )
    return next(iter(heads.values())).eval().requires_grad_(False)


def _folder(encoder: Encoder) -> Path:
    """Where the files of an encoder lie."""
    from helpers.models import encoders

    if Path(encoder.name).is_dir():
        return Path(encoder.name)
    if encoder.name in encoders.HUB or encoder.name.count("/") == 1:
        identifier = encoders.HUB.get(encoder.name, (encoder.name,))[0]
        return encoders.snapshot(identifier, encoder.revision, weights=True)
    raise MissingData(
        f"encoder {encoder.name!r} is built without a masked-language head. Measures of masked "
        "language need a hub encoder, such as 'xlm-roberta-base', or a folder with its files."
    )
