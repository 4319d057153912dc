"""`Job`: a batch of questions, and the predictions that it takes to have them answered."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import aclosing
from random import Random
from typing import Any

from lmql_backends.replicate.api import Api, Prediction, Target
from lmql_backends.replicate.batch import Batch
from lmql_backends.replicate.events import EventParser, EventTooLongError
from lmql_backends.replicate.failures import AttemptFailed, Kind, from_status
from lmql_backends.replicate.retries import Retries
from lmql_backends.replicate.settings import Settings

logger = logging.getLogger(__name__)
Spawn = Callable[[Coroutine[Any, Any, Prediction | None]], "asyncio.Task[Prediction | None]"]
LAST = frozenset({"done", "error"})
"""Events that nothing follows; the prediction itself says more."""
LOOK_SECONDS = 1.0
"""Between two looks at a prediction that has no stream."""


class Pace:
    """What a refusal for the rate tells all jobs of a client: create nothing before."""

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        rng: Random | None = None,
    ) -> None:
        self.clock = clock
        self.sleep = sleep
        self.rng = rng or Random()
        self._until = clock()

    def hold(self, seconds: float) -> None:
        self._until = max(self._until, self.clock() + seconds)

    async def turn(self) -> None:
        while (wait := self._until - self.clock()) > 0:
            await self.sleep(wait)


class Job:
    """Cancelled, it cancels its prediction, also one that is just being created."""

    def __init__(
        self, api: Api, target: Target, settings: Settings, batch: Batch, pace: Pace, spawn: Spawn
    ) -> None:
        """`spawn`: runs what must come to its end after this job; somebody waits for it."""
        self._api = api
        self._target = target
        self._batch = batch
        self._pace = pace
        self._spawn = spawn
        self._retries = Retries(settings, pace.clock(), pace.rng)
        self._last_event_id = ""

    async def run(self) -> None:
        """Until all is answered. Raises `AttemptFailed`; `InvalidRequestError` for what cannot be said."""
        while not self._batch.is_over:
            before = self._batch.progress
            try:
                await self._follow(await self._create())
            except AttemptFailed as failure:
                if failure.kind is Kind.RATE_LIMITED:
                    self._pace.hold(failure.retry_after or 0.0)
                if self._batch.progress > before:
                    self._retries.progressed()
                await self._wait_after(failure)

    # -- its steps ---------------------------------------------------------------------------------

    async def _create(self) -> Prediction:
        inputs = self._batch.inputs()
        await self._pace.turn()
        seconds = self._retries.seconds_left(self._pace.clock())
        creating = self._spawn(self._api.create(self._target, inputs, seconds))
        try:
            prediction = await asyncio.shield(creating)
        except asyncio.CancelledError:
            creating.add_done_callback(self._cancel_created)
            raise
        assert prediction is not None
        return prediction

    async def _follow(self, prediction: Prediction) -> None:
        """Read what it puts out to its end, through breaks of the connection. Raises `AttemptFailed` for its
        own failure, and where it cannot be followed any more."""
        self._last_event_id = ""
        try:
            while not self._batch.is_over and not prediction.is_over:
                before = self._batch.progress
                try:
                    if prediction.urls.stream:
                        await self._read(prediction)
                    else:
                        await self._pace.sleep(LOOK_SECONDS)
                    if self._batch.is_over:
                        break
                    prediction = await self._look(prediction)
                    if self._batch.progress == before and prediction.urls.stream and not prediction.is_over:
                        raise AttemptFailed(Kind.CONNECTION, "the stream ended before the prediction did")
                except AttemptFailed as failure:
                    if self._batch.progress > before:
                        self._retries.progressed()
                    await self._wait_after(failure)
        except BaseException:
            if not prediction.is_over:
                _ = self._spawn(self._give_up(prediction))
            raise
        if self._batch.is_over:
            if self._batch.has_dropped and not prediction.is_over:  # it goes on for nobody
                _ = self._spawn(self._give_up(prediction))
            return
        self._settle(prediction)

    async def _read(self, prediction: Prediction) -> None:
        """The stream, from where the last one broke, until it ends or says that nothing follows."""
        parser = EventParser()
        try:
            async with (
                self._api.stream(prediction, self._last_event_id) as pieces,
                aclosing(pieces) as source,
            ):
                async for piece in source:
                    events = parser.feed(piece)
                    self._last_event_id = events[-1].id if events else self._last_event_id
                    self._batch.take([event.data for event in events if event.name == "output"])
                    if self._batch.is_over or any(event.name in LAST for event in events):
                        return
        except AttemptFailed as failure:
            if failure.kind is Kind.TIMEOUT:  # a cold boot may be silent for longer
                logger.info("the stream of prediction %s is silent: %s", prediction.id, failure)
            elif failure.status in (404, 410):  # streams are kept for less long than predictions
                prediction.urls.stream = ""
            else:
                self._batch.broken()
                raise
        except (EventTooLongError, UnicodeDecodeError) as error:
            raise AttemptFailed(Kind.BAD_RESPONSE, f"the stream is broken: {error}") from error
        self._batch.broken()

    async def _look(self, prediction: Prediction) -> Prediction:
        now = await self._api.get(prediction)
        now.urls.stream = prediction.urls.stream
        return now

    def _settle(self, prediction: Prediction) -> None:
        """It is over: what came is in its output, also what the stream lost."""
        self._batch.take_all(prediction.text)
        if self._batch.is_over:
            return
        failure = from_status(prediction.status, prediction.error)
        raise failure or AttemptFailed(Kind.FAILED, "the prediction ended without an answer")

    async def _wait_after(self, failure: AttemptFailed) -> None:
        """Raises the failure itself where there is no use in waiting."""
        wait = self._retries.wait(failure, self._pace.clock())
        if wait is None:
            raise failure
        logger.info("trying again in %.2f s: %s", wait, failure)
        await self._pace.sleep(wait)

    # -- its end -----------------------------------------------------------------------------------

    def _cancel_created(self, creating: asyncio.Task[Prediction | None]) -> None:
        """It was created for nobody."""
        prediction = None if creating.cancelled() or creating.exception() else creating.result()
        if prediction is not None and not prediction.is_over:
            _ = self._spawn(self._give_up(prediction))

    async def _give_up(self, prediction: Prediction) -> None:
        try:
            await self._api.cancel(prediction)
        except AttemptFailed as failure:  # it ends at its deadline
            logger.info("prediction %s could not be cancelled: %s", prediction.id, failure)
