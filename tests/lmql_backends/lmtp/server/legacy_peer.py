"""The other end of a version 1 connection: sends frames as LMQL's client does and sorts what comes back."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from contextlib import suppress

from lmql_backends.lmtp.server.legacy import LegacyConnection


class Peer:
    def __init__(self, models, **options) -> None:
        self.frames: list[tuple[str, list[dict]]] = []
        self.items: dict[object, list[dict]] = defaultdict(list)
        self.answers: list[dict] = []
        self._news = asyncio.Event()
        self._last = 0
        self.connection = LegacyConnection(models, self._take, **options)

    def send(self, command: str, *, model: str = "fake", stream_id: object = None, **fields) -> int:
        """The number of the stream."""
        if stream_id is None:
            self._last += 1
            stream_id = self._last
        body = json.dumps({**fields, "model": model, "stream_id": stream_id})
        self.connection.receive(f"{command} {body}")
        return stream_id

    async def stream(self, stream_id: object) -> list[dict]:
        """All items up to the end, as LMQL's client reads them."""
        while not (items := self.items[stream_id]) or not _ends(items[-1]):
            await self.news()
        return items

    async def generate(self, prompt, **fields) -> list[dict]:
        return await self.stream(self.send("GENERATE", prompt=list(prompt), **fields))

    async def score(self, prompt, scored, **fields) -> list[dict]:
        return await self.stream(self.send("SCORE", prompt=list(prompt), scored=list(scored), **fields))

    async def news(self) -> None:
        self._news.clear()
        await asyncio.wait_for(self._news.wait(), 30)

    async def answer(self) -> dict:
        while not self.answers:
            with suppress(asyncio.TimeoutError):
                await self.news()
        return self.answers.pop(0)

    def _take(self, text: str) -> None:
        command, _, body = text.partition(" ")
        items = json.loads(body)
        assert isinstance(items, list)
        assert items
        self.frames.append((command, items))
        if command == "MSG":
            self.answers.extend(items)
        else:
            assert command == "TOKEN"
            for item in items:
                earlier = self.items[item["stream_id"]]
                assert not earlier or not _ends(earlier[-1]), "an item behind the end"
                earlier.append(item)
        self._news.set()


def _ends(item: dict) -> bool:
    return "error" in item or item["finish_reason"] is not None


def tokens(items: list[dict]) -> list[int]:
    return [item["token"] for item in items]
