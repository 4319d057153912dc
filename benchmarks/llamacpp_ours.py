"""dcmodel on a GGUF model, with a clock at `llama_decode`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from benchmarks.llamacpp_setting import Setting
from benchmarks.metered import MeteredEngine
from benchmarks.score_workloads import ScoreTask
from benchmarks.workloads import Item
from dcmodel.backend import LoadedEngine
from dcmodel.local import LocalDcModel
from dcmodel.types import Completion, GenerateRequest, ScoreRequest
from lmql_backends.llama_cpp import BACKEND
from lmql_backends.llama_cpp.engine import LlamaCppEngine


class TimedBindings:
    """The library's functions; wall and CPU time of `llama_decode` are added up."""

    def __init__(self, bindings: Any) -> None:
        self._bindings = bindings
        self.reset()

    def reset(self) -> None:
        self.calls = 0
        self.wall = 0.0
        self.thread = 0.0
        """CPU time of the calling thread, which computes as one of the library's threads."""

    def llama_decode(self, context: Any, batch: Any) -> int:
        begin, begin_thread = time.perf_counter(), time.thread_time()
        code: int = self._bindings.llama_decode(context, batch)
        self.wall += time.perf_counter() - begin
        self.thread += time.thread_time() - begin_thread
        self.calls += 1
        return code

    def __getattr__(self, name: str) -> Any:
        return getattr(self._bindings, name)


class Ours:
    """`LocalDcModel` on the llama_cpp backend, all requests handed in at once."""

    name = "dcmodel"

    def __init__(self, setting: Setting) -> None:
        loaded = BACKEND.load(str(setting.path), setting.options)
        if not isinstance(loaded, LoadedEngine) or not isinstance(loaded.engine, LlamaCppEngine):
            raise TypeError(f"the backend gave a {type(loaded).__name__}")
        buffers = loaded.engine._context._buffers
        self.decodes = TimedBindings(buffers._c)
        buffers._c = self.decodes
        self.meter = MeteredEngine(loaded.engine)
        self.tokenizer = loaded.tokenizer
        self._model = LocalDcModel(
            LoadedEngine(engine=self.meter, tokenizer=loaded.tokenizer, info=loaded.info)
        )
        self._loop = asyncio.new_event_loop()

    def reset(self) -> None:
        """Begin to count anew."""
        self.meter.reset()
        self.decodes.reset()

    def run(self, items: Sequence[Item]) -> list[list[int]]:
        """Greedily, past any end of the text."""
        requests = [
            GenerateRequest(prompt_ids=item.prompt, max_tokens=item.new, ignore_eos=True, logprobs=False)
            for item in items
        ]
        return [list(completion.token_ids) for completion in self.complete(requests)]

    def complete(self, requests: Sequence[GenerateRequest]) -> list[Completion]:
        async def all_at_once() -> list[Completion]:
            streams = [self._model.generate(request) for request in requests]
            return list(await asyncio.gather(*(stream.completion() for stream in streams)))

        return self._loop.run_until_complete(all_at_once())

    def score(self, task: ScoreTask) -> list[float]:
        request = ScoreRequest(prompt_ids=task.prompt, continuations=task.continuations)
        result = self._loop.run_until_complete(self._model.score(request))
        return [item.logprob for item in result.continuations]

    def warm(self, task: ScoreTask) -> None:
        """Have the prompt in the cache, and nothing of the candidates."""
        self.score(ScoreTask(task.prompt, ((1,),)))

    def close(self) -> None:
        self._loop.run_until_complete(self._model.aclose())
        self._loop.close()
