"""The end of a server: nothing new is taken, what runs goes on for a while."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from dcmodel.errors import OverloadedError

REASON = "it is about to end"
RETRY_SECONDS = 1.0


class Drain:
    """What runs, and whether more is taken. Belongs to the server's event loop."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._running = 0

    @property
    def is_on(self) -> bool:
        return self.begun.is_set()

    @property
    def running(self) -> int:
        """HTTP requests and websockets."""
        return self._running

    def begin(self) -> None:
        """From now on nothing new is taken; cannot be undone."""
        self.begun.set()

    def check(self) -> None:
        """Raises `OverloadedError` where nothing new is taken."""
        if self.is_on:
            raise OverloadedError(
                f"the server takes nothing new: {REASON}.",
                remedy="Ask another server, or this one later.",
                retry_after=RETRY_SECONDS,
            )

    @contextmanager
    def run(self) -> Iterator[None]:
        """Something runs."""
        self._running += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._running -= 1
            if not self._running:
                self._idle.set()

    async def wait_idle(self) -> None:
        await self._idle.wait()
