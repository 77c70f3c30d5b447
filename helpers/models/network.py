"""An encoder with the heads of its tasks, run over unpadded batches on any device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from helpers.formats import Batch, FormatBase
from helpers.models.packing import packed_inputs, stop_packing, use_packing


class Network(nn.Module):
    """One encoder and one head per task.

    A packed batch has its sequences end to end, and attention is told where each begins, so that no
    arithmetic is spent on padding; else a batch is padded to its longest sequence. Both give the same
    states per token.
    """

    def __init__(
        self,
        model: nn.Module,
        heads: Mapping[str, nn.Module],
        formats: Mapping[str, FormatBase],
        *,
        packed: bool = False,
    ) -> None:
        """Join an encoder and heads.

        Args:
            model: encoder of the transformers library, without head.
            heads: task name to head.
            formats: task name to format.
            packed: lay sequences end to end instead of padding them; see
                :func:`helpers.models.packing.suits`.
        """
        super().__init__()
        self.packed = packed
        if packed:
            config: Any = model.config
            self._attention = config._attn_implementation
            use_packing(model)
        self.model = model
        self.heads = nn.ModuleDict({_key(name): head for name, head in heads.items()})
        self.formats = dict(formats)

    def unpack(self) -> None:
        """Make a packed encoder one again that others can run padded."""
        if self.packed:
            stop_packing(self.model, self._attention)
            self.packed = False

    def head(self, name: str) -> nn.Module:
        """Return the head of a task."""
        return self.heads[_key(name)]

    def states(self, batch: Batch, layer: int | Sequence[int] | None = None) -> Tensor:
        """Return token states of one layer or of several, unpadded.

        Args:
            batch: the sequences.
            layer: hidden state to return, 0 for the embeddings; ``None`` for the last.

        Returns:
            Shape ``(tokens, width)``; of several layers ``(tokens, layers, width)``.
        """
        config: Any = self.model.config
        if self.packed:
            inputs, back = packed_inputs(batch, config)
        else:
            inputs, back = _padded(batch, config.pad_token_id), None
        if layer is not None:
            inputs["output_hidden_states"] = True
        output = self.model(**inputs)
        if layer is None:
            hidden = output.last_hidden_state
        elif isinstance(layer, Sequence):
            hidden = torch.stack([output.hidden_states[one] for one in layer], dim=2)
        else:
            hidden = output.hidden_states[layer]
        if self.packed:
            return hidden[0] if back is None else hidden[0][back]
        return hidden.flatten(0, 1)[_flat_places(batch, hidden.shape[1])]

    def forward(self, batch: Batch, name: str, pooling: str) -> Tensor:
        """Return the summed loss of a batch of one task."""
        return self.formats[name].loss(self.head(name), self.states(batch), batch, pooling)

    @torch.inference_mode()
    def predict(
        self, batch: Batch, name: str, pooling: str, layer: int | Sequence[int] | None = None
    ) -> dict[str, Tensor]:
        """Return the reduced outputs of a batch of one task; several layers only for retrieval."""
        return self.formats[name].predict(
            self.head(name), self.states(batch, layer), batch, pooling
        )


def _key(name: str) -> str:
    """Return a task name as a module name, which may not hold a dot."""
    return name.replace(".", "·")


def _flat_places(batch: Batch, width: int) -> Tensor:
    place = torch.arange(len(batch.ids), device=batch.ids.device) - batch.starts[batch.sequence]
    return batch.sequence * width + place


def _padded(batch: Batch, pad_id: int) -> dict[str, Any]:
    width = int(batch.lengths.max())
    shape = (len(batch.lengths), width)
    places = _flat_places(batch, width)
    ids = torch.full(shape, pad_id, dtype=torch.long, device=batch.ids.device)
    ids.view(-1)[places] = batch.ids
    mask = torch.zeros(shape, dtype=torch.long, device=batch.ids.device)
    mask.view(-1)[places] = 1
    return {"input_ids": ids, "attention_mask": mask}
