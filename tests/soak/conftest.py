"""How large the load is: a short form by default, the long one by `make soak`."""

from __future__ import annotations

import os
from dataclasses import dataclass

import pytest


@dataclass(frozen=True)
class Size:
    requests: int
    streams: int
    connections: int


@pytest.fixture(scope="session")
def size() -> Size:
    """``SOAK_REQUESTS``, ``SOAK_STREAMS`` and ``SOAK_CONNECTIONS``, where they are set."""
    return Size(
        requests=int(os.environ.get("SOAK_REQUESTS", "600")),
        streams=int(os.environ.get("SOAK_STREAMS", "100")),
        connections=int(os.environ.get("SOAK_CONNECTIONS", "8")),
    )
