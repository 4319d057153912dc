"""The embedded model on vLLM. An engine takes seconds to start, so models with the same options share one."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

from conformance.backends import OPTIONS, Case, fp32_noise, plain_forward

from dcmodel.backend import LoadOptions
from dcmodel.errors import DcModelError, ModelClosedError
from dcmodel.model import DcModel
from dcmodel.registry import Registry
from dcmodel.scheduling.runner import SequenceRunner
from dcmodel.scheduling.sequence import Sequence, Status

KV_BYTES = 64 << 20
# vLLM's kernels add in another order than torch's.
TOLERANCE = 1e-4


@contextmanager
def vllm_case() -> Iterator[Case]:
    from lmql_backends.vllm import BACKEND

    with _quiet():
        from lmql_backends.vllm.loading import CPU_BLOCK

    folder = str(Registry().embedded_path())
    loaded: dict[tuple[tuple[str, int], ...], Any] = {}

    def open_model(**options: int) -> DcModel:
        key = tuple(sorted(options.items()))
        if key not in loaded:
            extra = {"kv_cache_memory_bytes": KV_BYTES, "enable_lora": True, "max_loras": 2}
            with _quiet():
                loaded[key] = BACKEND.load(folder, LoadOptions(dtype="float32", extra=extra, **options))
        return lease(loaded[key])

    logits, tolerance = plain_forward(folder), max(TOLERANCE, fp32_noise(folder))
    try:
        yield Case("vllm", open_model, logits, tolerance=tolerance, options=OPTIONS, kv_block=CPU_BLOCK)
    finally:
        for model in loaded.values():
            model._runner.close()


@contextmanager
def _quiet() -> Iterator[None]:
    """What vLLM imports is full of warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def lease(model: Any) -> DcModel:
    """Another model on the same engine, whose prefix cache is empty: closing it leaves the engine alone."""
    from lmql_backends.vllm.model import VLLMDcModel

    runner = model._runner
    runner.between_steps(runner.engine.core.forget_prefixes).result()
    leased = VLLMDcModel(model.info, model.tokenizer, LeasedRunner(runner))  # type: ignore[arg-type]
    leased._adapters._handles = model._adapters._handles  # no two adapters of an engine have the same
    return leased


class LeasedRunner(SequenceRunner):
    """Runs sequences on somebody else's runner, and fails only its own when it is closed."""

    def __init__(self, runner: Any) -> None:
        self._runner = runner
        self.engine = runner.engine
        self._sequences: list[Sequence] = []
        self._is_closed = False

    def submit(self, sequences: Iterable[Sequence]) -> None:
        if self._is_closed:
            raise ModelClosedError("the model is closed.", remedy="Make a new one.")
        batch = list(sequences)
        self._sequences = [item for item in self._sequences if item.status is not Status.FINISHED] + batch
        self._runner.submit(batch)

    def cancel(self, sequence: Sequence) -> None:
        self._runner.cancel(sequence)

    def close(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        error: DcModelError = ModelClosedError("the model was closed.")
        for sequence in self._sequences:
            if sequence.status is not Status.FINISHED:
                sequence.error = error
                self._runner.cancel(sequence)
        self._runner.between_steps(_nothing).result()

    def between_steps(self, function: Callable[[], Any]) -> Future[Any]:
        return self._runner.between_steps(function)

    def forget_adapter(self, adapter: int) -> None:
        self._runner.forget_adapter(adapter)


def _nothing() -> None:
    """What was cancelled before is gone when this has run."""
