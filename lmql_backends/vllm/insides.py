"""Where the two model runners of vLLM keep what our code reads: V1's and V2's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from torch import Tensor

from lmql_backends.vllm.hooks import StepHooks
from lmql_backends.vllm.processor import StepProcessor
from lmql_backends.vllm.processor_v2 import StepProcessorV2

Scheduled = Callable[[], Mapping[str, int]]
"""How many tokens of each request the present step computes."""


class Processor(Protocol):
    """Either of ours."""

    hooks: StepHooks | None


class Insides(Protocol):
    """What differs between the model runners."""

    processor: Processor

    def order(self) -> list[str]:
        """The request of each row of the present step's logits."""

    def keep_hidden_states(self, keep: Callable[[Tensor], None]) -> bool:
        """Have `keep` called with those of each step before its logits; False where there is no place."""


def processor_class(config: Any) -> type[Any]:
    """The one that the model runner of vLLM's `config` takes."""
    return StepProcessorV2 if config.use_v2_model_runner else StepProcessor


def insides_of(config: Any, runner: Any, scheduled: Scheduled) -> Insides | None:
    """Of vLLM's model runner. None where it has no processor of ours; AttributeError where it is built
    otherwise."""
    made: type[V1Insides] | type[V2Insides]
    if config.use_v2_model_runner:
        items, made = runner.sampler.logits_processors, V2Insides
    else:
        items, made = runner.input_batch.logitsprocs.all, V1Insides
    found = [item for item in items if isinstance(item, processor_class(config))]
    return made(runner, found[0], scheduled) if len(found) == 1 else None


class V1Insides:
    """The runner on CPUs, and by our choice on accelerators."""

    def __init__(self, runner: Any, processor: StepProcessor, scheduled: Scheduled) -> None:
        self.processor: Processor = processor
        self._runner = runner

    def order(self) -> list[str]:
        found: list[str] = self._runner.input_batch.req_ids
        return found

    def keep_hidden_states(self, keep: Callable[[Tensor], None]) -> bool:
        """`_model_forward` is vLLM's place for overriding the forward."""
        forward = getattr(self._runner, "_model_forward", None)
        if forward is None:
            return False

        def kept(*args: object, **options: object) -> Any:
            output = forward(*args, **options)
            keep(output[0] if isinstance(output, tuple) else output)
            return output

        self._runner._model_forward = kept
        return True


class V2Insides:
    """The runner that vLLM chooses where Triton runs. See `processor_v2.py`."""

    def __init__(self, runner: Any, processor: StepProcessorV2, scheduled: Scheduled) -> None:
        from vllm.v1.worker.gpu.model_runner import sort_batch_req_ids

        self.processor: Processor = processor
        self._own = processor
        self._runner = runner
        processor.names = runner.req_states.index_to_req_id
        # Nothing is drafted: a request that decodes has one token.
        processor.planned = lambda: sort_batch_req_ids(scheduled(), {}, 1)

    def order(self) -> list[str]:
        return self._own.order

    def keep_hidden_states(self, keep: Callable[[Tensor], None]) -> bool:
        """`sample` is the first that gets them, whether a graph or the module has computed them."""
        sample = getattr(self._runner, "sample", None)
        if sample is None:
            return False

        def kept(hidden_states: Tensor, *args: object, **options: object) -> Any:
            keep(hidden_states)
            return sample(hidden_states, *args, **options)

        self._runner.sample = kept
        return True
