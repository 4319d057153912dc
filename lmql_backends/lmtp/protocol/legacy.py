"""Version 1: the text frames of LMQL's client and server, ``COMMAND {json}`` and ``COMMAND [{json}, ...]``.

The client sends GENERATE, SCORE and MODEL_INFO; the server answers with TOKEN (items of streams, several
streams in one frame) and MSG (answers to requests). What LMQL's client waits for, and what makes it hang,
is in docs/lmtp.md.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from lmql_backends.lmtp.protocol.messages import Count, TokenId

StreamId = int | float | str | None
"""The client's number of a stream; it comes back as it was."""


class _Command(msgspec.Struct, kw_only=True, gc=False):
    """Unknown fields are ignored: LMQL passes on what its user gave."""

    stream_id: StreamId
    model: str = ""


class LegacyGenerate(_Command, kw_only=True):
    prompt: list[TokenId]
    max_tokens: Count = 32
    temperature: float = 0.0
    logit_bias: dict[int, float] | None = None
    """All +100 (only these) or all -100 (never these), for every token of the stream."""
    top_logprobs: Count = 1
    top_p: float = 1.0
    top_k: Count = 0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0


class LegacyScore(_Command, kw_only=True):
    prompt: list[TokenId]
    scored: list[TokenId]


class LegacyModelInfo(_Command, kw_only=True):
    pass


LegacyCommand = LegacyGenerate | LegacyScore | LegacyModelInfo


class LegacyError(Exception):
    """A frame that says nothing. `stream_id`: whose it is, as far as can be read."""

    def __init__(self, message: str, *, stream_id: StreamId = None, is_stream: bool = False) -> None:
        super().__init__(message)
        self.message = message
        self.stream_id = stream_id
        self.is_stream = is_stream
        """Whether the client waits for items of a stream, and not for an answer."""


class TokenItem(msgspec.Struct, gc=False):
    """One token of a GENERATE stream."""

    token: int
    stream_id: StreamId
    logprob: float
    finish_reason: str | None
    top_logprobs: dict[int, float]
    """The chosen token first, then the likeliest."""


class ScoreItem(msgspec.Struct, gc=False):
    """One token of a SCORE stream."""

    token: int
    stream_id: StreamId
    logprob: float
    finish_reason: str | None


class ErrorItem(msgspec.Struct, gc=False):
    """The end of a stream (in TOKEN) or the answer to a request (in MSG)."""

    stream_id: StreamId
    error: str


class InfoItem(msgspec.Struct, gc=False, omit_defaults=True):
    """The answer to MODEL_INFO. With an error, too, it has the field that LMQL's client reads."""

    stream_id: StreamId
    model_info: Any
    error: str = ""


UNAVAILABLE = "<unavailable>"
"""`InfoItem.model_info` where nothing is known yet; the client asks again next time."""

_DECODERS: Mapping[str, msgspec.json.Decoder[Any]] = {
    "GENERATE": msgspec.json.Decoder(LegacyGenerate),
    "SCORE": msgspec.json.Decoder(LegacyScore),
    "MODEL_INFO": msgspec.json.Decoder(LegacyModelInfo),
}
_STREAMS = ("GENERATE", "SCORE")
_ENCODER = msgspec.json.Encoder()


def parse(frame: str) -> LegacyCommand:
    """What a frame of the client says. Raises `LegacyError`, and nothing else, where it says nothing."""
    name, _, body = frame.partition(" ")
    decoder = _DECODERS.get(name)
    if decoder is None:
        known = ", ".join(_DECODERS)
        raise LegacyError(
            f"there is no command {name!r:.40}. Send one of {known}, a space and a JSON object.",
            stream_id=_stream_id(body),
        )
    try:
        command: LegacyCommand = decoder.decode(body)
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise LegacyError(
            f"the {name} frame cannot be read: {reason:.300}.",
            stream_id=_stream_id(body),
            is_stream=name in _STREAMS,
        ) from None
    return command


def token_frame(items: Sequence[TokenItem | ScoreItem | ErrorItem]) -> str:
    """Items of streams, of any number of them, in one frame."""
    return "TOKEN " + _list(items)


def msg_frame(items: Sequence[InfoItem | ErrorItem]) -> str:
    """Answers to requests in one frame."""
    return "MSG " + _list(items)


def _list(items: Sequence[msgspec.Struct]) -> str:
    if all(map(_is_finite, items)):
        return _ENCODER.encode(items).decode()
    # Python's JSON, which LMQL reads with, has -Infinity; msgspec's would be null, at which it fails.
    return json.dumps(msgspec.to_builtins(items, str_keys=True), separators=(",", ":"))


def _is_finite(item: msgspec.Struct) -> bool:
    if isinstance(item, TokenItem):
        return math.isfinite(item.logprob) and all(map(math.isfinite, item.top_logprobs.values()))
    return not isinstance(item, ScoreItem) or math.isfinite(item.logprob)


def _stream_id(body: str) -> StreamId:
    """The number of the stream, from JSON of whatever quality: Python's, which LMQL writes with, has NaN."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return None
    stream_id = found.get("stream_id") if isinstance(found, dict) else None
    if isinstance(stream_id, str) and not stream_id.isprintable():
        return None
    if isinstance(stream_id, float) and not math.isfinite(stream_id):
        return None
    return stream_id if isinstance(stream_id, int | float | str) else None
