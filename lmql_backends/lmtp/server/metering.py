"""Models that count and log what is asked of them, whichever protocol asks."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager

from dcmodel.adapters import AdapterInfo
from dcmodel.constraints.mask_answers import Answer
from dcmodel.errors import DcModelError
from dcmodel.llm import LLM
from dcmodel.model import DcModel, GenerateStream
from dcmodel.session import Session
from dcmodel.types import Completion, GenerateRequest, NextTokens, ScoreRequest, ScoreResult, TokenStep
from lmql_backends.lmtp.protocol.errors import code_of
from lmql_backends.lmtp.server.contracts import Models, ModelState, ServedModel
from lmql_backends.lmtp.server.metrics import Metrics, ModelMetrics

logger = logging.getLogger("lmql_backends.lmtp.requests")
"""One line for each request that ended."""

Clock = Callable[[], float]


class MeteredModels(Models):
    """The same models under the same names, each behind a `MeteredModel`."""

    def __init__(self, models: Models, metrics: Metrics, clock: Clock = time.monotonic) -> None:
        self._models = models
        self._metrics = metrics
        self._clock = clock
        self._metered: dict[str, ServedModel] = {}

    def names(self) -> Sequence[str]:
        return self._models.names()

    def adapters(self, name: str) -> Sequence[str]:
        return self._models.adapters(name)

    def state(self, name: str) -> ModelState:
        return self._models.state(name)

    def context(self, name: str) -> int | None:
        return self._models.context(name)

    def use(self, name: str) -> AbstractAsyncContextManager[ServedModel]:
        return self._use(name)

    @asynccontextmanager
    async def _use(self, name: str) -> AsyncIterator[ServedModel]:
        async with self._models.use(name) as served:
            metered = self._metered.get(served.name)
            if metered is None or not _is_of(metered.model, served.model):
                meter = Meter(ModelMetrics(self._metrics, served.name), self._clock)
                model = MeteredModel(served.model, meter)
                metered = ServedModel(served.name, model, LLM.from_model(model))
                self._metered[served.name] = metered
            yield metered


class Meter:
    """What is counted of one model, and the line for each request."""

    def __init__(self, metrics: ModelMetrics, clock: Clock) -> None:
        self.metrics = metrics
        self.clock = clock

    def ended(
        self, kind: str, outcome: str, began: float, prompt: int, made: int, first: float | None
    ) -> None:
        """A request ended; times by the clock, counts in tokens."""
        seconds = self.clock() - began
        self.metrics.ended(kind, outcome, seconds)
        self.metrics.prompt_tokens.inc(prompt)
        self.metrics.completion_tokens.inc(made)
        if not logger.isEnabledFor(logging.INFO):
            return
        fields: dict[str, object] = {
            "model": self.metrics.model,
            "kind": kind,
            "outcome": outcome,
            "prompt_tokens": prompt,
            "tokens": made,
            "seconds": round(seconds, 4),
        }
        if first is not None:
            fields["first_token_seconds"] = round(first - began, 4)
        logger.info("request", extra={"fields": fields})

    @contextmanager
    def question(self, kind: str, prompt: int) -> Iterator[None]:
        """Something with one answer."""
        began = self.clock()
        outcome = "ok"
        try:
            yield
        except BaseException as error:
            outcome = _outcome(error)
            raise
        finally:
            self.ended(kind, outcome, began, prompt, 0, None)


class MeteredModel(DcModel):
    """A model and its meter."""

    def __init__(self, model: DcModel, meter: Meter) -> None:
        self.model = model
        self.info = model.info
        self.tokenizer = model.tokenizer
        self.can_heal = model.can_heal
        self._meter = meter

    def generate(self, request: GenerateRequest) -> GenerateStream:
        try:
            stream = self.model.generate(request)
        except DcModelError as error:
            self._meter.ended("generate", _outcome(error), self._meter.clock(), 0, 0, None)
            raise
        return MeteredStream(stream, self._meter, request)

    async def score(self, request: ScoreRequest) -> ScoreResult:
        tokens = len(request.prompt_ids) + sum(map(len, request.continuations))
        with self._meter.question("score", tokens):
            return await self.model.score(request)

    async def next_tokens(
        self,
        prefixes: Sequence[Sequence[int]],
        masks: Sequence[Answer] | None = None,
        k: int | None = None,
        *,
        adapter: str | None = None,
    ) -> list[NextTokens]:
        with self._meter.question("next_tokens", sum(map(len, prefixes))):
            return await self.model.next_tokens(prefixes, masks, k, adapter=adapter)

    async def session(self, request: GenerateRequest) -> Session:
        with self._meter.question("session", len(request.prompt_ids)):
            return await self.model.session(request)

    @property
    def adapters(self) -> tuple[AdapterInfo, ...]:
        return self.model.adapters

    async def mount_adapter(self, name: str, source: str) -> AdapterInfo:
        return await self.model.mount_adapter(name, source)

    async def unmount_adapter(self, name: str) -> None:
        await self.model.unmount_adapter(name)

    async def aclose(self) -> None:
        await self.model.aclose()


class MeteredStream(GenerateStream):
    """A stream and its meter; ends once, however it ends."""

    def __init__(self, stream: GenerateStream, meter: Meter, request: GenerateRequest) -> None:
        self._stream = stream
        self._meter = meter
        self._prompt = len(request.prompt_ids)
        self._resumed = len(request.resumed)
        self._began = meter.clock()
        self._first: float | None = None
        self._tokens = 0
        self._has_ended = False
        meter.metrics.running.inc()
        meter.metrics.waiting.inc()

    async def __anext__(self) -> TokenStep:
        try:
            step = await self._stream.__anext__()
        except StopAsyncIteration:
            raise
        except BaseException as error:
            self._end(_outcome(error))
            raise
        self._count(1, step)
        return step

    async def completion(self) -> Completion:
        try:
            completion = await self._stream.completion()
        except BaseException as error:
            self._end(_outcome(error))
            raise
        self._tokens = max(self._tokens, completion.usage.completion_tokens - self._resumed)
        self._end(completion.finish_reason.value)
        return completion

    def cancel(self) -> None:
        self._stream.cancel()
        self._end("cancelled")

    def watch(self, news: Callable[[], None]) -> bool:
        return self._stream.watch(news)

    def ready(self, limit: int | None = None) -> list[TokenStep]:
        steps = self._stream.ready(limit)
        if steps:
            self._count(len(steps), steps[-1])
        return steps

    @property
    def is_exhausted(self) -> bool:
        return self._stream.is_exhausted

    def __del__(self) -> None:
        self._end("cancelled")

    def _count(self, steps: int, last: TokenStep) -> None:
        self._tokens += steps
        if self._first is None:
            self._first = self._meter.clock()
            self._meter.metrics.waiting.dec()
            self._meter.metrics.first_token.observe(self._first - self._began)
        if last.finish_reason is not None:
            self._end(last.finish_reason.value)

    def _end(self, outcome: str) -> None:
        if self._has_ended:
            return
        self._has_ended = True
        self._meter.metrics.running.dec()
        if self._first is None:
            self._meter.metrics.waiting.dec()
        self._meter.ended("generate", outcome, self._began, self._prompt, self._tokens, self._first)


def _is_of(metered: DcModel, model: DcModel) -> bool:
    """Whether it is that very model, and not one loaded earlier under its name."""
    return isinstance(metered, MeteredModel) and metered.model is model


def _outcome(error: BaseException) -> str:
    if isinstance(error, DcModelError):
        return code_of(type(error))
    return "cancelled" if isinstance(error, asyncio.CancelledError | GeneratorExit) else "internal_error"
