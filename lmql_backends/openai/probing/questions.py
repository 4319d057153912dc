"""`Questions`: what a probe asks, and which of the fields that it would like to send are taken."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from dcmodel.errors import CapabilityError, InvalidRequestError, RetryableError
from dctokenizers import Tokenizer
from lmql_backends.openai.bodies import body_of
from lmql_backends.openai.capabilities import EndpointCapabilities
from lmql_backends.openai.endpoint_api import Ask, Conversation, Prompt, Reply
from lmql_backends.openai.replies import ReplyReader, text_of_choice
from lmql_backends.openai.token_index import TokenIndex
from lmql_backends.openai.transport.answers import Answer
from lmql_backends.openai.transport.client import CHAT_COMPLETIONS, COMPLETIONS, Transport
from lmql_backends.openai.transport.failures import AttemptFailed

NOTHING: Mapping[str, Any] = MappingProxyType({})
TEXT = "1 2 3 4 5 6"
"""What is continued. Nothing that is asked for below follows it by itself."""
REFUSALS = (InvalidRequestError, CapabilityError)


class Questions:
    """Asks one route about one model. `able` is what is known so far: fields are read as it says."""

    def __init__(
        self,
        transport: Transport,
        model: str,
        tokenizer: Tokenizer,
        able: EndpointCapabilities,
        extra_body: Mapping[str, Any],
    ) -> None:
        self.able = able
        self.tokenizer = tokenizer
        self.index = TokenIndex(tokenizer)
        self._transport = transport
        self._model = model
        self._extra_body = extra_body
        self._has_answered = False
        """There is nothing wrong with the endpoint itself."""

    @property
    def prompt(self) -> Prompt:
        """`TEXT` as this route takes it."""
        if self.able.is_chat:
            return Conversation(({"role": "user", "content": f"{TEXT} ..."},))
        return TEXT

    def body(self, changes: Mapping[str, Any] = NOTHING, *, prompt: Prompt | None = None) -> dict[str, Any]:
        """A request for one token; None in `changes` takes a field out."""
        temperature = 0.0 if self.able.temperature else 1.0
        ask = Ask(prompt=self.prompt if prompt is None else prompt, max_tokens=1, temperature=temperature)
        body = {**body_of(self._model, ask, self.able), **changes}
        return {name: value for name, value in body.items() if value is not None}

    async def send(self, body: Mapping[str, Any]) -> Answer:
        """Raises one of `REFUSALS` where a field is not taken, and what else can go wrong."""
        path = CHAT_COMPLETIONS if self.able.is_chat else COMPLETIONS
        try:
            answer = await self._transport.complete(path, {**body, **self._extra_body})
        except RetryableError as error:
            # Some servers break at what they do not know (llama-cpp-python's answers 500).
            cause = error.__cause__
            if self._has_answered and isinstance(cause, AttemptFailed) and cause.status == 500:
                raise CapabilityError(error.message) from cause
            raise
        self._has_answered = True
        return answer

    async def ask(self, body: Mapping[str, Any]) -> Answer | None:
        """The answer; None where the request is refused."""
        try:
            return await self.send(body)
        except REFUSALS:
            return None

    async def ask_with(
        self, body: Mapping[str, Any], wishes: Mapping[str, Sequence[Any]]
    ) -> tuple[Answer, dict[str, Any]]:
        """The answer to a body with as many of the `wishes` as are taken, and which those were.

        Each wish is a field with values, the best first. Raises where the body itself is refused.
        """
        left = {name: list(values) for name, values in wishes.items()}
        while True:
            fields = {name: values[0] for name, values in left.items()}
            try:
                return await self.send({**body, **fields}), fields
            except REFUSALS as error:
                if not left:
                    raise
                name = _culprit(error, list(left))
                left[name] = left[name][1:]
                if not left[name]:
                    del left[name]

    def read(self, answer: Answer, tops: int = 0) -> Reply:
        """The answer's first choice; `tops`: how many likeliest tokens were asked for."""
        reader = ReplyReader(
            self.tokenizer, self.index, self.able, Ask(prompt="", max_tokens=1, top_logprobs=tops)
        )
        return reader.read(answer.choices[0], text_of_choice(answer.choices[0]))

    async def stream_is_taken(self, body: dict[str, Any]) -> bool:
        """Whether a stream of this body comes to its end."""
        path = CHAT_COMPLETIONS if self.able.is_chat else COMPLETIONS
        try:
            async with self._transport.stream(path, {**body, **self._extra_body}) as stream:
                async for _ in stream:
                    pass
        except REFUSALS:
            return False
        return stream.result.usage is not None


def first_token(reply: Reply, eos: Sequence[int]) -> int | None:
    """Which token was drawn, as far as the answer tells."""
    if reply.token_ids:
        return reply.token_ids[0] if reply.are_ids_exact else None
    return reply.end_id if reply.end_id is not None or not reply.is_ended else next(iter(eos), None)


def prompt_tokens(answer: Answer | None) -> int | None:
    """How long the endpoint says that the prompt was."""
    count = (answer.usage or {}).get("prompt_tokens") if answer is not None else None
    return count if isinstance(count, int) else None


def _culprit(error: Exception, names: Sequence[str]) -> str:
    """The field that a refusal is about: the one that it names, or the last one."""
    cause = error.__cause__
    param = cause.param.partition(".")[0] if isinstance(cause, AttemptFailed) else ""
    if param in names:
        return param
    named = [name for name in names if re.search(rf"\b{re.escape(name)}\b", str(error))]
    return named[0] if named else names[-1]
