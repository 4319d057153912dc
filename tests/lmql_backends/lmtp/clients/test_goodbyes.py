"""Servers that greet and at once say goodbye: the client does not spin, and gives up in time."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from dcmodel.errors import OverloadedError
from lmql_backends.lmtp.client import LMTPClient
from lmql_backends.lmtp.clients.transport import Connector, Receiver, Transport
from lmql_backends.lmtp.protocol.messages import Describe, Described, GoAway, Welcome
from lmql_backends.lmtp.retry import RetryPolicy


class LeavingServer(Connector, Transport):
    """Takes nothing new, ever."""

    name = "a leaving server"
    connections = 0

    async def connect(self, receiver: Receiver) -> Transport:
        self.connections += 1
        self.receiver = receiver
        return self

    def send(self, messages: Sequence[object]) -> None:
        welcome = Welcome(version=2, server="", max_frame_bytes=1 << 20, max_streams=8)
        self.receiver.on_messages([welcome, GoAway(reason="it ends")])

    async def aclose(self) -> None:
        return


@pytest.mark.parametrize("seconds", [0.0, 5.0])
async def test_a_client_that_is_always_sent_away_waits_longer_and_longer_and_gives_up(seconds):
    now, waits = [100.0], []

    async def sleep(wait: float) -> None:
        waits.append(wait)
        now[0] += wait

    server = LeavingServer()
    client = LMTPClient(
        server,
        loop=asyncio.get_running_loop(),
        retry=RetryPolicy(seconds=seconds, base=0.5, cap=2.0),
        sleep=sleep,
        clock=lambda: now[0],
    )
    async with asyncio.timeout(20):
        with pytest.raises(OverloadedError, match="takes nothing new"):
            await client.ask(lambda id_: Describe(id=id_), Described)
    assert now[0] - 100.0 <= seconds
    assert server.connections == 1 + len(waits) < 60
    await client.aclose()
