"""vLLM's scheduler, which tells what it has scheduled, and takes from its prefix cache what it may."""

from __future__ import annotations

from typing import Any

from vllm.v1.core.sched.scheduler import Scheduler


class StepScheduler(Scheduler):  # type: ignore[misc]
    """Chosen by `scheduler_cls`; everything else is vLLM's own."""

    def __init__(self, *args: object, **options: object) -> None:
        super().__init__(*args, **options)
        self.scheduled: dict[str, int] = {}
        """How many tokens of each request the present step computes."""
        self.caps: dict[str, int] = {}
        """Of some requests: how many of their tokens may come from the prefix cache."""
        self._find_cached = self.kv_cache_manager.get_computed_blocks
        self.kv_cache_manager.get_computed_blocks = self._find_allowed

    def schedule(self, *args: object, **options: object) -> Any:
        output = super().schedule(*args, **options)
        self.scheduled = output.num_scheduled_tokens
        return output

    def _find_allowed(self, request: Any) -> Any:
        """What the cache has of a request, within its cap: logits of cached tokens cannot be had."""
        cap = self.caps.get(request.request_id)
        if cap is None:
            return self._find_cached(request)
        hashes = request.block_hashes
        request.block_hashes = hashes[: cap // self.hash_block_size]
        try:
            return self._find_cached(request)
        finally:
            request.block_hashes = hashes
