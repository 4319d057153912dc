"""`Replicas`: keeps a pool told of the engine replicas that Serve runs."""

from __future__ import annotations

import asyncio
from collections.abc import Set
from contextlib import suppress

from lmql_backends.lmtp.balancer.pool import Pool
from lmql_backends.ray_serve.subscription import Subscription


class Replicas:
    """Belongs to the pool's loop. A replica that Serve lets go is drained by the pool: what runs there may
    end, and is moved to another one if it lasts too long."""

    def __init__(self, pool: Pool) -> None:
        self.subscription = Subscription(self._tell)
        self._pool = pool
        self._current: Set[str] = frozenset()
        self._leaving: dict[str, asyncio.Task[None]] = {}
        self._is_closed = False

    async def aclose(self) -> None:
        """Hear nothing more."""
        self._is_closed = True
        for task in self._leaving.values():
            task.cancel()
        await asyncio.gather(*self._leaving.values(), return_exceptions=True)

    def _tell(self, names: Set[str]) -> None:
        """From any thread."""
        with suppress(RuntimeError):  # the loop is closed: nobody is interested any more
            self._pool.loop.call_soon_threadsafe(self._update, frozenset(names))

    def _update(self, names: frozenset[str]) -> None:
        if self._is_closed:
            return
        gone, self._current = self._current - names, names
        for name in sorted(names):
            self._pool.add(name)
        for name in sorted(gone):
            if name not in self._leaving:
                self._leaving[name] = asyncio.create_task(self._leave(name), name=f"replica {name} leaves")
        self._hold()

    async def _leave(self, name: str) -> None:
        try:
            await self._pool.wait(lambda: self._may_go(name))
            await self._pool.remove(name)
        finally:
            del self._leaving[name]
            self._hold()
            if self.subscription.on_release is not None:
                self.subscription.on_release()

    def _may_go(self, name: str) -> bool:
        """Where Serve replaces replicas, the new ones are joined before the last old one takes nothing new:
        it still can, and somebody must."""
        up = {worker.address for worker in self._pool.workers if worker.is_up}
        return name not in up or not self._current or bool(self._current & up)

    def _hold(self) -> None:
        self.subscription.held = self._current | self._leaving.keys()
