"""What can be set about a balancer, with defaults for language models on a local network."""

from __future__ import annotations

from dataclasses import dataclass

from dcmodel.checks import check_integer, check_number


@dataclass(frozen=True, slots=True, kw_only=True)
class BalancerSettings:
    """Times are in seconds."""

    streams_per_worker: int = 256
    """Requests that may run on a worker at a time; the others wait in the balancer."""
    max_waiting: int = 1024
    """Requests that may wait; one more is answered with `OverloadedError` at once."""
    retry_after: float = 1.0
    """What such an answer advises."""

    probe_seconds: float = 2.0
    """A worker that was silent for so long is asked whether it lives."""
    probe_deadline: float = 1.75
    """How long its answer may take."""
    failed_probes: int = 2
    """So many failures one after the other end a worker's membership; it is joined again when it answers."""
    connect_seconds: float = 10.0
    """How long joining may take."""
    pause_seconds: float = 0.2
    """Upper end of the first pause after a failed attempt to join, which is drawn below it; it doubles."""
    max_pause_seconds: float = 5.0
    drain_seconds: float = 30.0
    """How long streams of a leaving worker may run on before they are moved to another."""

    resume_seconds: float = 15.0
    """How long a stream that lost its worker waits for another."""
    max_migrations: int = 3
    """How often a request may lose its worker."""
    deadly: int = 2
    """A request that was running on so many workers when they died is not sent to another one."""
    forgiven_tokens: int = 32
    """After so many tokens on its new worker a request is not suspected any more."""
    retry_share: float = 0.2
    """Share of the active requests that may be asked a second time because a worker was overloaded."""
    min_retries: int = 3

    block_tokens: int = 32
    """Prompts are remembered in blocks of so many tokens."""
    max_blocks: int = 8192
    """How many of them are remembered for each worker."""
    slack: float = 1.25
    """The worker with the cached prefix is taken up to so many times the least load, plus what it saves."""

    def __post_init__(self) -> None:
        for name in ("streams_per_worker", "failed_probes", "deadly", "block_tokens", "max_blocks"):
            check_integer(name, getattr(self, name), low=1)
        for name in ("max_waiting", "max_migrations", "min_retries", "forgiven_tokens"):
            check_integer(name, getattr(self, name), low=0)
        for name in ("probe_seconds", "probe_deadline", "connect_seconds", "resume_seconds", "drain_seconds"):
            check_number(name, getattr(self, name), low=0.0, open_low=True)
        for name in ("retry_after", "pause_seconds", "max_pause_seconds", "retry_share"):
            check_number(name, getattr(self, name), low=0.0)
        check_number("slack", self.slack, low=1.0)
