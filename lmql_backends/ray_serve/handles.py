"""`HandleCalls`: `EngineCalls` by a handle of Serve's."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager

from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from dcmodel.errors import ConnectionLostError
from lmql_backends.ray_serve.subscription import Subscription


class HandleCalls:
    """Calls of the deployment ``Engine``, by way of `ReplicaRouter`."""

    def __init__(self, handle: DeploymentHandle) -> None:
        self._handle = handle

    async def subscribe(self, subscription: Subscription) -> None:
        """Hear of replicas; waits for the first one. Raises `ConnectionLostError`."""
        with _as_losses("the model's replicas"):
            await self._handle.subscribe.remote(subscription)

    async def converse(
        self, replica: str, channel: str, revision: str
    ) -> AsyncGenerator[str | list[bytes], None]:
        with _as_losses(f"replica {replica}"):
            response = self._handle.converse.options(stream=True).remote(replica, channel, revision)
            try:
                async for item in response:
                    yield item
            finally:
                response.cancel()

    async def send(self, replica: str, channel: str, index: int, frame: bytes) -> bool:
        with _as_losses(f"replica {replica}"):
            found: bool = await self._handle.send.remote(replica, channel, index, frame)
            return found


@contextmanager
def _as_losses(whom: str) -> Iterator[None]:
    """Whatever Ray says means that nobody is there who could answer: errors of requests are messages."""
    try:
        yield
    except (RayError, RayServeException) as error:
        first = next(iter(str(error).strip().splitlines()), "")
        raise ConnectionLostError(f"{whom} was lost: {type(error).__name__}: {first[:300]}") from error
