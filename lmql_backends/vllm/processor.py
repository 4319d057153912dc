"""The logits processor of vLLM's V1 model runner: our code in the middle of its step."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from vllm.v1.sample.logits_processor import LogitsProcessor

from lmql_backends.vllm.hooks import StepHooks


class StepProcessor(LogitsProcessor):  # type: ignore[misc]
    """Hands a step's logits over, all rows at once; does nothing until hooks are attached."""

    def __init__(self, vllm_config: Any, device: Any, is_pin_memory: bool) -> None:
        self.hooks: StepHooks | None = None

    def is_argmax_invariant(self) -> bool:
        """What it leaves is the likeliest token of each row."""
        return False

    def update_state(self, batch_update: Any) -> None:
        """Before each forward, when the order of the rows is known."""
        if self.hooks is not None:
            self.hooks.before_forward()

    def apply(self, logits: Tensor) -> Tensor:
        if self.hooks is not None:
            self.hooks.with_logits(logits)
        return logits
