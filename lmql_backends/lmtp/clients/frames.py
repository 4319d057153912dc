"""From messages to frames that the other side takes."""

from __future__ import annotations

from collections.abc import Sequence

from dcmodel.errors import DcModelError, InvalidRequestError
from lmql_backends.lmtp.protocol import errors
from lmql_backends.lmtp.protocol.codec import Codec
from lmql_backends.lmtp.protocol.messages import ClientMessage, Failed, Hello


def frames_of(
    codec: Codec, messages: Sequence[ClientMessage], max_bytes: int
) -> tuple[list[str | bytes], list[Failed]]:
    """Frames of at most `max_bytes`, and answers to the messages that fit into none."""
    try:
        frame = codec.encode(messages)
        size = len(frame.encode()) if isinstance(frame, str) and not frame.isascii() else len(frame)
        if size <= max_bytes:
            return [frame], []
        error: DcModelError = InvalidRequestError(
            f"the request has {size} bytes, and the server takes {max_bytes}.", remedy="Ask for less at once."
        )
    except InvalidRequestError as failure:
        error = failure
    if len(messages) == 1:
        return [], _refused(messages[0], error)
    half = len(messages) // 2
    first, refused = frames_of(codec, messages[:half], max_bytes)
    second, more = frames_of(codec, messages[half:], max_bytes)
    return first + second, refused + more


def _refused(message: ClientMessage, error: DcModelError) -> list[Failed]:
    return [] if isinstance(message, Hello) else [errors.to_wire(message.id, error)]
