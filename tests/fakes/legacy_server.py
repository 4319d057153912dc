"""A server in a thread of its own, for LMQL's client, which has a loop of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from lmql_backends.lmtp.server.contracts import Models
from lmql_backends.lmtp.server.server import LMTPServer


@contextmanager
def legacy_server(models: Models) -> Iterator[str]:
    """Its address, as LMQL's ``endpoint=`` takes it."""
    ready = threading.Event()
    running: list[tuple[str, asyncio.AbstractEventLoop, asyncio.Event]] = []

    async def main() -> None:
        stop = asyncio.Event()
        try:
            async with LMTPServer(models) as server:
                running.append((f"127.0.0.1:{server.port}", asyncio.get_running_loop(), stop))
                ready.set()
                await stop.wait()
        finally:
            ready.set()

    thread = threading.Thread(target=lambda: asyncio.run(main()), name="server")
    thread.start()
    ready.wait(30)
    assert running, "the server did not start"
    ((address, loop, stop),) = running
    try:
        yield address
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(30)
