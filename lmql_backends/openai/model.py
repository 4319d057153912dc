"""`OpenAIDcModel`: a model behind an OpenAI-compatible API, as a `DcModel`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence as Seq

from dcmodel.constraints.mask_answers import Answer
from dcmodel.constraints.mask_function import caller_loop
from dcmodel.local.base import SequenceModel
from dcmodel.local.session import LocalSession, checked_look
from dcmodel.local.stream import LocalStream
from dcmodel.model import GenerateStream, Judgement
from dcmodel.scheduling.sequence import Sequence
from dcmodel.scheduling.session_sequence import SessionSequence
from dcmodel.types import Cost, GenerateRequest, ModelInfo, NextTokens, ScoreRequest, ScoreResult
from lmql_backends.openai.asking import HttpAsker
from lmql_backends.openai.capabilities import EndpointCapabilities, Topic
from lmql_backends.openai.continuing import ContinuedSequence, check_sampling, continue_freely
from lmql_backends.openai.decisions import Decisions
from lmql_backends.openai.discovery import Discovery
from lmql_backends.openai.endpoint_api import NOTHING
from lmql_backends.openai.looking import look_at_all
from lmql_backends.openai.planner.draft import Draft
from lmql_backends.openai.planner.planning import PlannedStream, Planner
from lmql_backends.openai.planner.settings import PlannerSettings
from lmql_backends.openai.runner import AskRunner
from lmql_backends.openai.scores import score
from lmql_backends.openai.stepping import step
from lmql_backends.openai.stream import OpenAIStream
from lmql_backends.openai.topics import has_rule, topics_of

SESSION_TOPICS = frozenset({Topic.ALLOWED, Topic.CONTINUATION, Topic.SCORES})


class OpenAIDcModel(SequenceModel):
    """What the endpoint can do it does; what it cannot raises `CapabilityError`, with the reason.

    Raw log-probabilities are the endpoint's, where it shows those. What a mask kept is not shown by any API:
    `masked_logprob` and `log_mass` are NaN where there was a mask and more than one token was allowed.
    """

    def __init__(
        self,
        asker: HttpAsker,
        info: ModelInfo,
        planning: PlannerSettings | None = None,
        discovery: Discovery | None = None,
    ) -> None:
        """`info.max_positions`: as far as it is known; the endpoint refuses what is longer. `discovery` finds
        out what is not known yet; None: it counts as missing."""
        self.asker = asker
        self._discovery = discovery
        self.cost: Cost = NOTHING
        """Of everything so far."""
        self._asks = AskRunner(self._work)
        wants_decisions = planning is not None and planning.decisions
        self._decisions = Decisions(asker, discovery) if wants_decisions else None
        self._planner = Planner(
            asker,
            asker.tokenizer,
            planning,
            max_positions=info.max_positions,
            judge=None if self._decisions is None else self._decisions.judge,
        )
        super().__init__(
            info,
            asker.tokenizer,
            self._asks,
            vocab_size=asker.tokenizer.vocab_size,
            max_positions=info.max_positions,
        )
        self.can_heal = asker.capabilities.token_id_prompts

    @property
    def capabilities(self) -> EndpointCapabilities:
        """What is known of the endpoint."""
        return self.asker.capabilities

    def generate(self, request: GenerateRequest) -> GenerateStream:
        self._check_generation(request)
        check_sampling(request, self.capabilities)
        stream: LocalStream
        if has_rule(request):
            request = self._planner.prepared(request)
            stream = PlannedStream(request, self.tokenizer, self._asks, self._planner.settings)
        else:
            stream = OpenAIStream(request, self.tokenizer, self._asks)
        if self._matchers.is_ready(request):
            self._start(stream, request)
        else:
            self._compile_and_start(stream, request)
        return stream

    async def score(self, request: ScoreRequest) -> ScoreResult:
        self._check_score(request)
        if self._discovery is not None:
            await self._discovery.settle({Topic.SCORES})
        result, cost = await score(self.asker, request)
        self.cost += cost
        return result

    async def next_tokens(
        self,
        prefixes: Seq[Seq[int]],
        masks: Seq[Answer] | None = None,
        k: int | None = None,
        *,
        adapter: str | None = None,
    ) -> list[NextTokens]:
        look = checked_look(k, self._vocab_size)
        checked = self._checked_prefixes(prefixes, masks, adapter)
        if not checked:
            return []
        return await look_at_all(
            self.asker, [(request.prompt_ids, mask) for request, mask in checked], look.k
        )

    async def judge(self, prompt_ids: Seq[int], options: Seq[str]) -> Judgement | None:
        found = None if self._decisions is None else await self._decisions.judge(prompt_ids, options)
        if found is not None:
            self.cost += found.cost
        return found

    async def session(self, request: GenerateRequest) -> LocalSession:
        check_sampling(request, self.capabilities)
        if self._discovery is not None:
            await self._discovery.settle(topics_of(request) | SESSION_TOPICS)
            check_sampling(request, self.capabilities)
        return await super().session(request)

    async def aclose(self) -> None:
        await super().aclose()
        await self._asks.join()
        await self.asker.transport.aclose()

    # -- inside ------------------------------------------------------------------------------------

    def _sequence(self, request: GenerateRequest, loop: asyncio.AbstractEventLoop) -> Sequence:
        if has_rule(request):
            caller_loop.set(loop)
            return self._planner.draft(request, self._matchers.matcher(request))
        sequence = ContinuedSequence(request, **self._bounds(request))
        wants = request.logprobs or request.top_logprobs > 0
        sequence.want_logprobs = wants and self.capabilities.shows_logprobs
        return sequence

    async def _work(self, sequence: Sequence) -> None:
        if isinstance(sequence, ContinuedSequence):
            await self._prepare(sequence.request)
            try:
                await continue_freely(sequence, self.asker)
            finally:
                self.cost += sequence.facts.cost
        elif isinstance(sequence, Draft):
            await self._prepare(sequence.request)
            try:
                await self._planner.complete(sequence)
            finally:
                self.cost += sequence.account.cost
        elif isinstance(sequence, SessionSequence):
            await step(sequence, self.asker)

    async def _prepare(self, request: GenerateRequest) -> None:
        """Find out what this request needs to know, and look at it again."""
        if self._discovery is not None and self.capabilities.unasked:
            await self._discovery.prepare(request)
            check_sampling(request, self.capabilities)
