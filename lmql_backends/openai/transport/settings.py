"""Everything about the transport that can be set."""

from __future__ import annotations

from dataclasses import dataclass, field

from lmql_backends.openai.transport.control import ControlSettings
from lmql_backends.openai.transport.grouping import GroupSettings
from lmql_backends.openai.transport.hedging import HedgeSettings
from lmql_backends.openai.transport.retry import RetryPolicy


@dataclass(frozen=True, slots=True, kw_only=True)
class TransportSettings:
    """The defaults suit OpenAI and local servers alike."""

    retry: RetryPolicy = field(default_factory=RetryPolicy)
    control: ControlSettings = field(default_factory=ControlSettings)
    hedge: HedgeSettings = field(default_factory=HedgeSettings)
    group: GroupSettings = field(default_factory=GroupSettings)
