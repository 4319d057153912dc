"""From an adapter's files to matrices that fit the layers of a model."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from dcmodel.adapters import LoadedAdapter
from dcmodel.errors import AdapterLoadError, CapabilityError
from lmql_backends.transformers.cpu_pack import PackedLinear
from lmql_backends.transformers.lora_config import LoraConfig, parse_config
from lmql_backends.transformers.lora_files import find_folder, read_config, read_weights

PREFIX = "base_model.model."
_PART = re.compile(r"(.+)\.lora_([AB])\.weight")
# The layers of one expert see only the rows that are routed to it.
_EXPERT = re.compile(r"(^|\.)experts\.")


@dataclass(frozen=True, slots=True)
class LinearShape:
    """A layer that an adapter can change, as a matrix."""

    module: nn.Module
    inputs: int
    outputs: int
    device: torch.device


@dataclass(frozen=True, slots=True)
class LoraPair:
    """What an adapter adds to one layer's output: ``(x @ down.T) @ up``."""

    down: Tensor
    """``[rank, inputs]``"""
    up: Tensor
    """``[rank, outputs]``, the adapter's scale included."""

    @property
    def rank(self) -> int:
        return self.down.shape[0]


def linear_shapes(model: PreTrainedModel) -> dict[str, LinearShape]:
    """The linear layers of a model by name."""
    found: dict[str, LinearShape] = {}
    for name, module in model.named_modules():
        if isinstance(module, PackedLinear):
            shape = LinearShape(module, module.in_features, module.out_features, torch.device("cpu"))
        elif isinstance(module, nn.Linear):
            shape = LinearShape(module, module.in_features, module.out_features, module.weight.device)
        elif isinstance(module, Conv1D):
            inputs, outputs = module.weight.shape
            shape = LinearShape(module, inputs, outputs, module.weight.device)
        else:
            continue
        found[name] = shape
    return found


def read_lora(source: str, shapes: Mapping[str, LinearShape], dtype: torch.dtype) -> LoadedAdapter:
    """Read an adapter and check it against the layers. The weights are a ``dict[str, LoraPair]`` by layer.

    Raises `AdapterLoadError`, and `CapabilityError` for kinds of adapters that are not computed here.
    """
    folder = find_folder(source)
    config = parse_config(read_config(folder), source)
    found = _by_layer(read_weights(folder), source)
    _check_whole(found, config, shapes, source)
    pairs = {name: _pair(name, parts, config, shapes[name], dtype, source) for name, parts in found.items()}
    return LoadedAdapter(rank=max(pair.rank for pair in pairs.values()), weights=pairs)


def _by_layer(tensors: Mapping[str, Tensor], source: str) -> dict[str, dict[str, Tensor]]:
    """A and B of each layer."""
    found: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        part = _PART.fullmatch(key.removeprefix(PREFIX))
        if part is None:
            raise CapabilityError(
                f"{source} is no plain LoRA of linear layers: it holds {key}.",
                remedy="Merge it into the model with peft's merge_and_unload, and load that.",
            )
        found.setdefault(part[1], {})[part[2]] = tensor
    if not found:
        raise AdapterLoadError(f"{source} holds no weights.", remedy="Save the adapter again.")
    return found


def _check_whole(
    found: Mapping[str, Mapping[str, Tensor]],
    config: LoraConfig,
    shapes: Mapping[str, LinearShape],
    source: str,
) -> None:
    """Every layer that it has weights for is there and meant, and every one that is meant has weights."""
    for name in found:
        if name not in shapes:
            raise AdapterLoadError(
                f"{source} was made for another model: this one has no linear layer {name}.",
                remedy="Mount it on the model that its adapter_config.json names.",
            )
        if _EXPERT.search(name):
            raise CapabilityError(
                f"{source} changes single experts ({name}), whose layers see only some of a batch.",
                remedy="Merge it into the model with peft's merge_and_unload, and load that.",
            )
        if not config.names(name):
            raise AdapterLoadError(
                f"{source} contradicts itself: it has weights for {name}, which its settings leave out.",
                remedy="Save the adapter again.",
            )
    missing = (
        []
        if config.targets is None
        else [name for name in shapes if name not in found and config.names(name)]
    )
    if missing:
        raise AdapterLoadError(
            f"{source} lacks the weights of {len(missing)} layers, {missing[0]} among them.",
            remedy="Save the adapter again, or mount it on the model that it was made for.",
        )


def _pair(
    name: str,
    parts: Mapping[str, Tensor],
    config: LoraConfig,
    shape: LinearShape,
    dtype: torch.dtype,
    source: str,
) -> LoraPair:
    if len(parts) != 2:
        raise AdapterLoadError(f"{source} has only a half of {name}.", remedy="Save the adapter again.")
    down, up = parts["A"], parts["B"]
    rank = config.rank_of(name)
    wanted = ((rank, shape.inputs), (shape.outputs, rank))
    if (tuple(down.shape), tuple(up.shape)) != wanted:
        raise AdapterLoadError(
            f"{source} does not fit {name}: A and B are {tuple(down.shape)} and {tuple(up.shape)}, and not "
            f"{wanted[0]} and {wanted[1]}.",
            remedy="Mount it on the model that its adapter_config.json names.",
        )
    scaled = up.float().t() * config.scale_of(name)
    pair = LoraPair(down.to(shape.device, dtype).contiguous(), scaled.to(shape.device, dtype).contiguous())
    # A neighbour's row is multiplied by zero where it has another adapter: NaN would stay NaN.
    if not (pair.down.isfinite().all() and pair.up.isfinite().all()):
        raise AdapterLoadError(
            f"{source} holds NaN or infinite numbers in {name} (as {str(dtype).removeprefix('torch.')}).",
            remedy='Use another checkpoint of it, or load the model with dtype="float32".',
        )
    return pair
