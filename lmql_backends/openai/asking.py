"""`HttpAsker`: one model at one endpoint, over the transport."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

from dcmodel.types import Cost
from dctokenizers import Tokenizer
from lmql_backends.openai.bodies import body_of
from lmql_backends.openai.capabilities import EndpointCapabilities, GrammarKind
from lmql_backends.openai.costs import Prices, cost_of
from lmql_backends.openai.endpoint_api import Ask, Reply, SentPrompt
from lmql_backends.openai.prompts import place, prompt_length
from lmql_backends.openai.replies import ReplyReader, text_of_choice
from lmql_backends.openai.token_index import TokenIndex
from lmql_backends.openai.transport.answers import Answer
from lmql_backends.openai.transport.client import CHAT_COMPLETIONS, COMPLETIONS, Transport
from lmql_backends.openai.transport.continuation import (
    ChatContinuation,
    ChatStyle,
    CompletionContinuation,
    Continuation,
    NoContinuation,
)
from lmql_backends.openai.transport.streaming import CompletionStream


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
    ) -> None:
        """`extra_body`: fields of the endpoint's own, sent with every request."""
        self.transport = transport
        self.model = model
        self.tokenizer = tokenizer
        self.prices = prices
        self._capabilities = capabilities
        self._extra_body = dict(extra_body or {})
        self._index = TokenIndex(tokenizer)

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
        choice = answer.choices[0]
        reply = self.reader(ask).read(choice, text_of_choice(choice))
        tokens = len(reply.token_ids) + (reply.end_id is not None)
        return replace(reply, cost=self.cost(answer, prompt_length(ask.prompt), tokens))

    def ask_stream(self, ask: Ask) -> HttpReplyStream:
        body = self._full(body_of(self.model, ask, self._capabilities))
        if self._capabilities.usage_in_streams:
            body["stream_options"] = {"include_usage": True}
        stream = self.transport.stream(self.path, body, continuation=self._continuation(ask))
        return HttpReplyStream(stream, self.reader(ask), prompt_length(ask.prompt), self.prices)

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


class HttpReplyStream:
    """See `endpoint_api.ReplyStream`."""

    def __init__(
        self, stream: CompletionStream, reader: ReplyReader, prompt_tokens: int, prices: Prices | None
    ) -> None:
        self._stream = stream
        self._reader = reader
        self._prompt_tokens = prompt_tokens
        self._prices = prices

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stream.aclose()

    def __aiter__(self) -> AsyncIterator[Reply]:
        return self

    async def __anext__(self) -> Reply:
        chunk = await anext(self._stream)
        choice = chunk.choice
        if chunk.text != _said(choice):
            # Part of it was given out before a cut: what it shows of its tokens no longer fits.
            choice = {name: choice.get(name) for name in ("finish_reason", "stop_reason")}
        return self._reader.read(choice, chunk.text)

    @property
    def cost(self) -> Cost:
        result = self._stream.result
        return cost_of(
            result.usage,
            self._stream.spent,
            self._prices,
            prompt_tokens=self._prompt_tokens,
            completion_tokens=self._stream.received.tokens,
            is_estimated=result.is_usage_estimated or result.usage is None,
        )


def _said(choice: Mapping[str, Any]) -> str:
    """The text of a chunk's choice, as the endpoint sent it."""
    delta = choice.get("delta")
    return (delta.get("content") if delta is not None else choice.get("text")) or ""
