"""A session of a client's: its messages run in their order, sessions run beside one another.

What needs no model (`Append`, `Rollback`, `Fork`) is done at once where nothing is before it. The steps of
different sessions that come in one frame begin in the same turn of the event loop, so that they share a
forward. A message without an answer that fails changes nothing; neither do those behind it, and its error is
the answer to the next message that has one.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass

from dcmodel.errors import DcModelError, InvalidRequestError, OverloadedError
from dcmodel.mask import TokenMask
from dcmodel.session import Session
from lmql_backends.lmtp.protocol import distributions, masks, requests
from lmql_backends.lmtp.protocol.columns import logprob_columns
from lmql_backends.lmtp.protocol.messages import (
    Append,
    Columns,
    Look,
    Looked,
    Mask,
    Open,
    Opened,
    Rollback,
    ServerMessage,
    Settle,
    Step,
    Stepped,
)
from lmql_backends.lmtp.server.conversation import Conversation, Desk, Lease, failure, foreseen
from lmql_backends.lmtp.server.limits import is_small


@dataclass(frozen=True, slots=True)
class Forking:
    """A fork that the parent makes when its turn comes."""

    child: RemoteSession


@dataclass(frozen=True, slots=True)
class Refused:
    """A message without an answer that could not be done."""

    error: DcModelError


@dataclass(frozen=True, slots=True)
class Closing:
    """A close that waits for the forks before it."""


Question = Step | Look | Settle
Change = Append | Rollback | Forking | Refused | Closing
Item = Question | Change


class RemoteSession(Conversation):
    """One session of a client's, opened or forked; without a `Session` until that is done."""

    def __init__(self, desk: Desk, id_: int) -> None:
        super().__init__(desk, id_)
        self._session: Session | None = None
        self._lease: Lease | None = None
        self._queue: deque[Item] = deque()
        self._worker: asyncio.Task[None] | None = None
        self._kept: DcModelError | None = None
        """What went wrong with a message that has no answer."""
        self._is_closed = False

    # -- from the connection -----------------------------------------------------------------------

    def open(self, message: Open) -> None:
        self._worker = self.desk.work(self._open(message), self)

    def receive(self, item: Item) -> None:
        is_idle = self._worker is None and self._session is not None
        if is_idle and not isinstance(item, Question):
            self._change(item)
            return
        self._queue.append(item)
        if len(self._queue) > self.desk.limits.max_queued:
            self._break(
                OverloadedError(
                    f"more than {self.desk.limits.max_queued} messages of the session wait.",
                    remedy="Wait for the answers.",
                )
            )
        elif is_idle:
            self._worker = self.desk.work(self._work(), self)

    def cancel(self) -> None:
        """Close it; forks that are still to be made are made before."""
        self.desk.end(self)
        forks = [place for place, item in enumerate(self._queue) if isinstance(item, Forking)]
        if not forks:
            self._close()
            return
        while len(self._queue) > forks[-1] + 1:
            self._queue.pop()
        self._queue.append(Closing())
        self.desk.parting.add(self)

    def abandon(self) -> None:
        self._close()

    def lost(self, error: DcModelError) -> None:
        self._break(error)

    # -- its beginning and its end -----------------------------------------------------------------

    async def _open(self, message: Open) -> None:
        lease: Lease | None = None
        try:
            lease = await Lease.take(self.desk, message.request.model)
            session = await self._made(message, lease)
        except Exception as error:
            self._release(lease)
            self._break(error)
        except asyncio.CancelledError:
            self._release(lease)
            raise
        else:
            self._begin(session, lease, None)
            self.desk.tell(self, Opened(id=self.id, max_tokens=session.max_tokens))
            await self._work()

    async def _made(self, message: Open, lease: Lease) -> Session:
        """A new session; or one that stands where a lost one stood, so that it draws the same numbers."""
        model = lease.served.model
        self.desk.limits.check_open(message, model.info.max_positions)
        if is_small(message.request):
            request = requests.from_wire(message.request, model.tokenizer)
        else:
            request = await asyncio.to_thread(requests.from_wire, message.request, model.tokenizer)
        session = await model.session(request)
        for number in message.forked[:-1]:
            session.skip_forks(number - 1)
            session = session.fork()
        if message.forked:
            session.skip_forks(message.forked[-1])
        return session

    def _begin(self, session: Session, lease: Lease, kept: DcModelError | None) -> None:
        self._session, self._lease, self._kept = session, lease, kept

    def _adopt(self, session: Session, lease: Lease, kept: DcModelError | None) -> None:
        """Begin as a fork."""
        if self._is_closed:
            lease.release()
            return
        self._begin(session, lease, kept)
        if self._queue:
            self._worker = self.desk.work(self._work(), self)

    def _break(self, error: Exception) -> None:
        """The end by an error, which answers all that waits and all that comes."""
        reason = foreseen(error)
        waiting, was_live = list(self._queue), self.desk.is_live(self)
        self.desk.fail(self, reason)
        if was_live:
            self.desk.break_(self.id, reason)
        for item in waiting:
            if isinstance(item, Question) and was_live:
                self.desk.outbox.put(failure(self.id, reason))
            elif isinstance(item, Forking):
                item.child._break(reason)
        self._close()

    def _close(self) -> None:
        self._is_closed = True
        self.desk.end(self)
        self.desk.parting.discard(self)
        self._queue.clear()
        if self._worker is None:
            self._let_go()
        elif self._worker is not asyncio.current_task():
            self._worker.cancel()
            # A task that is cancelled before it has begun runs no `finally`.
            self._worker.add_done_callback(lambda _: self._let_go())

    def _let_go(self) -> None:
        lease, self._lease, self._session = self._lease, None, None
        self._release(lease)

    @staticmethod
    def _release(lease: Lease | None) -> None:
        if lease is not None:
            lease.release()

    # -- its messages ------------------------------------------------------------------------------

    async def _work(self) -> None:
        try:
            while self._queue:
                item = self._queue.popleft()
                if isinstance(item, Question):
                    await self._answer(item)
                else:
                    self._change(item)
        finally:
            self._worker = None
            if self._is_closed:
                self._let_go()

    def _change(self, item: Change) -> None:
        assert self._session is not None
        try:
            match item:
                case Closing():
                    self._close()
                case Forking():
                    self._fork(self._session, item.child)
                case Refused():
                    self._kept = self._kept or item.error
                case Append() if self._kept is None:
                    self._session.append(item.token_ids, forced=item.forced)
                case Rollback() if self._kept is None:
                    self._session.rollback(item.count)
        except Exception as error:
            self._kept = foreseen(error)

    def _fork(self, session: Session, child: RemoteSession) -> None:
        assert self._lease is not None
        try:
            fork = session.fork()
        except Exception as error:
            child._break(error)
        else:
            child._adopt(fork, self._lease.share(), self._kept)

    async def _answer(self, question: Question) -> None:
        answer: ServerMessage
        try:
            if self._kept is not None:
                error, self._kept = self._kept, None
                raise error
            answer = await self._found(question)
        except Exception as error:
            answer = failure(self.id, error)
        self.desk.tell(self, answer)

    async def _found(self, question: Question) -> ServerMessage:
        session = self._session
        assert session is not None
        if question.known > len(session.token_ids):
            raise InvalidRequestError(
                f"the client knows {question.known} tokens, and the session has {len(session.token_ids)}.",
                remedy="Send the number of tokens whose log-probabilities came.",
            )
        match question:
            case Step():
                mask = self._mask(question.mask)
                step = await session.step(mask, sampling=question.sampling, attempt=question.attempt)
                columns = _columns(session, question.known)
                columns.texts = [""] * (len(columns.token_ids) - 1) + [step.text]
                reason = "" if step.finish_reason is None else step.finish_reason.value
                return Stepped(
                    id=self.id, columns=columns, finish_reason=reason, stop_reason=session.stop_reason
                )
            case Look():
                found = await session.logprobs(self._mask(question.mask), k=question.k)
                columns = _columns(session, question.known)
                return Looked(id=self.id, distribution=distributions.to_wire(found), columns=columns)
            case Settle():
                await session.settle()
                return Stepped(
                    id=self.id, columns=_columns(session, question.known), stop_reason=session.stop_reason
                )

    def _mask(self, mask: Mask | None) -> TokenMask | None:
        assert self._lease is not None
        return None if mask is None else masks.from_wire(mask, self._lease.served.model.tokenizer.vocab_size)


def _columns(session: Session, known: int) -> Columns:
    logprobs = session.known(known)
    return logprob_columns(list(session.token_ids[known : known + len(logprobs)]), logprobs)
