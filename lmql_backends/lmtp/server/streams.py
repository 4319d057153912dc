"""A `Generate`: from the request to `Done` or `Failed`."""

from __future__ import annotations

import asyncio

from dcmodel.errors import DcModelError
from dcmodel.model import DcModel, GenerateStream
from dcmodel.types import Certificate, Completion, FinishReason, GenerateRequest, TokenStep, Usage
from lmql_backends.lmtp.protocol import requests
from lmql_backends.lmtp.protocol.columns import columns_of
from lmql_backends.lmtp.protocol.messages import Done, Generate, Tokens
from lmql_backends.lmtp.protocol.results import done_of
from lmql_backends.lmtp.server.conversation import Conversation, Desk
from lmql_backends.lmtp.server.limits import is_small
from lmql_backends.lmtp.server.outbox import Source

MAX_TAKEN = 4096
"""Log-probabilities of one stream in one frame, about: what has gathered meanwhile leaves in several."""
MAX_GATHERED = 256
"""Steps kept here of a stream that cannot be watched; it is not read on until they have left."""


class TokenStream(Conversation, Source):
    """Tokens leave as they come, as far as the client's credit goes.

    Without credit the stream is not read, and the model goes on: what gathers there has an end at
    `max_tokens`. `Cancel` lifts the bound, since it is the last that the client wants.
    """

    def __init__(self, desk: Desk, message: Generate) -> None:
        super().__init__(desk, message.id)
        self._message = message
        self._credit = message.credit
        self._at = len(message.received)
        self._shown = 0
        """Characters that went out with the tokens."""
        self._at_a_time = max(MAX_TAKEN // (1 + 2 * message.request.top_logprobs), 1)
        self._stream: GenerateStream | None = None
        self._gathered: list[TokenStep] = []
        self._has_room = asyncio.Event()
        self._is_read = False
        """Whether all of a stream that cannot be watched is in `_gathered`."""
        self._is_drained = asyncio.Event()
        self._task = desk.work(self._run(), self)

    def cancel(self) -> None:
        if self._stream is None:
            self.desk.end(self, self._nothing())
            self._task.cancel()
            return
        self._credit = None
        self._stream.cancel()
        self.desk.outbox.list(self)

    def abandon(self) -> None:
        self.desk.end(self)
        self._task.cancel()

    def add_credit(self, tokens: int) -> None:
        if self._credit is not None:
            self._credit += tokens
            self.desk.outbox.list(self)

    def take(self) -> Tokens | None:
        try:
            return self._take()
        except Exception as error:  # of this stream alone: others share the frame
            self.desk.fail(self, error)
            self._task.cancel()
            return None

    # -- its life ----------------------------------------------------------------------------------

    async def _run(self) -> None:
        try:
            async with self.desk.models.use(self._message.request.model) as served:
                request = await self._read(served.model)
                self._stream = served.model.generate(request)
                completion = await self._follow(self._stream)
                done = done_of(self.id, completion, shown=self._shown, resumed=bool(self._message.received))
                self.desk.end(self, done)
        except Exception as error:
            self.desk.fail(self, error)
        finally:
            if self._stream is not None:
                self._stream.cancel()

    async def _read(self, model: DcModel) -> GenerateRequest:
        self.desk.limits.check_request(self._message.request, model.info.max_positions)
        if is_small(self._message.request):
            return requests.generate_from_wire(self._message, model.tokenizer)
        return await asyncio.to_thread(requests.generate_from_wire, self._message, model.tokenizer)

    async def _follow(self, stream: GenerateStream) -> Completion:
        """Until the end, and until all before it has left."""
        outbox = self.desk.outbox

        def news() -> None:
            outbox.list(self)

        error = None if stream.watch(news) else await self._gather(stream)
        await self._is_drained.wait()
        if error is not None:
            raise error
        return await stream.completion()

    async def _gather(self, stream: GenerateStream) -> DcModelError | None:
        """Read a stream that cannot be watched; its error comes after the tokens before it."""
        error: DcModelError | None = None
        try:
            async for step in stream:
                self._gathered.append(step)
                self.desk.outbox.list(self)
                while len(self._gathered) >= MAX_GATHERED:
                    self._has_room.clear()
                    await self._has_room.wait()
        except DcModelError as failure:
            error = failure
        self._is_read = True
        self.desk.outbox.list(self)
        return error

    # -- its tokens --------------------------------------------------------------------------------

    def _take(self) -> Tokens | None:
        if self._stream is None or not self.desk.is_live(self):
            return None
        credit = self._credit
        limit = self._at_a_time if credit is None else min(credit, self._at_a_time)
        steps = self._next_steps(self._stream, limit)
        if not steps:
            return None
        reason = steps[-1].finish_reason
        news = Tokens(
            id=self.id, at=self._at, columns=columns_of(steps), finish_reason=reason.value if reason else ""
        )
        self._at += len(steps)
        for step in steps:
            self._shown += len(step.text)
        if credit is not None:
            self._credit = credit - len(steps)
        return news

    def _next_steps(self, stream: GenerateStream, limit: int) -> list[TokenStep]:
        """At most `limit`; notes whether they are the last."""
        is_over = self._is_read
        steps = stream.ready(limit)
        if self._gathered:
            room = limit - len(steps)
            steps += self._gathered[:room]
            del self._gathered[:room]
            self._has_room.set()
        if not self._gathered and (is_over or stream.is_exhausted):
            self._is_drained.set()
        elif len(steps) == limit > 0:
            self.desk.outbox.list(self)
        return steps

    def _nothing(self) -> Done:
        """The end of a stream that was cancelled before it began."""
        request = self._message.request
        prompt_tokens = 0 if isinstance(request.prompt, str) else len(request.prompt)
        usage = Usage(prompt_tokens=prompt_tokens, cached_tokens=0, completion_tokens=0, forced_tokens=0)
        valid = None if request.constraint is None else False
        return Done(
            id=self.id,
            tokens=len(self._message.received),
            finish_reason=FinishReason.CANCELLED.value,
            stop_reason=FinishReason.CANCELLED.value,
            usage=usage,
            certificate=Certificate(valid=valid, exact=True),
        )
