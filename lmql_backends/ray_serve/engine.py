"""The deployment ``Engine``: replicas that run the model and speak LMTP with ingress replicas."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping

from dcmodel.local import LocalDcModel
from lmql_backends.lmtp.clients.child import load_models
from lmql_backends.lmtp.clients.child_spec import ChildSpec
from lmql_backends.lmtp.server.contracts import Models
from lmql_backends.ray_serve.channel import Channel
from lmql_backends.ray_serve.subscription import Subscription


class EngineDesk:
    """The channels of one replica. Belongs to one event loop."""

    def __init__(self, models: Models, replica: str, revision: str) -> None:
        """`replica`: its own number, by which calls name the one that they mean."""
        self._models = models
        self._replica = replica
        self._revision = revision
        self._channels: dict[str, Channel] = {}

    async def converse(
        self, replica: str, channel: str, revision: str
    ) -> AsyncGenerator[str | list[bytes], None]:
        """What this end sends on a new channel, until the caller closes it (`EngineCalls.converse`)."""
        if (wrong := self._obstacle(replica, revision)) is not None:
            yield wrong
            return
        opened = self._channels[channel] = Channel(self._models)
        try:
            yield ""
            async for item in opened.items():
                yield item
        finally:
            del self._channels[channel]
            await opened.aclose()

    async def send(self, replica: str, channel: str, index: int, frame: bytes) -> bool:
        """A frame of the caller's; returns when what it began has ended (`EngineCalls.send`)."""
        found = self._channels.get(channel)
        if found is None or replica != self._replica:
            return False
        await found.receive(index, frame)
        return True

    def _obstacle(self, replica: str, revision: str) -> str | None:
        if replica != self._replica:
            return f"replica {self._replica} was asked instead."
        if revision != self._revision:
            return f"it serves {self._revision!r}, not {revision!r}."
        return None


class Engine(EngineDesk):
    """What Serve makes a replica of."""

    async def __init__(  # type: ignore[misc]
        self, spec: str, revision: str, adapters: Mapping[str, str]
    ) -> None:
        """`spec`: a `ChildSpec` as JSON; `adapters`: paths by name. Raises what loading, mounting raise."""
        from ray import serve

        models = await asyncio.to_thread(load_models, ChildSpec.from_bytes(spec.encode()))
        async with models.use("") as served:
            for name, source in adapters.items():
                await served.model.mount_adapter(name, source)
        super().__init__(models, serve.get_replica_context().replica_id.unique_id, revision)

    async def subscribe(self, subscription: Subscription | None) -> None:
        """It was for the router, on the way here."""

    async def check_health(self) -> None:
        """One forward of a model that computes here; Serve starts the replica anew if it fails, or lasts
        longer than `health_check_timeout_s`."""
        async with self._models.use("") as served:
            if isinstance(served.model, LocalDcModel):
                await served.model.next_tokens([[0]], k=1)

    async def __del__(self) -> None:
        if hasattr(self, "_models"):
            async with self._models.use("") as served:
                await served.llm.aclose()
