"""What a model runner of vLLM calls in each step."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class StepHooks(Protocol):
    """Both are called on the thread that steps the engine, once each per step."""

    def before_forward(self) -> None:
        """The batch is fixed, and nothing computed yet."""

    def with_logits(self, logits: Tensor) -> None:
        """Change `logits` ``[requests, vocab_size]`` in place: vLLM takes the likeliest token of a row."""
