"""How a request to Replicate, or a prediction, can fail, and which error it becomes. No I/O."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import Any

import msgspec

from dcmodel.errors import (
    ConnectionLostError,
    DcModelError,
    EngineError,
    InvalidRequestError,
    ModelNotFoundError,
    OverloadedError,
    RequestCancelledError,
    RetryableError,
    SetupError,
    UnauthorizedError,
)

MAX_SHOWN = 500
_RESETS = re.compile(r"resets? in ~?\s*([0-9.]+)\s*(ms|s|m)\b")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0}
_INTERRUPTED = re.compile(r"\(code: PA\)|prediction interrupted|please retry|\bE1000\b|\bE8367\b", re.I)
"""Failures of the platform that its own text says to try again."""


class Kind(StrEnum):
    """What went wrong, as far as it decides what to do next."""

    PERMANENT = "permanent"
    """The same request will fail again."""
    FAILED = "failed"
    """The prediction itself: it ran, and will fail again, unless only one of its questions is to blame."""
    CANCELED = "canceled"
    """Not by us."""
    RATE_LIMITED = "rate limited"
    UNAVAILABLE = "unavailable"
    """The platform cannot, now."""
    TIMEOUT = "timeout"
    CONNECTION = "connection"
    BAD_RESPONSE = "bad response"
    """Success by its status, nonsense by its content."""


_FINAL = frozenset({Kind.PERMANENT, Kind.FAILED, Kind.CANCELED})


@dataclass(eq=False)
class AttemptFailed(Exception):
    """Never leaves this package: `to_error` makes what callers see."""

    kind: Kind
    message: str
    status: int = 0
    retry_after: float | None = None

    def __post_init__(self) -> None:
        Exception.__init__(self, self.message)

    @property
    def is_permanent(self) -> bool:
        return self.kind in _FINAL

    @property
    def may_be_one_question(self) -> bool:
        """Whether one question of several may be at fault, so that the others deserve another try."""
        return self.kind is Kind.FAILED or (self.is_permanent and self.status == 413)


class _Problem(msgspec.Struct):
    """RFC 7807, as Replicate has it."""

    title: Any = ""
    detail: Any = ""


_decode = msgspec.json.Decoder(_Problem).decode


def from_response(status: int, headers: Mapping[str, str], body: bytes, wall_time: float) -> AttemptFailed:
    """The failure that a response with an error's status means."""
    text = _text_of(body)
    if 300 <= status < 400:
        return AttemptFailed(Kind.PERMANENT, f"a redirection to {headers.get('location', 'nowhere')}", status)
    if status == 429:
        wait = _asked_wait(headers, wall_time)
        return AttemptFailed(Kind.RATE_LIMITED, text, status, _told_wait(text) if wait is None else wait)
    if status == 408 or status >= 500:
        return AttemptFailed(Kind.UNAVAILABLE, text, status, _asked_wait(headers, wall_time))
    return AttemptFailed(Kind.PERMANENT, text, status)


def from_status(status: str, error: object) -> AttemptFailed | None:
    """The failure that a prediction's last status means; None: it succeeded."""
    text = str(error or "").strip()[:MAX_SHOWN]
    match status:
        case "succeeded":
            return None
        case "aborted":
            return AttemptFailed(Kind.UNAVAILABLE, "the prediction was aborted before it could start")
        case "canceled":
            return AttemptFailed(Kind.CANCELED, text or "the prediction was canceled")
        case _:
            kind = Kind.UNAVAILABLE if _INTERRUPTED.search(text) else Kind.FAILED
            return AttemptFailed(kind, f"the prediction failed: {text or 'it does not say why'}")


def to_error(failure: AttemptFailed, name: str) -> DcModelError:
    """What the caller sees."""
    status = f" (status {failure.status})" if failure.status else ""
    said = f"{name}: {failure.message.rstrip('.')}{status}."
    match failure.kind, failure.status:
        case Kind.FAILED, _:
            return EngineError(said, remedy="The prediction's logs on replicate.com say more.")
        case Kind.CANCELED, _:
            return RequestCancelledError(said, remedy="Somebody else, or its deadline, ended it.")
        case Kind.PERMANENT, 401 | 403:
            return UnauthorizedError(
                said, remedy='Set REPLICATE_API_TOKEN (extra={"token": ...}) to one that may use it.'
            )
        case Kind.PERMANENT, 402:
            return SetupError(said, remedy="Set up billing for the account of the token.")
        case Kind.PERMANENT, 404 | 410:
            return ModelNotFoundError(said, remedy="Check owner, name and version on replicate.com.")
        case Kind.PERMANENT, _:
            return InvalidRequestError(said, remedy="Ask for less at once, or check the model's inputs.")
        case Kind.CONNECTION | Kind.TIMEOUT, _:
            return ConnectionLostError(said, remedy="Check the network and REPLICATE_BASE_URL; try again.")
        case Kind.BAD_RESPONSE, _:
            return RetryableError(said, remedy="Try again.")
        case _:
            return OverloadedError(said, remedy="Try again later.", retry_after=failure.retry_after)


def _text_of(body: bytes) -> str:
    try:
        problem = _decode(body)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return body[:MAX_SHOWN].decode(errors="replace").strip() or "no reason given"
    parts = [str(part) for part in (problem.title, problem.detail) if part]
    return ": ".join(parts)[:MAX_SHOWN] or "no reason given"


def _asked_wait(headers: Mapping[str, str], wall_time: float) -> float | None:
    """Of ``Retry-After``: seconds or a date."""
    value = headers.get("retry-after", "").strip()
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - wall_time
        except ValueError:
            return None
    return max(seconds, 0.0) if math.isfinite(seconds) else None


def _told_wait(text: str) -> float | None:
    """``Your rate limit resets in ~30s.``"""
    found = _RESETS.search(text)
    try:
        return None if found is None else float(found[1]) * _UNITS[found[2]]
    except ValueError:
        return None
