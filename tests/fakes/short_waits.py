"""Settings of the OpenAI transport for tests with a real clock."""

from __future__ import annotations

from lmql_backends.openai.transport.control import ControlSettings
from lmql_backends.openai.transport.hedging import HedgeSettings
from lmql_backends.openai.transport.retry import RetryPolicy
from lmql_backends.openai.transport.settings import TransportSettings

SHORT = TransportSettings(
    retry=RetryPolicy(deadline=20.0, base=0.01, cap=0.05, request_seconds=0.3, stall_seconds=0.3),
    control=ControlSettings(back_off=0.02, max_back_off=0.1),
    hedge=HedgeSettings(budget=0.0),
)
