"""The double: the real routes behind the manners of another endpoint."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from functools import partial

import msgspec

from dcmodel.errors import ModelNotFoundError
from lmql_backends.lmtp.server.answers import json_answer
from lmql_backends.lmtp.server.contracts import (
    CutError,
    Handler,
    HttpRequest,
    HttpResponse,
    Models,
    Routes,
    ServedModel,
)
from lmql_backends.lmtp.server.openai.double.admission import admit, parse
from lmql_backends.lmtp.server.openai.double.decisions import decide
from lmql_backends.lmtp.server.openai.double.faults import AnyFault, Slow
from lmql_backends.lmtp.server.openai.double.happening import happen_to_whole, instead
from lmql_backends.lmtp.server.openai.double.limits import OpenAILimits
from lmql_backends.lmtp.server.openai.double.plan import FaultPlan
from lmql_backends.lmtp.server.openai.double.rates import Meter, RateLimits, expected_tokens
from lmql_backends.lmtp.server.openai.double.refusals import RefusalError, missing
from lmql_backends.lmtp.server.openai.double.shaper import OwnedBody, Shaper, shaped
from lmql_backends.lmtp.server.openai.double.shaping import shape_error
from lmql_backends.lmtp.server.openai.double.stream_faults import Sleep, happen_to_stream
from lmql_backends.lmtp.server.openai.double.wishes import CHATS, COMPLETIONS, DECISIONS, Json

MODELS = "/v1/models"
ADAPTER_ROUTES = ("/v1/load_lora_adapter", "/v1/unload_lora_adapter")
OWN_ROUTES = ("/tokenize", "/detokenize", *ADAPTER_ROUTES, "/v1/tokenizers/*")
"""Of our server, all but the last also of vLLM's."""
OWN_FIELDS = ("root", "parent", "state", "max_model_len")
"""Of models."""
KEPT = 10_000
"""Records."""


@dataclass(slots=True)
class Record:
    """One request, for tests that ask what came."""

    number: int
    path: str
    body: Json
    faults: tuple[AnyFault, ...] = ()
    status: int | None = None
    """Of the answer; None while there is none."""


class Double:
    """``LMTPServer(models, double=Double(limits, rates, plan))``. Belongs to one server."""

    def __init__(
        self,
        limits: OpenAILimits | None = None,
        rates: RateLimits | None = None,
        plan: FaultPlan | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        """Without `rates` and `plan`, nothing is ever too much, and nothing fails.

        `clock` and `sleep` are of one time; `wall`: seconds since 1970, for headers that hold dates.
        """
        self.limits = limits or OpenAILimits()
        self.rates = rates or RateLimits()
        self.plan = plan or FaultPlan()
        self.records: deque[Record] = deque(maxlen=KEPT)
        """Of requests for texts, the oldest first."""
        self._meters: dict[str, Meter] = {}
        self._new_meter = partial(Meter, self.rates, clock, wall)
        self._wall = wall
        self._sleep = sleep
        self._count = 0

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
        if self.limits.decisions:
            wrapped["POST", DECISIONS] = partial(self._generate, _no_route, models)
        return wrapped

    async def _generate(self, handler: Handler, models: Models, request: HttpRequest) -> HttpResponse:
        self._count += 1
        record = Record(self._count, request.path, {})
        self.records.append(record)
        headers = {"x-request-id": f"req_{record.number:012d}"}
        try:
            response = await self._answer(handler, models, request, record, headers)
        except RefusalError as refusal:
            response = refusal.response()
        except CutError:
            record.status = 0
            raise
        record.status = response.status
        return replace(response, headers={**headers, **response.headers})

    async def _answer(
        self,
        handler: Handler,
        models: Models,
        request: HttpRequest,
        record: Record,
        headers: dict[str, str],
    ) -> HttpResponse:
        """What a request gets, and what befalls it. `headers` is filled with those of the limits."""
        body = record.body = parse(request.body)
        faults = self.plan.next(request.path, body, request.body)
        record.faults = tuple(faults)
        if (response := await instead(faults, self._wall())) is not None:
            return response
        if self.limits.model_required and not body.get("model"):
            raise missing("model")
        async with AsyncExitStack() as stack:
            served = await self._served(models, body, stack)
            meter = self._meters.setdefault(served.name, self._new_meter())
            headers.update(meter.admit(served.name, expected_tokens(body)))
            response = await self._real(handler, request, body, served, faults, stack)
        if isinstance(response.body, bytes):
            await self._delay(faults)
            response = happen_to_whole(faults, response) if response.status == 200 else response
        return response

    async def _real(
        self,
        handler: Handler,
        request: HttpRequest,
        body: Json,
        served: ServedModel,
        faults: list[AnyFault],
        stack: AsyncExitStack,
    ) -> HttpResponse:
        """The answer of the real route, shaped. A stream takes over what `stack` holds."""
        if request.path == DECISIONS:
            return json_answer(await decide(body, served.name, served.llm))
        vocab_size = served.model.tokenizer.vocab_size
        wish = admit(body, self.limits, is_chat=request.path == CHATS, vocab_size=vocab_size)
        response = await handler(replace(request, body=msgspec.json.encode(wish.inner)))
        if response.status != 200:
            return _with(response, shape_error(_decoded(response), response.status))
        shaper = Shaper(wish, self.limits, served)
        if isinstance(response.body, bytes):
            return _with(response, await shaper.whole(_decoded(response)))
        events = happen_to_stream(faults, shaped(response.body, shaper), self._sleep)
        return replace(response, body=OwnedBody(events, response.body, stack.pop_all()))

    async def _delay(self, faults: list[AnyFault]) -> None:
        for fault in faults:
            if isinstance(fault, Slow):
                await self._sleep(fault.seconds)

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
            for name in OWN_FIELDS:
                model.pop(name, None)
        return _with(response, listed)


async def _no_route(request: HttpRequest) -> HttpResponse:
    raise AssertionError("decisions have no route behind the double")


def _decoded(response: HttpResponse) -> Json:
    assert isinstance(response.body, bytes)
    decoded: Json = msgspec.json.decode(response.body)
    return decoded


def _with(response: HttpResponse, body: Json) -> HttpResponse:
    return replace(response, body=msgspec.json.encode(body))
