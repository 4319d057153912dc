"""Answers in JSON; errors in the shape that OpenAI's clients read."""

from __future__ import annotations

import math
from collections.abc import Mapping

import msgspec

from dcmodel.errors import (
    AdapterLoadError,
    AdapterNotFoundError,
    CapabilityError,
    DcModelError,
    InvalidRequestError,
    ModelClosedError,
    ModelNotFoundError,
    OverloadedError,
    RetryableError,
    UnauthorizedError,
)
from lmql_backends.lmtp.protocol.errors import code_of
from lmql_backends.lmtp.server.contracts import HttpResponse

TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "overloaded_error",
}
STATUSES: tuple[tuple[type[DcModelError], int], ...] = (
    (AdapterNotFoundError, 404),
    (InvalidRequestError, 400),
    (CapabilityError, 400),
    (ModelNotFoundError, 404),
    (AdapterLoadError, 400),
    (UnauthorizedError, 401),
    (ModelClosedError, 503),
    (OverloadedError, 429),
    (RetryableError, 503),
)
"""What is none of them is a 500."""


def json_answer(
    value: object, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> HttpResponse:
    return HttpResponse(status=status, body=msgspec.json.encode(value), headers=headers or {})


def json_error(
    status: int,
    message: str,
    *,
    code: str,
    remedy: str = "",
    headers: Mapping[str, str] | None = None,
) -> HttpResponse:
    kind = TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    text = f"{message} {remedy}".rstrip()
    error = {"message": text, "type": kind, "param": None, "code": code}
    return json_answer({"error": error}, status=status, headers=headers)


def error_answer(error: DcModelError) -> HttpResponse:
    """What a route let through."""
    status = next((status for kind, status in STATUSES if isinstance(error, kind)), 500)
    headers: dict[str, str] = {}
    if isinstance(error, RetryableError) and error.retry_after is not None:
        headers["retry-after"] = str(math.ceil(error.retry_after))
    return json_error(status, error.message, code=code_of(type(error)), remedy=error.remedy, headers=headers)
