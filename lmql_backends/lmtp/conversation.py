"""`Conversation`: one stream, question or session from the client's side."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Generic, TypeVar, cast

from dcmodel.errors import DcModelError, GenerationError
from lmql_backends.lmtp.hand_over import Wakeups
from lmql_backends.lmtp.protocol.messages import Cancel, ClientMessage, ServerMessage

if TYPE_CHECKING:
    from lmql_backends.lmtp.link import Link

T = TypeVar("T")


class Conversation(ABC):
    """All of it runs in the client's loop. The link numbers it; another link gives it another number."""

    def __init__(self) -> None:
        self.id = -1
        self.link: Link | None = None
        """On which it runs; None: it waits for one, or is over."""
        self.is_over = False
        self.losses = 0
        """Links that it lost since it last got any further; it counts from 0 again by itself."""

    @property
    def has_news(self) -> bool:
        """Whether the server has begun to answer."""
        return False

    @abstractmethod
    def opening(self) -> list[ClientMessage]:
        """What begins it, or takes it up where the last link left it; with the number `id`."""

    @abstractmethod
    def receive(self, message: ServerMessage) -> None:
        """An answer. Raises `DcModelError` for one that makes no sense, which ends it."""

    @abstractmethod
    def fail(self, error: DcModelError) -> None:
        """It ends with an error."""

    @abstractmethod
    def publish(self, wakeups: Wakeups) -> None:
        """Show the reader what came since the last time: the rest of the frame was taken in, too."""

    def lost(self) -> bool:
        """The link is gone: whether it is to be taken up on another one. If not, it has ended properly."""
        return True


class Question(Conversation, Generic[T]):
    """One message, one answer."""

    def __init__(
        self, ask: Callable[[int], ClientMessage], expects: type[T], loop: asyncio.AbstractEventLoop
    ) -> None:
        """`ask` makes the message with a number; `loop` is the caller's."""
        super().__init__()
        self.answer: asyncio.Future[T] = loop.create_future()
        self._ask = ask
        self._expects = expects
        self._loop = loop
        self._found: ServerMessage | None = None
        self._error: DcModelError | None = None

    def opening(self) -> list[ClientMessage]:
        return [self._ask(self.id)]

    def receive(self, message: ServerMessage) -> None:
        if not isinstance(message, self._expects):
            raise GenerationError(
                f"the server answered {type(message).__name__} where {self._expects.__name__} is due.",
                remedy="Use the same version on both sides.",
            )
        self._found = message
        self.is_over = True

    def fail(self, error: DcModelError) -> None:
        self._error = error
        self.is_over = True

    def publish(self, wakeups: Wakeups) -> None:
        if self.is_over:
            wakeups.add(self._loop, self._deliver)

    def cancel(self) -> None:
        """Nobody waits for the answer any more; it keeps its number until the answer is there."""
        if self.link is not None:
            self.link.send([Cancel(id=self.id)])
        else:
            self.is_over = True

    def lost(self) -> bool:
        if self.answer.cancelled():
            self.is_over = True
        return not self.is_over

    def _deliver(self) -> None:
        if self.answer.done():
            return
        if self._error is not None:
            self.answer.set_exception(self._error)
        else:
            self.answer.set_result(cast(T, self._found))
