"""`BalancedSession`: a session that stays with its worker, and moves to another when that one is lost."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from dcmodel.constraints.mask_answers import Answer
from dcmodel.errors import ConnectionLostError, DcModelError, InvalidRequestError
from dcmodel.model import DcModel
from dcmodel.session import Session
from dcmodel.types import (
    Completion,
    FinishReason,
    GenerateRequest,
    NextTokens,
    SamplingParams,
    TokenLogprobs,
    TokenStep,
)
from lmql_backends.lmtp.balancer.attempts import Attempts, is_loss
from lmql_backends.lmtp.balancer.pool import Pool
from lmql_backends.lmtp.balancer.question import Question
from lmql_backends.lmtp.balancer.worker import Flight, Worker, WorkerState

T = TypeVar("T")


class BalancedSession(Session):
    """The worker's session does the work; kept beside it is what another worker needs to be in its place:
    the request with its seed, the way of forks that led here, and which tokens were forced."""

    def __init__(
        self,
        pool: Pool,
        request: GenerateRequest,
        inner: Session,
        worker: Worker,
        model: DcModel,
        path: tuple[int, ...] = (),
        forced: Sequence[bool] = (),
    ) -> None:
        """`request`: with a seed. `path`: the numbers of the forks from the first session to this one.
        `forced`: of the tokens that `inner` has already."""
        self.prompt_ids = request.prompt_ids
        self._pool = pool
        self._request = request
        self._inner = inner
        self._worker = worker
        self._model = model
        self._path = path
        self._forks = 0
        self._forced = list(forced)

    # -- the text ----------------------------------------------------------------------------------

    @property
    def token_ids(self) -> tuple[int, ...]:
        return self._inner.token_ids

    @property
    def token_logprobs(self) -> tuple[float, ...]:
        return self._inner.token_logprobs

    def known(self, start: int) -> tuple[TokenLogprobs, ...]:
        return self._inner.known(start)

    @property
    def raw_logprob(self) -> float:
        return self._inner.raw_logprob

    @property
    def text(self) -> str:
        return self._inner.text

    @property
    def max_tokens(self) -> int:
        return self._inner.max_tokens

    @property
    def is_finished(self) -> bool:
        return self._inner.is_finished

    @property
    def is_accepting(self) -> bool:
        return self._inner.is_accepting

    @property
    def is_exact(self) -> bool:
        return self._inner.is_exact

    def forced(self) -> list[int]:
        return self._inner.forced()

    # -- changing it -------------------------------------------------------------------------------

    def append(
        self,
        token_ids: Sequence[int],
        *,
        logprobs: Sequence[TokenLogprobs] | None = None,
        forced: bool = False,
    ) -> None:
        self._inner.append(token_ids, logprobs=logprobs, forced=forced)
        self._note(forced)

    def rollback(self, count: int) -> None:
        self._inner.rollback(count)
        self._note()

    def fork(self) -> BalancedSession:
        inner = self._inner.fork()
        self._forks += 1
        return BalancedSession(
            self._pool,
            self._request,
            inner,
            self._worker,
            self._model,
            (*self._path, self._forks),
            self._forced,
        )

    # -- asking the model --------------------------------------------------------------------------

    async def step(
        self, mask: Answer = None, *, sampling: SamplingParams | None = None, attempt: int = 0
    ) -> TokenStep:
        step = await self._ask(lambda inner: inner.step(mask, sampling=sampling, attempt=attempt))
        self._note()
        return step

    async def logprobs(self, mask: Answer = None, *, k: int | None = None) -> NextTokens:
        return await self._ask(lambda inner: inner.logprobs(mask, k=k))

    async def settle(self) -> None:
        await self._ask(lambda inner: inner.settle())

    def completion(self, reason: FinishReason | None = None) -> Completion:
        return self._inner.completion(reason)

    # -- where it lives ----------------------------------------------------------------------------

    async def _ask(self, call: Callable[[Session], Awaitable[T]]) -> T:
        """Ask the worker; if it is lost, go to another one and ask again."""
        attempts = Attempts(self._pool.settings)
        if not self._is_at_home():
            await self._move(attempts)
        while True:
            flight = self._worker.fly(1)
            try:
                with flight:
                    answer = await call(self._inner)
                self._worker.last_sign = self._pool.loop.time()
                return answer
            except DcModelError as error:
                if not is_loss(error):
                    raise
                self._pool.report(flight, error)
                if (final := attempts.lost(flight, error)) is not None:
                    raise final from error
            finally:
                flight.end()
            await self._move(attempts)

    def _is_at_home(self) -> bool:
        """Whether the worker still has this session, and nothing speaks against it."""
        return self._worker.model is self._model and self._worker.state is WorkerState.READY

    async def _move(self, attempts: Attempts) -> None:
        """Become a session of another worker, in the same state."""
        lost = self._inner
        tokens = lost.token_ids
        known = lost.known(0)

        async def build(flight: Flight) -> tuple[Session, Flight]:
            inner = await flight.model.session(self._request)
            return walked(inner, self._path, self._forks), flight

        work = self._pool.router.work(
            (*self.prompt_ids, *tokens), lost.max_tokens - len(tokens), self._request.adapter
        )
        question = Question(self._pool, work, attempts)
        question.resume_by = self._pool.loop.time() + self._pool.settings.resume_seconds
        inner, flight = await question.ask(build)
        try:
            for start, end in runs(self._forced, len(known)):
                inner.append(
                    tokens[start:end],
                    logprobs=known[start:end] if start < len(known) else None,
                    forced=self._forced[start],
                )
        except InvalidRequestError as error:
            raise ConnectionLostError(
                f"the session's worker was lost, and its text cannot be made anew on another: {error}",
                remedy="Open a new session.",
            ) from error
        self._inner, self._worker, self._model = inner, flight.worker, flight.model

    def _note(self, forced: bool = False) -> None:
        """The text has another length now."""
        length = len(self._inner.token_ids)
        del self._forced[length:]
        self._forced.extend([forced] * (length - len(self._forced)))


def walked(session: Session, path: Sequence[int], forks: int) -> Session:
    """The session that a way of forks leads to, which has made so many forks itself: their random numbers
    follow from that."""
    for number in path:
        for _ in range(number - 1):
            session.fork()
        session = session.fork()
    for _ in range(forks):
        session.fork()
    return session


def runs(forced: Sequence[bool], known: int) -> list[tuple[int, int]]:
    """Stretches of tokens that are alike: forced or not, with log-probabilities (the first `known`) or
    without."""
    borders = [0]
    for place in range(1, len(forced)):
        if forced[place] != forced[place - 1] or place == known:
            borders.append(place)
    return [*zip(borders, [*borders[1:], len(forced)], strict=True)] if forced else []
