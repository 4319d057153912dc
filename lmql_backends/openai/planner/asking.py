"""`Questions`: asks for one draft: prompts, seeds, accounts."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np

from dcmodel.constraint import MaskRow
from dcmodel.errors import MaskNotRepresentableError
from dcmodel.scheduling.randomness import SEED_MASK, child_seed
from dcmodel.types import TopLogprob
from lmql_backends.openai.custom_tools import is_tool
from lmql_backends.openai.endpoint_api import Ask, Asker, Reply, SentPrompt, ServerGrammar
from lmql_backends.openai.planner.draft import Draft
from lmql_backends.openai.planner.lifting import Doubt, Hidden, Lifting
from lmql_backends.openai.planner.proposals import Means, Proposal, adjustments
from lmql_backends.openai.planner.reading import FirstToken, Reading

SHOWN = 20
"""Likeliest tokens that are asked for; OpenAI shows no more."""
LONGEST_CHARACTER = 3
"""Tokens that may be taken back where a text would end inside a character."""
ATTEMPT_BITS = 20
UNSEEN = "the share of a banned token was not shown"

T = TypeVar("T")


@dataclass
class Questions:
    """Asks the endpoint, and lets a `Reading` hold the answer against the constraint."""

    asker: Asker
    draft: Draft
    streams: bool

    def __post_init__(self) -> None:
        self.means = Means(self.asker.capabilities, self.draft.vocab_size)
        capabilities = self.asker.capabilities
        self.tops = min(capabilities.max_top_logprobs, max(SHOWN, self.draft.top_logprobs))

    @property
    def left(self) -> int:
        """How many tokens may still come."""
        return self.draft.limit - len(self.draft.token_ids)

    @property
    def can_continue(self) -> bool:
        capabilities = self.asker.capabilities
        return capabilities.continuation or not capabilities.is_chat

    @property
    def added(self) -> dict[int, float]:
        return adjustments(self.draft)

    def free(self) -> Proposal:
        return self.means.free(self.added)

    def exactly(self, row: MaskRow) -> Proposal | None:
        return self.means.exactly(row, self.added)

    async def ask(
        self,
        proposal: Proposal,
        *,
        window: int,
        attempt: int,
        grammar: ServerGrammar | None = None,
        temperature: float | None = None,
        streams: bool = False,
    ) -> Reading:
        """Ask for up to `window` tokens, and take what is acceptable of them.

        `temperature` instead of the request's. `streams`: read the answer as it comes, in any case.
        Raises `MaskNotRepresentableError` where the output so far cannot be sent.
        """
        sent, repeated = self._sent(proposal)
        lifting = self._lifting(proposal, attempt) if proposal.lifted else None
        reading = Reading(self.draft, proposal, repeated=repeated, lifting=lifting)
        ask = self._ask_of(sent, proposal, min(window, self.left) + repeated, attempt, grammar, temperature)
        able = self.asker.capabilities
        by_tool = grammar is not None and is_tool(able.grammars.get(grammar.kind))
        if (
            (self.streams or streams) and ask.max_tokens > 1 and not by_tool
        ):  # a tool's input does not come as text
            await self._read_stream(ask, reading)
        else:
            reply = await self.asker.ask(ask)
            self.draft.account.charge(reply.cost)
            await self._let_read(reading, reply)
        if reading.taken < repeated:
            raise self._unsendable()
        self._close(reading)
        return reading

    async def draws(
        self, proposal: Proposal, *, count: int, attempt: int, temperature: float | None = None
    ) -> list[Reply]:
        """Draw one token so many times, or less often."""
        sent, repeated = self._sent(proposal)
        ask = self._ask_of(sent, proposal, min(1, self.left) + repeated, attempt, None, temperature)
        replies = await self.asker.ask_several(ask, count)
        for reply in replies:
            self.draft.account.charge(reply.cost)
        return replies

    async def read(self, reply: Reply, reading: Reading) -> None:
        """Let `reading` take what is acceptable of one of the `draws`."""
        await self._let_read(reading, reply)
        self._close(reading)

    @property
    def repeats(self) -> bool:
        """Whether an answer has to begin with tokens that the output has, as a text cannot end inside a
        character."""
        return self._place()[1] > 0

    # -- inside ------------------------------------------------------------------------------------

    async def _let_read(self, reading: Reading, piece: Reply) -> None:
        await apart(self.draft, partial(reading.read, piece))
        while (doubt := reading.doubt) is not None:
            if isinstance(doubt, Hidden):
                await apart(self.draft, partial(reading.show, await self._likeliest()))
            else:
                shares = [await self._share_of(token_id, doubt) for token_id in doubt.unknown]
                drawn = await self._drawn_anew(doubt.draws)
                await apart(self.draft, partial(reading.resolve, shares, drawn))

    def _close(self, reading: Reading) -> None:
        if reading.taken and not reading.are_ids_exact:
            self.draft.account.inexact("the tokens were read back from the text of an answer")
        self.draft.settle()

    def _lifting(self, proposal: Proposal, attempt: int) -> Lifting:
        draft = self.draft
        numbers = np.random.default_rng([draft.seed & SEED_MASK, len(draft.token_ids), attempt])
        return Lifting(proposal.lifted, draft.sampling_now.temperature, numbers)

    async def _share_of(self, token_id: int, doubt: Doubt) -> float:
        """The probability of a token as the next one."""
        reply = await self._look(self.means.only(token_id))
        if reply.token_ids[:1] == (token_id,) and reply.logprobs:
            return math.exp(reply.logprobs[0])
        self.draft.account.inexact(UNSEEN, doubt.bound)
        return 0.0

    async def _drawn_anew(self, count: int) -> list[int]:
        """So many draws of the next token, without any ban."""
        found: list[int] = []
        while len(found) < count:
            for reply in await self.draws(self.free(), count=count - len(found), attempt=0):
                first = FirstToken(self.draft, self.free())
                first.read(reply)
                found.append(-1 if first.found is None else first.found.token_id)
        return found

    async def _likeliest(self) -> tuple[TopLogprob, ...]:
        """Of the next token. Where a text ends, many endpoints show nothing: its end is banned."""
        proposal = self.means.banning(self.draft.eos_token_ids, {})
        reply = await self._look(proposal or self.free())
        if reply.tops and reply.tops[0]:
            return reply.tops[0]
        self.draft.account.inexact(UNSEEN)
        return ()

    async def _look(self, proposal: Proposal) -> Reply:
        """One token, for what is shown of its place."""
        reply = await self.asker.ask(self._ask_of(self._sent(proposal)[0], proposal, 1, 0, None, 1.0))
        self.draft.account.charge(reply.cost)
        return reply

    async def _read_stream(self, ask: Ask, reading: Reading) -> None:
        """Leaving early closes the response."""
        stream = self.asker.ask_stream(ask)
        try:
            async with stream:
                async for piece in stream:
                    await self._let_read(reading, piece)
                    if reading.is_over:
                        break
        finally:
            self.draft.account.charge(stream.cost)

    def _ask_of(
        self,
        sent: SentPrompt,
        proposal: Proposal,
        max_tokens: int,
        attempt: int,
        grammar: ServerGrammar | None,
        temperature: float | None,
    ) -> Ask:
        sampling = self.draft.sampling_now
        warmth = sampling.temperature if temperature is None else temperature
        return Ask(
            prompt=sent.prompt,
            max_tokens=max_tokens,
            temperature=warmth,
            top_p=sampling.top_p if warmth else 1.0,
            seed=self._seed(attempt) if warmth else None,
            frequency_penalty=sampling.frequency_penalty,
            presence_penalty=sampling.presence_penalty,
            bias=proposal.bias,
            allowed=proposal.allowed,
            top_logprobs=self.tops,
            grammar=grammar,
        )

    def _seed(self, attempt: int) -> int | None:
        """Another one for each draw: a second draw with the same number would depend on the first. Without a
        seed in the request there is none: equal bodies can share a request."""
        if self.draft.sampling.seed is None or not self.asker.capabilities.seed:
            return None
        number = (len(self.draft.token_ids) << ATTEMPT_BITS) + attempt
        return child_seed(self.draft.seed & SEED_MASK, number) & 0x7FFFFFFF

    def _place(self) -> tuple[SentPrompt, int]:
        """The prompt and the output so far; with how many of its tokens the answer begins, because a text
        cannot end inside a character."""
        draft = self.draft
        prompt = tuple(draft.token_ids[: draft.prompt_length])
        output = tuple(draft.token_ids[draft.prompt_length :])
        for count in range(min(len(output), LONGEST_CHARACTER) + 1):
            sent = self.asker.place(prompt, output[: len(output) - count])
            if sent is not None and (count == 0 or self.can_continue):
                return sent, count
        raise self._unsendable()

    def _sent(self, proposal: Proposal) -> tuple[SentPrompt, int]:
        """Likewise, for a request with this proposal."""
        sent, repeated = self._place()
        if repeated and proposal.row is not None:
            raise self._unsendable()
        if not sent.is_exact:
            self.draft.account.inexact("the prompt was sent as text, whose tokens may differ")
        return sent, repeated

    def _unsendable(self) -> MaskNotRepresentableError:
        return MaskNotRepresentableError(
            "the output so far cannot be sent: it ends inside a character, and the endpoint takes text, or "
            "gives whole answers only.",
            remedy="Use a route that takes token ids, such as /completions.",
        )


async def apart(draft: Draft, call: Callable[[], T]) -> T:
    """`call` in a thread, where a caller's function takes part, which may wait."""
    if draft.matcher is not None and draft.matcher.may_wait:
        return await asyncio.to_thread(call)
    return call()
