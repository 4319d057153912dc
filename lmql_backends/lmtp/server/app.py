"""The ASGI application: websockets and HTTP on one port, behind the same guards.

It runs under `LMTPServer`, and in other programs under their own server or mounted in their own application::

    app = create_app(StaticModels({"small": LLM()}), ServerSettings(token="..."))
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from dcmodel import __version__
from dcmodel.adapters import check_adapter
from lmql_backends.lmtp.server.answers import json_answer
from lmql_backends.lmtp.server.asgi import Receive, Scope, Send
from lmql_backends.lmtp.server.contracts import HttpRequest, HttpResponse, Models, ModelState, Routes
from lmql_backends.lmtp.server.drain import Drain
from lmql_backends.lmtp.server.gate import Gate
from lmql_backends.lmtp.server.http import HttpServer
from lmql_backends.lmtp.server.loading import checked_name
from lmql_backends.lmtp.server.metering import MeteredModels
from lmql_backends.lmtp.server.metrics import Metrics
from lmql_backends.lmtp.server.peers import protocols
from lmql_backends.lmtp.server.routed import routed
from lmql_backends.lmtp.server.settings import ServerSettings, is_loopback
from lmql_backends.lmtp.server.websocket import WebSocketServer

if TYPE_CHECKING:
    from lmql_backends.lmtp.server.openai.double import Double


class LMTPApp:
    """Called by an ASGI server for each connection and request."""

    def __init__(
        self,
        models: Models,
        settings: ServerSettings,
        routes: Routes,
        metrics: Metrics,
        *,
        is_public: bool = False,
        is_ready: Callable[[], bool] = lambda: True,
    ) -> None:
        """`is_public`: the server listens beyond this machine (`Gate`). `is_ready`: for /ready."""
        self.drain = Drain()
        self._models = models = routed(models)
        self._is_ready = is_ready
        gate = Gate(settings, is_public=is_public)
        self.routes: Routes = {
            **routes,
            ("GET", "/health"): self._health,
            ("GET", "/ready"): self._ready,
            ("GET", "/metrics"): metrics.answer,
        }
        self.websockets = WebSocketServer(protocols(models, settings.limits), gate, self.drain, settings)
        self._http = HttpServer(self.routes, gate, self.drain, settings)
        metrics.watch("websockets", "Open ones.", lambda: self.websockets.connections)
        metrics.watch("http_requests_running", "Of routes that ask a model.", lambda: self._http.running)
        metrics.watch("draining", "1 while the server takes nothing new.", lambda: self.drain.is_on)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._http.serve(scope, receive, send)
        elif scope["type"] == "websocket":
            await self.websockets.serve(scope, receive, send)
        elif scope["type"] == "lifespan":
            await _lifespan(receive, send)

    async def _health(self, request: HttpRequest) -> HttpResponse:
        """As long as the process is alive."""
        return json_answer({"status": "ok", "version": __version__})

    async def _ready(self, request: HttpRequest) -> HttpResponse:
        """Whether a load balancer should send anything here; with ``?model=NAME``, for that model."""
        if self.drain.is_on:
            return json_answer({"status": "draining", "running": self.drain.running}, status=503)
        if not self._is_ready():
            return json_answer({"status": "loading"}, status=503)
        if (name := request.query.get("model")) is not None:
            return self._model_ready(name)
        return json_answer({"status": "ready"})

    def _model_ready(self, name: str) -> HttpResponse:
        model, adapter = self._models.split(name)
        model = checked_name(model, self._models.names())
        if adapter and adapter not in self._models.adapters(model):
            check_adapter(adapter, ())
        state = self._models.state(model)
        return json_answer({"status": state}, status=200 if state is ModelState.READY else 503)


def create_app(
    models: Models,
    settings: ServerSettings | None = None,
    extra_routes: Routes | None = None,
    *,
    host: str = "",
    is_ready: Callable[[], bool] = lambda: True,
    double: Double | None = None,
) -> LMTPApp:
    """LMTP, the OpenAI-compatible routes and the server's own, and `extra_routes`, which go before them.

    `host`: what the server listens on, where that is known. `double`: the OpenAI-compatible routes have its
    manners. Under a server of your own, give uvicorn
    ``http=GuardedH11, ws=GuardedWebSocket`` and its limits (docs/operations.md).
    """
    from lmql_backends.lmtp.server.openai import openai_routes

    metrics = Metrics()
    models = routed(MeteredModels(models, metrics))
    settings = settings or ServerSettings()
    own = openai_routes(models, limits=settings.limits)
    if double is not None:
        own = double.wrap(own, models)
    routes = {**own, **(extra_routes or {})}
    is_public = not is_loopback(host)
    return LMTPApp(models, settings, routes, metrics, is_public=is_public, is_ready=is_ready)


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        event = await receive()
        await send({"type": f"{event['type']}.complete"})
        if event["type"] == "lifespan.shutdown":
            return
