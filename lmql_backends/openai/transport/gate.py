"""The one gate through which all requests to an endpoint, key and model go."""

from __future__ import annotations

import asyncio
import heapq
import math
from collections.abc import Mapping
from itertools import count
from random import Random

from dcmodel.errors import ModelClosedError, OverloadedError
from lmql_backends.openai.transport.control import BEYOND_WINDOW, Control, ControlSettings
from lmql_backends.openai.transport.failures import AttemptFailed
from lmql_backends.openai.transport.rate_headers import UNKNOWN, rate_limits


class Slot:
    """A place under the gate's window. `leave` may be called more than once."""

    __slots__ = ("_gate", "_is_held", "is_kept")

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._is_held = True
        self.is_kept = False
        """Whoever began the request keeps the place beyond the first answer (a stream)."""

    def leave(self) -> None:
        if self._is_held:
            self._is_held = False
            self._gate.left()


class Gate:
    """Lets requests out when `Control` says so, in the order of their ranks. Lives in one event loop."""

    def __init__(self, settings: ControlSettings | None = None, rng: Random | None = None) -> None:
        self.control = Control(settings or ControlSettings(), rng or Random())
        self._loop = asyncio.get_running_loop()
        self._waiting: list[tuple[tuple[int, int], int, float, int, asyncio.Future[None]]] = []
        """rank, tie-breaker, deadline, tokens, the one who waits"""
        self._numbers = count()
        self._timer: asyncio.TimerHandle | None = None
        self._last_failure = ""

    async def enter(self, rank: tuple[int, int], deadline: float, tokens: int) -> Slot:
        """Wait for a place. `rank` is smaller for those who go first.

        Raises `OverloadedError` at the deadline, and at once where the endpoint's pause outlasts it.
        """
        now = self._loop.time()
        self._check_pause(deadline)
        if not self._waiting and self.control.delay(now) == 0.0:
            self.control.started(now, tokens)
            return Slot(self)
        place = self._loop.create_future()
        heapq.heappush(self._waiting, (rank, next(self._numbers), deadline, tokens, place))
        self._pump()
        try:
            async with asyncio.timeout_at(deadline):
                await place
        except TimeoutError as error:
            self._give_up(place)
            raise OverloadedError(
                f"the deadline came before this request's turn{self._last_failure}.",
                remedy="Give it more time, or send less at once.",
            ) from error
        except BaseException:
            self._give_up(place)
            raise
        return Slot(self)

    def close(self) -> None:
        """Whoever waits gets `ModelClosedError`."""
        for *_, place in self._waiting:
            if not place.done():
                place.set_exception(ModelClosedError("the transport was closed while the request waited."))
        self._pump()

    def left(self) -> None:
        """A place is free again."""
        self.control.ended()
        self._pump()

    def saw(self, headers: Mapping[str, str]) -> None:
        """The headers of a response."""
        limits = rate_limits(headers)
        if limits is not UNKNOWN:
            self.control.saw(limits)

    def succeeded(self) -> None:
        self.control.succeeded(self._loop.time())

    def failed(self, failure: AttemptFailed) -> None:
        pause_until = self.control.pause_until
        self.control.failed(self._loop.time(), failure)
        self._last_failure = f"; the endpoint last said: {failure.message}"
        if self.control.pause_until > pause_until:
            self._refuse_the_hopeless()

    # -- inside ------------------------------------------------------------------------------------

    def _check_pause(self, deadline: float) -> None:
        if self.control.pause_until > deadline:
            raise self._pause_error()

    def _pause_error(self) -> OverloadedError:
        seconds = self.control.pause_until - self._loop.time()
        return OverloadedError(
            f"the endpoint wants a pause of {seconds:.1f} seconds, beyond the deadline{self._last_failure}.",
            remedy=f"Try again in {math.ceil(seconds)} seconds, or give it more time.",
            retry_after=seconds,
        )

    def _refuse_the_hopeless(self) -> None:
        for _, _, deadline, _, place in self._waiting:
            if deadline < self.control.pause_until and not place.done():
                place.set_exception(self._pause_error())

    def _give_up(self, place: asyncio.Future[None]) -> None:
        if place.done() and not place.cancelled() and place.exception() is None:
            self.left()
        else:
            place.cancel()

    def _pump(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._waiting:
            place = self._waiting[0][-1]
            if place.done():
                heapq.heappop(self._waiting)
                continue
            now = self._loop.time()
            delay = self.control.delay(now)
            if delay == BEYOND_WINDOW:
                return
            if delay > 0.0:
                self._timer = self._loop.call_at(now + delay, self._pump)
                return
            tokens = heapq.heappop(self._waiting)[3]
            self.control.started(now, tokens)
            place.set_result(None)
