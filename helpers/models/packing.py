"""Attention over sequences that lie end to end, so that no arithmetic is spent on padding."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from helpers.formats import Batch

NAME = "packed"
# On a CPU, sequences of at least so many tokens are faster in the fused kernel than in plain products.
_FUSED_FROM = 96


def suits(model: nn.Module, device: torch.device, precision: str) -> bool:
    """Say whether an encoder is run packed: where it can be, and the device has attention for it.

    Args:
        model: encoder of the transformers library. Those built like BERT can be run packed; others
            (DeBERTa, ModernBERT) count positions in ways of their own and are padded.
        device: where it runs; a GPU's kernel takes 16-bit floats only.
        precision: ``"fp32"`` or ``"bf16"``.
    """
    if device.type == "cuda" and precision != "bf16":
        return False
    takes_any = getattr(model, "_supports_attention_backend", False)
    return bool(takes_any) and any(_like_bert(module) for module in model.modules())


def _like_bert(module: nn.Module) -> bool:
    return all(hasattr(module, part) for part in ("query", "key", "value", "num_attention_heads"))


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    cu_seq_lens_q: Tensor | None = None,
    max_length_q: int | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attend within each sequence of one packed row.

    Args:
        module: the attention layer (unused; part of the interface of transformers).
        query: shape ``(1, heads, tokens, width)``; ``key`` and ``value`` alike.
        key: see ``query``.
        value: see ``query``.
        attention_mask: unused, sequence borders say the same.
        dropout: must be 0, the kernel has none.
        scaling: factor before the softmax.
        cu_seq_lens_q: first token of each sequence and the total, shape ``(sequences + 1,)``.
        max_length_q: an upper bound of the sequence lengths.

    Returns:
        States of shape ``(1, tokens, heads, width)`` and ``None``.

    Raises:
        ValueError: dropout was asked for, or the borders are missing.
    """
    if dropout or cu_seq_lens_q is None or max_length_q is None:
        raise ValueError(
            "packed attention needs sequence borders and no attention dropout; set the encoder's "
            "attention_probs_dropout_prob to 0 or run it padded."
        )
    packed = [states[0].transpose(0, 1) for states in (query, key, value)]
    if query.is_cuda:
        from torch.nn.attention.varlen import varlen_attn

        borders, longest = cu_seq_lens_q, max_length_q
        states: Any = varlen_attn(
            packed[0], packed[1], packed[2], borders, borders, longest, longest, scale=scaling
        )
        return states[None], None
    return _by_length(packed, cu_seq_lens_q, scaling)[None], None


def _by_length(packed: list[Tensor], borders: Tensor, scaling: float | None) -> Tensor:
    """Attend to sequences of one length at a time, for processors without the kernel.

    Neighbours of one length share a product, so sequences are best sorted by length.
    """
    lengths, counts = borders.diff().unique_consecutive(return_counts=True)
    shapes = list(zip(counts.tolist(), lengths.tolist(), strict=True))
    sizes = [count * length for count, length in shapes]
    parts = []
    for shape, *group in zip(shapes, *(states.split(sizes) for states in packed), strict=True):
        query, key, value = (part.unflatten(0, shape).transpose(1, 2) for part in group)
        attend = nn.functional.scaled_dot_product_attention
        states = (attend if shape[1] >= _FUSED_FROM else _plain)(query, key, value, scale=scaling)
        parts.append(states.transpose(1, 2).flatten(0, 1))
    return torch.cat(parts)


def _plain(query: Tensor, key: Tensor, value: Tensor, scale: float | None) -> Tensor:
    factor = query.shape[-1] ** -0.5 if scale is None else scale
    return torch.softmax(query @ key.transpose(-1, -2) * factor, -1) @ value


def use_packing(model: nn.Module) -> None:
    """Make a transformers encoder attend with :func:`packed_attention`.

    On a GPU, query, key and value are also multiplied in one product instead of three.
    """
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, packed_attention)
    model.set_attn_implementation(NAME)  # type: ignore[operator]
    for module in model.modules():
        if _like_bert(module):
            kind: Any = type(module)
            module.__class__ = _in_one_product(kind)


def stop_packing(model: nn.Module, attention: str) -> None:
    """Undo :func:`use_packing`.

    Args:
        model: the encoder.
        attention: name of the attention it had before.
    """
    model.set_attn_implementation(attention)  # type: ignore[operator]
    for module in model.modules():
        if type(module).forward is _attend_in_one:
            module.__class__ = type(module).__mro__[1]


@functools.cache
def _in_one_product(kind: type) -> type:
    """Return one subclass for all layers, so that compiled code is shared between them."""
    return type(f"Packed{kind.__name__}", (kind,), {"forward": _attend_in_one})


def _attend_in_one(
    module: Any,
    hidden_states: Tensor,
    attention_mask: Tensor | None = None,
    past_key_values: Any = None,
    **borders: Any,
) -> tuple[Tensor, None]:
    """Do what BERT's self-attention does, on a GPU with one product for query, key and value."""
    if not hidden_states.is_cuda:
        forward = super(type(module), module).forward
        done: tuple[Tensor, None] = forward(
            hidden_states, attention_mask, past_key_values, **borders
        )
        return done
    parts = (module.query, module.key, module.value)
    weight = torch.cat([part.weight for part in parts])
    bias = torch.cat([part.bias for part in parts])
    joined = nn.functional.linear(hidden_states, weight, bias)
    heads = joined.view(*joined.shape[:-1], 3, module.num_attention_heads, -1)
    query, key, value = (states.transpose(1, 2) for states in heads.unbind(2))
    states, _ = packed_attention(module, query, key, value, None, scaling=module.scaling, **borders)
    return states.reshape(*hidden_states.shape[:-1], -1), None


def packed_inputs(batch: Batch, config: Any) -> tuple[dict[str, Any], Tensor | None]:
    """Return what runs a batch packed.

    Args:
        batch: the sequences.
        config: the encoder's configuration; RoBERTa kinds count positions from ``pad + 1``.

    Returns:
        Keyword arguments: ``input_ids`` and ``position_ids`` of shape ``(1, tokens)``, and the
        sequence borders. Then the place of each of the batch's tokens in that row, shape
        ``(tokens,)``: on a CPU sequences are laid down sorted by length; ``None``: they lie as given.
    """
    shift = config.pad_token_id + 1 if "roberta" in config.model_type else 0
    place = torch.arange(len(batch.ids), device=batch.ids.device) - batch.starts[batch.sequence]
    ids, starts, back = batch.ids, batch.starts, None
    if not ids.is_cuda and (np.diff(batch.lengths) > 0).any():
        per_token = np.repeat(batch.lengths, batch.lengths)
        order = torch.from_numpy(np.argsort(per_token, kind="stable"))
        lengths = torch.from_numpy(np.sort(batch.lengths))
        ids, place, back = ids[order], place[order], torch.argsort(order)
        starts = lengths.cumsum(0) - lengths
    total = torch.full((1,), len(ids), device=ids.device)
    inputs = {
        "input_ids": ids[None],
        "position_ids": (place + shift)[None],
        "cu_seq_lens_q": torch.cat([starts, total]).to(torch.int32),
        # One bound for every batch: a compiled layer is compiled once.
        "max_length_q": config.max_position_embeddings,
    }
    return inputs, back
