"""What a client has asked and has no answer to yet: how a prediction is told, and what answers make of it.

A prediction is asked once and answers until it ends. So nothing can be said later: what the client says
meanwhile (`Cancel`) is answered here, and a session is told anew to each prediction that steps it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Generic, TypeVar

from msgspec.structs import replace

from dcmodel.errors import RequestCancelledError
from dcmodel.types import Certificate, FinishReason, Usage
from lmql_backends.lmtp.protocol import errors
from lmql_backends.lmtp.protocol.messages import (
    Append,
    ClientMessage,
    Describe,
    Done,
    Failed,
    Generate,
    GetTokenizer,
    Look,
    Looked,
    Mount,
    NextTokens,
    Open,
    Opened,
    Rollback,
    Score,
    ServerMessage,
    Settle,
    Step,
    Stepped,
    Tokens,
    Unmount,
)

A = TypeVar("A")
"""What answers are, in the predictor's version of the protocol."""
Question = Describe | GetTokenizer | Score | NextTokens | Mount | Unmount
SessionQuestion = Step | Look | Settle


class Asked(ABC, Generic[A]):
    """One conversation's wish; a new prediction is told what is still missing of it. `take` may be given
    the same answer twice, and answers out of order."""

    def __init__(self, id_: int) -> None:
        self.id = id_
        self.is_over = False
        self.heard = 0
        """How many answers brought it further."""

    @abstractmethod
    def take(self, answer: A) -> list[ServerMessage]:
        """What the client is told of it: nothing for what it knows already, and for what came too early."""

    def cancelled(self) -> list[ServerMessage]:
        """What the client hears when it cancels: the prediction may go on for others."""
        return []


class Framed(Asked[ServerMessage]):
    """Of version 2."""

    @abstractmethod
    def messages(self) -> list[ClientMessage]:
        """What says it to a prediction, behind what was received of it before."""


class AskedStream(Framed):
    """`Generate`."""

    def __init__(self, message: Generate) -> None:
        super().__init__(message.id)
        self._message = message
        self._received = list(message.received)
        self._forced = 0

    def messages(self) -> list[ClientMessage]:
        # Credit cannot be given later. What gathers has an end at `max_tokens`.
        return [replace(self._message, received=self._received, credit=None)]

    def take(self, answer: ServerMessage) -> list[ServerMessage]:
        match answer:
            case Tokens():
                if answer.at != len(self._received):
                    return []
                self._received += answer.columns.token_ids
                self._forced += len(answer.columns.forced)
            case Done():
                if answer.tokens != len(self._received):
                    return []
                self.is_over = True
            case _:
                self.is_over = True
        self.heard += 1
        return [answer]

    def cancelled(self) -> list[ServerMessage]:
        request = self._message.request
        return [
            Done(
                id=self.id,
                tokens=len(self._received),
                finish_reason=FinishReason.CANCELLED.value,
                stop_reason=FinishReason.CANCELLED.value,
                usage=Usage(
                    prompt_tokens=0 if isinstance(request.prompt, str) else len(request.prompt),
                    cached_tokens=0,
                    completion_tokens=len(self._received),
                    forced_tokens=self._forced,
                ),
                certificate=Certificate(valid=None if request.constraint is None else False, exact=True),
            )
        ]


class AskedQuestion(Framed):
    """What has one answer."""

    def __init__(self, message: Question) -> None:
        super().__init__(message.id)
        self._message = message

    def messages(self) -> list[ClientMessage]:
        return [self._message]

    def take(self, answer: ServerMessage) -> list[ServerMessage]:
        self.is_over = True
        self.heard += 1
        return [answer]

    def cancelled(self) -> list[ServerMessage]:
        return [errors.to_wire(self.id, RequestCancelledError("the question was cancelled."))]


class SessionState:
    """What a session is, on this side: there is no other that lasts."""

    def __init__(self, opening: Open) -> None:
        self.opening = opening
        self.output: list[int] = []

    def change(self, message: Append | Rollback) -> None:
        if isinstance(message, Append):
            self.output += message.token_ids
        else:
            del self.output[len(self.output) - min(message.count, len(self.output)) :]


class AskedStep(Framed):
    """One question to a session, which is opened for it."""

    def __init__(self, state: SessionState, question: SessionQuestion) -> None:
        super().__init__(question.id)
        self._state = state
        self._question = question
        self._output = state.output.copy()

    def messages(self) -> list[ClientMessage]:
        before = [Append(id=self.id, token_ids=self._output)] if self._output else []
        return [self._state.opening, *before, self._question]

    def take(self, answer: ServerMessage) -> list[ServerMessage]:
        match answer:
            case Opened():
                return []
            case Stepped() if isinstance(self._question, Step) and answer.columns.token_ids:
                self._state.output = [*self._output, answer.columns.token_ids[-1]]
            case Stepped() | Looked() | Failed() | _:
                pass
        self.is_over = True
        self.heard += 1
        return [answer]
