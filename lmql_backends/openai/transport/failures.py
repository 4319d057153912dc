"""How one HTTP request can fail, whether another can help, and which error it becomes. No I/O."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import msgspec

from dcmodel.errors import (
    CapabilityError,
    ConnectionLostError,
    ContextLengthError,
    DcModelError,
    InvalidRequestError,
    ModelNotFoundError,
    OverloadedError,
    RetryableError,
    SetupError,
    UnauthorizedError,
)
from lmql_backends.openai.transport.rate_headers import retry_after

MAX_SHOWN = 500
NO_MONEY = frozenset({"insufficient_quota", "billing_hard_limit_reached", "billing_not_active"})
UNSUPPORTED = frozenset({"unsupported_parameter", "unsupported_value", "unknown_parameter"})
TOO_LONG = re.compile(
    r"context.length|maximum context|context window|too many tokens|max_model_len|n_ctx|request too large",
    re.I,
)
SHORTER = re.compile(r"\b(shorten|shorter|reduce|lower|fewer)\b", re.I)
"""A message that says what to do about a text that is too long."""
MODEL = re.compile(r"\bmodel\b", re.I)
"""Not in the path of a route, as ``/models``."""
PROMPT_PARAMS = frozenset({"prompt", "messages", "input"})


class Kind(StrEnum):
    """What went wrong, as far as it decides what to do next."""

    PERMANENT = "permanent"
    """The same request will fail again."""
    RATE_LIMITED = "rate limited"
    UNAVAILABLE = "unavailable"
    """The server says that it cannot, now."""
    TIMEOUT = "timeout"
    CONNECTION = "connection"
    """Refused, reset, or torn in the middle."""
    BAD_RESPONSE = "bad response"
    """Success by its status, nonsense by its content."""


@dataclass(eq=False)
class AttemptFailed(Exception):
    """One HTTP request failed. Never leaves the transport: `to_error` makes what callers see."""

    kind: Kind
    message: str
    status: int = 0
    code: str = ""
    param: str = ""
    retry_after: float | None = None

    def __post_init__(self) -> None:
        Exception.__init__(self, self.message)

    @property
    def is_permanent(self) -> bool:
        return self.kind is Kind.PERMANENT

    @property
    def may_be_one_prompt(self) -> bool:
        """Whether one prompt of several may be at fault, so that the others deserve another try."""
        is_about_input = not self.param or self.param.partition("[")[0].partition(".")[0] in PROMPT_PARAMS
        return self.is_permanent and self.status in (400, 413, 422, 500) and is_about_input


class _Error(msgspec.Struct):
    message: Any = ""
    type: Any = ""
    param: Any = ""
    code: Any = ""


class _ErrorBody(msgspec.Struct):
    error: _Error | str | None = None
    message: Any = ""
    type: Any = ""
    param: Any = ""
    code: Any = ""
    detail: Any = ""


_decode = msgspec.json.Decoder(_ErrorBody).decode


def from_response(status: int, headers: Mapping[str, str], body: bytes, wall_time: float) -> AttemptFailed:
    """The failure that a response with an error's status means."""
    if 300 <= status < 400:
        message = f"a redirection to {headers.get('location', 'nowhere')}"
        return AttemptFailed(Kind.PERMANENT, message, status=status)
    wait = retry_after(headers, wall_time)
    return _with_details(status, _details(body), wait, headers.get("x-should-retry"))


def from_event(error: Any) -> AttemptFailed:
    """The failure that an ``{"error": …}`` in the middle of a stream means."""
    details = _details(msgspec.json.encode({"error": error}))
    known = {
        "rate_limit_exceeded": 429,
        "rate_limit_error": 429,
        "overloaded_error": 503,
        "server_error": 500,
    }
    status = int(details.code) if _is_status(details.code) else known.get(details.code, 0)
    return _with_details(status or known.get(details.type, 500), details, None, None)


def from_sdk(error: Exception) -> DcModelError:
    """What an error of the `openai` SDK means; raises `TypeError` for anything else."""
    import time

    import openai

    if isinstance(error, openai.APIStatusError):
        body = error.response.content
        return to_error(from_response(error.status_code, error.response.headers, body, time.time()))
    if isinstance(error, openai.APITimeoutError):
        return to_error(AttemptFailed(Kind.TIMEOUT, "no answer in time"))
    if isinstance(error, openai.APIConnectionError):
        return to_error(AttemptFailed(Kind.CONNECTION, str(error.__cause__ or error)))
    if isinstance(error, openai.OpenAIError):
        return SetupError(f"the openai package refuses: {error}")
    raise TypeError(f"{type(error).__name__} is no error of the openai package")


def to_error(failure: AttemptFailed, where: str = "the endpoint") -> DcModelError:
    """The error that a caller sees, when nothing more is tried."""
    text = f"{where} answered {failure.status}: {failure.message}" if failure.status else failure.message
    match failure.kind:
        case Kind.PERMANENT:
            return _permanent(failure, text)
        case Kind.RATE_LIMITED:
            return OverloadedError(f"{text}.", remedy=_when(failure), retry_after=failure.retry_after)
        case Kind.UNAVAILABLE if failure.status in (503, 529):
            return OverloadedError(f"{text}.", remedy=_when(failure), retry_after=failure.retry_after)
        case Kind.UNAVAILABLE:
            return RetryableError(f"{text}.", remedy="Try again later.", retry_after=failure.retry_after)
        case Kind.BAD_RESPONSE:
            return RetryableError(
                f"{where} gave no answer of an OpenAI-compatible API: {failure.message}.",
                remedy="Check base_url: it ends with /v1 in most cases.",
            )
        case Kind.TIMEOUT | Kind.CONNECTION:
            return ConnectionLostError(
                f"{where} could not be reached, or broke off: {failure.message}.",
                remedy="Check that the server runs and that base_url names it.",
            )


@dataclass(frozen=True, slots=True)
class _Details:
    message: str
    type: str
    param: str
    code: str


def _details(body: bytes) -> _Details:
    try:
        parsed = _decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return _Details(_shown(body.decode(errors="replace").strip()), "", "", "")
    if isinstance(parsed.error, _Error):
        source: _Error | _ErrorBody = parsed.error
        message = source.message
    else:
        source, message = parsed, parsed.error or parsed.message or parsed.detail
    return _Details(
        _shown(message if isinstance(message, str) else str(message)),
        str(source.type or ""),
        str(source.param or ""),
        str(source.code or ""),
    )


def _with_details(
    status: int, details: _Details, wait: float | None, should_retry: str | None
) -> AttemptFailed:
    return AttemptFailed(
        kind=_kind(status, details, should_retry),
        message=details.message or "no message",
        status=status,
        code=details.code or details.type,
        param=details.param,
        retry_after=wait,
    )


def _kind(status: int, details: _Details, should_retry: str | None) -> Kind:
    if details.code in NO_MONEY or details.type in NO_MONEY or should_retry == "false":
        return Kind.PERMANENT
    if status == 429:
        # More tokens than a minute's allowance: it can never pass.
        is_too_large = details.message.lower().startswith("request too large")
        return Kind.PERMANENT if is_too_large else Kind.RATE_LIMITED
    if status in (408, 409, 425) or (status >= 500 and status not in (501, 505)) or should_retry == "true":
        return Kind.UNAVAILABLE
    return Kind.PERMANENT


def _permanent(failure: AttemptFailed, text: str) -> DcModelError:
    if failure.code in NO_MONEY:
        return SetupError(f"{text}.", remedy="Add credit to the account, or use another key.")
    if 300 <= failure.status < 400:
        return SetupError(f"{text}.", remedy="Set base_url to that address.")
    if failure.status == 401:
        return UnauthorizedError(f"{text}.", remedy="Set OPENAI_API_KEY, or pass api_key=.")
    if failure.status == 403:
        return UnauthorizedError(f"{text}.", remedy="This key may not use that model here: use another.")
    if failure.status == 404 and (failure.code == "model_not_found" or MODEL.search(failure.message)):
        return ModelNotFoundError(f"{text}.", remedy="`GET /models` of the endpoint lists its models.")
    if failure.status in (404, 405, 501):
        return CapabilityError(f"{text}.", remedy="The endpoint has no such route; check base_url.")
    if failure.code == "context_length_exceeded" or TOO_LONG.search(failure.message):
        is_said = SHORTER.search(failure.message) is not None
        return ContextLengthError(
            f"{text}.", remedy="" if is_said else "Shorten the prompt, or lower max_tokens."
        )
    if failure.code in UNSUPPORTED:
        return CapabilityError(f"{text}.", remedy=f"Leave {failure.param or 'it'} out, or use another model.")
    if failure.status >= 500 or failure.status == 429:
        return SetupError(f"{text}.", remedy="The server says that another try is of no use.")
    return InvalidRequestError(f"{text}.")


def _when(failure: AttemptFailed) -> str:
    if failure.retry_after is None:
        return "Try again later, or send less at once."
    return f"The server asks to wait {failure.retry_after:g} seconds."


def _is_status(code: str) -> bool:
    return code.isascii() and code.isdigit() and 400 <= int(code) < 600


def _shown(text: str) -> str:
    return text.rstrip(".") if len(text) <= MAX_SHOWN else text[:MAX_SHOWN] + "…"
