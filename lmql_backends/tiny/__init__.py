"""The embedded model: a few megabytes, trained by `python -m lmql_backends.tiny.train` on its own corpus."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

__all__ = ["MODEL_DIR", "load_metrics"]

MODEL_DIR = Path(__file__).parent / "model"
"""What `AutoModelForCausalLM.from_pretrained` and `AutoTokenizer.from_pretrained` take."""


def load_metrics(directory: Path = MODEL_DIR) -> dict[str, Any]:
    """The held-out figures that `evaluate` stored beside the weights, and how they were measured."""
    metrics: dict[str, Any] = json.loads((directory / "metrics.json").read_text(encoding="utf-8"))
    return metrics
