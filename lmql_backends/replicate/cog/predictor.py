"""`Predictions`: what a Cog predictor does with its inputs. The server's own connections behind it."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from typing import Any

from dcmodel.errors import InvalidRequestError
from dcmodel.llm import LLM
from dcmodel.loop import run
from lmql_backends.lmtp.protocol.codec import JSON
from lmql_backends.lmtp.protocol.messages import ServerMessage
from lmql_backends.lmtp.server.connection import ServerConnection
from lmql_backends.lmtp.server.contracts import Models
from lmql_backends.lmtp.server.legacy import LegacyConnection
from lmql_backends.lmtp.server.limits import ConnectionLimits
from lmql_backends.lmtp.server.models import StaticModels


class Predictions:
    """Bound to no event loop: Cog may set up in another one than it predicts in. Predictions that run beside
    one another share the model's steps and its prefix cache."""

    def __init__(self, models: Models, limits: ConnectionLimits | None = None) -> None:
        self._models = models
        self._limits = limits
        self._owned: LLM | None = None

    @classmethod
    def load(
        cls,
        model: str | None = None,
        *,
        backend: str | None = None,
        adapters: Mapping[str, str] | None = None,
    ) -> Predictions:
        """The model as `LLM` names it, by default the embedded one, with adapters by name; blocks until it is
        loaded. Clients mount nothing: the next prediction may run in another container."""
        llm = LLM(model, backend=backend) if model else LLM()
        for name, source in (adapters or {}).items():
            run(llm.model.mount_adapter(name, source))
        predictions = cls(StaticModels({llm.name: llm.model}))
        predictions._owned = llm
        return predictions

    async def aclose(self) -> None:
        """Close the model that `load` loaded."""
        if self._owned is not None:
            await self._owned.aclose()

    async def answers(self, lmtp_frame: str = "", ops_batch_json: str = "") -> AsyncGenerator[str, None]:
        """Lines of the output, each with its end.

        `lmtp_frame`: a frame of version 2 as JSON, from its `Hello` on; each line is a frame of answers.
        `ops_batch_json`: commands of version 1, ``[["GENERATE", {...}], ...]``; a line is an item, behind
        ``TOKEN`` or ``MSG``. Raises `InvalidRequestError` for none of them, or both.
        """
        if bool(lmtp_frame) == bool(ops_batch_json):
            raise InvalidRequestError(
                "a prediction takes one input: lmtp_frame, or ops_batch_json.",
                remedy='Ask by a client: LLM("replicate:OWNER/NAME").',
            )
        output = _Output()
        answering = self._frame(lmtp_frame, output) if lmtp_frame else self._ops(ops_batch_json, output)
        try:
            async for line in output.lines(answering):
                yield line
        finally:
            await output.aclose()

    def _frame(self, frame: str, output: _Output) -> Coroutine[Any, Any, None]:
        def send(messages: list[ServerMessage]) -> None:
            output.put(f"{JSON.encode(messages)!s}\n")

        connection = ServerConnection(self._models, send, self._limits)
        output.on_close = connection.aclose
        connection.receive(*JSON.decode_client(frame))
        return connection.wait_idle()

    def _ops(self, ops: str, output: _Output) -> Coroutine[Any, Any, None]:
        def send(frame: str) -> None:
            command, _, items = frame.partition(" ")
            for item in json.loads(items):
                output.put(f"{command} {json.dumps(item)}\n")

        commands = _commands(ops)
        connection = LegacyConnection(self._models, send)
        output.on_close = connection.aclose
        for command, fields in commands:
            connection.receive(f"{command} {json.dumps({**fields, 'model': ''})}")
        return connection.wait_idle()


class _Output:
    """Lines on their way out, and the end of what makes them."""

    def __init__(self) -> None:
        self.on_close: Callable[[], Coroutine[Any, Any, None]] | None = None
        self._lines: deque[str] = deque()
        self._news = asyncio.Event()
        self._answering: asyncio.Task[None] | None = None

    def put(self, line: str) -> None:
        self._lines.append(line)
        self._news.set()

    async def lines(self, answering: Coroutine[Any, Any, None]) -> AsyncGenerator[str, None]:
        """Until `answering` has come to its end; what is there together leaves together."""
        self._answering = asyncio.get_running_loop().create_task(answering)
        self._answering.add_done_callback(lambda _: self._news.set())
        while not self._answering.done() or self._lines:
            if not self._lines:
                await self._news.wait()
                self._news.clear()
                continue
            text = "".join(self._lines)
            self._lines.clear()
            yield text
        self._answering.result()

    async def aclose(self) -> None:
        """Cancel what runs, also where nobody reads on."""
        if self._answering is not None:
            self._answering.cancel()
            await asyncio.wait([self._answering])
        if self.on_close is not None:
            await self.on_close()


def _commands(text: str) -> list[tuple[str, dict[str, Any]]]:
    try:
        found = json.loads(text)
        return [(str(command), dict(fields)) for command, fields in found]
    except (ValueError, TypeError, RecursionError) as error:
        raise InvalidRequestError(
            f"ops_batch_json is no list of commands with their fields: {error}",
            remedy='Send such as [["GENERATE", {"prompt": [1], "stream_id": 1}]].',
        ) from error
