"""The chat template among a tokenizer's files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import AutoTokenizer

HUB_OPTIONS = ("cache_dir", "local_files_only", "revision", "subfolder", "token")


def chat_template(name: str, extra: Mapping[str, Any]) -> str:
    """Jinja source, of several the one named "default"; empty where the folder or hub id has none."""
    options = {key: extra[key] for key in HUB_OPTIONS if key in extra}
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False, **options)
    except (OSError, ValueError, KeyError, ImportError, AttributeError, TypeError):
        return ""  # our own tokenizer reads the folder, and says what is wrong with it
    found = getattr(tokenizer, "chat_template", None)
    if isinstance(found, dict):
        found = found.get("default")
    return found if isinstance(found, str) else ""
