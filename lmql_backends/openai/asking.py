"""`HttpAsker`: one model at one endpoint, over the transport."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from dcmodel.errors import InvalidRequestError
from dcmodel.types import Cost
from dctokenizers import Tokenizer
from lmql_backends.openai.bodies import body_of
from lmql_backends.openai.capabilities import EndpointCapabilities, GrammarKind
from lmql_backends.openai.costs import Prices, cost_of
from lmql_backends.openai.endpoint_api import Ask, Reply, ReplyStream, SentPrompt
from lmql_backends.openai.prompts import place, prompt_length
from lmql_backends.openai.replies import ReplyReader, text_of_choice
from lmql_backends.openai.reply_streams import HttpReplyStream, KeptReplyStream
from lmql_backends.openai.token_index import TokenIndex
from lmql_backends.openai.transport.answers import Answer
from lmql_backends.openai.transport.cache import AnswerCache
from lmql_backends.openai.transport.client import CHAT_COMPLETIONS, COMPLETIONS, Transport
from lmql_backends.openai.transport.continuation import (
    ChatContinuation,
    ChatStyle,
    CompletionContinuation,
    Continuation,
    NoContinuation,
)
from lmql_backends.openai.transport.counters import Spent


class HttpAsker:
    """See `endpoint_api.Asker`."""

    def __init__(
        self,
        transport: Transport,
        model: str,
        capabilities: EndpointCapabilities,
        tokenizer: Tokenizer,
        *,
        prices: Prices | None = None,
        extra_body: Mapping[str, Any] | None = None,
        cache: AnswerCache | None = None,
    ) -> None:
        """`extra_body`: fields of the endpoint's own, sent with every request. `cache`: the transport's, for
        streams that would be the same again."""
        self.transport = transport
        self.model = model
        self.tokenizer = tokenizer
        self.prices = prices
        self._capabilities = capabilities
        self._extra_body = dict(extra_body or {})
        self._index = TokenIndex(tokenizer)
        self._cache = cache
        self._gives_several = True
        """Whether ``n`` answers come, as far as was seen."""

    @property
    def capabilities(self) -> EndpointCapabilities:
        return self._capabilities

    @property
    def index(self) -> TokenIndex:
        """Ids of the tokens that answers show."""
        return self._index

    @property
    def vocab_size(self) -> int:
        """The tokenizer's."""
        return self.tokenizer.vocab_size

    @property
    def path(self) -> str:
        return CHAT_COMPLETIONS if self._capabilities.is_chat else COMPLETIONS

    def place(self, prompt_ids: tuple[int, ...], output_ids: tuple[int, ...] = ()) -> SentPrompt | None:
        return place(self.tokenizer, self._capabilities, prompt_ids, output_ids)

    def learn(self, capabilities: EndpointCapabilities) -> None:
        """From now on these."""
        self._capabilities = capabilities

    def lied(self, kind: GrammarKind) -> None:
        self._capabilities = self._capabilities.without(kind)

    async def ask(self, ask: Ask) -> Reply:
        able = self._capabilities
        answer = await self.send(
            body_of(self.model, ask, able),
            # With one seed for all, each prompt of a list may be drawn otherwise than alone.
            may_group=ask.seed is None or not ask.temperature,
            sample_index=ask.sample_index,
        )
        return self._replies(ask, answer)[0]

    async def ask_several(self, ask: Ask, count: int) -> list[Reply]:
        if count == 1 or not self._gives_several:
            return [await self.ask(ask)]
        body = {**body_of(self.model, ask, self._capabilities), "n": count}
        try:
            answer = await self.send(body, may_group=False, sample_index=ask.sample_index)
        except InvalidRequestError:
            alone = await self.ask(ask)  # which raises, where it was something else
            self._gives_several = False
            return [alone]
        self._gives_several = len(answer.choices) == count
        return self._replies(ask, answer)

    def ask_stream(self, ask: Ask) -> ReplyStream:
        body = self._full(body_of(self.model, ask, self._capabilities))
        keep = None
        if self._cache is not None:
            endpoint = self.transport.configuration.base_url
            key = self._cache.key(endpoint, f"{self.path}#stream", body, ask.sample_index)
            known = None if key is None else self._cache.get(key)
            if known is not None:
                free = self.cost(replace(known, is_cached=True, spent=Spent()), 0, 0)
                return KeptReplyStream(known.choices, self.reader(ask), free)
            keep = None if key is None else partial(_keep, self._cache, key)
        if self._capabilities.usage_in_streams:
            body["stream_options"] = {"include_usage": True}
        stream = self.transport.stream(self.path, body, continuation=self._continuation(ask))
        return HttpReplyStream(stream, self.reader(ask), prompt_length(ask.prompt), self.prices, keep)

    def _replies(self, ask: Ask, answer: Answer) -> list[Reply]:
        """The answer's choices, the first with the cost of all."""
        reader = self.reader(ask)
        replies = [reader.read(choice, text_of_choice(choice)) for choice in answer.choices]
        tokens = sum(len(reply.token_ids) + (reply.end_id is not None) for reply in replies)
        replies[0] = replace(replies[0], cost=self.cost(answer, prompt_length(ask.prompt), tokens))
        return replies

    # -- for scores and probes ---------------------------------------------------------------------

    async def send(
        self, body: dict[str, Any], *, may_group: bool = True, sample_index: int | None = None
    ) -> Answer:
        """The answer to a body of this endpoint's route."""
        may_group = may_group and self._capabilities.list_prompts
        return await self.transport.complete(
            self.path, self._full(body), may_group=may_group, sample_index=sample_index
        )

    def reader(self, ask: Ask) -> ReplyReader:
        """Reads the answers to `ask`."""
        return ReplyReader(self.tokenizer, self._index, self._capabilities, ask)

    def cost(self, answer: Answer, prompt_tokens: int, completion_tokens: int) -> Cost:
        """Of one prompt's share in an answer; the counts are used where several prompts shared it."""
        return cost_of(
            answer.usage if answer.group == 1 else None,
            answer.spent,
            self.prices,
            prompt_tokens=0 if answer.is_cached else prompt_tokens,
            completion_tokens=0 if answer.is_cached else completion_tokens,
            is_estimated=not answer.is_cached and (answer.usage is None or answer.group > 1),
            is_free=answer.is_cached,
        )

    def _full(self, body: dict[str, Any]) -> dict[str, Any]:
        return {**body, **self._extra_body}

    def _continuation(self, ask: Ask) -> Continuation:
        if ask.presence_penalty or ask.frequency_penalty:
            return NoContinuation()  # the rest would not count what came before
        if ask.temperature and ask.seed is not None and self._capabilities.seed:
            return NoContinuation()  # from the beginning it is the same text, from the middle another
        if not self._capabilities.is_chat:
            return CompletionContinuation(self.tokenizer.encode)
        if not self._capabilities.continuation:
            return NoContinuation()
        return ChatContinuation(ChatStyle(self._capabilities.continuation_style))


def _keep(cache: AnswerCache, key: bytes, pieces: list[dict[str, Any]]) -> None:
    cache.put(key, Answer(choices=tuple(pieces)))
