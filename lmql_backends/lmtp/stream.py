"""A stream of tokens that comes over a connection, and goes on when that is replaced."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from dcmodel.errors import DcModelError, GenerationError
from dcmodel.model import GenerateStream
from dcmodel.types import Certificate, Completion, FinishReason, GenerateRequest, TokenStep, Usage
from dctokenizers import Tokenizer
from lmql_backends.lmtp.client import LMTPClient
from lmql_backends.lmtp.conversation import Conversation
from lmql_backends.lmtp.hand_over import Wakeups
from lmql_backends.lmtp.protocol.columns import steps_of
from lmql_backends.lmtp.protocol.messages import (
    Cancel,
    ClientMessage,
    Credit,
    Done,
    Generate,
    Request,
    ServerMessage,
    Tokens,
)
from lmql_backends.lmtp.protocol.requests import LARGEST
from lmql_backends.lmtp.protocol.results import completion_of, finish_reason_of

WINDOW = 2048
"""Tokens that may be on their way to a reader who does not take them."""

Item = Tokens | Done | DcModelError


class StreamConversation(Conversation):
    """What came so far. Written in the client's loop; the reader takes whole frames out of `frames`."""

    def __init__(
        self,
        request: GenerateRequest,
        wire: Request,
        loop: asyncio.AbstractEventLoop,
        notify: Callable[[], None],
    ) -> None:
        """`notify` is called in `loop`, the reader's, when there is news that it waits for."""
        super().__init__()
        self.frames: deque[list[Item]] = deque()
        self.is_armed = False
        """The reader waits for the next token, and not only for the end."""
        self.is_limited = request.max_tokens > WINDOW
        self._request = request
        self._wire = wire
        self._loop = loop
        self.notify = notify
        self._received = list(request.resumed)
        self._forced = 0
        self._granted = WINDOW
        self._is_cancelled = False
        self._staged: list[Item] = []

    @property
    def has_news(self) -> bool:
        return len(self._received) > len(self._request.resumed)

    def opening(self) -> list[ClientMessage]:
        new = len(self._received) - len(self._request.resumed)
        credit = max(self._granted - new, 0) if self.is_limited else None
        return [Generate(id=self.id, request=self._wire, received=self._received.copy(), credit=credit)]

    def receive(self, message: ServerMessage) -> None:
        match message:
            case Tokens():
                if message.at != len(self._received):
                    raise GenerationError(
                        f"token {message.at} of a stream came where number {len(self._received)} was due."
                    )
                self.losses = 0
                self._received += message.columns.token_ids
                self._forced += len(message.columns.forced)
                self._staged.append(message)
            case Done():
                self._staged.append(message)
                self.is_over = True
            case _:
                raise GenerationError(f"the server answered {type(message).__name__} in a stream.")

    def fail(self, error: DcModelError) -> None:
        self._staged.append(error)
        self.is_over = True

    def publish(self, wakeups: Wakeups) -> None:
        if not self._staged:
            return
        self.frames.append(self._staged)
        self._staged = []
        if self.is_armed or self.is_over:
            wakeups.add(self._loop, self.notify)

    def grant(self, count: int) -> None:
        """The reader can take so many more tokens."""
        count = min(count, LARGEST - self._granted)
        self._granted += count
        if self.link is not None and self.is_limited and count > 0:
            self.link.send([Credit(id=self.id, tokens=count)])

    def cancel(self) -> None:
        """End it early, with the tokens so far."""
        if self.is_over or self._is_cancelled:
            return
        self._is_cancelled = True
        if self.link is not None:
            self.link.send([Cancel(id=self.id)])
            return
        self.lost()
        wakeups = Wakeups()
        self.publish(wakeups)
        wakeups.deliver()

    def lost(self) -> bool:
        if self._is_cancelled and not self.is_over:
            self._staged.append(self._cancelled())
            self.is_over = True
        return not self.is_over

    def _cancelled(self) -> Done:
        """The end of a cancelled stream whose server cannot be asked."""
        is_constrained = self._request.constraint is not None
        return Done(
            id=0,
            tokens=len(self._received),
            finish_reason=FinishReason.CANCELLED.value,
            stop_reason="cancelled",
            usage=Usage(
                prompt_tokens=len(self._request.prompt_ids),
                cached_tokens=0,
                completion_tokens=len(self._received),
                forced_tokens=self._forced,
            ),
            certificate=Certificate(valid=False if is_constrained else None, exact=True),
        )


class RemoteStream(GenerateStream):
    """Reads a `StreamConversation` in the loop of who made the request."""

    def __init__(
        self,
        request: GenerateRequest,
        wire: Request,
        client: LMTPClient,
        tokenizer: Tokenizer,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        """`loop`: the caller's."""
        self._request = request
        self._tokenizer = tokenizer
        self._client = client
        self._news = asyncio.Event()
        self._conversation = StreamConversation(request, wire, loop, self._news.set)
        self._steps: list[TokenStep] = []
        self._read = 0
        self._granted = WINDOW
        self._done: Done | None = None
        self._error: DcModelError | None = None
        self._result: Completion | None = None
        client.begin(self._conversation)

    async def __anext__(self) -> TokenStep:
        while self._read == len(self._steps):
            self._news.clear()
            self._conversation.is_armed = True
            if self._take():
                continue
            if self._has_ended:
                raise self._error or StopAsyncIteration
            await self._news.wait()
        (step,) = self._next_steps(1)
        return step

    async def completion(self) -> Completion:
        try:
            if self._conversation.is_limited and self._granted < LARGEST:
                self._grant(LARGEST)
            while not self._has_ended:
                self._news.clear()
                self._take()
                if not self._has_ended:
                    await self._news.wait()
        except asyncio.CancelledError:
            self.cancel()
            raise
        if self._error is not None:
            raise self._error
        assert self._done is not None
        if self._result is None:
            begun = self._tokenizer.decode(self._request.resumed) if self._request.resumed else ""
            self._result = completion_of(self._request, self._steps, self._done, resumed_text=begun)
        return self._result

    def watch(self, news: Callable[[], None]) -> bool:
        event = self._news

        def notify() -> None:  # knows nothing of the stream, so that a dropped one is cancelled
            event.set()
            news()

        self._conversation.notify = notify
        self._conversation.is_armed = True
        if self._conversation.frames or self._read < len(self._steps) or self._has_ended:
            news()
        return True

    def ready(self, limit: int | None = None) -> list[TokenStep]:
        self._take()
        return self._next_steps(limit)

    @property
    def is_exhausted(self) -> bool:
        self._take()
        return self._has_ended and self._read == len(self._steps)

    def cancel(self) -> None:
        if not self._has_ended:
            self._client.post(self._conversation.cancel)

    def __del__(self) -> None:
        self.cancel()

    @property
    def _has_ended(self) -> bool:
        return self._done is not None or self._error is not None

    def _next_steps(self, limit: int | None) -> list[TokenStep]:
        stop = len(self._steps) if limit is None else self._read + limit
        steps = self._steps[self._read : stop]
        self._read += len(steps)
        if self._conversation.is_limited and self._granted - self._read < WINDOW // 2:
            self._grant(WINDOW)
        return steps

    def _grant(self, count: int) -> None:
        self._granted += count
        conversation = self._conversation
        self._client.post(lambda: conversation.grant(count))

    def _take(self) -> bool:
        """Make steps of what has come; whether there are new ones."""
        before = len(self._steps)
        frames = self._conversation.frames
        while frames:
            for item in frames.popleft():
                try:
                    self._take_item(item)
                except DcModelError as error:
                    self._error = error
        return len(self._steps) > before

    def _take_item(self, item: Item) -> None:
        match item:
            case Tokens():
                reason = finish_reason_of(item.finish_reason) if item.finish_reason else None
                self._steps += steps_of(item.columns, reason)
            case Done():
                self._done = item
            case _:
                self._error = item
