"""`BalancedDcModel`: many workers that serve the same model, as one `DcModel`."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Self

import numpy as np

from dcmodel.adapters import AdapterInfo, check_adapter
from dcmodel.constraints.mask_answers import Answer
from dcmodel.errors import ContextLengthError, InvalidRequestError
from dcmodel.mask import check_token_ids
from dcmodel.model import DcModel
from dcmodel.types import GenerateRequest, NextTokens, ScoreRequest, ScoreResult
from lmql_backends.lmtp.balancer.pool import Connect, Pool, Probe
from lmql_backends.lmtp.balancer.question import Question
from lmql_backends.lmtp.balancer.session import BalancedSession
from lmql_backends.lmtp.balancer.settings import BalancerSettings
from lmql_backends.lmtp.balancer.stream import BalancedStream, with_seed
from lmql_backends.lmtp.balancer.worker import Flight


class BalancedDcModel(DcModel):
    """Routes each request to a worker, and goes on elsewhere when one is lost.

    Lives in the event loop that opened it. A stream goes on with exactly the tokens that it would have had,
    as far as the workers compute the same (greedy and seeded; a seed is chosen where there is none).
    """

    can_heal = True

    def __init__(self, pool: Pool, first: DcModel) -> None:
        """`first`: the model of a worker that has joined; the others are the same (`members.py`)."""
        self.pool = pool
        self.info = first.info
        self.tokenizer = first.tokenizer

    @classmethod
    async def open(
        cls,
        addresses: Iterable[str],
        *,
        connect: Connect,
        probe: Probe,
        settings: BalancerSettings | None = None,
        rng: random.Random | None = None,
    ) -> Self:
        """A balancer over these workers; waits until the first one has joined."""
        pool = Pool(connect, probe, settings=settings, rng=rng)
        for address in addresses:
            pool.add(address)
        try:
            return cls(pool, await pool.first())
        except BaseException:
            await pool.aclose()
            raise

    def generate(self, request: GenerateRequest) -> BalancedStream:
        self._check_loop()
        check_adapter(request.adapter, self.adapters)
        self._check_prompt(request.prompt_ids)
        self._check_ids(request.sampling.logit_bias, "logit_bias token id")
        self._check_ids(request.resumed, "resumed token id")
        stream = BalancedStream(request, self.pool, self.tokenizer)
        if isinstance(stream.error, InvalidRequestError):
            raise stream.error
        return stream

    async def score(self, request: ScoreRequest) -> ScoreResult:
        self._check_loop()
        check_adapter(request.adapter, self.adapters)
        self._check_ids(request.prompt_ids, "prompt token id")
        self._check_ids(chain.from_iterable(request.continuations), "continuation token id")
        tokens = sum(map(len, request.continuations))
        question = Question(self.pool, self.pool.router.work(request.prompt_ids, tokens, request.adapter))
        return await question.ask(lambda flight: flight.model.score(request))

    async def next_tokens(
        self,
        prefixes: Sequence[Sequence[int]],
        masks: Sequence[Answer] | None = None,
        k: int | None = None,
        *,
        adapter: str | None = None,
    ) -> list[NextTokens]:
        self._check_loop()
        check_adapter(adapter, self.adapters)
        if not prefixes:
            return []
        # The prefixes of one call mostly share their beginning.
        work = self.pool.router.work(prefixes[0], len(prefixes), adapter)
        return await Question(self.pool, work).ask(
            lambda flight: flight.model.next_tokens(prefixes, masks, k, adapter=adapter)
        )

    async def session(self, request: GenerateRequest) -> BalancedSession:
        self._check_loop()
        check_adapter(request.adapter, self.adapters)
        seeded = with_seed(request)

        async def begin(flight: Flight) -> BalancedSession:
            inner = await flight.model.session(seeded)
            forced = [False] * len(inner.token_ids)
            return BalancedSession(self.pool, seeded, inner, flight.worker, flight.model, forced=forced)

        work = self.pool.router.work(request.prompt_ids, request.max_tokens, request.adapter)
        return await Question(self.pool, work).ask(begin)

    # -- adapters ----------------------------------------------------------------------------------

    @property
    def adapters(self) -> tuple[AdapterInfo, ...]:
        return self.pool.mountings.infos

    async def mount_adapter(self, name: str, source: str) -> AdapterInfo:
        """On all workers, which find it under the same `source`, and on those that join later."""
        self._check_loop()
        return await self.pool.mountings.mount(name, source)

    async def unmount_adapter(self, name: str) -> None:
        self._check_loop()
        await self.pool.mountings.unmount(name)

    async def aclose(self) -> None:
        await self.pool.aclose()

    # -- at the door -------------------------------------------------------------------------------

    def _check_loop(self) -> None:
        if asyncio.get_running_loop() is not self.pool.loop:
            raise InvalidRequestError(
                "a balancer belongs to the event loop that opened it.",
                remedy="Open another one here, or serve it and connect to it.",
            )

    def _check_prompt(self, prompt_ids: tuple[int, ...]) -> None:
        self._check_ids(prompt_ids, "prompt token id")
        if len(prompt_ids) >= self.info.max_positions:
            raise ContextLengthError(
                f"the prompt of {len(prompt_ids)} tokens does not fit the context of "
                f"{self.info.max_positions} with room for an answer.",
                remedy="Shorten it, or use a model with a longer context.",
            )

    def _check_ids(self, ids: Iterable[int], what: str) -> None:
        check_token_ids(np.fromiter(ids, dtype=np.int64), self.info.vocab_size, what=what)
