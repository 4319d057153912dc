"""A balancer as a process: workers, the server before them, and the signals that end both."""

from __future__ import annotations

import asyncio
import logging
import signal
import ssl
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from lmql_backends.lmtp.balancer.connecting import connect_by, probe
from lmql_backends.lmtp.balancer.model import BalancedDcModel
from lmql_backends.lmtp.balancer.pool import Pool
from lmql_backends.lmtp.balancer.routes import worker_routes
from lmql_backends.lmtp.balancer.settings import BalancerSettings
from lmql_backends.lmtp.balancer.workers import Fleet, WorkerCommand
from lmql_backends.lmtp.clients.address import Address
from lmql_backends.lmtp.clients.websocket import WebSocketConnector
from lmql_backends.lmtp.server.run import Ending, run_server
from lmql_backends.lmtp.server.server import LMTPServer
from lmql_backends.lmtp.server.settings import ServerSettings

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class BalancerSetup:
    """Where it listens, and what it is before."""

    host: str
    port: int
    server: ServerSettings
    balancer: BalancerSettings
    worker_token: str | None
    """What the workers want."""
    worker_model: str = ""
    """What they call the model; empty: their first one."""
    addresses: tuple[str, ...] = ()
    """Workers that run already."""
    commands: tuple[WorkerCommand, ...] = ()
    """Workers to be started."""
    served_name: str = ""
    """What clients call the model; empty: its own name."""
    tls: ssl.SSLContext | None = None
    drain_seconds: float = 30.0


async def serve_balanced(
    setup: BalancerSetup, announce: Callable[[LMTPServer, BalancedDcModel], None]
) -> Ending:
    """Until a signal ends it: SIGTERM or Ctrl-C. SIGHUP restarts the workers that were started here, one
    after the other. Raises what listening raises, and `ModelLoadError` where a worker cannot start."""

    def connector_of(address: str) -> WebSocketConnector:
        return WebSocketConnector(Address.parse(f"lmtp://{address}"), token=setup.worker_token)

    setup.server.check_exposure(setup.host)
    pool = Pool(connect_by(connector_of, setup.worker_model), probe, settings=setup.balancer)
    fleet = Fleet(pool, setup.commands, stop_seconds=setup.drain_seconds + 5.0)
    try:
        for address in setup.addresses:
            pool.add(address)
        await fleet.start()
        model = BalancedDcModel(pool, await pool.first())
        server = LMTPServer(
            {setup.served_name or model.info.name: model},
            host=setup.host,
            port=setup.port,
            settings=setup.server,
            routes=worker_routes(pool),
            tls=setup.tls,
        )
        with Restarts(fleet):
            return await run_server(
                server,
                load=_nothing,
                announce=lambda: announce(server, model),
                drain_seconds=setup.drain_seconds,
            )
    finally:
        await pool.aclose()
        await fleet.aclose()


class Restarts:
    """SIGHUP: a rolling restart. Belongs to the running loop."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._loop = asyncio.get_running_loop()
        self._running: asyncio.Task[None] | None = None

    def __enter__(self) -> None:
        with suppress(NotImplementedError, ValueError, AttributeError):  # not everywhere are there signals
            self._loop.add_signal_handler(signal.SIGHUP, self.ask)

    def __exit__(self, *_: object) -> None:
        with suppress(NotImplementedError, ValueError, AttributeError):
            self._loop.remove_signal_handler(signal.SIGHUP)
        if self._running is not None:
            self._running.cancel()

    def ask(self) -> None:
        """Begin one, unless one is running."""
        if self._running is None or self._running.done():
            log.info("the workers are restarted, one after the other.")
            self._running = asyncio.create_task(self._fleet.restart(), name="rolling restart")


async def _nothing() -> None:
    return
