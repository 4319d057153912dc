"""A transport with short waits, and servers for it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from random import Random

import pytest
from fakes.fault_server import FaultServer
from fakes.short_waits import SHORT

from lmql_backends.openai.transport.client import Transport
from lmql_backends.openai.transport.configuration import Configuration, make_client
from lmql_backends.openai.transport.settings import TransportSettings


@pytest.fixture
async def connect() -> AsyncIterator[Callable[..., Transport]]:
    """A transport to a server, closed at the end."""
    async with AsyncExitStack() as stack:

        def to(server: FaultServer, settings: TransportSettings = SHORT, **options) -> Transport:
            client = make_client(base_url=server.base_url, api_key="key")
            transport = Transport(Configuration(client, owns_client=True), settings, rng=Random(0), **options)
            stack.push_async_callback(transport.aclose)
            return transport

        yield to
