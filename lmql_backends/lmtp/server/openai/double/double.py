"""The double: the real routes behind the manners of another endpoint."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial
from typing import Any

import msgspec

from dcmodel.errors import ModelNotFoundError
from lmql_backends.lmtp.server.contracts import (
    Handler,
    HttpRequest,
    HttpResponse,
    Models,
    Routes,
    ServedModel,
)
from lmql_backends.lmtp.server.openai.chat_job import make_job as make_chat_job
from lmql_backends.lmtp.server.openai.completion_job import make_job as make_text_job
from lmql_backends.lmtp.server.openai.double.admission import admit, parse
from lmql_backends.lmtp.server.openai.double.limits import OpenAILimits
from lmql_backends.lmtp.server.openai.double.processed import biased_rows, show_rows
from lmql_backends.lmtp.server.openai.double.refusals import RefusalError, missing
from lmql_backends.lmtp.server.openai.double.shaping import shape_answer, shape_error, shape_event
from lmql_backends.lmtp.server.openai.double.wishes import CHATS, COMPLETIONS, Json, Wish
from lmql_backends.lmtp.server.openai.fields import ChatBody, CompletionBody
from lmql_backends.lmtp.server.openai.logprobs import TokenNames
from lmql_backends.lmtp.server.openai.reading import read

MODELS = "/v1/models"
OWN_ROUTES = ("/tokenize", "/detokenize")
"""Of our server and vLLM's."""
EVENT = b"data: "
"""How an event begins; it ends with an empty line."""


class Double:
    """``LMTPServer(models, double=Double(OpenAILimits()))``."""

    def __init__(self, limits: OpenAILimits | None = None) -> None:
        self.limits = limits or OpenAILimits()

    def wrap(self, routes: Routes, models: Models) -> Routes:
        """The routes over these models, with the double's manners."""
        wrapped = dict(routes)
        for (method, path), handler in routes.items():
            if path in (COMPLETIONS, CHATS):
                wrapped[method, path] = partial(self._generate, handler, models)
            elif path.startswith(MODELS):
                wrapped[method, path] = partial(self._list, handler)
            elif path in OWN_ROUTES and not self.limits.own_routes:
                del wrapped[method, path]
        return wrapped

    async def _generate(self, handler: Handler, models: Models, request: HttpRequest) -> HttpResponse:
        try:
            body = parse(request.body)
            if self.limits.model_required and not body.get("model"):
                raise missing("model")
            async with AsyncExitStack() as stack:
                served = await self._served(models, body, stack)
                vocab_size = served.model.tokenizer.vocab_size
                wish = admit(body, self.limits, is_chat=request.path == CHATS, vocab_size=vocab_size)
                inner = replace(request, body=msgspec.json.encode(wish.inner))
                response = await handler(inner)
                if response.status != 200:
                    return _with(response, shape_error(_decoded(response), response.status))
                shaper = _Shaper(wish, self.limits, served)
                if isinstance(response.body, bytes):
                    return _with(response, await shaper.whole(_decoded(response)))
                stream = _shaped(response.body, shaper, stack.pop_all())
                return replace(response, body=stream)
        except RefusalError as refusal:
            return refusal.response()

    async def _served(self, models: Models, body: Json, stack: AsyncExitStack) -> ServedModel:
        name = body.get("model") or ""
        try:
            return await stack.enter_async_context(models.use(name if isinstance(name, str) else ""))
        except ModelNotFoundError:
            raise RefusalError(
                f"The model `{name!s:.200}` does not exist or you do not have access to it.",
                status=404,
                code="model_not_found",
            ) from None

    async def _list(self, handler: Handler, request: HttpRequest) -> HttpResponse:
        response = await handler(request)
        if response.status != 200 or self.limits.own_routes:
            return response
        listed = _decoded(response)
        for model in listed.get("data", [listed]):
            model["owned_by"] = "system"
        return _with(response, listed)


class _Shaper:
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


async def _shaped(
    parts: AsyncIterator[bytes], shaper: _Shaper, stack: AsyncExitStack
) -> AsyncIterator[bytes]:
    """The events of a stream, shaped; whatever arrived together leaves together."""
    async with stack:
        try:
            async for part in parts:
                events = [await _shaped_event(event, shaper) for event in part.split(b"\n\n") if event]
                if data := b"".join(events):
                    yield data
        finally:
            close: Any = getattr(parts, "aclose", None)
            if close is not None:
                await close()


async def _shaped_event(event: bytes, shaper: _Shaper) -> bytes:
    data = event.removeprefix(EVENT)
    if data == b"[DONE]":
        return event + b"\n\n"
    shaped = await shaper.event(msgspec.json.decode(data))
    return b"" if shaped is None else EVENT + msgspec.json.encode(shaped) + b"\n\n"


def _decoded(response: HttpResponse) -> Json:
    assert isinstance(response.body, bytes)
    decoded: Json = msgspec.json.decode(response.body)
    return decoded


def _with(response: HttpResponse, body: Json) -> HttpResponse:
    return replace(response, body=msgspec.json.encode(body))
