"""vLLM's engine core in this process: requests in, steps, and what of its insides our code reads.

All that depends on how vLLM is built inside is here, in `scheduler.py` and in the processors.
"""

from __future__ import annotations

import time
from functools import partial
from typing import Any

from torch import Tensor
from vllm import SamplingParams
from vllm import __version__ as version
from vllm.lora.layers import LogitsProcessorWithLoRA
from vllm.lora.request import LoRARequest
from vllm.platforms import current_platform
from vllm.v1.engine import EngineCoreRequest
from vllm.v1.engine.core_client import InprocClient
from vllm.v1.executor import Executor

from dcmodel.errors import ModelLoadError
from lmql_backends.vllm.hooks import StepHooks
from lmql_backends.vllm.insides import Insides, insides_of
from lmql_backends.vllm.scheduler import StepScheduler

ENDLESS = 1 << 30
# Its kernels for CPUs give requests without an adapter the last one of the batch (vLLM's pull request 48421).
MIXED_UP = "0.32."
REMEDY = "Use a version of vLLM that docs/vllm.md lists."


class Core:
    """One engine. Everything is called from the thread that made it."""

    def __init__(self, config: Any) -> None:
        """`config`: vLLM's, with our scheduler and processor in it. Blocks; raises what vLLM raises."""
        self._client = InprocClient(config, Executor.get_class(config), log_stats=False)
        try:
            core = self._client.engine_core
            self._core = core
            self._scheduler: Any = core.scheduler
            self._runner = core.model_executor.driver_worker.worker.model_runner
            self._insides: Insides | None = insides_of(
                config, self._runner, lambda: self._scheduler.scheduled
            )
        except AttributeError as error:
            self._client.shutdown()
            raise ModelLoadError(
                f"this version of vLLM is built otherwise: {error}.", remedy=REMEDY
            ) from error
        if self._insides is None or not isinstance(self._scheduler, StepScheduler):
            self._client.shutdown()
            raise ModelLoadError("vLLM did not take our scheduler and processor.", remedy=REMEDY)
        self._order = self._insides.order
        self._processor = self._insides.processor
        self.hidden: Tensor | None = None
        """The hidden states of the present step: a row for each scheduled token, request by request."""
        self.has_hidden_states = self._insides.keep_hidden_states(self._keep)
        self._leave_heads_alone()
        self._numbers = 0
        self._loras: dict[int, LoRARequest] = {}
        self.mixes_adapters = not (current_platform.is_cpu() and version.startswith(MIXED_UP))
        """Whether one step may compute requests with and without an adapter."""
        # vLLM draws nothing itself: the likeliest token is the one that we chose.
        self._params = SamplingParams(temperature=0.0, max_tokens=ENDLESS, ignore_eos=True, detokenize=False)

    def attach(self, hooks: StepHooks) -> None:
        """From now on each step calls these."""
        self._processor.hooks = hooks

    # -- requests --------------------------------------------------------------------------------------

    def add(self, token_ids: list[int], *, cap: int, adapter: int) -> Any:
        """Queue a request; its object. At most `cap` of its tokens come from the prefix cache."""
        self._numbers += 1
        made = EngineCoreRequest(
            request_id=str(self._numbers),
            prompt_token_ids=token_ids,
            mm_features=None,
            sampling_params=self._params,
            pooling_params=None,
            arrival_time=time.time(),
            lora_request=self._loras[adapter] if adapter else None,
            cache_salt=None,
            data_parallel_rank=None,
        )
        request, wave = self._core.preprocess_add_request(made)
        if cap < len(token_ids) - 1:
            self._scheduler.caps[request.request_id] = cap
        self._core.add_request(request, wave)
        return request

    def abort(self, requests: list[Any]) -> None:
        """Give up their places; their KV stays in the prefix cache while there is room."""
        ids = [request.request_id for request in requests]
        for request_id in ids:
            self._scheduler.caps.pop(request_id, None)
        self._client.abort_requests([item for item in ids if item in self._scheduler.requests])

    def forget_prefixes(self) -> None:
        """Empty the prefix cache; what runs keeps what it has."""
        self._client.reset_prefix_cache()

    def step(self) -> None:
        """One step for all that can go on. Raises what vLLM raises, whose engine is of no use then."""
        self._client.get_output()
        self.hidden = None

    # -- while a step runs ------------------------------------------------------------------------------

    def rows(self) -> list[tuple[str, int, int]]:
        """Of each row of the logits: the request, how many tokens were computed before, how many are now."""
        requests, scheduled = self._scheduler.requests, self._scheduler.scheduled
        found: list[tuple[str, int, int]] = []
        for request_id in self._order():
            count = scheduled[request_id]
            # The scheduler counts what it has scheduled as computed.
            found.append((request_id, requests[request_id].num_computed_tokens - count, count))
        return found

    def compute_logits(self, hidden: Tensor) -> Tensor:
        """Of rows of `hidden`."""
        logits: Tensor = self._runner.model.compute_logits(hidden)
        return logits

    def _keep(self, hidden: Tensor) -> None:
        self.hidden = hidden

    def _leave_heads_alone(self) -> None:
        """Logits without an adapter of the head's own: vLLM adds it row by row of the sampled ones, and there
        may be others. (`AdapterReader` refuses such adapters.)"""
        for module in self._runner.model.modules():
            if isinstance(module, LogitsProcessorWithLoRA):
                module._get_logits = partial(_plain_logits, module.base_layer)

    # -- adapters -------------------------------------------------------------------------------------

    def add_lora(self, adapter: int, folder: str) -> None:
        """Load it; raises what vLLM raises."""
        # The name is part of the prefix cache's key: a folder that is mounted again is another adapter.
        lora = LoRARequest(lora_name=f"adapter-{adapter}", lora_int_id=adapter, lora_path=folder)
        self._client.add_lora(lora)
        self._loras[adapter] = lora

    def remove_lora(self, adapter: int) -> None:
        """No request with it is left."""
        del self._loras[adapter]
        self._client.remove_lora(adapter)

    def shutdown(self) -> None:
        self._processor.hooks = None
        self._client.shutdown()


def _plain_logits(processor: Any, hidden: Tensor, head: Any, *args: Any, **options: Any) -> Any:
    return processor._get_logits(hidden, getattr(head, "base_layer", head), *args, **options)
