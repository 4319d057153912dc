"""`LocalDcModel`: an engine under a scheduler, as a `DcModel`."""

from __future__ import annotations

import asyncio
import functools
import secrets
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from dcmodel.backend import LoadedEngine
from dcmodel.constraints import ConstraintCache, watch_stops
from dcmodel.constraints.mask_function import caller_loop
from dcmodel.errors import ContextLengthError, DcModelError
from dcmodel.local.matching import MatcherMaker
from dcmodel.local.stream import LocalStream
from dcmodel.mask import check_token_ids
from dcmodel.model import DcModel
from dcmodel.scheduling.scheduler import Scheduler
from dcmodel.scheduling.sequence import Sequence, Status
from dcmodel.types import (
    GenerateRequest,
    SamplingParams,
    ScoredContinuation,
    ScoreRequest,
    ScoreResult,
    TopLogprob,
    Usage,
)

# Compiling runs outside the interpreter's lock: one rule that takes long holds up no other.
COMPILE_WORKERS = 16


class LocalDcModel(DcModel):
    """Generates and scores on one engine. Constraints compile on threads of their own, once each."""

    can_heal = True

    def __init__(self, loaded: LoadedEngine, *, constraints: ConstraintCache | None = None) -> None:
        self.info = loaded.info
        self.tokenizer = loaded.tokenizer
        self._vocab_size = loaded.engine.capabilities.vocab_size
        self._max_positions = loaded.engine.capabilities.max_positions
        self._matchers = MatcherMaker(self.tokenizer, constraints or ConstraintCache())
        self._compilers = ThreadPoolExecutor(COMPILE_WORKERS, thread_name_prefix="dcmodel-compile")
        self._scheduler = Scheduler(loaded.engine, self.tokenizer.vocab_size)

    def generate(self, request: GenerateRequest) -> LocalStream:
        self._check_prompt(request.prompt_ids)
        self._check_ids(tuple(request.sampling.logit_bias), "logit_bias token id")
        stream = LocalStream(request, self.tokenizer, self._scheduler)
        if self._matchers.is_ready(request):
            self._start(stream, request)
        else:
            self._compile_and_start(stream, request)
        return stream

    async def score(self, request: ScoreRequest) -> ScoreResult:
        for continuation in request.continuations:
            self._check_prompt(request.prompt_ids, len(continuation) - 1)
            self._check_ids(continuation, "continuation token id")
        self._check_ids(request.prompt_ids, "prompt token id")
        sequences = [self._given(request, continuation) for continuation in request.continuations]
        await self._run(sequences)
        for sequence in sequences:
            if sequence.error is not None:
                raise sequence.error
        return ScoreResult(
            continuations=tuple(_scored(sequence) for sequence in sequences),
            usage=Usage(
                prompt_tokens=len(request.prompt_ids),
                cached_tokens=sequences[0].cached_tokens,
                completion_tokens=sum(map(len, request.continuations)),
                forced_tokens=0,
            ),
        )

    async def aclose(self) -> None:
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, self._scheduler.close)
        self._compilers.shutdown(wait=False, cancel_futures=True)

    # -- from requests to sequences ----------------------------------------------------------------

    def _compile_and_start(self, stream: LocalStream, request: GenerateRequest) -> None:
        """Compiling never blocks the caller's loop nor a running batch."""
        loop = asyncio.get_running_loop()
        future = loop.run_in_executor(self._compilers, functools.partial(self._sequence, request, loop))

        def start(done: asyncio.Future[Sequence]) -> None:
            error = done.exception() if not done.cancelled() else asyncio.CancelledError()
            if error is None:
                stream.start(done.result())
            elif isinstance(error, DcModelError):
                stream.fail(error)
            else:
                stream.fail(DcModelError(f"the request could not be started: {error!r}."))

        future.add_done_callback(start)

    def _start(self, stream: LocalStream, request: GenerateRequest) -> None:
        try:
            sequence = self._sequence(request, asyncio.get_running_loop())
        except DcModelError as error:
            stream.fail(error)
        else:
            stream.start(sequence)

    def _sequence(self, request: GenerateRequest, loop: asyncio.AbstractEventLoop) -> Sequence:
        caller_loop.set(loop)
        limit = len(request.prompt_ids) + request.max_tokens
        stop = None
        if request.stop:
            skip = len(request.healed.encode())
            stop = watch_stops(request.stop, self.tokenizer, include=request.include_stop, skip=skip)
        return Sequence(
            request.prompt_ids,
            sampling=request.sampling,
            seed=secrets.randbits(64) if request.sampling.seed is None else request.sampling.seed,
            limit=min(limit, self._max_positions),
            limit_reason="max_tokens" if limit <= self._max_positions else "context",
            eos_token_ids=frozenset() if request.ignore_eos else frozenset(self.tokenizer.eos_token_ids),
            matcher=self._matchers.matcher(request),
            stop=stop,
            want_logprobs=request.logprobs or request.top_logprobs > 0,
            top_logprobs=request.top_logprobs,
        )

    def _given(self, request: ScoreRequest, continuation: tuple[int, ...]) -> Sequence:
        return Sequence(
            request.prompt_ids,
            sampling=SamplingParams(),
            seed=0,
            limit=len(request.prompt_ids) + len(continuation),
            top_logprobs=request.top_logprobs,
            given=continuation,
        )

    async def _run(self, sequences: list[Sequence]) -> None:
        """Wait until all are finished; if the caller goes away, they are cancelled."""
        loop = asyncio.get_running_loop()
        news = asyncio.Event()
        for sequence in sequences:
            sequence.loop = loop
            sequence.notify = news.set
        try:
            self._scheduler.submit(sequences)
            while any(sequence.status is not Status.FINISHED for sequence in sequences):
                await news.wait()
                news.clear()
        except asyncio.CancelledError:
            for sequence in sequences:
                self._scheduler.cancel(sequence)
            raise

    def _check_prompt(self, prompt_ids: tuple[int, ...], more: int = 0) -> None:
        self._check_ids(prompt_ids, "prompt token id")
        length = len(prompt_ids) + more
        if length >= self._max_positions + (more > 0):
            raise ContextLengthError(
                f"the prompt of {len(prompt_ids)} tokens does not fit the context of {self._max_positions}"
                + (f" with a continuation of {more + 1}." if more else " with room for an answer."),
                remedy="Shorten it, or use a model with a longer context.",
            )

    def _check_ids(self, ids: tuple[int, ...], what: str) -> None:
        check_token_ids(np.asarray(ids, dtype=np.int64), self._vocab_size, what=what)


def _scored(sequence: Sequence) -> ScoredContinuation:
    tops = [record[3] for record in sequence.records]
    return ScoredContinuation(
        token_ids=tuple(sequence.token_ids[sequence.prompt_length :]),
        logprobs=tuple(record[0] for record in sequence.records),
        ranks=tuple(sequence.ranks),
        top_logprobs=tuple(
            tuple(TopLogprob(token_id, logprob) for token_id, logprob in zip(*top, strict=True))
            for top in tops
            if top is not None
        ),
    )
