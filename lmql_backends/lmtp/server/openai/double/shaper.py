"""One answer of the real routes on its way to the client: log-probabilities, then what is shown."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import msgspec

from lmql_backends.lmtp.server.contracts import ServedModel
from lmql_backends.lmtp.server.openai.chat_job import make_job as make_chat_job
from lmql_backends.lmtp.server.openai.completion_job import make_job as make_text_job
from lmql_backends.lmtp.server.openai.double.limits import OpenAILimits
from lmql_backends.lmtp.server.openai.double.processed import biased_rows, show_rows
from lmql_backends.lmtp.server.openai.double.shaping import shape_answer, shape_event
from lmql_backends.lmtp.server.openai.double.wishes import Json, Wish
from lmql_backends.lmtp.server.openai.fields import ChatBody, CompletionBody
from lmql_backends.lmtp.server.openai.logprobs import TokenNames
from lmql_backends.lmtp.server.openai.reading import read

DONE = b"[DONE]"


class Shaper:
    """Of the answer to one request."""

    def __init__(self, wish: Wish, limits: OpenAILimits, served: ServedModel) -> None:
        self._wish = wish
        self._limits = limits
        self._served = served
        self._names = TokenNames(served.model.tokenizer)
        self._prefixes: dict[int, list[int]] = {}
        """Of streams: the tokens of each choice so far."""
        self._has_bias = bool(limits.logprobs == "processed" and wish.bias and wish.tops is not None)
        self._prompts = self._prompt_ids() if self._has_bias else []

    async def whole(self, answer: Json) -> Json:
        if self._has_bias:
            for choice in answer["choices"]:
                if choice.get("logprobs"):
                    await self._apply_bias(choice["logprobs"], choice["index"], choice["token_ids"])
        return shape_answer(answer, self._wish, self._limits)

    async def event(self, event: Json) -> Json | None:
        if self._has_bias:
            for choice in event.get("choices", ()):
                if choice.get("logprobs") and choice["token_ids"]:
                    await self._apply_bias(choice["logprobs"], choice["index"], choice["token_ids"])
        return shape_event(event, self._wish, self._limits)

    async def _apply_bias(self, logprobs: Json, index: int, token_ids: list[int]) -> None:
        prompt = self._prompts[index // self._wish.texts]
        if index not in self._prefixes and self._wish.is_stream and token_ids == prompt:
            return  # the echo
        prefix = self._prefixes.setdefault(index, list(prompt))
        prefixes = []
        for token_id in token_ids:
            prefixes.append(tuple(prefix))
            prefix.append(token_id)
        allowed = self._wish.inner.get("allowed_token_ids")
        rows = await biased_rows(self._served.model, prefixes, self._wish.bias, allowed)
        tops = max(self._wish.tops or 0, self._wish.inner.get("top_logprobs", 0))
        show_rows(logprobs, rows, token_ids, self._names, tops)

    def _prompt_ids(self) -> list[list[int]]:
        data = msgspec.json.encode(self._wish.inner)
        if self._wish.is_chat:
            job = make_chat_job(read(data, ChatBody), self._served)
        else:
            job = make_text_job(read(data, CompletionBody), self._served)
        return [list(prompt.prompt_ids) for prompt in job.prompts]


async def shaped(parts: AsyncIterator[bytes], shaper: Shaper) -> AsyncIterator[bytes]:
    """The data of a stream's events, one by one, shaped."""
    async for part in parts:
        for event in part.split(b"\n\n"):
            data = event.removeprefix(b"data: ")
            if data == DONE:
                yield DONE
            elif data and (made := await shaper.event(msgspec.json.decode(data))) is not None:
                yield msgspec.json.encode(made)


class OwnedBody(AsyncIterator[bytes]):
    """The body of a stream, with all that it is made of and holds, also where nobody ever iterates."""

    def __init__(
        self, body: AsyncIterator[bytes], source: AsyncIterator[bytes], stack: AsyncExitStack
    ) -> None:
        """`source`: the real route's body; `stack`: what is freed at the end."""
        self._body = body
        self._stack = stack
        stack.push_async_callback(_close, source)
        stack.push_async_callback(_close, body)

    async def __anext__(self) -> bytes:
        return await anext(self._body)

    async def aclose(self) -> None:
        await self._stack.aclose()


async def _close(body: AsyncIterator[bytes]) -> None:
    close: Any = getattr(body, "aclose", None)
    if close is not None:
        await close()
