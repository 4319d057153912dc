"""`LMTPServer`: models behind a port, in any running event loop."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Self

from dcmodel.errors import MissingDependencyError
from dcmodel.llm import LLM
from dcmodel.model import DcModel
from lmql_backends.lmtp.server.app import LMTPApp, create_app
from lmql_backends.lmtp.server.contracts import Models, Routes
from lmql_backends.lmtp.server.models import StaticModels
from lmql_backends.lmtp.server.settings import ServerSettings

if TYPE_CHECKING:
    from lmql_backends.lmtp.server.listener import Listener
    from lmql_backends.lmtp.server.openai.double import Double

Served = Models | DcModel | LLM | Mapping[str, DcModel | LLM]


class LMTPServer:
    """Serves while its context is open::

        async with LMTPServer(LLM(), port=8080) as server:
            print(server.url)
            await server.wait_closed()

    The models stay the caller's: closing the server does not close them.
    """

    def __init__(
        self,
        models: Served,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        settings: ServerSettings | None = None,
        routes: Routes | None = None,
        tls: ssl.SSLContext | None = None,
        is_ready: Callable[[], bool] = lambda: True,
        double: Double | None = None,
    ) -> None:
        """`port` 0: any that is free. `routes`: further ones, which need the token like all others.
        `is_ready`: whether /ready says so. `double`: limits and faults for the OpenAI-compatible routes
        (docs/openai-double.md).

        Raises `InvalidRequestError` for a host that other machines reach, without a token.
        """
        self.settings = settings or ServerSettings()
        self.settings.check_exposure(host)
        self.host = host
        self.models = models if isinstance(models, Models) else StaticModels(models)
        self._port = port
        self._tls = tls
        self.app: LMTPApp = create_app(
            self.models, self.settings, routes, host=host, is_ready=is_ready, double=double
        )
        self._listener: Listener | None = None
        self._closed = asyncio.Event()

    @property
    def port(self) -> int:
        """The one that it listens on, once it does."""
        return self._port

    @property
    def url(self) -> str:
        """For clients on this machine: ``LLM(server.url)``."""
        return f"{'lmtps' if self._tls else 'lmtp'}://{self._address}"

    @property
    def http_url(self) -> str:
        return f"{'https' if self._tls else 'http'}://{self._address}"

    @property
    def _address(self) -> str:
        host = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(self.host, self.host)
        return f"[{host}]:{self._port}" if ":" in host else f"{host}:{self._port}"

    async def start(self) -> None:
        """Listen. Raises `SetupError` where the port cannot be had."""
        try:
            from lmql_backends.lmtp.server.listener import Listener
        except ImportError as error:
            raise MissingDependencyError(
                f"serving needs {error.name}, which is not installed.",
                remedy='Run: pip install "dcmodel[serve]"',
            ) from error
        self._listener = Listener(self.app, self.settings, self._tls)
        self._port = await self._listener.open(self.host, self._port)

    async def drain(self, seconds: float) -> bool:
        """Take nothing new, and wait for what runs, but not for longer than that; whether all of it ended.

        /ready answers 503 from now on; websockets are told, and closed when nothing runs on them.
        """
        self.app.drain.begin()
        try:
            async with asyncio.timeout(seconds):
                await self.app.drain.wait_idle()
        except TimeoutError:
            return False
        return True

    async def aclose(self) -> None:
        """Cancel what runs and close everything but the models."""
        if self._listener is not None:
            listener, self._listener = self._listener, None
            await listener.aclose()
        self._closed.set()

    async def wait_closed(self) -> None:
        """Until another task has closed it."""
        await self._closed.wait()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()
