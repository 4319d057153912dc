"""Connections to LMQL's predictor: the same to clients, another language towards the prediction."""

from __future__ import annotations

from typing import Any

from dcmodel.errors import CapabilityError, DcModelError
from lmql_backends.lmtp.clients.transport import Receiver, Transport
from lmql_backends.lmtp.protocol import errors
from lmql_backends.lmtp.protocol.messages import Generate, Score, ServerMessage, Step
from lmql_backends.replicate.api import Api, Target
from lmql_backends.replicate.asked import Asked, Question, SessionQuestion, SessionState
from lmql_backends.replicate.job import Pace
from lmql_backends.replicate.legacy_asked import AskedLook, AskedScores, AskedTokens
from lmql_backends.replicate.ops import Ops
from lmql_backends.replicate.settings import Settings
from lmql_backends.replicate.speech import Speech
from lmql_backends.replicate.transport import ReplicateConnector, ReplicateTransport


class LegacyConnector(ReplicateConnector):
    """`vocab_size`: of the tokenizer that the user named; the predictor tells nothing of its own."""

    def __init__(
        self,
        name: str,
        api: Api,
        target: Target,
        settings: Settings,
        vocab_size: int,
        *,
        pace: Pace | None = None,
    ) -> None:
        super().__init__(name, api, target, settings, speech=Ops(), pace=pace)
        self._vocab_size = vocab_size

    async def connect(self, receiver: Receiver) -> Transport:
        return LegacyTransport(
            self.name,
            self._api,
            self._target,
            self._settings,
            self._speech,
            self._pace,
            receiver,
            vocab_size=self._vocab_size,
        )


class LegacyTransport(ReplicateTransport):
    """A step without a mask has the predictor go on, and the next steps find their tokens there."""

    def __init__(
        self,
        name: str,
        api: Api,
        target: Target,
        settings: Settings,
        speech: Speech,
        pace: Pace,
        receiver: Receiver,
        *,
        vocab_size: int,
    ) -> None:
        super().__init__(name, api, target, settings, speech, pace, receiver)
        self._vocab_size = vocab_size
        self._ahead: dict[int, AskedTokens] = {}
        """The last one of each session; its tokens stay when its prediction has ended."""

    def _ask(
        self, message: Generate | Question, asked: list[Asked[Any]], answers: list[ServerMessage]
    ) -> None:
        try:
            if not isinstance(message, Score):
                kind = type(message).__name__
                raise CapabilityError(
                    f"LMQL's predictor has no command for {kind}.", remedy="Push a predictor of ours."
                )
            asked.append(AskedScores(message))
        except DcModelError as error:
            answers.append(errors.to_wire(message.id, error))

    def _ask_session(
        self,
        state: SessionState,
        question: SessionQuestion,
        asked: list[Asked[Any]],
        answers: list[ServerMessage],
    ) -> None:
        ahead = self._ahead.get(question.id)
        if ahead is not None and isinstance(question, Step) and ahead.continues(question):
            answers += ahead.next()
            return
        self._drop(question.id)
        try:
            if isinstance(question, Step):
                self._ahead[question.id] = AskedTokens(state, question, self._vocab_size)
                asked.append(self._ahead[question.id])
            else:
                look = AskedLook(state, question)
                at_once = look.answered()
                answers += at_once
                asked += [] if at_once else [look]
        except DcModelError as error:
            answers.append(errors.to_wire(question.id, error))

    def _drop(self, id_: int) -> Asked[Any] | None:
        self._ahead.pop(id_, None)
        return super()._drop(id_)
