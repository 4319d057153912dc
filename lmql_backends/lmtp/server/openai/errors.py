"""Errors in OpenAI's shape: ``{"error": {"message", "type", "param", "code"}}`` and the status that fits."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Mapping

import msgspec

from dcmodel.errors import (
    CapabilityError,
    ContextLengthError,
    DcModelError,
    DeadEndError,
    InvalidRequestError,
    RequestCancelledError,
    RetryableError,
    UnauthorizedError,
)
from lmql_backends.lmtp.protocol.errors import code_of
from lmql_backends.lmtp.server import answers
from lmql_backends.lmtp.server.contracts import HttpResponse
from lmql_backends.lmtp.server.openai.fields import ChatBody, CompletionBody

logger = logging.getLogger(__name__)

STATUSES: tuple[tuple[type[DcModelError], int], ...] = (
    (DeadEndError, 422),
    (RequestCancelledError, 503),
    (UnauthorizedError, 500),  # a worker's word to this server, not this server's to its client
    *answers.STATUSES,
)
"""What is none of them is a 500."""
CODES: Mapping[type[DcModelError], str] = {
    ContextLengthError: "context_length_exceeded",
    InvalidRequestError: "invalid_value",
    CapabilityError: "unsupported",
}
"""Where OpenAI has a name of its own; others go by that of their class."""
PARAMS = frozenset((*CompletionBody.__struct_fields__, *ChatBody.__struct_fields__))
FIRST_WORD = re.compile(r"\w*")
RETRY_SECONDS = 1.0
"""Said to clients that should come again, where nobody knows better."""


class FieldError(InvalidRequestError):
    """A field of the request's body that is wrong. ``param`` names it; ``code`` may be OpenAI's."""

    def __init__(self, param: str, message: str, *, remedy: str = "", code: str = "invalid_value") -> None:
        super().__init__(message, remedy=remedy)
        self.param = param
        self.code = code

    @classmethod
    def about(cls, param: str, error: DcModelError) -> FieldError:
        """An error that is known to be about this field."""
        return cls(param, error.message, remedy=error.remedy, code=code_for(error))


class ErrorBody(msgspec.Struct, kw_only=True):
    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorAnswer(msgspec.Struct):
    error: ErrorBody


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
        return 500, ErrorBody(message=message, type=_type(500), code="internal_error")
    status = next((status for kind, status in STATUSES if isinstance(error, kind)), 500)
    if isinstance(error, FieldError):
        code, param = error.code, error.param or None
    else:
        code = code_for(error)
        word = error.message.partition(" ")[0]  # messages begin with what they are about
        param = word if word in PARAMS else None
    return status, ErrorBody(message=_sentence(error), type=_type(status), param=param, code=code)


def code_for(error: DcModelError) -> str:
    """OpenAI's name of an error, or that of its class."""
    return CODES.get(type(error)) or code_of(type(error))


def _type(status: int) -> str:
    return answers.TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")


def _sentence(error: DcModelError) -> str:
    text = str(error)
    # What a client sent may be quoted in it.
    text = text.encode("utf-8", errors="replace").decode()
    if _begins_with_field(text, error):
        return text
    return text[:1].upper() + text[1:]


def _begins_with_field(text: str, error: DcModelError) -> bool:
    """The name of a field is written as it is."""
    word = FIRST_WORD.match(text)
    own = FIRST_WORD.match(error.param) if isinstance(error, FieldError) else None
    return bool(word and word[0] and (word[0] in PARAMS or (own and own[0] == word[0])))


def _retry_headers(status: int, error: Exception) -> dict[str, str]:
    if not isinstance(error, RetryableError) or status not in (429, 503):
        return {}
    seconds = RETRY_SECONDS if error.retry_after is None else error.retry_after
    return {"retry-after": str(max(math.ceil(seconds), 0))}
