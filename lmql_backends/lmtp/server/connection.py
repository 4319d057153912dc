"""`ServerConnection`: one client's conversations with the server's models, over any transport. No I/O.

A transport hands in decoded messages and sends what comes out. Everything belongs to one event loop; nothing
that a client sends ends the connection, or any other conversation than the one it is about.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence, Set
from importlib.metadata import PackageNotFoundError, version
from typing import TypeVar

from dcmodel.errors import DcModelError, InvalidRequestError, OverloadedError
from lmql_backends.lmtp.protocol.messages import (
    VERSION,
    Append,
    BadFrame,
    Cancel,
    ClientMessage,
    Credit,
    Describe,
    Fork,
    Generate,
    GetTokenizer,
    GoAway,
    Hello,
    Look,
    Mount,
    NextTokens,
    Open,
    Rollback,
    Score,
    ServerMessage,
    Settle,
    Step,
    Unmount,
    Welcome,
)
from lmql_backends.lmtp.server import questions
from lmql_backends.lmtp.server.contracts import Models
from lmql_backends.lmtp.server.conversation import Conversation, Desk, failure
from lmql_backends.lmtp.server.limits import ConnectionLimits
from lmql_backends.lmtp.server.outbox import Outbox
from lmql_backends.lmtp.server.questions import Answerer, Question
from lmql_backends.lmtp.server.sessions import Forking, Refused, RemoteSession
from lmql_backends.lmtp.server.streams import TokenStream

A = TypeVar("A", Describe, GetTokenizer, Score, NextTokens, Mount, Unmount)
RETRY_AFTER = 1.0
"""Seconds, for a client that has too much open, or that a server which ends has sent away."""


class ServerConnection:
    """Made, and used, inside a running event loop."""

    def __init__(
        self,
        models: Models,
        send: Callable[[list[ServerMessage]], None],
        limits: ConnectionLimits | None = None,
    ) -> None:
        """`send` gets the messages of one frame and must not raise; it is called at most once per turn of the
        loop, with everything that happened in it."""
        self._limits = limits or ConnectionLimits()
        self._outbox = Outbox(send)
        self._desk = Desk(models, self._outbox, self._limits)
        self._is_greeted = False
        self._is_closed = False
        self._refusal: OverloadedError | None = None

    # -- for the transport -------------------------------------------------------------------------

    def receive(self, messages: Sequence[ClientMessage], bad: Sequence[BadFrame] = ()) -> None:
        """What came in one frame. Raises nothing; the answers leave later. `bad`: what could not be read of
        it; it goes back to the client."""
        for complaint in bad:
            self._outbox.put(complaint)
        for message in messages:
            if self._is_closed:
                return
            try:
                self._receive(message)
            except Exception as error:  # of this message alone
                self._outbox.put(failure(getattr(message, "id", 0), error))

    def refuse_new(self, reason: str, *, retry_after: float | None = RETRY_AFTER) -> None:
        """Say that the server goes away. What runs goes on, and sessions still step; new conversations are
        refused, with an error that tells a client to try elsewhere."""
        self._refusal = OverloadedError(
            f"the server takes nothing new: {reason}.", remedy="Connect again.", retry_after=retry_after
        )
        self._outbox.put(GoAway(reason=reason, retry_after=retry_after))

    def pause(self) -> None:
        """The client reads too slowly: nothing is sent, and no stream is read, until `resume`. Meanwhile the
        transport takes in nothing more from this client: answers to new questions would gather."""
        self._outbox.hold()

    def resume(self) -> None:
        self._outbox.release()

    @property
    def is_idle(self) -> bool:
        """Whether nothing runs and everything is sent. A session between two steps is idle."""
        return not self._desk.tasks and self._outbox.is_empty

    @property
    def tasks(self) -> Set[asyncio.Task[None]]:
        """What runs now: streams and questions until their end, sessions during their steps."""
        return frozenset(self._desk.tasks)

    async def wait_idle(self) -> None:
        """Until nothing runs; with streams that have no credit, that may be never."""
        while self._desk.tasks:
            await asyncio.wait(self._desk.tasks)
        self._outbox.flush()

    async def aclose(self) -> None:
        """Cancel everything and wait until it has let go; what the engine runs ends with its step."""
        self._is_closed = True
        self._outbox.close()
        for conversation in [*self._desk.live.values(), *self._desk.parting]:
            conversation.abandon()
        while self._desk.tasks:
            await asyncio.wait(self._desk.tasks)
        self._desk.broken.clear()

    # -- messages ----------------------------------------------------------------------------------

    def _receive(self, message: ClientMessage) -> None:
        match message:
            case Hello():
                self._greet(message)
            case _ if not self._is_greeted:
                text = f"the first message is {type(message).__name__.lower()}, not hello."
                self._outbox.put(BadFrame(message=text, id=message.id))
            case Generate() if self._is_free(message.id):
                self._begin(TokenStream(self._desk, message))
            case Open() if self._is_free(message.id):
                session = RemoteSession(self._desk, message.id)
                self._begin(session)
                session.open(message)
            case Describe():
                self._ask(message, questions.describe)
            case GetTokenizer():
                self._ask(message, questions.tokenizer)
            case Score():
                self._ask(message, questions.score)
            case NextTokens():
                self._ask(message, questions.next_tokens)
            case Mount():
                self._ask(message, questions.mount)
            case Unmount():
                self._ask(message, questions.unmount)
            case Fork():
                self._fork(message)
            case Append() | Rollback() | Step() | Look() | Settle():
                self._to_session(message)
            case Cancel():
                self._desk.broken.pop(message.id, None)
                if (conversation := self._desk.live.get(message.id)) is not None:
                    conversation.cancel()
            case Credit():
                if isinstance(stream := self._desk.live.get(message.id), TokenStream):
                    stream.add_credit(message.tokens)
            case Generate() | Open():  # a number that is taken, or too many
                pass
            case _:
                kind = type(message).__name__.lower()
                self._outbox.put(BadFrame(message=f"a client does not send {kind}."))

    def _greet(self, message: Hello) -> None:
        if VERSION not in message.versions:
            versions = ", ".join(map(str, message.versions[:8])) or "none"
            text = f"this server speaks version {VERSION}; the client offers {versions}."
            self._outbox.put(BadFrame(message=text))
            return
        self._is_greeted = True
        self._outbox.put(
            Welcome(
                version=VERSION,
                server=server_name(),
                max_frame_bytes=self._limits.max_frame_bytes,
                max_streams=self._limits.max_streams,
                models=list(self._desk.models.names()),
            )
        )

    def _begin(self, conversation: Conversation) -> None:
        self._desk.live[conversation.id] = conversation

    def _ask(self, message: A, answer: Answerer[A]) -> None:
        if self._is_free(message.id):
            self._begin(Question(self._desk, message, answer))

    def _is_free(self, id_: int) -> bool:
        """Whether a conversation may begin under this number; if not, the client is told."""
        error = self._obstacle(id_)
        if error is not None:
            self._outbox.put(failure(id_, error))
        return error is None

    def _obstacle(self, id_: int, *, is_new: bool = True) -> DcModelError | None:
        """What stands against a new conversation; `is_new`: not a fork of what runs already."""
        if id_ in self._desk.live:
            return InvalidRequestError(
                f"a conversation with the number {id_} is open already; it goes on.",
                remedy="Give each its own number.",
            )
        if self._refusal is not None and is_new:
            return self._refusal
        if len(self._desk.live) >= self._limits.max_streams:
            return OverloadedError(
                f"{len(self._desk.live)} conversations are open on this connection, the limit.",
                remedy="Wait until some have ended, or open another connection.",
                retry_after=RETRY_AFTER,
            )
        return None

    # -- sessions ----------------------------------------------------------------------------------

    def _to_session(self, message: Append | Rollback | Step | Look | Settle) -> None:
        session = self._desk.live.get(message.id)
        if isinstance(session, RemoteSession):
            session.receive(message)
        elif isinstance(message, Step | Look | Settle):
            self._outbox.put(failure(message.id, self._absence(message.id)))

    def _fork(self, message: Fork) -> None:
        parent = self._desk.live.get(message.id)
        error = self._obstacle(message.to, is_new=False)
        if error is None and not isinstance(parent, RemoteSession):
            error = self._absence(message.id)
        if error is not None and message.to not in self._desk.live:
            self._desk.break_(message.to, error)
        elif not isinstance(parent, RemoteSession):
            pass
        elif error is not None:
            parent.receive(Refused(error))
        else:
            child = RemoteSession(self._desk, message.to)
            self._begin(child)
            parent.receive(Forking(child))

    def _absence(self, id_: int) -> DcModelError:
        found = self._desk.broken.get(id_)
        return found or InvalidRequestError(
            f"there is no session with the number {id_}.", remedy="Open it first; a failed one is gone."
        )


def server_name() -> str:
    """Name and version, for logs."""
    try:
        return f"dcmodel {version('dcmodel')}"
    except PackageNotFoundError:
        return "dcmodel"
