"""Calls from thread to thread and loop to loop: one wake-up each time, however many calls."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable

Call = Callable[[], None]


class Calls:
    """Calls from any thread into one loop, in the order in which each thread made them."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._waiting: deque[Call] = deque()
        self._is_due = False

    def post(self, call: Call) -> None:
        """Have it called in the loop; never from inside this function, so that any state is fit for it.

        Nothing happens where the loop is closed.
        """
        self._waiting.append(call)
        if self._is_due:
            return
        self._is_due = True
        try:
            self.loop.call_soon_threadsafe(self._make)
        except RuntimeError:  # the loop is closed, and all that lived in it
            self._waiting.clear()

    def _make(self) -> None:
        # First: what is posted from here on is seen below, or wakes the loop again.
        self._is_due = False
        while self._waiting:
            self._waiting.popleft()()


class Wakeups:
    """What readers in their loops are to be told when a frame was taken in."""

    def __init__(self) -> None:
        self._by_loop: dict[asyncio.AbstractEventLoop, list[Call]] = {}

    def add(self, loop: asyncio.AbstractEventLoop, call: Call) -> None:
        self._by_loop.setdefault(loop, []).append(call)

    def deliver(self) -> None:
        """Called in an event loop. A loop that is closed has no readers left."""
        here = asyncio.get_running_loop()
        for loop, calls in self._by_loop.items():
            if loop is here:
                _make_all(calls)
                continue
            try:
                loop.call_soon_threadsafe(_make_all, calls)
            except RuntimeError:
                continue


def _make_all(calls: Iterable[Call]) -> None:
    for call in calls:
        call()
