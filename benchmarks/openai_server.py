"""A server that answers each completion after 20 ms, in a process of its own; prints its port first."""

from __future__ import annotations

import asyncio
import json
import sys

DELAY = 0.02
CHUNKS = 8
CHOICE = {
    "index": 0,
    "text": "an answer of eight words or so, no more",
    "message": {"role": "assistant", "content": "an answer of eight words or so, no more"},
    "finish_reason": "stop",
    "logprobs": None,
}


def whole(prompts: int) -> bytes:
    message = {
        "id": "cmpl-1",
        "object": "text_completion",
        "created": 1,
        "model": "m",
        "choices": [{**CHOICE, "index": index} for index in range(prompts)],
        "usage": {"prompt_tokens": 9, "completion_tokens": 9, "total_tokens": 18},
    }
    body = json.dumps(message).encode()
    head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


def event(data: str) -> bytes:
    line = f"data: {data}\n\n".encode()
    return f"{len(line):x}\r\n".encode() + line + b"\r\n"


def chunk(text: str, finish_reason: str | None) -> str:
    choice = {"index": 0, "delta": {"content": text}, "text": text, "finish_reason": finish_reason}
    return json.dumps({"id": "c", "object": "chunk", "created": 1, "model": "m", "choices": [choice]})


ANSWERS = {size: whole(size) for size in range(1, 129)}
EVENTS = [
    event(chunk(f" word{number}", "stop" if number == CHUNKS - 1 else None)) for number in range(CHUNKS)
]
STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


class Connection(asyncio.Protocol):
    """One request at a time."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._buffer = b""

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, end, rest = self._buffer.partition(b"\r\n\r\n")
        if not end:
            return
        length = next(
            int(line.split(b":")[1])
            for line in head.split(b"\r\n")
            if line.lower().startswith(b"content-length:")
        )
        if len(rest) < length:
            return
        self._buffer = b""
        body = json.loads(rest)
        loop = asyncio.get_running_loop()
        if body.get("stream"):
            self._transport.write(STREAM_HEAD)
            for number, data in enumerate([*EVENTS, event("[DONE]") + b"0\r\n\r\n"]):
                loop.call_later(DELAY * (number + 1) / CHUNKS, self._transport.write, data)
        else:
            prompt = body.get("prompt")
            loop.call_later(
                DELAY, self._transport.write, ANSWERS[len(prompt) if isinstance(prompt, list) else 1]
            )


async def main() -> None:
    server = await asyncio.get_running_loop().create_server(Connection, "127.0.0.1", 0, backlog=512)
    print(server.sockets[0].getsockname()[1], flush=True)
    sys.stdin.close()
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
