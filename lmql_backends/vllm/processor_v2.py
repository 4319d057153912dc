"""The logits processor of vLLM's V2 model runner, which vLLM chooses by itself where Triton runs.

What our draws need is there, with three conditions:

- Sampled tokens stay on the device, and with asynchronous scheduling the next step is planned before they are
  known here. That is off (`loading.FIXED`): a step is then one batch in flight. `apply` reads what it needs
  of the logits, which waits for the forward.
- The interface tells slots, not requests, and only in `apply`. The names behind the slots are those of the
  runner (`names`). Masks are begun before the forward, in `apply_staged_writes`, by the order in which the
  runner is going to sort its batch (`planned`); should it turn out otherwise, they are begun again.
- One row of logits for each request: speculative decoding is off.

The processor gets a copy of all logits in float32, once for each step, since the runner makes one.

It was run on a CPU, in Triton's interpreter (tests/lmql_backends/vllm/test_v2_runner.py); never on a GPU, and
never with CUDA graphs. So V1 is chosen unless VLLM_USE_V2_MODEL_RUNNER=1 asks for this one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor
from vllm.v1.worker.gpu.sample.logits_processor import LogitsProcessor

from dcmodel.errors import EngineError
from lmql_backends.vllm.hooks import StepHooks


class StepProcessorV2(LogitsProcessor):  # type: ignore[misc]
    """Hands a step's logits over, all rows at once; does nothing until hooks are attached."""

    def __init__(self, vllm_config: Any, req_states: Any) -> None:
        self.hooks: StepHooks | None = None
        self.names: Mapping[int, str] = {}
        """The request in each slot."""
        self.planned: Callable[[], list[str]] = list
        """The requests of the present step, in the order that is expected."""
        self.order: list[str] = []
        """The requests of the present step, row by row."""

    def add_request(self, req_idx: int, sampling_params: Any) -> bool:
        """It changes logits of every request."""
        return True

    def apply_staged_writes(self) -> None:
        """Before each forward, when its requests have their slots."""
        if self.hooks is not None:
            self.order = self.planned()
            self.hooks.before_forward()

    def apply(self, logits: Tensor, ctx: Any) -> Tensor:
        if self.hooks is None:
            return logits
        order = [self.names[slot] for slot in ctx.idx_mapping_np.tolist()]
        if len(order) != logits.shape[0]:
            raise EngineError(f"vLLM gave {logits.shape[0]} rows of logits for {len(order)} requests.")
        if order != self.order:
            self.order = order
            self.hooks.before_forward()
        self.hooks.with_logits(logits)
        return logits
