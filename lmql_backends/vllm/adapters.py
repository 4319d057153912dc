"""Reading an adapter before vLLM sees it: vLLM takes matrices of the wrong shape without a word."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from safetensors import SafetensorError, safe_open
from transformers import AutoModelForCausalLM
from vllm.lora.peft_helper import PEFTHelper

from dcmodel.adapters import LoadedAdapter
from dcmodel.errors import AdapterLoadError

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
MATRIX = re.compile(r"base_model\.model\.(.+)\.lora_(A|B)\.weight")
VOCABULARY = ("lm_head", "embed_tokens")
REMEDY = "Give the folder that PEFT's `save_pretrained` wrote for a LoRA of this model."


class AdapterReader:
    """Checks adapters against one model. Used from any thread."""

    def __init__(self, model_config: Any, lora_config: Any) -> None:
        """Both are vLLM's."""
        self._lora_config = lora_config
        # Shapes only: no weight of it exists.
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(model_config.hf_config)  # type: ignore[no-untyped-call]
        self._shapes = {
            name: tuple(module.weight.shape)
            for name, module in model.named_modules()
            if isinstance(getattr(module, "weight", None), torch.Tensor) and module.weight.dim() == 2
        }

    def read(self, source: str) -> LoadedAdapter:
        """Raises `AdapterLoadError` for what is missing, broken, does not fit, or vLLM does not compute."""
        folder = _folder(source)
        config = _config(folder, source)
        if config.get("peft_type") != "LORA":
            raise AdapterLoadError(f"{source} is a {config.get('peft_type')!r}, no LoRA.", remedy=REMEDY)
        try:
            helper = PEFTHelper.from_dict(config)
            helper.validate_legal(self._lora_config)
            self._check_matrices(folder / WEIGHTS, source)
        except (ValueError, TypeError, KeyError, OSError, SafetensorError) as error:
            raise AdapterLoadError(f"{source} cannot be used by vLLM: {error}", remedy=REMEDY) from error
        rank = max([int(helper.r), *map(int, helper.rank_pattern.values())])
        return LoadedAdapter(rank=rank, weights=str(folder))

    def _check_matrices(self, path: Path, source: str) -> None:
        if not path.is_file():
            raise AdapterLoadError(f"{source} has no {WEIGHTS}.", remedy=REMEDY)
        with safe_open(str(path), framework="pt") as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        if not shapes:
            raise AdapterLoadError(f"{source} holds no matrices.", remedy=REMEDY)
        for name, shape in shapes.items():
            found = MATRIX.fullmatch(name)
            base = self._shapes.get(found.group(1)) if found else None
            if found is None or base is None:
                raise AdapterLoadError(f"{source} changes {name}, which this model has not.", remedy=REMEDY)
            if found.group(1).endswith(VOCABULARY):
                raise AdapterLoadError(
                    f"{source} changes {found.group(1)}: adapters of the vocabulary are not computed here.",
                    remedy="Merge it into the model, or use the transformers backend.",
                )
            own, place = (shape[-1], 1) if found.group(2) == "A" else (shape[0], 0)
            if len(shape) != 2 or own != base[place]:
                raise AdapterLoadError(
                    f"{source}: {name} is {shape}, and the model's own matrix is {base}.", remedy=REMEDY
                )


def _folder(source: str) -> Path:
    path = Path(source).expanduser()
    if path.is_dir():
        return path
    if path.exists() or source.startswith(("/", "./", "../", "~")) or source.count("/") != 1:
        raise AdapterLoadError(f"there is no folder {source}.", remedy=REMEDY)
    try:
        return Path(snapshot_download(source, allow_patterns=[CONFIG, WEIGHTS]))
    except (OSError, HfHubHTTPError, HFValidationError) as error:
        raise AdapterLoadError(
            f"there is no folder {source}, and the hub gave no such adapter: {error}", remedy=REMEDY
        ) from error


def _config(folder: Path, source: str) -> Mapping[str, Any]:
    try:
        found = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise AdapterLoadError(f"{source}: {CONFIG} cannot be read: {error}", remedy=REMEDY) from error
    if not isinstance(found, dict):
        raise AdapterLoadError(f"{source}: {CONFIG} is no object.", remedy=REMEDY)
    return found
