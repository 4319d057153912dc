"""Slots of one capacity, side by side: attention over adjacent slots is one batched operation."""

from __future__ import annotations

import math
import mmap
from dataclasses import dataclass

import torch
from torch import Tensor

# Bytes between transposed rows: at strides of a power of two, writing a token's keys misses the cache thrice.
KEY_ROW_PADDING = 64


@dataclass(frozen=True, slots=True)
class LayerShape:
    """What one attention layer keeps for each token, as seen in a forward (not as configured)."""

    heads: int
    key_dim: int
    value_dim: int
    dtype: torch.dtype

    @property
    def bytes_per_token(self) -> int:
        return self.heads * (self.key_dim + self.value_dim) * self.dtype.itemsize


class Segment:
    """Room for `slots` sequences of up to `capacity` tokens, in all layers.

    `keys[layer]` is ``[slots, heads, key_dim, capacity]``, `values[layer]` is
    ``[slots, heads, capacity, value_dim]``, both zero at first. Keys lie transposed in memory on a CPU
    (the product with a few query rows is fastest so) and row by row elsewhere (writes coalesce);
    the views have the same shape either way.
    """

    def __init__(self, shapes: list[LayerShape], *, capacity: int, slots: int, device: torch.device) -> None:
        self.capacity = capacity
        self.owners: list[int | None] = [None] * slots
        self.keys: list[Tensor] = [_NOTHING] * len(shapes)
        self.values: list[Tensor] = [_NOTHING] * len(shapes)
        # Views for the attention: token cells to write, and slots and heads as one batch dimension.
        self.key_cells: list[Tensor] = [_NOTHING] * len(shapes)
        self.value_cells: list[Tensor] = [_NOTHING] * len(shapes)
        self.flat_keys: list[Tensor] = [_NOTHING] * len(shapes)
        self.flat_values: list[Tensor] = [_NOTHING] * len(shapes)
        self._blocks: list[tuple[Tensor, Tensor]] = []
        for shape in dict.fromkeys(shapes):
            layers = [index for index, other in enumerate(shapes) if other == shape]
            head = (len(layers), slots, shape.heads)
            if device.type == "cpu":
                padded = capacity + KEY_ROW_PADDING // shape.dtype.itemsize
                keys = zeros((*head, shape.key_dim, padded), shape.dtype, device)[..., :capacity]
            else:
                keys = zeros((*head, capacity, shape.key_dim), shape.dtype, device).transpose(-1, -2)
            values = zeros((*head, capacity, shape.value_dim), shape.dtype, device)
            self._blocks.append((keys, values))
            for place, layer in enumerate(layers):
                self._set_layer(layer, keys[place], values[place])

    def _set_layer(self, layer: int, keys: Tensor, values: Tensor) -> None:
        self.keys[layer], self.values[layer] = keys, values
        self.key_cells[layer] = keys.permute(0, 3, 1, 2)
        self.value_cells[layer] = values.transpose(1, 2)
        self.flat_keys[layer] = keys.flatten(0, 1)
        self.flat_values[layer] = values.flatten(0, 1)

    @property
    def live(self) -> int:
        """How many slots are taken."""
        return len(self.owners) - self.owners.count(None)

    def copy_slot(self, source: int, target: Segment, target_slot: int, length: int) -> None:
        """Copy the first `length` tokens of a slot into a slot of `target`, all layers at once."""
        for (keys, values), (target_keys, target_values) in zip(self._blocks, target._blocks, strict=True):
            target_keys[:, target_slot, :, :, :length].copy_(keys[:, source, :, :, :length])
            target_values[:, target_slot, :, :length].copy_(values[:, source, :, :length])

    def exchange(self, first: int, second: int, length: int) -> None:
        """Let the first `length` tokens of two slots change places."""
        for keys, values in self._blocks:
            for tensor in (keys[..., :length], values[..., :length, :]):
                kept = tensor[:, first].clone()
                tensor[:, first].copy_(tensor[:, second])
                tensor[:, second].copy_(kept)

    def wipe(self, slot: int, start: int) -> None:
        """Zero a slot from token `start` on."""
        for keys, values in self._blocks:
            keys[:, slot, :, :, start:].zero_()
            values[:, slot, :, start:].zero_()


def zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Zeros whose pages, on a CPU, are committed one by one when they are first written.

    `torch.zeros` writes all of them, and numpy asks for huge ones: each slot's first token then costs 2 MiB.
    """
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    memory = mmap.mmap(-1, math.prod(shape) * dtype.itemsize)
    return torch.frombuffer(memory, dtype=dtype).view(shape)


_NOTHING = torch.empty(0)
