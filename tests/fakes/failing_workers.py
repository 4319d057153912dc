"""Workers that are killed, hang, slow down or refuse on demand, for tests of a balancer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from dcmodel.errors import ConnectionLostError, ModelClosedError, OverloadedError
from dcmodel.model import DcModel, GenerateStream
from dcmodel.types import (
    Certificate,
    Completion,
    FinishReason,
    GenerateRequest,
    ModelInfo,
    ScoredContinuation,
    ScoreResult,
    TokenLogprobs,
    TokenStep,
    Usage,
)

T = TypeVar("T")


class FailingWorker:
    """A process, as far as a balancer can tell."""

    def __init__(self, model: DcModel) -> None:
        self.model = model
        self.is_dead = False
        self.is_refusing = False
        self.awake = asyncio.Event()
        self.awake.set()
        self.links: set[Link] = set()
        self.deadly_token: int | None = None
        """A prompt that holds it kills the worker."""
        self.begun: list[GenerateRequest] = []

    def kill(self) -> None:
        self.is_dead = True
        for link in list(self.links):
            link.cut(ConnectionLostError("the connection was reset."))

    def restart(self) -> None:
        self.is_dead = False
        self.awake.set()

    def hang(self) -> None:
        self.awake.clear()

    def wake(self) -> None:
        self.awake.set()


class Site:
    """Workers by address; `connect` and `probe` are what a pool needs."""

    def __init__(self) -> None:
        self.workers: dict[str, FailingWorker] = {}

    def add(self, address: str, model: DcModel) -> FailingWorker:
        self.workers[address] = FailingWorker(model)
        return self.workers[address]

    async def connect(self, address: str, membership) -> Link:
        worker = self.workers.get(address)
        if worker is None or worker.is_dead:
            raise ConnectionRefusedError(f"nobody listens at {address}")
        await worker.awake.wait()
        return Link(worker, membership)

    async def probe(self, link: DcModel) -> None:
        assert isinstance(link, Link)

        async def nothing() -> None:
            return None

        await link.guarded(nothing)


class Link(DcModel):
    """A client's end of a connection to a worker."""

    def __init__(self, worker: FailingWorker, membership) -> None:
        self.worker = worker
        self.info = worker.model.info
        self.tokenizer = worker.model.tokenizer
        self._membership = membership
        self._error: Exception | None = None
        self._waits: set[asyncio.Timeout] = set()
        worker.links.add(self)

    def cut(self, error: Exception) -> None:
        self.worker.links.discard(self)
        if self._error is None:
            self._error = error
            if not isinstance(error, ModelClosedError):
                self._membership.lost()
            for scope in self._waits:
                scope.reschedule(asyncio.get_running_loop().time())

    async def guarded(self, call: Callable[[], Awaitable[T]]) -> T:
        """What the worker answers; an error as soon as the connection is gone."""

        if self._error is not None:
            raise self._error
        scope = asyncio.timeout(None)
        self._waits.add(scope)
        try:
            async with scope:
                await self.worker.awake.wait()
                result = await call()
                await self.worker.awake.wait()
                return result
        except TimeoutError:
            if not scope.expired():
                raise
            raise self._error from None
        finally:
            self._waits.discard(scope)

    def generate(self, request: GenerateRequest) -> LinkStream:
        return LinkStream(self, request)

    async def score(self, request):
        self.refuse_if_asked()
        return await self.guarded(lambda: self.worker.model.score(request))

    async def next_tokens(self, prefixes, masks=None, k=None, *, adapter=None):
        return await self.guarded(lambda: self.worker.model.next_tokens(prefixes, masks, k))

    async def session(self, request):
        from fakes.failing_sessions import LinkSession

        return LinkSession(self, await self.guarded(lambda: self.worker.model.session(request)))

    def refuse_if_asked(self) -> None:
        if self.worker.is_refusing:
            raise OverloadedError("the queue is full.", retry_after=0.5)

    async def aclose(self) -> None:
        self.cut(ModelClosedError("the model was closed."))


class LinkStream(GenerateStream):
    def __init__(self, link: Link, request: GenerateRequest) -> None:
        self._link = link
        self._request = request
        self._inner: GenerateStream | None = None
        self._cancelled = False

    async def _next(self) -> TokenStep:
        worker = self._link.worker
        if self._inner is None:
            self._link.refuse_if_asked()
            worker.begun.append(self._request)
            if worker.deadly_token in self._request.prompt_ids:
                worker.kill()
                await asyncio.Event().wait()
            self._inner = worker.model.generate(self._request)
            if self._cancelled:
                self._inner.cancel()
        return await self._inner.__anext__()

    async def __anext__(self) -> TokenStep:
        # A StopAsyncIteration cannot leave a task.
        async def step() -> TokenStep | None:
            try:
                return await self._next()
            except StopAsyncIteration:
                return None

        found = await self._link.guarded(step)
        if found is None:
            raise StopAsyncIteration
        return found

    async def completion(self) -> Completion:
        assert self._inner is not None
        return await self._link.guarded(self._inner.completion)

    def cancel(self) -> None:
        self._cancelled = True
        if self._inner is not None:
            self._inner.cancel()

    def __del__(self) -> None:
        self.cancel()


class ClosedFormModel(DcModel):
    """Tokens follow from prompt, seed and place alone; each takes `seconds` of the loop's clock."""

    def __init__(self, tokenizer, *, name: str = "closed", seconds: float = 0.01) -> None:
        self.tokenizer = tokenizer
        self.seconds = seconds
        self.running = 0
        self.info = ModelInfo(
            name=name, backend="closed", vocab_size=tokenizer.vocab_size, max_positions=4096
        )

    def token(self, request: GenerateRequest, place: int) -> int:
        seed = request.sampling.seed if request.sampling.temperature else 0
        return hash((request.prompt_ids, seed, place)) % (self.tokenizer.vocab_size - 2) + 2

    def expected(self, request: GenerateRequest) -> tuple[int, ...]:
        return tuple(self.token(request, place) for place in range(request.max_tokens))

    def generate(self, request: GenerateRequest) -> ClosedFormStream:
        return ClosedFormStream(self, request)

    async def score(self, request):
        await asyncio.sleep(self.seconds)
        scored = tuple(
            ScoredContinuation(
                token_ids=item, logprobs=tuple(-0.5 * token for token in item), ranks=(0,) * len(item)
            )
            for item in request.continuations
        )
        return ScoreResult(continuations=scored, usage=_usage(len(request.prompt_ids), 0))

    async def aclose(self) -> None:
        return


class ClosedFormStream(GenerateStream):
    def __init__(self, model: ClosedFormModel, request: GenerateRequest) -> None:
        self._model = model
        self._request = request
        self._tokens = list(request.resumed)
        self._new: list[TokenStep] = []
        self._cancelled = False
        self._counted = False
        model.running += 1

    async def __anext__(self) -> TokenStep:
        if self._cancelled or len(self._tokens) >= self._request.max_tokens:
            self._leave()
            raise StopAsyncIteration
        await asyncio.sleep(self._model.seconds)
        token_id = self._model.token(self._request, len(self._tokens))
        self._tokens.append(token_id)
        is_last = len(self._tokens) == self._request.max_tokens
        step = TokenStep(
            token_id=token_id,
            text=f"<{token_id}>",
            logprobs=TokenLogprobs(raw_logprob=-token_id, masked_logprob=-token_id, log_mass=0.0),
            finish_reason=FinishReason.LENGTH if is_last else None,
        )
        self._new.append(step)
        return step

    async def completion(self) -> Completion:
        async for _ in self:
            pass
        nan = float("nan")
        unknown = TokenLogprobs(raw_logprob=nan, masked_logprob=nan, log_mass=nan)
        is_whole = len(self._tokens) == self._request.max_tokens
        return Completion(
            text="".join(f"<{token_id}>" for token_id in self._tokens),
            token_ids=tuple(self._tokens),
            finish_reason=FinishReason.LENGTH if is_whole else FinishReason.CANCELLED,
            stop_reason="max_tokens" if is_whole else "cancelled",
            logprobs=(
                *[unknown] * len(self._request.resumed),
                *(step.logprobs or unknown for step in self._new),
            ),
            forced=(False,) * len(self._tokens),
            usage=_usage(len(self._request.prompt_ids), len(self._tokens)),
            certificate=Certificate(valid=None, exact=True),
        )

    def cancel(self) -> None:
        self._cancelled = True
        self._leave()

    def _leave(self) -> None:
        if not self._counted:
            self._counted = True
            self._model.running -= 1

    def __del__(self) -> None:
        self._leave()


def _usage(prompt: int, tokens: int) -> Usage:
    return Usage(prompt_tokens=prompt, cached_tokens=0, completion_tokens=tokens, forced_tokens=0)
