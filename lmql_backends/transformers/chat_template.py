"""The chat template among a tokenizer's files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

TEMPLATE_FILE, CONFIG_FILE = "chat_template.jinja", "tokenizer_config.json"
HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "revision", "subfolder", "token")
DEFAULT = "default"


def chat_template(name: str, extra: Mapping[str, Any]) -> str:
    """Jinja source, of several the one named "default"; empty where the folder or hub id has none."""
    template = _read(name, TEMPLATE_FILE, extra)
    if template:
        return template
    try:
        config = json.loads(_read(name, CONFIG_FILE, extra) or "{}")
    except ValueError:
        return ""  # the tokenizer's loader has said so, if it needs the file
    found = config.get("chat_template") if isinstance(config, dict) else None
    if isinstance(found, list):
        named = (item for item in found if isinstance(item, dict) and item.get("name") == DEFAULT)
        found = next(named, {}).get("template")
    return found if isinstance(found, str) else ""


def _read(name: str, file: str, extra: Mapping[str, Any]) -> str:
    """The text of a file; empty where there is none."""
    folder = Path(name).expanduser()
    try:
        if folder.is_dir():
            path = folder / (extra.get("subfolder") or "") / file
        else:
            path = Path(
                hf_hub_download(name, file, **{key: extra[key] for key in HUB_OPTIONS if key in extra})
            )
        return path.read_text(encoding="utf-8")
    except (OSError, HfHubHTTPError, HFValidationError, UnicodeDecodeError):
        return ""
