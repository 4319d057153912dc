"""`BalancedStream`: one request's stream, which goes on elsewhere when its worker is lost."""

from __future__ import annotations

import asyncio
import dataclasses
import secrets
from collections.abc import Callable
from weakref import WeakMethod

from dcmodel.errors import ConnectionLostError, DcModelError, OverloadedError
from dcmodel.local.text import TextAssembler
from dcmodel.model import GenerateStream
from dcmodel.types import (
    Certificate,
    Completion,
    FinishReason,
    GenerateRequest,
    TokenLogprobs,
    TokenStep,
    Usage,
)
from dctokenizers import Tokenizer
from lmql_backends.lmtp.balancer.admission import Ticket
from lmql_backends.lmtp.balancer.attempts import Attempts, RetryBudget, is_loss
from lmql_backends.lmtp.balancer.pool import Pool
from lmql_backends.lmtp.balancer.worker import Flight

SEED_BITS = 63


class BalancedStream(GenerateStream, Ticket):
    """Reads the stream of a worker; what has arrived is kept, so that another one can go on behind it."""

    def __init__(self, request: GenerateRequest, pool: Pool, tokenizer: Tokenizer) -> None:
        self._request = with_seed(request)
        self._pool = pool
        self._tokenizer = tokenizer
        self._attempts = Attempts(pool.settings)
        self._news = asyncio.Event()
        self._watcher: Callable[[], None] | None = None
        self._concluding: asyncio.Task[None] | None = None
        self._inner: GenerateStream | None = None
        self._flight: Flight | None = None
        self._steps: list[TokenStep] = []
        self._here = 0
        """How many of them came from this worker."""
        self._retries = 0
        self._cancelled = False
        self._result: Completion | None = None
        self.error: DcModelError | None = None
        self.excluded = self._attempts.excluded
        self.work = pool.router.work(
            request.prompt_ids, request.max_tokens - len(request.resumed), request.adapter
        )
        self._is_active = True
        pool.budget.active += 1
        pool.admission.enter(self)

    # -- the reader's side -------------------------------------------------------------------------

    async def __anext__(self) -> TokenStep:
        while True:
            if self.error is not None:
                raise self.error
            if self._result is not None:
                raise StopAsyncIteration
            if self._inner is None or self._flight is None:
                self._news.clear()
                await self._news.wait()
                continue
            if (step := await self._advance()) is not None:
                return step

    async def completion(self) -> Completion:
        try:
            async for _ in self:
                pass
        except asyncio.CancelledError:
            self.cancel()
            raise
        assert self._result is not None
        return self._result

    def cancel(self) -> None:
        if self._cancelled or not self._is_active:
            return
        self._cancelled = True
        if self._inner is not None:
            self._inner.cancel()
        else:
            self._pool.admission.withdraw(self)
            self._end(self._cut_short())

    def __del__(self) -> None:
        # Perhaps in another thread; the pool belongs to its loop.
        if getattr(self, "_is_active", False) and not self._pool.loop.is_closed():
            if self._inner is not None:
                self._inner.cancel()
            budget, flight, retries = self._pool.budget, self._flight, self._retries
            self._pool.loop.call_soon_threadsafe(_dropped, budget, flight, retries)

    # -- the reader's side, without a task ---------------------------------------------------------

    def watch(self, news: Callable[[], None]) -> bool:
        if self._inner is not None and not self._inner.watch(news):
            return False
        self._watcher = news
        self._watch_flight()
        if self._inner is None:
            news()
        return True

    def ready(self, limit: int | None = None) -> list[TokenStep]:
        if self._inner is None or self._watcher is None or self._concluding is not None:
            return []
        steps = self._inner.ready(limit)
        for step in steps:
            self._took(step)
        if self._inner.is_exhausted:
            self._concluding = self._pool.loop.create_task(self._conclude())
        return steps

    @property
    def is_exhausted(self) -> bool:
        return self._result is not None or self.error is not None

    async def _conclude(self) -> None:
        """A watched stream of a worker is at its end: by a result, an error, or the worker's loss."""
        try:
            await self._advance()
        finally:
            self._concluding = None
            self._tell()

    def _watch_flight(self) -> None:
        if self._flight is not None:
            self._flight.on_interrupt = WeakMethod(self._interrupted)

    def _interrupted(self) -> None:
        """The worker was given up while nobody waited for it."""
        if self._flight is not None and self._flight.lost is not None and self._concluding is None:
            self._failed(self._flight.lost)
            self._tell()

    def _tell(self) -> None:
        self._news.set()
        if self._watcher is not None:
            self._watcher()

    # -- what comes from the worker ----------------------------------------------------------------

    async def _advance(self) -> TokenStep | None:
        """The next token, or None: there was the end, or a loss."""
        inner, flight = self._inner, self._flight
        assert inner is not None
        assert flight is not None
        try:
            with flight:
                step = await self._read(inner)
        except DcModelError as error:
            self._failed(error)
            return None
        except ConnectionError as error:
            self._failed(ConnectionLostError(f"the worker is gone: {error!r}."))
            return None
        if step is not None:
            self._took(step)
        return step

    async def _read(self, inner: GenerateStream) -> TokenStep | None:
        """The next token; None at the end, when the result is there."""
        try:
            return await inner.__anext__()
        except StopAsyncIteration:
            pass
        completion = await inner.completion()
        if completion.finish_reason is FinishReason.CANCELLED and not self._cancelled:
            raise ConnectionLostError("the worker ended the request.")
        self._end(self._whole(completion))
        return None

    def _took(self, step: TokenStep) -> None:
        assert self._flight is not None
        self._flight.progress(self._pool.loop.time())
        self._steps.append(step)
        self._here += 1
        if self._retries:
            self._pool.budget.give_back(self._retries)
            self._retries = 0

    # -- the pool's side ---------------------------------------------------------------------------

    def start(self, flight: Flight) -> None:
        self._flight, self._here = flight, 0
        received = tuple(step.token_id for step in self._steps)
        request = self._request
        if received:
            request = dataclasses.replace(request, resumed=(*request.resumed, *received))
        try:
            self._inner = flight.model.generate(request)
        except DcModelError as error:
            self._failed(error)
        if self._watcher is not None and self._inner is not None:
            self._watch_flight()
            was_watched = self._inner.watch(self._watcher)
            assert was_watched, "the workers of a pool are of one kind"
        self._tell()

    def refuse(self, error: DcModelError) -> None:
        self._end(self._cut_short() if self._cancelled else error)

    # -- when something goes wrong -----------------------------------------------------------------

    def _failed(self, error: DcModelError) -> None:
        """The worker's stream ended by an error: the request's own, or the worker's."""
        inner, flight, here = self._inner, self._flight, self._here
        assert flight is not None
        was_lost = is_loss(error)
        self._inner = self._flight = None
        if inner is not None:
            inner.cancel()  # the worker may live on, and its place is wanted
        flight.end()
        if was_lost:
            self._pool.report(flight, error)
            self._lost(flight, error, here)
        elif isinstance(error, OverloadedError):
            self._turned_away(flight, error, here)
        else:
            self._end(error)

    def _lost(self, flight: Flight, error: DcModelError, here: int) -> None:
        final = self._attempts.lost(flight, error, new_tokens=here)
        self.resume_by = None
        if self._cancelled:
            self._end(self._cut_short())
        elif final is not None:
            self._end(final)
        else:
            self._go_on()

    def _turned_away(self, flight: Flight, error: OverloadedError, here: int) -> None:
        """The worker takes nothing now, or ends what it has: another one may go on."""
        self._pool.admission.rest(flight.worker, error.retry_after or self._pool.settings.retry_after)
        if here:
            self.resume_by = None
        if here or self.resume_by is not None:
            self._go_on()
            return
        self._attempts.excluded.add(flight.worker)
        if self._pool.budget.take():
            self._retries += 1
            self._pool.admission.enter(self)
        else:
            self._end(error)

    def _go_on(self) -> None:
        if self.resume_by is None:
            self.resume_by = self._pool.loop.time() + self._pool.settings.resume_seconds
        self._attempts.excluded.clear()
        request = self._request
        done = len(request.resumed) + len(self._steps)
        prompt = (*request.prompt_ids, *request.resumed, *(step.token_id for step in self._steps))
        self.work = self._pool.router.work(prompt, max(request.max_tokens - done, 0), request.adapter)
        self._pool.admission.enter(self)

    # -- the end -----------------------------------------------------------------------------------

    def _end(self, end: Completion | DcModelError) -> None:
        if isinstance(end, Completion):
            self._result = end
        else:
            self.error = end
        if self._flight is not None:
            self._flight.end()
            if isinstance(end, Completion):
                token_ids = (*self._request.prompt_ids, *end.token_ids)
                self._pool.router.landed(self._flight, token_ids, self._request.adapter)
        self._inner = self._flight = None
        if self._is_active:
            self._is_active = False
            self._pool.budget.active -= 1
            self._pool.budget.give_back(self._retries)
            self._retries = 0
        self._tell()

    def _whole(self, completion: Completion) -> Completion:
        """The last worker knows nothing of the log-probabilities that came from those before it."""
        if completion.logprobs is None or self._here == len(self._steps):
            return completion
        start = len(self._request.resumed)
        known = [step.logprobs or UNKNOWN for step in self._steps[: len(self._steps) - self._here]]
        merged = [*completion.logprobs]
        merged[start : start + len(known)] = known
        return dataclasses.replace(completion, logprobs=tuple(merged))

    def _cut_short(self) -> Completion:
        """What there is of a request that was cancelled while no worker had it."""
        request, steps = self._request, self._steps
        token_ids = (*request.resumed, *(step.token_id for step in steps))
        unknown = len(request.resumed)
        logprobs = (*[UNKNOWN] * unknown, *(step.logprobs or UNKNOWN for step in steps))
        forced = (*[False] * unknown, *(step.forced for step in steps))
        return Completion(
            text=self._text_of(request.resumed) + "".join(step.text for step in steps),
            token_ids=token_ids,
            finish_reason=FinishReason.CANCELLED,
            stop_reason="cancelled",
            logprobs=logprobs if request.logprobs or request.top_logprobs else None,
            forced=forced,
            usage=Usage(
                prompt_tokens=len(request.prompt_ids),
                cached_tokens=0,
                completion_tokens=len(token_ids),
                forced_tokens=sum(forced),
            ),
            certificate=Certificate(valid=None if request.constraint is None else False, exact=True),
            healed=request.healed,
        )

    def _text_of(self, resumed: tuple[int, ...]) -> str:
        """Nobody but the caller has seen the text of these: it is made anew."""
        assembler = TextAssembler(self._tokenizer, skip=len(self._request.healed.encode()))
        return "".join(assembler.push(token_id, None) for token_id in resumed)


UNKNOWN = TokenLogprobs(raw_logprob=float("nan"), masked_logprob=float("nan"), log_mass=float("nan"))


def with_seed(request: GenerateRequest) -> GenerateRequest:
    """The same request with a seed: whoever goes on with it draws the numbers that would have come."""
    sampling = request.sampling
    if sampling.seed is not None:
        return request
    fixed = dataclasses.replace(sampling, seed=secrets.randbits(SEED_BITS))
    return dataclasses.replace(request, sampling=fixed)


def _dropped(budget: RetryBudget, flight: Flight | None, retries: int) -> None:
    """A stream that nobody holds any more has left."""
    budget.active -= 1
    budget.give_back(retries)
    if flight is not None:
        flight.end()
