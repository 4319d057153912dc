"""Frames to messages and back: JSON text or MessagePack, in both directions. No I/O.

A frame is a list of messages. What cannot be read is a `BadFrame` instead of an exception, and takes none of
the frame's other messages with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Generic, NamedTuple, TypeVar

import msgspec
import numpy as np

from dcmodel.errors import InvalidRequestError
from lmql_backends.lmtp.protocol.messages import BadFrame, ClientMessage, Part, ServerMessage

SUBPROTOCOL_PREFIX = "lmtp.v2."
SALVAGED_BYTES = 1 << 20
"""In larger frames, the good messages beside a bad one are kept only where the messages are few."""
FEW_MESSAGES = 1024
MAX_BAD = 64
"""Behind so many bad messages, a frame is not read on: complaints cost more time than messages."""
MAX_ID = (1 << 53) - 1
# Everything that msgspec raises for bytes from elsewhere; a RecursionError is no ValueError.
UNREADABLE = (msgspec.MsgspecError, ValueError, TypeError, RecursionError, OverflowError)

M = TypeVar("M")


class Decoded(NamedTuple, Generic[M]):
    """What a frame held."""

    messages: list[M]
    """In their order."""
    bad: list[BadFrame]
    """What could not be read; the conversation's number is there where it could be found."""


class _Numbered(Part):
    """As much of a message as tells which conversation it belongs to."""

    id: Any = None


class Codec:
    """One of the two forms of frames. Has no state of its own; used from any thread."""

    def __init__(self, name: str, format_: Any, *, is_text: bool) -> None:
        """`format_`: ``msgspec.json`` or ``msgspec.msgpack``."""
        self.name = name
        self.subprotocol = SUBPROTOCOL_PREFIX + name
        self.is_text = is_text
        """Whether frames are text; `encode` then returns a `str`, else `bytes`."""
        self._encode = format_.Encoder(enc_hook=plain).encode
        self._client = _Reader[ClientMessage](format_, ClientMessage)
        self._server = _Reader[ServerMessage](format_, ServerMessage)

    def __repr__(self) -> str:
        return f"<Codec {self.name}>"

    def encode(self, messages: Sequence[ClientMessage] | Sequence[ServerMessage]) -> str | bytes:
        """One frame. Raises `InvalidRequestError` for a text without a UTF-8 form (lone surrogates) and for
        whole numbers of more than 64 bits."""
        try:
            frame: bytes = self._encode(messages)
        except (ValueError, OverflowError, TypeError, RecursionError) as error:
            raise InvalidRequestError(
                f"a message cannot be encoded: {error}.", remedy="Send texts that have a UTF-8 form."
            ) from error
        return frame.decode() if self.is_text else frame

    def decode_client(self, frame: str | bytes) -> Decoded[ClientMessage]:
        """What a client sent. Raises nothing."""
        return self._client.read(frame, self._is_of_this_form(frame))

    def decode_server(self, frame: str | bytes) -> Decoded[ServerMessage]:
        """What a server sent. Raises nothing."""
        return self._server.read(frame, self._is_of_this_form(frame))

    def _is_of_this_form(self, frame: str | bytes) -> str:
        """Empty, or what is wrong. UTF-8 bytes are text, too."""
        if not self.is_text and isinstance(frame, str):
            return f"a text frame came where frames are binary ({self.subprotocol})."
        return ""


class _Reader(Generic[M]):
    """Decodes frames of one direction."""

    def __init__(self, format_: Any, message: Any) -> None:
        self._all = format_.Decoder(list[message])
        self._one = format_.Decoder(message)
        self._raw = format_.Decoder(list[msgspec.Raw])
        self._numbers = format_.Decoder(list[_Numbered])
        self._number = format_.Decoder(_Numbered)

    def read(self, frame: str | bytes, wrong: str) -> Decoded[M]:
        if wrong:
            return Decoded([], [BadFrame(message=wrong)])
        try:
            return Decoded(self._all.decode(frame), [])
        except UNREADABLE as error:
            return self._salvage(frame, error)

    def _salvage(self, frame: str | bytes, error: Exception) -> Decoded[M]:
        """The good messages of a frame that has a bad one."""
        try:
            if len(frame) > SALVAGED_BYTES and len(self._numbers.decode(frame)) > FEW_MESSAGES:
                return Decoded([], [_complaint("the frame", error)])
            raws = self._raw.decode(frame)
        except UNREADABLE:
            return Decoded([], [_complaint("the frame", error)])
        found: Decoded[M] = Decoded([], [])
        for place, raw in enumerate(raws):
            try:
                found.messages.append(self._one.decode(raw))
            except UNREADABLE as problem:
                found.bad.append(_complaint(f"message {place}", problem, self._id_of(raw)))
                if len(found.bad) == MAX_BAD:
                    found.bad.append(BadFrame(message=f"messages behind message {place} were not read."))
                    break
        return found

    def _id_of(self, raw: msgspec.Raw) -> int | None:
        try:
            number = self._number.decode(raw).id
        except UNREADABLE:
            return None
        is_id = isinstance(number, int) and not isinstance(number, bool) and 0 <= number <= MAX_ID
        return number if is_id else None


def _complaint(what: str, error: Exception, id_: int | None = None) -> BadFrame:
    reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
    return BadFrame(message=f"{what} cannot be read: {reason[:300]}.", id=id_)


def plain(value: object) -> object:
    """What msgspec does not know: read-only mappings (`SamplingParams.logit_bias`), numpy's numbers."""
    if isinstance(value, MappingProxyType):
        return value.copy()
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"a {type(value).__name__} cannot be sent")


JSON = Codec("json", msgspec.json, is_text=True)
MSGPACK = Codec("msgpack", msgspec.msgpack, is_text=False)
CODECS: Mapping[str, Codec] = MappingProxyType({codec.subprotocol: codec for codec in (MSGPACK, JSON)})
"""By subprotocol, those that a client should ask for first in front."""
