"""A client that sends bytes as they are, and a server to send them to."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import socket
import struct
from contextlib import asynccontextmanager, suppress

from dcmodel.local import LocalDcModel
from fakes.fake_engine import loaded_fake
from fakes.small_tokenizer import small_tokenizer

DEADLINE = 20.0
"""Seconds after which a test that waits has failed."""


def fake_model(**options) -> LocalDcModel:
    return LocalDcModel(loaded_fake(small_tokenizer(), **options))


class RawClient:
    """One TCP connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        """All of it, or as much as the other side takes."""
        with suppress(ConnectionError):
            self.writer.write(data)
            await self.writer.drain()

    async def rest(self) -> bytes:
        """Everything to the end of the connection, a reset included."""
        parts = []
        with suppress(ConnectionError):
            async with asyncio.timeout(DEADLINE):
                while part := await self.reader.read(1 << 16):
                    parts.append(part)
        return b"".join(parts)

    async def head(self) -> tuple[int, dict[str, str]]:
        """Status and headers of an answer."""
        async with asyncio.timeout(DEADLINE):
            lines = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {
            name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:] if line)
        }
        return int(lines[0].split()[1]), headers

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        """A whole answer that says how long it is."""
        status, headers = await self.head()
        return status, headers, await self.reader.readexactly(int(headers.get("content-length", "0")))

    # -- websockets --------------------------------------------------------------------------------

    async def upgrade(
        self, path: str = "/lmtp", protocol: str | None = "lmtp.v2.json", **headers: str
    ) -> int:
        """Shake hands; the status."""
        lines = [f"GET {path} HTTP/1.1", "Host: 127.0.0.1", "Upgrade: websocket", "Connection: Upgrade"]
        lines += [
            "Sec-WebSocket-Version: 13",
            f"Sec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}",
        ]
        if protocol:
            lines.append(f"Sec-WebSocket-Protocol: {protocol}")
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        await self.send("\r\n".join([*lines, "", ""]).encode())
        return (await self.head())[0]

    async def frame(self) -> tuple[int, bytes]:
        """Opcode and payload of the server's next frame."""
        async with asyncio.timeout(DEADLINE):
            first, second = await self.reader.readexactly(2)
            length = second & 127
            if length == 126:
                (length,) = struct.unpack(">H", await self.reader.readexactly(2))
            elif length == 127:
                (length,) = struct.unpack(">Q", await self.reader.readexactly(8))
            return first & 15, await self.reader.readexactly(length)

    async def messages(self) -> list[dict]:
        opcode, data = await self.frame()
        assert opcode == 1, (opcode, data)
        return json.loads(data)

    async def tell(self, *messages: dict) -> None:
        await self.send(frame(1, json.dumps(messages).encode()))

    async def close_code(self) -> int | None:
        """Of the close frame that ends the connection; None where it is simply cut."""
        try:
            while True:
                opcode, data = await self.frame()
                if opcode == 8:
                    return struct.unpack(">H", data[:2])[0] if data else 1005
        except (asyncio.IncompleteReadError, ConnectionError):
            return None


@asynccontextmanager
async def raw_client(port: int, *, receive_buffer: int | None = None):
    """`receive_buffer`: how much the system keeps for a client that reads nothing."""
    connected = socket.socket()
    if receive_buffer is not None:
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    connected.setblocking(False)
    await asyncio.get_running_loop().sock_connect(connected, ("127.0.0.1", port))
    reader, writer = await asyncio.open_connection(sock=connected)
    try:
        yield RawClient(reader, writer)
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


def frame(opcode: int, data: bytes, *, fin: bool = True, rsv: int = 0, masked: bool = True) -> bytes:
    """A frame as a client sends it; what is wrong in it is the caller's wish."""
    first = bytes([(128 if fin else 0) | rsv << 4 | opcode])
    bit = 128 if masked else 0
    if len(data) < 126:
        length = bytes([bit | len(data)])
    elif len(data) < 1 << 16:
        length = bytes([bit | 126]) + struct.pack(">H", len(data))
    else:
        length = bytes([bit | 127]) + struct.pack(">Q", len(data))
    if not masked:
        return first + length + data
    key = b"\x01\x02\x03\x04"
    covered = bytes(byte ^ key[place % 4] for place, byte in enumerate(data))
    return first + length + key + covered
