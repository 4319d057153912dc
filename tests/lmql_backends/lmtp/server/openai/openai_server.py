"""The routes under a real server, for real clients: an ASGI adapter and a thread that runs uvicorn."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from urllib.parse import parse_qsl

import uvicorn

from dcmodel.errors import ModelNotFoundError
from dcmodel.llm import LLM
from dcmodel.model import DcModel
from lmql_backends.lmtp.server.contracts import HttpRequest, HttpResponse, Models, Routes, ServedModel
from lmql_backends.lmtp.server.openai import openai_routes


class StaticModels(Models):
    """Loaded models by name; counts who uses them."""

    def __init__(self, models: Mapping[str, DcModel]) -> None:
        self.models = {
            name: ServedModel(name, model, LLM.from_model(model)) for name, model in models.items()
        }
        self.users = 0

    def names(self):
        return list(self.models)

    @contextlib.asynccontextmanager
    async def use(self, name: str) -> AsyncIterator[ServedModel]:
        name = name or next(iter(self.models))
        if name not in self.models:
            raise ModelNotFoundError(f"the model {name!r} does not exist here.")
        self.users += 1
        try:
            yield self.models[name]
        finally:
            self.users -= 1


class App:
    """Routes as an ASGI application."""

    def __init__(self, routes: Routes) -> None:
        self.routes = routes

    async def __call__(self, scope, receive, send) -> None:
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        request = HttpRequest(
            scope["method"],
            scope["path"],
            dict(parse_qsl(scope["query_string"].decode())),
            {key.decode(): value.decode() for key, value in scope["headers"]},
            body,
        )
        work = asyncio.ensure_future(self.answer(request, send))
        gone = asyncio.ensure_future(receive())
        await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        work.cancel()
        gone.cancel()
        await asyncio.wait({work, gone})
        if not work.cancelled():
            work.result()

    def handler(self, method: str, path: str):
        if (method, path) in self.routes:
            return self.routes[method, path]
        parts = path.split("/")
        prefixes = ("/".join(parts[:count]) + "/*" for count in range(len(parts) - 1, 0, -1))
        return next((self.routes[method, item] for item in prefixes if (method, item) in self.routes), None)

    async def answer(self, request: HttpRequest, send) -> None:
        handler = self.handler(request.method, request.path)
        response = await handler(request) if handler else HttpResponse(404, b'{"error": {}}')
        headers = {"content-type": response.content_type, **response.headers}
        pairs = [(key.encode(), value.encode()) for key, value in headers.items()]
        body = response.body
        if isinstance(body, bytes):
            pairs.append((b"content-length", b"%d" % len(body)))
            await send({"type": "http.response.start", "status": response.status, "headers": pairs})
            await send({"type": "http.response.body", "body": body})
            return
        try:
            await send({"type": "http.response.start", "status": response.status, "headers": pairs})
            async for data in body:
                await send({"type": "http.response.body", "body": data, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        finally:
            await body.aclose()


class Server:
    """A running server; `url` is its address."""

    def __init__(self, models: Mapping[str, DcModel]) -> None:
        self.models = StaticModels(models)
        config = uvicorn.Config(
            App(openai_routes(self.models, clock=lambda: 1_700_000_000.0)),
            host="127.0.0.1",
            port=0,
            log_level="error",
            lifespan="off",
            ws="none",
        )
        self.server = uvicorn.Server(config)
        self.started = threading.Event()
        self.thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)
        self.url = ""
        self.loop: asyncio.AbstractEventLoop | None = None

    async def _serve(self) -> None:
        self.loop = asyncio.get_running_loop()
        config = self.server.config
        sockets = [config.bind_socket()]
        self.url = f"http://127.0.0.1:{sockets[0].getsockname()[1]}"
        config.load()
        self.server.lifespan = config.lifespan_class(config)
        await self.server.startup(sockets=sockets)
        self.started.set()
        await self.server.main_loop()
        await self.server.shutdown(sockets=sockets)


@contextlib.contextmanager
def running(models: Mapping[str, DcModel]) -> Iterator[Server]:
    server = Server(models)
    server.thread.start()
    assert server.started.wait(30)
    try:
        yield server
    finally:
        server.server.should_exit = True
        server.thread.join(30)
