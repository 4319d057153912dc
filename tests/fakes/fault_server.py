"""A scripted HTTP server with the manners of an OpenAI endpoint, and with every fault of such endpoints.

Its model continues any prompt with `ANSWER`; a prompt that ends with the beginning of it, in text or ids,
gets the rest. `Exchange` is one request; a script is a list of what to do with the first requests; those
after them are answered properly.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

WORDS = tuple(f" w{number}é" for number in range(8))
IDS = tuple(range(100, 108))
ANSWER = "".join(WORDS)
BAD_PROMPT = "bad prompt"
KEEP_ALIVE = "HTTP/1.1 {status} X\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\n{extra}\r\n"
STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


@dataclass
class Exchange:
    """One request and the connection on which it came."""

    method: str
    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    writer: asyncio.StreamWriter
    number: int
    went_away: asyncio.Event
    """The client closed the connection."""
    is_closed: bool = False

    async def answer(self, status: int, body: Any, *, kind: str = "application/json", **headers: str) -> None:
        """A whole response."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        extra = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
        head = KEEP_ALIVE.format(status=status, kind=kind, length=len(data), extra=extra)
        self.writer.write(head.encode() + data)
        await self.writer.drain()

    async def error(self, status: int, message: str = "no", **headers: str) -> None:
        await self.answer(status, {"error": {"message": message, "type": "t", "code": None}}, **headers)

    async def begin_stream(self) -> None:
        self.writer.write(STREAM_HEAD)
        await self.writer.drain()

    async def piece(self, data: bytes) -> None:
        """One piece of the stream, as it is."""
        self.writer.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        await self.writer.drain()

    async def event(self, message: Any) -> None:
        await self.piece(f"data: {json.dumps(message, ensure_ascii=False)}\n\n".encode())

    async def end_stream(self) -> None:
        self.writer.write(b"0\r\n\r\n")
        await self.writer.drain()

    def reset(self) -> None:
        """RST."""
        self.is_closed = True
        linger = struct.pack("ii", 1, 0)
        self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.writer.transport.abort()

    def finish(self) -> None:
        """FIN."""
        self.is_closed = True
        self.writer.close()

    async def hang(self) -> None:
        """Say nothing until the client goes."""
        await self.went_away.wait()

    @property
    def rest(self) -> tuple[str, ...]:
        """The words that are still to be said."""
        return WORDS[_known(self.body) :][: _limit(self.body)]


Action = Callable[[Exchange], Awaitable[None]]


async def properly(exchange: Exchange) -> None:
    """What a good endpoint does."""
    if exchange.method == "GET":
        await exchange.answer(200, {"data": [{"id": "m"}]})
        return
    prompts = _prompts(exchange.body)
    if any(prompt == BAD_PROMPT for prompt in prompts):
        await exchange.error(400, "the prompt is bad")
    elif exchange.body.get("stream"):
        await stream(exchange, exchange.rest)
    else:
        await exchange.answer(200, completion(exchange.body))


async def stream(exchange: Exchange, words: tuple[str, ...], *, is_whole: bool = True) -> None:
    """These words as events, and a proper end if that is all."""
    await exchange.begin_stream()
    for word in words:
        await exchange.event(chunk(exchange.body, word))
    if is_whole:
        reason = "stop" if words and words[-1] == WORDS[-1] else "length"
        await exchange.event(chunk(exchange.body, "", finish_reason=reason))
        if (exchange.body.get("stream_options") or {}).get("include_usage"):
            await exchange.event({"choices": [], "usage": {"completion_tokens": len(words)}})
        await exchange.piece(b"data: [DONE]\n\n")
        await exchange.end_stream()


def chunk(body: dict[str, Any], word: str, finish_reason: str | None = None) -> dict[str, Any]:
    """One event of a stream."""
    choice: dict[str, Any] = {"index": 0, "finish_reason": finish_reason}
    if "messages" in body:
        choice["delta"] = {"content": word}
    else:
        choice["text"] = word
    if body.get("return_token_ids"):
        choice["token_ids"] = [IDS[WORDS.index(word)]] if word else []
    return {"id": "c", "object": "text_completion", "choices": [choice]}


def completion(body: dict[str, Any]) -> dict[str, Any]:
    """The answer to a body that is not streamed; a choice repeats the prompt it belongs to."""
    prompts = _prompts(body)
    choices = []
    for prompt in prompts:
        for _ in range(body.get("n") or 1):
            choice = {"index": len(choices), "text": ANSWER, "finish_reason": "stop", "prompt": prompt}
            choices.append({**choice, "message": {"role": "assistant", "content": ANSWER}})
    usage = {"prompt_tokens": 3 * len(prompts), "completion_tokens": 8 * len(choices)}
    return {"id": "c", "choices": choices, "usage": usage, "system_fingerprint": "fp"}


class Hold:
    """Holds one request until `go` is set."""

    def __init__(self) -> None:
        self.arrived: asyncio.Future[Exchange] = asyncio.get_running_loop().create_future()
        self.go = asyncio.Event()

    async def __call__(self, exchange: Exchange) -> None:
        self.arrived.set_result(exchange)
        gone = asyncio.ensure_future(exchange.went_away.wait())
        going = asyncio.ensure_future(self.go.wait())
        await asyncio.wait({gone, going}, return_when=asyncio.FIRST_COMPLETED)
        for task in (gone, going):
            task.cancel()
        if self.go.is_set():
            await exchange.answer(200, completion(exchange.body))


class _Reader(asyncio.StreamReader):
    """Tells when the client has closed, without reading."""

    def __init__(self) -> None:
        super().__init__()
        self.has_ended = asyncio.Event()

    def feed_eof(self) -> None:
        super().feed_eof()
        self.has_ended.set()

    def set_exception(self, error: Exception) -> None:
        super().set_exception(error)
        self.has_ended.set()


class FaultServer:
    """``async with FaultServer(script) as server``: then `server.base_url`, and `server.exchanges` so far."""

    def __init__(self, script: list[Action] | None = None, otherwise: Action = properly) -> None:
        self.exchanges: list[Exchange] = []
        self.connections = 0
        self._script = list(script or ())
        self._otherwise = otherwise
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    @property
    def base_url(self) -> str:
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/v1"

    async def __aenter__(self) -> FaultServer:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: asyncio.StreamReaderProtocol(_Reader(), self._accept), "127.0.0.1", 0
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: _Reader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        try:
            await self._serve(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _serve(self, reader: _Reader, writer: asyncio.StreamWriter) -> None:
        while (exchange := await self._read(reader, writer)) is not None:
            self.exchanges.append(exchange)
            action = self._script.pop(0) if self._script else self._otherwise
            await action(exchange)
            if exchange.is_closed or exchange.went_away.is_set():
                return

    async def _read(self, reader: _Reader, writer: asyncio.StreamWriter) -> Exchange | None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
        except asyncio.IncompleteReadError:
            return None
        first, *lines = head.strip().split("\r\n")
        method, path, _ = first.split(" ")
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        data = await reader.readexactly(int(headers.get("content-length", 0)))
        return Exchange(
            method=method,
            path=path,
            headers=headers,
            body=json.loads(data) if data else {},
            writer=writer,
            went_away=reader.has_ended,
            number=len(self.exchanges),
        )


def _prompts(body: dict[str, Any]) -> list[Any]:
    if "messages" in body:
        return [body["messages"]]
    prompt = body["prompt"]
    return prompt if isinstance(prompt, list) and isinstance(prompt[0], str | list) else [prompt]


def _known(body: dict[str, Any]) -> int:
    """How many words of the answer the prompt ends with."""
    if "messages" in body:
        last = body["messages"][-1]
        text = last["content"] if last["role"] == "assistant" else ""
    else:
        text = body["prompt"]
    if isinstance(text, list):
        return next((size for size in range(8, 0, -1) if tuple(text[-size:]) == IDS[:size]), 0)
    return next((size for size in range(8, 0, -1) if text.endswith("".join(WORDS[:size]))), 0)


def _limit(body: dict[str, Any]) -> int:
    return int(body.get("max_tokens") or len(WORDS))
