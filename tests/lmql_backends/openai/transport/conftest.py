"""A transport with short waits, and servers for it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from random import Random

import pytest
from fakes.fault_server import FaultServer

from lmql_backends.openai.transport.client import Transport
from lmql_backends.openai.transport.configuration import Configuration, make_client
from lmql_backends.openai.transport.control import ControlSettings
from lmql_backends.openai.transport.hedging import HedgeSettings
from lmql_backends.openai.transport.retry import RetryPolicy
from lmql_backends.openai.transport.settings import TransportSettings

SHORT = TransportSettings(
    retry=RetryPolicy(deadline=20.0, base=0.01, cap=0.05, request_seconds=0.3, stall_seconds=0.3),
    control=ControlSettings(back_off=0.02, max_back_off=0.1),
    hedge=HedgeSettings(budget=0.0),
)


@pytest.fixture
async def connect() -> AsyncIterator[Callable[..., Transport]]:
    """A transport to a server, closed at the end."""
    async with AsyncExitStack() as stack:

        def to(server: FaultServer, settings: TransportSettings = SHORT, **options) -> Transport:
            client = make_client(base_url=server.base_url, api_key="key")
            transport = Transport(Configuration(client), settings, rng=Random(0), **options)
            stack.push_async_callback(client.close)
            stack.push_async_callback(transport.aclose)
            return transport

        yield to
