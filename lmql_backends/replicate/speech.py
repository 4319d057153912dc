"""`Speech`: how questions go into the input of a prediction, and how its output is read. No I/O."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from lmql_backends.lmtp.protocol import errors
from lmql_backends.lmtp.protocol.codec import JSON
from lmql_backends.lmtp.protocol.messages import (
    VERSION,
    BadFrame,
    ClientMessage,
    GoAway,
    Hello,
    ServerMessage,
    Welcome,
)
from lmql_backends.replicate.api import FRAME
from lmql_backends.replicate.asked import Asked, Framed

logger = logging.getLogger(__name__)
PEER = "dcmodel"


class Speech(ABC):
    """Has no state: one for all predictions."""

    is_numbered: bool
    """Whether answers say of themselves what they are behind: then a stream may be read on after a break,
    whatever the platform sends again or leaves out. If not, only the whole output is believed after one."""

    @abstractmethod
    def inputs(self, asked: Sequence[Asked[Any]]) -> dict[str, str]:
        """The prediction's inputs. Raises `InvalidRequestError` for what cannot be encoded."""

    @abstractmethod
    def read(self, line: str) -> Sequence[Any] | None:
        """What a line of the output says, each with the `id` of its question; None: it is no whole line."""


class Frames(Speech):
    """Version 2: one frame in, a frame per line out, both as JSON."""

    is_numbered = True

    def inputs(self, asked: Sequence[Asked[Any]]) -> dict[str, str]:
        messages: list[ClientMessage] = [Hello(versions=[VERSION], peer=PEER)]
        for item in asked:
            assert isinstance(item, Framed)
            messages += item.messages()
        frame = JSON.encode(messages)
        assert isinstance(frame, str)
        return {FRAME: frame}

    def read(self, line: str) -> list[ServerMessage] | None:
        found, bad = JSON.decode_server(line)
        if bad and not found:
            return None
        for complaint in bad:
            logger.warning("a prediction put out what cannot be read: %s", complaint.message)
        return [answer for message in found if (answer := _answer(message)) is not None]


def _answer(message: ServerMessage) -> ServerMessage | None:
    """None for what is about the prediction, and not about a question."""
    match message:
        case Welcome() | GoAway():
            return None
        case BadFrame(id=None):
            logger.warning("the predictor could not read what it was asked: %s", message.message)
            return None
        case BadFrame():
            assert message.id is not None
            return errors.to_wire(message.id, errors.from_bad_frame(message))
        case _:
            return message
