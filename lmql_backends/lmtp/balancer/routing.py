"""Which worker gets a request."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from lmql_backends.lmtp.balancer.prefixes import block_hashes
from lmql_backends.lmtp.balancer.settings import BalancerSettings
from lmql_backends.lmtp.balancer.worker import Flight, Worker


@dataclass(frozen=True, slots=True)
class Work:
    """What a request asks of a worker."""

    prompt: int
    """Tokens to compute before the first one of the answer."""
    tokens: int
    """Tokens that it may produce, or has scored."""
    blocks: Sequence[int] = ()
    """Of the prompt (`block_hashes`)."""


class Router:
    """Least outstanding work, and the worker that has the prompt cached unless that one is busy.

    The load of a worker is the number of tokens that it has yet to compute: of prompts, less what is known
    to be cached, and of answers, as many as the request allows. The worker with the longest known prefix
    is taken if ``its load <= slack x least load + tokens that the prefix saves``; else the least loaded.
    """

    def __init__(self, settings: BalancerSettings) -> None:
        self._settings = settings
        self._turn = 0

    def work(self, prompt_ids: Sequence[int], tokens: int, adapter: str | None = None) -> Work:
        """The work of a request with this prompt; what one adapter computed is of no use to another."""
        return Work(len(prompt_ids), tokens, block_hashes(prompt_ids, self._settings.block_tokens, adapter))

    def choose(
        self, workers: Iterable[Worker], work: Work, now: float, excluded: Collection[Worker] = ()
    ) -> Worker | None:
        """The worker to take, or None where none takes anything now."""
        open_ones = [worker for worker in workers if worker not in excluded and worker.accepts(now)]
        if not open_ones:
            return None
        least = min(open_ones, key=_by_load)
        known = max(open_ones, key=lambda worker: (worker.prefixes.match(work.blocks), -worker.load))
        saved = self._saved(known, work)
        if saved and known.load <= self._settings.slack * least.load + saved:
            return known
        return least

    def launch(self, worker: Worker, work: Work) -> Flight:
        """The request goes to this worker."""
        saved = self._saved(worker, work)
        self._turn += 1
        worker.last_chosen = self._turn
        worker.prefixes.add(work.blocks)
        return worker.fly(work.tokens, max(work.prompt - saved, 0))

    def landed(self, flight: Flight, token_ids: Sequence[int], adapter: str | None = None) -> None:
        """A request has ended: its prompt and answer are cached where it ran."""
        if flight.lost is None:
            flight.worker.prefixes.add(block_hashes(token_ids, self._settings.block_tokens, adapter))

    def _saved(self, worker: Worker, work: Work) -> int:
        return worker.prefixes.match(work.blocks) * self._settings.block_tokens


def _by_load(worker: Worker) -> tuple[int, int, int]:
    """Equally loaded workers take turns."""
    return worker.load, len(worker.flights), worker.last_chosen
