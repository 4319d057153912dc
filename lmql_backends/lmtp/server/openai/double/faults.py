"""The faults that a plan may hold: their names and options, as a plan's file has them."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from lmql_backends.lmtp.server.openai.double.rates import RetryForm

Seconds = Annotated[float, Meta(ge=0)]
Number = Annotated[int, Meta(ge=1)]
Count = Annotated[int, Meta(ge=0)]
ErrorStatus = Annotated[int, Meta(ge=400, le=599)]
Span = Annotated[str, Meta(pattern=r"^[1-9][0-9]*-([1-9][0-9]*)?$")]


class Match(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which requests an entry is about; all that is given must hold."""

    route: Literal["completions", "chat", "decisions"] | None = None
    model: str | None = None
    stream: bool | None = None
    text: str | None = None
    """Stands in the body, as the client wrote its JSON."""


class RetryAfter(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    seconds: Seconds = 1.0
    form: RetryForm = "seconds"


class Fault(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="fault"):
    """When it happens; what happens is the matter of its kind. Without any of these: always."""

    requests: tuple[Number | Span, ...] | None = None
    """Numbers, from 1, and spans (``3-5``, ``9-``) among the requests that match."""
    rate: Annotated[float, Meta(ge=0, le=1)] = 1.0
    """The share of them that it hits; which ones, the plan's seed decides."""
    times: Number | None = None
    """At most so often."""
    match: Match = Match()


# -- instead of an answer ------------------------------------------------------------------------------


class Error(Fault, frozen=True, tag="error"):
    """Any status; what is not given is what OpenAI says with it."""

    status: ErrorStatus
    message: str | None = None
    type: str | None = None
    code: str | None = None
    retry_after: RetryAfter | None = None
    should_retry: bool | None = None
    """The header ``x-should-retry``, which OpenAI's clients obey."""
    html: bool = False
    """A proxy's page instead of JSON."""


class RateLimited(Fault, frozen=True, tag="rate_limited"):
    """429"""

    retry_after: RetryAfter = RetryAfter()


class InsufficientQuota(Fault, frozen=True, tag="insufficient_quota"):
    """429 that no waiting helps against."""


class Hang(Fault, frozen=True, tag="hang"):
    """No answer, ever."""


class Reset(Fault, frozen=True, tag="reset"):
    """RST instead of an answer."""


class Close(Fault, frozen=True, tag="close"):
    """FIN instead of an answer."""


Instead = Error | RateLimited | InsufficientQuota | Hang | Reset | Close

# -- whole answers -------------------------------------------------------------------------------------


class Truncated(Fault, frozen=True, tag="truncated"):
    """The connection ends within the body, whose length was said."""

    kept: Annotated[float, Meta(ge=0, lt=1)] = 0.5
    """The share of the body that is sent."""
    reset: bool = False


class CutJson(Fault, frozen=True, tag="cut_json"):
    """200, and the first part of the JSON as if it were all."""

    kept: Annotated[float, Meta(ge=0, lt=1)] = 0.5


class Html(Fault, frozen=True, tag="html"):
    """200, and a page."""


class NoChoices(Fault, frozen=True, tag="no_choices"):
    """200, and no text in it."""


class Indices(Fault, frozen=True, tag="indices"):
    """Choices whose numbers are all the same, or that come in the reverse order."""

    order: Literal["duplicate", "reversed"] = "duplicate"


Whole = Truncated | CutJson | Html | NoChoices | Indices

# -- streams -------------------------------------------------------------------------------------------


class Comments(Fault, frozen=True, tag="comments"):
    """A comment before each event."""

    text: str = "ping"


class Split(Fault, frozen=True, tag="split"):
    """Pieces of so many bytes, which end within characters and line ends."""

    size: Number = 1
    crlf: bool = False


class Merged(Fault, frozen=True, tag="merged"):
    """Several tokens per event."""

    tokens: Annotated[int, Meta(ge=2)] = 4


class EmptyChunk(Fault, frozen=True, tag="empty_chunk"):
    """A first event without choices, as Azure's."""


class After(Fault, frozen=True):
    """Base of those that come in the middle."""

    after: Count = 2
    """Events with text that come before it."""


class StreamReset(After, frozen=True, tag="stream_reset"):
    """RST"""


class StreamClose(After, frozen=True, tag="stream_close"):
    """FIN, without the end of the body."""


class StreamEnd(After, frozen=True, tag="stream_end"):
    """The body ends properly, without finish_reason and [DONE]."""


class NoDone(Fault, frozen=True, tag="no_done"):
    """Everything but [DONE]."""


class Stall(After, frozen=True, tag="stall"):
    """Nothing more, ever."""


class BadEvent(After, frozen=True, tag="bad_event"):
    """An event that is no JSON, and the end."""


class ErrorEvent(After, frozen=True, tag="error_event"):
    """An error as the last event."""

    status: ErrorStatus = 503
    message: str | None = None


Streamed = (
    Comments | Split | Merged | EmptyChunk | StreamReset | StreamClose | StreamEnd | NoDone | Stall | BadEvent
    | ErrorEvent
)  # fmt: skip

# -- both ----------------------------------------------------------------------------------------------


class Slow(Fault, frozen=True, tag="slow"):
    """So many seconds pass before an answer, or before the first event of a stream that has begun."""

    seconds: Seconds


AnyFault = Instead | Whole | Streamed | Slow
