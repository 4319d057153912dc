"""The two files of a PEFT adapter: where they are, and what is in them. Nothing is unpickled."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from dcmodel.errors import AdapterLoadError
from lmql_backends.transformers.checkpoint import looks_like_path

CONFIG, WEIGHTS, PICKLED = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"


def find_folder(source: str) -> Path:
    """The folder of an adapter: `source` itself, or the hub's under that id."""
    path = Path(source).expanduser()
    if path.is_dir():
        return path
    if path.exists() or looks_like_path(source):
        what = "is a file" if path.exists() else "does not exist"
        raise AdapterLoadError(
            f"the adapter {source} {what}.", remedy=f"Give the folder that holds its {CONFIG}."
        )
    return _from_hub(source)


def read_config(folder: Path) -> Mapping[str, Any]:
    """The adapter's configuration, as it stands in its file."""
    path = folder / CONFIG
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise AdapterLoadError(
            f"the folder {folder} has no {CONFIG}.",
            remedy="Give the folder that peft's save_pretrained wrote.",
        ) from error
    except (OSError, ValueError) as error:
        raise AdapterLoadError(f"{path} cannot be read: {error}.") from error
    if not isinstance(config, dict):
        raise AdapterLoadError(f"{path} holds no JSON object.", remedy="Save the adapter again.")
    return config


def read_weights(folder: Path) -> dict[str, Tensor]:
    """The adapter's tensors by name, on the CPU."""
    path = folder / WEIGHTS
    if not path.is_file():
        if (folder / PICKLED).is_file():
            raise AdapterLoadError(
                f"the folder {folder} has only {PICKLED}, a pickle, which could run any code.",
                remedy="Convert it where you trust it: load it with peft and save_pretrained(folder).",
            )
        raise AdapterLoadError(
            f"the folder {folder} has no {WEIGHTS}.",
            remedy="Give the folder that peft's save_pretrained wrote.",
        )
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise AdapterLoadError(
            f"{path} cannot be read: {error}.", remedy="Save the adapter again."
        ) from error


def _from_hub(source: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(source, allow_patterns=[CONFIG, WEIGHTS, PICKLED]))
    except (OSError, ValueError, RuntimeError) as error:
        lines = str(error).strip().splitlines()
        raise AdapterLoadError(
            f"there is no folder {source!r}, and the hub gave no such adapter: "
            f"{lines[0] if lines else type(error).__name__}",
            remedy="Check the name; a private adapter needs `hf auth login`, an offline machine a folder.",
        ) from error
