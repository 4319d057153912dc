"""Two adapters for the model of each case, and the logits of the model with each of them.

Those of the fake engine are seeds; all others are folders in PEFT's format, which every engine reads.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from conformance.backends import Case

SEEDS = (11, 12)
RANK, ALPHA = 2, 4
TARGETS = ("q_proj", "down_proj")


@dataclass(frozen=True)
class MadeAdapter:
    """Something to mount."""

    source: str
    logits: Callable[[Sequence[int]], np.ndarray] | None
    """Of the model with it; None where nothing but the backend can tell."""


def made_adapters(case: Case, name: str, folder: Path) -> tuple[MadeAdapter, MadeAdapter] | None:
    """`name`: of the case's model, or where its weights are. None: nobody knows how to make one for it."""
    if case.name in ("fake", "in-process", "lmtp", "process", "replicate"):
        return _seeds(case)
    checkpoint = _checkpoint(Path(name))
    if checkpoint is None:
        return None
    first, second = (_peft(checkpoint, folder / str(seed), seed) for seed in SEEDS)
    return first, second


def _seeds(case: Case) -> tuple[MadeAdapter, MadeAdapter]:
    from fakes.fake_engine import FakeModel
    from fakes.small_tokenizer import small_tokenizer

    def made(seed: int) -> MadeAdapter:
        added = FakeModel(small_tokenizer().vocab_size, seed=seed)
        assert case.logits is not None
        base = case.logits
        return MadeAdapter(f"seed:{seed}", lambda token_ids: base(token_ids) + added.logits(token_ids))

    first, second = map(made, SEEDS)
    return first, second


def _checkpoint(path: Path) -> Path | None:
    """The folder with a Llama's weights as transformers has them, which stands beside a GGUF file of them."""
    from dcmodel.registry import Registry

    folder = path if path.is_dir() else path.parent
    if not (folder / "config.json").exists():
        if path.suffix != ".gguf":
            return None
        folder = Registry().embedded_path()  # its GGUF form is made in a cache
    config = json.loads((folder / "config.json").read_text("utf-8"))
    return folder if config["model_type"] == "llama" else None


def _peft(checkpoint: Path, folder: Path, seed: int) -> MadeAdapter:
    """Random matrices: strong enough to change what the model says, weak enough to keep rounding small."""
    from safetensors.numpy import save_file

    rng = np.random.default_rng(seed)
    parts, tensors = {}, {}
    for name, (outputs, inputs) in _shapes(checkpoint).items():
        down = rng.standard_normal((RANK, inputs)).astype(np.float32) / math.sqrt(inputs)
        up = 0.3 * rng.standard_normal((outputs, RANK)).astype(np.float32)
        parts[name] = ALPHA / RANK * (up @ down)
        tensors[f"base_model.model.{name}.lora_A.weight"] = down
        tensors[f"base_model.model.{name}.lora_B.weight"] = up
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {
        "peft_type": "LORA",
        "r": RANK,
        "lora_alpha": ALPHA,
        "target_modules": list(TARGETS),
        "bias": "none",
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return MadeAdapter(str(folder), _merged(checkpoint, parts))


def _shapes(checkpoint: Path) -> dict[str, tuple[int, int]]:
    """[outputs, inputs] of the layers that are adapted."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(checkpoint)
    return {
        name: tuple(layer.weight.shape)
        for name, layer in model.named_modules()
        if name.rpartition(".")[2] in TARGETS
    }


def _merged(checkpoint: Path, parts: dict[str, np.ndarray]) -> Callable[[Sequence[int]], np.ndarray]:
    """A plain forward of the model with the adapter added to its weights."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
    layers = dict(model.named_modules())
    with torch.no_grad():
        for name, added in parts.items():
            layers[name].weight += torch.from_numpy(added)

    @cache
    def logits(token_ids: tuple[int, ...]) -> np.ndarray:
        with torch.inference_mode():
            return model(torch.tensor([token_ids]), use_cache=False).logits[0, -1].numpy()

    return lambda token_ids: logits(tuple(token_ids))
