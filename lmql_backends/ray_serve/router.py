"""The router of calls to engine replicas: each names the replica that it is for.

The choice between replicas is the balancer's, for each stream (`lmtp/balancer/routing.py`); Serve's router
only knows the way. Loaded by Serve in the ingress's process (`request_router_config`).
"""

from __future__ import annotations

import asyncio
from weakref import WeakSet

from ray.serve.request_router import PendingRequest, ReplicaID, RequestRouter, RunningReplica

from lmql_backends.ray_serve.subscription import Subscription


class ReplicaRouter(RequestRouter):  # type: ignore[misc]
    """Belongs to one event loop, in a thread of Serve's."""

    def initialize_state(self) -> None:
        """Called by Serve, once."""
        self._subscriptions: WeakSet[Subscription] = WeakSet()
        self._current: list[RunningReplica] = []
        """Those that take new requests."""
        self._leaving: dict[str, RunningReplica] = {}
        """Those that do not, and are still held: what runs there must be told when it is cancelled."""

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """The replica that the call's first argument names. Where it is gone any other, which says that it is
        not the one that was meant."""
        if pending_request is None:
            return [candidate_replicas]
        # Otherwise, a call that cannot be sent yet is tried again without a pause.
        pending_request.routing_context.should_backoff = True
        target = pending_request.args[0] if pending_request.args else None
        if isinstance(target, Subscription):
            self._subscribe(target)
            return [self._current or candidate_replicas]
        meant = [replica for replica in candidate_replicas if _name(replica) == target]
        return [meant or candidate_replicas]

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        """Called by Serve with those that take new requests."""
        names = set(map(_name, replicas))
        known = {**self._leaving, **{_name(replica): replica for replica in self._current}}
        held = frozenset[str]().union(*(subscription.held for subscription in self._subscriptions))
        self._current = list(replicas)
        self._leaving = {
            name: replica for name, replica in known.items() if name not in names and name in held
        }
        super().update_replicas([*replicas, *self._leaving.values()])
        for subscription in self._subscriptions:
            subscription.tell(names)

    def on_replica_actor_died(self, replica_id: ReplicaID) -> None:
        """Called by Serve when a call has found it dead."""
        self._current = [replica for replica in self._current if replica.replica_id != replica_id]
        self._leaving.pop(replica_id.unique_id, None)
        super().on_replica_actor_died(replica_id)

    def _subscribe(self, subscription: Subscription) -> None:
        if subscription in self._subscriptions:
            return
        loop = asyncio.get_running_loop()
        subscription.on_release = lambda: loop.call_soon_threadsafe(self._refresh)
        self._subscriptions.add(subscription)
        subscription.tell(set(map(_name, self._current)))

    def _refresh(self) -> None:
        self.update_replicas(self._current)


def _name(replica: RunningReplica) -> str:
    name: str = replica.replica_id.unique_id
    return name
