"""`Link`: one open connection and the conversations on it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from itertools import count

from dcmodel.errors import ConnectionLostError, DcModelError, SetupError
from lmql_backends.lmtp.clients.transport import Connector, Transport
from lmql_backends.lmtp.conversation import Conversation
from lmql_backends.lmtp.hand_over import Wakeups
from lmql_backends.lmtp.protocol import errors
from lmql_backends.lmtp.protocol.messages import (
    VERSION,
    BadFrame,
    Cancel,
    ClientMessage,
    Failed,
    GoAway,
    Hello,
    ServerMessage,
    Welcome,
)

logger = logging.getLogger(__name__)


class Link:
    """Lives in the client's loop. Everything sent in one turn of the loop leaves in one frame."""

    def __init__(
        self, name: str, on_free: Callable[[Link], None], on_lost: Callable[[Link, DcModelError], None]
    ) -> None:
        """`on_free`: a conversation ended, or the server sends this client away."""
        self.name = name
        self.conversations: dict[int, Conversation] = {}
        self.is_leaving = False
        """The server takes nothing new."""
        self.max_streams = 1
        self.refused: list[Conversation] = []
        """Those that a leaving server did not take any more."""
        self._on_free = on_free
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._greeting: asyncio.Future[Welcome] = self._loop.create_future()
        self._transport: Transport | None = None
        self._outbox: list[ClientMessage] = []
        self._numbers = count(1)

    async def open(self, connector: Connector, peer: str, seconds: float) -> Welcome:
        """Connect and greet. Raises what `Connector.connect` raises; the link is closed then."""
        self._transport = await connector.connect(self)
        try:
            self._transport.send([Hello(versions=[VERSION], peer=peer)])
            async with asyncio.timeout(seconds):
                welcome = await self._greeting
            if welcome.version != VERSION:
                raise SetupError(
                    f"{self.name} speaks version {welcome.version} of LMTP, this client {VERSION}.",
                    remedy="Install the same dcmodel on both sides.",
                )
        except TimeoutError:
            await self.aclose()
            raise ConnectionLostError(f"{self.name} did not greet within {seconds:g} seconds.") from None
        except BaseException:
            await self.aclose()
            raise
        self.max_streams = max(welcome.max_streams, 1)
        return welcome

    @property
    def room(self) -> int:
        """How many conversations may be begun."""
        return 0 if self.is_leaving else self.max_streams - len(self.conversations)

    def begin(self, conversation: Conversation) -> None:
        """Number it and send what opens it."""
        conversation.id = next(self._numbers)
        conversation.link = self
        self.conversations[conversation.id] = conversation
        self.send(conversation.opening())

    def send(self, messages: Iterable[ClientMessage]) -> None:
        """Send at the end of this turn of the loop, in one frame with everything else."""
        if not self._outbox:
            self._loop.call_soon(self._flush)
        self._outbox.extend(messages)

    def forget(self, conversation: Conversation) -> None:
        """It is over here; what still comes for it is ignored."""
        if self.conversations.pop(conversation.id, None) is not None:
            conversation.link = None
            self._on_free(self)

    async def aclose(self) -> None:
        """Close the connection. The conversations on it are the caller's affair."""
        if not self._greeting.done():
            self._greeting.cancel()
        if self._transport is not None:
            self._flush()
            await self._transport.aclose()

    # -- what the transport brings -----------------------------------------------------------------

    def on_messages(self, messages: Sequence[ServerMessage]) -> None:
        touched: dict[Conversation, None] = {}
        for message in messages:
            match message:
                case Welcome():
                    if not self._greeting.done():
                        self._greeting.set_result(message)
                case GoAway():
                    self.is_leaving = True
                    self._on_free(self)
                case BadFrame(id=None):
                    logger.warning("%s could not read a frame: %s", self.name, message.message)
                case _:
                    assert message.id is not None
                    conversation = self.conversations.get(message.id)
                    if conversation is not None and self._hand_over(conversation, message):
                        touched[conversation] = None
        self._publish(touched)

    def on_lost(self, error: DcModelError) -> None:
        if not self._greeting.done():
            self._greeting.set_exception(error)
        else:
            self._on_lost(self, error)

    # -- inside ------------------------------------------------------------------------------------

    def _hand_over(self, conversation: Conversation, message: ServerMessage) -> bool:
        """Give it what came; whether its reader may have news."""
        try:
            if isinstance(message, Failed):
                return self._failed(conversation, errors.from_wire(message))
            if isinstance(message, BadFrame):
                return self._failed(conversation, errors.from_bad_frame(message))
            conversation.receive(message)
        except DcModelError as error:
            self.send([Cancel(id=conversation.id)])
            conversation.fail(error)
        return True

    def _failed(self, conversation: Conversation, error: DcModelError) -> bool:
        if self.is_leaving and error.retryable and not conversation.has_news:
            self.conversations.pop(conversation.id, None)
            conversation.link = None
            self.refused.append(conversation)
            return False
        conversation.fail(error)
        return True

    def _publish(self, touched: Iterable[Conversation]) -> None:
        wakeups = Wakeups()
        is_free = bool(self.refused)
        for conversation in touched:
            if conversation.is_over and self.conversations.pop(conversation.id, None) is not None:
                conversation.link = None
                is_free = True
            conversation.publish(wakeups)
        wakeups.deliver()
        if is_free:
            self._on_free(self)

    def _flush(self) -> None:
        outbox, self._outbox = self._outbox, []
        if outbox and self._transport is not None:
            self._transport.send(outbox)
