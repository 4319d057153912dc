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
CLOSE = 0.05
"""Nats by which the same log-probability may differ between two requests."""
REFUSALS = (InvalidRequestError, CapabilityError)
_NUMBER = re.compile(r"\b\d{1,6}\b")
_ANSWERED = re.compile(r"^.* answered \d+: ")
EVERYWHERE = ("model", "prompt", "messages", "temperature")
"""Words that messages about other fields have, too."""
SAME_FAMILY: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"return_token_ids": ("return_tokens_as_token_ids",)}
)
"""Fields that nobody takes who refuses the first one."""


class Questions:
    """Asks one route about one model. `able` is what is known so far: fields are read as it says."""

    def __init__(
        self,
        transport: Transport,
        model: str,
        tokenizer: Tokenizer,
        able: EndpointCapabilities,
        extra_body: Mapping[str, Any],
        *,
        has_answered: bool = False,
    ) -> None:
        """`has_answered`: there is nothing wrong with the endpoint itself."""
        self.able = able
        self.tokenizer = tokenizer
        self.index = TokenIndex(tokenizer)
        self._transport = transport
        self._model = model
        self._extra_body = extra_body
        self._has_answered = has_answered

    @property
    def prompt(self) -> Prompt:
        """`TEXT` as this route takes it."""
        return self.prompt_of(TEXT)

    def prompt_of(self, text: str) -> Prompt:
        if self.able.is_chat:
            return Conversation(({"role": "user", "content": f"{text} ..."},))
        return text

    @property
    def limit_field(self) -> str:
        return self.able.limit_field if self.able.is_chat else "max_tokens"

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

    async def post(self, path: str, fields: Mapping[str, Any]) -> dict[str, Any]:
        """What another route answers about the model. Raises as `send` does."""
        try:
            return (await self._transport.post(path, {"model": self._model, **fields}))[0]
        except RetryableError as error:
            cause = error.__cause__
            if isinstance(cause, AttemptFailed) and cause.status in (0, 200, 500):
                raise CapabilityError(error.message) from cause
            raise

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
        is_sure = False
        while True:
            fields = {name: values[0] for name, values in left.items()}
            try:
                return await self.send({**body, **fields}), fields
            except REFUSALS as error:
                name = culprit(error, (*left, *body))
                if name in body or not left:
                    raise
                if not name and not is_sure:
                    await self.send(body)  # perhaps nothing is taken here at all
                    is_sure = True
                name = name or next(reversed(left))
                left[name] = smaller(left[name], error)
                for gone in (*SAME_FAMILY.get(name, ()), name):
                    if not left.get(gone) or gone != name:
                        left.pop(gone, None)

    def read(self, answer: Answer, tops: int = 0) -> Reply:
        """The answer's first choice; `tops`: how many likeliest tokens were asked for."""
        reader = ReplyReader(
            self.tokenizer, self.index, self.able, Ask(prompt="", max_tokens=1, top_logprobs=tops)
        )
        return reader.read(answer.choices[0], text_of_choice(answer.choices[0]))

    async def usage_of_stream(self, body: dict[str, Any]) -> Mapping[str, Any] | None:
        """The account of a stream of this body; None where it is not taken, or tells none."""
        path = CHAT_COMPLETIONS if self.able.is_chat else COMPLETIONS
        try:
            async with self._transport.stream(path, {**body, **self._extra_body}) as stream:
                async for _ in stream:
                    pass
        except REFUSALS:
            return None
        return stream.result.usage


def first_token(reply: Reply, eos: Sequence[int]) -> int | None:
    """Which token was drawn, as far as the answer tells."""
    if reply.token_ids:
        return reply.token_ids[0] if reply.are_ids_exact else None
    return reply.end_id if reply.end_id is not None or not reply.is_ended else next(iter(eos), None)


def prompt_tokens(answer: Answer | None) -> int | None:
    """How long the endpoint says that the prompt was."""
    count = (answer.usage or {}).get("prompt_tokens") if answer is not None else None
    return count if isinstance(count, int) else None


def culprit(error: Exception, names: Sequence[str]) -> str:
    """The field that a refusal is about; empty where it names none."""
    cause = error.__cause__
    param = re.split(r"[.\[]", cause.param)[0] if isinstance(cause, AttemptFailed) and cause.param else ""
    if param in names:
        return param
    named = [name for name in names if re.search(rf"\b{re.escape(name)}\b", str(error))]
    # `top_logprobs` is not about `logprobs`, nor is a model's name about `model`.
    return max((name for name in named if name not in EVERYWHERE), key=len, default="")


def smaller(values: Sequence[Any], error: Exception) -> list[Any]:
    """What is left to try of `values`, the first of which was refused: a limit that the refusal names, or
    what is below it."""
    first, *rest = values
    if not isinstance(first, int) or isinstance(first, bool):
        return rest
    said = _ANSWERED.sub("", str(error))
    named = {int(number) for number in _NUMBER.findall(said) if 0 < int(number) < first}
    return sorted({item for item in (*rest, *named) if not named or item <= max(named)}, reverse=True)
