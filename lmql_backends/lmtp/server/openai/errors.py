"""Errors in OpenAI's shape: ``{"error": {"message", "type", "param", "code"}}`` and the status that fits."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping

import msgspec

from dcmodel.errors import (
    CapabilityError,
    ConnectionLostError,
    ContextLengthError,
    DcModelError,
    DeadEndError,
    InvalidRequestError,
    ModelClosedError,
    ModelNotFoundError,
    OverloadedError,
    RequestCancelledError,
    RetryableError,
)
from lmql_backends.lmtp.protocol.errors import code_of
from lmql_backends.lmtp.server.contracts import HttpResponse
from lmql_backends.lmtp.server.openai.fields import ChatBody, CompletionBody

logger = logging.getLogger(__name__)

STATUS: Mapping[type[DcModelError], int] = {
    InvalidRequestError: 400,
    CapabilityError: 400,
    ModelNotFoundError: 404,
    DeadEndError: 422,
    OverloadedError: 429,
    ConnectionLostError: 503,
    ModelClosedError: 503,
    RequestCancelledError: 503,
}
"""By class or base class; anything else is 500."""
CODES: Mapping[type[DcModelError], str] = {
    ContextLengthError: "context_length_exceeded",
    InvalidRequestError: "invalid_value",
    CapabilityError: "unsupported",
}
"""Where OpenAI has a name of its own; others go by that of their class."""
TYPES: Mapping[int, str] = {
    401: "authentication_error",
    403: "permission_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "server_error",
}
"""By status; anything else is an ``invalid_request_error``."""
PARAMS = frozenset((*CompletionBody.__struct_fields__, *ChatBody.__struct_fields__))
RETRY_SECONDS = 1.0
"""Said to clients that should come again, where nobody knows better."""


class FieldError(InvalidRequestError):
    """A field of the request's body that is wrong. ``param`` names it; ``code`` may be OpenAI's."""

    def __init__(
        self, param: str, message: str, *, remedy: str = "", code: str = "invalid_value", status: int = 400
    ) -> None:
        super().__init__(message, remedy=remedy)
        self.param = param
        self.code = code
        self.status = status


class ErrorBody(msgspec.Struct, kw_only=True):
    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorAnswer(msgspec.Struct):
    error: ErrorBody


def error_response(
    status: int,
    message: str,
    *,
    code: str | None = None,
    param: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> HttpResponse:
    """An error of the server's own, such as 401 or 413, in the shape that OpenAI's clients read."""
    return HttpResponse(status, _encoded(status, message, code, param), headers=headers or {})


def response_of(error: Exception) -> HttpResponse:
    """The answer for an error before anything was sent."""
    status, body = _described(error)
    return HttpResponse(status, msgspec.json.encode(ErrorAnswer(body)), headers=_retry_headers(status, error))


def event_of(error: Exception) -> bytes:
    """The last event of a stream that fails after it has begun."""
    return b"data: " + msgspec.json.encode(ErrorAnswer(_described(error)[1])) + b"\n\n"


def _described(error: Exception) -> tuple[int, ErrorBody]:
    if not isinstance(error, DcModelError):
        logger.error("a request failed unexpectedly", exc_info=error)
        message = f"The server failed unexpectedly ({type(error).__name__}). Its log says more."
        return 500, ErrorBody(message=message, type=TYPES[500], code="internal_error")
    if isinstance(error, FieldError):
        status, code, param = error.status, error.code, error.param or None
    else:
        status = _by_class(STATUS, error, 500)
        code = CODES.get(type(error)) or code_of(type(error))
        word = error.message.partition(" ")[0]  # messages begin with what they are about
        param = word if word in PARAMS else None
    kind = TYPES.get(status, "invalid_request_error")
    return status, ErrorBody(message=_sentence(error), type=kind, param=param, code=code)


def _by_class(table: Mapping[type[DcModelError], int], error: DcModelError, default: int) -> int:
    return next((table[kind] for kind in type(error).__mro__ if kind in table), default)


def _sentence(error: DcModelError) -> str:
    text = str(error)
    # What a client sent may be quoted in it.
    text = text.encode("utf-8", errors="replace").decode()
    return text[:1].upper() + text[1:]


def _retry_headers(status: int, error: Exception) -> dict[str, str]:
    if not isinstance(error, RetryableError) or status not in (429, 503):
        return {}
    seconds = RETRY_SECONDS if error.retry_after is None else error.retry_after
    return {"retry-after": str(max(math.ceil(seconds), 0))}


def _encoded(status: int, message: str, code: str | None, param: str | None) -> bytes:
    kind = TYPES.get(status, "invalid_request_error")
    return msgspec.json.encode(ErrorAnswer(ErrorBody(message=message, type=kind, param=param, code=code)))
