"""The event loop behind the synchronous face: one daemon thread per process runs it.

Asynchronous code is the core; a synchronous call hands a coroutine to this loop and waits. As the loop
has a thread of its own, that works from any thread, from inside another running loop (a notebook), and
from several threads at once.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import os
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

from dcmodel.errors import InvalidRequestError

T = TypeVar("T")

CANCEL_GRACE = 5.0
"""Seconds that an interrupted call waits for its coroutine to clean up."""


class LoopThread:
    """An event loop in a daemon thread."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, name="dcmodel-loop", daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        asyncio.set_event_loop(self.loop)
        while True:
            # What a coroutine raises is in its future; `sys.exit` in one must not end the others.
            with contextlib.suppress(KeyboardInterrupt, SystemExit):
                self.loop.run_forever()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run it on the loop and wait; an interrupt (Ctrl-C) cancels it.

        Raises what the coroutine raises, and `InvalidRequestError` in the loop's own thread, where
        waiting would never end.
        """
        if threading.current_thread() is self._thread:
            coroutine.close()
            raise InvalidRequestError(
                "a synchronous call was made in the thread of dcmodel's own event loop.",
                remedy="Use the asynchronous form there: agenerate, astream, ascore, achoose, asession …",
            )
        future = asyncio.run_coroutine_threadsafe(coroutine, self.loop)
        try:
            return future.result()
        except BaseException:
            if not future.done():
                future.cancel()
                # The wrapped task is cancelled by a callback on the loop: one more turn lets it clean up.
                barrier = asyncio.run_coroutine_threadsafe(_settle(), self.loop)
                concurrent.futures.wait([barrier], timeout=CANCEL_GRACE)
            raise


async def _settle() -> None:
    """A few turns of the loop, in which cancelled tasks run their cleanup."""
    for _ in range(3):
        await asyncio.sleep(0)


class _Holder:
    """The process's loop thread. A forked child finds another process's and starts its own."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._current: LoopThread | None = None
        self._is_watching_forks = False

    def get(self) -> LoopThread:
        with self._lock:
            if self._current is None:
                if not self._is_watching_forks and hasattr(os, "register_at_fork"):
                    os.register_at_fork(after_in_child=self._forget)
                    self._is_watching_forks = True
                self._current = LoopThread()
            return self._current

    def _forget(self) -> None:
        self._lock = threading.Lock()  # another thread may have held it at the time of the fork
        self._current = None


_HOLDER = _Holder()


def background_loop() -> LoopThread:
    """This process's loop thread, started at the first call."""
    return _HOLDER.get()


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on the background loop and wait for its result."""
    return background_loop().run(coroutine)
