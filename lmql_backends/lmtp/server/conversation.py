"""`Desk`: what the conversations of one connection share, and `Conversation`: one of them."""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

from dcmodel.errors import DcModelError, EngineError
from lmql_backends.lmtp.protocol import errors
from lmql_backends.lmtp.protocol.messages import ServerMessage
from lmql_backends.lmtp.server.contracts import Models, ServedModel
from lmql_backends.lmtp.server.limits import ConnectionLimits
from lmql_backends.lmtp.server.outbox import Outbox

logger = logging.getLogger(__name__)


class Conversation(ABC):
    """A stream, a question or a session, from its first message to its end."""

    def __init__(self, desk: Desk, id_: int) -> None:
        self.desk = desk
        self.id = id_

    @abstractmethod
    def cancel(self) -> None:
        """The client does not want more of it."""

    @abstractmethod
    def abandon(self) -> None:
        """The client is gone: free everything, and say nothing."""

    def lost(self, error: DcModelError) -> None:
        """Its task ended without an answer, by a defect somewhere below."""
        self.desk.fail(self, error)


class Desk:
    """Who is live, what is to be sent, and the tasks, each of which somebody waits for."""

    def __init__(self, models: Models, outbox: Outbox, limits: ConnectionLimits) -> None:
        self.models = models
        self.outbox = outbox
        self.limits = limits
        self.live: dict[int, Conversation] = {}
        self.parting: set[Conversation] = set()
        """Sessions that are closed as soon as their forks are made; no longer live."""
        self.broken: OrderedDict[int, DcModelError] = OrderedDict()
        """Sessions that could not be opened, and why: the newest ones, for what is sent to them later."""
        self.tasks: set[asyncio.Task[None]] = set()

    def work(
        self, coroutine: Coroutine[Any, Any, None], owner: Conversation | None = None
    ) -> asyncio.Task[None]:
        """Run it as a task of this connection, which waits for it at its end. `owner`: whom it answers for;
        should it be cancelled by anybody but its owner, the client is told."""
        task = asyncio.get_running_loop().create_task(coroutine)
        self.tasks.add(task)
        task.add_done_callback(partial(self._forget, owner))
        return task

    def is_live(self, conversation: Conversation) -> bool:
        return self.live.get(conversation.id) is conversation

    def tell(self, conversation: Conversation, message: ServerMessage) -> None:
        """Send it, unless the conversation has ended."""
        if self.is_live(conversation):
            self.outbox.put(message)

    def end(self, conversation: Conversation, answer: ServerMessage | None = None) -> None:
        """Its last message; nothing happens if it has ended."""
        if self.is_live(conversation):
            del self.live[conversation.id]
            if answer is not None:
                self.outbox.put(answer)

    def fail(self, conversation: Conversation, error: Exception) -> None:
        """End it with an error."""
        self.end(conversation, failure(conversation.id, error))

    def break_(self, id_: int, error: DcModelError) -> None:
        """Remember why there is no such session."""
        self.broken[id_] = error
        if len(self.broken) > self.limits.max_streams:
            self.broken.popitem(last=False)

    def _forget(self, owner: Conversation | None, task: asyncio.Task[None]) -> None:
        self.tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            logger.error("a task of a connection failed", exc_info=error)
        if (error is not None or task.cancelled()) and owner is not None and self.is_live(owner):
            owner.lost(EngineError("the server gave the request up.", remedy="Its log may say more."))


class Lease:
    """A model that is in use by a session and its forks."""

    def __init__(self, desk: Desk, stack: AsyncExitStack, served: ServedModel) -> None:
        self.served = served
        self._desk = desk
        self._stack = stack
        self._users = 1
        self._end: asyncio.Task[None] | None = None

    @classmethod
    async def take(cls, desk: Desk, name: str) -> Lease:
        """Raises what `Models.use` raises."""
        stack = AsyncExitStack()
        served = await stack.enter_async_context(desk.models.use(name))
        return cls(desk, stack, served)

    def share(self) -> Lease:
        self._users += 1
        return self

    def release(self) -> None:
        self._users -= 1
        if not self._users:
            self._end = self._desk.work(self._stack.aclose())


def failure(id_: int, error: Exception) -> ServerMessage:
    """The answer that says what went wrong; what nobody foresaw goes to the log, too."""
    return errors.to_wire(id_, foreseen(error))


def foreseen(error: Exception) -> DcModelError:
    """The error itself; or, for what nobody foresaw, one that says little, and the log says the rest."""
    if isinstance(error, DcModelError):
        return error
    logger.error("a request failed unexpectedly", exc_info=error)
    return errors.from_wire(errors.to_wire(0, error))
