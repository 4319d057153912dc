"""`Job`: what the rules have to know of one prompt, or of one group of them."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field

from lmql_backends.openai.transport.counters import Spent


@dataclass(slots=True, kw_only=True)
class Job:
    """What a runner has to know of a job."""

    order: int
    """Smaller for older jobs."""
    deadline: float
    """On the event loop's clock."""
    tokens: int = 0
    """About how many it takes of the endpoint's allowance."""
    kind: Hashable = ""
    """Jobs of one kind take about the same time."""
    is_sampled: bool = True
    """Two answers to the same request may differ."""
    spent: Spent = field(default_factory=Spent)
    failures: int = 0
    """Requests that failed, but for refusals for the rate."""

    @property
    def rank(self) -> tuple[int, int]:
        """Its place in the queue.

        Those that failed less go first: so all jobs share the failures of an outage, and none bears them
        alone until its budget is spent.
        """
        return (self.failures, self.order)
