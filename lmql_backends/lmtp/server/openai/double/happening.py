"""Faults as they happen: instead of an answer, and to whole answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from functools import partial
from http import HTTPStatus

import msgspec

from lmql_backends.lmtp.server.answers import json_answer
from lmql_backends.lmtp.server.contracts import CutError, HttpResponse
from lmql_backends.lmtp.server.openai.double.faults import (
    AnyFault,
    Close,
    CutJson,
    Error,
    Hang,
    Html,
    Indices,
    InsufficientQuota,
    NoChoices,
    RateLimited,
    Reset,
    RetryAfter,
    Truncated,
)
from lmql_backends.lmtp.server.openai.double.rates import retry_headers
from lmql_backends.lmtp.server.openai.double.refusals import error_body
from lmql_backends.lmtp.server.openai.double.wishes import Json

PAGE = "<html><head><title>{title}</title></head><body><center><h1>{title}</h1></center></body></html>\n"
NO_QUOTA = (
    "You exceeded your current quota, please check your plan and billing details. For more information on "
    "this error, read the docs: https://platform.openai.com/docs/guides/error-codes/api-errors."
)
SAID: dict[int, tuple[str, str, str | None]] = {
    400: ("The request could not be read.", "invalid_request_error", None),
    401: ("Incorrect API key provided: none.", "invalid_request_error", "invalid_api_key"),
    403: ("Country, region, or territory not supported.", "request_forbidden", "unsupported_country"),
    404: ("The model does not exist.", "invalid_request_error", "model_not_found"),
    408: ("The request timed out.", "timeout", None),
    429: ("Rate limit reached. Please try again later.", "requests", "rate_limit_exceeded"),
    500: ("The server had an error while processing your request. Sorry about that!", "server_error", None),
    503: ("The engine is currently overloaded, please try again later.", "server_error", "overloaded"),
}
"""Message, type and code with each status."""


async def instead(faults: Sequence[AnyFault], wall: float) -> HttpResponse | None:
    """The answer that one of them gives, if any gives one. `wall`: seconds since 1970.

    Raises `CutError`; a request that hangs waits here until its client goes away.
    """
    for fault in faults:
        match fault:
            case Error():
                return _error(fault, wall)
            case RateLimited():
                return _error(Error(status=429, retry_after=fault.retry_after), wall)
            case InsufficientQuota():
                kind = "insufficient_quota"
                return json_answer(error_body(NO_QUOTA, code=kind, kind=kind), status=429)
            case Hang():
                await forever()
            case Reset() | Close():
                raise CutError(reset=isinstance(fault, Reset))
    return None


async def forever() -> None:
    """Until whoever waits is cancelled."""
    await asyncio.Event().wait()


def happen_to_whole(faults: Sequence[AnyFault], response: HttpResponse) -> HttpResponse:
    """What becomes of a whole answer."""
    for fault in faults:
        body = response.body
        if not isinstance(body, bytes):
            break  # cut off already
        match fault:
            case Truncated():
                headers = {**response.headers, "content-length": str(len(body))}
                part = _cut_body(body[: int(len(body) * fault.kept)], reset=fault.reset)
                response = replace(response, body=part, headers=headers)
            case CutJson():
                response = replace(response, body=body[: int(len(body) * fault.kept)])
            case Html():
                response = replace(response, body=_page(200), content_type="text/html")
            case NoChoices():
                response = _rechosen(response, lambda choices: [])
            case Indices():
                response = _rechosen(response, partial(_misnumbered, fault))
    return response


def spoken(status: int, message: str | None = None, kind: str | None = None, code: str | None = None) -> Json:
    """The body of an error; what is not given is what OpenAI says with the status."""
    default = "server_error" if status >= 500 else "invalid_request_error"
    said = SAID.get(status, (HTTPStatus(status).phrase if status in set(HTTPStatus) else "", default, None))
    return error_body(message or said[0], kind=kind or said[1], code=code or said[2])


def _error(fault: Error, wall: float) -> HttpResponse:
    headers = _retry_headers(fault.retry_after, wall)
    if fault.should_retry is not None:
        headers["x-should-retry"] = "true" if fault.should_retry else "false"
    if fault.html:
        return HttpResponse(fault.status, _page(fault.status), "text/html", headers)
    body = spoken(fault.status, fault.message, fault.type, fault.code)
    return json_answer(body, status=fault.status, headers=headers)


def _retry_headers(given: RetryAfter | None, wall: float) -> dict[str, str]:
    return {} if given is None else retry_headers(given.seconds, given.form, wall)


def _page(status: int) -> bytes:
    title = f"{status} {HTTPStatus(status).phrase}" if status in set(HTTPStatus) else str(status)
    return PAGE.format(title=title).encode()


async def _cut_body(data: bytes, *, reset: bool) -> AsyncIterator[bytes]:
    if data:
        yield data
    raise CutError(reset=reset)


def _misnumbered(fault: Indices, choices: list[Json]) -> list[Json]:
    if fault.order == "reversed":
        return choices[::-1]
    return [{**choice, "index": 0} for choice in choices]


def _rechosen(response: HttpResponse, change: Callable[[list[Json]], list[Json]]) -> HttpResponse:
    """With other choices; the same where it has none, or is no JSON after another fault."""
    assert isinstance(response.body, bytes)
    try:
        answer = msgspec.json.decode(response.body)
    except msgspec.DecodeError:
        return response
    if "choices" not in answer:
        return response
    return replace(response, body=msgspec.json.encode({**answer, "choices": change(answer["choices"])}))
