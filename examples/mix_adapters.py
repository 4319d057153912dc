"""Two adapters and the plain model, asked in turn. The adapters are made here, from random numbers: put your
own folders in their place."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file

from dcmodel import LLM

RANK, WIDTH, LAYERS = 4, 256, 4


def make_adapter(folder: Path, seed: int) -> str:
    """An adapter of PEFT's format for the query projections of the embedded model."""
    numbers = torch.Generator().manual_seed(seed)
    weights = {}
    for layer in range(LAYERS):
        name = f"base_model.model.model.layers.{layer}.self_attn.q_proj"
        weights[f"{name}.lora_A.weight"] = torch.randn(RANK, WIDTH, generator=numbers) / WIDTH**0.5
        weights[f"{name}.lora_B.weight"] = torch.randn(WIDTH, RANK, generator=numbers)
    folder.mkdir()
    save_file(weights, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": 2 * RANK, "target_modules": ["q_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return str(folder)


with tempfile.TemporaryDirectory() as place:
    llm = LLM(adapters={"first": make_adapter(Path(place) / "first", 1)})
    llm.mount("second", make_adapter(Path(place) / "second", 2))
    for adapter in (None, "first", "second"):
        chosen = llm.choose("3 + 4 =", [" 7", " 8", " 12"], adapter=adapter)
        print(f"{adapter or 'no adapter'}:{chosen.best.text} (probability {chosen.best.probability:.3f})")
    llm.unmount("first")
    print("still mounted:", *llm.adapters)
