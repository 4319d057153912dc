"""A server as a process: from the port to the signal that ends it."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from enum import Enum

from lmql_backends.lmtp.server.server import LMTPServer

SIGNALS = (signal.SIGTERM, signal.SIGINT)

logger = logging.getLogger(__name__)


class Ending(Enum):
    """How a server ended."""

    DRAINED = "all that ran has ended"
    CUT = "something was cut off"
    UNLOADED = "its models were still loading"


class Stop:
    """Signals, and whoever else wants the server to end. Belongs to the running loop."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        """Once: take nothing new, and end."""
        self.at_once = asyncio.Event()
        """Twice: end now."""
        self._loop = asyncio.get_running_loop()

    def __enter__(self) -> Stop:
        for number in SIGNALS:
            with suppress(NotImplementedError, ValueError):  # not on Windows, nor beside the main thread
                self._loop.add_signal_handler(number, self.ask)
        return self

    def __exit__(self, *_: object) -> None:
        for number in SIGNALS:
            with suppress(NotImplementedError, ValueError):
                self._loop.remove_signal_handler(number)

    def ask(self) -> None:
        if self.asked.is_set():
            self.at_once.set()
        self.asked.set()

    def when_closed(self, descriptor: int) -> None:
        """Ask when the other end of this pipe is closed: a child must not outlive its parent."""

        def wait() -> None:
            with suppress(OSError):
                while os.read(descriptor, 4096):
                    pass
            with suppress(RuntimeError):  # the loop is closed: it has ended
                self._loop.call_soon_threadsafe(self.ask)

        threading.Thread(target=wait, name="dcmodel-parent", daemon=True).start()


async def run_server(
    server: LMTPServer,
    *,
    load: Callable[[], Awaitable[None]],
    announce: Callable[[], None],
    drain_seconds: float,
    parent_pipe: int | None = None,
) -> Ending:
    """Listen, load, announce, serve, and end when told to: SIGTERM, Ctrl-C, or the parent's end of a pipe.

    Raises what listening or loading raises.
    """
    with Stop() as stop:
        if parent_pipe is not None:
            stop.when_closed(parent_pipe)
        async with server:
            loading = asyncio.ensure_future(load())
            stopping = asyncio.create_task(stop.asked.wait())
            try:
                await asyncio.wait((loading, stopping), return_when=asyncio.FIRST_COMPLETED)
                if not loading.done():
                    return Ending.UNLOADED
                loading.result()
                announce()
                await stopping
                return await _drain(server, stop, drain_seconds)
            finally:
                for task in (loading, stopping):
                    task.cancel()
                await asyncio.gather(loading, stopping, return_exceptions=True)


async def _drain(server: LMTPServer, stop: Stop, seconds: float) -> Ending:
    logger.info("draining: %d connections and requests have %g seconds.", server.app.drain.running, seconds)
    draining = asyncio.create_task(server.drain(seconds))
    hurrying = asyncio.create_task(stop.at_once.wait())
    await asyncio.wait((draining, hurrying), return_when=asyncio.FIRST_COMPLETED)
    is_drained = draining.done() and draining.result()
    for task in (draining, hurrying):
        task.cancel()
    await asyncio.gather(draining, hurrying, return_exceptions=True)
    return Ending.DRAINED if is_drained else Ending.CUT
