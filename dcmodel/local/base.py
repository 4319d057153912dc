"""`SequenceModel`: what generation and sessions are, whoever runs the sequences."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from collections.abc import Sequence as Seq
from concurrent.futures import ThreadPoolExecutor
from itertools import chain

import numpy as np

from dcmodel.adapters import check_adapter
from dcmodel.constraint import Matcher
from dcmodel.constraints import ConstraintCache, watch_stops
from dcmodel.constraints.mask_answers import Answer
from dcmodel.constraints.mask_function import caller_loop
from dcmodel.errors import ContextLengthError, DcModelError, InvalidRequestError
from dcmodel.local.matching import MatcherMaker
from dcmodel.local.session import LocalSession, checked_mask
from dcmodel.local.stream import LocalStream
from dcmodel.local.turns import Turns
from dcmodel.mask import TokenMask, check_token_ids
from dcmodel.model import DcModel, GenerateStream
from dcmodel.scheduling.bounds import SequenceBounds
from dcmodel.scheduling.mounted import MountedAdapter
from dcmodel.scheduling.runner import SequenceRunner
from dcmodel.scheduling.sequence import Sequence
from dcmodel.scheduling.session_sequence import SessionSequence
from dcmodel.types import GenerateRequest, ModelInfo, ScoreRequest
from dctokenizers import Tokenizer

# Compiling runs outside the interpreter's lock: one rule that takes long holds up no other.
COMPILE_WORKERS = 16


class SequenceModel(DcModel):
    """Turns requests into sequences, which a `SequenceRunner` runs. Constraints compile on threads of their
    own, once each."""

    can_heal = True

    def __init__(
        self,
        info: ModelInfo,
        tokenizer: Tokenizer,
        runner: SequenceRunner,
        *,
        vocab_size: int,
        max_positions: int,
        constraints: ConstraintCache | None = None,
    ) -> None:
        """`vocab_size`: the width of a row of logits."""
        self.info = info
        self.tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._max_positions = max_positions
        self._matchers = MatcherMaker(tokenizer, ConstraintCache() if constraints is None else constraints)
        self._compilers = ThreadPoolExecutor(COMPILE_WORKERS, thread_name_prefix="dcmodel-compile")
        self._runner = runner
        self._turns = Turns(runner)

    def generate(self, request: GenerateRequest) -> GenerateStream:
        self._check_generation(request)
        stream = LocalStream(request, self.tokenizer, self._runner)
        if self._matchers.is_ready(request):
            self._start(stream, request)
        else:
            self._compile_and_start(stream, request)
        return stream

    async def session(self, request: GenerateRequest) -> LocalSession:
        self._check_generation(request)
        loop = asyncio.get_running_loop()
        mounted = self._mounted(request.adapter)

        def make() -> SessionSequence:
            caller_loop.set(loop)
            return self._session_sequence(request, self._matchers.matcher(request), mounted)

        # A caller's function is never called on an event loop, and compiling never blocks one.
        is_ready = self._matchers.is_ready(request)
        sequence = make() if is_ready else await loop.run_in_executor(self._compilers, make)
        return LocalSession(request, sequence, self.tokenizer, self._vocab_size, self._turns)

    async def aclose(self) -> None:
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, self._runner.close)
        self._compilers.shutdown(wait=False, cancel_futures=True)

    # -- from requests to sequences ----------------------------------------------------------------

    def _compile_and_start(self, stream: LocalStream, request: GenerateRequest) -> None:
        """Compiling never blocks the caller's loop nor a running batch."""
        future = asyncio.get_running_loop().run_in_executor(self._compilers, self._maker(request))

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
        make = self._maker(request)
        try:
            sequence = make()
        except DcModelError as error:
            stream.fail(error)
        else:
            stream.start(sequence)

    def _maker(self, request: GenerateRequest) -> Callable[[], Sequence]:
        """What makes its sequence, on any thread; its adapter is held from now on."""
        loop, mounted = asyncio.get_running_loop(), self._mounted(request.adapter)

        def make() -> Sequence:
            sequence = self._sequence(request, loop)
            sequence.mounted = mounted
            return sequence

        return make

    def _sequence(self, request: GenerateRequest, loop: asyncio.AbstractEventLoop) -> Sequence:
        caller_loop.set(loop)
        return Sequence(
            request.prompt_ids,
            sampling=request.sampling,
            matcher=self._matchers.matcher(request),
            want_logprobs=request.logprobs or request.top_logprobs > 0,
            resumed=request.resumed,
            **self._bounds(request),
        )

    def _session_sequence(
        self, request: GenerateRequest, matcher: Matcher | None, mounted: MountedAdapter | None
    ) -> SessionSequence:
        sequence = SessionSequence(
            request.prompt_ids, sampling=request.sampling, matcher=matcher, **self._bounds(request)
        )
        sequence.mounted = mounted
        return sequence

    def _mounted(self, name: str | None) -> MountedAdapter | None:
        """What a sequence holds while it computes with an adapter. Raises `AdapterNotFoundError`."""
        check_adapter(name, self.adapters)
        return None if name is None else MountedAdapter(name)

    def _bounds(self, request: GenerateRequest) -> SequenceBounds:
        limit = len(request.prompt_ids) + request.max_tokens
        stop = None
        if request.stop:
            skip = len(request.healed.encode())
            stop = watch_stops(request.stop, self.tokenizer, include=request.include_stop, skip=skip)
        return SequenceBounds(
            seed=secrets.randbits(64) if request.sampling.seed is None else request.sampling.seed,
            limit=min(limit, self._max_positions),
            limit_reason="max_tokens" if limit <= self._max_positions else "context",
            eos_token_ids=frozenset() if request.ignore_eos else frozenset(self.tokenizer.eos_token_ids),
            stop=stop,
            top_logprobs=request.top_logprobs,
        )

    def _check_generation(self, request: GenerateRequest) -> None:
        check_adapter(request.adapter, self.adapters)
        self._check_prompt(request.prompt_ids)
        self._check_ids(tuple(request.sampling.logit_bias), "logit_bias token id")
        self._check_ids(request.resumed, "resumed token id")

    def _check_prompt(self, prompt_ids: tuple[int, ...]) -> None:
        self._check_ids(prompt_ids, "prompt token id")
        if len(prompt_ids) >= self._max_positions:
            raise ContextLengthError(
                f"the prompt of {len(prompt_ids)} tokens does not fit the context of "
                f"{self._max_positions} with room for an answer.",
                remedy="Shorten it, or use a model with a longer context.",
            )

    def _check_ids(self, ids: tuple[int, ...], what: str) -> None:
        check_token_ids(np.asarray(ids, dtype=np.int64), self._vocab_size, what=what)

    def _check_score(self, request: ScoreRequest) -> None:
        check_adapter(request.adapter, self.adapters)
        self._check_ids(request.prompt_ids, "prompt token id")
        self._check_ids(tuple(chain.from_iterable(request.continuations)), "continuation token id")
        longest = max(map(len, request.continuations), default=0)
        # The last token of a continuation needs no place of its own.
        if len(request.prompt_ids) + max(longest - 1, 0) > self._max_positions:
            raise ContextLengthError(
                f"the prompt of {len(request.prompt_ids)} tokens does not fit the context of "
                f"{self._max_positions}" + (f" with a continuation of {longest}." if longest else "."),
                remedy="Shorten it, or use a model with a longer context.",
            )

    def _checked_prefixes(
        self, prefixes: Seq[Seq[int]], masks: Seq[Answer] | None, adapter: str | None = None
    ) -> list[tuple[GenerateRequest, TokenMask | None]]:
        """What `next_tokens` was asked, each prefix with its mask."""
        if masks is not None and len(masks) != len(prefixes):
            raise InvalidRequestError(
                f"there are {len(prefixes)} prefixes and {len(masks)} masks.", remedy="Give one mask each."
            )
        check_adapter(adapter, self.adapters)
        found: list[tuple[GenerateRequest, TokenMask | None]] = []
        for place, prefix in enumerate(prefixes):
            request = GenerateRequest(prompt_ids=tuple(prefix), max_tokens=1, adapter=adapter)
            self._check_prompt(request.prompt_ids)
            mask = checked_mask(None if masks is None else masks[place], self.tokenizer.vocab_size)
            found.append((request, mask))
        return found
