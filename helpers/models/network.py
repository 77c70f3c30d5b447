"""An encoder with the heads of its tasks over unpadded batches, its attention, and the device it runs on."""

import functools
import platform
import resource
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface

from helpers.errors import HelpfulError, known
from helpers.formats import Batch, Encoded, FormatBase, sorted_batches, split, token_index
from helpers.models import PRECISIONS

PACKED = "packed"
_HELD = 64  # Outputs that wait on a GPU, so that the host is not waited for after each batch.
# On a CPU, sequences of at least so many tokens are faster in the fused kernel than in plain products;
# in bf16 its backward pass is not.
_FUSED_FROM = 96
# What errors say that are no OutOfMemoryError: the CPU's allocator, a CUDA call, cuBLAS.
_MEMORY_SIGNS = ("can't allocate memory", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")


class Network(nn.Module):
    """One encoder and one head per task, on one device, in one precision, packed or padded."""

    # A packed batch has its sequences end to end, and attention is told where each begins, so that no
    # arithmetic is spent on padding; else a batch is padded to its longest sequence. Both give the
    # same states per token.

    def __init__(
        self,
        model: nn.Module,
        heads: Mapping[str, nn.Module],
        formats: Mapping[str, FormatBase],
        precision: str = "fp32",
        packed: bool | None = False,
    ) -> None:
        """Join encoder, heads and formats by task name, on the best device; packed: None where it suits."""
        super().__init__()
        self.device, self.model, self.formats = best_device(), model, dict(formats)
        self.precision = resolve_precision(precision, self.device)
        self.packed = suits(model, self.device, self.precision) if packed is None else packed
        # The name of a module may not hold a dot.
        self.heads = nn.ModuleDict({n.replace(".", "·"): head for n, head in heads.items()})
        if self.packed:
            changed: Any = model
            self._attention = changed.config._attn_implementation
            AttentionInterface.register(PACKED, packed_attention)
            changed.set_attn_implementation(PACKED)
            # A GPU is faster with one product for query, key and value; a processor is not.
            for module in model.modules() if torch.cuda.is_available() else ():
                if _like_bert(module):
                    kind: Any = type(module)
                    module.__class__ = _in_one_product(kind)
        self.to(self.device).eval()

    def unpack(self) -> None:
        """Make a packed encoder one again that others can run padded."""
        if self.packed:
            self.model.set_attn_implementation(self._attention)  # type: ignore[operator]
            for module in self.model.modules():
                if type(module).forward is _attend_in_one:
                    module.__class__ = type(module).__mro__[1]
            self.packed = False

    def head(self, name: str) -> nn.Module:
        """Return the head of a task."""
        return self.heads[name.replace(".", "·")]

    def states(self, batch: Batch, layer: int | Sequence[int] | None = None) -> Tensor:
        """Return states (tokens, width), or (tokens, layers, width) of several; layer 0: embeddings."""
        config: Any = self.model.config
        places = torch.arange(len(batch.ids), device=batch.ids.device)
        places = places - batch.starts[batch.sequence]
        back: Any = slice(None)
        if self.packed:
            inputs = packed_inputs(batch, places, config)
        else:
            # Padding goes by a scatter into a rectangle, and comes off by a gather from it.
            shape = (len(batch.lengths), int(batch.lengths.max()))
            back = batch.sequence * shape[1] + places
            ids = torch.full(shape, config.pad_token_id, device=batch.ids.device)
            mask = torch.zeros_like(ids)
            ids.view(-1)[back], mask.view(-1)[back] = batch.ids, 1
            inputs = {"input_ids": ids, "attention_mask": mask}
        output = self.model(**inputs, output_hidden_states=layer is not None)
        hidden = output.last_hidden_state if layer is None else output.hidden_states
        if isinstance(layer, Sequence):
            hidden = torch.stack([hidden[one] for one in layer], dim=2)
        elif layer is not None:
            hidden = hidden[layer]
        return hidden.flatten(0, 1)[back]

    def forward(self, batch: Batch, name: str, pooling: str) -> Tensor:
        """Return the summed loss of a batch of one task."""
        return self.formats[name].loss(self.head(name), self.states(batch), batch, pooling)

    def autocast(self) -> torch.autocast:
        """Return the context that computes in this network's precision; weights stay in 32 bits."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")

    @torch.no_grad()
    def outputs(
        self,
        name: str,
        encoded: Encoded,
        budget: int = 0,
        pooling: str = "mean",
        layer: int | Sequence[int] | None = None,
    ) -> dict[str, np.ndarray]:
        """Return a task's reduced outputs for every sequence or token; several layers: of retrieval."""
        # The budget, in padded tokens per forward pass, is halved where memory runs out.
        format_, head = self.formats[name], self.head(name)
        held: list[tuple[np.ndarray, str, Tensor]] = []
        result: dict[str, np.ndarray] = {}
        waiting = sorted_batches(encoded, budget or forward_tokens(self.device))[::-1]
        was_training = self.training
        self.eval()
        # One context for all batches: weights are cast to 16 bits once.
        with self.autocast():
            while waiting:
                batch = waiting.pop()
                try:
                    collated = Batch.collate(encoded, batch, self.device)
                    found = format_.predict(head, self.states(collated, layer), collated, pooling)
                    held += [(batch, key, tensor) for key, tensor in found.items()]
                except (RuntimeError, MemoryError) as error:
                    if not out_of_memory(error):
                        raise
                    size = int(encoded.lengths[batch].max()) * len(batch)
                    halves = split(encoded, batch, size // 2)
                    if len(halves) < 2:
                        full = f"memory ran out on a single row of {size} tokens"
                        advice = "lower max_length or use a larger device"
                        raise HelpfulError(f"{full}; {advice}.") from error
                    waiting.extend(halves)
                if self.device.type != "cpu" and len(held) < _HELD and waiting:
                    continue
                # Outputs go to the places of their sequences or tokens in the encoded set.
                for index, key, tensor in held:
                    values = tensor.float() if tensor.dtype == torch.bfloat16 else tensor
                    array = values.cpu().numpy()
                    by_token = len(array) != len(index)
                    if key not in result:
                        size = len(encoded.tokens) if by_token else len(encoded)
                        result[key] = np.zeros((size, *array.shape[1:]), array.dtype)
                    result[key][token_index(encoded, index) if by_token else index] = array
                held.clear()
        self.train(was_training)
        return result


def suits(model: nn.Module, device: torch.device, precision: str) -> bool:
    """Say whether an encoder is run packed: where it can be, and the device has attention for it."""
    if device.type == "cuda" and precision != "bf16":  # a GPU's kernel takes 16-bit floats only
        return False
    # DeBERTa, ModernBERT and others not built like BERT count positions in ways of their own.
    takes_any = getattr(model, "_supports_attention_backend", False)
    return bool(takes_any) and any(_like_bert(module) for module in model.modules())


def _like_bert(module: nn.Module) -> bool:
    return all(hasattr(module, part) for part in ("query", "key", "value", "num_attention_heads"))


@functools.cache
def _in_one_product(kind: type) -> type:
    """Return one subclass for all layers, so that compiled code is shared between them."""
    return type(f"Packed{kind.__name__}", (kind,), {"forward": _attend_in_one})


def _attend_in_one(
    module: Any, hidden_states: Tensor, attention_mask: None = None, *_: Any, **borders: Any
) -> tuple[Tensor, None]:
    """Do what BERT's self-attention does, with one product for query, key and value."""
    parts = (module.query, module.key, module.value)
    weight = torch.cat([part.weight for part in parts])
    bias = torch.cat([part.bias for part in parts])
    joined = functional.linear(hidden_states, weight, bias)
    heads = joined.view(*joined.shape[:-1], 3, module.num_attention_heads, -1)
    query, key, value = (states.transpose(1, 2) for states in heads.unbind(2))
    borders["scaling"] = module.scaling
    mixed = packed_attention(module, query, key, value, None, **borders)[0]
    return mixed.reshape(*hidden_states.shape[:-1], -1), None


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    cu_seq_lens_q: Tensor | None = None,
    max_length_q: int = 0,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attend within each sequence of one packed row, by the interface of transformers."""
    # Queries, keys and values are (1, heads, tokens, width), the states (1, tokens, heads, width);
    # cu_seq_lens_q holds the first token of each sequence and the total.
    if dropout or cu_seq_lens_q is None:
        needs = "packed attention needs sequence borders and no attention dropout"
        raise ValueError(f"{needs}; set attention_probs_dropout_prob to 0 or run it padded.")
    packed = [states[0].transpose(0, 1) for states in (query, key, value)]
    if query.is_cuda:
        from torch.nn.attention.varlen import varlen_attn

        borders, longest = cu_seq_lens_q, max_length_q
        q, k, v = packed
        states: Any = varlen_attn(q, k, v, borders, borders, longest, longest, scale=scaling)
        return states[None], None
    # Processors have no such kernel: neighbours of one length, which lie sorted, share a product.
    fused = query.dtype == torch.float32 or not query.requires_grad
    lengths, counts = cu_seq_lens_q.diff().unique_consecutive(return_counts=True)
    shapes = list(zip(counts.tolist(), lengths.tolist(), strict=True))
    sizes = [count * length for count, length in shapes]
    parts = []
    for shape, *group in zip(shapes, *(states.split(sizes) for states in packed), strict=True):
        q, k, v = (part.unflatten(0, shape).transpose(1, 2).contiguous() for part in group)
        if fused and shape[1] >= _FUSED_FROM:
            states = functional.scaled_dot_product_attention(q, k, v, scale=scaling)
        else:
            factor = q.shape[-1] ** -0.5 if scaling is None else scaling
            states = torch.softmax((q * factor) @ k.transpose(-1, -2), -1) @ v
        parts.append(states.transpose(1, 2).flatten(0, 1))
    return torch.cat(parts)[None], None


def packed_inputs(batch: Batch, places: Tensor, config: Any) -> dict[str, Any]:
    """Return what runs a batch packed."""
    # RoBERTa kinds count positions from behind the padding id.
    shift = config.pad_token_id + 1 if "roberta" in config.model_type else 0
    total = torch.full((1,), len(batch.ids), device=batch.ids.device)
    return {
        "input_ids": batch.ids[None],
        "position_ids": (places + shift)[None],
        "cu_seq_lens_q": torch.cat([batch.starts, total]).to(torch.int32),
        # One bound for every batch: a compiled layer is compiled once.
        "max_length_q": config.max_position_embeddings,
    }


def best_device() -> torch.device:
    """Return the first CUDA device, else the CPU."""
    return torch.device("cuda") if torch.cuda.is_available() else torch.device("cpu")


def describe(device: torch.device) -> str:
    """Return a device's name for a record, such as ``"cpu x86_64, 2 threads"``."""
    if device.type == "cuda":
        return f"cuda {torch.cuda.get_device_name(device)}"
    return f"{device.type} {platform.machine()}, {torch.get_num_threads()} threads"


def resolve_precision(precision: str, device: torch.device) -> str:
    """Return ``"bf16"`` or ``"fp32"``; ``"auto"`` takes bf16 where the device multiplies in it."""
    if known("precision", precision, PRECISIONS) != "auto":
        return precision
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    has = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bf16" if has else "fp32"


def forward_tokens(device: torch.device) -> int:
    """Return how many tokens a forward pass without gradients takes at its fastest."""
    # A processor is fastest while what a layer makes stays in its cache: on two cores, 1,024 to 4,096
    # tokens differed by some percent. A GPU wants to be filled.
    return 65536 if device.type == "cuda" else 2048


def peak_memory_mb(device: torch.device) -> float:
    """Return the peak memory in MB: of the device, or of this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def out_of_memory(error: BaseException) -> bool:
    """Say whether an error means that memory ran out, on either kind of device."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _MEMORY_SIGNS)
