"""Adapters in PEFT's format, made from random numbers, and models that they are merged into."""

from __future__ import annotations

import copy
import json
import math
import re

import torch
from safetensors.torch import save_file
from torch import nn
from transformers.pytorch_utils import Conv1D

TARGETS = {
    "llama": ["q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj", "gate_proj"],
    "gpt2": ["c_attn", "c_proj", "c_fc"],
    "gemma2": ["q_proj", "v_proj", "down_proj"],
    "gpt_neox": ["query_key_value", "dense", "dense_h_to_4h"],
    "bloom": ["query_key_value", "dense_h_to_4h"],
    "gptj": ["q_proj", "v_proj", "fc_in"],
}


def matched(model, targets):
    """(name, layer, inputs, outputs) of the layers that the targets name."""
    for name, module in model.named_modules():
        if not isinstance(module, nn.Linear | Conv1D):
            continue
        is_target = (
            re.fullmatch(targets, name) is not None
            if isinstance(targets, str)
            else any(name == target or name.endswith(f".{target}") for target in targets)
        )
        if is_target:
            outputs, inputs = (
                module.weight.shape if isinstance(module, nn.Linear) else module.weight.shape[::-1]
            )
            yield name, module, inputs, outputs


def make_adapter(folder, model, targets, *, seed=0, rank=4, alpha=8, strength=0.3, ranks=None, **config):
    """Write an adapter for the plain `model`; returns the folder as text. `ranks`: by layer."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, _, inputs, outputs in matched(model, targets):
        own = (ranks or {}).get(name, rank)
        tensors[f"base_model.model.{name}.lora_A.weight"] = torch.randn(
            own, inputs, generator=generator
        ) / math.sqrt(inputs)
        tensors[f"base_model.model.{name}.lora_B.weight"] = (
            torch.randn(outputs, own, generator=generator) * strength
        )
    return write_adapter(
        folder, tensors, {"r": rank, "lora_alpha": alpha, "target_modules": targets, **config}
    )


def write_adapter(folder, tensors, config):
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    whole = {"peft_type": "LORA", "bias": "none", "lora_dropout": 0.1, **config}
    (folder / "adapter_config.json").write_text(json.dumps(whole))
    return str(folder)


def merged(model, folder, *, scales=None):
    """A copy of the plain `model` with W + scale B A. `scales`: by layer, where not alpha / r."""
    from pathlib import Path

    from safetensors.torch import load_file

    config = json.loads((Path(folder) / "adapter_config.json").read_text())
    tensors = load_file(Path(folder) / "adapter_model.safetensors")
    result = copy.deepcopy(model)
    layers = dict(result.named_modules())
    for key, down in tensors.items():
        if ".lora_A." not in key:
            continue
        name = key.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
        up = tensors[key.replace("lora_A", "lora_B")]
        scale = (scales or {}).get(name, config["lora_alpha"] / config["r"])
        delta = (up.double() @ down.double()) * scale
        with torch.no_grad():
            weight = layers[name].weight
            weight.copy_((weight.double() + (delta.T if isinstance(layers[name], Conv1D) else delta)).float())
    return result
