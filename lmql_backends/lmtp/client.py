"""`LMTPClient`: conversations over one connection, which is opened when needed and opened again when lost."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable
from random import Random
from typing import TypeVar

from dcmodel.errors import DcModelError, EngineError, ModelClosedError, OverloadedError
from dcmodel.loop import background_loop
from lmql_backends.lmtp.clients.transport import Connector
from lmql_backends.lmtp.conversation import Conversation, Question
from lmql_backends.lmtp.hand_over import Calls, Wakeups
from lmql_backends.lmtp.link import Link
from lmql_backends.lmtp.protocol.messages import ClientMessage
from lmql_backends.lmtp.retry import RetryPolicy, is_permanent

logger = logging.getLogger(__name__)

T = TypeVar("T")
PEER = "dcmodel"


class LMTPClient:
    """Lives in one event loop, by default dcmodel's own; `begin`, `post`, `ask` and `aclose` may be called
    from any thread and loop.

    A conversation that loses its connection waits for the next one and is taken up there. Nothing waits
    for ever: what cannot be taken up within the policy's time fails with `ConnectionLostError`, and what
    can never work fails at once. An idle client opens nothing.
    """

    def __init__(
        self,
        connector: Connector,
        *,
        loop: asyncio.AbstractEventLoop | None = None,
        retry: RetryPolicy | None = None,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
        rng: Random | None = None,
    ) -> None:
        self.name = connector.name
        self.loop = loop or background_loop().loop
        self.max_streams = 64
        """Conversations that the server takes at a time; what it says when it greets."""
        self._connector = connector
        self._retry = retry or RetryPolicy()
        self._sleep = sleep
        self._clock = clock
        self._rng = rng or Random()
        self._calls = Calls(self.loop)
        self._line: deque[Conversation] = deque()
        self._link: Link | None = None
        self._leaving: set[Link] = set()
        self._connecting: asyncio.Task[None] | None = None
        self._closing: set[asyncio.Task[None]] = set()
        self._sent_away = 0
        """How often in a row a server said that it takes nothing new."""
        self._sent_away_since = 0.0
        self._greeted = False
        """Whether the server ever answered."""
        self._is_closed = False
        self._closed = asyncio.Event()

    # -- from any thread ---------------------------------------------------------------------------

    def post(self, call: Callable[[], None]) -> None:
        """Have something called in the client's loop, after what was posted before."""
        self._calls.post(call)

    def begin(self, conversation: Conversation) -> None:
        """Send what opens it, as soon as there is a connection with room for it."""
        self._calls.post(lambda: self.enter(conversation))

    async def ask(self, ask: Callable[[int], ClientMessage], expects: type[T]) -> T:
        """One question; raises what the server answers, and what connecting raises."""
        question = Question(ask, expects, asyncio.get_running_loop())
        self.begin(question)
        try:
            return await question.answer
        except asyncio.CancelledError:
            self._calls.post(question.cancel)
            raise

    async def aclose(self) -> None:
        """Fail what runs with `ModelClosedError` and close the connection."""
        if asyncio.get_running_loop() is self.loop:
            await self._close()
        elif not self.loop.is_closed():
            await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self._close(), self.loop))

    # -- in the client's loop ----------------------------------------------------------------------

    def enter(self, conversation: Conversation) -> None:
        """`begin`, at once."""
        if conversation.is_over:
            return
        if self._is_closed:
            self._end([conversation], ModelClosedError("the model is closed.", remedy="Make a new one."))
            return
        self._line.append(conversation)
        self._pump()

    def _pump(self) -> None:
        """Begin what waits, as far as there is room."""
        while self._line and self._line[0].is_over:
            self._line.popleft()
        if not self._line or self._is_closed:
            return
        if self._link is None:
            if self._connecting is None:
                self._connecting = self.loop.create_task(self._connect())
            return
        while self._line and self._link.room > 0:
            conversation = self._line.popleft()
            if conversation.is_over:
                continue
            try:
                self._link.begin(conversation)
            except DcModelError as error:
                self._link.forget(conversation)
                self._end([conversation], error)

    async def _connect(self) -> None:
        """Open a link, and try again where that can help; if not, all that waits fails."""
        try:
            await self._try_to_connect()
        except DcModelError as error:
            self._fail_line(error)
        except Exception as error:  # a defect of ours must not leave anybody waiting
            logger.exception("connecting to %s failed", self.name)
            self._fail_line(EngineError(f"connecting to {self.name} failed: {error!r}."))
        finally:
            self._connecting = None
        self._pump()

    async def _try_to_connect(self) -> None:
        start, attempt = self._clock(), 0
        if self._sent_away:
            start, attempt = self._sent_away_since, self._sent_away - 1
            await self._wait_after_goodbye(attempt)
        while True:
            link = Link(self.name, self._freed, self._lost)
            try:
                await link.open(self._connector, PEER, self._retry.welcome_seconds)
            except DcModelError as error:
                wait = self._retry.wait(attempt, error, self._rng)
                left = start + self._retry.seconds - self._clock()
                if is_permanent(error) or not self._greeted or wait > left:
                    raise
                logger.info("connecting to %s again in %.2f s: %s", self.name, wait, error)
                await self._sleep(wait)
                attempt += 1
            else:
                self._link = link
                self._greeted = True
                self.max_streams = link.max_streams
                if link.is_leaving:  # it said goodbye as soon as it had greeted
                    self._freed(link)
                return

    async def _wait_after_goodbye(self, attempt: int) -> None:
        """Another server may be there at once; if not, soon, or never."""
        wait = self._retry.wait(attempt, None, self._rng) if attempt else 0.0
        if wait >= self._sent_away_since + self._retry.seconds - self._clock():
            self._sent_away = 0
            raise OverloadedError(
                f"{self.name} takes nothing new: it is about to end.", remedy="Try again later."
            )
        await self._sleep(wait)

    def _freed(self, link: Link) -> None:
        """A link has room again, or is leaving."""
        if not link.is_leaving:
            self._sent_away = 0
        else:
            if self._link is link:
                self._link = None
                self._leaving.add(link)
                self._sent_away_since = self._sent_away_since if self._sent_away else self._clock()
                self._sent_away += 1
            self._line.extendleft(reversed(link.refused))
            link.refused.clear()
            if not link.conversations and link in self._leaving:
                self._leaving.discard(link)
                self._own(link.aclose())
        self._pump()

    def _lost(self, link: Link, error: DcModelError) -> None:
        """Its conversations wait for the next link, but for those that have lost too many."""
        if self._link is link:
            self._link = None
        self._leaving.discard(link)
        conversations = list(link.conversations.values())
        link.conversations.clear()
        self._own(link.aclose())
        again: list[Conversation] = []
        over: list[Conversation] = []
        for conversation in conversations:
            conversation.link = None
            conversation.losses += 1
            if not conversation.lost():
                over.append(conversation)
            elif conversation.losses > self._retry.max_losses or self._retry.seconds <= 0:
                conversation.fail(error)
                over.append(conversation)
            else:
                again.append(conversation)
        self._publish(over)
        self._line.extendleft(reversed(again))
        self._pump()

    def _fail_line(self, error: DcModelError) -> None:
        waiting = [conversation for conversation in self._line if not conversation.is_over]
        self._line.clear()
        self._end(waiting, error)

    def _end(self, conversations: list[Conversation], error: DcModelError) -> None:
        for conversation in conversations:
            conversation.link = None
            conversation.fail(error)
        self._publish(conversations)

    def _publish(self, conversations: list[Conversation]) -> None:
        wakeups = Wakeups()
        for conversation in conversations:
            conversation.publish(wakeups)
        wakeups.deliver()

    def _own(self, closing: Awaitable[None]) -> None:
        """Keep the task that closes a link until it is done."""
        task = asyncio.ensure_future(closing)
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def _close(self) -> None:
        if self._is_closed:
            await self._closed.wait()
            return
        self._is_closed = True
        try:
            await self._close_all()
        finally:
            self._closed.set()

    async def _close_all(self) -> None:
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.wait([self._connecting])
        links = [*self._leaving, *([] if self._link is None else [self._link])]
        self._link = None
        self._leaving.clear()
        waiting = [conversation for conversation in self._line if not conversation.is_over]
        running = [conversation for link in links for conversation in link.conversations.values()]
        self._line.clear()
        for link in links:
            link.conversations.clear()
        self._end([*running, *waiting], ModelClosedError("the model was closed."))
        for link in links:
            await link.aclose()
        if self._closing:
            await asyncio.wait(self._closing)
        await self._connector.aclose()
