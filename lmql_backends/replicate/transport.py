"""Connections whose frames travel as predictions."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Sequence
from typing import Any

from dcmodel.errors import DcModelError, EngineError, InvalidRequestError
from lmql_backends.lmtp.clients.transport import Connector, Receiver, Transport
from lmql_backends.lmtp.protocol import errors
from lmql_backends.lmtp.protocol.messages import (
    VERSION,
    Append,
    Cancel,
    ClientMessage,
    Credit,
    Describe,
    Fork,
    Generate,
    GetTokenizer,
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
from lmql_backends.replicate.api import Api, Prediction, Target
from lmql_backends.replicate.asked import (
    Asked,
    AskedQuestion,
    AskedStep,
    AskedStream,
    Question,
    SessionQuestion,
    SessionState,
)
from lmql_backends.replicate.batch import Batch
from lmql_backends.replicate.failures import AttemptFailed, to_error
from lmql_backends.replicate.job import Job, Pace
from lmql_backends.replicate.settings import Settings
from lmql_backends.replicate.speech import Frames, Speech

logger = logging.getLogger(__name__)

MAX_STREAMS = 256
"""Conversations at a time: what one prediction may be asked, at most."""
CLOSE_SECONDS = 5.0
"""How long closing waits for predictions to be cancelled; later they end at their deadline."""


class ReplicateConnector(Connector):
    """Connections to one predictor; nothing is opened before something is asked."""

    def __init__(
        self,
        name: str,
        api: Api,
        target: Target,
        settings: Settings,
        *,
        speech: Speech | None = None,
        pace: Pace | None = None,
    ) -> None:
        """`name`: the model, as messages call it. `api` is closed with the connector."""
        self.name = name
        self._api = api
        self._target = target
        self._settings = settings
        self._speech = speech or Frames()
        self._pace = pace or Pace()

    async def connect(self, receiver: Receiver) -> Transport:
        return ReplicateTransport(
            self.name, self._api, self._target, self._settings, self._speech, self._pace, receiver
        )

    async def aclose(self) -> None:
        await self._api.aclose()


class ReplicateTransport(Transport):
    """What is sent in one frame is asked of one prediction."""

    def __init__(
        self,
        name: str,
        api: Api,
        target: Target,
        settings: Settings,
        speech: Speech,
        pace: Pace,
        receiver: Receiver,
    ) -> None:
        self._name = name
        self._api = api
        self._target = target
        self._settings = settings
        self._speech = speech
        self._pace = pace
        self._receiver: Receiver | None = receiver
        self._loop = asyncio.get_running_loop()
        self._sessions: dict[int, SessionState] = {}
        self._jobs: dict[Batch, asyncio.Task[None]] = {}
        self._closing: set[asyncio.Task[Prediction | None]] = set()

    def send(self, messages: Sequence[ClientMessage]) -> None:
        asked: list[Asked[Any]] = []
        answers: list[ServerMessage] = []
        for message in messages:
            match message:
                case Hello():
                    answers.append(self._welcome())
                case Generate() | Describe() | GetTokenizer() | Score() | NextTokens() | Mount() | Unmount():
                    self._ask(message, asked, answers)
                case Open():
                    self._sessions[message.id] = SessionState(message)
                case Append() | Rollback() if message.id in self._sessions:
                    self._sessions[message.id].change(message)
                case Step() | Look() | Settle() if message.id in self._sessions:
                    self._ask_session(self._sessions[message.id], message, asked, answers)
                case Fork() if message.id in self._sessions:
                    answers.append(errors.to_wire(message.to, _no_forks()))
                case Cancel():
                    answers += self._cancel(message.id)
                case Credit() | _:
                    pass  # all of a stream comes at once, and nothing else is ever sent
        for group in self._groups(asked, answers):
            self._start(group)
        if answers:
            self._loop.call_soon(self._deliver, answers)

    def _ask(
        self, message: Generate | Question, asked: list[Asked[Any]], answers: list[ServerMessage]
    ) -> None:
        """What is to be asked, or what can be answered at once."""
        asked.append(AskedStream(message) if isinstance(message, Generate) else AskedQuestion(message))

    def _ask_session(
        self,
        state: SessionState,
        question: SessionQuestion,
        asked: list[Asked[Any]],
        answers: list[ServerMessage],
    ) -> None:
        asked.append(AskedStep(state, question))

    async def aclose(self) -> None:
        self._receiver = None
        jobs = [*self._jobs.values()]
        for job in jobs:
            job.cancel()
        if jobs:
            await asyncio.wait(jobs)
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                while self._closing:
                    await asyncio.wait(self._closing)
        except TimeoutError:
            logger.warning("%s: some predictions were not cancelled in time", self._name)
            for task in self._closing:
                task.cancel()
            await asyncio.wait(self._closing)

    # -- jobs --------------------------------------------------------------------------------------

    def _groups(self, asked: list[Asked[Any]], answers: list[ServerMessage]) -> list[list[Asked[Any]]]:
        """What fits into one prediction each; what fits into none is answered."""
        if not asked:
            return []
        try:
            size = sum(map(len, self._speech.inputs(asked).values()))
            if size <= self._settings.max_frame_bytes:
                return [asked]
            error: DcModelError = InvalidRequestError(
                f"the request has {size} bytes, and one prediction takes {self._settings.max_frame_bytes}.",
                remedy='Ask for less at once, or raise extra={"max_frame_bytes": ...}.',
            )
        except DcModelError as problem:
            error = problem
        if len(asked) == 1:
            answers.append(errors.to_wire(asked[0].id, error))
            return []
        half = len(asked) // 2
        return self._groups(asked[:half], answers) + self._groups(asked[half:], answers)

    def _start(self, asked: Sequence[Asked[Any]]) -> None:
        batch = Batch(self._speech, asked, self._deliver)
        task = self._loop.create_task(self._run(batch), name="replicate-job")
        self._jobs[batch] = task
        task.add_done_callback(lambda _: self._jobs.pop(batch, None))

    async def _run(self, batch: Batch) -> None:
        job = Job(self._api, self._target, self._settings, batch, self._pace, self._spawn)
        try:
            await job.run()
        except AttemptFailed as failure:
            rest = batch.rest()
            if failure.may_be_one_question and len(rest) > 1:
                logger.info("%s: asking %d questions one by one: %s", self._name, len(rest), failure)
                for asked in rest:
                    self._start([asked])
            else:
                self._fail(batch, to_error(failure, self._name))
        except DcModelError as error:
            self._fail(batch, error)
        except Exception as error:  # a defect of ours must not leave anybody waiting
            logger.exception("%s: a job failed", self._name)
            self._fail(batch, EngineError(f"asking {self._name} failed: {error!r}."))

    def _fail(self, batch: Batch, error: DcModelError) -> None:
        self._deliver([errors.to_wire(asked.id, error) for asked in batch.rest()])

    def _cancel(self, id_: int) -> list[ServerMessage]:
        """Take it out of its batch; a prediction that nobody waits for any more is cancelled."""
        self._sessions.pop(id_, None)
        asked = self._drop(id_)
        return [] if asked is None else asked.cancelled()

    def _drop(self, id_: int) -> Asked[Any] | None:
        for batch, job in self._jobs.items():
            asked = batch.drop(id_)
            if asked is not None:
                if batch.is_over:
                    job.cancel()
                return asked
        return None

    def _spawn(self, coroutine: Coroutine[Any, Any, Prediction | None]) -> asyncio.Task[Prediction | None]:
        task = self._loop.create_task(coroutine)
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
        return task

    # -- what the client hears ---------------------------------------------------------------------

    def _deliver(self, messages: list[ServerMessage]) -> None:
        if self._receiver is not None and messages:
            self._receiver.on_messages(messages)

    def _welcome(self) -> Welcome:
        return Welcome(
            version=VERSION,
            server=self._name,
            max_frame_bytes=self._settings.max_frame_bytes,
            max_streams=MAX_STREAMS,
        )


def _no_forks() -> InvalidRequestError:
    return InvalidRequestError("sessions of predictions do not fork.", remedy="Open another one.")
