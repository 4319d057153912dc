"""Those that answer the same requests: dcmodel, `model.generate`, and transformers' continuous batching."""

from __future__ import annotations

import asyncio
import copy
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from transformers import AutoModelForCausalLM, GenerationConfig
from transformers.generation.configuration_utils import ContinuousBatchingConfig

from benchmarks.metered import MeteredEngine
from benchmarks.workloads import Item
from dcmodel.backend import LoadedEngine, LoadOptions
from dcmodel.local import LocalDcModel
from dcmodel.types import Completion, GenerateRequest

Outputs = list[list[int]]
PAGE_SIZE = 32
BUDGET = 512


class Contender(Protocol):
    """Answers a batch of requests, greedily and past any end-of-sequence token."""

    name: str

    def ready(self, items: Sequence[Item]) -> AbstractContextManager[None]:
        """Whatever is not to be measured, for requests of these lengths."""

    def run(self, items: Sequence[Item]) -> Outputs: ...


def plain_model(folder: Path, dtype: str) -> Any:
    """The unmodified model, which never ends by itself."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()
    model.generation_config.eos_token_id = None
    model.config.eos_token_id = None
    return model


class StaticGenerate:
    """`model.generate` over one batch, padded on the left, until the longest request has its tokens."""

    name = "generate"

    def __init__(self, model: Any) -> None:
        self._model = model

    @contextmanager
    def ready(self, items: Sequence[Item]) -> Iterator[None]:
        yield

    def run(self, items: Sequence[Item]) -> Outputs:
        width = max(len(item.prompt) for item in items)
        pads = [width - len(item.prompt) for item in items]
        with torch.inference_mode():
            result = self._model.generate(
                torch.tensor([[0] * pad + list(item.prompt) for pad, item in zip(pads, items, strict=True)]),
                attention_mask=torch.tensor([[0] * pad + [1] * (width - pad) for pad in pads]),
                max_new_tokens=max(item.new for item in items),
                do_sample=False,
                pad_token_id=0,
            )
        rows = result[:, width:].tolist()
        return [row[: item.new] for row, item in zip(rows, items, strict=True)]


class FrozenGenerate(StaticGenerate):
    """The same with weights that take no gradient: what the targets for bfloat16 were measured against."""

    name = "frozen"

    def run(self, items: Sequence[Item]) -> Outputs:
        self._model.requires_grad_(False)
        try:
            return super().run(items)
        finally:
            self._model.requires_grad_(True)


class ContinuousBatching:
    """transformers' own; its defaults would take most of the memory, so its sizes are given."""

    name = "continuous"

    def __init__(self, model: Any) -> None:
        self._model = model
        self._manager: Any = None

    @contextmanager
    def ready(self, items: Sequence[Item]) -> Iterator[None]:
        pages = sum(-(-(len(item.prompt) + item.new) // PAGE_SIZE) + 1 for item in items)
        config = GenerationConfig(do_sample=False, eos_token_id=-1, max_new_tokens=64)
        sizes = ContinuousBatchingConfig(
            page_size=PAGE_SIZE, num_blocks=pages + 16, max_batch_tokens=BUDGET, use_async_batching=False
        )
        self._manager = self._model.init_continuous_batching(config, sizes)
        self._manager.warmup()
        self._manager.start()
        time.sleep(0.2)
        try:
            yield
        finally:
            self._manager.stop(block=True)
            self._manager.destroy()
            self._manager = None

    def run(self, items: Sequence[Item]) -> Outputs:
        # As its own `generate_batch` does: in the order of the prompts, so that prefixes are shared.
        order = sorted(range(len(items)), key=lambda place: items[place].prompt, reverse=True)
        ids: dict[str, int] = {}
        for place in order:
            item = items[place]
            request = self._manager.add_request(list(item.prompt), max_new_tokens=item.new, eos_token_id=-1)
            ids[request] = place
        outputs: Outputs = [[] for _ in items]
        while ids:
            result = self._manager.get_result(timeout=1)
            if result is None:
                if not self._manager.is_running():
                    raise RuntimeError("continuous batching stopped")
                continue
            if result.is_finished():
                if result.error is not None:
                    raise RuntimeError(f"continuous batching failed: {result.error}")
                outputs[ids.pop(result.request_id)] = list(result.generated_tokens)
        return outputs


class Ours:
    """`LocalDcModel` on the transformers backend, all requests handed in at once."""

    def __init__(self, loaded: LoadedEngine, *, name: str = "dcmodel", logprobs: bool = False) -> None:
        self.name = name
        self.meter = MeteredEngine(loaded.engine)
        self.model = LocalDcModel(
            LoadedEngine(engine=self.meter, tokenizer=loaded.tokenizer, info=loaded.info)
        )
        self._loop = asyncio.new_event_loop()
        self._logprobs = logprobs

    @property
    def vocab_size(self) -> int:
        return self.meter.capabilities.vocab_size

    def with_logprobs(self) -> Ours:
        """The same model, asked for log-probabilities."""
        other = copy.copy(self)
        other.name = f"{self.name}+logprobs"
        other._logprobs = True
        return other

    @contextmanager
    def ready(self, items: Sequence[Item]) -> Iterator[None]:
        yield

    def run(self, items: Sequence[Item]) -> Outputs:
        requests = [
            GenerateRequest(
                prompt_ids=item.prompt, max_tokens=item.new, ignore_eos=True, logprobs=self._logprobs
            )
            for item in items
        ]
        return [list(completion.token_ids) for completion in self.complete(requests)]

    def complete(self, requests: Sequence[GenerateRequest]) -> list[Completion]:
        async def all_at_once() -> list[Completion]:
            streams = [self.model.generate(request) for request in requests]
            return list(await asyncio.gather(*(stream.completion() for stream in streams)))

        return self._loop.run_until_complete(all_at_once())

    def close(self) -> None:
        self._loop.run_until_complete(self.model.aclose())
        self._loop.close()


def load_engine(folder: Path, dtype: str) -> LoadedEngine:
    """Through the registered backend, as any user's model."""
    from lmql_backends.transformers import BACKEND

    loaded = BACKEND.load(str(folder), LoadOptions(device="cpu", dtype=dtype))
    if not isinstance(loaded, LoadedEngine):
        raise TypeError(f"the backend gave a {type(loaded).__name__}")
    return loaded


def load_ours(folder: Path, dtype: str) -> Ours:
    return Ours(load_engine(folder, dtype))
