"""Buffers of the sampler that outlive a step."""

from __future__ import annotations

import torch
from torch import Tensor

from lmql_backends.torch_rows.token_masks import MaskAdder


class Workspace:
    """Buffers that outlive a step: the page faults of fresh memory cost more than the arithmetic."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.masks = MaskAdder(device)
        self._buffers: dict[str, Tensor] = {}

    def rows(self, name: str, count: int, width: int) -> Tensor:
        """An uninitialised float32 ``[count, width]``; the same memory at each call with this name."""
        buffer = self._buffers.get(name)
        if buffer is None or buffer.numel() < count * width:
            buffer = torch.empty(count * width, dtype=torch.float32, device=self.device)
            self._buffers[name] = buffer
        return buffer[: count * width].view(count, width)
