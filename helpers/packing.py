"""Attention over sequences that lie end to end, so that no arithmetic is spent on padding."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn

from helpers.formats import Batch

NAME = "packed"


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
    return _by_sequence(packed, cu_seq_lens_q, scaling)[None], None


def _by_sequence(packed: list[Tensor], borders: Tensor, scaling: float | None) -> Tensor:
    """Attend one sequence at a time: the plain definition, for processors without the kernel."""
    sizes = borders.diff().tolist()
    parts = []
    for sequence in zip(*(states.split(sizes) for states in packed), strict=True):
        query, key, value = (states.transpose(0, 1)[None] for states in sequence)
        states = nn.functional.scaled_dot_product_attention(query, key, value, scale=scaling)
        parts.append(states[0].transpose(0, 1))
    return torch.cat(parts)


def use_packing(model: nn.Module) -> None:
    """Make a transformers encoder attend with :func:`packed_attention`.

    Query, key and value of BERT's layers are also multiplied in one product instead of three.
    """
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, packed_attention)
    model.set_attn_implementation(NAME)  # type: ignore[operator]
    for module in model.modules():
        if all(hasattr(module, part) for part in ("query", "key", "value", "num_attention_heads")):
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
    """Do what BERT's self-attention does, with one product for query, key and value."""
    parts = (module.query, module.key, module.value)
    weight = torch.cat([part.weight for part in parts])
    bias = torch.cat([part.bias for part in parts])
    joined = nn.functional.linear(hidden_states, weight, bias)
    heads = joined.view(*joined.shape[:-1], 3, module.num_attention_heads, -1)
    query, key, value = (states.transpose(1, 2) for states in heads.unbind(2))
    states, _ = packed_attention(module, query, key, value, None, scaling=module.scaling, **borders)
    return states.reshape(*hidden_states.shape[:-1], -1), None


def packed_inputs(batch: Batch, config: Any) -> dict[str, Any]:
    """Return the keyword arguments that run a batch packed.

    Args:
        batch: the sequences.
        config: the encoder's configuration; RoBERTa kinds count positions from ``pad + 1``.

    Returns:
        ``input_ids`` and ``position_ids`` of shape ``(1, tokens)``, and the sequence borders.
    """
    shift = config.pad_token_id + 1 if "roberta" in config.model_type else 0
    place = torch.arange(len(batch.ids), device=batch.ids.device) - batch.starts[batch.sequence]
    total = torch.full((1,), len(batch.ids), device=batch.ids.device)
    return {
        "input_ids": batch.ids[None],
        "position_ids": (place + shift)[None],
        "cu_seq_lens_q": torch.cat([batch.starts, total]).to(torch.int32),
        # One bound for every batch: a compiled layer is compiled once.
        "max_length_q": config.max_position_embeddings,
    }
